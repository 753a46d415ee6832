//! Pixels: heatmaps over images, sheets of alignment, of masks, of codes and of regions, contact sheets.
//!
//! Pure functions on [`image::RgbImage`], with no files and no tensors. Text is drawn with the
//! bitmap font of `noto-sans-mono-bitmap`; a character that the font lacks becomes a box, never a
//! panic.

mod code_sheet;
mod colour_map;
mod contact_sheet;
mod heatmap;
mod masking;
mod pieces;
mod region_sheet;
mod sheet;
mod text;

pub use code_sheet::{CodeRow, CodeSheet, EditedPair, code_sheet};
pub use colour_map::{INFERNO, inferno};
pub use contact_sheet::{Contact, contact_sheet};
pub(crate) use heatmap::{CLEARING, OPACITY, WEAKEST_LEVEL};
pub use heatmap::{Upsampling, kept_patches, overlay_heatmap, relative_weights};
pub use masking::{MaskingSheet, masking_sheet};
pub use pieces::{Token, TokenKind, read_pieces};
pub use region_sheet::{LabelledBox, RegionPanel, RegionSheet, region_sheet};
pub use sheet::{AlignmentSheet, TokenHeatmap, alignment_sheet};
pub use text::{LINE_HEIGHT, draw_text, ellipsise, text_width, wrap_text};
