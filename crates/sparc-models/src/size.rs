//! Named sizes of transformer towers.

use serde::{Deserialize, Serialize};

/// Width, depth and heads of a transformer tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TowerShape {
    /// Residual stream.
    pub width: i64,
    /// Blocks.
    pub depth: i64,
    /// Attention heads; each is `width / heads` wide.
    pub heads: i64,
}

/// A tower size; Ti, S, B and L are those of Dosovitskiy et al. 2021 and Touvron et al. 2021.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelSize {
    /// 128 wide, 2 blocks, 4 heads: trains on a laptop's processor in minutes.
    Pico,
    /// 128 wide, 4 blocks, 4 heads.
    Nano,
    /// 192 wide, 12 blocks, 3 heads.
    Ti,
    /// 384 wide, 12 blocks, 6 heads.
    S,
    /// 768 wide, 12 blocks, 12 heads.
    B,
    /// 768 wide, 6 blocks, 12 heads: ALBEF's text tower, the lower half of BERT's.
    B6,
    /// 1024 wide, 24 blocks, 16 heads.
    L,
}

impl ModelSize {
    /// The dimensions behind the name.
    pub fn shape(self) -> TowerShape {
        let (width, depth, heads) = match self {
            ModelSize::Pico => (128, 2, 4),
            ModelSize::Nano => (128, 4, 4),
            ModelSize::Ti => (192, 12, 3),
            ModelSize::S => (384, 12, 6),
            ModelSize::B => (768, 12, 12),
            ModelSize::B6 => (768, 6, 12),
            ModelSize::L => (1024, 24, 16),
        };
        TowerShape { width, depth, heads }
    }
}
