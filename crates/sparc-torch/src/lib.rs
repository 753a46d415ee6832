//! What tch lacks, on the same LibTorch: the only `unsafe` code and the only C++ of sparc.
//!
//! Every function checks its arguments, catches C++ exceptions at the border and returns a typed
//! [`Error`].

mod autograd;
mod bridge;
mod filled;
mod max_similarity;
mod optimizer;
mod sparc_local;

pub use autograd::{custom_gradient, vjp};
pub use bridge::Error;
pub use filled::filled;
pub use max_similarity::MaxSimilarity;
pub use optimizer::{AdamwStep, fused_adamw, scale_in_place, total_norm};
pub use sparc_local::{SparcLocal, SparcLocalTokens, SparcLocalWeights};
