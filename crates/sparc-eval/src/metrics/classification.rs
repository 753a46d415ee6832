//! Top-1, top-5 and mean per-class recall.
//!
//! Mean per-class recall is scikit-learn's balanced accuracy: the mean of the recalls over the classes
//! that occur among the samples. Ties are resolved by expectation (see [`crate::metrics`]).

use ndarray::ArrayView1;

use super::TiedRank;

/// Running counts of a classification with K classes.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassificationCounts {
    /// Samples of each class.
    n_samples: Vec<usize>,
    /// Expected top-1 hits of each class.
    top_1_hits: Vec<f64>,
    /// Expected top-5 hits over all classes.
    top_5_hits: f64,
}

impl ClassificationCounts {
    /// No sample yet.
    pub fn new(n_classes: usize) -> ClassificationCounts {
        ClassificationCounts { n_samples: vec![0; n_classes], top_1_hits: vec![0.0; n_classes], top_5_hits: 0.0 }
    }

    /// Counts one sample of class `class`, and says with what probability it is right: 0 or 1 where nothing ties.
    ///
    /// # Shapes
    ///
    /// `scores_k [K]`.
    ///
    /// # Panics
    ///
    /// If there are not K scores, the class is not below K, or a score is NaN.
    pub fn add(&mut self, scores_k: ArrayView1<'_, f32>, class: usize) -> f64 {
        let n_classes = self.n_samples.len();
        assert_eq!(scores_k.len(), n_classes, "one score per class");
        assert!(class < n_classes, "class {class} of {n_classes}");
        let rank = TiedRank::from_scores(scores_k.iter().copied(), |index| index == class).expect("class < K");
        self.n_samples[class] += 1;
        self.top_1_hits[class] += rank.hit_probability(1);
        self.top_5_hits += rank.hit_probability(5);
        rank.hit_probability(1)
    }

    /// Number of samples.
    pub fn n_samples(&self) -> usize {
        self.n_samples.iter().sum()
    }

    /// Fraction of samples whose class scores best; `None` without samples.
    pub fn top_1(&self) -> Option<f64> {
        ratio(self.top_1_hits.iter().sum(), self.n_samples())
    }

    /// Fraction of samples whose class is among the best five; `None` without samples or with fewer
    /// than five classes, where it would be 1 whatever the network does (CLIP_benchmark's rule).
    pub fn top_5(&self) -> Option<f64> {
        if self.n_samples.len() < 5 { None } else { ratio(self.top_5_hits, self.n_samples()) }
    }

    /// Recall of each class; `None` where it has no sample.
    pub fn recall_per_class(&self) -> Vec<Option<f64>> {
        self.top_1_hits.iter().zip(&self.n_samples).map(|(&hits, &n)| ratio(hits, n)).collect()
    }

    /// Mean recall over the classes with samples; `None` without samples.
    pub fn mean_per_class_recall(&self) -> Option<f64> {
        let recalls: Vec<f64> = self.recall_per_class().into_iter().flatten().collect();
        ratio(recalls.iter().sum(), recalls.len())
    }
}

fn ratio(numerator: f64, denominator: usize) -> Option<f64> {
    (denominator > 0).then(|| numerator / denominator as f64)
}

#[cfg(test)]
mod reference {
    //! Sort the scores of each sample and look.

    /// `(top-1, top-5, balanced accuracy)` for samples whose scores are all different.
    pub fn metrics(samples: &[(Vec<f32>, usize)]) -> (f64, f64, f64) {
        let hit = |scores: &[f32], class: usize, k: usize| {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            f64::from(u8::from(order.iter().take(k).any(|&index| index == class)))
        };
        let accuracy =
            |k: usize| samples.iter().map(|(scores, class)| hit(scores, *class, k)).sum::<f64>() / samples.len() as f64;
        let mut recalls = Vec::new();
        for class in 0..samples[0].0.len() {
            let hits: Vec<f64> = samples
                .iter()
                .filter(|sample| sample.1 == class)
                .map(|(scores, class)| hit(scores, *class, 1))
                .collect();
            if !hits.is_empty() {
                recalls.push(hits.iter().sum::<f64>() / hits.len() as f64);
            }
        }
        (accuracy(1), accuracy(5), recalls.iter().sum::<f64>() / recalls.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayView1, array};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        let mut counts = ClassificationCounts::new(3);
        counts.add(array![0.9f32, 0.1, 0.0].view(), 0); // right
        counts.add(array![0.9f32, 0.1, 0.0].view(), 0); // right
        counts.add(array![0.1f32, 0.9, 0.0].view(), 0); // wrong
        counts.add(array![0.9f32, 0.1, 0.0].view(), 1); // wrong
        assert_eq!(counts.top_1(), Some(0.5));
        assert_eq!(counts.top_5(), None);
        // Class 0: 2/3, class 1: 0, class 2 is absent and does not count.
        assert_eq!(counts.mean_per_class_recall(), Some(1.0 / 3.0));
        assert_eq!(counts.recall_per_class(), [Some(2.0 / 3.0), Some(0.0), None]);
    }

    #[test]
    fn a_constant_classifier_scores_chance() {
        let mut counts = ClassificationCounts::new(10);
        for class in 0..10 {
            counts.add(ArrayView1::from(&[0.3f32; 10]), class);
        }
        assert!((counts.top_1().unwrap() - 0.1).abs() < 1e-12);
        assert!((counts.top_5().unwrap() - 0.5).abs() < 1e-12);
        assert!((counts.mean_per_class_recall().unwrap() - 0.1).abs() < 1e-12);
    }

    #[test]
    fn nothing_counted_is_no_accuracy() {
        let counts = ClassificationCounts::new(7);
        assert_eq!((counts.top_1(), counts.top_5(), counts.mean_per_class_recall()), (None, None, None));
    }

    /// Samples whose scores are a permutation: no ties.
    fn samples() -> impl Strategy<Value = Vec<(Vec<f32>, usize)>> {
        (5usize..9).prop_flat_map(|n_classes| {
            let scores = Just((0..n_classes).map(|score| score as f32).collect::<Vec<_>>()).prop_shuffle();
            proptest::collection::vec((scores, 0..n_classes), 1..20)
        })
    }

    fn count(samples: &[(Vec<f32>, usize)]) -> ClassificationCounts {
        let mut counts = ClassificationCounts::new(samples[0].0.len());
        for (scores, class) in samples {
            counts.add(ArrayView1::from(scores), *class);
        }
        counts
    }

    proptest! {
        #[test]
        fn agrees_with_reference(samples in samples()) {
            let counts = count(&samples);
            let (top_1, top_5, balanced) = reference::metrics(&samples);
            prop_assert!((counts.top_1().unwrap() - top_1).abs() < 1e-12);
            prop_assert!((counts.top_5().unwrap() - top_5).abs() < 1e-12);
            prop_assert!((counts.mean_per_class_recall().unwrap() - balanced).abs() < 1e-12);
        }

        #[test]
        fn order_of_samples_changes_nothing(samples in samples(), turn in 0usize..20) {
            let before = count(&samples);
            let mut samples = samples;
            let turn = turn % samples.len();
            samples.rotate_left(turn);
            prop_assert_eq!(before, count(&samples));
        }

        #[test]
        fn bounds_hold_and_the_right_answer_gives_one(samples in samples()) {
            let counts = count(&samples);
            let (top_1, top_5) = (counts.top_1().unwrap(), counts.top_5().unwrap());
            prop_assert!(0.0 <= top_1 && top_1 <= top_5 && top_5 <= 1.0);
            let perfect: Vec<_> = samples
                .into_iter()
                .map(|(scores, class)| ((0..scores.len()).map(|index| f32::from(index == class)).collect(), class))
                .collect();
            let counts = count(&perfect);
            prop_assert_eq!(counts.top_1(), Some(1.0));
            prop_assert_eq!(counts.mean_per_class_recall(), Some(1.0));
        }
    }
}
