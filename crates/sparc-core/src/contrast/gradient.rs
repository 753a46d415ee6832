//! Losses that compute their gradient along with their value, a chunk at a time.

use tch::{Device, Kind, Tensor};

/// The scalar `value`, whose backward pass sends to each input its gradient times the incoming one.
/// Inputs without a gradient get none.
pub(crate) fn with_gradients<'a>(
    value: Tensor,
    inputs: impl IntoIterator<Item = (&'a Tensor, Option<Tensor>)>,
) -> Tensor {
    let (inputs, gradients): (Vec<&Tensor>, Vec<Tensor>) =
        inputs.into_iter().filter_map(|(input, gradient)| Some((input, gradient?))).unzip();
    sparc_torch::custom_gradient(value, &inputs, gradients).expect("every gradient has the shape of its input")
}

/// Whether any of the tensors wants a gradient, and gradients are recorded at all.
pub(crate) fn wants_gradient<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    // tch cannot be asked for the mode: the result of an operation tells it.
    let records = || (Tensor::zeros([0], (Kind::Float, Device::Cpu)).set_requires_grad(true) * 1.0).requires_grad();
    tensors.into_iter().any(Tensor::requires_grad) && records()
}

/// `0..total` in pieces of at most `at_once`: their starts and sizes.
pub(crate) fn chunks(total: i64, at_once: i64) -> impl Iterator<Item = (i64, i64)> {
    let at_once = at_once.max(1);
    (0..total.max(0)).step_by(at_once as usize).map(move |start| (start, at_once.min(total - start)))
}
