//! SigLIP: a pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343, equation 1 and algorithm 1).
//!
//! With unit embeddings v, t, inverse temperature s, bias β, and y_ij = 1 for a pair, −1 otherwise:
//! `z_ij = s ⟨v_i, t_j⟩ + β`, `L = −(1/B) Σ_ij log σ(y_ij z_ij) = (1/B) (Σ_ij softplus(z_ij) − Σ_i z_ii)`.
//! The sum is divided by the number of images, not of pairs.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::clip::check_pooled;
use crate::contrast::{chunks, wants_gradient, with_gradients};
use crate::tensor_math::{at_least_f32, l2_normalize};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, c rows of a chunk, d width.

/// Configuration. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiglipConfig {
    /// Inverse temperature s at the start; 10 in the paper. It is learned, as its logarithm.
    pub logit_scale_init: f64,
    /// Bias β at the start; −10 in the paper: at first nearly all pairs are negatives.
    pub logit_bias_init: f64,
}

impl SiglipConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if !(self.logit_scale_init.is_finite() && self.logit_scale_init >= 1.0) {
            return Err(format!(
                "logit_scale_init must be a finite number of at least 1, got {}",
                self.logit_scale_init
            ));
        }
        if !self.logit_bias_init.is_finite() {
            return Err(format!("logit_bias_init must be finite, got {}", self.logit_bias_init));
        }
        Ok(())
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct SiglipInputs<'a> {
    /// Pooled image embeddings, not normalised, `[B, D]` of `[N, D]`.
    pub image: Gathered<'a>,
    /// Pooled text embeddings, not normalised, `[B, D]` of `[N, D]`.
    pub text: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature s (already exponentiated), a scalar.
    pub logit_scale: &'a Tensor,
    /// Bias β, a scalar.
    pub logit_bias: &'a Tensor,
}

/// Logits of a piece: 64 MiB in f32, and a few such matrices are held.
const LOGITS_AT_ONCE: i64 = 1 << 24;

/// The sigmoid loss of the local images against all texts, with one term, `sigmoid`.
///
/// The mean of this value over processes with equal B is the loss of the joined batch. Diagnostics:
/// `positive_logit` and `negative_logit`, the mean logits of pairs and of non-pairs.
///
/// # Panics
///
/// If shapes disagree, or the local rows do not lie inside the global ones.
pub fn siglip_loss(inputs: &SiglipInputs) -> LossTerms {
    let columns = inputs.text.global.size().first().copied().unwrap_or(1);
    sigmoid_by_rows(inputs, (LOGITS_AT_ONCE / columns.max(1)).max(1))
}

/// As [`siglip_loss`], with logits of `rows_at_once` images held at a time; the gradient of a logit is
/// σ(z) − [i = j], so it is computed in the same pass.
fn sigmoid_by_rows(inputs: &SiglipInputs, rows_at_once: i64) -> LossTerms {
    let SiglipInputs { image, text, row_offset, logit_scale, logit_bias } = *inputs;
    let (b, n) = check_pooled(image, text, row_offset);
    let image_bd = l2_normalize(&at_least_f32(image.local));
    let text_nd = l2_normalize(&at_least_f32(text.global));
    let kind = image_bd.kind();
    let (scale, bias) = (logit_scale.to_kind(kind), logit_bias.to_kind(kind));
    let wanted = wants_gradient([&image_bd, &text_nd, &scale, &bias]);
    let (value, gradients, diagnostics) = tch::no_grad(|| {
        let (mut loss, mut own_sum, mut all_sum) = (scale.zeros_like(), scale.zeros_like(), scale.zeros_like());
        let (mut text_gradient, mut scale_gradient) = (text_nd.zeros_like(), scale.zeros_like());
        let mut bias_gradient = bias.zeros_like();
        let mut image_gradient = Vec::new();
        for (start, size) in chunks(b, rows_at_once) {
            let image_cd = image_bd.narrow(0, start, size);
            let logits_cn = image_cd.matmul(&text_nd.tr()) * &scale + &bias;
            let own_c = logits_cn.diagonal(row_offset + start, 0, 1);
            // y z: the loss of a pair is −log σ of it, small without a difference of large sums.
            let agreement_cn = logits_cn.neg();
            agreement_cn.diagonal(row_offset + start, 0, 1).copy_(&own_c);
            loss -= agreement_cn.log_sigmoid().sum(None::<Kind>);
            own_sum += own_c.sum(None::<Kind>);
            all_sum += logits_cn.sum(None::<Kind>);
            if !wanted {
                continue;
            }
            let gradient_cn = logits_cn.sigmoid();
            let mut own_gradient_c = gradient_cn.diagonal(row_offset + start, 0, 1);
            own_gradient_c -= 1.0;
            let gradient_cn = gradient_cn / b as f64;
            let pulled_cd = gradient_cn.matmul(&text_nd);
            scale_gradient += (&pulled_cd * &image_cd).sum(None::<Kind>);
            bias_gradient += gradient_cn.sum(None::<Kind>);
            image_gradient.push(pulled_cd * &scale);
            text_gradient += gradient_cn.tr().matmul(&image_cd) * &scale;
        }
        let gradients = wanted.then(|| (Tensor::cat(&image_gradient, 0), text_gradient, scale_gradient, bias_gradient));
        let positive = &own_sum / b as f64;
        let negative = (all_sum - own_sum) / ((b * n - b).max(1)) as f64;
        (loss / b as f64, gradients, vec![("positive_logit", positive), ("negative_logit", negative)])
    });
    let value = match gradients {
        None => value,
        Some((images, texts, scales, biases)) => with_gradients(
            value,
            [(&image_bd, Some(images)), (&text_nd, Some(texts)), (&scale, Some(scales)), (&bias, Some(biases))],
        ),
    };
    LossTerms::new(vec![LossTerm { name: "sigmoid".into(), value, weight: 1.0 }], diagnostics)
}

#[cfg(test)]
mod reference {
    //! Equation 1 in scalar f64 loops.

    use crate::objectives::clip::reference::cosine;

    pub fn loss(image: &[Vec<f64>], text: &[Vec<f64>], scale: f64, bias: f64) -> f64 {
        let mut sum = 0.0;
        for (i, v) in image.iter().enumerate() {
            for (j, t) in text.iter().enumerate() {
                let z = scale * cosine(v, t) + bias;
                let y = if i == j { 1.0 } else { -1.0 };
                sum += (1.0 + (-y * z).exp()).ln();
            }
        }
        sum / image.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, random, rows, scalar, values};

    use super::*;
    use crate::sample_inputs::Known;

    fn terms(image: &Tensor, text: &Tensor, scale: &Tensor, bias: &Tensor, rows_at_once: i64) -> LossTerms {
        let inputs = SiglipInputs {
            image: Gathered::single(image),
            text: Gathered::single(text),
            row_offset: 0,
            logit_scale: scale,
            logit_bias: bias,
        };
        sigmoid_by_rows(&inputs, rows_at_once)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_reference(
            b in 1i64..7, d in 1i64..6, chunk in 1i64..7, seed in 0i64..1000, scale in 0.5f64..20.0, bias in -12.0f64..3.0,
        ) {
            let (image, text) = (random(&[b, d], seed), random(&[b, d], seed + 1));
            let value = terms(&image, &text, &Tensor::from(scale), &Tensor::from(bias), chunk).total;
            assert_close(scalar(&value), reference::loss(&rows(&image), &rows(&text), scale, bias), 1e-10);
        }

        #[test]
        fn permuting_pairs_and_scaling_rows_change_nothing(b in 2i64..7, seed in 0i64..1000) {
            let (image, text) = (random(&[b, 4], seed), random(&[b, 4], seed + 1));
            let (scale, bias) = (Tensor::from(8.0f64), Tensor::from(-3.0f64));
            let value = scalar(&terms(&image, &text, &scale, &bias, 9).total);
            let permuted = terms(&image.flip([0]), &(text.flip([0]) * 3.0), &scale, &bias, 2).total;
            assert_close(scalar(&permuted), value, 1e-10);
        }
    }

    #[test]
    fn gives_the_known_value() {
        let known = Known::new();
        let value = terms(&known.image_bd, &known.text_bd, &Tensor::from(10.0f64), &Tensor::from(-10.0f64), 2).total;
        assert_close(scalar(&value), 19.652_085_188_3, 1e-9);
    }

    #[test]
    fn gradients_match_central_differences() {
        let (image, text) = (random(&[4, 3], 1), random(&[4, 3], 2));
        let (scale, bias) = (Tensor::from(7.0f64), Tensor::from(-2.0f64));
        for chunk in [1, 3, 4] {
            check_gradient(&image, 1e-6, |image| terms(image, &text, &scale, &bias, chunk).total);
            check_gradient(&text, 1e-6, |text| terms(&image, text, &scale, &bias, chunk).total);
            check_gradient(&scale, 1e-6, |scale| terms(&image, &text, scale, &bias, chunk).total);
            check_gradient(&bias, 1e-6, |bias| terms(&image, &text, &scale, bias, chunk).total);
        }
    }

    #[test]
    fn large_logits_neither_overflow_nor_vanish() {
        let basis = Tensor::eye(3, tch::kind::DOUBLE_CPU);
        let value = terms(&basis, &basis, &Tensor::from(1000.0f64), &Tensor::from(-500.0f64), 3).total;
        assert!(scalar(&value) < 1e-200 && scalar(&value) >= 0.0);
        let wrong = terms(&basis, &basis.flip([0]), &Tensor::from(1000.0f64), &Tensor::from(-500.0f64), 3).total;
        assert_close(scalar(&wrong), 2.0 / 3.0 * 1000.0, 1e-9);
    }

    #[test]
    fn diagnostics_are_mean_logits() {
        let basis = Tensor::eye(4, tch::kind::DOUBLE_CPU);
        let terms = terms(&basis, &basis, &Tensor::from(5.0f64), &Tensor::from(-1.0f64), 3);
        let named: Vec<(&str, f64)> =
            terms.diagnostics.iter().map(|(name, value)| (name.as_ref(), scalar(value))).collect();
        assert_eq!(named, [("positive_logit", 4.0), ("negative_logit", -1.0)]);
    }

    #[test]
    fn ranks_add_up_to_the_whole() {
        let leaves = [random(&[12, 3], 5), random(&[12, 3], 6), Tensor::from(9.0f64), Tensor::from(-4.0f64)];
        assert_ranks_add_up(12, &leaves, |leaves, rows| {
            let [image, text, scale, bias] = leaves else { unreachable!() };
            siglip_loss(&SiglipInputs {
                image: Gathered { local: &rows.of(image), global: image },
                text: Gathered { local: &rows.of(text), global: text },
                row_offset: rows.offset,
                logit_scale: scale,
                logit_bias: bias,
            })
            .total
        });
    }

    #[test]
    fn chunked_rows_equal_the_whole() {
        let (image, text) = (random(&[5, 3], 8), random(&[5, 3], 9));
        let run = |chunk: i64| {
            let leaves = [image.copy(), text.copy(), Tensor::from(6.0f64), Tensor::from(-1.0f64)]
                .map(|leaf| leaf.set_requires_grad(true));
            let value = terms(&leaves[0], &leaves[1], &leaves[2], &leaves[3], chunk).total;
            value.backward();
            let mut numbers = vec![scalar(&value)];
            leaves.iter().for_each(|leaf| numbers.extend(values(&leaf.grad())));
            numbers
        };
        for (chunked, whole) in [1, 2, 3].into_iter().flat_map(&run).zip(run(5).into_iter().cycle()) {
            assert_close(chunked, whole, 1e-12);
        }
    }
}
