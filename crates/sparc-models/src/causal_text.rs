//! The causal text transformer with its class token at the end: CoCa's unimodal text decoder.
//!
//! Tokens see those before them; the class token, appended to the text, sees every token and itself, and no token
//! sees it. It has no place among the positions: as in open_clip it is always the last, whatever the text's length,
//! and so padding never changes the text's embedding.

use sparc_core::TextBatch;
use tch::{Kind, Tensor};

use crate::layers::{Block, KeyValues, LayerNorm, causal_mask, key_mask, run_blocks};
use crate::text::TextConfig;
use crate::{Init, ParameterBuilder};

// Dimension letters: b batch, r rows of a generation, l tokens, w width.

/// The causal text tower.
#[derive(Debug)]
pub struct CausalText {
    config: TextConfig,
    token_embedding: Tensor,
    positions: Tensor,
    class_token: Tensor,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
}

/// What the causal tower gives, before its final norm.
#[derive(Debug)]
pub struct CausalTextOutput {
    /// One vector per token, `[B, L, W]`. What stands at padding has no meaning.
    pub tokens_blw: Tensor,
    /// The class token's, `[B, W]`.
    pub class_bw: Tensor,
}

impl CausalText {
    /// Token embedding N(0, 0.02²), positions and class token N(0, 0.01²), as open_clip's.
    pub fn new(builder: &ParameterBuilder, config: TextConfig) -> CausalText {
        let shape = config.size.shape();
        let create =
            |name: &str, rows: i64, deviation: f64| builder.create(name, &[rows, shape.width], Init::Normal(deviation));
        CausalText {
            config,
            token_embedding: create("token_embed.weight", config.vocab_size, 0.02),
            positions: create("positions", config.context_length, 0.01),
            class_token: builder.create("class_token", &[1, 1, shape.width], Init::Normal(0.01)),
            blocks: (0..shape.depth).map(|i| Block::new(&builder.under("blocks").under(i), shape)).collect(),
            final_norm: LayerNorm::new(&builder.under("norm"), shape.width),
        }
    }

    /// Texts to vectors.
    ///
    /// # Panics
    ///
    /// If texts are longer than the context.
    pub fn forward(&self, text: &TextBatch) -> CausalTextOutput {
        let x_blw = self.embed(&text.ids_bl, 0);
        let (b, length, _) = x_blw.size3().expect("embedded texts are [B, L, W]");
        let x = Tensor::cat(&[x_blw, self.class_token.expand([b, 1, -1], false)], 1);
        // The class token is the last column: causal for all, and without padding for the class token, the only one
        // that has any before it.
        let seen_b11l = key_mask(&text.mask_bl);
        let seen_b11l = Tensor::cat(&[&seen_b11l, &seen_b11l.narrow(3, 0, 1).ones_like()], 3);
        let mask = causal_mask(length + 1, x.device()).logical_and(&seen_b11l);
        let x = run_blocks(&self.blocks, x, Some(&mask));
        CausalTextOutput { tokens_blw: x.narrow(1, 0, length), class_bw: x.select(1, length) }
    }

    /// The vectors of tokens without padding, `[R, L]` → `[R, L, W]`, before the final norm.
    ///
    /// # Panics
    ///
    /// If there are more than the context has.
    pub fn forward_tokens(&self, ids_rl: &Tensor) -> Tensor {
        let x = self.embed(ids_rl, 0);
        let mask = causal_mask(x.size()[1], x.device());
        run_blocks(&self.blocks, x, Some(&mask))
    }

    /// The last column of [`CausalText::forward_tokens`]: ids `[R]` at `position` → `[R, 1, W]`. `past` has one entry
    /// a block and holds what the tokens before have left there.
    ///
    /// # Panics
    ///
    /// If the position is beyond the context.
    pub fn forward_step(&self, ids_r: &Tensor, position: i64, past: &mut [Option<KeyValues>]) -> Tensor {
        let x = self.embed(&ids_r.unsqueeze(1), position);
        self.blocks.iter().zip(past).fold(x, |x, (block, past)| block.forward_step(&x, past))
    }

    /// The final norm, `[…, W]`.
    pub fn normalize(&self, x: &Tensor) -> Tensor {
        self.final_norm.forward(x)
    }

    /// The embedding of every token id, `[V, W]`.
    pub fn token_embedding(&self) -> &Tensor {
        &self.token_embedding
    }

    /// As it was built.
    pub fn config(&self) -> TextConfig {
        self.config
    }

    fn embed(&self, ids_bl: &Tensor, first: i64) -> Tensor {
        let length = ids_bl.size()[1];
        let context = self.config.context_length;
        assert!(first + length <= context, "texts have {} tokens, the context is {context}", first + length);
        debug_assert_eq!(ids_bl.kind(), Kind::Int64);
        Tensor::embedding(&self.token_embedding, ids_bl, -1, false, false) + self.positions.narrow(0, first, length)
    }
}
