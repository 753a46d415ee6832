//! `sparc train` and `sparc plan`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Args;
use sparc_train::config::RunConfig;
use sparc_train::plan::RunPlan;
use sparc_train::run::{Ending, Start, train as run};

#[derive(Debug, Args)]
pub struct TrainArguments {
    /// The run's YAML file
    config: PathBuf,
    /// Set a key over the file's value, such as --set train.steps=500 (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Go on from a checkpoint: `latest` of the output folder, or the path of a run or checkpoint
    #[arg(long, value_name = "latest|PATH")]
    resume: Option<PathBuf>,
    /// Replace the run that the output folder holds
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

#[derive(Debug, Args)]
pub struct PlanArguments {
    /// The run's YAML file
    config: PathBuf,
    /// Set a key over the file's value (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn train(arguments: &TrainArguments) -> anyhow::Result<()> {
    let (plan, tokenizer) = RunPlan::resolve(RunConfig::read(&arguments.config, &arguments.set)?)?;
    eprintln!("{}{}", plan.to_yaml(), plan.sizes());
    let start = match &arguments.resume {
        None if arguments.overwrite => Start::Overwrite,
        None => Start::Fresh,
        Some(path) if path.as_os_str() == "latest" => Start::ResumeLatest,
        Some(path) => Start::Resume(path.clone()),
    };
    let stop = stop_on_signal()?;
    match run(&plan, tokenizer, &start, &stop)? {
        Ending::Finished(checkpoint) => println!("finished: {}", checkpoint.display()),
        Ending::Interrupted(checkpoint) => {
            println!("stopped; saved {}. Go on with the same command and --resume latest", checkpoint.display())
        }
    }
    Ok(())
}

pub fn plan(arguments: &PlanArguments) -> anyhow::Result<()> {
    let (plan, _) = RunPlan::resolve(RunConfig::read(&arguments.config, &arguments.set)?)?;
    print!("{}{}", plan.to_yaml(), plan.sizes());
    Ok(())
}

/// A flag that Ctrl-C or SIGTERM raises; a second Ctrl-C ends the program at once.
fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // 128 + SIGINT, as shells report it.
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step and saving; once more to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}
