//! Naming what is in a given box.
//!
//! Each region's class is the one with the best dot product (cosine, if all are L2-normalised). mAcc is the
//! unweighted mean, over the classes that occur, of the share of their regions that are named right: *macro*,
//! `mean_per_class_recall` of the counts. *Micro*, `top_1`, is the share of all regions. COCO and LVIS are so uneven
//! that the two differ widely; CLOC does not say which it prints and points to CLIPSelf, whose mAcc is macro.

use ndarray::{ArrayView2, s};

use crate::metrics::classification::ClassificationCounts;

// Dimension letters: r regions, k classes, d width.

/// What recognition leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionRecognition {
    /// Counts over all regions.
    pub counts: ClassificationCounts,
    /// Of each region, the probability of being named right: 0 or 1 where nothing ties.
    pub hits: Vec<f64>,
}

/// Recognition with given boxes, computed in blocks of at most `max_scores` scores (at least one region).
///
/// # Shapes
///
/// `regions_rd [R, D]`, `classes_kd [K, D]`, `class_of_region [R]` with values below K.
///
/// # Panics
///
/// If the shapes disagree, a class is out of range, or a score is NaN.
pub fn region_recognition(
    regions_rd: ArrayView2<'_, f32>,
    classes_kd: ArrayView2<'_, f32>,
    class_of_region: &[usize],
    max_scores: usize,
) -> RegionRecognition {
    let (n_regions, n_classes) = (regions_rd.nrows(), classes_kd.nrows());
    assert_eq!(regions_rd.ncols(), classes_kd.ncols(), "width of {n_regions} regions and of {n_classes} classes");
    assert_eq!(n_regions, class_of_region.len(), "one class per region");
    let mut counts = ClassificationCounts::new(n_classes);
    let mut hits = Vec::with_capacity(n_regions);
    let rows_per_block = (max_scores / n_classes.max(1)).max(1);
    for start in (0..n_regions).step_by(rows_per_block) {
        let end = (start + rows_per_block).min(n_regions);
        let scores = regions_rd.slice(s![start..end, ..]).dot(&classes_kd.t());
        for (scores_k, &class) in scores.rows().into_iter().zip(&class_of_region[start..end]) {
            hits.push(counts.add(scores_k, class));
        }
    }
    RegionRecognition { counts, hits }
}

#[cfg(test)]
mod reference {
    //! One dot product after another.

    /// `(macro, micro)`; the first class wins ties.
    pub fn accuracies(regions: &[Vec<f64>], classes: &[Vec<f64>], truth: &[usize]) -> (f64, f64) {
        let mut right = vec![0.0; classes.len()];
        let mut all = vec![0.0; classes.len()];
        for (region, &class) in regions.iter().zip(truth) {
            let mut best = (0, f64::NEG_INFINITY);
            for (index, other) in classes.iter().enumerate() {
                let mut score = 0.0;
                for (a, b) in region.iter().zip(other) {
                    score += a * b;
                }
                if score > best.1 {
                    best = (index, score);
                }
            }
            all[class] += 1.0;
            right[class] += f64::from(u8::from(best.0 == class));
        }
        let recalls: Vec<f64> = right.iter().zip(&all).filter(|(_, n)| **n > 0.0).map(|(r, n)| r / n).collect();
        let micro = right.iter().sum::<f64>() / all.iter().sum::<f64>();
        (recalls.iter().sum::<f64>() / recalls.len() as f64, micro)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hand_computed() {
        let classes = array![[1.0f32, 0.0], [0.0, 1.0], [-1.0, -1.0]];
        let regions = array![[0.9f32, 0.1], [0.8, 0.2], [0.2, 0.7], [0.7, 0.3]];
        let RegionRecognition { counts, hits } = region_recognition(regions.view(), classes.view(), &[0, 0, 0, 1], 4);
        assert_eq!(hits, [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(counts.top_1(), Some(0.5));
        // Class 0: 2 of 3, class 1: 0 of 1, class 2 does not occur.
        assert_eq!(counts.mean_per_class_recall(), Some(1.0 / 3.0));
        assert_eq!(counts.n_samples(), 4);
    }

    #[test]
    fn constant_regions_score_chance() {
        let counts = region_recognition(
            Array2::zeros((6, 2)).view(),
            array![[1.0f32, 0.0], [0.0, 1.0], [1.0, 1.0]].view(),
            &[0, 0, 0, 0, 1, 2],
            100,
        )
        .counts;
        assert!((counts.top_1().unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert!((counts.mean_per_class_recall().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    #[should_panic(expected = "one class per region")]
    fn a_missing_class_is_refused() {
        let one = array![[1.0f32]];
        let _ = region_recognition(one.view(), one.view(), &[], 1);
    }

    proptest! {
        #[test]
        fn agrees_with_reference_and_blocks_change_nothing(
            regions in proptest::collection::vec(proptest::collection::vec(-9i32..9, 3), 1..12),
            truth in proptest::collection::vec(0usize..4, 12), max_scores in 1usize..30,
        ) {
            // No two classes ever tie: their components are powers of a base above all products.
            let classes = [[1, 40, 1600], [1600, 1, 40], [40, 1600, 1], [-7, 11, 3]];
            let whole = |rows: &[Vec<i32>]| Array2::from_shape_fn((rows.len(), 3), |(r, c)| rows[r][c] as f32);
            let classes: Vec<Vec<i32>> = classes.iter().map(|class| class.to_vec()).collect();
            let real = |rows: &[Vec<i32>]| rows.iter().map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect::<Vec<Vec<f64>>>();
            prop_assume!(regions.iter().all(|region| {
                let scores: Vec<i32> = classes.iter().map(|class| region.iter().zip(class).map(|(a, b)| a * b).sum()).collect();
                (0..4).all(|a| (0..a).all(|b| scores[a] != scores[b]))
            }));
            let truth = &truth[..regions.len()];
            let counts = region_recognition(whole(&regions).view(), whole(&classes).view(), truth, max_scores).counts;
            let (macro_mean, micro) = reference::accuracies(&real(&regions), &real(&classes), truth);
            prop_assert!((counts.mean_per_class_recall().unwrap() - macro_mean).abs() < 1e-12);
            prop_assert!((counts.top_1().unwrap() - micro).abs() < 1e-12);
        }
    }
}
