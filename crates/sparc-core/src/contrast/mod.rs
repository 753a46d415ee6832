//! What contrasts over the global batch share: rows of this process among all, gradients computed chunk by
//! chunk, scores of pairs in blocks.

mod gathered;
mod gradient;
pub(crate) mod pairwise;

pub use gathered::Gathered;
pub(crate) use gathered::Rows;
pub(crate) use gradient::{chunks, wants_gradient, with_gradients};
