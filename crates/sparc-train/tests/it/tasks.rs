//! Evaluation, inspection and the report on a run of a few steps.

use crate::fixture::Fixture;
use crate::objectives::{MATCHER, NAS};

#[test]
fn a_run_can_be_evaluated_inspected_and_reported() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml"]);
    fixture.succeed(&["train", "run.yaml", "--set", "objective={clip: {}}", "--set", "output=clip"]);

    let all = "retrieval,classification,segmentation,grounding";
    fixture.succeed(&["eval", "run", "--data", "data/test-*.tar", "--task", all, "--json", "out.json"]);
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture.path("out.json")).unwrap()).unwrap();
    for key in ["image_to_text_R@1", "zeroshot_acc1", "segmentation_mIoU", "grounding_pointing_accuracy"] {
        assert!(results["metrics"][key].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{key}: {results}");
    }
    assert_eq!(results["metrics"]["n_images"], 24.0);

    std::fs::write(fixture.path("x.jpg"), fixture.first_jpeg("data/test-00000.tar")).unwrap();
    fixture.succeed(&["inspect", "run", "--image", "x.jpg", "--text", "a red circle", "--out", "sheet.png"]);
    assert!(image::open(fixture.path("sheet.png")).unwrap().width() > 100);

    let runs = ["report", "--run", "clip=clip", "--run", "sparc=run", "--data", "data/test-*.tar", "--out", "report"];
    assert!(fixture.succeed(&runs).contains("pointing accuracy"));
    let summary: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture.path("report/summary.json")).unwrap()).unwrap();
    assert!(summary["sparc"]["image_to_text_R@1"].is_number() && summary["clip"]["segmentation_mIoU"].is_number());
    assert!(summary["seconds"].is_number());
    let page = std::fs::read_to_string(fixture.path("report/report.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("data:image"));

    assert!(
        fixture.fail(&["eval", "data", "--data", "data/test-*.tar", "--task", "retrieval"]).contains("no checkpoint")
    );
    let camera = fixture.fail(&["inspect", "run", "--image", "run.yaml", "--text", "x"]);
    assert!(camera.contains("run.yaml cannot be decoded"), "{camera}");
}

/// By cosine, as every network, and by its matching head.
#[test]
fn a_matcher_is_evaluated_and_inspected() {
    let fixture = Fixture::new();
    fixture.add_mask_tokenizer();
    let settings = MATCHER.iter().chain(&[NAS]).flat_map(|setting| ["--set", *setting]);
    fixture.succeed(&["train", "run.yaml"].into_iter().chain(settings).collect::<Vec<_>>());
    let eval = ["eval", "run", "--data", "data/test-*.tar", "--json", "out.json", "--task"];
    fixture.succeed(&[&eval[..], &["retrieval,classification,segmentation,grounding"]].concat());
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture.path("out.json")).unwrap()).unwrap();
    for key in ["image_to_text_R@1", "zeroshot_acc1", "segmentation_mIoU", "grounding_pointing_accuracy"] {
        assert!(results["metrics"][key].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{key}: {results}");
    }
    std::fs::write(fixture.path("x.jpg"), fixture.first_jpeg("data/test-00000.tar")).unwrap();
    fixture.succeed(&["inspect", "run", "--image", "x.jpg", "--text", "a red circle", "--out", "sheet.png"]);
    fixture.succeed(&[&eval[..], &["retrieval,compositional", "--rerank", "4"]].concat());
    let results: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture.path("out.json")).unwrap()).unwrap();
    for key in ["reranked_image_to_text_R@1", "reranked_text_to_image_R@1"] {
        assert!(results["metrics"][key].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{key}: {results}");
    }
    let metrics = results["metrics"].as_object().unwrap();
    assert!(metrics.keys().any(|key| key.starts_with("compositional.match.negatives")), "{results}");
    let scores = fixture.succeed(&["score", "run", "--image", "x.jpg", "--text", "a red circle"]);
    assert!(scores.contains("a red circle"), "{scores}");
    // The dictionary, and a pair that is edited, with patches for its codes and without.
    let data = ["--data", "data/test-*.tar"];
    let inspect = |more: &[&str]| {
        fixture.succeed(&[&["inspect", "run", "--out", "sheet.png"], more].concat());
        image::open(fixture.path("sheet.png")).unwrap().into_rgb8()
    };
    let pair = ["--image", "x.jpg", "--text", "a red circle"];
    let (codes, with, without) = (inspect(&data), inspect(&[&pair[..], &data[..]].concat()), inspect(&pair));
    assert!(codes.height() > 100 && with != without, "{:?}", codes.dimensions());
    // Where the matching head looks.
    assert_ne!(inspect(&[&pair[..], &["--heatmaps", "grad-cam"]].concat()), without);
    let message = fixture.fail(&[&["inspect", "run"], &pair[..], &["--heatmaps", "grad-cam:9"]].concat());
    assert!(message.contains("not 9"), "{message}");
    let ground = |more: &[&str]| {
        fixture.succeed(&[&eval[..], &["grounding"], more].concat());
        let text = std::fs::read(fixture.path("out.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    let (similar, looked) = (ground(&[]), ground(&["--heatmaps", "grad-cam:1"]));
    assert!(looked["results"]["protocol"]["heatmaps"].as_str().unwrap().starts_with("grad-cam of fusion layer 1 of "));
    assert_eq!(looked["metrics"]["grounding_chance"], similar["metrics"]["grounding_chance"]);
    assert_ne!(looked["metrics"]["grounding_mean_mask_IoU"], similar["metrics"]["grounding_mean_mask_IoU"]);
    let [low, value, high] =
        [".low", "", ".high"].map(|end| looked["metrics"][format!("grounding_box_choice{end}")].as_f64().unwrap());
    assert!(low <= value && value <= high, "{looked}");
    let message = fixture.fail(&[&eval[..], &["grounding", "--heatmaps", "grad-cam:9"]].concat());
    assert!(message.contains("fusion layer 9"), "{message}");
    fixture.succeed(&["train", "run.yaml", "--set", "output=plain"]);
    let message = fixture.fail(&[&["inspect", "plain", "--heatmaps", "grad-cam"], &pair[..]].concat());
    assert!(message.contains("a network trained with sparc has no matching head"), "{message}");
    let message = fixture.fail(&[&["inspect", "plain"], &data[..]].concat());
    assert!(message.contains("a network trained with sparc has no visual dictionary"), "{message}");
    let message = fixture.fail(&[&["inspect", "run", "--image", "x.jpg"], &data[..]].concat());
    assert!(message.contains("needs the --text of the pair"), "{message}");
    let message = fixture.fail(&["caption", "run", "--data", "data/test-*.tar"]);
    assert!(message.contains("run was trained with nas, which has no text decoder"), "{message}");
}

#[test]
fn regions_are_evaluated_embedded_found_and_drawn() {
    let fixture = Fixture::new();
    let cloc = "objective={cloc: {lambda_region: 1.0, lambda_grounding: 1.0, text_filter: 0.9, filter_warmup_steps: 0, \
                temperature: shared, region_head: {prompter: {box_encoding: sinusoidal, readout: prompt_mean}}}}";
    let bare = ["train", "run.yaml", "--set", cloc, "--set", "output=cloc"];
    assert!(fixture.fail(&bare).contains("learns from regions: set data.regions"));
    fixture.succeed(
        &[&bare[..], &["--set", "data.regions={max: 3, context_length: 12}", "--set", "data.resize=pad"]].concat(),
    );
    fixture.succeed(&["train", "run.yaml"]);

    let data = ["--data", "data/test-*.tar", "--task", "regions", "--json", "out.json"];
    let metrics = |run: &str| {
        fixture.succeed(&[&["eval", run], &data[..]].concat());
        let results: serde_json::Value =
            serde_json::from_slice(&std::fs::read(fixture.path("out.json")).unwrap()).unwrap();
        results["metrics"].clone()
    };
    let (with, without) = (metrics("cloc"), metrics("run"));
    for arm in ["head", "roi_align", "patches", "crop"] {
        for key in ["mAcc", "acc", "to_text_R@10", "from_text_R@10", "to_text_string_R@10", "from_text_string_R@10"] {
            let key = format!("regions_{arm}_{key}");
            assert!(with[&key].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{key}: {with}");
            assert_eq!(without[&key].is_number(), arm != "head", "{key}: {without}");
        }
    }
    assert!(with["regions_box_P@0.5"].is_number() && !without["regions_box_P@0.5"].is_number());

    let image = first_jpeg(&std::fs::read(fixture.path("data/test-00000.tar")).unwrap()).to_vec();
    std::fs::write(fixture.path("x.jpg"), image).unwrap();
    std::fs::write(fixture.path("boxes.json"), "[[0, 0, 0.5, 1], [0.25, 0.25, 1, 0.75]]").unwrap();
    let embed = ["--image", "x.jpg", "--regions", "boxes.json", "--out", "x.safetensors"];
    assert!(fixture.succeed(&[&["embed", "cloc"], &embed[..]].concat()).contains("2 regions"));
    assert!(fixture.fail(&[&["embed", "run"], &embed[..]].concat()).contains("trained with sparc embeds no regions"));
    std::fs::write(fixture.path("boxes.json"), "[[0.5, 0, 0.2, 1]]").unwrap();
    assert!(fixture.fail(&[&["embed", "cloc"], &embed[..]].concat()).contains("is no box"));
    let tensors = sparc_models::weights::load(&fixture.path("x.safetensors")).unwrap();
    assert_eq!((tensors["image"].size(), tensors["regions"].size()), (vec![32], vec![2, 32]));

    let found = fixture.succeed(&["ground", "cloc", "--image", "x.jpg", "--phrase", "a circle", "--phrase", "square"]);
    let found: Vec<serde_json::Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((found.len(), &found[1]["phrase"]), (2, &serde_json::json!("square")));
    assert!(found[0]["box"].as_array().unwrap().iter().all(|v| (0.0..=1.0).contains(&v.as_f64().unwrap())));
    assert!(fixture.fail(&["ground", "run", "--image", "x.jpg", "--phrase", "x"]).contains("predicts no boxes"));

    let inspect = ["inspect", "cloc", "--image", "x.jpg", "--phrase", "a circle", "--box", "0.1,0.1,0.6,0.6"];
    fixture.succeed(&[&inspect[..], &["--out", "regions.png"]].concat());
    assert!(image::open(fixture.path("regions.png")).unwrap().width() > 700);
    let report = ["--data", "data/test-*.tar", "--task", "retrieval,regions", "--out", "report"];
    fixture.succeed(&[&["report", "--run", "cloc=cloc"], &report[..]].concat());
    let page = std::fs::read_to_string(fixture.path("report/report.html")).unwrap();
    assert!(page.contains("cloc: regions of test-"), "the report shows regions");
}

#[test]
fn claims_are_judged_and_pairs_scored() {
    let fixture = Fixture::new();
    fixture.succeed(&["train", "run.yaml"]);
    let siglip = "objective={siglip: {logit_scale_init: 10.0, logit_bias_init: -7.0}}";
    fixture.succeed(&["train", "run.yaml", "--set", siglip, "--set", "output=siglip"]);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(fixture.path(name)).unwrap()).unwrap()
    };

    let eval = ["eval", "run", "--data", "data/test-*.tar", "--task"];
    let table = fixture.succeed(&[&eval[..], &["compositional", "--json", "out.json"]].concat());
    assert!(table.contains("shapes_swap % (n ") && table.contains("95 % interval"), "{table}");
    let metrics = &read("out.json")["metrics"];
    let value = |key: &str| metrics[key].as_f64().unwrap_or_else(|| panic!("{key}: {metrics}"));
    // Shapes has a single source.
    let [accuracy, low, high] = ["", ".low", ".high"].map(|end| {
        let of_all = value(&format!("compositional.negatives{end}"));
        assert_eq!(of_all, value(&format!("compositional.negatives[shapes_swap]{end}")));
        of_all
    });
    assert!(low < accuracy && accuracy < high, "{metrics}");
    assert!(
        (0.25..0.5).contains(&value("compositional.negatives.chance")) && value("compositional.negatives.n") > 24.0
    );
    assert_eq!(value("n_images_with_claims") + value("n_without_claims"), 24.0);
    assert!(metrics.get("compositional.match.negatives").is_none(), "there is no matching head");
    let reranked = fixture.fail(&[&eval[..], &["retrieval", "--rerank", "4"]].concat());
    assert!(reranked.contains("re-ranking needs a network with a matching head"), "{reranked}");
    assert!(
        fixture.fail(&[&eval[..], &["compositional", "--rerank", "4"]].concat()).contains("retrieval be asked for")
    );
    let report = ["report", "--run", "sparc=run", "--run", "siglip=siglip", "--data", "data/test-*.tar"];
    fixture.succeed(&[&report[..], &["--task", "retrieval,compositional", "--out", "report"]].concat());
    let page = std::fs::read_to_string(fixture.path("report/report.html")).unwrap();
    assert!(page.contains("True caption among false ones") && page.contains("class=\"interval\""));

    std::fs::write(fixture.path("x.jpg"), fixture.first_jpeg("data/test-00000.tar")).unwrap();
    std::fs::copy(fixture.path("x.jpg"), fixture.path("y.jpg")).unwrap();
    let pairs = ["--image", "x.jpg", "--image", "y.jpg", "--text", "a red circle", "--text", "a blue square"];
    let table = fixture.succeed(&[&["score", "siglip"], &pairs[..], &["--json", "scores.json"]].concat());
    assert_eq!((table.lines().count(), table.lines().last().unwrap().ends_with("y.jpg  a blue square")), (5, true));
    let scores = read("scores.json");
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let (scale, bias) = (number(&scores["logit_scale"]), number(&scores["logit_bias"]));
    assert!((scale - 10.0).abs() < 1.0 && (bias + 7.0).abs() < 1.0 && bias != 0.0, "{scores}");
    let scored = scores["pairs"].as_array().unwrap();
    for pair in scored {
        assert!((number(&pair["logit"]) - (scale * number(&pair["score"]) + bias)).abs() < 1e-5);
    }
    // The same pixels under two names.
    assert_eq!((&scored[0]["score"], &scored[1]["score"]), (&scored[2]["score"], &scored[3]["score"]));
    assert_ne!(scored[0]["score"], scored[1]["score"]);
    std::fs::write(fixture.path("pairs.csv"), "image,text\ny.jpg,a blue square\n").unwrap();
    fixture.succeed(&["score", "siglip", "--pairs", "pairs.csv", "--json", "pairs.json"]);
    let (one, expected) = (number(&read("pairs.json")["pairs"][0]["score"]), number(&scored[1]["score"]));
    assert!((one - expected).abs() < 1e-5, "{one} and {expected}");

    std::fs::write(fixture.path("pairs.csv"), "image,text\nabsent.jpg,x\n").unwrap();
    assert!(fixture.fail(&["score", "run", "--pairs", "pairs.csv"]).contains("absent.jpg"));
    assert!(
        fixture.fail(&["score", "run", "--image", "run.yaml", "--text", "x"]).contains("run.yaml cannot be decoded")
    );
    assert!(fixture.fail(&["score", "run", "--image", "x.jpg", "--text", " "]).contains("a text is empty"));
}

/// The data of the first `.jpg` member of a tar.
fn first_jpeg(tar: &[u8]) -> &[u8] {
    let mut place = 0;
    loop {
        let header = &tar[place..place + 512];
        let name = String::from_utf8_lossy(&header[..100]);
        let digits = std::str::from_utf8(&header[124..135]).unwrap();
        let size = usize::from_str_radix(digits.trim(), 8).unwrap();
        if name.trim_end_matches('\0').ends_with(".jpg") {
            return &tar[place + 512..place + 512 + size];
        }
        place += 512 + size.next_multiple_of(512);
    }
}
