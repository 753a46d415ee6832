//! Clitics, elisions, and words that hide two.

use super::Found;
use super::characters::{is_apostrophe, is_elision, is_letter, is_word, run, starts_with};
use super::words::word_length;

/// Words that are written as one and count as two, with the length of the first.
const SPLIT: [(&str, usize); 6] = [("cannot", 3), ("gonna", 3), ("gotta", 3), ("wanna", 3), ("gimme", 3), ("lemme", 3)];

const CLITICS: [&str; 6] = ["s", "d", "m", "re", "ve", "ll"];

/// The two words of `cannot`, `gonna` and their like.
pub(super) fn halves(token: &str) -> Option<(&str, &str)> {
    SPLIT.into_iter().find(|(word, _)| *word == token).map(|(_, first)| token.split_at(first))
}

/// A word before what looks like a clitic: `cannot's` does not split.
pub(super) fn before_clitic(text: &[char]) -> Option<Found> {
    let length = word_length(text);
    let (&mark, rest) = text[length..].split_first()?;
    let clitic = CLITICS.into_iter().find(|word| starts_with(rest, word)).filter(|_| is_apostrophe(mark))?;
    Found::before(length, 1 + clitic.len())
}

/// `does` of `doesn't`: letters up to the `n`.
pub(super) fn before_not(text: &[char]) -> Option<Found> {
    let letters = run(text, |c| c.is_ascii_alphabetic());
    let length = letters.checked_sub(1).filter(|&length| length > 0)?;
    let is_other = !text[length - 1].eq_ignore_ascii_case(&'n');
    if is_other && not(&text[length..]).is_some() { Found::before(length, 3) } else { None }
}

/// `n't`.
pub(super) fn not(text: &[char]) -> Option<Found> {
    match text {
        [n, mark, t, ..] if n.eq_ignore_ascii_case(&'n') && is_elision(*mark) && t.eq_ignore_ascii_case(&'t') => {
            Found::plain(3)
        }
        _ => None,
    }
}

/// `'s`, `'d`, `'m`, `'re`, `'ve`, `'ll`. A straight apostrophe may also open a quotation, so that a letter
/// behind the clitic speaks against it; a curly one cannot.
pub(super) fn clitic(text: &[char]) -> Option<Found> {
    let (&mark, rest) = text.split_first()?;
    if !is_apostrophe(mark) {
        return None;
    }
    let is_clitic = |word: &&str| {
        starts_with(rest, word) && (mark != '\'' || !rest.get(word.len()).is_some_and(|c| c.is_ascii_alphabetic()))
    };
    let word = CLITICS.into_iter().find(is_clitic)?;
    Found::plain(1 + word.len())
}

/// Whether the whole token is a clitic or `n't`.
pub(super) fn is_clitic_or_not(token: &[char]) -> bool {
    not(token).or_else(|| clitic(token)).is_some_and(|found| found.length == token.len())
}

/// Length of `o'clock`, `d'oeuvres`, `l'eau`: d, l or o, an apostrophe and at least two characters. It can be
/// part of a compound.
pub(super) fn elided(text: &[char]) -> usize {
    match text {
        [first, mark, rest @ ..] if "dlo".contains(first.to_ascii_lowercase()) && is_elision(*mark) => {
            let length = run(rest, is_word);
            if length >= 2 && rest[..length].iter().any(|&c| is_letter(c)) { 2 + length } else { 0 }
        }
        _ => 0,
    }
}

/// `n'ty`, `O'BRIEN`, `ho'ohu`, `ma'am`.
pub(super) fn elision(text: &[char]) -> Option<Found> {
    Found::plain(behind_first_letter(text).max(between_vowels(text)))
}

/// Length of a letter that elides or a capital, an apostrophe, and at least two letters.
fn behind_first_letter(text: &[char]) -> usize {
    let elides = |c: char| "dlno".contains(c) || c.is_ascii_uppercase() && !"IY".contains(c);
    match text {
        [first, mark, rest @ ..] if elides(*first) && is_elision(*mark) => match run(rest, is_letter) {
            length if length >= 2 => 2 + length,
            _ => 0,
        },
        _ => 0,
    }
}

/// Length of a word with an apostrophe between two vowels (a capital counts as one behind it); something
/// stands before the first.
fn between_vowels(text: &[char]) -> usize {
    let before = run(text, is_letter);
    let joins = before >= 2
        && "aeiouy".contains(text[before - 1].to_ascii_lowercase())
        && text.get(before).is_some_and(|&c| is_elision(c))
        && text.get(before + 1).is_some_and(|&c| "aeiou".contains(c) || c.is_ascii_uppercase());
    if joins { before + 1 + run(&text[before + 1..], is_letter) } else { 0 }
}

/// Words with a straight apostrophe only; [`CURLY_TOO`] may have a curly one.
const STRAIGHT: [&str; 4] = ["li'l", "e'er", "c'mon", "c'est"];
const CURLY_TOO: [&str; 11] = ["somethin'", "'n'", "'em", "'till", "'til", "'cause", "ol'", "d'", "l'", "j'", "cap'n"];

/// `'n'`, `'em`, `'til`, `'cause`, `'t` of `'tis`, `ol'`, `y'` of `y'all`, `cap'n`.
pub(super) fn apostrophe_word(text: &[char]) -> Option<Found> {
    let straightened: Vec<char> = text.iter().take(9).map(|&c| if is_apostrophe(c) { '\'' } else { c }).collect();
    if starts_with(&straightened, "'n") && !starts_with(&straightened, "'n'") {
        let is_free = text[0] != '\'' || text.get(2).is_none_or(|c| c.is_whitespace());
        return if is_free { Found::before(2, 1) } else { None };
    }
    if starts_with(&straightened, "y'") && straightened.get(2).is_some_and(|&c| is_letter(c)) {
        return Found::plain(2);
    }
    if let Some(word) = ["'tis", "'twas"].into_iter().find(|word| starts_with(text, word)) {
        return Found::before(2, word.len() - 2);
    }
    let straight = STRAIGHT.into_iter().find(|word| starts_with(text, word));
    let word = straight.or_else(|| CURLY_TOO.into_iter().find(|word| starts_with(&straightened, word)));
    Found::plain(word?.len())
}

/// `'90s`, and `'90` where a space follows.
pub(super) fn year(text: &[char]) -> Option<Found> {
    let is_ascii_digit = |place: usize| text.get(place).is_some_and(char::is_ascii_digit);
    if !text.first().is_some_and(|&c| is_apostrophe(c)) || !is_ascii_digit(1) || !is_ascii_digit(2) {
        return None;
    }
    let is_decade = ('2'..='9').contains(&text[1]) && text[2] == '0' && text.get(3) == Some(&'s');
    match text.get(3) {
        _ if is_decade => Found::plain(4),
        None => Found::before(3, 1),
        Some(next) if next.is_whitespace() => Found::before(3, 1),
        Some(_) => None,
    }
}
