//! Every objective trains, logs its terms and resumes bit for bit.

use crate::fixture::Fixture;

/// Objectives as they are given to `--set`, with a term that they must log.
const OBJECTIVES: [(&str, &str); 11] = [
    ("{siglip: {logit_scale_init: 10.0, logit_bias_init: -10.0}}", "loss_sigmoid"),
    ("{filip: {keep_tokens: 1.0, temperature: shared}}", "loss_alignment"),
    ("{filip: {keep_tokens: 0.3, temperature: own}}", "filip.logit_scale"),
    ("{pacl: {attention_scale: 1.0, pooled_patches: raw, temperature: own, embedder: residual}}", "pacl.logit_scale"),
    (
        "{gloria: {lambda_global: 1.0, lambda_local: 1.0, scale_by_sqrt_width: true, word_softmax: false, \
         aggregation: sum, temperatures: learned, attention_scale_init: 4.0, word_scale_init: 5.0, logit_scale_init: 10.0}}",
        "gloria.attention_scale",
    ),
    (
        "{mgca: {lambda_instance: 1.0, lambda_token: 1.0, lambda_prototype: 1.0, attention: {learned: {width: 16}}, \
         token_temperature: shared, n_prototypes: 10, sinkhorn_eps: 0.05, sinkhorn_iterations: 3, \
         prototype_temperature: 0.2, freeze_prototypes_steps: 2}}",
        "loss_prototype",
    ),
    (
        "{mgca: {lambda_instance: 0.0, lambda_token: 1.0, lambda_prototype: 0.0, \
         attention: {parameter_free: {scale: 10.0}}, token_temperature: own, n_prototypes: 10, sinkhorn_eps: 0.05, \
         sinkhorn_iterations: 3, prototype_temperature: 0.2, freeze_prototypes_steps: 0}}",
        "word_accuracy",
    ),
    (
        "{sum: [{weight: 1.0, objective: {clip: {}}}, \
         {weight: 0.5, objective: {filip: {keep_tokens: 1.0, temperature: own}}}]}",
        "loss_filip_alignment",
    ),
    (
        "{cloc: {lambda_region: 1.0, lambda_grounding: 1.0, text_filter: 0.9, filter_warmup_steps: 2, \
         temperature: shared, region_head: {prompter: {box_encoding: sinusoidal, readout: gap_all}}}}",
        "loss_grounding",
    ),
    (
        "{cloc: {lambda_region: 0.5, lambda_grounding: 1.0, text_filter: null, filter_warmup_steps: 0, \
         temperature: own, region_head: {prompter: {box_encoding: fourier, readout: prompt_mean}}}}",
        "cloc.logit_scale",
    ),
    (
        "{sum: [{weight: 1.0, objective: {cloc: {lambda_region: 1.0, lambda_grounding: 0.0, text_filter: 0.9, \
         filter_warmup_steps: 0, temperature: shared, region_head: roi_align}}}]}",
        "cloc_region_to_text_accuracy",
    ),
];

#[test]
fn every_objective_trains_and_resumes() {
    let fixture = Fixture::new();
    for (index, (objective, term)) in OBJECTIVES.into_iter().enumerate() {
        let objective = format!("objective={objective}");
        let (whole, parts) = (format!("output=whole-{index}"), format!("output=parts-{index}"));
        // The regions are read by those that learn from them.
        let regions: &[&str] =
            if objective.contains("cloc") { &["--set", "data.regions={max: 3, context_length: 12}"] } else { &[] };
        let train = |more: &[&str]| {
            let arguments = ["train", "run.yaml", "--set", &objective, "--set", "train.checkpoint_every=3"];
            let arguments = [&arguments[..], regions].concat();
            fixture.succeed(&[&arguments[..], more].concat());
        };
        train(&["--set", &whole]);
        train(&["--set", &parts]);
        // Back to the third step, and on from there.
        let checkpoint = format!("parts-{index}/checkpoints/step_3");
        train(&["--set", &parts, "--resume", &checkpoint]);
        let log = |run: &str| std::fs::read_to_string(fixture.path(format!("{run}-{index}/metrics.jsonl"))).unwrap();
        let lines = |run: &str| -> Vec<serde_json::Value> {
            log(run).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (whole, parts) = (lines("whole"), lines("parts"));
        assert_eq!((whole.len(), parts.len()), (6, 6), "{objective}");
        for (whole, parts) in whole.iter().zip(&parts) {
            assert!(whole[term].is_number(), "{objective}: no {term} in {whole}");
            assert_eq!(whole["loss"], parts["loss"], "{objective}");
            assert_eq!(whole["grad_norm"], parts["grad_norm"], "{objective}");
        }
    }
}
