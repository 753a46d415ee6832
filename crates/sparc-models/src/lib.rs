//! Encoders, heads and networks of sparc: everything with parameters.
//!
//! [`layers`] are written once and used by every tower; [`vit`], [`text`] and [`causal_text`] are the towers;
//! [`decoders`] write one sequence while they look at another; [`heads`] are what single objectives add;
//! [`generation`] makes texts with a decoder; [`fusion`] reads a text with an image, for objectives that match pairs;
//! [`momentum`], [`pair_queue`] and [`visual_dictionary`] hold what is not trained by a gradient;
//! [`networks`] say, per family of objectives, which modules run and which tensors come out.
//! [`Parameters`] owns every tensor under a unique name.

pub mod causal_text;
pub mod decoders;
pub mod fusion;
pub mod generation;
pub mod heads;
pub mod layers;
pub mod momentum;
pub mod networks;
pub mod pair_queue;
mod parameters;
mod size;
pub mod text;
pub mod visual_dictionary;
pub mod vit;
pub mod weights;

pub use parameters::{Init, ParameterBuilder, Parameters, differences};
pub use size::{ModelSize, TowerShape};
