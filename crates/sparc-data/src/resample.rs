//! Antialiased bicubic resizing with the bytes of Pillow's `Image.resize(…, BICUBIC)`.
//!
//! Pillow (`src/libImaging/Resample.c`) resizes rows, then columns, with 8-bit pixels in between and
//! weights of 22 fractional bits. The filter is Keys' cubic with a = −0.5, stretched by the factor
//! when the image becomes smaller. Every Pillow up to 12.3 does so; 13.0 takes columns first where that
//! is less work, which gives other roundings, and which is not followed here.

use std::ops::Range;

use image::RgbImage;

mod grouped;
mod lines;
mod pairs;
mod passes;
#[cfg(target_arch = "x86_64")]
mod products;
#[cfg(target_arch = "x86_64")]
mod quads;
mod stripes;

use passes::Passes;

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelRect {
    /// Columns before it.
    pub left: u64,
    /// Rows before it.
    pub top: u64,
    /// Columns.
    pub width: u64,
    /// Rows.
    pub height: u64,
}

/// What is resized to what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resampling {
    /// The pixels of the source that may be looked at; the filter ends at this rectangle's edges.
    pub within: PixelRect,
    /// The part of `within` that is spread over `scaled`: left, top, right and bottom in pixels from
    /// its corner, not necessarily whole (the argument `box` of Pillow's `resize`).
    pub part: [f32; 4],
    /// Width and height of the resized picture.
    pub scaled: (u64, u64),
    /// The part of the resized picture that is computed; all else costs nothing.
    pub window: PixelRect,
}

impl Resampling {
    /// The whole of `within` to a whole picture of `scaled` pixels.
    pub fn whole(within: PixelRect, scaled: (u64, u64)) -> Resampling {
        Resampling {
            within,
            part: [0.0, 0.0, within.width as f32, within.height as f32],
            scaled,
            window: PixelRect { left: 0, top: 0, width: scaled.0, height: scaled.1 },
        }
    }
}

const CHANNELS: usize = 3;
/// Rows that are resized together.
pub(crate) const STRIPE: usize = grouped::LANES;
/// Fractional bits of a weight: 32 bits less 8 of a pixel and 2 of head room (Pillow's number).
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// RGB bytes of the window, row by row.
///
/// # Panics
///
/// A rectangle or part that is not inside its picture, an empty window, or a part without area.
pub fn resample(image: &RgbImage, resampling: &Resampling) -> Vec<u8> {
    let mut resizer = Resizer::new(image.dimensions(), resampling);
    resizer.take(0, image.as_raw());
    resizer.finish()
}

/// Resizes a picture whose rows come one after the other, so that it need not be held as a whole.
pub struct Resizer {
    /// Bytes of a row of the picture.
    stride: usize,
    /// The rows of the picture that are looked at.
    needed: Range<usize>,
    passes: Passes,
}

impl Resizer {
    /// For a picture of so many columns and rows.
    ///
    /// # Panics
    ///
    /// As [`resample`].
    pub fn new((width, height): (u32, u32), resampling: &Resampling) -> Resizer {
        let Resampling { within, part: [left, top, right, bottom], scaled, window } = *resampling;
        assert!(
            within.left + within.width <= u64::from(width) && within.top + within.height <= u64::from(height),
            "{within:?} is not inside {width}x{height} pixels"
        );
        assert!(
            window.left + window.width <= scaled.0 && window.top + window.height <= scaled.1,
            "{window:?} is not inside {scaled:?}"
        );
        assert!(
            left >= 0.0 && top >= 0.0 && right <= within.width as f32 && bottom <= within.height as f32,
            "{:?} is not inside {within:?}",
            resampling.part
        );
        assert!(window.width > 0 && window.height > 0 && left < right && top < bottom, "nothing to do: {resampling:?}");
        let columns = Direction::new(within.width, (left, right), scaled.0, window.left..window.left + window.width);
        let rows = Direction::new(within.height, (top, bottom), scaled.1, window.top..window.top + window.height);
        let (stride, left, top) = (width as usize * CHANNELS, within.left as usize * CHANNELS, within.top as usize);
        let needed = top + rows.first()..top + rows.end();
        Resizer { stride, passes: Passes::new(&columns, (stride, left), &rows, needed.start % STRIPE), needed }
    }

    /// Takes the picture's next rows, whole ones, of which the first is row `y`. Rows that nobody needs may be left out.
    ///
    /// # Panics
    ///
    /// A row `y` that is not a multiple of 16, or comes before one that was taken.
    pub fn take(&mut self, y: usize, rows: &[u8]) {
        assert!(y.is_multiple_of(STRIPE), "rows come in stripes of {STRIPE}, not from {y} on");
        let first = self.needed.start / STRIPE * STRIPE;
        let end = self.needed.end.min(y + rows.len() / self.stride);
        for row in (y.max(first)..end).step_by(STRIPE) {
            self.passes.take((row - first) / STRIPE, &rows[(row - y) * self.stride..], STRIPE.min(end - row));
        }
    }

    /// RGB bytes of the window. Stripes that never came are black.
    pub fn finish(self) -> Vec<u8> {
        self.passes.finish()
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// One direction of resizing. The arithmetic here and in [`grouped`] is `precompute_coeffs` and `normalize_coeffs_8bpc` of
/// Pillow, in its order and precision.
struct Direction {
    old: u64,
    low: f64,
    scale: f64,
    /// Of the filter, in old pixels.
    support: f64,
    /// New pixels.
    wanted: Range<u64>,
}

impl Direction {
    /// Spreads `low..high` of `old` pixels over `new` pixels, for those in `wanted`.
    fn new(old: u64, (low, high): (f32, f32), new: u64, wanted: Range<u64>) -> Direction {
        let scale = f64::from(high - low) / new as f64;
        Direction { old, low: f64::from(low), scale, support: 2.0 * scale.max(1.0), wanted }
    }

    /// New pixels.
    fn len(&self) -> usize {
        (self.wanted.end - self.wanted.start) as usize
    }

    /// Where the middle of a new pixel lies among the old ones.
    fn center(&self, new: u64) -> f64 {
        self.low + (new as f64 + 0.5) * self.scale
    }

    /// The old pixels that a new one is made of.
    fn looked_at(&self, new: u64) -> Range<usize> {
        let center = self.center(new);
        let start = ((center - self.support + 0.5) as i64).max(0);
        let end = ((center + self.support + 0.5) as i64).min(self.old as i64);
        start as usize..end as usize
    }

    /// The first old pixel that is looked at.
    fn first(&self) -> usize {
        self.looked_at(self.wanted.start).start
    }

    /// One past the last old pixel that is looked at.
    fn end(&self) -> usize {
        self.looked_at(self.wanted.end - 1).end
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;
    use crate::decode::tests::digest;

    /// The picture of golden/make.py.
    pub(crate) fn formula(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let blue = ((x / 3 + y / 2) % 2) * 200 + (x + y) % 40;
            Rgb([((x * 7 + y * 3) % 256) as u8, ((x * y * 5) % 251) as u8, blue as u8])
        })
    }

    fn all_of(image: &RgbImage) -> PixelRect {
        PixelRect { left: 0, top: 0, width: image.width().into(), height: image.height().into() }
    }

    /// Printed by golden/make.py with Pillow 12.3. Tolerance: none.
    #[test]
    fn resized_bytes_are_pillows() {
        for (width, height, new_width, new_height, expected) in [
            (37, 29, 16, 16, 0xd578324b6526fff5),
            (37, 29, 29, 37, 0x1bc222668bf96e9e),
            (64, 48, 224, 224, 0xf433cfb3a7cbe90b),
            (301, 5, 8, 8, 0x65127c8ec47948ca),
            (5, 301, 8, 8, 0xade867a9901aff68),
            (200, 150, 7, 3, 0x691fcba3a9418398),
            (1, 1, 4, 4, 0xa09d945a1cd8d6e5),
            (64, 48, 64, 20, 0xd306fabe7ca9d4ea),
            (64, 48, 20, 48, 0x553ddefbe12f4c82),
            (100, 100, 99, 101, 0x01e59eb13518a152),
        ] {
            let image = formula(width, height);
            let resized = resample(&image, &Resampling::whole(all_of(&image), (new_width, new_height)));
            assert_eq!(digest(&resized), expected, "{width}x{height} to {new_width}x{new_height}");
        }
    }

    /// Likewise, with the argument `box`.
    #[test]
    fn resized_boxes_are_pillows() {
        let image = formula(37, 29);
        for (part, expected) in [
            ([0.5, 0.25, 20.75, 28.0], 0xdb5c17a5d9bb3085),
            ([3.0, 4.0, 30.0, 20.0], 0x848611e4d60b6431),
            ([0.0, 0.0, 18.5, 14.5], 0x4934bbad5dce1022),
        ] {
            let resampling = Resampling { part, ..Resampling::whole(all_of(&image), (16, 12)) };
            assert_eq!(digest(&resample(&image, &resampling)), expected, "{part:?}");
        }
    }

    #[test]
    fn an_image_of_the_right_size_comes_out_unchanged() {
        let image = formula(13, 9);
        assert_eq!(resample(&image, &Resampling::whole(all_of(&image), (13, 9))), *image.as_raw());
    }

    proptest! {
        /// The filter ends at the rectangle: a crop within an image is resized like the cut-out.
        #[test]
        fn a_crop_is_resized_like_its_cut_out(
            left in 0u32..9, top in 0u32..9, width in 1u32..20, height in 1u32..15, new in (1u64..30, 1u64..30),
        ) {
            let image = formula(30, 24);
            let cut = image::imageops::crop_imm(&image, left, top, width, height).to_image();
            let within = PixelRect { left: left.into(), top: top.into(), width: width.into(), height: height.into() };
            prop_assert_eq!(
                resample(&image, &Resampling::whole(within, new)),
                resample(&cut, &Resampling::whole(all_of(&cut), new))
            );
        }

        /// Rows that come a stripe at a time give what they give all at once.
        #[test]
        fn stripes_make_the_picture(top in 0u64..40, height in 1u64..60, new in (1u64..30, 1u64..30)) {
            let image = formula(20, (top + height) as u32 + 3);
            let within = PixelRect { left: 2, top, width: 15, height };
            let resampling = Resampling::whole(within, new);
            let mut resizer = Resizer::new(image.dimensions(), &resampling);
            for (stripe, rows) in image.as_raw().chunks(STRIPE * 20 * CHANNELS).enumerate() {
                resizer.take(stripe * STRIPE, rows);
            }
            prop_assert_eq!(resizer.finish(), resample(&image, &resampling));
        }

        /// A window is a part of the whole picture.
        #[test]
        fn a_window_is_a_part_of_the_whole(
            size in (1u32..30, 1u32..30), scaled in (4u64..40, 4u64..40), corner in (0u64..3, 0u64..3),
        ) {
            let image = formula(size.0, size.1);
            let whole = Resampling::whole(all_of(&image), scaled);
            let window = PixelRect { left: corner.0, top: corner.1, width: scaled.0 - 3, height: scaled.1 - 3 };
            let part = resample(&image, &Resampling { window, ..whole });
            let picture = RgbImage::from_raw(scaled.0 as u32, scaled.1 as u32, resample(&image, &whole)).unwrap();
            let cut = image::imageops::crop_imm(
                &picture, corner.0 as u32, corner.1 as u32, window.width as u32, window.height as u32,
            );
            prop_assert_eq!(part, cut.to_image().into_raw());
        }
    }
}
