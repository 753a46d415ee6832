//! Penn-Treebank tokens as captions are scored on them: lower case, without punctuation.
//!
//! COCO captions are scored on the tokens of Stanford's `PTBTokenizer` (CoreNLP 3.4.1, with
//! `-preserveLines -lowerCase`), from which pycocoevalcap 1.2 then drops fifteen punctuation tokens. This
//! is that behaviour without Java, written from what the program answers to probes, not from its grammar.
//!
//! At each place several rules look for a token; the one that reads furthest wins (a rule may read further
//! than its token reaches), and among equals the first of the list.
//!
//! # What may surprise
//!
//! - Parentheses stay: the list has `-LRB-`, but lower-casing has made it `-lrb-`. So do `!!` and `?!`.
//! - Clitics are tokens (`does n't`, `man 's`), and so are the halves of `cannot`, `gonna`, `lemme`.
//! - A missing space after a full stop makes one token: `street.a`.
//! - Fractions, phone numbers and tags keep their spaces as no-break spaces, `23\u{a0}3/4`. The n-gram
//!   metrics split there again and ROUGE-L does not, as in pycocoevalcap.
//! - Emoji and other characters without a rule separate words and vanish.
//!
//! # Where it differs
//!
//! The program reads all captions as one text, so the first word of the *next* caption can decide whether
//! a final `S.` keeps its full stop. Here every caption is tokenised alone.

mod abbreviations;
mod apostrophes;
mod characters;
mod compounds;
mod numbers;
mod symbols;
mod words;

/// What a rule found at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    /// Characters read, those behind the token that had to be there included: the furthest reader wins.
    read: usize,
    /// Characters of the token.
    length: usize,
}

impl Found {
    /// A token that needs nothing behind it.
    fn plain(length: usize) -> Option<Found> {
        (length > 0).then_some(Found { read: length, length })
    }

    /// A token of `length` characters with `context` more behind it.
    fn before(length: usize, context: usize) -> Option<Found> {
        (length > 0).then_some(Found { read: length + context, length })
    }
}

/// A rule reads the text from its start.
type Rule = fn(&[char]) -> Option<Found>;

/// All rules; earlier ones win ties.
const RULES: [Rule; 26] = [
    symbols::tag,
    apostrophes::before_not,
    apostrophes::before_clitic,
    words::word,
    words::dotted,
    apostrophes::not,
    apostrophes::clitic,
    apostrophes::elision,
    apostrophes::apostrophe_word,
    apostrophes::year,
    compounds::address,
    compounds::web_page,
    compounds::email,
    compounds::file_name,
    compounds::handle,
    words::hyphenated,
    words::underscored,
    words::slashed,
    abbreviations::acronym,
    abbreviations::abbreviation,
    words::before_stop_and_comma,
    numbers::number,
    numbers::fraction,
    numbers::phone,
    symbols::company,
    symbols::symbol,
];

/// The tokens of a caption that scores count, joined by single spaces; empty if there is none.
pub fn ptb_tokenize(caption: &str) -> String {
    let characters: Vec<char> = caption.chars().collect();
    let mut tokens = Vec::new();
    let mut rest = characters.as_slice();
    while let Some(&first) = rest.first() {
        if characters::is_dropped(first) {
            rest = &rest[1..];
            continue;
        }
        let length = furthest(rest).unwrap_or(1);
        let (token, behind) = rest.split_at(length);
        rest = behind;
        tokens.extend(spell(token).into_iter().filter(|token| !is_punctuation(token)));
    }
    tokens.join(" ")
}

fn furthest(rest: &[char]) -> Option<usize> {
    let mut best: Option<Found> = None;
    for found in RULES.iter().filter_map(|rule| rule(rest)) {
        if best.is_none_or(|best| found.read > best.read) {
            best = Some(found);
        }
    }
    best.map(|found| found.length)
}

/// A token as it is written out: lower case, in the Treebank's spelling, two words where it splits.
fn spell(token: &[char]) -> Vec<String> {
    let token = symbols::spelling(token);
    if token.is_empty() {
        return Vec::new(); // a lone soft hyphen
    }
    let lower = token.to_lowercase();
    match apostrophes::halves(&lower) {
        Some((first, second)) => vec![first.to_owned(), second.to_owned()],
        None => vec![lower],
    }
}

/// The tokens that pycocoevalcap drops. Its list also names brackets, in upper case, which never occur.
fn is_punctuation(token: &str) -> bool {
    matches!(token, "''" | "'" | "``" | "`" | "." | "?" | "!" | "," | ":" | "-" | "--" | "..." | ";")
}

#[cfg(test)]
mod tests;
