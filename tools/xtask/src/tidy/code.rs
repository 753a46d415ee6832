//! Rust source as the checks see it: without comments, literals and tests, line by line as it was.
//!
//! A lexer of a hundred lines instead of a parser: the checks ask for words, and words inside strings and
//! comments are all that would mislead them.

/// Replaces comments and literals by blanks; line breaks stay, and so do the byte offsets of all the rest.
pub fn without_comments_and_literals(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut blanked = String::with_capacity(source.len());
    let mut at = 0;
    while at < characters.len() {
        let end = match characters[at] {
            '/' if characters.get(at + 1) == Some(&'/') => end_of_line(&characters, at),
            '/' if characters.get(at + 1) == Some(&'*') => end_of_block_comment(&characters, at),
            '"' => end_of_string(&characters, at),
            'r' if !continues_word(&characters, at) => end_of_raw_string(&characters, at),
            '\'' => end_of_character(&characters, at),
            _ => at,
        };
        let end = end.min(characters.len());
        if end == at {
            blanked.push(characters[at]);
        }
        for character in &characters[at..end] {
            match character {
                '\n' => blanked.push('\n'),
                _ => blanked.extend(std::iter::repeat_n(' ', character.len_utf8())),
            }
        }
        at = end.max(at + 1);
    }
    blanked
}

fn end_of_line(characters: &[char], start: usize) -> usize {
    (start..characters.len()).find(|&at| characters[at] == '\n').unwrap_or(characters.len())
}

fn end_of_block_comment(characters: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at < characters.len() {
        match (characters[at], characters.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    characters.len()
}

fn end_of_string(characters: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < characters.len() {
        match characters[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    characters.len()
}

/// The end of `r"…"` or `r#"…"#`; the start itself where it is a word or a raw identifier.
fn end_of_raw_string(characters: &[char], start: usize) -> usize {
    let hashes = characters[start + 1..].iter().take_while(|character| **character == '#').count();
    let open = start + 1 + hashes;
    if characters.get(open) != Some(&'"') {
        return start;
    }
    let closes = |at: usize| {
        characters[at] == '"' && characters[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..characters.len()).find(|&at| closes(at)).map_or(characters.len(), |at| at + 1 + hashes)
}

/// The end of a character literal; the start itself where the quote begins a lifetime.
fn end_of_character(characters: &[char], start: usize) -> usize {
    if characters.get(start + 1) == Some(&'\\') {
        let close = (start + 3..characters.len()).find(|&at| characters[at] == '\'');
        return close.map_or(characters.len(), |at| at + 1);
    }
    if characters.get(start + 2) == Some(&'\'') { start + 3 } else { start }
}

/// Whether the character belongs to a word that began earlier; `b` and `c` may stand before a raw string.
fn continues_word(characters: &[char], at: usize) -> bool {
    let is_word = |at: usize| is_word_character(characters[at]);
    match at {
        0 => false,
        1 => is_word(0) && !matches!(characters[0], 'b' | 'c'),
        _ => is_word(at - 1) && (!matches!(characters[at - 1], 'b' | 'c') || is_word(at - 2)),
    }
}

fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Replaces every item under `#[cfg(test)]` (or `#[cfg(all(test, …))]`) by blanks, in blanked code.
pub fn without_tests(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for start in test_attributes(code) {
        let end = end_of_item(code.as_bytes(), start);
        for byte in bytes.iter_mut().take(end).skip(start).filter(|byte| **byte != b'\n') {
            *byte = b' ';
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A module that is compiled for tests only and has a file of its own.
#[derive(Debug, PartialEq, Eq)]
pub enum TestModule {
    /// `mod name;`: the file is found by the name.
    Named(String),
    /// Under `#[path = "…"]`: the file is given, from the folder of the declaring file.
    At(String),
}

/// The test modules that a file declares and keeps elsewhere.
pub fn test_modules(source: &str) -> Vec<TestModule> {
    let code = without_comments_and_literals(source);
    let declared = |start: usize| {
        let end = end_of_item(code.as_bytes(), start);
        let name = code[start..end].strip_suffix(';')?.rsplit_once("mod ")?.1.trim();
        if !name.chars().all(is_word_character) {
            return None;
        }
        // Blanking kept the offsets, so the source has the literal of the attribute.
        let path = source[start..end].split_once("#[path = \"").and_then(|(_, rest)| rest.split('"').next());
        Some(path.map_or_else(|| TestModule::Named(name.to_owned()), |path| TestModule::At(path.to_owned())))
    };
    test_attributes(&code).into_iter().filter_map(declared).collect()
}

fn test_attributes(code: &str) -> Vec<usize> {
    let starts = ["#[cfg(test)]", "#[cfg(all(test"].map(|attribute| code.match_indices(attribute));
    starts.into_iter().flatten().map(|(start, _)| start).collect()
}

/// The end of the item whose attributes begin at `start`: its closing brace or its semicolon.
fn end_of_item(code: &[u8], start: usize) -> usize {
    let mut brackets = 0;
    let mut braces = 0;
    for (at, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'(' | b'[' => brackets += 1,
            b')' | b']' => brackets -= 1,
            b'{' => braces += 1,
            b'}' => {
                braces -= 1;
                if braces == 0 && brackets == 0 {
                    return at + 1;
                }
            }
            b';' if braces == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The words of blanked code with their lines (from 1) and what follows each on the same line.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        let boundary = |at: usize| !line[..at].chars().next_back().is_some_and(is_word_character);
        let starts = line.char_indices().filter(move |(at, character)| is_word_character(*character) && boundary(*at));
        starts.map(move |(start, _)| {
            let rest = &line[start..];
            let end = rest.find(|character| !is_word_character(character)).unwrap_or(rest.len());
            (index + 1, &rest[..end], &rest[end..])
        })
    })
}

/// The modules of `std` that blanked code names, also inside `use std::{…}`, with their lines.
pub fn std_modules(code: &str) -> Vec<(usize, String)> {
    let mut modules = Vec::new();
    for (start, _) in code.match_indices("std::") {
        if code[..start].chars().next_back().is_some_and(is_word_character) {
            continue;
        }
        let rest = &code[start + "std::".len()..];
        let group = rest.strip_prefix('{');
        let names = group.map_or_else(|| vec![(0, rest)], top_level_items);
        for (offset, item) in names {
            let name: String = item.trim_start().chars().take_while(|c| is_word_character(*c)).collect();
            let blank = item.len() - item.trim_start().len();
            let at = start + "std::".len() + usize::from(group.is_some()) + offset + blank;
            modules.push((code[..at].matches('\n').count() + 1, name));
        }
    }
    modules
}

/// The comma-separated items up to the closing brace of a group, with their offsets.
fn top_level_items(group: &str) -> Vec<(usize, &str)> {
    let mut items = Vec::new();
    let mut depth = 0;
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push((start, &group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push((start, &group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word_list(source: &str) -> Vec<String> {
        let code = without_tests(&without_comments_and_literals(source));
        words(&code).map(|(line, word, _)| format!("{line}:{word}")).collect()
    }

    #[test]
    fn comments_and_literals_are_blank() {
        let source = "a // rank\n/* x /* y */ z */ b \"c \\\" d\"\nr#\"e \" f\"# br\"g\" 'h' '\\'' &'i j r#k";
        assert_eq!(word_list(source), ["1:a", "2:b", "3:b", "3:i", "3:j", "3:r", "3:k"]);
    }

    #[test]
    fn text_keeps_its_lines_and_multibyte_characters() {
        let code = without_comments_and_literals("let é = \"ü\n\"; // …\nnext");
        assert_eq!(code.lines().count(), 3);
        assert_eq!(code.find("next"), "let é = \"ü\n\"; // …\n".len().into());
        assert_eq!(words(&code).last(), Some((3, "next", "")));
    }

    #[test]
    fn test_items_are_blank_and_the_rest_stays() {
        let source = "#[cfg(test)]\nuse a::{b, c};\nfn d() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n fn e() { f(); }\n}\nfn g() {}";
        assert_eq!(word_list(source), ["3:fn", "3:d", "9:fn", "9:g"]);
    }

    #[test]
    fn test_modules_in_files_are_named() {
        let source =
            "// é\n#[cfg(test)]\nmod reference;\n#[cfg(test)]\n#[path = \"x_tests.rs\"]\npub mod tests;\nmod real;";
        let named = TestModule::Named("reference".to_owned());
        assert_eq!(test_modules(source), [named, TestModule::At("x_tests.rs".to_owned())]);
        assert!(test_modules("#[cfg(test)]\nmod tests { mod inner; }").is_empty());
    }

    #[test]
    fn std_modules_are_found_in_groups() {
        let code = "use std::{\n    fmt,\n    fs::{self, File},\n};\nlet x = std::env::var;\nmystd::io::x;";
        let found = std_modules(code);
        assert_eq!(found, [(2, "fmt".into()), (3, "fs".into()), (4, String::new()), (5, "env".into())]);
    }
}
