//! Retrieval in two stages: a cheap score chooses K candidates for a query, a dear one orders them (Li et al. 2021,
//! ALBEF).
//!
//! The candidates come first, in the order of the dear score alone; behind them all others, in the order of the cheap
//! one. Where candidates tie for the last places, a seed draws who gets them: neither index nor truth decides.

use sparc_core::seed;

use super::TiedRank;

/// The `k` candidates with the best scores, in no order; all of them if there are no more. `draw` seeds the choice among
/// equals and should differ from query to query.
///
/// # Panics
///
/// If a score is NaN.
pub fn shortlist(scores: &[f32], k: usize, draw: u64) -> Vec<usize> {
    assert!(!scores.iter().any(|score| score.is_nan()), "a score is NaN");
    let mut candidates: Vec<usize> = (0..scores.len()).collect();
    if k == 0 || k >= scores.len() {
        candidates.truncate(k);
        return candidates;
    }
    let lot = |candidate: usize| seed::derive(draw, &[b"shortlist", &(candidate as u64).to_le_bytes()]);
    candidates.select_nth_unstable_by(k - 1, |&a, &b| {
        // Zeros of both signs are equal.
        let best_first = scores[b].partial_cmp(&scores[a]).expect("no score is NaN");
        best_first.then_with(|| lot(a).cmp(&lot(b))).then(a.cmp(&b))
    });
    candidates.truncate(k);
    candidates
}

/// The rank of the best positive, once the candidates of a shortlist have scores of their own; `None` if no candidate is
/// positive.
///
/// # Panics
///
/// If there is not one match score for each member of the shortlist, or a score is NaN.
pub fn reranked(
    scores: &[f32],
    shortlist: &[usize],
    match_scores: &[f32],
    is_positive: impl Fn(usize) -> bool,
) -> Option<TiedRank> {
    assert_eq!(shortlist.len(), match_scores.len(), "one match score a candidate");
    if let Some(rank) = TiedRank::from_scores(match_scores.iter().copied(), |place| is_positive(shortlist[place])) {
        return Some(rank);
    }
    let mut is_listed = vec![false; scores.len()];
    shortlist.iter().for_each(|&candidate| is_listed[candidate] = true);
    let others: Vec<usize> = (0..scores.len()).filter(|&candidate| !is_listed[candidate]).collect();
    let rank =
        TiedRank::from_scores(others.iter().map(|&candidate| scores[candidate]), |place| is_positive(others[place]))?;
    Some(TiedRank { n_better: rank.n_better + shortlist.len(), ..rank })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sorted(mut list: Vec<usize>) -> Vec<usize> {
        list.sort_unstable();
        list
    }

    #[test]
    fn the_best_are_listed() {
        let scores = [0.1, 0.9, 0.5, 0.7, 0.3];
        assert_eq!(sorted(shortlist(&scores, 2, 1)), [1, 3]);
        assert_eq!(sorted(shortlist(&scores, 9, 1)), [0, 1, 2, 3, 4]);
        assert!(shortlist(&scores, 0, 1).is_empty() && shortlist(&[], 3, 1).is_empty());
    }

    #[test]
    fn equal_scores_have_equal_chances() {
        // One of four places of 20 equals, and one place that is certain.
        let mut counts = [0; 21];
        let scores: Vec<f32> = (0..21).map(|index| if index == 7 { 1.0 } else { 0.5 }).collect();
        for draw in 0..2000 {
            shortlist(&scores, 5, draw).into_iter().for_each(|candidate| counts[candidate] += 1);
        }
        assert_eq!(counts[7], 2000);
        // 400 expected, standard deviation 17.9.
        assert!((0..21).filter(|&index| index != 7).all(|index| (320..=480).contains(&counts[index])), "{counts:?}");
    }

    #[test]
    fn hand_computed() {
        let scores = [0.9, 0.8, 0.7, 0.6, 0.5];
        let expected = |list: &[usize], logits: &[f32], own: usize| {
            reranked(&scores, list, logits, |candidate| candidate == own).unwrap().expected()
        };
        // Of the list 0, 1, 2 the third is liked best.
        assert_eq!(expected(&[0, 1, 2], &[-1.0, 0.0, 3.0], 2), 1.0);
        assert_eq!(expected(&[0, 1, 2], &[-1.0, 0.0, 3.0], 0), 3.0);
        assert_eq!(expected(&[0, 1, 2], &[3.0, 0.0, 3.0], 0), 1.5);
        // Outside the list, behind it in the order of the first stage.
        assert_eq!(expected(&[0, 1, 2], &[-1.0, 0.0, 3.0], 3), 4.0);
        assert_eq!(expected(&[0, 1, 2], &[-9.0, -8.0, -7.0], 4), 5.0);
        assert_eq!(reranked(&scores, &[0], &[1.0], |_| false), None);
    }

    proptest! {
        /// Against a sort of pairs (is listed, score), none of which tie.
        #[test]
        fn agrees_with_a_sort(order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
                              liked in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(), k in 0usize..14, own in 0usize..12) {
            let scores: Vec<f32> = order.iter().map(|&place| place as f32).collect();
            let list = shortlist(&scores, k, 3);
            let logits: Vec<f32> = list.iter().map(|&candidate| liked[candidate] as f32).collect();
            let mut all: Vec<usize> = (0..12).collect();
            all.sort_by_key(|candidate| {
                let is_listed = list.contains(candidate);
                std::cmp::Reverse((is_listed, if is_listed { liked[*candidate] } else { order[*candidate] }))
            });
            let place = all.iter().position(|&candidate| candidate == own).unwrap() + 1;
            prop_assert_eq!(reranked(&scores, &list, &logits, |c| c == own).unwrap().expected(), place as f64);
            prop_assert_eq!(list.len(), k.min(12));
        }

        #[test]
        fn a_list_of_all_is_the_order_of_the_matches(scores in proptest::collection::vec(0u8..4, 1..9), own in 0usize..9) {
            let scores: Vec<f32> = scores.into_iter().map(f32::from).collect();
            let own = own % scores.len();
            let logits: Vec<f32> = scores.iter().map(|score| -score).collect();
            let list = shortlist(&scores, scores.len(), 1);
            let reversed: Vec<f32> = list.iter().map(|&candidate| logits[candidate]).collect();
            prop_assert_eq!(
                reranked(&scores, &list, &reversed, |c| c == own),
                TiedRank::from_scores(logits.iter().copied(), |c| c == own)
            );
        }
    }
}
