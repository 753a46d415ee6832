//! How long each stage of loading takes: where a run that waits for data loses its time.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is done to a sample, in the order of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for bytes from a disk, a server or a command.
    Fetch,
    /// Finding members in the bytes and samples in members.
    Untar,
    /// Encoded image to pixels.
    Decode,
    /// Crop, resize, augmentation; boxes with them.
    Resize,
    /// Texts to tokens.
    Tokenise,
    /// Pixels normalised and samples put into a batch.
    Collate,
    /// The trainer waiting for a batch.
    Wait,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 7] =
        [Stage::Fetch, Stage::Untar, Stage::Decode, Stage::Resize, Stage::Tokenise, Stage::Collate, Stage::Wait];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Fetch => "fetch",
            Stage::Untar => "untar",
            Stage::Decode => "decode",
            Stage::Resize => "resize",
            Stage::Tokenise => "tokenise",
            Stage::Collate => "collate",
            Stage::Wait => "wait",
        })
    }
}

/// Time spent in each stage, added up over all threads that work on it. One thread fetches and untars,
/// the workers decode, resize and tokenise, one thread collates: a stage is the limit when its seconds
/// come near those that have passed, times its threads.
#[derive(Debug, Default)]
pub struct StageTimes {
    nanoseconds: [AtomicU64; Stage::ALL.len()],
}

impl StageTimes {
    pub(crate) fn add(&self, stage: Stage, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[stage as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Does `work` and books its time.
    pub(crate) fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.add(stage, started.elapsed());
        result
    }

    /// The time of a stage so far.
    pub fn get(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.nanoseconds[stage as usize].load(Ordering::Relaxed))
    }
}
