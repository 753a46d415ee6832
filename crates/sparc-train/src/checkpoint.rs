//! Checkpoints: complete or not there at all.
//!
//! `checkpoints/step_N/` holds `model.safetensors`, `optimizer.safetensors` and `state.json`. It is
//! written under another name, flushed to the disk and renamed; only then does the file `latest` name
//! it, and only then are older ones removed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sparc_data::LoaderState;
use sparc_models::networks::Network;
use sparc_models::weights;
use tch::Tensor;

use crate::error::Error;
use crate::optimizer::AdamW;
use crate::plan::RunPlan;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const LATEST: &str = "latest";
/// Version of the layout described in `docs/formats/checkpoints.md`.
const FORMAT: u32 = 1;

/// Everything about a run at one step that is not a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Version of the layout.
    pub format: u32,
    /// Optimizer steps made.
    pub step: u64,
    /// Where the data stands.
    pub loader: LoaderState,
    /// The run's plan.
    pub plan: RunPlan,
}

/// Writes a checkpoint of `step` and prunes older ones down to `keep`.
///
/// # Errors
///
/// What the system said; earlier checkpoints and `latest` are untouched then.
pub fn save(
    run: &Path,
    network: &Network,
    optimizer: &AdamW,
    plan: &RunPlan,
    loader: LoaderState,
) -> Result<PathBuf, Error> {
    let step = optimizer.updates();
    let folder = run.join("checkpoints");
    let (temporary, finished) = (folder.join(format!(".step_{step}.part")), folder.join(format!("step_{step}")));
    let state = CheckpointState { format: FORMAT, step, loader, plan: plan.clone() };
    write(&temporary, network, optimizer, &state)
        .and_then(|()| publish(run, &temporary, &finished).map_err(|error| Error::io(&finished, error)))
        .map_err(|error| {
            // What is half written is of no use to anyone, and its space may be needed.
            let _ = std::fs::remove_dir_all(&temporary);
            Error::Save { path: finished.clone(), reason: error.to_string() }
        })?;
    prune(&folder, step, plan.config.train.keep_checkpoints)?;
    Ok(finished)
}

fn write(temporary: &Path, network: &Network, optimizer: &AdamW, state: &CheckpointState) -> Result<(), Error> {
    if temporary.exists() {
        std::fs::remove_dir_all(temporary).map_err(|error| Error::io(temporary, error))?;
    }
    std::fs::create_dir_all(temporary).map_err(|error| Error::io(temporary, error))?;
    let metadata = || HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let tensors = network.state();
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::save(&temporary.join(MODEL), tensors, metadata())?;
    let moments = optimizer.state();
    let moments = moments.iter().map(|(name, tensor)| (name.as_str(), tensor));
    weights::save(&temporary.join(OPTIMIZER), moments, metadata())?;
    let text = serde_json::to_string_pretty(state).expect("states are plain data");
    write_durably(&temporary.join(STATE), text.as_bytes())
}

/// Makes a finished folder visible: rename, flush, pointer.
fn publish(run: &Path, temporary: &Path, finished: &Path) -> std::io::Result<()> {
    File::open(temporary)?.sync_all()?;
    // The same step once more, after a resume: put aside, so that it is gone for an instant only.
    let aside = temporary.with_extension("old");
    if finished.exists() {
        if aside.exists() {
            std::fs::remove_dir_all(&aside)?;
        }
        std::fs::rename(finished, &aside)?;
    }
    std::fs::rename(temporary, finished)?;
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    let folder = finished.parent().unwrap_or(run);
    File::open(folder)?.sync_all()?;
    write_pointer(run, finished)
}

fn write_pointer(run: &Path, checkpoint: &Path) -> std::io::Result<()> {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pointer = run.join(format!(".{LATEST}.part"));
    std::fs::write(&pointer, name + "\n")?;
    File::open(&pointer)?.sync_all()?;
    std::fs::rename(&pointer, run.join(LATEST))?;
    File::open(run)?.sync_all()
}

/// Makes `checkpoint`, which lies in `run`, the one that `latest` names.
///
/// # Errors
///
/// What the system said.
pub fn point_latest_at(run: &Path, checkpoint: &Path) -> Result<(), Error> {
    write_pointer(run, checkpoint).map_err(|error| Error::io(run, error))
}

/// Writes a file and waits until it is on the disk.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    std::fs::write(path, bytes).and_then(|()| File::open(path)?.sync_all()).map_err(|error| Error::io(path, error))
}

/// Removes all but the newest `keep` checkpoints. Those of later steps than the one just saved are left
/// over from a course that was abandoned by resuming before it: they go first.
fn prune(folder: &Path, saved: u64, keep: usize) -> Result<(), Error> {
    let mut steps = saved_steps(folder)?;
    steps.sort_unstable_by_key(|&step| (step > saved, std::cmp::Reverse(step)));
    for step in steps.into_iter().skip(keep) {
        let old = folder.join(format!("step_{step}"));
        std::fs::remove_dir_all(&old).map_err(|error| Error::io(&old, error))?;
    }
    Ok(())
}

fn saved_steps(folder: &Path) -> Result<Vec<u64>, Error> {
    let io = |error| Error::io(folder, error);
    let mut steps = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        steps.extend(name.to_str().and_then(|name| name.strip_prefix("step_")?.parse::<u64>().ok()));
    }
    Ok(steps)
}

/// The checkpoint that `latest` names.
///
/// # Errors
///
/// A run without one.
pub fn latest(run: &Path) -> Result<PathBuf, Error> {
    let none = |reason: &str| Error::NoCheckpoint { path: run.into(), reason: reason.into() };
    let name = std::fs::read_to_string(run.join(LATEST)).map_err(|_| {
        none("there is no checkpoint here yet (no file `latest`); give the folder of a run that has saved one")
    })?;
    let path = run.join("checkpoints").join(name.trim());
    if path.join(STATE).is_file() { Ok(path) } else { Err(none("`latest` names a checkpoint that is gone")) }
}

/// The checkpoint behind a path that is a run, or a checkpoint itself.
///
/// # Errors
///
/// A path that is neither.
pub fn find(path: &Path) -> Result<PathBuf, Error> {
    if path.join(STATE).is_file() { Ok(path.into()) } else { latest(path) }
}

/// The run folder that a checkpoint lies in.
pub fn run_of(checkpoint: &Path) -> PathBuf {
    // A relative path such as `step_300` does not spell out its ancestors.
    let absolute = checkpoint.canonicalize().unwrap_or_else(|_| checkpoint.into());
    let relative = checkpoint.ancestors().nth(2).filter(|run| !run.as_os_str().is_empty());
    relative.or_else(|| absolute.ancestors().nth(2)).unwrap_or(Path::new(".")).into()
}

/// Reads the part of a checkpoint that is not tensors.
///
/// # Errors
///
/// A file that cannot be read, or is of another version.
pub fn load_state(checkpoint: &Path) -> Result<CheckpointState, Error> {
    let path = checkpoint.join(STATE);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    let bad = |reason: String| Error::NoCheckpoint { path: path.clone(), reason };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if value["format"] != FORMAT {
        return Err(bad(format!("its format is {}, this program reads {FORMAT}", value["format"])));
    }
    serde_json::from_value(value).map_err(|error| bad(error.to_string()))
}

/// All tensors of a checkpoint's weights.
///
/// # Errors
///
/// A file that cannot be read, or values that are not finite: whatever is computed with them looks like an answer and is
/// none.
pub fn load_weights(checkpoint: &Path) -> Result<BTreeMap<String, Tensor>, Error> {
    let path = checkpoint.join(MODEL);
    let tensors = weights::load(&path)?;
    let is_broken = |tensor: &Tensor| tensor.is_floating_point() && tensor.isfinite().all().int64_value(&[]) == 0;
    let broken: Vec<&str> = tensors.iter().filter(|(_, tensor)| is_broken(tensor)).map(|(name, _)| &**name).collect();
    match broken.first() {
        None => Ok(tensors),
        Some(first) => {
            let count = broken.len();
            let reason =
                format!("tensors with values that are not finite: {count}, {first} first; use an earlier checkpoint");
            Err(Error::NoCheckpoint { path, reason })
        }
    }
}

/// Loads a checkpoint's weights, and what follows them without a gradient, into `network`.
///
/// # Errors
///
/// All differences between file and network at once.
pub fn load_model(checkpoint: &Path, network: &mut Network) -> Result<(), Error> {
    let tensors = load_weights(checkpoint)?;
    network.load_state(&tensors).map_err(|differences| Error::Mismatch { path: checkpoint.join(MODEL), differences })
}

/// Loads weights and optimizer state, after checking that both fit.
///
/// # Errors
///
/// All differences at once.
pub fn resume(
    checkpoint: &Path,
    network: &mut Network,
    optimizer: &mut AdamW,
    plan: &RunPlan,
) -> Result<CheckpointState, Error> {
    let state = load_state(checkpoint)?;
    let differences = plan.differences(&state.plan);
    if !differences.is_empty() {
        return Err(Error::Mismatch { path: checkpoint.into(), differences });
    }
    let (now, then) = (&plan.resolved, &state.plan.resolved);
    if (now.threads, &now.compute) != (then.threads, &then.compute) {
        tracing::warn!(
            "the checkpoint was computed with {} threads on {}, this run has {} on {}: results will not be the same to the last bit",
            then.threads,
            then.compute,
            now.threads,
            now.compute
        );
    }
    load_model(checkpoint, network)?;
    let path = checkpoint.join(OPTIMIZER);
    let moments: BTreeMap<String, Tensor> = weights::load(&path)?;
    optimizer.load(&moments, state.step).map_err(|differences| Error::Mismatch { path, differences })?;
    Ok(state)
}
