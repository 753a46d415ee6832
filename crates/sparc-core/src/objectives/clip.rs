//! CLIP: the symmetric contrastive loss over image-text pairs (Radford et al. 2021, figure 3; written
//! L_g in SPARC's equation 1).
//!
//! With unit embeddings v, t, inverse temperature s and B pairs in the global batch:
//! `Z_ij = s ⟨v_i, t_j⟩`, `L = ½ (CE(Z, I) + CE(Zᵀ, I))`.

use tch::{Kind, Reduction, Tensor};

use crate::tensor_math::{at_least_f32, l2_normalize};
use crate::{LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, d width.

/// This process's rows of an embedding, and all rows of the global batch.
///
/// In one process both are the same tensor. With several, `global_nd` is gathered with gradient.
#[derive(Debug, Clone, Copy)]
pub struct Gathered<'a> {
    /// Local rows, `[B, D]`.
    pub local_bd: &'a Tensor,
    /// All rows, `[N, D]`, N ≥ B.
    pub global_nd: &'a Tensor,
}

impl<'a> Gathered<'a> {
    /// One process: the local rows are all there is.
    pub fn single(rows_bd: &'a Tensor) -> Gathered<'a> {
        Gathered { local_bd: rows_bd, global_nd: rows_bd }
    }
}

/// What the network must provide.
#[derive(Debug, Clone, Copy)]
pub struct ClipInputs<'a> {
    /// Pooled image embeddings, not normalised.
    pub image: Gathered<'a>,
    /// Pooled text embeddings, not normalised.
    pub text: Gathered<'a>,
    /// Index in the global batch of the first local row; 0 in one process.
    pub row_offset: i64,
    /// Inverse temperature s = 1/τ (already exponentiated), a scalar.
    pub logit_scale: &'a Tensor,
}

/// The CLIP loss of the local rows against all columns, with one term, `contrastive`.
///
/// The mean of this value over processes with equal B is the loss of the joined batch.
/// Diagnostics: `image_to_text_accuracy`, `text_to_image_accuracy` inside the batch.
///
/// # Shapes
///
/// image and text: local `[B, D]`, global `[N, D]`; `logit_scale` `[]`.
///
/// # Panics
///
/// If shapes disagree, or the local rows do not lie inside the global ones.
pub fn clip_loss(inputs: &ClipInputs) -> LossTerms {
    let (value, diagnostics) = contrastive(inputs);
    LossTerms::new(vec![LossTerm { name: "contrastive", value, weight: 1.0 }], diagnostics)
}

/// The symmetric contrastive loss and the accuracies inside the batch.
pub(super) fn contrastive(inputs: &ClipInputs) -> (Tensor, Vec<(&'static str, Tensor)>) {
    let ClipInputs { image, text, row_offset, logit_scale } = *inputs;
    let (b, n) = check_shapes(image, text, row_offset);
    let unit = |rows: &Tensor| l2_normalize(&at_least_f32(rows));
    let (image_bd, text_bd) = (unit(image.local_bd), unit(text.local_bd));
    // In one process the global rows are the local ones: normalising them twice would be waste.
    let image_nd = if b == n { image_bd.shallow_clone() } else { unit(image.global_nd) };
    let text_nd = if b == n { text_bd.shallow_clone() } else { unit(text.global_nd) };

    let scale = logit_scale.to_kind(image_bd.kind());
    let labels_b = Tensor::arange_start(row_offset, row_offset + b, (Kind::Int64, image_bd.device()));
    let direction = |rows_bd: &Tensor, columns_nd: &Tensor| {
        let logits_bn = rows_bd.matmul(&columns_nd.tr()) * &scale;
        let accuracy = logits_bn.detach().argmax(1, false).eq_tensor(&labels_b).mean(Kind::Float);
        (logits_bn.cross_entropy_loss::<Tensor>(&labels_b, None, Reduction::Mean, -100, 0.0), accuracy)
    };
    let (image_to_text, image_accuracy) = direction(&image_bd, &text_nd);
    let (text_to_image, text_accuracy) = direction(&text_bd, &image_nd);
    (
        (image_to_text + text_to_image) * 0.5,
        vec![("image_to_text_accuracy", image_accuracy), ("text_to_image_accuracy", text_accuracy)],
    )
}

fn check_shapes(image: Gathered, text: Gathered, row_offset: i64) -> (i64, i64) {
    let (local, global) = (image.local_bd.size(), image.global_nd.size());
    assert!(
        local.len() == 2 && global.len() == 2 && local[1] == global[1],
        "pooled embeddings must be [B, D] and [N, D], got {local:?} and {global:?}"
    );
    assert!(
        text.local_bd.size() == local && text.global_nd.size() == global,
        "images are {local:?} of {global:?}, texts {:?} of {:?}",
        text.local_bd.size(),
        text.global_nd.size()
    );
    let (b, n) = (local[0], global[0]);
    assert!(
        row_offset >= 0 && row_offset + b <= n,
        "local rows {row_offset}..{} are not inside the global batch of {n}",
        row_offset + b
    );
    (b, n)
}

#[cfg(test)]
pub(super) mod reference {
    //! The equations in scalar f64 loops; independent of the tensor code.

    /// L_g of `image[i][d]`, `text[j][d]`: returns (image→text, text→image).
    pub fn contrastive(image: &[Vec<f64>], text: &[Vec<f64>], scale: f64) -> (f64, f64) {
        let b = image.len();
        let mut z = vec![vec![0.0; b]; b];
        for i in 0..b {
            for j in 0..b {
                z[i][j] = scale * cosine(&image[i], &text[j]);
            }
        }
        let transposed: Vec<Vec<f64>> = (0..b).map(|j| (0..b).map(|i| z[i][j]).collect()).collect();
        (mean_cross_entropy(&z), mean_cross_entropy(&transposed))
    }

    pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
        let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        dot / (norm(a) * norm(b))
    }

    fn mean_cross_entropy(rows: &[Vec<f64>]) -> f64 {
        let total: f64 = rows.iter().enumerate().map(|(i, row)| log_sum_exp(row) - row[i]).sum();
        total / rows.len() as f64
    }

    pub fn log_sum_exp(values: &[f64]) -> f64 {
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + values.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparc_testing::{assert_close, check_gradient, random, rows, scalar};

    use super::*;

    fn loss(image: &Tensor, text: &Tensor, scale: f64) -> Tensor {
        let logit_scale = Tensor::from(scale).to_kind(image.kind());
        clip_loss(&ClipInputs {
            image: Gathered::single(image),
            text: Gathered::single(text),
            row_offset: 0,
            logit_scale: &logit_scale,
        })
        .total
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_reference(b in 1i64..7, d in 1i64..6, seed in 0i64..1000, scale in 0.5f64..50.0) {
            let (image, text) = (random(&[b, d], seed), random(&[b, d], seed + 1));
            let (forward, backward) = reference::contrastive(&rows(&image), &rows(&text), scale);
            assert_close(scalar(&loss(&image, &text, scale)), 0.5 * (forward + backward), 1e-10);
        }

        #[test]
        fn scaling_rows_and_permuting_pairs_change_nothing(b in 2i64..7, seed in 0i64..1000) {
            let (image, text) = (random(&[b, 4], seed), random(&[b, 4], seed + 1));
            let value = scalar(&loss(&image, &text, 10.0));
            assert_close(scalar(&loss(&(&image * 3.0), &(&text * 0.2), 10.0)), value, 1e-10);
            assert_close(scalar(&loss(&image.flip([0]), &text.flip([0]), 10.0)), value, 1e-10);
        }
    }

    #[test]
    fn gradients_match_central_differences() {
        let (image, text) = (random(&[4, 3], 1), random(&[4, 3], 2));
        check_gradient(&image, 1e-6, |image| loss(image, &text, 7.0));
        check_gradient(&text, 1e-6, |text| loss(&image, text, 7.0));
        check_gradient(&Tensor::from(7.0f64), 1e-6, |scale| {
            clip_loss(&ClipInputs {
                image: Gathered::single(&image),
                text: Gathered::single(&text),
                row_offset: 0,
                logit_scale: scale,
            })
            .total
        });
    }

    #[test]
    fn identical_orthogonal_pairs_reach_the_known_bound() {
        // With an orthonormal basis as both, every row is [s, 0, …, 0]: the loss is ln(1 + (B-1)e^-s).
        let basis = Tensor::eye(5, tch::kind::DOUBLE_CPU);
        assert_close(scalar(&loss(&basis, &basis, 3.0)), (1.0 + 4.0 * (-3.0f64).exp()).ln(), 1e-12);
    }

    #[test]
    fn zero_embeddings_give_a_finite_gradient() {
        let image = Tensor::zeros([3, 4], tch::kind::DOUBLE_CPU).set_requires_grad(true);
        let text = random(&[3, 4], 5);
        loss(&image, &text, 10.0).backward();
        assert!(image.grad().isfinite().all().int64_value(&[]) == 1);
    }

    #[test]
    fn rows_of_simulated_processes_add_up_to_the_whole() {
        let (image, text) = (random(&[6, 4], 3), random(&[6, 4], 4));
        let whole = {
            let (image, text) = (image.detach().set_requires_grad(true), text.detach().set_requires_grad(true));
            let value = loss(&image, &text, 9.0);
            value.backward();
            (scalar(&value), image.grad(), text.grad())
        };
        for parts in [1, 2, 3] {
            let (image, text) = (image.detach().set_requires_grad(true), text.detach().set_requires_grad(true));
            let size = 6 / parts;
            let scale = Tensor::from(9.0f64);
            let mut sum = Tensor::from(0.0f64);
            for part in 0..parts {
                let offset = part * size;
                sum += clip_loss(&ClipInputs {
                    image: Gathered { local_bd: &image.narrow(0, offset, size), global_nd: &image },
                    text: Gathered { local_bd: &text.narrow(0, offset, size), global_nd: &text },
                    row_offset: offset,
                    logit_scale: &scale,
                })
                .total;
            }
            let mean = sum / parts as f64;
            mean.backward();
            assert_close(scalar(&mean), whole.0, 1e-12);
            assert!((image.grad() - &whole.1).abs().max().double_value(&[]) < 1e-12);
            assert!((text.grad() - &whole.2).abs().max().double_value(&[]) < 1e-12);
        }
    }

    #[test]
    #[should_panic(expected = "images are [2, 3]")]
    fn a_shape_bug_panics_with_the_numbers() {
        let _ = loss(&random(&[2, 3], 0), &random(&[3, 3], 0), 1.0);
    }
}
