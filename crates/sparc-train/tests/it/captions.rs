//! Captions, their evaluation and the picture of masks, on a run of a few steps.

use crate::fixture::Fixture;
use crate::objectives::{CAPTIONER, SYCOCA};

fn trained() -> Fixture {
    let fixture = Fixture::new();
    let settings = [&CAPTIONER[..], &[SYCOCA]].concat();
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    fixture.succeed(&["train", "run.yaml"].into_iter().chain(settings).collect::<Vec<_>>());
    fixture
}

#[test]
fn captions_are_written_in_every_format() {
    let fixture = trained();
    let data = ["--data", "data/test-*.tar"];
    let caption = |more: &[&str]| fixture.succeed(&[&["caption", "run", "--set", "max_tokens=6"], more].concat());

    let text = caption(&data);
    assert_eq!(text.lines().count(), 24);
    let (key, first) = text.lines().next().unwrap().split_once('\t').unwrap();
    assert_eq!(key, "test-00000000");

    caption(&[&data[..], &["--format", "jsonl", "--out", "captions.jsonl"]].concat());
    let lines = std::fs::read_to_string(fixture.path("captions.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((line["key"].as_str(), line["caption"].as_str()), (Some(key), Some(first)));
    assert!(line["log_probability"].as_f64().unwrap() < 0.0 && (5..=6).contains(&line["n_tokens"].as_u64().unwrap()));

    // Shards are shards: they can be evaluated on, and their captions are those that were made.
    let shards = caption(&[&data[..], &["--format", "shards", "--out", "captioned"]].concat());
    assert!(shards.trim().ends_with("captions-00000.tar"), "{shards}");
    let again = fixture.succeed(&["caption", "run", "--set", "max_tokens=6", "--data", "captioned/*.tar"]);
    assert_eq!(again, text);

    // Draws depend on the seed and the key alone.
    let draw =
        |seed: &str| caption(&[&data[..], &["--set", "strategy={sample: {temperature: 1.0}}", "--set", seed]].concat());
    assert_eq!(draw("seed=1"), draw("seed=1"));
    assert_ne!(draw("seed=1"), draw("seed=2"));

    std::fs::write(fixture.path("x.jpg"), fixture.first_jpeg("data/test-00000.tar")).unwrap();
    assert!(caption(&["--image", "x.jpg", "--image", "x.jpg"]).lines().all(|line| line == format!("x.jpg\t{first}")));

    fixture.succeed(&["inspect", "run", "--image", "x.jpg", "--text", "a red circle", "--out", "sheet.png"]);
    assert!(image::open(fixture.path("sheet.png")).unwrap().width() > 1000, "five pictures side by side");
}

#[test]
fn captioners_are_evaluated() {
    let fixture = trained();
    let eval = ["eval", "run", "--data", "data/test-*.tar", "--json", "out.json", "--task"];
    fixture.succeed(&[&eval[..], &["retrieval,captioning,losses", "--caption", "strategy=greedy"]].concat());
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture.path("out.json")).unwrap()).unwrap();
    let metric = |key: &str| results["metrics"][key].as_f64().unwrap_or_else(|| panic!("no {key} in {results}"));
    for key in ["image_to_text_R@1", "caption_BLEU-4", "caption_distinct", "shapes_parsed", "shapes_true"] {
        assert!((0.0..=1.0).contains(&metric(key)), "{key}");
    }
    for key in ["caption_loss", "caption_loss_masked", "reconstruction_error", "reconstruction_error_of_another_text"] {
        assert!(metric(key) > 0.0, "{key}");
    }
    assert_eq!(metric("n_captioned"), 24.0);
    assert_eq!(results["results"]["captioning"]["captions"].as_array().unwrap().len(), 24);
    assert!(results["results"]["captioning"]["generation"].as_str().unwrap().contains("greedy"));
    let report = ["report", "--run", "sycoca=run", "--data", "data/test-*.tar", "--task", "retrieval,captioning"];
    fixture.succeed(&[&report[..], &["--out", "report"]].concat());
    let page = std::fs::read_to_string(fixture.path("report/report.html")).unwrap();
    assert!(page.contains("sycoca: masks of test-") && page.contains("Reconstruction"));
    let error = fixture.fail(&["report", "--run", "x=run", "--data", "data/*.tar", "--task", "losses", "--out", "r"]);
    assert!(error.contains("one of `sparc eval` alone"), "{error}");
    // The losses alone need no features.
    assert!(fixture.succeed(&[&eval[..], &["losses"]].concat()).contains("reconstruction from another's text"));
}

#[test]
fn what_cannot_be_captioned_is_refused() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml"]);
    let data = ["--data", "data/test-*.tar"];
    let message = fixture.fail(&[&["caption", "run"], &data[..]].concat());
    assert!(message.contains("run was trained with sparc, which has no text decoder"), "{message}");
    for task in ["captioning", "losses"] {
        let message = fixture.fail(&[&["eval", "run", "--task", task], &data[..]].concat());
        assert!(message.contains("give a run of coca or sycoca"), "{message}");
    }
    let fixture = trained();
    for (settings, expected) in [
        (&["--set", "max_tokens=60"][..], "leaves 47 of the context of 48"),
        (&["--set", "width=3"], "did you mean"),
        (&["--set", "strategy={beam: {width: 0, length_penalty: 1}}"], "width must be at least 1"),
        (&["--format", "shards"], "--out"),
    ] {
        let message = fixture.fail(&[&["caption", "run"], &data[..], settings].concat());
        assert!(message.contains(expected), "{message}");
    }
}
