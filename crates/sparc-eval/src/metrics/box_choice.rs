//! Which of given boxes does a heatmap choose? Weakly supervised grounding by ranking proposals (ALBEF, Li et al. 2021,
//! on RefCOCO+ with the boxes of a detector).
//!
//! The score of a box is the sum of the map over its pixels ÷ its area in pixels to the power α: with α = 0 the largest box
//! wins, with α = 1 the mean counts, and small boxes win. ALBEF takes 0.5. What of the map is below 0 counts as 0. The choice
//! is right if the chosen box has an IoU of at least 0.5 with a box of the phrase; where several boxes score best, it is
//! right with the share of them that does.

use ndarray::{ArrayView2, s};

use super::boxes::box_iou;
use super::grounding::{FOUND_IOU, pixels_of_interval};

/// ALBEF's α.
pub const AREA_EXPONENT: f64 = 0.5;

/// How a phrase's heatmap chose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxChoice {
    /// Whether the chosen box is right: 0 or 1 where no boxes tie.
    pub hit: f64,
    /// Share of the boxes that would be right: what a map without any heat gets.
    pub chance: f64,
}

/// Chooses among `candidates`; `truths` are the phrase's. All are `x0, y0, x1, y1` in `[0, 1]` of the map's frame.
///
/// # Panics
///
/// If there is no candidate, the map has no pixel or a NaN, or a candidate is not `0 <= x0 < x1 <= 1` (likewise y).
pub fn box_choice(
    heatmap_hw: ArrayView2<'_, f32>,
    candidates: &[[f32; 4]],
    truths: &[[f32; 4]],
    area_exponent: f64,
) -> BoxChoice {
    assert!(!candidates.is_empty(), "nothing to choose from");
    assert!(!heatmap_hw.iter().any(|value| value.is_nan()), "the heatmap has a NaN");
    let is_right = |candidate: &[f32; 4]| {
        truths.iter().any(|truth| box_iou(candidate.map(f64::from), truth.map(f64::from)) >= FOUND_IOU)
    };
    let scores: Vec<f64> = candidates.iter().map(|candidate| score(heatmap_hw, *candidate, area_exponent)).collect();
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let share = |chosen: &dyn Fn(usize) -> bool| {
        let chosen: Vec<&[f32; 4]> = (0..candidates.len()).filter(|&i| chosen(i)).map(|i| &candidates[i]).collect();
        chosen.iter().filter(|candidate| is_right(candidate)).count() as f64 / chosen.len() as f64
    };
    BoxChoice { hit: share(&|index| scores[index] == best), chance: share(&|_| true) }
}

fn score(heatmap_hw: ArrayView2<'_, f32>, candidate: [f32; 4], area_exponent: f64) -> f64 {
    let [x0, y0, x1, y1] = candidate.map(f64::from);
    let is_box = 0.0 <= x0 && x0 < x1 && x1 <= 1.0 && 0.0 <= y0 && y0 < y1 && y1 <= 1.0;
    assert!(is_box, "{candidate:?} is not a box in [0, 1]");
    let (height, width) = heatmap_hw.dim();
    let inside = heatmap_hw.slice(s![pixels_of_interval(y0, y1, height), pixels_of_interval(x0, x1, width)]);
    let sum: f64 = inside.iter().map(|heat| f64::from(heat.max(0.0))).sum();
    sum / (inside.len() as f64).powf(area_exponent)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    const LEFT: [f32; 4] = [0.0, 0.0, 0.5, 1.0];
    const WHOLE: [f32; 4] = [0.0, 0.0, 1.0, 1.0];
    const CORNER: [f32; 4] = [0.0, 0.0, 0.25, 0.5];

    #[test]
    fn the_exponent_weighs_size_against_density() {
        // Heat 6 in a corner of one pixel, 2 in the other three of the left half, 1 in the right half.
        let map = array![[6.0f32, 2.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0]];
        let hit =
            |truth: [f32; 4], exponent: f64| box_choice(map.view(), &[CORNER, LEFT, WHOLE], &[truth], exponent).hit;
        // Sums 6, 12, 16; areas 1, 4, 8.
        assert_eq!((hit(CORNER, 0.0), hit(WHOLE, 0.0)), (0.0, 1.0), "the largest");
        assert_eq!((hit(CORNER, 1.0), hit(WHOLE, 1.0)), (1.0, 0.0), "the densest");
        assert_eq!((hit(CORNER, 0.4), hit(WHOLE, 0.4)), (0.0, 1.0), "6, 6.9, 7.0");
        // 6, 6 and 5.7: the first two tie.
        let tied = box_choice(map.view(), &[CORNER, LEFT, WHOLE], &[LEFT], 0.5);
        assert_eq!((tied.hit, tied.chance), (0.5, 2.0 / 3.0), "the whole image overlaps its left half by a half");
    }

    #[test]
    fn without_heat_it_is_chance() {
        let candidates = [LEFT, CORNER, [0.5, 0.0, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0]];
        for map in [Array2::<f32>::zeros((4, 4)), Array2::from_elem((4, 4), -1.0)] {
            let choice = box_choice(map.view(), &candidates, &[LEFT], AREA_EXPONENT);
            assert_eq!((choice.hit, choice.chance), (0.25, 0.25));
        }
    }

    #[test]
    fn heat_inside_a_box_alone_chooses_it() {
        let mut map = Array2::<f32>::zeros((8, 8));
        map[[6, 6]] = 1e-3;
        let candidates = [LEFT, CORNER, [0.5, 0.5, 1.0, 1.0]];
        assert_eq!(box_choice(map.view(), &candidates, &[candidates[2]], AREA_EXPONENT).hit, 1.0);
        assert_eq!(box_choice(map.view(), &candidates, &[LEFT], AREA_EXPONENT).hit, 0.0);
    }

    #[test]
    #[should_panic(expected = "nothing to choose from")]
    fn no_candidates_are_refused() {
        let _ = box_choice(array![[1.0f32]].view(), &[], &[WHOLE], 0.5);
    }

    proptest! {
        /// Boxes of whole pixels, each pixel visited alone.
        #[test]
        fn agrees_with_visiting_pixels(
            heat in proptest::collection::vec(-3i8..9, 36),
            boxes in proptest::collection::vec((0usize..5, 0usize..5, 1usize..6, 1usize..6), 1..5),
        ) {
            let map = Array2::from_shape_fn((6, 6), |(y, x)| f32::from(heat[y * 6 + x]));
            let boxes: Vec<[usize; 4]> = boxes.iter().map(|&(x, y, w, h)| [x, y, (x + w).min(6), (y + h).min(6)]).collect();
            let score = |b: &[usize; 4]| {
                let mut sum = 0.0;
                for y in 0..6 {
                    for x in 0..6 {
                        let inside = b[0] <= x && x < b[2] && b[1] <= y && y < b[3];
                        sum += if inside && map[[y, x]] > 0.0 { f64::from(map[[y, x]]) } else { 0.0 };
                    }
                }
                sum / (((b[2] - b[0]) * (b[3] - b[1])) as f64).sqrt()
            };
            let scores: Vec<f64> = boxes.iter().map(score).collect();
            let shares: Vec<[f32; 4]> = boxes.iter().map(|b| b.map(|edge| edge as f32 / 6.0)).collect();
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // Scores that are equal but for rounding are left to the other tests.
            prop_assume!(scores.iter().all(|score| *score == best || best - score > 1e-6));
            let chosen = boxes.iter().zip(&scores).find(|(_, score)| **score == best).unwrap().0;
            prop_assume!(boxes.iter().zip(&scores).all(|(b, score)| *score < best || b == chosen));
            let truth = chosen.map(|edge| edge as f32 / 6.0);
            prop_assert_eq!(box_choice(map.view(), &shares, &[truth], AREA_EXPONENT).hit, 1.0);
        }
    }
}
