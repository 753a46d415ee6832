//! Axes: from values to shares of the plot, with ticks at round values.

use super::metric::significant;

/// One axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    /// An axis from the smallest to the largest of `values`, widened to round ticks if `to_ticks`.
    ///
    /// Without values it runs from 0 to 1; on a logarithmic axis all values must be positive.
    pub(super) fn over(values: impl Iterator<Item = f64>, log: bool, to_ticks: bool) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = match (low <= high, log) {
            (false, false) => (0.0, 1.0),
            (false, true) => (1.0, 10.0),
            (true, true) if low == high => (low / 2.0, high * 2.0),
            (true, false) if low == high => {
                let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
                (low - margin, high + margin)
            }
            (true, _) => (low, high),
        };
        let exact = Self { low, high, log };
        if to_ticks { exact.widened() } else { exact }
    }

    fn widened(&self) -> Self {
        if self.log {
            // A tenth of the range on either side: decades would leave most of the plot empty.
            let margin = (self.high / self.low).powf(0.05);
            return Self { low: self.low / margin, high: self.high * margin, log: true };
        }
        let step = round_step((self.high - self.low) / 4.0);
        // A bound that is round already must not move for the last bit of a division.
        let low = (self.low / step + 1e-9).floor() * step;
        let high = (self.high / step - 1e-9).ceil() * step;
        // The wider axis may ask for a longer step, and then its ends must be ticks of that one.
        if round_step((high - low) / 4.0) > step {
            Self { low, high, log: false }.widened()
        } else {
            Self { low, high, log: false }
        }
    }

    /// Where `value` lies, as a share of the axis: 0 at its low end, 1 at its high end.
    pub(super) fn share(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// The two ends.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Round values on the axis with their text, in ascending order.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        if self.log {
            return self.log_ticks().into_iter().map(|value| (value, significant(value))).collect();
        }
        let step = round_step((self.high - self.low) / 4.0);
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let first = (self.low / step - 1e-9).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last)
            .map(|index| {
                let value = index as f64 * step;
                let text =
                    if step.abs() >= 1e6 || step < 1e-6 { significant(value) } else { format!("{value:.decimals$}") };
                (value, text)
            })
            .collect()
    }

    /// Powers of ten; with 2 and 5 between them, or all digits, where the range is short.
    fn log_ticks(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let digits: &[f64] = match decades {
            d if d > 2.5 => &[1.0],
            d if d > 0.9 => &[1.0, 2.0, 5.0],
            _ => &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0],
        };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let every = (((last - first) / 6).max(1)) as usize;
        let ticks: Vec<f64> = (first..=last)
            .step_by(every)
            .flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)))
            .filter(|value| (self.low..=self.high).contains(value))
            .collect();
        if ticks.len() >= 2 {
            return ticks;
        }
        // Less than a digit apart: linear ticks serve.
        Self { log: false, ..self.clone() }
            .ticks()
            .into_iter()
            .map(|(value, _)| value)
            .filter(|value| *value > 0.0)
            .collect()
    }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `rough`.
fn round_step(rough: f64) -> f64 {
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    // 2.5 needs a second decimal that 1, 2 and 5 do not, so it is left out.
    let digit = [1.0, 2.0, 5.0, 10.0].into_iter().find(|digit| digit * power >= rough * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[f64], log: bool) -> Vec<String> {
        let scale = Scale::over(values.iter().copied(), log, true);
        scale.ticks().into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn linear_ticks_are_round_and_enclose_the_values() {
        assert_eq!(texts(&[0.0, 300.0], false), ["0", "100", "200", "300"]);
        assert_eq!(texts(&[0.93, 5.21], false), ["0", "2", "4", "6"]);
        assert_eq!(texts(&[-0.13, 0.08], false), ["-0.2", "-0.1", "0.0", "0.1"]);
        assert_eq!(texts(&[0.0012, 0.0031], false), ["0.001", "0.002", "0.003", "0.004"]);
    }

    #[test]
    fn log_ticks_grow_denser_in_short_ranges() {
        assert_eq!(texts(&[0.001, 1000.0], true), ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]);
        assert_eq!(texts(&[1.0, 20.0], true), ["1", "2", "5", "10", "20"]);
        assert_eq!(texts(&[2.1, 5.4], true), ["3", "4", "5"]);
        assert!(texts(&[1.00001, 1.00002], true).len() >= 2);
    }

    #[test]
    fn no_range_and_no_values_still_make_an_axis() {
        for values in [&[][..], &[0.0][..], &[7.0][..], &[-2.0, -2.0][..]] {
            let scale = Scale::over(values.iter().copied(), false, true);
            let (low, high) = scale.ends();
            assert!(low < high && (2..=12).contains(&scale.ticks().len()), "{values:?}: {scale:?}");
        }
        assert!(Scale::over([3.0].into_iter(), true, true).share(3.0).is_finite());
    }

    #[test]
    fn shares_run_from_end_to_end() {
        let linear = Scale::over([2.0, 4.0].into_iter(), false, false);
        assert_eq!([2.0, 3.0, 4.0].map(|value| linear.share(value)), [0.0, 0.5, 1.0]);
        let log = Scale::over([1.0, 100.0].into_iter(), true, false);
        assert!((log.share(10.0) - 0.5).abs() < 1e-12);
    }
}
