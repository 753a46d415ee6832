//! The run's configuration as written: YAML, `${VARIABLES}`, `--set key=value`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sparc_data::source::Patience;
use sparc_data::transform::{Augmentation, ResizeMode};
use sparc_data::{CaptionChoice, DataSpec, LastBatch, RegionSettings};
use sparc_models::ModelSize;
use sparc_models::networks::{CaptionerConfig, FusionConfig, SpecialTokens};
use sparc_models::vit::VitConfig;

use crate::error::Error;
use crate::fine_tuning::FineTuning;
use crate::objective::Objective;
use crate::optimizer::OptimizerConfig;

/// Everything a run is told. Every field is required unless it says otherwise; unknown keys are
/// errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of initial values, sample order, crops and captions.
    pub seed: u64,
    /// Folder of the run.
    pub output: PathBuf,
    /// What is minimised.
    pub objective: Objective,
    /// The network.
    pub model: ModelConfig,
    /// The checkpoint that the network begins as, and what of it is trained. Absent, it begins at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine_tuning: Option<FineTuning>,
    /// What it learns from.
    pub data: DataConfig,
    /// How it learns.
    pub optimizer: OptimizerConfig,
    /// How long, and what is written when.
    pub train: TrainConfig,
}

/// The network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Image tower.
    pub image: VitConfig,
    /// Text tower.
    pub text: TextTowerConfig,
    /// Width of the shared space.
    pub embed_dim: i64,
    /// h_v, the GELU layer before the image adapter.
    pub dense_layer: bool,
    /// Whether adapters have a bias.
    pub adapter_bias: bool,
    /// Whether BOS and EOS take part in pooling and token-level losses.
    pub special_tokens: SpecialTokens,
    /// Initial inverse temperature.
    pub logit_scale_init: f64,
    /// Largest inverse temperature.
    pub logit_scale_max: f64,
    /// Decoders beside the towers, which make a captioner of them; the text tower is causal then. Absent, there are
    /// two towers alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captioner: Option<CaptionerConfig>,
    /// A fusion encoder beside the towers, for objectives that match pairs. Absent, there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fusion: Option<FusionConfig>,
}

/// The text tower; its vocabulary is the tokenizer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTowerConfig {
    /// Width, depth and heads.
    pub size: ModelSize,
    /// Most tokens of a text.
    pub context_length: i64,
}

/// Where samples come from and what is done to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Training data: a pattern (`a::b` joins, `{000..011}` and `*` expand), one data set, or a list of
    /// data sets to be mixed by weight.
    pub train: DataSpec,
    /// How patient to be with servers and commands that give shards. Absent, `Patience::default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<Patience>,
    /// What becomes of the incomplete batch at the end of an epoch: it is dropped unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_batch: LastBatch,
    /// A Hugging Face `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Which of several captions.
    pub captions: CaptionChoice,
    /// How images become squares.
    pub resize: ResizeMode,
    /// Randomness.
    pub augmentation: Augmentation,
    /// Decodes JPEGs much larger than the network's input at 1/2, 1/4 or 1/8 of their size: faster, and
    /// other pixels. Off unless given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dct_scaling: bool,
    /// Annotated regions: how many of a sample, and how long their phrases. Absent, they are not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<RegionSettings>,
    /// The answers that a head chooses from: a JSON list, or one a line. Of a head for answers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<PathBuf>,
    /// The classes that a head tells, as evaluation reads them. Of a head for classes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<PathBuf>,
    /// How many encoded samples the shuffle draws from.
    pub shuffle_buffer: usize,
    /// Most memory of these samples in MiB; the shuffle draws from fewer where they are large. Absent,
    /// there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle_mib: Option<u64>,
    /// Decoding threads.
    pub workers: usize,
    /// Batches made in advance.
    pub prefetch: usize,
    /// Share of samples that may be skipped before the run stops.
    pub max_skipped_share: f64,
}

/// How long to train, and what is written when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Pairs in a step.
    pub batch_size: usize,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between checkpoints; the last step is always saved.
    pub checkpoint_every: u64,
    /// How many checkpoints are kept.
    pub keep_checkpoints: usize,
}

fn is_default(last_batch: &LastBatch) -> bool {
    *last_batch == LastBatch::default()
}

impl RunConfig {
    /// Reads a file and applies `key.path=value` settings over it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is no YAML, names an unset `${VARIABLE}`, or does not fit: the
    /// message has the key and the nearest valid one.
    pub fn read(path: &Path, settings: &[String]) -> Result<RunConfig, Error> {
        let text = std::fs::read_to_string(path).map_err(|reason| Error::io(path, reason))?;
        RunConfig::parse(&text, settings, &|name| std::env::var(name).ok())
            .map_err(|reason| Error::Config { path: path.into(), reason })
    }

    /// Reads a file's text; `variable` gives the values of `${VARIABLES}`.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::read`], without the file's name.
    pub fn parse(
        text: &str,
        settings: &[String],
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<RunConfig, String> {
        // First to YAML's own value, which refuses duplicate keys; then to JSON's, whose enums are
        // plain maps instead of YAML tags.
        let yaml: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let mut value = serde_json::to_value(yaml).map_err(|error| error.to_string())?;
        for setting in settings {
            apply(&mut value, setting)?;
        }
        interpolate(&mut value, variable)?;
        serde_path_to_error::deserialize(value)
            .map_err(|error| explain(&error.path().to_string(), &error.inner().to_string()))
    }

    /// The configuration as YAML.
    ///
    /// # Panics
    ///
    /// Never: every value of the type can be written.
    pub fn to_yaml(&self) -> String {
        let value = serde_json::to_value(self).expect("configurations are plain data");
        serde_yaml::to_string(&value).expect("JSON values are YAML values")
    }
}

/// Applies one `a.b.c=value`; the value is read as YAML.
pub(crate) fn apply(root: &mut Value, setting: &str) -> Result<(), String> {
    let malformed = || format!("--set {setting}: expected key.path=value");
    let (path, text) = setting.split_once('=').ok_or_else(malformed)?;
    let yaml: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| format!("--set {setting}: {error}"))?;
    let new = serde_json::to_value(yaml).map_err(|error| format!("--set {setting}: {error}"))?;
    let mut place = root;
    for key in path.split('.') {
        if key.is_empty() {
            return Err(malformed());
        }
        let Value::Object(map) = place else {
            return Err(format!("--set {setting}: what stands before `{key}` is not a section"));
        };
        place = map.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    *place = new;
    Ok(())
}

/// Replaces `${NAME}` in all strings by the environment's value.
fn interpolate(value: &mut Value, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), String> {
    match value {
        Value::String(text) => {
            while let Some(start) = text.find("${") {
                let length = text[start..].find('}').ok_or_else(|| format!("`{text}`: `${{` without `}}`"))?;
                let name = &text[start + 2..start + length];
                let new = variable(name).ok_or_else(|| {
                    format!("the environment variable {name} is not set; set it (export {name}=…) or give the key with --set")
                })?;
                text.replace_range(start..=start + length, &new);
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| interpolate(item, variable)),
        Value::Object(map) => map.values_mut().try_for_each(|item| interpolate(item, variable)),
        _ => Ok(()),
    }
}

/// Serde's message with the key's full path and the nearest valid name.
pub(crate) fn explain(path: &str, message: &str) -> String {
    let place = if path == "." { String::new() } else { format!("{path}: ") };
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let is_unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let nearest = quoted.get(1..).unwrap_or_default().iter().max_by(|a, b| {
        let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(quoted[0], candidate);
        likeness(a).total_cmp(&likeness(b))
    });
    match nearest {
        Some(nearest) if is_unknown => format!("{place}{message}; did you mean `{nearest}`?"),
        _ => format!("{place}{message}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const EXAMPLE: &str = include_str!("config_example.yaml");

    fn parse(text: &str, settings: &[String]) -> Result<RunConfig, String> {
        RunConfig::parse(text, settings, &|_| None)
    }

    #[test]
    fn the_example_parses_and_survives_a_round_trip() {
        let config = parse(EXAMPLE, &[]).unwrap();
        assert_eq!(config.objective.name(), "sparc");
        assert_eq!(parse(&config.to_yaml(), &[]).unwrap(), config);
    }

    #[test]
    fn a_typo_names_the_key_and_the_nearest_valid_one() {
        for (from, to, expected) in [
            ("learning_rate:", "learing_rate:", ["optimizer", "`learing_rate`", "did you mean `learning_rate`?"]),
            ("\nseed:", "\nsed:", ["", "`sed`", "did you mean `seed`?"]),
            ("  sparc:", "  sprac:", ["objective", "`sprac`", "did you mean `sparc`?"]),
            ("captions: random", "captions: randm", ["data.captions", "`randm`", "did you mean `random`?"]),
        ] {
            let error = parse(&EXAMPLE.replace(from, to), &[]).unwrap_err();
            assert!(expected.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn wrong_types_and_missing_keys_are_named() {
        let error = parse(&EXAMPLE.replace("batch_size: 4", "batch_size: four"), &[]).unwrap_err();
        assert!(error.contains("train.batch_size"), "{error}");
        let error = parse(&EXAMPLE.replace("  batch_size: 4\n", ""), &[]).unwrap_err();
        assert!(error.contains("train") && error.contains("`batch_size`"), "{error}");
        let error = parse(&EXAMPLE.replace("  steps: 6\n", "  steps: 6\n  steps: 7\n"), &[]).unwrap_err();
        assert!(error.contains("duplicate"), "{error}");
    }

    #[test]
    fn settings_win_and_are_checked_like_keys() {
        let set = |setting: &str| parse(EXAMPLE, &[setting.into()]);
        assert_eq!(set("train.steps=77").unwrap().train.steps, 77);
        assert_eq!(set("optimizer.clip_grad_norm=null").unwrap().optimizer.clip_grad_norm, None);
        let Objective::Sparc(sparc) = set("objective.sparc.threshold={fixed: 0.25}").unwrap().objective else {
            panic!()
        };
        assert_eq!(sparc.threshold, sparc_core::objectives::sparc::Threshold::Fixed(0.25));
        assert_eq!(set("objective={clip: {}}").unwrap().objective.name(), "clip");
        assert!(set("train.stesp=7").unwrap_err().contains("did you mean `steps`?"));
        assert!(set("train.steps").unwrap_err().contains("key.path=value"));
        assert!(set("seed.x=1").unwrap_err().contains("not a section"));
    }

    #[test]
    fn optional_keys_of_the_data_are_absent_unless_given() {
        let config = parse(EXAMPLE, &[]).unwrap();
        assert_eq!((config.data.regions, config.data.dct_scaling, config.data.shuffle_mib), (None, false, None));
        assert_eq!(config.data.augmentation.random_augment, None);
        assert_eq!((config.data.remote, config.data.last_batch), (None, LastBatch::Drop));
        for key in ["regions", "dct_scaling", "shuffle_mib", "random_augment", "remote", "last_batch"] {
            assert!(!config.to_yaml().contains(key), "old checkpoints have no {key}");
        }
        let settings = [
            "data.regions={max: 4, context_length: 16}",
            "data.dct_scaling=true",
            "data.shuffle_mib=512",
            "data.augmentation.random_augment={operations: 2, magnitude: 7, probability: 0.5}",
            "data.resize=pad",
            "data.captions=all",
            "data.last_batch=fill",
            "data.remote={retries: 3, timeout_s: 5}",
            "data.train=[{data: 'a.tar::b.tar', weight: 2}, {data: c.csv, weight: 0.5, resample: true, columns: {image: url, text: caption}}]",
        ];
        let config = parse(EXAMPLE, &settings.map(String::from)).unwrap();
        assert_eq!(
            config.data.regions,
            Some(RegionSettings { max: 4, context_length: 16, caption_from_phrases: false })
        );
        assert_eq!(config.data.augmentation.random_augment.unwrap().magnitude, 7.0);
        assert_eq!((config.data.resize, config.data.captions), (ResizeMode::Pad, CaptionChoice::All));
        assert_eq!(config.data.remote, Some(Patience { retries: 3, timeout_s: 5.0 }));
        assert_eq!(config.data.last_batch, LastBatch::Fill);
        let DataSpec::Mixture(sets) = &config.data.train else { panic!("{:?}", config.data.train) };
        assert!(sets.len() == 2 && sets[1].resample && sets[0].weight == Some(2.0));
        assert_eq!(parse(&config.to_yaml(), &[]).unwrap(), config);
        let error = parse(EXAMPLE, &["data.regions={max: 4, context: 16}".into()]).unwrap_err();
        assert!(error.contains("data.regions") && error.contains("did you mean `context_length`?"), "{error}");
        let error = parse(EXAMPLE, &["data.train=[{data: a.tar, wieght: 1}]".into()]).unwrap_err();
        assert!(error.contains("data.train[0]") && error.contains("did you mean `weight`?"), "{error}");
    }

    #[test]
    fn variables_are_replaced_or_named() {
        let mut value = serde_json::json!({"a": ["x/${ONE}/${TWO}.tar"]});
        interpolate(&mut value, &|name| Some(name.to_lowercase())).unwrap();
        assert_eq!(value["a"][0], "x/one/two.tar");
        let mut value = serde_json::json!("${SPARC_ABSENT}/x");
        assert!(interpolate(&mut value, &|_| None).unwrap_err().contains("SPARC_ABSENT is not set"));
    }
}
