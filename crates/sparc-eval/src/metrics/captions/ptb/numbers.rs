//! Numbers, fractions and phone numbers.

use super::Found;
use super::characters::{is_digit, run};

/// `8:25`, `1,000.5`, `-5`, `.5`.
pub(super) fn number(text: &[char]) -> Option<Found> {
    let sign = usize::from(text.first().is_some_and(|c| "+-".contains(*c)));
    let mut end = sign + run(&text[sign..], is_digit);
    while text.get(end).is_some_and(|c| ".,:\u{ad}\u{66b}\u{66c}".contains(*c)) {
        match run(&text[end + 1..], is_digit) {
            0 => break,
            digits => end += 1 + digits,
        }
    }
    if end > sign { Found::plain(end) } else { None }
}

fn ascii_digits(text: &[char], most: usize) -> usize {
    run(text, |c| c.is_ascii_digit()).min(most)
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\u{a0}')
}

/// `23 3/4`, `1-1/2`, `3⁄4`.
pub(super) fn fraction(text: &[char]) -> Option<Found> {
    let plain = simple_fraction(text);
    let whole = ascii_digits(text, 4);
    let mixed = match text.get(whole) {
        Some(&c) if whole > 0 && (is_space(c) || c == '-') => match simple_fraction(&text[whole + 1..]) {
            0 => 0,
            fraction => whole + 1 + fraction,
        },
        _ => 0,
    };
    Found::plain(plain.max(mixed))
}

fn simple_fraction(text: &[char]) -> usize {
    let above = ascii_digits(text, 4);
    let is_bar = text.get(above).is_some_and(|&c| c == '/' || c == '\u{2044}');
    if above == 0 || !is_bar {
        return 0;
    }
    match ascii_digits(&text[above + 1..], 4) {
        0 => 0,
        below => above + 1 + below,
    }
}

/// `(800) 555-1234`, `800 555 1234`, `+44 20 7946 0958`.
pub(super) fn phone(text: &[char]) -> Option<Found> {
    let international = match text.first() {
        Some('+') => match ascii_digits(&text[1..], 4) {
            digits if digits >= 2 && text.get(1 + digits).is_some_and(|&c| is_space(c)) => 2 + digits,
            _ => 0,
        },
        _ => 0,
    };
    let found = national(&text[international..]);
    if found > 0 { Found::plain(international + found) } else { None }
}

fn national(text: &[char]) -> usize {
    let is_separator = |c: char| is_space(c) || c == '-';
    let open = usize::from(text.first() == Some(&'('));
    let mut end = open + ascii_digits(&text[open..], 4);
    if !(2..=if open == 1 { 4 } else { 3 }).contains(&(end - open)) {
        return 0;
    }
    if open == 1 {
        if text.get(end) != Some(&')') {
            return 0;
        }
        end += 1;
        end += usize::from(text.get(end).is_some_and(|&c| is_space(c)));
    } else if text.get(end).is_some_and(|&c| is_separator(c)) {
        end += 1;
    } else {
        return 0;
    }
    let middle = run(&text[end..], |c| c.is_ascii_digit());
    if !(3..=4).contains(&middle) {
        // All digits in one group.
        return if (6..=9).contains(&middle) { end + middle } else { 0 };
    }
    end += middle;
    if !text.get(end).is_some_and(|&c| is_separator(c)) {
        return 0;
    }
    match ascii_digits(&text[end + 1..], 6) {
        last if last >= 3 => end + 1 + last,
        _ => 0,
    }
}
