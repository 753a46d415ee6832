//! The value of an objective, with its parts.

use tch::Tensor;

/// One named part of an objective.
#[derive(Debug)]
pub struct LossTerm {
    /// Name used in logs, such as `global` or `local`.
    pub name: &'static str,
    /// Unweighted value, a scalar in f32 (f64 for f64 inputs).
    pub value: Tensor,
    /// Weight in the total.
    pub weight: f64,
}

/// Named terms, their weights, the total, and scalars worth logging.
#[derive(Debug)]
pub struct LossTerms {
    /// The parts, in a fixed order.
    pub terms: Vec<LossTerm>,
    /// Sum of weight × value: what backward starts from.
    pub total: Tensor,
    /// Scalars to log that take no part in the total (detached).
    pub diagnostics: Vec<(&'static str, Tensor)>,
}

impl LossTerms {
    /// Weighs and adds the terms.
    ///
    /// # Panics
    ///
    /// If there is no term, or a term is not a scalar.
    pub fn new(terms: Vec<LossTerm>, diagnostics: Vec<(&'static str, Tensor)>) -> LossTerms {
        for term in &terms {
            assert!(term.value.dim() == 0, "loss term `{}` has shape {:?}, not []", term.name, term.value.size());
        }
        let total = terms
            .iter()
            .map(|term| &term.value * term.weight)
            .reduce(|sum, next| sum + next)
            .expect("an objective has at least one term");
        LossTerms { terms, total, diagnostics }
    }

    /// The unweighted value of the term with this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.terms.iter().find(|term| term.name == name).map(|term| &term.value)
    }
}
