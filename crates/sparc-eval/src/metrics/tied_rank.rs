//! Where the first right answer stands, with its ties.

/// The position of the best-scored positive among all candidates of one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TiedRank {
    /// Candidates that score strictly better than the best positive; all of them are negatives.
    pub n_better: usize,
    /// Positives with the best positive's score, at least 1 (itself).
    pub n_tied_positives: usize,
    /// Negatives with the best positive's score.
    pub n_tied_negatives: usize,
}

impl TiedRank {
    /// Ranks the candidates of one query; `None` if no candidate is positive.
    ///
    /// # Panics
    ///
    /// If a score is NaN: it has no rank, and comparing it would silently count as a hit.
    pub fn from_scores(
        scores: impl Iterator<Item = f32> + Clone,
        is_positive: impl Fn(usize) -> bool,
    ) -> Option<TiedRank> {
        let mut best = None;
        for (index, score) in scores.clone().enumerate() {
            assert!(!score.is_nan(), "the score of candidate {index} is NaN");
            if is_positive(index) && best.is_none_or(|best| score > best) {
                best = Some(score);
            }
        }
        let best = best?;
        let mut rank = TiedRank { n_better: 0, n_tied_positives: 0, n_tied_negatives: 0 };
        for (index, score) in scores.enumerate() {
            if score > best {
                rank.n_better += 1;
            } else if score == best {
                if is_positive(index) {
                    rank.n_tied_positives += 1;
                } else {
                    rank.n_tied_negatives += 1;
                }
            }
        }
        Some(rank)
    }

    /// Expected rank of the first positive, counted from 1, over a uniformly random order of the
    /// tied candidates: `better + (ties + 1) / (tied positives + 1)`, the expected smallest order
    /// statistic of a draw without replacement.
    pub fn expected(self) -> f64 {
        let n_tied = self.n_tied_positives + self.n_tied_negatives;
        self.n_better as f64 + (n_tied + 1) as f64 / (self.n_tied_positives + 1) as f64
    }

    /// Probability that a positive is among the first `k` candidates, over a uniformly random order
    /// of the tied ones: 0 or 1 where nothing is tied.
    pub fn hit_probability(self, k: usize) -> f64 {
        let n_slots = k.saturating_sub(self.n_better);
        if n_slots > self.n_tied_negatives {
            return 1.0;
        }
        // All slots are taken by tied negatives with probability C(negatives, slots) / C(tied, slots).
        let n_tied = self.n_tied_positives + self.n_tied_negatives;
        let all_negative: f64 =
            (0..n_slots).map(|slot| (self.n_tied_negatives - slot) as f64 / (n_tied - slot) as f64).product();
        1.0 - all_negative
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::TiedRank;

    fn rank(scores: &[f32], positives: &[usize]) -> TiedRank {
        TiedRank::from_scores(scores.iter().copied(), |index| positives.contains(&index)).expect("a positive")
    }

    #[test]
    fn without_ties_it_is_the_plain_rank() {
        let rank = rank(&[0.1, 0.9, 0.5, 0.3], &[2]);
        assert_eq!(rank.expected(), 2.0);
        assert_eq!((rank.hit_probability(1), rank.hit_probability(2)), (0.0, 1.0));
    }

    #[test]
    fn a_constant_score_is_chance() {
        let rank = rank(&[0.5; 10], &[3]);
        assert_eq!(rank.expected(), 5.5);
        for k in 1..=10 {
            assert!((rank.hit_probability(k) - k as f64 / 10.0).abs() < 1e-12, "k {k}");
        }
    }

    #[test]
    fn several_tied_positives_share_the_draw() {
        // 2 of 4 tied are positive: P(no hit in 1) = 1/2, P(no hit in 2) = 1/2 * 1/3; E[first] = 5/3.
        let rank = rank(&[1.0, 1.0, 1.0, 1.0, 0.0], &[0, 3]);
        assert!((rank.hit_probability(1) - 0.5).abs() < 1e-12);
        assert!((rank.hit_probability(2) - 5.0 / 6.0).abs() < 1e-12);
        assert_eq!(rank.hit_probability(3), 1.0);
        assert!((rank.expected() - 5.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn no_positive_has_no_rank() {
        assert_eq!(TiedRank::from_scores([1.0, 2.0].into_iter(), |_| false), None);
    }

    #[test]
    #[should_panic(expected = "candidate 1 is NaN")]
    fn a_nan_is_refused() {
        let _ = TiedRank::from_scores([1.0, f32::NAN].into_iter(), |index| index == 0);
    }

    /// Every order of the candidates, by Heap's algorithm.
    fn permutations(items: &mut Vec<usize>, n: usize, visit: &mut impl FnMut(&[usize])) {
        if n <= 1 {
            visit(items);
            return;
        }
        for index in 0..n {
            permutations(items, n - 1, visit);
            items.swap(if n.is_multiple_of(2) { index } else { 0 }, n - 1);
        }
    }

    proptest! {
        /// Against brute force: sort stably by score after every possible shuffle, and average.
        #[test]
        fn agrees_with_the_average_over_all_orders(
            candidates in proptest::collection::vec((0u8..3, any::<bool>()), 1..6), k in 1usize..7,
        ) {
            prop_assume!(candidates.iter().any(|(_, positive)| *positive));
            let rank = TiedRank::from_scores(
                candidates.iter().map(|(score, _)| f32::from(*score)), |index| candidates[index].1).unwrap();
            let (mut n_orders, mut n_hits, mut rank_sum) = (0usize, 0usize, 0usize);
            let mut order: Vec<usize> = (0..candidates.len()).collect();
            let n = order.len();
            permutations(&mut order, n, &mut |shuffled| {
                let mut sorted = shuffled.to_vec();
                sorted.sort_by_key(|&index| std::cmp::Reverse(candidates[index].0));
                let first = sorted.iter().position(|&index| candidates[index].1).unwrap() + 1;
                n_orders += 1;
                n_hits += usize::from(first <= k);
                rank_sum += first;
            });
            prop_assert!((rank.hit_probability(k) - n_hits as f64 / n_orders as f64).abs() < 1e-9);
            prop_assert!((rank.expected() - rank_sum as f64 / n_orders as f64).abs() < 1e-9);
        }
    }
}
