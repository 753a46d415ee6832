//! `sparc eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use sparc_core::{PairScore, PatchPath};
use sparc_data::EvalSet;
use sparc_data::shards::expand_shards;
use sparc_data::skips::SkipCounts;
use sparc_data::transform::ResizeMode;
use sparc_eval::report::{MetricRow, text_table};
use sparc_eval::tasks::{
    ClassSet, EvalRequest, EvalResults, Progress, RegionArm, RegionsRequest, SegmentationClasses, evaluate,
};
use sparc_train::evaluation::Trained;
use sparc_train::progress::bar;

#[derive(Debug, Args)]
pub struct EvalArguments {
    /// A run (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// Shards to evaluate on: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// What to evaluate (repeatable, or separated by commas)
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    task: Vec<Task>,
    /// Also write the results as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
    /// Class names for classification [default: classes.json beside the shards]
    #[arg(long)]
    classes: Option<PathBuf>,
    /// Class names for segmentation [default: seg_classes.json beside the shards]
    #[arg(long)]
    seg_classes: Option<PathBuf>,
    /// Class names for the recognition of regions [default: the distinct phrases of the set]
    #[arg(long)]
    region_classes: Option<PathBuf>,
    /// Which patch features segmentation, grounding and regions read
    #[arg(long, value_enum, default_value_t = Patches::Global)]
    patches: Patches,
    /// How images become squares [default: as in the run's training]
    #[arg(long, value_enum)]
    resize: Option<Resize>,
}

/// A kind of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Image-text retrieval, R@1/5/10 both ways
    Retrieval,
    /// Zero-shot classification
    Classification,
    /// Zero-shot segmentation
    Segmentation,
    /// Phrase grounding
    Grounding,
    /// Recognition, retrieval, choice and grounding of regions
    Regions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Patches {
    /// Through the layers of the pooled embedding, as SPARC's segmentation does
    Global,
    /// As the fine-grained loss sees them
    Local,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Resize {
    /// The whole image, its aspect ratio changed
    Squash,
    /// The short side to size, then the centre
    CenterCrop,
    /// The long side to size, centred on black
    Pad,
}

pub fn eval(arguments: &EvalArguments) -> anyhow::Result<()> {
    let trained = Trained::load(&arguments.checkpoint)?;
    let shards = expand_shards(&arguments.data)?;
    let mut request =
        request(&arguments.task, &shards, arguments.classes.as_deref(), arguments.seg_classes.as_deref())?;
    if let (Some(path), Some(regions)) = (&arguments.region_classes, &mut request.regions) {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        regions.classes = Some(ClassSet::from_json(&text).with_context(|| path.display().to_string())?.names);
    }
    request.patch_path = match arguments.patches {
        Patches::Global => PatchPath::Global,
        Patches::Local => PatchPath::Local,
    };
    let resize = match arguments.resize {
        None => trained.plan.config.data.resize,
        Some(Resize::Squash) => ResizeMode::Squash,
        Some(Resize::CenterCrop) => ResizeMode::CenterCrop,
        Some(Resize::Pad) => ResizeMode::Pad,
    };
    let (results, skips) = run(&trained, shards, resize, &request)?;
    let rows: Vec<MetricRow> =
        results.flatten().into_iter().map(|(key, value)| MetricRow::new(key, vec![Some(value)])).collect();
    let name = format!("{} step {}", trained.plan.config.objective.name(), trained.step);
    print!("{}", text_table(&[name], &rows));
    if let Some(path) = &arguments.json {
        let document = serde_json::json!({
            "checkpoint": trained.checkpoint,
            "objective": trained.plan.config.objective.name(),
            "step": trained.step,
            "data": arguments.data,
            "resize": resize,
            "skipped": skips.iter().map(|(reason, count)| (reason.to_string(), count.into())).collect::<serde_json::Map<_, _>>(),
            "metrics": results.flatten().into_iter().map(|(key, value)| (key, value.into())).collect::<serde_json::Map<_, _>>(),
            "results": results,
        });
        let text = serde_json::to_string_pretty(&document)?;
        sparc_data::shard_writer::write_file_atomically(path, text.as_bytes())?;
    }
    Ok(())
}

/// The request for these tasks, with class names from the given files or from beside the shards.
pub fn request(
    tasks: &[Task],
    shards: &[PathBuf],
    classes: Option<&Path>,
    seg_classes: Option<&Path>,
) -> anyhow::Result<EvalRequest> {
    let mut request = EvalRequest::new(tch::Device::Cpu);
    for task in tasks {
        match task {
            Task::Retrieval => request.retrieval = true,
            Task::Grounding => request.grounding = true,
            Task::Regions => {
                request.regions = Some(RegionsRequest { arms: RegionArm::ALL.to_vec(), classes: None });
            }
            Task::Classification => {
                let (path, text) = class_file(shards, classes, "classes.json", "--classes")?;
                let parsed = ClassSet::from_json(&text);
                request.classification = Some(parsed.with_context(|| path.display().to_string())?);
            }
            Task::Segmentation => {
                let (path, text) = class_file(shards, seg_classes, "seg_classes.json", "--seg-classes")?;
                let parsed = SegmentationClasses::from_json(&text);
                request.segmentation = Some(parsed.with_context(|| path.display().to_string())?);
            }
        }
    }
    Ok(request)
}

fn class_file(shards: &[PathBuf], given: Option<&Path>, name: &str, flag: &str) -> anyhow::Result<(PathBuf, String)> {
    let path = match (given, shards.first()) {
        (Some(path), _) => path.to_owned(),
        (None, Some(shard)) => shard.with_file_name(name),
        (None, None) => bail!("no shards"),
    };
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read the class names {} (give a file with {flag})", path.display()))?;
    Ok((path, text))
}

/// Evaluates with a progress bar, and says what was skipped.
pub fn run(
    trained: &Trained,
    shards: Vec<PathBuf>,
    resize: ResizeMode,
    request: &EvalRequest,
) -> anyhow::Result<(EvalResults, SkipCounts)> {
    // Pairs are compared as the run's objective compared them.
    let objective = &trained.plan.config.objective;
    let request = &EvalRequest { pair_score: objective.pair_score(), ..request.clone() };
    if request.pair_score == PairScore::Pooled && !objective.trains_pooled() {
        tracing::warn!(
            "no term of {} contrasts pooled embeddings, which retrieval and classification compare",
            objective.name()
        );
    }
    let bar = bar(0, "{spinner} {msg}");
    let mut set = EvalSet::new(shards, trained.plan.config.model.image.image_size as u32, resize);
    let results = evaluate(&trained.network, &trained.tokenizer, set.by_ref(), request, &mut |progress| {
        bar.set_message(match progress {
            Progress::Classes { n_done, n_classes } => format!("{n_done}/{n_classes} class names"),
            Progress::Images { n_done } => format!("{n_done} images"),
            Progress::Ranking => "ranking".into(),
        });
    });
    bar.finish_and_clear();
    if !set.skips().is_empty() {
        tracing::warn!("{}", set.skips());
    }
    Ok((results?, set.skips().clone()))
}
