//! Greedy non-maximum suppression, as torchvision's `nms` does it.

use super::box_iou;

/// Indices of the boxes that are kept, best first: from the highest score down, each box whose IoU with no box kept
/// before is above `threshold`. Equal scores are taken in the order of their indices.
///
/// # Panics
///
/// If there are not as many scores as boxes, or a score is NaN.
pub fn nms(boxes: &[[f64; 4]], scores: &[f32], threshold: f64) -> Vec<usize> {
    suppress(boxes, scores, |kept, candidate| box_iou(boxes[kept], boxes[candidate]) > threshold)
}

/// The same, but boxes of different classes leave one another alone, as in torchvision's `batched_nms`.
///
/// # Panics
///
/// If there are not as many scores and classes as boxes, or a score is NaN.
pub fn nms_by_class(boxes: &[[f64; 4]], scores: &[f32], classes: &[usize], threshold: f64) -> Vec<usize> {
    assert_eq!(boxes.len(), classes.len(), "one class per box");
    suppress(boxes, scores, |kept, candidate| {
        classes[kept] == classes[candidate] && box_iou(boxes[kept], boxes[candidate]) > threshold
    })
}

fn suppress(boxes: &[[f64; 4]], scores: &[f32], hides: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "one score per box");
    assert!(!scores.iter().any(|score| score.is_nan()), "a box's score is NaN");
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for candidate in order {
        if !kept.iter().any(|&kept| hides(kept, candidate)) {
            kept.push(candidate);
        }
    }
    kept
}
