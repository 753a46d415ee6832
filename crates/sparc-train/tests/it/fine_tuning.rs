//! Fine-tuning of a captioner: questions and classes learned, what is frozen, where it begins, what is refused.

use std::collections::BTreeMap;
use std::io::Cursor;

use serde_json::{Value, json};

use crate::fixture::{Fixture, Members};
use crate::objectives::{CAPTIONER, COCA, SYCOCA};

const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [220, 30, 30]), ("green", [30, 200, 40]), ("blue", [30, 40, 220]), ("yellow", [230, 220, 40])];

/// A captioner of a few steps on Shapes under `pretrained`, and photographs of one colour each with questions.
fn pretrained(objective: &str) -> Fixture {
    let fixture = Fixture::new();
    let mut command = vec!["train", "run.yaml", "--set", "output=pretrained", "--set", objective];
    command.extend(CAPTIONER.iter().flat_map(|setting| ["--set", *setting]));
    fixture.succeed(&command);
    fixture.write_shard("train.tar", &coloured(0..64));
    fixture.write_shard("test.tar", &coloured(64..80));
    std::fs::write(fixture.path("answers.json"), r#"["red", "green", "blue", "yellow", "yes", "no"]"#).unwrap();
    std::fs::write(fixture.path("classes.json"), json!(COLOURS.map(|(name, _)| name)).to_string()).unwrap();
    fixture
}

/// Each colour as often; of each, one question that needs the image and one that some answers of need it too.
fn coloured(numbers: std::ops::Range<usize>) -> Vec<(String, Members)> {
    let sample = |number: usize| {
        let (name, shade) = COLOURS[number % 4];
        // A little darker from image to image, so that no two are the same.
        let pixel = image::Rgb(shade.map(|value| value - (number / 4) as u8));
        let mut png = Cursor::new(Vec::new());
        image::RgbImage::from_pixel(32, 32, pixel).write_to(&mut png, image::ImageFormat::Png).unwrap();
        let is_red = if number.is_multiple_of(4) { "yes" } else { "no" };
        let record = json!({"qa": [
            {"question": "what is the circle?", "answers": [name, "large"]},
            {"question": "is the square red?", "answers": [is_red]},
            {"question": "where is it?", "answers": ["beyond the list"]},
        ]});
        let class = (number % 4).to_string().into_bytes();
        (
            format!("k{number:03}"),
            vec![("png", png.into_inner()), ("json", record.to_string().into_bytes()), ("cls", class)],
        )
    };
    numbers.map(sample).collect()
}

const ANSWERS: &str = "data.answers=answers.json";
const CLASSES: &str = "data.classes=classes.json";

fn vqa(lambda_caption: f64) -> String {
    format!(
        "objective={{coca: {{lambda_contrastive: 0.0, lambda_caption: {lambda_caption:?}, normalisation: open_clip, \
         head: {{task: vqa, weight: 1.0, label_smoothing: 0.0}}}}}}"
    )
}

fn classification() -> String {
    vqa(0.0).replace("task: vqa", "task: classification")
}

/// `train run.yaml` with the captioner, the coloured images and these settings.
fn command<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let common = ["data.train=train.tar", "data.captions=first", "train.batch_size=16"];
    let all = CAPTIONER.iter().chain(&common).chain(settings);
    ["train", "run.yaml"].into_iter().chain(all.flat_map(|setting| ["--set", *setting])).collect()
}

const ALL: &str = "fine_tuning={from: pretrained, trained: {all: {body_rate: 0.5}}}";
const HEAD: &str = "fine_tuning={from: pretrained, trained: head}";
const LONG: [&str; 5] = [
    "train.steps=120",
    "train.checkpoint_every=120",
    "optimizer.learning_rate=0.003",
    "optimizer.warmup_steps=10",
    "train.log_every=10",
];

fn eval(fixture: &Fixture, run: &str, arguments: &[&str]) -> Value {
    fixture.succeed(&[&["eval", run, "--data", "test.tar", "--json", "out.json"], arguments].concat());
    serde_json::from_slice(&std::fs::read(fixture.path("out.json")).unwrap()).unwrap()
}

#[track_caller]
fn metric(results: &Value, key: &str) -> f64 {
    results["metrics"][key].as_f64().unwrap_or_else(|| panic!("no {key} in {}", results["metrics"]))
}

/// The tensors of a checkpoint's file, as bytes.
fn tensors(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect()
}

#[test]
fn answers_are_learned_beyond_the_most_frequent() {
    let fixture = pretrained(COCA);
    let objective = vqa(1.0);
    let output = fixture.run(&command(&[&[&objective, ANSWERS, ALL][..], &LONG].concat()));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("tensors from pretrained/checkpoints/step_6 (step 6); new: 15 (answers."), "{text}");
    assert!(text.contains("128 questions to learn from; 64 more have no answer in the list"), "{text}");
    let losses = |key: &str| -> Vec<f64> {
        let line = |line: &String| serde_json::from_str::<Value>(line).unwrap()[key].as_f64().unwrap();
        fixture.log("run").iter().map(line).collect()
    };
    for key in ["loss_answer", "loss_caption"] {
        let losses = losses(key);
        assert!(losses[losses.len() - 1] < 0.5 * losses[0], "{key}: {losses:?}");
    }
    let log = fixture.log("run").pop().unwrap();
    assert!(log.contains("\"unlisted_answer\":") && log.contains("\"answer_accuracy\":"), "{log}");

    let results = eval(&fixture, "run", &["--task", "vqa"]);
    let n = |key: &str| metric(&results, key) as usize;
    assert_eq!((n("n_questions"), n("n_questions_unlisted"), n("n_without_questions")), (48, 16, 0));
    // Of three questions one is beyond the list, and `no` is right to a quarter of all.
    let most_frequent = metric(&results, "vqa_most_frequent_exact_match");
    assert_eq!(results["results"]["vqa"]["most_frequent"]["answer"], "no");
    assert!((most_frequent - 0.25).abs() < 1e-9, "{most_frequent}");
    let exact = metric(&results, "vqa_exact_match");
    assert!(exact > 0.6 && exact <= 2.0 / 3.0 + 1e-9, "{exact}");
    // A colour is one of the two answers to the first question, and not all of them.
    assert!(metric(&results, "vqa_whole_match") <= 1.0 / 3.0 + 1e-9);
    assert!(results["metrics"].get("vqa_accuracy").is_none(), "these are not the answers of ten people");
    assert_eq!(results["results"]["vqa"]["protocol"], "closed: one of 6");

    // In words: the captioner has read the questions with their answers.
    let generated = eval(&fixture, "run", &["--task", "vqa", "--answers", "generated", "--caption", "max_tokens=6"]);
    assert!(metric(&generated, "vqa_exact_match") > most_frequent, "{}", generated["metrics"]);
    assert_eq!(metric(&generated, "n_questions_unlisted"), 0.0);
    assert!(generated["results"]["vqa"]["protocol"].as_str().unwrap().starts_with("generated: "));
    // A captioner that was not fine-tuned can be asked as well; there is no baseline then.
    let plain = eval(&fixture, "pretrained", &["--task", "vqa", "--caption", "max_tokens=6"]);
    assert!(plain["metrics"].get("vqa_most_frequent_exact_match").is_none() && metric(&plain, "n_questions") == 48.0);
    let message = fixture.fail(&["eval", "pretrained", "--data", "test.tar", "--task", "vqa", "--answers", "closed"]);
    assert!(message.contains("has no head for answers"), "{message}");
    let other = ["eval", "run", "--data", "test.tar", "--task", "retrieval", "--answers", "closed"];
    assert!(fixture.fail(&other).contains("--answers is of --task vqa"));
    let message = fixture.fail(&["eval", "run", "--data", "data/test-*.tar", "--task", "vqa"]);
    assert!(message.contains("none of 24 images has a question with an answer"), "{message}");
    std::fs::remove_file(fixture.path("run/head.json")).unwrap();
    let message = fixture.fail(&["eval", "run", "--data", "test.tar", "--task", "vqa"]);
    assert!(message.contains("run/head.json"), "{message}");
}

#[test]
fn a_frozen_run_trains_its_head_alone_and_a_full_one_everything() {
    // SyCoCa's image decoder has no use here and is left out.
    let fixture = pretrained(SYCOCA);
    let objective = classification();
    let frozen = command(&[&[&objective, CLASSES, HEAD][..], &LONG, &["output=frozen", "train.steps=60"]].concat());
    let output = fixture.run(&frozen);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("left out, of the checkpoint:") && text.contains("(image_decoder."), "{text}");
    assert!(text.contains("# frozen: "), "{text}");
    let full = command(&[&[&objective, CLASSES, ALL][..], &LONG, &["output=full", "train.steps=60"]].concat());
    fixture.succeed(&full);

    let before = tensors(&fixture.checkpoint("pretrained", 6, "model.safetensors"));
    let after = |run: &str| tensors(&fixture.checkpoint(run, 60, "model.safetensors"));
    let (frozen, full) = (after("frozen"), after("full"));
    assert_eq!(frozen.keys().collect::<Vec<_>>(), full.keys().collect::<Vec<_>>());
    for (name, values) in &frozen {
        match before.get(name) {
            None => assert!(name.starts_with("classes.") && *values != full[name], "{name}"),
            Some(before) => assert!(values == before, "{name} is frozen"),
        }
    }
    let tower = |name: &str| name.starts_with("image.");
    assert!(full.keys().filter(|name| tower(name)).all(|name| full[name] != before[name]));
    // No reading, no change: the decoder has no gradient and so no decay.
    assert!(full.keys().filter(|name| name.starts_with("text_decoder.")).all(|name| full[name] == before[name]));
    let state = |run: &str| tensors(&fixture.checkpoint(run, 60, "optimizer.safetensors"));
    assert_eq!(state("frozen").len(), 30);
    assert!(state("frozen").keys().all(|name| name.starts_with("classes.")));
    assert!(state("full").len() > 100);

    for run in ["frozen", "full"] {
        let results = eval(&fixture, run, &["--task", "classification"]);
        assert!(metric(&results, "head_acc1") > 0.5, "{run}: {}", results["metrics"]);
        assert!(results["metrics"].get("zeroshot_acc1").is_none());
        assert_eq!(results["results"]["classification"]["by_head"], true);
    }
    std::fs::write(fixture.path("other.json"), r#"["red", "blue", "green", "yellow"]"#).unwrap();
    let other = ["eval", "full", "--data", "test.tar", "--task", "classification", "--classes", "other.json"];
    let message = fixture.fail(&other);
    assert!(message.contains("number 1 (from 0): `green` in training, `blue` here"), "{message}");
}

#[test]
fn a_resume_needs_no_initial_checkpoint_and_is_the_same_run() {
    let fixture = pretrained(COCA);
    let objective = vqa(0.5);
    let steps = ["train.steps=20", "train.checkpoint_every=10"];
    let whole = command(&[&[&objective, ANSWERS, ALL, "output=whole"][..], &steps].concat());
    fixture.succeed(&whole);
    std::fs::rename(fixture.path("pretrained"), fixture.path("gone")).unwrap();
    std::fs::rename(fixture.path("answers.json"), fixture.path("moved.json")).unwrap();
    let settings = [&[&objective, "data.answers=moved.json", ALL, "output=resumed"][..], &steps].concat();
    let resumed = [&command(&settings)[..], &["--resume", "whole/checkpoints/step_10"]].concat();
    fixture.succeed(&resumed);
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(fixture.checkpoint("resumed", 20, file) == fixture.checkpoint("whole", 20, file), "{file}");
    }
    // What is skipped is counted anew by each program.
    let log = |run: &str| -> Vec<Value> {
        let line = |line: &String| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            assert!(line["skipped"]["unlisted_answer"].take().is_u64());
            line
        };
        fixture.log(run).iter().map(line).collect()
    };
    assert_eq!(log("resumed"), log("whole")[10..]);
    assert_eq!(
        std::fs::read(fixture.path("resumed/head.json")).unwrap(),
        std::fs::read(fixture.path("whole/head.json")).unwrap()
    );
    // Another list is another run, and so is a change of what is trained.
    std::fs::write(fixture.path("moved.json"), r#"["red", "green", "blue", "yellow", "no", "yes"]"#).unwrap();
    assert!(fixture.fail(&resumed).contains("resolved.head.fingerprint"));
    let rate = [&resumed[..], &["--set", "fine_tuning.trained.all.body_rate=1.0"]].concat();
    assert!(fixture.fail(&rate).contains("config.fine_tuning.trained.all.body_rate: 1.0 now, 0.5 in the checkpoint"));
    // From its beginning it does need it.
    let message = fixture.fail(&command(&[&objective, "data.answers=moved.json", ALL, "output=fresh"]));
    assert!(message.contains("pretrained") && !fixture.path("fresh").exists(), "{message}");
    // A second fine-tuning over another list begins with a new head, over the same list it goes on with it.
    let again = |answers: &str, output: &str| {
        let from = "fine_tuning={from: whole, trained: {all: {body_rate: 1.0}}}";
        let (answers, output) = (format!("data.answers={answers}"), format!("output={output}"));
        let output = fixture.run(&command(&[&objective, &answers, from, &output]));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(again("moved.json", "other").contains("new: 15 (answers."));
    std::fs::write(fixture.path("answers.json"), r#"["red", "green", "blue", "yellow", "yes", "no"]"#).unwrap();
    let same = again("answers.json", "same");
    assert!(same.contains("loaded ") && !same.contains("new: "), "{same}");
}

#[test]
fn where_a_run_begins_must_fit() {
    let fixture = pretrained(COCA);
    let objective = vqa(0.0);
    let fail = |settings: &[&str]| fixture.fail(&command(&[&[&objective, ANSWERS, ALL], settings].concat()));
    let message = fail(&["model.embed_dim=16"]);
    assert!(message.contains("checkpoint pretrained/checkpoints/step_6 does not fit"), "{message}");
    assert!(
        message.contains("shape: image_adapter.weight is [32, 128] in the file, [16, 128] in the model"),
        "{message}"
    );
    assert!(message.contains("shape: text_adapter.weight") && !message.contains("answers."), "{message}");
    let message = fail(&["model.captioner.text_decoder_layers=3"]);
    assert!(message.contains("missing: text_decoder.blocks.2.attn.out.bias [128]"), "{message}");
    // What leaves no trace in names and shapes, or only in what would be left out.
    for (key, value) in [("class_token_in_memory", "true"), ("text_decoder_layers", "1")] {
        let message = fail(&[&format!("model.captioner.{key}={value}")]);
        assert!(message.contains(&format!("config.model.captioner.{key}: {value} now")), "{message}");
    }
    assert!(!fixture.path("run").exists(), "nothing is begun");
    fixture.succeed(&["train", "run.yaml", "--set", "output=sparc"]);
    let message = fail(&["fine_tuning.from=sparc"]);
    assert!(message.contains("it was trained with sparc, which is no captioner"), "{message}");
    let message = fail(&["fine_tuning.from=nothing"]);
    assert!(message.contains("nothing: there is no checkpoint here yet"), "{message}");
    fixture.add_mask_tokenizer();
    let message = fail(&["data.tokenizer=tokenizer_mask.json"]);
    assert!(message.contains("give the tokenizer.json of that run"), "{message}");
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let fixture = pretrained(COCA);
    let (answers, classes) = (vqa(0.0), classification());
    std::fs::write(fixture.path("none.json"), "[]").unwrap();
    std::fs::write(fixture.path("twice.json"), r#"["red", "blue", "red"]"#).unwrap();
    std::fs::write(fixture.path("foreign.json"), r#"["chair", "lamp"]"#).unwrap();
    std::fs::write(fixture.path("two.json"), r#"["red", "green"]"#).unwrap();
    let cocas = COCA.replace("1.0, lambda_caption", "0.0, lambda_caption");
    for (settings, expected) in [
        (&[answers.as_str(), ANSWERS, "data.train=data/train-*.tar"][..], "has no question"),
        (&[&answers, "data.answers=foreign.json"], "has no question"),
        (&[&answers, "data.answers=none.json"], "none.json: it has 0 answers"),
        (&[&answers, "data.answers=twice.json"], "`red`, is answer 0 once more"),
        (&[&answers, "data.answers=absent.json"], "absent.json"),
        (&[&answers], "data.answers: the head of objective.coca.head needs a list of answers"),
        (&[&answers, ANSWERS, CLASSES], "data.classes: objective.coca has no head for it"),
        (&[&answers, ANSWERS, "data.captions=all"], "data.captions"),
        (&[&answers, ANSWERS, "objective.coca.lambda_contrastive=1.0"], "lambda_contrastive must be 0"),
        (&[&answers, ANSWERS, HEAD, "objective.coca.lambda_caption=1.0"], "the captioner does not learn"),
        (&[&answers, ANSWERS, ALL, "fine_tuning.trained.all.body_rate=0"], "body_rate must lie in (0, 1]"),
        (&[&cocas, HEAD], "fine_tuning.trained is head, and there is none"),
        (&[SYCOCA, ALL], "objective sycoca cannot be fine-tuned"),
        (&[&classes, "data.classes=two.json"], "is not among the 2 of data.classes, which are 0 to 1"),
        (&[&classes, CLASSES, "objective.coca.lambda_caption=1.0"], "nothing to read"),
    ] {
        let message = fixture.fail(&command(settings));
        assert!(message.contains(expected), "{settings:?}: {message}");
    }
    let message = fixture.fail(&command(&[&classes, "data.classes=two.json", "output=again"]));
    assert!(message.contains("train.tar: sample k00"), "{message}");
    // Without a class a sample is skipped and counted.
    let without: Vec<_> = coloured(0..64).into_iter().map(|(key, members)| (key, members[..2].to_vec())).collect();
    fixture.write_shard("train.tar", &without);
    let message = fixture.fail(&command(&[&classes, CLASSES, "output=third"]));
    assert!(message.contains("no_class=64"), "{message}");
}
