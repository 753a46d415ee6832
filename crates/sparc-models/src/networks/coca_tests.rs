//! Tests of the captioner network: what may change what, and what may not.

use sparc_core::TextBatch;
use sparc_core::objectives::sycoca::{Side, choose_patches};
use sparc_testing::{random, scalar};
use tch::{Device, Kind, Tensor};

use super::*;
use crate::ModelSize;
use crate::decoders::DecoderPositions;

const CAPTIONER: CaptionerConfig = CaptionerConfig {
    pooler: Pooler::None,
    text_decoder_layers: 2,
    mlps: Mlps::Two,
    tie_vocabulary: false,
    class_token_in_memory: false,
    image_decoder: Some(ImageDecoderConfig {
        layers: 2,
        positions: DecoderPositions::SinCos,
        reads_text: true,
        reads_class_token: false,
    }),
};

fn config(pool: ImagePool, captioner: CaptionerConfig) -> CocaConfig {
    CocaConfig {
        image: VitConfig { size: ModelSize::Pico, patch_size: 8, image_size: 24, pool },
        text: TextConfig { size: ModelSize::Pico, context_length: 8, vocab_size: 11 },
        embed_dim: 24,
        adapter_bias: false,
        special_tokens: SpecialTokens::Exclude,
        logit_scale_init: 10.0,
        logit_scale_max: 100.0,
        captioner,
        head: None,
    }
}

fn with_head(head: TaskHeadConfig) -> Coca {
    Coca::new(CocaConfig { head: Some(head), ..config(ImagePool::Cls, CAPTIONER) }, 0, Kind::Double, Device::Cpu)
}

fn network() -> Coca {
    Coca::new(config(ImagePool::Cls, CAPTIONER), 0, Kind::Double, Device::Cpu)
}

/// Texts of these lengths between BOS = 1 and EOS = 2, padded with `padding` to `width`.
fn texts(lengths: &[i64], width: i64, padding: i64) -> TextBatch {
    let lengths = Tensor::from_slice(lengths).unsqueeze(1);
    let places = Tensor::arange(width, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let mask_bl = places.lt_tensor(&lengths);
    let inner = places.gt(0).logical_and(&places.lt_tensor(&(&lengths - 1)));
    let ids = (&places * 3i64 + &lengths).remainder(7) + 3i64;
    let ids = ids.where_self(&inner, &ids.full_like(2)).where_self(&places.gt(0), &ids.ones_like());
    let ids_bl = ids.where_self(&mask_bl, &ids.full_like(padding));
    TextBatch { content_bl: mask_bl.logical_and(&inner), ids_bl, mask_bl }
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    scalar(&(a - b).abs().max())
}

#[test]
fn padding_never_changes_a_text() {
    let network = network();
    let (short, long) = (texts(&[5, 3], 5, 0), texts(&[5, 3], 8, 7));
    let (a, b) = (network.encode_text(&short), network.encode_text(&long));
    assert!(difference(&a.pooled_bd, &b.pooled_bd) < 1e-12);
    assert!(difference(&a.tokens_bld.get(0), &b.tokens_bld.get(0).narrow(0, 0, 5)) < 1e-12);
    // Alone or beside a longer text: the same.
    let alone = network.encode_text(&TextBatch {
        ids_bl: short.ids_bl.narrow(0, 1, 1).narrow(1, 0, 3),
        mask_bl: short.mask_bl.narrow(0, 1, 1).narrow(1, 0, 3),
        content_bl: short.content_bl.narrow(0, 1, 1).narrow(1, 0, 3),
    });
    assert!(difference(&alone.pooled_bd.get(0), &a.pooled_bd.get(1)) < 1e-12);
}

#[test]
fn a_text_of_nothing_has_finite_features_and_gradients() {
    let network = network();
    let text = texts(&[0, 4], 4, 0);
    let features = network.encode_text(&text);
    features.pooled_bd.sum(Kind::Double).backward();
    assert_eq!(features.pooled_bd.isfinite().all().int64_value(&[]), 1);
    let gradient = network.parameters().get("text.blocks.0.attn.qkv.weight").unwrap().grad();
    assert_eq!(gradient.isfinite().all().int64_value(&[]), 1);
}

#[test]
fn tokens_see_no_later_token_and_the_class_token_sees_all() {
    let network = network();
    let text = texts(&[6], 6, 0);
    let changed =
        TextBatch { ids_bl: text.ids_bl.copy(), mask_bl: text.mask_bl.copy(), content_bl: text.content_bl.copy() };
    let _ = changed.ids_bl.narrow(1, 4, 1).fill_(9);
    let (a, b) = (network.text_tokens(&text), network.text_tokens(&changed));
    assert_eq!(difference(&a.tokens_blw.narrow(1, 0, 4), &b.tokens_blw.narrow(1, 0, 4)), 0.0);
    assert!(difference(&a.tokens_blw.narrow(1, 4, 2), &b.tokens_blw.narrow(1, 4, 2)) > 1e-3);
    assert!(difference(&a.class_bw, &b.class_bw) > 1e-4);
    let memory = random(&[1, 4, 128], 3);
    let states = |tokens: &Tensor| network.caption_states(tokens, &memory);
    let (a, b) = (states(&a.tokens_blw), states(&b.tokens_blw));
    assert_eq!(difference(&a.narrow(1, 0, 4), &b.narrow(1, 0, 4)), 0.0);
}

#[test]
fn padding_changes_no_state_of_the_captioner() {
    let network = network();
    let memory = network.memory(&network.image_tokens(&random(&[2, 3, 24, 24], 1), None), None);
    let states = |text: &TextBatch| network.caption_states(&network.text_tokens(text).tokens_blw, &memory);
    let (short, long) = (states(&texts(&[5, 3], 5, 0)), states(&texts(&[5, 3], 8, 4)));
    assert!(difference(&short.get(0), &long.get(0).narrow(0, 0, 5)) < 1e-12);
    assert!(difference(&short.get(1).narrow(0, 0, 3), &long.get(1).narrow(0, 0, 3)) < 1e-12);
}

#[test]
fn hidden_latents_change_nothing_for_the_captioner() {
    let network = network();
    let images = random(&[2, 3, 24, 24], 1);
    let tokens = network.image_tokens(&images, None);
    let choice = choose_patches(&random(&[2, 9], 2), 0.5, Side::Lowest);
    let at = choice.chosen_bk.unsqueeze(-1).expand([-1, -1, 128], false);
    let other = ImageTokens {
        pooled_bw: tokens.pooled_bw.shallow_clone(),
        patches_bpw: tokens.patches_bpw.scatter_value(1, &at, 7.0),
    };
    let text = network.text_tokens(&texts(&[5, 3], 5, 0)).tokens_blw;
    let states = |image: &ImageTokens, visible| network.caption_states(&text, &network.memory(image, visible));
    let visible = Some(&choice.others_bk);
    assert_eq!(difference(&states(&tokens, visible), &states(&other, visible)), 0.0);
    assert!(difference(&states(&tokens, None), &states(&other, None)) > 1e-3);
}

/// Images whose patches of these indices are other ones.
fn with_other_patches(images: &Tensor, patches_bk: &Tensor) -> Tensor {
    let changed = images.copy();
    for b in 0..images.size()[0] {
        for k in 0..patches_bk.size()[1] {
            let patch = patches_bk.int64_value(&[b, k]);
            let _ = changed.get(b).narrow(1, patch / 3 * 8, 8).narrow(2, patch % 3 * 8, 8).fill_(5.0);
        }
    }
    changed
}

#[test]
fn hidden_pixels_change_nothing_where_the_input_is_masked() {
    let network = network();
    let images = random(&[2, 3, 24, 24], 1);
    let choice = choose_patches(&random(&[2, 9], 2), 0.5, Side::Highest);
    let changed = with_other_patches(&images, &choice.chosen_bk);
    let visible = Some(&choice.others_bk);
    let (a, b) = (network.image_tokens(&images, visible), network.image_tokens(&changed, visible));
    assert_eq!(a.patches_bpw.size(), [2, 5, 128]);
    assert_eq!(difference(&a.patches_bpw, &b.patches_bpw), 0.0);
    // On the tower's output they leak, as documented: visible patches have seen them.
    let of = |images: &Tensor| gather_rows(&network.image_tokens(images, None).patches_bpw, &choice.others_bk);
    assert!(difference(&of(&images), &of(&changed)) > 1e-6);
    // All patches visible: the whole tower.
    let all = Tensor::arange(9, (Kind::Int64, Device::Cpu)).expand([2, 9], false);
    let (all, whole) = (network.image_tokens(&images, Some(&all)), network.image_tokens(&images, None));
    assert_eq!(difference(&all.patches_bpw, &whole.patches_bpw), 0.0);
}

#[test]
fn reconstruction_reads_the_caption_and_no_hidden_latent() {
    let network = network();
    let tokens = network.image_tokens(&random(&[2, 3, 24, 24], 1), None);
    let choice = choose_patches(&random(&[2, 9], 2), 0.5, Side::Highest);
    let rebuild = |patches: &Tensor, text: &TextBatch| {
        let visible = gather_rows(patches, &choice.others_bk);
        let image = MaskedImage { visible_bkw: &visible, visible_bk: &choice.others_bk, hidden_bh: &choice.chosen_bk };
        network.rebuild(&image, &network.text_tokens(text), text, false)
    };
    let text = texts(&[5, 3], 5, 0);
    let rebuilt = rebuild(&tokens.patches_bpw, &text);
    assert_eq!(rebuilt.size(), [2, 9, 192]);
    let at = choice.chosen_bk.unsqueeze(-1).expand([-1, -1, 128], false);
    assert_eq!(difference(&rebuilt, &rebuild(&tokens.patches_bpw.scatter_value(1, &at, 7.0), &text)), 0.0);
    assert!(difference(&rebuilt, &rebuild(&tokens.patches_bpw, &texts(&[5, 3], 8, 6))) < 1e-12);
    assert!(difference(&rebuilt, &rebuild(&tokens.patches_bpw, &texts(&[6, 2], 6, 0))) > 1e-5);
}

#[test]
fn every_variant_has_the_shapes_it_says() {
    let images = random(&[2, 3, 24, 24], 1);
    let text = texts(&[5, 3], 5, 0);
    for (pool, captioner, n_memory) in [
        (ImagePool::Cls, CAPTIONER, 9),
        (ImagePool::Average, CAPTIONER, 9),
        (ImagePool::Cls, CaptionerConfig { class_token_in_memory: true, ..CAPTIONER }, 10),
        (ImagePool::Average, CaptionerConfig { pooler: Pooler::Parallel { queries: 6 }, ..CAPTIONER }, 6),
        (
            ImagePool::Average,
            CaptionerConfig { pooler: Pooler::Cascade { queries: 6 }, mlps: Mlps::One, ..CAPTIONER },
            6,
        ),
        (ImagePool::Cls, CaptionerConfig { tie_vocabulary: true, image_decoder: None, ..CAPTIONER }, 9),
    ] {
        let network = Coca::new(config(pool, captioner), 0, Kind::Double, Device::Cpu);
        let tokens = network.image_tokens(&images, None);
        let memory = network.memory(&tokens, None);
        assert_eq!(memory.size(), [2, n_memory, 128]);
        let states = network.caption_states(&network.text_tokens(&text).tokens_blw, &memory);
        assert_eq!((states.size(), network.vocabulary().size()), (vec![2, 5, 128], vec![11, 128]));
        let features = network.encode_images(&images, PatchPath::Local);
        assert_eq!((features.pooled_bd.size(), features.patches_bpd.size()), (vec![2, 24], vec![2, 9, 24]));
    }
}

#[test]
fn the_two_layouts_of_poolers_differ() {
    let images = random(&[1, 3, 24, 24], 1);
    let pooled = |pooler| {
        let config = config(ImagePool::Average, CaptionerConfig { pooler, ..CAPTIONER });
        Coca::new(config, 0, Kind::Double, Device::Cpu).encode_images(&images, PatchPath::Local).pooled_bd
    };
    let (parallel, cascade) = (pooled(Pooler::Parallel { queries: 4 }), pooled(Pooler::Cascade { queries: 4 }));
    assert!(difference(&parallel, &cascade) > 1e-4);
}

#[test]
fn the_towers_start_as_those_of_the_other_arms() {
    let with = network();
    let without = CaptionerConfig { image_decoder: None, ..CAPTIONER };
    let without = Coca::new(config(ImagePool::Cls, without), 0, Kind::Double, Device::Cpu);
    for (name, tensor) in without.parameters().iter() {
        assert_eq!(difference(tensor, with.parameters().get(name).unwrap()), 0.0, "{name}");
    }
    assert!(with.parameters().len() > without.parameters().len());
}

#[test]
fn what_does_not_fit_is_named() {
    let cascade = CaptionerConfig { pooler: Pooler::Cascade { queries: 4 }, ..CAPTIONER };
    for (config, expected) in [
        (config(ImagePool::Cls, cascade), "image.pool"),
        (config(ImagePool::Average, CaptionerConfig { class_token_in_memory: true, ..CAPTIONER }), "no class token"),
        (config(ImagePool::Cls, CaptionerConfig { text_decoder_layers: 0, ..CAPTIONER }), "text_decoder_layers"),
    ] {
        let error = config.validate().unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn images_come_back_from_their_patches() {
    let images = random(&[2, 3, 24, 24], 1);
    let network = network();
    assert_eq!(difference(&network.image_of_patches(&network.patch_pixels(&images)), &images), 0.0);
}

#[test]
fn padding_and_answers_change_no_answer_logits() {
    let network = with_head(TaskHeadConfig::Answers(6));
    let of_images = |images: &Tensor, text: &TextBatch, question: &[i64]| {
        let question_b1 = Tensor::from_slice(question).unsqueeze(1);
        let question_bl =
            Tensor::arange(text.ids_bl.size()[1], (Kind::Int64, Device::Cpu)).unsqueeze(0).lt_tensor(&question_b1);
        let memory = network.memory(&network.image_tokens(images, None), None);
        let states = network.caption_states(&network.text_tokens(text).tokens_blw, &memory);
        network.answer_logits(&states, &question_bl)
    };
    let images = random(&[2, 3, 24, 24], 3);
    let logits = |text: &TextBatch, question: &[i64]| of_images(&images, text, question);
    let (short, long) = (texts(&[5, 3], 5, 0), texts(&[5, 3], 8, 7));
    let whole = logits(&short, &[5, 3]);
    assert_eq!(whole.size(), [2, 6]);
    assert!(difference(&whole, &logits(&long, &[5, 3])) < 1e-12);
    // What stands behind the question, its answer, is not seen by it: another one changes nothing.
    let answered = texts(&[5, 3], 5, 0);
    let question = logits(&answered, &[3, 2]);
    let _ = answered.ids_bl.narrow(1, 3, 2).fill_(9);
    assert!(difference(&question, &logits(&answered, &[3, 2])) < 1e-12);
    assert!(difference(&question, &logits(&answered, &[4, 2])) > 1e-6, "more of the question would be seen");
    // The question is read, and so is the image.
    let other = texts(&[5, 3], 5, 0);
    let _ = other.ids_bl.narrow(1, 1, 1).fill_(9);
    assert!(difference(&question, &logits(&other, &[3, 2])) > 1e-6);
    let others = random(&[2, 3, 24, 24], 4);
    assert!(difference(&question, &of_images(&others, &answered, &[3, 2])) > 1e-6);
}

#[test]
fn a_head_for_classes_reads_the_class_token_and_every_patch() {
    let network = with_head(TaskHeadConfig::Classes(6));
    let image = network.image_tokens(&random(&[2, 3, 24, 24], 3), None);
    let logits = network.class_logits(&image);
    assert_eq!(logits.size(), [2, 6]);
    // Not one constant for all: a layer norm would take it away.
    let class = ImageTokens { pooled_bw: random(&[2, 128], 4), patches_bpw: image.patches_bpw.shallow_clone() };
    assert!(difference(&logits, &network.class_logits(&class)) > 1e-6);
    for patch in [0, 8] {
        let patches_bpw = image.patches_bpw.copy();
        patches_bpw.select(1, patch).copy_(&random(&[2, 128], 5));
        let changed = ImageTokens { pooled_bw: image.pooled_bw.shallow_clone(), patches_bpw };
        assert!(difference(&logits, &network.class_logits(&changed)) > 1e-6, "patch {patch}");
    }
}

#[test]
fn a_frozen_network_has_gradients_in_its_head_alone() {
    for head in [TaskHeadConfig::Answers(6), TaskHeadConfig::Classes(6)] {
        let mut network = with_head(head);
        network.freeze_all_but_head();
        let image = network.image_tokens(&random(&[2, 3, 24, 24], 3), None);
        assert!(!image.patches_bpw.requires_grad(), "no graph is built through the tower");
        let logits = match head {
            TaskHeadConfig::Classes(_) => network.class_logits(&image),
            TaskHeadConfig::Answers(_) => {
                let text = texts(&[5, 3], 5, 0);
                let states =
                    network.caption_states(&network.text_tokens(&text).tokens_blw, &network.memory(&image, None));
                network.answer_logits(&states, &text.mask_bl)
            }
        };
        logits.square().sum(Kind::Double).backward();
        let trained: Vec<&str> =
            network.parameters().iter().filter(|(_, x)| x.requires_grad()).map(|(n, _)| n).collect();
        assert!(trained.len() == 15 && trained.iter().all(|name| network.is_of_head(name)), "{trained:?}");
        for (name, parameter) in network.parameters().iter() {
            let reached = parameter.grad().defined() && scalar(&parameter.grad().abs().max()) > 0.0;
            assert!(reached == network.is_of_head(name) || name.ends_with("key_value.bias"), "{name}");
        }
    }
}
