//! Whole steps of ALBEF and NAS: what reaches what, what depends on what, and batches that give nothing to learn.

use sparc_core::objectives::albef::{MaskingVocabulary, Positives};
use sparc_core::objectives::nas::{
    ClassToken, EditedTerm, PatchScore, Replacement, Start, TextNegatives, TokenMode, highest, patch_scores,
};
use sparc_core::{Matcher, TextBatch};
use sparc_models::ModelSize;
use sparc_models::networks::{AlbefConfig as NetworkSettings, FusionConfig, Network, SpecialTokens};
use sparc_models::text::TextConfig;
use sparc_models::vit::VitConfig;
use sparc_testing::{random, scalar, values};

use super::edits::edit_texts;
use super::*;
use crate::optimizer::{AdamW, OptimizerConfig};
use crate::step::step;

const BATCH: i64 = 4;
const VOCABULARY: i64 = 20;
const MASKING: MaskingVocabulary = MaskingVocabulary { mask_id: 19, first_id: 3, n_ids: VOCABULARY };

fn albef() -> AlbefConfig {
    AlbefConfig {
        lambda_contrast: 1.0,
        lambda_matching: 1.0,
        lambda_language: 1.0,
        distillation: 0.4,
        distillation_warmup_steps: 2,
        momentum: 0.9,
        queue_size: 6,
        positives: Positives::Pair,
        masked_share: 0.3,
    }
}

fn nas() -> NasObjective {
    NasObjective {
        albef: albef(),
        dictionary: DictionaryConfig { codes: 16, decay: 0.9, epsilon: 1e-5, dead_below: 0.1, restart_after_steps: 10 },
        negatives: NasConfig {
            tokens: TokenMode::Gated,
            class_token: ClassToken::Keep,
            score_space: ScoreSpace::Projected,
            score: PatchScore::Sum,
            replaced_share: 0.2,
            replacement: Replacement::NearestOther { neighbours: 3 },
            edited_term: EditedTerm::Separate { weight: 1.0 },
            contrast_edited: true,
            text_negatives: TextNegatives::Swap,
            start: Start::Step { step: 0 },
        },
    }
}

fn network(objective: &Objective, kind: Kind) -> Albef {
    let (albef, visual_tokens) = settings(objective);
    let config = NetworkSettings {
        image: VitConfig { size: ModelSize::Pico, patch_size: 4, image_size: 16, pool: ImagePool::Cls },
        text: TextConfig { size: ModelSize::Pico, context_length: 9, vocab_size: VOCABULARY },
        embed_dim: 16,
        adapter_bias: true,
        special_tokens: SpecialTokens::Exclude,
        logit_scale_init: 10.0,
        logit_scale_max: 100.0,
        fusion: FusionConfig { layers: 2 },
        momentum: albef.momentum,
        queue_size: albef.queue_size,
        masking: MASKING,
        visual_tokens,
    };
    let mut network = Albef::new(config, 1, kind, Device::Cpu);
    network.start_dictionary(&batch(0).images_bchw.to_kind(kind), 1);
    network
}

fn batch(step: i64) -> Batch {
    let places = Tensor::arange(8, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let rows = Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)).unsqueeze(1);
    let ids_bl = (&places * 3i64 + &rows * 5i64 + step).remainder(VOCABULARY - 4) + 3i64;
    let mask_bl = places.lt_tensor(&(&rows + 5i64));
    let content_bl = mask_bl.logical_and(&places.gt(0));
    Batch {
        images_bchw: random(&[BATCH, 3, 16, 16], 50 + step).to_kind(Kind::Float),
        text: TextBatch { ids_bl, mask_bl, content_bl },
        captions: None,
        regions: None,
        targets: None,
        image_ids_b: Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)) + step * BATCH,
        keys: (0..BATCH).map(|row| format!("{step}-{row}")).collect(),
    }
}

const MOMENT: Moment = Moment { seed: 1, updates: 3 };

#[test]
fn a_step_reaches_every_parameter_and_no_copy() {
    for (objective, names) in [
        (Objective::Albef(albef()), &["contrast", "matching", "language"][..]),
        (Objective::Nas(nas()), &["contrast", "matching", "language", "edited"]),
    ] {
        let mut network = network(&objective, Kind::Float);
        for at in 0..2 {
            let (terms, seen) = loss(&network, &objective, &batch(at), MOMENT);
            assert_eq!(terms.terms.iter().map(|term| term.name.as_ref()).collect::<Vec<_>>(), names);
            assert!(terms.terms.iter().all(|term| scalar(&term.value) > 0.0 && scalar(&term.value).is_finite()));
            // After the enqueue, and with the dictionary moved: what the loss has seen is still there.
            network.follow(&seen, 1);
            terms.total.backward();
        }
        for (name, tensor) in network.parameters().iter() {
            assert!(tensor.grad().defined() && scalar(&tensor.grad().abs().max()) > 0.0, "{name}");
        }
        let state = network.state();
        let followers = state.iter().filter(|(name, _)| network.parameters().get(name).is_none());
        assert!(followers.into_iter().all(|(_, tensor)| !tensor.requires_grad() && !tensor.grad().defined()));
        assert_eq!(network.queue().keys().ids_q.size(), [6]);
    }
}

/// The value of a loss, and its diagnostics.
fn numbers(network: &Albef, objective: &Objective, batch: &Batch, moment: Moment) -> Vec<f64> {
    let (terms, _) = tch::no_grad(|| loss(network, objective, batch, moment));
    let diagnostics = terms.diagnostics.iter().map(|(_, value)| scalar(value));
    terms.terms.iter().map(|term| scalar(&term.value)).chain(diagnostics).collect()
}

#[test]
fn draws_depend_on_seed_and_step_alone() {
    for rule in [TextNegatives::Swap, TextNegatives::Substitute { skipped: 2 }] {
        let negatives = NasConfig { text_negatives: rule, replacement: Replacement::Random, ..nas().negatives };
        let objective = Objective::Nas(NasObjective { negatives, ..nas() });
        let network = network(&objective, Kind::Float);
        let of = |moment: Moment| numbers(&network, &objective, &batch(0), moment);
        assert_eq!(of(MOMENT), of(MOMENT));
        assert_ne!(of(MOMENT), of(Moment { seed: 2, ..MOMENT }));
        assert_ne!(of(MOMENT), of(Moment { updates: 4, ..MOMENT }));
    }
    // What a row draws does not depend on how many others there are.
    let draws = |n_rows: i64| Draws { moment: MOMENT, n_rows, device: Device::Cpu }.numbers(b"purpose", 5);
    assert_eq!(values(&draws(7).narrow(0, 0, 3)), values(&draws(3)));
    assert_ne!(values(&draws(7).get(0)), values(&draws(7).get(1)));
}

#[test]
fn longer_padding_changes_nothing() {
    let objective = Objective::Nas(nas());
    let network = network(&objective, Kind::Double);
    let wide = |mut batch: Batch, more: i64| {
        batch.images_bchw = batch.images_bchw.to_kind(Kind::Double);
        let TextBatch { ids_bl, mask_bl, content_bl } = &batch.text;
        let pad = |x: &Tensor| x.constant_pad_nd([0, more]);
        batch.text = TextBatch { ids_bl: pad(ids_bl), mask_bl: pad(mask_bl), content_bl: pad(content_bl) };
        numbers(&network, &objective, &batch, MOMENT)
    };
    for (short, long) in wide(batch(0), 0).into_iter().zip(wide(batch(0), 1)) {
        assert!((short - long).abs() < 1e-9, "{short} {long}");
    }
}

#[test]
fn edits_begin_with_the_dictionary() {
    let start = |start: Start| {
        let negatives = NasConfig { start, ..nas().negatives };
        let objective = Objective::Nas(NasObjective { negatives, ..nas() });
        (network(&objective, Kind::Float), objective)
    };
    let has_edits = |network: &Albef, objective: &Objective| {
        let (terms, _) = tch::no_grad(|| loss(network, objective, &batch(0), MOMENT));
        terms.diagnostics.iter().any(|(name, _)| name == "edited_recall")
    };
    for (first, expected) in [(3, true), (4, false)] {
        let (network, objective) = start(Start::Step { step: first });
        assert_eq!(has_edits(&network, &objective), expected);
    }
    // A dictionary that has seen nothing yet is in no use.
    let (mut network, objective) = start(Start::Perplexity { share: 0.2 });
    assert!(!has_edits(&network, &objective));
    let (_, seen) = tch::no_grad(|| loss(&network, &objective, &batch(0), MOMENT));
    network.follow(&seen, 1);
    assert!(has_edits(&network, &objective));
}

#[test]
fn a_batch_of_one_image_has_no_negatives_and_one_without_words_no_language() {
    for objective in [Objective::Albef(albef()), Objective::Nas(nas())] {
        let network = network(&objective, Kind::Float);
        let mut same = batch(0);
        same.image_ids_b = same.image_ids_b.zeros_like();
        let (terms, _) = loss(&network, &objective, &same, MOMENT);
        // The matching term is that of the matching pairs alone.
        let recall = terms.diagnostics.iter().find(|(name, _)| name == "matching_positive_recall").unwrap();
        let accuracy = terms.diagnostics.iter().find(|(name, _)| name == "matching_accuracy").unwrap();
        assert_eq!(scalar(&recall.1), scalar(&accuracy.1));
        assert!(scalar(&terms.total).is_finite());

        let mut wordless = batch(0);
        wordless.text.content_bl = wordless.text.content_bl.zeros_like();
        let (terms, _) = loss(&network, &objective, &wordless, MOMENT);
        assert_eq!(scalar(terms.get("language").unwrap()), 0.0);
        terms.total.backward();
        for (name, tensor) in network.parameters().iter().filter(|(_, tensor)| tensor.grad().defined()) {
            assert_eq!(scalar(&tensor.grad().isfinite().all()), 1.0, "{name}");
        }
    }
}

/// Each row of the one pass is what the matching head says of that pair alone, without the others' padding.
#[test]
fn every_pair_is_judged_as_if_it_were_alone() {
    let network = network(&Objective::Nas(nas()), Kind::Double);
    let mut batch = batch(0);
    batch.images_bchw = batch.images_bchw.to_kind(Kind::Double);
    let _no_gradients = tch::no_grad_guard();
    let (online, copies) =
        (View::new(&network, network.online(), &batch), View::new(&network, network.momentum(), &batch));
    let draws = Draws { moment: MOMENT, n_rows: BATCH, device: Device::Cpu };
    let edits = Edits::new(&network, &nas().negatives, &batch, (&online, &copies), &draws);
    let negatives = |columns: [i64; BATCH as usize]| HardNegatives {
        columns_b: Tensor::from_slice(&columns),
        found_b: Tensor::ones([BATCH], (Kind::Bool, Device::Cpu)),
    };
    let (texts, images) = ([1, 2, 3, 0], [2, 3, 0, 1]);
    let judged = judge(&network, &online, &batch.text, (&negatives(texts), &negatives(images)), Some(&edits));

    let (own, tokens) = (&online.sequence_bmw, &online.tokens_blw);
    let (edited_blw, _) = edits.text.as_ref().unwrap();
    let rows = 0..BATCH;
    let pairs: Vec<(&Tensor, i64, &Tensor, i64)> = (rows.clone().map(|b| (own, b, tokens, b)))
        .chain(rows.clone().map(|b| (own, b, tokens, texts[b as usize])))
        .chain(rows.clone().map(|b| (own, images[b as usize], tokens, b)))
        .chain(rows.clone().map(|b| (&edits.sequence_bmw, b, tokens, b)))
        .chain(rows.map(|b| (own, b, edited_blw, b)))
        .collect();
    let (edit_logits_r2, _, _) = judged.edits.unwrap();
    let logits_r2 = Tensor::cat(&[judged.pair_logits_r2, edit_logits_r2], 0);
    let together = values(&(logits_r2.select(1, 1) - logits_r2.select(1, 0)));
    assert_eq!(together.len(), pairs.len());
    for (row, (images, image, tokens, text)) in pairs.into_iter().enumerate() {
        let length = batch.text.mask_bl.get(text).sum(Kind::Int64).int64_value(&[]);
        let tokens = tokens.narrow(0, text, 1).narrow(1, 0, length);
        let mask = Tensor::ones([1, length], (Kind::Bool, Device::Cpu));
        let alone = scalar(&network.match_logits(&images.narrow(0, image, 1), &tokens, &mask));
        assert!((together[row] - alone).abs() < 1e-9, "row {row}: {} and alone {alone}", together[row]);
    }
    // The pairs differ, so that a row could not pass for another.
    let mut sorted = together.clone();
    sorted.sort_by(f64::total_cmp);
    assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] > 1e-9), "{sorted:?}");
}

/// The key of an edited image is the right one moved by what the new codes say, and the patches that gave way to them
/// hear nothing of it.
#[test]
fn the_key_of_an_edited_image_is_the_right_one_moved() {
    let mut nas = nas();
    nas.negatives.contrast_edited = true;
    let network = network(&Objective::Nas(nas), Kind::Double);
    let mut batch = batch(0);
    batch.images_bchw = batch.images_bchw.to_kind(Kind::Double);
    let online = View::new(&network, network.online(), &batch);
    let copies = tch::no_grad(|| View::new(&network, network.momentum(), &batch));
    let draws = Draws { moment: MOMENT, n_rows: BATCH, device: Device::Cpu };
    let edits = Edits::new(&network, &nas.negatives, &batch, (&online, &copies), &draws);
    let key_bd = edits.image_bd.as_ref().unwrap();

    let replaced_bp = &edits.images.replaced_bp;
    let (batch_size, n_patches) = (replaced_bp.size()[0], replaced_bp.size()[1]);
    let (new_bpc, old_bpc) = (&edits.images.edited.quantised_bpc, &edits.images.original.quantised_bpc);
    let embed = |x: &Tensor| tch::no_grad(|| network.online().embed_image(x));
    let mut n_replaced = 0;
    for b in 0..batch_size {
        let mut moved_d = copies.image_bd.get(b).zeros_like();
        for p in (0..n_patches).filter(|&p| replaced_bp.int64_value(&[b, p]) == 1) {
            moved_d += embed(&new_bpc.get(b).get(p)) - embed(&old_bpc.get(b).get(p));
            n_replaced += 1;
        }
        let expected_d = copies.image_bd.get(b) + moved_d / n_patches as f64;
        assert!((key_bd.get(b) - expected_d).abs().max().double_value(&[]) < 1e-12, "row {b}");
    }
    assert!(n_replaced > 0);

    let gradient =
        Tensor::run_backward(&[key_bd.sum(Kind::Double)], &[&online.image.patches_bpw], true, false).remove(0);
    let reached_bp = gradient.abs().amax([-1i64].as_slice(), false).gt(0.0);
    assert_eq!(values(&reached_bp), values(&replaced_bp.logical_not()));
}

/// The caption chooses the patches with `text`, and does not with `image`.
#[test]
fn the_score_decides_what_a_caption_may_change() {
    let objective = Objective::Nas(nas());
    let network = network(&objective, Kind::Float);
    let view = tch::no_grad(|| View::new(&network, network.online(), &batch(0)));
    let chosen = |score: PatchScore, text_bd: &Tensor| {
        let patches_bpd = network.online().embed_image(&view.image.patches_bpw);
        values(&highest(&patch_scores(&patches_bpd, &view.image_bd, text_bd, score), 0.3))
    };
    let another = view.text_bd.roll(1, 0) * -1.0;
    assert_eq!(chosen(PatchScore::Image, &view.text_bd), chosen(PatchScore::Image, &another));
    assert_ne!(chosen(PatchScore::Text, &view.text_bd), chosen(PatchScore::Text, &another));
}

#[test]
fn captions_are_edited_in_their_words_alone() {
    let objective = Objective::Nas(nas());
    let network = network(&objective, Kind::Float);
    let batch = batch(0);
    // The last caption has no word.
    let _ = batch.text.content_bl.get(BATCH - 1).fill_(0);
    let copies = tch::no_grad(|| View::new(&network, network.momentum(), &batch));
    for (rule, n_changed) in [(TextNegatives::Swap, 2.0), (TextNegatives::Substitute { skipped: 2 }, 1.0)] {
        for updates in 0..20 {
            let draws = Draws { moment: Moment { updates, ..MOMENT }, n_rows: BATCH, device: Device::Cpu };
            let edited = edit_texts(&network, rule, &batch.text, &copies, &draws).unwrap();
            let changed_bl = edited.ids_bl.ne_tensor(&batch.text.ids_bl);
            assert_eq!(values(&edited.found_b), [1.0, 1.0, 1.0, 0.0]);
            let counts = values(&changed_bl.sum_dim_intlist([1i64].as_slice(), false, Kind::Double));
            assert_eq!(counts[..3], [n_changed; 3], "{rule:?}");
            let words = changed_bl.logical_and(&batch.text.content_bl).narrow(0, 0, 3);
            assert_eq!(values(&words), values(&changed_bl.narrow(0, 0, 3)));
            let ids = values(&edited.ids_bl.narrow(0, 0, 3));
            assert!(ids.iter().all(|&id| (3.0..VOCABULARY as f64).contains(&id)), "{ids:?}");
        }
    }
    let draws = Draws { moment: MOMENT, n_rows: BATCH, device: Device::Cpu };
    assert!(edit_texts(&network, TextNegatives::None, &batch.text, &copies, &draws).is_none());
}

const OPTIMIZER: OptimizerConfig = OptimizerConfig {
    learning_rate: 1e-3,
    final_learning_rate: 0.0,
    warmup_steps: 0,
    beta1: 0.9,
    beta2: 0.98,
    eps: 1e-6,
    weight_decay: 0.1,
    clip_grad_norm: Some(1.0),
};

#[test]
fn a_step_starts_the_dictionary_and_everything_follows() {
    let objective = Objective::Nas(nas());
    let new = || {
        let config = *network(&objective, Kind::Float).config();
        let network = Network::Albef(Box::new(Albef::new(config, 1, Kind::Float, Device::Cpu)));
        let optimizer = AdamW::new(OPTIMIZER, network.parameters());
        (network, optimizer)
    };
    let state = |network: &Network| network.state().values().map(values).collect::<Vec<_>>();
    let run = || {
        let (mut network, mut optimizer) = new();
        for at in 0..3 {
            let metrics = step(&mut network, &mut optimizer, &objective, &batch(at), 1, 1e-3).unwrap();
            assert_eq!(metrics.get("dictionary_restarts"), Some(0.0));
            assert!(metrics.get("dictionary_perplexity").unwrap() >= 1.0);
        }
        network
    };
    let (one, other) = (run(), run());
    assert!(state(&one) == state(&other), "a step is a function of its arguments");
    let of = |name: &str| one.state()[name].shallow_clone();
    assert_eq!(values(&of("queue.next_and_filled")), [0.0, 6.0]);
    assert_eq!(values(&of("dictionary.started_and_updates")), [1.0, 3.0]);
    for name in ["fusion.norm.weight", "gate.gate.bias", "language.bias"] {
        assert_ne!(values(&of(name)), values(&of(&format!("momentum.{name}"))), "{name}");
    }

    // A loss that is no number moves nothing but the start of the dictionary.
    let (mut network, mut optimizer) = new();
    step(&mut network, &mut optimizer, &objective, &batch(0), 1, 1e-3).unwrap();
    let before = state(&network);
    let broken = batch(1);
    let _ = broken.images_bchw.get(0).fill_(f64::NAN);
    assert!(step(&mut network, &mut optimizer, &objective, &broken, 1, 1e-3).is_err());
    assert!(state(&network) == before);
}
