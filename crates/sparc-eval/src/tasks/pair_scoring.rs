//! Scores of image-text pairs that need more than the pooled embeddings.

use ndarray::{Array2, Axis};
use sparc_core::{ImageFeatures, PairScore, PairScores, TextFeatures};
use tch::{Device, Kind, Tensor};

use super::EvalError;

/// Features of all images and texts, batch by batch, on the CPU: memory grows with patches and tokens.
pub(super) struct ScoredPairs {
    score: PairScore,
    images: Vec<ImageFeatures>,
    texts: Vec<TextFeatures>,
}

impl ScoredPairs {
    pub fn new(score: PairScore) -> ScoredPairs {
        ScoredPairs { score, images: Vec::new(), texts: Vec::new() }
    }

    pub fn add_images(&mut self, images: &ImageFeatures) {
        self.images.push(ImageFeatures {
            pooled_bd: images.pooled_bd.to_device(Device::Cpu),
            patches_bpd: images.patches_bpd.to_device(Device::Cpu),
            grid: images.grid,
        });
    }

    pub fn add_texts(&mut self, texts: impl IntoIterator<Item = TextFeatures>) {
        self.texts.extend(texts.into_iter().map(|texts| TextFeatures {
            pooled_bd: texts.pooled_bd.to_device(Device::Cpu),
            tokens_bld: texts.tokens_bld.to_device(Device::Cpu),
            mask_bl: texts.mask_bl.to_device(Device::Cpu),
        }));
    }

    /// Scores for ranking texts, and for ranking images, `[N, M]` each.
    pub fn matrices(&self) -> Result<(Array2<f32>, Array2<f32>), EvalError> {
        let blocks = |images: &ImageFeatures| {
            self.texts.iter().map(|texts| checked(self.score.scores(images, texts))).collect::<Result<Vec<_>, _>>()
        };
        let rows = self.images.iter().map(blocks).collect::<Result<Vec<_>, _>>()?;
        let matrix = |side: &dyn Fn(&PairScores) -> &Tensor| {
            let rows: Vec<Array2<f32>> =
                rows.iter().map(|row| join(Axis(1), row.iter().map(|block| to_array(side(block))).collect())).collect();
            join(Axis(0), rows)
        };
        Ok((matrix(&|block| &block.image_to_text_ac), matrix(&|block| &block.text_to_image_ac)))
    }
}

/// Scores of a batch of images with texts, for ranking texts, `[A, C]`.
pub(super) fn text_scores(
    score: PairScore,
    images: &ImageFeatures,
    texts: &TextFeatures,
) -> Result<Array2<f32>, EvalError> {
    Ok(to_array(&checked(score.scores(images, texts))?.image_to_text_ac))
}

/// Scores of images with texts, for ranking texts and for ranking images, `[A, C]` each.
pub(super) fn pair_scores(
    score: PairScore,
    images: &ImageFeatures,
    texts: &TextFeatures,
) -> Result<(Array2<f32>, Array2<f32>), EvalError> {
    let scores = checked(score.scores(images, texts))?;
    Ok((to_array(&scores.image_to_text_ac), to_array(&scores.text_to_image_ac)))
}

fn checked(scores: PairScores) -> Result<PairScores, EvalError> {
    if scores.are_finite() { Ok(scores) } else { Err(EvalError::NonFiniteScore) }
}

fn join(axis: Axis, parts: Vec<Array2<f32>>) -> Array2<f32> {
    let views: Vec<_> = parts.iter().map(Array2::view).collect();
    ndarray::concatenate(axis, &views).expect("blocks of one matrix")
}

fn to_array(scores_ac: &Tensor) -> Array2<f32> {
    let (rows, columns) = scores_ac.size2().expect("scores are a matrix");
    let flat = scores_ac.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().view([-1]);
    let values = Vec::<f32>::try_from(&flat).expect("numbers");
    Array2::from_shape_vec((rows as usize, columns as usize), values).expect("a tensor holds its shape")
}
