//! RandAugment (Cubuk et al. 2020, arXiv:1909.13719) with the ten operations of ALBEF (Li et al. 2021,
//! arXiv:2107.07651): some of them drawn with replacement, each done with a probability, all at one
//! magnitude M of 10.
//!
//! ALBEF's code works with OpenCV; its formulae are kept, see each operation of [`Operation`]. Two things
//! differ: sharpened values are cut at 0 and 255, where ALBEF's wrap around; and turned pictures are
//! interpolated without OpenCV's rounding of positions to 1/32 pixel.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::geometry::Affine;

/// How many operations, how strong and how often. ALBEF: 2, 7 and 0.5.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomAugment {
    /// Operations drawn for an image (N).
    pub operations: usize,
    /// Strength of all of them, 0 to 10 (M).
    pub magnitude: f64,
    /// Probability that a drawn operation is done.
    pub probability: f64,
}

/// An operation with its strength, on a square picture of RGB bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// Each channel is spread over 0 to 255: v ↦ ⌊(v − low)·255/(high − low)⌋.
    AutoContrast,
    /// Each channel's histogram is flattened: v ↦ min(255, ⌊(step/2 + number of values below v)/step⌋),
    /// with step = ⌊number of values below the highest / 255⌋; a step of 0 changes nothing.
    Equalize,
    /// v ↦ min(255, ⌊factor·v⌋), factor = 0.1 + 1.8·M/10.
    Brightness(f64),
    /// v ↦ ⌊s + factor·(v − s)⌋, factor as for brightness, with s the weighted mean over 3×3 pixels (5 for
    /// the middle, 1 for the others, divided by 13), rounded; the outermost pixels stay as they are.
    Sharpness(f64),
    /// Pixels move along a map of the frame's pixels; bilinear, and grey (128) comes in.
    ///
    /// Positions are counted from the middle of the first pixel. Shear: x' = x ± 0.3·M/10·y, or likewise
    /// y'. Translate: x' = x ± 10·M/10 pixels, or likewise y', whatever the picture's size. Rotate: by
    /// ±30·M/10 degrees around (side/2, side/2).
    Warp(Affine),
}

/// Grey that comes in where a picture moves out of its frame.
const FILL: f64 = 128.0;

impl RandomAugment {
    /// The largest magnitude.
    pub const MAX_MAGNITUDE: f64 = 10.0;

    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// The field and its range.
    pub fn validate(&self) -> Result<(), String> {
        if !(0.0..=Self::MAX_MAGNITUDE).contains(&self.magnitude) {
            return Err(format!("magnitude must lie in [0, {}], got {}", Self::MAX_MAGNITUDE, self.magnitude));
        }
        if !(0.0..=1.0).contains(&self.probability) {
            return Err(format!("probability must lie in [0, 1], got {}", self.probability));
        }
        Ok(())
    }

    /// Draws operations for a picture of `side` pixels.
    pub(crate) fn draw(&self, side: u32, generator: &mut impl Rng) -> Vec<Operation> {
        (0..self.operations).filter_map(|_| self.draw_one(f64::from(side), generator)).collect()
    }

    fn draw_one(&self, side: f64, generator: &mut impl Rng) -> Option<Operation> {
        let level = self.magnitude / Self::MAX_MAGNITUDE;
        let kind = generator.random_range(0..10);
        let done = generator.random_bool(self.probability);
        let sign = if generator.random_bool(0.5) { -1.0 } else { 1.0 };
        let (enhance, shear, shift) = (0.1 + 1.8 * level, sign * 0.3 * level, sign * 10.0 * level);
        let operation = match kind {
            0 => return None, // Identity.
            1 => Operation::AutoContrast,
            2 => Operation::Equalize,
            3 => Operation::Brightness(enhance),
            4 => Operation::Sharpness(enhance),
            5 => from_centers([1.0, shear, 0.0], [0.0, 1.0, 0.0]),
            6 => from_centers([1.0, 0.0, 0.0], [shear, 1.0, 0.0]),
            7 => from_centers([1.0, 0.0, shift], [0.0, 1.0, 0.0]),
            8 => from_centers([1.0, 0.0, 0.0], [0.0, 1.0, shift]),
            _ => {
                let (sin, cos) = (sign * 30.0 * level).to_radians().sin_cos();
                let center = side / 2.0;
                from_centers(
                    [cos, sin, (1.0 - cos) * center - sin * center],
                    [-sin, cos, sin * center + (1.0 - cos) * center],
                )
            }
        };
        done.then_some(operation)
    }
}

/// A warp given in positions that count from the middle of the first pixel, in those of [`Affine`].
fn from_centers(x: [f64; 3], y: [f64; 3]) -> Operation {
    let half = |sign: f64| Affine::scale_and_move((1.0, 1.0), (sign * 0.5, sign * 0.5));
    Operation::Warp(half(-1.0).then(&Affine { x, y }).then(&half(1.0)))
}

impl Operation {
    /// Changes a picture of `side`×`side` pixels.
    pub(crate) fn apply(&self, pixels: &mut Vec<u8>, side: usize) {
        match self {
            Operation::AutoContrast => each_channel(pixels, auto_contrast),
            Operation::Equalize => each_channel(pixels, equalize),
            Operation::Brightness(factor) => {
                let table = std::array::from_fn(|v| (v as f64 * factor).min(255.0) as u8);
                pixels.iter_mut().for_each(|v| *v = look_up(&table, *v));
            }
            Operation::Sharpness(factor) => *pixels = sharpen(pixels, side, *factor),
            Operation::Warp(map) => *pixels = warp(pixels, side, map),
        }
    }
}

type Table = [u8; 256];

fn look_up(table: &Table, value: u8) -> u8 {
    table[usize::from(value)]
}

/// Replaces each channel by a table made from its histogram.
fn each_channel(pixels: &mut [u8], table_of: impl Fn(&[u64; 256]) -> Option<Table>) {
    for c in 0..3 {
        let mut histogram = [0; 256];
        pixels[c..].iter().step_by(3).for_each(|&v| histogram[usize::from(v)] += 1);
        if let Some(table) = table_of(&histogram) {
            pixels[c..].iter_mut().step_by(3).for_each(|v| *v = look_up(&table, *v));
        }
    }
}

fn auto_contrast(histogram: &[u64; 256]) -> Option<Table> {
    let low = histogram.iter().position(|&n| n > 0)? as f64;
    let high = histogram.iter().rposition(|&n| n > 0)? as f64;
    let scale = 255.0 / (high - low);
    (high > low).then(|| std::array::from_fn(|v| (v as f64 * scale - low * scale).clamp(0.0, 255.0) as u8))
}

fn equalize(histogram: &[u64; 256]) -> Option<Table> {
    let highest = histogram.iter().rposition(|&n| n > 0)?;
    let step = histogram[..highest].iter().sum::<u64>() / 255;
    let mut below = step / 2;
    (step > 0).then(|| {
        std::array::from_fn(|v| {
            let value = below / step;
            below += histogram[v];
            value.min(255) as u8
        })
    })
}

fn sharpen(pixels: &[u8], side: usize, factor: f64) -> Vec<u8> {
    let mut sharpened = pixels.to_vec();
    for y in 1..side.max(1) - 1 {
        for x in 1..side - 1 {
            for c in 0..3 {
                let at = |x: usize, y: usize| f64::from(pixels[(y * side + x) * 3 + c]);
                let around: f64 = (y - 1..=y + 1).flat_map(|y| (x - 1..=x + 1).map(move |x| at(x, y))).sum();
                let smooth = ((around + 4.0 * at(x, y)) / 13.0).round();
                let value = smooth + factor * (at(x, y) - smooth);
                sharpened[(y * side + x) * 3 + c] = value.clamp(0.0, 255.0) as u8;
            }
        }
    }
    sharpened
}

fn warp(pixels: &[u8], side: usize, map: &Affine) -> Vec<u8> {
    let back = map.inverse();
    let at = |x: i64, y: i64, c: usize| {
        let inside = (0..side as i64).contains(&x) && (0..side as i64).contains(&y);
        if inside { f64::from(pixels[(y as usize * side + x as usize) * 3 + c]) } else { FILL }
    };
    let mut moved = Vec::with_capacity(pixels.len());
    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
        let [from_x, from_y] = back.apply([x as f64 + 0.5, y as f64 + 0.5]).map(|v| v - 0.5);
        let (left, top) = (from_x.floor(), from_y.floor());
        let (right_share, lower_share) = (from_x - left, from_y - top);
        let (left, top) = (left as i64, top as i64);
        moved.extend([0, 1, 2].map(|c| {
            let row = |y: i64| at(left, y, c) * (1.0 - right_share) + at(left + 1, y, c) * right_share;
            (row(top) * (1.0 - lower_share) + row(top + 1) * lower_share).round() as u8
        }));
    }
    moved
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn applied(operation: Operation, mut pixels: Vec<u8>, side: usize) -> Vec<u8> {
        operation.apply(&mut pixels, side);
        pixels
    }

    fn grey(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|&v| [v; 3]).collect()
    }

    #[test]
    fn contrast_and_brightness_follow_their_formulae() {
        assert_eq!(applied(Operation::AutoContrast, grey(&[50, 100, 150, 75]), 2), grey(&[0, 127, 255, 63]));
        assert_eq!(applied(Operation::AutoContrast, grey(&[9; 4]), 2), grey(&[9; 4]));
        assert_eq!(applied(Operation::Brightness(1.36), grey(&[0, 100, 200, 3]), 2), grey(&[0, 136, 255, 4]));
        // The smooth middle is 5·130/13 = 50, and 50 + 1.5·80 = 170.
        let spot = grey(&[0, 0, 0, 0, 130, 0, 0, 0, 0]);
        assert_eq!(applied(Operation::Sharpness(1.5), spot.clone(), 3)[12], 170);
        assert_eq!(applied(Operation::Sharpness(1.0), spot.clone(), 3), spot);
    }

    /// `ImageOps.equalize` of Pillow gives these values as well.
    #[test]
    fn equalising_spreads_a_ramp() {
        let ramp: Vec<u8> = (0..1024).map(|i| (i / 8) as u8).collect();
        let flat = applied(Operation::Equalize, grey(&ramp), 32);
        let value = |v: usize| flat[v * 8 * 3];
        assert_eq!([value(0), value(1), value(64), value(127)], [0, 3, 171, 255]);
        assert_eq!(applied(Operation::Equalize, grey(&[7; 4]), 2), grey(&[7; 4]));
    }

    #[test]
    fn warps_move_pixels_and_bring_in_grey() {
        let right = from_centers([1.0, 0.0, 1.0], [0.0, 1.0, 0.0]);
        assert_eq!(applied(right, grey(&[1, 2, 3, 4]), 2), grey(&[128, 1, 128, 3]));
        let identity = from_centers([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]);
        assert_eq!(applied(identity, grey(&[1, 2, 3, 4]), 2), grey(&[1, 2, 3, 4]));
    }

    #[test]
    fn every_operation_is_drawn_and_half_of_them_done() {
        let settings = RandomAugment { operations: 2, magnitude: 7.0, probability: 0.5 };
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let drawn: Vec<Operation> = (0..2_000).flat_map(|_| settings.draw(64, &mut generator)).collect();
        // Nine of ten are no identity.
        assert!((1_650..1_950).contains(&drawn.len()), "{}", drawn.len());
        let share = |of: fn(&Operation) -> bool| drawn.iter().filter(|&o| of(o)).count() as f64 / drawn.len() as f64;
        assert!((share(|o| *o == Operation::Equalize) - 1.0 / 9.0).abs() < 0.03);
        assert!((share(|o| matches!(o, Operation::Warp(_))) - 5.0 / 9.0).abs() < 0.05);
        assert!(drawn.contains(&Operation::Brightness(1.36)) && drawn.contains(&Operation::Sharpness(1.36)));
        assert!(RandomAugment { magnitude: 11.0, ..settings }.validate().unwrap_err().contains("magnitude"));
    }
}
