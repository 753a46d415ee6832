//! Intersection over union of predicted and true pixels.
//!
//! Predictions are foreground classes only. True pixels are a class, background (something outside
//! the class list) or ignored. Two ways to average, each with two ways to treat background:
//!
//! - over the *whole set* ([`SegmentationCounts::mean_iou`]): one confusion matrix, IoU per class, mean
//!   over the classes present in the ground truth (mmsegmentation's mIoU);
//! - *per image* ([`SegmentationCounts::mean_iou_per_image`]): mean over the classes present in one
//!   image's ground truth, then mean over images. This is how SPARC words its protocol (Bica et al.
//!   2024, section 4.5; the paper leaves the mean over images unsaid).

use ndarray::Array2;

/// What a pixel shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelTruth {
    /// The class with this index.
    Class(usize),
    /// None of the classes.
    Background,
    /// Does not count.
    Ignore,
}

/// What happens to predictions on background pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackgroundRule {
    /// They do not count (PACL, and SPARC's "foreground classes only").
    Ignored,
    /// They are false positives of the predicted class.
    FalsePositive,
}

/// Pixels by true class (and background) and predicted class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionMatrix {
    /// `[K + 1, K]`: row K is background.
    n_pixels: Array2<u64>,
}

impl ConfusionMatrix {
    /// No pixel yet.
    pub fn new(n_classes: usize) -> ConfusionMatrix {
        ConfusionMatrix { n_pixels: Array2::zeros((n_classes + 1, n_classes)) }
    }

    /// Counts one pixel.
    ///
    /// # Panics
    ///
    /// If a class is out of range.
    pub fn add(&mut self, truth: PixelTruth, predicted: usize) {
        let n_classes = self.n_classes();
        assert!(predicted < n_classes, "predicted class {predicted} of {n_classes}");
        let row = match truth {
            PixelTruth::Class(class) => {
                assert!(class < n_classes, "true class {class} of {n_classes}");
                class
            }
            PixelTruth::Background => n_classes,
            PixelTruth::Ignore => return,
        };
        self.n_pixels[[row, predicted]] += 1;
    }

    /// Adds another matrix of the same classes.
    ///
    /// # Panics
    ///
    /// If the numbers of classes differ.
    pub fn merge(&mut self, other: &ConfusionMatrix) {
        assert_eq!(self.n_classes(), other.n_classes(), "classes of the merged matrices");
        self.n_pixels += &other.n_pixels;
    }

    /// Number of classes K.
    pub fn n_classes(&self) -> usize {
        self.n_pixels.ncols()
    }

    /// Pixels whose truth is a class.
    pub fn n_foreground(&self) -> u64 {
        self.n_pixels.sum() - self.n_background()
    }

    /// Pixels whose truth is background.
    pub fn n_background(&self) -> u64 {
        self.n_pixels.row(self.n_classes()).sum()
    }

    /// TP / (TP + FP + FN) of each class; `None` where the ground truth does not have the class.
    pub fn iou_per_class(&self, rule: BackgroundRule) -> Vec<Option<f64>> {
        let n_classes = self.n_classes();
        let n_predicted_on_classes = self.n_pixels.sum_axis(ndarray::Axis(0)) - self.n_pixels.row(n_classes);
        (0..n_classes)
            .map(|class| {
                let n_true = self.n_pixels.row(class).sum();
                let n_hits = self.n_pixels[[class, class]];
                let n_predicted = match rule {
                    BackgroundRule::Ignored => n_predicted_on_classes[class],
                    BackgroundRule::FalsePositive => n_predicted_on_classes[class] + self.n_pixels[[n_classes, class]],
                };
                (n_true > 0).then(|| n_hits as f64 / (n_true + n_predicted - n_hits) as f64)
            })
            .collect()
    }

    /// Mean IoU over the classes present in the ground truth; `None` if there is none.
    pub fn mean_iou(&self, rule: BackgroundRule) -> Option<f64> {
        let present: Vec<f64> = self.iou_per_class(rule).into_iter().flatten().collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    }

    /// Fraction of foreground pixels with the right class; `None` without such pixels.
    pub fn pixel_accuracy(&self) -> Option<f64> {
        let n_hits: u64 = (0..self.n_classes()).map(|class| self.n_pixels[[class, class]]).sum();
        let n_foreground = self.n_foreground();
        (n_foreground > 0).then(|| n_hits as f64 / n_foreground as f64)
    }
}

/// Running counts over a set of images.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentationCounts {
    whole_set: ConfusionMatrix,
    /// Sums of the images' mean IoU, with background ignored and as false positives.
    sum_ignored: f64,
    sum_false_positive: f64,
    n_images: usize,
    n_without_foreground: usize,
}

impl SegmentationCounts {
    /// No image yet.
    pub fn new(n_classes: usize) -> SegmentationCounts {
        SegmentationCounts {
            whole_set: ConfusionMatrix::new(n_classes),
            sum_ignored: 0.0,
            sum_false_positive: 0.0,
            n_images: 0,
            n_without_foreground: 0,
        }
    }

    /// Counts the pixels of one image, given as pairs of truth and predicted class.
    ///
    /// # Panics
    ///
    /// If a class is out of range.
    pub fn add_image(&mut self, pixels: impl Iterator<Item = (PixelTruth, usize)>) {
        let mut image = ConfusionMatrix::new(self.whole_set.n_classes());
        for (truth, predicted) in pixels {
            image.add(truth, predicted);
        }
        self.n_images += 1;
        match (image.mean_iou(BackgroundRule::Ignored), image.mean_iou(BackgroundRule::FalsePositive)) {
            (Some(ignored), Some(false_positive)) => {
                self.sum_ignored += ignored;
                self.sum_false_positive += false_positive;
            }
            _ => self.n_without_foreground += 1,
        }
        self.whole_set.merge(&image);
    }

    /// The confusion matrix of all images together.
    pub fn whole_set(&self) -> &ConfusionMatrix {
        &self.whole_set
    }

    /// Images counted.
    pub fn n_images(&self) -> usize {
        self.n_images
    }

    /// Images whose ground truth has no class at all: they have no per-image mean, and add nothing but
    /// background to the whole set.
    pub fn n_without_foreground(&self) -> usize {
        self.n_without_foreground
    }

    /// mIoU of the whole set; `None` if no class occurs.
    pub fn mean_iou(&self, rule: BackgroundRule) -> Option<f64> {
        self.whole_set.mean_iou(rule)
    }

    /// Mean over images of the mean over the classes present in the image; `None` if no image has a
    /// class.
    pub fn mean_iou_per_image(&self, rule: BackgroundRule) -> Option<f64> {
        let n_images = self.n_images - self.n_without_foreground;
        let sum = match rule {
            BackgroundRule::Ignored => self.sum_ignored,
            BackgroundRule::FalsePositive => self.sum_false_positive,
        };
        (n_images > 0).then(|| sum / n_images as f64)
    }
}

#[cfg(test)]
mod reference {
    //! Sets of pixels, class by class, straight from the definition.

    use super::{BackgroundRule, PixelTruth};

    pub fn mean_iou(pixels: &[(PixelTruth, usize)], n_classes: usize, rule: BackgroundRule) -> Option<f64> {
        let kept: Vec<&(PixelTruth, usize)> = pixels
            .iter()
            .filter(|(truth, _)| match truth {
                PixelTruth::Class(_) => true,
                PixelTruth::Background => rule == BackgroundRule::FalsePositive,
                PixelTruth::Ignore => false,
            })
            .collect();
        let mut values = Vec::new();
        for class in 0..n_classes {
            let is_true = |pixel: &(PixelTruth, usize)| pixel.0 == PixelTruth::Class(class);
            let is_predicted = |pixel: &(PixelTruth, usize)| pixel.1 == class;
            if kept.iter().any(|pixel| is_true(pixel)) {
                let both = kept.iter().filter(|pixel| is_true(pixel) && is_predicted(pixel)).count();
                let either = kept.iter().filter(|pixel| is_true(pixel) || is_predicted(pixel)).count();
                values.push(both as f64 / either as f64);
            }
        }
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use PixelTruth::{Background, Class, Ignore};

    const RULES: [BackgroundRule; 2] = [BackgroundRule::Ignored, BackgroundRule::FalsePositive];

    #[test]
    fn hand_computed() {
        let mut counts = SegmentationCounts::new(3);
        // Image 1: class 0 IoU 2/3 (one pixel of class 1 taken), with background 2/4; class 1 IoU 1/2.
        counts.add_image([(Class(0), 0), (Class(0), 0), (Class(1), 0), (Class(1), 1), (Background, 0)].into_iter());
        // Image 2: class 1 wholly right; a class that is not there (2) is never a mean's part.
        counts.add_image([(Class(1), 1), (Class(1), 1), (Ignore, 2), (Background, 2)].into_iter());
        // Whole set: class 0 2/3 or 2/4; class 1 TP 3, FN 1 -> 3/4.
        let mean = |a: f64, b: f64| (a + b) / 2.0;
        let close = |value: Option<f64>, expected: f64| (value.unwrap() - expected).abs() < 1e-12;
        assert!(close(counts.mean_iou(RULES[0]), mean(2.0 / 3.0, 0.75)));
        assert!(close(counts.mean_iou(RULES[1]), mean(0.5, 0.75)));
        assert!(close(counts.mean_iou_per_image(RULES[0]), mean(mean(2.0 / 3.0, 0.5), 1.0)));
        assert!(close(counts.mean_iou_per_image(RULES[1]), mean(mean(0.5, 0.5), 1.0)));
        assert!(close(counts.whole_set().pixel_accuracy(), 5.0 / 6.0));
        assert_eq!((counts.whole_set().n_foreground(), counts.whole_set().n_background()), (6, 2));
    }

    #[test]
    fn an_image_of_background_only_has_no_mean() {
        let mut counts = SegmentationCounts::new(2);
        counts.add_image([(Background, 0), (Ignore, 1)].into_iter());
        assert_eq!(counts.mean_iou(RULES[0]), None);
        assert_eq!(counts.mean_iou_per_image(RULES[0]), None);
        assert_eq!((counts.n_images(), counts.n_without_foreground()), (1, 1));
        // Its background still counts against the class predicted there, once the class exists.
        counts.add_image([(Class(0), 0)].into_iter());
        assert_eq!(counts.mean_iou(RULES[0]), Some(1.0));
        assert_eq!(counts.mean_iou(RULES[1]), Some(0.5));
        assert_eq!(counts.mean_iou_per_image(RULES[1]), Some(1.0));
    }

    fn images() -> impl Strategy<Value = Vec<Vec<(PixelTruth, usize)>>> {
        let truth = prop_oneof![3 => (0usize..4).prop_map(Class), 1 => Just(Background), 1 => Just(Ignore)];
        proptest::collection::vec(proptest::collection::vec((truth, 0usize..4), 0..30), 1..5)
    }

    fn count(images: &[Vec<(PixelTruth, usize)>]) -> SegmentationCounts {
        let mut counts = SegmentationCounts::new(4);
        for image in images {
            counts.add_image(image.iter().copied());
        }
        counts
    }

    fn agree(left: Option<f64>, right: Option<f64>) -> bool {
        match (left, right) {
            (Some(left), Some(right)) => (left - right).abs() < 1e-12,
            (left, right) => left == right,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_reference(images in images()) {
            let counts = count(&images);
            for rule in RULES {
                let slow = reference::mean_iou(&images.concat(), 4, rule);
                prop_assert!(agree(counts.mean_iou(rule), slow));
                let per_image: Vec<f64> =
                    images.iter().filter_map(|image| reference::mean_iou(image, 4, rule)).collect();
                let slow = (!per_image.is_empty()).then(|| per_image.iter().sum::<f64>() / per_image.len() as f64);
                prop_assert!(agree(counts.mean_iou_per_image(rule), slow));
            }
        }

        #[test]
        fn order_of_images_and_pixels_changes_nothing(images in images()) {
            let mut backwards = images.clone();
            backwards.reverse();
            backwards.iter_mut().for_each(|image| image.reverse());
            let (before, after) = (count(&images), count(&backwards));
            prop_assert_eq!(before.whole_set(), after.whole_set());
            for rule in RULES {
                prop_assert!(agree(before.mean_iou_per_image(rule), after.mean_iou_per_image(rule)));
            }
        }

        #[test]
        fn bounds_hold_and_background_can_only_hurt(images in images()) {
            let counts = count(&images);
            if let (Some(ignored), Some(counted)) = (counts.mean_iou(RULES[0]), counts.mean_iou(RULES[1])) {
                prop_assert!(0.0 <= counted && counted <= ignored && ignored <= 1.0);
            }
        }

        #[test]
        fn a_perfect_predictor_gives_one(images in images()) {
            let perfect: Vec<Vec<_>> = images.iter().map(|image| image.iter().map(|&(truth, predicted)| match truth {
                Class(class) => (truth, class),
                Background | Ignore => (truth, predicted),
            }).collect()).collect();
            let counts = count(&perfect);
            prop_assert!(counts.mean_iou(RULES[0]).is_none_or(|iou| iou == 1.0));
            prop_assert!(counts.mean_iou_per_image(RULES[0]).is_none_or(|iou| (iou - 1.0).abs() < 1e-12));
        }
    }
}
