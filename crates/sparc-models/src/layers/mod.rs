//! The layers that every tower is made of, each written once.

mod attention;
mod block;
mod linear;
mod norm;

pub use attention::{CrossAttention, SelfAttention, key_mask};
pub use block::{Block, run_blocks};
pub use linear::Linear;
pub use norm::LayerNorm;
