//! Data to training batches: one thread reads in order, several prepare samples, one collates.
//!
//! The order is made in `order.rs` and is nobody's business here. The reader numbers samples, workers
//! prepare them in any order, the collator puts them back in order; a fixed number of samples is under
//! way at any time, so memory is bounded and nobody waits for ever.
//!
//! Several loaders may share one sequence. Each goes through all of it and prepares its own part of every
//! batch, by the sample's place in the batch: which shard a sample lies in plays no role.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use sparc_core::Batch;

use crate::collator::{Collator, Done, Outcome};
use crate::data_spec::DataSet;
use crate::error::Error;
use crate::order::{DrawnSample, LoaderState, Next, Sequence, Shuffle};
use crate::prepare::{Preparation, Tokenizers, prepare};
use crate::shards::{CLASSIFICATION_MEMBERS, TRAINING_MEMBERS};
use crate::skips::{Skip, SkipCounts};
use crate::source::{Fetcher, Patience};
use crate::stages::{Stage, StageTimes};
use crate::targets::TargetSpec;
use crate::tokenizer::TextTokenizer;

/// What a loader is made of.
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// One data set, or several to be mixed by weight.
    pub data: Vec<DataSet>,
    /// How patient to be with servers and commands.
    pub patience: Patience,
    /// Samples in a batch, those of all shares together.
    pub batch_size: usize,
    /// Which part of every batch this loader prepares.
    pub share: Share,
    /// What becomes of the incomplete batch at the end of an epoch.
    pub last_batch: LastBatch,
    /// How many encoded samples the shuffle draws from.
    pub shuffle_buffer: usize,
    /// Most bytes of encoded samples that the shuffle holds; it draws from fewer samples where they are
    /// large. The order of samples depends on it.
    pub shuffle_bytes: Option<u64>,
    /// Decoding threads.
    pub workers: usize,
    /// Batches made in advance.
    pub prefetch: usize,
    /// Seed of the order.
    pub seed: u64,
    /// Share of samples that may be skipped before the loader gives up.
    pub max_skipped_share: f64,
    /// How samples are prepared.
    pub preparation: Preparation,
}

/// A part of every batch: that of the loader `index` among `of`. Put one after the other, the parts of a
/// batch are the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which part, from 0.
    pub index: usize,
    /// How many parts; it divides the batch size.
    pub of: usize,
}

impl Share {
    /// All of every batch.
    pub const WHOLE: Share = Share { index: 0, of: 1 };

    /// Checks the numbers.
    ///
    /// # Errors
    ///
    /// Which of them does not fit.
    fn validate(self, batch_size: usize) -> Result<(), Error> {
        let Share { index, of } = self;
        if index >= of {
            return Err(Error::Order(format!("there is no share {index} of {of}")));
        }
        if !batch_size.is_multiple_of(of) {
            return Err(Error::Order(format!("a batch of {batch_size} samples cannot be divided into {of} shares")));
        }
        Ok(())
    }
}

/// What becomes of the incomplete batch at the end of an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastBatch {
    /// It is dropped: a batch never holds one image twice.
    #[default]
    Drop,
    /// The next epoch's first samples fill it up: every sample is used in every epoch.
    Fill,
}

/// A batch and the state after it.
#[derive(Debug)]
pub struct LoadedBatch {
    /// This share of the batch, on the CPU.
    pub batch: Batch,
    /// Where to resume once this batch has been used; the same for all shares.
    pub state: LoaderState,
}

/// An endless iterator of batches, epoch after epoch; it ends after an error.
pub struct Loader {
    batches: Receiver<Result<LoadedBatch, Error>>,
    skips: Arc<Mutex<SkipCounts>>,
    stages: Arc<StageTimes>,
    threads: Vec<JoinHandle<()>>,
}

/// What travels from the reader to the workers; tickets limit how many are under way.
struct Job {
    number: u64,
    state_after: LoaderState,
    task: Task,
}

enum Task {
    Prepare(DrawnSample, usize),
    Report(Skip),
    BatchEnds,
    EpochEnds { set: usize, whole: bool },
    Fail(Error),
}

impl Loader {
    /// Starts the threads; the first batch is the one after `state`.
    pub fn start(config: LoaderConfig, tokenizer: TextTokenizer, state: LoaderState) -> Loader {
        let (skips, stages) = (Arc::new(Mutex::new(SkipCounts::default())), Arc::new(StageTimes::default()));
        let (batch_sender, batches) = bounded(config.prefetch.max(1));
        let mut loader = Loader { batches, skips, stages, threads: Vec::new() };
        if let Err(error) = loader.spawn_all(config, tokenizer, &state, &batch_sender) {
            // The channel holds at least one, and nothing else has been sent.
            let _ = batch_sender.send(Err(error));
        }
        loader
    }

    fn spawn_all(
        &mut self,
        config: LoaderConfig,
        tokenizer: TextTokenizer,
        state: &LoaderState,
        batches: &Sender<Result<LoadedBatch, Error>>,
    ) -> Result<(), Error> {
        config.share.validate(config.batch_size)?;
        let workers = config.workers.max(1);
        let under_way = config.batch_size / config.share.of + 4 * workers;
        let (ticket_sender, tickets) = bounded(under_way);
        for _ in 0..under_way {
            ticket_sender.send(()).expect("the channel holds that many");
        }
        let (job_sender, jobs) = bounded(under_way);
        let (done_sender, done) = bounded(under_way);
        let tokenizers = Tokenizers::new(tokenizer, config.preparation.regions).map_err(Error::RegionContext)?;
        let tokenizers = Arc::new(tokenizers);
        let fetcher = Arc::new(Fetcher::new(config.patience));
        let members: &[&str] = match config.preparation.targets {
            Some(TargetSpec::Classes(_)) => &CLASSIFICATION_MEMBERS,
            Some(TargetSpec::Answers(_)) | None => &TRAINING_MEMBERS,
        };
        let shuffle = Shuffle { samples: config.shuffle_buffer, bytes: config.shuffle_bytes.unwrap_or(u64::MAX) };
        let sequence = Sequence::new(&config.data, config.seed, shuffle, fetcher.clone(), self.stages.clone(), state)?
            .reading(members);
        let config = Arc::new(config);

        let reader = Reader { config: config.clone(), sequence, tickets, jobs: job_sender, number: 0, in_batch: 0 };
        self.spawn("sparc-reader".into(), move || reader.run());
        for index in 0..workers {
            let worker = Worker {
                preparation: config.preparation.clone(),
                tokenizers: tokenizers.clone(),
                fetcher: fetcher.clone(),
                stages: self.stages.clone(),
            };
            let (jobs, done_sender) = (jobs.clone(), done_sender.clone());
            self.spawn(format!("sparc-worker-{index}"), move || worker.run(&jobs, &done_sender));
        }
        let (skips, stages) = (self.skips.clone(), self.stages.clone());
        let collator = Collator::new(config, tokenizers, skips, stages, ticket_sender, batches.clone());
        self.spawn("sparc-collator".into(), move || collator.run(&done));
        Ok(())
    }

    fn spawn(&mut self, name: String, body: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new().name(name).spawn(body);
        self.threads.push(thread.expect("the system can start a thread"));
    }

    /// What has been left out so far. Of what is wrong with a shard, not with a sample, the first share
    /// alone keeps count.
    pub fn skips(&self) -> SkipCounts {
        lock(&self.skips).clone()
    }

    /// How long each stage has taken so far.
    pub fn stages(&self) -> &StageTimes {
        &self.stages
    }
}

impl Iterator for Loader {
    type Item = Result<LoadedBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // The stream is endless; it ends after an error, which has been given out.
        self.stages.time(Stage::Wait, || self.batches.recv().ok())
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closing the last channel makes the collator stop, then the workers, then the reader.
        self.batches = bounded(0).1;
        // One that waits for a server is left behind: it ends with its wait.
        let deadline = Instant::now() + Duration::from_secs(2);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                // A panic has been reported by `next`, and printed.
                let _ = thread.join();
            }
        }
    }
}

pub(crate) fn lock(skips: &Mutex<SkipCounts>) -> MutexGuard<'_, SkipCounts> {
    skips.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The far end has been dropped: the loader is shutting down.
struct Closed;

/// Goes through the sequence and hands out what is this share's, numbered.
struct Reader {
    config: Arc<LoaderConfig>,
    sequence: Sequence,
    tickets: Receiver<()>,
    jobs: Sender<Job>,
    number: u64,
    /// Samples of the batch under way, all shares together.
    in_batch: usize,
}

impl Reader {
    fn run(mut self) {
        while self.step().is_ok() {}
    }

    fn step(&mut self) -> Result<(), Closed> {
        let Share { index, of } = self.config.share;
        match self.sequence.next() {
            Ok(Next::Sample(sample)) => {
                let place = self.in_batch;
                self.in_batch = (place + 1) % self.config.batch_size;
                let part = self.config.batch_size / of;
                if place / part == index {
                    self.send(Task::Prepare(sample, self.sequence.set()))?;
                }
                // One loader alone takes the next sample for each that it skips. Several cannot know what
                // the others skip: their batches end by number.
                if of > 1 && self.in_batch == 0 { self.send(Task::BatchEnds) } else { Ok(()) }
            }
            Ok(Next::Skip(skip)) if index == 0 => self.send(Task::Report(skip)),
            Ok(Next::Skip(_)) => Ok(()),
            Ok(Next::EpochEnds { set, whole }) => {
                if self.config.drops_last_batch() {
                    self.in_batch = 0;
                }
                self.send(Task::EpochEnds { set, whole })
            }
            Err(error) => self.send(Task::Fail(error)).and(Err(Closed)),
        }
    }

    fn send(&mut self, task: Task) -> Result<(), Closed> {
        self.tickets.recv().map_err(|_| Closed)?;
        let job = Job { number: self.number, state_after: self.sequence.state(), task };
        self.number += 1;
        self.jobs.send(job).map_err(|_| Closed)
    }
}

impl LoaderConfig {
    /// Whether the end of an epoch ends a batch. A mixture has no epochs, only its data sets do.
    pub(crate) fn drops_last_batch(&self) -> bool {
        self.last_batch == LastBatch::Drop && self.data.len() == 1
    }
}

/// Prepares samples until either end closes.
struct Worker {
    preparation: Preparation,
    tokenizers: Arc<Tokenizers>,
    fetcher: Arc<Fetcher>,
    stages: Arc<StageTimes>,
}

impl Worker {
    fn run(&self, jobs: &Receiver<Job>, done: &Sender<Done>) {
        for Job { number, state_after, task } in jobs {
            let outcome = match task {
                Task::Prepare(sample, set) => self.prepare(sample, set),
                Task::Report(skip) => Outcome::Reported(skip),
                Task::BatchEnds => Outcome::BatchEnds,
                Task::EpochEnds { set, whole } => Outcome::EpochEnds { set, whole },
                Task::Fail(error) => Outcome::Fail(error),
            };
            if done.send(Done { number, state_after, outcome }).is_err() {
                return;
            }
        }
    }

    fn prepare(&self, DrawnSample { held, occasion }: DrawnSample, set: usize) -> Outcome {
        let sample = match self.stages.time(Stage::Fetch, || held.read(&self.fetcher)) {
            Ok(Ok(sample)) => sample,
            Ok(Err(skip)) => return Outcome::Skipped(skip, Vec::new()),
            Err(error) => return Outcome::Fail(error),
        };
        let mut skips = Vec::new();
        let prepared = catch_unwind(AssertUnwindSafe(|| {
            prepare(&sample, occasion, &self.preparation, &self.tokenizers, &mut skips, &self.stages)
        }));
        match prepared {
            Ok(Ok(prepared)) => Outcome::Prepared { sample: Box::new(prepared), skips, set },
            Ok(Err(skip)) => skip.or_fail().map_or_else(Outcome::Fail, |skip| Outcome::Skipped(skip, skips)),
            // Were the thread to die here, everybody would wait for this sample.
            Err(_) => Outcome::Fail(Error::WorkerPanicked { shard: sample.shard.to_string(), key: sample.key }),
        }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
