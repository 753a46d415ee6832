//! Exact counts of whole numbers, their quantiles, and bins to draw.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::SerializeStruct;

/// How often each value came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: BTreeMap<u64, u64>,
}

/// A range of values and how many there are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// First value of the range.
    pub from: u64,
    /// Last value of the range.
    pub to: u64,
    /// Values in it.
    pub count: u64,
}

/// Bins of a drawing at most.
const MAX_BINS: u64 = 12;

impl Histogram {
    /// One more of `value`.
    pub fn add(&mut self, value: u64) {
        *self.counts.entry(value).or_default() += 1;
    }

    /// All of another histogram.
    pub fn merge(&mut self, other: &Histogram) {
        for (&value, &count) in &other.counts {
            *self.counts.entry(value).or_default() += count;
        }
    }

    /// Every value that came, with how often it did.
    pub(super) fn counts(&self) -> Vec<(u64, u64)> {
        self.counts.iter().map(|(&value, &count)| (value, count)).collect()
    }

    /// What [`Histogram::counts`] has given.
    pub(super) fn from_counts(counts: &[(u64, u64)]) -> Histogram {
        let mut histogram = Histogram::default();
        for &(value, count) in counts {
            *histogram.counts.entry(value).or_default() += count;
        }
        histogram
    }

    /// How often `value` came.
    pub fn count_of(&self, value: u64) -> u64 {
        self.counts.get(&value).copied().unwrap_or(0)
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Their mean; NaN if there are none.
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.counts.iter().map(|(&value, &count)| value as f64 * count as f64).sum();
        sum / self.count() as f64
    }

    /// The smallest value that at least the share `q` of all values does not exceed.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let wanted = (q * self.count() as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        self.counts.iter().find_map(|(&value, &count)| {
            below += count;
            (below >= wanted).then_some(value)
        })
    }

    /// Bins of equal width, 1, 2 or 5 times a power of ten, from the smallest value on. The last one
    /// takes what is above the 99th percentile.
    pub fn bins(&self) -> Vec<Bin> {
        let (Some(low), Some(high), Some(most)) = (self.quantile(0.0), self.quantile(0.99), self.quantile(1.0)) else {
            return Vec::new();
        };
        let widths =
            (0..20).flat_map(|power| [1, 2, 5].map(|digit: u64| digit.saturating_mul(10u64.saturating_pow(power))));
        let fits = |&width: &u64| high / width - low / width < MAX_BINS;
        let width = widths.into_iter().find(fits).unwrap_or(u64::MAX);
        let mut bins: Vec<Bin> = (low / width..=high / width)
            .map(|index| Bin { from: index * width, to: (index * width).saturating_add(width - 1), count: 0 })
            .collect();
        let last = bins.len() - 1;
        for (&value, &count) in &self.counts {
            let place = ((value / width - low / width) as usize).min(last);
            bins[place].count += count;
        }
        bins[last].to = bins[last].to.max(most);
        bins
    }
}

/// Count, mean, quantiles and bins.
impl Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Histogram", 8)?;
        object.serialize_field("count", &self.count())?;
        object.serialize_field("mean", &Some(self.mean()).filter(|mean| mean.is_finite()))?;
        for (name, q) in [("min", 0.0), ("p5", 0.05), ("p50", 0.5), ("p95", 0.95), ("max", 1.0)] {
            object.serialize_field(name, &self.quantile(q))?;
        }
        object.serialize_field("bins", &self.bins())?;
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.add(value));
        histogram
    }

    #[test]
    fn quantiles_are_values_that_occur() {
        let histogram = of(&[5, 1, 9, 1]);
        let quantiles: Vec<_> = [0.0, 0.5, 0.51, 0.75, 1.0].iter().map(|&q| histogram.quantile(q).unwrap()).collect();
        assert_eq!(quantiles, [1, 1, 5, 5, 9]);
        assert_eq!(histogram.mean(), 4.0);
        assert_eq!((of(&[]).quantile(0.5), of(&[]).bins()), (None, vec![]));
    }

    #[test]
    fn bins_have_round_edges() {
        let bins = of(&[103, 180, 199, 240, 260]).bins();
        let shown: Vec<_> = bins.iter().map(|bin| (bin.from, bin.to, bin.count)).collect();
        assert_eq!(
            shown,
            [
                (100, 119, 1),
                (120, 139, 0),
                (140, 159, 0),
                (160, 179, 0),
                (180, 199, 2),
                (200, 219, 0),
                (220, 239, 0),
                (240, 259, 1),
                (260, 279, 1)
            ]
        );
        assert_eq!(of(&[0; 4]).bins(), [Bin { from: 0, to: 0, count: 4 }]);
        assert_eq!(of(&[u64::MAX, 0]).bins().iter().map(|bin| bin.count).sum::<u64>(), 2);
    }

    proptest! {
        #[test]
        fn bins_hold_everything_and_do_not_overlap(values in proptest::collection::vec(0u64..5_000, 1..60)) {
            let histogram = of(&values);
            let bins = histogram.bins();
            prop_assert!(bins.len() as u64 <= MAX_BINS);
            prop_assert!(bins.windows(2).all(|pair| pair[0].to + 1 == pair[1].from));
            for bin in &bins {
                let inside = values.iter().filter(|&&value| (bin.from..=bin.to).contains(&value)).count();
                prop_assert_eq!(bin.count, inside as u64);
            }
            prop_assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), values.len() as u64);
        }
    }
}
