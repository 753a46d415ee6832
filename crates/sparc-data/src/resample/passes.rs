//! Both passes of resizing, the second close behind the first: what lies between them never leaves the processor's cache.

use std::ops::Range;

use super::grouped::{Group, GroupedWeights, LANES};
use super::lines::weigh_plainly;
use super::pairs::PairWeights;
use super::stripes::Stripes;
use super::{CHANNELS, Direction};

/// How both passes are computed, with products of `N` bytes.
pub(super) trait Kernels<const N: usize>: Copy {
    /// Of `N` old pixels.
    type Weights: From<[i32; N]> + Copy;

    /// The first pass: from `n_rows` whole rows of the picture, `LANES` at most, to groups of `LANES` new ones, of which
    /// those that are not there are unspecified. `rows` may go on after them.
    fn narrow(self, stripes: &mut Stripes<Self::Weights, N>, rows: &[u8], n_rows: usize, into: &mut [Group<N>]);

    /// The second pass: appends the first `length` bytes of each of the new rows `which`.
    fn weigh(
        self,
        weights: &GroupedWeights<Self::Weights>,
        which: Range<usize>,
        narrowed: &Narrowed<N>,
        length: usize,
        into: &mut Vec<u8>,
    );
}

/// One byte after the other, on any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Kernels<2> for Plain {
    type Weights = PairWeights;

    fn narrow(self, stripes: &mut Stripes<PairWeights, 2>, rows: &[u8], n_rows: usize, into: &mut [Group<2>]) {
        stripes.narrow_plainly(rows, n_rows, into);
    }

    fn weigh(
        self,
        weights: &GroupedWeights<PairWeights>,
        which: Range<usize>,
        narrowed: &Narrowed<2>,
        length: usize,
        into: &mut Vec<u8>,
    ) {
        weigh_plainly(weights, which, narrowed, length, into);
    }
}

/// Both passes with as many products at a time as the processor has.
pub(super) enum Passes {
    Plain(PassesOf<Plain, 2>),
    #[cfg(target_arch = "x86_64")]
    Avx2(PassesOf<pulp::x86::V3, 2>),
    #[cfg(target_arch = "x86_64")]
    Vnni(PassesOf<sparc_torch::Vnni, 4>),
}

impl Passes {
    /// For rows of `stride` bytes, whose pixels count from the byte `left`. Stripes begin `before` rows before the first
    /// row that is looked at.
    pub(super) fn new(columns: &Direction, (stride, left): (usize, usize), rows: &Direction, before: usize) -> Passes {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(products) = sparc_torch::Vnni::try_new() {
                return Passes::Vnni(PassesOf::new(products, columns, (stride, left), rows, before));
            }
            if let Some(products) = pulp::x86::V3::try_new() {
                return Passes::Avx2(PassesOf::new(products, columns, (stride, left), rows, before));
            }
        }
        Passes::Plain(PassesOf::new(Plain, columns, (stride, left), rows, before))
    }

    /// Takes the stripe of that number, a larger one than before, of `n_rows` whole rows of the picture. `rows` may go
    /// on after them.
    pub(super) fn take(&mut self, stripe: usize, rows: &[u8], n_rows: usize) {
        match self {
            Passes::Plain(passes) => passes.take(stripe, rows, n_rows),
            #[cfg(target_arch = "x86_64")]
            Passes::Avx2(passes) => passes.take(stripe, rows, n_rows),
            #[cfg(target_arch = "x86_64")]
            Passes::Vnni(passes) => passes.take(stripe, rows, n_rows),
        }
    }

    /// The resized rows.
    pub(super) fn finish(self) -> Vec<u8> {
        match self {
            Passes::Plain(passes) => passes.finish(),
            #[cfg(target_arch = "x86_64")]
            Passes::Avx2(passes) => passes.finish(),
            #[cfg(target_arch = "x86_64")]
            Passes::Vnni(passes) => passes.finish(),
        }
    }
}

pub(super) struct PassesOf<K: Kernels<N>, const N: usize> {
    kernels: K,
    columns: Stripes<K::Weights, N>,
    rows: GroupedWeights<K::Weights>,
    narrowed: Narrowed<N>,
    /// Bytes of a resized row.
    length: usize,
    resized: Vec<u8>,
}

impl<K: Kernels<N>, const N: usize> PassesOf<K, N> {
    fn new(kernels: K, columns: &Direction, (stride, left): (usize, usize), rows: &Direction, before: usize) -> Self {
        let length = columns.len() * CHANNELS;
        let columns = Stripes::new(columns, stride, left);
        let narrowed = Narrowed { groups: Vec::new(), width: columns.width(), n_dropped: 0 };
        let resized = Vec::with_capacity(rows.len() * length);
        PassesOf { kernels, columns, rows: GroupedWeights::new(rows, before), narrowed, length, resized }
    }

    fn take(&mut self, stripe: usize, rows: &[u8], n_rows: usize) {
        let into = self.narrowed.stripe(stripe);
        self.kernels.narrow(&mut self.columns, rows, n_rows, into);
        self.weigh();
    }

    fn finish(mut self) -> Vec<u8> {
        self.narrowed.extend_to(self.rows.end());
        self.weigh();
        self.resized
    }

    /// The second pass for the new rows that have all of theirs. What no other needs is dropped.
    fn weigh(&mut self) {
        let first = self.resized.len() / self.length;
        let has_all = |index: &usize| self.rows.end_of(*index) <= self.narrowed.end();
        let end = first + (first..self.rows.len()).take_while(has_all).count();
        if first == end {
            return;
        }
        self.kernels.weigh(&self.rows, first..end, &self.narrowed, self.length, &mut self.resized);
        if end < self.rows.len() {
            // Filters of neighbours overlap: what is needed next has begun to come.
            self.narrowed.drop_before(self.rows.of(end).0);
        }
    }
}

/// What the first pass leaves to the second, as far as it is still looked at.
pub(super) struct Narrowed<const N: usize> {
    /// `N` rows after the other, those of all columns.
    groups: Vec<Group<N>>,
    /// Groups side by side.
    width: usize,
    /// Times `N` rows that came before them.
    n_dropped: usize,
}

impl<const N: usize> Narrowed<N> {
    /// From the groups of that number on, those of all columns in a slice.
    #[inline(always)]
    pub(super) fn from(&self, start: usize) -> std::slice::ChunksExact<'_, Group<N>> {
        self.groups[(start - self.n_dropped) * self.width..].chunks_exact(self.width)
    }

    /// Groups side by side, an even number.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Times `N` rows so far.
    fn end(&self) -> usize {
        self.n_dropped + self.groups.len() / self.width
    }

    /// Where a stripe goes, behind those before.
    fn stripe(&mut self, stripe: usize) -> &mut [Group<N>] {
        const { assert!(LANES.is_multiple_of(N)) }
        let height = LANES / N;
        assert!(stripe * height >= self.end(), "stripe {stripe} comes after later ones");
        self.extend_to((stripe + 1) * height);
        &mut self.groups[(stripe * height - self.n_dropped) * self.width..][..height * self.width]
    }

    /// With black rows.
    fn extend_to(&mut self, end: usize) {
        let n_groups = (end - self.n_dropped) * self.width;
        if self.groups.len() < n_groups {
            self.groups.resize(n_groups, Group::BLACK);
        }
    }

    fn drop_before(&mut self, start: usize) {
        self.groups.drain(..(start - self.n_dropped) * self.width);
        self.n_dropped = start;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Wide instructions, where there are any, and plain ones.
        #[test]
        fn passes_are_the_same_either_way(
            size in (1usize..90, 1usize..90), new in (1u64..90, 1u64..90), cut in (0.0f32..0.4, 0.6f32..1.0),
            beside in (0usize..9, 0usize..9), before in 0usize..LANES, seed in 0u8..250,
        ) {
            let part = |length: usize| (cut.0 * length as f32, cut.1 * length as f32);
            let columns = Direction::new(size.0 as u64, part(size.0), new.0, 0..new.0);
            let rows = Direction::new(size.1 as u64, part(size.1), new.1, 0..new.1);
            let stride = (beside.0 + size.0 + beside.1) * CHANNELS;
            let layout = (stride, beside.0 * CHANNELS);
            let n_rows = before + rows.end() - rows.first();
            let picture: Vec<u8> =
                (0..stride * n_rows).map(|i| (i as u8).wrapping_mul(197).wrapping_add(seed)).collect();
            let resized = |mut passes: Passes| {
                for (stripe, rows) in picture.chunks(stride * LANES).enumerate() {
                    passes.take(stripe, rows, rows.len() / stride);
                }
                passes.finish()
            };
            let plain = resized(Passes::Plain(PassesOf::new(Plain, &columns, layout, &rows, before)));
            prop_assert_eq!(plain.len(), (new.0 * new.1) as usize * CHANNELS);
            prop_assert_eq!(&resized(Passes::new(&columns, layout, &rows, before)), &plain);
            #[cfg(target_arch = "x86_64")]
            if let Some(products) = pulp::x86::V3::try_new() {
                let avx2 = Passes::Avx2(PassesOf::new(products, &columns, layout, &rows, before));
                prop_assert_eq!(&resized(avx2), &plain);
            }
        }
    }
}
