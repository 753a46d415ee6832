//! The percentile bootstrap of a mean (Efron 1979).
//!
//! Draws depend on the seed, the purpose and the number of the resample alone, never on what was drawn before, and
//! values are sorted first: the interval is the same for every order of the same values.

use sparc_core::seed;

/// How an interval is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Probability that the interval is to cover the mean with, such as 0.95.
    pub confidence: f64,
    /// How many resamples; some thousand for 0.95.
    pub n_resamples: usize,
    /// The run's seed.
    pub seed: u64,
}

/// An interval around a mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// Interval of the mean of `values`: quantiles of the means of resamples with replacement, between which the
/// confidence lies. `purpose` keeps two intervals of one seed apart; `None` without values.
///
/// # Panics
///
/// If the confidence is not inside (0, 1), there is no resample, or a value is NaN.
pub fn bootstrap_mean(values: &[f64], purpose: &str, options: Bootstrap) -> Option<Interval> {
    let Bootstrap { confidence, n_resamples, seed } = options;
    assert!(0.0 < confidence && confidence < 1.0, "a confidence of {confidence}");
    assert!(n_resamples > 0, "a bootstrap needs resamples");
    assert!(!values.iter().any(|value| value.is_nan()), "a value is NaN");
    if values.is_empty() {
        return None;
    }
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let mut means: Vec<f64> =
        (0..n_resamples).map(|resample| mean_of_resample(&values, purpose, seed, resample)).collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    Some(Interval { low: quantile(&means, tail), high: quantile(&means, 1.0 - tail) })
}

fn mean_of_resample(values: &[f64], purpose: &str, seed: u64, resample: usize) -> f64 {
    let mut state = seed::derive(seed, &[b"bootstrap", purpose.as_bytes(), &(resample as u64).to_le_bytes()]);
    let n_values = values.len();
    let mut sum = 0.0;
    for _ in 0..n_values {
        // SplitMix64 (Steele et al. 2014); the high half of the product is uniform below n.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let draw = u128::from(z ^ (z >> 31)) * n_values as u128;
        sum += values[(draw >> 64) as usize];
    }
    sum / n_values as f64
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
