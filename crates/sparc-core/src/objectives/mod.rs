//! One file per objective; each is a pure function of tensors.

pub mod clip;
pub mod sparc;
