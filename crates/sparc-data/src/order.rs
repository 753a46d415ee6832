//! The order of samples: a function of seed, epoch and data alone.
//!
//! A data set goes through epochs. In each, its shards are shuffled (or drawn), and samples go through a
//! buffer from which one is drawn at random as each new one comes in. A mixture draws the data set of
//! each sample by the sample's number. Nothing here knows threads, time, or who takes which sample.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparc_core::seed;

use crate::data_spec::DataSet;
use crate::error::Error;
use crate::index::{PlacedSample, placed_samples};
use crate::shards::{RawSample, ShardSamples, TRAINING_MEMBERS};
use crate::skips::Skip;
use crate::source::{Fetcher, Source};
use crate::stages::{Stage, StageTimes};
use crate::table::{Table, TableRow};

/// Where in the data a run stands: all that resuming needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    /// Epoch of the next sample; 0 in a mixture, whose data sets have epochs of their own.
    pub epoch: u64,
    /// Samples of that epoch already read, skipped ones included; in a mixture, of the whole run.
    pub position: u64,
    /// Where each data set of a mixture stands; empty otherwise, and before a mixture's first sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetState>,
}

/// Where a data set of a mixture stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetState {
    /// Epoch of its next sample.
    pub epoch: u64,
    /// Samples of that epoch already read, skipped ones included.
    pub position: u64,
}

/// How far samples are moved about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shuffle {
    /// How many encoded samples the shuffle draws from.
    pub(crate) samples: usize,
    /// Most bytes of these.
    pub(crate) bytes: u64,
}

/// A sample that has been drawn, its members read or not.
pub(crate) struct DrawnSample {
    pub(crate) held: HeldSample,
    /// Seeds what is random about this sample: its epoch, or, if its shard comes several times in one, a
    /// number of that time.
    pub(crate) occasion: u64,
}

/// What the shuffle holds of a sample.
pub(crate) enum HeldSample {
    Read(RawSample),
    Placed(PlacedSample),
    Row(TableRow),
}

impl HeldSample {
    /// Bytes of its members as the shuffle's budget counts them: the same for read and placed samples, so
    /// that an index moves no sample. Rows hold nothing.
    fn bytes(&self) -> u64 {
        match self {
            HeldSample::Read(sample) => sample.bytes(),
            HeldSample::Placed(sample) => sample.bytes(),
            HeldSample::Row(_) => 0,
        }
    }

    /// The members, read now unless they have been.
    pub(crate) fn read(self, fetcher: &Fetcher) -> Result<Result<RawSample, Skip>, Error> {
        match self {
            HeldSample::Read(sample) => Ok(Ok(sample)),
            HeldSample::Placed(sample) => sample.read(fetcher).map(Ok),
            HeldSample::Row(row) => Ok(row.read()),
        }
    }
}

/// What comes next.
pub(crate) enum Next {
    Sample(DrawnSample),
    Skip(Skip),
    /// An epoch of this data set is over; `whole` if it was read from its beginning.
    EpochEnds {
        set: usize,
        whole: bool,
    },
}

/// All samples of a run, one after the other, without end.
pub(crate) struct Sequence {
    sets: Vec<SetSequence>,
    /// Sums of the weights up to each data set; `None` for one data set, which needs no draw.
    weights: Option<Vec<f64>>,
    /// Samples so far, of a mixture.
    position: u64,
    seed: u64,
    last: usize,
}

impl Sequence {
    /// Begins after `state`.
    ///
    /// # Errors
    ///
    /// A state of other data sets.
    pub(crate) fn new(
        sets: &[DataSet],
        seed: u64,
        shuffle: Shuffle,
        fetcher: Arc<Fetcher>,
        stages: Arc<StageTimes>,
        state: &LoaderState,
    ) -> Result<Sequence, Error> {
        let is_mixture = sets.len() > 1;
        let states: Vec<SetState> = match (is_mixture, state.sets.len()) {
            (false, 0) => vec![SetState { epoch: state.epoch, position: state.position }],
            (true, 0) if state.position == 0 => vec![SetState::default(); sets.len()],
            (true, n) if n == sets.len() => state.sets.clone(),
            (_, n) => {
                return Err(Error::Order(format!(
                    "cannot resume: the checkpoint stands in a mixture of {n} data sets, and there are {} now",
                    sets.len()
                )));
            }
        };
        let sum = |sum: &mut f64, set: &DataSet| {
            *sum += set.weight;
            Some(*sum)
        };
        Ok(Sequence {
            weights: is_mixture.then(|| sets.iter().scan(0.0, sum).collect()),
            sets: (0..)
                .zip(sets)
                .zip(states)
                .map(|((number, set), start)| SetSequence {
                    set: set.clone(),
                    number,
                    seed,
                    shuffle,
                    fetcher: fetcher.clone(),
                    stages: stages.clone(),
                    members: &TRAINING_MEMBERS,
                    tables: HashMap::new(),
                    start,
                    position: 0,
                    epoch: None,
                })
                .collect(),
            position: state.position,
            seed,
            last: 0,
        })
    }

    /// The same sequence with members of these extensions in place of [`TRAINING_MEMBERS`].
    pub(crate) fn reading(mut self, members: &'static [&'static str]) -> Sequence {
        self.sets.iter_mut().for_each(|set| set.members = members);
        self
    }

    /// What comes next.
    ///
    /// # Errors
    ///
    /// A source that cannot be read, or an epoch that is shorter than the position to resume at.
    pub(crate) fn next(&mut self) -> Result<Next, Error> {
        self.last = self.choose();
        let next = self.sets[self.last].next()?;
        self.position += u64::from(matches!(next, Next::Sample(_)));
        Ok(next)
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> LoaderState {
        let mut sets: Vec<SetState> = self.sets.iter().map(SetSequence::state).collect();
        match self.weights {
            Some(_) => LoaderState { epoch: 0, position: self.position, sets },
            None => {
                let SetState { epoch, position } = sets.remove(0);
                LoaderState { epoch, position, sets: Vec::new() }
            }
        }
    }

    /// The data set of what `next` gave last.
    pub(crate) fn set(&self) -> usize {
        self.last
    }

    /// The data set of the next sample.
    fn choose(&self) -> usize {
        let Some(weights) = &self.weights else {
            return 0;
        };
        let seed = seed::derive(self.seed, &[b"mixture", &self.position.to_le_bytes()]);
        let drawn = ChaCha8Rng::seed_from_u64(seed).random_range(0.0..weights[weights.len() - 1]);
        weights.partition_point(|&sum| sum <= drawn).min(weights.len() - 1)
    }
}

/// One data set, epoch after epoch.
struct SetSequence {
    set: DataSet,
    /// Its place in the mixture.
    number: u64,
    seed: u64,
    shuffle: Shuffle,
    fetcher: Arc<Fetcher>,
    stages: Arc<StageTimes>,
    /// Extensions of the members that are read.
    members: &'static [&'static str],
    /// Tables that have been opened, by their place among the sources.
    tables: HashMap<usize, Arc<Table>>,
    /// Where this epoch was entered: samples before that are passed over.
    start: SetState,
    /// Samples of this epoch that have been drawn.
    position: u64,
    epoch: Option<Epoch>,
}

/// An epoch under way.
struct Epoch {
    /// Sources to come, last first, each with how often it has come before.
    sources: Vec<(usize, u64)>,
    open: Option<OpenSource>,
    buffer: Vec<DrawnSample>,
    /// Bytes in the buffer.
    held: u64,
    generator: ChaCha8Rng,
    /// Whether all sources have been read, and the buffer is in its final order, last first.
    draining: bool,
}

/// A source being read.
struct OpenSource {
    samples: Samples,
    occasion: u64,
}

enum Samples {
    Streamed(Box<ShardSamples>),
    Placed(std::vec::IntoIter<Result<PlacedSample, Skip>>),
    Rows { table: Arc<Table>, order: std::vec::IntoIter<u32> },
}

impl SetSequence {
    fn state(&self) -> SetState {
        // Until something has been drawn, the sequence still stands where it was entered.
        SetState { epoch: self.start.epoch, position: self.position.max(self.start.position) }
    }

    /// A generator for a purpose in this epoch. The first data set has the seeds that one alone has.
    fn generator(&self, purpose: &[u8], number: Option<u64>) -> ChaCha8Rng {
        let (epoch, set) = (self.start.epoch.to_le_bytes(), self.number.to_le_bytes());
        let number = number.map(u64::to_le_bytes);
        let mut words: Vec<&[u8]> = vec![purpose, &epoch];
        words.extend(number.as_ref().map(|number| number.as_slice()));
        if self.number > 0 {
            words.extend([&b"set"[..], &set]);
        }
        ChaCha8Rng::seed_from_u64(seed::derive(self.seed, &words))
    }

    fn next(&mut self) -> Result<Next, Error> {
        loop {
            let mut epoch = match self.epoch.take() {
                Some(epoch) => epoch,
                None => self.begin(),
            };
            let step = self.step(&mut epoch);
            self.epoch = Some(epoch);
            match step? {
                Step::Drawn(sample) => {
                    self.position += 1;
                    if self.position > self.start.position {
                        return Ok(Next::Sample(sample));
                    }
                }
                // What lies before the point to resume at has been reported already.
                Step::Skip(_) if self.position < self.start.position => {}
                Step::Skip(skip) => return Ok(Next::Skip(skip)),
                Step::Filled => {}
                Step::Over => return self.end(),
            }
        }
    }

    fn begin(&self) -> Epoch {
        let n = self.set.sources.len();
        let mut generator = self.generator(b"shards", None);
        let mut sources: Vec<usize> = (0..n).collect();
        if self.set.resample {
            sources.iter_mut().for_each(|source| *source = generator.random_range(0..n));
        } else {
            sources.shuffle(&mut generator);
        }
        let mut times: HashMap<&Source, u64> = HashMap::new();
        let mut sources: Vec<(usize, u64)> = sources
            .into_iter()
            .map(|source| {
                let time = times.entry(&self.set.sources[source]).or_default();
                *time += 1;
                (source, *time - 1)
            })
            .collect();
        sources.reverse();
        Epoch {
            sources,
            open: None,
            buffer: Vec::with_capacity(self.shuffle.samples.min(1 << 16)),
            held: 0,
            generator: self.generator(b"shuffle", None),
            draining: false,
        }
    }

    /// Ends the epoch.
    fn end(&mut self) -> Result<Next, Error> {
        let SetState { epoch, position } = self.start;
        if self.position < position {
            return Err(Error::Resume { epoch, position, available: self.position });
        }
        self.start = SetState { epoch: epoch + 1, position: 0 };
        self.position = 0;
        self.epoch = None;
        Ok(Next::EpochEnds { set: self.number as usize, whole: position == 0 })
    }

    /// Moves one sample in or out.
    fn step(&mut self, epoch: &mut Epoch) -> Result<Step, Error> {
        if epoch.draining {
            return Ok(epoch.buffer.pop().map_or(Step::Over, Step::Drawn));
        }
        let capacity = self.shuffle.samples.max(1);
        if epoch.buffer.len() > capacity || (epoch.held > self.shuffle.bytes && epoch.buffer.len() > 1) {
            // The newest is not drawn, so that it can end up anywhere behind.
            let place = epoch.generator.random_range(0..epoch.buffer.len() - 1);
            let drawn = epoch.buffer.swap_remove(place);
            epoch.held -= drawn.held.bytes();
            return Ok(Step::Drawn(drawn));
        }
        let Some(open) = &mut epoch.open else {
            match epoch.sources.pop() {
                Some((source, time)) => epoch.open = Some(self.open(source, time)?),
                None => {
                    epoch.buffer.shuffle(&mut epoch.generator);
                    epoch.buffer.reverse();
                    epoch.draining = true;
                }
            }
            return Ok(Step::Filled);
        };
        match open.next(&self.stages) {
            Some(Ok(held)) => {
                epoch.held += held.bytes();
                epoch.buffer.push(DrawnSample { held, occasion: open.occasion });
            }
            Some(Err(skip)) => return skip.or_fail().map(Step::Skip),
            None => epoch.open = None,
        }
        Ok(Step::Filled)
    }

    /// Opens a source that has come `time` times before in this epoch.
    fn open(&mut self, number: usize, time: u64) -> Result<OpenSource, Error> {
        let source = self.set.sources[number].clone();
        let epoch = self.start.epoch;
        let occasion = match time {
            0 => epoch,
            time => seed::derive(epoch, &[b"time", &time.to_le_bytes()]),
        };
        let samples = match &source {
            Source::Table(path) => {
                let table = match self.tables.get(&number) {
                    Some(table) => table.clone(),
                    None => {
                        let table = Arc::new(Table::open(path, &self.set.columns)?);
                        self.tables.insert(number, table.clone());
                        table
                    }
                };
                // Rows can be read in any order: all of them are shuffled, not only those in the buffer.
                let rows = u32::try_from(table.len()).map_err(|_| Error::Table {
                    path: path.clone(),
                    reason: "it has more than 4 billion rows; split it".into(),
                })?;
                let mut order: Vec<u32> = (0..rows).collect();
                order.shuffle(&mut self.generator(b"rows", Some(seed::derive(number as u64, &[&time.to_le_bytes()]))));
                Samples::Rows { table, order: order.into_iter() }
            }
            Source::File(_) | Source::Pipe(_) | Source::Object(_) => match self.placed(&source)? {
                Some(placed) => Samples::Placed(placed.into_iter()),
                None => {
                    let samples = self.stages.time(Stage::Fetch, || ShardSamples::fetch(&source, &self.fetcher))?;
                    Samples::Streamed(Box::new(samples.keeping(self.members)))
                }
            },
        };
        Ok(OpenSource { samples, occasion })
    }

    /// The samples that the source's index names. Behind a URL an index is looked for only on the way to
    /// the point to resume at: reading from front to back is faster than a request for each sample.
    fn placed(&self, source: &Source) -> Result<Option<Vec<Result<PlacedSample, Skip>>>, Error> {
        let resuming = self.position < self.start.position;
        match source {
            Source::Object(_) if !resuming => Ok(None),
            _ => {
                let find = || placed_samples(source, &self.fetcher, self.members);
                self.stages.time(Stage::Fetch, find)
            }
        }
    }
}

enum Step {
    Drawn(DrawnSample),
    Skip(Skip),
    Filled,
    Over,
}

impl OpenSource {
    fn next(&mut self, stages: &StageTimes) -> Option<Result<HeldSample, Skip>> {
        match &mut self.samples {
            Samples::Streamed(samples) => {
                let started = Instant::now();
                let next = samples.next();
                let fetching = samples.take_fetching();
                stages.add(Stage::Fetch, fetching);
                stages.add(Stage::Untar, started.elapsed().saturating_sub(fetching));
                next.map(|sample| sample.map(HeldSample::Read))
            }
            Samples::Placed(samples) => samples.next().map(|sample| sample.map(HeldSample::Placed)),
            Samples::Rows { table, order } => {
                order.next().map(|row| Ok(HeldSample::Row(TableRow { table: table.clone(), row: row as usize })))
            }
        }
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
