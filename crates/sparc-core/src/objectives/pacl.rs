//! PACL: patch aligned contrastive learning (Mukhoti et al. 2023, arXiv:2212.04994, equations 3–5).
//!
//! Every text pools the patches of *every* image by their similarity to it; with patches v_p and the pooled
//! text t̄:
//!
//! ```text
//! a_p(i,j) = softmax_p(κ ⟨v̂_ip, t̄̂_j⟩)
//! u(i,j)   = Σ_p a_p v_ip
//! L        = ½ (CE(s φ) + CE(s φᵀ)),  φ(i,j) = cos(u(i,j), t̄_j)
//! ```
//!
//! u is never formed: ⟨u, t̄̂⟩ = Σ_p a_p ⟨v_p, t̄̂⟩ and ‖u‖² = a G_i aᵀ with the Gram matrix G_i = V_i V_iᵀ.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::sparc::LocalTemperature;
use crate::contrast::pairwise::{self, Pairs};
use crate::contrast::{Rows, chunks};
use crate::tensor_math::{NORM_EPS, at_least_f32, l2_normalize};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, a images and c texts of a block, p patches,
// d width.

/// What is pooled with the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PooledPatches {
    /// The patches as they are.
    Raw,
    /// The patches, each L2-normalised.
    Unit,
}

/// What maps patches into the shared space; read by the network that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Embedder {
    /// The linear adapter that every method has.
    Linear,
    /// The adapter plus a two-layer branch beside it: the original's vision embedder.
    Residual,
}

/// Configuration. Every field is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaclConfig {
    /// κ, the fixed inverse temperature of the weights; 1 in the paper: with cosines the weights are
    /// nearly uniform then.
    pub attention_scale: f64,
    /// What is pooled.
    pub pooled_patches: PooledPatches,
    /// Whether the network's inverse temperature is used, or one of PACL's own.
    pub temperature: LocalTemperature,
    /// What maps patches into the shared space.
    pub embedder: Embedder,
}

impl PaclConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.attention_scale.is_finite() && self.attention_scale >= 0.0) {
            return Err(format!("attention_scale must be a finite number of at least 0, got {}", self.attention_scale));
        }
        Ok(())
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct PaclInputs<'a> {
    /// Patch embeddings, not normalised, `[B, P, D]` of `[N, P, D]`.
    pub patches: Gathered<'a>,
    /// Pooled text embeddings, not normalised, `[B, D]` of `[N, D]`.
    pub text: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature s, a scalar.
    pub logit_scale: &'a Tensor,
}

/// Weights of a block's pairs at most, if it has one image: 4 MiB in f32.
const WEIGHTS_AT_ONCE: i64 = 1 << 20;
/// Weights, or elements of pooled vectors, of a block with several images at most: 1 MiB in f32.
const NUMBERS_IN_CACHE: i64 = 1 << 18;

/// PACL's loss, with one term, `alignment`. Diagnostics: the accuracies inside the batch.
///
/// # Panics
///
/// If shapes disagree.
pub fn pacl_loss(inputs: &PaclInputs, config: &PaclConfig) -> LossTerms {
    let (n_patches, width) = check_shapes(inputs);
    pacl_in_blocks(inputs, config, block(inputs.text.global.size()[0], n_patches, width))
}

/// Images and texts of a block. Texts share the image's products, so they come first; images are few, for a block
/// that stays in the processor's cache is faster than one that does not, even though it is computed twice.
fn block(n_texts: i64, n_patches: i64, width: i64) -> (i64, i64) {
    let texts = n_texts.min(WEIGHTS_AT_ONCE / n_patches).max(1);
    ((NUMBERS_IN_CACHE / (texts * n_patches.max(width))).max(1), texts)
}

fn pacl_in_blocks(inputs: &PaclInputs, config: &PaclConfig, block: (i64, i64)) -> LossTerms {
    let patches = Rows::map(inputs.patches, at_least_f32);
    let text = Rows::map(inputs.text, |text| l2_normalize(&at_least_f32(text)));
    let scale = inputs.logit_scale.to_kind(patches.local.kind());
    let pairs = Pairs {
        images: &[patches.gathered()],
        texts: &[text.gathered()],
        parameters: &[&scale],
        row_offset: inputs.row_offset,
        block,
        weight: 0.5,
    };
    let contrast = pairwise::contrast(&pairs, &|images, texts, scales| {
        pooled_cosine(&images[0], &texts[0], config.attention_scale, config.pooled_patches) * &scales[0]
    });
    LossTerms::new(
        vec![LossTerm { name: "alignment".into(), value: contrast.value, weight: 1.0 }],
        vec![
            ("image_to_text_accuracy", contrast.image_to_text_accuracy),
            ("text_to_image_accuracy", contrast.text_to_image_accuracy),
        ],
    )
}

/// φ of all pairs, `[A, C]`, without the temperature and without gradients.
///
/// # Shapes
///
/// `patches_apd` `[A, P, D]`, `text_cd` `[C, D]`.
///
/// # Panics
///
/// If shapes disagree.
pub fn scores(patches_apd: &Tensor, text_cd: &Tensor, attention_scale: f64, pooled: PooledPatches) -> Tensor {
    let patches_apd = at_least_f32(patches_apd);
    let text_cd = l2_normalize(&at_least_f32(text_cd));
    let (a, p, d) = patches_apd.size3().expect("patches are [A, P, D]");
    let c = text_cd.size()[0];
    if a == 0 || c == 0 {
        return patches_apd.new_zeros([a, c], (patches_apd.kind(), patches_apd.device()));
    }
    let rows = |(start, size)| pooled_cosine(&patches_apd.narrow(0, start, size), &text_cd, attention_scale, pooled);
    Tensor::cat(&chunks(a, WEIGHTS_AT_ONCE / (c * p.max(d)).max(1)).map(rows).collect::<Vec<_>>(), 0)
}

/// φ of a block's pairs, `[A, C]`; texts are unit vectors.
fn pooled_cosine(patches_apd: &Tensor, text_cd: &Tensor, scale: f64, pooled: PooledPatches) -> Tensor {
    let inverse_ap1 = inverse_norms(patches_apd);
    // What is pooled, times the text: ⟨v_p, t⟩. The weights read its cosine.
    let along_acp = text_cd.matmul(&patches_apd.transpose(1, 2));
    let cosine_acp = &along_acp * inverse_ap1.transpose(1, 2);
    let weights_acp = (&cosine_acp * scale).softmax(-1, None::<Kind>);
    let (along_acp, values_apd) = match pooled {
        PooledPatches::Raw => (along_acp, patches_apd.shallow_clone()),
        PooledPatches::Unit => (cosine_acp, patches_apd * &inverse_ap1),
    };
    let along_ac = sum(&weights_acp * along_acp);
    // ⟨u, t⟩² ≤ ‖u‖² for a unit t: rounding must not make a cosine above 1 where patches cancel.
    let squared_ac = pooled_squared(&weights_acp, &values_apd).maximum(&(&along_ac * &along_ac));
    let is_zero = squared_ac.le(NORM_EPS * NORM_EPS);
    along_ac.masked_fill(&is_zero, 0.0) / squared_ac.masked_fill(&is_zero, 1.0).sqrt()
}

/// ‖u‖² of a block's pairs, `[A, C]`, in the way that takes fewer operations: C·P·D for u itself, P²·D + C·P² by
/// the Gram matrix of the patches.
fn pooled_squared(weights_acp: &Tensor, values_apd: &Tensor) -> Tensor {
    let (c, p, d) = (weights_acp.size()[1], values_apd.size()[1], values_apd.size()[2]);
    if c * d < p * (c + d) {
        let pooled_acd = weights_acp.matmul(values_apd);
        return sum(&pooled_acd * &pooled_acd);
    }
    let grams_app = values_apd.matmul(&values_apd.transpose(1, 2));
    sum(weights_acp.matmul(&grams_app) * weights_acp)
}

/// Over the last dimension.
fn sum(x: Tensor) -> Tensor {
    x.sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>)
}

/// One over the lengths of the patches, `[A, P, 1]`; 0 for a zero vector, whose gradient is 0 too.
fn inverse_norms(patches_apd: &Tensor) -> Tensor {
    let norms_ap1 = patches_apd.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true);
    let is_zero = norms_ap1.le(NORM_EPS);
    norms_ap1.masked_fill(&is_zero, 1.0).reciprocal().masked_fill(&is_zero, 0.0)
}

/// P, at least 1, and D.
fn check_shapes(inputs: &PaclInputs) -> (i64, i64) {
    let (patches, text) = (inputs.patches.local.size(), inputs.text.local.size());
    assert!(
        patches.len() == 3 && text.len() == 2 && patches[0] == text[0] && patches[2] == text[1],
        "patches must be [B, P, D] and texts [B, D], got {patches:?} and {text:?}"
    );
    assert!(patches[1] > 0, "images without patches: patches are {patches:?}");
    (patches[1], patches[2])
}

#[cfg(test)]
#[path = "pacl_tests.rs"]
mod tests;
