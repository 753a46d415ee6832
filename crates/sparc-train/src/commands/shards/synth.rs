//! `sparc shards synth`.

use std::path::PathBuf;

use clap::Args;
use sparc_data::shapes::{ShapesConfig, is_complete, write_shapes};
use sparc_train::progress::bar;

#[derive(Debug, Args)]
pub struct SynthArguments {
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
    /// Training scenes
    #[arg(long, default_value_t = 8000)]
    train: usize,
    /// Validation scenes
    #[arg(long, default_value_t = 400)]
    val: usize,
    /// Test scenes
    #[arg(long, default_value_t = 400)]
    test: usize,
    /// Seed of all scenes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Side of the square images in pixels
    #[arg(long, default_value_t = 64)]
    image_size: usize,
    /// Do nothing if the folder already holds exactly this data
    #[arg(long)]
    if_missing: bool,
}

/// Scenes in a shard.
const SAMPLES_PER_SHARD: usize = 1000;

pub fn synth(arguments: &SynthArguments) -> anyhow::Result<()> {
    let config = ShapesConfig {
        seed: arguments.seed,
        image_size: arguments.image_size,
        train: arguments.train,
        val: arguments.val,
        test: arguments.test,
        samples_per_shard: SAMPLES_PER_SHARD,
    };
    if arguments.if_missing && is_complete(&config, &arguments.out) {
        println!("{} already holds these {} scenes", arguments.out.display(), config.n_samples());
        return Ok(());
    }
    let bar = bar(config.n_samples() as u64, "{bar:28} {pos}/{len} scenes  {eta} left");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let summary = write_shapes(&config, &arguments.out, threads, &mut |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    println!(
        "{}: {} scenes in {} shards; held out of training: {}",
        arguments.out.display(),
        summary.n_samples,
        summary.shards.len(),
        summary.held_out.join(", ")
    );
    Ok(())
}
