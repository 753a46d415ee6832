//! SyCoCa's image decoder: patches, some of them hidden, with attention to the caption.

use serde::{Deserialize, Serialize};
use sparc_core::PatchGrid;
use sparc_core::tensor_math::gather_rows;
use tch::{Device, Kind, Tensor};

use crate::layers::{CrossBlock, CrossBlockShape, LayerNorm, Linear, Mlps};
use crate::{Init, ParameterBuilder, TowerShape};

// Dimension letters: b batch, p patches, k visible patches, h hidden patches, l tokens, w width of images, c of
// texts, x pixel values of a patch.

/// Configuration. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDecoderConfig {
    /// Blocks, as wide as the image tower's.
    pub layers: i64,
    /// Where patches lie.
    pub positions: DecoderPositions,
    /// Whether it looks at the caption: without, it is plain masked image modelling.
    pub reads_text: bool,
    /// Whether the caption's class token is among what it looks at.
    pub reads_class_token: bool,
}

/// How the decoder is told where patches lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecoderPositions {
    /// MAE's fixed sines and cosines, half of the width for rows and half for columns.
    SinCos,
    /// Learned.
    Learned,
}

/// The decoder.
#[derive(Debug)]
pub struct ImageDecoder {
    mask_token: Tensor,
    positions: Tensor,
    blocks: Vec<CrossBlock>,
    final_norm: LayerNorm,
    pixels: Linear,
}

/// An image of which some patches are hidden.
#[derive(Debug)]
pub struct MaskedImage<'a> {
    /// The tower's vectors of the visible patches, `[B, K, W]`.
    pub visible_bkw: &'a Tensor,
    /// Their indices, `[B, K]`, `i64`.
    pub visible_bk: &'a Tensor,
    /// The indices of the others, `[B, H]`, `i64`.
    pub hidden_bh: &'a Tensor,
}

impl ImageDecoder {
    /// A decoder for this grid, with a stream of `width` in `heads`, of captions `text_width` wide, that gives
    /// `pixels` values a patch. Mask vector N(0, 0.02²) as MAE's; pixels Xavier uniform.
    ///
    /// # Panics
    ///
    /// If the positions are sines and the width is no multiple of 4.
    pub fn new(
        builder: &ParameterBuilder,
        config: ImageDecoderConfig,
        grid: PatchGrid,
        (width, heads, mlps): (i64, i64, Mlps),
        (text_width, pixels): (i64, i64),
    ) -> ImageDecoder {
        let stream = TowerShape { width, depth: config.layers, heads };
        let shape = CrossBlockShape { stream, context_width: config.reads_text.then_some(text_width), mlps };
        let mask_token = builder.create("mask_token", &[1, 1, width], Init::Normal(0.02));
        let positions = match config.positions {
            DecoderPositions::SinCos => {
                sin_cos_positions(grid, width).to_kind(mask_token.kind()).to_device(mask_token.device())
            }
            DecoderPositions::Learned => {
                builder.create("positions", &[1, grid.len(), width], Init::Normal((width as f64).powf(-0.5)))
            }
        };
        ImageDecoder {
            mask_token,
            positions,
            blocks: (0..config.layers).map(|i| CrossBlock::new(&builder.under("blocks").under(i), shape)).collect(),
            final_norm: LayerNorm::new(&builder.under("norm"), width),
            pixels: Linear::new(&builder.under("pixels"), width, pixels, true, Init::Xavier),
        }
    }

    /// Pixels of every patch, hidden or not, `[B, P, X]`; captions are `[B, L, C]`, with what
    /// [`crate::layers::key_mask`] gives.
    pub fn forward(&self, image: &MaskedImage, text_blc: &Tensor, text_mask: &Tensor) -> Tensor {
        let (b, h) = image.hidden_bh.size2().expect("hidden patches are [B, H]");
        let hidden_bhw = self.mask_token.expand([b, h, -1], false);
        let order_bp = Tensor::cat(&[image.visible_bk, image.hidden_bh], 1);
        let x_bpw = gather_rows(&Tensor::cat(&[image.visible_bkw, &hidden_bhw], 1), &order_bp.argsort(1, false));
        let x_bpw = x_bpw + &self.positions;
        let step = |x: Tensor, block: &CrossBlock| block.forward(&x, None, text_blc, Some(text_mask));
        self.pixels.forward(&self.final_norm.forward(&self.blocks.iter().fold(x_bpw, step)))
    }
}

/// MAE's positions, `[1, P, W]`, f64: of each half of the width, for a column or a row n, sin(n / 10000^(i/(W/4)))
/// and then the cosines.
fn sin_cos_positions(grid: PatchGrid, width: i64) -> Tensor {
    assert!(width % 4 == 0, "positions of sines need a width that is a multiple of 4, not {width}");
    let options = (Kind::Double, Device::Cpu);
    let quarter = width / 4;
    let frequencies = (Tensor::arange(quarter, options) * (-(10_000f64.ln()) / quarter as f64)).exp();
    let of_axis = |n: i64| {
        let angles = Tensor::arange(n, options).outer(&frequencies);
        Tensor::cat(&[angles.sin(), angles.cos()], 1)
    };
    let columns = of_axis(grid.width).unsqueeze(0).expand([grid.height, -1, -1], false);
    let rows = of_axis(grid.height).unsqueeze(1).expand([-1, grid.width, -1], false);
    Tensor::cat(&[columns, rows], 2).reshape([1, grid.len(), width])
}

#[cfg(test)]
mod tests {
    use sparc_testing::{assert_close, random, scalar};

    use super::*;
    use crate::layers::key_mask;

    const GRID: PatchGrid = PatchGrid { height: 2, width: 3 };

    fn decoder(positions: DecoderPositions, reads_text: bool) -> ImageDecoder {
        let config = ImageDecoderConfig { layers: 2, positions, reads_text, reads_class_token: false };
        let builder = ParameterBuilder::new(1, Kind::Double, Device::Cpu);
        ImageDecoder::new(&builder, config, GRID, (8, 2, Mlps::Two), (4, 12))
    }

    #[test]
    fn positions_are_maes() {
        let positions = sin_cos_positions(GRID, 8);
        assert_eq!(positions.size(), [1, 6, 8]);
        // Patch 5: row 1, column 2; frequencies 1 and 1/100.
        let expected = [2f64.sin(), 0.02f64.sin(), 2f64.cos(), 0.02f64.cos(), 1f64.sin(), 0.01f64.sin()];
        for (i, expected) in expected.into_iter().enumerate() {
            assert_close(positions.double_value(&[0, 5, i as i64]), expected, 1e-12);
        }
    }

    #[test]
    fn patches_come_out_where_they_were() {
        for positions in [DecoderPositions::SinCos, DecoderPositions::Learned] {
            let decoder = decoder(positions, true);
            let text = random(&[1, 3, 4], 1);
            let mask = key_mask(&Tensor::ones([1, 3], (Kind::Bool, Device::Cpu)));
            let latents = random(&[1, 6, 8], 2);
            let run = |visible: &[i64], hidden: &[i64]| {
                let visible_bk = Tensor::from_slice(visible).unsqueeze(0);
                let image = MaskedImage {
                    visible_bkw: &gather_rows(&latents, &visible_bk),
                    visible_bk: &visible_bk,
                    hidden_bh: &Tensor::from_slice(hidden).unsqueeze(0),
                };
                decoder.forward(&image, &text, &mask)
            };
            let a = run(&[0, 2, 5], &[1, 3, 4]);
            assert_eq!(a.size(), [1, 6, 12]);
            // The order in which patches are named is of no account.
            let b = run(&[5, 0, 2], &[4, 1, 3]);
            assert!(scalar(&(&a - b).abs().max()) < 1e-12);
            assert!(scalar(&(a - run(&[0, 2, 4], &[1, 3, 5])).abs().max()) > 1e-3);
        }
    }

    #[test]
    fn the_caption_counts_where_it_is_read_and_its_padding_never() {
        let latents = random(&[1, 3, 8], 2);
        let (visible, hidden) = (Tensor::from_slice(&[0i64, 2, 5]), Tensor::from_slice(&[1i64, 3, 4]));
        let run = |reads: bool, seed: i64, padding: f64| {
            let text = random(&[1, 3, 4], seed);
            let _ = text.narrow(1, 2, 1).fill_(padding);
            let image = MaskedImage {
                visible_bkw: &latents,
                visible_bk: &visible.unsqueeze(0),
                hidden_bh: &hidden.unsqueeze(0),
            };
            let mask = key_mask(&Tensor::from_slice(&[true, true, false]).unsqueeze(0));
            decoder(DecoderPositions::SinCos, reads).forward(&image, &text, &mask)
        };
        let difference = |a: Tensor, b: Tensor| scalar(&(a - b).abs().max());
        assert!(difference(run(true, 1, 0.0), run(true, 2, 0.0)) > 1e-6);
        assert_eq!(difference(run(true, 1, 0.0), run(true, 1, 7.0)), 0.0);
        assert_eq!(difference(run(false, 1, 0.0), run(false, 2, 0.0)), 0.0);
    }
}
