//! The official VQA evaluation's normaliser of answers, its oddities included.

use super::contractions::contraction;

/// Marks that become spaces, or vanish if the answer has one of them beside a space or a comma between digits.
const PUNCTUATION: [char; 21] =
    [';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!'];

/// Full stops that are removed at most: the official program passes a flag, 32, where a count belongs.
const MOST_FULL_STOPS: usize = 32;

/// White space as Python has it: Unicode's and the four separators of ASCII.
fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// Without white space around, and with plain spaces inside for tabs and line breaks.
pub fn strip_answer(answer: &str) -> String {
    answer.replace(['\n', '\t'], " ").trim_matches(is_space).to_owned()
}

/// An answer in the form in which answers are compared: punctuation, lower case, numbers from none and zero to
/// ten as digits, without articles, contractions with their apostrophe.
///
/// Digits are ASCII's here and Unicode's in the official program, which matters only beside full stops and
/// commas.
pub fn normalize_answer(answer: &str) -> String {
    let answer = without_punctuation(&strip_answer(answer)).to_lowercase();
    let words = answer.split(is_space).filter(|word| !word.is_empty()).map(digit);
    let words = words.filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.map(|word| contraction(word).unwrap_or(word)).collect::<Vec<_>>().join(" ")
}

fn without_punctuation(answer: &str) -> String {
    let characters: Vec<char> = answer.chars().collect();
    let comma_in_number =
        characters.windows(3).any(|three| three[0].is_ascii_digit() && three[1] == ',' && three[2].is_ascii_digit());
    let vanishes = |mark: char| {
        let beside_space = |pair: &[char]| pair == [mark, ' '] || pair == [' ', mark];
        comma_in_number || characters.windows(2).any(beside_space)
    };
    let mut written = String::with_capacity(answer.len());
    let mut vanish: [Option<bool>; PUNCTUATION.len()] = [None; PUNCTUATION.len()];
    for &character in &characters {
        match PUNCTUATION.iter().position(|&mark| mark == character) {
            Some(mark) => {
                if !*vanish[mark].get_or_insert_with(|| vanishes(character)) {
                    written.push(' ');
                }
            }
            None => written.push(character),
        }
    }
    without_full_stops(&written)
}

/// Without the first full stops that no digit follows.
fn without_full_stops(answer: &str) -> String {
    let mut n_removed = 0;
    let mut characters = answer.chars().peekable();
    let mut written = String::with_capacity(answer.len());
    while let Some(character) = characters.next() {
        let is_decimal = characters.peek().is_some_and(char::is_ascii_digit);
        if character == '.' && !is_decimal && n_removed < MOST_FULL_STOPS {
            n_removed += 1;
        } else {
            written.push(character);
        }
    }
    written
}

fn digit(word: &str) -> &str {
    match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        _ => word,
    }
}
