//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sparc_core::seed;
use sparc_data::stages::Stage;
use sparc_data::{LoadedBatch, Loader, LoaderState, TextTokenizer};
use sparc_models::networks::Network;
use tch::Kind;

use crate::checkpoint;
use crate::choices::{Choices, HEAD};
use crate::config::RunConfig;
use crate::error::Error;
use crate::fine_tuning;
use crate::metrics_log::MetricsLog;
use crate::optimizer::AdamW;
use crate::plan::RunPlan;
use crate::progress::TrainProgress;
use crate::step::{StepMetrics, step};

/// The plan's file in a run's folder.
pub const PLAN: &str = "plan.yaml";
/// The tokenizer's file in a run's folder.
pub const TOKENIZER: &str = "tokenizer.json";

/// How a run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// From scratch; the folder must not hold a run.
    Fresh,
    /// From scratch; a run that is there is removed.
    Overwrite,
    /// From the newest checkpoint of the output folder.
    ResumeLatest,
    /// From this checkpoint, or the newest of this run.
    Resume(PathBuf),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Finished(PathBuf),
    /// It was asked to stop, and saved this checkpoint.
    Interrupted(PathBuf),
}

/// Trains as planned. `stop` is looked at after every step.
///
/// # Errors
///
/// Data, disk or numbers that do not allow to go on; checkpoints made so far stay.
pub fn train(plan: &RunPlan, tokenizer: TextTokenizer, start: &Start, stop: &Arc<AtomicBool>) -> Result<Ending, Error> {
    let run = plan.config.output.as_path();
    let mut network = Network::new(plan.network(), plan.config.seed, Kind::Float, plan.device());
    fine_tuning::freeze(&mut network, &plan.config);
    let rate = |name: &str| fine_tuning::rate_of(&network, &plan.config, name);
    let mut optimizer = AdamW::new(plan.config.optimizer, network.parameters()).with_rates(rate);
    let choices = Choices::read(&plan.config)?;
    let state = match start {
        Start::Fresh | Start::Overwrite => {
            // Before anything is removed: the checkpoint may lie in this very folder.
            if let Some(fine_tuning) = &plan.config.fine_tuning {
                tracing::info!("{}", fine_tuning::load(&mut network, &fine_tuning.from, plan)?);
            }
            prepare_folder(run, plan, choices.as_ref(), *start == Start::Overwrite)?;
            LoaderState::default()
        }
        Start::ResumeLatest => {
            checkpoint::resume(&checkpoint::latest(run)?, &mut network, &mut optimizer, plan)?.loader
        }
        Start::Resume(path) => {
            let checkpoint = checkpoint::find(path)?;
            let state = checkpoint::resume(&checkpoint, &mut network, &mut optimizer, plan)?.loader;
            if is_same_folder(&checkpoint::run_of(&checkpoint), run) {
                // The log is cut back to this step: from here on this is where the run stands.
                checkpoint::point_latest_at(run, &checkpoint)?;
            } else {
                prepare_folder(run, plan, choices.as_ref(), false)?;
            }
            state
        }
    };
    let log = MetricsLog::open(run, optimizer.updates())?;
    let loader = Loader::start(plan.loader(choices.map(|choices| choices.targets())), tokenizer, state.clone());
    let window = Window::new(&loader);
    Run { plan, run, network, optimizer, log, loader, state, batch: String::new(), window }.go(stop)
}

fn is_same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Makes the run's folder, with the plan, a copy of the tokenizer and what a head chooses from in it.
fn prepare_folder(run: &Path, plan: &RunPlan, choices: Option<&Choices>, overwrite: bool) -> Result<(), Error> {
    // Read before anything is removed: it may be the copy in this very folder.
    let tokenizer = &plan.config.data.tokenizer;
    let tokenizer = std::fs::read(tokenizer).map_err(|error| Error::io(tokenizer, error))?;
    if run.join(PLAN).exists() && !overwrite {
        return Err(Error::RunExists { path: run.into() });
    }
    let head = choices.map(|choices| choices.file(plan)).transpose()?;
    if run.join(PLAN).exists() {
        // Only what a run writes, by name: the folder may hold more than that.
        for name in ["checkpoints", "latest", crate::metrics_log::METRICS, PLAN, TOKENIZER, HEAD] {
            let path = run.join(name);
            let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path, error)),
                _ => {}
            }
        }
    }
    let checkpoints = run.join("checkpoints");
    std::fs::create_dir_all(&checkpoints).map_err(|error| Error::io(&checkpoints, error))?;
    checkpoint::write_durably(&run.join(TOKENIZER), &tokenizer)?;
    if let Some(head) = head {
        checkpoint::write_durably(&run.join(HEAD), head.to_json().as_bytes())?;
    }
    checkpoint::write_durably(&run.join(PLAN), plan.to_yaml().as_bytes())
}

struct Run<'a> {
    plan: &'a RunPlan,
    run: &'a Path,
    network: Network,
    optimizer: AdamW,
    log: MetricsLog,
    loader: Loader,
    state: LoaderState,
    /// Fingerprint of the last batch's keys.
    batch: String,
    window: Window,
}

impl Run<'_> {
    fn go(mut self, stop: &AtomicBool) -> Result<Ending, Error> {
        let train = self.plan.config.train;
        let progress = TrainProgress::new(train.steps, self.optimizer.updates());
        while self.optimizer.updates() < train.steps {
            let metrics = self.one_step()?;
            let done = self.optimizer.updates();
            if done.is_multiple_of(train.log_every) || done == train.steps {
                let (speed, stages) = self.window.close(train.batch_size, &self.loader);
                progress.logged(done, &metrics, speed, &self.loader.skips());
                self.write_log(done, &metrics, speed, stages)?;
            }
            progress.advance(done);
            let last = done == train.steps;
            let interrupted = stop.load(Ordering::Relaxed) && !last;
            if last || interrupted || done.is_multiple_of(train.checkpoint_every) {
                let saved = checkpoint::save(self.run, &self.network, &self.optimizer, self.plan, self.state.clone())?;
                if interrupted || last {
                    progress.finish();
                    return Ok(if last { Ending::Finished(saved) } else { Ending::Interrupted(saved) });
                }
            }
        }
        // The checkpoint resumed from was the last one already.
        progress.finish();
        Ok(Ending::Finished(checkpoint::latest(self.run)?))
    }

    fn one_step(&mut self) -> Result<StepMetrics, Error> {
        let waiting = Instant::now();
        let LoadedBatch { batch, state } = self.loader.next().unwrap_or(Err(sparc_data::Error::Stopped))?;
        self.window.waited += waiting.elapsed();
        let number = self.optimizer.updates() + 1;
        let learning_rate = self.plan.config.optimizer.learning_rate_at(number, self.plan.config.train.steps);
        let batch = batch.to_device(self.plan.device());
        let RunConfig { objective, seed, .. } = &self.plan.config;
        let metrics = step(&mut self.network, &mut self.optimizer, objective, &batch, *seed, learning_rate)?;
        self.window.steps += 1;
        self.state = state;
        let keys: Vec<&[u8]> = batch.keys.iter().map(|key| key.as_bytes()).collect();
        self.batch = format!("{:016x}", seed::derive(0, &keys));
        Ok(metrics)
    }

    fn write_log(
        &mut self,
        done: u64,
        metrics: &StepMetrics,
        speed: Speed,
        stages: Map<String, Value>,
    ) -> Result<(), Error> {
        let mut line = Map::new();
        line.insert("step".into(), done.into());
        line.insert("epoch".into(), self.state.epoch.into());
        if !self.state.sets.is_empty() {
            let epochs: Vec<u64> = self.state.sets.iter().map(|set| set.epoch).collect();
            line.insert("epoch_of_set".into(), epochs.into());
        }
        line.insert("batch_fingerprint".into(), self.batch.clone().into());
        line.insert("samples".into(), (done * self.plan.config.train.batch_size as u64).into());
        line.extend(metrics.values.iter().map(|(name, value)| (name.clone(), (*value).into())));
        line.insert("samples_per_s".into(), speed.samples_per_s.into());
        line.insert("data_wait_share".into(), speed.data_wait_share.into());
        line.insert("stages_s".into(), stages.into());
        let skips: Map<String, Value> =
            self.loader.skips().iter().map(|(reason, count)| (reason.to_string(), count.into())).collect();
        if !skips.is_empty() {
            line.insert("skipped".into(), skips.into());
        }
        self.log.write(line)
    }
}

/// How fast the steps since the last log line were.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    /// Pairs per second.
    pub samples_per_s: f64,
    /// Share of the time spent waiting for data.
    pub data_wait_share: f64,
}

/// The time since the last log line.
struct Window {
    since: Instant,
    waited: Duration,
    steps: u64,
    /// The loader's stages at the last log line.
    stages: [Duration; Stage::ALL.len()],
}

impl Window {
    fn new(loader: &Loader) -> Window {
        let stages = Stage::ALL.map(|stage| loader.stages().get(stage));
        Window { since: Instant::now(), waited: Duration::ZERO, steps: 0, stages }
    }

    /// Speed and seconds of each stage of loading since the last log line; the next window begins.
    fn close(&mut self, batch_size: usize, loader: &Loader) -> (Speed, Map<String, Value>) {
        let seconds = self.since.elapsed().as_secs_f64().max(1e-9);
        let speed = Speed {
            samples_per_s: self.steps as f64 * batch_size as f64 / seconds,
            data_wait_share: self.waited.as_secs_f64() / seconds,
        };
        let before = std::mem::replace(self, Window::new(loader)).stages;
        // To the microsecond: what is finer is noise.
        let spent = |now: Duration, before: Duration| (now.saturating_sub(before).as_secs_f64() * 1e6).round() / 1e6;
        let stages = Stage::ALL.iter().zip(self.stages).zip(before);
        (speed, stages.map(|((stage, now), before)| (stage.to_string(), spent(now, before).into())).collect())
    }
}
