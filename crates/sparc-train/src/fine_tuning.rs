//! Fine-tuning of captioners: a network that begins as another run's, with a head that is new, and what of it is
//! trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sparc_core::objectives::coca::{HeadConfig, HeadTask};
use sparc_data::CaptionChoice;
use sparc_models::networks::{Coca, Network};
use tch::Tensor;

use crate::checkpoint;
use crate::config::RunConfig;
use crate::error::Error;
use crate::objective::Objective;
use crate::plan::RunPlan;

/// Where a captioner begins, and what of it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuning {
    /// A run, whose newest checkpoint is taken, or a checkpoint. It is read when the run begins, and not to resume it.
    pub from: PathBuf,
    /// What is trained.
    pub trained: TrainedPart,
}

/// What of a network is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainedPart {
    /// The head alone. All else stays as it is: it has no gradient, no weight decay and no optimizer state.
    Head,
    /// Everything.
    All {
        /// What the learning rate is multiplied by for all but the head, in (0, 1].
        body_rate: f64,
    },
}

/// The head of a configuration, if it has one.
pub fn head(objective: &Objective) -> Option<HeadConfig> {
    match objective {
        Objective::Coca(config) => config.head,
        _ => None,
    }
}

/// Whether head, data and what is trained fit together.
///
/// # Errors
///
/// A sentence that names the key.
pub fn check(config: &RunConfig) -> Result<(), String> {
    let (head, data) = (head(&config.objective), &config.data);
    let task = head.map(|head| head.task);
    for (key, is_given, of_task, names) in [
        ("data.answers", data.answers.is_some(), HeadTask::Vqa, "a list of answers"),
        ("data.classes", data.classes.is_some(), HeadTask::Classification, "a list of class names"),
    ] {
        match (is_given, task == Some(of_task)) {
            (false, true) => {
                return Err(format!("{key}: the head of objective.coca.head needs {names}; give its file"));
            }
            (true, false) => {
                return Err(format!(
                    "{key}: objective.{} has no head for it; leave the key out",
                    config.objective.name()
                ));
            }
            _ => {}
        }
    }
    if head.is_some() && data.captions == CaptionChoice::All {
        return Err("data.captions: a head reads no captions; set it to first".into());
    }
    if head.is_some() && data.regions.is_some() {
        return Err("data.regions: a head reads no regions; leave the key out".into());
    }
    let Some(fine_tuning) = &config.fine_tuning else { return Ok(()) };
    let Objective::Coca(coca) = &config.objective else {
        return Err(format!(
            "fine_tuning: objective {} cannot be fine-tuned from a checkpoint; it is for captioners, with objective coca",
            config.objective.name()
        ));
    };
    match fine_tuning.trained {
        TrainedPart::Head if head.is_none() => {
            Err("fine_tuning.trained is head, and there is none: give objective.coca.head, or set it to all".into())
        }
        TrainedPart::Head if coca.lambda_caption > 0.0 => {
            Err("objective.coca.lambda_caption must be 0 with fine_tuning.trained head: the captioner does not learn"
                .into())
        }
        TrainedPart::All { body_rate } if !(body_rate > 0.0 && body_rate <= 1.0) => {
            Err(format!("fine_tuning.trained.all.body_rate must lie in (0, 1], got {body_rate}"))
        }
        TrainedPart::Head | TrainedPart::All { .. } => Ok(()),
    }
}

/// Freezes what is not to be trained. Before the optimizer is made.
pub fn freeze(network: &mut Network, config: &RunConfig) {
    let trained = config.fine_tuning.as_ref().map(|fine_tuning| fine_tuning.trained);
    if let (Network::Coca(network), Some(TrainedPart::Head)) = (network, trained) {
        network.freeze_all_but_head();
    }
}

/// What the learning rate of a parameter is multiplied by.
pub fn rate_of(network: &Network, config: &RunConfig, name: &str) -> f64 {
    match (network, config.fine_tuning.as_ref().map(|fine_tuning| fine_tuning.trained)) {
        (Network::Coca(network), Some(TrainedPart::All { body_rate })) if !network.is_of_head(name) => body_rate,
        _ => 1.0,
    }
}

/// What a network has got from a checkpoint: names of tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// Steps that it was trained for.
    pub step: u64,
    /// Those that were loaded.
    pub loaded: Vec<String>,
    /// Those of the head, which begins anew.
    pub new: Vec<String>,
    /// Those of the checkpoint that the network does not have.
    pub left_out: Vec<String>,
}

impl std::fmt::Display for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Loaded { checkpoint, step, loaded, new, left_out } = self;
        let n = loaded.len() + new.len();
        write!(f, "loaded {} of {n} tensors from {} (step {step})", loaded.len(), checkpoint.display())?;
        for (what, names) in [("new", new), ("left out, of the checkpoint", left_out)] {
            if let Some(first) = names.first() {
                write!(f, "; {what}: {} ({first}{})", names.len(), if names.len() > 1 { ", …" } else { "" })?;
            }
        }
        Ok(())
    }
}

/// Loads a checkpoint of another captioner into a new one. A head is loaded if it chooses from the same list, and begins
/// anew if not.
///
/// # Errors
///
/// A checkpoint that cannot be read, of no captioner, or with another tokenizer; every key of `model` that differs, and every
/// tensor that is missing there, or of another shape or kind.
pub fn load(network: &mut Network, from: &Path, plan: &RunPlan) -> Result<Loaded, Error> {
    let checkpoint = checkpoint::find(from)?;
    let state = checkpoint::load_state(&checkpoint)?;
    let (theirs, ours) = (&state.plan.resolved, &plan.resolved);
    let mismatch = |differences| Error::Mismatch { path: checkpoint.clone(), differences };
    if !state.plan.config.objective.is_captioner() {
        let objective = state.plan.config.objective.name();
        return Err(mismatch(vec![format!("it was trained with {objective}, which is no captioner")]));
    }
    if theirs.tokenizer_fingerprint != ours.tokenizer_fingerprint {
        return Err(mismatch(vec![format!(
            "tokenizer: its fingerprint is {}, that of data.tokenizer is {}; give the tokenizer.json of that run",
            theirs.tokenizer_fingerprint, ours.tokenizer_fingerprint
        )]));
    }
    let source = checkpoint::load_weights(&checkpoint)?;
    let Network::Coca(captioner) = &*network else { unreachable!("the plan fine-tunes captioners alone") };
    let task = |plan: &RunPlan| head(&plan.config.objective).map(|head| head.task);
    let keeps_head = theirs.head == ours.head && task(&state.plan) == task(plan);
    let mut differences = differences_of_models(plan, &state.plan);
    let (merged, loaded) = match merge(captioner, source, keeps_head) {
        Ok(merged) if differences.is_empty() => merged,
        Ok(_) => return Err(mismatch(differences)),
        Err(of_tensors) => {
            differences.extend(of_tensors);
            return Err(mismatch(differences));
        }
    };
    network.load_state(&merged).map_err(mismatch)?;
    Ok(Loaded { checkpoint, step: state.step, ..loaded })
}

/// Keys in which a network would read the other's parameters otherwise, some of which leave no trace in their shapes. What
/// only the other has, SyCoCa's image decoder, may go, and the temperature is a parameter.
fn differences_of_models(plan: &RunPlan, theirs: &RunPlan) -> Vec<String> {
    let may_differ = ["captioner.image_decoder", "logit_scale_"].map(|key| format!("config.model.{key}"));
    let differences = plan.differences(theirs).into_iter();
    let of_model = differences.filter(|difference| difference.starts_with("config.model."));
    of_model.filter(|difference| !may_differ.iter().any(|key| difference.starts_with(key))).collect()
}

/// The network's state with the values of a checkpoint.
fn merge(
    network: &Coca,
    mut source: BTreeMap<String, Tensor>,
    keeps_head: bool,
) -> Result<(BTreeMap<String, Tensor>, Loaded), Vec<String>> {
    let (mut merged, mut report, mut differences) = (BTreeMap::new(), Loaded::default(), Vec::new());
    for (name, tensor) in network.parameters().iter() {
        let theirs = source.remove(name);
        if network.is_of_head(name) && !keeps_head {
            report.new.push(name.to_owned());
            merged.insert(name.to_owned(), tensor.copy());
            continue;
        }
        let alone = |tensor: &Tensor| BTreeMap::from([(name.to_owned(), tensor.shallow_clone())]);
        let found = theirs.as_ref().map(alone).unwrap_or_default();
        let different = sparc_models::differences(&alone(tensor), &found);
        if let (Some(theirs), []) = (theirs, &different[..]) {
            merged.insert(name.to_owned(), theirs);
            report.loaded.push(name.to_owned());
        }
        differences.extend(different);
    }
    report.left_out = source.into_keys().collect();
    if differences.is_empty() { Ok((merged, report)) } else { Err(differences) }
}
