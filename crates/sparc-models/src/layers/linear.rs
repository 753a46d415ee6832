//! Affine map of the last dimension.

use tch::Tensor;

use crate::{Init, ParameterBuilder};

/// `y = x Wᵀ + b`, with W `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Creates `weight` and, if asked for, a zero `bias`.
    pub fn new(builder: &ParameterBuilder, inputs: i64, outputs: i64, bias: bool, init: Init) -> Linear {
        Linear {
            weight: builder.create("weight", &[outputs, inputs], init),
            bias: bias.then(|| builder.create("bias", &[outputs], Init::Constant(0.0))),
        }
    }

    /// The map to some of the outputs alone; it shares the parameters.
    pub fn outputs(&self, start: i64, size: i64) -> Linear {
        Linear {
            weight: self.weight.narrow(0, start, size),
            bias: self.bias.as_ref().map(|bias| bias.narrow(0, start, size)),
        }
    }

    /// `[…, in]` → `[…, out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}
