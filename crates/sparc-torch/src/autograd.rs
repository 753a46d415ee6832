//! What tch does not bind of autograd: vector-Jacobian products, and gradients written by hand.
#![expect(unsafe_code, reason = "calls into the C++ bridge")]

use tch::Tensor;

use crate::bridge::{Error, RawTensor, check, describe, pointers, sparc_custom_gradient, sparc_vjp};

/// Vector-Jacobian product: for every input, Σ_i `grad_outputs[i]`ᵀ · ∂`outputs[i]`/∂input.
///
/// Nothing is accumulated into `.grad()`, and the graph of `outputs` is freed. `None` where no output
/// depends on an input. The results carry no graph of their own (no second derivative).
///
/// # Shapes
///
/// `grad_outputs[i]` has the shape of `outputs[i]`, the result the shapes of `inputs`.
///
/// # Errors
///
/// Lists of different lengths; what LibTorch says of shapes, of an output without a graph or with one
/// that was freed, and of an input that does not require gradients.
pub fn vjp(outputs: &[&Tensor], inputs: &[&Tensor], grad_outputs: &[&Tensor]) -> Result<Vec<Option<Tensor>>, Error> {
    if grad_outputs.len() != outputs.len() {
        return Err(Error::Length { what: "grad_outputs", expected: outputs.len(), actual: grad_outputs.len() });
    }
    let mut gradients: Vec<RawTensor> = vec![std::ptr::null_mut(); inputs.len()];
    // SAFETY: the arrays have the lengths that are passed with them and hold valid tensor pointers,
    // which outlive the call. On success every non-null entry is a new tensor that is owned here; on
    // failure no entry was written.
    unsafe {
        check(sparc_vjp(
            pointers(outputs).as_ptr(),
            pointers(grad_outputs).as_ptr(),
            outputs.len(),
            pointers(inputs).as_ptr(),
            inputs.len(),
            gradients.as_mut_ptr(),
        ))?;
        Ok(gradients
            .into_iter()
            .map(|gradient| if gradient.is_null() { None } else { Some(Tensor::from_ptr(gradient)) })
            .collect())
    }
}

/// A scalar with a hand-written backward: equal to `value`, it sends `grad_output · gradients[i]` to
/// `inputs[i]`.
///
/// This is for losses that compute their gradient chunk by chunk in the forward pass, so that no chunk's
/// graph has to live until the backward pass. A graph that `value` or a gradient carries is ignored.
/// Gradients of inputs that require none are dropped; under [`tch::no_grad`], or if no input requires
/// gradients, the result is a plain tensor. The gradients are freed by the backward pass.
///
/// # Shapes
///
/// `value` is a scalar; `gradients[i]` has the shape, kind and device of `inputs[i]`.
///
/// # Errors
///
/// Lists of different lengths, or tensors that do not fit. The backward pass fails, as tch reports it,
/// under `create_graph` (there is no second derivative) and when run twice without keeping the graph.
pub fn custom_gradient(value: Tensor, inputs: &[&Tensor], gradients: Vec<Tensor>) -> Result<Tensor, Error> {
    if gradients.len() != inputs.len() {
        return Err(Error::Length { what: "gradients", expected: inputs.len(), actual: gradients.len() });
    }
    if !value.size().is_empty() {
        return Err(Error::tensor("value", "a scalar", &value));
    }
    for (i, (input, gradient)) in inputs.iter().zip(&gradients).enumerate() {
        let fits =
            input.size() == gradient.size() && input.kind() == gradient.kind() && input.device() == gradient.device();
        if !fits {
            return Err(Error::tensor(format!("gradient {i}"), describe(input), gradient));
        }
    }
    let gradients: Vec<&Tensor> = gradients.iter().collect();
    let mut result = std::ptr::null_mut();
    // SAFETY: as above; on success the bridge has written one new, owned tensor to `result`. The bridge
    // keeps its own references to the gradients.
    unsafe {
        check(sparc_custom_gradient(
            value.as_ptr().cast_mut(),
            pointers(inputs).as_ptr(),
            pointers(&gradients).as_ptr(),
            inputs.len(),
            &mut result,
        ))?;
        Ok(Tensor::from_ptr(result))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn leaf(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
    }

    #[test]
    fn vjp_multiplies_by_the_vectors_and_accumulates_nothing() {
        let (x, y, unused) = (leaf(&[1.0, 2.0, 3.0]), leaf(&[4.0, 5.0, 6.0]), leaf(&[7.0]));
        let outputs = [&x * &y, x.exp()];
        let vectors = [Tensor::from_slice(&[1.0f64, 10.0, 100.0]), Tensor::from_slice(&[0.0f64, 1.0, 0.0])];
        let gradients = vjp(&[&outputs[0], &outputs[1]], &[&x, &y, &unused], &[&vectors[0], &vectors[1]]).unwrap();
        assert_eq!(values(gradients[0].as_ref().unwrap()), [4.0, 50.0 + 2.0f64.exp(), 600.0]);
        assert_eq!(values(gradients[1].as_ref().unwrap()), [1.0, 20.0, 300.0]);
        assert!(gradients[2].is_none());
        assert!(!gradients[0].as_ref().unwrap().requires_grad());
        assert!(!x.grad().defined());
    }

    #[test]
    fn vjp_works_under_no_grad_and_on_inner_tensors() {
        let x = leaf(&[2.0]);
        let inner = &x * 3.0;
        let output = &inner * &inner;
        let gradients = tch::no_grad(|| vjp(&[&output], &[&inner], &[&Tensor::from_slice(&[1.0f64])])).unwrap();
        assert_eq!(values(gradients[0].as_ref().unwrap()), [12.0]);
    }

    #[test]
    fn misfits_of_vjp_are_errors() {
        let x = leaf(&[1.0, 2.0]);
        let (output, one) = (&x * 2.0, Tensor::from_slice(&[1.0f64]));
        assert!(matches!(vjp(&[&output], &[&x], &[]), Err(Error::Length { .. })));
        assert!(matches!(vjp(&[&output], &[&x], &[&one]), Err(Error::LibTorch(_))));
        assert!(matches!(vjp(&[&output], &[&one], &[&output]), Err(Error::LibTorch(_))));
        assert!(matches!(vjp(&[&one], &[&x], &[&one]), Err(Error::LibTorch(_))));
    }

    #[test]
    fn vjp_frees_the_graph() {
        let x = leaf(&[1.0]);
        let output = x.exp();
        let one = Tensor::from_slice(&[1.0f64]);
        vjp(&[&output], &[&x], &[&one]).unwrap();
        assert!(matches!(vjp(&[&output], &[&x], &[&one]), Err(Error::LibTorch(_))));
    }

    #[test]
    fn custom_gradients_reach_leaves_and_inner_tensors_times_the_outer_gradient() {
        let (x, y) = (leaf(&[1.0, 2.0]), leaf(&[3.0]));
        let inner = &y * 10.0;
        let gradients = vec![Tensor::from_slice(&[5.0f64, 7.0]), Tensor::from_slice(&[0.5f64])];
        let value = custom_gradient(Tensor::from(2.5f64), &[&x, &inner], gradients).unwrap();
        assert_eq!(value.double_value(&[]), 2.5);
        assert!(value.requires_grad());
        (value * 2.0).backward();
        assert_eq!(values(&x.grad()), [10.0, 14.0]);
        assert_eq!(values(&y.grad()), [10.0]);
    }

    #[test]
    fn a_narrow_input_gets_a_gradient_of_its_own_kind() {
        let x = Tensor::from_slice(&[1.0f32, 2.0]).to_kind(Kind::BFloat16).set_requires_grad(true);
        let gradient = Tensor::from_slice(&[0.5f32, 4.0]).to_kind(Kind::BFloat16);
        custom_gradient(Tensor::from(1.0f32), &[&x], vec![gradient]).unwrap().backward();
        assert_eq!(x.grad().kind(), Kind::BFloat16);
        assert_eq!(values(&x.grad()), [0.5, 4.0]);
    }

    #[test]
    fn inputs_without_gradients_and_no_grad_are_honoured() {
        let (x, fixed) = (leaf(&[1.0]), Tensor::from_slice(&[2.0f64]));
        let gradients = || vec![Tensor::from_slice(&[3.0f64]), Tensor::from_slice(&[4.0f64])];
        custom_gradient(Tensor::from(0.0f64), &[&x, &fixed], gradients()).unwrap().backward();
        assert_eq!(values(&x.grad()), [3.0]);
        assert!(!fixed.grad().defined());
        let plain = tch::no_grad(|| custom_gradient(Tensor::from(0.0f64), &[&x, &fixed], gradients())).unwrap();
        assert!(!plain.requires_grad());
        let plain =
            custom_gradient(Tensor::from(0.0f64), &[&fixed], gradients()[..1].iter().map(Tensor::copy).collect());
        assert!(!plain.unwrap().requires_grad());
    }

    #[test]
    fn second_derivatives_and_second_runs_are_errors() {
        let x = leaf(&[1.0]);
        let value = || custom_gradient(Tensor::from(0.0f64), &[&x], vec![Tensor::from_slice(&[1.0f64])]).unwrap();
        let error = Tensor::f_run_backward(&[value()], &[&x], true, true).unwrap_err();
        assert!(error.to_string().contains("no second derivative"), "{error}");
        let twice = value();
        twice.backward();
        assert!(twice.f_backward().unwrap_err().to_string().contains("second time"));
        let kept = value();
        for _ in 0..2 {
            assert!(Tensor::f_run_backward(&[&kept], &[&x], true, false).is_ok());
        }
    }

    #[test]
    fn misfits_of_custom_gradients_are_errors() {
        let x = leaf(&[1.0, 2.0]);
        let one = || Tensor::from_slice(&[1.0f64]);
        let error = custom_gradient(Tensor::from(0.0f64), &[&x], vec![one()]).unwrap_err();
        assert_eq!(error.to_string(), "gradient 0: expected Double [2] on Cpu, got Double [1] on Cpu");
        assert!(matches!(custom_gradient(one(), &[&x], vec![x.ones_like()]), Err(Error::Tensor { .. })));
        assert!(matches!(custom_gradient(Tensor::from(0.0f64), &[&x], vec![]), Err(Error::Length { .. })));
        let wrong_kind = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert!(matches!(custom_gradient(Tensor::from(0.0f64), &[&x], vec![wrong_kind]), Err(Error::Tensor { .. })));
    }
}
