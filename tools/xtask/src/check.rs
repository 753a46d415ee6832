//! `cargo xtask test` and `cargo xtask ci`: what has to be green before a commit.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::process;
use crate::setup;
use crate::tidy;
use crate::workspace::Workspace;

/// Sets up and runs the tests of the workspace, doc tests included; `passed_on` goes to `cargo test`.
pub fn test(workspace: &Workspace, passed_on: &[String]) -> Result<(), String> {
    setup::setup(workspace)?;
    run_tests(workspace, passed_on)
}

fn run_tests(workspace: &Workspace, passed_on: &[String]) -> Result<(), String> {
    let mut command = workspace.cargo();
    // In release, as the demo builds: the C++ of LibTorch's binding is then compiled once for both, and
    // that is most of a first build's time.
    command.args(["test", "--release"]);
    if !selects_packages(passed_on) {
        command.arg("--workspace");
    }
    command.args(passed_on);
    process::run(&mut command).map_err(|_| "tests failed; the messages are above".to_owned())
}

/// Whether the arguments name packages of their own: cargo lets `--workspace` win over `-p` in silence.
fn selects_packages(passed_on: &[String]) -> bool {
    passed_on
        .iter()
        .take_while(|argument| *argument != "--")
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

/// One check of `ci` and how it went.
struct Outcome {
    name: &'static str,
    passed: bool,
    took: Duration,
}

/// Runs every check, whether or not an earlier one failed, and says at the end which failed.
pub fn ci(workspace: &Workspace) -> Result<bool, String> {
    setup::setup(workspace)?;
    let cargo = |arguments: &str| {
        let mut command = workspace.cargo();
        command.args(arguments.split(' '));
        command
    };
    let passes =
        |mut command: Command| process::run(&mut command).inspect_err(|message| eprintln!("error: {message}")).is_ok();
    // Clippy and rustdoc in release too: they run the build scripts of what they depend on, and share those
    // of the tests.
    let mut docs = cargo("doc --workspace --no-deps --release");
    docs.env("RUSTDOCFLAGS", "-D warnings -D rustdoc::broken_intra_doc_links");
    let outcomes = [
        timed("fmt", || passes(cargo("fmt --all --check"))),
        timed("clippy", || passes(cargo("clippy --workspace --all-targets --release -- -D warnings"))),
        timed("doc", || passes(docs)),
        timed("test", || run_tests(workspace, &[]).is_ok()),
        timed("tidy", || {
            tidy::tidy(workspace).unwrap_or_else(|message| {
                eprintln!("error: {message}");
                false
            })
        }),
    ];
    print!("\n{}", summary(&outcomes));
    Ok(outcomes.iter().all(|outcome| outcome.passed))
}

fn timed(name: &'static str, check: impl FnOnce() -> bool) -> Outcome {
    println!("== {name}");
    let start = Instant::now();
    let passed = check();
    Outcome { name, passed, took: start.elapsed() }
}

fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let verdict = if outcome.passed { "ok" } else { "FAILED" };
        text.push_str(&format!("{:<8} {verdict:<8} {}\n", outcome.name, process::human(outcome.took)));
    }
    let failed: Vec<&str> = outcomes.iter().filter(|outcome| !outcome.passed).map(|outcome| outcome.name).collect();
    if failed.is_empty() {
        text.push_str("ci: all passed\n");
    } else {
        text.push_str(&format!("ci: failed: {}\n", failed.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_names_what_failed() {
        let outcome = |name, passed| Outcome { name, passed, took: Duration::from_secs(2) };
        assert!(summary(&[outcome("fmt", true), outcome("doc", true)]).ends_with("ci: all passed\n"));
        let text = summary(&[outcome("fmt", false), outcome("doc", true), outcome("tidy", false)]);
        assert!(text.contains("fmt      FAILED   2.0 s\n"), "{text}");
        assert!(text.ends_with("ci: failed: fmt, tidy\n"), "{text}");
    }

    #[test]
    fn chosen_packages_replace_the_workspace() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(selects_packages(&words("-p sparc-core -- padding")));
        assert!(selects_packages(&words("--package=sparc-core")));
        assert!(!selects_packages(&words("--lib -- -p")));
    }
}
