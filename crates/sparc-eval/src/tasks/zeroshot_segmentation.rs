//! Zero-shot segmentation: each pixel takes the class whose text embedding is nearest to its patch.
//!
//! SPARC's protocol (Bica et al. 2024, section 4.5 and appendix D.7): cosine of patch embeddings with
//! the embeddings of *all* classes of the list, not only those in the image; foreground classes only.
//! What the paper leaves open is given both ways: background pixels ignored or counted as false
//! positives, means over the whole set or per image, and [`Upsampling`].

use ndarray::{Array2, Array3, ArrayView2};
use sparc_core::{EvalSample, LabelMap, PatchGrid};

use super::features::TextEmbedder;
use super::{ClassScore, EvalError, SegmentationClasses, SegmentationResults, Task};
use crate::metrics::segmentation::{BackgroundRule, PixelTruth, SegmentationCounts};
use crate::metrics::upsample::{Upsampling, upsample_argmax};

pub(super) struct SegmentationTask<'a> {
    classes: &'a SegmentationClasses,
    classes_kd: Array2<f32>,
    upsampling: Upsampling,
    counts: SegmentationCounts,
    n_without_segmentation: usize,
}

impl<'a> SegmentationTask<'a> {
    /// Embeds the classes, once.
    pub fn new(
        classes: &'a SegmentationClasses,
        upsampling: Upsampling,
        embedder: TextEmbedder<'_>,
        progress: impl FnMut(usize),
    ) -> Result<SegmentationTask<'a>, EvalError> {
        let classes_kd = embedder.embed_classes(&classes.names, &classes.templates, progress)?;
        let counts = SegmentationCounts::new(classes.names.len());
        Ok(SegmentationTask { classes, classes_kd, upsampling, counts, n_without_segmentation: 0 })
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        self.n_without_segmentation += usize::from(sample.segmentation.is_none());
        sample.segmentation.is_some()
    }

    /// Takes one image, if it has a label map. `patches_pd` are L2-normalised.
    pub fn add_image(
        &mut self,
        sample: &EvalSample,
        patches_pd: ArrayView2<'_, f32>,
        grid: PatchGrid,
    ) -> Result<(), EvalError> {
        let Some(map) = &sample.segmentation else {
            return Ok(());
        };
        let truth = self.truth(&sample.key, map)?;
        let scores_pk = patches_pd.dot(&self.classes_kd.t());
        let shape = (grid.height as usize, grid.width as usize, self.classes.names.len());
        let scores_hwk = Array3::from_shape_vec(shape, scores_pk.into_iter().collect()).expect("P = h * w patches");
        let predicted_hw = upsample_argmax(&scores_hwk, map.height, map.width, self.upsampling);
        self.counts.add_image(truth.into_iter().zip(predicted_hw));
        Ok(())
    }

    fn truth(&self, key: &str, map: &LabelMap) -> Result<Vec<PixelTruth>, EvalError> {
        let LabelMap { height, width, ref labels } = *map;
        if height.checked_mul(width) != Some(labels.len()) {
            return Err(EvalError::LabelMapSize { key: key.to_owned(), height, width, found: labels.len() });
        }
        labels
            .iter()
            .map(|&label| {
                self.classes.meaning(label).ok_or_else(|| EvalError::UnknownLabel { key: key.to_owned(), label })
            })
            .collect()
    }

    pub fn finish(self, n_seen: usize) -> Result<SegmentationResults, EvalError> {
        use BackgroundRule::{FalsePositive, Ignored};
        let counts = &self.counts;
        let (Some(mean_iou), Some(mean_iou_per_image), Some(pixel_accuracy)) =
            (counts.mean_iou(Ignored), counts.mean_iou_per_image(Ignored), counts.whole_set().pixel_accuracy())
        else {
            return Err(EvalError::NoUsableSample {
                task: Task::ZeroshotSegmentation,
                field: "segmentation",
                needs: "a label map with a pixel of a listed class",
                n_images: n_seen,
            });
        };
        let with_background = |value: Option<f64>| value.filter(|_| self.classes.has_background);
        let per_class = self.classes.names.iter().zip(counts.whole_set().iou_per_class(Ignored));
        Ok(SegmentationResults {
            n_images: counts.n_images(),
            n_classes: self.classes.names.len(),
            n_without_segmentation: self.n_without_segmentation,
            n_without_foreground: counts.n_without_foreground(),
            templates: self.classes.templates.clone(),
            mean_iou,
            mean_iou_with_background: with_background(counts.mean_iou(FalsePositive)),
            mean_iou_per_image,
            mean_iou_per_image_with_background: with_background(counts.mean_iou_per_image(FalsePositive)),
            pixel_accuracy,
            iou_per_class: per_class.map(|(name, value)| ClassScore { name: name.clone(), value }).collect(),
        })
    }
}
