//! ROUGE-L (Lin 2004), as pycocoevalcap computes it.
//!
//! For each reference, P = l ÷ words of the hypothesis and R = l ÷ words of the reference, l the length of
//! their longest common subsequence. Of several references the best P and the best R count, though they may come
//! from two; then F = (1 + β²) P R ÷ (R + β² P) with β = 1.2. The corpus score is the mean over images.

use super::{CaptionCorpus, CaptionScores, TokenizedImage};

/// Weight of recall against precision, pycocoevalcap's.
const BETA: f64 = 1.2;

/// ROUGE-L of a corpus and of its images, in [0, 1].
pub fn rouge_l(corpus: &CaptionCorpus) -> CaptionScores {
    CaptionScores::from_images(corpus.images().iter().map(score).collect())
}

fn score(image: &TokenizedImage) -> f64 {
    // Split at spaces alone: no-break spaces stay, and an empty caption is one empty word.
    let hypothesis: Vec<&str> = image.hypothesis.split(' ').collect();
    let (mut precision, mut recall) = (0.0f64, 0.0f64);
    for reference in &image.references {
        let reference: Vec<&str> = reference.split(' ').collect();
        let common = longest_common_subsequence(&hypothesis, &reference) as f64;
        precision = precision.max(common / hypothesis.len() as f64);
        recall = recall.max(common / reference.len() as f64);
    }
    if precision == 0.0 || recall == 0.0 {
        return 0.0;
    }
    (1.0 + BETA * BETA) * precision * recall / (recall + BETA * BETA * precision)
}

/// One row of the usual table is enough.
fn longest_common_subsequence(a: &[&str], b: &[&str]) -> usize {
    let mut lengths = vec![0; b.len() + 1];
    for a in a {
        let mut diagonal = 0;
        for (column, b) in b.iter().enumerate() {
            let above = lengths[column + 1];
            lengths[column + 1] = if a == b { diagonal + 1 } else { above.max(lengths[column]) };
            diagonal = above;
        }
    }
    lengths[b.len()]
}
