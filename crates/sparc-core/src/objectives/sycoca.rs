//! SyCoCa: symmetrised contrastive captioners with attentive masking (Ma et al. 2024, ICML,
//! arXiv:2401.02137).
//!
//! CoCa, and its mirror image: text-guided masked image modelling (TG-MIM) rebuilds patches from the caption and
//! the other patches. The caption decides which patches each side sees. With unit patches v_p, unit tokens t_l and
//! M patches:
//!
//! `s_p = max_l ⟨v_p, t_l⟩`, over the caption's words;
//! `H = the ⌊r_h M⌋ highest`, hidden from TG-MIM, which rebuilds them; `W = the ⌊r_l M⌋ lowest`, hidden from the
//! captioner;
//! `L = λ_con L_con + λ_cap L_cap(patches ∉ W) + λ_rec (1/B|H|) Σ_{p ∈ H} d(x̂_p, x_p)`.
//!
//! The paper has no public code and leaves much open; what is chosen here is a switch, see
//! `docs/objectives/sycoca.md`.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::clip::ClipInputs;
use super::coca::{CaptionInputs, Normalisation, Terms, check_weights};
use crate::tensor_math::{at_least_f32, gather_rows, l2_normalize};
use crate::{LossTerm, LossTerms};

// Dimension letters: b batch, p patches, l tokens, d width, k patches of a choice, x pixel values of a patch.

/// Configuration. Every field is required: the values are part of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SycocaConfig {
    /// Weight of the contrastive term; 1 in the paper.
    pub lambda_contrastive: f64,
    /// λ_IC, of captioning; 2 in the paper.
    pub lambda_caption: f64,
    /// λ_TM, of TG-MIM; 1 in the paper.
    pub lambda_reconstruction: f64,
    /// How the first two terms are normalised.
    pub normalisation: Normalisation,
    /// Which patches the captioner does not see.
    pub caption_mask: PatchMask,
    /// r_l, the share that it does not see; 0.5 in the paper.
    pub caption_mask_ratio: f64,
    /// Which patches TG-MIM rebuilds.
    pub reconstruction_mask: ReconstructionMask,
    /// r_h, the share that it rebuilds; 0.5 in the paper.
    pub reconstruction_mask_ratio: f64,
    /// Where masking acts.
    pub mask_site: MaskSite,
    /// Steps at the start with random in place of attentive masks.
    pub mask_warmup_steps: u64,
    /// Probability of a step in which the captioner sees every patch, as it does when it generates.
    pub full_image_probability: f64,
    /// In which space patches are compared with tokens.
    pub similarity: SimilaritySpace,
    /// What is rebuilt.
    pub target: PixelTarget,
    /// How far a rebuilt patch is from its target.
    pub distance: PixelDistance,
    /// Whether TG-MIM's gradient stops before the text encoder.
    pub detach_text: bool,
}

/// Which patches the captioner does not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PatchMask {
    /// It sees all, as CoCa's does.
    None,
    /// Random ones.
    Random,
    /// Those that have least to do with the caption.
    Attentive,
}

/// Which patches are rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReconstructionMask {
    /// Random ones.
    Random,
    /// Those that have most to do with the caption.
    Attentive,
}

/// Where masking acts (the paper is silent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskSite {
    /// On the image tower's output: one pass of the tower; visible patches have seen the hidden ones.
    Latent,
    /// On its input: a further pass for each masked view, over the visible patches alone.
    Input,
}

/// In which space patches are compared with tokens (the paper is silent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SimilaritySpace {
    /// In the contrast's, the only one that is trained to be comparable.
    Projected,
    /// In that of the towers, which must have one width.
    Raw,
}

/// What is rebuilt (the paper says pixels).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PixelTarget {
    /// Pixels less their patch's mean, over its deviation, as MAE (He et al. 2022) has it.
    PatchNorm,
    /// Pixels of the image as the network gets it.
    Image,
}

/// How far a rebuilt patch is from its target (the paper is silent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PixelDistance {
    /// Mean squared difference.
    L2,
    /// Mean absolute difference.
    L1,
}

impl SycocaConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        check_weights(&[
            ("lambda_contrastive", self.lambda_contrastive),
            ("lambda_caption", self.lambda_caption),
            ("lambda_reconstruction", self.lambda_reconstruction),
        ])?;
        for (name, ratio) in [
            ("caption_mask_ratio", self.caption_mask_ratio),
            ("reconstruction_mask_ratio", self.reconstruction_mask_ratio),
        ] {
            if !(ratio > 0.0 && ratio < 1.0) {
                return Err(format!("{name} must lie between 0 and 1, both excluded, got {ratio}"));
            }
        }
        if !(0.0..=1.0).contains(&self.full_image_probability) {
            return Err(format!("full_image_probability must lie in [0, 1], got {}", self.full_image_probability));
        }
        Ok(())
    }
}

/// Tokens that take part in the patch score, `[B, L]`: a caption's words; its last token (the end token) where it
/// has no word.
///
/// # Shapes
///
/// `words_bl` (true at words) and `mask_bl` (true at any token) are `[B, L]`, `bool`, tokens at the front.
pub fn scoring_tokens(words_bl: &Tensor, mask_bl: &Tensor) -> Tensor {
    let wordless_b1 = words_bl.any_dim(1, true).logical_not();
    let next_bl = mask_bl.roll(-1, 1);
    let last = next_bl.size()[1] - 1;
    let _ = next_bl.narrow(1, last, 1).fill_(0.0);
    let end_bl = mask_bl.logical_and(&next_bl.logical_not());
    words_bl.logical_or(&end_bl.logical_and(&wordless_b1))
}

/// How much each patch has to do with the caption, `[B, P]`: its largest cosine with a valid token; 0 for all
/// patches of a caption without one. Without gradient, in f32 at least.
///
/// # Shapes
///
/// `patches_bpd [B, P, D]`, `tokens_bld [B, L, D]`, `valid_bl [B, L]`, `bool`.
///
/// # Panics
///
/// If they disagree.
pub fn patch_scores(patches_bpd: &Tensor, tokens_bld: &Tensor, valid_bl: &Tensor) -> Tensor {
    let (patches, tokens) = (patches_bpd.size(), tokens_bld.size());
    assert!(
        patches.len() == 3
            && tokens.len() == 3
            && (patches[0], patches[2]) == (tokens[0], tokens[2])
            && valid_bl.size() == tokens[..2],
        "patches must be [B, P, D], tokens [B, L, D] and their mask [B, L], got {patches:?}, {tokens:?} and {:?}",
        valid_bl.size()
    );
    tch::no_grad(|| {
        let unit = |x: &Tensor| l2_normalize(&at_least_f32(x));
        let similarity_bpl = unit(patches_bpd).matmul(&unit(tokens_bld).transpose(1, 2));
        let hidden_b1l = valid_bl.logical_not().unsqueeze(1);
        let scores_bp = similarity_bpl.masked_fill(&hidden_b1l, f64::NEG_INFINITY).amax([-1i64].as_slice(), false);
        scores_bp.masked_fill(&valid_bl.any_dim(1, true).logical_not(), 0.0)
    })
}

/// Which end of the scores is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The highest scores.
    Highest,
    /// The lowest scores.
    Lowest,
}

/// A choice of patches, the same number in every image.
#[derive(Debug)]
pub struct PatchChoice {
    /// Indices of the chosen patches, ascending, `[B, K]`, `i64`.
    pub chosen_bk: Tensor,
    /// Indices of the others, ascending, `[B, P − K]`, `i64`.
    pub others_bk: Tensor,
}

/// Chooses `⌊ratio · P⌋` patches of each image, at least one and not all; of equal scores those of lower index.
///
/// # Shapes
///
/// `scores_bp [B, P]`.
///
/// # Panics
///
/// If there are fewer than two patches.
pub fn choose_patches(scores_bp: &Tensor, ratio: f64, side: Side) -> PatchChoice {
    let n_patches = scores_bp.size()[1];
    assert!(n_patches >= 2, "of {n_patches} patches none can be left out");
    let n_chosen = ((ratio * n_patches as f64).floor() as i64).clamp(1, n_patches - 1);
    let (_, order_bp) = scores_bp.sort_stable(true, 1, side == Side::Highest);
    let part = |start: i64, length: i64| order_bp.narrow(1, start, length).sort(1, false).0;
    PatchChoice { chosen_bk: part(0, n_chosen), others_bk: part(n_chosen, n_patches - n_chosen) }
}

/// What TG-MIM must provide.
#[derive(Debug, Clone, Copy)]
pub struct ReconstructionInputs<'a> {
    /// The image decoder's pixels of every patch, `[B, P, X]`.
    pub predicted_bpx: &'a Tensor,
    /// The pixels of every patch of the network's input, `[B, P, X]`.
    pub pixels_bpx: &'a Tensor,
    /// Indices of the patches that were hidden, `[B, K]`, `i64`.
    pub hidden_bk: &'a Tensor,
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct SycocaInputs<'a> {
    /// Pooled embeddings of the whole images and of the texts.
    pub contrastive: ClipInputs<'a>,
    /// The captioner; it may be absent where its weight is 0.
    pub caption: Option<CaptionInputs<'a>>,
    /// The image decoder; it may be absent where its weight is 0.
    pub reconstruction: Option<ReconstructionInputs<'a>>,
}

/// SyCoCa's loss, with the terms `contrastive`, `caption` and `reconstruction`; a term of weight 0 is not computed.
///
/// Diagnostics: as CoCa's.
///
/// # Shapes
///
/// As the inputs say. The mean of this value over processes with equal B is the loss of the joined batch.
///
/// # Panics
///
/// If shapes disagree, or a part is absent whose weight is not 0.
pub fn sycoca_loss(inputs: &SycocaInputs, config: &SycocaConfig) -> LossTerms {
    let mut terms = Terms::default();
    terms.add_contrastive(&inputs.contrastive, config.lambda_contrastive, config.normalisation);
    terms.add_caption(inputs.caption.as_ref(), config.lambda_caption, config.normalisation);
    if config.lambda_reconstruction > 0.0 {
        let inputs = inputs.reconstruction.expect("an image decoder, where reconstruction has a weight");
        let value = reconstruction_error(&inputs, config.target, config.distance).mean(None::<Kind>);
        let weight = config.lambda_reconstruction;
        terms.terms.push(LossTerm { name: "reconstruction".into(), value, weight });
    }
    terms.finish()
}

/// The mean distance of each hidden patch from its target, `[B, K]`, in f32 at least.
///
/// # Panics
///
/// If shapes disagree.
pub fn reconstruction_error(inputs: &ReconstructionInputs, target: PixelTarget, distance: PixelDistance) -> Tensor {
    let (predicted, pixels) = (inputs.predicted_bpx.size(), inputs.pixels_bpx.size());
    let hidden = inputs.hidden_bk.size();
    assert!(
        predicted.len() == 3 && predicted == pixels && hidden.len() == 2 && hidden[0] == pixels[0],
        "predictions are {predicted:?}, pixels {pixels:?}, hidden patches {hidden:?}"
    );
    let hidden_of = |x: &Tensor| at_least_f32(&gather_rows(x, inputs.hidden_bk));
    let target_bkx = target_pixels(&hidden_of(inputs.pixels_bpx), target);
    let difference_bkx = hidden_of(inputs.predicted_bpx) - target_bkx;
    let distance_bkx = match distance {
        PixelDistance::L2 => difference_bkx.square(),
        PixelDistance::L1 => difference_bkx.abs(),
    };
    distance_bkx.mean_dim([-1i64].as_slice(), false, None::<Kind>)
}

/// Added to a patch's variance, MAE's.
const VARIANCE_EPS: f64 = 1e-6;

/// What the decoder should give for patches of these pixels, `[…, X]`.
pub fn target_pixels(pixels_bkx: &Tensor, target: PixelTarget) -> Tensor {
    match target {
        PixelTarget::Image => pixels_bkx.shallow_clone(),
        PixelTarget::PatchNorm => {
            let (mean, deviation) = mean_and_deviation(pixels_bkx);
            (pixels_bkx - mean) / deviation
        }
    }
}

/// Pixels that the decoder's output stands for, given the mean and deviation of the true patch where the target is
/// relative to them: to be shown, as MAE's figures do. `[…, X]`.
pub fn rebuilt_pixels(predicted_bkx: &Tensor, true_bkx: &Tensor, target: PixelTarget) -> Tensor {
    match target {
        PixelTarget::Image => predicted_bkx.shallow_clone(),
        PixelTarget::PatchNorm => {
            let (mean, deviation) = mean_and_deviation(true_bkx);
            predicted_bkx * deviation + mean
        }
    }
}

/// MAE's: the unbiased variance of a patch's values over all channels.
fn mean_and_deviation(pixels_bkx: &Tensor) -> (Tensor, Tensor) {
    let mean = pixels_bkx.mean_dim([-1i64].as_slice(), true, None::<Kind>);
    let variance = pixels_bkx.var_dim([-1i64].as_slice(), true, true);
    (mean, (variance + VARIANCE_EPS).sqrt())
}

#[cfg(test)]
#[path = "sycoca_tests.rs"]
mod tests;
