//! `sparc eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};
use sparc_core::{EvalSample, PairScore, PatchPath};
use sparc_data::EvalSet;
use sparc_data::shapes::{Judge, Tally};
use sparc_data::shards::expand_shards;
use sparc_data::skips::SkipCounts;
use sparc_data::transform::ResizeMode;
use sparc_eval::report::{metric_rows, text_table};
use sparc_eval::tasks::{
    ClassSet, EvalRequest, EvalResults, Heatmaps, ImageCaption, Progress, RegionArm, RegionsRequest,
    SegmentationClasses, VqaRequest, evaluate,
};
use sparc_train::CaptionerLosses;
use sparc_train::answering::{AnswerSource, Answerer, Classifier, Equipped};
use sparc_train::captioning::{CaptionSettings, Captioner};
use sparc_train::choices::HeadFile;
use sparc_train::evaluation::Trained;
use sparc_train::progress::bar;

use super::heatmaps::parse_heatmaps;

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
    /// How captions and generated answers are made, as `sparc caption --set` (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    caption: Vec<String>,
    /// Where answers to questions come from [default: the head, of a run that has one]
    #[arg(long, value_enum)]
    answers: Option<Answers>,
    /// Have the matching head order the first K candidates of retrieval anew
    #[arg(long, value_name = "K")]
    rerank: Option<usize>,
    /// What grounding takes for heatmaps: similarity, or grad-cam or grad-cam:LAYER of a matching head's fusion encoder
    #[arg(long, value_parser = parse_heatmaps, default_value = "similarity")]
    heatmaps: Heatmaps,
}

/// A kind of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Image-text retrieval, R@1/5/10 both ways
    Retrieval,
    /// Classification: zero-shot, or by the head of a run that was fine-tuned to tell classes
    Classification,
    /// Zero-shot segmentation
    Segmentation,
    /// Phrase grounding
    Grounding,
    /// Recognition, retrieval, choice and grounding of regions
    Regions,
    /// True captions among false ones, statements, pairs of images with pairs of captions
    Compositional,
    /// Captions of a captioner against those of people: BLEU, ROUGE-L, CIDEr
    Captioning,
    /// Questions about images, answered by a captioner
    Vqa,
    /// A captioner's losses: with and without its mask, with the image's text and with another's
    Losses,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Patches {
    /// Through the layers of the pooled embedding, as SPARC's segmentation does
    Global,
    /// As the fine-grained loss sees them
    Local,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Answers {
    /// The head chooses from the list that it was trained with
    Closed,
    /// The decoder goes on from the question
    Generated,
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
    request.rerank = arguments.rerank;
    request.heatmaps = arguments.heatmaps;
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
    ensure!(
        arguments.answers.is_none() || arguments.task.contains(&Task::Vqa),
        "--answers is of --task vqa, which is not asked for"
    );
    let texts = Texts {
        settings: &arguments.caption,
        answers: arguments.answers.map(|answers| match answers {
            Answers::Closed => AnswerSource::Closed,
            Answers::Generated => AnswerSource::Generated,
        }),
    };
    let judge = shards.first().and_then(|shard| Judge::of(shard.parent()?));
    let losses = if arguments.task.contains(&Task::Losses) { losses(&trained, &shards, resize)? } else { Vec::new() };
    let (results, skips) = if arguments.task.iter().all(|task| *task == Task::Losses) {
        (None, SkipCounts::default())
    } else {
        let (results, skips) = run(&trained, shards, resize, &request, texts)?;
        (Some(results), skips)
    };
    let mut metrics = results.as_ref().map(EvalResults::flatten).unwrap_or_default();
    metrics.extend(losses.into_iter().map(|(key, value)| (key.to_owned(), value)));
    if let (Some(captioning), Some(judge)) = (results.as_ref().and_then(|results| results.captioning.as_ref()), judge) {
        metrics.extend(judged(&judge, &captioning.captions).map(|(key, value)| (key.to_owned(), value)));
    }
    let rows = metric_rows(std::slice::from_ref(&metrics));
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
            "metrics": metrics.into_iter().map(|(key, value)| (key, value.into())).collect::<serde_json::Map<_, _>>(),
            "results": results,
        });
        let text = serde_json::to_string_pretty(&document)?;
        sparc_data::shard_writer::write_file_atomically(path, text.as_bytes())?;
    }
    Ok(())
}

/// A captioner's losses on samples with captions.
fn losses(trained: &Trained, shards: &[PathBuf], resize: ResizeMode) -> anyhow::Result<Vec<(&'static str, f64)>> {
    const BATCH: usize = 64;
    let bar = bar(0, "{spinner} losses of {pos} images");
    let set = EvalSet::new(shards.to_vec(), trained.plan.config.model.image.image_size as u32, resize);
    let mut samples = set.filter(|sample| sample.as_ref().map_or(true, |sample| !sample.captions.is_empty()));
    let mut sums = CaptionerLosses::default();
    loop {
        let batch: Vec<EvalSample> = samples.by_ref().take(BATCH).collect::<Result<_, _>>()?;
        // Of a single image there is no other's text.
        if batch.len() < 2 {
            break;
        }
        sums.add(trained, &batch)?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let metrics = sums.metrics();
    ensure!(!metrics.is_empty(), "losses need at least two images with captions");
    Ok(metrics)
}

/// What captions say of scenes of Shapes; and `shapes_true_of_another`, how many would be true of the next image's.
fn judged(judge: &Judge, captions: &[ImageCaption]) -> impl Iterator<Item = (&'static str, f64)> {
    let (mut own, mut other) = (Tally::default(), Tally::default());
    for (image, next) in captions.iter().zip(captions.iter().cycle().skip(1)) {
        judge.judge(&image.key, &image.caption).iter().for_each(|verdict| own.add(verdict));
        judge.judge(&next.key, &image.caption).iter().for_each(|verdict| other.add(verdict));
    }
    let elsewhere = other.metrics().into_iter().filter(|(key, _)| *key == "shapes_true");
    own.metrics().into_iter().chain(elsewhere.map(|(_, value)| ("shapes_true_of_another", value)))
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
            Task::Compositional => request.compositional = true,
            Task::Captioning => request.captioning = true,
            Task::Vqa => request.vqa = Some(VqaRequest::default()),
            // Read by `losses` below: the tasks of sparc-eval see embeddings and captions alone.
            Task::Losses => {}
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

/// How a captioner's texts are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Texts<'a> {
    /// `key=value` over the defaults of captions and of generated answers.
    pub settings: &'a [String],
    /// Where answers come from; `None`: the head, of a run that has one.
    pub answers: Option<AnswerSource>,
}

/// Evaluates with a progress bar, and says what was skipped.
pub fn run(
    trained: &Trained,
    shards: Vec<PathBuf>,
    resize: ResizeMode,
    request: &EvalRequest,
    texts: Texts,
) -> anyhow::Result<(EvalResults, SkipCounts)> {
    // Pairs are compared as the run's objective compared them.
    let objective = &trained.plan.config.objective;
    let head = HeadFile::of(trained)?;
    let most_frequent = head.as_ref().and_then(HeadFile::most_frequent).map(str::to_owned);
    let vqa = request.vqa.as_ref().map(|_| VqaRequest { most_frequent });
    let request = &EvalRequest { pair_score: objective.pair_score(), vqa, ..request.clone() };
    let classifier = Classifier::of(trained, head.as_ref());
    let compares =
        request.retrieval || request.compositional || (request.classification.is_some() && classifier.is_none());
    if compares && request.pair_score == PairScore::Pooled && !objective.trains_pooled() {
        tracing::warn!(
            "no term of this run's {} contrasts pooled embeddings, which retrieval, classification and compositional tests \
             compare; if it was fine-tuned, they are at best those it began with",
            objective.name()
        );
    }
    let bar = bar(0, "{spinner} {msg}");
    let mut set = EvalSet::new(shards, trained.plan.config.model.image.image_size as u32, resize);
    let settings = CaptionSettings::parse(texts.settings)?;
    let captioner = request.captioning.then(|| Captioner::new(trained, settings)).transpose()?;
    let answerer = match request.vqa {
        Some(_) => {
            let source = texts.answers.unwrap_or_else(|| AnswerSource::of(head.as_ref()));
            Some(Answerer::new(trained, head.as_ref(), source, texts.settings)?)
        }
        None => None,
    };
    let network = Equipped { network: &trained.network, captioner, answerer, classifier };
    let results = evaluate(&network, &trained.tokenizer, set.by_ref(), request, &mut |progress| {
        bar.set_message(match progress {
            Progress::Classes { n_done, n_classes } => format!("{n_done}/{n_classes} class names"),
            Progress::Images { n_done } => format!("{n_done} images"),
            Progress::Ranking => "ranking".into(),
            Progress::Reranking { n_done, n_queries } => format!("re-ranked {n_done}/{n_queries} queries"),
        });
    });
    bar.finish_and_clear();
    if !set.skips().is_empty() {
        tracing::warn!("{}", set.skips());
    }
    Ok((results?, set.skips().clone()))
}
