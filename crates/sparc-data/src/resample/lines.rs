//! The second pass of resizing: a line of bytes from as many lines as there are weights.

use super::{HALF, to_byte};

/// `into` from lines as long as it is, which lie one behind the other.
pub(super) fn weigh_lines(lines: &[u8], weights: &[i32], into: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if let (Some(simd), true) = (pulp::x86::V3::try_new(), into.len() >= avx2::LANES) {
        return simd.vectorize(avx2::WeighLines { simd, lines, weights, into });
    }
    weigh_plainly(lines, weights, into);
}

fn weigh_plainly(lines: &[u8], weights: &[i32], into: &mut [u8]) {
    let mut sums = vec![HALF; into.len()];
    for (line, weight) in lines.chunks_exact(into.len()).zip(weights) {
        for (sum, &byte) in sums.iter_mut().zip(line) {
            *sum += i32::from(byte) * weight;
        }
    }
    for (byte, sum) in into.iter_mut().zip(sums) {
        *byte = to_byte(sum);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256i;

    use pulp::x86::V3;

    use super::super::pair_weights::PairWeights;
    use super::super::pair_weights::avx2::Sums;

    /// Bytes of a line that are weighed at once.
    pub(super) const LANES: usize = 32;

    pub(super) struct WeighLines<'a> {
        pub(super) simd: V3,
        pub(super) lines: &'a [u8],
        pub(super) weights: &'a [i32],
        /// As long as a register, at least.
        pub(super) into: &'a mut [u8],
    }

    impl pulp::NullaryFnOnce for WeighLines<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let WeighLines { simd, lines, weights, into } = self;
            let avx2 = simd.avx2;
            let length = into.len();
            // The last one may have none beside it.
            let pair = |two: &[i32]| PairWeights::new([two[0], two.get(1).copied().unwrap_or(0)]);
            let weights: Vec<PairWeights> = weights.chunks(2).map(pair).collect();
            // The last bytes are weighed together with some before them once more.
            for start in (0..length - LANES).step_by(LANES).chain([length - LANES]) {
                let mut sums = [Sums::new(simd); 2];
                for (index, weights) in weights.iter().enumerate() {
                    let at = 2 * index * length + start;
                    // After the last line there may be none, and it would weigh nothing.
                    let beside = if at + length < lines.len() { at + length } else { at };
                    let first: __m256i = pulp::cast(*lines[at..].first_chunk::<LANES>().expect("a line"));
                    let second: __m256i = pulp::cast(*lines[beside..].first_chunk::<LANES>().expect("a line"));
                    sums[0].add(simd, avx2._mm256_unpacklo_epi8(first, second), weights);
                    sums[1].add(simd, avx2._mm256_unpackhi_epi8(first, second), weights);
                }
                let [low, high] = sums;
                let bytes: [u8; LANES] = pulp::cast(avx2._mm256_packus_epi16(low.words(simd), high.words(simd)));
                into[start..start + LANES].copy_from_slice(&bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Weights;
    use super::*;

    proptest! {
        /// Wide instructions, where there are any, and plain ones.
        #[test]
        fn lines_are_the_same_either_way(
            length in 1usize..200, old in 1u64..60, new in 1u64..60, index in 0usize..60, seed in 0u8..250,
        ) {
            let weights = Weights::new(old, (0.0, old as f32), new, 0..new);
            let (_, weights) = weights.of(index % new as usize);
            let lines: Vec<u8> =
                (0..weights.len() * length).map(|i| (i as u8).wrapping_mul(173).wrapping_add(seed)).collect();
            let (mut wide, mut plain) = (vec![0; length], vec![0; length]);
            weigh_lines(&lines, weights, &mut wide);
            weigh_plainly(&lines, weights, &mut plain);
            prop_assert_eq!(wide, plain);
        }
    }
}
