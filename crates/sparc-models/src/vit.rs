//! The vision transformer (Dosovitskiy et al. 2021), pre-LN, with learned positions.

use serde::{Deserialize, Serialize};
use sparc_core::PatchGrid;
use sparc_core::tensor_math::gather_rows;
use tch::{Kind, Tensor};

use crate::layers::{Block, LayerNorm, Linear, run_blocks};
use crate::{Init, ModelSize, ParameterBuilder};

// Dimension letters: b batch, c channel, h height, w image width (in shapes of images) or tower width.

/// How patches become one image vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImagePool {
    /// Mean over patches; there is no class token (SPARC, appendix D.3).
    Average,
    /// A class token in front of the patches.
    Cls,
}

/// Configuration of the image tower. Every field is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
    /// Width, depth and heads.
    pub size: ModelSize,
    /// Side of a square patch in pixels.
    pub patch_size: i64,
    /// Side of the square input in pixels.
    pub image_size: i64,
    /// How patches become one vector.
    pub pool: ImagePool,
}

impl VitConfig {
    /// What is wrong with the values, if anything.
    ///
    /// # Errors
    ///
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        if self.patch_size < 1 || self.image_size < 1 || self.image_size % self.patch_size != 0 {
            return Err(format!(
                "image_size {} is not a positive multiple of patch_size {}",
                self.image_size, self.patch_size
            ));
        }
        Ok(())
    }

    /// The grid of patches.
    pub fn grid(&self) -> PatchGrid {
        let side = self.image_size / self.patch_size;
        PatchGrid { height: side, width: side }
    }
}

/// What a tower gives, in its own width.
#[derive(Debug)]
pub struct TowerOutput {
    /// One vector per image after the final norm, `[B, W]`.
    pub pooled_bw: Tensor,
    /// One vector per patch after the final norm, `[B, P, W]`, without the class token.
    pub patches_bpw: Tensor,
    /// The same patches as the last block leaves them, before the final norm, `[B, P, W]`.
    pub stream_bpw: Tensor,
}

/// The image tower f_v.
#[derive(Debug)]
pub struct Vit {
    config: VitConfig,
    patch_embedding: Linear,
    class_token: Option<Tensor>,
    positions: Tensor,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
}

impl Vit {
    /// Patch embedding Xavier uniform (big_vision's ViT), class token and positions N(0, 1/w)
    /// (CLIP's reference code).
    pub fn new(builder: &ParameterBuilder, config: VitConfig) -> Vit {
        let shape = config.size.shape();
        let small = Init::Normal((shape.width as f64).powf(-0.5));
        let class_token =
            (config.pool == ImagePool::Cls).then(|| builder.create("class_token", &[1, 1, shape.width], small));
        let n_positions = config.grid().len() + i64::from(class_token.is_some());
        let pixels = 3 * config.patch_size * config.patch_size;
        Vit {
            config,
            patch_embedding: Linear::new(&builder.under("patch_embed"), pixels, shape.width, true, Init::Xavier),
            class_token,
            positions: builder.create("positions", &[1, n_positions, shape.width], small),
            blocks: (0..shape.depth).map(|i| Block::new(&builder.under("blocks").under(i), shape)).collect(),
            final_norm: LayerNorm::new(&builder.under("norm"), shape.width),
        }
    }

    /// Images `[B, 3, H, W]` of the configured size.
    ///
    /// # Panics
    ///
    /// If the images have another size.
    pub fn forward(&self, images_bchw: &Tensor) -> TowerOutput {
        self.run(images_bchw, None)
    }

    /// [`Vit::forward`] over some patches alone, those of these indices `[B, K]`: the others are not there at all
    /// (He et al. 2022). Gives K patches.
    ///
    /// # Panics
    ///
    /// If the images have another size.
    pub fn forward_visible(&self, images_bchw: &Tensor, visible_bk: &Tensor) -> TowerOutput {
        self.run(images_bchw, Some(visible_bk))
    }

    fn run(&self, images_bchw: &Tensor, visible_bk: Option<&Tensor>) -> TowerOutput {
        let patches = self.patch_embedding.forward(&self.patchify(images_bchw));
        let n_classes = i64::from(self.class_token.is_some());
        let mut x = patches + self.positions.narrow(1, n_classes, self.config.grid().len());
        if let Some(visible_bk) = visible_bk {
            x = gather_rows(&x, visible_bk);
        }
        if let Some(class_token) = &self.class_token {
            let class_token = class_token + self.positions.narrow(1, 0, 1);
            x = Tensor::cat(&[class_token.expand([x.size()[0], -1, -1], false), x], 1);
        }
        let stream = run_blocks(&self.blocks, x, None);
        let x = self.final_norm.forward(&stream);
        match self.config.pool {
            ImagePool::Average => TowerOutput {
                pooled_bw: x.mean_dim([1i64].as_slice(), false, None::<Kind>),
                patches_bpw: x,
                stream_bpw: stream,
            },
            ImagePool::Cls => {
                let patches = |x: &Tensor| x.narrow(1, 1, x.size()[1] - 1);
                TowerOutput { pooled_bw: x.select(1, 0), patches_bpw: patches(&x), stream_bpw: patches(&stream) }
            }
        }
    }

    /// `[B, 3, H, W]` → `[B, P, 3·s·s]`, channel first inside a patch as in a convolution's weight.
    pub(crate) fn patchify(&self, images_bchw: &Tensor) -> Tensor {
        let (side, size) = (self.config.patch_size, images_bchw.size());
        let expected = self.config.image_size;
        assert!(
            size.len() == 4 && size[1..] == [3, expected, expected],
            "images must be [B, 3, {expected}, {expected}], got {size:?}"
        );
        let grid = self.config.grid();
        images_bchw.view([size[0], 3, grid.height, side, grid.width, side]).permute([0, 2, 4, 1, 3, 5]).reshape([
            size[0],
            grid.len(),
            3 * side * side,
        ])
    }
}
