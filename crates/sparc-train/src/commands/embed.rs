//! `sparc embed` and `sparc ground`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use image::RgbImage;
use sparc_core::tensor_math::l2_normalize;
use sparc_core::{Encoder, PatchPath};
use sparc_data::decode::decode_rgb;
use sparc_data::record::{RecordJson, RegionRecord};
use sparc_models::weights;
use sparc_train::evaluation::Trained;

#[derive(Debug, Args)]
pub struct EmbedArguments {
    /// A run (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// A JPEG, PNG or WebP
    #[arg(long)]
    image: PathBuf,
    /// Regions to embed: a JSON list of [x0, y0, x1, y1] in [0, 1] of the image, or a record of a shard
    #[arg(long)]
    regions: Option<PathBuf>,
    /// safetensors file to write: `image`, D numbers, and, if asked for, `regions`, R × D, all of length 1
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct GroundArguments {
    /// A run (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// A JPEG, PNG or WebP
    #[arg(long)]
    image: PathBuf,
    /// What to find (repeatable)
    #[arg(long, required = true)]
    phrase: Vec<String>,
}

pub fn embed(arguments: &EmbedArguments) -> anyhow::Result<()> {
    let trained = Trained::load(&arguments.checkpoint)?;
    let image = read_image(&arguments.image)?;
    let boxes = arguments.regions.as_deref().map(read_boxes).transpose()?;
    let input = trained.see(image.clone()).input_chw.unsqueeze(0);
    let pooled = tch::no_grad(|| l2_normalize(&trained.network.encode_images(&input, PatchPath::Local).pooled_bd));
    let mut tensors = BTreeMap::from([("image".to_owned(), pooled.squeeze_dim(0))]);
    if let Some(boxes) = &boxes {
        tensors.insert("regions".to_owned(), trained.encode_regions(image, boxes)?);
    }
    let tensors_by_name = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::save(&arguments.out, tensors_by_name, HashMap::new())?;
    let n = boxes.map_or(0, |boxes| boxes.len());
    println!("{}: 1 image, {n} regions", arguments.out.display());
    Ok(())
}

/// Prints one JSON object a phrase.
pub fn ground(arguments: &GroundArguments) -> anyhow::Result<()> {
    let trained = Trained::load(&arguments.checkpoint)?;
    let image = read_image(&arguments.image)?;
    let (width, height) = image.dimensions();
    let phrases: Vec<&str> = arguments.phrase.iter().map(String::as_str).collect();
    for (phrase, corners) in phrases.iter().zip(trained.encode_phrases(image, &phrases)?) {
        let [x0, y0, x1, y1] = corners;
        let pixels = [x0 * width as f32, y0 * height as f32, x1 * width as f32, y1 * height as f32].map(f32::round);
        println!("{}", serde_json::json!({"phrase": phrase, "box": corners, "pixels": pixels}));
    }
    Ok(())
}

/// An image file, upright.
pub fn read_image(path: &Path) -> anyhow::Result<RgbImage> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    decode_rgb(&bytes).with_context(|| format!("{} cannot be decoded", path.display()))
}

fn read_boxes(path: &Path) -> anyhow::Result<Vec<[f32; 4]>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let boxes: Vec<[f32; 4]> = match serde_json::from_slice(&bytes) {
        Ok(boxes) => boxes,
        Err(_) => RecordJson::parse(&bytes)
            .with_context(|| format!("{} is neither a list of boxes nor a record", path.display()))?
            .regions
            .unwrap_or_default()
            .iter()
            .map(|region: &RegionRecord| region.box_xyxy)
            .collect(),
    };
    ensure!(!boxes.is_empty(), "{} has no boxes", path.display());
    Ok(boxes)
}
