//! Compositional tests and re-ranking with a network that reads numbers: its pair score looks past the right answer by a
//! little, its matching head does not.

use std::convert::Infallible;

use sparc_core::{
    CaptionPair, Encoder, EvalSample, HardNegative, ImageFeatures, Matcher, PairScore, PatchGrid, PatchPath, Statement,
    TextBatch, TextFeatures, Tokenize,
};
use tch::{Device, Kind, Tensor};

use super::*;

const SIDE: i64 = 2;
/// Radians between the embeddings of two neighbouring numbers.
const STEP: f64 = 0.1;

/// The first number of a text; the second id is its length.
struct NumberTokenizer;

impl Tokenize for NumberTokenizer {
    fn tokenize(&self, texts: &[&str]) -> TextBatch {
        let number = |text: &str| text.split(' ').find_map(|word| word.parse::<i64>().ok()).expect("a number");
        let ids: Vec<i64> = texts.iter().flat_map(|text| [number(text), text.len() as i64]).collect();
        let mask_bl = Tensor::ones([texts.len() as i64, 2], (Kind::Bool, Device::Cpu));
        TextBatch { ids_bl: Tensor::from_slice(&ids).view([-1, 2]), content_bl: mask_bl.shallow_clone(), mask_bl }
    }

    fn pieces(&self, text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }
}

/// Embeds numbers as angles, images by `error` too high.
struct Numbers {
    error: f64,
    has_matcher: bool,
    /// Everything is the same to both scores.
    is_constant: bool,
    /// Its matching logit is not finite for this number.
    broken: f64,
}

const SEEING: Numbers = Numbers { error: 0.6, has_matcher: true, is_constant: false, broken: f64::NAN };

impl Numbers {
    /// `[.., 3]` from `[..]`.
    fn embed(&self, numbers: &Tensor) -> Tensor {
        let numbers = if self.is_constant { numbers.zeros_like() } else { numbers * STEP };
        Tensor::stack(&[numbers.cos(), numbers.sin(), numbers.ones_like() * 0.2], -1) * 3.0
    }
}

impl Encoder for Numbers {
    fn image_size(&self) -> (i64, i64) {
        (SIDE, SIDE)
    }

    fn encode_images(&self, images_bchw: &Tensor, path: PatchPath) -> ImageFeatures {
        let path_error = if path == PatchPath::Local { 0.0 } else { 100.0 };
        let patches_bpd = self.embed(&(images_bchw.select(1, 0).flatten(1, -1) + self.error + path_error));
        let pooled_bd = self.embed(&(images_bchw.select(1, 0).select(1, 0).select(1, 0) + self.error));
        ImageFeatures { pooled_bd, patches_bpd, grid: PatchGrid { height: SIDE, width: SIDE } }
    }

    fn encode_text(&self, text: &TextBatch) -> TextFeatures {
        let tokens_bld = self.embed(&text.ids_bl.to_kind(Kind::Float));
        TextFeatures { pooled_bd: tokens_bld.select(1, 0), tokens_bld, mask_bl: text.mask_bl.shallow_clone() }
    }

    fn matcher(&self) -> Option<&dyn Matcher> {
        self.has_matcher.then_some(self)
    }
}

impl Matcher for Numbers {
    fn image_tokens(&self, images_bchw: &Tensor) -> Tensor {
        images_bchw.select(1, 0).flatten(1, -1).unsqueeze(-1)
    }

    fn features_and_tokens(&self, images_bchw: &Tensor, path: PatchPath) -> (ImageFeatures, Tensor) {
        (self.encode_images(images_bchw, path), self.image_tokens(images_bchw))
    }

    fn text_tokens(&self, text: &TextBatch) -> Tensor {
        text.ids_bl.to_kind(Kind::Float).unsqueeze(-1)
    }

    fn match_logits(&self, image_rmc: &Tensor, text_rlw: &Tensor, mask_rl: &Tensor) -> Tensor {
        let (image_r, text_r) = (image_rmc.select(1, 0).select(1, 0), text_rlw.select(1, 0).select(1, 0));
        assert_eq!((mask_rl.size(), text_rlw.size()[2]), (text_rlw.size()[..2].to_vec(), 1));
        assert_eq!((mask_rl.kind(), image_rmc.size()[1]), (Kind::Bool, SIDE * SIDE));
        let sharpness = if self.is_constant { 0.0 } else { -1.0 };
        let logits_r = (&image_r - &text_r).abs() * sharpness + 0.5;
        logits_r.masked_fill(&text_r.eq(self.broken), f64::INFINITY)
    }

    fn n_layers(&self) -> usize {
        4
    }

    fn grid(&self) -> PatchGrid {
        PatchGrid { height: SIDE, width: SIDE }
    }

    /// A text's number is seen in the patch of that number, in each layer one further.
    fn match_heatmaps(&self, image_rmc: &Tensor, text_rlw: &Tensor, mask_rl: &Tensor, layer: usize) -> Tensor {
        assert_eq!(mask_rl.size(), text_rlw.size()[..2].to_vec());
        let patches = Tensor::arange(image_rmc.size()[1], (Kind::Float, Device::Cpu)) - layer as f64;
        let heat_rlp = text_rlw.eq_tensor(&patches).to_kind(Kind::Float);
        // The second id is a length, and no number.
        heat_rlp.masked_fill(&text_rlw.eq(self.broken), f64::NAN) * Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2, 1])
    }
}

fn sample(number: i64) -> EvalSample {
    EvalSample {
        key: format!("image {number}"),
        image_chw: Tensor::full([3, SIDE, SIDE], number as f64, (Kind::Float, Device::Cpu)),
        pixels: vec![0; (SIDE * SIDE * 3) as usize],
        captions: Vec::new(),
        regions: None,
        fine_regions: Vec::new(),
        hard_negatives: Vec::new(),
        statements: Vec::new(),
        caption_pairs: Vec::new(),
        questions: Vec::new(),
        class: None,
        segmentation: None,
    }
}

fn case(source: &str, caption: &str, negatives: &[&str]) -> HardNegative {
    let negatives = negatives.iter().map(|text| (*text).to_owned()).collect();
    HardNegative { source: source.to_owned(), caption: caption.to_owned(), negatives }
}

fn statement(source: &str, text: &str, is_true: bool) -> Statement {
    Statement { source: source.to_owned(), text: text.to_owned(), is_true }
}

fn pair(item: &str, caption: &str, other: &str) -> CaptionPair {
    CaptionPair { source: "twins".into(), item: item.into(), caption: caption.into(), other: other.into() }
}

/// Four images with claims and one without.
fn samples() -> Vec<EvalSample> {
    vec![
        EvalSample {
            // The score is wrong about the neighbour above alone, and ties with the same number.
            hard_negatives: vec![
                case("near", "3 cats", &["4 cats"]),
                case("near", "3 cats", &["2 cats"]),
                case("tie", "3 cats", &["3 dogs"]),
            ],
            statements: vec![statement("s", "it is 3", true), statement("s", "it is 4", false)],
            // By the score 3.6 prefers 4; by the matching head each its own.
            caption_pairs: vec![pair("1", "3 a", "4 b"), pair("lone", "3 a", "9 b")],
            ..sample(3)
        },
        sample(0),
        EvalSample {
            hard_negatives: vec![case("far", "4 birds", &["9 birds", "0 birds", "8 birds"])],
            caption_pairs: vec![pair("1", "4 b", "3 a"), pair("2", "4 x", "9 y")],
            ..sample(4)
        },
        EvalSample {
            statements: vec![statement("s", "it is 9", true), statement("t", "it is 1", false)],
            caption_pairs: vec![pair("2", "9 y", "4 x"), pair("2", "9 other", "4 x")],
            ..sample(9)
        },
        EvalSample { statements: vec![statement("t", "it is 7", true)], ..sample(7) },
    ]
}

fn ask(change: impl FnOnce(&mut EvalRequest)) -> EvalRequest {
    let mut request = EvalRequest::new(Device::Cpu);
    change(&mut request);
    request
}

fn run(network: &Numbers, samples: Vec<EvalSample>, request: &EvalRequest) -> Result<EvalResults, EvalError> {
    evaluate(network, &NumberTokenizer, samples.into_iter().map(Ok::<_, Infallible>), request, &mut |_| {})
}

fn compositional(network: &Numbers) -> CompositionalResults {
    run(network, samples(), &ask(|request| request.compositional = true)).unwrap().compositional.unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9
}

#[test]
fn every_kind_of_claim_is_judged_by_score_and_by_match() {
    let results = compositional(&SEEING);
    assert_eq!((results.n_images, results.n_without_claims), (4, 1));
    // `lone` has one half, and the third half of `2` names other captions.
    assert_eq!(results.n_lone_caption_pairs, 2);

    let (by_score, by_match) = (&results.by_score, results.by_match.as_ref().unwrap());
    let negatives = by_score.hard_negatives.as_ref().unwrap();
    let of_source = |source: &SourceResults| (source.source.clone(), source.n_cases, source.accuracy.value);
    let sources: Vec<_> = negatives.sources.iter().map(of_source).collect();
    assert_eq!(sources, [("far".into(), 1, 1.0), ("near".into(), 2, 0.5), ("tie".into(), 1, 0.5)]);
    assert_eq!((negatives.all.n_cases, negatives.all.accuracy.value, negatives.all.strict), (4, 0.625, 0.5));
    assert!(close(negatives.all.chance, (0.5 * 3.0 + 0.25) / 4.0));
    assert!(close(negatives.mean_of_sources.value, 2.0 / 3.0));
    let matched = by_match.hard_negatives.as_ref().unwrap();
    assert_eq!((matched.all.accuracy.value, matched.all.strict, matched.sources[2].accuracy.value), (0.875, 0.75, 0.5));

    // The head tells numbers apart by far more than the score does: their sum sides with it.
    let by_both = results.by_both.as_ref().unwrap();
    assert_eq!(by_both.hard_negatives.as_ref().unwrap().all.accuracy.value, 0.875);
    let summed = by_both.statements.as_ref().unwrap();
    assert!(summed.verdicts.is_none() && summed.area_under_roc.unwrap().value == 1.0);
    assert_eq!(by_both.caption_pairs[0].group.value, 1.0);

    // 3.6 is nearer to 4 than to 3; the true 9 and 7 lie as far as the true 3.
    let all = by_score.statements.as_ref().unwrap();
    assert_eq!((all.n_statements, by_score.statements_by_source.len()), (5, 2));
    assert!(close(all.area_under_roc.unwrap().value, 3.0 / 6.0) && all.verdicts.is_none());
    let all = by_match.statements.as_ref().unwrap();
    let verdicts = all.verdicts.as_ref().unwrap();
    assert_eq!((all.area_under_roc.unwrap().value, verdicts.accuracy.value), (1.0, 1.0));
    assert_eq!((verdicts.true_accepted, verdicts.false_rejected), (Some(1.0), Some(1.0)));

    let pairs = &by_score.caption_pairs[0];
    assert_eq!((pairs.source.as_str(), pairs.n_items), ("twins", 2));
    // Image 3 prefers caption 4, and caption 4 image 3: both points of the first item are lost.
    assert_eq!((pairs.text.value, pairs.image.value, pairs.group.value), (0.5, 0.5, 0.5));
    let pairs = &by_match.caption_pairs[0];
    assert_eq!((pairs.text.value, pairs.image.value, pairs.group.value), (1.0, 1.0, 1.0));
}

#[test]
fn keys_are_fixed_and_told_apart() {
    let results = run(&SEEING, samples(), &ask(|request| request.compositional = true)).unwrap();
    let metrics = results.flatten();
    let value = |key: &str| metrics.iter().find(|(known, _)| known == key).map(|(_, value)| *value);
    assert_eq!(value("compositional.negatives"), Some(0.625));
    assert_eq!(value("compositional.match.negatives"), Some(0.875));
    assert_eq!(value("compositional.both.negatives"), Some(0.875));
    assert_eq!(value("compositional.negatives.strict"), Some(0.5));
    assert_eq!(
        (value("compositional.negatives[near].n"), value("compositional.negatives[near].chance")),
        (Some(2.0), Some(0.5))
    );
    assert_eq!(value("compositional.statements_accuracy"), None);
    assert_eq!(value("compositional.match.statements_accuracy[s]"), Some(1.0));
    assert_eq!(
        (value("compositional.statements[t].low"), value("compositional.pairs[twins].group")),
        (Some(1.0), Some(0.5))
    );
    assert!(value("compositional.negatives.low") <= value("compositional.negatives"));
    assert!(value("compositional.negatives.mean_of_sources.high") >= value("compositional.negatives.mean_of_sources"));
    assert_eq!(
        (value("n_images_with_claims"), value("n_without_claims"), value("n_lone_caption_pairs")),
        (Some(4.0), Some(1.0), Some(2.0))
    );
    let keys: std::collections::BTreeSet<&str> = metrics.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys.len(), metrics.len(), "no key twice");
    let json = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<EvalResults>(&json).unwrap(), results);

    let without =
        run(&Numbers { has_matcher: false, ..SEEING }, samples(), &ask(|request| request.compositional = true));
    assert!(!without.unwrap().flatten().iter().any(|(key, _)| key.contains("match") || key.contains("both")));
}

#[test]
fn the_sum_is_of_the_heads_log_odds_and_the_score() {
    let judged = PairJudgement { among_texts: 0.25, among_images: -0.5, match_logit: Some(1.0) };
    assert_eq!((judged.match_and_score(), judged.match_and_score_among_images()), (Some(1.25), Some(0.5)));
    assert_eq!(PairJudgement { match_logit: None, ..judged }.match_and_score(), None);
}

#[test]
fn batches_and_order_change_nothing() {
    let ask = |batch_size, text_batch_size| {
        ask(|request| {
            (request.compositional, request.batch_size, request.text_batch_size) = (true, batch_size, text_batch_size);
        })
    };
    let whole = run(&SEEING, samples(), &ask(64, 256)).unwrap();
    for (images, texts) in [(1, 1), (2, 3), (3, 7)] {
        assert_eq!(run(&SEEING, samples(), &ask(images, texts)).unwrap(), whole, "{images} images, {texts} pairs");
    }
    let mut reversed = samples();
    reversed.reverse();
    for ((key, before), (_, after)) in whole.flatten().iter().zip(run(&SEEING, reversed, &ask(2, 3)).unwrap().flatten())
    {
        assert!(close(*before, after), "{key}: {before} and {after}");
    }
}

#[test]
fn a_network_to_which_all_is_the_same_gets_chance() {
    let results = compositional(&Numbers { is_constant: true, ..SEEING });
    for claims in [&results.by_score, results.by_match.as_ref().unwrap()] {
        let negatives = claims.hard_negatives.as_ref().unwrap();
        assert!(close(negatives.all.accuracy.value, negatives.all.chance));
        assert_eq!(negatives.all.strict, 0.0);
        assert_eq!(claims.statements.as_ref().unwrap().area_under_roc.unwrap().value, 0.5);
        let pairs = &claims.caption_pairs[0];
        assert_eq!((pairs.text.value, pairs.image.value, pairs.group.value), (0.0, 0.0, 0.0));
        assert!(pairs.with_ties_broken.iter().zip([0.25, 0.25, 1.0 / 6.0]).all(|(a, b)| close(*a, b)));
    }
}

#[test]
fn other_pair_scores_are_those_of_all_pairs_at_once() {
    let (images_bchw, texts) =
        (Tensor::randn([5, 3, SIDE, SIDE], (Kind::Float, Device::Cpu)), ["3 a", "5 bcd", "3 a", "0 e"]);
    for score in [PairScore::Pooled, PairScore::TokenMaxima] {
        let judge = PairJudge::new(&SEEING, &NumberTokenizer, score, Device::Cpu, 3);
        let seen = judge.see(&images_bchw, (0..5).map(|image| image.to_string()).collect()).unwrap();
        let pairs: Vec<(usize, &str)> = (0..20).map(|index| (index * 3 % 5, texts[index * 7 % 4])).collect();
        let judged = judge.judge(&seen, &pairs).unwrap();
        let images = SEEING.encode_images(&images_bchw, PatchPath::Local);
        let all = score.scores(&images, &SEEING.encode_text(&NumberTokenizer.tokenize(&texts)));
        for ((image, text), judged) in pairs.into_iter().zip(judged) {
            let column = texts.iter().position(|known| *known == text).unwrap() as i64;
            let expected = |scores: &Tensor| scores.double_value(&[image as i64, column]);
            assert!((f64::from(judged.among_texts) - expected(&all.image_to_text_ac)).abs() < 1e-6, "{}", score.name());
            assert!(
                (f64::from(judged.among_images) - expected(&all.text_to_image_ac)).abs() < 1e-6,
                "{}",
                score.name()
            );
            let distance = images_bchw.double_value(&[image as i64, 0, 0, 0]) - [3.0, 5.0, 3.0, 0.0][column as usize];
            assert!((f64::from(judged.match_logit.unwrap()) - (0.5 - distance.abs())).abs() < 1e-5);
        }
    }
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let request = ask(|request| request.compositional = true);
    let none = run(&SEEING, vec![sample(1), sample(2)], &request).unwrap_err();
    assert!(none.to_string().contains("the compositional test has nothing to evaluate: none of 2 images"), "{none}");
    let lone = EvalSample { caption_pairs: vec![pair("1", "3 a", "4 b")], ..sample(3) };
    assert!(matches!(run(&SEEING, vec![lone], &request), Err(EvalError::NoUsableSample { .. })));
    let broken = run(&Numbers { broken: 9.0, ..SEEING }, samples(), &request).unwrap_err().to_string();
    assert!(
        broken.contains("matching logit with the text `9 b` is not finite") && broken.contains("image 3"),
        "{broken}"
    );
}

// Re-ranking.

fn captioned(number: i64) -> EvalSample {
    EvalSample { captions: vec![format!("{number} here"), format!("again {number}")], ..sample(number) }
}

fn retrieval(network: &Numbers, rerank: usize, batch_size: usize) -> RetrievalResults {
    let request = ask(|request| {
        (request.retrieval, request.rerank) = (true, Some(rerank));
        (request.batch_size, request.text_batch_size) = (batch_size, batch_size);
    });
    run(network, (0..8).map(captioned).chain([sample(20)]).collect(), &request).unwrap().retrieval.unwrap()
}

#[test]
fn the_first_candidates_are_ordered_by_the_matching_head() {
    // An image's number seems 0.6 too high: the next one's two captions come first, but for the last image.
    let results = retrieval(&SEEING, 4, 64);
    assert_eq!((results.n_images, results.n_captions), (8, 16));
    assert_eq!(
        (results.ranks.image_to_text_recall[0].value, results.ranks.image_to_text_recall[1].value),
        (1.0 / 8.0, 1.0)
    );
    // A caption seems 0.6 too low: the image before comes first, but for the first.
    assert_eq!(
        (results.ranks.text_to_image_recall[0].value, results.ranks.text_to_image_mean_rank),
        (1.0 / 8.0, 15.0 / 8.0)
    );
    let reranked = results.reranked.unwrap();
    assert_eq!((reranked.n_candidates, reranked.image_to_text_listed, reranked.text_to_image_listed), (4, 1.0, 1.0));
    assert_eq!(
        (reranked.ranks.image_to_text_recall[0].value, reranked.ranks.text_to_image_recall[0].value),
        (1.0, 1.0)
    );
    // Both own captions tie for the first place.
    assert_eq!((reranked.ranks.image_to_text_mean_rank, reranked.ranks.text_to_image_mean_rank), (1.0, 1.0));
}

#[test]
fn a_single_candidate_leaves_the_order() {
    let results = retrieval(&SEEING, 1, 64);
    let reranked = results.reranked.unwrap();
    assert_eq!(reranked.text_to_image_listed, 1.0 / 8.0);
    assert_eq!(reranked.ranks.text_to_image_recall, results.ranks.text_to_image_recall);
    assert_eq!(reranked.ranks.text_to_image_mean_rank, results.ranks.text_to_image_mean_rank);
}

#[test]
fn more_candidates_than_there_are_and_small_batches_are_fine() {
    let all = retrieval(&SEEING, 1000, 64).reranked.unwrap();
    assert_eq!((all.ranks.image_to_text_recall[0].value, all.ranks.text_to_image_recall[0].value), (1.0, 1.0));
    for (rerank, batch_size) in [(4, 1), (4, 5), (3, 16), (1000, 7)] {
        assert_eq!(retrieval(&SEEING, rerank, batch_size), retrieval(&SEEING, rerank, 64), "{rerank}, {batch_size}");
    }
    // Another pair score leads to the same second stage.
    let request = ask(|request| {
        (request.retrieval, request.rerank, request.pair_score) = (true, Some(1000), PairScore::TokenMaxima);
    });
    let other = run(&SEEING, (0..8).map(captioned).collect(), &request).unwrap().retrieval.unwrap();
    assert_eq!(other.reranked.unwrap().ranks, all.ranks);
}

#[test]
fn reranking_keys_stand_beside_those_of_the_first_stage() {
    let request = ask(|request| (request.retrieval, request.rerank) = (true, Some(4)));
    let metrics = run(&SEEING, (0..8).map(captioned).collect(), &request).unwrap().flatten();
    let value = |key: &str| metrics.iter().find(|(known, _)| known == key).map(|(_, value)| *value);
    assert_eq!((value("image_to_text_R@1"), value("reranked_image_to_text_R@1")), (Some(0.125), Some(1.0)));
    assert_eq!((value("reranked_text_to_image_listed"), value("n_rerank_candidates")), (Some(1.0), Some(4.0)));
}

#[test]
fn reranking_needs_a_matching_head() {
    let request = ask(|request| (request.retrieval, request.rerank) = (true, Some(4)));
    let error = run(&Numbers { has_matcher: false, ..SEEING }, vec![captioned(1)], &request).unwrap_err();
    assert!(matches!(error, EvalError::NoMatcher { .. }) && error.to_string().contains("matching head"), "{error}");
    let broken = run(&Numbers { broken: 1.0, ..SEEING }, vec![captioned(1)], &request).unwrap_err();
    assert!(matches!(broken, EvalError::NonFiniteScore), "{broken}");
}

#[test]
fn progress_hears_of_all_queries() {
    let request = ask(|request| (request.retrieval, request.rerank, request.text_batch_size) = (true, Some(4), 4));
    let (mut heard, samples) = (Vec::new(), (0..2).map(captioned).map(Ok::<_, Infallible>));
    evaluate(&SEEING, &NumberTokenizer, samples, &request, &mut |step| heard.push(step)).unwrap();
    let ranked: Vec<Progress> = (1..=6).map(|n_done| Progress::Reranking { n_done, n_queries: 6 }).collect();
    assert_eq!(heard[heard.len() - 6..], ranked);
}

// Grounding by the matching head.

fn quarters() -> EvalSample {
    let region = |text: &str, box_xyxy: [f32; 4]| sparc_core::Region { box_xyxy, text: text.to_owned() };
    EvalSample {
        regions: Some(vec![
            region("0 cats", [0.0, 0.0, 0.5, 0.5]),
            region("1 dog", [0.5, 0.0, 1.0, 0.5]),
            region("2 birds", [0.0, 0.5, 0.5, 1.0]),
        ]),
        ..sample(7)
    }
}

fn grounding(network: &Numbers, heatmaps: Heatmaps) -> Result<EvalResults, EvalError> {
    let request = ask(|request| (request.grounding, request.heatmaps) = (true, heatmaps));
    run(network, vec![quarters(), sample(3)], &request)
}

#[test]
fn heatmaps_of_the_matching_head_ground_phrases() {
    let results = grounding(&SEEING, Heatmaps::GradCam { layer: Some(0) }).unwrap();
    assert_eq!(results.protocol.heatmaps, "grad-cam of fusion layer 1 of 4");
    let found = results.grounding.unwrap();
    assert_eq!((found.n_phrases, found.pointing_accuracy.value, found.box_accuracy.value), (3, 1.0, 1.0));
    let choice = found.box_choice.unwrap();
    assert_eq!((choice.n_phrases, choice.accuracy.value, choice.chance), (3, 1.0, 1.0 / 3.0));
    // The middle of four layers is the second: there all numbers are seen one patch further, 2 where no box is.
    let further = grounding(&SEEING, Heatmaps::GradCam { layer: None }).unwrap();
    assert_eq!(further.protocol.heatmaps, "grad-cam of fusion layer 2 of 4");
    let further = further.grounding.unwrap();
    assert_eq!((further.pointing_accuracy.value, further.mean_box_iou.value), (0.0, 0.0));
    assert_eq!(further.box_choice.unwrap().accuracy.value, 1.0 / 9.0, "2 heats no box: any of the three");
    // By similarity a picture of one number is the same everywhere.
    let flat = grounding(&SEEING, Heatmaps::Similarity).unwrap();
    assert_eq!(
        (flat.protocol.heatmaps.as_str(), flat.grounding.unwrap().pointing_accuracy.value),
        ("similarity", 0.25)
    );
}

#[test]
fn heatmaps_that_cannot_be_are_errors() {
    let error = |network: &Numbers, layer| grounding(network, Heatmaps::GradCam { layer }).unwrap_err().to_string();
    let blind = Numbers { has_matcher: false, ..SEEING };
    assert!(error(&blind, None).contains("Grad-CAM needs a network with a matching head"));
    let beyond = error(&SEEING, Some(4));
    assert!(beyond.contains("fusion layer 5") && beyond.contains("of layers 1 to 4"), "{beyond}");
    let broken = error(&Numbers { broken: 1.0, ..SEEING }, None);
    assert!(broken.contains("image 7") && broken.contains("Grad-CAM of the phrase `1 dog`"), "{broken}");
}
