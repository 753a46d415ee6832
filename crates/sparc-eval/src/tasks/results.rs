//! The numbers of an evaluation, and what they depend on.

use serde::{Deserialize, Serialize};

use super::measured::{Measured, MetricKeys};
use super::{CaptioningResults, CompositionalResults, RegionResults, Templates, VqaResults};
use crate::metrics::retrieval::{RetrievalRanks, mean_rank, median_rank};
use crate::metrics::upsample::Upsampling;
use crate::metrics::{Bootstrap, TiedRank};

/// Everything that [`super::evaluate`] found out. Rates are in `[0, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalResults {
    /// Images seen, with or without annotations.
    pub n_images: usize,
    /// The choices behind the numbers.
    pub protocol: Protocol,
    /// Retrieval, if it was asked for.
    pub retrieval: Option<RetrievalResults>,
    /// Zero-shot classification, if it was asked for.
    pub classification: Option<ClassificationResults>,
    /// Zero-shot segmentation, if it was asked for.
    pub segmentation: Option<SegmentationResults>,
    /// Phrase grounding, if it was asked for.
    pub grounding: Option<GroundingResults>,
    /// Regions, if they were asked for.
    #[serde(default)]
    pub regions: Option<RegionResults>,
    /// True and false captions and statements, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compositional: Option<CompositionalResults>,
    /// Captioning, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioning: Option<CaptioningResults>,
    /// Questions about images, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vqa: Option<VqaResults>,
}

/// The choices of the request that change numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// What retrieval, classification and compositional tests compared; absent in results of before there was a choice.
    #[serde(default = "pooled")]
    pub pair_score: String,
    /// `global` or `local`: which patch features segmentation and grounding read.
    pub patch_path: String,
    /// How segmentation comes from patches to pixels.
    pub upsampling: Upsampling,
    /// What grounding took for heatmaps.
    pub heatmaps: String,
    /// Where grounding cuts its min-max-normalised heatmaps.
    pub heatmap_threshold: f64,
    /// How the intervals of all tasks are drawn: images are resampled, and candidates stay.
    pub intervals: Bootstrap,
}

fn pooled() -> String {
    sparc_core::PairScore::Pooled.name().to_owned()
}

/// Image-text retrieval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalResults {
    /// Images with a caption.
    pub n_images: usize,
    /// Captions.
    pub n_captions: usize,
    /// Images left out because they have no caption (or only empty ones).
    pub n_without_captions: usize,
    /// Empty captions skipped.
    pub n_empty_captions: usize,
    /// How well both directions rank.
    #[serde(flatten)]
    pub ranks: RankSummary,
    /// The same once the matching head has ordered the first candidates anew, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reranked: Option<RerankedResults>,
}

/// How well both directions of retrieval rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankSummary {
    /// Recall@1, @5, @10 of captions for images.
    pub image_to_text_recall: [Measured; 3],
    /// Recall@1, @5, @10 of images for captions.
    pub text_to_image_recall: [Measured; 3],
    /// Mean rank, from 1, of an image's first own caption.
    pub image_to_text_mean_rank: f64,
    /// Median of the same.
    pub image_to_text_median_rank: f64,
    /// Mean rank, from 1, of a caption's image.
    pub text_to_image_mean_rank: f64,
    /// Median of the same.
    pub text_to_image_median_rank: f64,
}

/// Retrieval in two stages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RerankedResults {
    /// Candidates of a query that the matching head ordered.
    pub n_candidates: usize,
    /// Share of images with an own caption among their candidates: no recall can be better.
    pub image_to_text_listed: f64,
    /// Share of captions with their image among their candidates.
    pub text_to_image_listed: f64,
    /// How well both directions rank.
    #[serde(flatten)]
    pub ranks: RankSummary,
}

/// A number of one class; none where the class does not occur.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// The class.
    pub name: String,
    /// Its number.
    pub value: Option<f64>,
}

/// Classification, zero-shot or by the network's own head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationResults {
    /// Images with a class.
    pub n_images: usize,
    /// Classes to choose from.
    pub n_classes: usize,
    /// Images left out because they have no class.
    pub n_without_class: usize,
    /// The prompts used; a head uses none.
    pub templates: Templates,
    /// Whether the network's own head told the classes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_head: bool,
    /// Top-1 accuracy.
    pub accuracy_1: f64,
    /// Top-5 accuracy; absent with fewer than five classes.
    pub accuracy_5: Option<f64>,
    /// Mean recall over the classes that occur.
    pub mean_per_class_recall: f64,
    /// Recall of each class.
    pub recall_per_class: Vec<ClassScore>,
}

/// Zero-shot segmentation; predictions are foreground classes only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentationResults {
    /// Images with a label map.
    pub n_images: usize,
    /// Foreground classes to choose from.
    pub n_classes: usize,
    /// Images left out because they have no label map.
    pub n_without_segmentation: usize,
    /// Images whose label map shows no foreground class.
    pub n_without_foreground: usize,
    /// The prompts used.
    pub templates: Templates,
    /// mIoU of the whole set, background pixels ignored.
    pub mean_iou: f64,
    /// mIoU of the whole set, background pixels as false positives; absent where no label means
    /// background.
    pub mean_iou_with_background: Option<f64>,
    /// Mean over images of the mean over the classes in the image, background pixels ignored.
    pub mean_iou_per_image: f64,
    /// The same with background pixels as false positives; absent where no label means background.
    pub mean_iou_per_image_with_background: Option<f64>,
    /// Fraction of foreground pixels with the right class.
    pub pixel_accuracy: f64,
    /// IoU of each class over the whole set, background pixels ignored.
    pub iou_per_class: Vec<ClassScore>,
}

/// Phrase grounding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroundingResults {
    /// Images with a usable region.
    pub n_images: usize,
    /// Phrases: different texts, image by image.
    pub n_phrases: usize,
    /// Their boxes.
    pub n_boxes: usize,
    /// Images left out because they have no usable region.
    pub n_without_regions: usize,
    /// Regions skipped because their phrase is empty.
    pub n_empty_phrases: usize,
    /// Regions skipped because their box has no area in the image.
    pub n_empty_boxes: usize,
    /// Fraction of phrases whose heatmap is highest inside a box of theirs.
    pub pointing_accuracy: Measured,
    /// Mean IoU of the box around the cut heatmap with the phrase's best box.
    pub mean_box_iou: Measured,
    /// Mean IoU of the cut heatmap with the pixels of the phrase's boxes.
    pub mean_mask_iou: Measured,
    /// Fraction of phrases whose box IoU is at least 0.5.
    pub box_accuracy: Measured,
    /// The image's boxes ranked by the heatmap; absent where no phrase has a choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub box_choice: Option<BoxChoiceResults>,
    /// Mean share of the image that a phrase's boxes cover: what pointing and mask IoU would be for a
    /// constant heatmap.
    pub chance: f64,
}

/// Which of its image's boxes a phrase's heatmap chooses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoxChoiceResults {
    /// Phrases for which not any box would be right.
    pub n_phrases: usize,
    /// Share of them whose box has an IoU of at least 0.5 with one of the phrase's.
    pub accuracy: Measured,
    /// Share of boxes that would be right, on average.
    pub chance: f64,
}

impl EvalResults {
    /// All single numbers under their metric keys, in a fixed order: the metrics of each task, then the
    /// counts. Numbers that do not exist (see the fields) have no key; those with an interval have its ends under
    /// `.low` and `.high` behind their own key.
    pub fn flatten(&self) -> Vec<(String, f64)> {
        let mut keys = MetricKeys::default();
        self.retrieval.iter().for_each(|retrieval| retrieval.metrics(&mut keys));
        self.classification.iter().for_each(|classification| classification.metrics(&mut keys));
        self.segmentation.iter().for_each(|segmentation| segmentation.metrics(&mut keys));
        self.grounding.iter().for_each(|grounding| grounding.metrics(&mut keys));
        self.captioning.iter().for_each(|captioning| captioning.metrics(&mut keys));
        self.vqa.iter().for_each(|vqa| vqa.metrics(&mut keys));
        self.regions.iter().for_each(|regions| regions.metrics(&mut keys));
        self.compositional.iter().for_each(|compositional| compositional.metrics(&mut keys));
        self.counts().into_iter().for_each(|(key, count)| keys.number(key, count as f64));
        keys.0
    }

    fn counts(&self) -> Vec<(&'static str, usize)> {
        let mut counts = vec![("n_images", self.n_images)];
        if let Some(retrieval) = &self.retrieval {
            counts.extend([
                ("n_captions", retrieval.n_captions),
                ("n_without_captions", retrieval.n_without_captions),
                ("n_empty_captions", retrieval.n_empty_captions),
            ]);
            counts.extend(retrieval.reranked.map(|reranked| ("n_rerank_candidates", reranked.n_candidates)));
        }
        if let Some(classification) = &self.classification {
            counts
                .extend([("n_classes", classification.n_classes), ("n_without_class", classification.n_without_class)]);
        }
        if let Some(segmentation) = &self.segmentation {
            counts.extend([
                ("n_segmentation_classes", segmentation.n_classes),
                ("n_without_segmentation", segmentation.n_without_segmentation),
                ("n_without_foreground", segmentation.n_without_foreground),
            ]);
        }
        if let Some(grounding) = &self.grounding {
            counts.extend([
                ("n_phrases", grounding.n_phrases),
                ("n_boxes", grounding.n_boxes),
                ("n_without_regions", grounding.n_without_regions),
                ("n_empty_phrases", grounding.n_empty_phrases),
                ("n_empty_boxes", grounding.n_empty_boxes),
            ]);
        }
        if let Some(regions) = &self.regions {
            counts.extend([
                ("n_regions", regions.n_regions),
                ("n_region_phrases", regions.n_phrases),
                ("n_region_classes", regions.n_classes),
                ("n_regions_without_class", regions.n_without_class),
                ("n_fine_regions", regions.n_fine_regions),
            ]);
        }
        if let Some(compositional) = &self.compositional {
            counts.extend([
                ("n_images_with_claims", compositional.n_images),
                ("n_without_claims", compositional.n_without_claims),
                ("n_lone_caption_pairs", compositional.n_lone_caption_pairs),
            ]);
        }
        if let Some(captioning) = &self.captioning {
            counts.extend([
                ("n_captioned", captioning.n_images),
                ("n_references", captioning.n_references),
                ("n_without_references", captioning.n_without_captions),
            ]);
        }
        counts.extend(self.vqa.iter().flat_map(VqaResults::counts));
        counts
    }
}

impl RankSummary {
    /// Intervals resample images, with all their captions.
    ///
    /// # Panics
    ///
    /// If a direction has no query, or an image has no text.
    pub(super) fn of(ranks: &RetrievalRanks, image_of_text: &[usize]) -> RankSummary {
        let RetrievalRanks { image_to_text, text_to_image } = ranks;
        let every_image: Vec<usize> = (0..image_to_text.len()).collect();
        let recalls = |ranks: &[TiedRank], images: &[usize]| {
            assert_eq!(ranks.len(), images.len(), "one image a query");
            let hits = |k: usize| images.iter().zip(ranks).map(move |(image, rank)| (*image, rank.hit_probability(k)));
            [1, 5, 10].map(|k| Measured::mean(hits(k)).expect("there are queries"))
        };
        RankSummary {
            image_to_text_recall: recalls(image_to_text, &every_image),
            text_to_image_recall: recalls(text_to_image, image_of_text),
            image_to_text_mean_rank: mean_rank(image_to_text).expect("there are queries"),
            image_to_text_median_rank: median_rank(image_to_text).expect("there are queries"),
            text_to_image_mean_rank: mean_rank(text_to_image).expect("there are queries"),
            text_to_image_median_rank: median_rank(text_to_image).expect("there are queries"),
        }
    }

    fn metrics(&self, keys: &mut MetricKeys, prefix: &str) {
        for (direction, recalls) in
            [("image_to_text", self.image_to_text_recall), ("text_to_image", self.text_to_image_recall)]
        {
            for (k, recall) in [1, 5, 10].into_iter().zip(recalls) {
                keys.measured(&format!("{prefix}{direction}_R@{k}"), recall);
            }
        }
        for (key, rank) in [
            ("image_to_text_mean_rank", self.image_to_text_mean_rank),
            ("image_to_text_median_rank", self.image_to_text_median_rank),
            ("text_to_image_mean_rank", self.text_to_image_mean_rank),
            ("text_to_image_median_rank", self.text_to_image_median_rank),
        ] {
            keys.number(&format!("{prefix}{key}"), rank);
        }
    }
}

impl RetrievalResults {
    fn metrics(&self, keys: &mut MetricKeys) {
        self.ranks.metrics(keys, "");
        if let Some(reranked) = &self.reranked {
            reranked.ranks.metrics(keys, "reranked_");
            keys.number("reranked_image_to_text_listed", reranked.image_to_text_listed);
            keys.number("reranked_text_to_image_listed", reranked.text_to_image_listed);
        }
    }
}

impl ClassificationResults {
    fn metrics(&self, keys: &mut MetricKeys) {
        let by = if self.by_head { "head" } else { "zeroshot" };
        keys.number(&format!("{by}_acc1"), self.accuracy_1);
        keys.number(&format!("{by}_acc5"), self.accuracy_5);
        keys.number(&format!("{by}_mean_per_class_recall"), self.mean_per_class_recall);
    }
}

impl SegmentationResults {
    fn metrics(&self, keys: &mut MetricKeys) {
        keys.number("segmentation_mIoU", self.mean_iou);
        keys.number("segmentation_mIoU_with_background", self.mean_iou_with_background);
        keys.number("segmentation_mIoU_per_image", self.mean_iou_per_image);
        keys.number("segmentation_mIoU_per_image_with_background", self.mean_iou_per_image_with_background);
        keys.number("segmentation_pixel_accuracy", self.pixel_accuracy);
    }
}

impl GroundingResults {
    fn metrics(&self, keys: &mut MetricKeys) {
        keys.measured("grounding_pointing_accuracy", self.pointing_accuracy);
        keys.measured("grounding_mean_IoU", self.mean_box_iou);
        keys.measured("grounding_mean_mask_IoU", self.mean_mask_iou);
        keys.measured("grounding_box_accuracy@0.5", self.box_accuracy);
        if let Some(choice) = &self.box_choice {
            keys.measured("grounding_box_choice", choice.accuracy);
            keys.detail("grounding_box_choice", "n", choice.n_phrases as f64);
            keys.detail("grounding_box_choice", "chance", choice.chance);
        }
        keys.number("grounding_chance", self.chance);
    }
}
