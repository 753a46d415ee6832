//! The trainer of sparc: configuration, loop, checkpoints, logs and the commands of the binary `sparc`.

pub mod checkpoint;
pub mod config;
mod error;
pub mod evaluation;
pub mod metrics_log;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod progress;
pub mod regions;
pub mod run;
pub mod step;

pub use error::Error;
