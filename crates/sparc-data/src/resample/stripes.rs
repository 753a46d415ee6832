//! The first pass of resizing: rows from longer or shorter ones, sixteen at a time.
//!
//! A register holds a column of a stripe of sixteen rows, so that each of its lanes adds up a sum of its own. For that
//! a stripe is turned on its side before, and back after.

use super::pair_weights::PairWeights;
use super::{CHANNELS, HALF, Weights, to_byte};

/// Rows that are resized together.
pub(super) const STRIPE: usize = 16;
/// Old pixels that are turned together.
const TURNED: usize = 8;

/// One column of bytes, and two of one channel side by side.
type Column = [u8; STRIPE];
type ColumnPair = [[u8; 2]; STRIPE];

/// Resizes rows of one picture.
pub(super) struct Stripes {
    /// Bytes of a row of the picture.
    stride: usize,
    /// First byte of a row that is looked at.
    left: usize,
    /// For each new pixel its first pair of old pixels and where its weights begin; one entry more than pixels.
    starts: Vec<(usize, usize)>,
    weights: Vec<PairWeights>,
    // Of the stripe at hand.
    old: Vec<[ColumnPair; CHANNELS]>,
    new: Vec<[Column; CHANNELS]>,
}

impl Stripes {
    /// For a picture whose rows have `stride` bytes; the weights count pixels from the byte `left` of a row.
    pub(super) fn new(weights: &Weights, stride: usize, left: usize) -> Stripes {
        let (n_pixels, first) = (weights.starts.len() - 1, weights.first());
        let (mut starts, mut pairs) = (Vec::with_capacity(n_pixels + 1), Vec::new());
        for index in 0..n_pixels {
            let (start, of_pixel) = weights.of(index);
            // The pixel before the first weighs nothing, if a pair begins with it.
            let before = (start - first) % 2;
            let at = |place: usize| place.checked_sub(before).and_then(|i| of_pixel.get(i)).copied().unwrap_or(0);
            starts.push(((start - first) / 2, pairs.len()));
            let n_pairs = (before + of_pixel.len()).div_ceil(2);
            pairs.extend((0..n_pairs).map(|pair| PairWeights::new([at(2 * pair), at(2 * pair + 1)])));
        }
        starts.push((0, pairs.len()));
        let n_old = (weights.end() - first).next_multiple_of(TURNED);
        Stripes {
            stride,
            left: left + first * CHANNELS,
            starts,
            weights: pairs,
            old: vec![[[[0; 2]; STRIPE]; CHANNELS]; n_old / 2],
            // Turned back in squares.
            new: vec![[[0; STRIPE]; CHANNELS]; n_pixels.next_multiple_of(STRIPE)],
        }
    }

    /// From `n_rows` whole rows of the picture, `STRIPE` at most, to as many new ones. `rows` may go on after them.
    pub(super) fn resize(&mut self, rows: &[u8], n_rows: usize, into: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(avx2::Resize { simd, stripes: self, rows, n_rows, into });
        }
        self.resize_plainly(rows, n_rows, into);
    }

    fn resize_plainly(&mut self, rows: &[u8], n_rows: usize, into: &mut [u8]) {
        let Stripes { stride, left, starts, weights, old, new } = self;
        for (y, row) in rows.chunks(*stride).enumerate().take(n_rows) {
            // Beyond the row's end there is nothing, and it weighs nothing.
            for (pair, pixels) in old.iter_mut().zip(row[*left..].chunks(2 * CHANNELS)) {
                for (at, &byte) in pixels.iter().enumerate() {
                    pair[at % CHANNELS][y][at / CHANNELS] = byte;
                }
            }
        }
        for (ends, pixel) in starts.windows(2).zip(&mut *new) {
            let [(start, from), (_, to)] = [ends[0], ends[1]];
            let mut sums = [[HALF; STRIPE]; CHANNELS];
            for (pair, weights) in old[start..].iter().zip(&weights[from..to]) {
                let [first, second] = weights.whole();
                for (sums, column) in sums.iter_mut().zip(pair) {
                    for (sum, &bytes) in sums.iter_mut().zip(column) {
                        *sum += i32::from(bytes[0]) * first + i32::from(bytes[1]) * second;
                    }
                }
            }
            *pixel = sums.map(|sums| sums.map(to_byte));
        }
        let line = (starts.len() - 1) * CHANNELS;
        for (y, row) in into.chunks_exact_mut(line).enumerate().take(n_rows) {
            for (byte, column) in row.iter_mut().zip(new.as_flattened()) {
                *byte = column[y];
            }
        }
    }
}

/// The same with AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::x86::V3;

    use super::super::pair_weights::avx2::Sums;
    use super::{CHANNELS, STRIPE, Stripes, TURNED};

    /// As many of the pixels that are turned together as fit into a register.
    const HALF_TURNED: usize = TURNED / 2;
    /// Bytes of a row that are looked at together: two registers, of which the first's last four are the second's first.
    const WINDOW: usize = HALF_TURNED * CHANNELS + 16;

    const NOTHING: &[u8; WINDOW] = &[0; WINDOW];

    /// The body of [`Stripes::resize`]. Loops and not closures over arrays: what is not inlined is compiled for the oldest
    /// processor.
    pub(super) struct Resize<'a> {
        pub(super) simd: V3,
        pub(super) stripes: &'a mut Stripes,
        pub(super) rows: &'a [u8],
        pub(super) n_rows: usize,
        pub(super) into: &'a mut [u8],
    }

    impl pulp::NullaryFnOnce for Resize<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Resize { simd, stripes, rows, n_rows, into } = self;
            turn(simd, stripes, &rows[stripes.left..], n_rows);
            weigh(simd, stripes);
            turn_back(simd, stripes, n_rows, into);
        }
    }

    /// Rows to pairs of columns.
    #[inline(always)]
    fn turn(simd: V3, stripes: &mut Stripes, rows: &[u8], n_rows: usize) {
        let V3 { avx, avx2, .. } = simd;
        // Of four pixels: red, green and blue of the first two, then of the others.
        const NONE: u8 = 128;
        let order = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, NONE, NONE, NONE, NONE];
        let order: __m256i = pulp::cast([order; 2]);
        let mut behind_the_end = [[0; WINDOW]; STRIPE];
        for (index, pairs) in stripes.old.chunks_exact_mut(TURNED / 2).enumerate() {
            let at = index * TURNED * CHANNELS;
            let mut windows = [NOTHING; STRIPE];
            for (y, (window, own)) in windows.iter_mut().zip(&mut behind_the_end).enumerate() {
                // Rows that are not there are the last one, and are not looked at.
                let start = y.min(n_rows - 1) * stripes.stride + at;
                *window = match rows.get(start..start + WINDOW) {
                    Some(window) => window.first_chunk().expect("as long as a window"),
                    None => {
                        let rest = rows.get(start..).unwrap_or_default();
                        own[..rest.len()].copy_from_slice(rest);
                        own
                    }
                };
            }
            for (half, pairs) in pairs.chunks_exact_mut(HALF_TURNED / 2).enumerate() {
                let at = half * HALF_TURNED * CHANNELS;
                // Rows 0 to 7 below, rows 8 to 15 above; in each six words of two bytes.
                let mut words: [__m256i; STRIPE / 2] = [order; STRIPE / 2];
                for (y, words) in words.iter_mut().enumerate() {
                    let low: __m128i = pulp::cast(*windows[y][at..].first_chunk::<16>().expect("half a window"));
                    let high: __m128i =
                        pulp::cast(*windows[y + STRIPE / 2][at..].first_chunk::<16>().expect("half a window"));
                    let both = avx2._mm256_inserti128_si256::<1>(avx._mm256_castsi128_si256(low), high);
                    *words = avx2._mm256_shuffle_epi8(both, order);
                }
                // Words of two rows, then of four, then of eight.
                let [a, b, c, d, e, f, g, h] = words;
                let (ab, cd) = (avx2._mm256_unpacklo_epi16(a, b), avx2._mm256_unpacklo_epi16(c, d));
                let (ef, gh) = (avx2._mm256_unpacklo_epi16(e, f), avx2._mm256_unpacklo_epi16(g, h));
                let (first, second) = (avx2._mm256_unpacklo_epi32(ab, cd), avx2._mm256_unpacklo_epi32(ef, gh));
                pairs[0][0] = pulp::cast(avx2._mm256_unpacklo_epi64(first, second));
                pairs[0][1] = pulp::cast(avx2._mm256_unpackhi_epi64(first, second));
                let (first, second) = (avx2._mm256_unpackhi_epi32(ab, cd), avx2._mm256_unpackhi_epi32(ef, gh));
                pairs[0][2] = pulp::cast(avx2._mm256_unpacklo_epi64(first, second));
                pairs[1][0] = pulp::cast(avx2._mm256_unpackhi_epi64(first, second));
                let (ab, cd) = (avx2._mm256_unpackhi_epi16(a, b), avx2._mm256_unpackhi_epi16(c, d));
                let (ef, gh) = (avx2._mm256_unpackhi_epi16(e, f), avx2._mm256_unpackhi_epi16(g, h));
                let (first, second) = (avx2._mm256_unpacklo_epi32(ab, cd), avx2._mm256_unpacklo_epi32(ef, gh));
                pairs[1][1] = pulp::cast(avx2._mm256_unpacklo_epi64(first, second));
                pairs[1][2] = pulp::cast(avx2._mm256_unpackhi_epi64(first, second));
            }
        }
    }

    /// New columns from pairs of old ones.
    #[inline(always)]
    fn weigh(simd: V3, stripes: &mut Stripes) {
        let avx2 = simd.avx2;
        for (ends, pixel) in stripes.starts.windows(2).zip(&mut stripes.new) {
            let [(start, from), (_, to)] = [ends[0], ends[1]];
            let weights = &stripes.weights[from..to];
            let mut sums = [Sums::new(simd); CHANNELS];
            for (pairs, weights) in stripes.old[start..][..weights.len()].iter().zip(weights) {
                for (sums, &pair) in sums.iter_mut().zip(pairs) {
                    sums.add(simd, pulp::cast(pair), weights);
                }
            }
            let [red, green, blue] = sums;
            let (red, green, blue) = (red.words(simd), green.words(simd), blue.words(simd));
            let sort = |bytes| avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
            let [red, green]: [[u8; STRIPE]; 2] = pulp::cast(sort(avx2._mm256_packus_epi16(red, green)));
            let [blue, _]: [[u8; STRIPE]; 2] = pulp::cast(sort(avx2._mm256_packus_epi16(blue, blue)));
            *pixel = [red, green, blue];
        }
    }

    /// New columns to rows.
    #[inline(always)]
    fn turn_back(simd: V3, stripes: &Stripes, n_rows: usize, into: &mut [u8]) {
        let sse2 = simd.sse2;
        let line = (stripes.starts.len() - 1) * CHANNELS;
        let squares = stripes.new.as_flattened().chunks_exact(STRIPE);
        for (start, columns) in (0..line).step_by(STRIPE).zip(squares) {
            let mut square: [__m128i; STRIPE] = [pulp::cast([0u8; 16]); STRIPE];
            for (lanes, column) in square.iter_mut().zip(columns) {
                *lanes = pulp::cast(*column);
            }
            // Shuffled perfectly as often as 16 can be halved, bytes have changed places with registers.
            for _ in 0..STRIPE.ilog2() {
                let before = square;
                for i in 0..STRIPE / 2 {
                    let (first, second) = (before[i], before[i + STRIPE / 2]);
                    square[2 * i] = sse2._mm_unpacklo_epi8(first, second);
                    square[2 * i + 1] = sse2._mm_unpackhi_epi8(first, second);
                }
            }
            for (row, lanes) in into.chunks_exact_mut(line).zip(square).take(n_rows) {
                let bytes: [u8; STRIPE] = pulp::cast(lanes);
                match row[start..].first_chunk_mut::<STRIPE>() {
                    Some(whole) => *whole = bytes,
                    None => row[start..].copy_from_slice(&bytes[..line - start]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wide instructions, where there are any, and plain ones, with or without rows behind those that are resized.
        #[test]
        fn rows_are_the_same_either_way(
            old in 1u64..90, new in 1u64..90, cut in (0.0f32..0.4, 0.6f32..1.0),
            n_rows in 1usize..=STRIPE, beside in (0usize..9, 0usize..9), behind in 0usize..70, seed in 0u8..250,
        ) {
            let part = (cut.0 * old as f32, cut.1 * old as f32);
            let weights = Weights::new(old, part, new, 0..new);
            let stride = (beside.0 + old as usize + beside.1) * CHANNELS;
            let rows: Vec<u8> =
                (0..n_rows * stride + behind).map(|i| (i as u8).wrapping_mul(197).wrapping_add(seed)).collect();
            let mut stripes = Stripes::new(&weights, stride, beside.0 * CHANNELS);
            let mut wide = vec![0; n_rows * new as usize * CHANNELS];
            let mut plain = wide.clone();
            stripes.resize(&rows, n_rows, &mut wide);
            stripes.resize_plainly(&rows, n_rows, &mut plain);
            prop_assert_eq!(wide, plain);
        }
    }
}
