//! Checks of the Rust sources: what sparc-core must not know, where ranks and unsafe code live, and shape.

use std::collections::BTreeSet;

use super::Violation;
use super::code::{self, TestModule};
use super::files::Files;

/// The modules of `std` through which the world outside would come into sparc-core.
const OUTSIDE: [&str; 7] = ["fs", "io", "net", "env", "thread", "time", "process"];

/// Words that stand for random numbers, in Rust's crates and in tch.
const RANDOM: [&str; 7] = ["rand", "rand_chacha", "rand_distr", "randn", "randint", "randperm", "getrandom"];

const PRINTING: [&str; 5] = ["println", "eprintln", "print", "eprint", "dbg"];

/// Words that say which process this is.
const RANKS: [&str; 4] = ["rank", "world_size", "local_rank", "global_rank"];

const CPP: [&str; 10] = ["cpp", "cc", "cxx", "c", "h", "hh", "hpp", "hxx", "cu", "cuh"];

/// Longer files are split along what they do.
const MOST_LINES: usize = 500;

/// Code without comments, literals and tests.
fn production_code(text: &str) -> String {
    code::without_tests(&code::without_comments_and_literals(text))
}

/// Files that are compiled for tests only: below a `tests` folder of a package, or declared under
/// `#[cfg(test)]` by the file above them.
pub fn test_files(files: &Files) -> BTreeSet<&str> {
    let mut stems = Vec::new();
    for (path, text) in files.with_extension("rs") {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let inside = match name {
            "mod.rs" | "lib.rs" | "main.rs" => folder,
            _ => path.trim_end_matches(".rs"),
        };
        stems.extend(code::test_modules(text).iter().map(|module| match module {
            TestModule::Named(name) => format!("{inside}/{name}"),
            TestModule::At(file) => format!("{folder}/{}", file.trim_end_matches(".rs")),
        }));
    }
    let is_test = |path: &str| {
        let below = |stem: &String| path.strip_prefix(stem.as_str()).is_some_and(|rest| rest.starts_with(['/', '.']));
        path.contains("/tests/") || stems.iter().any(below)
    };
    files.with_extension("rs").map(|(path, _)| path).filter(|path| is_test(path)).collect()
}

/// Invariant 1: sparc-core does no I/O, draws no random numbers and knows no rank.
pub fn core_is_pure(files: &Files) -> Vec<Violation> {
    let tests = test_files(files);
    let mut violations = Vec::new();
    for (path, text) in files.with_extension("rs") {
        if !path.starts_with("crates/sparc-core/src/") || tests.contains(path) {
            continue;
        }
        let production = production_code(text);
        for (line, module) in code::std_modules(&production) {
            if OUTSIDE.contains(&module.as_str()) {
                let message = format!(
                    "sparc-core uses std::{module}; pass in what it needs, or move the code to the crate that does I/O"
                );
                violations.push(Violation::new(path, line, message));
            }
        }
        for (line, word, after) in code::words(&production) {
            if RANDOM.contains(&word) {
                let message =
                    format!("sparc-core draws random numbers (`{word}`); take the numbers or a seed as an argument");
                violations.push(Violation::new(path, line, message));
            } else if PRINTING.contains(&word) && after.starts_with('!') {
                let message = format!("sparc-core prints (`{word}!`); return the value, or a diagnostic in LossTerms");
                violations.push(Violation::new(path, line, message));
            } else if RANKS.contains(&word) {
                let message = format!("sparc-core knows `{word}`; take (local, global, row_offset) instead");
                violations.push(Violation::new(path, line, message));
            }
        }
    }
    violations
}

/// Invariant 3: only `sparc-train::dist` knows rank and world size (and sparc-torch, which binds them).
pub fn rank_stays_in_dist(files: &Files) -> Vec<Violation> {
    let tests = test_files(files);
    let mut violations = Vec::new();
    for (path, text) in files.with_extension("rs") {
        // sparc-core has its own rule; sparc-testing and the benches are test code.
        let allowed = [
            "crates/sparc-torch/",
            "crates/sparc-train/src/dist",
            "crates/sparc-core/",
            "crates/sparc-testing/",
            "benches/",
        ];
        if allowed.iter().any(|start| path.starts_with(start)) || tests.contains(path) {
            continue;
        }
        for (line, word, _) in code::words(&production_code(text)) {
            // In evaluation, a rank is the place of an answer in a list.
            let is_place = word == "rank" && path.starts_with("crates/sparc-eval/src/");
            if RANKS.contains(&word) && !is_place {
                let message = format!(
                    "`{word}` outside sparc-train's dist; pass a plain number named after its use (shard, stream, offset)"
                );
                violations.push(Violation::new(path, line, message));
            }
        }
    }
    violations
}

/// Invariant 4: unsafe code and C++ in sparc-torch only, tests included.
pub fn unsafe_stays_in_sparc_torch(files: &Files) -> Vec<Violation> {
    let mut violations = Vec::new();
    for path in files.paths().filter(|path| !path.starts_with("crates/sparc-torch/")) {
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        if CPP.contains(&extension) {
            violations.push(Violation::new(path, 1, "C++ outside sparc-torch; move it there behind a safe function"));
        }
        if extension == "rs" {
            let code = code::without_comments_and_literals(files.text(path).unwrap_or_default());
            for (line, _, _) in code::words(&code).filter(|(_, word, _)| *word == "unsafe") {
                let message = "`unsafe` outside sparc-torch; move it there behind a safe function";
                violations.push(Violation::new(path, line, message));
            }
        }
    }
    violations
}

/// Module documentation first, not too long, nothing left to do, no test switched off.
pub fn files_are_in_shape(files: &Files) -> Vec<Violation> {
    let tests = test_files(files);
    let mut violations = Vec::new();
    for (path, text) in files.with_extension("rs") {
        if !text.starts_with("//!") {
            let message = "the file does not begin with `//!`; say in a line what it is for";
            violations.push(Violation::new(path, 1, message));
        }
        let code = code::without_comments_and_literals(text);
        let n_lines = lines_without_tests(&code);
        if n_lines > MOST_LINES && !tests.contains(path) {
            let message =
                format!("{n_lines} lines without tests are more than {MOST_LINES}; split the file along what it does");
            violations.push(Violation::new(path, 1, message));
        }
        for (line, word, after) in code::words(&code) {
            if ["todo", "unimplemented"].contains(&word) && after.starts_with('!') {
                violations.push(Violation::new(
                    path,
                    line,
                    format!("`{word}!` is unfinished code; finish it or return an error"),
                ));
            }
        }
        for (index, _) in code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore")) {
            let message = "a test that is switched off; make it fast or let it skip itself with a reason it prints";
            violations.push(Violation::new(path, index + 1, message));
        }
    }
    violations
}

/// Lines of a file, less those of its test items: comments count, they are read as well.
fn lines_without_tests(code: &str) -> usize {
    let production = code::without_tests(code);
    let is_test = |(line, kept): &(&str, &str)| !line.trim().is_empty() && kept.trim().is_empty();
    code.lines().count() - code.lines().zip(production.lines()).filter(is_test).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CORE: &str = "crates/sparc-core/src/objectives/x.rs";

    fn lines(violations: &[Violation]) -> Vec<usize> {
        violations.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn impure_core_is_found() {
        let text = "//! X.\nuse std::{fmt, io};\nfn f() { let r = Tensor::rand(1); println!(\"{r}\"); }\nfn g(world_size: i64) {}\n";
        let found = core_is_pure(&Files::in_memory(&[(CORE, text)]));
        let mut found = lines(&found);
        found.sort();
        assert_eq!(found, [2, 3, 3, 4]);
    }

    #[test]
    fn pure_core_passes_with_words_in_comments_and_tests() {
        let text = "//! Knows no rank, no std::fs.\nuse std::fmt;\nfn f(random: &str, print: i64) { g(\"rank\") }\n\
                    #[cfg(test)]\nmod tests {\n use std::fs;\n fn h() { println!(\"{}\", rank); }\n}\n";
        let parent = ("crates/sparc-core/src/objectives/y.rs", "//! Y.\n#[cfg(test)]\nmod reference;\n");
        let reference = ("crates/sparc-core/src/objectives/y/reference.rs", "//! R.\nuse std::fs;\n");
        assert_eq!(core_is_pure(&Files::in_memory(&[(CORE, text), parent, reference])), []);
    }

    #[test]
    fn ranks_belong_to_dist() {
        let text = "//! X.\n// rank\nfn f(rank: i64) {}\n";
        let found = rank_stays_in_dist(&Files::in_memory(&[("crates/sparc-data/src/loader.rs", text)]));
        assert_eq!(lines(&found), [3]);
        let world = [("crates/sparc-eval/src/metrics/x.rs", "//! X.\nfn f(world_size: i64) {}\n")];
        assert_eq!(lines(&rank_stays_in_dist(&Files::in_memory(&world))), [2]);
        let allowed = Files::in_memory(&[
            ("crates/sparc-train/src/dist/group.rs", text),
            ("crates/sparc-train/src/dist.rs", text),
            ("crates/sparc-train/tests/it/ranks.rs", text),
            ("crates/sparc-torch/src/group.rs", text),
            ("crates/sparc-eval/src/metrics/retrieval.rs", text),
            ("crates/sparc-eval/src/lib.rs", "//! X.\nfn f(n_ranked: i64, ranking: i64) {}\n"),
        ]);
        assert_eq!(rank_stays_in_dist(&allowed), []);
    }

    #[test]
    fn unsafe_belongs_to_sparc_torch() {
        let text = "//! X.\nfn f() { unsafe { g() } }\n";
        let found = unsafe_stays_in_sparc_torch(&Files::in_memory(&[
            ("crates/sparc-data/src/map.rs", text),
            ("benches/x.cu", ""),
        ]));
        assert_eq!(found.len(), 2);
        let allowed = Files::in_memory(&[
            ("crates/sparc-torch/src/lib.rs", text),
            ("crates/sparc-torch/cpp/bridge.cpp", ""),
            ("crates/sparc-data/src/lib.rs", "//! Nothing unsafe.\n#![forbid(unsafe_code)]\n"),
        ]);
        assert_eq!(unsafe_stays_in_sparc_torch(&allowed), []);
    }

    #[test]
    fn shape_is_checked() {
        let long = format!("//! X.\n{}", "fn f() {}\n".repeat(500));
        let found = files_are_in_shape(&Files::in_memory(&[
            ("a.rs", "fn f() {}\n"),
            ("b.rs", &long),
            ("c.rs", "//! C.\nfn f() { todo!() }\n#[test]\n#[ignore = \"slow\"]\nfn g() { unimplemented!() }\n"),
        ]));
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found[1].message.starts_with("501 lines"), "{}", found[1]);
    }

    #[test]
    fn tests_do_not_count_as_length() {
        let text = format!("//! X.\nfn f() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn g() {}\n".repeat(800));
        assert_eq!(files_are_in_shape(&Files::in_memory(&[("a.rs", &text)])), []);
        assert_eq!(lines_without_tests(&code::without_comments_and_literals(&text)), 2);
    }
}
