//! What to evaluate, and how.

use sparc_core::{PairScore, PatchPath};
use tch::Device;

use super::{ClassSet, EvalError, Heatmaps, RegionsRequest, SegmentationClasses, VqaRequest};
use crate::metrics::grounding;
use crate::metrics::upsample::Upsampling;

/// The tasks to run and the choices that their numbers depend on. [`EvalRequest::new`] asks for no
/// task; set the ones you want. The choices are reported in [`super::Protocol`].
#[derive(Debug, Clone)]
pub struct EvalRequest {
    /// Run image-text retrieval.
    pub retrieval: bool,
    /// Have the network's matching head order so many first candidates of every query of retrieval anew.
    pub rerank: Option<usize>,
    /// Run classification into these classes: by the network's own head if it has one, or else zero-shot.
    pub classification: Option<ClassSet>,
    /// Run zero-shot segmentation into these classes.
    pub segmentation: Option<SegmentationClasses>,
    /// Run phrase grounding.
    pub grounding: bool,
    /// Run recognition, retrieval, choice and grounding of regions.
    pub regions: Option<RegionsRequest>,
    /// Run the tests of hard negatives, statements and pairs of captions.
    pub compositional: bool,
    /// Run captioning, with the captioner of the network.
    pub captioning: bool,
    /// Ask the questions about images.
    pub vqa: Option<VqaRequest>,
    /// What retrieval, classification and compositional tests compare; patches, where it reads them, along the local path.
    pub pair_score: PairScore,
    /// Which patch features segmentation, and grounding by similarity, read.
    pub patch_path: PatchPath,
    /// How segmentation comes from patches to pixels.
    pub upsampling: Upsampling,
    /// What grounding takes for the heatmap of a phrase.
    pub heatmaps: Heatmaps,
    /// Where grounding cuts the min-max-normalised heatmap, in `[0, 1]`.
    pub heatmap_threshold: f64,
    /// Images encoded together; it changes speed and memory, not the numbers.
    pub batch_size: usize,
    /// Texts encoded together; likewise.
    pub text_batch_size: usize,
    /// Where the network lies.
    pub device: Device,
}

impl EvalRequest {
    /// No task yet; pooled embeddings, patches along the global path and bilinear scores (SPARC's path, and the usual
    /// interpolation), heatmaps by similarity, cut at half of their range.
    pub fn new(device: Device) -> EvalRequest {
        EvalRequest {
            retrieval: false,
            rerank: None,
            classification: None,
            segmentation: None,
            grounding: false,
            regions: None,
            compositional: false,
            captioning: false,
            vqa: None,
            pair_score: PairScore::Pooled,
            patch_path: PatchPath::Global,
            upsampling: Upsampling::BilinearScores,
            heatmaps: Heatmaps::Similarity,
            heatmap_threshold: grounding::DEFAULT_THRESHOLD,
            batch_size: 64,
            text_batch_size: 256,
            device,
        }
    }

    /// Refuses requests that could only give nonsense.
    pub(super) fn check(&self) -> Result<(), EvalError> {
        let reads_features =
            self.retrieval || self.classification.is_some() || self.segmentation.is_some() || self.grounding;
        let reads_texts = self.compositional || self.captioning || self.vqa.is_some();
        if !reads_features && self.regions.is_none() && !reads_texts {
            return Err(EvalError::NothingRequested);
        }
        if self.regions.as_ref().is_some_and(|regions| regions.arms.is_empty()) {
            return Err(EvalError::InvalidRequest {
                field: "regions.arms",
                value: "empty".into(),
                expected: "at least one way to embed a box".into(),
            });
        }
        if let Some(rerank) = self.rerank.filter(|&rerank| rerank == 0 || !self.retrieval) {
            return Err(EvalError::InvalidRequest {
                field: "rerank",
                value: rerank.to_string(),
                expected: "at least 1, and retrieval be asked for".into(),
            });
        }
        for (field, size) in [("batch_size", self.batch_size), ("text_batch_size", self.text_batch_size)] {
            if size == 0 {
                return Err(EvalError::InvalidRequest {
                    field,
                    value: size.to_string(),
                    expected: "at least 1".into(),
                });
            }
        }
        if !(0.0..=1.0).contains(&self.heatmap_threshold) {
            return Err(EvalError::InvalidRequest {
                field: "heatmap_threshold",
                value: self.heatmap_threshold.to_string(),
                expected: "in [0, 1]".into(),
            });
        }
        Ok(())
    }
}
