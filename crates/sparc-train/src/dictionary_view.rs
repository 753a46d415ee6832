//! What a visual dictionary has learned, to be looked at: patches of a data set by their codes, and what an edit does to a
//! pair.

use image::RgbImage;
use image::imageops::crop_imm;
use sparc_core::{EvalSample, PatchGrid};
use sparc_models::networks::{Albef, Network};
use tch::{Kind, Tensor};

use crate::error::Error;
use crate::evaluation::Trained;
use crate::matching::{NasObjective, edited_images};
use crate::objective::Objective;
use crate::step::Moment;

// Dimension letters: b batch, p patches, w width.

/// A code with the patches that have it.
#[derive(Debug, Clone)]
pub struct CodePatches {
    /// The code.
    pub code: usize,
    /// Share of all patches that have it.
    pub share: f64,
    /// The patches nearest to it, of different images, nearest first.
    pub nearest: Vec<RgbImage>,
}

/// What is known of a code while patches are looked at.
#[derive(Default)]
struct Found {
    count: usize,
    /// Squared distances and patches, nearest first.
    nearest: Vec<(f64, RgbImage)>,
}

/// The codes that patches of these images have, the most used first, each with up to `n_patches` of its patches.
///
/// # Errors
///
/// A run without a dictionary, or data that cannot be read.
pub fn patches_of_codes(
    trained: &Trained,
    samples: impl Iterator<Item = Result<EvalSample, sparc_data::Error>>,
    n_patches: usize,
) -> Result<Vec<CodePatches>, Error> {
    const BATCH: usize = 32;
    let (network, _) = nas(trained)?;
    let dictionary = network.dictionary().expect("a network of NAS");
    let (grid, side) = (network.config().image.grid(), network.config().image.patch_size as u32);
    let mut found: Vec<Found> = (0..dictionary.codes().size()[0]).map(|_| Found::default()).collect();
    let mut samples = samples;
    loop {
        let batch: Vec<EvalSample> = samples.by_ref().take(BATCH).collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        let (codes, distances) = tch::no_grad(|| {
            let images: Vec<&Tensor> = batch.iter().map(|sample| &sample.image_chw).collect();
            let patches_bpw = network.online().image_vectors(&Tensor::stack(&images, 0)).patches_bpw;
            let index_bp = dictionary.nearest(&patches_bpw);
            let codes_bpw = dictionary.codes().index_select(0, &index_bp.flatten(0, 1)).view_as(&patches_bpw);
            let squared_bp = (patches_bpw - codes_bpw).square().sum_dim_intlist([2i64].as_slice(), false, Kind::Double);
            (numbers(&index_bp), numbers(&squared_bp))
        });
        let n = grid.len() as usize;
        for (image, sample) in batch.iter().enumerate() {
            let pixels = frame(sample, (grid, side));
            let mut best = std::collections::BTreeMap::new();
            for patch in 0..n {
                let (code, distance) = (codes[image * n + patch] as usize, distances[image * n + patch]);
                found[code].count += 1;
                let own = best.entry(code).or_insert((distance, patch));
                if distance < own.0 {
                    *own = (distance, patch);
                }
            }
            for (code, (distance, patch)) in best {
                let nearest = &mut found[code].nearest;
                let place = nearest.partition_point(|(other, _)| *other <= distance);
                if place < n_patches {
                    nearest.insert(place, (distance, cut(&pixels, patch, (grid, side))));
                    nearest.truncate(n_patches);
                }
            }
        }
    }
    let total: usize = found.iter().map(|found| found.count).sum();
    let mut codes: Vec<CodePatches> = found
        .into_iter()
        .enumerate()
        .filter(|(_, found)| found.count > 0)
        .map(|(code, found)| CodePatches {
            code,
            share: found.count as f64 / total as f64,
            nearest: found.nearest.into_iter().map(|(_, patch)| patch).collect(),
        })
        .collect();
    codes.sort_by(|a, b| b.share.total_cmp(&a.share));
    Ok(codes)
}

/// What an edit does to a pair.
#[derive(Debug, Clone, PartialEq)]
pub struct EditedView {
    /// Rows and columns of patches.
    pub grid: (usize, usize),
    /// How much each patch has to do with the pair, row by row.
    pub scores: Vec<f32>,
    /// The patches that have another code afterwards.
    pub replaced: Vec<EditedPatch>,
}

/// A patch that an edit has given another code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EditedPatch {
    /// Which, row by row.
    pub patch: usize,
    /// Its code.
    pub old: usize,
    /// The code in its place.
    pub new: usize,
}

/// Edits one normalised image `[3, H, W]` with its caption, as the run's next step would. There is no other image: the
/// rule `other_image` has nothing to draw from, and takes the nearest code.
///
/// # Errors
///
/// A run without a dictionary.
pub fn edited_view(trained: &Trained, image_chw: &Tensor, caption: &str) -> Result<EditedView, Error> {
    let (network, config) = nas(trained)?;
    let batch = trained.batch(&[image_chw], &[caption], vec![String::new()]);
    let moment = Moment { seed: trained.plan.config.seed, updates: trained.step };
    let (scores_bp, edit) = edited_images(network, config, &batch, moment);
    let patches_bpw = tch::no_grad(|| network.online().image_vectors(&batch.images_bchw).patches_bpw);
    let (old_bp, _) = network.look_up(&patches_bpw).expect("a network of NAS");
    let (old, new) = (numbers(&old_bp), numbers(&edit.index_bp));
    let patches = old.into_iter().zip(new).enumerate().filter(|(_, (old, new))| old != new);
    let grid = network.config().image.grid();
    Ok(EditedView {
        grid: (grid.height as usize, grid.width as usize),
        scores: numbers(&scores_bp).into_iter().map(|score| score as f32).collect(),
        replaced: patches
            .map(|(patch, (old, new))| EditedPatch { patch, old: old as usize, new: new as usize })
            .collect(),
    })
}

fn nas(trained: &Trained) -> Result<(&Albef, &NasObjective), Error> {
    match (&trained.network, &trained.plan.config.objective) {
        (Network::Albef(network), Objective::Nas(config)) => Ok((network, config)),
        (_, objective) => Err(Error::NoDictionary { run: trained.run.clone(), objective: objective.name() }),
    }
}

/// The pixels that the network saw.
fn frame(sample: &EvalSample, (grid, side): (PatchGrid, u32)) -> RgbImage {
    let (width, height) = (grid.width as u32 * side, grid.height as u32 * side);
    RgbImage::from_raw(width, height, sample.pixels.clone()).expect("a frame has the network's size")
}

fn cut(pixels: &RgbImage, patch: usize, (grid, side): (PatchGrid, u32)) -> RgbImage {
    let (row, column) = (patch as u32 / grid.width as u32, patch as u32 % grid.width as u32);
    crop_imm(pixels, column * side, row * side, side, side).to_image()
}

fn numbers(x: &Tensor) -> Vec<f64> {
    Vec::try_from(x.to_kind(Kind::Double).contiguous().view([-1])).expect("a tensor of numbers")
}
