//! What a network hands to objectives and evaluation.

use tch::Tensor;

/// Height and width of the patch grid; patches are in row-major order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatchGrid {
    /// Rows of patches.
    pub height: i64,
    /// Columns of patches.
    pub width: i64,
}

impl PatchGrid {
    /// Number of patches P.
    pub fn len(self) -> i64 {
        self.height * self.width
    }

    /// Whether the grid has no patches.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Image embeddings in the space shared with texts; none of them is L2-normalised.
#[derive(Debug)]
pub struct ImageFeatures {
    /// One embedding per image, `[B, D]`.
    pub pooled_bd: Tensor,
    /// One embedding per patch, `[B, P, D]`.
    pub patches_bpd: Tensor,
    /// How the P patches lie in the image.
    pub grid: PatchGrid,
}

impl ImageFeatures {
    /// The same tensors once more, without copying them.
    pub fn shallow_clone(&self) -> ImageFeatures {
        ImageFeatures {
            pooled_bd: self.pooled_bd.shallow_clone(),
            patches_bpd: self.patches_bpd.shallow_clone(),
            grid: self.grid,
        }
    }
}

/// Text embeddings in the space shared with images; none of them is L2-normalised.
#[derive(Debug)]
pub struct TextFeatures {
    /// One embedding per text, `[B, D]`.
    pub pooled_bd: Tensor,
    /// One embedding per token, `[B, L, D]`.
    pub tokens_bld: Tensor,
    /// True for the tokens that take part in pooling and in token-level losses, `[B, L]`, `bool`.
    pub mask_bl: Tensor,
}
