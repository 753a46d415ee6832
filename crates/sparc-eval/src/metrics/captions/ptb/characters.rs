//! Classes of characters, as the tokenizer tells them apart.

/// U+00AD: invisible, and no boundary between words.
pub(super) const SOFT_HYPHEN: char = '\u{ad}';

pub(super) fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
        || (!character.is_ascii() && character.is_numeric() && !is_other_number(character) && !is_ideograph(character))
}

/// Numbers that are no decimal digits: superscripts, fractions, Roman and circled numerals.
fn is_other_number(character: char) -> bool {
    matches!(character, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{bc}'..='\u{be}' | '\u{2070}'..='\u{218b}')
        || matches!(character, '\u{2460}'..='\u{24ff}' | '\u{2776}'..='\u{2793}' | '\u{3007}'..='\u{33ff}')
}

fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// A letter that can stand in every kind of word.
pub(super) fn is_letter(character: char) -> bool {
    character.is_ascii_alphabetic()
        || character == SOFT_HYPHEN
        || (!character.is_ascii()
            && (character.is_alphabetic() || is_ideograph(character))
            && !is_other_number(character)
            && !is_mark(character))
}

/// Combining marks and spacing modifiers: part of a plain word, but of no compound.
pub(super) fn is_mark(character: char) -> bool {
    matches!(character, '\u{2c2}'..='\u{2c5}' | '\u{2d2}'..='\u{2df}' | '\u{2e5}'..='\u{2eb}' | '\u{2ed}')
        || matches!(character, '\u{2ef}'..='\u{36f}' | '\u{483}'..='\u{487}' | '\u{591}'..='\u{5bd}')
        || matches!(character, '\u{64b}'..='\u{65e}' | '\u{900}'..='\u{903}' | '\u{93c}' | '\u{93e}'..='\u{94e}')
        || matches!(character, '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}')
}

pub(super) fn is_word(character: char) -> bool {
    is_letter(character) || is_digit(character)
}

/// Straight and curly apostrophes.
pub(super) fn is_apostrophe(character: char) -> bool {
    matches!(character, '\'' | '\u{2019}' | '\u{92}')
}

/// What may stand for an apostrophe inside a word: opening quotes too.
pub(super) fn is_elision(character: char) -> bool {
    is_apostrophe(character) || matches!(character, '`' | '\u{2018}' | '\u{91}')
}

/// All that has no rule: white space, control characters, emoji, private use.
pub(super) fn is_dropped(character: char) -> bool {
    !is_word(character) && !is_mark(character) && !is_symbol(character)
}

fn is_symbol(character: char) -> bool {
    match character {
        '!'..='~' => true,
        '\u{80}' | '\u{91}'..='\u{97}' => true, // Windows-1252: euro, quotes, bullet, dashes
        '\u{a1}'..='\u{bf}' | '\u{d7}' | '\u{f7}' => true,
        '\u{2013}'..='\u{2018}' | '\u{2019}'..='\u{2023}' | '\u{2026}' | '\u{2030}'..='\u{203b}' => true,
        '\u{203e}'..='\u{2044}' | '\u{2070}' | '\u{2074}'..='\u{207e}' | '\u{2080}'..='\u{208e}' => true,
        '\u{20a0}' | '\u{20a4}' | '\u{20ac}' | '\u{2100}'..='\u{214f}' | '\u{2153}'..='\u{215e}' => true,
        '\u{2190}'..='\u{2bff}' | '\u{3001}' | '\u{3002}' | '\u{3012}' | '\u{30fb}' => true,
        '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}' | '\u{ff3b}'..='\u{ff40}' => true,
        '\u{ff5b}'..='\u{ff65}' | '\u{ffe0}'..='\u{ffe6}' => true,
        _ => false,
    }
}

/// Length of the run at the start of `text` in which `holds` is true.
pub(super) fn run(text: &[char], holds: impl Fn(char) -> bool) -> usize {
    text.iter().take_while(|&&character| holds(character)).count()
}

/// Whether `text` starts with the ASCII `word`, in any case.
pub(super) fn starts_with(text: &[char], word: &str) -> bool {
    text.len() >= word.len() && word.chars().zip(text).all(|(a, &b)| a.eq_ignore_ascii_case(&b))
}
