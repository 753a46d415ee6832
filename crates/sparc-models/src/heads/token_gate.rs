//! SOHO's gate between what a patch is and what the dictionary makes of it.

use sparc_core::objectives::nas::VisualTokens;
use tch::{Kind, Tensor};

use crate::layers::Linear;
use crate::{Init, ParameterBuilder};

// Dimension letters: b batch, p patches, w width.

/// For each patch g₁ · W q + g₂ · v with (g₁, g₂) = softmax(G [W q; v]).
#[derive(Debug)]
pub struct TokenGate {
    quantised: Linear,
    gate: Linear,
}

impl TokenGate {
    /// Xavier uniform; the gate starts even, with weights of 0.
    pub fn new(builder: &ParameterBuilder, width: i64) -> TokenGate {
        TokenGate {
            quantised: Linear::new(&builder.under("quantised"), width, width, true, Init::Xavier),
            gate: Linear::new(&builder.under("gate"), 2 * width, 2, true, Init::Constant(0.0)),
        }
    }

    /// The tokens that the fusion encoder gets, `[B, P, W]`.
    pub fn forward(&self, tokens: &VisualTokens) -> Tensor {
        let quantised_bpw = self.quantised.forward(&tokens.quantised_bpc);
        let both = Tensor::cat(&[&quantised_bpw, &tokens.continuous_bpc], -1);
        let gates_bp2 = self.gate.forward(&both).softmax(-1, None::<Kind>);
        quantised_bpw * gates_bp2.narrow(2, 0, 1) + &tokens.continuous_bpc * gates_bp2.narrow(2, 1, 1)
    }
}
