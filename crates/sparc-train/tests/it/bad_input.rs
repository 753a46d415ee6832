//! Bad input gets a clear error that names the file, key or field and the remedy; nothing is lost.

use std::collections::{BTreeMap, HashMap};
use std::process::Command;

use sparc_models::weights;
use tch::Tensor;

use crate::fixture::Fixture;

#[track_caller]
fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

#[test]
fn configurations_and_data_that_cannot_be_used_are_named() {
    let fixture = Fixture::new();
    let config = std::fs::read_to_string(fixture.path("run.yaml")).unwrap();
    std::fs::write(fixture.path("typo.yaml"), config.replace("warmup_steps", "warm_up_steps")).unwrap();
    let message = fixture.fail(&["train", "typo.yaml"]);
    assert_says(&message, &["typo.yaml", "optimizer", "`warm_up_steps`", "did you mean `warmup_steps`?"]);

    let plan = |setting: &str| fixture.fail(&["plan", "run.yaml", "--set", setting]);
    assert_says(&plan("data.train=data/train-{00000..00007}.tar"), &["train-00001.tar does not exist"]);
    assert_says(&plan("data.train=${SPARC_DATA}/x.tar"), &["SPARC_DATA is not set", "--set"]);
    assert_says(&plan("data.tokenizer=absent.json"), &["absent.json"]);
    assert_says(&plan("data.tokenizer=run.yaml"), &["run.yaml", "not a Hugging Face tokenizer.json"]);
    assert_says(&plan("model.image.patch_size=7"), &["model.image", "image_size 32", "patch_size 7"]);
    assert_says(&plan("optimizer.warmup_steps=6"), &["optimizer.warmup_steps", "train.steps"]);
    assert_says(&plan("objective.sparc.threshold={fixed: 2}"), &["objective.sparc.threshold", "[0, 1]"]);
    assert_says(&fixture.fail(&["train", "absent.yaml"]), &["absent.yaml"]);
    assert_says(
        &fixture.fail(&["train", "run.yaml", "--set", "train.batch_size=121"]),
        &["120 usable samples", "one batch of 121"],
    );
}

#[test]
fn a_run_is_not_overwritten_by_accident() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml"]);
    let before = fixture.log("run");
    assert_says(&fixture.fail(&["train", "run.yaml"]), &["run already holds a run", "--resume latest", "--overwrite"]);
    assert_eq!(fixture.log("run"), before);
    let message = fixture.fail(&["train", "run.yaml", "--set", "seed=2", "--resume", "latest"]);
    assert_says(&message, &["step_6", "config.seed: 2 now, 1 in the checkpoint"]);
    // Another run's checkpoint does not continue in this run's folder; this run's own does.
    fixture.succeed(&["train", "run.yaml", "--set", "output=other"]);
    let message = fixture.fail(&["train", "run.yaml", "--resume", "other/checkpoints/step_3"]);
    assert_says(&message, &["run already holds a run"]);
    assert_eq!(fixture.log("run"), before);
    fixture.succeed(&["train", "run.yaml", "--resume", "run/checkpoints/step_3"]);
    assert_eq!(fixture.log("run"), before);
    fixture.succeed(&["train", "run.yaml", "--overwrite", "--set", "train.steps=3"]);
    assert_eq!(fixture.log("run").len(), 3);
}

#[test]
fn what_is_wrong_with_a_checkpoint_is_said_at_once() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml"]);
    let path = fixture.path("run/checkpoints/step_6/model.safetensors");
    let mut tensors: BTreeMap<String, Tensor> = weights::load(&path).unwrap();
    tensors.remove("image.norm.weight");
    tensors.insert("text.norm.bias".into(), Tensor::zeros([7], tch::kind::FLOAT_CPU));
    weights::save(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), HashMap::new()).unwrap();
    for arguments in [
        &["train", "run.yaml", "--resume", "latest"][..],
        &["eval", "run", "--data", "data/test-*.tar", "--task", "retrieval"],
    ] {
        assert_says(
            &fixture.fail(arguments),
            &[
                "model.safetensors",
                "missing: image.norm.weight [128]",
                "shape: text.norm.bias is [7] in the file, [128] in the model",
            ],
        );
    }
    tensors.insert("text.norm.bias".into(), Tensor::full([128], f64::NAN, tch::kind::FLOAT_CPU));
    weights::save(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)), HashMap::new()).unwrap();
    assert_says(
        &fixture.fail(&["eval", "run", "--data", "data/test-*.tar", "--task", "retrieval"]),
        &["model.safetensors", "values that are not finite: 1, text.norm.bias", "earlier checkpoint"],
    );
    std::fs::write(&path, b"short").unwrap();
    assert_says(
        &fixture.fail(&["train", "run.yaml", "--resume", "latest"]),
        &["model.safetensors", "safetensors file"],
    );
}

#[test]
fn a_tokenizer_that_is_not_the_models_is_refused() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml"]);
    fixture.succeed(&[
        "tokenizer",
        "train",
        "--data",
        "data/test-*.tar",
        "--out",
        "run/tokenizer.json",
        "--vocab-size",
        "90",
    ]);
    let message = fixture.fail(&["eval", "run", "--data", "data/test-*.tar", "--task", "retrieval"]);
    assert_says(&message, &["tokenizer.json", "not the one the model was trained with"]);
    let other = ["train", "run.yaml", "--resume", "latest", "--set", "data.tokenizer=run/tokenizer.json"];
    assert_says(&fixture.fail(&other), &["resolved.tokenizer_fingerprint", "resolved.vocab_size"]);
}

#[test]
fn when_the_disk_is_full_the_last_checkpoint_survives() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml", "--set", "train.keep_checkpoints=1", "--set", "output=whole"]);
    let mut child = fixture.start(&["train", "run.yaml", "--set", "train.keep_checkpoints=1"]);
    while !fixture.path("run/latest").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let saved = std::fs::read_to_string(fixture.path("run/latest")).unwrap();
    // A limit on the size of files fails the same writes as a full disk does.
    let script = format!(
        "trap '' XFSZ; ulimit -f 500; exec {} train run.yaml --set train.keep_checkpoints=1 --resume latest",
        env!("CARGO_BIN_EXE_sparc")
    );
    let output = Command::new("sh").arg("-c").arg(script).current_dir(fixture.path("")).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_says(&message, &["error: saving checkpoint", "step_6", "earlier checkpoints are untouched"]);
    assert_eq!(std::fs::read_to_string(fixture.path("run/latest")).unwrap(), saved);
    // What was half written is gone, and with space again the run goes on as if nothing had been.
    assert_eq!(std::fs::read_dir(fixture.path("run/checkpoints")).unwrap().count(), 1);
    fixture.succeed(&["train", "run.yaml", "--set", "train.keep_checkpoints=1", "--resume", "latest"]);
    assert_eq!(fixture.log("run"), fixture.log("whole"));
    assert!(fixture.checkpoint("run", 6, "model.safetensors") == fixture.checkpoint("whole", 6, "model.safetensors"));
}

#[test]
fn broken_shards_lose_only_what_is_broken() {
    let fixture = Fixture::new();
    let shard = fixture.path("data/train-00000.tar");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2 + 100]).unwrap();
    // 60 samples are left: twenty batches of four come past the cut.
    let output = fixture.run(&["train", "run.yaml", "--set", "train.steps=20"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert_says(&text, &["shard_cut_off", "train-00000.tar"]);
}
