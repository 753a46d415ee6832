//! The trainer of sparc: configuration, loop, checkpoints, logs and the commands of the binary `sparc`.

pub mod answering;
mod captioner_losses;
pub mod captioners;
pub mod captioning;
pub mod checkpoint;
pub mod choices;
pub mod config;
mod dictionary_view;
mod error;
pub mod evaluation;
pub mod features;
pub mod fine_tuning;
pub mod matching;
pub mod metrics_log;
pub mod objective;
pub mod optimizer;
pub mod pair_logits;
pub mod plan;
pub mod progress;
pub mod regions;
pub mod run;
pub mod step;

pub use captioner_losses::{CaptionerLosses, MaskedView, masked_view};
pub use dictionary_view::{CodePatches, EditedPatch, EditedView, edited_view, patches_of_codes};
pub use error::Error;
