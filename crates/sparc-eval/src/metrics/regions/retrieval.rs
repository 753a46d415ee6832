//! Regions for phrases and phrases for regions, over a whole set of images.
//!
//! Region i belongs to phrase i. Short phrases repeat ("the man"), and a network cannot tell equal strings apart:
//! by index, the other copies of a region's phrase are wrong answers; by string, they are right ones. CLOC prints
//! R@10 and leaves the choice open; the two bound it.

use std::collections::HashMap;

use ndarray::ArrayView2;

use crate::metrics::retrieval::{RetrievalRanks, ranks_of_queries};

// Dimension letters: r regions and their phrases, d width.

/// When a candidate is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// It is the query's own.
    Index,
    /// Its phrase is the same string as the query's.
    String,
}

/// Ranks of the best right phrase for every region (`image_to_text` of the result) and of the best right region for
/// every phrase (`text_to_image`), by the dot product of their embeddings, for
/// [`recall_at`](crate::metrics::retrieval::recall_at). Scores are computed in blocks of at most `max_scores`.
///
/// # Shapes
///
/// `regions_rd [R, D]`, `phrases_rd [R, D]`, `phrases [R]`.
///
/// # Panics
///
/// If the shapes disagree or a score is NaN.
pub fn region_retrieval_ranks<S: AsRef<str>>(
    regions_rd: ArrayView2<'_, f32>,
    phrases_rd: ArrayView2<'_, f32>,
    phrases: &[S],
    matching: Match,
    max_scores: usize,
) -> RetrievalRanks {
    assert_eq!(regions_rd.dim(), phrases_rd.dim(), "shape of regions and of phrases");
    assert_eq!(regions_rd.nrows(), phrases.len(), "one phrase per region");
    let group = match matching {
        Match::Index => (0..phrases.len()).collect(),
        Match::String => groups(phrases),
    };
    let is_right = |query: usize, candidate: usize| group[query] == group[candidate];
    RetrievalRanks {
        image_to_text: ranks_of_queries(regions_rd, phrases_rd, max_scores, is_right),
        text_to_image: ranks_of_queries(phrases_rd, regions_rd, max_scores, is_right),
    }
}

/// A number for each phrase, the same for equal strings.
fn groups<S: AsRef<str>>(phrases: &[S]) -> Vec<usize> {
    let mut numbers = HashMap::new();
    phrases
        .iter()
        .map(|phrase| {
            let next = numbers.len();
            *numbers.entry(phrase.as_ref()).or_insert(next)
        })
        .collect()
}

#[cfg(test)]
mod reference {
    //! All scores, sorted, looked through.

    /// The least and the greatest rank, from 1, that ties allow the first right candidate of each query.
    pub fn ranks(
        queries: &[Vec<f64>],
        candidates: &[Vec<f64>],
        phrases: &[&str],
        by_string: bool,
    ) -> Vec<(usize, usize)> {
        let mut ranks = Vec::new();
        for (query, row) in queries.iter().enumerate() {
            let is_right =
                |candidate: usize| if by_string { phrases[candidate] == phrases[query] } else { candidate == query };
            let scores: Vec<f64> =
                candidates.iter().map(|other| row.iter().zip(other).map(|(a, b)| a * b).sum()).collect();
            let mut best = f64::NEG_INFINITY;
            for (candidate, &score) in scores.iter().enumerate() {
                if is_right(candidate) && score > best {
                    best = score;
                }
            }
            let better = scores.iter().filter(|score| **score > best).count();
            let tied_wrong = (0..scores.len()).filter(|&c| scores[c] == best && !is_right(c)).count();
            ranks.push((better + 1, better + 1 + tied_wrong));
        }
        ranks
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::retrieval::recall_at;

    #[test]
    fn hand_computed_with_a_repeated_phrase() {
        // Regions 0 and 1 are both "man". Region 0 prefers the second copy by a little.
        let regions = array![[0.9f32, 0.1], [1.0, 0.0], [0.0, 1.0]];
        let phrases = array![[0.9f32, 0.0], [1.0, 0.0], [0.0, 1.0]];
        let ranks =
            |matching| region_retrieval_ranks(regions.view(), phrases.view(), &["man", "man", "dog"], matching, 100);
        let by_index = ranks(Match::Index);
        assert_eq!(recall_at(&by_index.image_to_text, 1), Some(2.0 / 3.0));
        assert_eq!(recall_at(&by_index.image_to_text, 2), Some(1.0));
        assert_eq!(recall_at(&by_index.text_to_image, 1), Some(2.0 / 3.0));
        let by_string = ranks(Match::String);
        assert_eq!(recall_at(&by_string.image_to_text, 1), Some(1.0));
        assert_eq!(recall_at(&by_string.text_to_image, 1), Some(1.0));
    }

    #[test]
    fn equal_embeddings_of_equal_phrases_share_the_hit() {
        let regions = array![[1.0f32, 0.0], [1.0, 0.0], [0.0, 1.0]];
        let ranks =
            |matching| region_retrieval_ranks(regions.view(), regions.view(), &["man", "man", "dog"], matching, 1);
        assert!((recall_at(&ranks(Match::Index).image_to_text, 1).unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(recall_at(&ranks(Match::String).image_to_text, 1), Some(1.0));
    }

    #[test]
    #[should_panic(expected = "one phrase per region")]
    fn a_missing_phrase_is_refused() {
        let one = array![[1.0f32]];
        let _ = region_retrieval_ranks(one.view(), one.view(), &[] as &[&str], Match::Index, 1);
    }

    fn case() -> impl Strategy<Value = (Vec<Vec<f64>>, Vec<Vec<f64>>, Vec<&'static str>)> {
        (1usize..9).prop_flat_map(|n| {
            let rows = || proptest::collection::vec(proptest::collection::vec((-5i32..5).prop_map(f64::from), 2), n);
            let phrases = proptest::collection::vec(prop_oneof![Just("man"), Just("dog"), Just("red car")], n);
            (rows(), rows(), phrases)
        })
    }

    fn matrix(rows: &[Vec<f64>]) -> Array2<f32> {
        Array2::from_shape_fn((rows.len(), 2), |(row, column)| rows[row][column] as f32)
    }

    proptest! {
        #[test]
        fn agrees_with_reference((regions, texts, phrases) in case(), max_scores in 1usize..50) {
            for (matching, by_string) in [(Match::Index, false), (Match::String, true)] {
                let ranks = region_retrieval_ranks(matrix(&regions).view(), matrix(&texts).view(), &phrases, matching, max_scores);
                let directions = [
                    (ranks.image_to_text, reference::ranks(&regions, &texts, &phrases, by_string)),
                    (ranks.text_to_image, reference::ranks(&texts, &regions, &phrases, by_string)),
                ];
                for (ours, slow) in directions {
                    let ours: Vec<_> = ours.iter().map(|r| (r.n_better + 1, r.n_better + 1 + r.n_tied_negatives)).collect();
                    prop_assert_eq!(ours, slow);
                }
            }
        }

        #[test]
        fn strings_can_only_help((regions, texts, phrases) in case(), k in 1usize..5) {
            let recall = |matching| {
                let ranks = region_retrieval_ranks(matrix(&regions).view(), matrix(&texts).view(), &phrases, matching, 7);
                recall_at(&ranks.image_to_text, k).unwrap() + recall_at(&ranks.text_to_image, k).unwrap()
            };
            prop_assert!(recall(Match::Index) <= recall(Match::String) + 1e-12);
        }
    }
}
