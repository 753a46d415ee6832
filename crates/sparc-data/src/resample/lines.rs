//! The second pass of resizing: lines of bytes from as many lines each as there are weights.

use super::{HALF, Weights, to_byte};

/// New lines of `length` bytes from old ones as long, of which the first is the first that `rows` looks at.
pub(super) fn weigh_lines(old: &[u8], length: usize, rows: &Weights, new: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if length >= wide::LANES {
        if let Some(products) = sparc_torch::Vnni::try_new() {
            return wide::weigh_lines(products, old, length, rows, new);
        }
        if let Some(products) = pulp::x86::V3::try_new() {
            return wide::weigh_lines(products, old, length, rows, new);
        }
    }
    weigh_plainly(old, length, rows, new);
}

fn weigh_plainly(old: &[u8], length: usize, rows: &Weights, new: &mut [u8]) {
    let mut sums = vec![HALF; length];
    for (index, new) in new.chunks_exact_mut(length).enumerate() {
        let (start, weights) = rows.of(index);
        sums.fill(HALF);
        for (line, weight) in old[(start - rows.first()) * length..].chunks_exact(length).zip(weights) {
            for (sum, &byte) in sums.iter_mut().zip(line) {
                *sum += i32::from(byte) * weight;
            }
        }
        for (byte, &sum) in new.iter_mut().zip(&sums) {
            *byte = to_byte(sum);
        }
    }
}

/// The same with products of several bytes.
#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::__m256i;

    use super::super::products::Products;
    use super::Weights;

    /// Bytes of a line that are weighed at once.
    pub(super) const LANES: usize = 32;

    /// Lines have `LANES` bytes, at least.
    pub(super) fn weigh_lines<P: Products<N>, const N: usize>(
        products: P,
        old: &[u8],
        length: usize,
        rows: &Weights,
        new: &mut [u8],
    ) {
        products.vectorize(WeighLines { products, old, length, rows, new });
    }

    struct WeighLines<'a, P, const N: usize> {
        products: P,
        old: &'a [u8],
        length: usize,
        rows: &'a Weights,
        new: &'a mut [u8],
    }

    impl<P: Products<N>, const N: usize> pulp::NullaryFnOnce for WeighLines<'_, P, N> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let WeighLines { products, old, length, rows, new } = self;
            let avx2 = products.simd().avx2;
            let mut groups: Vec<(P::Weights, [&[u8]; N])> = Vec::new();
            for (index, new) in new.chunks_exact_mut(length).enumerate() {
                let (start, weights) = rows.of(index);
                let old = &old[(start - rows.first()) * length..];
                groups.clear();
                for (group, weights_of_group) in weights.chunks(N).enumerate() {
                    let (mut own, mut lines) = ([0; N], [old; N]);
                    own[..weights_of_group.len()].copy_from_slice(weights_of_group);
                    for (i, line) in lines.iter_mut().enumerate() {
                        // What there is no weight for weighs nothing.
                        let at = (group * N + i).min(weights.len() - 1) * length;
                        *line = &old[at..at + length];
                    }
                    groups.push((P::Weights::from(own), lines));
                }
                // The last bytes are weighed together with some before them once more.
                for start in (0..length - LANES).step_by(LANES).chain([length - LANES]) {
                    let mut sums = [products.half(); 2];
                    for (weights, lines) in &groups {
                        let mut registers: [__m256i; N] = [pulp::cast([0u8; LANES]); N];
                        for (register, line) in registers.iter_mut().zip(lines) {
                            *register = pulp::cast(*line[start..].first_chunk::<LANES>().expect("a whole line"));
                        }
                        let [first, second] = products.beside(registers);
                        let weights = products.spread(weights);
                        products.add(&mut sums[0], first, &weights);
                        products.add(&mut sums[1], second, &weights);
                    }
                    let [low, high] = sums;
                    let bytes: [u8; LANES] =
                        pulp::cast(avx2._mm256_packus_epi16(products.words(low), products.words(high)));
                    new[start..start + LANES].copy_from_slice(&bytes);
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
        /// Wide instructions, where there are any, and plain ones.
        #[test]
        fn lines_are_the_same_either_way(length in 1usize..200, old in 1u64..60, new in 1u64..60, seed in 0u8..250) {
            let rows = Weights::new(old, (0.0, old as f32), new, 0..new);
            let n_old = rows.end() - rows.first();
            let lines: Vec<u8> = (0..n_old * length).map(|i| (i as u8).wrapping_mul(173).wrapping_add(seed)).collect();
            let mut plain = vec![0; new as usize * length];
            weigh_plainly(&lines, length, &rows, &mut plain);
            let unwritten: Vec<u8> = plain.iter().map(|byte| !byte).collect();
            let mut weighed = unwritten.clone();
            weigh_lines(&lines, length, &rows, &mut weighed);
            prop_assert_eq!(&weighed, &plain);
            #[cfg(target_arch = "x86_64")]
            if let (Some(products), true) = (pulp::x86::V3::try_new(), length >= wide::LANES) {
                weighed = unwritten;
                wide::weigh_lines(products, &lines, length, &rows, &mut weighed);
                prop_assert_eq!(&weighed, &plain);
            }
        }
    }
}
