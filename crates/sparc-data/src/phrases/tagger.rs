//! The greedy averaged perceptron for English parts of speech (Honnibal 2013), as TextBlob's aptagger and
//! NLTK's `PerceptronTagger` compute it: the same features, sums in the same order, the same ties.
//!
//! A word of the tag dictionary has its tag. Any other gets the label with the largest sum of weights over
//! fourteen features of itself, two neighbours on each side and the two tags before it. Weights are looked
//! up by feature there, with a string made for each; here each word is looked up once, and brings the
//! weights of all features that it can take part in.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use sparc_core::seed;

use super::characters::is_digit;
use super::embedded;
use crate::error::Error;

/// What stands before the first word. As tags the first is the nearer one; as words, the second is.
const START: [&str; 2] = ["-START-", "-START2-"];
/// What stands after the last word.
const END: [&str; 2] = ["-END-", "-END2-"];

/// A part of speech by its number in [`Tagger::tags`].
type TagId = u16;

/// Where the weights of a feature lie in [`Tagger::weights`]; nowhere, if none were learned.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    start: u32,
    end: u32,
}

/// The rows of all features that hold one string and nothing else.
#[derive(Debug, Clone, Copy, Default)]
struct TextRows {
    suffix: Row,
    first_letter: Row,
    word: Row,
    previous_word: Row,
    previous_suffix: Row,
    word_before_previous: Row,
    next_word: Row,
    next_suffix: Row,
    word_after_next: Row,
}

/// The rows of all features that hold one tag and nothing else.
#[derive(Debug, Clone, Copy, Default)]
struct TagRows {
    previous: Row,
    before_previous: Row,
}

/// A trained tagger.
#[derive(Debug)]
pub struct Tagger {
    /// Where it comes from, for people.
    source: String,
    fingerprint: u64,
    /// The labels in the order of their names, then tags that features or the dictionary name besides.
    tags: Vec<String>,
    n_labels: usize,
    start: [TagId; 2],
    dictionary: HashMap<Box<str>, TagId>,
    weights: Vec<(TagId, f64)>,
    bias: Row,
    texts: HashMap<Box<str>, u32>,
    text_rows: Vec<TextRows>,
    tag_rows: Vec<TagRows>,
    tag_pairs: HashMap<(TagId, TagId), Row>,
    tag_and_word: HashMap<(TagId, u32), Row>,
}

impl Tagger {
    /// The tagger inside the program: the weights of textblob-aptagger 0.2.0.
    pub fn embedded() -> Tagger {
        let (weights, dictionary, classes) = (embedded::weights(), embedded::tag_dictionary(), embedded::classes());
        let mut builder = Builder::new(embedded::NAME.into(), classes.iter().map(ToString::to_string));
        weights.iter().flat_map(|file| file.lines()).for_each(|line| {
            let (feature, labels) = line.split_once('\t').unwrap_or((line, ""));
            let mut fields = labels.split(' ');
            // Thousandths; a division gives the very number that the decimals stand for.
            let labels = std::iter::from_fn(|| Some((fields.next()?, fields.next()?.parse::<i32>().ok()?)));
            let labels = labels.map(|(label, thousandths)| (label, f64::from(thousandths) / 1000.0));
            let known = builder.feature(feature, labels);
            debug_assert!(known, "{feature}");
        });
        for (word, tag) in dictionary.lines().filter_map(|line| line.split_once('\t')) {
            builder.known_word(word, tag);
        }
        let parts: Vec<&[u8]> = weights.iter().map(String::as_bytes).chain([dictionary.as_bytes()]).collect();
        builder.finish(seed::derive(0, &parts))
    }

    /// A tagger in NLTK's three files of JSON, such as `averaged_perceptron_tagger_eng.weights.json` with
    /// `….tagdict.json` and `….classes.json`.
    ///
    /// # Errors
    ///
    /// A folder without one of each, a file that is not what NLTK writes, or a feature that is none of
    /// the tagger's.
    pub fn load(folder: &Path) -> Result<Tagger, Error> {
        let files = [".weights.json", ".tagdict.json", ".classes.json"].map(|ending| only_file(folder, ending));
        let [weights_file, dictionary_file, classes_file] = files;
        let (weights_file, dictionary_file, classes_file) = (weights_file?, dictionary_file?, classes_file?);
        let (classes, hash) = read_json::<Vec<String>>(&classes_file)?;
        let mut hashes = vec![hash];
        if classes.is_empty() || classes.len() > usize::from(TagId::MAX) / 2 {
            return Err(unusable(&classes_file, format!("{} labels", classes.len())));
        }
        let mut builder = Builder::new(folder.display().to_string(), classes.into_iter());
        let (weights, hash) = read_json::<HashMap<String, HashMap<String, f64>>>(&weights_file)?;
        hashes.push(hash);
        let entries: usize = weights.values().map(HashMap::len).sum();
        if u32::try_from(entries).is_err() {
            return Err(unusable(&weights_file, format!("{entries} weights are too many")));
        }
        // Sorted, so that a file with a fault is refused for the same one every time.
        let mut features: Vec<_> = weights.iter().collect();
        features.sort_unstable_by_key(|(feature, _)| feature.as_str());
        for (feature, labels) in features {
            if !builder.feature(feature, labels.iter().map(|(label, &weight)| (label.as_str(), weight))) {
                let reason =
                    format!("it has the feature {feature:?}, which is none of the averaged perceptron tagger's");
                return Err(unusable(&weights_file, reason));
            }
        }
        let (dictionary, hash) = read_json::<HashMap<String, String>>(&dictionary_file)?;
        hashes.push(hash);
        for (word, tag) in &dictionary {
            builder.known_word(word, tag);
        }
        if builder.tags.len() > usize::from(TagId::MAX) {
            return Err(unusable(&weights_file, format!("{} different tags", builder.tags.len())));
        }
        let hashes: Vec<[u8; 8]> = hashes.into_iter().map(u64::to_le_bytes).collect();
        let words: Vec<&[u8]> = hashes.iter().map(<[u8; 8]>::as_slice).collect();
        Ok(builder.finish(seed::derive(0, &words)))
    }

    /// Where the weights come from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// A number that changes with the weights.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The part of speech of every word, in Penn Treebank's tags. Words are read as they are written; none
    /// may be empty.
    pub fn tag<S: AsRef<str>>(&self, words: &[S]) -> Vec<&str> {
        let outside = |text: &&str| Context::of(self, text);
        let mut context: Vec<Context> = START.iter().map(outside).collect();
        context.extend(words.iter().map(|word| Context::of(self, &normalised(word.as_ref()))));
        context.extend(END.iter().map(outside));
        let mut scores = vec![0.0; self.tags.len()];
        let [mut previous, mut before_previous] = self.start;
        let mut tags = Vec::with_capacity(words.len());
        for (index, word) in words.iter().enumerate() {
            let word = word.as_ref();
            let tag = match self.dictionary.get(word) {
                Some(&tag) => tag,
                None => {
                    let around = &context[index..index + 5];
                    self.best(word, around, previous, before_previous, &mut scores)
                }
            };
            tags.push(self.tags[usize::from(tag)].as_str());
            (before_previous, previous) = (previous, tag);
        }
        tags
    }

    /// The label with the largest score; of equal ones the last by name.
    fn best(&self, word: &str, around: &[Context], tag1: TagId, tag2: TagId, scores: &mut [f64]) -> TagId {
        let text = |text: &str| self.texts.get(text).map_or(TextRows::default(), |&id| self.text_rows[id as usize]);
        let tag = |tag: TagId| self.tag_rows[usize::from(tag)];
        let [two_before, before, this, after, two_after] = [0, 1, 2, 3, 4].map(|place: usize| &around[place]);
        let pair = |word: u32| self.tag_and_word.get(&(tag1, word)).copied().unwrap_or_default();
        // In the order of the original: sums of rounded numbers depend on it.
        let rows = [
            self.bias,
            text(suffix(word)).suffix,
            text(first_letter(word)).first_letter,
            tag(tag1).previous,
            tag(tag2).before_previous,
            self.tag_pairs.get(&(tag1, tag2)).copied().unwrap_or_default(),
            this.word.word,
            this.id.map_or(Row::default(), pair),
            before.word.previous_word,
            before.suffix.previous_suffix,
            two_before.word.word_before_previous,
            after.word.next_word,
            after.suffix.next_suffix,
            two_after.word.word_after_next,
        ];
        scores.fill(0.0);
        for Row { start, end } in rows {
            for &(label, weight) in &self.weights[start as usize..end as usize] {
                scores[usize::from(label)] += weight;
            }
        }
        let mut best = 0;
        for label in 1..self.n_labels {
            if scores[label] >= scores[best] {
                best = label;
            }
        }
        best as TagId
    }
}

/// What a word brings to its neighbours' features.
struct Context {
    id: Option<u32>,
    word: TextRows,
    suffix: TextRows,
}

impl Context {
    fn of(tagger: &Tagger, word: &str) -> Context {
        let id = |text: &str| tagger.texts.get(text).copied();
        let rows = |id: Option<u32>| id.map_or(TextRows::default(), |id| tagger.text_rows[id as usize]);
        Context { id: id(word), word: rows(id(word)), suffix: rows(id(suffix(word))) }
    }
}

/// Numbers and words with hyphens as kinds, others in lower case.
fn normalised(word: &str) -> String {
    let mut digits = word.chars().map(is_digit);
    if word.contains('-') && !word.starts_with('-') {
        "!HYPHEN".into()
    } else if word.chars().count() == 4 && digits.clone().all(|digit| digit) {
        "!YEAR".into()
    } else if digits.next() == Some(true) {
        "!DIGITS".into()
    } else {
        word.to_lowercase()
    }
}

/// The last three characters, or all.
fn suffix(word: &str) -> &str {
    word.char_indices().nth_back(2).map_or(word, |(start, _)| &word[start..])
}

fn first_letter(word: &str) -> &str {
    word.chars().next().map_or("", |first| &word[..first.len_utf8()])
}

/// Gathers weights by feature.
struct Builder {
    tagger: Tagger,
    tags: HashMap<String, TagId>,
}

impl Builder {
    fn new(source: String, labels: impl Iterator<Item = String>) -> Builder {
        let mut labels: Vec<String> = labels.collect();
        labels.sort_unstable();
        labels.dedup();
        let mut builder = Builder {
            tagger: Tagger {
                source,
                fingerprint: 0,
                tags: Vec::new(),
                n_labels: labels.len(),
                start: [0; 2],
                dictionary: HashMap::new(),
                weights: Vec::new(),
                bias: Row::default(),
                texts: HashMap::new(),
                text_rows: Vec::new(),
                tag_rows: Vec::new(),
                tag_pairs: HashMap::new(),
                tag_and_word: HashMap::new(),
            },
            tags: HashMap::new(),
        };
        for label in &labels {
            builder.tag(label);
        }
        builder.tagger.start = START.map(|tag| builder.tag(tag));
        builder
    }

    fn tag(&mut self, tag: &str) -> TagId {
        if let Some(&id) = self.tags.get(tag) {
            return id;
        }
        // Too many tags are refused once all are known.
        let id = self.tagger.tags.len().min(usize::from(TagId::MAX)) as TagId;
        self.tags.insert(tag.into(), id);
        self.tagger.tags.push(tag.into());
        self.tagger.tag_rows.push(TagRows::default());
        id
    }

    fn text(&mut self, text: &str) -> u32 {
        if let Some(&id) = self.tagger.texts.get(text) {
            return id;
        }
        let id = self.tagger.text_rows.len() as u32;
        self.tagger.texts.insert(text.into(), id);
        self.tagger.text_rows.push(TextRows::default());
        id
    }

    fn known_word(&mut self, word: &str, tag: &str) {
        // The original takes an empty tag for none.
        if !tag.is_empty() {
            let tag = self.tag(tag);
            self.tagger.dictionary.insert(word.into(), tag);
        }
    }

    /// Whether `feature` is one of the tagger's fourteen.
    fn feature<'a>(&mut self, feature: &str, labels: impl Iterator<Item = (&'a str, f64)>) -> bool {
        let start = self.tagger.weights.len() as u32;
        for (label, weight) in labels {
            let label = self.tag(label);
            self.tagger.weights.push((label, weight));
        }
        let row = Row { start, end: self.tagger.weights.len() as u32 };
        if feature == "bias" {
            self.tagger.bias = row;
            return true;
        }
        let argument = |name: &str| feature.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
        type Place = fn(&mut TextRows) -> &mut Row;
        let places: [(&str, Place); 9] = [
            ("i suffix", |rows| &mut rows.suffix),
            ("i pref1", |rows| &mut rows.first_letter),
            ("i word", |rows| &mut rows.word),
            ("i-1 word", |rows| &mut rows.previous_word),
            ("i-1 suffix", |rows| &mut rows.previous_suffix),
            ("i-2 word", |rows| &mut rows.word_before_previous),
            ("i+1 word", |rows| &mut rows.next_word),
            ("i+1 suffix", |rows| &mut rows.next_suffix),
            ("i+2 word", |rows| &mut rows.word_after_next),
        ];
        if let Some((text, place)) = places.iter().find_map(|(name, place)| Some((argument(name)?, place))) {
            let id = self.text(text);
            *place(&mut self.tagger.text_rows[id as usize]) = row;
        } else if let Some(tag) = argument("i-1 tag") {
            let tag = self.tag(tag);
            self.tagger.tag_rows[usize::from(tag)].previous = row;
        } else if let Some(tag) = argument("i-2 tag") {
            let tag = self.tag(tag);
            self.tagger.tag_rows[usize::from(tag)].before_previous = row;
        } else if let Some((tag1, tag2)) = argument("i tag+i-2 tag").and_then(|tags| tags.split_once(' ')) {
            let tags = (self.tag(tag1), self.tag(tag2));
            self.tagger.tag_pairs.insert(tags, row);
        } else if let Some((tag, word)) = argument("i-1 tag+i word").and_then(|both| both.split_once(' ')) {
            let both = (self.tag(tag), self.text(word));
            self.tagger.tag_and_word.insert(both, row);
        } else {
            return false;
        }
        true
    }

    fn finish(mut self, fingerprint: u64) -> Tagger {
        self.tagger.fingerprint = fingerprint;
        self.tagger
    }
}

fn unusable(path: &Path, reason: String) -> Error {
    Error::Tagger { path: path.into(), reason }
}

/// The one file of a folder whose name ends so.
fn only_file(folder: &Path, ending: &str) -> Result<PathBuf, Error> {
    let entries = fs::read_dir(folder).map_err(|reason| Error::Io { path: folder.into(), reason })?;
    let names = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut found: Vec<PathBuf> = names.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    match (found.pop(), found.len()) {
        (Some(path), 0) => Ok(path),
        (_, more) => {
            let reason = format!(
                "it has {} files that end in {ending}; one of each of NLTK's .weights.json, .tagdict.json and \
                 .classes.json must be there",
                if more == 0 { "no".into() } else { (more + 1).to_string() }
            );
            Err(unusable(folder, reason))
        }
    }
}

/// The contents of a file, and a hash of its bytes.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<(T, u64), Error> {
    let bytes = fs::read(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
    let value = serde_json::from_slice(&bytes).map_err(|error| unusable(path, error.to_string()))?;
    Ok((value, seed::derive(0, &[&bytes])))
}
