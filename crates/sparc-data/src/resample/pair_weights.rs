//! Weights cut for multiplications that are fast.
//!
//! No multiplication of whole numbers takes a weight of 22 fractional bits at full speed, so it is cut in two:
//! weight = 2¹⁶ · high + low, with `high` in 8 bits and `low` in 16. The sums of both may wrap around; put together they
//! are right modulo 2³², and the whole sum, which Pillow holds in 32 bits as well, is within.

/// The weights of two old pixels side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairWeights {
    /// Twice, to fill 32 bits.
    high: [[i8; 2]; 2],
    low: [i16; 2],
}

impl PairWeights {
    pub(super) fn new(weights: [i32; 2]) -> PairWeights {
        let high = weights.map(|weight| (weight + (1 << 15)) >> 16);
        let low = [0, 1].map(|i| (weights[i] - (high[i] << 16)) as i16);
        // A weight is at most 9/8: where the filter's centre lies on the picture's edge, half a pixel from the centre of
        // the last pixel. Two together are no more, for the second's is then below 0.
        let high = high.map(|high| i8::try_from(high).expect("weights below 2"));
        debug_assert!(high[0].unsigned_abs() + high[1].unsigned_abs() <= 128, "{weights:?}");
        PairWeights { high: [high; 2], low }
    }

    pub(super) fn whole(self) -> [i32; 2] {
        [0, 1].map(|i| (i32::from(self.high[0][i]) << 16) + i32::from(self.low[i]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::__m256i;

    use pulp::x86::V3;

    use super::super::{HALF, PRECISION_BITS};
    use super::PairWeights;

    /// Sixteen weighed sums.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Sums {
        /// Words.
        high: __m256i,
        /// Double words: sums 0 to 3 and 8 to 11, and the others, as unpacking has them.
        low: [__m256i; 2],
    }

    impl Sums {
        #[inline(always)]
        pub(in super::super) fn new(simd: V3) -> Sums {
            Sums { high: pulp::cast([0u8; 32]), low: [simd.avx._mm256_set1_epi32(HALF); 2] }
        }

        /// Adds sixteen pairs of bytes.
        #[inline(always)]
        pub(in super::super) fn add(&mut self, simd: V3, bytes: __m256i, weights: &PairWeights) {
            let V3 { avx, avx2, .. } = simd;
            let zero: __m256i = pulp::cast([0u8; 32]);
            let high_weights = avx._mm256_set1_epi32(pulp::cast(weights.high));
            let low_weights = avx._mm256_set1_epi32(pulp::cast(weights.low));
            // Does not saturate: 255 times both weights is in 15 bits.
            self.high = avx2._mm256_add_epi16(self.high, avx2._mm256_maddubs_epi16(bytes, high_weights));
            let [first, second] = [avx2._mm256_unpacklo_epi8(bytes, zero), avx2._mm256_unpackhi_epi8(bytes, zero)];
            self.low[0] = avx2._mm256_add_epi32(self.low[0], avx2._mm256_madd_epi16(first, low_weights));
            self.low[1] = avx2._mm256_add_epi32(self.low[1], avx2._mm256_madd_epi16(second, low_weights));
        }

        /// The sums without their fractions, in words.
        #[inline(always)]
        pub(in super::super) fn words(self, simd: V3) -> __m256i {
            let avx2 = simd.avx2;
            let zero: __m256i = pulp::cast([0u8; 32]);
            // A word above an empty one is the word times 2¹⁶.
            let first = avx2._mm256_add_epi32(self.low[0], avx2._mm256_unpacklo_epi16(zero, self.high));
            let second = avx2._mm256_add_epi32(self.low[1], avx2._mm256_unpackhi_epi16(zero, self.high));
            let whole = |sums| avx2._mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(sums);
            avx2._mm256_packs_epi32(whole(first), whole(second))
        }
    }
}
