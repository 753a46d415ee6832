//! MGCA: multi-granularity cross-modal alignment (Wang et al. 2022, arXiv:2210.06044), as Bica et al. 2024
//! (appendix D.3) adapted it: no class token, so that all tokens weigh the same.
//!
//! ```text
//! ITA  CE(Z) + CE(Zᵀ)                                  pooled embeddings, Z as CLIP's
//! CTA  words: c_l = Attn(w_l; patches), ½ (CE + CE) of s ⟨ŵ_l, ĉ_k⟩ inside one caption,
//!      plus the same for patches that attend to words
//! CPA  o = ẑ Ŵᵀ over K prototypes; q = Sinkhorn(o / ε), p = softmax(o / τ_p);
//!      ½ (−mean Σ q_image log p_text − mean Σ q_text log p_image)
//! L    = λ_ita ITA + λ_cta CTA + λ_cpa CPA
//! ```
//!
//! The minus signs of CPA are missing in the paper's equation 8; its authors confirmed them.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::clip::{self, ClipInputs};
use super::sparc::LocalTemperature;
use crate::tensor_math::{PADDING_LOGIT, at_least_f32, check_tokens, l2_normalize, without_padding};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, l (j, k) tokens, p patches, q queries,
// x context, d width, m prototypes.

/// How words and patches attend to each other; read by the network that owns the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrossAttention {
    /// One head with learned projections of this width (SPARC: 128).
    Learned {
        /// Width of queries, keys and values.
        width: i64,
    },
    /// softmax(⟨q̂, k̂⟩ · scale) over unit vectors, without parameters (the authors' code: scale 10).
    ParameterFree {
        /// Inverse temperature.
        scale: f64,
    },
}

/// Configuration. Every field is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MgcaConfig {
    /// Weight of the instance-wise alignment; 0 leaves it out.
    pub lambda_instance: f64,
    /// Weight of the token-wise alignment; 0 leaves it out.
    pub lambda_token: f64,
    /// Weight of the prototype alignment; 0 leaves it out.
    pub lambda_prototype: f64,
    /// How words and patches attend to each other.
    pub attention: CrossAttention,
    /// Whether the token-wise alignment shares the instance-wise one's inverse temperature.
    pub token_temperature: LocalTemperature,
    /// Number of prototypes; 500 in the paper.
    pub n_prototypes: i64,
    /// ε of Sinkhorn's codes; 0.05 in the authors' code.
    pub sinkhorn_eps: f64,
    /// Rounds of Sinkhorn's normalisation; 3 in the authors' code.
    pub sinkhorn_iterations: u32,
    /// τ_p; 0.2 in the authors' code.
    pub prototype_temperature: f64,
    /// Optimizer steps at the start in which prototypes stay as they are (the authors': the first epoch).
    pub freeze_prototypes_steps: u64,
}

impl MgcaConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let weights = [
            ("lambda_instance", self.lambda_instance),
            ("lambda_token", self.lambda_token),
            ("lambda_prototype", self.lambda_prototype),
        ];
        for (name, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(format!("{name} must be a finite number of at least 0, got {weight}"));
            }
        }
        if weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err("all three weights are 0: nothing would be learned".into());
        }
        if self.n_prototypes < 2 {
            return Err(format!("n_prototypes must be at least 2, got {}", self.n_prototypes));
        }
        for (name, value) in
            [("sinkhorn_eps", self.sinkhorn_eps), ("prototype_temperature", self.prototype_temperature)]
        {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{name} must be a finite number above 0, got {value}"));
            }
        }
        if self.sinkhorn_iterations < 1 {
            return Err("sinkhorn_iterations must be at least 1, got 0".into());
        }
        match self.attention {
            CrossAttention::Learned { width } if width < 1 => {
                Err(format!("attention.learned.width must be at least 1, got {width}"))
            }
            CrossAttention::ParameterFree { scale } if !(scale.is_finite() && scale > 0.0) => {
                Err(format!("attention.parameter_free.scale must be a finite number above 0, got {scale}"))
            }
            _ => Ok(()),
        }
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct MgcaInputs<'a> {
    /// Word embeddings, not normalised, `[B, L, D]`. Padding may hold anything.
    pub words_bld: &'a Tensor,
    /// For every word, the patches it attends to, `[B, L, D]`. Padding should be removed before it attends:
    /// NaN would come back through the attention's gradient.
    pub word_contexts_bld: &'a Tensor,
    /// Patch embeddings, not normalised, `[B, P, D]`.
    pub patches_bpd: &'a Tensor,
    /// For every patch, the words it attends to (padding hidden), `[B, P, D]`.
    pub patch_contexts_bpd: &'a Tensor,
    /// True for the words that take part, `[B, L]`, `bool`.
    pub mask_bl: &'a Tensor,
    /// Pooled image embeddings, `[B, D]` of `[N, D]`.
    pub image: Gathered<'a>,
    /// Pooled text embeddings, `[B, D]` of `[N, D]`.
    pub text: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Prototypes, `[M, D]`; normalised here.
    pub prototypes_md: &'a Tensor,
    /// Inverse temperature of the instance-wise alignment, a scalar.
    pub logit_scale: &'a Tensor,
    /// Inverse temperature of the token-wise alignment, a scalar (the same tensor when shared).
    pub token_logit_scale: &'a Tensor,
    /// What the sum over captions is divided by: the mean over processes of [`denominator`]. `None` in
    /// one process.
    pub denominator: Option<&'a Tensor>,
}

/// MGCA's loss, with the terms `instance`, `token` and `prototype` (a term of weight 0 is not computed).
///
/// A caption without words takes no part in the token-wise term. Diagnostics: CLIP's accuracies,
/// `word_accuracy` (how often a word's own context is its nearest) and `codes_perplexity` (how many
/// prototypes the batch's image codes use).
///
/// # Panics
///
/// If shapes disagree.
pub fn mgca_loss(inputs: &MgcaInputs, config: &MgcaConfig) -> LossTerms {
    let mut terms = Vec::with_capacity(3);
    let mut diagnostics = Vec::new();
    let MgcaInputs { image, text, row_offset, logit_scale, .. } = *inputs;
    if config.lambda_instance > 0.0 {
        let (value, accuracies) = clip::contrastive(&ClipInputs { image, text, row_offset, logit_scale });
        terms.push(LossTerm { name: "instance".into(), value: value * 2.0, weight: config.lambda_instance });
        diagnostics.extend(accuracies);
    }
    if config.lambda_token > 0.0 {
        let (value, accuracy) = token_alignment(inputs);
        terms.push(LossTerm { name: "token".into(), value, weight: config.lambda_token });
        diagnostics.push(("word_accuracy", accuracy));
    }
    if config.lambda_prototype > 0.0 {
        let (value, perplexity) = prototype_alignment(inputs, config);
        terms.push(LossTerm { name: "prototype".into(), value, weight: config.lambda_prototype });
        diagnostics.push(("codes_perplexity", perplexity));
    }
    LossTerms::new(terms, diagnostics)
}

/// Number of captions with words, a scalar: what the token-wise sum is divided by.
pub fn denominator(mask_bl: &Tensor) -> Tensor {
    mask_bl.any_dim(1, false).sum(Kind::Double)
}

/// Parameter-free attention: for every query, the mean of the unit context vectors weighted by
/// softmax(scale · cosine) over those that `mask_bx` marks.
///
/// # Shapes
///
/// `queries_bqd` `[B, Q, D]`, `context_bxd` `[B, X, D]`, `mask_bx` `[B, X]` `bool`; result `[B, Q, D]`.
/// Where nothing is marked the weights are uniform.
///
/// # Panics
///
/// If shapes disagree.
pub fn attend(queries_bqd: &Tensor, context_bxd: &Tensor, mask_bx: Option<&Tensor>, scale: f64) -> Tensor {
    let unit_bxd = l2_normalize(&at_least_f32(context_bxd));
    let mut scores_bqx = l2_normalize(&at_least_f32(queries_bqd)).matmul(&unit_bxd.transpose(1, 2)) * scale;
    if let Some(mask_bx) = mask_bx {
        scores_bqx = scores_bqx.masked_fill(&mask_bx.logical_not().unsqueeze(1), PADDING_LOGIT);
    }
    scores_bqx.softmax(-1, None::<Kind>).matmul(&unit_bxd)
}

/// CTA: the words' and the patches' part.
fn token_alignment(inputs: &MgcaInputs) -> (Tensor, Tensor) {
    check_token_shapes(inputs);
    let mask_bl = inputs.mask_bl;
    let widen = |tokens: &Tensor| without_padding(&at_least_f32(tokens), mask_bl);
    let (words_bld, contexts_bld) = (widen(inputs.words_bld), widen(inputs.word_contexts_bld));
    let (word_loss_bl, accuracy) = own_context(&words_bld, &contexts_bld, Some(mask_bl), inputs.token_logit_scale);
    let kind = word_loss_bl.kind();
    let has_words_b = mask_bl.any_dim(1, false);
    let count_b = mask_bl.sum_dim_intlist([1i64].as_slice(), false, kind).clamp_min(1.0);
    let word_loss_b = word_loss_bl.sum_dim_intlist([1i64].as_slice(), false, None::<Kind>) / count_b;
    let (patches_bpd, contexts_bpd) = (at_least_f32(inputs.patches_bpd), at_least_f32(inputs.patch_contexts_bpd));
    // Where there are no words, what patches attend to has no meaning.
    let contexts_bpd = contexts_bpd.where_self(&has_words_b.view([-1, 1, 1]), &contexts_bpd.zeros_like());
    let (patch_loss_bp, _) = own_context(&patches_bpd, &contexts_bpd, None, inputs.token_logit_scale);
    let patch_loss_b = patch_loss_bp.mean_dim([1i64].as_slice(), false, None::<Kind>);
    let loss_b = word_loss_b + patch_loss_b;
    let loss_b = loss_b.where_self(&has_words_b, &loss_b.zeros_like());
    let own = denominator(mask_bl);
    let count = inputs.denominator.unwrap_or(&own).to_kind(kind);
    (loss_b.sum(None::<Kind>) / count.masked_fill(&count.le(0.0), 1.0), accuracy)
}

/// ½ (CE + CE) of every token against the contexts of its sample, `[B, L]` (0 at padding), and how often a
/// token's own context is its nearest.
fn own_context(
    tokens_bld: &Tensor,
    contexts_bld: &Tensor,
    mask_bl: Option<&Tensor>,
    scale: &Tensor,
) -> (Tensor, Tensor) {
    let scale = scale.to_kind(tokens_bld.kind());
    let logits_bjk = l2_normalize(tokens_bld).matmul(&l2_normalize(contexts_bld).transpose(1, 2)) * scale;
    let visible = |logits: &Tensor| match mask_bl {
        Some(mask_bl) => logits.masked_fill(&mask_bl.unsqueeze(1).logical_not(), PADDING_LOGIT),
        None => logits.shallow_clone(),
    };
    let log_share = |logits: &Tensor| visible(logits).log_softmax(-1, None::<Kind>).diagonal(0, 1, 2);
    let loss_bl = (log_share(&logits_bjk) + log_share(&logits_bjk.transpose(1, 2))) * -0.5;
    let own_l = Tensor::arange(logits_bjk.size()[1], (Kind::Int64, logits_bjk.device()));
    let hits_bl = visible(&logits_bjk.detach()).argmax(-1, false).eq_tensor(&own_l);
    match mask_bl {
        Some(mask_bl) => {
            let hits = hits_bl.logical_and(mask_bl).sum(Kind::Float) / mask_bl.sum(Kind::Float).clamp_min(1.0);
            (loss_bl.where_self(mask_bl, &loss_bl.zeros_like()), hits)
        }
        None => (loss_bl, hits_bl.mean(Kind::Float)),
    }
}

/// CPA, and the perplexity of the mean image code.
fn prototype_alignment(inputs: &MgcaInputs, config: &MgcaConfig) -> (Tensor, Tensor) {
    let (b, _) = clip::check_pooled(inputs.image, inputs.text, inputs.row_offset);
    let prototypes_md = l2_normalize(&at_least_f32(inputs.prototypes_md));
    let scores = |rows: &Tensor| l2_normalize(&at_least_f32(rows)).matmul(&prototypes_md.tr());
    let codes = |rows: Gathered| {
        // Every process computes the codes of the whole batch: Sinkhorn balances over all of it.
        tch::no_grad(|| {
            sinkhorn(&(scores(rows.global) / config.sinkhorn_eps), config.sinkhorn_iterations).narrow(
                0,
                inputs.row_offset,
                b,
            )
        })
    };
    let log_share = |rows: Gathered| (scores(rows.local) / config.prototype_temperature).log_softmax(-1, None::<Kind>);
    let (image_codes_bm, text_codes_bm) = (codes(inputs.image), codes(inputs.text));
    let swapped = &image_codes_bm * log_share(inputs.text) + &text_codes_bm * log_share(inputs.image);
    let value = swapped.sum(None::<Kind>) * (-0.5 / b as f64);
    let mean_m = image_codes_bm.mean_dim([0i64].as_slice(), false, None::<Kind>);
    let perplexity = (-(&mean_m * mean_m.clamp_min(1e-12).log()).sum(None::<Kind>)).exp();
    (value, perplexity)
}

/// Balanced assignment of rows to prototypes (Cuturi 2013; SwAV, Caron et al. 2020): columns are scaled to
/// equal shares, then rows to 1, in log space, where exp(o/ε) cannot overflow.
fn sinkhorn(scores_nm: &Tensor, iterations: u32) -> Tensor {
    let mut log_codes_nm = scores_nm.shallow_clone();
    for _ in 0..iterations {
        log_codes_nm = &log_codes_nm - log_codes_nm.logsumexp([0i64].as_slice(), true);
        log_codes_nm = &log_codes_nm - log_codes_nm.logsumexp([1i64].as_slice(), true);
    }
    log_codes_nm.softmax(-1, None::<Kind>)
}

fn check_token_shapes(inputs: &MgcaInputs) {
    check_tokens(inputs.patches_bpd, inputs.words_bld, inputs.mask_bl);
    let (words, patches) = (inputs.words_bld.size(), inputs.patches_bpd.size());
    let contexts = (inputs.word_contexts_bld.size(), inputs.patch_contexts_bpd.size());
    assert!(contexts == (words.clone(), patches.clone()), "contexts of {words:?} and {patches:?} are {contexts:?}");
}

#[cfg(test)]
#[path = "mgca_tests.rs"]
mod tests;
