//! One training step: a function of its arguments.

use sparc_core::{Batch, LossTerms};
use sparc_models::networks::{Network, Seen};
use tch::Tensor;

use crate::captioners;
use crate::error::Error;
use crate::features::Features;
use crate::matching;
use crate::objective::Objective;
use crate::optimizer::AdamW;

/// Numbers of one step, in the order they are logged.
#[derive(Debug, Clone, PartialEq)]
pub struct StepMetrics {
    /// `loss`, its terms, diagnostics, `logit_scale` and what else the objective learns, `grad_norm`, `learning_rate`.
    pub values: Vec<(String, f64)>,
}

impl StepMetrics {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// Forward, backward, update, clamp; then what follows the parameters without a gradient. `seed` is the run's.
///
/// # Errors
///
/// A loss or gradient that is not finite: parameters are as they were before the step then.
pub fn step(
    network: &mut Network,
    optimizer: &mut AdamW,
    objective: &Objective,
    batch: &Batch,
    seed: u64,
    learning_rate: f64,
) -> Result<StepMetrics, Error> {
    let number = optimizer.updates() + 1;
    let not_finite = |what| Error::NotFinite { step: number, what, keys: batch.keys.clone() };
    if let Network::Albef(network) = network {
        network.start_dictionary(&batch.images_bchw, seed);
    }
    let (terms, seen) = loss(network, objective, batch, Moment { seed, updates: optimizer.updates() });
    let total = terms.total.double_value(&[]);
    if !total.is_finite() {
        return Err(not_finite("the loss"));
    }
    let logit_scale = network.logit_scale().double_value(&[]);
    let learned: Vec<(String, f64)> = network
        .learned_scalars()
        .into_iter()
        .map(|(name, scalar)| (name.to_owned(), scalar.double_value(&[])))
        .collect();
    terms.total.backward();
    let grad_norm = optimizer.step(learning_rate)?;
    if !grad_norm.is_finite() {
        return Err(not_finite("the gradient"));
    }
    network.after_update();
    let restarts = follow(network, seen, seed);
    let scalar = |tensor: &Tensor| tensor.double_value(&[]);
    let mut values = vec![("loss".to_owned(), total)];
    values.extend(terms.terms.iter().map(|term| (format!("loss_{}", term.name), scalar(&term.value))));
    values.extend(terms.diagnostics.iter().map(|(name, value)| (name.to_string(), scalar(value))));
    values.push(("logit_scale".into(), logit_scale));
    values.extend(learned);
    values.extend(restarts.map(|n| ("dictionary_restarts".to_owned(), n as f64)));
    values.push(("grad_norm".into(), grad_norm));
    values.push(("learning_rate".into(), learning_rate));
    Ok(StepMetrics { values })
}

/// When a loss is computed, as far as it depends on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The run's seed.
    pub seed: u64,
    /// Optimizer steps made.
    pub updates: u64,
}

/// The number of codes that started anew, of a network with a dictionary.
fn follow(network: &mut Network, seen: Option<Seen>, seed: u64) -> Option<usize> {
    match (network, seen) {
        (Network::Albef(network), Some(seen)) => {
            let restarts = network.follow(&seen, seed);
            network.dictionary().map(|_| restarts)
        }
        _ => None,
    }
}

/// The objective's value on a batch, and what the network is to follow after the update.
///
/// # Panics
///
/// If the network is not of the objective's kind, which the plan refuses.
pub fn loss(network: &Network, objective: &Objective, batch: &Batch, moment: Moment) -> (LossTerms, Option<Seen>) {
    match network {
        Network::DualEncoder(network) => {
            (objective.loss(network, &Features::new(network, objective, batch), moment.updates), None)
        }
        Network::Coca(network) => (captioners::loss(network, objective, batch, moment), None),
        Network::Albef(network) => {
            let (terms, seen) = matching::loss(network, objective, batch, moment);
            (terms, Some(seen))
        }
    }
}
