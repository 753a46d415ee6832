//! Prepared samples, in whatever order they come, to batches in the right one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender};
use sparc_core::{Batch, CaptionBatch};
use tch::Tensor;

use crate::error::Error;
use crate::loader::{LoadedBatch, LoaderConfig, lock};
use crate::order::LoaderState;
use crate::pixels::ImageStack;
use crate::prepare::{CaptionChoice, PreparedSample, Tokenizers};
use crate::regions::{PreparedRegion, collate_regions};
use crate::skips::{Skip, SkipCounts};
use crate::stages::{Stage, StageTimes};
use crate::targets::collate_targets;

/// What travels from the workers to the collator.
pub(crate) struct Done {
    pub(crate) number: u64,
    pub(crate) state_after: LoaderState,
    pub(crate) outcome: Outcome,
}

/// What became of a job.
pub(crate) enum Outcome {
    /// A sample of the data set `set`, with the parts that were left out.
    Prepared {
        sample: Box<PreparedSample>,
        skips: Vec<Skip>,
        set: usize,
    },
    /// A sample that is left out, with the parts that had been left out before.
    Skipped(Skip, Vec<Skip>),
    /// Something that takes no place in a batch.
    Reported(Skip),
    /// Where several loaders share batches: all samples of this one have come.
    BatchEnds,
    EpochEnds {
        set: usize,
        whole: bool,
    },
    Fail(Error),
}

/// Puts samples back in order and into batches.
pub(crate) struct Collator {
    config: Arc<LoaderConfig>,
    tokenizers: Arc<Tokenizers>,
    skips: Arc<Mutex<SkipCounts>>,
    stages: Arc<StageTimes>,
    tickets: Sender<()>,
    batches: Sender<Result<LoadedBatch, Error>>,
    under_way: UnderWay,
    /// Some samples of the batch before, with their pixels, to fill empty places with.
    spares: Vec<PreparedSample>,
    /// Shared batches without a single usable sample, at a run's beginning, and the states after them.
    unfilled: Vec<(UnderWay, LoaderState)>,
    /// Samples seen.
    seen: u64,
    batches_of_epoch: u64,
    usable_of_epoch: u64,
    /// Data sets that have given a usable sample.
    usable_sets: BTreeSet<usize>,
}

/// A batch that is not complete.
#[derive(Default)]
struct UnderWay {
    /// A place is empty where a sample of a shared batch was left out.
    places: Vec<Option<PreparedSample>>,
    /// None before the first.
    images: Option<ImageStack>,
}

impl UnderWay {
    /// Makes numbers of a sample's pixels.
    fn put(&mut self, place: usize, pixels: &[u8], config: &LoaderConfig, stages: &StageTimes) {
        let n_images = config.batch_size / config.share.of;
        let empty = || ImageStack::new(n_images, config.preparation.image_size);
        stages.time(Stage::Collate, || self.images.get_or_insert_with(empty).put(place, pixels));
    }
}

impl Collator {
    /// Samples seen before the share of skipped ones is judged.
    const GRACE: u64 = 100;
    /// How many are kept: as many damaged samples of one batch get different ones.
    const SPARES: usize = 8;
    /// How many batches at a run's beginning may consist of damaged samples.
    const UNFILLED: usize = 16;

    pub(crate) fn new(
        config: Arc<LoaderConfig>,
        tokenizers: Arc<Tokenizers>,
        skips: Arc<Mutex<SkipCounts>>,
        stages: Arc<StageTimes>,
        tickets: Sender<()>,
        batches: Sender<Result<LoadedBatch, Error>>,
    ) -> Collator {
        Collator {
            config,
            tokenizers,
            skips,
            stages,
            tickets,
            batches,
            under_way: UnderWay::default(),
            spares: Vec::new(),
            unfilled: Vec::new(),
            seen: 0,
            batches_of_epoch: 0,
            usable_of_epoch: 0,
            usable_sets: BTreeSet::new(),
        }
    }

    /// Works until either end closes or something fails.
    pub(crate) fn run(mut self, done: &Receiver<Done>) {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for item in done {
            waiting.insert(item.number, item);
            while let Some(Done { state_after, outcome, .. }) = waiting.remove(&next) {
                next += 1;
                // Nobody takes the ticket when the reader has stopped.
                let _ = self.tickets.send(());
                let completed = match self.take(outcome, state_after) {
                    Ok(completed) => completed,
                    Err(error) => {
                        // Whether anybody is left to hear it or not, this is the end.
                        let _ = self.batches.send(Err(error));
                        return;
                    }
                };
                for batch in completed {
                    if self.batches.send(Ok(batch)).is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Takes what comes next in order; gives the batches that it completes.
    fn take(&mut self, outcome: Outcome, state: LoaderState) -> Result<Vec<LoadedBatch>, Error> {
        let is_shared = self.config.share.of > 1;
        match outcome {
            Outcome::Prepared { sample, skips, set } => {
                self.seen += 1;
                self.usable_of_epoch += 1;
                self.usable_sets.insert(set);
                skips.iter().for_each(|skip| lock(&self.skips).record(skip));
                self.place(*sample);
                if is_shared || self.under_way.places.len() < self.config.batch_size {
                    return Ok(Vec::new());
                }
                let UnderWay { places, images } = std::mem::take(&mut self.under_way);
                let samples: Vec<PreparedSample> = places.into_iter().flatten().collect();
                Ok(vec![LoadedBatch { batch: self.collate(&samples, images), state }])
            }
            Outcome::Skipped(skip, parts) => {
                parts.iter().for_each(|part| lock(&self.skips).record(part));
                if is_shared {
                    self.under_way.places.push(None);
                }
                self.skip(&skip).map(|()| Vec::new())
            }
            Outcome::Reported(skip) => self.skip(&skip).map(|()| Vec::new()),
            Outcome::BatchEnds => self.end_shared_batch(state),
            Outcome::EpochEnds { set, whole } => self.end_epoch(set, whole).map(|()| Vec::new()),
            Outcome::Fail(error) => Err(error),
        }
    }

    /// Puts a sample into the next place.
    fn place(&mut self, mut sample: PreparedSample) {
        self.under_way.put(self.under_way.places.len(), &sample.pixels, &self.config, &self.stages);
        let places = &mut self.under_way.places;
        // The first ones of a shared batch may be needed once more.
        if self.config.share.of == 1 || places.iter().flatten().take(Self::SPARES).count() == Self::SPARES {
            sample.pixels = Vec::new();
        }
        places.push(Some(sample));
    }

    fn skip(&mut self, skip: &Skip) -> Result<(), Error> {
        self.seen += u64::from(skip.reason.drops_sample());
        let mut skips = lock(&self.skips);
        skips.record(skip);
        let (skipped, seen, allowed) = (skips.samples(), self.seen, self.config.max_skipped_share);
        if seen >= Self::GRACE && skipped as f64 > allowed * seen as f64 {
            return Err(Error::TooManySkipped { skipped, seen, allowed, skips: skips.clone() });
        }
        Ok(())
    }

    /// Fills the empty places of a shared batch with samples of the batch before that are not in it; in a
    /// run's first batch with its own. Where that has none at all, it waits for a later one.
    fn end_shared_batch(&mut self, state: LoaderState) -> Result<Vec<LoadedBatch>, Error> {
        self.unfilled.push((std::mem::take(&mut self.under_way), state));
        if self.spares.is_empty() {
            let own = self.unfilled.iter().flat_map(|(batch, _)| batch.places.iter().flatten());
            self.spares = own.take(Self::SPARES).cloned().collect();
        }
        if self.spares.is_empty() {
            return if self.unfilled.len() > Self::UNFILLED { Err(self.too_few(0)) } else { Ok(Vec::new()) };
        }
        let mut completed = Vec::new();
        for (mut batch, state) in std::mem::take(&mut self.unfilled) {
            for place in 0..batch.places.len() {
                let present = |key: &str| batch.places.iter().flatten().any(|sample| sample.key == key);
                if batch.places[place].is_none() {
                    let spare = self.spares.iter().find(|spare| !present(&spare.key)).unwrap_or(&self.spares[0]);
                    batch.put(place, &spare.pixels, &self.config, &self.stages);
                    batch.places[place] = Some(spare.clone());
                }
            }
            let UnderWay { places, images } = batch;
            let mut samples: Vec<PreparedSample> = places.into_iter().flatten().collect();
            completed.push(LoadedBatch { batch: self.collate(&samples, images), state });
            samples.truncate(Self::SPARES);
            self.spares = samples;
        }
        Ok(completed)
    }

    fn end_epoch(&mut self, set: usize, whole: bool) -> Result<(), Error> {
        if self.config.data.len() > 1 {
            return match whole && !self.usable_sets.contains(&set) {
                true => Err(Error::EmptySet { set, skips: lock(&self.skips).clone() }),
                false => Ok(()),
            };
        }
        let (batches, usable) = (std::mem::take(&mut self.batches_of_epoch), std::mem::take(&mut self.usable_of_epoch));
        let is_shared = self.config.share.of > 1;
        let part = (self.config.batch_size / self.config.share.of) as u64;
        if self.config.drops_last_batch() {
            self.under_way.places.clear();
        }
        // Filled up, a batch of more samples than there are would hold one twice.
        if whole && (if is_shared || self.config.drops_last_batch() { batches == 0 } else { usable < part }) {
            return Err(self.too_few(usable));
        }
        Ok(())
    }

    fn too_few(&self, usable: u64) -> Error {
        let batch_size = self.config.batch_size / self.config.share.of;
        Error::TooFewSamples { usable, batch_size, skips: lock(&self.skips).clone() }
    }

    /// `images` are those of the samples, of which there is at least one.
    fn collate(&mut self, samples: &[PreparedSample], images: Option<ImageStack>) -> Batch {
        self.batches_of_epoch += 1;
        self.stages.time(Stage::Collate, || self.stack(samples, images.expect("images of the samples")))
    }

    fn stack(&self, samples: &[PreparedSample], images: ImageStack) -> Batch {
        let preparation = &self.config.preparation;
        let regions = preparation.regions.map(|settings| {
            let regions: Vec<&[PreparedRegion]> = samples.iter().map(|sample| &sample.regions[..]).collect();
            collate_regions(&regions, settings.max, &self.tokenizers.phrases)
        });
        let captions = (preparation.captions == CaptionChoice::All).then(|| self.collate_captions(samples));
        let (texts, keys): (Vec<_>, Vec<_>) =
            samples.iter().map(|sample| (sample.text.clone(), sample.key.clone())).unzip();
        let text = self.tokenizers.captions.pad(&texts);
        let targets = preparation.targets.as_ref().map(|spec| {
            let targets: Vec<_> = samples.iter().filter_map(|sample| sample.target.as_ref()).collect();
            assert_eq!(targets.len(), samples.len(), "every sample was prepared with a target");
            collate_targets(spec, &targets, text.ids_bl.size()[1] as usize)
        });
        Batch {
            images_bchw: images.finish(),
            text,
            captions,
            regions,
            targets,
            image_ids_b: Tensor::from_slice(&samples.iter().map(|sample| sample.image_id).collect::<Vec<_>>()),
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
