//! `sparc inspect`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use image::RgbImage;
use sparc_data::decode::decode_rgb;
use sparc_data::pixels::{denormalize, normalize};
use sparc_data::transform::Frame;
use sparc_eval::draw::{AlignmentSheet, MaskingSheet, TokenHeatmap, alignment_sheet, masking_sheet};
use sparc_train::evaluation::Trained;
use sparc_train::masked_view;
use sparc_train::objective::Objective;
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
    let (pixels, input) = read_input(&trained, &arguments.image)?;
    let title = format!("{} step {}", trained.plan.config.objective.name(), trained.step);
    let sheet = match &trained.plan.config.objective {
        Objective::Sycoca(_) => masks(&trained, pixels, &input, &arguments.text, title)?,
        _ => alignment(&trained, pixels, &input, &arguments.text, title),
    };
    save_png(&sheet, &arguments.out)?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// Which patches each token is grouped with.
fn alignment(trained: &Trained, image: RgbImage, input: &Tensor, text: &str, title: String) -> RgbImage {
    let alignment = trained.align(input, text);
    alignment_sheet(&AlignmentSheet {
        image,
        caption: text.to_owned(),
        grid: alignment.grid,
        tokens: alignment.tokens.into_iter().map(|(piece, weights)| TokenHeatmap { piece, weights }).collect(),
        title,
    })
}

/// What SyCoCa's caption makes each decoder see, and what is rebuilt.
fn masks(trained: &Trained, image: RgbImage, input: &Tensor, text: &str, title: String) -> anyhow::Result<RgbImage> {
    let view = masked_view(trained, input, text)?;
    let (width, height) = image.dimensions();
    let rebuilt = view.rebuilt_chw.map(|rebuilt_chw| {
        let values = Vec::<f32>::try_from(rebuilt_chw.contiguous().view([-1]))?;
        RgbImage::from_raw(width, height, denormalize(&values)).context("the rebuilt image has the input's size")
    });
    Ok(masking_sheet(&MaskingSheet {
        image,
        caption: text.to_owned(),
        grid: (view.grid.height as usize, view.grid.width as usize),
        scores: view.scores,
        hidden_from_captioner: view.hidden_from_captioner,
        hidden_from_decoder: view.hidden_from_decoder,
        rebuilt: rebuilt.transpose()?,
        title,
    }))
}

/// A file's frame that the network sees, as pixels to show and as its input `[3, H, W]`.
pub fn read_input(trained: &Trained, path: &Path) -> anyhow::Result<(RgbImage, Tensor)> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let image = decode_rgb(&bytes).with_context(|| format!("{} cannot be decoded", path.display()))?;
    network_input(trained, image)
}

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
