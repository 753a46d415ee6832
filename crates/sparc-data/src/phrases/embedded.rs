//! The word lists and the tagger's weights inside the program. `data/make_weights.py` says where the
//! weights come from; their licence lies beside them.

use std::collections::HashSet;
use std::io::Read;

use flate2::read::GzDecoder;

/// The weights, for people.
pub(super) const NAME: &str = "textblob-aptagger 0.2.0";

const WEIGHTS: [&[u8]; 2] = [include_bytes!("data/weights_word.tsv.gz"), include_bytes!("data/weights_context.tsv.gz")];
const TAG_DICTIONARY: &[u8] = include_bytes!("data/tagdict.tsv.gz");
const CLASSES: &str = include_str!("data/classes.txt");
const STOP_WORDS: &str = include_str!("data/stop_words.txt");
const GENERIC_WORDS: &str = include_str!("data/generic_words.txt");
const ABBREVIATIONS: &str = include_str!("data/abbreviations.txt");

/// Lines of a feature, a tab, and labels with their weights in thousandths.
pub(super) fn weights() -> Vec<String> {
    WEIGHTS.iter().map(|file| unpacked(file)).collect()
}

/// Lines of a word, a tab and its tag.
pub(super) fn tag_dictionary() -> String {
    unpacked(TAG_DICTIONARY)
}

/// The labels of the tagger.
pub(super) fn classes() -> Vec<&'static str> {
    CLASSES.lines().collect()
}

/// Words of which a phrase must have others too (OWLv2, appendix A.2).
pub(super) fn stop_words() -> HashSet<&'static str> {
    listed(STOP_WORDS)
}

/// Words that say nothing of what an image shows (OWLv2, appendix A.2).
pub(super) fn generic_words() -> HashSet<&'static str> {
    listed(GENERIC_WORDS)
}

/// Words whose full stop does not end a sentence, without that stop.
pub(super) fn abbreviations() -> HashSet<&'static str> {
    listed(ABBREVIATIONS)
}

/// All lists in one text, to tell whether they have changed.
pub(super) fn all_lists() -> [&'static str; 3] {
    [STOP_WORDS, GENERIC_WORDS, ABBREVIATIONS]
}

fn listed(list: &'static str) -> HashSet<&'static str> {
    list.lines().filter(|line| !line.starts_with('#')).collect()
}

fn unpacked(file: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).expect("a file that is compiled in is whole");
    text
}
