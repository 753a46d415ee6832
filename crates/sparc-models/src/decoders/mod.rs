//! Decoders: one sequence written while another is looked at.

mod image_decoder;
mod text_decoder;

pub use image_decoder::{DecoderPositions, ImageDecoder, ImageDecoderConfig, MaskedImage};
pub(crate) use text_decoder::select;
pub use text_decoder::{TextDecoder, TextDecoderCache};
