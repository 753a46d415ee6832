//! How regions with given boxes get embeddings: by the network's own region head, or by one of the ways that any
//! network has.

use ndarray::{Array1, Array2, ArrayView2};
use serde::{Deserialize, Serialize};
use sparc_core::{Encoder, ImageFeatures, PatchGrid};
use tch::{Device, Kind, Tensor};

use super::EvalRequest;
use crate::metrics::boxes::{RoiAlign, Sampling, roi_align_mean};

// Dimension letters: b images, s slots, r regions, p patches, d width.

/// A way from a box to an embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionArm {
    /// The network's region head; only of networks that have one.
    Head,
    /// RoIAlign on the patch embeddings: 7×7 bins, adaptive sampling, their mean.
    RoiAlign,
    /// The mean of the patch embeddings, each weighed by the area that it shares with the box.
    Patches,
    /// The box is cut out of the network's input, enlarged to its size and embedded as an image.
    Crop,
}

impl RegionArm {
    /// All of them.
    pub const ALL: [RegionArm; 4] = [RegionArm::Head, RegionArm::RoiAlign, RegionArm::Patches, RegionArm::Crop];

    /// Name in metric keys.
    pub fn name(self) -> &'static str {
        match self {
            RegionArm::Head => "head",
            RegionArm::RoiAlign => "roi_align",
            RegionArm::Patches => "patches",
            RegionArm::Crop => "crop",
        }
    }
}

/// Bins and sampling of [`RegionArm::RoiAlign`].
const ROI_ALIGN: RoiAlign = RoiAlign { n_bins: 7, sampling: Sampling::Adaptive };

/// The boxes of a batch of images.
pub(super) struct BatchBoxes<'a> {
    pub images_bchw: &'a Tensor,
    pub features: &'a ImageFeatures,
    /// In `[0, 1]` of the images, image by image; each has an area.
    pub boxes: &'a [Vec<[f32; 4]>],
}

impl BatchBoxes<'_> {
    fn flat(&self) -> impl Iterator<Item = (usize, [f32; 4])> {
        self.boxes.iter().enumerate().flat_map(|(image, boxes)| boxes.iter().map(move |corners| (image, *corners)))
    }

    /// Embeddings of all boxes, image by image, `[R, D]`, not normalised; `None` if the network has no such arm.
    pub fn embed(&self, arm: RegionArm, encoder: &dyn Encoder, request: &EvalRequest) -> Option<Tensor> {
        match arm {
            RegionArm::Head => {
                let slots = Slots::new(self.boxes, request.device);
                let regions =
                    encoder.region_encoder()?.encode_regions(self.images_bchw, &slots.boxes_bs4, &slots.valid_bs);
                Some(slots.pick(&regions))
            }
            RegionArm::RoiAlign => Some(self.pool(|patches_pd, grid, corners| {
                roi_align_mean(
                    patches_pd,
                    (grid.height as usize, grid.width as usize),
                    corners.map(f64::from),
                    ROI_ALIGN,
                )
            })),
            RegionArm::Patches => Some(self.pool(overlap_mean)),
            RegionArm::Crop => Some(self.embed_crops(encoder, request.batch_size)),
        }
    }

    /// One pooled vector for each box.
    fn pool(&self, pool: impl Fn(ArrayView2<'_, f32>, PatchGrid, [f32; 4]) -> Array1<f32>) -> Tensor {
        let patches = self.features.patches_bpd.to_kind(Kind::Float).to_device(Device::Cpu);
        let (_, p, d) = patches.size3().expect("patches are [B, P, D]");
        let mut rows = Vec::new();
        for (image, boxes) in self.boxes.iter().enumerate().filter(|(_, boxes)| !boxes.is_empty()) {
            let values = Vec::<f32>::try_from(patches.get(image as i64).contiguous().view([-1])).expect("numbers");
            let patches_pd =
                Array2::from_shape_vec((p as usize, d as usize), values).expect("a tensor holds its shape");
            for corners in boxes {
                rows.extend(pool(patches_pd.view(), self.features.grid, *corners));
            }
        }
        Tensor::from_slice(&rows).view([-1, d])
    }

    fn embed_crops(&self, encoder: &dyn Encoder, batch_size: usize) -> Tensor {
        let all: Vec<(usize, [f32; 4])> = self.flat().collect();
        let embedded: Vec<Tensor> = all
            .chunks(batch_size)
            .map(|chunk| {
                let image_r = Tensor::from_slice(&chunk.iter().map(|(image, _)| *image as i64).collect::<Vec<_>>());
                let image_r = image_r.to_device(self.images_bchw.device());
                let boxes: Vec<f32> = chunk.iter().flat_map(|(_, corners)| *corners).collect();
                let crops =
                    crops(&self.images_bchw.index_select(0, &image_r), &Tensor::from_slice(&boxes).view([-1, 4]));
                encoder.encode_images(&crops, sparc_core::PatchPath::Global).pooled_bd
            })
            .collect();
        Tensor::cat(&embedded, 0)
    }
}

/// The insides of boxes, one a row, as images of the same size (bicubic, the border's pixels go on).
fn crops(images_rchw: &Tensor, boxes_r4: &Tensor) -> Tensor {
    let boxes_r4 = boxes_r4.to_device(images_rchw.device()).to_kind(images_rchw.kind());
    let corner = |index: i64| boxes_r4.select(1, index) * 2.0 - 1.0;
    let (x0, y0, x1, y1) = (corner(0), corner(1), corner(2), corner(3));
    let zero = x0.zeros_like();
    // Output and input both run from −1 to 1.
    let row = |a: Tensor, b: &Tensor, c: Tensor, first: bool| {
        let parts = if first { [a, b.shallow_clone(), c] } else { [b.shallow_clone(), a, c] };
        Tensor::stack(&parts, 1)
    };
    let across = row((&x1 - &x0) / 2.0, &zero, (&x1 + &x0) / 2.0, true);
    let down = row((&y1 - &y0) / 2.0, &zero, (&y1 + &y0) / 2.0, false);
    let grid = Tensor::affine_grid_generator(&Tensor::stack(&[across, down], 1), images_rchw.size(), false);
    const BICUBIC: i64 = 2;
    const BORDER: i64 = 1;
    images_rchw.grid_sampler_2d(&grid, BICUBIC, BORDER, false)
}

/// The mean of the patches, weighed by the area they share with the box.
fn overlap_mean(patches_pd: ArrayView2<'_, f32>, grid: PatchGrid, [x0, y0, x1, y1]: [f32; 4]) -> Array1<f32> {
    let shares = |low: f32, high: f32, n: i64| -> Vec<f64> {
        let edge = |value: f32| f64::from(value) * n as f64;
        (0..n).map(|cell| (edge(high).min(cell as f64 + 1.0) - edge(low).max(cell as f64)).max(0.0)).collect()
    };
    let (across, down) = (shares(x0, x1, grid.width), shares(y0, y1, grid.height));
    let total = across.iter().sum::<f64>() * down.iter().sum::<f64>();
    let mut sum_d = vec![0.0f64; patches_pd.ncols()];
    for (patch, row) in patches_pd.rows().into_iter().enumerate() {
        let weight = down[patch / across.len()] * across[patch % across.len()] / total;
        if weight > 0.0 {
            sum_d.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * f64::from(*value));
        }
    }
    sum_d.into_iter().map(|sum| sum as f32).collect()
}

/// Ragged lists in slots.
pub(super) struct Slots {
    /// Zeros in unused slots.
    pub boxes_bs4: Tensor,
    pub valid_bs: Tensor,
    flat_r: Tensor,
}

impl Slots {
    pub fn new(boxes: &[Vec<[f32; 4]>], device: Device) -> Slots {
        let (b, s) = (boxes.len(), boxes.iter().map(Vec::len).max().unwrap_or(0).max(1));
        let slots = || boxes.iter().flat_map(|boxes| (0..s).map(move |slot| boxes.get(slot)));
        let corners: Vec<f32> = slots().flat_map(|corners| corners.copied().unwrap_or_default()).collect();
        let valid: Vec<bool> = slots().map(|corners| corners.is_some()).collect();
        let flat: Vec<i64> = (0..).zip(&valid).filter(|(_, valid)| **valid).map(|(slot, _)| slot).collect();
        let size = [b as i64, s as i64];
        Slots {
            boxes_bs4: Tensor::from_slice(&corners).view([size[0], size[1], 4]).to_device(device),
            valid_bs: Tensor::from_slice(&valid).view(size).to_device(device),
            flat_r: Tensor::from_slice(&flat).to_device(device),
        }
    }

    /// The valid rows of `[B, S, …]`, `[R, …]`.
    pub fn pick(&self, rows: &Tensor) -> Tensor {
        rows.flatten(0, 1).index_select(0, &self.flat_r)
    }

    /// Rows `[R, D]` in their slots, `[B, S, D]`.
    pub fn spread(&self, rows_rd: &Tensor) -> Tensor {
        let (size, d) = (self.valid_bs.size(), rows_rd.size()[1]);
        let none = Tensor::zeros([size[0] * size[1], d], (rows_rd.kind(), rows_rd.device()));
        none.index_add(0, &self.flat_r, rows_rd).view([size[0], size[1], d])
    }
}

#[cfg(test)]
mod tests {
    use sparc_testing::{random, scalar, values};

    use super::*;

    #[test]
    fn a_crop_of_all_is_the_image_and_one_of_a_part_is_that_part() {
        let images = random(&[1, 3, 8, 8], 1);
        let whole = crops(&images, &Tensor::from_slice(&[0.0f64, 0.0, 1.0, 1.0]).view([1, 4]));
        assert!(scalar(&(&whole - &images).abs().max()) < 1e-9);
        // A ramp to the right: its upper right quarter runs from the middle to the end.
        let ramp = (Tensor::arange(8, (Kind::Double, Device::Cpu)) + 0.5).expand([1, 1, 8, 8], true);
        let part = crops(&ramp, &Tensor::from_slice(&[0.5f64, 0.0, 1.0, 0.5]).view([1, 4]));
        let row = values(&part.get(0).get(0).get(3));
        for (column, value) in row.iter().enumerate().take(6) {
            // LibTorch's cubic kernel leaves a ramp a little wavy.
            let expected = 4.0 + (column as f64 + 0.5) / 2.0;
            assert!((value - expected).abs() < 0.1, "{column}: {value} instead of {expected}");
        }
    }

    #[test]
    fn patches_are_weighed_by_the_shared_area() {
        let patches = Array2::from_shape_vec((4, 1), vec![1.0f32, 2.0, 4.0, 8.0]).unwrap();
        let grid = PatchGrid { height: 2, width: 2 };
        let mean = |corners| overlap_mean(patches.view(), grid, corners)[0];
        assert_eq!(mean([0.0, 0.0, 1.0, 1.0]), 3.75);
        assert_eq!(mean([0.5, 0.0, 1.0, 0.5]), 2.0);
        assert_eq!(mean([0.6, 0.6, 0.61, 0.61]), 8.0);
        // Half of the upper left patch, and as much of the upper right one.
        assert_eq!(mean([0.25, 0.0, 0.75, 0.5]), 1.5);
    }

    #[test]
    fn slots_give_back_what_was_put_in() {
        let boxes = [vec![[0.1f32; 4], [0.2; 4]], vec![], vec![[0.3; 4]]];
        let slots = Slots::new(&boxes, Device::Cpu);
        assert_eq!(slots.boxes_bs4.size(), [3, 2, 4]);
        assert_eq!(values(&slots.valid_bs), [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
        let rows = random(&[3, 5], 2);
        assert_eq!(values(&slots.pick(&slots.spread(&rows))), values(&rows));
        assert_eq!(Slots::new(&[vec![], vec![]], Device::Cpu).valid_bs.size(), [2, 1]);
    }
}
