//! Is this sentence true of this image?
//!
//! A statement counts as true if its score lies above a threshold (an image-text matching probability above 0.5, in
//! VALSE). A cosine has no natural threshold: choose it on other statements with [`Statements::best_threshold`], or
//! report the area under the ROC curve, which needs none. VALSE's names, by its program: acc is the balanced
//! accuracy here, p_c the share of true statements accepted, p_f the share of false ones rejected.

use std::collections::BTreeMap;

use crate::metrics::{Bootstrap, Interval, bootstrap};

/// What resamples are drawn for.
const PURPOSE: &str = "statements";

/// Scored statements.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statements {
    scores: Vec<(f32, bool)>,
    /// The image of each.
    images: Vec<usize>,
}

/// How well a threshold tells true statements from false ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatementAccuracy {
    /// Share of statements judged right.
    pub accuracy: f64,
    /// Share of true statements judged true; `None` if there is none.
    pub true_accepted: Option<f64>,
    /// Share of false statements judged false; `None` if there is none.
    pub false_rejected: Option<f64>,
}

impl StatementAccuracy {
    /// Mean of both shares, 0.5 for a constant score; `None` unless there are true and false statements.
    pub fn balanced(self) -> Option<f64> {
        Some((self.true_accepted? + self.false_rejected?) / 2.0)
    }
}

impl Statements {
    /// Adds one statement on an image; statements on the same image are resampled together.
    ///
    /// # Panics
    ///
    /// If the score is NaN.
    pub fn add(&mut self, image: usize, score: f32, is_true: bool) {
        assert!(!score.is_nan(), "the score of statement {} is NaN", self.scores.len());
        self.scores.push((score, is_true));
        self.images.push(image);
    }

    /// Statements added.
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// Accuracy if scores above `threshold` mean true; `None` without statements.
    pub fn accuracy(&self, threshold: f32) -> Option<StatementAccuracy> {
        let count = |holds: &dyn Fn(f32, bool) -> bool| {
            self.scores.iter().filter(|(score, truth)| holds(*score, *truth)).count()
        };
        let (n_true, n_all) = (count(&|_, truth| truth), self.scores.len());
        let accepted = count(&|score, truth| truth && score > threshold);
        let rejected = count(&|score, truth| !truth && score <= threshold);
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        Some(StatementAccuracy {
            accuracy: share(accepted + rejected, n_all)?,
            true_accepted: share(accepted, n_true),
            false_rejected: share(rejected, n_all - n_true),
        })
    }

    /// The threshold of the best accuracy, halfway between two scores; the lowest of several, and −∞ or +∞ where
    /// accepting or rejecting everything is best. `None` without statements. To be used on *other* statements.
    pub fn best_threshold(&self) -> Option<f32> {
        let mut sorted = self.scores.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        // From below: everything is accepted, then more and more rejected.
        let mut n_right = sorted.iter().filter(|(_, truth)| *truth).count() as i64;
        let mut best = (n_right, f32::NEG_INFINITY);
        for (index, &(score, truth)) in sorted.iter().enumerate() {
            n_right += if truth { -1 } else { 1 };
            let next = sorted.get(index + 1).map(|next| next.0);
            if next != Some(score) && n_right > best.0 {
                best = (n_right, next.map_or(f32::INFINITY, |next| between(score, next)));
            }
        }
        (!sorted.is_empty()).then_some(best.1)
    }

    /// Area under the ROC curve: the probability that a random true statement scores above a random false one, equal
    /// scores counting half; 0.5 for a constant score. `None` unless there are true and false statements.
    pub fn area_under_roc(&self) -> Option<f64> {
        area(&self.sorted(), |_| 1.0)
    }

    /// Interval of [`Statements::area_under_roc`], images being resampled; `None` where it is.
    ///
    /// # Panics
    ///
    /// As [`bootstrap()`].
    pub fn area_interval(&self, options: Bootstrap) -> Option<Interval> {
        let sorted = self.sorted();
        bootstrap(self.n_units(), PURPOSE, options, |counts| area(&sorted, |unit| f64::from(counts[unit])))
    }

    /// Interval of the share of statements judged right by a threshold, images being resampled; `None` without
    /// statements.
    ///
    /// # Panics
    ///
    /// As [`bootstrap()`].
    pub fn accuracy_interval(&self, threshold: f32, options: Bootstrap) -> Option<Interval> {
        let mut units = vec![(0.0, 0.0); self.n_units()];
        for (score, truth, unit) in self.sorted() {
            units[unit].0 += f64::from(u8::from(truth == (score > threshold)));
            units[unit].1 += 1.0;
        }
        bootstrap(units.len(), PURPOSE, options, |counts| {
            let sum = |pick: fn(&(f64, f64)) -> f64| -> f64 {
                units.iter().zip(counts).map(|(unit, &count)| f64::from(count) * pick(unit)).sum()
            };
            Some(sum(|unit| unit.0) / sum(|unit| unit.1))
        })
    }

    fn n_units(&self) -> usize {
        let images: std::collections::BTreeSet<usize> = self.images.iter().copied().collect();
        images.len()
    }

    /// Scores from below, with the number of the statement's image: images are numbered by their statements, so that
    /// the order in which they came plays no role.
    fn sorted(&self) -> Vec<(f32, bool, usize)> {
        let by_score = |a: &(f32, bool), b: &(f32, bool)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        let mut images: BTreeMap<usize, Vec<(f32, bool)>> = BTreeMap::new();
        for (&image, &statement) in self.images.iter().zip(&self.scores) {
            images.entry(image).or_default().push(statement);
        }
        let mut units: Vec<Vec<(f32, bool)>> = images.into_values().collect();
        units.iter_mut().for_each(|unit| unit.sort_by(by_score));
        units.sort_by(|a, b| a.partial_cmp(b).expect("scores are numbers"));
        let numbered = units.into_iter().enumerate();
        let mut sorted: Vec<_> = numbered
            .flat_map(|(unit, scores)| scores.into_iter().map(move |(score, truth)| (score, truth, unit)))
            .collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        sorted
    }
}

/// Area under the ROC curve of scores from below, each statement counting with the weight of its unit.
fn area(sorted: &[(f32, bool, usize)], weight: impl Fn(usize) -> f64) -> Option<f64> {
    let (mut wins, mut false_below, mut all_true) = (0.0, 0.0, 0.0);
    for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
        let of_kind = |kind: bool| -> f64 {
            equal.iter().filter(|(_, truth, _)| *truth == kind).map(|(_, _, unit)| weight(*unit)).sum()
        };
        let (n_true, n_false) = (of_kind(true), of_kind(false));
        wins += n_true * (false_below + n_false / 2.0);
        false_below += n_false;
        all_true += n_true;
    }
    (all_true > 0.0 && false_below > 0.0).then(|| wins / (all_true * false_below))
}

/// A threshold that accepts `high` and rejects `low`.
fn between(low: f32, high: f32) -> f32 {
    let middle = low / 2.0 + high / 2.0;
    if low <= middle && middle < high { middle } else { low }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statements(scores: &[(f32, bool)]) -> Statements {
        let mut statements = Statements::default();
        scores.iter().enumerate().for_each(|(image, (score, truth))| statements.add(image, *score, *truth));
        statements
    }

    #[test]
    fn hand_computed() {
        let statements = statements(&[(0.9, true), (0.6, false), (0.5, true), (0.4, true), (0.1, false)]);
        let accuracy = statements.accuracy(0.5).unwrap();
        assert_eq!(
            (accuracy.accuracy, accuracy.true_accepted, accuracy.false_rejected),
            (0.4, Some(1.0 / 3.0), Some(0.5))
        );
        assert!((accuracy.balanced().unwrap() - 5.0 / 12.0).abs() < 1e-12);
        // Of 6 pairs, 0.9 wins 2, 0.5 and 0.4 win 1 each.
        assert!((statements.area_under_roc().unwrap() - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(statements.best_threshold(), Some(0.25));
        assert_eq!((statements.len(), statements.is_empty()), (5, false));
    }

    #[test]
    fn a_constant_score_is_chance() {
        let constant = statements(&[(0.5, true), (0.5, true), (0.5, true), (0.5, false)]);
        assert_eq!(constant.area_under_roc(), Some(0.5));
        assert_eq!(constant.accuracy(0.3).unwrap().balanced(), Some(0.5));
        assert_eq!(constant.best_threshold(), Some(f32::NEG_INFINITY));
    }

    #[test]
    fn one_kind_or_none() {
        let only_false = statements(&[(0.5, false), (0.7, false)]);
        assert_eq!(only_false.area_under_roc(), None);
        assert_eq!(only_false.accuracy(0.6).unwrap().true_accepted, None);
        assert_eq!(only_false.best_threshold(), Some(f32::INFINITY));
        assert_eq!(statements(&[]).accuracy(0.5), None);
        assert_eq!(statements(&[]).best_threshold(), None);
    }

    #[test]
    fn intervals_are_those_of_images() {
        let options = Bootstrap { confidence: 0.95, n_resamples: 1000, seed: 5 };
        let (mut apart, mut together) = (Statements::default(), Statements::default());
        for index in 0..400 {
            // True ones score 1 in three of four images, false ones 0 in three of four.
            let (image, truth) = (index / 4, index % 2 == 0);
            let is_right = image % 4 > 0;
            apart.add(index, f32::from(u8::from(truth == is_right)), truth);
            together.add(image, f32::from(u8::from(truth == is_right)), truth);
        }
        assert_eq!((apart.area_under_roc(), together.area_under_roc()), (Some(0.75), Some(0.75)));
        let width = |ends: Option<Interval>| ends.map(|ends| ends.high - ends.low).unwrap();
        // The share of right statements has a standard error of √(0.1875 / n).
        let normal = |n: f64| 2.0 * 1.96 * (0.1875f64 / n).sqrt();
        for (statements, n) in [(&apart, 400.0), (&together, 100.0)] {
            for ends in [statements.accuracy_interval(0.5, options), statements.area_interval(options)] {
                assert!((width(ends) / normal(n) - 1.0).abs() < 0.12, "{ends:?} of {n}");
            }
        }
        assert_eq!(statements(&[(0.5, true)]).area_interval(options), None);
        assert_eq!(statements(&[]).accuracy_interval(0.5, options), None);
    }

    #[test]
    fn the_order_of_images_changes_no_interval() {
        let options = Bootstrap { confidence: 0.9, n_resamples: 100, seed: 5 };
        let all = [(0, 0.9, true), (0, 0.2, false), (1, 0.4, true), (2, 0.6, false), (3, 0.4, false), (3, 0.8, true)];
        let intervals = |order: &[usize]| {
            let mut statements = Statements::default();
            order.iter().for_each(|&index| statements.add(all[index].0, all[index].1, all[index].2));
            (statements.area_interval(options), statements.accuracy_interval(0.5, options))
        };
        assert_eq!(intervals(&[0, 1, 2, 3, 4, 5]), intervals(&[5, 3, 1, 4, 2, 0]));
    }

    fn scores() -> impl Strategy<Value = Vec<(f32, bool)>> {
        proptest::collection::vec(((0u8..6).prop_map(f32::from), any::<bool>()), 1..15)
    }

    proptest! {
        #[test]
        fn area_agrees_with_all_pairs(scores in scores()) {
            let (mut wins, mut pairs) = (0.0, 0.0);
            for (a, _) in scores.iter().filter(|(_, truth)| *truth) {
                for (b, _) in scores.iter().filter(|(_, truth)| !*truth) {
                    pairs += 1.0;
                    wins += if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                }
            }
            let area = statements(&scores).area_under_roc();
            prop_assert_eq!(area.is_some(), pairs > 0.0);
            prop_assert!(area.is_none_or(|area| (area - wins / pairs).abs() < 1e-12));
        }

        #[test]
        fn no_threshold_beats_the_best_one(scores in scores()) {
            let statements = statements(&scores);
            let best = statements.accuracy(statements.best_threshold().unwrap()).unwrap().accuracy;
            for threshold in [f32::NEG_INFINITY, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, f32::INFINITY] {
                prop_assert!(statements.accuracy(threshold).unwrap().accuracy <= best + 1e-12);
            }
        }

        #[test]
        fn a_monotone_change_leaves_the_area(scores in scores()) {
            let bent: Vec<_> = scores.iter().map(|(score, truth)| (score.powi(3) - 4.0, *truth)).collect();
            prop_assert_eq!(statements(&scores).area_under_roc(), statements(&bent).area_under_roc());
        }
    }
}
