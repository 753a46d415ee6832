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
