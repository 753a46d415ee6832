//! The second stage of retrieval: the network's matching head orders the first candidates of every query.

use sparc_core::{Matcher, seed};
use tch::{Device, Tensor};

use super::features::TextEmbedder;
use super::pair_judge::{read_logits, take_rows};
use super::results::{RankSummary, RerankedResults};
use super::{EvalError, Progress};
use crate::metrics::TiedRank;
use crate::metrics::reranking::{reranked, shortlist};
use crate::metrics::retrieval::RetrievalRanks;

/// What matching reads of all images, on the CPU, and all texts: memory grows with the tokens.
pub(super) struct Reranker {
    n_candidates: usize,
    images: Vec<Tensor>,
    texts: Vec<String>,
}

/// One direction of the first stage.
pub(super) struct FirstStage<'a> {
    pub n_queries: usize,
    /// Scores of all candidates of a query.
    pub scores: &'a dyn Fn(usize) -> Vec<f32>,
    /// Image and text of a query and a candidate.
    pub as_pair: fn(usize, usize) -> (usize, usize),
}

impl Reranker {
    pub fn new(n_candidates: usize) -> Reranker {
        Reranker { n_candidates, images: Vec::new(), texts: Vec::new() }
    }

    /// Takes the matching tokens of some images `[B, M, C]`, and their texts.
    pub fn add(&mut self, tokens_bmc: &Tensor, texts: &[&str]) {
        self.images.push(tokens_bmc.to_device(Device::Cpu));
        self.texts.extend(texts.iter().map(|text| (*text).to_owned()));
    }

    /// Orders the candidates of all queries anew: those of images for texts, then those of texts for images.
    pub fn finish(
        self,
        image_to_text: &FirstStage<'_>,
        text_to_image: &FirstStage<'_>,
        image_of_text: &[usize],
        embedder: TextEmbedder<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<RerankedResults, EvalError> {
        let n_queries = image_to_text.n_queries + text_to_image.n_queries;
        let n_candidates = self.n_candidates;
        let tokens = Tokens::read(self, embedder)?;
        let is_own = |(image, text): (usize, usize)| image_of_text[text] == image;
        let mut direction = |stage: &FirstStage<'_>, n_before: usize| {
            ranks(stage, n_candidates, &tokens, &is_own, &mut |n_done| {
                progress(Progress::Reranking { n_done: n_before + n_done, n_queries });
            })
        };
        let ranks = RetrievalRanks {
            image_to_text: direction(image_to_text, 0)?,
            text_to_image: direction(text_to_image, image_to_text.n_queries)?,
        };
        // Whose own candidate is listed cannot have a whole list before it.
        let listed = |ranks: &[TiedRank], n_others: usize| {
            let n_listed = ranks.iter().filter(|rank| rank.n_better < n_candidates.min(n_others)).count();
            n_listed as f64 / ranks.len() as f64
        };
        Ok(RerankedResults {
            n_candidates,
            image_to_text_listed: listed(&ranks.image_to_text, text_to_image.n_queries),
            text_to_image_listed: listed(&ranks.text_to_image, image_to_text.n_queries),
            ranks: RankSummary::of(&ranks, image_of_text),
        })
    }
}

/// Ranks of the queries of one direction, as many at a time as fill a batch of pairs.
fn ranks(
    stage: &FirstStage<'_>,
    n_candidates: usize,
    tokens: &Tokens<'_>,
    is_own: &dyn Fn((usize, usize)) -> bool,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<TiedRank>, EvalError> {
    let at_a_time = (tokens.batch_size / n_candidates).max(1);
    let mut ranks = Vec::with_capacity(stage.n_queries);
    for start in (0..stage.n_queries).step_by(at_a_time) {
        let listed: Vec<(usize, Vec<f32>, Vec<usize>)> = (start..(start + at_a_time).min(stage.n_queries))
            .map(|query| {
                let scores = (stage.scores)(query);
                let list = shortlist(&scores, n_candidates, seed::derive(query as u64, &[b"rerank"]));
                (query, scores, list)
            })
            .collect();
        let pairs: Vec<(usize, usize)> = listed
            .iter()
            .flat_map(|(query, _, list)| list.iter().map(|&candidate| (stage.as_pair)(*query, candidate)))
            .collect();
        let logits = tokens.match_logits(&pairs)?;
        let mut rest = logits.as_slice();
        for (query, scores, list) in &listed {
            let (own, others) = rest.split_at(list.len());
            ranks.extend(reranked(scores, list, own, |candidate| is_own((stage.as_pair)(*query, candidate))));
            rest = others;
        }
        progress(start + listed.len());
    }
    Ok(ranks)
}

/// What the matching head reads, on the CPU.
struct Tokens<'a> {
    matcher: &'a dyn Matcher,
    device: Device,
    batch_size: usize,
    images_nmc: Tensor,
    texts_tlw: Tensor,
    mask_tl: Tensor,
}

impl<'a> Tokens<'a> {
    fn read(reranker: Reranker, embedder: TextEmbedder<'a>) -> Result<Tokens<'a>, EvalError> {
        let matcher = embedder.encoder.matcher().expect("re-ranking is asked of networks with a matching head");
        let texts: Vec<&str> = reranker.texts.iter().map(String::as_str).collect();
        // All of one length: texts of several batches meet in one.
        let batch = embedder.tokenizer.tokenize(&texts);
        let of_rows = |rows: &[i64]| {
            let texts = sparc_core::TextBatch {
                ids_bl: take_rows(&batch.ids_bl, rows),
                mask_bl: take_rows(&batch.mask_bl, rows),
                content_bl: take_rows(&batch.content_bl, rows),
            };
            matcher.text_tokens(&texts.to_device(embedder.device)).to_device(Device::Cpu)
        };
        let rows: Vec<i64> = (0..texts.len() as i64).collect();
        let texts_tlw: Vec<Tensor> = rows.chunks(embedder.batch_size).map(of_rows).collect();
        Ok(Tokens {
            matcher,
            device: embedder.device,
            batch_size: embedder.batch_size,
            images_nmc: Tensor::cat(&reranker.images, 0),
            texts_tlw: Tensor::cat(&texts_tlw, 0),
            mask_tl: batch.mask_bl,
        })
    }

    /// Log-odds of pairs of an image and a text.
    fn match_logits(&self, pairs: &[(usize, usize)]) -> Result<Vec<f32>, EvalError> {
        let mut logits = Vec::with_capacity(pairs.len());
        for batch in pairs.chunks(self.batch_size) {
            let images: Vec<i64> = batch.iter().map(|pair| pair.0 as i64).collect();
            let texts: Vec<i64> = batch.iter().map(|pair| pair.1 as i64).collect();
            let take = |tensor: &Tensor, rows: &[i64]| take_rows(tensor, rows).to_device(self.device);
            let logits_r = self.matcher.match_logits(
                &take(&self.images_nmc, &images),
                &take(&self.texts_tlw, &texts),
                &take(&self.mask_tl, &texts),
            );
            logits.extend(read_logits(&logits_r, batch.len()));
        }
        if logits.iter().all(|logit| logit.is_finite()) { Ok(logits) } else { Err(EvalError::NonFiniteScore) }
    }
}
