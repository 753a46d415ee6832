//! What tch lacks, on the same LibTorch, and a processor's instruction that pulp lacks: the only `unsafe` code and the
//! only C++ of sparc.
//!
//! Every function that calls LibTorch checks its arguments, catches C++ exceptions at the border and returns a typed
//! [`Error`].

mod autograd;
mod bridge;
mod filling;
mod max_similarity;
mod optimizer;
mod sparc_local;
#[cfg(target_arch = "x86_64")]
mod vnni;

pub use autograd::{custom_gradient, vjp};
pub use bridge::Error;
pub use filling::Filling;
pub use max_similarity::MaxSimilarity;
pub use optimizer::{AdamwStep, fused_adamw, scale_in_place, total_norm};
pub use sparc_local::{SparcLocal, SparcLocalTokens, SparcLocalWeights};
#[cfg(target_arch = "x86_64")]
pub use vnni::Vnni;
