//! The closed set of networks, as the trainer and evaluation see them.

use std::collections::BTreeMap;

use sparc_core::{Encoder, ImageFeatures, Matcher, PatchPath, RegionEncoder, TextBatch, TextFeatures};
use tch::{Device, Kind, Tensor};

use super::{Albef, AlbefConfig, Coca, CocaConfig, DualEncoder, DualEncoderConfig};
use crate::{ParameterBuilder, Parameters};

/// Configuration of a network.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkConfig {
    /// Two towers.
    DualEncoder(DualEncoderConfig),
    /// Two towers and decoders.
    Coca(CocaConfig),
    /// Two towers and a fusion encoder.
    Albef(AlbefConfig),
}

impl NetworkConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            NetworkConfig::DualEncoder(config) => config.validate(),
            NetworkConfig::Coca(config) => config.validate(),
            NetworkConfig::Albef(config) => config.validate(),
        }
    }
}

/// A network.
#[derive(Debug)]
pub enum Network {
    /// Two towers.
    DualEncoder(DualEncoder),
    /// Two towers and decoders.
    Coca(Coca),
    /// Two towers and a fusion encoder.
    Albef(Box<Albef>),
}

impl Network {
    /// Builds it with values that depend on `seed` alone.
    ///
    /// # Panics
    ///
    /// If the configuration does not validate.
    pub fn new(config: NetworkConfig, seed: u64, kind: Kind, device: Device) -> Network {
        match config {
            NetworkConfig::DualEncoder(config) => Network::DualEncoder(DualEncoder::new(config, seed, kind, device)),
            NetworkConfig::Coca(config) => Network::Coca(Coca::new(config, seed, kind, device)),
            NetworkConfig::Albef(config) => Network::Albef(Box::new(Albef::new(config, seed, kind, device))),
        }
    }

    /// The network with all parameters 0, which costs no draws: to be counted.
    ///
    /// # Panics
    ///
    /// If the configuration does not validate.
    pub fn blank(config: NetworkConfig, kind: Kind, device: Device) -> Network {
        let builder = ParameterBuilder::blank(kind, device);
        match config {
            NetworkConfig::DualEncoder(config) => Network::DualEncoder(DualEncoder::build(config, builder)),
            NetworkConfig::Coca(config) => Network::Coca(Coca::build(config, builder)),
            NetworkConfig::Albef(config) => Network::Albef(Box::new(Albef::build(config, builder, (kind, device)))),
        }
    }

    /// All parameters that are trained, by name.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Network::DualEncoder(network) => network.parameters(),
            Network::Coca(network) => network.parameters(),
            Network::Albef(network) => network.parameters(),
        }
    }

    /// What a checkpoint holds beside the parameters, and of how many numbers it is.
    pub fn untrained(&self) -> Vec<(&'static str, usize)> {
        match self {
            Network::DualEncoder(_) | Network::Coca(_) => Vec::new(),
            Network::Albef(network) => network.untrained(),
        }
    }

    /// Everything that a checkpoint must hold, by name: the parameters, and what follows them without a gradient.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        match self {
            Network::DualEncoder(_) | Network::Coca(_) => {
                self.parameters().iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone())).collect()
            }
            Network::Albef(network) => network.state(),
        }
    }

    /// Takes over a state.
    ///
    /// # Errors
    ///
    /// Every difference in names, shapes and kinds, and nothing has been copied then; or what is impossible in what
    /// follows the parameters.
    pub fn load_state(&mut self, source: &BTreeMap<String, Tensor>) -> Result<(), Vec<String>> {
        match self {
            Network::DualEncoder(network) => network.parameters_mut().load(source),
            Network::Coca(network) => network.parameters_mut().load(source),
            Network::Albef(network) => network.load_state(source),
        }
    }

    /// Inverse temperature 1/τ of contrasts between images and texts, a scalar with gradient.
    pub fn logit_scale(&self) -> Tensor {
        match self {
            Network::DualEncoder(network) => network.logit_scale(),
            Network::Coca(network) => network.logit_scale(),
            Network::Albef(network) => network.logit_scale(),
        }
    }

    /// Names and values of the numbers that the objective learns beside it.
    pub fn learned_scalars(&self) -> Vec<(&'static str, Tensor)> {
        match self {
            Network::DualEncoder(network) => {
                network.learned_scalars().map(|scalar| (scalar.name(), network.scalar(scalar))).collect()
            }
            Network::Coca(_) | Network::Albef(_) => Vec::new(),
        }
    }

    /// What is due after each update of the parameters: inverse temperatures are clamped, momentum copies moved.
    pub fn after_update(&mut self) {
        match self {
            Network::DualEncoder(network) => network.clamp_logit_scales(),
            Network::Coca(network) => network.clamp_logit_scale(),
            Network::Albef(network) => network.after_update(),
        }
    }

    fn encoder(&self) -> &dyn Encoder {
        match self {
            Network::DualEncoder(network) => network,
            Network::Coca(network) => network,
            Network::Albef(network) => network.as_ref(),
        }
    }
}

impl Encoder for Network {
    fn image_size(&self) -> (i64, i64) {
        self.encoder().image_size()
    }

    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        self.encoder().encode_images(images_bchw, path)
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        self.encoder().encode_text(text)
    }

    fn region_encoder(&self) -> Option<&dyn RegionEncoder> {
        self.encoder().region_encoder()
    }

    fn matcher(&self) -> Option<&dyn Matcher> {
        self.encoder().matcher()
    }
}
