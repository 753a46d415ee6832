//! Named parameters: unique names, stateless initialisation, strict loading.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sparc_core::seed;
use tch::{Device, Kind, Tensor};

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Every element the same.
    Constant(f64),
    /// Normal with this standard deviation.
    Normal(f64),
    /// These values, row by row.
    Given(&'static [f64]),
    /// Uniform in ±√(6 / (fan in + fan out)), for a matrix `[out, in]` (Glorot and Bengio 2010).
    Xavier,
}

/// All trainable tensors of a network, by name, in the order of their names.
///
/// The order is the same on every machine: it may be used for reductions, saving and norms.
#[derive(Debug, Default)]
pub struct Parameters {
    tensors: BTreeMap<String, Tensor>,
}

impl Parameters {
    /// Name and tensor of every parameter, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Number of named tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of scalars in all tensors.
    pub fn count(&self) -> usize {
        self.tensors.values().map(Tensor::numel).sum()
    }

    /// Copies values from `source` after checking that names, shapes and kinds agree.
    ///
    /// # Errors
    ///
    /// Every difference there is, one a line; nothing has been copied then.
    pub fn load(&mut self, source: &BTreeMap<String, Tensor>) -> Result<(), Vec<String>> {
        let differences = differences(&self.tensors, source);
        if !differences.is_empty() {
            return Err(differences);
        }
        tch::no_grad(|| {
            for (name, tensor) in &mut self.tensors {
                tensor.copy_(&source[name]);
            }
        });
        Ok(())
    }
}

/// What keeps `source` from being loaded into `expected`: missing, unknown, of another shape or kind.
pub fn differences(expected: &BTreeMap<String, Tensor>, source: &BTreeMap<String, Tensor>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, tensor) in expected {
        match source.get(name) {
            None => found.push(format!("missing: {name} {:?}", tensor.size())),
            Some(other) if other.size() != tensor.size() => {
                found.push(format!("shape: {name} is {:?} in the file, {:?} in the model", other.size(), tensor.size()))
            }
            Some(other) if other.kind() != tensor.kind() => {
                found.push(format!("kind: {name} is {:?} in the file, {:?} in the model", other.kind(), tensor.kind()))
            }
            Some(_) => {}
        }
    }
    found.extend(source.keys().filter(|name| !expected.contains_key(*name)).map(|name| format!("unknown: {name}")));
    found
}

/// Creates parameters under a path; clones with [`ParameterBuilder::under`] share one store.
#[derive(Debug, Clone)]
pub struct ParameterBuilder {
    store: Rc<RefCell<Parameters>>,
    path: String,
    /// None: every value is 0.
    seed: Option<u64>,
    kind: Kind,
    device: Device,
}

impl ParameterBuilder {
    /// A builder for a new, empty store.
    pub fn new(seed: u64, kind: Kind, device: Device) -> ParameterBuilder {
        ParameterBuilder { store: Rc::default(), path: String::new(), seed: Some(seed), kind, device }
    }

    /// A builder whose parameters start at 0 and cost no draws: for values that come from elsewhere, or to be counted.
    pub fn blank(kind: Kind, device: Device) -> ParameterBuilder {
        ParameterBuilder { seed: None, ..ParameterBuilder::new(0, kind, device) }
    }

    /// The builder for a part: names get the prefix `part.`.
    pub fn under(&self, part: impl std::fmt::Display) -> ParameterBuilder {
        ParameterBuilder { path: self.name(&part.to_string()), ..self.clone() }
    }

    /// Creates one parameter. Its values depend on seed and full name alone, not on what was
    /// created before.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn create(&self, name: &str, shape: &[i64], init: Init) -> Tensor {
        let name = self.name(name);
        let Some(seed) = self.seed else {
            return self.put(name, Tensor::zeros(shape, (self.kind, self.device)));
        };
        let values = |draw: &mut dyn FnMut(&mut ChaCha8Rng) -> f64| {
            let mut generator = ChaCha8Rng::seed_from_u64(seed::derive(seed, &[b"parameter", name.as_bytes()]));
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| draw(&mut generator)).collect();
            Tensor::from_slice(&values).view(shape).to_kind(self.kind).to_device(self.device)
        };
        // Not LibTorch's generator: that one is shared by all threads of the process.
        let tensor = match init {
            Init::Constant(value) => Tensor::full(shape, value, (self.kind, self.device)),
            Init::Normal(deviation) => {
                values(&mut |generator| deviation * Distribution::<f64>::sample(&StandardNormal, generator))
            }
            Init::Given(given) => Tensor::from_slice(given).view(shape).to_kind(self.kind).to_device(self.device),
            Init::Xavier => {
                let bound = (6.0 / (shape[0] + shape[1]) as f64).sqrt();
                values(&mut |generator| generator.random_range(-bound..bound))
            }
        };
        self.put(name, tensor)
    }

    fn put(&self, name: String, tensor: Tensor) -> Tensor {
        let tensor = tensor.set_requires_grad(true);
        let handle = tensor.shallow_clone();
        let previous = self.store.borrow_mut().tensors.insert(name.clone(), tensor);
        assert!(previous.is_none(), "two parameters are named {name}");
        handle
    }

    /// The finished store.
    ///
    /// # Panics
    ///
    /// If another builder of the same store is still alive.
    pub fn finish(self) -> Parameters {
        Rc::into_inner(self.store).expect("every other builder has been dropped").into_inner()
    }

    fn name(&self, part: &str) -> String {
        if self.path.is_empty() { part.to_owned() } else { format!("{}.{part}", self.path) }
    }
}
