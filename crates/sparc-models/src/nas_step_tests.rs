//! A whole step of NAS with the modules of this crate, in the order that `docs/objectives/albef.md` gives: what each
//! needs of the other, and where gradients go.

use sparc_core::matching::albef::{
    AlbefConfig, ContrastInputs, LanguageInputs, MaskingVocabulary, MatchingInputs, Positives, contrast,
    hard_negatives, language, mask_tokens,
};
use sparc_core::matching::nas::{
    ClassToken, EditedTerm, NasConfig, PatchScore, Replacement, ReplacementInputs, ScoreSpace, Start, TextNegatives,
    TokenMode, edit, highest, nas_loss, patch_scores, replacements,
};
use sparc_core::tensor_math::masked_mean;
use sparc_core::{Gathered, LossTerms, TextBatch, seed};
use sparc_testing::{random, scalar, values};
use tch::{Device, Kind, Tensor};

use crate::fusion::FusionEncoder;
use crate::heads::{LanguageHead, MatchingHead, TokenGate};
use crate::layers::Linear;
use crate::momentum::{start_copy, update_copy};
use crate::pair_queue::PairQueue;
use crate::text::{TextConfig, TextTransformer};
use crate::visual_dictionary::{DictionaryConfig, VisualDictionary};
use crate::vit::{ImagePool, TowerOutput, Vit, VitConfig};
use crate::{Init, ModelSize, ParameterBuilder, Parameters};

const BATCH: i64 = 4;
const VOCABULARY: i64 = 20;
const MASK_ID: i64 = 2;
const SIZE: ModelSize = ModelSize::Pico;

/// What has a momentum copy.
struct Trunk {
    image: Vit,
    text: TextTransformer,
    image_adapter: Linear,
    text_adapter: Linear,
    gate: TokenGate,
    fusion: FusionEncoder,
    embedding: Tensor,
    language: LanguageHead,
}

impl Trunk {
    fn new(builder: &ParameterBuilder) -> Trunk {
        let width = SIZE.shape().width;
        let image = VitConfig { size: SIZE, patch_size: 4, image_size: 16, pool: ImagePool::Cls };
        let text = TextConfig { size: SIZE, context_length: 8, vocab_size: VOCABULARY };
        let adapter = |name: &str| Linear::new(&builder.under(name), width, 16, true, Init::Normal(0.1));
        Trunk {
            image: Vit::new(&builder.under("image"), image),
            text: TextTransformer::new(&builder.under("text"), text),
            image_adapter: adapter("image_adapter"),
            text_adapter: adapter("text_adapter"),
            gate: TokenGate::new(&builder.under("gate"), width),
            fusion: FusionEncoder::new(&builder.under("fusion"), SIZE.shape(), width),
            embedding: builder.create("words", &[VOCABULARY, width], Init::Normal(0.02)),
            language: LanguageHead::new(&builder.under("language"), width, VOCABULARY),
        }
    }
}

struct Model {
    trunk: Trunk,
    matching: MatchingHead,
    parameters: Parameters,
    copy: Trunk,
    copied: Parameters,
    queue: PairQueue,
    dictionary: VisualDictionary,
}

impl Model {
    fn new() -> Model {
        let builder = ParameterBuilder::new(1, Kind::Float, Device::Cpu);
        let (trunk, matching) =
            (Trunk::new(&builder), MatchingHead::new(&builder.under("matching"), SIZE.shape().width));
        let copies = ParameterBuilder::new(2, Kind::Float, Device::Cpu);
        let copy = Trunk::new(&copies);
        let (parameters, mut copied) = (builder.finish(), copies.finish());
        start_copy(&mut copied, &parameters).unwrap();
        let dictionary =
            DictionaryConfig { codes: 16, decay: 0.9, epsilon: 1e-5, dead_below: 0.1, restart_after_steps: 10 };
        Model {
            trunk,
            matching,
            parameters,
            copy,
            copied,
            queue: PairQueue::new(6, 16, Kind::Float, Device::Cpu),
            dictionary: VisualDictionary::new(dictionary, SIZE.shape().width, Device::Cpu),
        }
    }
}

fn albef() -> AlbefConfig {
    AlbefConfig {
        lambda_contrast: 1.0,
        lambda_matching: 1.0,
        lambda_language: 1.0,
        distillation: 0.4,
        distillation_warmup_steps: 0,
        momentum: 0.9,
        queue_size: 6,
        positives: Positives::Pair,
        masked_share: 0.3,
    }
}

fn nas() -> NasConfig {
    NasConfig {
        tokens: TokenMode::Gated,
        class_token: ClassToken::Keep,
        score_space: ScoreSpace::Projected,
        score: PatchScore::Sum,
        replaced_share: 0.2,
        replacement: Replacement::NearestOther { neighbours: 3 },
        edited_term: EditedTerm::Separate { weight: 1.0 },
        contrast_edited: true,
        text_negatives: TextNegatives::None,
        start: Start::Step { step: 0 },
    }
}

fn batch(step: i64) -> (Tensor, TextBatch) {
    let places = Tensor::arange(8, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let rows = Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)).unsqueeze(1);
    let ids_bl = (&places * 3i64 + &rows * 5i64 + step).remainder(VOCABULARY - 3) + 3i64;
    let mask_bl = places.lt_tensor(&(&rows + 5i64));
    let content_bl = mask_bl.logical_and(&places.gt(0));
    let images = random(&[BATCH, 3, 16, 16], 50 + step).to_kind(Kind::Float);
    (images, TextBatch { ids_bl, mask_bl, content_bl })
}

fn numbers(step: i64, purpose: &[u8], shape: &[i64]) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    Tensor::from_slice(&seed::uniforms(1, &[purpose, &step.to_le_bytes()], 0, count)).view(shape)
}

fn step(model: &mut Model, at: i64) -> LossTerms {
    let (images, text) = batch(at);
    let Model { trunk, matching, parameters, copy, copied, queue, dictionary } = model;
    let ids_b = Tensor::arange(BATCH, (Kind::Int64, Device::Cpu)) + at * BATCH;
    update_copy(copied, parameters, albef().momentum);
    let encode = |trunk: &Trunk, text: &TextBatch| {
        let TowerOutput { pooled_bw, patches_bpw, .. } = trunk.image.forward(&images);
        let tokens_blw = trunk.text.forward(text);
        let image_bd = trunk.image_adapter.forward(&pooled_bw);
        let text_bd = trunk.text_adapter.forward(&masked_mean(&tokens_blw, &text.mask_bl));
        (pooled_bw, patches_bpw, tokens_blw, image_bd, text_bd)
    };
    let (class_bw, patches_bpw, tokens_blw, image_bd, text_bd) = encode(trunk, &text);
    let (copy_class_bw, copy_patches_bpw, _, copy_image_bd, copy_text_bd) = encode(copy, &text);

    // Lookup before the update, vectors after it.
    let (b, p, w) = patches_bpw.size3().unwrap();
    let all = patches_bpw.detach().reshape([b * p, w]);
    if !dictionary.is_started() {
        dictionary.start(&all, 1);
    }
    let index_bp = dictionary.nearest(&patches_bpw);
    let assignments = dictionary.assignments(&patches_bpw, &index_bp);
    dictionary.update(&assignments, &all, 1);

    let projected_bpd = trunk.image_adapter.forward(&patches_bpw);
    let chosen_br = highest(&patch_scores(&projected_bpd, &image_bd, &text_bd, nas().score), nas().replaced_share);
    let replacement = ReplacementInputs {
        codes_kc: dictionary.codes(),
        usable_k: &dictionary.usable(),
        index_bp: &index_bp,
        chosen_br: &chosen_br,
        image_ids_b: &ids_b,
        uniform_br: &numbers(at, b"replacements", &chosen_br.size()),
    };
    let new_br = replacements(&replacement, nas().replacement);
    let edit = edit(&patches_bpw, &index_bp, dictionary.codes(), &chosen_br, &new_br);
    let sequence =
        |trunk: &Trunk, class_bw: &Tensor, tokens| Tensor::cat(&[class_bw.unsqueeze(1), trunk.gate.forward(tokens)], 1);
    let image_bmw = sequence(trunk, &class_bw, &edit.original);
    let edited_bmw = sequence(trunk, &class_bw, &edit.edited);

    let keys = queue.keys();
    let edited_bd =
        trunk.image_adapter.forward(&edit.edited.quantised_bpc).mean_dim([1i64].as_slice(), false, None::<Kind>);
    let contrast = contrast(
        &ContrastInputs {
            image_bd: &image_bd,
            text_bd: &text_bd,
            momentum_image: Gathered::single(&copy_image_bd),
            momentum_text: Gathered::single(&copy_text_bd),
            image_queue_qd: &keys.image_qd,
            text_queue_qd: &keys.text_qd,
            image_ids: Gathered::single(&ids_b),
            queue_ids_q: &keys.ids_q,
            edited_image_bd: Some(&edited_bd),
            row_offset: 0,
            logit_scale: &Tensor::from(10.0f32),
        },
        albef().positives,
        albef().distillation_at(at as u64),
    );
    queue.enqueue(&copy_image_bd, &copy_text_bd, &ids_b);

    let draw = |logits: &Tensor, purpose: &[u8]| {
        hard_negatives(logits, Gathered::single(&ids_b), &numbers(at, purpose, &[BATCH]))
    };
    let wrong_texts = draw(&contrast.image_to_text_bn, b"texts");
    let wrong_images = draw(&contrast.text_to_image_bn, b"images");
    let judge =
        |tokens: &Tensor, mask: &Tensor, image: &Tensor| matching.forward(&trunk.fusion.forward(tokens, mask, image));
    let (texts, pictures) = (&wrong_texts.columns_b, &wrong_images.columns_b);
    let logits = Tensor::cat(
        &[
            judge(&tokens_blw, &text.mask_bl, &image_bmw),
            judge(&tokens_blw.index_select(0, texts), &text.mask_bl.index_select(0, texts), &image_bmw),
            judge(&tokens_blw, &text.mask_bl, &image_bmw.index_select(0, pictures)),
        ],
        0,
    );
    let labels = Tensor::arange(3 * BATCH, (Kind::Int64, Device::Cpu)).lt(BATCH).to_kind(Kind::Int64);
    let valid = Tensor::cat(&[&wrong_texts.found_b.ones_like(), &wrong_texts.found_b, &wrong_images.found_b], 0);
    let edited_logits = judge(&tokens_blw, &text.mask_bl, &edited_bmw);

    let vocabulary = MaskingVocabulary { mask_id: MASK_ID, first_id: 3, n_ids: VOCABULARY };
    let masked = mask_tokens(
        &text.ids_bl,
        &text.content_bl,
        vocabulary,
        albef().masked_share,
        &numbers(at, b"masks", &[3, BATCH, 8]),
    );
    let masked_text = TextBatch { ids_bl: masked.ids_bl, mask_bl: text.mask_bl, content_bl: text.content_bl };
    let words = |trunk: &Trunk, image_bmw: &Tensor| {
        let read = trunk.fusion.forward(&trunk.text.forward(&masked_text), &masked_text.mask_bl, image_bmw);
        let states_mw = read.masked_select(&masked.chosen_bl.unsqueeze(-1)).view([-1, SIZE.shape().width]);
        trunk.language.forward(&states_mw, &trunk.embedding)
    };
    let copy_index_bp = dictionary.nearest(&copy_patches_bpw);
    let copy_tokens =
        sparc_core::matching::nas::VisualTokens::of(&copy_patches_bpw, &copy_index_bp, dictionary.codes());
    let language = language(
        &LanguageInputs {
            logits_mv: &words(trunk, &image_bmw),
            momentum_logits_mv: &words(copy, &sequence(copy, &copy_class_bw, &copy_tokens)),
            targets_m: &masked.targets_m,
            chosen: Gathered::single(&masked.chosen_bl),
        },
        albef().distillation,
    );
    nas_loss(
        contrast,
        &MatchingInputs { logits_r2: &logits, labels_r: &labels, valid: Gathered::single(&valid) },
        Some(&MatchingInputs {
            logits_r2: &edited_logits,
            labels_r: &edit.found_b.zeros_like().to_kind(Kind::Int64),
            valid: Gathered::single(&edit.found_b),
        }),
        language,
        (&albef(), &nas()),
    )
}

#[test]
fn a_step_reaches_every_parameter_and_no_copy() {
    let mut model = Model::new();
    for at in 0..2 {
        let terms = step(&mut model, at);
        let names: Vec<&str> = terms.terms.iter().map(|term| term.name.as_ref()).collect();
        assert_eq!(names, ["contrast", "matching", "language", "edited"]);
        assert!(terms.terms.iter().all(|term| scalar(&term.value) > 0.0 && scalar(&term.value).is_finite()));
        // After the enqueue, and with the dictionary moved: what the loss has seen is still there.
        terms.total.backward();
    }
    for (name, tensor) in model.parameters.iter() {
        assert!(tensor.grad().defined() && scalar(&tensor.grad().abs().max()) > 0.0, "{name}");
    }
    assert!(model.copied.iter().all(|(_, tensor)| !tensor.requires_grad() && !tensor.grad().defined()));
    assert_eq!(model.queue.keys().ids_q.size(), [6]);
    assert!(!model.dictionary.codes().requires_grad());
}

#[test]
fn steps_are_the_same_again() {
    let run = || {
        let mut model = Model::new();
        (0..3).flat_map(|at| values(&step(&mut model, at).total)).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
