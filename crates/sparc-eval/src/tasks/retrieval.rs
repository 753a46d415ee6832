//! Zero-shot retrieval: cosine of pooled embeddings, or another score, all captions of all images.
//!
//! Every caption of an image is a text of its own (the widespread "first five" is not applied: the
//! counts in the results say how many there were). Empty captions are skipped and counted; an image
//! left without a caption takes no part, not even as a candidate.
//!
//! With a matching head the first candidates of every query can be ordered anew; see [`crate::metrics::reranking`].

use ndarray::{Array2, Axis};
use sparc_core::{EvalSample, PairScore};

use super::features::TextEmbedder;
use super::pair_judge::SeenImages;
use super::pair_scoring::ScoredPairs;
use super::reranking::{FirstStage, Reranker};
use super::results::{RankSummary, RerankedResults};
use super::{EvalError, Progress, RetrievalResults, Task};
use crate::metrics::retrieval::{ranks_by_scores, retrieval_ranks};

/// Scores held at a time: 32 MiB of f32.
const MAX_SCORES: usize = 1 << 23;

#[derive(Default)]
pub(super) struct RetrievalTask {
    /// L2-normalised embeddings, row after row.
    images: Vec<f32>,
    texts: Vec<f32>,
    /// In place of the embeddings, where more than these is compared.
    pairs: Option<ScoredPairs>,
    reranker: Option<Reranker>,
    image_of_text: Vec<usize>,
    n_images: usize,
    n_without_captions: usize,
    n_empty_captions: usize,
}

fn usable(caption: &&str) -> bool {
    !caption.trim().is_empty()
}

impl RetrievalTask {
    /// `rerank` is the number of candidates that the matching head orders, if it is to.
    pub fn new(score: PairScore, rerank: Option<usize>) -> RetrievalTask {
        let pairs = (score != PairScore::Pooled).then(|| ScoredPairs::new(score));
        RetrievalTask { pairs, reranker: rerank.map(Reranker::new), ..RetrievalTask::default() }
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

    /// Takes the images of one batch that take part, with their captions.
    pub fn add_batch(
        &mut self,
        samples: &[&EvalSample],
        seen: &SeenImages,
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
        if let (Some(reranker), Some(tokens_bmc)) = (&mut self.reranker, &seen.tokens_bmc) {
            reranker.add(tokens_bmc, &captions);
        }
        if let (Some(pairs), Some(features)) = (&mut self.pairs, &seen.compared) {
            pairs.add_images(features);
            pairs.add_texts(embedder.features(&captions));
            return Ok(());
        }
        self.images.extend(&seen.pooled_bd);
        let texts_nd = embedder.embed(&captions, |index| EvalError::NonFinite {
            key: keys[index].clone(),
            what: format!("embedding of the caption `{}`", captions[index]),
        })?;
        assert_eq!(texts_nd.len_of(Axis(1)), seen.pooled_bd.len_of(Axis(1)), "width of texts and of images");
        self.texts.extend(texts_nd);
        Ok(())
    }

    pub fn finish(
        self,
        n_seen: usize,
        embedder: TextEmbedder<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RetrievalResults, EvalError> {
        if self.n_images == 0 {
            return Err(EvalError::NoUsableSample {
                task: Task::Retrieval,
                field: "captions",
                needs: "a caption that is not empty",
                n_images: n_seen,
            });
        }
        let n_texts = self.image_of_text.len();
        let mut second =
            SecondStage { reranker: self.reranker, image_of_text: &self.image_of_text, embedder, progress };
        let (ranks, reranked) = match &self.pairs {
            Some(pairs) => {
                let (image_to_text_nm, text_to_image_nm) = pairs.matrices()?;
                let ranks = ranks_by_scores(image_to_text_nm.view(), text_to_image_nm.view(), &self.image_of_text);
                let reranked =
                    second.reranked(self.n_images, &|image| image_to_text_nm.row(image).to_vec(), &|text| {
                        text_to_image_nm.column(text).to_vec()
                    })?;
                (ranks, reranked)
            }
            None => {
                let width = self.images.len() / self.n_images;
                let images_nd = Array2::from_shape_vec((self.n_images, width), self.images).expect("whole rows");
                let texts_md = Array2::from_shape_vec((n_texts, width), self.texts).expect("whole rows");
                let ranks = retrieval_ranks(images_nd.view(), texts_md.view(), &self.image_of_text, MAX_SCORES);
                let reranked =
                    second.reranked(self.n_images, &|image| texts_md.dot(&images_nd.row(image)).to_vec(), &|text| {
                        images_nd.dot(&texts_md.row(text)).to_vec()
                    })?;
                (ranks, reranked)
            }
        };
        Ok(RetrievalResults {
            n_images: self.n_images,
            n_captions: n_texts,
            n_without_captions: self.n_without_captions,
            n_empty_captions: self.n_empty_captions,
            ranks: RankSummary::of(&ranks, &self.image_of_text),
            reranked,
        })
    }
}

/// What follows the ranks by scores, if it was asked for.
struct SecondStage<'a> {
    reranker: Option<Reranker>,
    image_of_text: &'a [usize],
    embedder: TextEmbedder<'a>,
    progress: &'a mut dyn FnMut(Progress),
}

impl SecondStage<'_> {
    fn reranked(
        &mut self,
        n_images: usize,
        of_image: &dyn Fn(usize) -> Vec<f32>,
        of_text: &dyn Fn(usize) -> Vec<f32>,
    ) -> Result<Option<RerankedResults>, EvalError> {
        let Some(reranker) = self.reranker.take() else { return Ok(None) };
        let image_to_text = FirstStage { n_queries: n_images, scores: of_image, as_pair: |image, text| (image, text) };
        let text_to_image =
            FirstStage { n_queries: self.image_of_text.len(), scores: of_text, as_pair: |text, image| (image, text) };
        let results =
            reranker.finish(&image_to_text, &text_to_image, self.image_of_text, self.embedder, self.progress)?;
        Ok(Some(results))
    }
}
