//! The first pass of resizing: rows from longer or shorter ones, sixteen at a time.
//!
//! A register holds columns of a stripe of sixteen rows, so that each of its lanes adds up a sum of its own. For that
//! a stripe is turned on its side before, and back after.

use super::pairs::PairWeights;
#[cfg(target_arch = "x86_64")]
use super::quads::QuadWeights;
use super::{CHANNELS, HALF, Weights, to_byte};

/// Rows that are resized together.
pub(super) const STRIPE: usize = 16;
/// Old pixels that are turned together.
pub(super) const TURNED: usize = 4;

/// One column of bytes.
type Column = [u8; STRIPE];

/// `N` columns of one channel side by side. Registers that are loaded from it never lie across two lines of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Group<const N: usize>(pub(super) [[u8; N]; STRIPE]);

/// Resizes rows of one picture with as many products at a time as the processor has.
pub(super) enum Stripes {
    Pairs(Grouped<PairWeights, 2>),
    #[cfg(target_arch = "x86_64")]
    Quads(sparc_torch::Vnni, Grouped<QuadWeights, 4>),
}

impl Stripes {
    /// For a picture whose rows have `stride` bytes; the weights count pixels from the byte `left` of a row.
    pub(super) fn new(weights: &Weights, stride: usize, left: usize) -> Stripes {
        #[cfg(target_arch = "x86_64")]
        if let Some(products) = sparc_torch::Vnni::try_new() {
            return Stripes::Quads(products, Grouped::new(weights, stride, left));
        }
        Stripes::Pairs(Grouped::new(weights, stride, left))
    }

    /// From `n_rows` whole rows of the picture, `STRIPE` at most, to as many new ones. `rows` may go on after them.
    pub(super) fn resize(&mut self, rows: &[u8], n_rows: usize, into: &mut [u8]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Stripes::Quads(products, stripes) => wide::resize(*products, stripes, rows, n_rows, into),
            Stripes::Pairs(stripes) => stripes.resize(rows, n_rows, into),
        }
    }
}

/// Resizes rows, `N` old pixels with one product.
pub(super) struct Grouped<W, const N: usize> {
    /// Bytes of a row of the picture.
    stride: usize,
    /// First byte of a row that is looked at.
    left: usize,
    /// For each new pixel its first group of old pixels and where its weights begin; one entry more than pixels.
    starts: Vec<(usize, usize)>,
    weights: Vec<W>,
    // Of the stripe at hand.
    old: Vec<[Group<N>; CHANNELS]>,
    new: Vec<[Column; CHANNELS]>,
}

impl<W: From<[i32; N]>, const N: usize> Grouped<W, N> {
    fn new(weights: &Weights, stride: usize, left: usize) -> Self {
        let (n_pixels, first) = (weights.starts.len() - 1, weights.first());
        let (mut starts, mut groups) = (Vec::with_capacity(n_pixels + 1), Vec::new());
        for index in 0..n_pixels {
            let (start, of_pixel) = weights.of(index);
            // Pixels before the first weigh nothing, if a group begins with them.
            let before = (start - first) % N;
            let at = |place: usize| place.checked_sub(before).and_then(|i| of_pixel.get(i)).copied().unwrap_or(0);
            starts.push(((start - first) / N, groups.len()));
            let n_groups = (before + of_pixel.len()).div_ceil(N);
            groups.extend((0..n_groups).map(|group| W::from(std::array::from_fn(|i| at(N * group + i)))));
        }
        starts.push((0, groups.len()));
        let n_old = (weights.end() - first).next_multiple_of(TURNED);
        Grouped {
            stride,
            left: left + first * CHANNELS,
            starts,
            weights: groups,
            old: vec![[Group([[0; N]; STRIPE]); CHANNELS]; n_old / N],
            // Turned back in squares.
            new: vec![[[0; STRIPE]; CHANNELS]; n_pixels.next_multiple_of(STRIPE)],
        }
    }
}

impl Grouped<PairWeights, 2> {
    fn resize(&mut self, rows: &[u8], n_rows: usize, into: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(products) = pulp::x86::V3::try_new() {
            return wide::resize(products, self, rows, n_rows, into);
        }
        self.resize_plainly(rows, n_rows, into);
    }

    fn resize_plainly(&mut self, rows: &[u8], n_rows: usize, into: &mut [u8]) {
        let Grouped { stride, left, starts, weights, old, new } = self;
        for (y, row) in rows.chunks(*stride).enumerate().take(n_rows) {
            // Beyond the row's end there is nothing, and it weighs nothing.
            for (pair, pixels) in old.iter_mut().zip(row[*left..].chunks(2 * CHANNELS)) {
                for (at, &byte) in pixels.iter().enumerate() {
                    pair[at % CHANNELS].0[y][at / CHANNELS] = byte;
                }
            }
        }
        for (ends, pixel) in starts.windows(2).zip(&mut *new) {
            let [(start, from), (_, to)] = [ends[0], ends[1]];
            let mut sums = [[HALF; STRIPE]; CHANNELS];
            for (pair, weights) in old[start..].iter().zip(&weights[from..to]) {
                let [first, second] = weights.whole();
                for (sums, column) in sums.iter_mut().zip(pair) {
                    for (sum, bytes) in sums.iter_mut().zip(column.0) {
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

/// The same with products of several bytes.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::x86::V3;

    use super::super::products::Products;
    use super::{CHANNELS, Column, Grouped, STRIPE, TURNED};

    /// Bytes of a row that are looked at together, though the last ones are not of the pixels that are turned.
    const WINDOW: usize = 16;
    /// Bytes from one window to the next.
    const HOP: usize = TURNED * CHANNELS;

    /// [`super::Stripes::resize`].
    pub(super) fn resize<P: Products<N>, const N: usize>(
        products: P,
        stripes: &mut Grouped<P::Weights, N>,
        rows: &[u8],
        n_rows: usize,
        into: &mut [u8],
    ) {
        products.vectorize(Resize { products, stripes, rows, n_rows, into });
    }

    struct Resize<'a, P: Products<N>, const N: usize> {
        products: P,
        stripes: &'a mut Grouped<P::Weights, N>,
        rows: &'a [u8],
        n_rows: usize,
        into: &'a mut [u8],
    }

    impl<P: Products<N>, const N: usize> pulp::NullaryFnOnce for Resize<'_, P, N> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Resize { products, stripes, rows, n_rows, into } = self;
            turn(products, stripes, &rows[stripes.left..], n_rows);
            weigh(products, stripes);
            let line = (stripes.starts.len() - 1) * CHANNELS;
            turn_back(products.simd(), stripes.new.as_flattened(), &mut into[..n_rows * line], line);
        }
    }

    /// Rows to groups of columns.
    #[inline(always)]
    fn turn<P: Products<N>, const N: usize>(
        products: P,
        stripes: &mut Grouped<P::Weights, N>,
        rows: &[u8],
        n_rows: usize,
    ) {
        // Of each row as many bytes as there are from the last one's first on. Beyond a row's end they weigh nothing.
        let last = (n_rows - 1) * stripes.stride;
        let length = (rows.len() - last).min(stripes.old.len() * N * CHANNELS + WINDOW - HOP);
        let mut own: [&[u8]; STRIPE] = [rows; STRIPE];
        for (y, row) in own.iter_mut().enumerate() {
            // Rows that are not there are the last one, and are not looked at.
            *row = &rows[y.min(n_rows - 1) * stripes.stride..][..length];
        }
        let n_whole = (length + HOP).saturating_sub(WINDOW) / HOP * TURNED / N;
        let (whole, behind) = stripes.old.split_at_mut(n_whole);
        let nothing: __m128i = pulp::cast([0u8; WINDOW]);
        let mut at = 0;
        for groups in whole.chunks_exact_mut(TURNED / N) {
            let mut windows = [nothing; STRIPE];
            for (window, row) in windows.iter_mut().zip(own) {
                *window = pulp::cast(*row[at..].first_chunk::<WINDOW>().expect("a whole window"));
            }
            products.turn(in_order(products, windows), groups);
            at += HOP;
        }
        for groups in behind.chunks_exact_mut(TURNED / N) {
            let mut windows = [nothing; STRIPE];
            for (window, row) in windows.iter_mut().zip(own) {
                let rest = row.get(at..).unwrap_or_default();
                let mut bytes = [0; WINDOW];
                bytes[..rest.len()].copy_from_slice(rest);
                *window = pulp::cast(bytes);
            }
            products.turn(in_order(products, windows), groups);
            at += HOP;
        }
    }

    /// Rows of pixels as [`Products::turn`] wants them.
    #[inline(always)]
    fn in_order<P: Products<N>, const N: usize>(products: P, windows: [__m128i; STRIPE]) -> [__m256i; STRIPE / 2] {
        let V3 { avx, avx2, .. } = products.simd();
        const NONE: u8 = 128;
        let mut order = [NONE; WINDOW];
        order[..HOP].copy_from_slice(&P::ORDER);
        let order: __m256i = pulp::cast([order; 2]);
        let mut words = [order; STRIPE / 2];
        for (y, words) in words.iter_mut().enumerate() {
            let both = avx._mm256_castsi128_si256(windows[y]);
            let both = avx2._mm256_inserti128_si256::<1>(both, windows[y + STRIPE / 2]);
            *words = avx2._mm256_shuffle_epi8(both, order);
        }
        words
    }

    /// New columns from groups of old ones.
    #[inline(always)]
    fn weigh<P: Products<N>, const N: usize>(products: P, stripes: &mut Grouped<P::Weights, N>) {
        let avx2 = products.simd().avx2;
        for (ends, pixel) in stripes.starts.windows(2).zip(&mut stripes.new) {
            let [(start, from), (_, to)] = [ends[0], ends[1]];
            let weights = &stripes.weights[from..to];
            let mut sums = [products.half(); CHANNELS];
            for (groups, weights) in stripes.old[start..][..weights.len()].iter().zip(weights) {
                let weights = products.spread(weights);
                for (sums, group) in sums.iter_mut().zip(groups) {
                    products.add(sums, products.load(group), &weights);
                }
            }
            let [red, green, blue] = sums;
            let (red, green, blue) = (products.words(red), products.words(green), products.words(blue));
            let sort = |bytes| avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
            let [red, green]: [Column; 2] = pulp::cast(sort(avx2._mm256_packus_epi16(red, green)));
            let [blue, _]: [Column; 2] = pulp::cast(sort(avx2._mm256_packus_epi16(blue, blue)));
            *pixel = [red, green, blue];
        }
    }

    /// New columns to rows of `line` bytes.
    #[inline(always)]
    fn turn_back(simd: V3, columns: &[Column], into: &mut [u8], line: usize) {
        let sse2 = simd.sse2;
        for (start, columns) in (0..line).step_by(STRIPE).zip(columns.chunks_exact(STRIPE)) {
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
            for (row, lanes) in into.chunks_exact_mut(line).zip(square) {
                let bytes: Column = pulp::cast(lanes);
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
            let mut plain = vec![0; n_rows * new as usize * CHANNELS];
            let left = beside.0 * CHANNELS;
            let pairs = || Grouped::<PairWeights, 2>::new(&weights, stride, left);
            pairs().resize_plainly(&rows, n_rows, &mut plain);
            for mut stripes in [Stripes::Pairs(pairs()), Stripes::new(&weights, stride, left)] {
                // Once with other bytes: of an earlier stripe nothing may be left.
                let others: Vec<u8> = rows.iter().map(|byte| !byte).collect();
                let mut wide = vec![0; plain.len()];
                stripes.resize(&others, n_rows, &mut wide);
                stripes.resize(&rows, n_rows, &mut wide);
                prop_assert_eq!(&wide, &plain);
            }
        }
    }
}
