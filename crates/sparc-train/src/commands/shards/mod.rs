//! `sparc shards`.

mod convert;
mod index;
mod lint;
mod make;
mod peek;
mod phrases;
mod stat;
mod synth;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use sparc_data::shard_tools::{Output, Progress, WrittenShards};
use sparc_data::shard_writer::ShardLimits;
use sparc_data::skips::SkipCounts;
use sparc_train::progress::bar;

#[derive(Debug, Subcommand)]
pub enum ShardsCommand {
    /// Make shards from a folder of images and a table of captions
    Make(make::MakeArguments),
    /// Make shards from a published data set
    #[command(subcommand)]
    Convert(convert::ConvertCommand),
    /// Check shards: every problem with its shard and key
    Lint(lint::LintArguments),
    /// Count what is in shards: histograms of captions, images and regions
    Stat(stat::StatArguments),
    /// Draw some samples with captions and boxes on one picture
    Peek(peek::PeekArguments),
    /// Add the noun phrases of captions to every record, as what a detector is to look for
    Phrases(phrases::PhrasesArguments),
    /// Write an index beside each shard, so that a resume passes over samples unread
    Index(index::IndexArguments),
    /// Make Shapes, the synthetic data set with known answers
    Synth(synth::SynthArguments),
}

pub fn run(command: &ShardsCommand) -> anyhow::Result<()> {
    match command {
        ShardsCommand::Make(arguments) => make::make(arguments),
        ShardsCommand::Convert(command) => convert::convert(command),
        ShardsCommand::Lint(arguments) => lint::lint(arguments),
        ShardsCommand::Stat(arguments) => stat::stat(arguments),
        ShardsCommand::Peek(arguments) => peek::peek(arguments),
        ShardsCommand::Phrases(arguments) => phrases::phrases(arguments),
        ShardsCommand::Index(arguments) => index::index(arguments),
        ShardsCommand::Synth(arguments) => synth::synth(arguments),
    }
}

/// Where new shards go.
#[derive(Debug, Args)]
struct OutputArguments {
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
    /// The shards are called SPLIT-00000.tar and so on
    #[arg(long, default_value = "train")]
    split: String,
    /// Most samples in a shard
    #[arg(long, default_value_t = 10_000)]
    max_shard_count: usize,
    /// Most MiB of a shard
    #[arg(long, default_value_t = 500)]
    max_shard_size: u64,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

impl OutputArguments {
    /// Writes with a bar that shows how far it is, and says what came of it.
    fn write(
        &self,
        work: impl FnOnce(&Output, &mut dyn FnMut(Progress)) -> Result<WrittenShards, sparc_data::Error>,
    ) -> anyhow::Result<()> {
        const PARTS: u64 = 1_000;
        let output = Output {
            folder: self.out.clone(),
            split: self.split.clone(),
            limits: ShardLimits { samples: self.max_shard_count, bytes: self.max_shard_size.saturating_mul(1 << 20) },
        };
        let bar = bar(PARTS, "{bar:28} {percent} %  {msg} samples  {eta} left");
        let result = work(&output, &mut |progress| {
            bar.set_position((progress.share * PARTS as f64) as u64);
            bar.set_message(progress.samples.to_string());
        });
        bar.finish_and_clear();
        let written = result?;
        if self.json {
            let document = serde_json::json!({
                "shards": written.shards,
                "samples": written.samples,
                "regions": written.regions,
                "skipped": skipped(&written.skips),
            });
            println!("{document:#}");
            return Ok(());
        }
        let regions = written.regions.map_or(String::new(), |regions| format!(" with {regions} regions"));
        let skips = if written.skips.is_empty() { String::new() } else { format!("; {}", written.skips) };
        println!(
            "{}: {} samples{regions} in {} shards{skips}",
            self.out.display(),
            written.samples,
            written.shards.len()
        );
        Ok(())
    }
}

/// Counts by reason as JSON.
fn skipped(skips: &SkipCounts) -> serde_json::Map<String, serde_json::Value> {
    skips.iter().map(|(reason, count)| (reason.to_string(), count.into())).collect()
}

/// A bar for reading shards once: their length in bytes.
fn reading_bar(shards: &[PathBuf]) -> ProgressBar {
    let length = |shard: &PathBuf| Path::metadata(shard).map_or(0, |file| file.len());
    bar(shards.iter().map(length).sum(), "{bar:28} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left")
}

/// Threads for reading shards side by side.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
