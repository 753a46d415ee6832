//! Captioning: the network's own captions against those of people.
//!
//! Every image with a caption that is not empty gets one of the network's, and all of the image's captions are its
//! references. CIDEr weighs words by the images at hand: scores of parts of a test set cannot be averaged.

use serde::{Deserialize, Serialize};
use sparc_core::{Caption, EvalSample};
use tch::Tensor;

use super::measured::MetricKeys;
use super::{EvalError, Task};
use crate::metrics::captions::{CaptionCorpus, CiderVariant, EmptyCaptions, bleu, cider, rouge_l};

/// A caption that the network has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageCaption {
    /// Key of the sample.
    pub key: String,
    /// The caption.
    pub caption: String,
}

/// Captioning, scored as pycocoevalcap does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaptioningResults {
    /// Images captioned.
    pub n_images: usize,
    /// Captions of people that they were scored against.
    pub n_references: usize,
    /// Images left out because they have no caption (or only empty ones).
    pub n_without_captions: usize,
    /// How captions were made.
    pub generation: String,
    /// BLEU-1 to BLEU-4 of the corpus.
    pub bleu: [f64; 4],
    /// ROUGE-L.
    pub rouge_l: f64,
    /// CIDEr-D; papers give it times 100.
    pub cider: f64,
    /// Mean number of words of a caption.
    pub mean_words: f64,
    /// Different captions ÷ images: a captioner that says the same of every image shows here.
    pub distinct_captions: f64,
    /// The captions.
    pub captions: Vec<ImageCaption>,
}

#[derive(Default)]
pub(super) struct CaptioningTask {
    captions: Vec<ImageCaption>,
    references: Vec<Vec<String>>,
    n_without_captions: usize,
    protocol: String,
}

/// An image's captions that can serve as references.
fn references(sample: &EvalSample) -> impl Iterator<Item = &String> {
    sample.captions.iter().filter(|caption| !caption.trim().is_empty())
}

impl CaptioningTask {
    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        let takes_part = references(sample).next().is_some();
        self.n_without_captions += usize::from(!takes_part);
        takes_part
    }

    /// Captions those of one batch's images `[B, 3, H, W]` that take part.
    pub fn add_batch(&mut self, captioner: &dyn Caption, samples: &[EvalSample], images_bchw: &Tensor) {
        let rows: Vec<i64> = (0..samples.len())
            .filter(|&row| references(&samples[row]).next().is_some())
            .map(|row| row as i64)
            .collect();
        if rows.is_empty() {
            return;
        }
        let chosen: Vec<&EvalSample> = rows.iter().map(|&row| &samples[row as usize]).collect();
        let images_bchw = images_bchw.index_select(0, &Tensor::from_slice(&rows).to_device(images_bchw.device()));
        let keys: Vec<&str> = chosen.iter().map(|sample| sample.key.as_str()).collect();
        let captions = captioner.caption(&images_bchw, &keys);
        assert_eq!(captions.len(), chosen.len(), "one caption an image");
        for (sample, caption) in chosen.into_iter().zip(captions) {
            self.captions.push(ImageCaption { key: sample.key.clone(), caption });
            self.references.push(references(sample).cloned().collect());
        }
        self.protocol = captioner.protocol();
    }

    pub fn finish(self, n_seen: usize) -> Result<CaptioningResults, EvalError> {
        let n_images = self.captions.len();
        if n_images == 0 {
            return Err(EvalError::NoUsableSample {
                task: Task::Captioning,
                field: "captions",
                needs: "a caption that is not empty",
                n_images: n_seen,
            });
        }
        // Keys of several shards may be the same: images are numbered.
        let hypotheses = self.captions.iter().enumerate().map(|(id, image)| (id.to_string(), image.caption.clone()));
        let n_references = self.references.iter().map(Vec::len).sum();
        let references = self.references.into_iter().enumerate().map(|(id, captions)| (id.to_string(), captions));
        let corpus = CaptionCorpus::new(hypotheses, references, EmptyCaptions::Score)
            .expect("every image has one caption and references");
        let n_words = corpus.images().iter().map(|image| image.hypothesis.split_whitespace().count()).sum::<usize>();
        let distinct: std::collections::BTreeSet<&str> =
            corpus.images().iter().map(|image| image.hypothesis.as_str()).collect();
        Ok(CaptioningResults {
            n_images,
            n_references,
            n_without_captions: self.n_without_captions,
            generation: self.protocol,
            bleu: bleu(&corpus).corpus,
            rouge_l: rouge_l(&corpus).corpus,
            cider: cider(&corpus, CiderVariant::Deduplicated).corpus,
            mean_words: n_words as f64 / n_images as f64,
            distinct_captions: distinct.len() as f64 / n_images as f64,
            captions: self.captions,
        })
    }
}

impl CaptioningResults {
    pub(super) fn metrics(&self, keys: &mut MetricKeys) {
        for (n, bleu) in (1..).zip(self.bleu) {
            keys.number(&format!("caption_BLEU-{n}"), bleu);
        }
        keys.number("caption_ROUGE-L", self.rouge_l);
        keys.number("caption_CIDEr", self.cider);
        keys.number("caption_mean_words", self.mean_words);
        keys.number("caption_distinct", self.distinct_captions);
    }
}
