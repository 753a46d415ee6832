//! AdamW over named tensors with a state that can be saved, and its learning-rate schedule.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sparc_models::Parameters;
use sparc_torch::AdamwStep;
use tch::Tensor;

use crate::error::Error;

/// Hyper-parameters. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Learning rate that the cosine ends at, one step after the last.
    pub final_learning_rate: f64,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; not applied to parameters of fewer than two dimensions.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; `null` turns clipping off.
    pub clip_grad_norm: Option<f64>,
}

impl OptimizerConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self, steps: u64) -> Result<(), String> {
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(format!("optimizer.learning_rate must be positive, got {}", self.learning_rate));
        }
        if !(0.0..=self.learning_rate).contains(&self.final_learning_rate) {
            return Err(format!(
                "optimizer.final_learning_rate must lie in [0, learning_rate], got {}",
                self.final_learning_rate
            ));
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(format!("optimizer.{name} must lie in [0, 1), got {value}"));
            }
        }
        if self.eps <= 0.0 || self.weight_decay < 0.0 {
            return Err("optimizer.eps must be positive and optimizer.weight_decay at least 0".into());
        }
        if self.clip_grad_norm.is_some_and(|norm| norm <= 0.0) {
            return Err("optimizer.clip_grad_norm must be positive, or null for none".into());
        }
        if self.warmup_steps >= steps {
            return Err(format!(
                "optimizer.warmup_steps ({}) must be smaller than train.steps ({steps})",
                self.warmup_steps
            ));
        }
        Ok(())
    }

    /// Learning rate of step `step` (1 is the first) of `steps`: linear warm-up, then half a cosine
    /// down to the final rate.
    pub fn learning_rate_at(&self, step: u64, steps: u64) -> f64 {
        if step <= self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps as f64;
        }
        let done = (step - 1 - self.warmup_steps) as f64 / (steps - self.warmup_steps).max(1) as f64;
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
        self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * cosine
    }
}

struct Slot {
    parameter: Tensor,
    first_moment: Tensor,
    second_moment: Tensor,
    /// What the learning rate is multiplied by.
    rate: f64,
}

/// AdamW's state: two moments a parameter, and the number of updates made.
pub struct AdamW {
    config: OptimizerConfig,
    slots: BTreeMap<String, Slot>,
    updates: u64,
}

fn clear(gradients: &[(&Slot, Tensor)]) {
    for (slot, _) in gradients {
        slot.parameter.shallow_clone().zero_grad();
    }
}

impl AdamW {
    /// Fresh moments for every parameter that wants a gradient; frozen ones are left alone.
    pub fn new(config: OptimizerConfig, parameters: &Parameters) -> AdamW {
        let slots = parameters
            .iter()
            .filter(|(_, parameter)| parameter.requires_grad())
            .map(|(name, parameter)| {
                let slot = Slot {
                    parameter: parameter.shallow_clone(),
                    first_moment: parameter.zeros_like().detach(),
                    second_moment: parameter.zeros_like().detach(),
                    rate: 1.0,
                };
                (name.to_owned(), slot)
            })
            .collect();
        AdamW { config, slots, updates: 0 }
    }

    /// The same with the learning rate of each parameter multiplied by what `rate` says of its name.
    pub fn with_rates(mut self, rate: impl Fn(&str) -> f64) -> AdamW {
        self.slots.iter_mut().for_each(|(name, slot)| slot.rate = rate(name));
        self
    }

    /// Clips the gradients, updates all parameters with them and clears them. Gives the norm of the
    /// whole gradient before clipping; where that is not finite, nothing is updated.
    ///
    /// # Errors
    ///
    /// What LibTorch says; nothing has been updated then.
    pub fn step(&mut self, learning_rate: f64) -> Result<f64, Error> {
        // A parameter that the objective does not reach has no gradient and stays as it is.
        let gradients: Vec<(&Slot, Tensor)> = self
            .slots
            .values()
            .map(|slot| (slot, slot.parameter.grad()))
            .filter(|(_, gradient)| gradient.defined())
            .collect();
        let flat: Vec<&Tensor> = gradients.iter().map(|(_, gradient)| gradient).collect();
        let norm = sparc_torch::total_norm(&flat)?;
        if let Some(limit) = self.config.clip_grad_norm {
            // PyTorch's clip_grad_norm_: scale by limit / (norm + 1e-6), never up.
            let factor: Tensor = ((&norm + 1e-6).reciprocal() * limit).clamp_max(1.0);
            sparc_torch::scale_in_place(&flat, &factor)?;
        }
        let norm = norm.double_value(&[]);
        if !norm.is_finite() {
            clear(&gradients);
            return Ok(norm);
        }
        self.updates += 1;
        let mut rates: Vec<f64> = gradients.iter().map(|(slot, _)| slot.rate).collect();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        for rate in rates {
            let of_rate = gradients.iter().filter(|(slot, _)| slot.rate == rate);
            let (decayed, plain): (Vec<_>, Vec<_>) = of_rate.partition(|(slot, _)| slot.parameter.dim() >= 2);
            for (group, weight_decay) in [(decayed, self.config.weight_decay), (plain, 0.0)] {
                if group.is_empty() {
                    continue;
                }
                self.update(
                    &group,
                    AdamwStep {
                        learning_rate: learning_rate * rate,
                        beta1: self.config.beta1,
                        beta2: self.config.beta2,
                        weight_decay,
                        eps: self.config.eps,
                    },
                )?;
            }
        }
        clear(&gradients);
        Ok(norm)
    }

    fn update(&self, group: &[&(&Slot, Tensor)], step: AdamwStep) -> Result<(), Error> {
        let updates = Tensor::from(self.updates as f32).to_device(group[0].0.parameter.device());
        sparc_torch::fused_adamw(
            &group.iter().map(|(slot, _)| &slot.parameter).collect::<Vec<_>>(),
            &group.iter().map(|(_, gradient)| gradient).collect::<Vec<_>>(),
            &group.iter().map(|(slot, _)| &slot.first_moment).collect::<Vec<_>>(),
            &group.iter().map(|(slot, _)| &slot.second_moment).collect::<Vec<_>>(),
            &vec![&updates; group.len()],
            step,
        )?;
        Ok(())
    }

    /// Number of updates made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The moments by name, to be saved.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.slots
            .iter()
            .flat_map(|(name, slot)| {
                [
                    (format!("{name}.exp_avg"), slot.first_moment.shallow_clone()),
                    (format!("{name}.exp_avg_sq"), slot.second_moment.shallow_clone()),
                ]
            })
            .collect()
    }

    /// Takes over saved moments.
    ///
    /// # Errors
    ///
    /// Every difference between what is saved and what is needed; nothing has been taken over then.
    pub fn load(&mut self, saved: &BTreeMap<String, Tensor>, updates: u64) -> Result<(), Vec<String>> {
        let state = self.state();
        let differences = sparc_models::differences(&state, saved);
        if !differences.is_empty() {
            return Err(differences);
        }
        tch::no_grad(|| {
            for (name, mut tensor) in state {
                tensor.copy_(&saved[&name]);
            }
        });
        self.updates = updates;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sparc_models::{Init, ParameterBuilder};
    use tch::{Device, Kind};

    use super::*;

    const CONFIG: OptimizerConfig = OptimizerConfig {
        learning_rate: 0.1,
        final_learning_rate: 0.01,
        warmup_steps: 10,
        beta1: 0.9,
        beta2: 0.98,
        eps: 1e-6,
        weight_decay: 0.5,
        clip_grad_norm: Some(1.0),
    };

    fn parameters() -> Parameters {
        let builder = ParameterBuilder::new(0, Kind::Double, Device::Cpu);
        let _ = builder.create("matrix", &[2, 2], Init::Constant(1.0));
        let _ = builder.create("vector", &[2], Init::Constant(1.0));
        builder.finish()
    }

    #[test]
    fn the_schedule_warms_up_and_cools_down() {
        assert!((CONFIG.learning_rate_at(1, 110) - 0.01).abs() < 1e-12);
        assert!((CONFIG.learning_rate_at(10, 110) - 0.1).abs() < 1e-12);
        assert!((CONFIG.learning_rate_at(61, 110) - 0.055).abs() < 1e-12);
        assert!((CONFIG.learning_rate_at(111, 110) - 0.01).abs() < 1e-12);
        let without = OptimizerConfig { warmup_steps: 0, ..CONFIG };
        assert!(without.learning_rate_at(1, 1).is_finite());
    }

    #[test]
    fn only_matrices_decay_and_the_norm_is_clipped() {
        let parameters = parameters();
        let mut optimizer = AdamW::new(CONFIG, &parameters);
        let (matrix, vector) = (parameters.get("matrix").unwrap(), parameters.get("vector").unwrap());
        // No gradient but a zero one: decay alone moves a parameter.
        ((matrix.sum(Kind::Double) + vector.sum(Kind::Double)) * 0.0).backward();
        assert_eq!(optimizer.step(0.1).unwrap(), 0.0);
        assert!((matrix.double_value(&[0, 0]) - 0.95).abs() < 1e-12);
        assert_eq!(vector.double_value(&[0]), 1.0);
        // Gradient (10, 10, 10, 10, 10, 10): norm √600, clipped to 1.
        ((matrix.sum(Kind::Double) + vector.sum(Kind::Double)) * 10.0).backward();
        assert!((optimizer.step(0.1).unwrap() - 600f64.sqrt()).abs() < 1e-9);
        let moment = optimizer.state()["vector.exp_avg"].double_value(&[0]);
        assert!((moment - 0.1 / 6f64.sqrt()).abs() < 1e-6, "{moment}");
        assert_eq!(vector.grad().abs().max().double_value(&[]), 0.0);
    }

    #[test]
    fn rates_scale_steps_and_frozen_parameters_have_no_state() {
        let step = |rate: f64, frozen: bool| {
            let parameters = parameters();
            let (matrix, vector) = (parameters.get("matrix").unwrap(), parameters.get("vector").unwrap());
            if frozen {
                let _ = matrix.set_requires_grad(false);
            }
            let mut optimizer =
                AdamW::new(CONFIG, &parameters).with_rates(|name| if name == "matrix" { rate } else { 1.0 });
            (matrix.sum(Kind::Double) + vector.sum(Kind::Double)).backward();
            optimizer.step(0.1).unwrap();
            (1.0 - matrix.double_value(&[0, 0]), 1.0 - vector.double_value(&[0]), optimizer.state().len())
        };
        let ((whole, vector, n_whole), (tenth, same, _), (frozen, _, n_frozen)) =
            (step(1.0, false), step(0.1, false), step(1.0, true));
        // Decay is scaled with the rate, as it is by the schedule.
        assert!((tenth / whole - 0.1).abs() < 1e-9 && vector == same && frozen == 0.0, "{whole} {tenth}");
        assert_eq!((n_whole, n_frozen), (4, 2));
    }

    #[test]
    fn a_gradient_that_is_not_finite_updates_nothing() {
        let parameters = parameters();
        let mut optimizer = AdamW::new(CONFIG, &parameters);
        (parameters.get("vector").unwrap().sum(Kind::Double) * f64::NAN).backward();
        assert!(optimizer.step(0.1).unwrap().is_nan());
        assert_eq!((optimizer.updates(), parameters.get("vector").unwrap().double_value(&[0])), (0, 1.0));
    }

    #[test]
    fn saved_state_must_fit() {
        let mut optimizer = AdamW::new(CONFIG, &parameters());
        let mut saved: BTreeMap<_, _> = optimizer.state().into_iter().map(|(k, v)| (k, v.copy() + 1.0)).collect();
        optimizer.load(&saved, 5).unwrap();
        assert_eq!((optimizer.updates(), optimizer.state()["matrix.exp_avg"].double_value(&[0, 0])), (5, 1.0));
        saved.remove("vector.exp_avg");
        assert_eq!(optimizer.load(&saved, 6).unwrap_err(), ["missing: vector.exp_avg [2]"]);
    }

    #[test]
    fn wrong_values_are_named() {
        let wrong = OptimizerConfig { warmup_steps: 20, ..CONFIG };
        assert!(wrong.validate(20).unwrap_err().contains("warmup_steps"));
        assert!(OptimizerConfig { beta2: 1.0, ..CONFIG }.validate(20).unwrap_err().contains("beta2"));
    }
}
