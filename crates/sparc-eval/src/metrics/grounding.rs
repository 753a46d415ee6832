//! Does the heatmap of a phrase lie on what the phrase names?
//!
//! # Rules, the ambiguous ones included
//!
//! - A box holds the pixels whose centres lie in it, and at least the pixel that holds the box's own
//!   centre, so that no box is empty. A phrase with several boxes names the union of them.
//! - *Pointing* (Zhang et al. 2016, without their 15-pixel tolerance): does the highest pixel of the
//!   upsampled map lie in a box? If several pixels are highest, the point is spread evenly over them.
//! - *Threshold*: the map is min-max normalised and cut at `>= threshold`.
//! - *Mask IoU*: the cut map against the pixels of the boxes. *Box IoU*: the smallest box around the
//!   *whole* cut map (not its largest connected part) against the best of the phrase's boxes.
//! - A constant map has no minimum to subtract: its cut map is the whole image.
//! - *Chance*: the share of the image that the boxes cover. It is what a constant map gets for
//!   pointing and for mask IoU, exactly.

use ndarray::{Array2, ArrayView2};

use super::boxes::box_iou;

/// Where min-max-normalised heatmaps are cut unless told otherwise: half of the range.
pub const DEFAULT_THRESHOLD: f64 = 0.5;

/// The IoU from which a box counts as found, as in referring-expression comprehension (RefCOCO).
pub const FOUND_IOU: f64 = 0.5;

/// Scores of one phrase's heatmap, all in `[0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroundingScore {
    /// 1 if the highest pixel lies in a box, 0 if not, the share that does if several are highest.
    pub pointing: f64,
    /// IoU of the box around the cut map with the phrase's best box.
    pub box_iou: f64,
    /// IoU of the cut map with the pixels of the phrase's boxes.
    pub mask_iou: f64,
    /// Share of the image covered by the phrase's boxes.
    pub chance: f64,
}

/// Scores one heatmap, already at the resolution in which it is to be judged.
///
/// `boxes` are `x0, y0, x1, y1` in `[0, 1]` of the map's frame, x right, y down.
///
/// # Panics
///
/// If the map has no pixel or a NaN, there is no box, or a box is not `0 <= x0 < x1 <= 1` (likewise y).
pub fn grounding_score(heatmap_hw: ArrayView2<'_, f32>, boxes: &[[f32; 4]], threshold: f64) -> GroundingScore {
    let (height, width) = heatmap_hw.dim();
    assert!(height > 0 && width > 0, "a heatmap of {height} x {width} pixels");
    assert!(!boxes.is_empty(), "a phrase without a box cannot be scored");
    assert!(!heatmap_hw.iter().any(|value| value.is_nan()), "the heatmap has a NaN");
    let in_boxes_hw = pixels_of_boxes(boxes, height, width);
    let cut_hw = cut(heatmap_hw, threshold);
    let highest = heatmap_hw.iter().copied().fold(f32::NEG_INFINITY, f32::max);

    let (mut n_highest, mut n_highest_inside) = (0usize, 0usize);
    let (mut n_inside, mut n_either, mut n_both) = (0usize, 0usize, 0usize);
    for ((&value, &is_cut), &is_inside) in heatmap_hw.iter().zip(&cut_hw).zip(&in_boxes_hw) {
        n_highest += usize::from(value == highest);
        n_highest_inside += usize::from(value == highest && is_inside);
        n_inside += usize::from(is_inside);
        n_either += usize::from(is_cut || is_inside);
        n_both += usize::from(is_cut && is_inside);
    }
    let cut_box = bounding_box(&cut_hw);
    GroundingScore {
        pointing: n_highest_inside as f64 / n_highest as f64,
        box_iou: boxes.iter().map(|truth| box_iou(cut_box, truth.map(f64::from))).fold(0.0, f64::max),
        mask_iou: n_both as f64 / n_either as f64,
        chance: n_inside as f64 / (height * width) as f64,
    }
}

/// True where the min-max-normalised map reaches the threshold; everywhere for a constant map.
fn cut(heatmap_hw: ArrayView2<'_, f32>, threshold: f64) -> Array2<bool> {
    let lowest = f64::from(heatmap_hw.iter().copied().fold(f32::INFINITY, f32::min));
    let highest = f64::from(heatmap_hw.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let range = highest - lowest;
    heatmap_hw.map(|&value| range <= 0.0 || (f64::from(value) - lowest) / range >= threshold)
}

/// True at the pixels of the union of the boxes.
fn pixels_of_boxes(boxes: &[[f32; 4]], height: usize, width: usize) -> Array2<bool> {
    let mut inside_hw = Array2::from_elem((height, width), false);
    for truth in boxes {
        let [x0, y0, x1, y1] = truth.map(f64::from);
        let is_box = 0.0 <= x0 && x0 < x1 && x1 <= 1.0 && 0.0 <= y0 && y0 < y1 && y1 <= 1.0;
        assert!(is_box, "{truth:?} is not a box in [0, 1]");
        let columns = pixels_of_interval(x0, x1, width);
        for y in pixels_of_interval(y0, y1, height) {
            for x in columns.clone() {
                inside_hw[[y, x]] = true;
            }
        }
    }
    inside_hw
}

/// Indices of the pixels whose centres lie in `[low, high)`, or the one that holds the middle.
pub(super) fn pixels_of_interval(low: f64, high: f64, n_pixels: usize) -> std::ops::Range<usize> {
    let scale = n_pixels as f64;
    let first = (low * scale - 0.5).ceil().max(0.0) as usize;
    let end = ((high * scale - 0.5).ceil().max(0.0) as usize).min(n_pixels);
    if first < end {
        return first..end;
    }
    let middle = (((low + high) / 2.0 * scale) as usize).min(n_pixels - 1);
    middle..middle + 1
}

/// The smallest box, `x0, y0, x1, y1` in `[0, 1]`, around the true pixels; all zero if there is none.
fn bounding_box(mask_hw: &Array2<bool>) -> [f64; 4] {
    let (height, width) = mask_hw.dim();
    let (mut x0, mut y0, mut x1, mut y1) = (width, height, 0, 0);
    for ((y, x), _) in mask_hw.indexed_iter().filter(|(_, is_set)| **is_set) {
        (x0, y0, x1, y1) = (x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1));
    }
    if x1 == 0 {
        return [0.0; 4]; // a threshold above 1
    }
    let (height, width) = (height as f64, width as f64);
    [x0 as f64 / width, y0 as f64 / height, x1 as f64 / width, y1 as f64 / height]
}

#[cfg(test)]
mod reference {
    //! One pixel after another, by its centre.

    /// `(pointing, mask IoU, chance)`; boxes must each hold a pixel centre.
    pub fn scores(map: &[Vec<f32>], boxes: &[[f32; 4]], threshold: f64) -> (f64, f64, f64) {
        let (height, width) = (map.len(), map[0].len());
        let all: Vec<f32> = map.concat();
        let lowest = all.iter().copied().reduce(f32::min).expect("a pixel");
        let highest = all.iter().copied().reduce(f32::max).expect("a pixel");
        let (mut pointed, mut maxima, mut both, mut either, mut inside_total) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (y, row) in map.iter().enumerate() {
            for (x, &value) in row.iter().enumerate() {
                let (cx, cy) = ((x as f64 + 0.5) / width as f64, (y as f64 + 0.5) / height as f64);
                let inside = boxes.iter().any(|b| {
                    f64::from(b[0]) <= cx && cx < f64::from(b[2]) && f64::from(b[1]) <= cy && cy < f64::from(b[3])
                });
                let normalized = (f64::from(value) - f64::from(lowest)) / (f64::from(highest) - f64::from(lowest));
                let on = normalized.is_nan() || normalized >= threshold;
                if value == highest {
                    maxima += 1.0;
                    pointed += f64::from(u8::from(inside));
                }
                both += f64::from(u8::from(inside && on));
                either += f64::from(u8::from(inside || on));
                inside_total += f64::from(u8::from(inside));
            }
        }
        (pointed / maxima, both / either, inside_total / (height * width) as f64)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        let map = array![[0.0f32, 0.2, 0.0, 0.0], [0.6, 1.0, 0.0, 0.0], [0.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]];
        // Cut: (1,0), (1,1), (2,1); its box: x 0..2, y 1..3. True box: x 1..3, y 1..3 (of 4).
        let score = grounding_score(map.view(), &[[0.25, 0.25, 0.75, 0.75]], 0.5);
        assert_eq!(score.pointing, 1.0);
        assert_eq!(score.mask_iou, 2.0 / 5.0);
        assert!((score.box_iou - 2.0 / 6.0).abs() < 1e-12);
        assert_eq!(score.chance, 0.25);
        assert_eq!(grounding_score(map.view(), &[[0.5, 0.5, 1.0, 1.0]], 0.5).pointing, 0.0);
    }

    #[test]
    fn a_constant_map_scores_chance() {
        let map = Array2::from_elem((8, 8), 0.3f32);
        let score = grounding_score(map.view(), &[[0.0, 0.0, 0.5, 0.25]], 0.5);
        assert_eq!((score.pointing, score.mask_iou, score.chance), (0.125, 0.125, 0.125));
        assert!((score.box_iou - 0.125).abs() < 1e-12);
    }

    #[test]
    fn tied_maxima_share_the_point() {
        let map = array![[1.0f32, 0.0, 0.0, 1.0]];
        assert_eq!(grounding_score(map.view(), &[[0.0, 0.0, 0.5, 1.0]], 0.5).pointing, 0.5);
    }

    #[test]
    fn several_boxes_are_one_place() {
        let map = array![[0.0f32, 0.0, 0.0, 1.0]];
        let score = grounding_score(map.view(), &[[0.0, 0.0, 0.25, 1.0], [0.75, 0.0, 1.0, 1.0]], 0.5);
        assert_eq!((score.pointing, score.box_iou, score.mask_iou, score.chance), (1.0, 1.0, 0.5, 0.5));
    }

    #[test]
    fn a_box_below_a_pixel_still_holds_one() {
        let map = array![[0.0f32, 1.0], [0.0, 0.0]];
        let score = grounding_score(map.view(), &[[0.9, 0.05, 0.92, 0.07]], 0.5);
        assert_eq!((score.pointing, score.mask_iou, score.chance), (1.0, 1.0, 0.25));
        assert!(score.box_iou < 0.01);
    }

    #[test]
    fn a_threshold_above_one_cuts_everything_away() {
        let score = grounding_score(array![[0.0f32, 1.0]].view(), &[[0.0, 0.0, 1.0, 1.0]], 1.5);
        assert_eq!((score.box_iou, score.mask_iou), (0.0, 0.0));
    }

    #[test]
    #[should_panic(expected = "is not a box")]
    fn an_inverted_box_is_refused() {
        let _ = grounding_score(array![[0.0f32, 1.0]].view(), &[[0.5, 0.0, 0.2, 1.0]], 0.5);
    }

    /// A grid of H × W pixels and a pixel-aligned box in it.
    fn case() -> impl Strategy<Value = (Array2<f32>, [usize; 4])> {
        (1usize..8, 1usize..8).prop_flat_map(|(height, width)| {
            let map = proptest::collection::vec((-3i8..3).prop_map(f32::from), height * width)
                .prop_map(move |values| Array2::from_shape_vec((height, width), values).unwrap());
            let span = |n: usize| (0..n).prop_flat_map(move |low| (Just(low), low + 1..=n));
            (map, span(width), span(height)).prop_map(|(map, (x0, x1), (y0, y1))| (map, [x0, y0, x1, y1]))
        })
    }

    fn relative([x0, y0, x1, y1]: [usize; 4], map: &Array2<f32>) -> [f32; 4] {
        let (height, width) = map.dim();
        [x0 as f32 / width as f32, y0 as f32 / height as f32, x1 as f32 / width as f32, y1 as f32 / height as f32]
    }

    proptest! {
        #[test]
        fn agrees_with_reference((map, truth) in case(), threshold in 0.0f64..1.0) {
            let rows: Vec<Vec<f32>> = map.rows().into_iter().map(|row| row.to_vec()).collect();
            let truth = relative(truth, &map);
            let score = grounding_score(map.view(), &[truth], threshold);
            let (pointing, mask_iou, chance) = reference::scores(&rows, &[truth], threshold);
            prop_assert!((score.pointing - pointing).abs() < 1e-12);
            prop_assert!((score.mask_iou - mask_iou).abs() < 1e-12);
            prop_assert!((score.chance - chance).abs() < 1e-12);
        }

        #[test]
        fn bounds_hold((map, truth) in case(), threshold in 0.0f64..2.0) {
            let score = grounding_score(map.view(), &[relative(truth, &map)], threshold);
            for value in [score.pointing, score.box_iou, score.mask_iou, score.chance] {
                prop_assert!((0.0..=1.0 + 1e-6).contains(&value), "{score:?}");
            }
        }

        #[test]
        fn scale_and_offset_of_the_map_change_nothing((map, truth) in case()) {
            let truth = [relative(truth, &map)];
            let moved = map.map(|value| value * 4.0 + 8.0);
            prop_assert_eq!(grounding_score(map.view(), &truth, 0.5), grounding_score(moved.view(), &truth, 0.5));
        }

        #[test]
        fn mirroring_changes_nothing((map, truth) in case()) {
            let width = map.ncols();
            let mirrored = map.slice(ndarray::s![.., ..;-1]).to_owned();
            let mirrored_truth = [width - truth[2], truth[1], width - truth[0], truth[3]];
            let before = grounding_score(map.view(), &[relative(truth, &map)], 0.5);
            let after = grounding_score(mirrored.view(), &[relative(mirrored_truth, &map)], 0.5);
            prop_assert_eq!((before.pointing, before.mask_iou), (after.pointing, after.mask_iou));
            prop_assert!((before.box_iou - after.box_iou).abs() < 1e-5);
        }

        #[test]
        fn a_perfect_map_gives_one((map, truth) in case()) {
            let perfect = Array2::from_shape_fn(map.dim(), |(y, x)| {
                f32::from(truth[0] <= x && x < truth[2] && truth[1] <= y && y < truth[3])
            });
            let score = grounding_score(perfect.view(), &[relative(truth, &map)], 0.5);
            prop_assert_eq!((score.pointing, score.mask_iou), (1.0, 1.0));
            prop_assert!((score.box_iou - 1.0).abs() < 1e-5);
        }
    }
}
