//! `sparc inspect`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use image::RgbImage;
use sparc_data::EvalSet;
use sparc_data::pixels::denormalize;
use sparc_data::shards::expand_shards;
use sparc_eval::draw::{
    AlignmentSheet, CodeRow, CodeSheet, EditedPair, MaskingSheet, RegionSheet, TokenHeatmap, alignment_sheet,
    code_sheet, masking_sheet, region_sheet,
};
use sparc_eval::tasks::{Heatmaps, middle_layer};
use sparc_train::evaluation::{Alignment, Trained};
use sparc_train::objective::Objective;
use sparc_train::regions::Seen;
use sparc_train::{CodePatches, edited_view, masked_view, patches_of_codes};
use tch::Tensor;

use super::embed::read_image;
use super::heatmaps::parse_heatmaps;

#[derive(Debug, Args)]
pub struct InspectArguments {
    /// A run (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// A JPEG, PNG or WebP
    #[arg(long, required_unless_present = "data")]
    image: Option<PathBuf>,
    /// The text whose tokens are grounded; of NAS, the text of the pair that is edited
    #[arg(long, required_unless_present_any = ["phrase", "data"], conflicts_with = "phrase")]
    text: Option<String>,
    /// Of NAS: shards whose patches stand for the codes. Without an image, the most used codes are drawn
    #[arg(long, conflicts_with = "phrase")]
    data: Option<String>,
    /// Of a network that embeds regions: a phrase to find and to compare boxes with (repeatable)
    #[arg(long)]
    phrase: Vec<String>,
    /// With --phrase: a box x0,y0,x1,y1 in [0, 1] of the image (repeatable)
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", requires = "phrase", value_parser = parse_box)]
    boxes: Vec<[f32; 4]>,
    /// What is drawn of --text: similarity groups patches as SPARC does, grad-cam or grad-cam:LAYER shows where a
    /// matching head looks [default: grad-cam of ALBEF]
    #[arg(long, value_parser = parse_heatmaps, requires = "text", conflicts_with = "data")]
    heatmaps: Option<Heatmaps>,
    /// PNG to write
    #[arg(long, default_value = "inspect.png")]
    out: PathBuf,
}

pub fn inspect(arguments: &InspectArguments) -> anyhow::Result<()> {
    let trained = Trained::load(&arguments.checkpoint)?;
    let seen = arguments.image.as_ref().map(|image| read_image(image).map(|image| trained.see(image))).transpose()?;
    let title = format!("{} step {}", trained.plan.config.objective.name(), trained.step);
    let data = arguments.data.as_deref();
    let sheet = match (seen, &arguments.text, &trained.plan.config.objective) {
        (Some(seen), Some(text), _) if arguments.heatmaps == Some(Heatmaps::Similarity) => {
            alignment(&trained, seen, text, title)
        }
        (Some(seen), Some(text), _) if arguments.heatmaps.is_some() => looks(&trained, seen, text, arguments, title)?,
        (None, None, _) => codes(&trained, data.unwrap_or_default(), title)?,
        (Some(seen), Some(text), objective) if data.is_some() || matches!(objective, Objective::Nas(_)) => {
            edit(&trained, seen, text, data, title)?
        }
        (Some(seen), Some(text), Objective::Sycoca(_)) => masks(&trained, seen.pixels, &seen.input_chw, text, title)?,
        (Some(seen), Some(text), Objective::Albef(_)) => looks(&trained, seen, text, arguments, title)?,
        (Some(seen), Some(text), _) => alignment(&trained, seen, text, title),
        (Some(seen), None, _) if !arguments.phrase.is_empty() => regions(&trained, seen, arguments, title)?,
        (Some(_), None, _) => bail!("--image with --data needs the --text of the pair"),
        (None, Some(_), _) => bail!("--text needs the --image of the pair"),
    };
    save_png(&sheet, &arguments.out)?;
    println!("{}", arguments.out.display());
    Ok(())
}

/// Which patches each token is grouped with.
fn alignment(trained: &Trained, seen: Seen, text: &str, title: String) -> RgbImage {
    let alignment = trained.align(&seen.input_chw, text);
    token_sheet(seen, text, alignment, title)
}

/// Where the matching head looks, all tokens together and each alone.
fn looks(
    trained: &Trained,
    seen: Seen,
    text: &str,
    arguments: &InspectArguments,
    title: String,
) -> anyhow::Result<RgbImage> {
    let layer = match arguments.heatmaps {
        Some(Heatmaps::GradCam { layer }) => layer,
        Some(Heatmaps::Similarity) | None => None,
    };
    let n_layers = trained.fusion_layers()?;
    let layer = layer.unwrap_or_else(|| middle_layer(n_layers));
    ensure!(layer < n_layers, "--heatmaps: the fusion encoder has layers 1 to {n_layers}, not {}", layer + 1);
    let title = format!("{title}: Grad-CAM of fusion layer {} of {n_layers}; [ALL] is their mean", layer + 1);
    let heat = trained.grad_cam(&seen.input_chw, text, layer)?;
    Ok(token_sheet(seen, text, heat, title))
}

fn token_sheet(seen: Seen, text: &str, alignment: Alignment, title: String) -> RgbImage {
    alignment_sheet(&AlignmentSheet {
        image: seen.pixels,
        caption: text.to_owned(),
        grid: alignment.grid,
        tokens: alignment.tokens.into_iter().map(|(piece, weights)| TokenHeatmap { piece, weights }).collect(),
        title,
    })
}

/// Patches drawn for a code.
const PATCHES_OF_A_CODE: usize = 8;
/// Codes drawn.
const CODES: usize = 32;
/// Images whose patches are looked at.
const IMAGES: usize = 512;

fn look_at(trained: &Trained, data: &str) -> anyhow::Result<Vec<CodePatches>> {
    let config = &trained.plan.config;
    let set = EvalSet::new(expand_shards(data)?, config.model.image.image_size as u32, config.data.resize);
    Ok(patches_of_codes(trained, set.take(IMAGES), PATCHES_OF_A_CODE)?)
}

/// The most used codes of a dictionary, as the patches nearest to them.
fn codes(trained: &Trained, data: &str, title: String) -> anyhow::Result<RgbImage> {
    let codes = look_at(trained, data)?;
    let title = format!("{title}: {} codes in use; share of the patches, and the nearest ones", codes.len());
    let row = |code: CodePatches| CodeRow {
        label: format!("code {}, {:.1} %", code.code, 100.0 * code.share),
        patches: code.nearest,
        becomes: Vec::new(),
    };
    Ok(code_sheet(&CodeSheet { title, pair: None, rows: codes.into_iter().take(CODES).map(row).collect() }))
}

/// Which patches of a pair are replaced, and by which codes.
fn edit(trained: &Trained, seen: Seen, text: &str, data: Option<&str>, title: String) -> anyhow::Result<RgbImage> {
    let view = edited_view(trained, &seen.input_chw, text)?;
    let known = data.map(|data| look_at(trained, data)).transpose()?.unwrap_or_default();
    let patches =
        |code: usize| known.iter().find(|known| known.code == code).map_or(Vec::new(), |known| known.nearest.clone());
    let mut edits = std::collections::BTreeMap::new();
    for edited in &view.replaced {
        *edits.entry((edited.old, edited.new)).or_insert(0) += 1;
    }
    let rows = edits.into_iter().map(|((old, new), n)| CodeRow {
        label: format!("{old} -> {new}, {n} {}", if n == 1 { "patch" } else { "patches" }),
        patches: patches(old),
        becomes: patches(new),
    });
    let rows = rows.collect();
    let pair = EditedPair {
        image: seen.pixels,
        caption: text.to_owned(),
        grid: view.grid,
        scores: view.scores,
        replaced: view.replaced.iter().map(|edited| edited.patch).collect(),
    };
    Ok(code_sheet(&CodeSheet { title, pair: Some(pair), rows }))
}

/// What is in boxes, and where phrases are.
fn regions(trained: &Trained, seen: Seen, arguments: &InspectArguments, title: String) -> anyhow::Result<RgbImage> {
    let boxes: Vec<[f32; 4]> = arguments
        .boxes
        .iter()
        .map(|&corners| {
            seen.geometry.map_box(corners, 0.0).with_context(|| format!("the network does not see the box {corners:?}"))
        })
        .collect::<Result<_, _>>()?;
    let phrases: Vec<&str> = arguments.phrase.iter().map(String::as_str).collect();
    let mut panels = Vec::new();
    if !boxes.is_empty() {
        panels.push(trained.nearest_phrases(&seen.input_chw, &boxes, &phrases)?);
    }
    if trained.predicts_boxes() || boxes.is_empty() {
        panels.push(trained.predicted_boxes(&seen.input_chw, &phrases)?);
    }
    Ok(region_sheet(&RegionSheet { image: seen.pixels, title, panels }))
}

fn parse_box(text: &str) -> Result<[f32; 4], String> {
    let shares: Vec<f32> = text.split(',').map(|share| share.trim().parse().unwrap_or(f32::NAN)).collect();
    match shares[..] {
        [x0, y0, x1, y1] if shares.iter().all(|share| (0.0..=1.0).contains(share)) && x0 < x1 && y0 < y1 => {
            Ok([x0, y0, x1, y1])
        }
        _ => Err("expected x0,y0,x1,y1 in [0, 1], with x0 < x1 and y0 < y1".into()),
    }
}

/// What SyCoCa's caption makes each decoder see, and what is rebuilt, of an image as the network gets it.
pub fn masks(
    trained: &Trained,
    image: RgbImage,
    image_chw: &Tensor,
    text: &str,
    title: String,
) -> anyhow::Result<RgbImage> {
    let view = masked_view(trained, image_chw, text)?;
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

fn save_png(image: &RgbImage, path: &Path) -> anyhow::Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png)?;
    sparc_data::shard_writer::write_file_atomically(path, bytes.get_ref())?;
    Ok(())
}
