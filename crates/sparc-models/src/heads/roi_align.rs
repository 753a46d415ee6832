//! RoIAlign (He et al. 2017) as a region head: what CLOC's ablation puts in the Prompter's place.

use sparc_core::PatchGrid;
use tch::{Kind, Tensor};

use crate::layers::Linear;
use crate::{Init, ParameterBuilder};

// Dimension letters: b batch, p patches, s slots, n sampling points of an axis, c cells of an axis, w width.

/// Bins of a row and of a column.
const BINS: i64 = 7;
/// Points of a bin along each axis (Detectron's number; torchvision's `sampling_ratio` 2).
const POINTS: i64 = 2;

/// The mean of a box's bins, projected to the shared space.
#[derive(Debug)]
pub struct RoiAlignHead {
    projection: Linear,
}

impl RoiAlignHead {
    /// From features of `width` to `embed_dim`.
    pub fn new(builder: &ParameterBuilder, width: i64, embed_dim: i64, bias: bool) -> RoiAlignHead {
        let deviation = (width as f64).powf(-0.5);
        let projection = Linear::new(&builder.under("projection"), width, embed_dim, bias, Init::Normal(deviation));
        RoiAlignHead { projection }
    }

    /// `[B, P, W]` and boxes `[B, S, 4]` in `[0, 1]` of the network input → `[B, S, D]`.
    pub fn forward(&self, patches_bpw: &Tensor, boxes_bs4: &Tensor, grid: PatchGrid) -> Tensor {
        self.projection.forward(&roi_align_weights(&boxes_bs4.to_kind(patches_bpw.kind()), grid).matmul(patches_bpw))
    }
}

/// The weights of all patches in the mean over 7×7 bins of each box, torchvision's `roi_align(aligned=True,
/// sampling_ratio=2)`: bilinear interpolation is linear in the features, and its weights along the two axes
/// multiply.
///
/// # Shapes
///
/// `boxes_bs4` `[B, S, 4]` in `[0, 1]` of the grid's frame; the result is `[B, S, P]`, rows that add up to 1.
///
/// # Panics
///
/// If the shape is another.
pub fn roi_align_weights(boxes_bs4: &Tensor, grid: PatchGrid) -> Tensor {
    let (b, s, four) = boxes_bs4.size3().expect("boxes are [B, S, 4]");
    assert_eq!(four, 4, "boxes are [B, S, 4]");
    let options = (boxes_bs4.kind(), boxes_bs4.device());
    let share_n = (Tensor::arange(BINS * POINTS, options) + 0.5) / (BINS * POINTS) as f64;
    let along = |low: i64, n_cells: i64| {
        let (low, high) = (boxes_bs4.select(2, low).unsqueeze(-1), boxes_bs4.select(2, low + 2).unsqueeze(-1));
        // Cell centres lie at whole numbers; beyond the outermost ones the border's value goes on.
        let place_bsn = ((&low + (high - &low) * &share_n) * n_cells as f64 - 0.5).clamp(0.0, (n_cells - 1) as f64);
        let cell_c = Tensor::arange(n_cells, options);
        let distance_bsnc = (place_bsn.unsqueeze(-1) - cell_c).abs();
        let weight_bsnc = (distance_bsnc.neg() + 1.0).clamp_min(0.0);
        weight_bsnc.mean_dim([2i64].as_slice(), false, None::<Kind>)
    };
    let (across_bsc, down_bsc) = (along(0, grid.width), along(1, grid.height));
    (down_bsc.unsqueeze(-1) * across_bsc.unsqueeze(-2)).reshape([b, s, grid.len()])
}

#[cfg(test)]
mod tests {
    use sparc_testing::{assert_close, values};

    use super::*;

    /// Box, and the means of two features over a grid of 6×5 by torchvision 0.26 in double precision, where patch
    /// p has ((37 p + 11 d) mod 64) / 8 − 4 as its feature d.
    const TORCHVISION: [([f64; 4], [f64; 2]); 5] = [
        ([0.125, 0.25, 0.75, 0.875], [-0.01570471938775511, -0.19396052426072463]),
        ([0.0, 0.0, 1.0, 1.0], [-0.13470949604331528, -0.10206684714702215]),
        ([0.4375, 0.5, 0.46875, 0.53125], [1.896484375, -2.853515625]),
        ([0.5, 0.5, 0.5, 0.75], [2.40625, -1.5554846938775522]),
        ([0.875, 0.9375, 1.0, 1.0], [2.0674824617346936, 3.442482461734694]),
    ];

    #[test]
    fn weights_are_torchvisions() {
        let features: Vec<f64> =
            (0..30i64).flat_map(|p| (0..2i64).map(move |d| ((p * 37 + d * 11) % 64) as f64 / 8.0 - 4.0)).collect();
        let features_pd = Tensor::from_slice(&features).view([1, 30, 2]);
        let boxes: Vec<f64> = TORCHVISION.iter().flat_map(|(corners, _)| *corners).collect();
        let weights =
            roi_align_weights(&Tensor::from_slice(&boxes).view([1, -1, 4]), PatchGrid { height: 6, width: 5 });
        let means = values(&weights.matmul(&features_pd));
        for (ours, theirs) in means.iter().zip(TORCHVISION.iter().flat_map(|(_, means)| means)) {
            assert_close(*ours, *theirs, 1e-12);
        }
        let sums = weights.sum_dim_intlist([-1i64].as_slice(), false, None::<Kind>);
        assert!(values(&sums).iter().all(|sum| (sum - 1.0).abs() < 1e-12));
    }
}
