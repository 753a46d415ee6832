//! Whether an image and a text belong together (ALBEF).

use tch::Tensor;

use crate::layers::Linear;
use crate::{Init, ParameterBuilder};

/// A linear layer on the fusion encoder's first token.
#[derive(Debug)]
pub struct MatchingHead {
    linear: Linear,
}

impl MatchingHead {
    /// Weights N(0, 0.02²), as BERT's.
    pub fn new(builder: &ParameterBuilder, width: i64) -> MatchingHead {
        MatchingHead { linear: Linear::new(builder, width, 2, true, Init::Normal(0.02)) }
    }

    /// Tokens `[R, L, W]` of R pairs → logits of "no match" and "match", `[R, 2]`.
    pub fn forward(&self, tokens_rlw: &Tensor) -> Tensor {
        self.linear.forward(&tokens_rlw.select(1, 0))
    }
}
