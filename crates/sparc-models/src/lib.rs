//! Encoders, heads and networks of sparc: everything with parameters.
//!
//! [`layers`] are written once and used by every tower; [`vit`] and [`text`] are the towers;
//! [`heads`] what single objectives add;
//! [`networks`] say, per family of objectives, which modules run and which tensors come out.
//! [`Parameters`] owns every tensor under a unique name.

pub mod heads;
pub mod layers;
pub mod networks;
mod parameters;
mod size;
pub mod text;
pub mod vit;
pub mod weights;

pub use parameters::{Init, ParameterBuilder, Parameters, differences};
pub use size::{ModelSize, TowerShape};
