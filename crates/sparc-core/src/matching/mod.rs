//! What ALBEF and NAS are made of: image-text pairs that a fusion encoder reads and judges.
//!
//! `sparc train` knows neither yet: these functions stand beside [`crate::objectives`] until it does. Their seams are
//! those of the objectives: this process's rows, the rows of all ([`crate::Gathered`]), and the mean of the values
//! over processes is the value of the joined batch.

pub mod albef;
pub mod nas;
