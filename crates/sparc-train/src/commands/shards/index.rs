//! `sparc shards index`.

use clap::Args;
use sparc_data::index::write_index;
use sparc_data::shards::expand_shards;
use sparc_train::progress::bar;

#[derive(Debug, Args)]
pub struct IndexArguments {
    /// Shards on a local disk: `a::b` joins, `{000..011}` and `*` expand
    data: String,
    /// Print one JSON object a shard
    #[arg(long)]
    json: bool,
}

pub fn index(arguments: &IndexArguments) -> anyhow::Result<()> {
    let shards = expand_shards(&arguments.data)?;
    let bar = bar(shards.len() as u64, "{bar:28} {pos}/{len} shards  {eta} left");
    let (mut samples, mut members) = (0, 0);
    for shard in &shards {
        let summary = write_index(shard)?;
        if arguments.json {
            let line = serde_json::json!({
                "shard": shard, "index": summary.path, "samples": summary.samples, "members": summary.members,
            });
            bar.suspend(|| println!("{line}"));
        }
        (samples, members) = (samples + summary.samples, members + summary.members);
        bar.inc(1);
    }
    bar.finish_and_clear();
    if !arguments.json {
        println!("{} shards, {samples} samples, {members} members", shards.len());
    }
    Ok(())
}
