//! CLOC's Prompter: the features of an image and a prompt to the embedding of a region (Chen et al. 2024,
//! arXiv:2410.02746, section 3.3 and table A).
//!
//! A box prompt is two tokens, one a corner; a phrase is one. They are put before the image's tokens, go through
//! one transformer layer with a single head and a final norm, and are averaged.

use sparc_core::objectives::cloc::{BoxEncoding, PrompterConfig, Readout};
use tch::{Kind, Tensor};

use crate::layers::{Block, LayerNorm, Linear};
use crate::{Init, ParameterBuilder, TowerShape};

// Dimension letters: b batch, p patches, s slots (prompts of an image), k tokens of a prompt, r rows of b · s that
// are computed, w width, d shared width, h the one head, x corners of a box (2), a axes (2).

/// The Prompter and its projection to the shared space.
#[derive(Debug)]
pub struct Prompter {
    readout: Readout,
    corners: Corners,
    block: Block,
    norm: LayerNorm,
    projection: Linear,
}

/// How corners become tokens.
#[derive(Debug)]
enum Corners {
    Sinusoidal,
    Fourier {
        /// `[2, W / 2]`, never trained.
        frequencies: Tensor,
        /// Of the upper left and the lower right corner, `[2, W]`.
        roles: Tensor,
    },
}

/// Shares of the image's sides are multiplied by this before their sines are taken (our choice; DETR's 2π and
/// the positions of text are two others).
const SINUSOID_SCALE: f64 = 1000.0;
/// Ratio of the longest to the shortest wavelength (Vaswani et al. 2017).
const SINUSOID_BASE: f64 = 10_000.0;

impl Prompter {
    /// A Prompter over image features of `width`, a multiple of 4, for a shared space of `embed_dim`.
    pub fn new(
        builder: &ParameterBuilder,
        config: PrompterConfig,
        (width, embed_dim): (i64, i64),
        bias: bool,
    ) -> Prompter {
        let corners = match config.box_encoding {
            BoxEncoding::Sinusoidal => Corners::Sinusoidal,
            BoxEncoding::Fourier => Corners::Fourier {
                frequencies: builder.create("frequencies", &[2, width / 2], Init::Normal(1.0)),
                roles: builder.create("roles", &[2, width], Init::Normal(1.0)),
            },
        };
        Prompter {
            readout: config.readout,
            corners,
            block: Block::new(&builder.under("block"), TowerShape { width, depth: 1, heads: 1 }),
            norm: LayerNorm::new(&builder.under("norm"), width),
            projection: Linear::new(
                &builder.under("projection"),
                width,
                embed_dim,
                bias,
                Init::Normal((width as f64).powf(-0.5)),
            ),
        }
    }

    /// The prompts of boxes: `[B, S, 4]` in `[0, 1]` of the network input → `[B, S, 2, W]`.
    pub fn box_prompts(&self, boxes_bs4: &Tensor, width: i64) -> Tensor {
        let (b, s, _) = boxes_bs4.size3().expect("boxes are [B, S, 4]");
        let corners_bsxa = boxes_bs4.view([b, s, 2, 2]);
        match &self.corners {
            Corners::Sinusoidal => {
                let n = width / 4;
                let place_n = Tensor::arange(n, (corners_bsxa.kind(), corners_bsxa.device()));
                let frequency_n = (place_n * (-2.0 / (width as f64 / 2.0) * SINUSOID_BASE.ln())).exp();
                let angle_bsxan = corners_bsxa.unsqueeze(-1) * SINUSOID_SCALE * frequency_n;
                Tensor::cat(&[angle_bsxan.sin(), angle_bsxan.cos()], -1).reshape([b, s, 2, width])
            }
            Corners::Fourier { frequencies, roles } => {
                let centred_bsxa = corners_bsxa * 2.0 - 1.0;
                let angle_bsxw = centred_bsxa.matmul(&frequencies.detach()) * std::f64::consts::TAU;
                Tensor::cat(&[angle_bsxw.sin(), angle_bsxw.cos()], -1) + roles
            }
        }
    }

    /// What all prompts of the images share, of their features `[B, P, W]`.
    pub fn look(&self, patches_bpw: &Tensor) -> PromptedImages {
        let projected = match self.readout {
            Readout::GapAll => self.block.project(patches_bpw).into(),
            Readout::PromptMean => self.block.project_context(patches_bpw).into(),
        };
        PromptedImages { patches_bpw: patches_bpw.shallow_clone(), projected }
    }

    /// What the layer makes of each prompt, averaged: `[B, S, K, W]` → `[B, S, W]`. Where `valid_bs` is false the
    /// result has no meaning.
    pub fn pool(&self, images: &PromptedImages, prompts_bskw: &Tensor, valid_bs: &Tensor) -> Tensor {
        match self.readout {
            Readout::GapAll => self.pool_all(images, prompts_bskw, valid_bs),
            Readout::PromptMean => self.pool_prompts(images, prompts_bskw),
        }
    }

    /// Pooled vectors `[…, W]` in the shared space, `[…, D]`.
    pub fn project(&self, pooled: &Tensor) -> Tensor {
        self.projection.forward(pooled)
    }

    /// All output tokens of the prompts that are valid.
    fn pool_all(&self, images: &PromptedImages, prompts_bskw: &Tensor, valid_bs: &Tensor) -> Tensor {
        let (b, s, k, w) = prompts_bskw.size4().expect("prompts are [B, S, K, W]");
        let rows_r = computed_rows(valid_bs);
        let image_r = rows_r.divide_scalar_mode(s, "floor");
        let of_image = |tensor: &Tensor| tensor.index_select(0, &image_r);
        let prompts_rkw = prompts_bskw.reshape([b * s, k, w]).index_select(0, &rows_r);
        let own = self.block.project(&prompts_rkw);
        let joined = |index: usize| Tensor::cat(&[own[index].shallow_clone(), of_image(&images.projected[index])], 2);
        let (query, key, value) = (joined(0), joined(1), joined(2));
        let mixed =
            Tensor::scaled_dot_product_attention(&query, &key, &value, None::<&Tensor>, 0.0, false, None, false);
        let stream = Tensor::cat(&[prompts_rkw, of_image(&images.patches_bpw)], 1);
        let output = self.norm.forward(&self.block.finish(&stream, &mixed));
        let pooled_rw = output.mean_dim([1i64].as_slice(), false, None::<Kind>);
        let none = Tensor::zeros([b * s, w], (pooled_rw.kind(), pooled_rw.device()));
        none.index_add(0, &rows_r, &pooled_rw).view([b, s, w])
    }

    /// The prompts' own output tokens: their queries alone, over the keys of the image and of the prompt itself.
    fn pool_prompts(&self, images: &PromptedImages, prompts_bskw: &Tensor) -> Tensor {
        let (b, s, k, w) = prompts_bskw.size4().expect("prompts are [B, S, K, W]");
        let (image_key, image_value) = (images.projected[0].squeeze_dim(1), images.projected[1].squeeze_dim(1));
        let prompts = prompts_bskw.reshape([b, s * k, w]);
        let [query, key, value] = self.block.project(&prompts).map(|part| part.view([b, s, k, w]));
        let to_own_bskk = query.matmul(&key.transpose(2, 3));
        let to_image_bskp = query.view([b, s * k, w]).matmul(&image_key.transpose(1, 2)).view([b, s, k, -1]);
        let weights = (Tensor::cat(&[to_own_bskk, to_image_bskp], 3) * (w as f64).powf(-0.5)).softmax(-1, None::<Kind>);
        let p = image_key.size()[1];
        let (own, image) = (weights.narrow(3, 0, k), weights.narrow(3, k, p));
        let mixed_bskw = own.matmul(&value) + image.reshape([b, s * k, p]).matmul(&image_value).view([b, s, k, w]);
        let output = self.norm.forward(&self.block.finish(&prompts, &mixed_bskw.view([b, 1, s * k, w])));
        output.view([b, s, k, w]).mean_dim([2i64].as_slice(), false, None::<Kind>)
    }
}

/// Images, ready for any number of prompts.
#[derive(Debug)]
pub struct PromptedImages {
    patches_bpw: Tensor,
    /// Queries, keys and values of the one head, `[B, 1, P, W]` each; without queries where only prompts are read.
    projected: Vec<Tensor>,
}

/// Flat indices of the valid slots; if there is none, the first, so that every parameter has a gradient whatever
/// the batch holds.
fn computed_rows(valid_bs: &Tensor) -> Tensor {
    let rows_r = valid_bs.reshape([-1]).nonzero().squeeze_dim(1);
    if rows_r.size()[0] > 0 { rows_r } else { Tensor::zeros([1], (Kind::Int64, valid_bs.device())) }
}

/// A phrase as a prompt, and the box that its pooled output gives.
#[derive(Debug)]
pub struct BoxRegressor {
    text_adapter: Linear,
    hidden: Linear,
    output: Linear,
    output_bias: Tensor,
}

impl BoxRegressor {
    /// Where a prediction starts: the middle of the image.
    const START: [f64; 4] = [0.25, 0.25, 0.75, 0.75];

    /// From phrases of `embed_dim` to prompts of `width`, and from there by two layers to a box.
    pub fn new(builder: &ParameterBuilder, width: i64, embed_dim: i64) -> BoxRegressor {
        let linear = |name: &str, inputs: i64, outputs: i64, bias: bool| {
            Linear::new(&builder.under(name), inputs, outputs, bias, Init::Normal((inputs as f64).powf(-0.5)))
        };
        BoxRegressor {
            text_adapter: linear("text_adapter", embed_dim, width, true),
            hidden: linear("box_head.fc1", width, width, true),
            output: linear("box_head.fc2", width, 4, false),
            output_bias: builder.under("box_head.fc2").create("bias", &[4], Init::Given(&Self::START)),
        }
    }

    /// Phrases in the shared space, pooled and not normalised, `[B, S, D]` → prompts `[B, S, 1, W]`.
    pub fn prompts(&self, phrases_bsd: &Tensor) -> Tensor {
        self.text_adapter.forward(phrases_bsd).unsqueeze(2)
    }

    /// Pooled vectors `[…, W]` → boxes `[…, 4]`, not clamped.
    pub fn boxes(&self, pooled: &Tensor) -> Tensor {
        self.output.forward(&self.hidden.forward(pooled).gelu("none")) + &self.output_bias
    }
}

#[cfg(test)]
#[path = "prompter_tests.rs"]
mod tests;
