//! Boxes: overlap, suppression of near-duplicates, features inside.
//!
//! A box is `x0, y0, x1, y1`, x to the right and y down.

mod nms;
mod roi_align;

pub use nms::{nms, nms_by_class};
pub use roi_align::{RoiAlign, Sampling, roi_align, roi_align_mean};

/// Intersection over union of two boxes; 0 if both are empty.
pub fn box_iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let area = |[x0, y0, x1, y1]: [f64; 4]| (x1 - x0).max(0.0) * (y1 - y0).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

/// The smallest box around all of them; `None` without a box.
///
/// Flickr30k Entities judges a phrase with several boxes by it ("merged boxes").
pub fn enclosing_box(boxes: &[[f64; 4]]) -> Option<[f64; 4]> {
    boxes.iter().copied().reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])])
}

#[cfg(test)]
mod tests;
