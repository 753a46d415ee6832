//! Where is what a phrase names? A predicted box against the true one.
//!
//! P@t is the share of phrases whose box overlaps the true one with an IoU of at least t, 0.5 in RefCOCO, RefCOCO+
//! and RefCOCOg; a phrase without a predicted box has an IoU of 0. For a phrase with several boxes take
//! [`enclosing_box`](crate::metrics::boxes::enclosing_box) as the truth.

use crate::metrics::boxes::box_iou;

/// The IoUs of all phrases.
#[derive(Debug, Clone, PartialEq)]
pub struct BoxGrounding {
    /// By phrase, in the given order.
    pub ious: Vec<f64>,
}

/// Judges one box per phrase, `x0, y0, x1, y1` in the same frame as the truths.
///
/// # Panics
///
/// If there are not as many predictions as truths, a truth has no area, or a coordinate is not finite.
pub fn box_grounding(predictions: &[Option<[f64; 4]>], truths: &[[f64; 4]]) -> BoxGrounding {
    assert_eq!(predictions.len(), truths.len(), "one prediction per phrase, if only that there is none");
    let is_finite = |corners: &[f64; 4]| corners.iter().all(|value| value.is_finite());
    let iou = |(phrase, (prediction, truth)): (usize, (&Option<[f64; 4]>, &[f64; 4]))| {
        assert!(
            is_finite(truth) && truth[0] < truth[2] && truth[1] < truth[3],
            "{truth:?} of phrase {phrase} is no box"
        );
        prediction.map_or(0.0, |prediction| {
            assert!(is_finite(&prediction), "the predicted box of phrase {phrase} is {prediction:?}");
            box_iou(prediction, *truth)
        })
    };
    BoxGrounding { ious: predictions.iter().zip(truths).enumerate().map(iou).collect() }
}

impl BoxGrounding {
    /// Mean IoU; `None` without phrases.
    pub fn mean_iou(&self) -> Option<f64> {
        (!self.ious.is_empty()).then(|| self.ious.iter().sum::<f64>() / self.ious.len() as f64)
    }

    /// Share of phrases with an IoU of at least `threshold`; `None` without phrases.
    pub fn precision_at(&self, threshold: f64) -> Option<f64> {
        let n_found = self.ious.iter().filter(|iou| **iou >= threshold).count();
        (!self.ious.is_empty()).then(|| n_found as f64 / self.ious.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        let truth = [0.0, 0.0, 2.0, 2.0];
        let predictions =
            [Some(truth), Some([0.0, 0.0, 2.0, 1.0]), Some([1.0, 1.0, 3.0, 3.0]), None, Some([1.0, 1.0, 0.0, 0.0])];
        let scores = box_grounding(&predictions, &[truth; 5]);
        assert_eq!(scores.ious, [1.0, 0.5, 1.0 / 7.0, 0.0, 0.0]);
        assert_eq!(scores.precision_at(0.5), Some(0.4));
        assert_eq!(scores.precision_at(0.51), Some(0.2));
        assert!((scores.mean_iou().unwrap() - (1.5 + 1.0 / 7.0) / 5.0).abs() < 1e-12);
    }

    #[test]
    fn no_phrases_have_no_precision() {
        let scores = box_grounding(&[], &[]);
        assert_eq!((scores.mean_iou(), scores.precision_at(0.5)), (None, None));
    }

    #[test]
    #[should_panic(expected = "of phrase 0 is no box")]
    fn a_truth_without_area_is_refused() {
        let _ = box_grounding(&[None], &[[0.5, 0.0, 0.5, 1.0]]);
    }

    /// Boxes of whole cells; their IoU is counted cell by cell.
    fn cells() -> impl Strategy<Value = [usize; 4]> {
        let span = || (0usize..8).prop_flat_map(|low| (Just(low), low + 1..=8));
        (span(), span()).prop_map(|((x0, x1), (y0, y1))| [x0, y0, x1, y1])
    }

    proptest! {
        #[test]
        fn agrees_with_counting_cells(pairs in proptest::collection::vec((cells(), cells()), 1..9), threshold in 0.01f64..1.0) {
            let inside = |b: [usize; 4], x: usize, y: usize| b[0] <= x && x < b[2] && b[1] <= y && y < b[3];
            let real = |b: [usize; 4]| b.map(|value| value as f64);
            let mut slow = Vec::new();
            for &(a, b) in &pairs {
                let (mut both, mut either) = (0.0, 0.0);
                for x in 0..8 {
                    for y in 0..8 {
                        both += f64::from(u8::from(inside(a, x, y) && inside(b, x, y)));
                        either += f64::from(u8::from(inside(a, x, y) || inside(b, x, y)));
                    }
                }
                slow.push(both / either);
            }
            let predictions: Vec<_> = pairs.iter().map(|(a, _)| Some(real(*a))).collect();
            let truths: Vec<_> = pairs.iter().map(|(_, b)| real(*b)).collect();
            let scores = box_grounding(&predictions, &truths);
            prop_assert!(scores.ious.iter().zip(&slow).all(|(a, b)| (a - b).abs() < 1e-12));
            prop_assert!(scores.precision_at(threshold).unwrap() * threshold <= scores.mean_iou().unwrap() + 1e-12, "Markov");
        }
    }
}
