//! What the tests of several crates share: seeded tensors, comparisons, gradient checks.

use tch::{Kind, Tensor};

/// A seeded standard-normal f64 tensor. The values depend on shape and seed alone, not on the
/// global generator, so tests may run in any order and in parallel.
pub fn random(shape: &[i64], seed: i64) -> Tensor {
    let count: i64 = shape.iter().product();
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let mut uniform = || {
        // xorshift64*, Vigna 2016: plenty for test inputs.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    };
    for _ in 0..8 {
        uniform();
    }
    let values: Vec<f64> =
        (0..count).map(|_| (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()).collect();
    Tensor::from_slice(&values).reshape(shape)
}

/// The value of a scalar tensor.
pub fn scalar(x: &Tensor) -> f64 {
    x.double_value(&[])
}

/// All values in row-major order.
pub fn values(x: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(x.to_kind(Kind::Double).contiguous().view([-1])).expect("a tensor of numbers")
}

/// A matrix as rows.
pub fn rows(x: &Tensor) -> Vec<Vec<f64>> {
    let width = x.size()[1] as usize;
    values(x).chunks(width).map(<[f64]>::to_vec).collect()
}

/// A three-dimensional tensor as nested vectors.
pub fn cube(x: &Tensor) -> Vec<Vec<Vec<f64>>> {
    (0..x.size()[0]).map(|i| rows(&x.get(i))).collect()
}

/// Panics unless `actual` is within `tolerance` of `expected` (absolute, or relative above 1).
#[track_caller]
pub fn assert_close(actual: f64, expected: f64, tolerance: f64) {
    let bound = tolerance * expected.abs().max(1.0);
    assert!((actual - expected).abs() <= bound, "got {actual:.12}, expected {expected:.12} ± {bound:e}");
}

/// Compares autograd's gradient of the scalar function `f` at the f64 tensor `at` with central
/// differences, element by element.
///
/// # Panics
///
/// If an element differs by more than `tolerance` (absolute, or relative above 1).
#[track_caller]
pub fn check_gradient(at: &Tensor, tolerance: f64, f: impl Fn(&Tensor) -> Tensor) {
    assert_eq!(at.kind(), Kind::Double, "gradient checks need f64");
    let leaf = at.detach().copy().set_requires_grad(true);
    f(&leaf).backward();
    let analytic = values(&leaf.grad());
    let base = values(at);
    let step = 1e-6;
    let at_shifted = |index: usize, shift: f64| {
        let mut shifted = base.clone();
        shifted[index] += shift;
        scalar(&tch::no_grad(|| f(&Tensor::from_slice(&shifted).reshape(at.size()))))
    };
    for (index, &gradient) in analytic.iter().enumerate() {
        let numeric = (at_shifted(index, step) - at_shifted(index, -step)) / (2.0 * step);
        let bound = tolerance * numeric.abs().max(1.0);
        assert!(
            (gradient - numeric).abs() <= bound,
            "gradient of element {index}: autograd {gradient:.9}, central difference {numeric:.9}"
        );
    }
}

/// The rows of one simulated process.
#[derive(Debug, Clone, Copy)]
pub struct RankRows {
    /// Index of its first row.
    pub offset: i64,
    /// Number of its rows.
    pub size: i64,
    /// Number of simulated processes.
    pub ranks: i64,
}

impl RankRows {
    /// Its rows of a tensor.
    pub fn of(&self, rows: &Tensor) -> Tensor {
        rows.narrow(0, self.offset, self.size)
    }
}

/// Splits a batch of `n` rows over 1, 2, 3 and 4 simulated processes and panics unless the mean of their
/// losses, and its gradient at every leaf, is the whole batch's to 1e-9 (f64).
///
/// `loss` gets the leaves (whole tensors, gathered with gradient) and the rows of one process.
///
/// # Panics
///
/// If `n` is no multiple of 12, or something differs.
#[track_caller]
pub fn assert_ranks_add_up(n: i64, leaves: &[Tensor], loss: impl Fn(&[Tensor], RankRows) -> Tensor) {
    assert_eq!(n % 12, 0, "{n} rows cannot be split over 1 to 4 processes");
    let run = |ranks: i64| {
        let leaves: Vec<Tensor> =
            leaves.iter().map(|leaf| leaf.detach().copy().set_requires_grad(leaf.is_floating_point())).collect();
        let size = n / ranks;
        let losses: Vec<Tensor> =
            (0..ranks).map(|rank| loss(&leaves, RankRows { offset: rank * size, size, ranks })).collect();
        let mean = Tensor::stack(&losses, 0).mean(Kind::Double);
        mean.backward();
        let gradients: Vec<Vec<f64>> = leaves
            .iter()
            .map(|leaf| leaf.grad())
            .map(|gradient| if gradient.defined() { values(&gradient) } else { Vec::new() })
            .collect();
        (scalar(&mean), gradients)
    };
    let whole = run(1);
    for ranks in [2, 3, 4] {
        let split = run(ranks);
        assert_close(split.0, whole.0, 1e-9);
        for (index, (split, whole)) in split.1.iter().zip(&whole.1).enumerate() {
            assert_eq!(split.len(), whole.len(), "leaf {index} has a gradient in one case only");
            for (split, whole) in split.iter().zip(whole) {
                let bound = 1e-9 * whole.abs().max(1.0);
                assert!((split - whole).abs() <= bound, "{ranks} ranks, leaf {index}: {split} instead of {whole}");
            }
        }
    }
}
