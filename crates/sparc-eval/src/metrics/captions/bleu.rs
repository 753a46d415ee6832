//! BLEU-1 to BLEU-4 (Papineni et al. 2002), as pycocoevalcap's `bleu_scorer` computes them.
//!
//! p_n = Σ matches of n words ÷ Σ sequences of n words in the hypotheses, a sequence matching at most as often
//! as in the reference that has it most often; BLEU-n = BP · (p_1 ⋯ p_n)^{1/n} with the brevity penalty
//! BP = min(1, e^{1 − r/h}), h words in the hypotheses and r in the references of the closest length (the
//! shorter of two). The corpus score sums counts first; it is no mean of the images' scores. Both quotients are
//! smoothed by 10⁻¹⁵ above and 10⁻⁹ below, so that an image without matches of four words has a small BLEU-4
//! and not zero.

use super::ngrams::{LONGEST, Ngrams, Vocabulary};
use super::{CaptionCorpus, TokenizedImage};

/// Added to numerators (pycocoevalcap's `tiny`).
const TINY: f64 = 1e-15;
/// Added to denominators (pycocoevalcap's `small`).
const SMALL: f64 = 1e-9;

/// BLEU-1 to BLEU-4, in this order, all in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct BleuScores {
    /// Of the corpus.
    pub corpus: [f64; LONGEST],
    /// Of each image.
    pub per_image: Vec<[f64; LONGEST]>,
}

/// What BLEU counts.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    n_words: usize,
    n_reference_words: usize,
    sequences: [usize; LONGEST],
    matches: [usize; LONGEST],
}

/// BLEU of a corpus and of its images.
pub fn bleu(corpus: &CaptionCorpus) -> BleuScores {
    let mut total = Counts::default();
    let mut per_image = Vec::with_capacity(corpus.images().len());
    for image in corpus.images() {
        let counts = count(image);
        per_image.push(scores(&counts));
        total.n_words += counts.n_words;
        total.n_reference_words += counts.n_reference_words;
        for n in 0..LONGEST {
            total.sequences[n] += counts.sequences[n];
            total.matches[n] += counts.matches[n];
        }
    }
    BleuScores { corpus: scores(&total), per_image }
}

fn count(image: &TokenizedImage) -> Counts {
    let mut vocabulary = Vocabulary::default();
    let hypothesis = vocabulary.count(&image.hypothesis);
    let references: Vec<Ngrams> = image.references.iter().map(|reference| vocabulary.count(reference)).collect();
    let n_words = hypothesis.n_words;
    let lengths = references.iter().map(|reference| reference.n_words);
    let mut counts = Counts {
        n_words,
        n_reference_words: lengths.min_by_key(|&length| (length.abs_diff(n_words), length)).expect("a reference"),
        ..Counts::default()
    };
    for n in 0..LONGEST {
        counts.sequences[n] = n_words.saturating_sub(n);
        for (ngram, &n_times) in &hypothesis.counts[n] {
            let most = references.iter().filter_map(|reference| reference.counts[n].get(ngram)).max();
            counts.matches[n] += n_times.min(most.copied().unwrap_or(0));
        }
    }
    counts
}

fn scores(counts: &Counts) -> [f64; LONGEST] {
    let ratio = (counts.n_words as f64 + TINY) / (counts.n_reference_words as f64 + SMALL);
    let brevity_penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|n| {
        product *= (counts.matches[n] as f64 + TINY) / (counts.sequences[n] as f64 + SMALL);
        f64::powf(product, 1.0 / (n + 1) as f64) * brevity_penalty
    })
}
