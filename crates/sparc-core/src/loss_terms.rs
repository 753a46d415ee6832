//! The value of an objective, with its parts.

use std::borrow::Cow;

use tch::Tensor;

/// One named part of an objective.
#[derive(Debug)]
pub struct LossTerm {
    /// Name used in logs, such as `global` or `local`.
    pub name: Cow<'static, str>,
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
    pub diagnostics: Vec<(Cow<'static, str>, Tensor)>,
}

impl LossTerms {
    /// Weighs and adds the terms.
    ///
    /// # Panics
    ///
    /// If there is no term, or a term is not a scalar.
    pub fn new<N: Into<Cow<'static, str>>>(terms: Vec<LossTerm>, diagnostics: Vec<(N, Tensor)>) -> LossTerms {
        for term in &terms {
            assert!(term.value.dim() == 0, "loss term `{}` has shape {:?}, not []", term.name, term.value.size());
        }
        let total = terms
            .iter()
            .map(|term| &term.value * term.weight)
            .reduce(|sum, next| sum + next)
            .expect("an objective has at least one term");
        let diagnostics = diagnostics.into_iter().map(|(name, value)| (name.into(), value)).collect();
        LossTerms { terms, total, diagnostics }
    }

    /// The weighted sum of several objectives; names get the objective's in front, `clip_contrastive`.
    ///
    /// # Panics
    ///
    /// If there is no objective.
    pub fn sum(parts: Vec<(&'static str, f64, LossTerms)>) -> LossTerms {
        let (mut terms, mut diagnostics) = (Vec::new(), Vec::new());
        for (objective, weight, part) in parts {
            let name = |name: &str| Cow::Owned(format!("{objective}_{name}"));
            terms.extend(part.terms.into_iter().map(|term| LossTerm {
                name: name(&term.name),
                weight: term.weight * weight,
                value: term.value,
            }));
            diagnostics.extend(part.diagnostics.into_iter().map(|(known, value)| (name(&known), value)));
        }
        LossTerms::new(terms, diagnostics)
    }

    /// The unweighted value of the term with this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.terms.iter().find(|term| term.name == name).map(|term| &term.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_weighs_and_names_its_parts() {
        let part = |name: &'static str, value: f64, weight: f64| {
            LossTerms::new(
                vec![LossTerm { name: name.into(), value: Tensor::from(value), weight }],
                vec![("accuracy", Tensor::from(0.5))],
            )
        };
        let sum =
            LossTerms::sum(vec![("clip", 2.0, part("contrastive", 3.0, 1.0)), ("sparc", 1.0, part("local", 5.0, 0.5))]);
        assert_eq!(sum.total.double_value(&[]), 8.5);
        assert_eq!(sum.get("clip_contrastive").unwrap().double_value(&[]), 3.0);
        assert_eq!(sum.diagnostics[1].0, "sparc_accuracy");
    }
}
