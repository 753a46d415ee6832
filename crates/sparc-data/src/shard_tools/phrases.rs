//! Adds to shards what their captions name: noun phrases, for a detector to turn into regions.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::bounded;
use serde::Serialize;

use super::histogram::Histogram;
use super::phrases_journal::{Journal, ShardEntry};
use super::record_text::with_key;
use super::rewrite::rewrite_shard;
use super::stat::words;
use crate::error::Error;
use crate::phrases::PhraseFinder;
use crate::prepare::{read_captions, read_record};
use crate::shard_writer;
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};

/// The key of a record that holds them.
const KEY: &str = "phrases";
/// Members that are read; the others are copied unseen.
const MEMBERS: [&str; 2] = ["txt", "json"];

/// Counts over all samples of shards.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PhraseStatistics {
    /// Shards, those that were complete before among them.
    pub shards: usize,
    /// Shards that an earlier run had completed.
    pub kept_shards: usize,
    /// Samples in all shards.
    pub samples: u64,
    /// Captions of a sample that has some.
    pub captions_per_sample: Histogram,
    /// Words of a caption, between spaces.
    pub caption_words: Histogram,
    /// Phrases of a sample that has captions.
    pub phrases_per_sample: Histogram,
    /// Words of a phrase.
    pub phrase_words: Histogram,
    /// Noun phrases in all captions, before any was left out.
    pub found: u64,
    /// Of these, how many are of stop words alone.
    pub stop_words: u64,
    /// Different phrases that were beyond the most of an image.
    pub beyond_limit: u64,
    /// What could not be read, by reason.
    pub problems: BTreeMap<String, u64>,
}

impl PhraseStatistics {
    /// Share of the samples with captions that have a phrase, in [0, 1]; `None` without such samples.
    pub fn share_with_phrases(&self) -> Option<f64> {
        let all = self.phrases_per_sample.count();
        (all > 0).then(|| 1.0 - self.phrases_per_sample.count_of(0) as f64 / all as f64)
    }

    fn add(&mut self, entry: &ShardEntry) {
        self.shards += 1;
        self.samples += entry.samples;
        self.found += entry.found;
        self.stop_words += entry.stop_words;
        self.beyond_limit += entry.beyond_limit;
        for (reason, count) in &entry.problems {
            *self.problems.entry(reason.clone()).or_default() += count;
        }
        let merge = |into: &mut Histogram, counts: &[(u64, u64)]| into.merge(&Histogram::from_counts(counts));
        merge(&mut self.captions_per_sample, &entry.captions_per_sample);
        merge(&mut self.caption_words, &entry.caption_words);
        merge(&mut self.phrases_per_sample, &entry.phrases_per_sample);
        merge(&mut self.phrase_words, &entry.phrase_words);
    }
}

/// Writes each of the shards to `folder` under its own name, with the phrases of its captions in every record.
/// A shard that an earlier run has completed, with the same settings and from a file of the same length, is kept.
/// `found` gets what cannot be read, and `read` the bytes that are done, both as they come.
///
/// # Errors
///
/// A shard that cannot be read or written, two of the same name, or a folder that has other shards of these names.
pub fn add_phrases(
    shards: &[PathBuf],
    folder: &Path,
    finder: &PhraseFinder,
    threads: usize,
    found: &mut dyn FnMut(&Skip),
    read: &(dyn Fn(u64) + Sync),
) -> Result<PhraseStatistics, Error> {
    let names = names(shards, folder)?;
    let is_new = !folder.join(super::phrases_journal::NAME).exists();
    for (shard, name) in shards.iter().zip(&names) {
        let output = folder.join(name);
        if output.exists() && (is_new || same_file(shard, &output)) {
            let problem = format!("it has a {name} that is not from here; give another folder");
            return Err(shard_writer::Error::Invalid { path: folder.into(), problem }.into());
        }
    }
    let mut journal = Journal::open(folder, finder)?;
    for (shard, name) in shards.iter().zip(&names) {
        let input = origin(shard);
        if let Some(other) = journal.get(name).map(|entry| &entry.input).filter(|other| **other != input) {
            let problem = format!("its {name} was made from {other}, not from {input}; give another folder");
            return Err(shard_writer::Error::Invalid { path: folder.into(), problem }.into());
        }
    }
    let mut statistics = PhraseStatistics::default();
    let mut open = Vec::new();
    for (shard, name) in shards.iter().zip(&names) {
        let length = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
        let (now, made) = (length(shard), length(&folder.join(name)));
        match journal.get(name) {
            Some(entry) if (now, made) == (Some(entry.input_bytes), Some(entry.bytes)) => {
                statistics.add(entry);
                statistics.kept_shards += 1;
                read(entry.input_bytes);
            }
            _ => open.push((shard.as_path(), name.as_str())),
        }
    }
    let next = AtomicUsize::new(0);
    thread::scope(|scope| -> Result<(), Error> {
        // The receiver lives in here: on an error it goes, sending fails, and the threads end.
        let (sender, results) = bounded(1);
        for _ in 0..threads.clamp(1, open.len().max(1)) {
            let (sender, next, open) = (sender.clone(), &next, &open);
            scope.spawn(move || {
                while let Some((shard, name)) = open.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = add_to_shard(shard, &folder.join(name), name, finder, read);
                    if sender.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for result in results {
            let (entry, skips) = result?;
            skips.iter().for_each(&mut *found);
            statistics.add(&entry);
            journal.append(entry)?;
        }
        Ok(())
    })?;
    journal.finish()?;
    Ok(statistics)
}

/// File names of the shards, which must differ, for all go into one folder.
fn names(shards: &[PathBuf], folder: &Path) -> Result<Vec<String>, Error> {
    let mut seen: HashMap<String, &Path> = HashMap::new();
    let mut names = Vec::with_capacity(shards.len());
    for shard in shards {
        let name = shard.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(first) = seen.insert(name.clone(), shard) {
            let problem = format!("{} and {} have the same name", first.display(), shard.display());
            return Err(shard_writer::Error::Invalid { path: folder.into(), problem }.into());
        }
        names.push(name);
    }
    Ok(names)
}

/// Words take a hundred times their bytes while they are looked at.
const MAX_CAPTION_BYTES: usize = 64 << 10;

/// The whole path of a shard.
fn origin(shard: &Path) -> String {
    fs::canonicalize(shard).unwrap_or_else(|_| shard.into()).to_string_lossy().into_owned()
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

fn add_to_shard(
    shard: &Path,
    output: &Path,
    name: &str,
    finder: &PhraseFinder,
    read: &dyn Fn(u64),
) -> Result<(ShardEntry, Vec<Skip>), Error> {
    let input_bytes = fs::metadata(shard).map_err(|reason| Error::Io { path: shard.into(), reason })?.len();
    let mut entry = ShardEntry { shard: name.into(), input: origin(shard), input_bytes, ..ShardEntry::default() };
    let [mut captions_per_sample, mut caption_words, mut phrases_per_sample, mut phrase_words] =
        std::array::from_fn(|_| Histogram::default());
    let record_of = |sample: &RawSample| -> Result<Vec<u8>, Skip> {
        let record = read_record(sample)?;
        let captions = read_captions(sample, &record)?;
        if captions.is_empty() {
            return Err(sample.skip(SkipReason::NoCaption, "neither .txt nor .json has a caption"));
        }
        if let Some(caption) = captions.iter().find(|caption| caption.len() > MAX_CAPTION_BYTES) {
            let detail = format!("a caption of {} bytes; more than {MAX_CAPTION_BYTES} are none", caption.len());
            return Err(sample.skip(SkipReason::MemberTooLarge, detail));
        }
        let phrases = finder.find(&sample.key, &captions);
        let text = serde_json::to_string(&phrases.kept).expect("strings are JSON");
        let old = sample.members.get("json").map_or(b"{}".as_slice(), Vec::as_slice);
        let new = with_key(old, KEY, &text)
            .ok_or_else(|| sample.skip(SkipReason::BadJson, "the .json member: it is no object"))?;
        captions_per_sample.add(captions.len() as u64);
        captions.iter().for_each(|caption| caption_words.add(words(caption)));
        phrases_per_sample.add(phrases.kept.len() as u64);
        phrases.kept.iter().for_each(|phrase| phrase_words.add(words(phrase)));
        entry.found += phrases.found;
        entry.stop_words += phrases.stop_words;
        entry.beyond_limit += phrases.beyond_limit;
        Ok(new)
    };
    let rewritten = rewrite_shard(shard, output, &MEMBERS, record_of, read)?;
    entry.samples = rewritten.samples;
    entry.bytes = rewritten.bytes;
    for skip in &rewritten.skips {
        *entry.problems.entry(skip.reason.to_string()).or_default() += 1;
    }
    entry.captions_per_sample = captions_per_sample.counts();
    entry.caption_words = caption_words.counts();
    entry.phrases_per_sample = phrases_per_sample.counts();
    entry.phrase_words = phrase_words.counts();
    Ok((entry, rewritten.skips))
}

#[cfg(test)]
#[path = "phrases_tests.rs"]
mod tests;
