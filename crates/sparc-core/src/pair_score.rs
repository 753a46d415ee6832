//! How well an image and a text fit, as the objective that trained the network compares them.

use tch::{Kind, Tensor};

use crate::objectives::pacl::PooledPatches;
use crate::objectives::{filip, pacl};
use crate::tensor_math::{at_least_f32, l2_normalize};
use crate::{ImageFeatures, TextFeatures};

// Dimension letters: a images, c texts.

/// What retrieval and classification compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PairScore {
    /// Cosine of the pooled embeddings.
    Pooled,
    /// FILIP's mean token-wise maxima: over patches to rank texts, over tokens to rank images.
    TokenMaxima,
    /// PACL's: the patches pooled by their similarity to the text, against the text.
    PooledByText {
        /// Inverse temperature of the weights.
        attention_scale: f64,
        /// What is pooled.
        pooled_patches: PooledPatches,
    },
}

/// Scores of A images with C texts.
#[derive(Debug)]
pub struct PairScores {
    /// For ranking texts, `[A, C]`.
    pub image_to_text_ac: Tensor,
    /// For ranking images, `[A, C]`.
    pub text_to_image_ac: Tensor,
}

impl PairScore {
    /// Short name for reports.
    pub fn name(self) -> &'static str {
        match self {
            PairScore::Pooled => "pooled",
            PairScore::TokenMaxima => "token maxima",
            PairScore::PooledByText { .. } => "patches pooled by the text",
        }
    }

    /// Scores all pairs, without gradients; in f32 at least.
    ///
    /// # Panics
    ///
    /// If widths disagree.
    pub fn scores(self, images: &ImageFeatures, texts: &TextFeatures) -> PairScores {
        let both =
            |scores_ac: Tensor| PairScores { text_to_image_ac: scores_ac.shallow_clone(), image_to_text_ac: scores_ac };
        tch::no_grad(|| match self {
            PairScore::Pooled => {
                let unit = |rows: &Tensor| l2_normalize(&at_least_f32(rows));
                both(unit(&images.pooled_bd).matmul(&unit(&texts.pooled_bd).tr()))
            }
            PairScore::TokenMaxima => {
                let (image_to_text_ac, text_to_image_ac) =
                    filip::scores(&images.patches_bpd, &texts.tokens_bld, &texts.mask_bl);
                PairScores { image_to_text_ac, text_to_image_ac }
            }
            PairScore::PooledByText { attention_scale, pooled_patches } => {
                both(pacl::scores(&images.patches_bpd, &texts.pooled_bd, attention_scale, pooled_patches))
            }
        })
    }
}

impl ImageFeatures {
    /// The features of some of the images.
    pub fn select(&self, rows: &[i64]) -> ImageFeatures {
        let rows = Tensor::from_slice(rows).to_device(self.pooled_bd.device());
        ImageFeatures {
            pooled_bd: self.pooled_bd.index_select(0, &rows),
            patches_bpd: self.patches_bpd.index_select(0, &rows),
            grid: self.grid,
        }
    }
}

impl TextFeatures {
    /// The features of some of the texts.
    pub fn select(&self, rows: &[i64]) -> TextFeatures {
        let rows = Tensor::from_slice(rows).to_device(self.pooled_bd.device());
        TextFeatures {
            pooled_bd: self.pooled_bd.index_select(0, &rows),
            tokens_bld: self.tokens_bld.index_select(0, &rows),
            mask_bl: self.mask_bl.index_select(0, &rows),
        }
    }
}

impl PairScores {
    /// Whether every score is a number.
    pub fn are_finite(&self) -> bool {
        [&self.image_to_text_ac, &self.text_to_image_ac].iter().all(|scores| {
            scores.isfinite().all().int64_value(&[]) == 1 && matches!(scores.kind(), Kind::Float | Kind::Double)
        })
    }
}

#[cfg(test)]
mod tests {
    use sparc_testing::{random, values};

    use super::*;
    use crate::PatchGrid;
    use crate::sample_inputs::captions;
    use crate::tensor_math::masked_mean;

    fn features() -> (ImageFeatures, TextFeatures) {
        let patches_bpd = random(&[3, 4, 5], 1);
        let (tokens_bld, mask_bl, _) = captions(2, 3, 5, 2);
        let images = ImageFeatures {
            pooled_bd: patches_bpd.mean_dim([1i64].as_slice(), false, None::<Kind>),
            patches_bpd,
            grid: PatchGrid { height: 2, width: 2 },
        };
        let text = TextFeatures { pooled_bd: masked_mean(&tokens_bld, &mask_bl), tokens_bld, mask_bl };
        (images, text)
    }

    #[test]
    fn scores_have_a_row_an_image_and_do_not_depend_on_the_others() {
        let (images, texts) = features();
        for score in [
            PairScore::Pooled,
            PairScore::TokenMaxima,
            PairScore::PooledByText { attention_scale: 3.0, pooled_patches: PooledPatches::Raw },
        ] {
            let all = score.scores(&images, &texts);
            assert!(all.are_finite());
            assert_eq!(all.image_to_text_ac.size(), [3, 2]);
            let one_image = score.scores(&images.select(&[2]), &texts);
            let one_text = score.scores(&images, &texts.select(&[1]));
            for pick in [
                |scores: &PairScores| scores.image_to_text_ac.shallow_clone(),
                |scores: &PairScores| scores.text_to_image_ac.shallow_clone(),
            ] {
                let of_image = values(&pick(&one_image)).into_iter().zip(values(&pick(&all).get(2)));
                let of_text = values(&pick(&one_text)).into_iter().zip(values(&pick(&all).select(1, 1)));
                for (a, b) in of_image.chain(of_text) {
                    assert!((a - b).abs() < 1e-12, "{}", score.name());
                }
            }
        }
    }

    #[test]
    fn with_one_patch_and_one_token_all_scores_are_the_cosine() {
        let patches_bpd = random(&[3, 1, 4], 3);
        let tokens_bld = random(&[2, 1, 4], 4);
        let grid = PatchGrid { height: 1, width: 1 };
        let images = ImageFeatures { pooled_bd: patches_bpd.squeeze_dim(1), patches_bpd, grid };
        let mask_bl = Tensor::ones([2, 1], (Kind::Bool, tch::Device::Cpu));
        let texts = TextFeatures { pooled_bd: tokens_bld.squeeze_dim(1), tokens_bld, mask_bl };
        let cosine = values(&PairScore::Pooled.scores(&images, &texts).image_to_text_ac);
        for score in [
            PairScore::TokenMaxima,
            PairScore::PooledByText { attention_scale: 2.0, pooled_patches: PooledPatches::Unit },
        ] {
            let scores = score.scores(&images, &texts);
            for values in [values(&scores.image_to_text_ac), values(&scores.text_to_image_ac)] {
                assert!(values.iter().zip(&cosine).all(|(a, b)| (a - b).abs() < 1e-12), "{}", score.name());
            }
        }
    }
}
