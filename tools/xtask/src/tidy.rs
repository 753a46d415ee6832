//! `cargo xtask tidy`: the invariants of `docs/architecture.md` as checks.
//!
//! They run over the files git knows or would add, as text: no compiler, no LibTorch, done in a second.

mod code;
mod documents;
mod files;
mod manifests;
mod sources;

use std::fmt;

use crate::workspace::Workspace;
use files::Files;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Checks the working tree, prints what is wrong and returns whether nothing is.
pub fn tidy(workspace: &Workspace) -> Result<bool, String> {
    let files = Files::of(workspace)?;
    let mut violations = all(&files);
    violations.sort();
    violations.dedup();
    for violation in &violations {
        println!("{violation}");
    }
    println!("tidy: {} files, {} violations", files.len(), violations.len());
    Ok(violations.is_empty())
}

fn all(files: &Files) -> Vec<Violation> {
    [
        sources::core_is_pure(files),
        sources::rank_stays_in_dist(files),
        sources::unsafe_stays_in_sparc_torch(files),
        sources::files_are_in_shape(files),
        manifests::dependencies_flow_down(files),
        manifests::dependencies_are_documented(files),
        documents::paths_resolve(files),
        documents::configs_have_headers(files),
        files::names_say_something(files),
        files::files_are_small(files),
        files::objectives_have_every_layer(files),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_print_as_path_line_message() {
        assert_eq!(Violation::new("a/b.rs", 7, "wrong; do right").to_string(), "a/b.rs:7: wrong; do right");
    }

    #[test]
    fn a_small_tidy_tree_passes_every_check() {
        let files = Files::in_memory(&[
            ("Cargo.toml", "[workspace.dependencies]\ntch = \"0.24\"\n"),
            ("docs/dependencies.md", "# Dependencies\n\n- tch: LibTorch. See [below](#dependencies).\n"),
            ("docs/objectives/clip.md", "# CLIP\n\nIn `crates/sparc-core/src/objectives/clip.rs`.\n"),
            ("configs/clip/demo.yaml", "# sparc train x\n# Hardware: any\n# Time: 1 s\n# Result: none\na: 1\n"),
            (
                "crates/sparc-core/Cargo.toml",
                "[package]\nname = \"sparc-core\"\n[dependencies]\nsparc-torch.workspace = true\n",
            ),
            ("crates/sparc-core/src/objectives/clip.rs", "//! CLIP.\n"),
        ]);
        assert_eq!(all(&files), []);
    }
}
