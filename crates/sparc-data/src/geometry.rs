//! Where the points of a source image lie in the network's frame: one map for boxes, masks and points.
//!
//! Coordinates are continuous: (0, 0) is the upper left corner of the upper left pixel, whose centre is
//! (0.5, 0.5). Public positions are shares of a picture's sides, in `[0, 1]` where they are inside.

use image::GrayImage;
use sparc_core::LabelMap;

/// An affine map: x' = a·x + b·y + tx, y' = c·x + d·y + ty.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// `[a, b, tx]`.
    pub x: [f64; 3],
    /// `[c, d, ty]`.
    pub y: [f64; 3],
}

impl Affine {
    /// Scales and moves both directions on their own.
    pub fn scale_and_move((sx, sy): (f64, f64), (tx, ty): (f64, f64)) -> Affine {
        Affine { x: [sx, 0.0, tx], y: [0.0, sy, ty] }
    }

    /// Where a point goes.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.x, self.y].map(|[a, b, t]| a * x + b * y + t)
    }

    /// This map and then another.
    pub fn then(&self, next: &Affine) -> Affine {
        let row = |[a, b, t]: [f64; 3]| {
            [a * self.x[0] + b * self.y[0], a * self.x[1] + b * self.y[1], a * self.x[2] + b * self.y[2] + t]
        };
        Affine { x: row(next.x), y: row(next.y) }
    }

    /// By how much areas grow; negative if the map mirrors.
    pub fn determinant(&self) -> f64 {
        self.x[0] * self.y[1] - self.x[1] * self.y[0]
    }

    /// The map back.
    ///
    /// # Panics
    ///
    /// A map that flattens the plane.
    pub fn inverse(&self) -> Affine {
        let ([a, b, tx], [c, d, ty]) = (self.x, self.y);
        let determinant = self.determinant();
        assert!(determinant != 0.0, "{self:?} cannot be inverted");
        let (x, y) = ([d / determinant, -b / determinant], [-c / determinant, a / determinant]);
        let back = |[a, b]: [f64; 2]| [a, b, -(a * tx + b * ty)];
        Affine { x: back(x), y: back(y) }
    }
}

/// The way from a source image to the network's frame: one or more maps, each into a frame of the same
/// size. What leaves the frame after one of them is lost, even if the next would bring it back.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    maps: Vec<Affine>,
    source: (f64, f64),
    frame: (f64, f64),
}

/// Label maps are not made larger than this.
const MAX_LABELS: f64 = crate::decode::MAX_PIXELS as f64;

impl Geometry {
    /// From a source of the given width and height, by `maps` in order, the first from source pixels to
    /// frame pixels.
    ///
    /// # Panics
    ///
    /// No map.
    pub fn new(source: (f64, f64), frame: (f64, f64), maps: Vec<Affine>) -> Geometry {
        assert!(!maps.is_empty(), "a geometry needs a map into its frame");
        Geometry { maps, source, frame }
    }

    /// All maps as one, from source pixels to frame pixels.
    pub fn map(&self) -> Affine {
        self.maps[1..].iter().fold(self.maps[0], |map, next| map.then(next))
    }

    /// A point in shares of the source's sides, in shares of the frame's; `None` if it cannot be seen.
    pub fn map_point(&self, [x, y]: [f32; 2]) -> Option<[f32; 2]> {
        let mut place = [f64::from(x) * self.source.0, f64::from(y) * self.source.1];
        for map in &self.maps {
            place = map.apply(place);
            let [x, y] = place;
            if !((0.0..=self.frame.0).contains(&x) && (0.0..=self.frame.1).contains(&y)) {
                return None;
            }
        }
        Some([(place[0] / self.frame.0) as f32, (place[1] / self.frame.1) as f32])
    }

    /// A box in shares of the source's sides, in shares of the frame's; `None` if less than
    /// `min_visible` of its area can be seen, or nothing. It is the upright box around what is left of
    /// the given one in the frame.
    pub fn map_box(&self, [x0, y0, x1, y1]: [f32; 4], min_visible: f32) -> Option<[f32; 4]> {
        let corner = |x: f32, y: f32| [f64::from(x) * self.source.0, f64::from(y) * self.source.1];
        let mut seen = vec![corner(x0, y0), corner(x1, y0), corner(x1, y1), corner(x0, y1)];
        let mut whole = area(&seen);
        for map in &self.maps {
            let moved: Vec<[f64; 2]> = seen.iter().map(|&point| map.apply(point)).collect();
            whole *= map.determinant().abs();
            seen = inside(moved, self.frame);
        }
        let shares = |axis: usize, length: f64| {
            let values = seen.iter().map(move |point| point[axis] / length);
            (values.clone().fold(f64::INFINITY, f64::min) as f32, values.fold(f64::NEG_INFINITY, f64::max) as f32)
        };
        let ((left, right), (top, bottom)) = (shares(0, self.frame.0), shares(1, self.frame.1));
        // A little less than asked for, for areas are rounded.
        let enough = area(&seen) >= f64::from(min_visible) * whole * (1.0 - 1e-6);
        (left < right && top < bottom && enough).then_some([left, top, right, bottom])
    }

    /// The way back: a box in shares of the frame's sides, in shares of the source's, cut to the source. It is the
    /// upright box around the given one's corners.
    pub fn unmap_box(&self, [x0, y0, x1, y1]: [f32; 4]) -> [f32; 4] {
        let back = self.map().inverse();
        let corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]].map(|[x, y]| {
            let [x, y] = back.apply([f64::from(x) * self.frame.0, f64::from(y) * self.frame.1]);
            [x / self.source.0, y / self.source.1].map(|share| share.clamp(0.0, 1.0))
        });
        let least = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(f64::INFINITY, f64::min) as f32;
        let most = |axis: usize| corners.iter().map(|corner| corner[axis]).fold(f64::NEG_INFINITY, f64::max) as f32;
        [least(0), least(1), most(0), most(1)]
    }

    /// A label map of the whole source in `height`×`width` cells that cover the frame: each has the
    /// label at its centre, or [`LabelMap::IGNORE`] where there is no image.
    pub fn map_mask(&self, labels: &GrayImage, height: usize, width: usize) -> LabelMap {
        let cell = (self.frame.0 / width as f64, self.frame.1 / height as f64);
        let (width_px, height_px) = (f64::from(labels.width()), f64::from(labels.height()));
        let scale = Affine::scale_and_move((width_px / self.source.0, height_px / self.source.1), (0.0, 0.0));
        let within = |[x, y]: [f64; 2], size: (f64, f64)| x >= 0.0 && y >= 0.0 && x < size.0 && y < size.1;
        let to_source = self.maps[0].inverse().then(&scale);
        let later: Vec<Affine> = self.maps[1..].iter().rev().map(Affine::inverse).collect();
        let at = |x: usize, y: usize| {
            let mut place = [(x as f64 + 0.5) * cell.0, (y as f64 + 0.5) * cell.1];
            for back in &later {
                place = back.apply(place);
                if !within(place, self.frame) {
                    return LabelMap::IGNORE;
                }
            }
            let [x, y] = to_source.apply(place);
            if within([x, y], (width_px, height_px)) {
                labels.get_pixel(x as u32, y as u32).0[0]
            } else {
                LabelMap::IGNORE
            }
        };
        let labels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| at(x, y)).collect();
        LabelMap { height, width, labels }
    }

    /// As [`Geometry::map_mask`], with as many cells as the label map has pixels in the frame.
    pub fn map_labels(&self, labels: &GrayImage) -> LabelMap {
        let back = self.map().inverse();
        // Lengths, in pixels of the label map, of the frame's upper and left edge.
        let along = |column: usize, length: f64| {
            let x = back.x[column] * f64::from(labels.width()) / self.source.0;
            let y = back.y[column] * f64::from(labels.height()) / self.source.1;
            (x.hypot(y) * length).max(1.0)
        };
        let (width, height) = (along(0, self.frame.0), along(1, self.frame.1));
        let shrink = (MAX_LABELS / (width * height)).sqrt().min(1.0);
        let cells = |length: f64| ((length * shrink).round() as usize).max(1);
        self.map_mask(labels, cells(height), cells(width))
    }
}

/// The part of a convex polygon inside a frame of the given size: cut at one edge after the other
/// (Sutherland and Hodgman 1974).
fn inside(mut polygon: Vec<[f64; 2]>, size: (f64, f64)) -> Vec<[f64; 2]> {
    for (axis, edge, sign) in [(0, 0.0, 1.0), (0, size.0, -1.0), (1, 0.0, 1.0), (1, size.1, -1.0)] {
        let mut cut = Vec::with_capacity(polygon.len() + 1);
        for (index, &to) in polygon.iter().enumerate() {
            let from = polygon[(index + polygon.len() - 1) % polygon.len()];
            // How far inside.
            let (depth_from, depth_to) = ((from[axis] - edge) * sign, (to[axis] - edge) * sign);
            if (depth_from < 0.0) != (depth_to < 0.0) {
                let share = depth_from / (depth_from - depth_to);
                let mut crossing = [0, 1].map(|axis| from[axis] + share * (to[axis] - from[axis]));
                crossing[axis] = edge;
                cut.push(crossing);
            }
            if depth_to >= 0.0 {
                cut.push(to);
            }
        }
        polygon = cut;
    }
    polygon
}

/// Area of a polygon (the shoelace formula).
fn area(polygon: &[[f64; 2]]) -> f64 {
    let next = polygon.iter().cycle().skip(1);
    polygon.iter().zip(next).map(|([x0, y0], [x1, y1])| x0 * y1 - x1 * y0).sum::<f64>().abs() / 2.0
}

#[cfg(test)]
mod tests {
    use image::Luma;
    use proptest::prelude::*;

    use super::*;

    fn affine() -> impl Strategy<Value = Affine> {
        (0.3..3.0f64, -0.4..0.4f64, -9.0..9.0f64, -0.4..0.4f64, 0.3..3.0f64, -9.0..9.0f64)
            .prop_map(|(a, b, tx, c, d, ty)| Affine { x: [a, b, tx], y: [c, d, ty] })
            .prop_filter("flat", |map| map.determinant().abs() > 0.05)
    }

    proptest! {
        #[test]
        fn there_and_back_is_nowhere(map in affine(), other in affine(), x in -50.0..50.0f64, y in -50.0..50.0f64) {
            let close = |[a, b]: [f64; 2], [c, d]: [f64; 2]| (a - c).abs() + (b - d).abs() < 1e-9;
            prop_assert!(close(map.then(&map.inverse()).apply([x, y]), [x, y]));
            prop_assert!(close(map.then(&other).apply([x, y]), other.apply(map.apply([x, y]))));
        }
    }

    proptest! {
        #[test]
        fn boxes_come_back_from_the_padded_frame(
            (width, height) in prop_oneof![(1u32..3000, 1u32..3000), Just((641, 3)), Just((3, 641)), Just((1, 1))],
            side in prop_oneof![Just(224u32), Just(64), Just(1), 1u32..500],
            (x, y, w, h) in (0.0f32..0.9, 0.0f32..0.9, 0.05f32..1.0, 0.05f32..1.0),
        ) {
            use crate::transform::{Frame, ResizeMode};
            let truth = [x, y, (x + w).min(1.0), (y + h).min(1.0)];
            let geometry = Frame::plain((width, height), side, ResizeMode::Pad).geometry();
            let placed = geometry.map_box(truth, 1.0).expect("padding hides nothing");
            // The long side fills the frame; along the other the picture is centred, to half a pixel.
            let middle = |low: f32, high: f32| (low + high) * 0.5;
            let whole = geometry.map_box([0.0, 0.0, 1.0, 1.0], 1.0).unwrap();
            let (long, short) = if width >= height { (0, 1) } else { (1, 0) };
            prop_assert!(whole[long].abs() < 1e-6 && (whole[long + 2] - 1.0).abs() < 1e-6);
            prop_assert!((middle(whole[short], whole[short + 2]) - 0.5).abs() <= 0.5 / side as f32 + 1e-6);
            let back = geometry.unmap_box(placed);
            // In pixels of the frame, whose shares are single precision.
            let scale = [whole[2] - whole[0], whole[3] - whole[1]];
            for (index, (back, truth)) in back.into_iter().zip(truth).enumerate() {
                prop_assert!((back - truth).abs() * scale[index % 2] < 1e-6, "{back} instead of {truth}");
            }
        }
    }

    #[test]
    fn boxes_of_the_frame_are_cut_to_the_source() {
        // A wide picture with bars above and below: the whole frame is the whole picture.
        let map = Affine::scale_and_move((0.5, 0.5), (0.0, 25.0));
        let geometry = Geometry::new((200.0, 100.0), (100.0, 100.0), vec![map]);
        assert_eq!(geometry.unmap_box([0.0, 0.0, 1.0, 1.0]), [0.0, 0.0, 1.0, 1.0]);
        assert_eq!(geometry.unmap_box([0.25, 0.0, 0.5, 0.5]), [0.25, 0.0, 0.5, 0.5]);
        assert_eq!(geometry.unmap_box([0.0, 0.0, 1.0, 0.2]), [0.0, 0.0, 1.0, 0.0]);
    }

    #[test]
    fn boxes_outside_the_frame_vanish() {
        // The middle square of 200x100.
        let map = Affine::scale_and_move((0.5, 0.5), (-25.0, 0.0));
        let geometry = Geometry::new((200.0, 100.0), (50.0, 50.0), vec![map]);
        assert_eq!(geometry.map_box([0.0, 0.0, 0.2, 1.0], 0.0), None);
        assert_eq!(geometry.map_box([0.25, 0.0, 0.75, 1.0], 1.0), Some([0.0, 0.0, 1.0, 1.0]));
        assert_eq!(geometry.map_box([0.0, 0.0, 0.5, 1.0], 0.6), None);
        assert_eq!(geometry.map_point([0.5, 0.25]), Some([0.5, 0.25]));
        assert_eq!(geometry.map_point([0.2, 0.25]), None);
    }

    #[test]
    fn what_has_left_the_frame_does_not_come_back() {
        let by = |x: f64| Affine::scale_and_move((1.0, 1.0), (x, 0.0));
        let geometry = Geometry::new((10.0, 10.0), (10.0, 10.0), vec![by(0.0), by(6.0), by(-6.0)]);
        assert_eq!(geometry.map_box([0.0, 0.0, 1.0, 1.0], 0.3), Some([0.0, 0.0, 0.4, 1.0]));
        assert_eq!(geometry.map_box([0.0, 0.0, 1.0, 1.0], 0.41), None);
        let mask = geometry.map_mask(&GrayImage::new(10, 10), 1, 10);
        assert_eq!(mask.labels, [0, 0, 0, 0, 255, 255, 255, 255, 255, 255]);
    }

    #[test]
    fn a_turned_box_is_bounded_by_what_is_seen_of_it() {
        // A quarter turn to the right about the centre, and an eighth of a turn.
        let quarter = Affine { x: [0.0, -1.0, 10.0], y: [1.0, 0.0, 0.0] };
        let geometry = Geometry::new((10.0, 10.0), (10.0, 10.0), vec![quarter]);
        assert_eq!(geometry.map_box([0.0, 0.0, 0.2, 0.5], 1.0), Some([0.5, 0.0, 1.0, 0.2]));
        let r = 0.5f64.sqrt();
        let eighth = Affine { x: [r, -r, 5.0], y: [r, r, 5.0 - 10.0 * r] };
        let geometry = Geometry::new((10.0, 10.0), (10.0, 10.0), vec![eighth]);
        let [x0, y0, x1, y1] = geometry.map_box([0.0, 0.0, 1.0, 1.0], 0.5).unwrap();
        assert_eq!([x0, y0, x1, y1], [0.0, 0.0, 1.0, 1.0]);
        // An octagon is left of the square.
        assert_eq!(geometry.map_box([0.0, 0.0, 1.0, 1.0], 0.84), None);
        assert!(geometry.map_box([0.0, 0.0, 1.0, 1.0], 0.82).is_some());
    }

    #[test]
    fn masks_keep_their_resolution_and_ignore_what_is_no_image() {
        let labels = GrayImage::from_fn(40, 20, |x, y| Luma([(x + y) as u8]));
        // A square around a picture of 20x10 with bars above and below it.
        let map = Affine::scale_and_move((1.0, 1.0), (0.0, 5.0));
        let geometry = Geometry::new((20.0, 10.0), (20.0, 20.0), vec![map]);
        let moved = geometry.map_labels(&labels);
        assert_eq!((moved.height, moved.width), (40, 40));
        assert!(moved.labels[..400].iter().chain(&moved.labels[1_200..]).all(|&label| label == LabelMap::IGNORE));
        assert_eq!(moved.labels[400..1_200], *labels.as_raw());
    }
}
