//! What a captioner is fine-tuned with: a pooler with one query and a linear layer over a closed list (Yu et al. 2022,
//! appendix B).

use tch::Tensor;

use super::AttentionalPooler;
use crate::layers::{Linear, key_mask};
use crate::{Init, ParameterBuilder};

// Dimension letters: b batch, m tokens, w width, k outputs.

/// What the head reads, and how many it chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskHeadConfig {
    /// The text decoder's states of a question; one of so many answers.
    Answers(i64),
    /// The image's tokens; one of so many classes.
    Classes(i64),
}

impl TaskHeadConfig {
    /// What the names of the head's parameters begin with.
    pub fn name(self) -> &'static str {
        match self {
            TaskHeadConfig::Answers(_) => "answers",
            TaskHeadConfig::Classes(_) => "classes",
        }
    }

    /// Number of outputs K.
    pub fn outputs(self) -> i64 {
        match self {
            TaskHeadConfig::Answers(outputs) | TaskHeadConfig::Classes(outputs) => outputs,
        }
    }
}

/// The head.
#[derive(Debug)]
pub struct TaskHead {
    pooler: AttentionalPooler,
    linear: Linear,
}

impl TaskHead {
    /// For tokens of this width. The linear layer starts N(0, 0.02²), as the matching head and BERT's.
    pub fn new(builder: &ParameterBuilder, (width, heads): (i64, i64), outputs: i64) -> TaskHead {
        TaskHead {
            pooler: AttentionalPooler::new(&builder.under("pooler"), 1, (width, heads)),
            linear: Linear::new(&builder.under("linear"), width, outputs, true, Init::Normal(0.02)),
        }
    }

    /// Tokens `[B, M, W]`, of which those count where `mask_bm` is true, all without one → logits `[B, K]`.
    pub fn forward(&self, tokens_bmw: &Tensor, mask_bm: Option<&Tensor>) -> Tensor {
        let mask = mask_bm.map(key_mask);
        self.linear.forward(&self.pooler.forward(tokens_bmw, mask.as_ref()).select(1, 0))
    }
}
