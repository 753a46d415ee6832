//! Pixels side by side that are weighed with one product.

use pulp::{Simd, WithSimd};

use super::{Direction, PRECISION_BITS};

/// Sums that are made at once: of sixteen rows in the first pass, of sixteen bytes of a row in the second.
pub(super) const LANES: usize = 16;

/// `N` bytes for each of sixteen sums, whose order is the products' own affair. Registers that are loaded from it never
/// lie across two lines of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Group<const N: usize>(pub(super) [[u8; N]; LANES]);

impl<const N: usize> Group<N> {
    pub(super) const BLACK: Group<N> = Group([[0; N]; LANES]);
}

/// The weights of one direction, those of `N` old pixels at a time.
pub(super) struct GroupedWeights<W> {
    /// For each new pixel its first group of old ones and where its weights begin; one entry more than pixels.
    starts: Vec<(usize, usize)>,
    values: Vec<W>,
}

impl<W> GroupedWeights<W> {
    /// Groups begin `before` pixels before the first one that is looked at.
    pub(super) fn new<const N: usize>(direction: &Direction, before: usize) -> Self
    where
        W: From<[i32; N]>,
    {
        let first = direction.first();
        let (n_new, inverse) = (direction.len(), 1.0 / direction.scale.max(1.0));
        let mut starts = Vec::with_capacity(n_new + 1);
        let mut places = Vec::with_capacity(n_new * ((2.0 * direction.support) as usize + 2 * N));
        for new in direction.wanted.clone() {
            let center = direction.center(new);
            let looked_at = direction.looked_at(new);
            let place = before + looked_at.start - first;
            starts.push((place / N, places.len() / N));
            // What a group begins or ends with beside them weighs nothing.
            places.extend(std::iter::repeat_n(OUTSIDE, place % N));
            places.extend(looked_at.map(|old| (old as f64 - center + 0.5) * inverse));
            places.resize(places.len().next_multiple_of(N), OUTSIDE);
        }
        starts.push((0, places.len() / N));
        let values = pulp::Arch::new().dispatch(FixedPoint::<N> { starts: &starts, places });
        GroupedWeights { starts, values: values.as_chunks().0.iter().map(|&group| W::from(group)).collect() }
    }

    /// New pixels.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// One past the last group.
    pub(super) fn end(&self) -> usize {
        self.end_of(self.len() - 1)
    }

    /// One past the last group of a new pixel.
    pub(super) fn end_of(&self, index: usize) -> usize {
        let (start, weights) = self.of(index);
        start + weights.len()
    }

    /// The first group of a new pixel, and the weights of this one and the next ones.
    #[inline(always)]
    pub(super) fn of(&self, index: usize) -> (usize, &[W]) {
        let (start, from) = self.starts[index];
        (start, &self.values[from..self.starts[index + 1].1])
    }
}

/// A place where the filter is 0.
const OUTSIDE: f64 = 2.0;

/// From places in the filter to weights that add up to one for each new pixel.
struct FixedPoint<'a, const N: usize> {
    starts: &'a [(usize, usize)],
    places: Vec<f64>,
}

// Not a closure, which would be compiled for the oldest processor.
impl<const N: usize> WithSimd for FixedPoint<'_, N> {
    type Output = Vec<i32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<i32> {
        let FixedPoint { starts, places: mut weights } = self;
        for weight in &mut weights {
            *weight = cubic(*weight);
        }
        for ends in starts.windows(2) {
            let of_pixel = &mut weights[ends[0].1 * N..ends[1].1 * N];
            // Added up in Pillow's order: the last bit of a sum depends on it.
            let total: f64 = of_pixel.iter().fold(0.0, |sum, weight| sum + weight);
            if total != 0.0 {
                of_pixel.iter_mut().for_each(|weight| *weight /= total);
            }
        }
        let fixed = weights.iter().map(|&weight| {
            let fixed = weight * f64::from(1 << PRECISION_BITS);
            (if weight < 0.0 { fixed - 0.5 } else { fixed + 0.5 }) as i32
        });
        fixed.collect()
    }
}

/// Keys' cubic convolution kernel with a = −0.5 (Keys 1981), as Pillow writes it.
#[inline(always)]
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    let near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = (((x - 5.0) * x + 8.0) * x - 4.0) * A;
    if x < 1.0 {
        near
    } else if x < 2.0 {
        far
    } else {
        0.0
    }
}
