//! Products of four bytes, as AVX-512 VNNI has them.

use std::arch::x86_64::__m256i;

use pulp::NullaryFnOnce;
use pulp::x86::V3;
use sparc_torch::Vnni;

use super::grouped::{Group, LANES};
use super::products::Products;
use super::stripes::TURNED;
use super::{CHANNELS, HALF, PRECISION_BITS};

/// Parts of a weight.
const DIGITS: usize = 3;

/// The weights of four old pixels side by side: 2¹⁶ · third + 2⁸ · second + first, of 8 bits each.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuadWeights {
    digits: [[i8; 4]; DIGITS],
}

impl From<[i32; 4]> for QuadWeights {
    fn from(weights: [i32; 4]) -> QuadWeights {
        let mut digits = [[0; 4]; DIGITS];
        for (i, mut rest) in weights.into_iter().enumerate() {
            for digits in &mut digits {
                digits[i] = rest as i8;
                rest = (rest - i32::from(digits[i])) >> 8;
            }
            debug_assert_eq!(rest, 0, "weights below 2: {weights:?}");
        }
        QuadWeights { digits }
    }
}

/// Double words, of each digit: sums 0 to 3 and 8 to 11, and the others.
type Sums = [[__m256i; 2]; DIGITS];

impl Products<4> for Vnni {
    type Weights = QuadWeights;
    type Spread = [__m256i; DIGITS];
    type Bytes = [__m256i; 2];
    type Sums = Sums;

    const ORDER: [u8; TURNED * CHANNELS] = [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11];

    #[inline(always)]
    fn simd(self) -> V3 {
        self.v3()
    }

    #[inline(always)]
    fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
        Vnni::vectorize(self, f)
    }

    #[inline(always)]
    fn turn(self, lines: [__m256i; LANES / 2], groups: &mut [Group<4>]) {
        let avx2 = self.v3().avx2;
        // Double words of two lines, then of four. Lines 0 to 3 and 8 to 11 are in one register, the others in another.
        let [a, b, c, d, e, f, g, h] = lines;
        let (ab, cd) = (avx2._mm256_unpacklo_epi32(a, b), avx2._mm256_unpacklo_epi32(c, d));
        let (ef, gh) = (avx2._mm256_unpacklo_epi32(e, f), avx2._mm256_unpacklo_epi32(g, h));
        let first = [avx2._mm256_unpacklo_epi64(ab, cd), avx2._mm256_unpacklo_epi64(ef, gh)];
        let second = [avx2._mm256_unpackhi_epi64(ab, cd), avx2._mm256_unpackhi_epi64(ef, gh)];
        let (ab, cd) = (avx2._mm256_unpackhi_epi32(a, b), avx2._mm256_unpackhi_epi32(c, d));
        let (ef, gh) = (avx2._mm256_unpackhi_epi32(e, f), avx2._mm256_unpackhi_epi32(g, h));
        let third = [avx2._mm256_unpacklo_epi64(ab, cd), avx2._mm256_unpacklo_epi64(ef, gh)];
        let fourth = [avx2._mm256_unpackhi_epi64(ab, cd), avx2._mm256_unpackhi_epi64(ef, gh)];
        for (group, registers) in groups.iter_mut().zip([first, second, third, fourth]) {
            group.0 = pulp::cast(registers);
        }
    }

    #[inline(always)]
    fn load(self, group: &Group<4>) -> [__m256i; 2] {
        pulp::cast(group.0)
    }

    #[inline(always)]
    fn spread(self, weights: &QuadWeights) -> [__m256i; DIGITS] {
        let avx = self.v3().avx;
        let [first, second, third] = weights.digits;
        [
            avx._mm256_set1_epi32(pulp::cast(first)),
            avx._mm256_set1_epi32(pulp::cast(second)),
            avx._mm256_set1_epi32(pulp::cast(third)),
        ]
    }

    #[inline(always)]
    fn half(self) -> Sums {
        let zero = pulp::cast([0u8; 32]);
        [[self.v3().avx._mm256_set1_epi32(HALF); 2], [zero; 2], [zero; 2]]
    }

    #[inline(always)]
    fn add(self, sums: &mut Sums, bytes: [__m256i; 2], weights: &[__m256i; DIGITS]) {
        for (sums, &weights) in sums.iter_mut().zip(weights) {
            for (sums, bytes) in sums.iter_mut().zip(bytes) {
                *sums = self.add_products(*sums, bytes, weights);
            }
        }
    }

    #[inline(always)]
    fn words(self, [mut sums, second, third]: Sums) -> __m256i {
        let avx2 = self.v3().avx2;
        for (sums, (second, third)) in sums.iter_mut().zip(second.into_iter().zip(third)) {
            let upper = avx2._mm256_add_epi32(second, avx2._mm256_slli_epi32::<8>(third));
            let whole = avx2._mm256_add_epi32(*sums, avx2._mm256_slli_epi32::<8>(upper));
            *sums = avx2._mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(whole);
        }
        avx2._mm256_packs_epi32(sums[0], sums[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_make_the_weight() {
        for weight in [0, 1, -1, 127, 128, -128, -129, 40_000, -700_001, 1 << 22, 9 << 19, -(9 << 19)] {
            let QuadWeights { digits } = QuadWeights::from([weight, 5, -weight, 0]);
            let whole = |i: usize| digits.iter().rev().fold(0, |whole, digits| whole * 256 + i32::from(digits[i]));
            assert_eq!([whole(0), whole(1), whole(2), whole(3)], [weight, 5, -weight, 0]);
        }
    }
}
