//! How bytes are multiplied by weights of 22 fractional bits, and the products added up, on an x86 processor.
//!
//! Nothing does that at full speed. So a weight is cut into parts, whose sums are put together at the end: they may wrap
//! around, for together they are right modulo 2³², and the whole sum, which Pillow holds in 32 bits as well, is
//! within.

use std::arch::x86_64::__m256i;

use pulp::NullaryFnOnce;
use pulp::x86::V3;

use super::CHANNELS;
use super::stripes::{Group, STRIPE, TURNED};

/// Products of `N` bytes at a time. What looks at registers is inlined into what [`Products::vectorize`] runs: loops and
/// not closures over arrays, for what is not inlined is compiled for the oldest processor.
pub(super) trait Products<const N: usize>: Copy {
    /// Of `N` old pixels, cut.
    type Weights: From<[i32; N]>;
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

    /// Groups of columns from rows of [`TURNED`] pixels in `ORDER`: the registers hold rows 0 to 7 below and 8 to 15
    /// above.
    fn turn(self, rows: [__m256i; STRIPE / 2], groups: &mut [[Group<N>; CHANNELS]]);

    /// One of them.
    fn load(self, group: &Group<N>) -> Self::Bytes;

    /// The bytes of `N` lines that have the same sum: those of each half's first eight, and of the others.
    fn beside(self, lines: [__m256i; N]) -> [Self::Bytes; 2];

    fn spread(self, weights: &Self::Weights) -> Self::Spread;

    /// Sums that are rounded when their fractions are cut off.
    fn half(self) -> Self::Sums;

    fn add(self, sums: &mut Self::Sums, bytes: Self::Bytes, weights: &Self::Spread);

    /// The sums without their fractions, in words.
    fn words(self, sums: Self::Sums) -> __m256i;
}
