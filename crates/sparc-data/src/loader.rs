//! Shards to training batches: one thread reads and shuffles, several decode, one collates.
//!
//! The order of samples is a function of (seed, epoch, shards) alone. The reader numbers samples,
//! workers prepare them in any order, the collator puts them back in order; a fixed number of samples
//! is under way at any time, so memory is bounded and nobody waits for ever.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparc_core::{Batch, CaptionBatch, seed};
use tch::Tensor;

use crate::error::Error;
use crate::prepare::{CaptionChoice, Preparation, PreparedSample, Tokenizers, prepare};
use crate::regions::{PreparedRegion, collate_regions};
use crate::shards::{RawSample, ShardSamples, TRAINING_MEMBERS};
use crate::skips::{Skip, SkipCounts};
use crate::tokenizer::TextTokenizer;

/// What a loader is made of.
#[derive(Debug, Clone)]
pub struct LoaderConfig {
    /// Shards in their canonical order.
    pub shards: Vec<PathBuf>,
    /// Samples in a batch. The incomplete batch at the end of an epoch is dropped: a batch never
    /// holds one image twice.
    pub batch_size: usize,
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

/// Where in the data a run stands: all that resuming needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    /// Epoch of the next sample.
    pub epoch: u64,
    /// Samples of that epoch already read, skipped ones included.
    pub position: u64,
}

/// A batch and the state after it.
#[derive(Debug)]
pub struct LoadedBatch {
    /// The batch, on the CPU.
    pub batch: Batch,
    /// Where to resume once this batch has been used.
    pub state: LoaderState,
}

/// An endless iterator of batches, epoch after epoch; it ends after an error.
pub struct Loader {
    batches: Receiver<Result<LoadedBatch, Error>>,
    skips: Arc<Mutex<SkipCounts>>,
    threads: Vec<JoinHandle<()>>,
}

/// What travels from the reader to the workers; tickets limit how many are under way.
struct Job {
    number: u64,
    state_after: LoaderState,
    task: Task,
}

enum Task {
    Prepare(RawSample),
    Report(Skip),
    EpochEnds { whole: bool },
    Fail(Error),
}

/// What travels from the workers to the collator.
struct Done {
    number: u64,
    state_after: LoaderState,
    outcome: Outcome,
}

enum Outcome {
    Prepared(Box<PreparedSample>, Vec<Skip>),
    /// With the parts that had been left out before.
    Skipped(Skip, Vec<Skip>),
    EpochEnds {
        whole: bool,
    },
    Fail(Error),
}

impl Loader {
    /// Starts the threads; the first batch is the one after `state`.
    pub fn start(config: LoaderConfig, tokenizer: TextTokenizer, state: LoaderState) -> Loader {
        let workers = config.workers.max(1);
        let under_way = config.batch_size + 4 * workers;
        let (ticket_sender, tickets) = bounded(under_way);
        for _ in 0..under_way {
            ticket_sender.send(()).expect("the channel holds that many");
        }
        let (job_sender, jobs) = bounded(under_way);
        let (done_sender, done) = bounded(under_way);
        let (batch_sender, batches) = bounded(config.prefetch.max(1));
        let skips = Arc::new(Mutex::new(SkipCounts::default()));
        let tokenizers = match Tokenizers::new(tokenizer, config.preparation.regions) {
            Ok(tokenizers) => Arc::new(tokenizers),
            Err(reason) => {
                let _ = batch_sender.send(Err(Error::RegionContext(reason)));
                return Loader { batches, skips, threads: Vec::new() };
            }
        };
        let config = Arc::new(config);

        let mut threads = Vec::new();
        let mut spawn = |name: String, body: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name).spawn(body);
            threads.push(thread.expect("the system can start a thread"));
        };
        {
            let config = config.clone();
            spawn(
                "sparc-reader".into(),
                Box::new(move || Reader { config, tickets, jobs: job_sender, number: 0 }.run(state)),
            );
        }
        for index in 0..workers {
            let (config, tokenizers) = (config.clone(), tokenizers.clone());
            let (jobs, done_sender) = (jobs.clone(), done_sender.clone());
            spawn(
                format!("sparc-worker-{index}"),
                Box::new(move || work(&config.preparation, &tokenizers, &jobs, &done_sender)),
            );
        }
        drop((jobs, done_sender));
        {
            let skips = skips.clone();
            let collator = Collator { config, tokenizers, skips, tickets: ticket_sender, batches: batch_sender };
            spawn("sparc-collator".into(), Box::new(move || collator.run(&done)));
        }
        Loader { batches, skips, threads }
    }

    /// What has been left out so far.
    pub fn skips(&self) -> SkipCounts {
        lock(&self.skips).clone()
    }
}

impl Iterator for Loader {
    type Item = Result<LoadedBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        // The stream is endless; it ends after an error, which has been given out.
        self.batches.recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Closing the last channel makes the collator stop, then the workers, then the reader.
        self.batches = bounded(0).1;
        for thread in self.threads.drain(..) {
            // A panic has been reported by `next`, and printed.
            let _ = thread.join();
        }
    }
}

fn lock(skips: &Mutex<SkipCounts>) -> MutexGuard<'_, SkipCounts> {
    skips.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The far end has been dropped: the loader is shutting down.
struct Closed;

/// Reads shards epoch after epoch and hands out numbered samples in shuffled order.
struct Reader {
    config: Arc<LoaderConfig>,
    tickets: Receiver<()>,
    jobs: Sender<Job>,
    number: u64,
}

impl Reader {
    fn run(mut self, mut state: LoaderState) {
        while let Ok(next) = self.epoch(state) {
            state = next;
        }
    }

    /// One epoch, from `start.position` on; gives the start of the next.
    fn epoch(&mut self, start: LoaderState) -> Result<LoaderState, Closed> {
        let epoch = start.epoch;
        let stream = |purpose: &[u8]| {
            ChaCha8Rng::seed_from_u64(seed::derive(self.config.seed, &[purpose, &epoch.to_le_bytes()]))
        };
        let mut shards = self.config.shards.clone();
        shards.shuffle(&mut stream(b"shards"));
        let mut generator = stream(b"shuffle");
        let capacity = self.config.shuffle_buffer.max(1);
        let mut buffer: Vec<RawSample> = Vec::with_capacity(capacity.min(1 << 16));
        let (mut position, mut held) = (0, 0);
        let most_bytes = self.config.shuffle_bytes.unwrap_or(u64::MAX);
        for shard in &shards {
            let samples = match ShardSamples::open(shard) {
                Ok(samples) => samples.keeping(&TRAINING_MEMBERS),
                Err(error) => return self.send(LoaderState { epoch, position }, Task::Fail(error)).and(Err(Closed)),
            };
            for sample in samples {
                let sample = match sample {
                    Ok(sample) => sample,
                    // What lies before the point to resume at has been reported already.
                    Err(_) if position < start.position => continue,
                    Err(skip) => {
                        self.send(LoaderState { epoch, position }, Task::Report(skip))?;
                        continue;
                    }
                };
                held += sample.bytes();
                buffer.push(sample);
                while buffer.len() > capacity || (held > most_bytes && buffer.len() > 1) {
                    // The newest is not drawn, so that it can end up anywhere behind.
                    let place = generator.random_range(0..buffer.len() - 1);
                    let drawn = buffer.swap_remove(place);
                    held -= drawn.bytes();
                    self.emit(drawn, start, &mut position)?;
                }
            }
        }
        buffer.shuffle(&mut generator);
        for sample in buffer {
            self.emit(sample, start, &mut position)?;
        }
        if position < start.position {
            let error = Error::Resume { epoch, position: start.position, available: position };
            return self.send(start, Task::Fail(error)).and(Err(Closed));
        }
        let next = LoaderState { epoch: epoch + 1, position: 0 };
        self.send(next, Task::EpochEnds { whole: start.position == 0 })?;
        Ok(next)
    }

    /// Sends a sample, unless it comes before the point to resume at.
    fn emit(&mut self, sample: RawSample, start: LoaderState, position: &mut u64) -> Result<(), Closed> {
        *position += 1;
        if *position <= start.position {
            return Ok(());
        }
        self.send(LoaderState { epoch: start.epoch, position: *position }, Task::Prepare(sample))
    }

    fn send(&mut self, state_after: LoaderState, task: Task) -> Result<(), Closed> {
        self.tickets.recv().map_err(|_| Closed)?;
        let job = Job { number: self.number, state_after, task };
        self.number += 1;
        self.jobs.send(job).map_err(|_| Closed)
    }
}

/// A worker's life: prepare samples until either end closes.
fn work(preparation: &Preparation, tokenizers: &Tokenizers, jobs: &Receiver<Job>, done: &Sender<Done>) {
    for Job { number, state_after, task } in jobs {
        let outcome = match task {
            Task::Prepare(sample) => {
                let mut skips = Vec::new();
                // The state after the first sample of an epoch has that epoch; so has the sample.
                let prepared = catch_unwind(AssertUnwindSafe(|| {
                    prepare(&sample, state_after.epoch, preparation, tokenizers, &mut skips)
                }));
                match prepared {
                    Ok(Ok(prepared)) => Outcome::Prepared(Box::new(prepared), skips),
                    Ok(Err(skip)) => Outcome::Skipped(skip, skips),
                    // Were the thread to die here, everybody would wait for this sample.
                    Err(_) => Outcome::Fail(Error::WorkerPanicked { shard: sample.shard.to_string(), key: sample.key }),
                }
            }
            Task::Report(skip) => Outcome::Skipped(skip, Vec::new()),
            Task::EpochEnds { whole } => Outcome::EpochEnds { whole },
            Task::Fail(error) => Outcome::Fail(error),
        };
        if done.send(Done { number, state_after, outcome }).is_err() {
            return;
        }
    }
}

/// Puts samples back in order and into batches.
struct Collator {
    config: Arc<LoaderConfig>,
    tokenizers: Arc<Tokenizers>,
    skips: Arc<Mutex<SkipCounts>>,
    tickets: Sender<()>,
    batches: Sender<Result<LoadedBatch, Error>>,
}

impl Collator {
    /// Samples seen before the share of skipped ones is judged.
    const GRACE: u64 = 100;

    fn run(self, done: &Receiver<Done>) {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut samples = Vec::with_capacity(self.config.batch_size);
        let (mut seen, mut batches_of_epoch, mut usable_of_epoch) = (0, 0u64, 0);
        for item in done {
            waiting.insert(item.number, item);
            while let Some(Done { state_after, outcome, .. }) = waiting.remove(&next) {
                next += 1;
                // Nobody takes the ticket when the reader has stopped.
                let _ = self.tickets.send(());
                let result = match outcome {
                    Outcome::Prepared(sample, skips) => {
                        seen += 1;
                        usable_of_epoch += 1;
                        skips.iter().for_each(|skip| lock(&self.skips).record(skip));
                        samples.push(*sample);
                        if samples.len() < self.config.batch_size {
                            continue;
                        }
                        batches_of_epoch += 1;
                        Ok(LoadedBatch { batch: self.collate(std::mem::take(&mut samples)), state: state_after })
                    }
                    Outcome::Skipped(skip, parts) => {
                        seen += u64::from(skip.reason.drops_sample());
                        parts.iter().for_each(|part| lock(&self.skips).record(part));
                        lock(&self.skips).record(&skip);
                        match self.too_many_skipped(seen) {
                            None => continue,
                            Some(error) => Err(error),
                        }
                    }
                    Outcome::EpochEnds { whole } => {
                        samples.clear();
                        let (batches, usable) =
                            (std::mem::take(&mut batches_of_epoch), std::mem::take(&mut usable_of_epoch));
                        if batches > 0 || !whole {
                            continue;
                        }
                        let skips = lock(&self.skips).clone();
                        Err(Error::TooFewSamples { usable, batch_size: self.config.batch_size, skips })
                    }
                    Outcome::Fail(error) => Err(error),
                };
                let failed = result.is_err();
                if self.batches.send(result).is_err() || failed {
                    return;
                }
            }
        }
    }

    fn too_many_skipped(&self, seen: u64) -> Option<Error> {
        let skips = lock(&self.skips);
        let (skipped, allowed) = (skips.samples(), self.config.max_skipped_share);
        (seen >= Self::GRACE && skipped as f64 > allowed * seen as f64).then(|| Error::TooManySkipped {
            skipped,
            seen,
            allowed,
            skips: skips.clone(),
        })
    }

    fn collate(&self, samples: Vec<PreparedSample>) -> Batch {
        let preparation = &self.config.preparation;
        let (b, side) = (samples.len() as i64, i64::from(preparation.image_size));
        let images: Vec<f32> = samples.iter().flat_map(|sample| sample.image.iter().copied()).collect();
        let regions = preparation.regions.map(|settings| {
            let regions: Vec<&[PreparedRegion]> = samples.iter().map(|sample| &sample.regions[..]).collect();
            collate_regions(&regions, settings.max, &self.tokenizers.phrases)
        });
        let captions = (preparation.captions == CaptionChoice::All).then(|| self.collate_captions(&samples));
        let (texts, keys): (Vec<_>, Vec<_>) = samples.into_iter().map(|sample| (sample.text, sample.key)).unzip();
        Batch {
            images_bchw: Tensor::from_slice(&images).view([b, 3, side, side]),
            text: self.tokenizers.captions.pad(&texts),
            captions,
            regions,
            keys,
        }
    }

    fn collate_captions(&self, samples: &[PreparedSample]) -> CaptionBatch {
        let (images, texts): (Vec<i64>, Vec<_>) = (0..)
            .zip(samples)
            .flat_map(|(image, sample)| sample.captions.iter().map(move |text| (image, text.clone())))
            .unzip();
        CaptionBatch { text: self.tokenizers.captions.pad(&texts), image_of_caption_n: Tensor::from_slice(&images) }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile_tests;
