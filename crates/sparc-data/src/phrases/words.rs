//! Captions to words, as NLTK's `word_tokenize` does it: sentences, and in each the Penn Treebank's tokens.
//!
//! The tokens are those of NLTK's `NLTKWordTokenizer`, whose rules are applied in its order. Sentences end as
//! NLTK's Punkt ends them in text of lower case if it has been trained on nothing and knows the abbreviations of
//! `data/abbreviations.txt`; the trained Punkt that `word_tokenize` loads knows others.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::characters::{is_digit, is_space, is_word};
use super::embedded;

/// The words of a caption, none of them empty.
pub fn words(text: &str) -> Vec<String> {
    sentences(text).into_iter().flat_map(tokens).collect()
}

/// The sentences of a text, without the space around them.
fn sentences(text: &str) -> Vec<&str> {
    let text = text.trim_matches(is_space);
    let (mut sentences, mut start) = (Vec::new(), 0);
    let mut rest = text;
    while let Some(space) = rest.find(is_space) {
        let end = text.len() - rest.len() + space;
        rest = rest[space..].trim_start_matches(is_space);
        let word = text[..end].rsplit(is_space).next().unwrap_or_default();
        if end > start && ends_sentence(word, rest) {
            // Quotes and brackets that close and stand alone belong to the sentence before.
            let next = rest.trim_start_matches(['"', '\'', ')', ']', '}']);
            let stands_alone = next.is_empty() || next.starts_with("--") || next.starts_with(is_space);
            let next = if stands_alone { next } else { rest };
            let end = if next.len() < rest.len() { text.len() - next.len() } else { end };
            sentences.push(&text[start..end]);
            start = text.len() - next.trim_start_matches(is_space).len();
        }
    }
    sentences.push(&text[start..]);
    sentences
}

/// What begins a word of its own behind other characters.
const INSIDE: [char; 14] = [')', '"', ';', '}', ']', '*', ':', '@', '\'', '(', '{', '[', '!', '?'];
/// What is a word alone.
const ALONE: [char; 16] = ['(', '"', '`', '{', '[', ':', ';', '&', '#', '*', '@', ')', '}', ']', '-', ','];

/// Whether a sentence ends with a word before `rest`.
fn ends_sentence(word: &str, rest: &str) -> bool {
    static ABBREVIATIONS: LazyLock<HashSet<&str>> = LazyLock::new(embedded::abbreviations);
    let word = word.trim_end_matches(['"', '\'', ')', ']', '}', '”', '’', '»']);
    if word.ends_with(['?', '!']) {
        return true;
    }
    let Some(stem) = word.strip_suffix('.') else {
        return false;
    };
    if stem.ends_with('.') {
        // Three dots, or two, are a pause.
        return false;
    }
    // Of what stands without a space between, the last word.
    let after = |text: &str, mark: &str| text.rfind(mark).map_or(0, |place| place + mark.len());
    let stem = &stem[stem.rfind(INSIDE).unwrap_or(0)..];
    let stem = &stem[after(stem, "..")..];
    let stem = stem[after(stem, "--")..].trim_start_matches(ALONE).to_lowercase();
    let after_hyphen = stem.rsplit('-').next().unwrap_or_default();
    if ABBREVIATIONS.contains(stem.as_str()) || ABBREVIATIONS.contains(after_hyphen) {
        return false;
    }
    let is_initial = stem.chars().count() == 1 && stem.chars().all(|c| is_word(c) && !is_digit(c));
    if !is_initial && !is_number(&stem) {
        return true;
    }
    // `j. smith` and `no 5. and` go on.
    let mut next = rest.chars();
    let first = next.next().unwrap_or_default();
    let is_alone = next.next().is_none_or(|c| is_space(c) || INSIDE.contains(&c));
    let is_punctuation = matches!(first, ',' | ';' | ':') || (is_alone && matches!(first, '.' | '!' | '?'));
    !(is_punctuation || first.is_lowercase() || (is_initial && first.is_uppercase()))
}

/// Digits, with points, commas and hyphens behind the first one.
fn is_number(word: &str) -> bool {
    let word = word.strip_prefix(['.', ',']).unwrap_or(word);
    word.starts_with(is_digit) && word.chars().all(|c| is_digit(c) || matches!(c, '.' | ',' | '-'))
}

/// A rule of the tokenizer: what is found is replaced everywhere.
struct Rule(Regex, &'static str);

/// Rules in their order, compiled once.
fn rules(list: &[(&str, &'static str)]) -> Vec<Rule> {
    list.iter().map(|(pattern, with)| Rule(Regex::new(pattern).expect("a constant pattern"), with)).collect()
}

/// Quotes that open.
static OPENING: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[("[«“‘„]|`+", " ${0} "), ("^\"", "``"), ("``", " ${0} "), ("([ (\\[{<])(?:\"|'')", "${1} `` ")])
});

/// Punctuation, parentheses, dashes.
static PUNCTUATION: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        // The full stop at the end, and what closes after it.
        ("([^.])\\.([\\])}>\"'»”’ ]*)[\\s\u{1c}-\u{1f}]*$", "${1} . ${2} "),
        (r"([:,])(\D)", " ${1} ${2}"),
        (r"([:,])$", " ${1} "),
        (r"\.{2,}", " ${0} "),
        (r"[;@#$%&]", " ${0} "),
        (r"[\u{2012}-\u{2015}]", " ${0} "),
        ("([^.])\\.([\\])}>\"']*)[\\s\u{1c}-\u{1f}]*$", "${1} .${2} "),
        (r"[?!]", " ${0} "),
        (r"([^'])' ", "${1} ' "),
        (r"\*", " ${0} "),
        (r"[\]\[(){}<>]", " ${0} "),
        (r"--", " ${0} "),
    ])
});

/// Quotes that close, and what is written together with the word before it. The text has a space at both ends.
static CLOSING: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        ("[»”’]", " ${0} "),
        ("''", " '' "),
        ("\"", " '' "),
        ("[\\s\u{1c}-\u{1f}]+", " "),
        ("([^' ])('[sS]|'[mM]|'[dD]|') ", "${1} ${2} "),
        ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "${1} ${2} "),
    ])
});

/// Whether one of [`CONTRACTIONS`] could be there, which is rare.
static MAY_CONTRACT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("(?i)cannot|d'ye|gimme|gonna|gotta|lemme|more'n|wanna|'tis|'twas").expect("a constant pattern")
});

/// Two words in one.
static CONTRACTIONS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"(?i)\b(can)(not)\b", " ${1} ${2} "),
        (r"(?i)\b(d)('ye)\b", " ${1} ${2} "),
        (r"(?i)\b(gim)(me)\b", " ${1} ${2} "),
        (r"(?i)\b(gon)(na)\b", " ${1} ${2} "),
        (r"(?i)\b(got)(ta)\b", " ${1} ${2} "),
        (r"(?i)\b(lem)(me)\b", " ${1} ${2} "),
        (r"(?i)\b(more)('n)\b", " ${1} ${2} "),
        (r"(?i)\b(wan)(na)(\s)", " ${1} ${2} ${3}"),
        (r"(?i) ('t)(is)\b", " ${1} ${2} "),
        (r"(?i) ('t)(was)\b", " ${1} ${2} "),
    ])
});

/// The Treebank's tokens of one sentence.
fn tokens(sentence: &str) -> Vec<String> {
    let mut text = apply(&OPENING, sentence.to_owned());
    text = free_apostrophes(text);
    text = apply(&PUNCTUATION, text);
    text = apply(&CLOSING, format!(" {text} "));
    if MAY_CONTRACT.is_match(&text) {
        text = apply(&CONTRACTIONS, text);
    }
    text.split(is_space).filter(|token| !token.is_empty()).map(ToOwned::to_owned).collect()
}

fn apply(rules: &[Rule], mut text: String) -> String {
    for Rule(pattern, with) in rules {
        if let Cow::Owned(changed) = pattern.replace_all(&text, *with) {
            text = changed;
        }
    }
    text
}

/// Sets off an apostrophe before a word, as a quote that opens, unless it begins one of the short forms.
fn free_apostrophes(text: String) -> String {
    if !text.contains('\'') {
        return text;
    }
    let mut freed = String::with_capacity(text.len() + 8);
    let mut before = None;
    for (place, c) in text.char_indices() {
        freed.push(c);
        if c == '\'' && !before.is_some_and(is_word) {
            let rest = &text[place + 1..];
            let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            let is_short =
                ["re", "ve", "ll", "m", "t", "s", "d", "n"].iter().any(|short| word.eq_ignore_ascii_case(short));
            if !word.is_empty() && !is_short {
                freed.push(' ');
            }
        }
        before = Some(c);
    }
    freed
}
