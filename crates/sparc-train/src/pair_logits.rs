//! From the score of a pair to the logit that the run's loss makes of it.

use sparc_core::objectives::gloria::Temperatures;
use sparc_models::heads::LearnedScalar;
use sparc_models::networks::Network;

use crate::evaluation::Trained;
use crate::objective::{Objective, temperature};

/// A logit is `scale · score + bias`.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct PairLogits {
    /// Inverse temperature.
    pub scale: f64,
    /// SigLIP's; 0 elsewhere.
    pub bias: f64,
}

impl PairLogits {
    /// The logit of a score.
    pub fn logit(self, score: f32) -> f64 {
        self.scale * f64::from(score) + self.bias
    }
}

impl Trained {
    /// What the loss makes of [`Objective::pair_score`]'s scores. Of a sum it is the first part's that contrasts pooled
    /// embeddings.
    pub fn pair_logits(&self) -> PairLogits {
        pair_logits(&self.plan.config.objective, &self.network)
    }
}

fn pair_logits(objective: &Objective, network: &Network) -> PairLogits {
    let scaled = |scale: tch::Tensor| PairLogits { scale: scale.double_value(&[]), bias: 0.0 };
    let Network::DualEncoder(towers) = network else { return scaled(network.logit_scale()) };
    match objective {
        Objective::Siglip(_) => PairLogits {
            bias: towers.scalar(LearnedScalar::SiglipLogitBias).double_value(&[]),
            ..scaled(towers.scalar(LearnedScalar::SiglipLogitScale))
        },
        Objective::Filip(config) => scaled(temperature(towers, config.temperature, LearnedScalar::FilipLogitScale)),
        Objective::Pacl(config) => scaled(temperature(towers, config.temperature, LearnedScalar::PaclLogitScale)),
        Objective::Gloria(config) => match config.temperatures {
            Temperatures::Learned => scaled(towers.scalar(LearnedScalar::GloriaLogitScale)),
            Temperatures::Fixed => PairLogits { scale: config.logit_scale_init, bias: 0.0 },
        },
        Objective::Sum(parts) => {
            let pooled = parts.iter().find(|part| parts.len() == 1 || part.objective.trains_pooled());
            pooled.map_or_else(|| scaled(towers.logit_scale()), |part| pair_logits(&part.objective, network))
        }
        Objective::Clip(_)
        | Objective::Mgca(_)
        | Objective::Sparc(_)
        | Objective::Cloc(_)
        | Objective::Coca(_)
        | Objective::Sycoca(_)
        | Objective::Albef(_)
        | Objective::Nas(_) => scaled(towers.logit_scale()),
    }
}
