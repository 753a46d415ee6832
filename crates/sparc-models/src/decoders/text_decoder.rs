//! CoCa's multimodal text decoder: causal, with attention to image tokens.

use tch::Tensor;

use crate::layers::{CrossBlock, CrossBlockShape, KeyValues, LayerNorm, causal_mask};
use crate::{ParameterBuilder, TowerShape};

// Dimension letters: b batch, r rows of a generation, l tokens, m image tokens, w width of texts, c of images.

/// The decoder.
#[derive(Debug)]
pub struct TextDecoder {
    blocks: Vec<CrossBlock>,
    final_norm: LayerNorm,
}

/// What a generation keeps: of each block, its own past and what it sees of the images.
#[derive(Debug)]
pub struct TextDecoderCache {
    past: Vec<Option<KeyValues>>,
    images: Vec<Option<KeyValues>>,
    n_images: i64,
}

impl TextDecoder {
    /// As many blocks as the stream's depth says.
    pub fn new(builder: &ParameterBuilder, shape: CrossBlockShape) -> TextDecoder {
        let TowerShape { width, depth, .. } = shape.stream;
        TextDecoder {
            blocks: (0..depth).map(|i| CrossBlock::new(&builder.under("blocks").under(i), shape)).collect(),
            final_norm: LayerNorm::new(&builder.under("norm"), width),
        }
    }

    /// Tokens `[B, L, W]` that look at image tokens `[B, M, C]` → states `[B, L, W]` after the final norm. Padding
    /// behind a text changes none of its states.
    pub fn forward(&self, tokens_blw: &Tensor, memory_bmc: &Tensor) -> Tensor {
        let mask = causal_mask(tokens_blw.size()[1], tokens_blw.device());
        let step = |x: Tensor, block: &CrossBlock| block.forward(&x, Some(&mask), memory_bmc, None);
        self.final_norm.forward(&self.blocks.iter().fold(tokens_blw.shallow_clone(), step))
    }

    /// The start of a generation for images with these tokens `[B, M, C]`.
    pub fn start(&self, memory_bmc: &Tensor) -> TextDecoderCache {
        TextDecoderCache {
            past: self.blocks.iter().map(|_| None).collect(),
            images: self.blocks.iter().map(|block| block.key_values(memory_bmc)).collect(),
            n_images: memory_bmc.size()[0],
        }
    }

    /// The last column of [`TextDecoder::forward`], `[R, 1, W]` → `[R, W]`. The R rows are those of the images, R/B
    /// of each, side by side.
    pub fn forward_step(&self, x_r1w: Tensor, cache: &mut TextDecoderCache) -> Tensor {
        let TextDecoderCache { past, images, n_images } = cache;
        let x = self
            .blocks
            .iter()
            .zip(past)
            .zip(images)
            .fold(x_r1w, |x, ((block, past), image)| block.forward_step(&x, past, image.as_ref(), *n_images));
        self.final_norm.forward(&x.select(1, 0))
    }
}

impl TextDecoderCache {
    /// Keeps these rows, `[R]`, in this order; they stay with their images.
    pub fn select_rows(&mut self, rows: &Tensor) {
        select(&mut self.past, rows);
    }

    /// Keeps these images, `[B]`. Rows of other images must be gone.
    pub fn select_images(&mut self, images: &Tensor) {
        select(&mut self.images, images);
        self.n_images = images.size()[0];
    }
}

/// Keeps these rows of every block.
pub(crate) fn select(blocks: &mut [Option<KeyValues>], rows: &Tensor) {
    for block in blocks {
        *block = block.take().map(|kept| kept.select(rows));
    }
}
