//! Words that attend to patches, and patches to words (MGCA).

use sparc_core::tensor_math::without_padding;
use tch::Tensor;

use crate::ParameterBuilder;
use crate::layers::{CrossAttention, key_mask};

// Dimension letters: b batch, l words, p patches, d width.

/// One attention head each way (Wang et al. 2022; one head of width 128 in Bica et al. 2024, appendix D.3).
#[derive(Debug)]
pub struct MutualAttention {
    to_patches: CrossAttention,
    to_words: CrossAttention,
}

impl MutualAttention {
    /// Attention of `width` between sequences of `embed_dim`.
    pub fn new(builder: &ParameterBuilder, embed_dim: i64, width: i64) -> MutualAttention {
        let attention = |name: &str| CrossAttention::new(&builder.under(name), embed_dim, embed_dim, width, 1);
        MutualAttention { to_patches: attention("to_patches"), to_words: attention("to_words") }
    }

    /// What each word sees of the patches `[B, L, D]`, and each patch of the valid words `[B, P, D]`.
    pub fn forward(&self, words_bld: &Tensor, mask_bl: &Tensor, patches_bpd: &Tensor) -> (Tensor, Tensor) {
        let words_bld = without_padding(words_bld, mask_bl);
        let word_contexts_bld = self.to_patches.forward(&words_bld, patches_bpd, None);
        let patch_contexts_bpd = self.to_words.forward(patches_bpd, &words_bld, Some(&key_mask(mask_bl)));
        (word_contexts_bld, patch_contexts_bpd)
    }
}
