//! Antialiased bicubic resizing with the bytes of Pillow's `Image.resize(…, BICUBIC)`.
//!
//! Pillow (`src/libImaging/Resample.c`) resizes rows, then columns, with 8-bit pixels in between and
//! weights of 22 fractional bits. The filter is Keys' cubic with a = −0.5, stretched by the factor
//! when the image becomes smaller. Every Pillow up to 12.3 does so; 13.0 takes columns first where that
//! is less work, which gives other roundings, and which is not followed here.

use image::RgbImage;
use pulp::{Simd, WithSimd};

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
/// Fractional bits of a weight: 32 bits less 8 of a pixel and 2 of head room (Pillow's number).
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// RGB bytes of the window, row by row.
///
/// # Panics
///
/// A rectangle that is not inside its picture, an empty window, or a part without area.
pub fn resample(image: &RgbImage, resampling: &Resampling) -> Vec<u8> {
    let mut resizer = Resizer::new(image.dimensions(), resampling);
    resizer.take(0, image.as_raw());
    resizer.finish()
}

/// Resizes a picture whose rows come one after the other, so that it need not be held as a whole.
pub struct Resizer {
    /// Bytes of a row of the picture.
    stride: usize,
    /// First byte of a row that may be looked at, and the row that rows are counted from.
    corner: (usize, usize),
    columns: Columns,
    rows: Weights,
    /// Bytes of a resized row.
    line: usize,
    /// Resized rows, those that the second pass looks at.
    narrowed: Vec<u8>,
}

/// What becomes of a row.
enum Columns {
    /// A part of it is taken, from this byte on.
    Same(usize),
    Resized(BlockWeights),
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
        assert!(window.width > 0 && window.height > 0 && left < right && top < bottom, "nothing to do: {resampling:?}");
        let columns = Weights::new(within.width, (left, right), scaled.0, window.left..window.left + window.width);
        let rows = Weights::new(within.height, (top, bottom), scaled.1, window.top..window.top + window.height);
        let line = window.width as usize * CHANNELS;
        Resizer {
            stride: width as usize * CHANNELS,
            corner: (within.left as usize * CHANNELS, within.top as usize),
            columns: match columns.is_identity {
                true => Columns::Same(columns.first() * CHANNELS),
                false => Columns::Resized(BlockWeights::new(&columns, within.width as usize)),
            },
            line,
            narrowed: vec![0; (rows.end() - rows.first()) * line],
            rows,
        }
    }

    /// Takes whole rows of the picture, of which the first is row `y`.
    pub fn take(&mut self, y: usize, rows: &[u8]) {
        let (left, top) = self.corner;
        let needed = top + self.rows.first()..top + self.rows.end();
        let first = y.max(needed.start);
        let given = y + rows.len() / self.stride;
        for row in first..given.min(needed.end) {
            // To the end of all rows.
            let from_left = &rows[(row - y) * self.stride + left..];
            let into = &mut self.narrowed[(row - needed.start) * self.line..][..self.line];
            match &self.columns {
                Columns::Same(start) => into.copy_from_slice(&from_left[*start..start + self.line]),
                Columns::Resized(columns) => columns.resize_row(from_left, into),
            }
        }
    }

    /// RGB bytes of the window. Rows that never came are black.
    pub fn finish(self) -> Vec<u8> {
        let Resizer { rows, line, narrowed, .. } = self;
        if rows.is_identity {
            return narrowed;
        }
        let mut resized = vec![0; (rows.starts.len() - 1) * line];
        let (arch, first) = (pulp::Arch::new(), rows.first());
        for (index, into) in resized.chunks_exact_mut(line).enumerate() {
            let (start, weights) = rows.of(index);
            arch.dispatch(WeighLines { lines: &narrowed[(start - first) * line..], weights, into });
        }
        resized
    }
}

// What follows runs with the widest instructions that this processor has; the numbers are whole, so the same come out.
// `WithSimd` and not closures: those are compiled apart from their caller, for the oldest processor.

/// One line from as many lines as there are weights.
struct WeighLines<'a> {
    lines: &'a [u8],
    weights: &'a [i32],
    into: &'a mut [u8],
}

impl WithSimd for WeighLines<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        // As many sums as stay in registers.
        const LANES: usize = 32;
        let WeighLines { lines, weights, into } = self;
        let length = into.len();
        let mut parts = into.chunks_exact_mut(LANES);
        for (index, part) in (&mut parts).enumerate() {
            let mut sums = [HALF; LANES];
            for (line, &weight) in lines.chunks_exact(length).zip(weights) {
                let values: &[u8; LANES] =
                    line[index * LANES..][..LANES].try_into().expect("as many as there are lanes");
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (byte, &sum) in part.iter_mut().zip(&sums) {
                *byte = to_byte(sum);
            }
        }
        let rest = parts.into_remainder();
        let start = length - rest.len();
        for (x, byte) in (start..).zip(rest) {
            let weighed = lines.chunks_exact(length).zip(weights).map(|(line, &weight)| i32::from(line[x]) * weight);
            *byte = to_byte(HALF + weighed.sum::<i32>());
        }
    }
}

/// Old pixels that are weighed at once: their channels are one less than a power of two.
const BLOCK: usize = 5;
/// Bytes that are weighed at once. The last one belongs to the next block and weighs nothing.
const LANES: usize = BLOCK * CHANNELS + 1;

/// Weights of a row in whole blocks, each weight once for each channel. Those that fill a block up are 0.
struct BlockWeights {
    /// First byte of the row, and the blocks in `values`; one entry more than pixels.
    starts: Vec<(usize, usize)>,
    values: Vec<[i32; LANES]>,
    /// Bytes from the beginning of a row that are looked at, some of them beyond its end.
    reach: usize,
}

impl BlockWeights {
    /// For rows of `old` pixels.
    fn new(weights: &Weights, old: usize) -> BlockWeights {
        let n_pixels = weights.starts.len() - 1;
        let (mut starts, mut values) = (Vec::with_capacity(n_pixels + 1), Vec::new());
        let mut reach = 0;
        for index in 0..n_pixels {
            let (start, of_pixel) = weights.of(index);
            let n_blocks = of_pixel.len().div_ceil(BLOCK);
            // A block that would end beyond the row begins earlier, if the row is long enough.
            let first = start.min(old.saturating_sub(n_blocks * BLOCK));
            starts.push((first * CHANNELS, values.len()));
            reach = reach.max((first + n_blocks * BLOCK) * CHANNELS + 1);
            let at = |place: usize| (first + place).checked_sub(start).and_then(|i| of_pixel.get(i)).copied();
            values.extend((0..n_blocks).map(|block| {
                let of_lane = |lane| at(block * BLOCK + lane / CHANNELS).filter(|_| lane < LANES - 1).unwrap_or(0);
                std::array::from_fn(of_lane)
            }));
        }
        starts.push((0, values.len()));
        BlockWeights { starts, values, reach }
    }

    /// `row` goes on with whatever follows it in the picture.
    fn resize_row(&self, row: &[u8], into: &mut [u8]) {
        if row.len() >= self.reach {
            WeighBlocks { columns: self, row, into }.run();
        } else {
            // Nothing follows the last row.
            let mut longer = row.to_vec();
            longer.resize(self.reach, 0);
            WeighBlocks { columns: self, row: &longer, into }.run();
        }
    }
}

/// A row from a longer or shorter one.
struct WeighBlocks<'a> {
    columns: &'a BlockWeights,
    row: &'a [u8],
    into: &'a mut [u8],
}

impl WeighBlocks<'_> {
    fn run(self) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(WeighBlocksV3 { simd, work: self });
        }
        self.run_plainly();
    }

    fn run_plainly(self) {
        self.with(|blocks, weights| {
            let mut sums = [0; LANES];
            for (block, weights) in blocks.windows(LANES).step_by(LANES - 1).zip(weights) {
                for ((sum, &value), &weight) in sums.iter_mut().zip(block).zip(weights) {
                    *sum += i32::from(value) * weight;
                }
            }
            std::array::from_fn(|channel| {
                to_byte(HALF + sums[channel..LANES - 1].iter().step_by(CHANNELS).sum::<i32>())
            })
        });
    }

    /// Each pixel from its blocks and their weights.
    #[inline(always)]
    fn with(self, weigh: impl Fn(&[u8], &[[i32; LANES]]) -> [u8; CHANNELS]) {
        let WeighBlocks { columns: BlockWeights { starts, values, .. }, row, into } = self;
        for (pair, pixel) in starts.windows(2).zip(into.chunks_exact_mut(CHANNELS)) {
            let [(start, from), (_, to)] = [pair[0], pair[1]];
            pixel.copy_from_slice(&weigh(&row[start..], &values[from..to]));
        }
    }
}

/// The same with AVX2: left alone, the compiler takes the sums apart, lane by lane.
#[cfg(target_arch = "x86_64")]
struct WeighBlocksV3<'a> {
    simd: pulp::x86::V3,
    work: WeighBlocks<'a>,
}

#[cfg(target_arch = "x86_64")]
impl pulp::NullaryFnOnce for WeighBlocksV3<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        use std::arch::x86_64::{__m128i, __m256i};

        let pulp::x86::V3 { sse2, sse4_1, avx, avx2, .. } = self.simd;
        let add = |a, b| avx2._mm256_add_epi32(a, b);
        let pick = |lanes, of: [i32; 8]| avx2._mm256_permutevar8x32_epi32(lanes, pulp::cast(of));
        self.work.with(
            #[inline(always)]
            |blocks, weights| {
                let [mut low, mut high]: [__m256i; 2] = pulp::cast([0i32; LANES]);
                for (index, weights) in weights.iter().enumerate() {
                    let block: &[u8; LANES] =
                        blocks[index * (LANES - 1)..][..LANES].try_into().expect("as many as there are lanes");
                    let block: __m128i = pulp::cast(*block);
                    let [low_weights, high_weights]: [__m256i; 2] = pulp::cast(*weights);
                    let (low_bytes, high_bytes) =
                        (avx2._mm256_cvtepu8_epi32(block), avx2._mm256_cvtepu8_epi32(sse2._mm_srli_si128::<8>(block)));
                    low = add(low, avx2._mm256_mullo_epi32(low_bytes, low_weights));
                    high = add(high, avx2._mm256_mullo_epi32(high_bytes, high_weights));
                }
                // Lanes 0 to 14 hold red, green, blue, red, …; lane 15 is 0. Lanes 9 to 14 come upon 0 to 5, then 3 to 5
                // upon 0 to 2, and 6 to 8 too.
                let six = add(low, pick(high, [1, 2, 3, 4, 5, 6, 7, 7]));
                let rest = avx2._mm256_blend_epi32::<0b100>(pick(six, [6, 7, 7, 7, 7, 7, 7, 7]), pick(high, [0; 8]));
                let three = add(add(six, pick(six, [3, 4, 5, 5, 5, 5, 5, 5])), add(rest, avx._mm256_set1_epi32(HALF)));
                let three = sse2._mm_srai_epi32::<{ PRECISION_BITS as i32 }>(avx._mm256_castsi256_si128(three));
                let words = sse4_1._mm_packus_epi32(three, three);
                let [red, green, blue, ..]: [u8; 16] = pulp::cast(sse2._mm_packus_epi16(words, words));
                [red, green, blue]
            },
        );
    }
}

#[inline(always)]
fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// For each new pixel along one direction: which old ones it is made of, and their weights.
struct Weights {
    /// First old pixel, and where the weights begin in `values`; one entry more than pixels.
    starts: Vec<(usize, usize)>,
    values: Vec<i32>,
    /// Every new pixel is an old one.
    is_identity: bool,
}

impl Weights {
    /// Spreads `low..high` of `old` pixels over `new` pixels, for those in `wanted`. The arithmetic is
    /// `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow, in its order and precision.
    fn new(old: u64, (low, high): (f32, f32), new: u64, wanted: std::ops::Range<u64>) -> Weights {
        let scale = f64::from(high - low) / new as f64;
        let filter_scale = scale.max(1.0);
        let support = 2.0 * filter_scale;
        let inverse = 1.0 / filter_scale;
        let (mut starts, mut values, mut of_pixel) = (Vec::new(), Vec::new(), Vec::new());
        for x in wanted {
            let center = f64::from(low) + (x as f64 + 0.5) * scale;
            let start = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(old as i64);
            of_pixel.clear();
            of_pixel.extend((start..end).map(|old| cubic((old as f64 - center + 0.5) * inverse)));
            // Added up in Pillow's order: the last bit of a sum depends on it.
            let total: f64 = of_pixel.iter().fold(0.0, |sum, weight| sum + weight);
            starts.push((start as usize, values.len()));
            values.extend(of_pixel.iter().map(|weight| {
                let weight = if total == 0.0 { *weight } else { weight / total };
                let fixed = weight * f64::from(1 << PRECISION_BITS);
                (if weight < 0.0 { fixed - 0.5 } else { fixed + 0.5 }) as i32
            }));
        }
        starts.push((0, values.len()));
        Weights { starts, values, is_identity: low == 0.0 && f64::from(high) == old as f64 && old == new }
    }

    fn of(&self, index: usize) -> (usize, &[i32]) {
        let (start, from) = self.starts[index];
        (start, &self.values[from..self.starts[index + 1].1])
    }

    /// The first old pixel that is looked at. Identity looks at one each, not at its weightless
    /// neighbours.
    fn first(&self) -> usize {
        if self.is_identity { self.at(0) } else { self.starts[0].0 }
    }

    /// One past the last old pixel that is looked at.
    fn end(&self) -> usize {
        let last = self.starts.len() - 2;
        if self.is_identity {
            return self.at(last) + 1;
        }
        let (start, weights) = self.of(last);
        start + weights.len()
    }

    /// The one old pixel of an identity.
    fn at(&self, index: usize) -> usize {
        let (start, weights) = self.of(index);
        start + weights.iter().position(|&weight| weight != 0).unwrap_or(0)
    }
}

/// Keys' cubic convolution kernel with a = −0.5 (Keys 1981), as Pillow writes it.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
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
    fn an_image_of_the_right_size_is_not_touched() {
        let image = formula(13, 9);
        assert_eq!(resample(&image, &Resampling::whole(all_of(&image), (13, 9))), *image.as_raw());
    }

    proptest! {
        /// Wide instructions, where there are any, and plain ones, with or without bytes behind the row.
        #[test]
        fn rows_are_the_same_either_way(
            old in 1u64..90, new in 1u64..90, cut in (0.0f32..0.4, 0.6f32..1.0), behind in 0usize..20, seed in 0u8..250,
        ) {
            let part = (cut.0 * old as f32, cut.1 * old as f32);
            let weights = BlockWeights::new(&Weights::new(old, part, new, 0..new), old as usize);
            let bytes = (old as usize * CHANNELS + behind).max(weights.reach);
            let row: Vec<u8> = (0..bytes).map(|i| (i as u8).wrapping_mul(197).wrapping_add(seed)).collect();
            let (mut wide, mut plain) = (vec![0; new as usize * CHANNELS], vec![0; new as usize * CHANNELS]);
            weights.resize_row(&row[..old as usize * CHANNELS + behind.min(bytes - old as usize * CHANNELS)], &mut wide);
            WeighBlocks { columns: &weights, row: &row, into: &mut plain }.run_plainly();
            prop_assert_eq!(wide, plain);
        }

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
