//! CoCa: contrastive captioners (Yu et al. 2022, arXiv:2205.01917, equations 2 to 4), with open_clip's
//! normalisation beside the paper's.
//!
//! `L = λ_con L_con + λ_cap L_cap`; `L_con` is CLIP's loss (the paper adds the two directions where CLIP
//! takes their mean), `L_cap = −Σ_t log P(y_t | y_<t, image)` with P the softmax of `⟨state_{t−1}, vocabulary_k⟩`
//! over the vocabulary. The paper sums over a caption's tokens; open_clip takes the mean over the batch's.

mod fine_tuning;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::clip::{ClipInputs, contrastive};
use crate::contrast::{chunks, wants_gradient, with_gradients};
use crate::tensor_math::at_least_f32;
use crate::{LossTerm, LossTerms};

pub use fine_tuning::{FineTuningInputs, HeadConfig, HeadTask, fine_tuning_loss};

// Dimension letters: b batch, l tokens, w width, v vocabulary, n predicted tokens, c tokens of a chunk.

/// Configuration. Every field but the head is required: the values are part of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CocaConfig {
    /// λ_con; 1 in the paper.
    pub lambda_contrastive: f64,
    /// λ_cap; 2 in the paper.
    pub lambda_caption: f64,
    /// How the two terms are normalised.
    pub normalisation: Normalisation,
    /// A head to be fine-tuned, in place of the contrast; see [`fine_tuning_loss`]. Absent, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadConfig>,
}

/// What stands in front of the sums of the two terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// open_clip's: the mean of the two directions; the mean over the batch's tokens.
    OpenClip,
    /// The paper's equations, read literally: the sum of the two directions; the sum over a caption's tokens,
    /// and the mean over captions. Captioning weighs T/2 times as much as with open_clip's, T the mean length.
    Paper,
}

impl CocaConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let mut weights =
            vec![("lambda_contrastive", self.lambda_contrastive), ("lambda_caption", self.lambda_caption)];
        if let Some(head) = &self.head {
            head.validate().map_err(|reason| format!("head.{reason}"))?;
            if self.lambda_contrastive != 0.0 {
                return Err("lambda_contrastive must be 0 with a head: its samples have no captions to contrast".into());
            }
            if head.task == HeadTask::Classification && self.lambda_caption != 0.0 {
                return Err("lambda_caption must be 0 with a head for classes: there is nothing to read".into());
            }
            weights.push(("head.weight", head.weight));
        }
        check_weights(&weights)
    }
}

/// Weights must be finite, not negative, and not all 0.
pub(super) fn check_weights(weights: &[(&str, f64)]) -> Result<(), String> {
    for (name, weight) in weights {
        if !(weight.is_finite() && *weight >= 0.0) {
            return Err(format!("{name} must be a finite number of at least 0, got {weight}"));
        }
    }
    if weights.iter().all(|(_, weight)| *weight == 0.0) {
        let names: Vec<&str> = weights.iter().map(|(name, _)| *name).collect();
        return Err(format!("{} are all 0: there is nothing to minimise", names.join(", ")));
    }
    Ok(())
}

/// What the captioner must provide.
#[derive(Debug, Clone, Copy)]
pub struct CaptionInputs<'a> {
    /// The decoder's states after its last norm, `[B, L, W]`: the state at t predicts token t + 1.
    pub states_blw: &'a Tensor,
    /// The matrix from states to logits, `[V, W]`.
    pub vocabulary_vw: &'a Tensor,
    /// Token ids, `[B, L]`, `i64`.
    pub ids_bl: &'a Tensor,
    /// True where a token stands, special tokens included, `[B, L]`, `bool`. Tokens stand at the front.
    pub mask_bl: &'a Tensor,
    /// What [`Normalisation::OpenClip`] divides by, with several processes: the mean over processes of
    /// [`caption_denominator`]. `None` in one process.
    pub denominator: Option<&'a Tensor>,
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct CocaInputs<'a> {
    /// Pooled embeddings of images and texts.
    pub contrastive: ClipInputs<'a>,
    /// The captioner; it may be absent where λ_cap is 0.
    pub caption: Option<CaptionInputs<'a>>,
}

/// CoCa's loss, with the terms `contrastive` and `caption`; a term of weight 0 is not computed.
///
/// Diagnostics: CLIP's accuracies, and `caption_accuracy`, the share of tokens that the captioner would choose.
///
/// # Shapes
///
/// As the inputs say. The mean of this value over processes with equal B is the loss of the joined batch.
///
/// # Panics
///
/// If shapes disagree, or there is no captioner and λ_cap is not 0.
pub fn coca_loss(inputs: &CocaInputs, config: &CocaConfig) -> LossTerms {
    let mut terms = Terms::default();
    terms.add_contrastive(&inputs.contrastive, config.lambda_contrastive, config.normalisation);
    terms.add_caption(inputs.caption.as_ref(), config.lambda_caption, config.normalisation);
    terms.finish()
}

/// The terms that CoCa and SyCoCa share.
#[derive(Default)]
pub(super) struct Terms {
    pub terms: Vec<LossTerm>,
    pub diagnostics: Vec<(&'static str, Tensor)>,
}

impl Terms {
    pub fn add_contrastive(&mut self, inputs: &ClipInputs, weight: f64, normalisation: Normalisation) {
        if weight > 0.0 {
            let (value, diagnostics) = contrastive(inputs);
            let value = match normalisation {
                Normalisation::OpenClip => value,
                Normalisation::Paper => value * 2.0,
            };
            self.terms.push(LossTerm { name: "contrastive".into(), value, weight });
            self.diagnostics.extend(diagnostics);
        }
    }

    pub fn add_caption(&mut self, inputs: Option<&CaptionInputs>, weight: f64, normalisation: Normalisation) {
        if weight > 0.0 {
            let captioner = inputs.expect("a captioner, where captioning has a weight");
            let (value, accuracy) = captioning(captioner, normalisation, LOGITS_AT_ONCE);
            self.terms.push(LossTerm { name: "caption".into(), value, weight });
            self.diagnostics.push(("caption_accuracy", accuracy));
        }
    }

    pub fn finish(self) -> LossTerms {
        LossTerms::new(self.terms, self.diagnostics)
    }
}

/// How many tokens of a batch are predicted: every one but a caption's first.
pub fn caption_denominator(mask_bl: &Tensor) -> Tensor {
    predicted(mask_bl).sum(Kind::Float)
}

/// True where a token is predicted, `[B, L − 1]`.
fn predicted(mask_bl: &Tensor) -> Tensor {
    let length = mask_bl.size()[1];
    mask_bl.narrow(1, length.min(1), (length - 1).max(0))
}

/// Logits held at a time: 64 MiB in f32.
const LOGITS_AT_ONCE: i64 = 1 << 24;

/// The captioning term and the share of tokens that are the captioner's first choice.
///
/// Only valid positions are multiplied with the vocabulary, some at a time. The gradient is computed along with
/// the value (∂L/∂logits is the softmax minus the target), so that no logits are kept: at 2,048 captions of
/// 76 tokens and 49,408 pieces they would be 31 GB.
fn captioning(inputs: &CaptionInputs, normalisation: Normalisation, logits_at_once: i64) -> (Tensor, Tensor) {
    let (b, n_pieces) = check_shapes(inputs);
    let length = inputs.mask_bl.size()[1];
    let valid_bl = predicted(inputs.mask_bl);
    let rows_n = valid_bl.reshape([-1]).nonzero().squeeze_dim(1);
    let n = rows_n.size()[0];
    let of = |x: &Tensor, start: i64| x.narrow(1, start.min(length), (length - 1).max(0));
    let width = inputs.states_blw.size()[2];
    let states_nw = at_least_f32(&of(inputs.states_blw, 0).reshape([-1, width]).index_select(0, &rows_n));
    let targets_n = of(inputs.ids_bl, 1).reshape([-1]).index_select(0, &rows_n);
    let vocabulary_vw = inputs.vocabulary_vw.to_kind(states_nw.kind());
    let divisor = match (normalisation, inputs.denominator) {
        (Normalisation::Paper, _) => Tensor::from(b as f64),
        (Normalisation::OpenClip, None) => Tensor::from(n.max(1) as f64),
        (Normalisation::OpenClip, Some(denominator)) => denominator.detach().clamp_min(1.0),
    };
    let weight = divisor.to_kind(states_nw.kind()).to_device(states_nw.device()).reciprocal();
    let predictions = Predictions {
        states_nw: &states_nw,
        vocabulary_vw: &vocabulary_vw,
        targets_n: &targets_n,
        weight: &weight,
        at_once: logits_at_once / n_pieces.max(1),
    };
    predictions.cross_entropy()
}

struct Predictions<'a> {
    states_nw: &'a Tensor,
    vocabulary_vw: &'a Tensor,
    targets_n: &'a Tensor,
    /// What each cross-entropy is multiplied by, a scalar.
    weight: &'a Tensor,
    at_once: i64,
}

impl Predictions<'_> {
    fn cross_entropy(&self) -> (Tensor, Tensor) {
        let n = self.states_nw.size()[0];
        let wanted = wants_gradient([self.states_nw, self.vocabulary_vw]);
        let (value, hits, gradients) = tch::no_grad(|| {
            let mut value = self.weight.zeros_like();
            let mut hits = Tensor::zeros([0i64; 0], (Kind::Float, self.states_nw.device()));
            let mut states_gradient = Vec::new();
            let mut vocabulary_gradient = wanted.then(|| self.vocabulary_vw.zeros_like());
            for (start, size) in chunks(n, self.at_once) {
                let states_cw = self.states_nw.narrow(0, start, size);
                let targets_c1 = self.targets_n.narrow(0, start, size).unsqueeze(1);
                let log_softmax_cv = states_cw.matmul(&self.vocabulary_vw.tr()).log_softmax(1, None::<Kind>);
                value -= log_softmax_cv.gather(1, &targets_c1, false).sum(None::<Kind>) * self.weight;
                hits += log_softmax_cv.argmax(1, true).eq_tensor(&targets_c1).sum(Kind::Float);
                if let Some(vocabulary_gradient) = &mut vocabulary_gradient {
                    let minus = targets_c1.ones_like().to_kind(states_cw.kind()) * -1.0;
                    let gradient_cv = log_softmax_cv.exp().scatter_add_(1, &targets_c1, &minus) * self.weight;
                    states_gradient.push(gradient_cv.matmul(self.vocabulary_vw));
                    *vocabulary_gradient += gradient_cv.tr().matmul(&states_cw);
                }
            }
            let gradients = vocabulary_gradient.map(|vocabulary| {
                let none = states_gradient.is_empty();
                let states = if none { self.states_nw.zeros_like() } else { Tensor::cat(&states_gradient, 0) };
                (states, vocabulary)
            });
            (value, hits, gradients)
        });
        let (states, vocabulary) = gradients.unzip();
        let value = with_gradients(value, [(self.states_nw, states), (self.vocabulary_vw, vocabulary)]);
        (value, hits / n.max(1) as f64)
    }
}

/// Batch and vocabulary.
fn check_shapes(inputs: &CaptionInputs) -> (i64, i64) {
    let (states, vocabulary) = (inputs.states_blw.size(), inputs.vocabulary_vw.size());
    assert!(
        states.len() == 3 && vocabulary.len() == 2 && states[2] == vocabulary[1],
        "states must be [B, L, W] and the vocabulary [V, W], got {states:?} and {vocabulary:?}"
    );
    let (ids, mask) = (inputs.ids_bl.size(), inputs.mask_bl.size());
    assert!(ids == states[..2] && mask == ids, "states are {states:?}, ids {ids:?}, the mask {mask:?}");
    assert!(states[0] > 0, "an empty batch has no captions");
    (states[0], vocabulary[0])
}

#[cfg(test)]
#[path = "coca_tests.rs"]
pub(super) mod tests;
