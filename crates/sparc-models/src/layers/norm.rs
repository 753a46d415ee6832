//! Layer normalisation (Ba et al. 2016).

use tch::Tensor;

use crate::{Init, ParameterBuilder};

/// Normalises the last dimension, then scales and shifts it.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    width: i64,
}

impl LayerNorm {
    /// PyTorch's default ε.
    const EPS: f64 = 1e-5;

    /// Starts as the plain normalisation: scale 1, shift 0.
    pub fn new(builder: &ParameterBuilder, width: i64) -> LayerNorm {
        LayerNorm {
            weight: builder.create("weight", &[width], Init::Constant(1.0)),
            bias: builder.create("bias", &[width], Init::Constant(0.0)),
            width,
        }
    }

    /// `[…, W]` → `[…, W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm([self.width], Some(&self.weight), Some(&self.bias), Self::EPS, false)
    }
}
