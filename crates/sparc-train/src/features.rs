//! A batch through two towers: what objectives are computed from.

use sparc_core::{Batch, Encoder, ImageFeatures, PatchPath, RegionBatch, TextFeatures};
use sparc_models::networks::DualEncoder;
use sparc_models::vit::TowerOutput;
use tch::Tensor;

use crate::objective::Objective;

/// A batch's embeddings.
#[derive(Debug)]
pub struct Features {
    /// Images, patches along the local path.
    pub image: ImageFeatures,
    /// Captions.
    pub text: TextFeatures,
    /// Regions, if the objective learns from them.
    pub regions: Option<RegionFeatures>,
}

impl Features {
    /// Encodes a batch: every image once, and every distinct phrase once, whatever the objective reads.
    ///
    /// # Panics
    ///
    /// If the objective learns from regions and the batch has none, or the network no region head.
    pub fn new(network: &DualEncoder, objective: &Objective, batch: &Batch) -> Features {
        let tower = network.encode_tower(&batch.images_bchw);
        let regions = objective.learns_from_regions().then(|| {
            let regions = batch.regions.as_ref().expect("a batch with regions: the plan asks for them");
            RegionFeatures::new(network, &tower, regions)
        });
        Features {
            image: network.image_features(&tower, PatchPath::Local),
            text: network.encode_text(&batch.text),
            regions,
        }
    }
}

/// Embeddings of a batch's regions, in its slots.
#[derive(Debug)]
pub struct RegionFeatures {
    /// Of boxes, `[B, M, D]`.
    pub regions_bmd: Tensor,
    /// Of phrases, `[B, M, D]`.
    pub phrases_bmd: Tensor,
    /// Boxes of the annotation, `[B, M, 4]`.
    pub boxes_bm4: Tensor,
    /// Boxes predicted from the phrases, `[B, M, 4]`, if the network grounds.
    pub predicted_bm4: Option<Tensor>,
    /// True where a slot holds a region, `[B, M]`, `bool`.
    pub valid_bm: Tensor,
}

impl RegionFeatures {
    fn new(network: &DualEncoder, tower: &TowerOutput, regions: &RegionBatch) -> RegionFeatures {
        let RegionBatch { boxes_bm4, phrases, phrase_of_slot_bm, valid_bm } = regions;
        let phrases_ud = network.encode_text(phrases).pooled_bd;
        let (b, m) = valid_bm.size2().expect("slots are [B, M]");
        let phrases_bmd = phrases_ud.index_select(0, &phrase_of_slot_bm.view([-1])).view([b, m, -1]);
        let view = network.regions(tower).expect("a network built with a region head");
        RegionFeatures {
            regions_bmd: view.embed(boxes_bm4, valid_bm),
            predicted_bm4: view.predict_boxes(&phrases_bmd, valid_bm),
            phrases_bmd,
            boxes_bm4: boxes_bm4.shallow_clone(),
            valid_bm: valid_bm.shallow_clone(),
        }
    }
}
