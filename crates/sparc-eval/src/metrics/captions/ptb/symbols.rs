//! Tags, entities, smileys, punctuation, and how tokens are spelled.

use super::Found;
use super::characters::{SOFT_HYPHEN, run, starts_with};

/// Entities that count as one token, with what they stand for.
const ENTITIES: [(&str, &str); 8] = [
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "''"),
    ("&apos;", "'"),
    ("&nbsp;", ""),
    ("&mdash;", "--"),
    ("&ndash;", "--"),
];

/// `<br>`, `</b>`, `<unk>`, `<a b="c">`.
pub(super) fn tag(text: &[char]) -> Option<Found> {
    if text.first() != Some(&'<') {
        return None;
    }
    let mark = usize::from(text.get(1).is_some_and(|c| "!?/".contains(*c)));
    let end = text.iter().position(|&c| c == '>')?;
    let inside = &text[1 + mark..end];
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    let is_named = match text[1] {
        '!' | '?' => !inside.is_empty() && !inside.contains(&'<'),
        '/' => {
            inside.first().is_some_and(char::is_ascii_alphabetic) && {
                let name = run(inside, is_name);
                inside[name..].iter().all(|c| c.is_whitespace())
            }
        }
        _ => inside.first().is_some_and(char::is_ascii_alphabetic) && has_attributes(inside, is_name),
    };
    if is_named { Found::plain(end + 1) } else { None }
}

/// A name, then words or `word="..."`, then perhaps a slash.
fn has_attributes(inside: &[char], is_name: impl Fn(char) -> bool + Copy) -> bool {
    let mut rest = &inside[run(inside, is_name)..];
    loop {
        let space = run(rest, char::is_whitespace);
        rest = &rest[space..];
        if rest.is_empty() || rest[0] == '/' && rest[1..].iter().all(|c| c.is_whitespace()) {
            return true;
        }
        let name = run(rest, is_name);
        if space == 0 || !rest[0].is_ascii_alphabetic() {
            return false;
        }
        rest = &rest[name..];
        if rest.first() == Some(&'=') {
            let Some(quote) = rest.get(1).copied().filter(|c| "\"'".contains(*c)) else { return false };
            let Some(end) = rest[2..].iter().position(|&c| c == quote) else { return false };
            rest = &rest[2 + end + 1..];
        }
    }
}

/// `AT&T`: capitals on both sides.
pub(super) fn company(text: &[char]) -> Option<Found> {
    let first = run(text, |c| c.is_ascii_uppercase());
    let rest = &text[first..];
    let and = if starts_with(rest, "&amp;") { 5 } else { usize::from(rest.first().is_some_and(|c| "&+".contains(*c))) };
    let second = run(&rest[and..], |c| c.is_ascii_uppercase());
    if first > 0 && and > 0 && second > 0 { Found::plain(first + and + second) } else { None }
}

/// What is left: entities, smileys, currencies, runs of punctuation, single characters.
pub(super) fn symbol(text: &[char]) -> Option<Found> {
    let first = *text.first()?;
    let same = run(text, |c| c == first);
    let length = match first {
        '&' => entity(text),
        '.' if same < 3 => 1,
        '.' | '-' | '*' | '#' | '@' | '_' => same,
        '\\' => 1 + usize::from(text.get(1).is_some_and(|c| *c == '*')), // the Treebank's escape
        '!' | '?' => run(text, |c| "!?".contains(c)),
        '\'' | '<' | '>' => same.min(2),
        _ if is_quote(first) => run(text, is_quote).min(2),
        _ if is_raised_digit(first) => run(text, is_raised_digit),
        _ => 1,
    };
    Found::plain(length.max(smiley(text)).max(language(text)).max(currency(text)))
}

fn is_quote(character: char) -> bool {
    matches!(character, '`' | '\u{91}'..='\u{94}' | '\u{ab}' | '\u{bb}' | '\u{2018}'..='\u{201f}')
        || matches!(character, '\u{2039}' | '\u{203a}')
}

/// Superscript and subscript digits.
fn is_raised_digit(character: char) -> bool {
    matches!(character, '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{2070}'..='\u{2079}' | '\u{2080}'..='\u{2089}')
}

fn entity(text: &[char]) -> usize {
    if let Some((name, _)) = ENTITIES.into_iter().find(|(name, _)| starts_with(text, name)) {
        return name.len();
    }
    if text.get(1) == Some(&'#') {
        let digits = run(&text[2..], |c| c.is_ascii_digit());
        if digits > 0 && text.get(2 + digits) == Some(&';') {
            return 3 + digits;
        }
    }
    1
}

/// Length of `:-)`, `=D` or `^_^`; 0 if there is none. No letter may follow.
fn smiley(text: &[char]) -> usize {
    let is_eye = |c: &char| "^x=~<>-'".contains(c.to_ascii_lowercase());
    if let [left, '_', right, ..] = text
        && is_eye(left)
        && is_eye(right)
    {
        return 3;
    }
    let hat = usize::from(text.first().is_some_and(|c| "<>".contains(*c)));
    if !text.get(hat).is_some_and(|c| ":;=".contains(*c)) {
        return 0;
    }
    let nose = usize::from(text.get(hat + 1).is_some_and(|c| "-o'".contains(*c)));
    let mouth = |place: usize| {
        let is_mouth = |c: &char| "()DPp[]{|\\@dO".contains(*c) || *c == '3' && text[hat] == ':';
        let is_mouth = text.get(place).is_some_and(is_mouth);
        let is_free = text.get(place + 1).is_none_or(|c| !c.is_ascii_alphanumeric());
        if is_mouth && is_free { place + 1 } else { 0 }
    };
    mouth(hat + 1 + nose).max(mouth(hat + 1))
}

/// Length of `C++`, `C#` or `F#`; 0 if there is none.
fn language(text: &[char]) -> usize {
    ["c++", "c#", "f#"].into_iter().find(|name| starts_with(text, name)).map_or(0, str::len)
}

/// Length of `US$` and its like; 0 if there is none.
fn currency(text: &[char]) -> usize {
    let capitals = run(text, |c| c.is_ascii_uppercase());
    if capitals > 0 && text.get(capitals) == Some(&'$') { capitals + 1 } else { 0 }
}

/// A token in the Treebank's spelling, before lower-casing.
pub(super) fn spelling(token: &[char]) -> String {
    let written: String = token.iter().filter(|&&c| c != SOFT_HYPHEN).collect();
    if let Some((_, meaning)) =
        ENTITIES.into_iter().find(|(name, _)| starts_with(token, name) && token.len() == name.len())
    {
        return meaning.to_owned();
    }
    if matches!(token.len(), 2..=4) && token.iter().all(|&c| c == '-') {
        return "--".to_owned(); // five and more are a rule across the page
    }
    if token.len() >= 3 && token.iter().all(|&c| c == '.') {
        return "...".to_owned();
    }
    // Quotes are respelled alone or in pairs and in clitics (`n't` too), not inside words.
    let stands_alone = token.iter().all(|&c| is_quote(c)) || super::apostrophes::is_clitic_or_not(token);
    let is_email = token.len() > 1 && token[1..].contains(&'@');
    if is_email {
        return written;
    }
    let mut spelled = String::with_capacity(written.len());
    for character in written.replace("&amp;", "&").chars() {
        match character {
            '(' => spelled.push_str("-lrb-"),
            ')' => spelled.push_str("-rrb-"),
            '[' if token.len() == 1 => spelled.push_str("-lsb-"),
            ']' if token.len() == 1 => spelled.push_str("-rsb-"),
            '{' if token.len() == 1 => spelled.push_str("-lcb-"),
            '}' if token.len() == 1 => spelled.push_str("-rcb-"),
            '"' if token.len() == 1 => spelled.push_str("''"),
            '\u{2026}' => spelled.push_str("..."),
            '\u{2013}'..='\u{2015}' | '\u{96}' | '\u{97}' => spelled.push_str("--"),
            '\u{91}' | '\u{2018}' | '\u{201b}' | '\u{2039}' if stands_alone => spelled.push('`'),
            '\u{92}' | '\u{2019}' | '\u{203a}' if stands_alone => spelled.push('\''),
            '\u{93}' | '\u{ab}' | '\u{201c}' if stands_alone => spelled.push_str("``"),
            '\u{94}' | '\u{bb}' | '\u{201d}' if stands_alone => spelled.push_str("''"),
            '\u{bc}' => spelled.push_str("1/4"),
            '\u{bd}' => spelled.push_str("1/2"),
            '\u{be}' => spelled.push_str("3/4"),
            '\u{2153}' => spelled.push_str("1/3"),
            '\u{2154}' => spelled.push_str("2/3"),
            '\u{a2}' => spelled.push_str("cents"),
            '\u{a3}' => spelled.push('#'),
            '\u{80}' | '\u{a4}' | '\u{20a0}' | '\u{20ac}' => spelled.push('$'),
            _ if character.is_whitespace() => spelled.push('\u{a0}'),
            _ => spelled.push(character),
        }
    }
    spelled
}
