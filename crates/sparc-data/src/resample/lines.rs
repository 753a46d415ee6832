//! The second pass of resizing: a row of bytes from as many narrowed ones as there are weights.

use std::ops::Range;

use super::grouped::GroupedWeights;
use super::pairs::PairWeights;
use super::passes::Narrowed;
use super::{HALF, to_byte};

/// [`super::passes::Kernels::weigh`].
pub(super) fn weigh_plainly(
    weights: &GroupedWeights<PairWeights>,
    which: Range<usize>,
    narrowed: &Narrowed<2>,
    length: usize,
    into: &mut Vec<u8>,
) {
    let mut sums = vec![HALF; length];
    for index in which {
        let (start, weights) = weights.of(index);
        sums.fill(HALF);
        for (groups, weights) in narrowed.from(start).zip(weights) {
            let [first, second] = weights.whole();
            for (sum, pair) in sums.iter_mut().zip(groups.iter().flat_map(|group| group.0)) {
                *sum += i32::from(pair[0]) * first + i32::from(pair[1]) * second;
            }
        }
        into.extend(sums.iter().map(|&sum| to_byte(sum)));
    }
}

/// The same with products of several bytes.
#[cfg(target_arch = "x86_64")]
pub(super) mod wide {
    use std::ops::Range;

    use super::super::grouped::{Group, GroupedWeights, LANES};
    use super::super::passes::Narrowed;
    use super::super::products::Products;

    pub(in super::super) struct Weigh<'a, P: Products<N>, const N: usize> {
        pub(in super::super) products: P,
        pub(in super::super) weights: &'a GroupedWeights<P::Weights>,
        pub(in super::super) which: Range<usize>,
        pub(in super::super) narrowed: &'a Narrowed<N>,
        pub(in super::super) length: usize,
        pub(in super::super) into: &'a mut Vec<u8>,
    }

    impl<P: Products<N>, const N: usize> pulp::NullaryFnOnce for Weigh<'_, P, N> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Weigh { products, weights, which, narrowed, length, into } = self;
            let avx2 = products.simd().avx2;
            let mut row = vec![0; narrowed.width() * LANES];
            let mut lines: Vec<(P::Weights, &[[Group<N>; 2]])> = Vec::new();
            for index in which {
                let (start, weights) = weights.of(index);
                lines.clear();
                for (groups, weights) in narrowed.from(start).zip(weights) {
                    lines.push((*weights, groups.as_chunks().0));
                }
                for (at, bytes) in row.as_chunks_mut::<{ 2 * LANES }>().0.iter_mut().enumerate() {
                    let mut sums = [products.half(); 2];
                    for (weights, groups) in &lines {
                        let weights = products.spread(weights);
                        let [first, second] = &groups[at];
                        products.add(&mut sums[0], products.load(first), &weights);
                        products.add(&mut sums[1], products.load(second), &weights);
                    }
                    let [first, second] = sums;
                    let packed = avx2._mm256_packus_epi16(products.words(first), products.words(second));
                    *bytes = pulp::cast(avx2._mm256_permute4x64_epi64::<0b11_01_10_00>(packed));
                }
                into.extend_from_slice(&row[..length]);
            }
        }
    }
}
