//! How fast each stage of loading is alone, which one bounds the rate, and what would help
//! (`sparc doctor --data`).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::decode::Reduction;
use crate::error::Error;
use crate::loader::{Loader, LoaderConfig};
use crate::order::LoaderState;
use crate::pixels::ImageStack;
use crate::prepare::{Preparation, open_image, read_captions, read_record};
use crate::shards::{RawSample, ShardSamples, TRAINING_MEMBERS};
use crate::skips::{SkipCounts, SkipReason};
use crate::source::Source;
use crate::stages::{Stage, StageTimes};
use crate::tokenizer::{TextTokenizer, TokenizedText};
use crate::transform::Frame;

/// How long each stage is measured, and how many samples are held for it.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// At least this long, all samples once at least.
    pub time: Duration,
    /// Most samples.
    pub samples: usize,
    /// Most bytes of encoded samples.
    pub bytes: u64,
}

/// Samples a second of one stage, with nothing else running.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StageRate {
    /// Name of the stage.
    pub stage: &'static str,
    /// Threads that do it in the loader.
    pub threads: usize,
    /// On one thread.
    pub one_thread_per_s: f64,
    /// On all of `threads`.
    pub samples_per_s: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageRates {
    /// Samples that the stages were measured with.
    pub samples: usize,
    /// Mean bytes of the members that training reads.
    pub bytes_per_sample: f64,
    /// Median width and height of the images, in pixels.
    pub median_size: (u32, u32),
    /// Side of the network input in pixels.
    pub image_size: u32,
    /// Fetch, untar, decode, resize, tokenise, collate.
    pub stages: Vec<StageRate>,
    /// Decode and resize with DCT scaling on all workers, if it would reduce any image and is off.
    pub with_dct_scaling_per_s: Option<f64>,
    /// The whole loader.
    pub loader_per_s: f64,
}

/// Which stage bounds the rate, and what would help.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// The threads that are busy all the time: `reader`, `workers` or `collator`.
    pub bound_by: &'static str,
    /// The stage that they spend most time on.
    pub stage: &'static str,
    /// Samples a second that those threads can do.
    pub samples_per_s: f64,
    /// What would help, the most useful first.
    pub advice: Vec<String>,
}

/// Measures each stage alone on samples from the first shards, and then the loader as a whole.
///
/// Fetching is as fast as it will be in training only if the shards are not in memory already: the system
/// keeps what has been read lately.
///
/// # Errors
///
/// Shards that cannot be read or have no usable sample, or fewer than a batch.
pub fn measure_stages(config: &LoaderConfig, tokenizer: &TextTokenizer, effort: Effort) -> Result<StageRates, Error> {
    let shards = local_shards(config)?;
    let seconds_per_byte = fetch(&shards, effort)?;
    let (samples, untar_seconds) = untar(&shards, effort)?;
    let bytes_per_sample = samples.iter().map(RawSample::bytes).sum::<u64>() as f64 / samples.len() as f64;
    let preparation = &config.preparation;
    let workers = config.workers.max(1);
    let alone = prepare_times(&samples, preparation, tokenizer, 1, effort);
    let together = prepare_times(&samples, preparation, tokenizer, workers, effort);
    let of_workers = |stage, pick: fn(&PrepareTimes) -> f64| StageRate {
        stage,
        threads: workers,
        one_thread_per_s: 1.0 / pick(&alone),
        samples_per_s: workers as f64 / pick(&together),
    };
    let of_one = |stage, seconds: f64| StageRate {
        stage,
        threads: 1,
        one_thread_per_s: 1.0 / seconds,
        samples_per_s: 1.0 / seconds,
    };
    let stages = vec![
        of_one("fetch", seconds_per_byte * bytes_per_sample),
        of_one("untar", untar_seconds),
        of_workers("decode", |times| times.decode),
        of_workers("resize", |times| times.resize),
        of_workers("tokenise", |times| times.tokenise),
        of_one("collate", collate_seconds(config, tokenizer, effort)),
    ];
    let reduced = Preparation { dct_scaling: true, ..preparation.clone() };
    let with_dct_scaling = || {
        let times = prepare_times(&samples, &reduced, tokenizer, workers, effort);
        workers as f64 / times.total()
    };
    let helps = !preparation.dct_scaling && samples.iter().any(|sample| would_be_reduced(sample, &reduced));
    Ok(StageRates {
        samples: samples.len(),
        bytes_per_sample,
        median_size: median_size(&samples),
        image_size: preparation.image_size,
        stages,
        with_dct_scaling_per_s: helps.then(with_dct_scaling),
        loader_per_s: loader_rate(config, tokenizer, effort)?,
    })
}

/// The shards on local disks, which is all that the stages are measured on.
fn local_shards(config: &LoaderConfig) -> Result<Vec<PathBuf>, Error> {
    let sources = config.data.iter().flat_map(|set| &set.sources);
    let path = |source: &Source| {
        source
            .path()
            .map(Path::to_owned)
            .ok_or_else(|| Error::Order(format!("{source} is not a shard on a local disk")))
    };
    sources.map(path).collect()
}

/// Seconds that a byte takes from where the shards are.
fn fetch(shards: &[PathBuf], effort: Effort) -> Result<f64, Error> {
    let mut block = vec![0; 1 << 20];
    let (mut bytes, started) = (0u64, Instant::now());
    'shards: for path in shards {
        let io = |reason| Error::Io { path: path.clone(), reason };
        let mut file = std::fs::File::open(path).map_err(io)?;
        loop {
            let read = file.read(&mut block).map_err(io)?;
            bytes += read as u64;
            if read == 0 {
                break;
            }
            if bytes >= effort.bytes || started.elapsed() >= effort.time {
                break 'shards;
            }
        }
    }
    Ok(started.elapsed().as_secs_f64() / bytes.max(1) as f64)
}

/// The first samples, and the seconds that taking one out of its shard needs once the shard is in memory.
fn untar(shards: &[PathBuf], effort: Effort) -> Result<(Vec<RawSample>, f64), Error> {
    let (mut samples, mut bytes) = (Vec::new(), 0);
    let mut skips = SkipCounts::default();
    let full = |samples: usize, bytes: u64| samples >= effort.samples || (samples > 0 && bytes >= effort.bytes);
    for path in shards {
        for sample in ShardSamples::open(path)?.keeping(&TRAINING_MEMBERS) {
            match sample.and_then(|sample| usable(&sample).map(|()| sample)) {
                Ok(sample) => {
                    bytes += sample.bytes();
                    samples.push(sample);
                }
                Err(skip) => skips.record(&skip),
            }
            if full(samples.len(), bytes) {
                break;
            }
        }
        if full(samples.len(), bytes) {
            break;
        }
    }
    if samples.is_empty() {
        return Err(Error::TooFewSamples { usable: 0, batch_size: 1, skips });
    }
    let (mut seen, started) = (0u64, Instant::now());
    'time: loop {
        for path in shards {
            for _ in ShardSamples::open(path)?.keeping(&TRAINING_MEMBERS) {
                seen += 1;
                if seen >= samples.len() as u64 && started.elapsed() >= effort.time {
                    break 'time;
                }
            }
        }
    }
    Ok((samples, started.elapsed().as_secs_f64() / seen as f64))
}

/// Whether the stages can be measured with a sample.
fn usable(sample: &RawSample) -> Result<(), crate::skips::Skip> {
    let captions = read_captions(sample, &read_record(sample)?)?;
    if captions.is_empty() {
        return Err(sample.skip(SkipReason::NoCaption, "neither .txt nor .json has a caption"));
    }
    open_image(sample)?.decode(Reduction::None).map(|_| ())
}

/// Seconds of one thread for one sample.
#[derive(Debug, Clone, Copy, Default)]
struct PrepareTimes {
    decode: f64,
    resize: f64,
    tokenise: f64,
}

impl PrepareTimes {
    fn total(&self) -> f64 {
        self.decode + self.resize + self.tokenise
    }
}

/// What a worker does, on `threads` threads at once, each through all samples.
fn prepare_times(
    samples: &[RawSample],
    preparation: &Preparation,
    tokenizer: &TextTokenizer,
    threads: usize,
    effort: Effort,
) -> PrepareTimes {
    let work = |first: usize| {
        let mut generator = ChaCha8Rng::seed_from_u64(first as u64);
        let (mut times, mut done, started) = (PrepareTimes::default(), 0, Instant::now());
        while done < samples.len() || started.elapsed() < effort.time {
            let sample = &samples[(first + done) % samples.len()];
            done += 1;
            let stages = StageTimes::default();
            let Ok(image) = stages.time(Stage::Decode, || open_image(sample)) else { continue };
            let size = image.encoded.size();
            let Preparation { image_size, resize, augmentation, .. } = preparation;
            let frame = Frame::random(size, *image_size, *resize, augmentation, true, &mut generator);
            let reduction = if preparation.dct_scaling { frame.reduction() } else { Reduction::None };
            let Ok(pixels) = image.render(&frame, reduction, &stages) else { continue };
            std::hint::black_box(pixels);
            times.decode += stages.get(Stage::Decode).as_secs_f64();
            times.resize += stages.get(Stage::Resize).as_secs_f64();
            let begun = Instant::now();
            let captions = read_record(sample).and_then(|record| read_captions(sample, &record)).unwrap_or_default();
            std::hint::black_box(captions.first().map(|caption| tokenizer.encode(caption)));
            times.tokenise += begun.elapsed().as_secs_f64();
        }
        let each = |seconds: f64| seconds / done as f64;
        PrepareTimes { decode: each(times.decode), resize: each(times.resize), tokenise: each(times.tokenise) }
    };
    let all: Vec<PrepareTimes> = std::thread::scope(|scope| {
        let started: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || work(thread * samples.len() / threads))).collect();
        started.into_iter().map(|thread| thread.join().expect("decoding does not panic")).collect()
    });
    let mean = |pick: fn(&PrepareTimes) -> f64| all.iter().map(pick).sum::<f64>() / threads as f64;
    PrepareTimes { decode: mean(|t| t.decode), resize: mean(|t| t.resize), tokenise: mean(|t| t.tokenise) }
}

fn would_be_reduced(sample: &RawSample, preparation: &Preparation) -> bool {
    let Ok(image) = open_image(sample) else { return false };
    let frame = Frame::plain(image.encoded.size(), preparation.image_size, preparation.resize);
    image.encoded.can_reduce() && frame.reduction() != Reduction::None
}

/// Seconds that one sample's share of a batch takes: its pixels normalised into one tensor, its tokens padded.
fn collate_seconds(config: &LoaderConfig, tokenizer: &TextTokenizer, effort: Effort) -> f64 {
    let side = config.preparation.image_size;
    let pixels = vec![128; 3 * (side * side) as usize];
    let text = tokenizer.encode("a caption of a few words").unwrap_or(TokenizedText::EMPTY);
    let texts = vec![text; config.batch_size];
    let (mut batches, started) = (0, Instant::now());
    while batches == 0 || started.elapsed() < effort.time {
        let mut images = ImageStack::new(texts.len(), side);
        (0..texts.len()).for_each(|place| images.put(place, &pixels));
        drop(std::hint::black_box((images.finish(), tokenizer.pad(&texts))));
        batches += 1;
    }
    started.elapsed().as_secs_f64() / (batches * config.batch_size) as f64
}

/// Samples a second of the loader, after a first batch.
fn loader_rate(config: &LoaderConfig, tokenizer: &TextTokenizer, effort: Effort) -> Result<f64, Error> {
    let mut loader = Loader::start(config.clone(), tokenizer.clone(), LoaderState::default());
    // The first batches may have been made in advance.
    for _ in 0..=config.prefetch {
        loader.next().expect("batches without an end")?;
    }
    let (mut samples, started) = (0, Instant::now());
    while samples == 0 || started.elapsed() < effort.time {
        loader.next().expect("batches without an end")?;
        samples += config.batch_size;
    }
    Ok(samples as f64 / started.elapsed().as_secs_f64())
}

fn median_size(samples: &[RawSample]) -> (u32, u32) {
    let sizes: Vec<(u32, u32)> =
        samples.iter().filter_map(|sample| Some(open_image(sample).ok()?.encoded.size())).collect();
    let median = |pick: fn(&(u32, u32)) -> u32| {
        let mut sides: Vec<u32> = sizes.iter().map(pick).collect();
        sides.sort_unstable();
        sides.get(sides.len() / 2).copied().unwrap_or(0)
    };
    (median(|size| size.0), median(|size| size.1))
}

impl StageRates {
    /// What bounds the rate, and what would help on a machine with `cores` cores.
    pub fn diagnose(&self, cores: usize) -> Diagnosis {
        let groups: [(&'static str, &[&str]); 3] = [
            ("reader", &["fetch", "untar"]),
            ("workers", &["decode", "resize", "tokenise"]),
            ("collator", &["collate"]),
        ];
        let stages = |names: &[&str]| -> Vec<&StageRate> {
            self.stages.iter().filter(|stage| names.contains(&stage.stage)).collect()
        };
        // Stages that take turns on a thread: their times add up.
        let rate = |names: &[&str]| 1.0 / stages(names).iter().map(|stage| 1.0 / stage.samples_per_s).sum::<f64>();
        let slower = |a: f64, b: f64| a.total_cmp(&b);
        let Some((bound_by, names)) = groups.into_iter().min_by(|a, b| slower(rate(a.1), rate(b.1))) else {
            unreachable!("there are three groups")
        };
        let slowest = stages(names).into_iter().min_by(|a, b| slower(a.samples_per_s, b.samples_per_s));
        let stage = slowest.map_or("", |stage| stage.stage);
        Diagnosis { bound_by, stage, samples_per_s: rate(names), advice: self.advice(bound_by, stage, cores) }
    }

    fn advice(&self, bound_by: &str, stage: &str, cores: usize) -> Vec<String> {
        let mut advice = Vec::new();
        let workers = self.stages.iter().find(|rate| rate.stage == "decode").map_or(1, |rate| rate.threads);
        match (bound_by, stage) {
            (_, "fetch") => {
                advice.push("keep the shards on a faster or a local disk".to_owned());
                if self.is_oversized() {
                    advice.push(self.smaller_images());
                }
            }
            (_, "untar") => advice.push(
                "take members that training does not read out of the shards (masks, features), or make them smaller"
                    .to_owned(),
            ),
            ("collator", _) => advice.push(
                "the memory is the limit here, not the data: other programs on this machine may be using it".to_owned(),
            ),
            _ => {
                if let Some(reduced) = self.with_dct_scaling_per_s {
                    advice.push(format!(
                        "`data.dct_scaling: true` decodes large photographs at a fraction of their size: {reduced:.0} samples/s on the workers, with slightly other pixels"
                    ));
                }
                if workers < cores {
                    advice.push(format!("raise `data.workers` from {workers}: this machine has {cores} cores"));
                } else {
                    advice.push(format!("more cores: all {cores} are in use"));
                }
                if stage != "tokenise" && self.is_oversized() {
                    advice.push(self.smaller_images());
                }
                if stage == "tokenise" {
                    advice.push("shorter captions, or fewer of them (`data.captions`)".to_owned());
                }
            }
        }
        advice
    }

    /// Whether the images have four times the pixels of the network's input.
    fn is_oversized(&self) -> bool {
        let (width, height) = self.median_size;
        u64::from(width) * u64::from(height) >= 4 * u64::from(self.image_size).pow(2)
    }

    fn smaller_images(&self) -> String {
        let (width, height) = self.median_size;
        format!(
            "store smaller images: the median is {width}x{height} pixels, and the network sees {0}x{0}",
            self.image_size
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_spec::DataSet;
    use crate::loader::{LastBatch, Share};
    use crate::prepare::CaptionChoice;
    use crate::shard_tools::tests::{Written, written};
    use crate::source::Patience;
    use crate::tokenizer::{TokenizerModel, TokenizerTraining, train_tokenizer};
    use crate::transform::{Augmentation, ResizeMode};

    fn rates(per_s: [f64; 6]) -> StageRates {
        let names = ["fetch", "untar", "decode", "resize", "tokenise", "collate"];
        let stage = |(stage, samples_per_s): (&'static str, f64)| StageRate {
            stage,
            threads: 2,
            one_thread_per_s: samples_per_s / 2.0,
            samples_per_s,
        };
        StageRates {
            samples: 1,
            bytes_per_sample: 1e5,
            median_size: (2_000, 1_500),
            image_size: 224,
            stages: names.into_iter().zip(per_s).map(stage).collect(),
            with_dct_scaling_per_s: None,
            loader_per_s: 1.0,
        }
    }

    #[test]
    fn the_slowest_group_of_stages_bounds_the_rate() {
        // The reader: 1/1000 + 1/1000 is slower than the workers' 1/1000 + 1/4000 + 1/4000.
        let diagnosis = rates([1e3, 1e3, 1e3, 4e3, 4e3, 9e3]).diagnose(2);
        assert_eq!((diagnosis.bound_by, diagnosis.samples_per_s.round()), ("reader", 500.0));
        let diagnosis = rates([1e9, 1e9, 1e3, 2e3, 1e9, 1e3]).diagnose(2);
        assert_eq!((diagnosis.bound_by, diagnosis.stage), ("workers", "decode"));
        assert_eq!(diagnosis.samples_per_s.round(), 667.0);
        let diagnosis = rates([1e9, 1e9, 1e9, 1e9, 1e9, 1e3]).diagnose(2);
        assert_eq!((diagnosis.bound_by, diagnosis.stage), ("collator", "collate"));
    }

    #[test]
    fn advice_is_what_was_measured() {
        let mut slow_decode = rates([1e9, 1e9, 1e2, 1e9, 1e9, 1e9]);
        let advice = slow_decode.diagnose(8).advice;
        assert!(advice[0].starts_with("raise `data.workers` from 2: this machine has 8"), "{advice:?}");
        assert!(advice[1].contains("2000x1500"), "{advice:?}");
        slow_decode.with_dct_scaling_per_s = Some(312.4);
        slow_decode.median_size = (256, 256);
        let advice = slow_decode.diagnose(2).advice;
        assert!(advice[0].contains("312 samples/s") && advice[1].starts_with("more cores"), "{advice:?}");
        assert_eq!(advice.len(), 2);
        assert!(rates([1e2, 1e9, 1e9, 1e9, 1e9, 1e9]).diagnose(2).advice[0].contains("disk"));
    }

    #[test]
    fn every_stage_is_measured() {
        let Written { shards, _folder } = written(9, 4);
        let training =
            TokenizerTraining { model: TokenizerModel::Bpe, vocab_size: 60, lowercase: true, mask_token: false };
        let file = _folder.path().join("tokenizer.json");
        std::fs::write(&file, train_tokenizer(&["caption number 0123456789".to_owned()], training).unwrap()).unwrap();
        let tokenizer = TextTokenizer::from_file(&file, 16).unwrap();
        let preparation = Preparation {
            image_size: 8,
            resize: ResizeMode::Squash,
            augmentation: Augmentation::NONE,
            dct_scaling: false,
            captions: CaptionChoice::First,
            regions: None,
            targets: None,
            seed: 0,
        };
        let config = LoaderConfig {
            data: vec![DataSet::new(shards.into_iter().map(Source::from).collect())],
            patience: Patience::default(),
            share: Share::WHOLE,
            last_batch: LastBatch::Drop,
            batch_size: 4,
            shuffle_buffer: 8,
            shuffle_bytes: None,
            workers: 2,
            prefetch: 1,
            seed: 0,
            max_skipped_share: 0.0,
            preparation,
        };
        let effort = Effort { time: Duration::from_millis(5), samples: 8, bytes: 1 << 20 };
        let rates = measure_stages(&config, &tokenizer, effort).unwrap();
        let names: Vec<&str> = rates.stages.iter().map(|stage| stage.stage).collect();
        assert_eq!(names, ["fetch", "untar", "decode", "resize", "tokenise", "collate"]);
        for stage in &rates.stages {
            assert!(stage.samples_per_s.is_finite() && stage.samples_per_s > 0.0, "{stage:?}");
        }
        assert!(rates.loader_per_s > 0.0 && rates.bytes_per_sample > 0.0);
    }
}
