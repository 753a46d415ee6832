//! Numbers with their intervals, and the metric keys of both.

use serde::{Deserialize, Serialize};

use crate::metrics::{Bootstrap, ImageMeans, Interval};

/// How intervals are drawn; images are resampled.
pub(super) const BOOTSTRAP: Bootstrap = Bootstrap { confidence: 0.95, n_resamples: 2000, seed: 0 };
/// One for all, so that equal cases have equal intervals.
pub(super) const PURPOSE: &str = "evaluation";

/// A number with the interval of its bootstrap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The number.
    pub value: f64,
    /// Where it would lie on other images of the kind, with the protocol's confidence.
    #[serde(flatten)]
    pub interval: Interval,
}

impl Measured {
    /// A number and the interval of the means that it is one of; `None` where there are no cases.
    pub(super) fn of(value: Option<f64>, cases: &ImageMeans) -> Option<Measured> {
        Some(Measured { value: value?, interval: cases.interval(PURPOSE, BOOTSTRAP)? })
    }

    /// The mean of values of cases, each with its image; `None` without any.
    pub(super) fn mean(cases: impl ExactSizeIterator<Item = (usize, f64)> + Clone) -> Option<Measured> {
        let n_cases = cases.len();
        let mean = cases.clone().map(|case| case.1).sum::<f64>() / n_cases as f64;
        Measured::of((n_cases > 0).then_some(mean), &cases.collect())
    }
}

/// Metric keys with their values. A key's `.low` and `.high` are the ends of its interval; other details are named so, too.
#[derive(Debug, Default)]
pub(super) struct MetricKeys(pub Vec<(String, f64)>);

impl MetricKeys {
    /// A number, if it exists.
    pub fn number(&mut self, key: &str, value: impl Into<Option<f64>>) {
        self.0.extend(value.into().map(|value| (key.to_owned(), value)));
    }

    /// A number with its interval, if it exists.
    pub fn measured(&mut self, key: &str, measured: impl Into<Option<Measured>>) {
        let Some(Measured { value, interval }) = measured.into() else { return };
        self.number(key, value);
        self.detail(key, "low", interval.low);
        self.detail(key, "high", interval.high);
    }

    /// What else is to be known of a key.
    pub fn detail(&mut self, key: &str, name: &str, value: f64) {
        self.0.push((format!("{key}.{name}"), value));
    }
}
