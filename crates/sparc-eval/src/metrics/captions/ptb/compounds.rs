//! Addresses, file names and handles.

use super::Found;
use super::characters::{is_letter, is_word, run, starts_with};

/// Endings of file names after a number: words with a letter first are [`super::words::dotted`] anyway.
const FILE_ENDINGS: &str = "bat bmp c cgi class cpp dll doc docx exe gif gz h htm html java jpeg jpg mov mp3 mp4 pdf \
     php pl png ppt ps py sql tar txt wav x xml zip";

fn ends_address(character: char) -> bool {
    character.is_whitespace() || "\"<>|()".contains(character)
}

/// Length without the punctuation at the end.
fn trimmed(text: &[char]) -> usize {
    text.len() - text.iter().rev().take_while(|&&c| ".,;:!?-'\"".contains(c)).count()
}

/// `http://foo.com/bar`.
pub(super) fn address(text: &[char]) -> Option<Found> {
    let scheme = ["http://", "https://"].into_iter().find(|scheme| starts_with(text, scheme))?.len();
    let end = scheme + run(&text[scheme..], |c| !ends_address(c));
    let end = scheme + trimmed(&text[scheme..end]);
    let inside = text[scheme..end].iter().position(|&c| c == '.');
    if inside.is_some_and(|dot| dot > 0) { Found::plain(end) } else { None }
}

/// `foo.com/bar`. Without a path it is [`super::words::dotted`].
pub(super) fn web_page(text: &[char]) -> Option<Found> {
    let name = run(text, is_word);
    let starts = text.first().is_some_and(|&c| is_letter(c));
    if !starts || !starts_with(&text[name..], ".com/") {
        return None;
    }
    let path = name + ".com/".len();
    let end = path + run(&text[path..], |c| !ends_address(c));
    match trimmed(&text[path..end]) {
        0 => None,
        length => Found::plain(path + length),
    }
}

/// `someone@example.org`.
pub(super) fn email(text: &[char]) -> Option<Found> {
    let bracket = usize::from(text.first() == Some(&'<'));
    let rest = &text[bracket..];
    if !rest.first().is_some_and(|c| c.is_ascii_alphanumeric()) {
        return None;
    }
    let end = run(rest, |c| !ends_address(c) && c != '{' && c != '}');
    // Parts of the domain are separated by single stops; what does not fit is left to others.
    let at = rest[..end].iter().position(|&c| c == '@')?;
    let mut domain = at + 1;
    while let part @ 1.. = run(&rest[domain..end], |c| c != '.') {
        domain += part;
        if rest.get(domain + 1).is_none_or(|&c| c == '.') || domain + 1 >= end {
            break;
        }
        domain += 1;
    }
    if domain == at + 1 {
        return None;
    }
    Found::plain(bracket + domain + usize::from(rest.get(domain) == Some(&'>')))
}

/// `1.jpg`.
pub(super) fn file_name(text: &[char]) -> Option<Found> {
    let mut best = 0;
    let mut end = run(text, is_word);
    while end > 0 && text.get(end) == Some(&'.') {
        let part = run(&text[end + 1..], is_word);
        if part == 0 {
            break;
        }
        let ending: String = text[end + 1..end + 1 + part].iter().collect::<String>().to_ascii_lowercase();
        end += 1 + part;
        if FILE_ENDINGS.split_ascii_whitespace().any(|known| known == ending) {
            best = end;
        }
    }
    let followed = text.get(best).is_none_or(|&c| c.is_whitespace() || ".,".contains(c));
    if followed { Found::plain(best) } else { None }
}

/// `@someone` and `#something`.
pub(super) fn handle(text: &[char]) -> Option<Found> {
    let (&mark, rest) = text.split_first()?;
    let length = match mark {
        '@' if rest.first().is_some_and(|&c| c.is_ascii_alphabetic() || c == '_') => {
            run(rest, |c| c.is_ascii_alphanumeric() || c == '_')
        }
        '#' => run(rest, is_letter),
        _ => 0,
    };
    if length > 0 { Found::plain(1 + length) } else { None }
}
