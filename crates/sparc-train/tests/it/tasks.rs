//! Evaluation, inspection and the report on a run of a few steps.

use crate::fixture::Fixture;

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
