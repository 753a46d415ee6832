//! `sparc score`.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use sparc_core::PairScore;
use sparc_data::read_pairs;
use sparc_data::shard_writer::write_file_atomically;
use sparc_eval::tasks::{PairJudge, PairJudgement};
use sparc_train::evaluation::Trained;
use sparc_train::pair_logits::PairLogits;
use tch::Tensor;

use super::embed::read_image;

#[derive(Debug, Args)]
pub struct ScoreArguments {
    /// A run (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// A JPEG, PNG or WebP, scored with every text (repeatable)
    #[arg(long, required_unless_present = "pairs", requires = "text")]
    image: Vec<PathBuf>,
    /// A text, scored with every image (repeatable)
    #[arg(long, required_unless_present = "pairs", requires = "image")]
    text: Vec<String>,
    /// Pairs to score: a csv or tsv with the columns image and text, or filepath and title
    #[arg(long, conflicts_with_all = ["image", "text"])]
    pairs: Option<PathBuf>,
    /// Also write the scores as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Pairs judged together.
const BATCH: usize = 64;

/// A pair with its scores.
#[derive(Debug, Serialize)]
struct Scored<'a> {
    image: &'a Path,
    text: &'a str,
    score: f32,
    logit: f64,
    /// By which images of a text are ranked, where that is another score.
    #[serde(skip_serializing_if = "Option::is_none")]
    score_among_images: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    match_logit: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    match_probability: Option<f64>,
    /// The sum of `score` and `match_logit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    match_and_score: Option<f32>,
}

pub fn score(arguments: &ScoreArguments) -> anyhow::Result<()> {
    let ScoreArguments { checkpoint, image, text, pairs, json } = arguments;
    ensure!(text.iter().all(|text| !text.trim().is_empty()), "--text: a text is empty");
    let pairs = match pairs {
        Some(table) => read_pairs(table)?,
        None => image.iter().flat_map(|image| text.iter().map(move |text| (image.clone(), text.clone()))).collect(),
    };
    let trained = Trained::load(checkpoint)?;
    let objective = &trained.plan.config.objective;
    let pair_score = objective.pair_score();
    let logits = trained.pair_logits();
    let judge = PairJudge::new(&trained.network, &trained.tokenizer, pair_score, trained.plan.device(), BATCH);
    let mut scored = Vec::with_capacity(pairs.len());
    for batch in pairs.chunks(BATCH) {
        let judged = judge_batch(&trained, &judge, batch)?;
        scored.extend(
            batch.iter().zip(judged).map(|((image, text), judged)| of(image, text, judged, pair_score, logits)),
        );
    }
    print!("{}", table(&scored));
    if let Some(path) = json {
        let document = serde_json::json!({
            "checkpoint": trained.checkpoint,
            "objective": objective.name(),
            "step": trained.step,
            "pair_score": pair_score.name(),
            "logit_scale": logits.scale,
            "logit_bias": logits.bias,
            "pairs": scored,
        });
        write_file_atomically(path, serde_json::to_string_pretty(&document)?.as_bytes())?;
    }
    Ok(())
}

/// Reads each image of a batch of pairs once.
fn judge_batch(
    trained: &Trained,
    judge: &PairJudge<'_>,
    pairs: &[(PathBuf, String)],
) -> anyhow::Result<Vec<PairJudgement>> {
    let mut files: Vec<&Path> = Vec::new();
    let mut asked: Vec<(usize, &str)> = Vec::with_capacity(pairs.len());
    for (file, text) in pairs {
        let row = files.iter().position(|known| known == file).unwrap_or_else(|| {
            files.push(file);
            files.len() - 1
        });
        asked.push((row, text));
    }
    let images: Vec<Tensor> =
        files.iter().map(|file| Ok(trained.see(read_image(file)?).input_chw)).collect::<anyhow::Result<_>>()?;
    let keys = files.iter().map(|file| file.display().to_string()).collect();
    let seen = judge.see(&Tensor::stack(&images, 0), keys)?;
    judge.judge(&seen, &asked).context("these pairs cannot be scored")
}

fn of<'a>(
    image: &'a Path,
    text: &'a str,
    judged: PairJudgement,
    pair_score: PairScore,
    logits: PairLogits,
) -> Scored<'a> {
    let probability = |logit: f32| 1.0 / (1.0 + (-f64::from(logit)).exp());
    Scored {
        image,
        text,
        score: judged.among_texts,
        logit: logits.logit(judged.among_texts),
        score_among_images: (pair_score == PairScore::TokenMaxima).then_some(judged.among_images),
        match_logit: judged.match_logit,
        match_probability: judged.match_logit.map(probability),
        match_and_score: judged.match_and_score(),
    }
}

/// Numbers in columns; image and text last, for they may be long.
fn table(scored: &[Scored]) -> String {
    let among_images = scored.iter().any(|pair| pair.score_among_images.is_some());
    let matched = scored.iter().any(|pair| pair.match_probability.is_some());
    let width = scored.iter().map(|pair| pair.image.display().to_string().chars().count()).max().unwrap_or(0).max(5);
    let line =
        |score: &str, logit: &str, image_score: &str, [probability, both]: [&str; 2], image: &str, text: &str| {
            let mut line = format!("{score:>7}  {logit:>8}");
            if among_images {
                line.push_str(&format!("  {image_score:>12}"));
            }
            if matched {
                line.push_str(&format!("  {probability:>7}  {both:>13}"));
            }
            format!("{line}  {image:<width$}  {text}\n")
        };
    let mut table = line("score", "logit", "among images", ["match %", "match + score"], "image", "text");
    for pair in scored {
        table.push_str(&line(
            &format!("{:.4}", pair.score),
            &format!("{:.3}", pair.logit),
            &pair.score_among_images.map_or_else(String::new, |score| format!("{score:.4}")),
            [
                &pair.match_probability.map_or_else(String::new, |share| format!("{:.1}", 100.0 * share)),
                &pair.match_and_score.map_or_else(String::new, |sum| format!("{sum:.3}")),
            ],
            &pair.image.display().to_string(),
            pair.text,
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(match_logit: Option<f32>) -> PairJudgement {
        PairJudgement { among_texts: 0.25, among_images: -0.5, match_logit }
    }

    #[test]
    fn scores_become_logits_and_probabilities() {
        let logits = PairLogits { scale: 20.0, bias: -1.0 };
        let scored = of(Path::new("a.jpg"), "x", judged(Some(0.0)), PairScore::Pooled, logits);
        assert_eq!((scored.logit, scored.score_among_images, scored.match_probability), (4.0, None, Some(0.5)));
        let matched = of(Path::new("a.jpg"), "x", judged(Some(2.0)), PairScore::Pooled, logits);
        assert_eq!((scored.match_and_score, matched.match_and_score), (Some(0.25), Some(2.25)));
        let plain = of(Path::new("a.jpg"), "x", judged(None), PairScore::TokenMaxima, logits);
        assert_eq!(plain.match_and_score, None);
        assert_eq!((plain.score_among_images, plain.match_probability), (Some(-0.5), None));
        let json = serde_json::to_value(&plain).unwrap();
        assert_eq!(json["score_among_images"], -0.5);
        assert!(json.get("match_logit").is_none());
        let sure = of(Path::new("a.jpg"), "x", judged(Some(-200.0)), PairScore::Pooled, logits);
        assert!(sure.match_probability.is_some_and(|share| (0.0..1e-80).contains(&share)));
    }

    #[test]
    fn the_table_has_the_columns_that_there_are() {
        let logits = PairLogits { scale: 20.0, bias: 0.0 };
        let scored =
            |pair_score, match_logit| [of(Path::new("longer.jpg"), "a b", judged(match_logit), pair_score, logits)];
        assert_eq!(
            table(&scored(PairScore::Pooled, None)),
            "  score     logit  image       text\n 0.2500     5.000  longer.jpg  a b\n"
        );
        assert_eq!(
            table(&scored(PairScore::TokenMaxima, Some(2.0))),
            "  score     logit  among images  match %  match + score  image       text\n \
             0.2500     5.000       -0.5000     88.1          2.250  longer.jpg  a b\n"
        );
    }
}
