//! Which (colour, shape) pairs training never sees.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sparc_core::seed::derive;

use super::attributes::{Color, N_CLASSES, Pair, Shape, class_index};

/// Pairs held out: 13 of 64, a fifth.
pub const N_HELD_OUT: usize = 13;

/// The held-out pairs of a data set, in the order of their classes.
///
/// They are a permutation of the shapes against the colours and five pairs of a second one that
/// agrees with the first nowhere: every colour and every shape loses one or two of its eight partners.
pub fn held_out_pairs(seed: u64) -> Vec<Pair> {
    let mut rng = ChaCha8Rng::seed_from_u64(derive(seed, &[b"shapes", b"holdout"]));
    let n = Shape::ALL.len();
    let mut shapes: Vec<usize> = (0..n).collect();
    shapes.shuffle(&mut rng);
    let mut colors: Vec<usize> = (0..n).collect();
    colors.shuffle(&mut rng);
    let first = (0..n).map(|i| (colors[i], shapes[i]));
    // One step further round the same circle: disjoint from the first, and again one to one.
    let second = (0..N_HELD_OUT - n).map(|i| (colors[i], shapes[(i + 1) % n]));
    let mut pairs: Vec<Pair> =
        first.chain(second).map(|(color, shape)| (Color::ALL[color], Shape::ALL[shape])).collect();
    pairs.sort_by_key(|&pair| class_index(pair));
    pairs
}

/// The held-out pairs as a set by class.
#[derive(Debug, Clone)]
pub(super) struct HeldOut {
    by_class: [bool; N_CLASSES],
}

impl HeldOut {
    pub(super) fn new(seed: u64) -> Self {
        let mut by_class = [false; N_CLASSES];
        for pair in held_out_pairs(seed) {
            by_class[class_index(pair)] = true;
        }
        Self { by_class }
    }

    pub(super) fn contains(&self, pair: Pair) -> bool {
        self.by_class[class_index(pair)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_and_shape_keeps_most_of_its_partners() {
        for seed in 0..50 {
            let pairs = held_out_pairs(seed);
            let mut unique = pairs.clone();
            unique.dedup();
            assert_eq!(unique.len(), N_HELD_OUT);
            for &color in Color::ALL {
                let n = pairs.iter().filter(|pair| pair.0 == color).count();
                assert!((1..=2).contains(&n), "{color:?} loses {n} shapes");
            }
            for &shape in Shape::ALL {
                let n = pairs.iter().filter(|pair| pair.1 == shape).count();
                assert!((1..=2).contains(&n), "{shape:?} loses {n} colours");
            }
        }
        assert_ne!(held_out_pairs(0), held_out_pairs(1));
    }
}
