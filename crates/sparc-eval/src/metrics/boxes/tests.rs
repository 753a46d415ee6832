//! Expected numbers are torchvision 0.26's (torch 2.11, in double precision) on generated features and boxes.

use ndarray::{Array2, array};
use proptest::prelude::*;

use super::*;

/// Patch p has ((37 p + 11 d) mod 64) / 8 − 4 as its feature d.
fn features(rows: usize, columns: usize, width: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows * columns, width), |(p, d)| ((p * 37 + d * 11) % 64) as f32 / 8.0 - 4.0)
}

/// Bins, sampling ratio, box, mean of the bins of both features, first bin of the first, last bin of the last.
type RoiCase = (usize, i64, [f64; 4], [f64; 2], f64, f64);

#[rustfmt::skip]
const ROI_ALIGN: [RoiCase; 24] = [
    (7, -1, [0.125, 0.25, 0.75, 0.875], [-0.038405221782590475, -0.15244624635568524], 1.715401785714286, -0.6589604591836739),
    (7, -1, [0.0, 0.0, 1.0, 1.0], [-0.11117763431903376, -0.12226676384839649], -4.0, 3.5),
    (7, -1, [0.4375, 0.5, 0.46875, 0.53125], [1.8964843749999993, -2.853515625], 1.657087053571428, -3.149832589285714),
    (7, -1, [-0.25, -0.5, 0.5, 1.5], [-0.17138692211578505, 0.018117451062057536], 0.0, 0.0),
    (7, -1, [0.5, 0.5, 0.5, 0.75], [0.0, 0.0], 0.0, 0.0),
    (7, -1, [0.875, 0.9375, 1.0, 1.0], [2.071906887755102, 3.446906887755102], 1.7533482142857146, 3.5),
    (7, 2, [0.125, 0.25, 0.75, 0.875], [-0.01570471938775511, -0.19396052426072463], 1.7154017857142856, -0.4953762755102043),
    (7, 2, [0.0, 0.0, 1.0, 1.0], [-0.13470949604331528, -0.10206684714702215], -3.418686224489796, 2.918686224489794),
    (7, 2, [0.4375, 0.5, 0.46875, 0.53125], [1.896484375, -2.853515625], 1.6570870535714288, -3.1498325892857144),
    (7, 2, [-0.25, -0.5, 0.5, 1.5], [-0.17894236776343175, 0.001503279883381963], 0.0, 0.0),
    (7, 2, [0.5, 0.5, 0.5, 0.75], [2.40625, -1.5554846938775522], 2.96875, 2.3616071428571406),
    (7, 2, [0.875, 0.9375, 1.0, 1.0], [2.0674824617346936, 3.442482461734694], 1.7533482142857135, 3.5),
    (1, 0, [0.125, 0.25, 0.75, 0.875], [0.021728515625, -0.17626953125], 0.021728515625, -0.17626953125),
    (1, 0, [0.0, 0.0, 1.0, 1.0], [-0.1375, -0.09583333333333334], -0.1375, -0.09583333333333334),
    (1, 0, [0.4375, 0.5, 0.46875, 0.53125], [1.896484375, -2.853515625], 1.896484375, -2.853515625),
    (1, 0, [-0.25, -0.5, 0.5, 1.5], [-0.3151041666666667, -0.0390625], -0.3151041666666667, -0.0390625),
    (1, 0, [0.5, 0.5, 0.5, 0.75], [0.0, 0.0], 0.0, 0.0),
    (1, 0, [0.875, 0.9375, 1.0, 1.0], [2.125, 3.5], 2.125, 3.5),
    (2, 3, [0.125, 0.25, 0.75, 0.875], [-0.030381944444444364, -0.15769675925925938], 0.1002604166666666, 0.24406828703703706),
    (2, 3, [0.0, 0.0, 1.0, 1.0], [-0.12268518518518515, -0.09953703703703712], -0.09259259259259253, -0.40740740740740744),
    (2, 3, [0.4375, 0.5, 0.46875, 0.53125], [1.896484375, -2.853515625], 1.7568359375, -3.0263671875),
    (2, 3, [-0.25, -0.5, 0.5, 1.5], [-0.34114583333333337, -0.0286458333333333], -0.2916666666666667, -0.2864583333333333),
    (2, 3, [0.5, 0.5, 0.5, 0.75], [2.40625, -1.5520833333333333], 2.734375, 0.453125),
    (2, 3, [0.875, 0.9375, 1.0, 1.0], [2.0687934027777777, 3.4437934027777777], 2.012586805555556, 3.5),
];

#[test]
fn roi_align_is_torchvisions() {
    let features_pd = features(6, 5, 2);
    for (n_bins, ratio, region, mean, first, last) in ROI_ALIGN {
        let options = RoiAlign { n_bins, sampling: Sampling::from_ratio(ratio) };
        let bins = roi_align(features_pd.view(), (6, 5), region, options);
        let pooled = roi_align_mean(features_pd.view(), (6, 5), region, options);
        let ours = [pooled[0], pooled[1], bins[[0, 0]], bins[[n_bins * n_bins - 1, 1]]];
        for (ours, expected) in ours.into_iter().zip([mean[0], mean[1], first, last]) {
            assert!(
                (f64::from(ours) - expected).abs() < 1e-6,
                "{n_bins} {ratio} {region:?}: {ours} against {expected}"
            );
        }
    }
}

mod reference {
    //! One point after another, straight from the definition: hat functions around cell centres.

    /// Bin (`row`, `column`) of feature `d`; the box lies wholly within the outermost cell centres.
    pub fn bin(
        map: &dyn Fn(usize, usize) -> f64,
        grid: (usize, usize),
        region: [f64; 4],
        n: (usize, usize),
        at: (usize, usize),
    ) -> f64 {
        let ((rows, columns), (n_bins, n_points)) = (grid, n);
        let mut sum = 0.0;
        for i in 0..n_points {
            for j in 0..n_points {
                let part = |place: usize, point: usize| {
                    (place as f64 + (point as f64 + 0.5) / n_points as f64) / n_bins as f64
                };
                let y = (region[1] + (region[3] - region[1]) * part(at.0, i)) * rows as f64;
                let x = (region[0] + (region[2] - region[0]) * part(at.1, j)) * columns as f64;
                for row in 0..rows {
                    for column in 0..columns {
                        let hat = |position: f64, cell: usize| (1.0 - (position - (cell as f64 + 0.5)).abs()).max(0.0);
                        sum += hat(y, row) * hat(x, column) * map(row, column);
                    }
                }
            }
        }
        sum / (n_points * n_points) as f64
    }
}

/// Box i of forty: x = (37 i mod 64) / 8, y = (23 i mod 64) / 8, 1 + (11 i mod 24) / 8 wide and 1 + (7 i mod 24) / 8
/// high, with the score (29 i mod 32) / 32.
fn forty_boxes() -> (Vec<[f64; 4]>, Vec<f32>) {
    let part = |i: usize, factor: usize, modulus: usize| (i * factor % modulus) as f64 / 8.0;
    let one = |i: usize| {
        let (x, y) = (part(i, 37, 64), part(i, 23, 64));
        [x, y, x + 1.0 + part(i, 11, 24), y + 1.0 + part(i, 7, 24)]
    };
    ((0..40).map(one).collect(), (0..40).map(|i| (i * 29 % 32) as f32 / 32.0).collect())
}

#[test]
fn box_iou_is_torchvisions() {
    let (boxes, _) = forty_boxes();
    for (a, b, expected) in [
        (6, 1, 0.34593837535014005),
        (16, 2, 0.4419889502762431),
        (22, 8, 0.330188679245283),
        (37, 1, 0.34050179211469533),
        (3, 11, 0.0),
        (5, 5, 1.0),
    ] {
        assert!((box_iou(boxes[a], boxes[b]) - expected).abs() < 1e-12, "boxes {a} and {b}");
    }
    let all: f64 = boxes.iter().map(|a| boxes.iter().map(|b| box_iou(*a, *b)).sum::<f64>()).sum();
    assert!((all - 96.05643269035252).abs() < 1e-9, "{all}");
    assert_eq!(box_iou([1.0; 4], [1.0; 4]), 0.0);
}

#[test]
fn nms_is_torchvisions() {
    let (boxes, scores) = forty_boxes();
    assert_eq!(nms(&boxes, &scores, 0.0), [11, 22, 1, 33, 12, 24, 35, 14, 5, 39]);
    assert_eq!(nms(&boxes, &scores, 0.1), [11, 22, 1, 33, 12, 23, 2, 24, 35, 14, 25, 5, 38, 7, 39, 31, 0]);
    let expected = [11, 22, 1, 33, 12, 23, 2, 34, 13, 24, 35, 14, 25, 36, 26, 5, 38, 28, 7, 39, 19, 9, 31, 21, 0, 32];
    assert_eq!(nms(&boxes, &scores, 0.3), expected);
    assert_eq!(nms(&boxes, &scores, 0.5).len(), 40);
}

#[test]
fn classes_leave_one_another_alone() {
    let boxes = [[0.0, 0.0, 1.0, 1.0]; 3];
    assert_eq!(nms(&boxes, &[0.1, 0.3, 0.2], 0.5), [1]);
    assert_eq!(nms_by_class(&boxes, &[0.1, 0.3, 0.2], &[7, 2, 2], 0.5), [1, 0]);
    assert!(nms(&[], &[], 0.5).is_empty());
}

#[test]
fn enclosing() {
    assert_eq!(enclosing_box(&[[0.0, 2.0, 1.0, 3.0], [0.5, 0.0, 4.0, 1.0]]), Some([0.0, 0.0, 4.0, 3.0]));
    assert_eq!(enclosing_box(&[]), None);
}

#[test]
#[should_panic(expected = "29 patches on a grid of 6 x 5")]
fn a_wrong_grid_is_refused() {
    let features_pd = features(29, 1, 2);
    let _ = roi_align(
        features_pd.view(),
        (6, 5),
        [0.0, 0.0, 1.0, 1.0],
        RoiAlign { n_bins: 7, sampling: Sampling::Adaptive },
    );
}

#[test]
#[should_panic(expected = "is not a box")]
fn an_inverted_box_is_refused() {
    let one = array![[1.0f32]];
    let _ = roi_align(one.view(), (1, 1), [0.5, 0.0, 0.2, 1.0], RoiAlign { n_bins: 1, sampling: Sampling::Adaptive });
}

fn any_box() -> impl Strategy<Value = [f64; 4]> {
    (0.0f64..0.9, 0.0f64..0.9, 0.02f64..0.5, 0.02f64..0.5)
        .prop_map(|(x, y, w, h)| [x, y, (x + w).min(1.0), (y + h).min(1.0)])
}

proptest! {
    #[test]
    fn roi_align_agrees_with_reference(
        (rows, columns) in (2usize..7, 2usize..7), region in any_box(), n_bins in 1usize..5, n_points in 1usize..4,
    ) {
        // Kept within the outermost cell centres, where there is no border to continue.
        let inside = |value: f64, n: usize| (0.5 + value * (n - 1) as f64) / n as f64;
        let region = [inside(region[0], columns), inside(region[1], rows), inside(region[2], columns), inside(region[3], rows)];
        let features_pd = features(rows, columns, 2);
        let options = RoiAlign { n_bins, sampling: Sampling::PerBin(n_points) };
        let bins = roi_align(features_pd.view(), (rows, columns), region, options);
        for ((bin, d), &ours) in bins.indexed_iter() {
            let map = |row: usize, column: usize| f64::from(features_pd[[row * columns + column, d]]);
            let at = (bin / n_bins, bin % n_bins);
            let slow = reference::bin(&map, (rows, columns), region, (n_bins, n_points), at);
            prop_assert!((f64::from(ours) - slow).abs() < 1e-5, "{ours} against {slow}");
        }
    }

    #[test]
    fn a_constant_map_stays_constant(region in any_box(), n_bins in 1usize..8, ratio in -1i64..4) {
        let features_pd = Array2::from_elem((12, 3), 0.625f32);
        let options = RoiAlign { n_bins, sampling: Sampling::from_ratio(ratio) };
        let pooled = roi_align_mean(features_pd.view(), (3, 4), region, options);
        prop_assert!(pooled.iter().all(|value| (value - 0.625).abs() < 1e-6));
    }

    #[test]
    fn iou_is_symmetric_bounded_and_blind_to_scale(a in any_box(), b in any_box(), scale in 0.1f64..100.0) {
        let iou = box_iou(a, b);
        prop_assert!((0.0..=1.0).contains(&iou));
        prop_assert!((iou - box_iou(b, a)).abs() < 1e-12);
        prop_assert!((iou - box_iou(a.map(|v| v * scale), b.map(|v| v * scale))).abs() < 1e-9);
        prop_assert!((box_iou(a, a) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn nms_keeps_what_it_says(
        boxes in proptest::collection::vec((any_box(), 0u8..6), 0..15), threshold in 0.0f64..1.0,
    ) {
        let (boxes, scores): (Vec<_>, Vec<f32>) = boxes.into_iter().map(|(b, s)| (b, f32::from(s))).unzip();
        let kept = nms(&boxes, &scores, threshold);
        prop_assert!(kept.windows(2).all(|pair| scores[pair[0]] >= scores[pair[1]]));
        for candidate in 0..boxes.len() {
            let overlaps = |other: &&usize| **other != candidate && box_iou(boxes[**other], boxes[candidate]) > threshold;
            let rival = kept.iter().find(overlaps);
            // A kept box has no rival among the kept, one that is dropped has a better one.
            match kept.contains(&candidate) {
                true => prop_assert!(rival.is_none()),
                false => prop_assert!(kept.iter().filter(overlaps).any(|&other| scores[other] >= scores[candidate])),
            }
        }
    }
}
