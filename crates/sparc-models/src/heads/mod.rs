//! What objectives bring along beside the towers and adapters.

mod attentional_pooler;
mod language_head;
mod learned_scalar;
mod matching_head;
mod mutual_attention;
mod prompter;
mod residual_branch;
mod roi_align;
mod task_head;
mod token_gate;

pub use attentional_pooler::{AttentionalPooler, Pooler};
pub use language_head::LanguageHead;
pub use learned_scalar::LearnedScalar;
pub use matching_head::MatchingHead;
pub use mutual_attention::MutualAttention;
pub use prompter::{BoxRegressor, PromptedImages, Prompter};
pub use residual_branch::ResidualBranch;
pub use roi_align::{RoiAlignHead, roi_align_weights};
use sparc_core::objectives::cloc::RegionHead;
pub use task_head::{TaskHead, TaskHeadConfig};
pub use token_gate::TokenGate;

/// The learned parts that an objective asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeadsConfig {
    /// Scalars beside the network's inverse temperature, with their values at the start.
    pub scalars: Vec<(LearnedScalar, f64)>,
    /// Width of learned attention between words and patches (MGCA).
    pub mutual_attention: Option<i64>,
    /// Number of prototypes (MGCA).
    pub prototypes: Option<i64>,
    /// Whether a two-layer branch stands beside the image adapter (PACL's vision embedder).
    pub residual_branch: bool,
    /// How regions get embeddings (CLOC).
    pub region_head: Option<RegionHead>,
    /// Whether the region head predicts boxes of phrases (CLOC).
    pub grounding: bool,
}
