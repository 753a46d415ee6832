//! The layers that every tower is made of, each written once.

mod attention;
mod block;
mod linear;
mod norm;

pub use attention::{CrossAttention, KeyValues, SeeAttention, SelfAttention, causal_mask, key_mask};
pub use block::{Block, CrossBlock, CrossBlockShape, Mlps, run_blocks};
pub use linear::Linear;
pub use norm::LayerNorm;
