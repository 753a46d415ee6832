//! The eight outlines as signed tests in the frame of an object: radius 1, x right, y down.

use std::f64::consts::PI;

use super::attributes::Shape;

/// Radius of the hole of a ring.
const RING_HOLE: f64 = 0.44;
/// Half the width of an arm of a cross.
const CROSS_ARM: f64 = 0.31;
/// Radius of the inner corners of a star.
const STAR_NOTCH: f64 = 0.50;

/// No point of an outline is farther from the centre than this.
pub(super) const REACH: f64 = 1.25;

/// Whether the point `(x, y)` lies in the shape.
///
/// The extents differ from shape to shape so that the eight look equally large.
pub(super) fn contains(shape: Shape, x: f64, y: f64) -> bool {
    match shape {
        Shape::Circle => x.hypot(y) <= 0.93,
        Shape::Square => x.abs() <= 0.83 && y.abs() <= 0.83,
        // Apex at (0, -0.98), base from (-1, 0.74) to (1, 0.74).
        Shape::Triangle => y <= 0.74 && x.abs() <= (y + 0.98) / 1.72,
        Shape::Star => in_star(x, y),
        Shape::Cross => {
            let (x, y) = (x.abs(), y.abs());
            x.min(y) <= CROSS_ARM && x.max(y) <= 0.95
        }
        Shape::Ring => (RING_HOLE..=0.97).contains(&x.hypot(y)),
        Shape::Diamond => x.abs() / 0.70 + y.abs() / 1.06 <= 1.0,
        Shape::Heart => in_heart(x, y),
    }
}

/// Folds the plane onto one of the ten equal parts of the star and tests against its one edge.
fn in_star(x: f64, y: f64) -> bool {
    const TIP: f64 = 1.10;
    let radius = x.hypot(y);
    if radius > TIP || radius <= STAR_NOTCH * 0.8 {
        return radius <= TIP;
    }
    let sector = 2.0 * PI / 5.0;
    // Angle from the upward direction, folded to [0, sector / 2].
    let angle = ((x.atan2(-y) + sector / 2.0).rem_euclid(sector) - sector / 2.0).abs();
    let (px, py) = (radius * angle.cos(), radius * angle.sin());
    let (notch_x, notch_y) = (STAR_NOTCH * (sector / 2.0).cos(), STAR_NOTCH * (sector / 2.0).sin());
    (notch_x - TIP) * py - notch_y * (px - TIP) >= 0.0
}

/// The classic sextic `(x² + y² - 1)³ <= x² y³` (y up), scaled to the unit radius.
fn in_heart(x: f64, y: f64) -> bool {
    let (x, y) = (1.18 * x, 0.1 - 1.18 * y);
    let ball = x * x + y * y - 1.0;
    ball * ball * ball <= x * x * y * y * y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(shape: Shape) -> f64 {
        let n = 800;
        let step = 2.0 * 1.3 / n as f64;
        let at = |i: usize| (i as f64 + 0.5) * step - 1.3;
        let hits = (0..n * n).filter(|i| contains(shape, at(i % n), at(i / n)));
        hits.count() as f64 * step * step
    }

    #[test]
    fn areas_are_those_of_the_textbook() {
        let close = |shape: Shape, expected: f64| {
            let got = area(shape);
            assert!((got - expected).abs() < 0.02, "{shape:?}: {got} {expected}");
        };
        close(Shape::Circle, PI * 0.93 * 0.93);
        close(Shape::Square, 1.66 * 1.66);
        close(Shape::Triangle, 1.72);
        close(Shape::Cross, 2.0 * 1.9 * 0.62 - 0.62 * 0.62);
        close(Shape::Ring, PI * (0.97 * 0.97 - RING_HOLE * RING_HOLE));
        close(Shape::Diamond, 2.0 * 0.70 * 1.06);
        // Ten triangles with the sides tip, notch and the angle 36 degrees between them.
        close(Shape::Star, 10.0 * 0.5 * 1.10 * STAR_NOTCH * (PI / 5.0).sin());
    }

    #[test]
    fn nothing_lies_beyond_the_reach() {
        for &shape in Shape::ALL {
            for i in 0..720 {
                let (sin, cos) = (f64::from(i) * PI / 360.0).sin_cos();
                assert!(!contains(shape, REACH * cos, REACH * sin), "{shape:?}");
            }
        }
    }

    #[test]
    fn only_the_ring_is_hollow() {
        for &shape in Shape::ALL {
            assert_eq!(contains(shape, 0.0, 0.0), shape != Shape::Ring);
        }
    }
}
