//! GLoRIA: attention-based local alignment (Huang et al. 2021, equations 1–7), as Bica et al. 2024
//! (appendix D.3) adapted it for training from scratch.
//!
//! Every caption attends to the patches of *every* image; with words t_l and patches v_p:
//!
//! ```text
//! S_lp   = ⟨t_l, v_p⟩ / √D                    the √D is SPARC's: without it training is unstable
//! A_lp   = softmax_p(τ₁ S_lp),  c_l = Σ_p A_lp v_p
//! Z(i,j) = log Σ_l exp(τ₂ cos(c_l(i,j), t_jl))
//! L      = λ_l (CE(τ₃ Z) + CE(τ₃ Zᵀ)) + λ_g (CE(τ₃ cos(v̄, t̄)) + CE(τ₃ cos(v̄, t̄)ᵀ))
//! ```
//!
//! c_l is never formed: with the Gram matrix G_i = V_i V_iᵀ, ⟨c_l, t_l⟩ = Σ_p A_lp ⟨v_p, t_l⟩ and
//! ‖c_l‖² = A_l G_i A_lᵀ, which needs P instead of D products a weight.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::clip::{self, ClipInputs};
use crate::contrast::Rows;
use crate::contrast::pairwise::{self, Pairs, block_of};
use crate::tensor_math::{NORM_EPS, PADDING_LOGIT, at_least_f32, check_tokens, without_padding};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, a images and c texts of a block, l tokens,
// p patches, d width.

/// How the words of a caption make one score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WordAggregation {
    /// Log of the sum over words (the paper): long captions score higher.
    Sum,
    /// Log of the mean over words (an option of the authors' code).
    Mean,
}

/// Whether temperatures are learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Temperatures {
    /// All three are learned, as logarithms (SPARC learns the temperatures of every method).
    Learned,
    /// They stay as configured (the authors' code).
    Fixed,
}

/// Configuration. Every field is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GloriaConfig {
    /// λ_g, weight of the global loss; 0 leaves it out.
    pub lambda_global: f64,
    /// λ_l, weight of the local loss; 0 leaves it out.
    pub lambda_local: f64,
    /// Whether similarities are divided by √D (SPARC's addition).
    pub scale_by_sqrt_width: bool,
    /// Whether similarities first go through a softmax over the words (the authors' code, not their text).
    pub word_softmax: bool,
    /// How words make one score.
    pub aggregation: WordAggregation,
    /// Whether temperatures are learned.
    pub temperatures: Temperatures,
    /// τ₁ at the start; 4 in the authors' code.
    pub attention_scale_init: f64,
    /// τ₂ at the start; 5 in the authors' code.
    pub word_scale_init: f64,
    /// τ₃ at the start; 10 in the authors' code.
    pub logit_scale_init: f64,
}

impl GloriaConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        for (name, weight) in [("lambda_global", self.lambda_global), ("lambda_local", self.lambda_local)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(format!("{name} must be a finite number of at least 0, got {weight}"));
            }
        }
        if self.lambda_global == 0.0 && self.lambda_local == 0.0 {
            return Err("lambda_global and lambda_local are both 0: nothing would be learned".into());
        }
        for (name, scale) in [
            ("attention_scale_init", self.attention_scale_init),
            ("word_scale_init", self.word_scale_init),
            ("logit_scale_init", self.logit_scale_init),
        ] {
            if !(scale.is_finite() && scale >= 1.0) {
                return Err(format!("{name} must be a finite number of at least 1, got {scale}"));
            }
        }
        Ok(())
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct GloriaInputs<'a> {
    /// Patch embeddings, not normalised, `[B, P, D]` of `[N, P, D]`.
    pub patches: Gathered<'a>,
    /// Token embeddings, not normalised, `[B, L, D]` of `[N, L, D]`.
    pub tokens: Gathered<'a>,
    /// True for the tokens that take part, `[B, L]` of `[N, L]`, `bool`.
    pub mask: Gathered<'a>,
    /// Pooled image embeddings, `[B, D]` of `[N, D]`.
    pub image: Gathered<'a>,
    /// Pooled text embeddings, `[B, D]` of `[N, D]`.
    pub text: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// τ₁ of the attention, a scalar.
    pub attention_scale: &'a Tensor,
    /// τ₂ of the words, a scalar.
    pub word_scale: &'a Tensor,
    /// τ₃ of the contrasts, a scalar.
    pub logit_scale: &'a Tensor,
}

/// Weights of a block of token-patch pairs held at a time: 4 MiB in f32.
const WEIGHTS_AT_ONCE: i64 = 1 << 20;

/// GLoRIA's loss, with the terms `local` and `global` (a term of weight 0 is not computed); each is the sum
/// of both directions.
///
/// A caption without tokens scores 0 with every image, as one word orthogonal to everything would.
/// Diagnostics: the accuracies of the local scores inside the batch, or CLIP's.
///
/// # Panics
///
/// If shapes disagree.
pub fn gloria_loss(inputs: &GloriaInputs, config: &GloriaConfig) -> LossTerms {
    let (n_patches, length) = check_shapes(inputs);
    let n_texts = inputs.mask.global.size()[0];
    gloria_in_blocks(inputs, config, block_of(WEIGHTS_AT_ONCE, n_patches * length, n_texts))
}

fn gloria_in_blocks(inputs: &GloriaInputs, config: &GloriaConfig, block: (i64, i64)) -> LossTerms {
    let mut terms = Vec::with_capacity(2);
    let mut diagnostics = Vec::new();
    if config.lambda_local > 0.0 {
        let contrast = local_contrast(inputs, config, block);
        terms.push(LossTerm { name: "local".into(), value: contrast.value, weight: config.lambda_local });
        diagnostics = vec![
            ("local_image_to_text_accuracy", contrast.image_to_text_accuracy),
            ("local_text_to_image_accuracy", contrast.text_to_image_accuracy),
        ];
    }
    if config.lambda_global > 0.0 {
        let GloriaInputs { image, text, row_offset, logit_scale, .. } = *inputs;
        let (value, accuracies) = clip::contrastive(&ClipInputs { image, text, row_offset, logit_scale });
        terms.push(LossTerm { name: "global".into(), value: value * 2.0, weight: config.lambda_global });
        diagnostics.extend(accuracies);
    }
    LossTerms::new(terms, diagnostics)
}

fn local_contrast(inputs: &GloriaInputs, config: &GloriaConfig, block: (i64, i64)) -> pairwise::Contrast {
    let patches = Rows::map(inputs.patches, at_least_f32);
    let tokens = Rows::map_both(inputs.tokens, inputs.mask, |tokens_bld, mask_bl| {
        without_padding(&at_least_f32(tokens_bld), mask_bl)
    });
    let kind = patches.local.kind();
    let scales = [inputs.attention_scale, inputs.word_scale, inputs.logit_scale].map(|scale| scale.to_kind(kind));
    let pairs = Pairs {
        images: &[patches.gathered()],
        texts: &[tokens.gathered(), inputs.mask],
        parameters: &scales.each_ref(),
        row_offset: inputs.row_offset,
        block,
        weight: 1.0,
    };
    pairwise::contrast(&pairs, &|images, texts, scales| score(images, texts, scales, config))
}

/// τ₃ Z of all pairs of a block, `[A, C]`.
fn score(images: &[Tensor], texts: &[Tensor], scales: &[Tensor], config: &GloriaConfig) -> Tensor {
    let patches_apd = &images[0];
    let [tokens_cld, mask_cl] = texts else { unreachable!("tokens and their mask") };
    let [attention_scale, word_scale, logit_scale] = scales else { unreachable!("three scales") };
    let (a, width) = (patches_apd.size()[0], patches_apd.size()[2]);
    let (c, l) = mask_cl.size2().expect("the mask is a matrix");
    // All words of the block's texts as one list: one product an image.
    let sim_awp = tokens_cld.reshape([c * l, width]).matmul(&patches_apd.transpose(1, 2));
    let mut attended_awp = match config.scale_by_sqrt_width {
        true => &sim_awp / (width as f64).sqrt(),
        false => sim_awp.shallow_clone(),
    };
    if config.word_softmax {
        let no_padding = mask_cl.logical_not().view([1, c, l, 1]);
        let by_word = attended_awp.view([a, c, l, -1]).masked_fill(&no_padding, PADDING_LOGIT);
        attended_awp = by_word.softmax(2, None::<Kind>).view([a, c * l, -1]);
    }
    let weights_awp = (attended_awp * attention_scale).softmax(-1, None::<Kind>);
    let sum = |x: Tensor| x.sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>);
    let along_aw = sum(&weights_awp * &sim_awp);
    let grams_app = patches_apd.matmul(&patches_apd.transpose(1, 2));
    let squared_aw = sum(weights_awp.matmul(&grams_app) * &weights_awp);
    let word_squared_w = sum(tokens_cld * tokens_cld).view([1, c * l]);
    // Cauchy–Schwarz: rounding must not make a cosine above 1 where patches cancel.
    let norms_squared_aw = (squared_aw * word_squared_w).maximum(&(&along_aw * &along_aw));
    let is_zero = norms_squared_aw.le(NORM_EPS * NORM_EPS);
    let cosine_aw = along_aw.masked_fill(&is_zero, 0.0) / norms_squared_aw.masked_fill(&is_zero, 1.0).sqrt();
    let words_acl = (cosine_aw * word_scale).view([a, c, l]);
    aggregate(&words_acl, mask_cl, config.aggregation) * logit_scale
}

/// Z from τ₂ cos, over valid words; 0 for a text without any.
fn aggregate(words_acl: &Tensor, mask_cl: &Tensor, aggregation: WordAggregation) -> Tensor {
    let count_c = mask_cl.sum_dim_intlist([1i64].as_slice(), false, words_acl.kind());
    let is_empty_c = count_c.le(0.0);
    // Finite, so that a text without words is no row of −∞; it is overwritten.
    let masked_acl = words_acl.masked_fill(&mask_cl.logical_not(), PADDING_LOGIT);
    let sum_ac = masked_acl.logsumexp([-1i64].as_slice(), false);
    let score_ac = match aggregation {
        WordAggregation::Sum => sum_ac,
        WordAggregation::Mean => sum_ac - count_c.clamp_min(1.0).log(),
    };
    score_ac.masked_fill(&is_empty_c, 0.0)
}

/// L and P, at least 1 each.
fn check_shapes(inputs: &GloriaInputs) -> (i64, i64) {
    check_tokens(inputs.patches.local, inputs.tokens.local, inputs.mask.local);
    let (patches, tokens) = (inputs.patches.local.size(), inputs.tokens.local.size());
    assert!(patches[1] > 0 && tokens[1] > 0, "nothing to attend with or to: {patches:?} and {tokens:?}");
    (patches[1], tokens[1])
}

#[cfg(test)]
#[path = "gloria_tests.rs"]
mod tests;
