//! How bytes are multiplied by weights of 22 fractional bits, and the products added up, on an x86 processor.
//!
//! Nothing does that at full speed. So a weight is cut into parts, whose sums are put together at the end: they may wrap
//! around, for together they are right modulo 2³², and the whole sum, which Pillow holds in 32 bits as well, is
//! within.

use std::arch::x86_64::__m256i;
use std::ops::Range;

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::CHANNELS;
use super::grouped::{Group, GroupedWeights, LANES};
use super::lines::wide::Weigh;
use super::passes::{Kernels, Narrowed};
use super::stripes::wide::Narrow;
use super::stripes::{Stripes, TURNED};

/// Products of `N` bytes at a time. What looks at registers is inlined into what [`Products::vectorize`] runs: loops and
/// not closures over arrays, for what is not inlined is compiled for the oldest processor.
pub(super) trait Products<const N: usize>: Copy {
    /// Of `N` old pixels, cut.
    type Weights: From<[i32; N]> + Copy;
    /// The same all over registers.
    type Spread: Copy;
    /// `N` bytes for each of sixteen sums.
    type Bytes: Copy;
    /// Sixteen sums.
    type Sums: Copy;

    /// Which of the bytes of [`TURNED`] pixels come first: those of one channel side by side, `N` at a time.
    const ORDER: [u8; TURNED * CHANNELS];

    /// AVX2 and what is older.
    fn simd(self) -> V3;

    /// Runs `f`, compiled for the instructions.
    fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output;

    /// Turns sixteen lines of sixteen bytes on their side: the first group has the first `N` bytes of each, and so on
    /// for as many groups as are wanted. The registers hold lines 0 to 7 below and 8 to 15 above.
    fn turn(self, lines: [__m256i; LANES / 2], groups: &mut [Group<N>]);

    /// One of them.
    fn load(self, group: &Group<N>) -> Self::Bytes;

    fn spread(self, weights: &Self::Weights) -> Self::Spread;

    /// Sums that are rounded when their fractions are cut off.
    fn half(self) -> Self::Sums;

    fn add(self, sums: &mut Self::Sums, bytes: Self::Bytes, weights: &Self::Spread);

    /// The sums without their fractions, in words.
    fn words(self, sums: Self::Sums) -> __m256i;
}

impl<P: Products<N>, const N: usize> Kernels<N> for P {
    type Weights = P::Weights;

    fn narrow(self, stripes: &mut Stripes<P::Weights, N>, rows: &[u8], n_rows: usize, into: &mut [Group<N>]) {
        self.vectorize(Narrow { products: self, stripes, rows, n_rows, into });
    }

    fn weigh(
        self,
        weights: &GroupedWeights<P::Weights>,
        which: Range<usize>,
        narrowed: &Narrowed<N>,
        length: usize,
        into: &mut Vec<u8>,
    ) {
        self.vectorize(Weigh { products: self, weights, which, narrowed, length, into });
    }
}
