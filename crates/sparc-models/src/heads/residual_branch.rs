//! The two-layer branch of PACL's vision embedder.

use tch::Tensor;

use crate::layers::Linear;
use crate::{Init, ParameterBuilder};

/// Linear, ReLU, linear, added to the linear adapter's output (Mukhoti et al. 2023, figure 3).
#[derive(Debug)]
pub struct ResidualBranch {
    hidden: Linear,
    output: Linear,
}

impl ResidualBranch {
    /// From `width` over `embed_dim` to `embed_dim`, N(0, 1 / input width).
    pub fn new(builder: &ParameterBuilder, width: i64, embed_dim: i64) -> ResidualBranch {
        let linear = |name: &str, inputs: i64| {
            Linear::new(&builder.under(name), inputs, embed_dim, true, Init::Normal((inputs as f64).powf(-0.5)))
        };
        ResidualBranch { hidden: linear("hidden", width), output: linear("output", embed_dim) }
    }

    /// `[…, width]` → `[…, embed_dim]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.output.forward(&self.hidden.forward(x).relu())
    }
}
