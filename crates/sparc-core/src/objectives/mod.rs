//! One file per objective; each is a pure function of tensors.
//!
//! Every objective sees this process's rows and the rows of the global batch ([`crate::Gathered`]); the mean of
//! its values over processes is the loss of the joined batch, and so are the gradients.

pub mod albef;
pub mod clip;
pub mod cloc;
pub mod coca;
pub mod filip;
pub mod gloria;
pub mod mgca;
pub mod nas;
pub mod pacl;
pub mod siglip;
pub mod sparc;
pub mod sycoca;
