//! Networks: which modules run for a family of objectives, and which tensors come out.

mod albef;
mod coca;
mod dual_encoder;
mod network;

pub use albef::{Albef, AlbefConfig, Encoders, FusionConfig, ImageVectors, Seen, VisualTokensConfig};
pub use coca::{CaptionerConfig, Coca, CocaConfig, ImageTokens};
pub use dual_encoder::{DualEncoder, DualEncoderConfig, RegionView, SpecialTokens};
pub use network::{Network, NetworkConfig};
