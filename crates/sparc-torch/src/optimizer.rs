//! Fused AdamW and gradient norms over lists of tensors.
#![expect(unsafe_code, reason = "calls into the C++ bridge")]

use tch::Tensor;

use crate::bridge::{Error, check, pointers, sparc_fused_adamw, sparc_scale, sparc_total_norm};

/// Hyper-parameters of one AdamW update (Loshchilov and Hutter 2019, algorithm 2; decoupled decay
/// multiplied by the learning rate, as in PyTorch).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwStep {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
}

/// Updates parameters and moments in place, in one pass over memory.
///
/// `steps` are scalar f32 tensors that hold how many updates have been made *including* this one:
/// the caller counts.
///
/// # Errors
///
/// Lists of different lengths, or what LibTorch says about shapes and kinds.
pub fn fused_adamw(
    parameters: &[&Tensor],
    gradients: &[&Tensor],
    first_moments: &[&Tensor],
    second_moments: &[&Tensor],
    steps: &[&Tensor],
    step: AdamwStep,
) -> Result<(), Error> {
    let lists = [
        ("gradients", gradients),
        ("first moments", first_moments),
        ("second moments", second_moments),
        ("steps", steps),
    ];
    for (what, list) in lists {
        if list.len() != parameters.len() {
            return Err(Error::Length { what, expected: parameters.len(), actual: list.len() });
        }
    }
    // SAFETY: the five arrays have `parameters.len()` valid tensor pointers each, which outlive the call.
    check(unsafe {
        sparc_fused_adamw(
            pointers(parameters).as_ptr(),
            pointers(gradients).as_ptr(),
            pointers(first_moments).as_ptr(),
            pointers(second_moments).as_ptr(),
            pointers(steps).as_ptr(),
            parameters.len(),
            step.learning_rate,
            step.beta1,
            step.beta2,
            step.weight_decay,
            step.eps,
        )
    })
}

/// The L2 norm of all tensors together, as a scalar tensor on their device (nothing waits for it).
///
/// # Errors
///
/// An empty list, or what LibTorch says about devices.
pub fn total_norm(tensors: &[&Tensor]) -> Result<Tensor, Error> {
    if tensors.is_empty() {
        return Err(Error::Length { what: "tensors", expected: 1, actual: 0 });
    }
    let mut result = std::ptr::null_mut();
    // SAFETY: as above; on success the bridge has written one new, owned tensor to `result`.
    unsafe {
        check(sparc_total_norm(pointers(tensors).as_ptr(), tensors.len(), &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// Multiplies every tensor in place by the scalar tensor `factor`.
///
/// # Errors
///
/// What LibTorch says about kinds and devices.
pub fn scale_in_place(tensors: &[&Tensor], factor: &Tensor) -> Result<(), Error> {
    // SAFETY: as above.
    check(unsafe { sparc_scale(pointers(tensors).as_ptr(), tensors.len(), factor.as_ptr().cast_mut()) })
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    const STEP: AdamwStep = AdamwStep { learning_rate: 0.1, beta1: 0.9, beta2: 0.98, weight_decay: 0.2, eps: 1e-6 };

    #[test]
    fn adamw_follows_the_published_update() {
        let (parameter, gradient) = (Tensor::from_slice(&[1.0f64, -2.0]), Tensor::from_slice(&[0.5f64, 3.0]));
        let (first, second) = (parameter.zeros_like(), parameter.zeros_like());
        let (mut value, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
        for t in 1..=3 {
            let steps = Tensor::from(t as f32);
            fused_adamw(&[&parameter], &[&gradient], &[&first], &[&second], &[&steps], STEP).unwrap();
            for (i, g) in [0.5, 3.0].into_iter().enumerate() {
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.98 * v[i] + 0.02 * g * g;
                let (m_hat, v_hat) = (m[i] / (1.0 - 0.9f64.powi(t)), v[i] / (1.0 - 0.98f64.powi(t)));
                value[i] -= 0.1 * 0.2 * value[i];
                value[i] -= 0.1 * m_hat / (v_hat.sqrt() + 1e-6);
            }
        }
        for (i, expected) in value.into_iter().enumerate() {
            assert!((parameter.double_value(&[i as i64]) - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn norm_and_scale_work_on_lists() {
        let (a, b) = (Tensor::from_slice(&[3.0f32]), Tensor::from_slice(&[0.0f32, 4.0]));
        let norm = total_norm(&[&a, &b]).unwrap();
        assert_eq!(norm.double_value(&[]), 5.0);
        scale_in_place(&[&a, &b], &(norm.reciprocal())).unwrap();
        assert!((total_norm(&[&a, &b]).unwrap().double_value(&[]) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn misfits_are_errors_not_crashes() {
        let (a, b) =
            (Tensor::zeros([2], (Kind::Float, tch::Device::Cpu)), Tensor::zeros([3], (Kind::Float, tch::Device::Cpu)));
        let error = fused_adamw(&[&a], &[], &[&a], &[&a], &[&a], STEP).unwrap_err();
        assert_eq!(error.to_string(), "gradients: expected 1 tensors, got 0");
        assert!(matches!(fused_adamw(&[&a], &[&b], &[&a], &[&a], &[&a], STEP), Err(Error::LibTorch(_))));
        assert!(total_norm(&[]).is_err());
    }
}
