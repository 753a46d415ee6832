//! The numbers of an evaluation, and what they depend on.

use serde::{Deserialize, Serialize};

use super::{CompositionalResults, RegionArm, Templates};
use crate::metrics::TiedRank;
use crate::metrics::retrieval::{RetrievalRanks, mean_rank, median_rank, recall_at};
use crate::metrics::upsample::Upsampling;

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
    /// Where grounding cuts its min-max-normalised heatmaps.
    pub heatmap_threshold: f64,
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
    pub image_to_text_recall: [f64; 3],
    /// Recall@1, @5, @10 of images for captions.
    pub text_to_image_recall: [f64; 3],
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

/// Zero-shot classification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationResults {
    /// Images with a class.
    pub n_images: usize,
    /// Classes to choose from.
    pub n_classes: usize,
    /// Images left out because they have no class.
    pub n_without_class: usize,
    /// The prompts used.
    pub templates: Templates,
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
    pub pointing_accuracy: f64,
    /// Mean IoU of the box around the cut heatmap with the phrase's best box.
    pub mean_box_iou: f64,
    /// Mean IoU of the cut heatmap with the pixels of the phrase's boxes.
    pub mean_mask_iou: f64,
    /// Fraction of phrases whose box IoU is at least 0.5.
    pub box_accuracy: f64,
    /// Mean share of the image that a phrase's boxes cover: what pointing and mask IoU would be for a
    /// constant heatmap.
    pub chance: f64,
}

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
    pub macro_accuracy: Option<f64>,
    /// Share of the regions that are named right.
    pub micro_accuracy: Option<f64>,
    /// Recall@10 of phrases for regions: of the region's own, and of an equal string.
    pub region_to_text_recall: [Option<f64>; 2],
    /// Recall@10 of regions for phrases, likewise.
    pub text_to_region_recall: [Option<f64>; 2],
    /// Share of regions whose true description scores best among hard, medium, easy and trivial wrong ones.
    pub choice: [Option<f64>; 4],
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

/// Boxes predicted from phrases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoxResults {
    /// Phrases: different texts, image by image.
    pub n_phrases: usize,
    /// P@0.5: share of phrases whose box overlaps one of theirs with an IoU of at least 0.5.
    pub precision_50: Option<f64>,
    /// Mean IoU with the phrase's best box.
    pub mean_iou: Option<f64>,
}

/// A caption that the network has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCaption {
    /// Key of the sample.
    pub key: String,
    /// The caption.
    pub caption: String,
}

/// Captioning, scored as pycocoevalcap does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptioningResults {
    /// Images captioned.
    pub n_images: usize,
    /// Captions of people that they were scored against.
    pub n_references: usize,
    /// Images left out because they have no caption (or only empty ones).
    pub n_without_captions: usize,
    /// How captions were made.
    pub generation: String,
    /// BLEU-1 to BLEU-4 of the corpus.
    pub bleu: [f64; 4],
    /// ROUGE-L.
    pub rouge_l: f64,
    /// CIDEr-D; papers give it times 100.
    pub cider: f64,
    /// Mean number of words of a caption.
    pub mean_words: f64,
    /// Different captions ÷ images: a captioner that says the same of every image shows here.
    pub distinct_captions: f64,
    /// The captions.
    pub captions: Vec<ImageCaption>,
}

impl EvalResults {
    /// All single numbers under their metric keys, in a fixed order: the metrics of each task, then the
    /// counts. Numbers that do not exist (see the fields) have no key.
    pub fn flatten(&self) -> Vec<(String, f64)> {
        let mut numbers: Vec<(&str, Option<f64>)> = Vec::new();
        if let Some(classification) = &self.classification {
            numbers.extend(classification.metrics());
        }
        if let Some(segmentation) = &self.segmentation {
            numbers.extend(segmentation.metrics());
        }
        if let Some(grounding) = &self.grounding {
            numbers.extend(grounding.metrics());
        }
        if let Some(captioning) = &self.captioning {
            numbers.extend(captioning.metrics());
        }
        let mut flat: Vec<(String, f64)> = self.retrieval.iter().flat_map(RetrievalResults::metrics).collect();
        flat.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        flat.extend(self.regions.iter().flat_map(RegionResults::metrics));
        flat.extend(self.compositional.iter().flat_map(CompositionalResults::metrics));
        flat.extend(self.counts().into_iter().map(|(key, count)| (key.to_owned(), count as f64)));
        flat
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
        counts
    }
}

impl RegionResults {
    fn metrics(&self) -> Vec<(String, f64)> {
        let mut numbers: Vec<(String, Option<f64>)> = Vec::new();
        for arm in &self.arms {
            let key = |metric: &str| format!("regions_{}_{metric}", arm.arm.name());
            let ([r2t, r2t_string], [t2r, t2r_string]) = (arm.region_to_text_recall, arm.text_to_region_recall);
            let [hard, medium, easy, trivial] = arm.choice;
            numbers.extend([
                (key("mAcc"), arm.macro_accuracy),
                (key("acc"), arm.micro_accuracy),
                (key("to_text_R@10"), r2t),
                (key("from_text_R@10"), t2r),
                (key("to_text_string_R@10"), r2t_string),
                (key("from_text_string_R@10"), t2r_string),
                (key("choice_hard"), hard),
                (key("choice_medium"), medium),
                (key("choice_easy"), easy),
                (key("choice_trivial"), trivial),
            ]);
        }
        if let Some(boxes) = &self.boxes {
            numbers.extend([
                ("regions_box_P@0.5".to_owned(), boxes.precision_50),
                ("regions_box_mean_IoU".to_owned(), boxes.mean_iou),
            ]);
        }
        numbers.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }
}

impl RankSummary {
    /// # Panics
    ///
    /// If a direction has no query.
    pub(super) fn of(ranks: &RetrievalRanks) -> RankSummary {
        let RetrievalRanks { image_to_text, text_to_image } = ranks;
        let recalls = |ranks: &[TiedRank]| [1, 5, 10].map(|k| recall_at(ranks, k).expect("there are queries"));
        RankSummary {
            image_to_text_recall: recalls(image_to_text),
            text_to_image_recall: recalls(text_to_image),
            image_to_text_mean_rank: mean_rank(image_to_text).expect("there are queries"),
            image_to_text_median_rank: median_rank(image_to_text).expect("there are queries"),
            text_to_image_mean_rank: mean_rank(text_to_image).expect("there are queries"),
            text_to_image_median_rank: median_rank(text_to_image).expect("there are queries"),
        }
    }

    fn metrics(&self) -> [(&'static str, f64); 10] {
        let ([i2t_1, i2t_5, i2t_10], [t2i_1, t2i_5, t2i_10]) = (self.image_to_text_recall, self.text_to_image_recall);
        [
            ("image_to_text_R@1", i2t_1),
            ("image_to_text_R@5", i2t_5),
            ("image_to_text_R@10", i2t_10),
            ("text_to_image_R@1", t2i_1),
            ("text_to_image_R@5", t2i_5),
            ("text_to_image_R@10", t2i_10),
            ("image_to_text_mean_rank", self.image_to_text_mean_rank),
            ("image_to_text_median_rank", self.image_to_text_median_rank),
            ("text_to_image_mean_rank", self.text_to_image_mean_rank),
            ("text_to_image_median_rank", self.text_to_image_median_rank),
        ]
    }
}

impl RetrievalResults {
    fn metrics(&self) -> Vec<(String, f64)> {
        let plain = self.ranks.metrics().map(|(key, value)| (key.to_owned(), value));
        let reranked = self.reranked.iter().flat_map(|reranked| {
            let listed = [
                ("image_to_text_listed", reranked.image_to_text_listed),
                ("text_to_image_listed", reranked.text_to_image_listed),
            ];
            let numbers = reranked.ranks.metrics().into_iter().chain(listed);
            numbers.map(|(key, value)| (format!("reranked_{key}"), value))
        });
        plain.into_iter().chain(reranked).collect()
    }
}

impl ClassificationResults {
    fn metrics(&self) -> [(&'static str, Option<f64>); 3] {
        [
            ("zeroshot_acc1", Some(self.accuracy_1)),
            ("zeroshot_acc5", self.accuracy_5),
            ("zeroshot_mean_per_class_recall", Some(self.mean_per_class_recall)),
        ]
    }
}

impl SegmentationResults {
    fn metrics(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("segmentation_mIoU", Some(self.mean_iou)),
            ("segmentation_mIoU_with_background", self.mean_iou_with_background),
            ("segmentation_mIoU_per_image", Some(self.mean_iou_per_image)),
            ("segmentation_mIoU_per_image_with_background", self.mean_iou_per_image_with_background),
            ("segmentation_pixel_accuracy", Some(self.pixel_accuracy)),
        ]
    }
}

impl GroundingResults {
    fn metrics(&self) -> [(&'static str, Option<f64>); 5] {
        [
            ("grounding_pointing_accuracy", Some(self.pointing_accuracy)),
            ("grounding_mean_IoU", Some(self.mean_box_iou)),
            ("grounding_mean_mask_IoU", Some(self.mean_mask_iou)),
            ("grounding_box_accuracy@0.5", Some(self.box_accuracy)),
            ("grounding_chance", Some(self.chance)),
        ]
    }
}

impl CaptioningResults {
    fn metrics(&self) -> [(&'static str, Option<f64>); 8] {
        let [bleu_1, bleu_2, bleu_3, bleu_4] = self.bleu;
        [
            ("caption_BLEU-1", Some(bleu_1)),
            ("caption_BLEU-2", Some(bleu_2)),
            ("caption_BLEU-3", Some(bleu_3)),
            ("caption_BLEU-4", Some(bleu_4)),
            ("caption_ROUGE-L", Some(self.rouge_l)),
            ("caption_CIDEr", Some(self.cider)),
            ("caption_mean_words", Some(self.mean_words)),
            ("caption_distinct", Some(self.distinct_captions)),
        ]
    }
}
