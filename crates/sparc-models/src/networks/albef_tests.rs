//! Tests of the network that matches pairs: what may change what, and what a checkpoint must hold.

use sparc_core::objectives::nas::edit;
use sparc_testing::{assert_close, random, scalar, values};

use super::matching::Pairs;
use super::*;
use crate::ModelSize;

const DICTIONARY: DictionaryConfig =
    DictionaryConfig { codes: 6, decay: 0.8, epsilon: 1e-5, dead_below: 0.1, restart_after_steps: 3 };

fn config(visual_tokens: Option<(TokenMode, ClassToken)>) -> AlbefConfig {
    AlbefConfig {
        image: VitConfig { size: ModelSize::Pico, patch_size: 8, image_size: 24, pool: ImagePool::Cls },
        text: TextConfig { size: ModelSize::Pico, context_length: 8, vocab_size: 11 },
        embed_dim: 24,
        adapter_bias: true,
        special_tokens: SpecialTokens::Exclude,
        logit_scale_init: 10.0,
        logit_scale_max: 100.0,
        fusion: FusionConfig { layers: 2 },
        momentum: 0.9,
        queue_size: 5,
        masking: MaskingVocabulary { mask_id: 10, first_id: 3, n_ids: 11 },
        visual_tokens: visual_tokens.map(|(tokens, class_token)| VisualTokensConfig {
            dictionary: DICTIONARY,
            tokens,
            class_token,
        }),
    }
}

const NAS: [(TokenMode, ClassToken); 3] = [
    (TokenMode::Quantised, ClassToken::Keep),
    (TokenMode::Quantised, ClassToken::Drop),
    (TokenMode::Gated, ClassToken::Keep),
];

fn images(n: i64, seed: i64) -> Tensor {
    random(&[n, 3, 24, 24], seed)
}

fn network(visual_tokens: Option<(TokenMode, ClassToken)>, seed: u64) -> Albef {
    let mut network = Albef::new(config(visual_tokens), seed, Kind::Double, Device::Cpu);
    network.start_dictionary(&images(4, 77), 1);
    network
}

/// Texts of these lengths between BOS = 1 and EOS = 2, padded to `width`.
fn texts(lengths: &[i64], width: i64) -> TextBatch {
    let lengths = Tensor::from_slice(lengths).unsqueeze(1);
    let places = Tensor::arange(width, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let mask_bl = places.lt_tensor(&lengths);
    let inner = places.gt(0).logical_and(&places.lt_tensor(&(&lengths - 1)));
    let ids = (&places * 3i64 + &lengths).remainder(7) + 3i64;
    let ids = ids.where_self(&inner, &ids.full_like(2)).where_self(&places.gt(0), &ids.ones_like());
    TextBatch { ids_bl: ids.where_self(&mask_bl, &ids.zeros_like()), content_bl: mask_bl.logical_and(&inner), mask_bl }
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    scalar(&(a - b).abs().max())
}

fn judge(network: &Albef, images: &Tensor, text: &TextBatch) -> Tensor {
    let matcher = network.matcher().unwrap();
    matcher.match_logits(&matcher.image_tokens(images), &matcher.text_tokens(text), &text.mask_bl)
}

#[test]
fn a_pair_is_judged_by_itself_and_without_padding() {
    for visual_tokens in std::iter::once(None).chain(NAS.map(Some)) {
        let network = network(visual_tokens, 1);
        let (pictures, text) = (images(2, 3), texts(&[5, 4], 5));
        let together = judge(&network, &pictures, &text);
        assert_eq!(together.size(), [2]);
        assert!(difference(&together.get(0), &together.get(1)) > 1e-6, "{visual_tokens:?}");
        let alone = judge(&network, &pictures.narrow(0, 1, 1), &texts(&[4], 8));
        assert!(difference(&together.get(1), &alone.get(0)) < 1e-10, "{visual_tokens:?}");
        // Log-odds: the sigmoid is the share of "match".
        let matcher = network.matcher().unwrap();
        let fused = network.online().fuse(&matcher.text_tokens(&text), &text.mask_bl, &matcher.image_tokens(&pictures));
        let shares = network.match_fused(&fused).softmax(-1, None::<Kind>).select(1, 1);
        assert!(difference(&together.sigmoid(), &shares) < 1e-12);
    }
}

#[test]
fn first_tokens_stand_for_texts_and_class_tokens_for_images() {
    let network = network(None, 1);
    let (text, pictures) = (texts(&[5, 4], 5), images(2, 3));
    let (of_text, of_image) = (network.encode_text(&text), network.encode_images(&pictures, PatchPath::Local));
    assert_eq!(difference(&of_text.pooled_bd, &of_text.tokens_bld.select(1, 0)), 0.0);
    assert_eq!(values(&of_text.mask_bl), values(&text.content_bl));
    let class_bw = network.online().image_vectors(&pictures).class_bw;
    assert_eq!(difference(&of_image.pooled_bd, &network.online().embed_image(&class_bw)), 0.0);
    assert_eq!(of_image.patches_bpd.size(), [2, 9, 24]);
}

/// What the fusion encoder reads of negatives is made as that of positives, and evaluation reads what training does.
#[test]
fn no_token_tells_that_it_was_edited() {
    for (tokens, class_token) in NAS {
        let network = network(Some((tokens, class_token)), 1);
        let image = network.online().image_vectors(&images(2, 3));
        let (index_bp, original) = network.look_up(&image.patches_bpw).unwrap();
        let codes_kc = network.dictionary().unwrap().codes();
        let chosen_br = Tensor::from_slice(&[0i64, 4, 1, 8]).view([2, 2]);
        let new_br = (index_bp.gather(1, &chosen_br, false) + 1).remainder(DICTIONARY.codes);
        let edit = edit(&image.patches_bpw, &index_bp, codes_kc, &chosen_br, &new_br);
        let sequence = |tokens: &VisualTokens| network.image_sequence(network.online(), &image, Some(tokens));
        let (positive, negative) = (sequence(&original), sequence(&edit.edited));
        let n_classes = i64::from(class_token == ClassToken::Keep);
        assert_eq!(positive.size(), [2, 9 + n_classes, 128]);
        let evaluated = network.image_tokens(&images(2, 3));
        assert_eq!(difference(&evaluated, &positive), 0.0);
        // Only chosen patches differ, and the class token never does.
        let changed = (&positive - &negative).abs().amax([2i64].as_slice(), false).gt(0.0);
        let chosen = Tensor::zeros([2, 9], (Kind::Bool, Device::Cpu)).scatter_value(1, &chosen_br, 1);
        assert_eq!(values(&changed.narrow(1, n_classes, 9)), values(&chosen));
        assert_eq!(scalar(&changed.narrow(1, 0, n_classes).any()), 0.0);
        // A probe that sees "is this a vector of the dictionary" sees the same of both.
        let distance = |patches: &Tensor| {
            let difference = patches.unsqueeze(2) - codes_kc.to_kind(Kind::Double).view([1, 1, -1, 128]);
            difference.norm_scalaropt_dim(2.0, [3i64].as_slice(), false).amin([2i64].as_slice(), false)
        };
        let seen = |tokens: &VisualTokens| match tokens {
            tokens if network.online().gate.is_none() => distance(&tokens.quantised_bpc),
            tokens => {
                (&tokens.continuous_bpc - &tokens.quantised_bpc).norm_scalaropt_dim(2.0, [2i64].as_slice(), false)
            }
        };
        assert!(difference(&seen(&original), &seen(&edit.edited)) < 1e-6, "{tokens:?}");
    }
}

#[test]
fn copies_follow_and_queues_and_dictionary_move_after_the_step_alone() {
    let mut network = network(Some(NAS[0]), 1);
    let first = |network: &Albef, name: &str| values(&network.state()[name])[0];
    let name = "fusion.blocks.0.attn.out.weight";
    let before = first(&network, name);
    assert_eq!(first(&network, &format!("momentum.{name}")), before);
    let _ = tch::no_grad(|| network.parameters().get(name).unwrap().shallow_clone().fill_(3.0));
    let _ = tch::no_grad(|| network.parameters().get("logit_scale").unwrap().shallow_clone().fill_(99.0));
    network.after_update();
    assert_close(first(&network, &format!("momentum.{name}")), 0.9 * before + 0.1 * 3.0, 1e-12);
    assert_close(scalar(&network.logit_scale()), 100.0, 1e-9);
    assert!(network.momentum_parameters.get("matching.weight").is_none());

    let picture = images(3, 5);
    let unread = values(network.dictionary().unwrap().codes());
    let _ = judge(&network, &picture, &texts(&[4, 4, 4], 4));
    assert_eq!(values(network.dictionary().unwrap().codes()), unread);
    let patches = network.online().image_vectors(&picture).patches_bpw;
    let seen = Seen {
        momentum_image_nd: random(&[3, 24], 1),
        momentum_text_nd: random(&[3, 24], 2),
        image_ids_n: Tensor::from_slice(&[7i64, 8, 9]),
        patches: network.look_up(&patches).map(|(index, _)| (patches.detach(), index)),
    };
    network.follow(&seen, 1);
    assert_eq!(values(&network.queue().keys().ids_q), [7.0, 8.0, 9.0]);
    assert_ne!(values(network.dictionary().unwrap().codes()), unread);
    // A started dictionary is not started again.
    let started = values(network.dictionary().unwrap().codes());
    network.start_dictionary(&images(4, 6), 1);
    assert_eq!(values(network.dictionary().unwrap().codes()), started);
}

#[test]
fn a_state_holds_everything_and_what_does_not_fit_is_named() {
    let mut original = network(Some(NAS[2]), 1);
    let _ = tch::no_grad(|| original.parameters().get("matching.weight").unwrap().shallow_clone().fill_(0.5));
    let seen = Seen {
        momentum_image_nd: random(&[3, 24], 1),
        momentum_text_nd: random(&[3, 24], 2),
        image_ids_n: Tensor::from_slice(&[7i64, 8, 9]),
        patches: None,
    };
    original.follow(&seen, 1);
    let state = original.state();
    let mut resumed = Albef::new(config(Some(NAS[2])), 2, Kind::Double, Device::Cpu);
    resumed.load_state(&state).unwrap();
    for (name, tensor) in resumed.state() {
        assert_eq!(values(&tensor), values(&state[&name]), "{name}");
    }
    assert!(!resumed.momentum_parameters.iter().any(|(_, tensor)| tensor.requires_grad()));
    let (picture, text) = (images(2, 3), texts(&[5, 4], 5));
    assert_eq!(difference(&judge(&original, &picture, &text), &judge(&resumed, &picture, &text)), 0.0);

    let found = network(None, 1).load_state(&state).unwrap_err();
    assert!(found.iter().any(|line| line == "unknown: dictionary.codes"), "{found:?}");
    assert!(found.iter().any(|line| line == "unknown: momentum.gate.gate.bias"), "{found:?}");
    let mut wrong = original.state();
    wrong.insert("queue.next_and_filled".into(), Tensor::from_slice(&[9i64, 9]));
    assert!(resumed.load_state(&wrong).unwrap_err()[0].starts_with("queue.next_and_filled"));
    wrong.remove("momentum.logit_scale");
    wrong.remove("momentum.text.positions");
    assert_eq!(resumed.load_state(&wrong).unwrap_err(), ["missing: momentum.text.positions [8, 128]"]);
}

#[test]
fn a_blank_network_has_the_same_numbers_of_numbers() {
    let config = config(Some(NAS[2]));
    let (drawn, blank) = (
        network(Some(NAS[2]), 1),
        Albef::build(config, ParameterBuilder::blank(Kind::Double, Device::Cpu), (Kind::Double, Device::Cpu)),
    );
    assert_eq!((drawn.parameters().count(), drawn.untrained()), (blank.parameters().count(), blank.untrained()));
    let untrained: std::collections::BTreeMap<_, _> = drawn.untrained().into_iter().collect();
    // All but the matching head and the temperature.
    assert_eq!(untrained["momentum"], drawn.parameters().count() - (2 * 128 + 2) - 1);
    assert_eq!(untrained["queue"], 5 * (24 + 24 + 1) + 2);
    assert_eq!(untrained["dictionary"], 6 * (128 + 128 + 1 + 1) + 3);
    assert_eq!(scalar(&blank.parameters().get("text.positions").unwrap().abs().max()), 0.0);
}

#[test]
fn wrong_values_are_named() {
    assert!(config(Some(NAS[0])).validate().is_ok());
    let good = config(Some(NAS[0]));
    let dictionary = DictionaryConfig { codes: 1, ..DICTIONARY };
    for (wrong, name) in [
        (AlbefConfig { image: VitConfig { pool: ImagePool::Average, ..good.image }, ..good }, "image.pool"),
        (AlbefConfig { fusion: FusionConfig { layers: 0 }, ..good }, "fusion.layers"),
        (AlbefConfig { momentum: 1.5, ..good }, "momentum"),
        (AlbefConfig { logit_scale_init: 0.5, ..good }, "logit_scale_init"),
        (AlbefConfig { masking: MaskingVocabulary { mask_id: 11, ..good.masking }, ..good }, "mask_id: 11"),
        (
            AlbefConfig {
                visual_tokens: good.visual_tokens.map(|visual| VisualTokensConfig { dictionary, ..visual }),
                ..good
            },
            "dictionary.codes",
        ),
    ] {
        let error = wrong.validate().unwrap_err();
        assert!(error.contains(name), "{error}");
    }
}

/// The heat of one pair, `[L, M]`, from central differences of the logit by each probability: a copy of the pair for each.
fn differences_of_logit(network: &Albef, pairs: &Pairs<'_>, layer: usize) -> Tensor {
    const STEP: f64 = 1e-5;
    let mut attention = Tensor::new();
    let _ = network.match_seen(pairs, layer, &mut |probabilities| {
        attention = probabilities.shallow_clone();
        probabilities
    });
    let size = attention.size();
    let n = attention.numel() as i64;
    let copies = |tensor: &Tensor| tensor.repeat([n].into_iter().chain(vec![1; tensor.dim() - 1]).collect::<Vec<_>>());
    let (image, text, mask) = (copies(pairs.image_rmw), copies(pairs.text_rlw), copies(pairs.mask_rl));
    let copies = Pairs { image_rmw: &image, text_rlw: &text, mask_rl: &mask };
    let step = Tensor::eye(n, (Kind::Double, Device::Cpu)).view([n, size[1], size[2], size[3]]) * STEP;
    let moved = |step: &Tensor| network.match_seen(&copies, layer, &mut |probabilities| probabilities + step);
    let gradient_n = (moved(&step) - moved(&-&step)) / (2.0 * STEP);
    let (attention, gradient) = (values(&attention), values(&gradient_n));
    let per_head = (size[2] * size[3]) as usize;
    let heat: Vec<f64> = (0..per_head)
        .map(|place| {
            let heads = (0..size[1] as usize).map(|head| head * per_head + place);
            heads.map(|place| attention[place] * gradient[place].max(0.0)).sum::<f64>() / size[1] as f64
        })
        .collect();
    Tensor::from_slice(&heat).view([size[2], size[3]])
}

#[test]
fn heatmaps_are_central_differences_of_the_match_logit() {
    for visual_tokens in std::iter::once(None).chain(NAS.map(Some)) {
        let network = network(visual_tokens, 1);
        let matcher = network.matcher().unwrap();
        let (pictures, text) = (images(2, 3), texts(&[4, 3], 4));
        let (image, tokens) = (matcher.image_tokens(&pictures), matcher.text_tokens(&text));
        for layer in 0..matcher.n_layers() {
            let heat = tch::no_grad(|| matcher.match_heatmaps(&image, &tokens, &text.mask_bl, layer));
            assert_eq!((heat.size(), heat.requires_grad()), (vec![2, 4, 9], false));
            assert!(scalar(&heat.min()) >= 0.0);
            for pair in 0..2 {
                let row = |tensor: &Tensor| tensor.narrow(0, pair, 1).detach();
                let (image, tokens, mask) = (row(&image), row(&tokens), row(&text.mask_bl));
                let pairs = Pairs { image_rmw: &image, text_rlw: &tokens, mask_rl: &mask };
                let slow = tch::no_grad(|| differences_of_logit(&network, &pairs, layer));
                let slow = slow.narrow(1, image.size()[1] - 9, 9) * mask.get(0).unsqueeze(-1);
                assert!(scalar(&slow.max()) > 1e-7, "{visual_tokens:?} layer {layer}: no heat to compare");
                let furthest = difference(&heat.get(pair), &slow) / scalar(&slow.max());
                assert!(furthest < 1e-4, "{visual_tokens:?} layer {layer}: {furthest}");
            }
        }
        // Only the first token's vector is judged: in the last layer no other one matters.
        let last = matcher.match_heatmaps(&image, &tokens, &text.mask_bl, matcher.n_layers() - 1);
        assert_eq!(scalar(&last.narrow(1, 1, 3).max()), 0.0);
    }
}

#[test]
fn heatmaps_read_what_matching_reads() {
    for visual_tokens in std::iter::once(None).chain(NAS.map(Some)) {
        let network = network(visual_tokens, 1);
        let matcher = network.matcher().unwrap();
        let (pictures, text) = (images(2, 3), texts(&[5, 4], 5));
        let (image, tokens) = (matcher.image_tokens(&pictures), matcher.text_tokens(&text));
        let (features, once) = matcher.features_and_tokens(&pictures, PatchPath::Local);
        let alone = network.encode_images(&pictures, PatchPath::Local);
        assert_eq!((difference(&once, &image), difference(&features.patches_bpd, &alone.patches_bpd)), (0.0, 0.0));
        let pairs = Pairs { image_rmw: &image, text_rlw: &tokens, mask_rl: &text.mask_bl };
        let logits_r2 = network.match_fused(&network.encoders.fuse(&tokens, &text.mask_bl, &image));
        for layer in 0..matcher.n_layers() {
            let seen = network.match_seen(&pairs, layer, &mut |probabilities| probabilities);
            assert!(difference(&seen, &logits_r2.select(1, 1)) < 1e-12, "{visual_tokens:?} layer {layer}");
        }
        // Padding and other pairs have no part.
        let heat = matcher.match_heatmaps(&image, &tokens, &text.mask_bl, 0);
        let padded = texts(&[4], 8);
        let alone = matcher.match_heatmaps(&image.narrow(0, 1, 1), &matcher.text_tokens(&padded), &padded.mask_bl, 0);
        assert!(difference(&alone.get(0).narrow(0, 0, 4), &heat.get(1).narrow(0, 0, 4)) < 1e-12);
        assert_eq!((scalar(&alone.narrow(1, 4, 4).max()), scalar(&heat.get(1).get(4).max())), (0.0, 0.0));
        // Nothing of it stays with the parameters.
        assert!(network.parameters().iter().all(|(_, tensor)| !tensor.grad().defined()));
    }
}
