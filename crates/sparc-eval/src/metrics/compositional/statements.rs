//! Is this sentence true of this image?
//!
//! A statement counts as true if its score lies above a threshold (an image-text matching probability above 0.5, in
//! VALSE). A cosine has no natural threshold: choose it on other statements with [`Statements::best_threshold`], or
//! report the area under the ROC curve, which needs none. VALSE's names, by its program: acc is the balanced
//! accuracy here, p_c the share of true statements accepted, p_f the share of false ones rejected.

/// Scored statements.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Statements {
    scores: Vec<(f32, bool)>,
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
    /// Adds one statement.
    ///
    /// # Panics
    ///
    /// If the score is NaN.
    pub fn add(&mut self, score: f32, is_true: bool) {
        assert!(!score.is_nan(), "the score of statement {} is NaN", self.scores.len());
        self.scores.push((score, is_true));
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
        let mut sorted = self.scores.clone();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (mut wins, mut n_false_below, mut n_true_total) = (0.0, 0usize, 0usize);
        for equal in sorted.chunk_by(|a, b| a.0 == b.0) {
            let n_true = equal.iter().filter(|(_, truth)| *truth).count();
            let n_false = equal.len() - n_true;
            wins += n_true as f64 * (n_false_below as f64 + n_false as f64 / 2.0);
            n_false_below += n_false;
            n_true_total += n_true;
        }
        (n_true_total > 0 && n_false_below > 0).then(|| wins / (n_true_total * n_false_below) as f64)
    }
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
        scores.iter().for_each(|(score, truth)| statements.add(*score, *truth));
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
