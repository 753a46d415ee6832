//! Machine captions against human ones: BLEU, ROUGE-L, CIDEr.
//!
//! Numbers are those of pycocoevalcap 1.2, which COCO and its successors are reported with, for the corpus
//! and for each image. All of them score tokens, not captions: see [`ptb_tokenize`]. CIDEr weighs words by how
//! many images' references have them, so scores of parts of a test set cannot be averaged.

mod bleu;
mod cider;
mod corpus;
mod ngrams;
mod ptb;
mod rouge_l;

pub use bleu::{BleuScores, bleu};
pub use cider::{CiderVariant, cider};
pub use corpus::{CaptionCorpus, CaptionError, EmptyCaptions, TokenizedImage};
pub use ptb::ptb_tokenize;
pub use rouge_l::rouge_l;

/// One metric for all images together and for each of them, in the corpus' order.
#[derive(Debug, Clone, PartialEq)]
pub struct CaptionScores {
    /// The score of the corpus.
    pub corpus: f64,
    /// The scores of the images.
    pub per_image: Vec<f64>,
}

impl CaptionScores {
    /// A metric whose corpus score is the mean over images.
    fn from_images(per_image: Vec<f64>) -> CaptionScores {
        let corpus = per_image.iter().sum::<f64>() / per_image.len() as f64;
        CaptionScores { corpus, per_image }
    }
}

#[cfg(test)]
mod tests;
