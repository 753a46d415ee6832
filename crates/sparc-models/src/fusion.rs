//! The fusion encoder: a text that looks at an image's tokens (ALBEF, Li et al. 2021).
//!
//! ALBEF's is the upper half of BERT, post-LN; here it is pre-LN, as every tower is.

use tch::Tensor;

use crate::layers::{CrossBlock, CrossBlockShape, LayerNorm, Mlps, SeeAttention, key_mask};
use crate::{ParameterBuilder, TowerShape};

// Dimension letters: r pairs, l tokens, m image tokens, w width of texts, c of images.

/// The encoder.
#[derive(Debug)]
pub struct FusionEncoder {
    blocks: Vec<CrossBlock>,
    final_norm: LayerNorm,
}

impl FusionEncoder {
    /// As many blocks as the shape's depth says, on a stream as wide as the text tower's, with images `context_width`
    /// wide.
    pub fn new(builder: &ParameterBuilder, shape: TowerShape, context_width: i64) -> FusionEncoder {
        // ALBEF's layers have one MLP, after both attentions.
        let shape = CrossBlockShape { stream: shape, context_width: Some(context_width), mlps: Mlps::One };
        let block = |i: i64| CrossBlock::new(&builder.under("blocks").under(i), shape);
        FusionEncoder {
            blocks: (0..shape.stream.depth).map(block).collect(),
            final_norm: LayerNorm::new(&builder.under("norm"), shape.stream.width),
        }
    }

    /// The text tower's tokens `[R, L, W]` with their mask `[R, L]` and image tokens `[R, M, C]` → `[R, L, W]` after the
    /// final norm. What stands at padding has no meaning; no other token has seen it.
    ///
    /// # Panics
    ///
    /// If there are not as many images as texts.
    pub fn forward(&self, tokens_rlw: &Tensor, mask_rl: &Tensor, image_rmc: &Tensor) -> Tensor {
        self.run(tokens_rlw, mask_rl, image_rmc, None)
    }

    /// [`FusionEncoder::forward`] with the probabilities `[R, H, L, M]` of a layer's attention to the image, the first
    /// layer being 0, through `see`.
    ///
    /// # Panics
    ///
    /// If there are not as many images as texts, or no such layer.
    pub fn forward_seen(
        &self,
        tokens_rlw: &Tensor,
        mask_rl: &Tensor,
        image_rmc: &Tensor,
        layer: usize,
        see: SeeAttention<'_>,
    ) -> Tensor {
        assert!(layer < self.n_layers(), "layer {layer} of {}", self.n_layers());
        self.run(tokens_rlw, mask_rl, image_rmc, Some((layer, see)))
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.blocks.len()
    }

    fn run(
        &self,
        tokens_rlw: &Tensor,
        mask_rl: &Tensor,
        image_rmc: &Tensor,
        mut seen: Option<(usize, SeeAttention<'_>)>,
    ) -> Tensor {
        let (tokens, image) = (tokens_rlw.size(), image_rmc.size());
        assert!(tokens[0] == image[0], "{} texts and {} images are no pairs", tokens[0], image[0]);
        let mask = key_mask(mask_rl);
        let step = |x: Tensor, (index, block): (usize, &CrossBlock)| match &mut seen {
            Some((layer, see)) if *layer == index => block.forward_seen(&x, Some(&mask), image_rmc, &mut **see),
            _ => block.forward(&x, Some(&mask), image_rmc, None),
        };
        self.final_norm.forward(&self.blocks.iter().enumerate().fold(tokens_rlw.shallow_clone(), step))
    }
}

#[cfg(test)]
mod tests {
    use sparc_core::objectives::nas::VisualTokens;
    use sparc_testing::{assert_close, check_gradient, random, scalar, values};
    use tch::{Device, Kind};

    use super::*;
    use crate::heads::{LanguageHead, MatchingHead, TokenGate};

    const SHAPE: TowerShape = TowerShape { width: 8, depth: 2, heads: 2 };

    fn builder() -> ParameterBuilder {
        ParameterBuilder::new(1, Kind::Double, Device::Cpu)
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        scalar(&(a - b).abs().max())
    }

    fn mask(lengths: &[i64], length: i64) -> Tensor {
        let places = Tensor::arange(length, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        places.lt_tensor(&Tensor::from_slice(lengths).unsqueeze(1))
    }

    #[test]
    fn the_text_sees_its_image_and_no_other() {
        let fusion = FusionEncoder::new(&builder(), SHAPE, 6);
        let (tokens, image, mask) = (random(&[2, 3, 8], 1), random(&[2, 4, 6], 2), mask(&[3, 2], 3));
        let read = |image: &Tensor| fusion.forward(&tokens, &mask, image);
        let before = read(&image);
        assert_eq!(before.size(), [2, 3, 8]);
        let moved = image.copy();
        let _ = moved.get(1).fill_(0.3);
        let after = read(&moved);
        assert_eq!(difference(&before.get(0), &after.get(0)), 0.0);
        assert!(difference(&before.get(1), &after.get(1)) > 1e-3);
        // The image has no order but what its tokens carry.
        assert!(difference(&before, &read(&image.flip([1]))) < 1e-12);
    }

    #[test]
    fn padding_is_inert_and_an_empty_text_is_finite() {
        let fusion = FusionEncoder::new(&builder(), SHAPE, 6);
        let (tokens, image) = (random(&[2, 3, 8], 1), random(&[2, 4, 6], 2));
        let short = fusion.forward(&tokens, &mask(&[3, 2], 3), &image);
        let padded = Tensor::cat(&[&tokens, &random(&[2, 2, 8], 9)], 1);
        let long = fusion.forward(&padded, &mask(&[3, 2], 5), &image);
        assert!(difference(&short.get(0), &long.get(0).narrow(0, 0, 3)) < 1e-12);
        assert!(difference(&short.get(1).narrow(0, 0, 2), &long.get(1).narrow(0, 0, 2)) < 1e-12);
        let empty = fusion.forward(&tokens, &mask(&[3, 0], 3), &image);
        assert_eq!(empty.isfinite().all().int64_value(&[]), 1);
    }

    #[test]
    fn every_parameter_and_both_inputs_get_gradients() {
        let builder = builder();
        let fusion = FusionEncoder::new(&builder.under("fusion"), SHAPE, 6);
        let matching = MatchingHead::new(&builder.under("matching"), 8);
        let language = LanguageHead::new(&builder.under("language"), 8, 5);
        let parameters = builder.finish();
        let (tokens, image, embedding) = (random(&[2, 3, 8], 1), random(&[2, 4, 6], 2), random(&[5, 8], 3));
        let read = |tokens: &Tensor, image: &Tensor| {
            let read = fusion.forward(tokens, &mask(&[3, 3], 3), image);
            let words = language.forward(&read.select(1, 1), &embedding);
            matching.forward(&read).square().sum(Kind::Double) + words.square().sum(Kind::Double)
        };
        read(&tokens, &image).backward();
        for (name, tensor) in parameters.iter() {
            assert!(tensor.grad().defined() && scalar(&tensor.grad().abs().max()) > 0.0, "{name}");
        }
        check_gradient(&tokens, 1e-5, |tokens| read(tokens, &image));
        check_gradient(&image, 1e-5, |image| read(&tokens, image));
    }

    #[test]
    fn heads_have_their_equations() {
        let builder = builder();
        let matching = MatchingHead::new(&builder.under("matching"), 2);
        let language = LanguageHead::new(&builder.under("language"), 2, 3);
        let mut parameters = builder.finish();
        let tensor = |values: &[f64], shape: &[i64]| Tensor::from_slice(values).view(shape);
        let source = [
            ("matching.weight", tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2])),
            ("matching.bias", tensor(&[0.5, -0.5], &[2])),
            ("language.transform.weight", tensor(&[1.0, 0.0, 0.0, 1.0], &[2, 2])),
            ("language.transform.bias", tensor(&[0.0, 0.0], &[2])),
            ("language.norm.weight", tensor(&[1.0, 1.0], &[2])),
            ("language.norm.bias", tensor(&[0.0, 0.0], &[2])),
            ("language.bias", tensor(&[0.1, 0.2, 0.3], &[3])),
        ];
        parameters.load(&source.map(|(name, tensor)| (name.to_owned(), tensor)).into()).unwrap();
        // The first token alone decides.
        let tokens = tensor(&[1.0, 1.0, 9.0, 9.0], &[1, 2, 2]);
        assert_eq!(values(&matching.forward(&tokens)), [3.5, 6.5]);
        // A layer norm of two different values is ±1 (up to its ε).
        let logits =
            language.forward(&tensor(&[2.0, -3.0], &[1, 2]), &tensor(&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0], &[3, 2]));
        for (logit, expected) in values(&logits).into_iter().zip([1.1, -0.8, 0.3]) {
            assert_close(logit, expected, 1e-4);
        }
    }

    #[test]
    fn the_gate_mixes_a_patch_with_its_code() {
        let builder = builder();
        let gate = TokenGate::new(&builder, 3);
        let mut parameters = builder.finish();
        let (quantised, continuous) = (random(&[1, 2, 3], 1), random(&[1, 2, 3], 2));
        let of = |bias: [f64; 2], parameters: &mut crate::Parameters| {
            let source = [
                ("quantised.weight", Tensor::eye(3, tch::kind::DOUBLE_CPU)),
                ("quantised.bias", Tensor::zeros([3], tch::kind::DOUBLE_CPU)),
                ("gate.weight", Tensor::zeros([2, 6], tch::kind::DOUBLE_CPU)),
                ("gate.bias", Tensor::from_slice(&bias)),
            ];
            parameters.load(&source.map(|(name, tensor)| (name.to_owned(), tensor)).into()).unwrap();
            gate.forward(&VisualTokens {
                quantised_bpc: quantised.shallow_clone(),
                continuous_bpc: continuous.shallow_clone(),
            })
        };
        assert!(difference(&of([0.0, 0.0], &mut parameters), &((&quantised + &continuous) * 0.5)) < 1e-12);
        assert!(difference(&of([50.0, 0.0], &mut parameters), &quantised) < 1e-12);
        assert!(difference(&of([0.0, 50.0], &mut parameters), &continuous) < 1e-12);
    }
}
