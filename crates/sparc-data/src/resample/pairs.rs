//! Products of two bytes, as AVX2 has them.

/// The weights of two old pixels side by side: 2¹⁶ · high + low, with `high` in 8 bits and `low` in 16.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairWeights {
    /// Twice, to fill 32 bits.
    high: [[i8; 2]; 2],
    low: [i16; 2],
}

impl From<[i32; 2]> for PairWeights {
    fn from(weights: [i32; 2]) -> PairWeights {
        let high = weights.map(|weight| (weight + (1 << 15)) >> 16);
        let low = [0, 1].map(|i| (weights[i] - (high[i] << 16)) as i16);
        // A weight is at most 9/8: where the filter's centre lies on the picture's edge, half a pixel from the centre of
        // the last pixel. Two together are no more, for the second's is then below 0.
        let high = high.map(|high| i8::try_from(high).expect("weights below 2"));
        debug_assert!(high[0].unsigned_abs() + high[1].unsigned_abs() <= 128, "{weights:?}");
        PairWeights { high: [high; 2], low }
    }
}

impl PairWeights {
    pub(super) fn whole(self) -> [i32; 2] {
        [0, 1].map(|i| (i32::from(self.high[0][i]) << 16) + i32::from(self.low[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256i;

    use pulp::NullaryFnOnce;
    use pulp::x86::V3;

    use super::super::grouped::{Group, LANES};
    use super::super::products::Products;
    use super::super::stripes::TURNED;
    use super::super::{CHANNELS, HALF, PRECISION_BITS};
    use super::PairWeights;

    #[derive(Clone, Copy)]
    pub(in super::super) struct Sums {
        /// Words.
        high: __m256i,
        /// Double words: sums 0 to 3 and 8 to 11, and the others, as unpacking has them.
        low: [__m256i; 2],
    }

    #[derive(Clone, Copy)]
    pub(in super::super) struct Spread {
        high: __m256i,
        low: __m256i,
    }

    impl Products<2> for V3 {
        type Weights = PairWeights;
        type Spread = Spread;
        type Bytes = __m256i;
        type Sums = Sums;

        // Red, green and blue of the first two, then of the others.
        const ORDER: [u8; TURNED * CHANNELS] = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];

        #[inline(always)]
        fn simd(self) -> V3 {
            self
        }

        #[inline(always)]
        fn vectorize<F: NullaryFnOnce>(self, f: F) -> F::Output {
            V3::vectorize(self, f)
        }

        #[inline(always)]
        fn turn(self, lines: [__m256i; LANES / 2], groups: &mut [Group<2>]) {
            let avx2 = self.avx2;
            // Words of two lines, then of four, then of eight.
            let [a, b, c, d, e, f, g, h] = lines;
            let (ab, cd) = (avx2._mm256_unpacklo_epi16(a, b), avx2._mm256_unpacklo_epi16(c, d));
            let (ef, gh) = (avx2._mm256_unpacklo_epi16(e, f), avx2._mm256_unpacklo_epi16(g, h));
            let (first, second) = (avx2._mm256_unpacklo_epi32(ab, cd), avx2._mm256_unpacklo_epi32(ef, gh));
            let (third, fourth) = (avx2._mm256_unpackhi_epi32(ab, cd), avx2._mm256_unpackhi_epi32(ef, gh));
            let (ab, cd) = (avx2._mm256_unpackhi_epi16(a, b), avx2._mm256_unpackhi_epi16(c, d));
            let (ef, gh) = (avx2._mm256_unpackhi_epi16(e, f), avx2._mm256_unpackhi_epi16(g, h));
            let (fifth, sixth) = (avx2._mm256_unpacklo_epi32(ab, cd), avx2._mm256_unpacklo_epi32(ef, gh));
            let (seventh, eighth) = (avx2._mm256_unpackhi_epi32(ab, cd), avx2._mm256_unpackhi_epi32(ef, gh));
            let turned = [
                avx2._mm256_unpacklo_epi64(first, second),
                avx2._mm256_unpackhi_epi64(first, second),
                avx2._mm256_unpacklo_epi64(third, fourth),
                avx2._mm256_unpackhi_epi64(third, fourth),
                avx2._mm256_unpacklo_epi64(fifth, sixth),
                avx2._mm256_unpackhi_epi64(fifth, sixth),
                avx2._mm256_unpacklo_epi64(seventh, eighth),
                avx2._mm256_unpackhi_epi64(seventh, eighth),
            ];
            for (group, register) in groups.iter_mut().zip(turned) {
                group.0 = pulp::cast(register);
            }
        }

        #[inline(always)]
        fn load(self, group: &Group<2>) -> __m256i {
            pulp::cast(group.0)
        }

        #[inline(always)]
        fn spread(self, weights: &PairWeights) -> Spread {
            let avx = self.avx;
            Spread {
                high: avx._mm256_set1_epi32(pulp::cast(weights.high)),
                low: avx._mm256_set1_epi32(pulp::cast(weights.low)),
            }
        }

        #[inline(always)]
        fn half(self) -> Sums {
            Sums { high: pulp::cast([0u8; 32]), low: [self.avx._mm256_set1_epi32(HALF); 2] }
        }

        #[inline(always)]
        fn add(self, sums: &mut Sums, bytes: __m256i, weights: &Spread) {
            let avx2 = self.avx2;
            let zero: __m256i = pulp::cast([0u8; 32]);
            // Does not saturate: 255 times both weights is in 15 bits.
            sums.high = avx2._mm256_add_epi16(sums.high, avx2._mm256_maddubs_epi16(bytes, weights.high));
            let [first, second] = [avx2._mm256_unpacklo_epi8(bytes, zero), avx2._mm256_unpackhi_epi8(bytes, zero)];
            sums.low[0] = avx2._mm256_add_epi32(sums.low[0], avx2._mm256_madd_epi16(first, weights.low));
            sums.low[1] = avx2._mm256_add_epi32(sums.low[1], avx2._mm256_madd_epi16(second, weights.low));
        }

        #[inline(always)]
        fn words(self, Sums { high, low }: Sums) -> __m256i {
            let avx2 = self.avx2;
            let zero: __m256i = pulp::cast([0u8; 32]);
            // A word above an empty one is the word times 2¹⁶.
            let first = avx2._mm256_add_epi32(low[0], avx2._mm256_unpacklo_epi16(zero, high));
            let second = avx2._mm256_add_epi32(low[1], avx2._mm256_unpackhi_epi16(zero, high));
            avx2._mm256_packs_epi32(
                avx2._mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(first),
                avx2._mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(second),
            )
        }
    }
}
