//! Kinds of characters as Python's `str` knows them, which the reference programs go by.

use std::sync::LazyLock;

use regex::Regex;

/// Python's `str.isspace`: Unicode's white space, and the four separators of ASCII besides.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.isdigit` of a character: decimal digits of all scripts, raised and lowered ones (but not
/// digits in circles and the like, which captions do not have).
pub(super) fn is_digit(c: char) -> bool {
    static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[\p{Nd}²³¹⁰⁴-⁹₀-₉]$").expect("a constant pattern"));
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && DIGIT.is_match(c.encode_utf8(&mut [0; 4])))
}

/// Python's `\w`: letters, numbers and the underscore.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
