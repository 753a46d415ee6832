//! Networks: which modules run for a family of objectives, and which tensors come out.

mod dual_encoder;

pub use dual_encoder::{DualEncoder, DualEncoderConfig, RegionView, SpecialTokens};
