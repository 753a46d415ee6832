//! Zero-shot retrieval: cosine of pooled embeddings, or another score, all captions of all images.
//!
//! Every caption of an image is a text of its own (the widespread "first five" is not applied: the
//! counts in the results say how many there were). Empty captions are skipped and counted; an image
//! left without a caption takes no part, not even as a candidate.

use ndarray::{Array2, ArrayView2, Axis};
use sparc_core::{EvalSample, ImageFeatures, PairScore};

use super::features::TextEmbedder;
use super::pair_scoring::ScoredPairs;
use super::{EvalError, RetrievalResults, Task};
use crate::metrics::retrieval::{mean_rank, median_rank, ranks_by_scores, recall_at, retrieval_ranks};

/// Scores held at a time: 32 MiB of f32.
const MAX_SCORES: usize = 1 << 23;

#[derive(Default)]
pub(super) struct RetrievalTask {
    /// L2-normalised embeddings, row after row.
    images: Vec<f32>,
    texts: Vec<f32>,
    /// In place of the embeddings, where more than these is compared.
    pairs: Option<ScoredPairs>,
    image_of_text: Vec<usize>,
    n_images: usize,
    n_without_captions: usize,
    n_empty_captions: usize,
}

fn usable(caption: &&str) -> bool {
    !caption.trim().is_empty()
}

impl RetrievalTask {
    pub fn new(score: PairScore) -> RetrievalTask {
        let pairs = (score != PairScore::Pooled).then(|| ScoredPairs::new(score));
        RetrievalTask { pairs, ..RetrievalTask::default() }
    }

    /// Counts what the sample lacks, and says whether it takes part.
    pub fn admit(&mut self, sample: &EvalSample) -> bool {
        let n_usable = sample.captions.iter().map(String::as_str).filter(usable).count();
        self.n_empty_captions += sample.captions.len() - n_usable;
        self.n_without_captions += usize::from(n_usable == 0);
        n_usable > 0
    }

    /// Whether the sample takes part.
    pub fn takes(sample: &EvalSample) -> bool {
        sample.captions.iter().map(String::as_str).any(|caption| usable(&caption))
    }

    /// Takes the images of one batch that take part, with their captions; `pair_features` of the same
    /// images, where they are compared.
    pub fn add_batch(
        &mut self,
        samples: &[&EvalSample],
        pooled_bd: ArrayView2<'_, f32>,
        pair_features: Option<&ImageFeatures>,
        embedder: TextEmbedder<'_>,
    ) -> Result<(), EvalError> {
        let mut captions = Vec::new();
        let mut keys = Vec::new();
        for sample in samples {
            for caption in sample.captions.iter().map(String::as_str).filter(usable) {
                captions.push(caption);
                keys.push(&sample.key);
                self.image_of_text.push(self.n_images);
            }
            self.n_images += 1;
        }
        if captions.is_empty() {
            return Ok(());
        }
        if let (Some(pairs), Some(features)) = (&mut self.pairs, pair_features) {
            pairs.add_images(features);
            pairs.add_texts(embedder.features(&captions));
            return Ok(());
        }
        self.images.extend(pooled_bd);
        let texts_nd = embedder.embed(&captions, |index| EvalError::NonFinite {
            key: keys[index].clone(),
            what: format!("embedding of the caption `{}`", captions[index]),
        })?;
        assert_eq!(texts_nd.len_of(Axis(1)), pooled_bd.len_of(Axis(1)), "width of texts and of images");
        self.texts.extend(texts_nd);
        Ok(())
    }

    pub fn finish(self, n_seen: usize) -> Result<RetrievalResults, EvalError> {
        if self.n_images == 0 {
            return Err(EvalError::NoUsableSample {
                task: Task::Retrieval,
                field: "captions",
                needs: "a caption that is not empty",
                n_images: n_seen,
            });
        }
        let n_texts = self.image_of_text.len();
        let ranks = match &self.pairs {
            Some(pairs) => {
                let (image_to_text_nm, text_to_image_nm) = pairs.matrices()?;
                ranks_by_scores(image_to_text_nm.view(), text_to_image_nm.view(), &self.image_of_text)
            }
            None => {
                let width = self.images.len() / self.n_images;
                let images_nd = Array2::from_shape_vec((self.n_images, width), self.images).expect("whole rows");
                let texts_md = Array2::from_shape_vec((n_texts, width), self.texts).expect("whole rows");
                retrieval_ranks(images_nd.view(), texts_md.view(), &self.image_of_text, MAX_SCORES)
            }
        };
        let recalls = |ranks| [1, 5, 10].map(|k| recall_at(ranks, k).expect("there are queries"));
        Ok(RetrievalResults {
            n_images: self.n_images,
            n_captions: n_texts,
            n_without_captions: self.n_without_captions,
            n_empty_captions: self.n_empty_captions,
            image_to_text_recall: recalls(&ranks.image_to_text),
            text_to_image_recall: recalls(&ranks.text_to_image),
            image_to_text_mean_rank: mean_rank(&ranks.image_to_text).expect("there are queries"),
            image_to_text_median_rank: median_rank(&ranks.image_to_text).expect("there are queries"),
            text_to_image_mean_rank: mean_rank(&ranks.text_to_image).expect("there are queries"),
            text_to_image_median_rank: median_rank(&ranks.text_to_image).expect("there are queries"),
        })
    }
}
