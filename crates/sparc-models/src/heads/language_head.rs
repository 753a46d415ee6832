//! Which word stood where a token was masked (BERT, ALBEF).

use tch::Tensor;

use crate::layers::{LayerNorm, Linear};
use crate::{Init, ParameterBuilder};

// Dimension letters: m masked tokens, w width, v words of the vocabulary.

/// BERT's head: a linear layer, GELU, a layer norm, and the token embedding once more with a bias a word.
#[derive(Debug)]
pub struct LanguageHead {
    transform: Linear,
    norm: LayerNorm,
    bias_v: Tensor,
}

impl LanguageHead {
    /// Weights N(0, 0.02²), as BERT's.
    pub fn new(builder: &ParameterBuilder, width: i64, vocab_size: i64) -> LanguageHead {
        LanguageHead {
            transform: Linear::new(&builder.under("transform"), width, width, true, Init::Normal(0.02)),
            norm: LayerNorm::new(&builder.under("norm"), width),
            bias_v: builder.create("bias", &[vocab_size], Init::Constant(0.0)),
        }
    }

    /// States `[M, W]` of masked tokens and the token embedding `[V, W]` → logits `[M, V]`. Only masked tokens should
    /// come here: the logits of all would be seven times as many.
    pub fn forward(&self, states_mw: &Tensor, embedding_vw: &Tensor) -> Tensor {
        let transformed_mw = self.norm.forward(&self.transform.forward(states_mw).gelu("none"));
        transformed_mw.linear(embedding_vw, Some(&self.bias_v))
    }
}
