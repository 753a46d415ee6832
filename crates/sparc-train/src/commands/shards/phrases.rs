//! `sparc shards phrases`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use sparc_data::phrases::{MAX_PHRASES, PhraseChoice, PhraseFinder, Tagger};
use sparc_data::shard_tools::{PhraseStatistics, add_phrases};
use sparc_data::shards::expand_shards;
use sparc_data::skips::{Skip, SkipCounts};

use super::{reading_bar, threads};

#[derive(Debug, Args)]
pub struct PhrasesArguments {
    /// Shards on a local disk: `a::b` joins, `{000..011}` and `*` expand
    #[arg(required = true)]
    data: Vec<String>,
    /// Folder to write the shards to, each under its own name; complete ones are kept
    #[arg(long)]
    out: PathBuf,
    /// Folder of a tagger in NLTK's files .weights.json, .tagdict.json and .classes.json [default: the tagger
    /// inside the program]
    #[arg(long)]
    tagger: Option<PathBuf>,
    /// Of an image with more than 20 phrases take some by its key, instead of the first
    #[arg(long)]
    sample: bool,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
}

pub fn phrases(arguments: &PhrasesArguments) -> anyhow::Result<()> {
    let shards = expand_shards(&arguments.data.join("::"))?;
    let tagger = arguments.tagger.as_deref().map_or_else(|| Ok(Tagger::embedded()), Tagger::load)?;
    let choice = if arguments.sample { PhraseChoice::Sampled } else { PhraseChoice::First };
    let finder = PhraseFinder::new(tagger, choice);
    let bar = reading_bar(&shards);
    // Logs the first few of each reason; all are counted.
    let mut skips = SkipCounts::default();
    let mut show = |skip: &Skip| bar.suspend(|| skips.record(skip));
    let started = Instant::now();
    let statistics = add_phrases(&shards, &arguments.out, &finder, threads(), &mut show, &|bytes| bar.inc(bytes))?;
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&statistics)?);
    } else {
        print!("{}", text(&statistics));
        // A run that has found everything done has no rate.
        if statistics.kept_shards == 0 {
            let captions = statistics.caption_words.count() as f64;
            println!("{:.0} captions/s", captions / started.elapsed().as_secs_f64().max(1e-9));
        }
    }
    Ok(())
}

/// The counts, beside those that CLOC's paper has of its own data (its Table 1, after the detector).
fn text(statistics: &PhraseStatistics) -> String {
    let PhraseStatistics { shards, kept_shards, samples, found, stop_words, beyond_limit, .. } = statistics;
    let kept = if *kept_shards > 0 { format!(", {kept_shards} of them complete before") } else { String::new() };
    let mut text = format!("{samples} samples in {shards} shards{kept}\n");
    for (reason, count) in &statistics.problems {
        text.push_str(&format!("{count:9} {reason}\n"));
    }
    let captions = &statistics.caption_words;
    let phrases = &statistics.phrases_per_sample;
    if captions.count() == 0 {
        return text + "no captions, and so no phrases\n";
    }
    let quantile = |histogram: &sparc_data::shard_tools::Histogram, q| histogram.quantile(q).unwrap_or(0);
    let full = phrases.count_of(MAX_PHRASES as u64) as f64 / phrases.count() as f64;
    text.push_str(&format!(
        "captions: {}, {:.1} a sample, {:.1} words each (VESL's texts: 35.9 to 44.9 tokens)\n",
        captions.count(),
        statistics.captions_per_sample.mean(),
        captions.mean(),
    ));
    text.push_str(&format!(
        "phrases a sample: {:.2}, median {}, 5 to 95 %: {} to {} (VESL has 11.5 boxes an image after its detector)\n",
        phrases.mean(),
        quantile(phrases, 0.5),
        quantile(phrases, 0.05),
        quantile(phrases, 0.95),
    ));
    let words = &statistics.phrase_words;
    text.push_str(&format!(
        "words a phrase: {:.2}, median {}, at most {} (VESL: 2.1 tokens)\n",
        words.mean(),
        quantile(words, 0.5),
        quantile(words, 1.0),
    ));
    text.push_str(&format!(
        "samples with phrases: {:.2} %; with {MAX_PHRASES}, the most: {:.2} %\n",
        100.0 * statistics.share_with_phrases().unwrap_or(0.0),
        100.0 * full,
    ));
    text + &format!(
        "{found} noun phrases found, {stop_words} of them of stop words alone; {} different ones kept, {beyond_limit} \
         were beyond the limit\n",
        words.count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_divided_by_nothing() {
        let text = text(&PhraseStatistics { samples: 2, shards: 1, ..PhraseStatistics::default() });
        assert_eq!(text, "2 samples in 1 shards\nno captions, and so no phrases\n");
    }

    #[test]
    fn counts_stand_beside_the_papers() {
        let mut statistics = PhraseStatistics { samples: 2, shards: 1, kept_shards: 1, ..PhraseStatistics::default() };
        [5, 7].iter().for_each(|&words| statistics.caption_words.add(words));
        [0, 20].iter().for_each(|&phrases| statistics.phrases_per_sample.add(phrases));
        (0..20).for_each(|index| statistics.phrase_words.add(2 + index % 2));
        statistics.captions_per_sample.add(1);
        let text = text(&statistics);
        for part in [
            "1 of them complete before",
            "captions: 2, 1.0 a sample, 6.0 words",
            "phrases a sample: 10.00, median 0,",
            "words a phrase: 2.50, median 2, at most 3",
            "samples with phrases: 50.00 %; with 20, the most: 50.00 %",
            "20 different ones kept",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
