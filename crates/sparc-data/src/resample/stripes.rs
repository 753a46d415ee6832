//! The first pass of resizing: rows from longer or shorter ones, sixteen at a time.
//!
//! A register holds columns of a stripe of sixteen rows, so that each of its lanes adds up a sum of its own. For that
//! a stripe is turned on its side before, and back after, to groups of rows for the second pass.

use super::grouped::{Group, GroupedWeights, LANES};
use super::pairs::PairWeights;
use super::{CHANNELS, Direction, HALF, to_byte};

/// Old pixels that are turned together.
pub(super) const TURNED: usize = 4;

/// One column of bytes of a stripe.
type Column = [u8; LANES];

/// Resizes rows of one picture, `N` old pixels with one product.
pub(super) struct Stripes<W, const N: usize> {
    /// Bytes of a row of the picture.
    stride: usize,
    /// First byte of a row that is looked at.
    left: usize,
    weights: GroupedWeights<W>,
    // Of the stripe at hand.
    old: Vec<[Group<N>; CHANNELS]>,
    new: Vec<[Column; CHANNELS]>,
}

impl<W: From<[i32; N]>, const N: usize> Stripes<W, N> {
    /// For a picture whose rows have `stride` bytes; the pixels count from the byte `left` of a row.
    pub(super) fn new(columns: &Direction, stride: usize, left: usize) -> Self {
        let n_old = (columns.end() - columns.first()).next_multiple_of(TURNED);
        Stripes {
            stride,
            left: left + columns.first() * CHANNELS,
            weights: GroupedWeights::new(columns, 0),
            old: vec![[Group::BLACK; CHANNELS]; n_old / N],
            // The second pass weighs two groups side by side.
            new: vec![[[0; LANES]; CHANNELS]; columns.len().next_multiple_of(2 * LANES)],
        }
    }

    /// Groups that lie side by side in `N` new rows.
    pub(super) fn width(&self) -> usize {
        self.new.len() * CHANNELS / LANES
    }
}

impl Stripes<PairWeights, 2> {
    /// [`super::passes::Kernels::narrow`].
    pub(super) fn narrow_plainly(&mut self, rows: &[u8], n_rows: usize, into: &mut [Group<2>]) {
        let width = self.width();
        let Stripes { stride, left, weights, old, new } = self;
        for (y, row) in rows.chunks(*stride).enumerate().take(n_rows) {
            // Beyond the row's end there is nothing, and it weighs nothing.
            for (pair, pixels) in old.iter_mut().zip(row[*left..].chunks(2 * CHANNELS)) {
                for (at, &byte) in pixels.iter().enumerate() {
                    pair[at % CHANNELS].0[y][at / CHANNELS] = byte;
                }
            }
        }
        for (index, pixel) in new.iter_mut().enumerate().take(weights.len()) {
            let (start, weights) = weights.of(index);
            let mut sums = [[HALF; LANES]; CHANNELS];
            for (pair, weights) in old[start..].iter().zip(weights) {
                let [first, second] = weights.whole();
                for (sums, column) in sums.iter_mut().zip(pair) {
                    for (sum, bytes) in sums.iter_mut().zip(column.0) {
                        *sum += i32::from(bytes[0]) * first + i32::from(bytes[1]) * second;
                    }
                }
            }
            *pixel = sums.map(|sums| sums.map(to_byte));
        }
        for (two, pairs) in into.chunks_exact_mut(width).enumerate() {
            for (pair, column) in pairs.iter_mut().flat_map(|group| &mut group.0).zip(new.as_flattened()) {
                *pair = [column[2 * two], column[2 * two + 1]];
            }
        }
    }
}

/// The same with products of several bytes.
#[cfg(target_arch = "x86_64")]
pub(super) mod wide {
    use std::arch::x86_64::{__m128i, __m256i};

    use pulp::x86::V3;

    use super::super::products::Products;
    use super::{CHANNELS, Column, Group, LANES, Stripes, TURNED};

    /// Bytes of a row that are looked at together, though the last ones are not of the pixels that are turned.
    const WINDOW: usize = 16;
    /// Bytes from one window to the next.
    const HOP: usize = TURNED * CHANNELS;

    pub(in super::super) struct Narrow<'a, P: Products<N>, const N: usize> {
        pub(in super::super) products: P,
        pub(in super::super) stripes: &'a mut Stripes<P::Weights, N>,
        pub(in super::super) rows: &'a [u8],
        pub(in super::super) n_rows: usize,
        pub(in super::super) into: &'a mut [Group<N>],
    }

    impl<P: Products<N>, const N: usize> pulp::NullaryFnOnce for Narrow<'_, P, N> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Narrow { products, stripes, rows, n_rows, into } = self;
            turn(products, stripes, &rows[stripes.left..], n_rows);
            weigh(products, stripes);
            turn_back(products, stripes.new.as_flattened(), into);
        }
    }

    /// Rows to groups of columns.
    #[inline(always)]
    fn turn<P: Products<N>, const N: usize>(
        products: P,
        stripes: &mut Stripes<P::Weights, N>,
        rows: &[u8],
        n_rows: usize,
    ) {
        // Of each row as many bytes as there are from the last one's first on. Beyond a row's end they weigh nothing.
        let last = (n_rows - 1) * stripes.stride;
        let length = (rows.len() - last).min(stripes.old.len() * N * CHANNELS + WINDOW - HOP);
        let mut own: [&[u8]; LANES] = [rows; LANES];
        for (y, row) in own.iter_mut().enumerate() {
            // Rows that are not there are the last one, and are not looked at.
            *row = &rows[y.min(n_rows - 1) * stripes.stride..][..length];
        }
        let n_whole = (length + HOP).saturating_sub(WINDOW) / HOP * TURNED / N;
        let (whole, behind) = stripes.old.split_at_mut(n_whole);
        let nothing: __m128i = pulp::cast([0u8; WINDOW]);
        let mut at = 0;
        for groups in whole.chunks_exact_mut(TURNED / N) {
            let mut windows = [nothing; LANES];
            for (window, row) in windows.iter_mut().zip(own) {
                *window = pulp::cast(*row[at..].first_chunk::<WINDOW>().expect("a whole window"));
            }
            products.turn(in_order(products, windows), groups.as_flattened_mut());
            at += HOP;
        }
        for groups in behind.chunks_exact_mut(TURNED / N) {
            let mut windows = [nothing; LANES];
            for (window, row) in windows.iter_mut().zip(own) {
                let rest = row.get(at..).unwrap_or_default();
                let mut bytes = [0; WINDOW];
                bytes[..rest.len()].copy_from_slice(rest);
                *window = pulp::cast(bytes);
            }
            products.turn(in_order(products, windows), groups.as_flattened_mut());
            at += HOP;
        }
    }

    /// Rows of pixels as [`Products::turn`] wants them.
    #[inline(always)]
    fn in_order<P: Products<N>, const N: usize>(products: P, windows: [__m128i; LANES]) -> [__m256i; LANES / 2] {
        const NONE: u8 = 128;
        let mut order = [NONE; WINDOW];
        order[..HOP].copy_from_slice(&P::ORDER);
        let order: __m256i = pulp::cast([order; 2]);
        let mut registers = in_halves(products.simd(), windows);
        for register in &mut registers {
            *register = products.simd().avx2._mm256_shuffle_epi8(*register, order);
        }
        registers
    }

    /// The first eight below, the others above them.
    #[inline(always)]
    fn in_halves(simd: V3, lines: [__m128i; LANES]) -> [__m256i; LANES / 2] {
        let mut registers: [__m256i; LANES / 2] = [pulp::cast([0u8; 32]); LANES / 2];
        for (i, register) in registers.iter_mut().enumerate() {
            let below = simd.avx._mm256_castsi128_si256(lines[i]);
            *register = simd.avx2._mm256_inserti128_si256::<1>(below, lines[i + LANES / 2]);
        }
        registers
    }

    /// New columns from groups of old ones.
    #[inline(always)]
    fn weigh<P: Products<N>, const N: usize>(products: P, stripes: &mut Stripes<P::Weights, N>) {
        let avx2 = products.simd().avx2;
        let Stripes { weights, old, new, .. } = stripes;
        for (index, pixel) in new.iter_mut().enumerate().take(weights.len()) {
            let (start, weights) = weights.of(index);
            let mut sums = [products.half(); CHANNELS];
            for (groups, weights) in old[start..][..weights.len()].iter().zip(weights) {
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

    /// New columns to groups of rows.
    #[inline(always)]
    fn turn_back<P: Products<N>, const N: usize>(products: P, columns: &[Column], into: &mut [Group<N>]) {
        let width = columns.len() / LANES;
        for (at, square) in columns.chunks_exact(LANES).enumerate() {
            let mut lines: [__m128i; LANES] = [pulp::cast([0u8; 16]); LANES];
            for (line, column) in lines.iter_mut().zip(square) {
                *line = pulp::cast(*column);
            }
            let mut groups = [Group::BLACK; LANES];
            let groups = &mut groups[..LANES / N];
            products.turn(in_halves(products.simd(), lines), groups);
            for (groups, group) in into.chunks_exact_mut(width).zip(groups) {
                groups[at] = *group;
            }
        }
    }
}
