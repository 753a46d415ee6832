//! Checks of documents and configs: every path, link and anchor named resolves, every config says how to run it.

use std::collections::BTreeMap;

use super::Violation;
use super::files::Files;

/// Folders that builds and runs make; documents may name what will be in them.
const MADE_LATER: [&str; 3] = ["target", "runs", ".libtorch"];

/// What the opening comment of a config must contain, with what it tells.
const HEADER: [(&str, &str); 4] = [
    ("sparc train", "the command that runs it (`sparc train …`)"),
    ("Hardware:", "the hardware (`Hardware: …`)"),
    ("Time:", "the time it takes (`Time: …`)"),
    ("Result:", "the result to expect (`Result: …`)"),
];

/// Invariant 8: every relative link, anchor and path of the repository in a document exists.
pub fn paths_resolve(files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, text) in files.with_extension("md") {
        for (line, reference) in references(text) {
            let problem = match &reference {
                Reference::Link(target) => broken_link(files, path, target),
                Reference::Path(word) => missing_path(files, path, word),
            };
            violations.extend(problem.map(|message| Violation::new(path, line, message)));
        }
    }
    violations
}

/// Every config opens with a comment that says how to run it, on what, how long, and to what end.
pub fn configs_have_headers(files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, text) in files.with_extension("yaml").chain(files.with_extension("yml")) {
        if !path.starts_with("configs/") {
            continue;
        }
        let header: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        for (word, what) in HEADER {
            if !header.iter().any(|line| line.contains(word)) {
                let message = format!("the comment that opens the config lacks {what}; add it");
                violations.push(Violation::new(path, 1, message));
            }
        }
    }
    violations
}

/// Something a document points at.
#[derive(Debug, PartialEq, Eq)]
enum Reference {
    /// The target of a link or picture.
    Link(String),
    /// A word of code.
    Path(String),
}

/// All links outside code, and all words inside code (spans and fences), with their lines.
fn references(text: &str) -> Vec<(usize, Reference)> {
    let mut found = Vec::new();
    for (number, line, fenced) in lines_with_fences(text) {
        let words = |code: &str| {
            code.split_whitespace().map(|word| (number, Reference::Path(word.to_owned()))).collect::<Vec<_>>()
        };
        if fenced {
            found.extend(words(line));
            continue;
        }
        let (prose, spans) = split_code_spans(line);
        found.extend(spans.iter().flat_map(|span| words(span)));
        found.extend(link_targets(&prose).into_iter().map(|target| (number, Reference::Link(target))));
    }
    found
}

/// The lines with their numbers (from 1) and whether they are inside a fence; the fences are left out.
fn lines_with_fences(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut fence: Option<&str> = None;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let mark = line.trim_start();
        let opening = ["```", "~~~"].into_iter().find(|opening| mark.starts_with(opening));
        match (fence, opening) {
            (None, Some(opening)) => fence = Some(opening),
            (Some(open), Some(closing)) if open == closing => fence = None,
            _ => return Some((index + 1, line, fence.is_some())),
        }
        None
    })
}

/// Separates code spans from a line: the line with blanks in their places, and their contents.
fn split_code_spans(line: &str) -> (String, Vec<&str>) {
    let mut prose = String::new();
    let mut spans = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find('`') {
        let n_ticks = rest[start..].bytes().take_while(|byte| *byte == b'`').count();
        let ticks = &rest[start..start + n_ticks];
        let inside = &rest[start + n_ticks..];
        prose.push_str(&rest[..start]);
        let Some(end) = inside.find(ticks) else {
            // A span that goes on in the next line, or a lone tick: not code on this line.
            rest = inside;
            continue;
        };
        spans.push(&inside[..end]);
        // Not blank but a letter: a link whose text is code must keep its shape.
        prose.push('x');
        rest = &inside[end + n_ticks..];
    }
    prose.push_str(rest);
    (prose, spans)
}

/// The targets of `[text](target)`, `[label]: target`, `src="target"` and `href="target"`.
fn link_targets(prose: &str) -> Vec<String> {
    let mut targets = Vec::new();
    for (at, _) in prose.match_indices("](") {
        let inside = &prose[at + 2..];
        let mut depth = 1;
        let end = inside.find(|character| {
            depth += match character {
                '(' => 1,
                ')' => -1,
                _ => 0,
            };
            depth == 0
        });
        targets.push(&inside[..end.unwrap_or(inside.len())]);
    }
    let definition = prose.trim_start().split_once("]: ");
    let is_label = |label: &str| label.starts_with('[') && !label.contains("](");
    targets.extend(definition.filter(|(label, _)| is_label(label)).map(|(_, target)| target));
    for attribute in ["src=\"", "href=\""] {
        targets.extend(prose.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()));
    }
    // A title may follow the target, and the target may stand in angle brackets.
    let bare = |target: &str| match target.trim().strip_prefix('<').and_then(|inside| inside.split_once('>')) {
        Some((inside, _)) => inside.to_owned(),
        None => target.split_whitespace().next().unwrap_or_default().to_owned(),
    };
    targets.into_iter().map(bare).collect()
}

fn broken_link(files: &Files, document: &str, target: &str) -> Option<String> {
    let is_address =
        target.split_once(':').is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    if is_address || target.starts_with("//") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = path.replace("%20", " ");
    let resolved = if path.is_empty() {
        document.to_owned()
    } else {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        let base = if path.starts_with('/') { "" } else { folder };
        match joined(base, &path) {
            Some(resolved) => resolved,
            None => {
                return Some(format!("the link `{target}` leaves the repository; name what it points at in words"));
            }
        }
    };
    if MADE_LATER.contains(&resolved.split('/').next().unwrap_or_default()) {
        return None;
    }
    if !resolved.is_empty() && !files.exists(&resolved) {
        return Some(format!(
            "the link `{target}` leads nowhere ({resolved} is no file of the repository); correct it"
        ));
    }
    if anchor.is_empty()
        || !resolved.ends_with(".md")
        || anchors(files.text(&resolved)?).contains(&anchor.to_lowercase())
    {
        return None;
    }
    Some(format!("the link `{target}` has an anchor that no heading of {resolved} gives; correct it"))
}

/// Joins a relative path to a folder; `None` where it leads out of the root.
fn joined(folder: &str, path: &str) -> Option<String> {
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            _ => names.push(name),
        }
    }
    Some(names.join("/"))
}

fn missing_path(files: &Files, document: &str, word: &str) -> Option<String> {
    let path = path_like(files, word)?;
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    // From the root, as the documents write them; or from the document's own folder, as a crate's README may.
    let exists = |folder: &str| joined(folder, &path).is_some_and(|resolved| files.exists(&resolved));
    if exists("") || exists(folder) {
        return None;
    }
    Some(format!("`{path}` is no file or folder of the repository; correct it, or write the changing part as <name>"))
}

/// The path in a word of code, if the word looks like a path of this repository.
fn path_like(files: &Files, word: &str) -> Option<String> {
    let word = word.trim_start_matches(['(', '"', '\'', '[']).trim_start_matches("./");
    let (top, _) = word.split_once('/')?;
    if !files.is_top_folder(top)
        || MADE_LATER.contains(&top)
        || word.contains(['<', '>', '*', '{', '…', '$', '?'])
        || word.contains("...")
    {
        return None;
    }
    // `path:12`, `path::item` and `path#anchor` name a place inside the file.
    let path = word.split([':', '#', ',', ';', '"', '\'', ')', ']']).next()?;
    Some(path.trim_end_matches('.').trim_end_matches('/').to_owned())
}

/// The anchors that GitHub gives to a document's headings, and those written as `id="…"`.
fn anchors(text: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = Vec::new();
    for (_, line, _) in lines_with_fences(text).filter(|(_, _, fenced)| !fenced) {
        for attribute in ["id=\"", "name=\""] {
            anchors
                .extend(line.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_lowercase));
        }
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        let Some(title) = line[level..].strip_prefix(' ').filter(|_| (1..=6).contains(&level)) else {
            continue;
        };
        let slug = slug(title);
        let count = counts.entry(slug.clone()).or_default();
        anchors.push(if *count == 0 { slug } else { format!("{slug}-{count}") });
        *count += 1;
    }
    anchors
}

/// A heading as GitHub writes it in an address: lower case, blanks as hyphens, other punctuation dropped.
fn slug(title: &str) -> String {
    let mut text = String::new();
    // Of a link in a heading, only the text counts.
    let mut rest = title.trim().trim_end_matches('#').trim_end();
    while let Some((before, after)) = rest.split_once("](") {
        text.push_str(before);
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    text.push_str(rest);
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(document: &str) -> Vec<String> {
        let files = Files::in_memory(&[
            ("docs/a.md", document),
            ("docs/b c.md", "# Two words\n## Where we differ\n## Where we differ\n```\n# no heading\n```\n"),
            ("configs/clip/demo.yaml", ""),
            ("README.md", "# `sparc`: a [link](x)!\n"),
        ]);
        let found = paths_resolve(&files).into_iter().filter(|violation| violation.path == "docs/a.md");
        found.map(|violation| format!("{}: {}", violation.line, violation.message)).collect()
    }

    #[test]
    fn good_links_and_paths_pass() {
        let document = "[a](b%20c.md#two-words) [b](<b c.md> \"title\") ![c](../configs/clip/demo.yaml)\n\
                        [d](#here) [e](../README.md#sparc-a-link) [f](https://x.y/z) [`g`](../docs) [h](b%20c.md#where-we-differ-1)\n\
                        # Here\n`configs/clip/demo.yaml:3` `configs/clip/` `configs/<method>/x.yaml` `docs/*.md` `target/x`\n\
                        ```sh\nsparc train configs/clip/demo.yaml, runs/x\n```\n[label]: ../README.md\n";
        assert_eq!(messages(document), Vec::<String>::new());
    }

    #[test]
    fn broken_links_are_found() {
        let found = messages(
            "[a](gone.md)\n[b](../../x.md)\n[c](b%20c.md#three)\n[d](#nowhere)\n[e]: gone.md\n<img src=\"no.png\">\n",
        );
        let lines: Vec<&str> = found.iter().map(|message| &message[..1]).collect();
        assert_eq!(lines, ["1", "2", "3", "4", "5", "6"], "{found:?}");
        assert!(found[1].contains("leaves the repository") && found[2].contains("anchor"), "{found:?}");
    }

    #[test]
    fn missing_paths_are_found() {
        let found =
            messages("`configs/gone.yaml`\n```sh\ncat docs/gone.md\n```\n``docs/a.md ` b``\n`crates/x` `src/lib.rs`\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("1: `configs/gone.yaml`") && found[1].starts_with("3: `docs/gone.md`"),
            "{found:?}"
        );
    }

    #[test]
    fn anchors_are_githubs() {
        let text = "# A B\n## A B\n### `C`: d-e, f_g\n<a id=\"Own\"></a>\n#no heading\n";
        assert_eq!(anchors(text), ["a-b", "a-b-1", "c-d-e-f_g", "own"]);
    }

    #[test]
    fn configs_open_with_what_a_reader_needs() {
        let whole = "# sparc train configs/a/b.yaml\n# Hardware: CPU\n# Time: 1 s\n# Result: loss 1\nseed: 0\n";
        let bare = "seed: 0\n# sparc train x\n";
        let files = Files::in_memory(&[("configs/a/b.yaml", whole), ("configs/c.yaml", bare), ("other.yaml", bare)]);
        let found = configs_have_headers(&files);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.iter().all(|violation| violation.path == "configs/c.yaml"));
    }
}
