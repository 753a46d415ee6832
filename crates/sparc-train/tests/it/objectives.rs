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

/// What makes a captioner of the example's network.
pub const CAPTIONER: [&str; 4] = [
    "model.dense_layer=false",
    "model.image.pool=cls",
    "model.special_tokens=exclude",
    "model.captioner={pooler: none, text_decoder_layers: 2, mlps: two, tie_vocabulary: false, \
     class_token_in_memory: false, image_decoder: {layers: 1, positions: sin_cos, reads_text: true, \
     reads_class_token: false}}",
];

/// CoCa with the paper's weights.
pub const COCA: &str = "objective={coca: {lambda_contrastive: 1.0, lambda_caption: 2.0, normalisation: open_clip}}";

/// SyCoCa with the paper's values.
pub const SYCOCA: &str = "objective={sycoca: {lambda_contrastive: 1.0, lambda_caption: 2.0, lambda_reconstruction: 1.0, \
    normalisation: open_clip, caption_mask: attentive, caption_mask_ratio: 0.5, reconstruction_mask: attentive, \
    reconstruction_mask_ratio: 0.5, mask_site: latent, mask_warmup_steps: 0, full_image_probability: 0.0, \
    similarity: projected, target: patch_norm, distance: l2, detach_text: false}}";

/// Captioners, each as the settings that differ, with a term that they must log.
const CAPTIONERS: [(&[&str], &str); 4] = [
    (&[COCA], "loss_caption"),
    (
        &[
            COCA,
            "model.image.pool=average",
            "model.captioner.pooler={cascade: {queries: 5}}",
            "model.captioner.mlps=one",
        ],
        "caption_accuracy",
    ),
    (&[SYCOCA], "loss_reconstruction"),
    // Draws of masks and of whole images resume as well.
    (
        &[
            SYCOCA,
            "objective.sycoca.mask_site=input",
            "objective.sycoca.mask_warmup_steps=4",
            "objective.sycoca.full_image_probability=0.5",
            "objective.sycoca.similarity=raw",
            "model.captioner.class_token_in_memory=true",
            "model.captioner.image_decoder.positions=learned",
        ],
        "patch_score_range",
    ),
];

/// What makes a network that matches pairs of the example's.
pub const MATCHER: [&str; 6] = [
    "data.tokenizer=tokenizer_mask.json",
    "model.image={size: pico, patch_size: 8, image_size: 32, pool: cls}",
    "model.text.size=pico",
    "model.dense_layer=false",
    "model.fusion={layers: 2}",
    "train.batch_size=6",
];

const ALBEF: &str = "objective={albef: {lambda_contrast: 1.0, lambda_matching: 1.0, lambda_language: 1.0, \
    distillation: 0.4, distillation_warmup_steps: 4, momentum: 0.9, queue_size: 10, positives: same_image, \
    masked_share: 0.3}}";

/// NAS with everything there is to draw.
pub const NAS: &str = "objective={nas: {albef: {lambda_contrast: 1.0, lambda_matching: 1.0, lambda_language: 1.0, \
    distillation: 0.4, distillation_warmup_steps: 4, momentum: 0.9, queue_size: 10, positives: pair, \
    masked_share: 0.3}, dictionary: {codes: 12, decay: 0.8, epsilon: 1.0e-5, dead_below: 0.5, restart_after_steps: 2}, \
    negatives: {tokens: gated, class_token: keep, score_space: projected, score: sum, replaced_share: 0.2, \
    replacement: {nearest_other: {neighbours: 4}}, edited_term: {separate: {weight: 1.0}}, contrast_edited: true, \
    text_negatives: swap, start: {perplexity: {share: 0.1}}}}}";

/// ALBEF and NAS, each as the settings that differ, with a term that they must log.
const MATCHERS: [(&[&str], &str); 4] = [
    (&[ALBEF], "matching_positive_recall"),
    (&[NAS], "dictionary_perplexity"),
    (
        &[
            NAS,
            "objective.nas.negatives.tokens=quantised",
            "objective.nas.negatives.class_token=drop",
            "objective.nas.negatives.score_space=raw",
            "objective.nas.negatives.score=product_of_softmaxes",
            "objective.nas.negatives.replacement=other_image",
            "objective.nas.negatives.edited_term=in_mean",
            "objective.nas.negatives.contrast_edited=false",
            "objective.nas.negatives.text_negatives={substitute: {skipped: 2}}",
            "objective.nas.negatives.start={step: {step: 0}}",
        ],
        "edited_recall",
    ),
    (&[NAS, "objective.nas.albef.queue_size=0", "objective.nas.negatives.replacement=random"], "dictionary_restarts"),
];

#[test]
fn every_objective_trains_and_resumes() {
    let fixture = Fixture::new();
    for (index, (objective, term)) in OBJECTIVES.into_iter().enumerate() {
        // Regions are read by those that learn from them.
        let regions = objective.contains("cloc").then_some("data.regions={max: 3, context_length: 12}");
        let objective = format!("objective={objective}");
        let settings: Vec<&str> = std::iter::once(objective.as_str()).chain(regions).collect();
        trains_and_resumes(&fixture, &index.to_string(), &settings, term);
    }
}

#[test]
fn every_captioner_trains_and_resumes() {
    let fixture = Fixture::new();
    for (index, (settings, term)) in CAPTIONERS.into_iter().enumerate() {
        trains_and_resumes(&fixture, &format!("captioner-{index}"), &[&CAPTIONER[..], settings].concat(), term);
    }
}

#[test]
fn every_matcher_trains_and_resumes() {
    let fixture = Fixture::new();
    fixture.add_mask_tokenizer();
    for (index, (settings, term)) in MATCHERS.into_iter().enumerate() {
        trains_and_resumes(&fixture, &format!("matcher-{index}"), &[&MATCHER[..], settings].concat(), term);
    }
    // Edits wait for the dictionary, which has seen nothing before the first step.
    let log = fixture.log("whole-matcher-1");
    assert!(!log[0].contains("loss_edited") && log[5].contains("loss_edited"), "{log:?}");
}

#[test]
fn matchers_that_do_not_fit_are_refused_and_plans_tell_what_is_not_trained() {
    let fixture = Fixture::new();
    fixture.add_mask_tokenizer();
    let arguments = |settings: &[&str]| {
        let settings = MATCHER.iter().chain(settings).flat_map(|setting| ["--set", *setting]);
        ["plan", "run.yaml"].into_iter().chain(settings).map(String::from).collect::<Vec<_>>()
    };
    let run = |settings: &[&str]| fixture.fail(&arguments(settings).iter().map(String::as_str).collect::<Vec<_>>());
    for (message, expected) in [
        (run(&[]), "model.fusion: objective.sparc has no use for a fusion encoder"),
        (
            run(&[ALBEF, "model.fusion=null"]),
            "objective.albef trains a fusion encoder: give its size with model.fusion",
        ),
        (run(&[ALBEF, "model.fusion.layers=0"]), "fusion.layers must be at least 1"),
        (run(&[ALBEF, "model.dense_layer=true"]), "model.dense_layer must be false"),
        (run(&[ALBEF, "model.image.pool=average"]), "model.image.pool must be cls"),
        (run(&[ALBEF, "objective.albef.momentum=1.5"]), "objective.albef.momentum must lie in [0, 1]"),
        (run(&[ALBEF, "objective.albef.lamda_matching=1"]), "did you mean `lambda_matching`?"),
        (run(&[NAS, "objective.nas.dictionary.codes=1"]), "objective.nas.dictionary.codes must be at least 2"),
        (run(&[NAS, "objective.nas.negatives.replaced_share=0"]), "objective.nas.negatives.replaced_share must lie"),
        (run(&[NAS, "objective.nas.negatives.start={perplexity: {shar: 1}}"]), "did you mean `share`?"),
        (
            run(&[NAS, "objective.nas.negatives.score_space=raw", "model.text.size=ti"]),
            "objective.nas.negatives.score_space: raw compares vectors of the towers, whose widths 128 and 192 differ",
        ),
        (
            run(&[ALBEF, "data.tokenizer=tokenizer.json"]),
            "tokenizer.json cannot serve it: it has no mask token (looked for [MASK] and <mask>); make one with",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    let plan = fixture.succeed(&arguments(&[NAS]).iter().map(String::as_str).collect::<Vec<_>>());
    let plan: Vec<&str> = plan.lines().collect();
    let count = |line: &str| line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
    let [.., trained, momentum, queue, dictionary] = plan[..] else { panic!("{plan:?}") };
    assert!(trained.starts_with("# trained: ") && momentum.starts_with("# not trained, under `momentum`"), "{plan:?}");
    // The copies lack the matching head and the temperature.
    assert_eq!(count(trained) - count(momentum), 2 * 128 + 2 + 1);
    assert_eq!((count(queue), count(dictionary)), (10 * (2 * 32 + 1) + 2, 12 * (2 * 128 + 2) + 3));
}

#[test]
fn objectives_and_decoders_that_do_not_fit_are_refused() {
    let fixture = Fixture::new();
    let plan = |settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        fixture.fail(&["plan", "run.yaml"].into_iter().chain(settings).collect::<Vec<_>>())
    };
    let with = |settings: &[&'static str]| plan(&[&CAPTIONER[..], settings].concat());
    for (message, expected) in [
        (plan(&[COCA]), "objective.coca trains a captioner: give its decoders with model.captioner"),
        (with(&[]), "model.captioner: objective.sparc has no use for decoders"),
        (with(&[COCA, "model.dense_layer=true"]), "model.dense_layer must be false"),
        (with(&[SYCOCA, "model.captioner.image_decoder=null"]), "give model.captioner.image_decoder"),
        (
            with(&[SYCOCA, "model.image.pool=average", "model.captioner.pooler={parallel: {queries: 4}}"]),
            "objective.sycoca.caption_mask",
        ),
        (with(&[SYCOCA, "objective.sycoca.similarity=raw", "model.text.size=ti"]), "widths 128 and 192 differ"),
        (with(&[SYCOCA, "objective.sycoca.caption_mask_ratio=1"]), "objective.sycoca.caption_mask_ratio"),
        (with(&[COCA, "model.captioner.text_decoder_layers=0"]), "captioner.text_decoder_layers must be at least 1"),
    ] {
        assert!(message.contains(expected), "{message}");
    }
}

fn trains_and_resumes(fixture: &Fixture, name: &str, settings: &[&str], term: &str) {
    let (whole, parts) = (format!("output=whole-{name}"), format!("output=parts-{name}"));
    let train = |more: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let arguments = ["train", "run.yaml", "--set", "train.checkpoint_every=3"].into_iter().chain(settings);
        fixture.succeed(&arguments.chain(more.iter().copied()).collect::<Vec<_>>());
    };
    train(&["--set", &whole]);
    train(&["--set", &parts]);
    // Back to the third step, and on from there.
    let checkpoint = format!("parts-{name}/checkpoints/step_3");
    train(&["--set", &parts, "--resume", &checkpoint]);
    let log = |run: &str| std::fs::read_to_string(fixture.path(format!("{run}-{name}/metrics.jsonl"))).unwrap();
    let lines = |run: &str| -> Vec<serde_json::Value> {
        log(run).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (whole, parts) = (lines("whole"), lines("parts"));
    assert_eq!((whole.len(), parts.len()), (6, 6), "{settings:?}");
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!(whole[term].is_number(), "{settings:?}: no {term} in {whole}");
        assert_eq!(whole["loss"], parts["loss"], "{settings:?}");
        assert_eq!(whole["grad_norm"], parts["grad_norm"], "{settings:?}");
    }
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let of = |run: &str| fixture.checkpoint(&format!("{run}-{name}"), 6, file);
        assert!(of("whole") == of("parts"), "{settings:?}: {file} differs");
    }
}
