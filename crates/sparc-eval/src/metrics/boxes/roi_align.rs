//! RoIAlign (He et al. 2017) on a patch grid, as torchvision's `roi_align(aligned=True)` computes it.
//!
//! The box, in cells and moved by half a cell so that cell centres lie at whole numbers, is divided into bins; each
//! bin is the mean of the bilinearly interpolated features at evenly spaced points. A point further than one cell
//! outside the grid counts as zero, one nearer takes the border's value.

use ndarray::{Array1, Array2, ArrayView2, Axis};

// Dimension letters: p patches, d width, n bins (of a row and of a column).

/// Points per bin, along each axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// As many as the bin has cells, rounded up. A box without area has none, and its features are zero.
    Adaptive,
    /// This many, at least one.
    PerBin(usize),
}

impl Sampling {
    /// torchvision's `sampling_ratio`: zero and less mean adaptive.
    pub fn from_ratio(ratio: i64) -> Sampling {
        match usize::try_from(ratio) {
            Ok(points @ 1..) => Sampling::PerBin(points),
            _ => Sampling::Adaptive,
        }
    }
}

/// How a box is pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoiAlign {
    /// Bins of a row and of a column; 7 is the usual number.
    pub n_bins: usize,
    /// Points per bin.
    pub sampling: Sampling,
}

/// The points of all bins along one axis: for each, its cells with their weights; `None` outside the grid.
type Points = Vec<Vec<Option<[(usize, f64); 2]>>>;

/// Features of each bin of a box, row by row.
///
/// # Shapes
///
/// `features_pd [P, D]` with the patches of a grid of `(rows, columns)`, row by row; `region` is in `[0, 1]` of the
/// grid's frame and may reach beyond it. The result is `[n_bins · n_bins, D]`.
///
/// # Panics
///
/// If P is not rows × columns, there is no patch or no bin, `Sampling::PerBin(0)` is asked for, or the box is not
/// finite or has its corners the wrong way round.
pub fn roi_align(
    features_pd: ArrayView2<'_, f32>,
    (rows, columns): (usize, usize),
    region: [f64; 4],
    RoiAlign { n_bins, sampling }: RoiAlign,
) -> Array2<f32> {
    let (n_patches, width) = features_pd.dim();
    assert_eq!(n_patches, rows * columns, "{n_patches} patches on a grid of {rows} x {columns}");
    assert!(n_patches > 0 && n_bins > 0, "{n_bins} bins on a grid of {rows} x {columns}");
    assert!(sampling != Sampling::PerBin(0), "a bin needs a point");
    let [x0, y0, x1, y1] = region;
    let is_box = region.iter().all(|value| value.is_finite()) && x0 <= x1 && y0 <= y1;
    assert!(is_box, "{region:?} is not a box");

    let vertical = points(y0, y1, rows, n_bins, sampling);
    let horizontal = points(x0, x1, columns, n_bins, sampling);
    let mut bins_nd = Array2::zeros((n_bins * n_bins, width));
    let mut sum_d = vec![0.0f64; width];
    for (row, vertical) in vertical.iter().enumerate() {
        for (column, horizontal) in horizontal.iter().enumerate() {
            sum_d.fill(0.0);
            for cells in vertical.iter().flatten() {
                for others in horizontal.iter().flatten() {
                    add_point(&mut sum_d, features_pd, columns, cells, others);
                }
            }
            let n_points = (vertical.len() * horizontal.len()).max(1) as f64;
            let mut bin = bins_nd.row_mut(row * n_bins + column);
            bin.iter_mut().zip(&sum_d).for_each(|(bin, sum)| *bin = (sum / n_points) as f32);
        }
    }
    bins_nd
}

/// The mean of the bins: one vector for the box.
///
/// # Shapes
///
/// As [`roi_align`]; the result is `[D]`.
///
/// # Panics
///
/// As [`roi_align`].
pub fn roi_align_mean(
    features_pd: ArrayView2<'_, f32>,
    grid: (usize, usize),
    region: [f64; 4],
    options: RoiAlign,
) -> Array1<f32> {
    let bins_nd = roi_align(features_pd, grid, region, options);
    bins_nd.mapv(f64::from).mean_axis(Axis(0)).expect("at least one bin").mapv(|mean| mean as f32)
}

fn add_point(
    sum_d: &mut [f64],
    features_pd: ArrayView2<'_, f32>,
    columns: usize,
    vertical: &[(usize, f64); 2],
    horizontal: &[(usize, f64); 2],
) {
    for &(row, down) in vertical {
        for &(column, right) in horizontal {
            let weight = down * right;
            if weight > 0.0 {
                let patch_d = features_pd.row(row * columns + column);
                sum_d.iter_mut().zip(patch_d).for_each(|(sum, &value)| *sum += weight * f64::from(value));
            }
        }
    }
}

/// The points of the bins between `low` and `high`, in `[0, 1]` of `n_cells` cells.
fn points(low: f64, high: f64, n_cells: usize, n_bins: usize, sampling: Sampling) -> Points {
    let start = low * n_cells as f64 - 0.5;
    let bin = (high - low) * n_cells as f64 / n_bins as f64;
    let n_points = match sampling {
        Sampling::Adaptive => bin.ceil() as usize,
        Sampling::PerBin(points) => points,
    };
    let position =
        |index: usize, point: usize| start + index as f64 * bin + (point as f64 + 0.5) * bin / n_points as f64;
    (0..n_bins).map(|index| (0..n_points).map(|point| cells(position(index, point), n_cells)).collect()).collect()
}

fn cells(position: f64, n_cells: usize) -> Option<[(usize, f64); 2]> {
    if position < -1.0 || position > n_cells as f64 {
        return None;
    }
    let last = n_cells - 1;
    let position = position.clamp(0.0, last as f64);
    let cell = position as usize;
    let weight = position - cell as f64;
    Some([(cell, 1.0 - weight), ((cell + 1).min(last), weight)])
}
