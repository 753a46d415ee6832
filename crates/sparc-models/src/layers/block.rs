//! The pre-LN transformer block.

use tch::Tensor;

use super::{LayerNorm, Linear, SelfAttention};
use crate::{Init, ParameterBuilder, TowerShape};

/// Attention and a GELU MLP four times as wide, each behind a layer norm, each added to the stream.
#[derive(Debug)]
pub struct Block {
    attention_norm: LayerNorm,
    attention: SelfAttention,
    mlp_norm: LayerNorm,
    expand: Linear,
    contract: Linear,
}

impl Block {
    /// Width of the MLP's hidden layer, in multiples of the stream's width.
    const MLP_RATIO: i64 = 4;

    /// Initialised as CLIP's reference code does: the MLP expands with N(0, 1/2w) and contracts
    /// with N(0, 1/w) / √(2 · depth).
    pub fn new(builder: &ParameterBuilder, shape: TowerShape) -> Block {
        let (width, hidden) = (shape.width, Self::MLP_RATIO * shape.width);
        let residual = (width as f64).powf(-0.5) * (2.0 * shape.depth as f64).powf(-0.5);
        let expanding = (2.0 * width as f64).powf(-0.5);
        Block {
            attention_norm: LayerNorm::new(&builder.under("norm1"), width),
            attention: SelfAttention::new(&builder.under("attn"), shape),
            mlp_norm: LayerNorm::new(&builder.under("norm2"), width),
            expand: Linear::new(&builder.under("mlp.fc1"), width, hidden, true, Init::Normal(expanding)),
            contract: Linear::new(&builder.under("mlp.fc2"), hidden, width, true, Init::Normal(residual)),
        }
    }

    /// `[B, L, W]` → `[B, L, W]`.
    pub fn forward(&self, x_blw: &Tensor, mask: Option<&Tensor>) -> Tensor {
        self.after_attention(x_blw + self.attention.forward(&self.attention_norm.forward(x_blw), mask))
    }

    /// Queries, keys and values of the stream `[B, L, W]`, each `[B, H, L, W / H]`.
    pub fn project(&self, x_blw: &Tensor) -> [Tensor; 3] {
        self.attention.project(&self.attention_norm.forward(x_blw))
    }

    /// Keys and values alone.
    pub fn project_context(&self, x_blw: &Tensor) -> [Tensor; 2] {
        self.attention.project_context(&self.attention_norm.forward(x_blw))
    }

    /// The block's output where the stream is `x_blw` and attention has mixed the values to `[B, H, L, W / H]`.
    pub fn finish(&self, x_blw: &Tensor, mixed_bhlw: &Tensor) -> Tensor {
        self.after_attention(x_blw + self.attention.project_back(mixed_bhlw))
    }

    fn after_attention(&self, x_blw: Tensor) -> Tensor {
        let hidden = self.expand.forward(&self.mlp_norm.forward(&x_blw)).gelu("none");
        &x_blw + self.contract.forward(&hidden)
    }
}

/// Runs the blocks one after the other.
pub fn run_blocks(blocks: &[Block], x_blw: Tensor, mask: Option<&Tensor>) -> Tensor {
    blocks.iter().fold(x_blw, |x, block| block.forward(&x, mask))
}
