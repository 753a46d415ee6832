//! `sparc shards lint`.

use anyhow::bail;
use clap::Args;
use sparc_data::shards::expand_shards;
use sparc_data::skips::Skip;

use super::{reading_bar, threads};

#[derive(Debug, Args)]
pub struct LintArguments {
    /// Shards to check: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// Print problems and, last, the counts as JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub fn lint(arguments: &LintArguments) -> anyhow::Result<()> {
    let shards = expand_shards(&arguments.data)?;
    let bar = reading_bar(&shards);
    let mut show = |problem: &Skip| {
        let line = if arguments.json {
            let Skip { reason, shard, key, detail } = problem;
            serde_json::json!({"reason": reason.to_string(), "shard": shard, "key": key, "detail": detail}).to_string()
        } else {
            format!("{:18} {} {}: {}", problem.reason.to_string(), problem.shard, problem.key, problem.detail)
        };
        bar.suspend(|| println!("{line}"));
    };
    let report = sparc_data::shard_tools::lint(&shards, threads(), &mut show, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{} samples in {} shards", report.samples, report.shards);
        for (reason, count) in &report.problems {
            println!("{count:9} {reason}");
        }
    }
    if !report.is_clean() {
        bail!("{} problems found", report.problems.values().sum::<u64>());
    }
    Ok(())
}
