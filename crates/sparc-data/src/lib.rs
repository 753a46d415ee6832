//! Image-text shards to batches.
//!
//! [`Loader`] makes training batches, [`EvalSet`] annotated samples in order. Both read WebDataset
//! tars ([`shards`]) in the project's record format ([`record`]); training reads them from disks, servers
//! and commands ([`source`]), and mixes data sets ([`DataSpec`]). Whatever cannot be read is skipped,
//! counted by reason and reported ([`skips`]). [`shapes`] writes the synthetic data set,
//! [`shard_tools`] makes shards from other data and looks into shards, [`phrases`] finds the noun phrases of
//! captions.

mod claims;
mod collator;
mod data_spec;
pub mod decode;
mod directions;
mod error;
mod eval_set;
pub mod geometry;
mod grouping;
mod image_set;
pub mod index;
mod jpeg;
mod loader;
mod order;
pub mod phrases;
pub mod pixels;
mod plain_text;
mod prepare;
mod questions;
mod random_augment;
pub mod record;
mod regions;
pub mod resample;
pub mod shapes;
pub mod shard_tools;
pub mod shard_writer;
pub mod shards;
pub mod skips;
pub mod source;
pub mod stage_rates;
pub mod stages;
mod table;
mod tar_members;
mod targets;
mod tokenizer;
pub mod transform;

pub use data_spec::{DataSet, DataSpec, SetSpec};
pub use error::Error;
pub use eval_set::{EvalSet, read_all_captions};
pub use image_set::{ImageSample, ImageSet};
pub use loader::{LastBatch, LoadedBatch, Loader, LoaderConfig, Share};
pub use order::{LoaderState, SetState};
pub use prepare::{CaptionChoice, Preparation, PreparedSample, Tokenizers};
pub use questions::{AnswerCounts, count_answers};
pub use regions::{PreparedRegion, RegionSettings};
pub use table::{Columns, read_pairs};
pub use targets::{PreparedTarget, TargetSpec};
pub use tokenizer::{TextTokenizer, TokenizedText, TokenizerModel, TokenizerTraining, train_tokenizer};
