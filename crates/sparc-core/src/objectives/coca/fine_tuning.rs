//! Fine-tuning of a captioner with a head over a closed list, of answers or of classes (Yu et al. 2022, appendix B).
//!
//! `L = λ_head L_head + λ_cap L_cap`, with `L_head = −mean_b Σ_k t'_bk log P_bk`, P the softmax of the head's logits and
//! `t' = (1 − ε) t + ε / K` the shares of the right answers, smoothed. `L_cap` is the captioning of the question
//! followed by its answer.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{CaptionInputs, CocaConfig, Terms};
use crate::tensor_math::at_least_f32;
use crate::{LossTerm, LossTerms};

// Dimension letters: b batch, k outputs of the head.

/// The head that is fine-tuned. Every field is required: the values are part of the experiment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadConfig {
    /// What it tells.
    pub task: HeadTask,
    /// λ_head, above 0.
    pub weight: f64,
    /// ε, in [0, 1); the paper has none for questions, 0.2 for classes with a frozen encoder and 0.5 without.
    pub label_smoothing: f64,
}

/// What a head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadTask {
    /// The answer to a question about the image.
    Vqa,
    /// The class of the image.
    Classification,
}

impl HeadConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return Err(format!("weight must be a finite number above 0, got {}", self.weight));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(format!("label_smoothing must lie in [0, 1), got {}", self.label_smoothing));
        }
        Ok(())
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct FineTuningInputs<'a> {
    /// The head's logits, `[B, K]`.
    pub logits_bk: &'a Tensor,
    /// The share of each output, `[B, K]`: not negative, each row adds up to 1.
    pub shares_bk: &'a Tensor,
    /// The captioner; it may be absent where λ_cap is 0.
    pub caption: Option<CaptionInputs<'a>>,
}

/// The loss, with the terms `answer` or `class`, and `caption`; a term of weight 0 is not computed.
///
/// Diagnostics: `answer_accuracy` or `class_accuracy`, how large a share the head's first choices have, divided by the
/// largest there is of each sample; and `caption_accuracy`.
///
/// # Shapes
///
/// As the inputs say. The mean of this value over processes with equal B is the loss of the joined batch, where
/// captioning is as in [`super::coca_loss`].
///
/// # Panics
///
/// If shapes disagree, the configuration has no head, or there is no captioner and λ_cap is not 0.
pub fn fine_tuning_loss(inputs: &FineTuningInputs, config: &CocaConfig) -> LossTerms {
    let head = config.head.expect("a configuration with a head");
    let (logits, shares) = (inputs.logits_bk.size(), inputs.shares_bk.size());
    assert!(logits.len() == 2 && logits == shares, "logits and shares must be [B, K], got {logits:?} and {shares:?}");
    assert!(logits[0] > 0 && logits[1] > 0, "there is nothing to choose: logits are {logits:?}");
    let (name, accuracy) = match head.task {
        HeadTask::Vqa => ("answer", "answer_accuracy"),
        HeadTask::Classification => ("class", "class_accuracy"),
    };
    let logits_bk = at_least_f32(inputs.logits_bk);
    let shares_bk = inputs.shares_bk.to_kind(logits_bk.kind()).to_device(logits_bk.device());
    let smoothed_bk = &shares_bk * (1.0 - head.label_smoothing) + head.label_smoothing / logits[1] as f64;
    let log_softmax_bk = logits_bk.log_softmax(1, None::<Kind>);
    let value = -(smoothed_bk * log_softmax_bk).sum_dim_intlist(1, false, None::<Kind>).mean(None::<Kind>);
    let chosen_b1 = logits_bk.argmax(1, true);
    let hits_b = shares_bk.gather(1, &chosen_b1, false).squeeze_dim(1) / shares_bk.amax([1i64].as_slice(), false);

    let mut terms = Terms::default();
    terms.terms.push(LossTerm { name: name.into(), value, weight: head.weight });
    terms.diagnostics.push((accuracy, hits_b.mean(Kind::Float)));
    terms.add_caption(inputs.caption.as_ref(), config.lambda_caption, config.normalisation);
    terms.finish()
}

#[cfg(test)]
mod tests {
    use sparc_testing::{assert_close, check_gradient, random, rows, scalar};

    use super::super::Normalisation;
    use super::*;

    const HEAD: HeadConfig = HeadConfig { task: HeadTask::Vqa, weight: 1.0, label_smoothing: 0.0 };

    fn config(head: HeadConfig) -> CocaConfig {
        CocaConfig {
            lambda_contrastive: 0.0,
            lambda_caption: 0.0,
            normalisation: Normalisation::OpenClip,
            head: Some(head),
        }
    }

    fn loss(logits_bk: &Tensor, shares_bk: &Tensor, head: HeadConfig) -> LossTerms {
        fine_tuning_loss(&FineTuningInputs { logits_bk, shares_bk, caption: None }, &config(head))
    }

    /// Scalar loops from the equations.
    fn reference(logits: &[Vec<f64>], shares: &[Vec<f64>], smoothing: f64) -> f64 {
        let mut sum = 0.0;
        for (logits, shares) in logits.iter().zip(shares) {
            let normaliser: f64 = logits.iter().map(|logit| logit.exp()).sum();
            for (logit, share) in logits.iter().zip(shares) {
                let target = (1.0 - smoothing) * share + smoothing / logits.len() as f64;
                sum -= target * (logit.exp() / normaliser).ln();
            }
        }
        sum / logits.len() as f64
    }

    /// One answer, two and three, of five.
    fn shares() -> Tensor {
        let third = 1.0 / 3.0;
        let rows = [[0.0, 1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5, 0.0], [third, 0.0, third, 0.0, third]];
        Tensor::from_slice(&rows.concat()).view([3, 5])
    }

    #[test]
    fn agrees_with_reference() {
        let (logits, shares) = (random(&[3, 5], 1) * 3.0, shares());
        for smoothing in [0.0, 0.2, 0.5] {
            let head = HeadConfig { label_smoothing: smoothing, weight: 2.0, ..HEAD };
            let terms = loss(&logits, &shares, head);
            let expected = reference(&rows(&logits), &rows(&shares), smoothing);
            assert_close(scalar(terms.get("answer").unwrap()), expected, 1e-12);
            assert_close(scalar(&terms.total), 2.0 * expected, 1e-12);
        }
    }

    #[test]
    fn gradient_matches_finite_difference() {
        let shares = shares();
        let head = HeadConfig { label_smoothing: 0.2, ..HEAD };
        check_gradient(&random(&[3, 5], 2), 1e-7, |logits| loss(logits, &shares, head).total);
    }

    /// Cross-entropy with shares is at least their entropy.
    #[test]
    fn the_bound_is_the_entropy_of_the_shares() {
        let shares = shares();
        // Logits that are the logarithm of the shares reach it: ln 1, ln 2 and ln 3.
        let terms = loss(&(&shares + 1e-30).log(), &shares, HEAD);
        assert_close(scalar(&terms.total), (2f64.ln() + 3f64.ln()) / 3.0, 1e-9);
        assert_close(scalar(&terms.diagnostics[0].1), 1.0, 1e-6);
        // What is added to all logits of a sample changes nothing.
        let moved = loss(&((&shares + 1e-30).log() + 100.0), &shares, HEAD);
        assert_close(scalar(&moved.total), scalar(&terms.total), 1e-9);
    }

    #[test]
    fn a_first_choice_counts_by_its_share() {
        let logits = Tensor::from_slice(&[9.0f64, 0.0, 0.0, 0.0, 9.0, 0.0]).view([2, 3]);
        let shares = Tensor::from_slice(&[0.3f64, 0.6, 0.1, 0.0, 0.5, 0.5]).view([2, 3]);
        let terms = loss(&logits, &shares, HeadConfig { task: HeadTask::Classification, ..HEAD });
        assert_eq!(terms.diagnostics[0].0, "class_accuracy");
        assert_close(scalar(&terms.diagnostics[0].1), (0.5 + 1.0) / 2.0, 1e-6);
        assert!(terms.get("class").is_some() && terms.get("caption").is_none());
    }

    #[test]
    fn wrong_values_are_named() {
        let refused = |head: HeadConfig| config(head).validate().unwrap_err();
        assert!(refused(HeadConfig { weight: 0.0, ..HEAD }).contains("head.weight"));
        assert!(refused(HeadConfig { label_smoothing: 1.0, ..HEAD }).contains("head.label_smoothing"));
        assert!(config(HEAD).validate().is_ok());
        let contrast = CocaConfig { lambda_contrastive: 1.0, ..config(HEAD) };
        assert!(contrast.validate().unwrap_err().contains("lambda_contrastive must be 0"));
        let classes = HeadConfig { task: HeadTask::Classification, ..HEAD };
        let caption = CocaConfig { lambda_caption: 1.0, ..config(classes) };
        assert!(caption.validate().unwrap_err().contains("lambda_caption must be 0"));
    }
}
