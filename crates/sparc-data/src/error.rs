//! What can go wrong with data as a whole (single samples are skipped and counted instead).

use std::path::PathBuf;

use crate::skips::SkipCounts;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pattern that cannot be expanded.
    #[error("shard pattern {pattern}: {reason}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A shard that is not there.
    #[error("shard {path} does not exist (from the pattern {pattern}); check the path and the range in braces", path = path.display())]
    MissingShard {
        /// The shard.
        path: PathBuf,
        /// The pattern that named it.
        pattern: String,
    },
    /// A file could not be read.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A source that stopped giving bytes.
    #[error("{shard}: {reason}; what has been read so far is whole, and a resume goes on from the last checkpoint")]
    Read {
        /// The shard.
        shard: String,
        /// What the disk, server or command said.
        reason: String,
    },
    /// An index that names other members than the shard has.
    #[error(
        "the index {index} does not fit its shard ({reason}); write it again with `sparc shards index`, or delete it"
    )]
    StaleIndex {
        /// The index.
        index: String,
        /// What differs.
        reason: String,
    },
    /// A shard that cannot be indexed.
    #[error("{shard} cannot be indexed: {reason}")]
    Index {
        /// The shard.
        shard: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A table that cannot be used.
    #[error("table {path}: {reason}", path = path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Data sets that cannot be mixed, or a share that there is not.
    #[error("{0}")]
    Order(String),
    /// A data set of a mixture without a single usable sample.
    #[error("data set {set} of the mixture has no usable sample ({skips})")]
    EmptySet {
        /// Its number, from 0.
        set: usize,
        /// What was left out.
        skips: SkipCounts,
    },
    /// A table of captions or a file of annotations that is not what it should be.
    #[error("{path}{place}: {reason}", path = path.display(), place = line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Annotations {
        /// The file.
        path: PathBuf,
        /// The line, where one is at fault.
        line: Option<u64>,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Shards could not be written.
    #[error(transparent)]
    Write(#[from] crate::shard_writer::Error),
    /// A part-of-speech tagger that cannot be used.
    #[error("tagger {path}: {reason}", path = path.display())]
    Tagger {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer file that cannot be used.
    #[error("tokenizer {path}: {reason}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A context length of region phrases that the tokenizer cannot use.
    #[error("data.regions.context_length: the tokenizer cannot be used: {0}")]
    RegionContext(String),
    /// A tokenizer could not be trained.
    #[error("training a tokenizer: {0}")]
    TokenizerTraining(String),
    /// A resumed epoch that is shorter than the position to resume at.
    #[error(
        "cannot resume at sample {position} of epoch {epoch}: the data now has {available} samples; resume with the shards the run was started with"
    )]
    Resume {
        /// The epoch.
        epoch: u64,
        /// Where the checkpoint stands.
        position: u64,
        /// What there is.
        available: u64,
    },
    /// An epoch without a single whole batch.
    #[error("the data has {usable} usable samples, fewer than one batch of {batch_size} ({skips})")]
    TooFewSamples {
        /// Samples that could be read.
        usable: u64,
        /// What a batch needs.
        batch_size: usize,
        /// What was left out.
        skips: SkipCounts,
    },
    /// Too much of the data was left out.
    #[error("{skipped} of {seen} samples were skipped, more than the allowed share of {allowed}: {skips}")]
    TooManySkipped {
        /// Samples lost.
        skipped: u64,
        /// Samples read.
        seen: u64,
        /// `max_skipped_share`.
        allowed: f64,
        /// By reason.
        skips: SkipCounts,
    },
    /// A class that the list of classes does not have: the list is another data set's.
    #[error("{shard}: sample {key}: {reason}; give the list of classes that the shards were made with")]
    UnknownClass {
        /// The shard.
        shard: String,
        /// The sample.
        key: String,
        /// The class, and how many there are.
        reason: String,
    },
    /// Preparing a sample panicked.
    #[error(
        "preparing the sample {key} of {shard} panicked; this is a bug: please report it with the message above, and take the sample out to go on"
    )]
    WorkerPanicked {
        /// The shard.
        shard: String,
        /// The sample.
        key: String,
    },
    /// The loader has stopped after an error.
    #[error("the loader has stopped after an earlier error")]
    Stopped,
}
