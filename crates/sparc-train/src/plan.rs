//! From configuration to plan: every cross-field check in one place, before anything is built.

use serde::{Deserialize, Serialize};
use sparc_core::objectives::albef::MaskingVocabulary;
use sparc_core::objectives::coca::HeadTask;
use sparc_data::source::Source;
use sparc_data::{Columns, DataSet, DataSpec, LoaderConfig, Preparation, Share, TargetSpec, TextTokenizer, Tokenizers};
use sparc_models::heads::TaskHeadConfig;
use sparc_models::networks::{AlbefConfig, CocaConfig, DualEncoderConfig, Network, NetworkConfig};
use sparc_models::text::TextConfig;
use tch::{Device, Kind};

use crate::captioners;
use crate::choices::{Choices, ResolvedHead};
use crate::config::RunConfig;
use crate::error::Error;
use crate::fine_tuning;
use crate::matching;

/// A configuration with everything that follows from it. Printed and saved before step 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunPlan {
    /// As written.
    pub config: RunConfig,
    /// What was found or derived.
    pub resolved: Resolved,
}

/// What a configuration leads to on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// Training shards and tables in their canonical order, those of all data sets one after the other.
    pub shards: Vec<Source>,
    /// How the data sets are read; absent for one that takes each of its shards once an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sets: Option<Vec<ResolvedSet>>,
    /// Number of token ids.
    pub vocab_size: i64,
    /// Hash of the tokenizer's file.
    pub tokenizer_fingerprint: String,
    /// The ids that masked words need, of an objective that masks any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking: Option<MaskingVocabulary>,
    /// What the head chooses from, of an objective with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<ResolvedHead>,
    /// Patches of an image.
    pub n_patches: i64,
    /// Image-text pairs that the run will see.
    pub samples_to_see: u64,
    /// Where tensors are computed, and in which kind, with the reason.
    pub compute: String,
    /// LibTorch's threads inside one operation. Results are bit for bit the same only at the same
    /// number.
    pub threads: i32,
}

/// One data set of several, or one that resamples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedSet {
    /// How many of the shards are its own.
    pub shards: usize,
    /// Its weight.
    pub weight: f64,
    /// Whether an epoch draws its shards with replacement.
    pub resample: bool,
}

impl RunPlan {
    /// Checks the configuration, finds the shards and reads the tokenizer.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit, with its key.
    pub fn resolve(config: RunConfig) -> Result<(RunPlan, TextTokenizer), Error> {
        check(&config).map_err(Error::Plan)?;
        let data = config.data.train.resolve()?;
        let sets = (data.len() > 1 || data.iter().any(|set| set.resample)).then(|| {
            let resolved = |set: &DataSet| {
                let DataSet { sources, weight, resample, columns: _ } = set;
                ResolvedSet { shards: sources.len(), weight: *weight, resample: *resample }
            };
            data.iter().map(resolved).collect()
        });
        let tokenizer = TextTokenizer::from_file(&config.data.tokenizer, config.model.text.context_length as usize)?;
        Tokenizers::new(tokenizer.clone(), config.data.regions)
            .map_err(|reason| Error::Plan(format!("data.regions.context_length: {reason}")))?;
        let masking = config.objective.is_matcher().then(|| tokenizer.masking()).transpose().map_err(|reason| {
            let (objective, file) = (config.objective.name(), config.data.tokenizer.display());
            Error::Plan(format!(
                "data.tokenizer: objective {objective} masks words, and {file} cannot serve it: {reason}"
            ))
        })?;
        let resolved = Resolved {
            shards: data.into_iter().flat_map(|set| set.sources).collect(),
            sets,
            vocab_size: tokenizer.vocab_size() as i64,
            tokenizer_fingerprint: tokenizer.fingerprint().to_owned(),
            masking,
            head: Choices::read(&config)?.map(|choices| choices.resolved()),
            n_patches: config.model.image.grid().len(),
            samples_to_see: config.train.steps * config.train.batch_size as u64,
            compute: "cpu, f32: no accelerator is used by this build".into(),
            threads: tch::get_num_threads(),
        };
        let plan = RunPlan { config, resolved };
        plan.network().validate().map_err(|reason| Error::Plan(format!("model: {reason}")))?;
        Ok((plan, tokenizer))
    }

    /// Where tensors live.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The network to build.
    pub fn network(&self) -> NetworkConfig {
        let model = &self.config.model;
        let text = TextConfig {
            size: model.text.size,
            context_length: model.text.context_length,
            vocab_size: self.resolved.vocab_size,
        };
        match (model.captioner, model.fusion) {
            (None, None) => NetworkConfig::DualEncoder(DualEncoderConfig {
                image: model.image,
                text,
                embed_dim: model.embed_dim,
                dense_layer: model.dense_layer,
                adapter_bias: model.adapter_bias,
                special_tokens: model.special_tokens,
                logit_scale_init: model.logit_scale_init,
                logit_scale_max: model.logit_scale_max,
                heads: self.config.objective.heads(model.logit_scale_init),
            }),
            (None, Some(fusion)) => {
                let (albef, visual_tokens) = matching::settings(&self.config.objective);
                NetworkConfig::Albef(AlbefConfig {
                    image: model.image,
                    text,
                    embed_dim: model.embed_dim,
                    adapter_bias: model.adapter_bias,
                    special_tokens: model.special_tokens,
                    logit_scale_init: model.logit_scale_init,
                    logit_scale_max: model.logit_scale_max,
                    fusion,
                    momentum: albef.momentum,
                    queue_size: albef.queue_size,
                    masking: self.resolved.masking.expect("a plan of an objective that masks words"),
                    visual_tokens,
                })
            }
            (Some(captioner), _) => NetworkConfig::Coca(CocaConfig {
                image: model.image,
                text,
                embed_dim: model.embed_dim,
                adapter_bias: model.adapter_bias,
                special_tokens: model.special_tokens,
                logit_scale_init: model.logit_scale_init,
                logit_scale_max: model.logit_scale_max,
                captioner: captioners::built(captioner, &self.config.objective),
                head: self.head(),
            }),
        }
    }

    /// The head to build.
    fn head(&self) -> Option<TaskHeadConfig> {
        let (head, resolved) = (fine_tuning::head(&self.config.objective)?, self.resolved.head.as_ref()?);
        let outputs = resolved.outputs as i64;
        Some(match head.task {
            HeadTask::Vqa => TaskHeadConfig::Answers(outputs),
            HeadTask::Classification => TaskHeadConfig::Classes(outputs),
        })
    }

    /// The loader to start; `targets` is what a head learns from.
    pub fn loader(&self, targets: Option<TargetSpec>) -> LoaderConfig {
        let RunConfig { seed, data, train, model, .. } = &self.config;
        LoaderConfig {
            data: self.data_sets(),
            patience: data.remote.unwrap_or_default(),
            batch_size: train.batch_size,
            share: Share::WHOLE,
            last_batch: data.last_batch,
            shuffle_buffer: data.shuffle_buffer,
            shuffle_bytes: data.shuffle_mib.map(|mib| mib.saturating_mul(1 << 20)),
            workers: data.workers,
            prefetch: data.prefetch,
            seed: *seed,
            max_skipped_share: data.max_skipped_share,
            preparation: Preparation {
                image_size: model.image.image_size as u32,
                resize: data.resize,
                augmentation: data.augmentation,
                dct_scaling: data.dct_scaling,
                captions: data.captions,
                regions: data.regions,
                targets,
                seed: *seed,
            },
        }
    }

    /// The data sets with their shards.
    fn data_sets(&self) -> Vec<DataSet> {
        let mut columns: Vec<Option<Columns>> = match &self.config.data.train {
            DataSpec::Pattern(_) => Vec::new(),
            DataSpec::Set(set) => vec![set.columns.clone()],
            DataSpec::Mixture(sets) => sets.iter().map(|set| set.columns.clone()).collect(),
        };
        let mut shards = self.resolved.shards.iter().cloned();
        let all = ResolvedSet { shards: self.resolved.shards.len(), weight: 1.0, resample: false };
        let sets = self.resolved.sets.clone().unwrap_or_else(|| vec![all]);
        columns.resize(sets.len(), None);
        sets.into_iter()
            .zip(columns)
            .map(|(set, columns)| DataSet {
                sources: shards.by_ref().take(set.shards).collect(),
                weight: set.weight,
                resample: set.resample,
                columns: columns.unwrap_or_default(),
            })
            .collect()
    }

    /// The plan as YAML.
    ///
    /// # Panics
    ///
    /// Never: every value of the type can be written.
    pub fn to_yaml(&self) -> String {
        let value = serde_json::to_value(self).expect("plans are plain data");
        serde_yaml::to_string(&value).expect("JSON values are YAML values")
    }

    /// How many numbers the network learns, and what it keeps beside them: comments of YAML, a line each.
    pub fn sizes(&self) -> String {
        let mut network = Network::blank(self.network(), Kind::Float, self.device());
        fine_tuning::freeze(&mut network, &self.config);
        let count = |is_trained: bool| -> usize {
            let counted = network.parameters().iter().filter(|(_, tensor)| tensor.requires_grad() == is_trained);
            counted.map(|(_, tensor)| tensor.numel()).sum()
        };
        let mut trained = format!("# trained: {} parameters\n", count(true));
        if count(false) > 0 {
            trained += &format!("# frozen: {} parameters\n", count(false));
        }
        let untrained = network
            .untrained()
            .into_iter()
            .map(|(name, count)| format!("# not trained, under `{name}` in checkpoints: {count} numbers\n"));
        std::iter::once(trained).chain(untrained).collect()
    }

    /// What differs from `other` in a way that would change the course of training: a run may only
    /// be continued with none of these.
    pub fn differences(&self, other: &RunPlan) -> Vec<String> {
        let flat = |plan: &RunPlan| {
            let mut keys = Vec::new();
            flatten("", &serde_json::to_value(plan).expect("plans are plain data"), &mut keys);
            keys.into_iter().collect::<std::collections::BTreeMap<_, _>>()
        };
        let (mine, theirs) = (flat(self), flat(other));
        mine.keys()
            .chain(theirs.keys())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .filter(|key| !HARMLESS.iter().any(|harmless| key.starts_with(harmless)))
            .filter(|key| mine.get(*key) != theirs.get(*key))
            .map(|key| {
                let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".into());
                format!("{key}: {} now, {} in the checkpoint", show(mine.get(key)), show(theirs.get(key)))
            })
            .collect()
    }
}

/// Keys that may change between the parts of a run: they move no sample and, but for rounding, no
/// number.
const HARMLESS: [&str; 15] = [
    "config.output",
    "config.data.workers",
    "config.data.prefetch",
    "config.data.max_skipped_share",
    "config.data.tokenizer",
    "config.data.train",
    // What is in these files is in `resolved.head`.
    "config.data.answers",
    "config.data.classes",
    "config.data.remote",
    // Read when a run begins, not to resume it.
    "config.fine_tuning.from",
    "config.train.log_every",
    "config.train.checkpoint_every",
    "config.train.keep_checkpoints",
    // These may move the last bits; resuming says so.
    "resolved.compute",
    "resolved.threads",
];

fn flatten(path: &str, value: &serde_json::Value, into: &mut Vec<(String, String)>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, into);
            }
        }
        // Shards may lie elsewhere; which and in which order is what counts.
        serde_json::Value::String(text) if path.starts_with("resolved.shards") => {
            let name = std::path::Path::new(text).file_name().map(|name| name.to_string_lossy().into_owned());
            into.push((path.to_owned(), name.unwrap_or_default()));
        }
        serde_json::Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&format!("{path}.{index:05}"), value, into);
            }
        }
        other => into.push((path.to_owned(), other.to_string())),
    }
}

fn check(config: &RunConfig) -> Result<(), String> {
    let RunConfig { data, train, model, .. } = config;
    for (name, value) in [
        ("train.steps", train.steps),
        ("train.batch_size", train.batch_size as u64),
        ("train.log_every", train.log_every),
        ("train.checkpoint_every", train.checkpoint_every),
        ("train.keep_checkpoints", train.keep_checkpoints as u64),
        ("data.workers", data.workers as u64),
        ("model.text.context_length", model.text.context_length.max(0) as u64),
    ] {
        if value == 0 {
            return Err(format!("{name} must be at least 1"));
        }
    }
    if train.batch_size < 2 {
        return Err("train.batch_size must be at least 2: a contrast needs a negative".into());
    }
    if !(0.0..=1.0).contains(&data.max_skipped_share) {
        return Err(format!("data.max_skipped_share must lie in [0, 1], got {}", data.max_skipped_share));
    }
    let min_crop_area = data.augmentation.min_crop_area;
    if !(min_crop_area > 0.0 && min_crop_area <= 1.0) {
        return Err(format!("data.augmentation.min_crop_area must lie in (0, 1], got {min_crop_area}"));
    }
    if data.regions.is_some_and(|regions| regions.max == 0) {
        return Err("data.regions.max must be at least 1; leave data.regions out to read no regions".into());
    }
    if data.regions.is_none() && config.objective.learns_from_regions() {
        return Err(format!(
            "objective {} learns from regions: set data.regions, such as {{max: 4, context_length: 16}}",
            config.objective.name()
        ));
    }
    if let Some(random_augment) = &data.augmentation.random_augment {
        random_augment.validate().map_err(|reason| format!("data.augmentation.random_augment.{reason}"))?;
    }
    if let Some(remote) = &data.remote {
        remote.validate().map_err(|reason| format!("data.remote.{reason}"))?;
    }
    model.image.validate().map_err(|reason| format!("model.image: {reason}"))?;
    config.optimizer.validate(train.steps)?;
    config.objective.validate().map_err(|reason| format!("objective.{reason}"))?;
    captioners::check(config)?;
    fine_tuning::check(config)?;
    matching::check(config)
}
