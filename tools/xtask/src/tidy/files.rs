//! The files of the repository, and the checks that need their names and sizes alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::Violation;
use super::sources;
use crate::process;
use crate::workspace::Workspace;

/// Files are read as text where a check looks inside.
const READ: [&str; 5] = ["rs", "md", "toml", "yaml", "yml"];

/// What belongs into git as text is far smaller; data and pictures of this size belong elsewhere.
const LARGEST_BYTES: u64 = 1 << 20;

/// Names that say nothing about what is inside (invariant 7).
const EMPTY_NAMES: [&str; 5] = ["utils", "common", "base", "misc", "helpers"];

struct File {
    n_bytes: u64,
    /// The contents, where a check looks inside; else empty.
    text: String,
}

/// The files git tracks or would add, by path from the root with `/` between names.
pub struct Files {
    files: BTreeMap<String, File>,
    folders: BTreeSet<String>,
}

impl Files {
    /// Lists the working tree with git and reads it.
    pub fn of(workspace: &Workspace) -> Result<Self, String> {
        let mut git = std::process::Command::new("git");
        git.args(["ls-files", "-co", "--exclude-standard", "-z"]).current_dir(&workspace.root);
        let listing = process::capture(&mut git)
            .map_err(|message| format!("tidy asks git for the files of the checkout: {message}"))?;
        let mut files = BTreeMap::new();
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            let full = workspace.root.join(path);
            // Tracked but deleted in the working tree: gone, for every check.
            let Ok(metadata) = fs::metadata(&full) else {
                continue;
            };
            let text = if READ.iter().any(|extension| has_extension(path, extension)) {
                let bytes = fs::read(&full).map_err(|error| format!("{path}: {error}"))?;
                String::from_utf8_lossy(&bytes).into_owned()
            } else {
                String::new()
            };
            files.insert(path.to_owned(), File { n_bytes: metadata.len(), text });
        }
        Ok(Self::from_map(files))
    }

    /// A tree for tests.
    #[cfg(test)]
    pub fn in_memory(files: &[(&str, &str)]) -> Self {
        let file = |text: &str| File { n_bytes: text.len() as u64, text: text.to_owned() };
        Self::from_map(files.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect())
    }

    fn from_map(files: BTreeMap<String, File>) -> Self {
        let mut folders = BTreeSet::new();
        for path in files.keys() {
            for (end, _) in path.match_indices('/') {
                folders.insert(path[..end].to_owned());
            }
        }
        Self { files, folders }
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// The contents of a file, if it exists.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(|file| file.text.as_str())
    }

    /// Whether a path is a file or a folder of the repository.
    pub fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.folders.contains(path)
    }

    /// Whether a name is a folder at the root.
    pub fn is_top_folder(&self, name: &str) -> bool {
        !name.contains('/') && self.folders.contains(name)
    }

    /// Paths and contents of the files with an extension.
    pub fn with_extension(&self, extension: &str) -> impl Iterator<Item = (&str, &str)> {
        let named = move |path: &str| has_extension(path, extension);
        self.files.iter().filter(move |(path, _)| named(path)).map(|(path, file)| (path.as_str(), file.text.as_str()))
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}

fn has_extension(path: &str, extension: &str) -> bool {
    path.strip_suffix(extension).is_some_and(|rest| rest.ends_with('.'))
}

/// Invariant 7: no file or folder called utils, common, base, misc or helpers.
pub fn names_say_something(files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for path in files.paths() {
        for name in path.split('/') {
            let stem = name.split('.').next().unwrap_or_default().to_lowercase();
            if EMPTY_NAMES.contains(&stem.as_str()) {
                violations.push(Violation::new(
                    path,
                    1,
                    format!("`{name}` says nothing about what is inside; name it after that, or move each part to its one user"),
                ));
            }
        }
    }
    violations
}

/// No file above 1 MiB.
pub fn files_are_small(files: &Files) -> Vec<Violation> {
    let large = files.files.iter().filter(|(_, file)| file.n_bytes > LARGEST_BYTES);
    large
        .map(|(path, file)| {
            let message = format!(
                "{} bytes is more than 1 MiB; keep it out of git and fetch or make it when needed",
                file.n_bytes
            );
            Violation::new(path, 1, message)
        })
        .collect()
}

/// Invariant 5: every objective has its configs and its document under the same stem.
pub fn objectives_have_every_layer(files: &Files) -> Vec<Violation> {
    const FOLDER: &str = "crates/sparc-core/src/objectives/";
    let mut violations = Vec::new();
    let otherwise = "move what is no objective out of objectives/";
    let tests = sources::test_files(files);
    for path in files.paths().filter(|path| !tests.contains(path)) {
        let Some(name) = path.strip_prefix(FOLDER) else {
            continue;
        };
        // `name/mod.rs` is another spelling of `name.rs`; deeper files are parts of an objective.
        let stem = name.strip_suffix("/mod.rs").or_else(|| name.strip_suffix(".rs"));
        let Some(stem) = stem.filter(|stem| *stem != "mod" && !stem.contains('/')) else {
            continue;
        };
        let configs = format!("configs/{stem}/");
        if !files.paths().any(|path| path.starts_with(&configs) && has_extension(path, "yaml")) {
            let message = format!("the objective has no {configs}*.yaml; add one, or {otherwise}");
            violations.push(Violation::new(path, 1, message));
        }
        let document = format!("docs/objectives/{stem}.md");
        if !files.exists(&document) {
            let message = format!("the objective has no {document}; write it, or {otherwise}");
            violations.push(Violation::new(path, 1, message));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawers_are_found_as_files_and_folders() {
        let files = Files::in_memory(&[("a/utils.rs", ""), ("b/helpers/mod.rs", ""), ("c/Common.toml", "")]);
        assert_eq!(names_say_something(&files).len(), 3);
        let files = Files::in_memory(&[("a/database.rs", ""), ("b/baseline/mod.rs", ""), ("c/utilities.md", "")]);
        assert_eq!(names_say_something(&files), []);
    }

    #[test]
    fn large_files_are_found() {
        let large = "x".repeat((1 << 20) + 1);
        let found = files_are_small(&Files::in_memory(&[("a.png", &large), ("b.png", &large[1..])]));
        assert_eq!(found.len(), 1);
        assert!(found[0].message.starts_with("1048577 bytes"), "{}", found[0]);
    }

    #[test]
    fn an_objective_needs_config_and_document() {
        let declares = "#[cfg(test)]\n#[path = \"filip_tests.rs\"]\nmod tests;\n";
        let objective = ("crates/sparc-core/src/objectives/filip.rs", declares);
        let tests = ("crates/sparc-core/src/objectives/filip_tests.rs", "");
        let index = ("crates/sparc-core/src/objectives/mod.rs", "");
        let part = ("crates/sparc-core/src/objectives/filip/reference.rs", "");
        let alone = Files::in_memory(&[objective, tests, index, part]);
        assert_eq!(objectives_have_every_layer(&alone).len(), 2);
        let whole = Files::in_memory(&[
            objective,
            tests,
            index,
            part,
            ("configs/filip/demo.yaml", ""),
            ("docs/objectives/filip.md", ""),
        ]);
        assert_eq!(objectives_have_every_layer(&whole), []);
    }

    #[test]
    fn extensions_are_whole() {
        assert!(has_extension("a/b.rs", "rs"));
        assert!(!has_extension("a/brs", "rs"));
        assert!(!has_extension("a/b.rs.orig", "rs"));
    }
}
