//! `cargo xtask demo`: from a fresh checkout to a report that compares CLIP and SPARC, in one command.

use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

/// Where everything of the demo lies, relative to the root (git ignores it).
const FOLDER: &str = "runs/demo";

/// The methods that are trained and compared, each with a `demo.yaml`.
const METHODS: [&str; 2] = ["clip", "sparc"];

/// Sets up, builds, makes the data, trains both methods and writes the report.
pub fn demo(workspace: &Workspace) -> Result<(), String> {
    let start = Instant::now();
    // The report states how long the whole demo took, the build included.
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| "the clock of this machine stands before 1970; set it".to_owned())?
        .as_secs();
    announce(start, "cargo xtask setup");
    setup::setup(workspace)?;

    let mut build = workspace.cargo();
    build.args(["build", "--release", "-p", "sparc-train"]);
    announce(start, "cargo build --release -p sparc-train");
    process::run(&mut build).map_err(|_| "the build failed; the compiler's message is above".to_owned())?;
    let sparc = workspace.target_folder()?.join("release").join("sparc");
    if !sparc.is_file() {
        return Err(format!(
            "the build left no {}; unset CARGO_BUILD_TARGET, or build.target in cargo's configuration",
            sparc.display()
        ));
    }

    for arguments in steps(started) {
        let line = format!("sparc {}", arguments.join(" "));
        announce(start, &line);
        let mut step = Command::new(&sparc);
        step.args(&arguments).current_dir(&workspace.root);
        let status = step.status().map_err(|error| format!("{} could not be started: {error}", sparc.display()))?;
        if !status.success() {
            return Err(format!("`{line}` failed ({status}); its message is above"));
        }
    }
    let report = workspace.root.join(FOLDER).join("report.html");
    check_written(&report)?;
    announce(start, &format!("done; open {}", report.display()));
    Ok(())
}

fn check_written(report: &Path) -> Result<(), String> {
    if report.is_file() { Ok(()) } else { Err(format!("`sparc report` wrote no {}", report.display())) }
}

fn announce(start: Instant, line: &str) {
    println!("[{:>12}] {line}", process::human(start.elapsed()));
}

/// The calls of the binary, in order. Patterns with `*` are the binary's to expand: there is no shell between.
fn steps(started: u64) -> Vec<Vec<String>> {
    let mut steps = vec![
        format!("shards synth --out {FOLDER}/data --train 8000 --val 400 --test 1000 --seed 0 --if-missing"),
        format!("tokenizer train --data {FOLDER}/data/train-*.tar --out {FOLDER}/tokenizer.json --vocab-size 512"),
    ];
    steps.extend(METHODS.map(|method| format!("train configs/{method}/demo.yaml --overwrite")));
    let runs: String = METHODS.map(|method| format!("--run {method}={FOLDER}/{method} ")).concat();
    steps.push(format!("report {runs}--data {FOLDER}/data/test-*.tar --out {FOLDER} --started {started}"));
    steps.iter().map(|step| step.split(' ').map(str::to_owned).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_order_and_keep_their_patterns() {
        let lines: Vec<String> = steps(17).iter().map(|arguments| arguments.join(" ")).collect();
        assert_eq!(
            lines,
            [
                "shards synth --out runs/demo/data --train 8000 --val 400 --test 1000 --seed 0 --if-missing",
                "tokenizer train --data runs/demo/data/train-*.tar --out runs/demo/tokenizer.json --vocab-size 512",
                "train configs/clip/demo.yaml --overwrite",
                "train configs/sparc/demo.yaml --overwrite",
                "report --run clip=runs/demo/clip --run sparc=runs/demo/sparc --data runs/demo/data/test-*.tar \
                 --out runs/demo --started 17",
            ]
        );
        assert!(steps(17).iter().flatten().all(|argument| !argument.is_empty()));
    }
}
