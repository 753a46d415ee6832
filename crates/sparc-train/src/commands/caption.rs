//! `sparc caption`: captions for images or shards.

use std::path::PathBuf;

use anyhow::{bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use sparc_data::shard_writer::{ShardLimits, ShardWriter, write_file_atomically};
use sparc_data::shards::expand_shards;
use sparc_data::{ImageSample, ImageSet};
use sparc_train::captioning::{CaptionSettings, Captioner, MadeCaption};
use sparc_train::evaluation::Trained;
use sparc_train::progress::bar;
use tch::Tensor;

use super::embed::read_image;

#[derive(Debug, Args)]
pub struct CaptionArguments {
    /// A run of coca or sycoca (its newest checkpoint is taken) or a checkpoint
    checkpoint: PathBuf,
    /// A JPEG, PNG or WebP (repeatable)
    #[arg(long, required_unless_present = "data")]
    image: Vec<PathBuf>,
    /// Shards: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long, conflicts_with = "image")]
    data: Option<String>,
    /// File, or folder of shards, to write [default: standard output]
    #[arg(long)]
    out: Option<PathBuf>,
    /// What is written
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// How captions are made: strategy, min_tokens, max_tokens, prompt, seed (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Key, tab, caption
    Text,
    /// One JSON object a line: key, caption, log_probability, n_tokens, ended
    Jsonl,
    /// Images with their captions, as training and evaluation read them
    Shards,
}

/// Images captioned together.
const BATCH: usize = 32;
/// Samples in a shard that is written.
const SAMPLES_PER_SHARD: usize = 1000;

#[derive(Serialize)]
struct Line<'a> {
    key: &'a str,
    #[serde(flatten)]
    made: &'a MadeCaption,
}

pub fn caption(arguments: &CaptionArguments) -> anyhow::Result<()> {
    let settings = CaptionSettings::parse(&arguments.set)?;
    ensure!(
        arguments.format != Format::Shards || (arguments.out.is_some() && arguments.data.is_some()),
        "--format shards needs --data, and a folder to write to: give it with --out"
    );
    let trained = Trained::load(&arguments.checkpoint)?;
    let captioner = Captioner::new(&trained, settings)?;
    let mut writer = Writer::new(arguments)?;
    match &arguments.data {
        Some(data) => caption_shards(&captioner, &trained, data, &mut writer)?,
        None => {
            for path in &arguments.image {
                let input = trained.see(read_image(path)?).input_chw;
                let key = path.display().to_string();
                writer.write_line(&key, &captioner.captions(&input.unsqueeze(0), &[&key])[0])?;
            }
        }
    }
    writer.finish()
}

fn caption_shards(captioner: &Captioner, trained: &Trained, data: &str, writer: &mut Writer) -> anyhow::Result<()> {
    let config = &trained.plan.config;
    let mut set = ImageSet::new(expand_shards(data)?, config.model.image.image_size as u32, config.data.resize);
    let bar = bar(0, "{spinner} {pos} images  {per_sec}");
    loop {
        let samples: Vec<ImageSample> = set.by_ref().take(BATCH).collect::<Result<_, _>>()?;
        if samples.is_empty() {
            break;
        }
        let images: Vec<&Tensor> = samples.iter().map(|sample| &sample.image_chw).collect();
        let keys: Vec<&str> = samples.iter().map(|sample| sample.key.as_str()).collect();
        let made = captioner.captions(&Tensor::stack(&images, 0), &keys);
        bar.inc(samples.len() as u64);
        for (sample, made) in samples.into_iter().zip(&made) {
            writer.write(sample, made)?;
        }
    }
    bar.finish_and_clear();
    if !set.skips().is_empty() {
        tracing::warn!("{}", set.skips());
    }
    Ok(())
}

/// Where captions go. A file is written when all captions are there.
enum Writer {
    Lines { format: Format, out: Option<PathBuf>, text: String },
    Shards(ShardWriter),
}

impl Writer {
    fn new(arguments: &CaptionArguments) -> anyhow::Result<Writer> {
        let CaptionArguments { format, out, .. } = arguments;
        Ok(match (format, out) {
            (Format::Shards, Some(folder)) => {
                Writer::Shards(ShardWriter::new(folder, "captions", ShardLimits::samples(SAMPLES_PER_SHARD))?)
            }
            _ => Writer::Lines { format: *format, out: out.clone(), text: String::new() },
        })
    }

    fn write(&mut self, sample: ImageSample, made: &MadeCaption) -> anyhow::Result<()> {
        match self {
            Writer::Shards(shards) => Ok(shards.write(&sample.captioned(&made.caption))?),
            Writer::Lines { .. } => self.write_line(&sample.key, made),
        }
    }

    fn write_line(&mut self, key: &str, made: &MadeCaption) -> anyhow::Result<()> {
        let Writer::Lines { format, out, text } = self else { bail!("shards hold samples of shards alone") };
        let line = match format {
            Format::Jsonl => serde_json::to_string(&Line { key, made })?,
            Format::Text | Format::Shards => format!("{key}\t{}", made.caption),
        };
        match out {
            Some(_) => text.push_str(&(line + "\n")),
            None => println!("{line}"),
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Writer::Lines { out: Some(path), text, .. } => write_file_atomically(&path, text.as_bytes())?,
            Writer::Lines { out: None, .. } => {}
            Writer::Shards(shards) => {
                for shard in shards.finish()? {
                    println!("{}", shard.path.display());
                }
            }
        }
        Ok(())
    }
}
