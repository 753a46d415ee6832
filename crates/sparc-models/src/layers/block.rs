//! The pre-LN transformer block, alone and with attention to another sequence.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{CrossAttention, KeyValues, LayerNorm, Linear, SeeAttention, SelfAttention};
use crate::{Init, ParameterBuilder, TowerShape};

/// Attention and a GELU MLP four times as wide, each behind a layer norm, each added to the stream.
#[derive(Debug)]
pub struct Block {
    attention: AttentionBranch,
    mlp: MlpBranch,
}

impl Block {
    /// Initialised as CLIP's reference code does, see [`SelfAttention`]; the MLP expands with N(0, 1/2w) and
    /// contracts with N(0, 1/w) / √(2 · depth).
    pub fn new(builder: &ParameterBuilder, shape: TowerShape) -> Block {
        Block { attention: AttentionBranch::new(builder, shape), mlp: MlpBranch::new(builder, shape) }
    }

    /// `[B, L, W]` → `[B, L, W]`.
    pub fn forward(&self, x_blw: &Tensor, mask: Option<&Tensor>) -> Tensor {
        self.mlp.forward(&self.attention.forward(x_blw, mask))
    }

    /// The last token's part of a causal [`Block::forward`], see [`SelfAttention::forward_step`].
    pub fn forward_step(&self, x_b1w: &Tensor, past: &mut Option<KeyValues>) -> Tensor {
        self.mlp.forward(&self.attention.forward_step(x_b1w, past))
    }

    /// Queries, keys and values of the stream `[B, L, W]`, each `[B, H, L, W / H]`.
    pub fn project(&self, x_blw: &Tensor) -> [Tensor; 3] {
        let AttentionBranch { norm, attention } = &self.attention;
        attention.project(&norm.forward(x_blw))
    }

    /// Keys and values alone.
    pub fn project_context(&self, x_blw: &Tensor) -> [Tensor; 2] {
        let AttentionBranch { norm, attention } = &self.attention;
        attention.project_context(&norm.forward(x_blw))
    }

    /// The block's output where the stream is `x_blw` and attention has mixed the values to `[B, H, L, W / H]`.
    pub fn finish(&self, x_blw: &Tensor, mixed_bhlw: &Tensor) -> Tensor {
        self.mlp.forward(&(x_blw + self.attention.attention.project_back(mixed_bhlw)))
    }
}

/// Runs the blocks one after the other.
pub fn run_blocks(blocks: &[Block], x_blw: Tensor, mask: Option<&Tensor>) -> Tensor {
    blocks.iter().fold(x_blw, |x, block| block.forward(&x, mask))
}

/// How many MLPs a block with attention to another sequence has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mlps {
    /// One, after both attentions, as the parameter counts of CoCa's paper imply.
    One,
    /// One after each attention, as in open_clip.
    Two,
}

/// What a [`CrossBlock`] is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossBlockShape {
    /// The stream; `depth` is the number of blocks that add to it.
    pub stream: TowerShape,
    /// Width of the other sequence; none for a block that sees no other sequence.
    pub context_width: Option<i64>,
    /// How many MLPs.
    pub mlps: Mlps,
}

/// Self-attention, attention to another sequence, MLPs: each behind a layer norm, each added to the stream. The
/// other sequence passes a layer norm of its own.
///
/// CoCa's text decoder and SyCoCa's image decoder are made of it, the one looking at patches from tokens, the other
/// at tokens from patches.
#[derive(Debug)]
pub struct CrossBlock {
    attention: AttentionBranch,
    first_mlp: Option<MlpBranch>,
    cross: Option<CrossBranch>,
    mlp: MlpBranch,
}

impl CrossBlock {
    /// Initialised as [`Block`] is.
    pub fn new(builder: &ParameterBuilder, shape: CrossBlockShape) -> CrossBlock {
        let stream = shape.stream;
        let cross = builder.under("cross");
        CrossBlock {
            attention: AttentionBranch::new(builder, stream),
            first_mlp: (shape.mlps == Mlps::Two).then(|| MlpBranch::new(builder, stream)),
            cross: shape.context_width.map(|width| CrossBranch::new(&cross, stream, width)),
            mlp: MlpBranch::new(&cross, stream),
        }
    }

    /// `[B, L, W]` and a context `[B, X, C]` → `[B, L, W]`; a block that sees no other sequence ignores the context.
    pub fn forward(
        &self,
        x_blw: &Tensor,
        mask: Option<&Tensor>,
        context_bxc: &Tensor,
        context_mask: Option<&Tensor>,
    ) -> Tensor {
        let x_blw = self.after_self(self.attention.forward(x_blw, mask));
        let context = self.key_values(context_bxc);
        self.after_cross(x_blw, context.as_ref(), context_mask)
    }

    /// [`CrossBlock::forward`] to a context without a mask, the probabilities of the attention to it through `see`.
    ///
    /// # Panics
    ///
    /// If the block sees no other sequence.
    pub fn forward_seen(
        &self,
        x_blw: &Tensor,
        mask: Option<&Tensor>,
        context_bxc: &Tensor,
        see: SeeAttention<'_>,
    ) -> Tensor {
        let x_blw = self.after_self(self.attention.forward(x_blw, mask));
        let cross = self.cross.as_ref().expect("a block that sees another sequence");
        self.mlp.forward(&cross.forward_seen(&x_blw, context_bxc, see))
    }

    /// What a block looks at in a context; none for a block that sees no other sequence.
    pub fn key_values(&self, context_bxc: &Tensor) -> Option<KeyValues> {
        self.cross.as_ref().map(|cross| cross.key_values(context_bxc))
    }

    /// The last token's part of a causal [`CrossBlock::forward`], `[R, 1, W]` → `[R, 1, W]`. The R rows are those of
    /// the context's B, R/B of each, side by side.
    pub fn forward_step(
        &self,
        x_r1w: &Tensor,
        past: &mut Option<KeyValues>,
        context: Option<&KeyValues>,
        n_contexts: i64,
    ) -> Tensor {
        let x_r1w = self.after_self(self.attention.forward_step(x_r1w, past));
        // Rows with one context are its queries.
        let (rows, width) = (x_r1w.size()[0], x_r1w.size()[2]);
        let x_bqw = x_r1w.view([n_contexts, rows / n_contexts, width]);
        self.after_cross(x_bqw, context, None).view([rows, 1, width])
    }

    fn after_self(&self, x_blw: Tensor) -> Tensor {
        match &self.first_mlp {
            Some(mlp) => mlp.forward(&x_blw),
            None => x_blw,
        }
    }

    fn after_cross(&self, x_blw: Tensor, context: Option<&KeyValues>, context_mask: Option<&Tensor>) -> Tensor {
        let x_blw = match (&self.cross, context) {
            (Some(cross), Some(context)) => cross.forward(&x_blw, context, context_mask),
            _ => x_blw,
        };
        self.mlp.forward(&x_blw)
    }
}

#[derive(Debug)]
struct AttentionBranch {
    norm: LayerNorm,
    attention: SelfAttention,
}

impl AttentionBranch {
    fn new(builder: &ParameterBuilder, shape: TowerShape) -> AttentionBranch {
        AttentionBranch {
            norm: LayerNorm::new(&builder.under("norm1"), shape.width),
            attention: SelfAttention::new(&builder.under("attn"), shape),
        }
    }

    fn forward(&self, x_blw: &Tensor, mask: Option<&Tensor>) -> Tensor {
        x_blw + self.attention.forward(&self.norm.forward(x_blw), mask)
    }

    fn forward_step(&self, x_b1w: &Tensor, past: &mut Option<KeyValues>) -> Tensor {
        x_b1w + self.attention.forward_step(&self.norm.forward(x_b1w), past)
    }
}

#[derive(Debug)]
struct CrossBranch {
    norm: LayerNorm,
    context_norm: LayerNorm,
    attention: CrossAttention,
}

impl CrossBranch {
    fn new(builder: &ParameterBuilder, shape: TowerShape, context_width: i64) -> CrossBranch {
        CrossBranch {
            norm: LayerNorm::new(&builder.under("norm1"), shape.width),
            context_norm: LayerNorm::new(&builder.under("context_norm"), context_width),
            attention: CrossAttention::residual(&builder.under("attn"), shape, context_width),
        }
    }

    fn key_values(&self, context_bxc: &Tensor) -> KeyValues {
        self.attention.key_values(&self.context_norm.forward(context_bxc))
    }

    fn forward(&self, x_blw: &Tensor, context: &KeyValues, context_mask: Option<&Tensor>) -> Tensor {
        x_blw + self.attention.attend(&self.norm.forward(x_blw), context, context_mask)
    }

    fn forward_seen(&self, x_blw: &Tensor, context_bxc: &Tensor, see: SeeAttention<'_>) -> Tensor {
        x_blw + self.attention.attend_seen(&self.norm.forward(x_blw), &self.key_values(context_bxc), None, see)
    }
}

#[derive(Debug)]
struct MlpBranch {
    norm: LayerNorm,
    expand: Linear,
    contract: Linear,
}

impl MlpBranch {
    /// Width of the hidden layer, in multiples of the stream's width.
    const RATIO: i64 = 4;

    fn new(builder: &ParameterBuilder, shape: TowerShape) -> MlpBranch {
        let (width, hidden) = (shape.width, Self::RATIO * shape.width);
        let residual = (width as f64).powf(-0.5) * (2.0 * shape.depth as f64).powf(-0.5);
        let expanding = (2.0 * width as f64).powf(-0.5);
        MlpBranch {
            norm: LayerNorm::new(&builder.under("norm2"), width),
            expand: Linear::new(&builder.under("mlp.fc1"), width, hidden, true, Init::Normal(expanding)),
            contract: Linear::new(&builder.under("mlp.fc2"), hidden, width, true, Init::Normal(residual)),
        }
    }

    fn forward(&self, x_blw: &Tensor) -> Tensor {
        let hidden = self.expand.forward(&self.norm.forward(x_blw)).gelu("none");
        x_blw + self.contract.forward(&hidden)
    }
}

#[cfg(test)]
mod tests {
    use sparc_testing::{random, scalar};
    use tch::{Device, Kind};

    use super::*;
    use crate::layers::causal_mask;

    const SHAPE: CrossBlockShape = CrossBlockShape {
        stream: TowerShape { width: 8, depth: 2, heads: 2 },
        context_width: Some(6),
        mlps: Mlps::Two,
    };

    fn block(shape: CrossBlockShape) -> CrossBlock {
        CrossBlock::new(&ParameterBuilder::new(1, Kind::Double, Device::Cpu), shape)
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        scalar(&(a - b).abs().max())
    }

    #[test]
    fn parameters_are_those_of_the_papers_count() {
        // 8w² of the MLP, 4w² of each attention: 16w² with one MLP, 24w² with two (biases and norms aside).
        for (mlps, expected) in [(Mlps::One, 16), (Mlps::Two, 24)] {
            let builder = ParameterBuilder::new(1, Kind::Double, Device::Cpu);
            let stream = TowerShape { width: 8, depth: 2, heads: 2 };
            let _ = CrossBlock::new(&builder, CrossBlockShape { stream, context_width: Some(8), mlps });
            let parameters = builder.finish();
            let weights = parameters.iter().filter(|(_, tensor)| tensor.dim() == 2).map(|(_, tensor)| tensor.numel());
            assert_eq!(weights.sum::<usize>(), expected * 64);
        }
    }

    #[test]
    fn steps_equal_the_whole() {
        let (x, context) = (random(&[4, 5, 8], 1), random(&[2, 3, 6], 2));
        for mlps in [Mlps::One, Mlps::Two] {
            let block = block(CrossBlockShape { mlps, ..SHAPE });
            tch::no_grad(|| {
                // Two rows for each context.
                let repeated = context.repeat_interleave_self_int(2, 0, None);
                let whole = block.forward(&x, Some(&causal_mask(5, Device::Cpu)), &repeated, None);
                let (mut past, context) = (None, block.key_values(&context));
                for t in 0..5 {
                    let step = block.forward_step(&x.narrow(1, t, 1), &mut past, context.as_ref(), 2);
                    assert!(difference(&step, &whole.narrow(1, t, 1)) < 1e-12);
                }
            });
        }
    }

    #[test]
    fn both_directions_are_one_block_and_see_their_context() {
        let (tokens, patches) = (random(&[2, 3, 8], 1), random(&[2, 4, 6], 2));
        let text_decoder = block(SHAPE);
        let image_decoder = block(CrossBlockShape {
            stream: TowerShape { width: 6, depth: 2, heads: 2 },
            context_width: Some(8),
            ..SHAPE
        });
        assert_eq!(text_decoder.forward(&tokens, None, &patches, None).size(), [2, 3, 8]);
        assert_eq!(image_decoder.forward(&patches, None, &tokens, None).size(), [2, 4, 6]);
        let moved = tokens.copy();
        let _ = moved.narrow(1, 2, 1).fill_(9.0);
        let mask = Tensor::from_slice(&[true, true, false, true, true, false]).view([2, 1, 1, 3]);
        let see = |tokens: &Tensor, mask| image_decoder.forward(&patches, None, tokens, mask);
        assert!(difference(&see(&tokens, None), &see(&moved, None)) > 1e-6);
        assert_eq!(difference(&see(&tokens, Some(&mask)), &see(&moved, Some(&mask))), 0.0);
    }

    #[test]
    fn without_a_context_none_is_seen() {
        let block = block(CrossBlockShape { context_width: None, ..SHAPE });
        let x = random(&[2, 3, 8], 1);
        let see = |seed: i64| block.forward(&x, None, &random(&[2, 4, 6], seed), None);
        assert_eq!(difference(&see(1), &see(2)), 0.0);
    }
}
