//! CLIP: the symmetric contrastive loss over image-text pairs (Radford et al. 2021, figure 3; written
//! L_g in SPARC's equation 1).
//!
//! With unit embeddings v, t, inverse temperature s and B pairs in the global batch:
//! `Z_ij = s ⟨v_i, t_j⟩`, `L = ½ (CE(Z, I) + CE(Zᵀ, I))`.

use tch::{Kind, Tensor};

use crate::contrast::{chunks, wants_gradient, with_gradients};
use crate::tensor_math::{at_least_f32, l2_normalize};
use crate::{Gathered, LossTerm, LossTerms};

// Dimension letters: b local rows, n rows of the global batch, d width.

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
    LossTerms::new(vec![LossTerm { name: "contrastive".into(), value, weight: 1.0 }], diagnostics)
}

/// Logits of a piece: 64 MiB in f32, and a few such matrices are held. A batch of 32,768 is contrasted 512 rows at a time.
const LOGITS_AT_ONCE: i64 = 1 << 24;

/// The symmetric contrastive loss and the accuracies inside the batch.
pub(super) fn contrastive(inputs: &ClipInputs) -> (Tensor, Vec<(&'static str, Tensor)>) {
    let columns = inputs.image.global.size().first().copied().unwrap_or(1);
    contrastive_by_rows(inputs, (LOGITS_AT_ONCE / columns.max(1)).max(1))
}

/// As [`contrastive`], with logits of `rows_at_once` rows held at a time.
///
/// The gradient is computed along with the value, chunk by chunk: for Z = s A Bᵀ and the loss of its
/// rows, ∂L/∂Z = softmax(Z) − I; nothing of the size of Z outlives its chunk.
fn contrastive_by_rows(inputs: &ClipInputs, rows_at_once: i64) -> (Tensor, Vec<(&'static str, Tensor)>) {
    let ClipInputs { image, text, row_offset, logit_scale } = *inputs;
    let (b, n) = check_pooled(image, text, row_offset);
    let unit = |rows: &Tensor| l2_normalize(&at_least_f32(rows));
    let (image_bd, text_bd) = (unit(image.local), unit(text.local));
    let scale = logit_scale.to_kind(image_bd.kind());
    let weight = 0.5 / b as f64;
    let matrix = |rows_bd: &Tensor, columns_nd: &Tensor, directions| {
        Logits { rows_bd, columns_nd, scale: &scale, row_offset, weight, rows_at_once, directions }.contrast()
    };
    let (value, image_accuracy, text_accuracy) = if b == n {
        // In one process the other direction is the same matrix, read along its columns.
        let both = matrix(&image_bd, &text_bd, Directions::Both);
        let inputs =
            [(&image_bd, both.rows_gradient), (&text_bd, both.columns_gradient), (&scale, both.scale_gradient)];
        (with_gradients(both.value, inputs), both.row_accuracy, both.column_accuracy)
    } else {
        let (image_nd, text_nd) = (unit(image.global), unit(text.global));
        let (forward, backward) =
            (matrix(&image_bd, &text_nd, Directions::Rows), matrix(&text_bd, &image_nd, Directions::Rows));
        let add = |a: Option<Tensor>, b: Option<Tensor>| Some(a? + b?);
        let inputs = [
            (&image_bd, forward.rows_gradient),
            (&text_nd, forward.columns_gradient),
            (&text_bd, backward.rows_gradient),
            (&image_nd, backward.columns_gradient),
            (&scale, add(forward.scale_gradient, backward.scale_gradient)),
        ];
        (with_gradients(forward.value + backward.value, inputs), forward.row_accuracy, backward.row_accuracy)
    };
    (value, vec![("image_to_text_accuracy", image_accuracy), ("text_to_image_accuracy", text_accuracy)])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Directions {
    Rows,
    Both,
}

/// The matrix Z = s A Bᵀ, never held whole. Row i's partner is column `row_offset + i`.
struct Logits<'a> {
    rows_bd: &'a Tensor,
    columns_nd: &'a Tensor,
    scale: &'a Tensor,
    row_offset: i64,
    /// What each cross-entropy is multiplied by.
    weight: f64,
    rows_at_once: i64,
    directions: Directions,
}

/// Gradients are there if anything wants one.
struct Contrasted {
    value: Tensor,
    row_accuracy: Tensor,
    /// Of [`Directions::Both`]; else undefined.
    column_accuracy: Tensor,
    rows_gradient: Option<Tensor>,
    columns_gradient: Option<Tensor>,
    scale_gradient: Option<Tensor>,
}

impl Logits<'_> {
    fn contrast(&self) -> Contrasted {
        let wanted = wants_gradient([self.rows_bd, self.columns_nd, self.scale]);
        tch::no_grad(|| {
            let (b, n, kind) = (self.rows_bd.size()[0], self.columns_nd.size()[0], self.rows_bd.kind());
            let options = (kind, self.rows_bd.device());
            let both = self.directions == Directions::Both;
            let mut row_lse = Vec::new();
            let mut own = Vec::new();
            let mut row_hits = Vec::new();
            let mut column_lse_n = Tensor::full([n], f64::NEG_INFINITY, options);
            let mut column_max_n = Tensor::full([n], f64::NEG_INFINITY, options);
            let mut column_best_n = Tensor::full([n], -1, (Kind::Int64, self.rows_bd.device()));
            let mut kept = None;
            for (start, size) in chunks(b, self.rows_at_once) {
                let logits_cn = self.logits(start, size);
                let labels_c1 = self.labels(start, size);
                own.push(logits_cn.gather(1, &labels_c1, false));
                row_hits.push(logits_cn.argmax(1, true).eq_tensor(&labels_c1).to_kind(Kind::Float));
                row_lse.push(logits_cn.logsumexp([1i64].as_slice(), true));
                if both {
                    column_lse_n = column_lse_n.logaddexp(&logits_cn.logsumexp([0i64].as_slice(), false));
                    let (max_n, row_n) = logits_cn.max_dim(0, false);
                    column_best_n = (row_n + start).where_self(&max_n.gt_tensor(&column_max_n), &column_best_n);
                    column_max_n = column_max_n.maximum(&max_n);
                }
                kept = (size == b).then_some(logits_cn);
            }
            let (row_lse_b1, own_b1) = (Tensor::cat(&row_lse, 0), Tensor::cat(&own, 0));
            let mut value = (&row_lse_b1 - &own_b1).sum(None::<Kind>);
            let mut column_accuracy = Tensor::new();
            if both {
                value += (&column_lse_n - own_b1.squeeze_dim(1)).sum(None::<Kind>);
                column_accuracy = column_best_n.eq_tensor(&self.labels(0, b).squeeze_dim(1)).mean(Kind::Float);
            }
            let mut result = Contrasted {
                value: value * self.weight,
                row_accuracy: Tensor::cat(&row_hits, 0).mean(Kind::Float),
                column_accuracy,
                rows_gradient: None,
                columns_gradient: None,
                scale_gradient: None,
            };
            if !wanted {
                return result;
            }
            let mut columns_gradient = self.columns_nd.zeros_like();
            let mut scale_gradient = self.scale.zeros_like();
            let mut rows_gradient = Vec::new();
            for (start, size) in chunks(b, self.rows_at_once) {
                let logits_cn = kept.take().unwrap_or_else(|| self.logits(start, size));
                let mut gradient_cn = (&logits_cn - row_lse_b1.narrow(0, start, size)).exp();
                if both {
                    gradient_cn += (logits_cn - &column_lse_n).exp();
                }
                let labels = self.labels(start, size);
                let minus = labels.ones_like().to_kind(kind) * if both { -2.0 } else { -1.0 };
                let gradient_cn = gradient_cn.scatter_add_(1, &labels, &minus) * self.weight;
                let rows_cd = self.rows_bd.narrow(0, start, size);
                let pulled_cd = gradient_cn.matmul(self.columns_nd);
                scale_gradient += (&pulled_cd * &rows_cd).sum(None::<Kind>);
                rows_gradient.push(pulled_cd * self.scale);
                columns_gradient += gradient_cn.tr().matmul(&rows_cd) * self.scale;
            }
            result.rows_gradient = Some(Tensor::cat(&rows_gradient, 0));
            result.columns_gradient = Some(columns_gradient);
            result.scale_gradient = Some(scale_gradient);
            result
        })
    }

    fn logits(&self, start: i64, size: i64) -> Tensor {
        self.rows_bd.narrow(0, start, size).matmul(&self.columns_nd.tr()) * self.scale
    }

    /// The partners of rows `start..start + size`, `[size, 1]`.
    fn labels(&self, start: i64, size: i64) -> Tensor {
        let first = self.row_offset + start;
        Tensor::arange_start(first, first + size, (Kind::Int64, self.rows_bd.device())).unsqueeze(1)
    }
}

/// Local and global batch, B and N.
pub(super) fn check_pooled(image: Gathered, text: Gathered, row_offset: i64) -> (i64, i64) {
    let (local, global) = (image.local.size(), image.global.size());
    assert!(
        local.len() == 2 && global.len() == 2 && local[1] == global[1],
        "pooled embeddings must be [B, D] and [N, D], got {local:?} and {global:?}"
    );
    assert!(
        text.local.size() == local && text.global.size() == global,
        "images are {local:?} of {global:?}, texts {:?} of {:?}",
        text.local.size(),
        text.global.size()
    );
    assert!(local[0] > 0, "an empty batch has no contrast");
    image.check_rows(row_offset)
}

#[cfg(test)]
pub(crate) mod reference {
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
    use sparc_testing::{assert_close, assert_ranks_add_up, check_gradient, random, rows, scalar, values};

    use super::*;

    #[test]
    fn chunked_rows_equal_the_whole() {
        let (image, text) = (random(&[5, 3], 8), random(&[5, 3], 9));
        let value_and_gradients = |rows_at_once: i64| {
            let leaves = [&image, &text, &Tensor::from(6.0f64)].map(|x| x.detach().copy().set_requires_grad(true));
            let [image, text, scale] = &leaves;
            let inputs = ClipInputs {
                image: Gathered::single(image),
                text: Gathered::single(text),
                row_offset: 0,
                logit_scale: scale,
            };
            let (value, diagnostics) = contrastive_by_rows(&inputs, rows_at_once);
            value.backward();
            let accuracies: Vec<f64> = diagnostics.iter().map(|(_, value)| scalar(value)).collect();
            (scalar(&value), leaves.map(|leaf| values(&leaf.grad())), accuracies)
        };
        let whole = value_and_gradients(5);
        for rows_at_once in [1, 2, 4] {
            let chunked = value_and_gradients(rows_at_once);
            assert_close(chunked.0, whole.0, 1e-12);
            assert_eq!(chunked.2, whole.2);
            for (chunked, whole) in chunked.1.iter().flatten().zip(whole.1.iter().flatten()) {
                assert_close(*chunked, *whole, 1e-12);
            }
        }
    }

    #[test]
    fn nothing_is_recorded_without_gradients() {
        let (image, text) = (random(&[3, 2], 1), random(&[3, 2], 2));
        assert!(!loss(&image, &text, 3.0).requires_grad());
        let leaf = image.set_requires_grad(true);
        assert!(!tch::no_grad(|| loss(&leaf, &text, 3.0)).requires_grad());
        assert!(loss(&leaf, &text, 3.0).requires_grad());
    }

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
        let leaves = [random(&[12, 4], 3), random(&[12, 4], 4), Tensor::from(9.0f64)];
        assert_ranks_add_up(12, &leaves, |leaves, rank| {
            clip_loss(&ClipInputs {
                image: Gathered { local: &rank.of(&leaves[0]), global: &leaves[0] },
                text: Gathered { local: &rank.of(&leaves[1]), global: &leaves[1] },
                row_offset: rank.offset,
                logit_scale: &leaves[2],
            })
            .total
        });
    }

    #[test]
    #[should_panic(expected = "images are [2, 3]")]
    fn a_shape_bug_panics_with_the_numbers() {
        let _ = loss(&random(&[2, 3], 0), &random(&[3, 3], 0), 1.0);
    }
}
