//! Contrastive captioners: two towers, a text decoder that looks at the image and, for SyCoCa, an image decoder that
//! looks at the caption.
//!
//! CoCa (Yu et al. 2022) as open_clip builds it, with the paper's poolers and its one MLP a layer as options; SyCoCa
//! (Ma et al. 2024) adds the image decoder.

use serde::{Deserialize, Serialize};
use sparc_core::objectives::sycoca::scoring_tokens;
use sparc_core::tensor_math::gather_rows;
use sparc_core::{Encoder, ImageFeatures, PatchPath, TextBatch, TextFeatures};
use tch::{Device, Kind, Tensor};

use super::SpecialTokens;
use crate::causal_text::{CausalText, CausalTextOutput};
use crate::decoders::{ImageDecoder, ImageDecoderConfig, MaskedImage, TextDecoder};
use crate::heads::{AttentionalPooler, Pooler, TaskHead, TaskHeadConfig};
use crate::layers::{CrossBlockShape, Linear, Mlps, key_mask};
use crate::text::TextConfig;
use crate::vit::{ImagePool, Vit, VitConfig};
use crate::{Init, ParameterBuilder, Parameters, TowerShape};

// Dimension letters: b batch, p patches, k visible patches, m tokens that the decoder sees, l tokens, w width,
// v vocabulary, x pixel values of a patch.

/// What makes a captioner of two towers. Every field is required but the image decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptionerConfig {
    /// How image tokens become what the decoder and the contrast see.
    pub pooler: Pooler,
    /// Blocks of the text decoder, as wide as the text tower's.
    pub text_decoder_layers: i64,
    /// MLPs in a block of a decoder.
    pub mlps: Mlps,
    /// Whether the decoder's vocabulary is the token embedding.
    pub tie_vocabulary: bool,
    /// Whether the image tower's class token is among what the text decoder sees.
    pub class_token_in_memory: bool,
    /// SyCoCa's image decoder. It is built where the objective has a use for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_decoder: Option<ImageDecoderConfig>,
}

/// Configuration of the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CocaConfig {
    /// Image tower.
    pub image: VitConfig,
    /// Text tower.
    pub text: TextConfig,
    /// Width D of the shared space.
    pub embed_dim: i64,
    /// Whether the projections into it have a bias; they have none in open_clip.
    pub adapter_bias: bool,
    /// Whether BOS and EOS are among the tokens that are compared with patches.
    pub special_tokens: SpecialTokens,
    /// Initial inverse temperature.
    pub logit_scale_init: f64,
    /// The inverse temperature is clamped to `[1, this]` after each step.
    pub logit_scale_max: f64,
    /// What makes a captioner of the towers.
    pub captioner: CaptionerConfig,
    /// A head to be fine-tuned.
    pub head: Option<TaskHeadConfig>,
}

impl CocaConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.image.validate()?;
        let captioner = &self.captioner;
        let queries = match captioner.pooler {
            Pooler::None => 1,
            Pooler::Parallel { queries } | Pooler::Cascade { queries } => queries,
        };
        for (name, value) in [
            ("text.context_length", self.text.context_length),
            ("text.vocab_size", self.text.vocab_size),
            ("embed_dim", self.embed_dim),
            ("captioner.text_decoder_layers", captioner.text_decoder_layers),
            ("captioner.pooler.queries", queries),
            ("captioner.image_decoder.layers", captioner.image_decoder.map_or(1, |decoder| decoder.layers)),
            ("head.outputs", self.head.map_or(1, TaskHeadConfig::outputs)),
        ] {
            if value < 1 {
                return Err(format!("{name} must be at least 1, got {value}"));
            }
        }
        if captioner.pooler != Pooler::None && self.image.pool == ImagePool::Cls {
            return Err(
                "captioner.pooler: a pooler reads patches; a class token (image.pool: cls) would have no use. \
                        Set image.pool to average, or captioner.pooler to none"
                    .into(),
            );
        }
        if captioner.class_token_in_memory && self.image.pool != ImagePool::Cls {
            return Err("captioner.class_token_in_memory: there is no class token; set image.pool to cls".into());
        }
        if !(self.logit_scale_init >= 1.0 && self.logit_scale_init <= self.logit_scale_max) {
            return Err(format!(
                "logit_scale_init {} must lie in [1, logit_scale_max = {}]",
                self.logit_scale_init, self.logit_scale_max
            ));
        }
        Ok(())
    }
}

/// The network.
#[derive(Debug)]
pub struct Coca {
    config: CocaConfig,
    parameters: Parameters,
    image_tower: Vit,
    pub(crate) text_tower: CausalText,
    poolers: Option<Poolers>,
    image_adapter: Linear,
    text_adapter: Linear,
    pub(crate) text_decoder: TextDecoder,
    vocabulary: Option<Tensor>,
    image_decoder: Option<ImageDecoder>,
    // Boxed: most networks have none, and would carry its size.
    head: Option<Box<TaskHead>>,
    log_scale: Tensor,
}

#[derive(Debug)]
struct Poolers {
    for_decoder: AttentionalPooler,
    for_contrast: AttentionalPooler,
    cascade: bool,
}

/// An image in the tower's width.
#[derive(Debug)]
pub struct ImageTokens {
    /// What the contrast sees, `[B, W]`.
    pub pooled_bw: Tensor,
    /// The patches, `[B, P, W]`; of a tower that saw some of them only, `[B, K, W]`.
    pub patches_bpw: Tensor,
}

impl Coca {
    /// Name of the temperature parameter, ln(1/τ).
    pub const LOGIT_SCALE: &'static str = "logit_scale";

    /// Builds the network with values that depend on `seed` alone. Projections into the shared space and the
    /// vocabulary start N(0, 1/w), as CLIP's projections and open_clip's captioner do.
    ///
    /// # Panics
    ///
    /// If the configuration does not validate.
    pub fn new(config: CocaConfig, seed: u64, kind: Kind, device: Device) -> Coca {
        Coca::build(config, ParameterBuilder::new(seed, kind, device))
    }

    /// The network with parameters of a builder's.
    pub(super) fn build(config: CocaConfig, builder: ParameterBuilder) -> Coca {
        config.validate().expect("a valid configuration");
        let (image, text, captioner) = (config.image.size.shape(), config.text.size.shape(), config.captioner);
        let adapter = |name: &str, width: i64| {
            let deviation = (width as f64).powf(-0.5);
            Linear::new(&builder.under(name), width, config.embed_dim, config.adapter_bias, Init::Normal(deviation))
        };
        let poolers = |queries: i64, cascade: bool| {
            let pooler = |name: &str, n: i64| {
                AttentionalPooler::new(&builder.under("pooler").under(name), n, (image.width, image.heads))
            };
            Poolers { for_decoder: pooler("decoder", queries), for_contrast: pooler("contrast", 1), cascade }
        };
        let decoder_shape = CrossBlockShape {
            stream: TowerShape { depth: captioner.text_decoder_layers, ..text },
            context_width: Some(image.width),
            mlps: captioner.mlps,
        };
        let n_pixels = 3 * config.image.patch_size * config.image.patch_size;
        let image_tower = Vit::new(&builder.under("image"), config.image);
        let text_tower = CausalText::new(&builder.under("text"), config.text);
        let (image_adapter, text_adapter) =
            (adapter("image_adapter", image.width), adapter("text_adapter", text.width));
        let poolers = match captioner.pooler {
            Pooler::None => None,
            Pooler::Parallel { queries } => Some(poolers(queries, false)),
            Pooler::Cascade { queries } => Some(poolers(queries, true)),
        };
        let text_decoder = TextDecoder::new(&builder.under("text_decoder"), decoder_shape);
        let vocabulary = (!captioner.tie_vocabulary).then(|| {
            let deviation = (text.width as f64).powf(-0.5);
            let shape = [config.text.vocab_size, text.width];
            builder.create("text_decoder.vocabulary", &shape, Init::Normal(deviation))
        });
        let image_decoder = captioner.image_decoder.map(|decoder| {
            ImageDecoder::new(
                &builder.under("image_decoder"),
                decoder,
                config.image.grid(),
                (image.width, image.heads, captioner.mlps),
                (text.width, n_pixels),
            )
        });
        let head = config.head.map(|head| {
            let read = match head {
                TaskHeadConfig::Answers(_) => text,
                TaskHeadConfig::Classes(_) => image,
            };
            Box::new(TaskHead::new(&builder.under(head.name()), (read.width, read.heads), head.outputs()))
        });
        let log_scale = builder.create(Self::LOGIT_SCALE, &[], Init::Constant(config.logit_scale_init.ln()));
        Coca {
            config,
            parameters: builder.finish(),
            image_tower,
            text_tower,
            poolers,
            image_adapter,
            text_adapter,
            text_decoder,
            vocabulary,
            image_decoder,
            head,
            log_scale,
        }
    }

    /// As it was built.
    pub fn config(&self) -> &CocaConfig {
        &self.config
    }

    /// All parameters by name.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// All parameters, to load values into.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Inverse temperature 1/τ of the contrast, a scalar with gradient.
    pub fn logit_scale(&self) -> Tensor {
        self.log_scale.exp()
    }

    /// Clamps the inverse temperature to `[1, logit_scale_max]`, as open_clip does after each step; not a frozen one.
    pub fn clamp_logit_scale(&mut self) {
        let max = self.config.logit_scale_max.ln();
        if self.log_scale.requires_grad() {
            let _ = tch::no_grad(|| self.log_scale.clamp_(0.0, max));
        }
    }

    /// Images `[B, 3, H, W]` in the tower's width; with `visible_bk`, patches of these indices alone are shown to
    /// the tower.
    ///
    /// # Panics
    ///
    /// If the images have another size than the configured one.
    pub fn image_tokens(&self, images_bchw: &Tensor, visible_bk: Option<&Tensor>) -> ImageTokens {
        let output = match visible_bk {
            Some(visible_bk) => self.image_tower.forward_visible(images_bchw, visible_bk),
            None => self.image_tower.forward(images_bchw),
        };
        let pooled_bw = match &self.poolers {
            None => output.pooled_bw,
            Some(poolers) if poolers.cascade => {
                poolers.for_contrast.forward(&poolers.for_decoder.forward(&output.patches_bpw, None), None).select(1, 0)
            }
            Some(poolers) => poolers.for_contrast.forward(&output.patches_bpw, None).select(1, 0),
        };
        ImageTokens { pooled_bw, patches_bpw: output.patches_bpw }
    }

    /// What the text decoder sees of images, `[B, M, W]`; with `visible_bk`, patches of these indices alone.
    ///
    /// # Panics
    ///
    /// If patches are to be left out that a pooler has mixed.
    pub fn memory(&self, image: &ImageTokens, visible_bk: Option<&Tensor>) -> Tensor {
        if let Some(poolers) = &self.poolers {
            assert!(visible_bk.is_none(), "a pooler has mixed the patches that are to be left out");
            return poolers.for_decoder.forward(&image.patches_bpw, None);
        }
        let patches = match visible_bk {
            Some(visible_bk) => gather_rows(&image.patches_bpw, visible_bk),
            None => image.patches_bpw.shallow_clone(),
        };
        if self.config.captioner.class_token_in_memory {
            Tensor::cat(&[image.pooled_bw.unsqueeze(1), patches], 1)
        } else {
            patches
        }
    }

    /// Texts in the tower's width, before its final norm: what both decoders see.
    ///
    /// # Panics
    ///
    /// If they are longer than the context.
    pub fn text_tokens(&self, text: &TextBatch) -> CausalTextOutput {
        self.text_tower.forward(text)
    }

    /// Images in the space shared with texts.
    pub fn image_features(&self, image: &ImageTokens) -> ImageFeatures {
        ImageFeatures {
            pooled_bd: self.image_adapter.forward(&image.pooled_bw),
            patches_bpd: self.image_adapter.forward(&image.patches_bpw),
            grid: self.config.image.grid(),
        }
    }

    /// Texts in the space shared with images. The mask has the tokens that are compared with patches: of a text
    /// without words, its last.
    pub fn text_features(&self, output: &CausalTextOutput, text: &TextBatch) -> TextFeatures {
        let embed = |x: &Tensor| self.text_adapter.forward(&self.text_tower.normalize(x));
        TextFeatures {
            pooled_bd: embed(&output.class_bw),
            tokens_bld: embed(&output.tokens_blw),
            mask_bl: match self.config.special_tokens {
                SpecialTokens::Include => text.mask_bl.shallow_clone(),
                SpecialTokens::Exclude => scoring_tokens(&text.content_bl, &text.mask_bl),
            },
        }
    }

    /// Tokens after the text tower's final norm, `[B, L, W]`.
    pub fn normalized_tokens(&self, output: &CausalTextOutput) -> Tensor {
        self.text_tower.normalize(&output.tokens_blw)
    }

    /// The captioner's states `[B, L, W]`: that of a token predicts the next one.
    pub fn caption_states(&self, tokens_blw: &Tensor, memory_bmw: &Tensor) -> Tensor {
        self.text_decoder.forward(tokens_blw, memory_bmw)
    }

    /// The head's logits of answers, `[B, K]`, from the captioner's states `[B, L, W]` where `question_bl` is true.
    ///
    /// # Panics
    ///
    /// If the network has no head for answers.
    pub fn answer_logits(&self, states_blw: &Tensor, question_bl: &Tensor) -> Tensor {
        assert!(matches!(self.config.head, Some(TaskHeadConfig::Answers(_))), "the network has no head for answers");
        self.head.as_ref().expect("a head is built").forward(states_blw, Some(question_bl))
    }

    /// The head's logits of classes, `[B, K]`, from all tokens of the tower, its class token among them if it has one.
    ///
    /// # Panics
    ///
    /// If the network has no head for classes.
    pub fn class_logits(&self, image: &ImageTokens) -> Tensor {
        assert!(matches!(self.config.head, Some(TaskHeadConfig::Classes(_))), "the network has no head for classes");
        let head = self.head.as_ref().expect("a head is built");
        match self.config.image.pool {
            ImagePool::Average => head.forward(&image.patches_bpw, None),
            ImagePool::Cls => head.forward(&Tensor::cat(&[&image.pooled_bw.unsqueeze(1), &image.patches_bpw], 1), None),
        }
    }

    /// Whether a parameter of this name is the head's.
    pub fn is_of_head(&self, name: &str) -> bool {
        let of = |head: TaskHeadConfig| name.strip_prefix(head.name()).is_some_and(|rest| rest.starts_with('.'));
        self.config.head.is_some_and(of)
    }

    /// Leaves all parameters but the head's as they are from now on: they have no gradient.
    ///
    /// # Panics
    ///
    /// If the network has no head: there would be nothing to train.
    pub fn freeze_all_but_head(&mut self) {
        assert!(self.head.is_some(), "without a head nothing would be trained");
        for (_, parameter) in self.parameters.iter().filter(|(name, _)| !self.is_of_head(name)) {
            let _ = parameter.set_requires_grad(false);
        }
    }

    /// The matrix from states to logits, `[V, W]`.
    pub fn vocabulary(&self) -> &Tensor {
        self.vocabulary.as_ref().unwrap_or_else(|| self.text_tower.token_embedding())
    }

    /// Pixels of every patch as the image decoder sees them, `[B, P, X]`. With `detach_text` the gradient stops
    /// before the text tower.
    ///
    /// # Panics
    ///
    /// If the network has no image decoder.
    pub fn rebuild(
        &self,
        image: &MaskedImage,
        output: &CausalTextOutput,
        text: &TextBatch,
        detach_text: bool,
    ) -> Tensor {
        let decoder = self.image_decoder.as_ref().expect("the network has an image decoder");
        let reads_class = self.config.captioner.image_decoder.is_some_and(|config| config.reads_class_token);
        let (tokens_blw, mask) = if reads_class {
            let seen_b1 = text.mask_bl.narrow(1, 0, 1).ones_like();
            let mask_bl = Tensor::cat(&[&text.mask_bl, &seen_b1], 1);
            (Tensor::cat(&[&output.tokens_blw, &output.class_bw.unsqueeze(1)], 1), key_mask(&mask_bl))
        } else {
            (output.tokens_blw.shallow_clone(), key_mask(&text.mask_bl))
        };
        let tokens_blw = if detach_text { tokens_blw.detach() } else { tokens_blw };
        decoder.forward(image, &tokens_blw, &mask)
    }

    /// Whether there is an image decoder.
    pub fn has_image_decoder(&self) -> bool {
        self.image_decoder.is_some()
    }

    /// The pixels of each patch of images `[B, 3, H, W]`, channel first, `[B, P, X]`.
    pub fn patch_pixels(&self, images_bchw: &Tensor) -> Tensor {
        self.image_tower.patchify(images_bchw)
    }

    /// The images that have these patches, the inverse of [`Coca::patch_pixels`].
    pub fn image_of_patches(&self, patches_bpx: &Tensor) -> Tensor {
        let (grid, side) = (self.config.image.grid(), self.config.image.patch_size);
        let b = patches_bpx.size()[0];
        patches_bpx.view([b, grid.height, grid.width, 3, side, side]).permute([0, 3, 1, 4, 2, 5]).reshape([
            b,
            3,
            grid.height * side,
            grid.width * side,
        ])
    }
}

impl Encoder for Coca {
    fn image_size(&self) -> (i64, i64) {
        (self.config.image.image_size, self.config.image.image_size)
    }

    /// There is one way to the shared space: both paths are the same.
    fn encode_images(&self, images_bchw: &Tensor, _path: PatchPath) -> ImageFeatures {
        self.image_features(&self.image_tokens(images_bchw, None))
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        self.text_features(&self.text_tokens(text), text)
    }
}

#[cfg(test)]
#[path = "coca_tests.rs"]
mod tests;
