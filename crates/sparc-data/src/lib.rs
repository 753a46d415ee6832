//! Image-text shards to batches.
//!
//! [`Loader`] makes training batches, [`EvalSet`] annotated samples in order. Both read WebDataset
//! tars ([`shards`]) in the project's record format ([`record`]); whatever cannot be read is skipped,
//! counted by reason and reported ([`skips`]). [`shapes`] writes the synthetic data set,
//! [`shard_tools`] makes shards from other data and looks into shards.

pub mod decode;
mod directions;
mod error;
mod eval_set;
pub mod geometry;
mod jpeg;
mod loader;
pub mod pixels;
mod prepare;
mod random_augment;
pub mod record;
mod regions;
pub mod resample;
pub mod shapes;
pub mod shard_tools;
pub mod shard_writer;
pub mod shards;
pub mod skips;
pub mod stage_rates;
mod tar_members;
mod tokenizer;
pub mod transform;

pub use error::Error;
pub use eval_set::{EvalSet, read_all_captions};
pub use loader::{LoadedBatch, Loader, LoaderConfig, LoaderState};
pub use prepare::{CaptionChoice, Preparation, PreparedSample, Tokenizers};
pub use regions::{PreparedRegion, RegionSettings};
pub use tokenizer::{TextTokenizer, TokenizedText, TokenizerModel, TokenizerTraining, train_tokenizer};
