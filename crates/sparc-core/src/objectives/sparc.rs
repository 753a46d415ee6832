//! SPARC: sparse fine-grained contrastive alignment (Bica et al. 2024, arXiv:2401.09865).
//!
//! Per caption, with tokens t_l and patches v_p in the shared space (equations 2–6):
//!
//! ```text
//! S_lp = ⟨t_l, v_p⟩                                 similarities, nothing normalised
//! Ŝ_lp = (S_lp − min_p S) / (max_p S − min_p S)     min-max along the patches
//! A_lp = [Ŝ_lp ≥ σ] Ŝ_lp / Σ_p [Ŝ_lp ≥ σ] Ŝ_lp      sparse alignment weights, σ = 1/P
//! c_l  = Σ_p A_lp v_p                               language-grouped vision embedding
//! Q_jk = s ⟨ĉ_j, t̂_k⟩                               inside one caption, s = 1/τ
//! L_f  = ½ (CE(Q, I) + CE(Qᵀ, I))                   L = λ_g L_g + λ_f L_f
//! ```
//!
//! L_f contrasts tokens with their grouped patches *inside one caption*; it never looks across the
//! batch, which is why it needs no gather. L_g is CLIP's loss ([`super::clip`]).

use serde::{Deserialize, Serialize};
use sparc_torch::{SparcLocal, SparcLocalTokens, SparcLocalWeights};
use tch::{Kind, Tensor};

use super::clip::{self, ClipInputs};
use crate::tensor_math::{PADDING_LOGIT, at_least_f32, check_tokens, l2_normalize, without_padding};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b batch, l (also j, k) tokens, p patches, d width.

/// How similarities become alignment weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlignmentWeights {
    /// Min-max along the patches (the paper's method).
    Minmax,
    /// Softmax along the patches (table 8's ablation; its temperature is not given, here 1).
    Softmax,
    /// No similarity at all: every patch weighs 1/P, whatever the threshold.
    None,
}

/// Below which weight a patch is dropped from a token's group.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Threshold {
    /// σ = 1/P (the paper's choice).
    InversePatches,
    /// A fixed σ in `[0, 1]`; 0 is table 8's "no sparsity".
    Fixed(f64),
}

/// How token losses become L_f.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Mean over all tokens of the batch (listing 1): long captions weigh more.
    Token,
    /// Mean over tokens of a caption, then over captions that have tokens (equation 6).
    Caption,
}

/// Which inverse temperature L_f uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalTemperature {
    /// The same learned parameter as L_g (listing 1).
    Shared,
    /// A learned parameter of its own.
    Own,
}

/// Configuration. Every field is required: the values are part of the experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparcConfig {
    /// λ_g, weight of the global loss; 0 leaves it out ("local only").
    pub lambda_global: f64,
    /// λ_f, weight of the fine-grained loss; 0 leaves it out.
    pub lambda_local: f64,
    /// How similarities become weights.
    pub weights: AlignmentWeights,
    /// σ.
    pub threshold: Threshold,
    /// Whether gradients stop at the alignment weights (neither text nor listing stops them).
    pub detach_weights: bool,
    /// How token losses are averaged.
    pub reduction: Reduction,
    /// Shared or own temperature; read by the network that owns the parameter.
    pub local_temperature: LocalTemperature,
    /// A token whose similarities all lie within this share of their largest magnitude is grouped
    /// with all patches equally: the range is rounding noise and min-max would be 0/0.
    pub eps: f64,
}

impl SparcConfig {
    /// The paper's choices; λ_f, which it sweeps and does not report, is 1.
    pub const PAPER: SparcConfig = SparcConfig {
        lambda_global: 0.5,
        lambda_local: 1.0,
        weights: AlignmentWeights::Minmax,
        threshold: Threshold::InversePatches,
        detach_weights: false,
        reduction: Reduction::Token,
        local_temperature: LocalTemperature::Shared,
        eps: 1e-6,
    };

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
        if let Threshold::Fixed(sigma) = self.threshold
            && !(0.0..=1.0).contains(&sigma)
        {
            return Err(format!("threshold must lie in [0, 1], got {sigma}"));
        }
        if !(self.eps > 0.0 && self.eps < 1.0) {
            return Err(format!("eps must lie in (0, 1), got {}", self.eps));
        }
        Ok(())
    }

    fn sigma(&self, n_patches: i64) -> f64 {
        match self.threshold {
            Threshold::InversePatches => 1.0 / n_patches as f64,
            Threshold::Fixed(sigma) => sigma,
        }
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct SparcInputs<'a> {
    /// Patch embeddings after the adapter, not normalised, `[B, P, D]`.
    pub patches_bpd: &'a Tensor,
    /// Token embeddings after the adapter, not normalised, `[B, L, D]`.
    pub tokens_bld: &'a Tensor,
    /// True for the tokens that take part, `[B, L]`, `bool`.
    pub mask_bl: &'a Tensor,
    /// Pooled image embeddings.
    pub image: Gathered<'a>,
    /// Pooled text embeddings.
    pub text: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature of L_g, a scalar.
    pub logit_scale: &'a Tensor,
    /// Inverse temperature of L_f, a scalar (the same tensor when shared).
    pub local_logit_scale: &'a Tensor,
    /// What the sum of token losses is divided by: the mean over processes of
    /// [`denominator`]. `None` in one process.
    pub denominator: Option<&'a Tensor>,
}

/// What computes the token losses of L_f. Both give the same values and gradients up to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// One operation with a hand-derived gradient ([`sparc_torch::SparcLocal`]): on the CPU, faster and
    /// with a fraction of the memory.
    Fused,
    /// A composition of tch operations, differentiated by autograd: on every device and for every kind, and
    /// as often as one likes.
    Composed,
}

impl Kernel {
    /// The fused kernel for tensors on the CPU whose kinds it knows (f64, or f32, bf16 and f16); the
    /// composition for all others, CUDA's above all.
    pub fn of(inputs: &SparcInputs) -> Self {
        let SparcInputs { patches_bpd, tokens_bld, mask_bl, local_logit_scale, .. } = *inputs;
        match SparcLocal::check(patches_bpd, tokens_bld, mask_bl, local_logit_scale) {
            Ok(()) => Self::Fused,
            Err(_) => Self::Composed,
        }
    }
}

/// SPARC's loss, with the terms `global` and `local` (a term of weight 0 is not computed).
///
/// Diagnostics: CLIP's accuracies, `token_accuracy` (how often a token's own group is its nearest,
/// inside the caption) and `patches_per_token` (mean size of a group).
///
/// A caption without tokens contributes nothing to the local term, a one-token caption 0; equal
/// patches give uniform weights. Value and gradient are finite in all these cases.
///
/// # Panics
///
/// If shapes disagree.
pub fn sparc_loss(inputs: &SparcInputs, config: &SparcConfig) -> LossTerms {
    sparc_loss_by(Kernel::of(inputs), inputs, config)
}

/// [`sparc_loss`] with L_f computed by the kernel of the caller's choice.
///
/// # Panics
///
/// If shapes disagree, or if the fused kernel is asked for inputs that it does not take.
pub fn sparc_loss_by(kernel: Kernel, inputs: &SparcInputs, config: &SparcConfig) -> LossTerms {
    let mut terms = Vec::with_capacity(2);
    let mut diagnostics = Vec::new();
    if config.lambda_global > 0.0 {
        let SparcInputs { image, text, row_offset, logit_scale, .. } = *inputs;
        let (value, accuracies) = clip::contrastive(&ClipInputs { image, text, row_offset, logit_scale });
        terms.push(LossTerm { name: "global".into(), value, weight: config.lambda_global });
        diagnostics.extend(accuracies);
    }
    if config.lambda_local > 0.0 {
        let (value, accuracies) = local_loss(kernel, inputs, config);
        terms.push(LossTerm { name: "local".into(), value, weight: config.lambda_local });
        diagnostics.extend(accuracies);
    }
    LossTerms::new(terms, diagnostics)
}

/// What the sum of token losses is divided by, a scalar: the number of valid tokens under
/// [`Reduction::Token`], of captions with tokens under [`Reduction::Caption`].
///
/// With several processes, average it over them and pass the result in
/// [`SparcInputs::denominator`]: the mean of the processes' losses is then the joined batch's. It may
/// be 0 where there are no tokens at all; the loss is 0 then.
pub fn denominator(mask_bl: &Tensor, reduction: Reduction) -> Tensor {
    match reduction {
        Reduction::Token => mask_bl.sum(Kind::Float),
        Reduction::Caption => mask_bl.any_dim(1, false).sum(Kind::Float),
    }
}

/// Alignment weights A `[B, L, P]`: rows of valid tokens sum to 1 (equations 2–4).
///
/// Rows of padding are uniform. Computed in f32 at least, whatever the inputs' kind.
///
/// # Panics
///
/// If shapes disagree.
pub fn alignment_weights(patches_bpd: &Tensor, tokens_bld: &Tensor, mask_bl: &Tensor, config: &SparcConfig) -> Tensor {
    check_shapes(patches_bpd, tokens_bld, mask_bl);
    let tokens_bld = without_padding(&at_least_f32(tokens_bld), mask_bl);
    weigh(&at_least_f32(patches_bpd), &tokens_bld, config)
}

fn weigh(patches_bpd: &Tensor, tokens_bld: &Tensor, config: &SparcConfig) -> Tensor {
    let n_patches = patches_bpd.size()[1];
    let uniform = 1.0 / n_patches as f64;
    let sim_blp = tokens_bld.matmul(&patches_bpd.transpose(1, 2));
    let sigma = config.sigma(n_patches);
    match config.weights {
        AlignmentWeights::None => sim_blp.full_like(uniform),
        AlignmentWeights::Softmax => {
            let soft_blp = sim_blp.softmax(-1, None::<Kind>);
            let kept_blp = soft_blp.masked_fill(&soft_blp.lt(sigma), 0.0);
            // Above a fixed σ nothing may be left; such a token is grouped with all patches.
            normalize_rows(&kept_blp, &kept_blp.detach().amax([-1i64].as_slice(), true).le(0.0), uniform)
        }
        AlignmentWeights::Minmax => {
            let max_bl1 = sim_blp.amax([-1i64].as_slice(), true);
            let min_bl1 = sim_blp.amin([-1i64].as_slice(), true);
            let range_bl1 = &max_bl1 - &min_bl1;
            let magnitude_bl1 = max_bl1.detach().abs().maximum(&min_bl1.detach().abs());
            let flat_bl1 = range_bl1.detach().le_tensor(&(magnitude_bl1 * config.eps));
            // The safe divisor comes before the division: masking afterwards would still send the
            // NaN of 0/0 back through the gradient.
            let minmax_blp = (sim_blp - min_bl1) / range_bl1.masked_fill(&flat_bl1, 1.0);
            let kept_blp = minmax_blp.masked_fill(&minmax_blp.lt(sigma), 0.0);
            normalize_rows(&kept_blp, &flat_bl1, uniform)
        }
    }
}

/// Divides rows by their sums; rows marked `fallback_bl1` become uniform and get no gradient.
fn normalize_rows(kept_blp: &Tensor, fallback_bl1: &Tensor, uniform: f64) -> Tensor {
    let sum_bl1 = kept_blp.sum_dim_intlist([-1i64].as_slice(), true, None::<Kind>).masked_fill(fallback_bl1, 1.0);
    (kept_blp / sum_bl1).masked_fill(fallback_bl1, uniform)
}

/// L_f and its diagnostics.
fn local_loss(kernel: Kernel, inputs: &SparcInputs, config: &SparcConfig) -> (Tensor, Vec<(&'static str, Tensor)>) {
    let mask_bl = inputs.mask_bl;
    check_shapes(inputs.patches_bpd, inputs.tokens_bld, mask_bl);
    let SparcLocalTokens { loss_bl, correct_bl, kept_bl } = match kernel {
        Kernel::Fused => fused_tokens(inputs, config),
        Kernel::Composed => composed_tokens(inputs, config),
    };
    let value = reduce(&loss_bl, mask_bl, config.reduction, inputs.denominator);
    let tokens = not_zero(&denominator(mask_bl, Reduction::Token));
    let mean = |x_bl: Tensor| x_bl.sum(Kind::Float) / &tokens;
    (value, vec![("token_accuracy", mean(correct_bl)), ("patches_per_token", mean(kept_bl))])
}

fn fused_tokens(inputs: &SparcInputs, config: &SparcConfig) -> SparcLocalTokens {
    let kernel = SparcLocal {
        weights: match config.weights {
            AlignmentWeights::Minmax => SparcLocalWeights::Minmax,
            AlignmentWeights::Softmax => SparcLocalWeights::Softmax,
            AlignmentWeights::None => SparcLocalWeights::None,
        },
        sigma: config.sigma(inputs.patches_bpd.size()[1]),
        detach_weights: config.detach_weights,
        eps: config.eps,
    };
    kernel
        .apply(inputs.patches_bpd, inputs.tokens_bld, inputs.mask_bl, inputs.local_logit_scale)
        .unwrap_or_else(|error| panic!("sparc's fused kernel: {error}"))
}

fn composed_tokens(inputs: &SparcInputs, config: &SparcConfig) -> SparcLocalTokens {
    let mask_bl = inputs.mask_bl;
    let patches_bpd = at_least_f32(inputs.patches_bpd);
    let tokens_bld = without_padding(&at_least_f32(inputs.tokens_bld), mask_bl);

    let weights_blp = weigh(&patches_bpd, &tokens_bld, config);
    let weights_blp = if config.detach_weights { weights_blp.detach() } else { weights_blp };
    let grouped_bld = l2_normalize(&weights_blp.matmul(&patches_bpd));
    let scale = inputs.local_logit_scale.to_kind(tokens_bld.kind());
    let logits_bjk = grouped_bld.matmul(&l2_normalize(&tokens_bld).transpose(1, 2)) * scale;

    let mut loss_bl = tokens_bld.new_zeros(mask_bl.size(), (tokens_bld.kind(), tokens_bld.device()));
    let no_padding_b1k = mask_bl.unsqueeze(1).logical_not();
    for logits in [&logits_bjk, &logits_bjk.transpose(1, 2)] {
        // Finite, because a caption without tokens would be a row of −inf only, whose log-softmax
        // is NaN. In either direction the columns of padding are no candidates.
        let logits = logits.masked_fill(&no_padding_b1k, PADDING_LOGIT);
        loss_bl -= logits.log_softmax(-1, None::<Kind>).diagonal(0, 1, 2) * 0.5;
    }
    let loss_bl = loss_bl.where_self(mask_bl, &loss_bl.zeros_like());

    let (correct_bl, kept_bl) = tch::no_grad(|| {
        let nearest_bl = logits_bjk.masked_fill(&no_padding_b1k, PADDING_LOGIT).argmax(-1, false);
        let own_l = Tensor::arange(mask_bl.size()[1], (Kind::Int64, mask_bl.device()));
        let kept_bl = weights_blp.gt(0.0).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
        (nearest_bl.eq_tensor(&own_l).logical_and(mask_bl), kept_bl * mask_bl.to_kind(Kind::Float))
    });
    SparcLocalTokens { loss_bl, correct_bl, kept_bl }
}

fn reduce(loss_bl: &Tensor, mask_bl: &Tensor, reduction: Reduction, denominator: Option<&Tensor>) -> Tensor {
    let kind = loss_bl.kind();
    let sum = match reduction {
        Reduction::Token => loss_bl.sum(None::<Kind>),
        Reduction::Caption => {
            let count_b = mask_bl.sum_dim_intlist([1i64].as_slice(), false, kind).clamp_min(1.0);
            (loss_bl.sum_dim_intlist([1i64].as_slice(), false, None::<Kind>) / count_b).sum(None::<Kind>)
        }
    };
    match denominator {
        Some(denominator) => sum / not_zero(&denominator.to_kind(kind)),
        None => sum / not_zero(&self::denominator(mask_bl, reduction).to_kind(kind)),
    }
}

/// A divisor: 1 instead of 0, for a sum of nothing is 0 whatever it is divided by.
fn not_zero(count: &Tensor) -> Tensor {
    count.masked_fill(&count.le(0.0), 1.0)
}

fn check_shapes(patches_bpd: &Tensor, tokens_bld: &Tensor, mask_bl: &Tensor) {
    check_tokens(patches_bpd, tokens_bld, mask_bl);
    let patches = patches_bpd.size();
    assert!(patches[1] > 0, "images without patches: patches are {patches:?}");
}

#[cfg(test)]
#[path = "sparc_kernel_tests.rs"]
mod kernel_tests;
#[cfg(test)]
#[path = "sparc_reference.rs"]
mod reference;
#[cfg(test)]
#[path = "sparc_tests.rs"]
mod tests;
