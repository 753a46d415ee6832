//! Numbers from arrays: pure functions on `ndarray`, without a network, a device or a file.
//!
//! # Ties
//!
//! A network that has collapsed gives every candidate the same score, and a metric that resolves ties
//! in favour of the right answer then reports 100 %. Here every ranked metric ([`retrieval`],
//! [`reranking`], [`classification`], [`regions`], [`compositional`]) is the *expectation over a uniformly random order of the tied candidates*, and
//! the pointing metric of [`grounding`] spreads its one point evenly over all maxima: a constant
//! network gets exactly the chance level. [`segmentation`] takes the lowest class index, as an argmax
//! does everywhere.

mod bootstrap;
pub mod box_choice;
pub mod boxes;
pub mod captions;
pub mod classification;
pub mod compositional;
pub mod faithfulness;
pub mod grounding;
mod image_means;
pub mod regions;
pub mod reranking;
pub mod retrieval;
pub mod segmentation;
mod tied_rank;
pub mod upsample;
pub mod vqa;

pub use bootstrap::{Bootstrap, Interval, bootstrap, bootstrap_mean};
pub use image_means::ImageMeans;
pub use tied_rank::TiedRank;
