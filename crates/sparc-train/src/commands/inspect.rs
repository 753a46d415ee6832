//! `sparc inspect`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use image::RgbImage;
use sparc_data::decode::decode_rgb;
use sparc_data::pixels::normalize;
use sparc_data::transform::Frame;
use sparc_eval::draw::{AlignmentSheet, TokenHeatmap, alignment_sheet};
use sparc_train::evaluation::Trained;
use tch::Tensor;

#[derive(Debug, Args)]
pub struct InspectArguments {
    /// A run (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// A JPEG, PNG or WebP
    #[arg(long)]
    image: PathBuf,
    /// The text whose tokens are grounded
    #[arg(long)]
    text: String,
    /// PNG to write
    #[arg(long, default_value = "inspect.png")]
    out: PathBuf,
}

pub fn inspect(arguments: &InspectArguments) -> anyhow::Result<()> {
    let trained = Trained::load(&arguments.checkpoint)?;
    let bytes = std::fs::read(&arguments.image).with_context(|| arguments.image.display().to_string())?;
    let image = decode_rgb(&bytes).with_context(|| format!("{} cannot be decoded", arguments.image.display()))?;
    let (pixels, input) = network_input(&trained, image)?;
    let alignment = trained.align(&input, &arguments.text);
    let title = format!("{} step {}", trained.plan.config.objective.name(), trained.step);
    let sheet = alignment_sheet(&AlignmentSheet {
        image: pixels,
        caption: arguments.text.clone(),
        grid: alignment.grid,
        tokens: alignment.tokens.into_iter().map(|(piece, weights)| TokenHeatmap { piece, weights }).collect(),
        title,
    });
    save_png(&sheet, &arguments.out)?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// The frame that the network sees, as pixels to show and as its input.
fn network_input(trained: &Trained, image: RgbImage) -> anyhow::Result<(RgbImage, Tensor)> {
    let side = trained.plan.config.model.image.image_size as u32;
    let pixels = Frame::plain(image.dimensions(), side, trained.plan.config.data.resize).pixels(image);
    let input = Tensor::from_slice(&normalize(&pixels)).view([3, i64::from(side), i64::from(side)]);
    let shown = RgbImage::from_raw(side, side, pixels).context("the frame has side × side pixels")?;
    Ok((shown, input))
}

fn save_png(image: &RgbImage, path: &Path) -> anyhow::Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png)?;
    sparc_data::shard_writer::write_file_atomically(path, bytes.get_ref())?;
    Ok(())
}
