//! `sparc report`: several runs on one data set, side by side.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use clap::Args;
use image::RgbImage;
use sparc_core::{Encoder, EvalSample};
use sparc_data::EvalSet;
use sparc_data::shards::expand_shards;
use sparc_eval::draw::{RegionSheet, region_sheet};
use sparc_eval::report::{
    Chart, GalleryItem, MethodHeatmaps, MetricRow, Picture, ReportData, Series, Summary, metric_rows, text_table,
    write_report, write_summary,
};
use sparc_eval::tasks::EvalResults;
use sparc_train::evaluation::Trained;
use sparc_train::metrics_log::read_metrics;
use sparc_train::objective::Objective;

use super::eval::{Task, Texts, request, run};
use super::inspect::masks;

#[derive(Debug, Args)]
pub struct ReportArguments {
    /// A run with the name it is shown under (repeatable; the baseline first)
    #[arg(long, value_name = "NAME=PATH", required = true)]
    run: Vec<String>,
    /// Shards to evaluate on: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// What to evaluate (repeatable, or separated by commas)
    #[arg(long, value_enum, value_delimiter = ',', default_value = "retrieval,classification,segmentation,grounding")]
    task: Vec<Task>,
    /// Folder for report.html and summary.json
    #[arg(long)]
    out: PathBuf,
    /// When the work began that the summary's seconds count, in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    started: Option<u64>,
}

/// Images whose regions are drawn, of each method that embeds regions.
const REGION_PICTURES: usize = 4;
/// Images of which each run of SyCoCa shows its masks.
const MASK_PICTURES: usize = 3;
/// Images in the report's gallery.
const GALLERY: usize = 8;

struct Method {
    name: String,
    trained: Trained,
    results: EvalResults,
}

pub fn report(arguments: &ReportArguments) -> anyhow::Result<()> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
    let started = arguments.started.map_or_else(now, |seconds| seconds as f64);
    ensure!(!arguments.task.contains(&Task::Losses), "--task losses is one of `sparc eval` alone");
    let shards = expand_shards(&arguments.data)?;
    let mut runs: Vec<(String, Trained)> = Vec::new();
    for run_argument in &arguments.run {
        let (name, path) = run_argument.split_once('=').context("--run: expected NAME=PATH")?;
        ensure!(!name.is_empty() && runs.iter().all(|(known, _)| known != name), "--run: two runs are named `{name}`");
        runs.push((name.into(), Trained::load(path.as_ref())?));
    }
    check_comparable(&runs)?;
    let curves = curves(&runs)?;
    let mut methods = Vec::new();
    for (name, trained) in runs {
        let request = request(&arguments.task, &shards, None, None)?;
        let (results, _) = run(&trained, shards.clone(), trained.plan.config.data.resize, &request, Texts::default())?;
        methods.push(Method { name, trained, results });
    }
    let data = ReportData {
        title: "Fine-grained vision-language training".into(),
        subtitle: format!("{} on {}", names(&methods).join(" and "), arguments.data),
        commands: methods.iter().map(|m| format!("sparc train … → {}", m.trained.run.display())).collect(),
        facts: facts(&methods, now() - started),
        methods: names(&methods),
        metrics: rows(&methods, |key| !key.starts_with("n_")),
        curves,
        gallery: gallery(&methods, shards.clone())?,
        pictures: pictures(&methods, &arguments.task, &shards)?,
    };
    print!("{}", text_table(&data.methods, &data.metrics));
    std::fs::create_dir_all(&arguments.out).with_context(|| arguments.out.display().to_string())?;
    write_report(&arguments.out.join("report.html"), &data)?;
    let summary = Summary {
        methods: methods.iter().rev().map(|m| (m.name.clone(), m.results.flatten())).collect(),
        seconds: now() - started,
    };
    write_summary(&arguments.out.join("summary.json"), &summary)?;
    Ok(())
}

/// Refuses, before anything is computed, runs that cannot stand in one table: their images or texts
/// would not be the same.
fn check_comparable(runs: &[(String, Trained)]) -> anyhow::Result<()> {
    let seen = |trained: &Trained| {
        let config = &trained.plan.config;
        let fingerprint = trained.plan.resolved.tokenizer_fingerprint.clone();
        (config.model.image.image_size, config.model.image.patch_size, config.data.resize, fingerprint)
    };
    for (name, trained) in runs {
        ensure!(
            seen(trained) == seen(&runs[0].1),
            "the runs {name} and {} have another image size, patch size, resize mode or tokenizer: they cannot stand side by side; evaluate them apart with `sparc eval`",
            runs[0].0
        );
    }
    Ok(())
}

fn names(methods: &[Method]) -> Vec<String> {
    methods.iter().map(|method| method.name.clone()).collect()
}

fn rows(methods: &[Method], wanted: impl Fn(&str) -> bool) -> Vec<MetricRow> {
    let columns: Vec<Vec<(String, f64)>> = methods.iter().map(|method| method.results.flatten()).collect();
    metric_rows(&columns).into_iter().filter(|row| wanted(&row.key)).collect()
}

fn facts(methods: &[Method], seconds: f64) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    for Method { name, trained, .. } in methods {
        let train = &trained.plan.config.train;
        let text = format!(
            "{} steps of {} pairs, {:.2} M parameters, seed {}",
            trained.step,
            train.batch_size,
            trained.network.parameters().count() as f64 / 1e6,
            trained.plan.config.seed
        );
        facts.push((name.clone(), text));
    }
    if let Some(method) = methods.first() {
        facts.push(("test images".into(), method.results.n_images.to_string()));
        facts.push(("computed on".into(), method.trained.plan.resolved.compute.clone()));
    }
    facts.push(("time".into(), format!("{seconds:.0} s")));
    facts.push(("heatmaps".into(), "alignment weights, as the fine-grained loss sees them".into()));
    facts
}

/// Loss curves, one chart per logged quantity that all or some runs have.
fn curves(runs: &[(String, Trained)]) -> anyhow::Result<Vec<Chart>> {
    const CHARTS: [(&str, &[&str], &str); 7] = [
        ("Contrastive loss (global)", &["loss_contrastive", "loss_global"], "loss"),
        ("Fine-grained loss (local)", &["loss_local"], "loss"),
        ("Regions against phrases", &["loss_region"], "loss"),
        ("Captioning", &["loss_caption"], "loss"),
        ("Reconstruction", &["loss_reconstruction"], "loss"),
        ("Boxes of phrases", &["loss_grounding"], "loss"),
        ("Pairs found in the batch", &["image_to_text_accuracy"], "share"),
    ];
    let mut logs = Vec::new();
    for (name, trained) in runs {
        logs.push((name.clone(), read_metrics(&trained.run)?));
    }
    let charts = CHARTS.iter().map(|(title, keys, y_label)| {
        let series = logs
            .iter()
            .map(|(name, lines)| Series {
                method: name.clone(),
                points: lines
                    .iter()
                    .filter_map(|line| {
                        let value = keys.iter().find_map(|key| line.get(*key))?.as_f64()?;
                        Some((line.get("step")?.as_f64()?, value))
                    })
                    .collect(),
            })
            .filter(|series: &Series| !series.points.is_empty())
            .collect::<Vec<_>>();
        Chart { title: (*title).into(), x_label: "step".into(), y_label: (*y_label).into(), log_y: false, series }
    });
    Ok(charts.filter(|chart| !chart.series.is_empty()).collect())
}

/// The first images with the most to say, and every method's heatmaps for their captions.
fn gallery(methods: &[Method], shards: Vec<PathBuf>) -> anyhow::Result<Vec<GalleryItem>> {
    let Some(first) = methods.first() else { bail!("no runs") };
    let config = &first.trained.plan.config;
    let side = config.model.image.image_size as u32;
    let set = EvalSet::new(shards, side, config.data.resize);
    let with_regions = |sample: &EvalSample| sample.regions.as_ref().is_none_or(|regions| regions.len() >= 2);
    let samples: Vec<EvalSample> = set
        .filter(|sample| sample.as_ref().map_or(true, |s| !s.captions.is_empty() && with_regions(s)))
        .take(GALLERY)
        .collect::<Result<_, _>>()?;
    samples.into_iter().map(|sample| gallery_item(methods, sample, side)).collect()
}

/// Masks of SyCoCa; boxes and phrases of the first images with regions, by each method that embeds regions.
fn pictures(methods: &[Method], tasks: &[Task], shards: &[PathBuf]) -> anyhow::Result<Vec<Picture>> {
    let mut pictures = mask_pictures(methods, shards)?;
    if !tasks.contains(&Task::Regions) {
        return Ok(pictures);
    }
    for Method { name, trained, .. } in
        methods.iter().filter(|method| method.trained.network.region_encoder().is_some())
    {
        let config = &trained.plan.config;
        let side = config.model.image.image_size as u32;
        let samples: Vec<EvalSample> = EvalSet::new(shards.to_vec(), side, config.data.resize)
            .filter(|sample| sample.as_ref().map_or(true, |s| s.regions.iter().flatten().count() > 0))
            .take(REGION_PICTURES)
            .collect::<Result<_, _>>()?;
        let regions = || samples.iter().flat_map(|sample| sample.regions.iter().flatten());
        let candidates: BTreeSet<&str> = regions().map(|region| region.text.trim()).collect();
        let candidates: Vec<&str> = candidates.into_iter().filter(|phrase| !phrase.is_empty()).collect();
        for sample in &samples {
            let of_image: Vec<_> = sample.regions.iter().flatten().collect();
            let boxes: Vec<[f32; 4]> = of_image.iter().map(|region| region.box_xyxy).collect();
            let own: BTreeSet<&str> = of_image.iter().map(|region| region.text.trim()).collect();
            let own: Vec<&str> = own.into_iter().filter(|phrase| !phrase.is_empty()).collect();
            // The boxes choose among the phrases of all pictures; only the image's own are looked for in it.
            let mut panels = vec![trained.nearest_phrases(&sample.image_chw, &boxes, &candidates)?];
            if trained.predicts_boxes() {
                panels.push(trained.predicted_boxes(&sample.image_chw, &own)?);
            }
            let image =
                RgbImage::from_raw(side, side, sample.pixels.clone()).context("the sample has side × side pixels")?;
            let title = format!("{name}: regions of {}", sample.key);
            let truth: Vec<&str> = of_image.iter().map(|region| region.text.trim()).collect();
            pictures.push(Picture {
                image: region_sheet(&RegionSheet { image, title: title.clone(), panels }),
                title,
                text: format!("annotated, in order: {}", truth.join("; ")),
            });
        }
    }
    Ok(pictures)
}

/// What the first captions make each decoder of SyCoCa see, and what is rebuilt.
fn mask_pictures(methods: &[Method], shards: &[PathBuf]) -> anyhow::Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    let sycoca = |method: &&Method| matches!(method.trained.plan.config.objective, Objective::Sycoca(_));
    for Method { name, trained, .. } in methods.iter().filter(sycoca) {
        let config = &trained.plan.config;
        let side = config.model.image.image_size as u32;
        let samples = EvalSet::new(shards.to_vec(), side, config.data.resize)
            .filter(|sample| sample.as_ref().map_or(true, |sample| !sample.captions.is_empty()));
        for sample in samples.take(MASK_PICTURES) {
            let sample = sample?;
            let image = RgbImage::from_raw(side, side, sample.pixels).context("the sample has side × side pixels")?;
            let title = format!("{name}: masks of {}", sample.key);
            pictures.push(Picture {
                image: masks(trained, image, &sample.image_chw, &sample.captions[0], title.clone())?,
                title,
                text: "What the caption makes each decoder see, and what is rebuilt from it.".into(),
            });
        }
    }
    Ok(pictures)
}

fn gallery_item(methods: &[Method], sample: EvalSample, side: u32) -> anyhow::Result<GalleryItem> {
    let caption = &sample.captions[0];
    let alignments: Vec<_> = methods.iter().map(|method| method.trained.align(&sample.image_chw, caption)).collect();
    Ok(GalleryItem {
        image: RgbImage::from_raw(side, side, sample.pixels).context("the sample has side × side pixels")?,
        key: sample.key,
        grid: alignments[0].grid,
        token_pieces: alignments[0].tokens.iter().map(|(piece, _)| piece.clone()).collect(),
        heatmaps: methods
            .iter()
            .zip(alignments)
            .map(|(method, alignment)| MethodHeatmaps {
                method: method.name.clone(),
                weights: alignment.tokens.into_iter().map(|(_, weights)| weights).collect(),
            })
            .collect(),
        note: String::new(),
    })
}
