//! Stateless randomness: every random choice is seeded by what it is for, never by what came before.
//!
//! A seed is a hash of the run's seed and of a list of words (purpose, epoch, key, …), so that a
//! resumed run, another number of threads or another order of construction draws the same numbers.

/// 64-bit FNV-1a offset basis and prime (Fowler, Noll, Vo).
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// Seed for the purpose described by `words`, derived from the run's `seed`.
///
/// The words are length-prefixed, so that `["ab", "c"]` and `["a", "bc"]` differ; the hash ends with
/// SplitMix64's finaliser (Steele et al. 2014), because FNV alone mixes its high bits poorly.
pub fn derive(seed: u64, words: &[&[u8]]) -> u64 {
    let mut hash = FNV_OFFSET;
    let mut absorb = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
    };
    absorb(&seed.to_le_bytes());
    for word in words {
        absorb(&(word.len() as u64).to_le_bytes());
        absorb(word);
    }
    finalize(hash)
}

/// `count` numbers in [0, 1) for the purpose described by `words`; the i-th depends on seed, words and `first + i`
/// alone, so that processes draw for their rows what one process would.
pub fn uniforms(seed: u64, words: &[&[u8]], first: u64, count: usize) -> Vec<f64> {
    let purpose = derive(seed, words);
    (0..count as u64)
        .map(|index| (derive(purpose, &[&(first + index).to_le_bytes()]) >> 11) as f64 / (1u64 << 53) as f64)
        .collect()
}

fn finalize(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{derive, uniforms};

    #[test]
    fn words_do_not_run_together() {
        assert_ne!(derive(0, &[b"ab", b"c"]), derive(0, &[b"a", b"bc"]));
        assert_ne!(derive(0, &[b"a"]), derive(1, &[b"a"]));
        assert_ne!(derive(0, &[]), derive(0, &[b""]));
    }

    #[test]
    fn derivation_is_pinned() {
        // Changing the hash would silently change every run: this value may never move.
        assert_eq!(derive(7, &[b"shuffle", &3u64.to_le_bytes()]), PINNED);
    }

    #[test]
    fn uniforms_are_uniform_and_know_their_place() {
        let whole = uniforms(3, &[b"negatives"], 0, 4096);
        assert!(whole.iter().all(|value| (0.0..1.0).contains(value)));
        assert!((whole.iter().sum::<f64>() / 4096.0 - 0.5).abs() < 0.02);
        let squares = whole.iter().map(|value| value * value).sum::<f64>() / 4096.0;
        assert!((squares - 1.0 / 3.0).abs() < 0.02);
        assert_eq!(uniforms(3, &[b"negatives"], 1000, 10), whole[1000..1010]);
        assert_ne!(uniforms(3, &[b"masks"], 0, 1), whole[..1]);
    }

    const PINNED: u64 = 16_256_845_461_495_012_445;
}
