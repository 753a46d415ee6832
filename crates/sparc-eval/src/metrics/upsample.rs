//! From the patch grid to pixels.
//!
//! The grid and the pixels cover the same frame, so pixel centre `(i + 0.5) / n_out` of one is
//! `(i + 0.5) / n_out` of the other: PyTorch's `align_corners=False`. Outside the outermost cell
//! centres the border value continues. There is no smoothing where the target is the coarser one.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3};
use serde::{Deserialize, Serialize};

// Dimension letters: h height, w width, k classes.

/// How class scores of patches become a class per pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upsampling {
    /// Scores are interpolated bilinearly, then each pixel takes its best class: the usual practice
    /// in open-vocabulary segmentation.
    BilinearScores,
    /// Each patch takes its best class, and each pixel the class of the patch it lies in: "argmax,
    /// then upsample", the order SPARC describes (Bica et al. 2024, section 4.5 and appendix D.7).
    NearestLabels,
}

/// Two neighbouring cells and the weight of the second.
#[derive(Debug, Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    weight: f32,
}

fn bilinear_taps(n_in: usize, n_out: usize) -> Vec<Tap> {
    let scale = n_in as f64 / n_out as f64;
    let last = n_in - 1;
    (0..n_out)
        .map(|index| {
            let position = ((index as f64 + 0.5) * scale - 0.5).clamp(0.0, last as f64);
            let low = position as usize;
            Tap { low, high: (low + 1).min(last), weight: (position - low as f64) as f32 }
        })
        .collect()
}

/// The cell that each pixel's centre lies in.
fn nearest_cells(n_in: usize, n_out: usize) -> Vec<usize> {
    // Integer arithmetic: floor((i + 0.5) * n_in / n_out) without rounding.
    (0..n_out).map(|index| (2 * index + 1) * n_in / (2 * n_out)).collect()
}

/// Written so that equal neighbours give exactly their value: plateaus stay plateaus.
fn lerp(low: f32, high: f32, weight: f32) -> f32 {
    low + weight * (high - low)
}

/// Bilinear interpolation to `height` × `width`.
///
/// # Panics
///
/// If the map has no cell.
pub fn upsample_bilinear(map_hw: ArrayView2<'_, f32>, height: usize, width: usize) -> Array2<f32> {
    let (rows, columns) = map_hw.dim();
    assert!(rows > 0 && columns > 0, "a map of {rows} x {columns} cells cannot be upsampled");
    let (row_taps, column_taps) = (bilinear_taps(rows, height), bilinear_taps(columns, width));
    Array2::from_shape_fn((height, width), |(y, x)| {
        let (row, column) = (row_taps[y], column_taps[x]);
        let at = |column: usize| lerp(map_hw[[row.low, column]], map_hw[[row.high, column]], row.weight);
        lerp(at(column.low), at(column.high), column.weight)
    })
}

/// The best class of every pixel, `[H, W]`; the lowest index among equals.
///
/// Memory stays at one row of cells × classes, whatever the size of the label map.
///
/// # Shapes
///
/// `scores_hwk [h, w, K]`.
///
/// # Panics
///
/// If there is no cell or no class, or a score is NaN.
pub fn upsample_argmax(scores_hwk: &Array3<f32>, height: usize, width: usize, upsampling: Upsampling) -> Array2<usize> {
    let (rows, columns, n_classes) = scores_hwk.dim();
    assert!(
        rows > 0 && columns > 0 && n_classes > 0,
        "{n_classes} classes on {rows} x {columns} cells cannot be upsampled"
    );
    assert!(!scores_hwk.iter().any(|score| score.is_nan()), "a class score is NaN");
    match upsampling {
        Upsampling::BilinearScores => argmax_of_bilinear(scores_hwk.view(), height, width),
        Upsampling::NearestLabels => {
            let labels_hw =
                Array2::from_shape_fn((rows, columns), |(y, x)| argmax((0..n_classes).map(|k| scores_hwk[[y, x, k]])));
            let (row_cells, column_cells) = (nearest_cells(rows, height), nearest_cells(columns, width));
            Array2::from_shape_fn((height, width), |(y, x)| labels_hw[[row_cells[y], column_cells[x]]])
        }
    }
}

fn argmax_of_bilinear(scores_hwk: ArrayView3<'_, f32>, height: usize, width: usize) -> Array2<usize> {
    let (rows, columns, n_classes) = scores_hwk.dim();
    let (row_taps, column_taps) = (bilinear_taps(rows, height), bilinear_taps(columns, width));
    let mut labels_hw = Array2::zeros((height, width));
    let mut row_scores = vec![0.0f32; columns * n_classes];
    for (y, tap) in row_taps.into_iter().enumerate() {
        let (low, high) =
            (scores_hwk.index_axis(ndarray::Axis(0), tap.low), scores_hwk.index_axis(ndarray::Axis(0), tap.high));
        for ((score, &low), &high) in row_scores.iter_mut().zip(low.iter()).zip(high.iter()) {
            *score = lerp(low, high, tap.weight);
        }
        for (x, tap) in column_taps.iter().enumerate() {
            let low = &row_scores[tap.low * n_classes..][..n_classes];
            let high = &row_scores[tap.high * n_classes..][..n_classes];
            labels_hw[[y, x]] = argmax(low.iter().zip(high).map(|(&low, &high)| lerp(low, high, tap.weight)));
        }
    }
    labels_hw
}

fn argmax(scores: impl Iterator<Item = f32>) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (index, score) in scores.enumerate() {
        if score > best.1 {
            best = (index, score);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Array3, array};
    use proptest::prelude::*;
    use tch::Tensor;

    use super::*;

    /// LibTorch's own kernel as the independent reference.
    fn torch_bilinear(map: &Array2<f32>, height: usize, width: usize) -> Vec<f32> {
        let (rows, columns) = map.dim();
        let flat: Vec<f32> = map.iter().copied().collect();
        let tensor = Tensor::from_slice(&flat).view([1, 1, rows as i64, columns as i64]);
        let upsampled = tensor.upsample_bilinear2d([height as i64, width as i64], false, None, None);
        Vec::<f32>::try_from(upsampled.view([-1])).expect("f32 values")
    }

    #[test]
    fn hand_computed_doubling() {
        let doubled = upsample_bilinear(array![[0.0f32, 4.0]].view(), 2, 4);
        assert_eq!(doubled, array![[0.0, 1.0, 3.0, 4.0], [0.0, 1.0, 3.0, 4.0]]);
    }

    #[test]
    fn plateaus_stay_exactly_flat() {
        let map = Array2::from_elem((7, 7), 0.1f32);
        assert!(upsample_bilinear(map.view(), 97, 53).iter().all(|&value| value == 0.1));
    }

    #[test]
    fn labels_and_scores_differ_as_they_should() {
        // Cells: class 0 by far (1 : 0), class 1 by a little (0.4 : 0.6). Interpolated, the strong cell
        // wins its half of the way and some of the neighbour's.
        let scores = Array3::from_shape_vec((1, 2, 2), vec![1.0f32, 0.0, 0.4, 0.6]).unwrap();
        let nearest = upsample_argmax(&scores, 1, 8, Upsampling::NearestLabels);
        assert_eq!(nearest.into_raw_vec_and_offset().0, [0, 0, 0, 0, 1, 1, 1, 1]);
        // At weight w of the second cell: 1 - 0.6 w against 0.6 w, class 1 from w > 5/6; pixel centres
        // lie at w = 0, 0, 1/8, 3/8, 5/8, 7/8, 1, 1.
        let bilinear = upsample_argmax(&scores, 1, 8, Upsampling::BilinearScores);
        assert_eq!(bilinear.into_raw_vec_and_offset().0, [0, 0, 0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn nearest_takes_the_cell_of_the_pixel_centre() {
        assert_eq!(nearest_cells(2, 5), [0, 0, 1, 1, 1]);
        assert_eq!(nearest_cells(3, 3), [0, 1, 2]);
        assert_eq!(nearest_cells(4, 2), [1, 3]);
    }

    #[test]
    fn equal_scores_take_the_lowest_class() {
        let scores = Array3::from_elem((2, 2, 3), 0.5f32);
        assert!(upsample_argmax(&scores, 5, 5, Upsampling::BilinearScores).iter().all(|&label| label == 0));
    }

    proptest! {
        #[test]
        fn agrees_with_libtorch(
            (map, height, width) in (1usize..6, 1usize..6).prop_flat_map(|(rows, columns)| (
                proptest::collection::vec(-1.0f32..1.0, rows * columns)
                    .prop_map(move |values| Array2::from_shape_vec((rows, columns), values).unwrap()),
                1usize..20, 1usize..20)),
        ) {
            let ours = upsample_bilinear(map.view(), height, width);
            for (ours, torch) in ours.iter().zip(torch_bilinear(&map, height, width)) {
                prop_assert!((ours - torch).abs() < 1e-5, "{ours} against {torch}");
            }
        }

        #[test]
        fn argmax_is_that_of_the_upsampled_maps(
            scores in proptest::collection::vec(-1.0f32..1.0, 3 * 4 * 5), height in 1usize..15, width in 1usize..15,
        ) {
            let scores = Array3::from_shape_vec((3, 4, 5), scores).unwrap();
            let maps: Vec<Array2<f32>> = (0..5)
                .map(|k| upsample_bilinear(scores.slice(ndarray::s![.., .., k]), height, width)).collect();
            let labels = upsample_argmax(&scores, height, width, Upsampling::BilinearScores);
            for (place, &label) in labels.indexed_iter() {
                let best = maps.iter().map(|map| map[place]).fold(f32::NEG_INFINITY, f32::max);
                prop_assert_eq!(maps[label][place], best);
            }
        }
    }
}
