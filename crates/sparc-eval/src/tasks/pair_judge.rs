//! How well given pairs of an image and a text fit: by the score that the network was trained to contrast, and, if it
//! has one, by its matching head.

use std::collections::{BTreeMap, HashMap};

use ndarray::{Array2, Axis};
use sparc_core::{Encoder, ImageFeatures, PairScore, PatchPath, TextBatch, TextFeatures, Tokenize};
use tch::{Device, Kind, Tensor};

use super::EvalError;
use super::features::{TextEmbedder, normalized_rows};
use super::pair_scoring::pair_scores;

/// Judges pairs with a network. Each text of a call is read once for a batch of pairs.
#[derive(Clone, Copy)]
pub struct PairJudge<'a> {
    embedder: TextEmbedder<'a>,
    pair_score: PairScore,
}

/// What judging reads of some images, one row each.
#[derive(Debug)]
pub struct SeenImages {
    keys: Vec<String>,
    /// L2-normalised pooled embeddings, `[B, D]`.
    pub(super) pooled_bd: Array2<f32>,
    /// Where more than these is compared.
    pub(super) compared: Option<ImageFeatures>,
    /// What the matching head reads, `[B, M, C]`, if there is one.
    pub(super) tokens_bmc: Option<Tensor>,
}

/// How well a pair fits. The first two are the same but for FILIP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairJudgement {
    /// The pair score by which texts of an image are ranked.
    pub among_texts: f32,
    /// The pair score by which images of a text are ranked.
    pub among_images: f32,
    /// The matching head's log-odds that the pair belongs together.
    pub match_logit: Option<f32>,
}

impl PairJudgement {
    /// The matching head's log-odds and [`PairJudgement::among_texts`], added up. ARO's wrapper of X-VLM adds the
    /// cosine to the logit of "match" alone.
    pub fn match_and_score(&self) -> Option<f32> {
        Some(self.match_logit? + self.among_texts)
    }

    /// The same with [`PairJudgement::among_images`].
    pub fn match_and_score_among_images(&self) -> Option<f32> {
        Some(self.match_logit? + self.among_images)
    }
}

impl SeenImages {
    /// From features whose pooled embeddings must be finite; `compared` and `tokens_bmc` of the same images.
    pub(super) fn new(
        keys: Vec<String>,
        pooled_bd: &Tensor,
        compared: Option<ImageFeatures>,
        tokens_bmc: Option<Tensor>,
    ) -> Result<SeenImages, EvalError> {
        let pooled_bd = normalized_rows(pooled_bd, |row| EvalError::NonFinite {
            key: keys[row].clone(),
            what: "pooled image embedding".to_owned(),
        })?;
        Ok(SeenImages { keys, pooled_bd, compared, tokens_bmc })
    }

    /// Some of the images.
    pub(super) fn select(&self, rows: &[usize]) -> SeenImages {
        let selected: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        SeenImages {
            keys: rows.iter().map(|&row| self.keys[row].clone()).collect(),
            pooled_bd: self.pooled_bd.select(Axis(0), rows),
            compared: self.compared.as_ref().map(|features| features.select(&selected)),
            tokens_bmc: self.tokens_bmc.as_ref().map(|tokens| take_rows(tokens, &selected)),
        }
    }
}

impl<'a> PairJudge<'a> {
    /// A judge by `pair_score` and by the network's matching head, if it has one. `device` is where the network lies,
    /// `batch_size` the number of pairs judged together.
    ///
    /// # Panics
    ///
    /// If the batch size is 0.
    pub fn new(
        encoder: &'a dyn Encoder,
        tokenizer: &'a dyn Tokenize,
        pair_score: PairScore,
        device: Device,
        batch_size: usize,
    ) -> PairJudge<'a> {
        assert!(batch_size > 0, "no pairs in a batch");
        PairJudge { embedder: TextEmbedder { encoder, tokenizer, device, batch_size }, pair_score }
    }

    pub(super) fn of(embedder: TextEmbedder<'a>, pair_score: PairScore) -> PairJudge<'a> {
        PairJudge { embedder, pair_score }
    }

    /// Reads normalised images `[B, 3, H, W]`; their keys are for errors.
    ///
    /// # Errors
    ///
    /// An embedding that is not finite.
    pub fn see(&self, images_bchw: &Tensor, keys: Vec<String>) -> Result<SeenImages, EvalError> {
        assert_eq!(images_bchw.size().first(), Some(&(keys.len() as i64)), "one key an image");
        tch::no_grad(|| {
            let encoder = self.embedder.encoder;
            let images_bchw = images_bchw.to_device(self.embedder.device);
            let (features, tokens_bmc) = match encoder.matcher() {
                None => (encoder.encode_images(&images_bchw, PatchPath::Local), None),
                Some(matcher) => {
                    let (features, tokens_bmc) = matcher.features_and_tokens(&images_bchw, PatchPath::Local);
                    (features, Some(tokens_bmc))
                }
            };
            let pooled_bd = features.pooled_bd.shallow_clone();
            let compared = (self.pair_score != PairScore::Pooled).then_some(features);
            SeenImages::new(keys, &pooled_bd, compared, tokens_bmc)
        })
    }

    /// Judges pairs of an image, by its row, and a text.
    ///
    /// # Errors
    ///
    /// A score that is not finite, with the image's key.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn judge(&self, images: &SeenImages, pairs: &[(usize, &str)]) -> Result<Vec<PairJudgement>, EvalError> {
        tch::no_grad(|| {
            let mut judgements = Vec::with_capacity(pairs.len());
            for batch in pairs.chunks(self.embedder.batch_size) {
                judgements.extend(self.judge_batch(images, batch)?);
            }
            Ok(judgements)
        })
    }

    fn judge_batch(&self, images: &SeenImages, pairs: &[(usize, &str)]) -> Result<Vec<PairJudgement>, EvalError> {
        let (mut texts, mut places): (Vec<&str>, HashMap<&str, usize>) = Default::default();
        for (_, text) in pairs {
            places.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() - 1
            });
        }
        let rows: Vec<(usize, usize)> = pairs.iter().map(|(image, text)| (*image, places[text])).collect();
        let batch = self.embedder.tokenizer.tokenize(&texts).to_device(self.embedder.device);
        let features = self.embedder.encoder.encode_text(&batch);
        let scores = match self.pair_score {
            PairScore::Pooled => self.cosines(images, &features, &texts, &rows)?,
            PairScore::TokenMaxima | PairScore::PooledByText { .. } => self.scores(images, &features, &rows)?,
        };
        let logits = self.match_logits(images, &batch, &texts, &rows)?;
        let judgement = |(pair, (among_texts, among_images)): (usize, (f32, f32))| PairJudgement {
            among_texts,
            among_images,
            match_logit: logits.as_ref().map(|logits| logits[pair]),
        };
        Ok(scores.into_iter().enumerate().map(judgement).collect())
    }

    /// Each product is summed alone and in f64, so that equal embeddings tie exactly.
    fn cosines(
        &self,
        images: &SeenImages,
        texts: &TextFeatures,
        names: &[&str],
        pairs: &[(usize, usize)],
    ) -> Result<Vec<(f32, f32)>, EvalError> {
        let texts_nd = normalized_rows(&texts.pooled_bd, |row| {
            let (image, _) = pairs.iter().find(|pair| pair.1 == row).expect("a text of a pair");
            EvalError::NonFinite {
                key: images.keys[*image].clone(),
                what: format!("embedding of the text `{}`", names[row]),
            }
        })?;
        assert_eq!(texts_nd.ncols(), images.pooled_bd.ncols(), "width of texts and of images");
        let cosine = |&(image, text): &(usize, usize)| {
            let products = images.pooled_bd.row(image).into_iter().zip(texts_nd.row(text));
            let cosine = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
            (cosine, cosine)
        };
        Ok(pairs.iter().map(cosine).collect())
    }

    /// Scores that read patches or tokens, image by image.
    fn scores(
        &self,
        images: &SeenImages,
        texts: &TextFeatures,
        pairs: &[(usize, usize)],
    ) -> Result<Vec<(f32, f32)>, EvalError> {
        let compared = images.compared.as_ref().expect("features for this score");
        let mut of_image: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (pair, (image, _)) in pairs.iter().enumerate() {
            of_image.entry(*image).or_default().push(pair);
        }
        let mut scores = vec![(0.0, 0.0); pairs.len()];
        for (image, own) in of_image {
            let rows: Vec<i64> = own.iter().map(|&pair| pairs[pair].1 as i64).collect();
            let (among_texts, among_images) =
                pair_scores(self.pair_score, &compared.select(&[image as i64]), &texts.select(&rows))?;
            for (column, pair) in own.into_iter().enumerate() {
                scores[pair] = (among_texts[[0, column]], among_images[[0, column]]);
            }
        }
        Ok(scores)
    }

    fn match_logits(
        &self,
        images: &SeenImages,
        texts: &TextBatch,
        names: &[&str],
        pairs: &[(usize, usize)],
    ) -> Result<Option<Vec<f32>>, EvalError> {
        let (Some(matcher), Some(tokens_bmc)) = (self.embedder.encoder.matcher(), &images.tokens_bmc) else {
            return Ok(None);
        };
        let image_rows: Vec<i64> = pairs.iter().map(|pair| pair.0 as i64).collect();
        let text_rows: Vec<i64> = pairs.iter().map(|pair| pair.1 as i64).collect();
        let logits_r = matcher.match_logits(
            &take_rows(tokens_bmc, &image_rows),
            &take_rows(&matcher.text_tokens(texts), &text_rows),
            &take_rows(&texts.mask_bl, &text_rows),
        );
        let logits = read_logits(&logits_r, pairs.len());
        match logits.iter().position(|logit| !logit.is_finite()) {
            None => Ok(Some(logits)),
            Some(pair) => Err(EvalError::NonFinite {
                key: images.keys[pairs[pair].0].clone(),
                what: format!("matching logit with the text `{}`", names[pairs[pair].1]),
            }),
        }
    }
}

/// Rows of a tensor, on its device.
pub(super) fn take_rows(tensor: &Tensor, rows: &[i64]) -> Tensor {
    tensor.index_select(0, &Tensor::from_slice(rows).to_device(tensor.device()))
}

/// The log-odds of `n_pairs` pairs.
pub(super) fn read_logits(logits_r: &Tensor, n_pairs: usize) -> Vec<f32> {
    assert_eq!(logits_r.size(), [n_pairs as i64], "one matching logit a pair");
    let flat = logits_r.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    Vec::<f32>::try_from(&flat).expect("numbers")
}
