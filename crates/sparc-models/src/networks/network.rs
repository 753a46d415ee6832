//! The closed set of networks, as the trainer and evaluation see them.

use sparc_core::{Encoder, ImageFeatures, PatchPath, RegionEncoder, TextBatch, TextFeatures};
use tch::{Device, Kind, Tensor};

use super::{Coca, CocaConfig, DualEncoder, DualEncoderConfig};
use crate::Parameters;

/// Configuration of a network.
#[derive(Debug, Clone, PartialEq)]
pub enum NetworkConfig {
    /// Two towers.
    DualEncoder(DualEncoderConfig),
    /// Two towers and decoders.
    Coca(CocaConfig),
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
        }
    }

    /// All parameters by name.
    pub fn parameters(&self) -> &Parameters {
        match self {
            Network::DualEncoder(network) => network.parameters(),
            Network::Coca(network) => network.parameters(),
        }
    }

    /// All parameters, to load values into.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        match self {
            Network::DualEncoder(network) => network.parameters_mut(),
            Network::Coca(network) => network.parameters_mut(),
        }
    }

    /// Inverse temperature 1/τ of contrasts between images and texts, a scalar with gradient.
    pub fn logit_scale(&self) -> Tensor {
        match self {
            Network::DualEncoder(network) => network.logit_scale(),
            Network::Coca(network) => network.logit_scale(),
        }
    }

    /// Names and values of the numbers that the objective learns beside it.
    pub fn learned_scalars(&self) -> Vec<(&'static str, Tensor)> {
        match self {
            Network::DualEncoder(network) => {
                network.learned_scalars().map(|scalar| (scalar.name(), network.scalar(scalar))).collect()
            }
            Network::Coca(_) => Vec::new(),
        }
    }

    /// What is due after each update of the parameters: inverse temperatures are clamped.
    pub fn after_update(&mut self) {
        match self {
            Network::DualEncoder(network) => network.clamp_logit_scales(),
            Network::Coca(network) => network.clamp_logit_scale(),
        }
    }

    fn encoder(&self) -> &dyn Encoder {
        match self {
            Network::DualEncoder(network) => network,
            Network::Coca(network) => network,
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
}
