//! The numbers of regions with given boxes, and their metric keys.

use serde::{Deserialize, Serialize};

use super::RegionArm;
use super::measured::{Measured, MetricKeys};

/// Regions with given boxes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionResults {
    /// Images with a usable region.
    pub n_images: usize,
    /// Regions.
    pub n_regions: usize,
    /// Distinct phrases of the regions.
    pub n_phrases: usize,
    /// Classes to choose from.
    pub n_classes: usize,
    /// Images left out because they have no usable region.
    pub n_without_regions: usize,
    /// Regions that recognition leaves out because no class has the name of their phrase.
    pub n_without_class: usize,
    /// Regions whose description is chosen among wrong ones.
    pub n_fine_regions: usize,
    /// By the way boxes get embeddings.
    pub arms: Vec<ArmResults>,
    /// Boxes predicted from phrases; absent if the network predicts none.
    pub boxes: Option<BoxResults>,
}

/// What one way to embed boxes leads to; numbers are absent where nothing is there to be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmResults {
    /// The way.
    pub arm: RegionArm,
    /// mAcc: mean over the classes that occur of the share of their regions that are named right.
    pub macro_accuracy: Option<Measured>,
    /// Share of the regions that are named right.
    pub micro_accuracy: Option<Measured>,
    /// Recall@10 of phrases for regions: of the region's own, and of an equal string.
    pub region_to_text_recall: [Option<Measured>; 2],
    /// Recall@10 of regions for phrases, likewise.
    pub text_to_region_recall: [Option<Measured>; 2],
    /// Share of regions whose true description scores best among hard, medium, easy and trivial wrong ones.
    pub choice: [Option<Measured>; 4],
}

/// Boxes predicted from phrases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxResults {
    /// Phrases: different texts, image by image.
    pub n_phrases: usize,
    /// P@0.5: share of phrases whose box overlaps one of theirs with an IoU of at least 0.5.
    pub precision_50: Option<Measured>,
    /// Mean IoU with the phrase's best box.
    pub mean_iou: Option<Measured>,
}

impl ArmResults {
    pub(super) fn none(arm: RegionArm) -> ArmResults {
        ArmResults {
            arm,
            macro_accuracy: None,
            micro_accuracy: None,
            region_to_text_recall: [None; 2],
            text_to_region_recall: [None; 2],
            choice: [None; 4],
        }
    }
}

impl RegionResults {
    pub(super) fn metrics(&self, keys: &mut MetricKeys) {
        for arm in &self.arms {
            let ([r2t, r2t_string], [t2r, t2r_string]) = (arm.region_to_text_recall, arm.text_to_region_recall);
            let [hard, medium, easy, trivial] = arm.choice;
            for (metric, measured) in [
                ("mAcc", arm.macro_accuracy),
                ("acc", arm.micro_accuracy),
                ("to_text_R@10", r2t),
                ("from_text_R@10", t2r),
                ("to_text_string_R@10", r2t_string),
                ("from_text_string_R@10", t2r_string),
                ("choice_hard", hard),
                ("choice_medium", medium),
                ("choice_easy", easy),
                ("choice_trivial", trivial),
            ] {
                keys.measured(&format!("regions_{}_{metric}", arm.arm.name()), measured);
            }
        }
        if let Some(boxes) = &self.boxes {
            keys.measured("regions_box_P@0.5", boxes.precision_50);
            keys.measured("regions_box_mean_IoU", boxes.mean_iou);
        }
    }
}
