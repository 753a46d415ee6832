//! Words, and what full stops, hyphens, underscores and slashes make of several.

use super::Found;
use super::abbreviations::initials;
use super::apostrophes::elided;
use super::characters::{is_digit, is_letter, is_mark, is_word, run};

/// Length of the word at the start: letters with digits and marks, or digits with letters. An accented
/// letter may be written as an entity, `caf&eacute;`.
pub(super) fn word_length(text: &[char]) -> usize {
    if text.first().is_some_and(|&first| is_digit(first)) {
        return run(text, is_word);
    }
    let mut length = 0;
    loop {
        length += run(&text[length..], |c| is_word(c) || is_mark(c));
        match accent_entity(&text[length..]) {
            0 => return length,
            entity => length += entity,
        }
    }
}

/// Length of `&eacute;` and the like; 0 if there is none.
fn accent_entity(text: &[char]) -> usize {
    let is_vowel = |c: &char| "aeiou".contains(c.to_ascii_lowercase());
    if text.first() != Some(&'&') || !text.get(1).is_some_and(is_vowel) {
        return 0;
    }
    let name: String = text[2..].iter().take_while(|c| c.is_ascii_alphabetic()).collect();
    let is_entity =
        matches!(name.as_str(), "acute" | "grave" | "uml" | "circ") && text.get(2 + name.len()) == Some(&';');
    if is_entity { name.len() + 3 } else { 0 }
}

/// `dog`, `4x4`, `café`.
pub(super) fn word(text: &[char]) -> Option<Found> {
    Found::plain(word_length(text))
}

/// `street.a`, `foo.com`, `wait!what`: words without a space between; each begins with a letter.
pub(super) fn dotted(text: &[char]) -> Option<Found> {
    let mut end = letter_word(text);
    let mut n_parts = usize::from(end > 0);
    while n_parts > 0 && text.get(end).is_some_and(|c| ".!?".contains(*c)) {
        let part = letter_word(&text[end + 1..]);
        if part == 0 {
            break;
        }
        end += 1 + part;
        n_parts += 1;
    }
    if n_parts > 1 { Found::plain(end) } else { None }
}

fn letter_word(text: &[char]) -> usize {
    if text.first().is_some_and(|&c| is_letter(c)) { run(text, is_word) } else { 0 }
}

/// `black-and-white`, `1,000-foot`, `non-U.S.`, `x-o'clock`, and the lone prefixes `anti-` and `pro-`.
pub(super) fn hyphenated(text: &[char]) -> Option<Found> {
    let first = elided(text).max(part_with_stops(text));
    let end = hyphen_parts(text, first);
    if end > first {
        return Found::plain(end);
    }
    let is_prefix = ["anti-", "pro-"].into_iter().find(|prefix| super::characters::starts_with(text, prefix));
    is_prefix.and_then(|prefix| Found::plain(prefix.len()))
}

/// A word, or an ASCII one with full stops and commas in or behind it.
fn part_with_stops(text: &[char]) -> usize {
    let starts = text.first().is_some_and(char::is_ascii_alphanumeric);
    let with_stops = if starts { run(text, |c| c.is_ascii_alphanumeric() || ".,".contains(c)) } else { 0 };
    let has_hyphen = text.get(with_stops).is_some_and(|&c| is_hyphen(c));
    if has_hyphen { with_stops } else { run(text, is_word) }
}

/// The end of the hyphens and parts that follow `first` characters.
fn hyphen_parts(text: &[char], first: usize) -> usize {
    let mut end = first;
    while first > 0 && text.get(end).is_some_and(|&c| is_hyphen(c)) {
        let rest = &text[end + 1..];
        let part = run(rest, is_word).max(initials(rest)).max(elided(rest));
        if part == 0 {
            break;
        }
        end += 1 + part;
    }
    end
}

fn is_hyphen(character: char) -> bool {
    matches!(character, '-' | '\u{58a}' | '\u{2010}' | '\u{2011}')
}

/// `garbage_bin`, `hot-dog_stand`.
pub(super) fn underscored(text: &[char]) -> Option<Found> {
    let mut end = elided(text).max(run(text, is_word));
    while end > 0 && text.get(end).is_some_and(|&c| is_hyphen(c) || c == '_') {
        let rest = &text[end + 1..];
        let part = run(rest, is_word).max(elided(rest));
        if part == 0 {
            break;
        }
        end += 1 + part;
    }
    Found::plain(end)
}

/// `and/or`, `24/7`, `black-and-white/red`: ASCII, at most two slashes and two hyphens in a part.
pub(super) fn slashed(text: &[char]) -> Option<Found> {
    let mut end = slash_part(text);
    let mut n_slashes = 0;
    while end > 0 && n_slashes < 2 {
        let slash = if text[end..].starts_with(&['\\', '/']) { 2 } else { usize::from(text.get(end) == Some(&'/')) };
        let part = if slash > 0 { slash_part(&text[end + slash..]) } else { 0 };
        if part == 0 {
            break;
        }
        end += slash + part;
        n_slashes += 1;
    }
    if n_slashes > 0 { Found::plain(end) } else { None }
}

fn slash_part(text: &[char]) -> usize {
    let mut end = run(text, |c| c.is_ascii_alphanumeric());
    for _ in 0..2 {
        if end == 0 || text.get(end) != Some(&'-') {
            break;
        }
        match run(&text[end + 1..], |c| c.is_ascii_alphabetic()) {
            0 => break,
            part => end += 1 + part,
        }
    }
    end
}

/// A word keeps its full stop where a comma, colon or semicolon follows at once: it was an abbreviation.
pub(super) fn before_stop_and_comma(text: &[char]) -> Option<Found> {
    let candidates = [word(text), dotted(text), underscored(text), hyphenated(text)];
    let end = candidates.into_iter().flatten().map(|found| found.length).max()?;
    let stops = text.get(end) == Some(&'.') && text.get(end + 1).is_some_and(|c| ",;:".contains(*c));
    if stops { Found::before(end + 1, 1) } else { None }
}
