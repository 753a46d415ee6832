//! CIDEr (Vedantam et al. 2015): similarity of tf-idf vectors of sequences of one to four words.
//!
//! The weight of a sequence in a caption is tf · (ln N − ln max(1, df)): tf its count, N the images, df the
//! images with the sequence in some reference. Per length the similarity with a reference is a cosine; the score
//! is 10 · the mean over lengths and over references, and the corpus score the mean over images.
//!
//! With one image every weight is ln 1 = 0 and so is the score.

use std::collections::BTreeMap;

use super::ngrams::{LONGEST, Ngrams, Vocabulary};
use super::{CaptionCorpus, CaptionScores};

/// Width in words of the penalty on a difference in length, pycocoevalcap's.
const SIGMA: f64 = 6.0;

/// Which similarity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CiderVariant {
    /// CIDEr-D: what papers report as CIDEr and what pycocoevalcap's `Cider` computes. In the dot product a
    /// hypothesis' weight counts up to the reference's, and e^{−Δ²/2σ²} punishes a difference of Δ words, σ = 6.
    Deduplicated,
    /// The paper's first formula: plain cosines, which repeating words can raise. The paper's stemming is left
    /// out, as in its public code.
    Original,
}

/// The tf-idf vectors of one caption.
struct Vectors {
    weights: [BTreeMap<[u32; LONGEST], f64>; LONGEST],
    norms: [f64; LONGEST],
    /// Pairs of words: pycocoevalcap's length, one less than the words.
    length: usize,
}

/// CIDEr of a corpus and of its images, in [0, 10]. Papers give it times 100, where a good captioner has 100 and
/// more on COCO.
pub fn cider(corpus: &CaptionCorpus, variant: CiderVariant) -> CaptionScores {
    let mut vocabulary = Vocabulary::default();
    let images: Vec<(Ngrams, Vec<Ngrams>)> = corpus
        .images()
        .iter()
        .map(|image| {
            let hypothesis = vocabulary.count(&image.hypothesis);
            (hypothesis, image.references.iter().map(|reference| vocabulary.count(reference)).collect())
        })
        .collect();
    let frequencies = document_frequencies(&images);
    let log_images = (images.len() as f64).ln();
    let weigh = |ngrams: &Ngrams| vectors(ngrams, &frequencies, log_images);
    let per_image = images
        .iter()
        .map(|(hypothesis, references)| {
            let hypothesis = weigh(hypothesis);
            let sum: f64 = references.iter().map(|reference| similarity(&hypothesis, &weigh(reference), variant)).sum();
            10.0 * sum / LONGEST as f64 / references.len() as f64
        })
        .collect();
    CaptionScores::from_images(per_image)
}

/// In how many images some reference has each sequence.
fn document_frequencies(images: &[(Ngrams, Vec<Ngrams>)]) -> BTreeMap<[u32; LONGEST], usize> {
    let mut frequencies = BTreeMap::new();
    for (_, references) in images {
        let ngrams = references.iter().flat_map(|reference| reference.counts.iter().flat_map(BTreeMap::keys));
        let distinct: std::collections::BTreeSet<_> = ngrams.collect();
        for ngram in distinct {
            *frequencies.entry(*ngram).or_default() += 1;
        }
    }
    frequencies
}

fn vectors(ngrams: &Ngrams, frequencies: &BTreeMap<[u32; LONGEST], usize>, log_images: f64) -> Vectors {
    let weigh = |ngram: &[u32; LONGEST], &n_times: &usize| {
        let frequency = frequencies.get(ngram).copied().unwrap_or(0).max(1);
        n_times as f64 * (log_images - (frequency as f64).ln())
    };
    let weights: [BTreeMap<_, _>; LONGEST] = std::array::from_fn(|n| {
        ngrams.counts[n].iter().map(|(ngram, n_times)| (*ngram, weigh(ngram, n_times))).collect()
    });
    let norms = std::array::from_fn(|n| weights[n].values().map(|weight| weight * weight).sum::<f64>().sqrt());
    Vectors { weights, norms, length: ngrams.n_words.saturating_sub(1) }
}

/// Summed over the four lengths.
fn similarity(hypothesis: &Vectors, reference: &Vectors, variant: CiderVariant) -> f64 {
    let difference = hypothesis.length as f64 - reference.length as f64;
    let penalty = match variant {
        CiderVariant::Deduplicated => (-difference * difference / (2.0 * SIGMA * SIGMA)).exp(),
        CiderVariant::Original => 1.0,
    };
    let mut sum = 0.0;
    for n in 0..LONGEST {
        let mut dot = 0.0;
        for (ngram, &weight) in &hypothesis.weights[n] {
            let other = reference.weights[n].get(ngram).copied().unwrap_or(0.0);
            dot += match variant {
                CiderVariant::Deduplicated => weight.min(other) * other,
                CiderVariant::Original => weight * other,
            };
        }
        let norms = hypothesis.norms[n] * reference.norms[n];
        sum += penalty * if norms > 0.0 { dot / norms } else { dot };
    }
    sum
}
