//! `sparc shards stat`.

use clap::Args;
use sparc_data::shard_tools::{Histogram, ShardStatistics, statistics};
use sparc_data::shards::expand_shards;

use super::{reading_bar, threads};

#[derive(Debug, Args)]
pub struct StatArguments {
    /// Shards to count: `a::b` joins, `{000..011}` and `*` expand
    #[arg(long)]
    data: String,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

pub fn stat(arguments: &StatArguments) -> anyhow::Result<()> {
    let shards = expand_shards(&arguments.data)?;
    let bar = reading_bar(&shards);
    let statistics = statistics(&shards, threads(), &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&statistics)?);
    } else {
        print!("{}", text(&statistics));
    }
    Ok(())
}

fn text(statistics: &ShardStatistics) -> String {
    let listed = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let mut text = format!("{} samples in {} shards\n", statistics.samples, statistics.shards);
    text.push_str(&format!("members: {}\n", listed(&statistics.members)));
    if !statistics.problems.is_empty() {
        let problems = listed(&statistics.problems);
        text.push_str(&format!("problems: {problems} (`sparc shards lint` says where)\n"));
    }
    for (name, histogram) in statistics.histograms() {
        text.push_str(&histogram_text(name, histogram));
    }
    text
}

/// Quantiles in one line, and a bar for each bin.
fn histogram_text(name: &str, histogram: &Histogram) -> String {
    let quantile = |q: f64| histogram.quantile(q);
    let (Some(low), Some(p5), Some(p50), Some(p95), Some(high)) =
        (quantile(0.0), quantile(0.05), quantile(0.5), quantile(0.95), quantile(1.0))
    else {
        return format!("\n{name}: none\n");
    };
    let mut text = format!(
        "\n{name}: mean {:.1}, median {p50}, 5 to 95 %: {p5} to {p95}, least {low}, most {high}\n",
        histogram.mean()
    );
    if low == high {
        return text;
    }
    const WIDEST: f64 = 40.0;
    let bins = histogram.bins();
    let most = bins.iter().map(|bin| bin.count).max().unwrap_or(1).max(1);
    let label = |from: u64, to: u64| if from == to { from.to_string() } else { format!("{from} to {to}") };
    let width = bins.iter().map(|bin| label(bin.from, bin.to).len()).max().unwrap_or(0);
    for bin in &bins {
        // Eighths of a character, and never nothing for something.
        let eighths = (8.0 * WIDEST * bin.count as f64 / most as f64).ceil() as usize;
        let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        let line = format!("  {:>width$} {}{rest} {}", label(bin.from, bin.to), "█".repeat(eighths / 8), bin.count);
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_proportional() {
        let mut histogram = Histogram::default();
        for (value, count) in [(3, 40), (4, 20), (5, 1)] {
            (0..count).for_each(|_| histogram.add(value));
        }
        let text = histogram_text("words", &histogram);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "words: mean 3.4, median 3, 5 to 95 %: 3 to 4, least 3, most 5");
        assert_eq!(lines[2], format!("  3 {} 40", "█".repeat(40)));
        assert_eq!(lines[3], format!("  4 {} 20", "█".repeat(20)));
        assert_eq!(lines[4], "  5 █ 1");
        assert_eq!(histogram_text("none", &Histogram::default()), "\nnone: none\n");
    }
}
