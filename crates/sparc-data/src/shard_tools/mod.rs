//! Shards from other data, and what is in shards: `sparc shards make`, `convert`, `lint`, `stat`, `peek`
//! and `phrases`.

mod caption_table;
pub mod convert;
mod histogram;
mod lint;
mod make;
mod peek;
mod phrases;
mod phrases_journal;
mod record_text;
mod rewrite;
mod scan;
mod sink;
mod stat;

pub use histogram::{Bin, Histogram};
pub use lint::{LintReport, lint};
pub use make::{CaptionColumns, make_shards};
pub use peek::{PeekedSample, peek};
pub use phrases::{PhraseStatistics, add_phrases};
pub use sink::{Output, Progress, WrittenShards};
pub use stat::{ShardStatistics, statistics};

#[cfg(test)]
pub(crate) use sink::tests;
