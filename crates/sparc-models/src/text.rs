//! The text transformer: pre-LN, bidirectional, with learned positions and a padding mask.

use serde::{Deserialize, Serialize};
use sparc_core::TextBatch;
use tch::Tensor;

use crate::layers::{Block, LayerNorm, key_mask, run_blocks};
use crate::{Init, ModelSize, ParameterBuilder};

/// Configuration of the text tower. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Width, depth and heads.
    pub size: ModelSize,
    /// Most tokens of a text; longer ones are cut by the tokenizer.
    pub context_length: i64,
    /// Number of token ids.
    pub vocab_size: i64,
}

/// The text tower f_t.
#[derive(Debug)]
pub struct TextTransformer {
    config: TextConfig,
    token_embedding: Tensor,
    positions: Tensor,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
}

impl TextTransformer {
    /// Token embedding N(0, 0.02²) and positions N(0, 0.01²), as CLIP's reference code does.
    pub fn new(builder: &ParameterBuilder, config: TextConfig) -> TextTransformer {
        let shape = config.size.shape();
        TextTransformer {
            config,
            token_embedding: builder.create(
                "token_embed.weight",
                &[config.vocab_size, shape.width],
                Init::Normal(0.02),
            ),
            positions: builder.create("positions", &[config.context_length, shape.width], Init::Normal(0.01)),
            blocks: (0..shape.depth).map(|i| Block::new(&builder.under("blocks").under(i), shape)).collect(),
            final_norm: LayerNorm::new(&builder.under("norm"), shape.width),
        }
    }

    /// The token embedding, `[V, W]`.
    pub fn token_embedding(&self) -> &Tensor {
        &self.token_embedding
    }

    /// One vector per token after the final norm, `[B, L, W]`. What stands at padding positions has
    /// no meaning; no other token has seen it.
    ///
    /// # Panics
    ///
    /// If texts are longer than the context.
    pub fn forward(&self, text: &TextBatch) -> Tensor {
        let length = text.ids_bl.size()[1];
        assert!(
            length <= self.config.context_length,
            "texts have {length} tokens, the context is {}",
            self.config.context_length
        );
        let embedded = Tensor::embedding(&self.token_embedding, &text.ids_bl, -1, false, false);
        let x = embedded + self.positions.narrow(0, 0, length);
        self.final_norm.forward(&run_blocks(&self.blocks, x, Some(&key_mask(&text.mask_bl))))
    }
}
