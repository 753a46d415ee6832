//! A run killed at any moment and resumed is, bit for bit, the uninterrupted run.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::fixture::Fixture;
use crate::objectives::{MATCHER, NAS};

const LONG: [&str; 4] = ["--set", "train.steps=20", "--set", "train.checkpoint_every=10"];

#[track_caller]
fn wait_for(what: impl Fn() -> bool) {
    let started = Instant::now();
    while !what() {
        assert!(started.elapsed() < Duration::from_secs(120), "waited in vain");
        sleep(Duration::from_millis(2));
    }
}

#[track_caller]
fn assert_same_run(fixture: &Fixture, run: &str, reference: &str) {
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(fixture.checkpoint(run, 20, file) == fixture.checkpoint(reference, 20, file), "{file} differs");
    }
    let state = |run: &str| -> serde_json::Value {
        let mut state: serde_json::Value = serde_json::from_slice(&fixture.checkpoint(run, 20, "state.json")).unwrap();
        state["plan"]["config"]["output"].take();
        state
    };
    assert_eq!(state(run), state(reference));
    assert_eq!(fixture.log(run), fixture.log(reference));
    assert_eq!(fixture.log(run).len(), 20);
}

/// Starts a run of 20 steps and kills it between its first checkpoint and its end.
fn kill_after_first_checkpoint(fixture: &Fixture, arguments: &[&str]) {
    let mut child = fixture.start(arguments);
    wait_for(|| fixture.path("run/latest").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!fixture.path("run/checkpoints/step_20").exists(), "the run was over before it was killed");
}

#[test]
fn killed_and_resumed_is_the_uninterrupted_run() {
    let fixture = Fixture::new();
    let whole = [&["train", "run.yaml", "--set", "output=whole"], &LONG[..]].concat();
    fixture.succeed(&whole);

    let arguments = [&["train", "run.yaml"], &LONG[..]].concat();
    kill_after_first_checkpoint(&fixture, &arguments);

    fixture.succeed(&[&arguments[..], &["--resume", "latest"]].concat());
    assert_same_run(&fixture, "run", "whole");
    // More worker threads move no sample.
    let resume = ["--set", "output=third", "--set", "data.workers=5", "--resume", "whole/checkpoints/step_10"];
    fixture.succeed(&[&arguments[..], &resume].concat());
    assert_eq!(fixture.log("third"), fixture.log("whole")[10..]);
    // Resuming what is finished changes nothing.
    fixture.succeed(&[&arguments[..], &["--resume", "latest"]].concat());
    assert_eq!(fixture.log("run"), fixture.log("whole"));
}

/// With momentum copies, queues and a dictionary, whose state is in no parameter.
#[test]
fn a_killed_run_of_nas_resumes_with_all_its_state() {
    let fixture = Fixture::new();
    fixture.add_mask_tokenizer();
    let settings: Vec<&str> = MATCHER.iter().chain(&[NAS]).flat_map(|setting| ["--set", *setting]).collect();
    let arguments = [&["train", "run.yaml"], &LONG[..], &settings].concat();
    fixture.succeed(&[&arguments[..], &["--set", "output=whole"]].concat());
    kill_after_first_checkpoint(&fixture, &arguments);
    fixture.succeed(&[&arguments[..], &["--resume", "latest"]].concat());
    assert_same_run(&fixture, "run", "whole");
    // The state is under names of its own.
    let path = fixture.path("run/checkpoints/step_20/model.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for name in ["momentum.fusion.norm.weight", "queue.next_and_filled", "dictionary.codes", "gate.gate.bias"] {
        assert!(tensors.tensor(name).is_ok(), "{name}");
    }
}

#[test]
fn several_threads_resume_bit_for_bit_and_another_number_is_reported() {
    let fixture = Fixture::new();
    let run = |threads: &str, arguments: &[&str]| {
        let mut command = fixture.command(&[&["train", "run.yaml"], &LONG[..], arguments].concat());
        let output = command.env("OMP_NUM_THREADS", threads).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        text
    };
    run("2", &["--set", "output=whole"]);
    let resume = ["--resume", "whole/checkpoints/step_10"];
    let message = "the checkpoint was computed with 2 threads";
    let same = run("2", &[&["--set", "output=same"], &resume[..]].concat());
    assert!(!same.contains(message), "{same}");
    assert_eq!(fixture.log("same"), fixture.log("whole")[10..]);
    let other = run("1", &[&["--set", "output=other"], &resume[..]].concat());
    assert!(other.contains(message), "{other}");
    assert_eq!(fixture.log("other").len(), 10);
}

#[test]
fn an_interrupt_saves_and_exits_cleanly() {
    let fixture = Fixture::new();
    let arguments = [&["train", "run.yaml"], &LONG[..]].concat();
    fixture.succeed(&[&arguments[..], &["--set", "output=whole"]].concat());

    let mut child = fixture.start(&arguments);
    let log = fixture.path("run/metrics.jsonl");
    wait_for(|| std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() >= 3));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let latest = std::fs::read_to_string(fixture.path("run/latest")).unwrap();
    assert_ne!(latest.trim(), "step_20");

    fixture.succeed(&[&arguments[..], &["--resume", "latest"]].concat());
    assert_same_run(&fixture, "run", "whole");
}
