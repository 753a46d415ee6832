//! One file per objective; each is a pure function of tensors.
//!
//! Every objective sees this process's rows and the rows of the global batch ([`Gathered`]); the mean of
//! its values over processes is the loss of the joined batch, and so are the gradients.

mod gathered;
mod gradient;

pub mod clip;
pub mod filip;
pub mod gloria;
pub mod mgca;
pub mod pacl;
mod pairwise;
pub mod siglip;
pub mod sparc;

pub use gathered::Gathered;
use gradient::{chunks, wants_gradient, with_gradients};

#[cfg(test)]
pub(crate) mod sample_inputs;
