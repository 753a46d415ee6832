//! The percentile bootstrap (Efron 1979): how far a number over a few hundred cases can be trusted.
//!
//! What is resampled are *units*, such as images: the cases of one image are not independent, and resampling cases as if
//! they were makes intervals too narrow. Draws depend on the seed, the purpose and the number of the resample alone,
//! never on what was drawn before, and callers put units into an order of their own: the interval is the same for every
//! order of the same data.
//!
//! Where all cases are right the interval has no width: a bootstrap cannot draw what was not seen.

use serde::{Deserialize, Serialize};
use sparc_core::seed;

/// How an interval is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Probability that the interval is to cover the number with, such as 0.95.
    pub confidence: f64,
    /// How many resamples; some thousand for 0.95.
    pub n_resamples: usize,
    /// The run's seed.
    pub seed: u64,
}

/// An interval around a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// Interval of a statistic of `n_units` units: quantiles over resamples with replacement, between which the confidence
/// lies. `statistic` gets how often each unit was drawn; resamples of which it makes nothing are left out. `purpose`
/// keeps two intervals of one seed apart; `None` without units or without any value.
///
/// # Panics
///
/// If the confidence is not inside (0, 1), there is no resample, or a value is NaN.
pub fn bootstrap(
    n_units: usize,
    purpose: &str,
    options: Bootstrap,
    statistic: impl Fn(&[u32]) -> Option<f64>,
) -> Option<Interval> {
    let Bootstrap { confidence, n_resamples, seed } = options;
    assert!(0.0 < confidence && confidence < 1.0, "a confidence of {confidence}");
    assert!(n_resamples > 0, "a bootstrap needs resamples");
    if n_units == 0 {
        return None;
    }
    let mut counts = vec![0; n_units];
    let mut values = Vec::with_capacity(n_resamples);
    for resample in 0..n_resamples {
        draw(&mut counts, purpose, seed, resample);
        values.extend(statistic(&counts));
    }
    assert!(!values.iter().any(|value| value.is_nan()), "a value is NaN");
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    (!values.is_empty()).then(|| Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) })
}

/// Interval of the mean of `values`, each of them a unit.
///
/// # Panics
///
/// As [`bootstrap`].
pub fn bootstrap_mean(values: &[f64], purpose: &str, options: Bootstrap) -> Option<Interval> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    bootstrap(values.len(), purpose, options, |counts| {
        let sum: f64 = values.iter().zip(counts).map(|(value, &count)| f64::from(count) * value).sum();
        Some(sum / values.len() as f64)
    })
}

/// How often each unit is drawn when as many are drawn as there are.
fn draw(counts: &mut [u32], purpose: &str, seed: u64, resample: usize) {
    counts.fill(0);
    let mut state = seed::derive(seed, &[b"bootstrap", purpose.as_bytes(), &(resample as u64).to_le_bytes()]);
    let n_units = counts.len();
    for _ in 0..n_units {
        // SplitMix64 (Steele et al. 2014); the high half of the product is uniform below n.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let draw = u128::from(z ^ (z >> 31)) * n_units as u128;
        counts[(draw >> 64) as usize] += 1;
    }
}

/// With linear interpolation between order statistics, NumPy's default.
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let position = fraction * (sorted.len() - 1) as f64;
    let low = position.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (position - low as f64) * (sorted[high] - sorted[low])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: Bootstrap = Bootstrap { confidence: 0.95, n_resamples: 2000, seed: 7 };

    #[test]
    fn width_is_that_of_the_normal_approximation() {
        // 400 values, 70 % ones: standard error √(0.21 / 400) = 0.0229, times 1.96.
        let values: Vec<f64> = (0..400).map(|index| f64::from(u8::from(index % 10 < 7))).collect();
        let Interval { low, high } = bootstrap_mean(&values, "test", OPTIONS).unwrap();
        let half = 1.96 * (0.21f64 / 400.0).sqrt();
        assert!((low - (0.7 - half)).abs() < 0.006, "{low}");
        assert!((high - (0.7 + half)).abs() < 0.006, "{high}");
    }

    #[test]
    fn the_true_mean_is_covered_about_as_often_as_promised() {
        // 200 sets of 60 draws of a fair coin, from the same generator under other purposes.
        let coin = |set: usize, toss: usize| {
            let words: [&[u8]; 3] = [b"coin", &(set as u64).to_le_bytes(), &(toss as u64).to_le_bytes()];
            f64::from(u8::from(seed::derive(3, &words) >> 63 == 1))
        };
        let options = Bootstrap { n_resamples: 400, ..OPTIONS };
        let covers = |set: &usize| {
            let values: Vec<f64> = (0..60).map(|toss| coin(*set, toss)).collect();
            let interval = bootstrap_mean(&values, &set.to_string(), options).unwrap();
            interval.low <= 0.5 && 0.5 <= interval.high
        };
        let n_covered = (0..200).filter(covers).count();
        assert!((178..=199).contains(&n_covered), "{n_covered} of 200");
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[0.0, 1.0, 2.0, 4.0], 0.5), 1.5);
        assert_eq!((quantile(&[3.0], 0.1), quantile(&[1.0, 2.0], 1.0)), (3.0, 2.0));
    }

    #[test]
    fn resamples_without_a_value_are_left_out() {
        // A resample of two units lacks the second one in a quarter of the cases.
        let interval = bootstrap(2, "x", OPTIONS, |counts| (counts[1] > 0).then_some(f64::from(counts[1]))).unwrap();
        assert_eq!(interval, Interval { low: 1.0, high: 2.0 });
        assert_eq!(bootstrap(2, "x", OPTIONS, |_| None), None);
        assert_eq!(bootstrap(0, "x", OPTIONS, |_| Some(1.0)), None);
    }

    #[test]
    #[should_panic(expected = "a value is NaN")]
    fn a_nan_is_refused() {
        let _ = bootstrap_mean(&[0.5, f64::NAN], "x", OPTIONS);
    }

    #[test]
    fn edges() {
        assert_eq!(bootstrap_mean(&[], "x", OPTIONS), None);
        assert_eq!(bootstrap_mean(&[0.25; 9], "x", OPTIONS), Some(Interval { low: 0.25, high: 0.25 }));
    }

    proptest! {
        #[test]
        fn order_changes_nothing_and_the_ends_are_ordered(values in proptest::collection::vec(0.0f64..1.0, 1..20), turn in 0usize..20) {
            let options = Bootstrap { n_resamples: 50, ..OPTIONS };
            let before = bootstrap_mean(&values, "x", options).unwrap();
            let mut values = values;
            let turn = turn % values.len();
            values.rotate_left(turn);
            prop_assert_eq!(before, bootstrap_mean(&values, "x", options).unwrap());
            prop_assert!(before.low <= before.high);
        }
    }
}
