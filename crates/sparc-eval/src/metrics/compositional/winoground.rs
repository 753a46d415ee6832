//! Winoground (Thrush et al. 2022): two images, two captions of the same words, who belongs to whom?
//!
//! With s(c, i) the score of caption c and image i, an item has its *text* point if each image prefers its own
//! caption, s(0,0) > s(1,0) and s(1,1) > s(0,1); its *image* point if each caption prefers its own image,
//! s(0,0) > s(0,1) and s(1,1) > s(1,0); its *group* point if it has both. Chance is 1/4, 1/4 and 1/6.
//!
//! The benchmark counts ties as wrong: a network blind to the order of words gets 0 % there, less than chance.
//! `expected` breaks ties at random instead, and gives it chance.

use crate::metrics::{Bootstrap, Interval, bootstrap_mean};

/// Shares of items, in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WinogroundScores {
    /// Each image prefers its own caption.
    pub text: f64,
    /// Each caption prefers its own image.
    pub image: f64,
    /// Both.
    pub group: f64,
}

/// Outcomes of items.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Winoground {
    /// By the rule, and in expectation: text, image, group.
    items: Vec<([f64; 3], [f64; 3])>,
}

impl Winoground {
    /// Counts one item: `scores_ci[c][i]` is that of caption c and image i, and caption 0 belongs to image 0. Images
    /// choose captions by the first scores, captions choose images by the second; most networks have one score for both.
    ///
    /// # Panics
    ///
    /// If a score is NaN.
    pub fn add(&mut self, for_captions_ci: [[f32; 2]; 2], for_images_ci: [[f32; 2]; 2]) {
        let (of_captions, of_images) = (for_captions_ci.concat(), for_images_ci.concat());
        let is_nan = of_captions.iter().chain(&of_images).any(|score| score.is_nan());
        assert!(!is_nan, "an item of Winoground has a score that is NaN");
        let wins = |scores: &[f32], a: usize, b: usize| scores[a] > scores[b];
        let number = |point: bool| f64::from(u8::from(point));
        let strict = points(|a, b| wins(&of_captions, a, b), |a, b| wins(&of_images, a, b)).map(number);
        // All orders in which the four may stand where they tie.
        let orders = orders();
        let mut expected = [0.0; 3];
        for order in &orders {
            let ahead = |scores: &[f32], a: usize, b: usize| {
                wins(scores, a, b) || scores[a] == scores[b] && order[a] > order[b]
            };
            let won = points(|a, b| ahead(&of_captions, a, b), |a, b| ahead(&of_images, a, b));
            for (sum, point) in expected.iter_mut().zip(won) {
                *sum += number(point) / orders.len() as f64;
            }
        }
        self.items.push((strict, expected));
    }

    /// Items counted.
    pub fn n_items(&self) -> usize {
        self.items.len()
    }

    /// The benchmark's scores, ties counting as wrong; `None` without items.
    pub fn strict(&self) -> Option<WinogroundScores> {
        self.scores(|item| item.0)
    }

    /// The scores with ties broken at random, in expectation; `None` without items.
    pub fn expected(&self) -> Option<WinogroundScores> {
        self.scores(|item| item.1)
    }

    /// Intervals of the benchmark's text, image and group score, items being resampled; `None` without items.
    ///
    /// # Panics
    ///
    /// As [`bootstrap_mean`].
    pub fn intervals(&self, options: Bootstrap) -> Option<[Interval; 3]> {
        let of_point = |point: usize| {
            let values: Vec<f64> = self.items.iter().map(|item| item.0[point]).collect();
            bootstrap_mean(&values, "winoground", options)
        };
        Some([of_point(0)?, of_point(1)?, of_point(2)?])
    }

    fn scores(&self, points: impl Fn(&([f64; 3], [f64; 3])) -> [f64; 3]) -> Option<WinogroundScores> {
        let n = self.items.len() as f64;
        let mean = |point: usize| self.items.iter().map(|item| points(item)[point]).sum::<f64>() / n;
        (!self.items.is_empty()).then(|| WinogroundScores { text: mean(0), image: mean(1), group: mean(2) })
    }
}

/// Text, image and group point; scores are numbered 2 · caption + image.
fn points(caption_wins: impl Fn(usize, usize) -> bool, image_wins: impl Fn(usize, usize) -> bool) -> [bool; 3] {
    let text = caption_wins(0, 2) && caption_wins(3, 1);
    let image = image_wins(0, 1) && image_wins(3, 2);
    [text, image, text && image]
}

/// The 24 orders of four.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::with_capacity(24);
    for code in 0..256 {
        let order = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
        let is_order = (0..4).all(|place| order.contains(&place));
        if is_order {
            orders.push(order);
        }
    }
    orders
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(scores_ci: [[f32; 2]; 2]) -> Winoground {
        let mut counts = Winoground::default();
        counts.add(scores_ci, scores_ci);
        counts
    }

    #[test]
    fn hand_computed() {
        let points = |scores| item(scores).strict().unwrap();
        // Rows are captions, columns images.
        assert_eq!(points([[0.9, 0.1], [0.2, 0.8]]), WinogroundScores { text: 1.0, image: 1.0, group: 1.0 });
        // Image 1 is liked by both captions: each image still prefers its own caption.
        assert_eq!(points([[0.5, 0.7], [0.4, 0.9]]), WinogroundScores { text: 1.0, image: 0.0, group: 0.0 });
        // Caption 1 fits everything better: each caption still prefers its own image.
        assert_eq!(points([[0.5, 0.4], [0.7, 0.9]]), WinogroundScores { text: 0.0, image: 1.0, group: 0.0 });
        assert_eq!(points([[0.1, 0.9], [0.8, 0.2]]), WinogroundScores { text: 0.0, image: 0.0, group: 0.0 });
        let mut both = item([[0.9, 0.1], [0.2, 0.8]]);
        both.add([[0.1, 0.9], [0.8, 0.2]], [[0.1, 0.9], [0.8, 0.2]]);
        assert_eq!((both.n_items(), both.strict().unwrap().group), (2, 0.5));
    }

    #[test]
    fn a_constant_score_is_chance_in_expectation_and_nothing_by_the_rule() {
        let counts = item([[0.5; 2]; 2]);
        assert_eq!(counts.strict().unwrap(), WinogroundScores { text: 0.0, image: 0.0, group: 0.0 });
        let expected = counts.expected().unwrap();
        for (ours, chance) in [(expected.text, 0.25), (expected.image, 0.25), (expected.group, 1.0 / 6.0)] {
            assert!((ours - chance).abs() < 1e-12, "{ours} against {chance}");
        }
    }

    #[test]
    fn a_bag_of_words_is_decided_by_the_images() {
        // Both captions give one score per image: captions tie, and one caption prefers the other's image.
        let expected = item([[0.3, 0.6], [0.3, 0.6]]).expected().unwrap();
        assert_eq!((expected.image, expected.group), (0.0, 0.0));
        assert!((expected.text - 0.25).abs() < 1e-12);
    }

    #[test]
    fn captions_and_images_are_chosen_by_scores_of_their_own() {
        let (right, wrong) = ([[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.8, 0.2]]);
        let mut counts = Winoground::default();
        counts.add(right, wrong);
        assert_eq!(counts.strict().unwrap(), WinogroundScores { text: 1.0, image: 0.0, group: 0.0 });
        let mut counts = Winoground::default();
        counts.add(wrong, right);
        assert_eq!(counts.strict().unwrap(), WinogroundScores { text: 0.0, image: 1.0, group: 0.0 });
    }

    #[test]
    fn intervals_are_those_of_shares() {
        let options = Bootstrap { confidence: 0.95, n_resamples: 1000, seed: 1 };
        let mut counts = Winoground::default();
        // Both points in half of 100 items, the text point alone in a quarter more.
        for item in 0..100 {
            counts.add(
                [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.7], [0.4, 0.9]], [[0.5; 2]; 2]][item % 4],
                [[[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.7], [0.4, 0.9]], [[0.5; 2]; 2]][item % 4],
            );
        }
        let scores = counts.strict().unwrap();
        assert_eq!((scores.text, scores.image, scores.group), (0.75, 0.5, 0.5));
        let [text, image, group] = counts.intervals(options).unwrap();
        for (share, Interval { low, high }) in [(0.75f64, text), (0.5, image), (0.5, group)] {
            let half = 1.96 * (share * (1.0 - share) / 100.0).sqrt();
            assert!((low - (share - half)).abs() < 0.025 && (high - (share + half)).abs() < 0.025, "{low} to {high}");
        }
        assert_eq!(Winoground::default().intervals(options), None);
    }

    #[test]
    fn no_items_have_no_score() {
        assert_eq!((Winoground::default().strict(), Winoground::default().expected()), (None, None));
    }

    proptest! {
        #[test]
        fn swapping_both_pairs_changes_nothing_and_captions_for_images_swaps_points(scores in proptest::array::uniform4(0u8..4)) {
            let [a, b, c, d] = scores.map(f32::from);
            let counts = item([[a, b], [c, d]]);
            let close = |x: f64, y: f64| (x - y).abs() < 1e-12;
            let turned = item([[d, c], [b, a]]);
            prop_assert_eq!(counts.strict(), turned.strict());
            let (ours, theirs) = (counts.expected().unwrap(), item([[a, c], [b, d]]).expected().unwrap());
            prop_assert!(close(ours.text, theirs.image) && close(ours.image, theirs.text) && close(ours.group, theirs.group));
            let strict = counts.strict().unwrap();
            prop_assert!(strict.text <= ours.text + 1e-12 && strict.group <= ours.group + 1e-12);
            prop_assert!(ours.group <= ours.text.min(ours.image) + 1e-12);
        }
    }
}
