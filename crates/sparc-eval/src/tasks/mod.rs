//! Tasks: a network, a tokenizer and annotated images in, numbers out.
//!
//! [`evaluate`] runs every task of an [`EvalRequest`] in one pass over the samples, and sees the network
//! only through [`sparc_core::Encoder`] and [`sparc_core::Tokenize`]. What each task does is told in its
//! own file: retrieval, zero-shot classification, zero-shot segmentation, phrase grounding, regions,
//! compositional tests, captioning, questions. [`PairJudge`] scores pairs of one's own.
//!
//! A sample without the annotation that a task needs is left out of that task and counted. A task that
//! is left without any sample is an error ([`EvalError::NoUsableSample`]), and so are features that are
//! not finite: neither may look like a number.

mod captioning;
mod class_list;
mod compositional;
mod compositional_results;
mod error;
mod evaluate;
mod features;
mod heatmaps;
mod measured;
mod pair_judge;
mod pair_scoring;
mod phrase_grounding;
mod region_arms;
mod region_results;
mod regions;
mod request;
mod reranking;
mod results;
mod retrieval;
mod vqa;
mod zeroshot_classification;
mod zeroshot_segmentation;

#[cfg(test)]
mod compositional_tests;
#[cfg(test)]
mod tests;

pub use captioning::{CaptioningResults, ImageCaption};
pub use class_list::{ClassListError, ClassSet, DEFAULT_TEMPLATES, SegmentationClasses, Templates};
pub use compositional_results::{
    CaptionPairResults, ClaimResults, CompositionalResults, HardNegativeResults, SourceResults, StatementResults,
    StatementVerdicts,
};
pub use error::{EvalError, Task};
pub use evaluate::{Progress, evaluate};
pub use heatmaps::{Heatmaps, middle_layer};
pub use measured::Measured;
pub use pair_judge::{PairJudge, PairJudgement, SeenImages};
pub use region_arms::RegionArm;
pub use region_results::{ArmResults, BoxResults, RegionResults};
pub use regions::RegionsRequest;
pub use request::EvalRequest;
pub use results::{
    BoxChoiceResults, ClassScore, ClassificationResults, EvalResults, GroundingResults, Protocol, RankSummary,
    RerankedResults, RetrievalResults, SegmentationResults,
};
pub use vqa::{AnsweredQuestion, VqaBaseline, VqaRequest, VqaResults, VqaScore};
