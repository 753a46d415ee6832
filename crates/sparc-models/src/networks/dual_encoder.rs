//! Two towers and linear adapters into one space: the network of CLIP, SPARC and their relatives.
//!
//! As SPARC describes it (Bica et al. 2024, section 2 and appendix D): patches `g_v(f_v(x))`, tokens
//! `g_t(f_t(y))`, image `g_v(h_v(pool f_v(x)))`, text the mean of its tokens. CLIP trains the same
//! network, so that the comparison is of objectives alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sparc_core::objectives::cloc::RegionHead;
use sparc_core::tensor_math::masked_mean;
use sparc_core::{Encoder, ImageFeatures, PatchGrid, PatchPath, RegionEncoder, TextBatch, TextFeatures};
use tch::{Device, Kind, Tensor};

use crate::heads::{
    BoxRegressor, HeadsConfig, LearnedScalar, MutualAttention, PromptedImages, Prompter, ResidualBranch, RoiAlignHead,
};
use crate::layers::Linear;
use crate::text::{TextConfig, TextTransformer};
use crate::vit::{TowerOutput, Vit, VitConfig};
use crate::{Init, ParameterBuilder, Parameters};

/// Whether BOS and EOS take part in pooling and in token-level losses (the papers are silent).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// They do.
    Include,
    /// Only the pieces of the text itself do. The tower sees the special tokens all the same.
    Exclude,
}

/// Configuration. Every field is required.
#[derive(Debug, Clone, PartialEq)]
pub struct DualEncoderConfig {
    /// Image tower.
    pub image: VitConfig,
    /// Text tower.
    pub text: TextConfig,
    /// Width D of the shared space.
    pub embed_dim: i64,
    /// h_v: whether a GELU layer stands between the pooled image and its adapter.
    pub dense_layer: bool,
    /// Whether the adapters have a bias (the paper does not say).
    pub adapter_bias: bool,
    /// Whether BOS and EOS take part in pooling and token-level losses.
    pub special_tokens: SpecialTokens,
    /// Initial inverse temperature 1/τ; 1/0.07 in CLIP.
    pub logit_scale_init: f64,
    /// The inverse temperature is clamped to `[1, this]` after each step; 100 in CLIP.
    pub logit_scale_max: f64,
    /// What the objective brings along.
    pub heads: HeadsConfig,
}

impl DualEncoderConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        self.image.validate()?;
        for (name, value) in [
            ("text.context_length", self.text.context_length),
            ("text.vocab_size", self.text.vocab_size),
            ("embed_dim", self.embed_dim),
        ] {
            if value < 1 {
                return Err(format!("{name} must be at least 1, got {value}"));
            }
        }
        if !(self.logit_scale_init >= 1.0 && self.logit_scale_init <= self.logit_scale_max) {
            return Err(format!(
                "logit_scale_init {} must lie in [1, logit_scale_max = {}]",
                self.logit_scale_init, self.logit_scale_max
            ));
        }
        for &(scalar, value) in &self.heads.scalars {
            if scalar.is_scale() && !(value >= 1.0 && value <= self.logit_scale_max) {
                let max = self.logit_scale_max;
                return Err(format!("{} starts at {value}, outside [1, logit_scale_max = {max}]", scalar.name()));
            }
        }
        match (self.heads.region_head, self.image.size.shape().width) {
            (Some(RegionHead::Prompter(_)), width) if width % 4 != 0 => {
                Err(format!("image.size is {width} wide; the Prompter needs a multiple of 4"))
            }
            (head, _) if self.heads.grounding && !matches!(head, Some(RegionHead::Prompter(_))) => {
                Err("only the Prompter grounds phrases".into())
            }
            _ => Ok(()),
        }
    }
}

/// What gives regions embeddings.
#[derive(Debug)]
enum Regions {
    Prompter(Box<Prompter>, Option<Box<BoxRegressor>>),
    RoiAlign(RoiAlignHead),
}

impl Regions {
    fn new(builder: &ParameterBuilder, config: &DualEncoderConfig) -> Option<Regions> {
        let (width, embed_dim, bias) = (config.image.size.shape().width, config.embed_dim, config.adapter_bias);
        Some(match config.heads.region_head? {
            RegionHead::Prompter(prompter) => {
                let builder = builder.under("prompter");
                let regressor =
                    config.heads.grounding.then(|| BoxRegressor::new(&builder.under("grounding"), width, embed_dim));
                Regions::Prompter(
                    Box::new(Prompter::new(&builder, prompter, (width, embed_dim), bias)),
                    regressor.map(Box::new),
                )
            }
            RegionHead::RoiAlign => {
                Regions::RoiAlign(RoiAlignHead::new(&builder.under("roi_align"), width, embed_dim, bias))
            }
        })
    }
}

/// Images that were encoded once, for any number of regions.
#[derive(Debug)]
pub struct RegionView<'a> {
    stream_bpw: &'a Tensor,
    head: ViewingHead<'a>,
}

#[derive(Debug)]
enum ViewingHead<'a> {
    Prompter { prompter: &'a Prompter, regressor: Option<&'a BoxRegressor>, images: PromptedImages },
    RoiAlign { head: &'a RoiAlignHead, grid: PatchGrid },
}

impl RegionView<'_> {
    /// Embeddings of regions, not normalised: boxes `[B, S, 4]` in `[0, 1]` of the network input → `[B, S, D]`, without
    /// meaning where `valid_bs` is false.
    pub fn embed(&self, boxes_bs4: &Tensor, valid_bs: &Tensor) -> Tensor {
        let boxes_bs4 = boxes_bs4.to_kind(self.stream_bpw.kind());
        match &self.head {
            ViewingHead::Prompter { prompter, images, .. } => {
                let prompts_bskw = prompter.box_prompts(&boxes_bs4, self.stream_bpw.size()[2]);
                prompter.project(&prompter.pool(images, &prompts_bskw, valid_bs))
            }
            ViewingHead::RoiAlign { head, grid } => head.forward(self.stream_bpw, &boxes_bs4, *grid),
        }
    }

    /// Boxes of phrases, as they are regressed: pooled embeddings `[B, S, D]`, not normalised → `[B, S, 4]` in the frame
    /// of the network input, not clamped. `None` if the network does not ground.
    pub fn predict_boxes(&self, phrases_bsd: &Tensor, valid_bs: &Tensor) -> Option<Tensor> {
        let ViewingHead::Prompter { prompter, regressor: Some(regressor), images } = &self.head else { return None };
        Some(regressor.boxes(&prompter.pool(images, &regressor.prompts(phrases_bsd), valid_bs)))
    }
}

/// The network.
#[derive(Debug)]
pub struct DualEncoder {
    config: DualEncoderConfig,
    parameters: Parameters,
    image_tower: Vit,
    text_tower: TextTransformer,
    dense: Option<Linear>,
    image_adapter: Linear,
    text_adapter: Linear,
    residual_branch: Option<ResidualBranch>,
    mutual_attention: Option<MutualAttention>,
    prototypes: Option<Tensor>,
    regions: Option<Regions>,
    log_scale: Tensor,
    scalars: BTreeMap<LearnedScalar, Tensor>,
}

impl DualEncoder {
    /// Name of the temperature parameter, ln(1/τ).
    pub const LOGIT_SCALE: &'static str = "logit_scale";

    /// Builds the network with values that depend on `seed` alone. Adapters start as CLIP's
    /// projections do, N(0, 1/w); h_v Xavier uniform.
    ///
    /// # Panics
    ///
    /// If the configuration does not validate.
    pub fn new(config: DualEncoderConfig, seed: u64, kind: Kind, device: Device) -> DualEncoder {
        DualEncoder::build(config, ParameterBuilder::new(seed, kind, device))
    }

    /// The network with parameters of a builder's.
    pub(super) fn build(config: DualEncoderConfig, builder: ParameterBuilder) -> DualEncoder {
        config.validate().expect("a valid configuration");
        let (image_width, text_width) = (config.image.size.shape().width, config.text.size.shape().width);
        let image_tower = Vit::new(&builder.under("image"), config.image);
        let text_tower = TextTransformer::new(&builder.under("text"), config.text);
        let dense = config
            .dense_layer
            .then(|| Linear::new(&builder.under("image_dense"), image_width, image_width, true, Init::Xavier));
        let adapter = |name: &str, width: i64| {
            let deviation = (width as f64).powf(-0.5);
            Linear::new(&builder.under(name), width, config.embed_dim, config.adapter_bias, Init::Normal(deviation))
        };
        let (image_adapter, text_adapter) =
            (adapter("image_adapter", image_width), adapter("text_adapter", text_width));
        let heads = &config.heads;
        let residual_branch = heads
            .residual_branch
            .then(|| ResidualBranch::new(&builder.under("pacl.embedder"), image_width, config.embed_dim));
        let mutual_attention = heads
            .mutual_attention
            .map(|width| MutualAttention::new(&builder.under("mgca.attention"), config.embed_dim, width));
        // Lengths of about 1: the objective normalises them, and a step of Adam turns a longer row by less.
        let unit_rows = Init::Normal((config.embed_dim as f64).powf(-0.5));
        let prototypes = heads.prototypes.map(|n| builder.create("mgca.prototypes", &[n, config.embed_dim], unit_rows));
        let regions = Regions::new(&builder.under("cloc"), &config);
        let log_scale = builder.create(Self::LOGIT_SCALE, &[], Init::Constant(config.logit_scale_init.ln()));
        let scalars = heads
            .scalars
            .iter()
            .map(|&(scalar, value)| {
                let start = if scalar.is_scale() { value.ln() } else { value };
                (scalar, builder.create(scalar.name(), &[], Init::Constant(start)))
            })
            .collect();
        DualEncoder {
            config,
            parameters: builder.finish(),
            image_tower,
            text_tower,
            dense,
            image_adapter,
            text_adapter,
            residual_branch,
            mutual_attention,
            prototypes,
            regions,
            log_scale,
            scalars,
        }
    }

    /// As it was built.
    pub fn config(&self) -> &DualEncoderConfig {
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

    /// Inverse temperature 1/τ of contrasts between images and texts, a scalar with gradient.
    pub fn logit_scale(&self) -> Tensor {
        self.log_scale.exp()
    }

    /// A number that the objective learns: scales exponentiated, biases as they are.
    ///
    /// # Panics
    ///
    /// If the network was built without it.
    pub fn scalar(&self, scalar: LearnedScalar) -> Tensor {
        let parameter = self.scalars.get(&scalar).unwrap_or_else(|| panic!("the network has no {}", scalar.name()));
        if scalar.is_scale() { parameter.exp() } else { parameter.shallow_clone() }
    }

    /// The numbers that the objective learns.
    pub fn learned_scalars(&self) -> impl Iterator<Item = LearnedScalar> {
        self.scalars.keys().copied()
    }

    /// Learned attention between words and patches, if there is any.
    pub fn mutual_attention(&self) -> Option<&MutualAttention> {
        self.mutual_attention.as_ref()
    }

    /// Prototypes `[K, D]`, if there are any.
    pub fn prototypes(&self) -> Option<&Tensor> {
        self.prototypes.as_ref()
    }

    /// What the image tower makes of normalised images `[B, 3, H, W]`: all that embeddings of images, patches and
    /// regions are made from.
    pub fn encode_tower(&self, images_bchw: &Tensor) -> TowerOutput {
        self.image_tower.forward(images_bchw)
    }

    /// Embeddings of images and patches.
    pub fn image_features(&self, tower: &TowerOutput, path: PatchPath) -> ImageFeatures {
        let patches_bpd = match path {
            PatchPath::Local => self.embed_image(&tower.patches_bpw),
            PatchPath::Global => self.embed_image(&self.through_dense(&tower.patches_bpw)),
        };
        ImageFeatures {
            pooled_bd: self.embed_image(&self.through_dense(&tower.pooled_bw)),
            patches_bpd,
            grid: self.config.image.grid(),
        }
    }

    /// What all regions of the images share; `None` if the network has no region head.
    pub fn regions<'a>(&'a self, tower: &'a TowerOutput) -> Option<RegionView<'a>> {
        let stream_bpw = &tower.stream_bpw;
        let head = match self.regions.as_ref()? {
            Regions::Prompter(prompter, regressor) => {
                ViewingHead::Prompter { prompter, regressor: regressor.as_deref(), images: prompter.look(stream_bpw) }
            }
            Regions::RoiAlign(head) => ViewingHead::RoiAlign { head, grid: self.config.image.grid() },
        };
        Some(RegionView { stream_bpw, head })
    }

    /// Clamps the inverse temperatures to `[1, logit_scale_max]`, as open_clip does after each step.
    pub fn clamp_logit_scales(&mut self) {
        let max = self.config.logit_scale_max.ln();
        let scales = self.scalars.iter_mut().filter(|(scalar, _)| scalar.is_scale()).map(|(_, parameter)| parameter);
        tch::no_grad(|| {
            for scale in std::iter::once(&mut self.log_scale).chain(scales) {
                let _ = scale.clamp_(0.0, max);
            }
        });
    }

    fn embed_image(&self, x: &Tensor) -> Tensor {
        let adapted = self.image_adapter.forward(x);
        match &self.residual_branch {
            Some(branch) => adapted + branch.forward(x),
            None => adapted,
        }
    }

    fn through_dense(&self, x: &Tensor) -> Tensor {
        match &self.dense {
            Some(dense) => dense.forward(x).gelu("none"),
            None => x.shallow_clone(),
        }
    }
}

impl Encoder for DualEncoder {
    fn image_size(&self) -> (i64, i64) {
        (self.config.image.image_size, self.config.image.image_size)
    }

    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        self.image_features(&self.encode_tower(images_bchw), path)
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        let tokens_bld = self.text_adapter.forward(&self.text_tower.forward(text));
        let mask_bl = match self.config.special_tokens {
            SpecialTokens::Include => text.mask_bl.shallow_clone(),
            SpecialTokens::Exclude => text.content_bl.shallow_clone(),
        };
        TextFeatures { pooled_bd: masked_mean(&tokens_bld, &mask_bl), tokens_bld, mask_bl }
    }

    fn region_encoder(&self) -> Option<&dyn RegionEncoder> {
        self.regions.is_some().then_some(self as &dyn RegionEncoder)
    }
}

impl RegionEncoder for DualEncoder {
    fn encode_regions(&self, images_bchw: &Tensor, boxes_bs4: &Tensor, valid_bs: &Tensor) -> Tensor {
        let tower = self.encode_tower(images_bchw);
        self.regions(&tower).expect("a region encoder has a head").embed(boxes_bs4, valid_bs)
    }

    fn ground_phrases(&self, images_bchw: &Tensor, phrases_bsd: &Tensor, valid_bs: &Tensor) -> Option<Tensor> {
        let tower = self.encode_tower(images_bchw);
        let boxes = self.regions(&tower)?.predict_boxes(phrases_bsd, valid_bs)?;
        Some(boxes.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
#[path = "dual_encoder_tests.rs"]
mod tests;
