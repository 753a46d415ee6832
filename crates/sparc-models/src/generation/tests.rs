//! Tests of generation: against exhaustive search over a table of probabilities, and on a captioner, cached against
//! uncached.

use std::collections::BTreeMap;

use sparc_testing::{assert_close, random};
use tch::Device;

use super::*;
use crate::causal_text::CausalText;
use crate::heads::Pooler;
use crate::layers::Mlps;
use crate::networks::{CaptionerConfig, Coca, CocaConfig, SpecialTokens};
use crate::text::TextConfig;
use crate::vit::{ImagePool, VitConfig};
use crate::{ModelSize, ParameterBuilder};

const BEGIN: i64 = 0;
const END: i64 = 1;

fn ends() -> TextEnds {
    TextEnds { begin: BEGIN, end: END, never: vec![BEGIN, 2] }
}

/// Logits that depend on the last two tokens and on the image: a model small enough to search exhaustively.
struct Table {
    logits: Vec<Tensor>,
    rows: Vec<(usize, Vec<i64>)>,
    rows_per_image: usize,
}

const PIECES: i64 = 6;

impl Table {
    fn new(n_images: usize, rows_per_image: usize) -> Table {
        let rows = (0..n_images * rows_per_image).map(|row| (row / rows_per_image, Vec::new())).collect();
        let logits = (0..n_images).map(|image| random(&[PIECES, PIECES, PIECES], image as i64 + 3) * 1.5).collect();
        Table { logits, rows, rows_per_image }
    }

    fn logits(&self, image: usize, ids: &[i64]) -> Tensor {
        let last = ids[ids.len() - 1];
        let before = if ids.len() > 1 { ids[ids.len() - 2] } else { BEGIN };
        self.logits[image].get(before).get(last)
    }
}

impl NextToken for Table {
    fn next(&mut self, tokens_r: &Tensor) -> Tensor {
        assert_eq!(tokens_r.size()[0] as usize, self.rows.len());
        for (row, token) in self.rows.iter_mut().zip(sample::to_ids(tokens_r)) {
            row.1.push(token);
        }
        Tensor::stack(&self.rows.iter().map(|(image, ids)| self.logits(*image, ids)).collect::<Vec<_>>(), 0)
    }

    fn reorder(&mut self, rows: &[i64]) {
        let moved: Vec<_> = rows.iter().map(|&row| self.rows[row as usize].clone()).collect();
        for (new, old) in moved.iter().zip(&self.rows) {
            assert_eq!(new.0, old.0, "rows stay with their images");
        }
        self.rows = moved;
    }

    fn keep_images(&mut self, images: &[i64]) {
        let width = self.rows_per_image;
        self.rows = images
            .iter()
            .flat_map(|&image| self.rows[image as usize * width..(image as usize + 1) * width].to_vec())
            .collect();
    }
}

/// The best text by trying all.
fn exhaustive(table: &Table, image: usize, prompt: &[i64], min: usize, max: usize, penalty: f64) -> (f64, Vec<i64>) {
    let mut best = (f64::NEG_INFINITY, Vec::new());
    let mut open = vec![(0.0, Vec::new())];
    while let Some((sum, ids)) = open.pop() {
        let all: Vec<i64> = prompt.iter().chain(&ids).copied().collect();
        let log: Vec<f64> = sample::to_numbers(&table.logits(image, &all).log_softmax(0, Kind::Double));
        let mut offer = |sum: f64, n: usize, ids: &Vec<i64>| {
            let score = sum / (n as f64).powf(penalty);
            if score > best.0 {
                best = (score, ids.clone());
            }
        };
        if ids.len() >= min {
            offer(sum + log[END as usize], ids.len() + 1, &ids);
        }
        for token in 3..PIECES {
            let longer: Vec<i64> = ids.iter().copied().chain([token]).collect();
            let sum = sum + log[token as usize];
            if longer.len() == max {
                offer(sum, max, &longer);
            } else {
                open.push((sum, longer));
            }
        }
    }
    best
}

#[test]
fn a_wide_beam_finds_the_best_text_of_all() {
    let prompts = [vec![BEGIN], vec![BEGIN, 4], vec![BEGIN, 3, 5]];
    for (min, max) in [(0, 4), (2, 3), (1, 1)] {
        for length_penalty in [0.0, 0.7, 1.0, 2.0] {
            let width = 130;
            let strategy = Strategy::Beam { width, length_penalty };
            let config = GenerationConfig { strategy, min_tokens: min, max_tokens: max };
            let found = generate(&mut Table::new(3, width), &prompts, &[0; 3], &config, &ends());
            for (image, text) in found.iter().enumerate() {
                let (score, ids) = exhaustive(&Table::new(3, 1), image, &prompts[image], min, max, length_penalty);
                assert_eq!(text.ids, ids, "image {image}, {min}..={max}, penalty {length_penalty}");
                let n = text.ids.len() + usize::from(text.ended);
                assert_close(text.log_probability / (n as f64).powf(length_penalty), score, 1e-10);
            }
        }
    }
}

#[test]
fn a_beam_of_one_is_greedy_where_nothing_ends_early() {
    let prompts = vec![vec![BEGIN]; 4];
    for (min, max) in [(4, 4), (3, 6)] {
        let run = |strategy: Strategy| {
            let config = GenerationConfig { strategy, min_tokens: min, max_tokens: max };
            generate(&mut Table::new(4, 1), &prompts, &[0; 4], &config, &ends())
        };
        let (beam, greedy) = (run(Strategy::Beam { width: 1, length_penalty: 0.0 }), run(Strategy::Greedy));
        for (beam, greedy) in beam.iter().zip(&greedy).filter(|_| min == max) {
            assert_eq!(beam.ids, greedy.ids);
        }
        for text in beam.iter().chain(&greedy) {
            assert!((min..=max).contains(&text.ids.len()));
            assert!(text.ids.iter().all(|id| (3..PIECES).contains(id)), "{:?}", text.ids);
            assert!(text.ended || text.ids.len() == max);
        }
    }
}

#[test]
fn a_wider_beam_scores_no_worse_here() {
    let prompts = vec![vec![BEGIN]; 8];
    let score = |width: usize| {
        let strategy = Strategy::Beam { width, length_penalty: 0.0 };
        let config = GenerationConfig { strategy, min_tokens: 2, max_tokens: 6 };
        let texts = generate(&mut Table::new(8, width), &prompts, &[0; 8], &config, &ends());
        texts.iter().map(|text| text.log_probability).sum::<f64>()
    };
    assert!(score(3) > score(1) && score(30) >= score(3));
}

#[test]
fn draws_follow_the_probabilities() {
    let n = 4000;
    let draw = |temperature: f64, top_k: Option<usize>, top_p: Option<f64>| {
        let strategy = Strategy::Sample { temperature, top_k, top_p };
        let config = GenerationConfig { strategy, min_tokens: 0, max_tokens: 1 };
        let mut counts: BTreeMap<Option<i64>, usize> = BTreeMap::new();
        let seeds: Vec<u64> = (0..n as u64).collect();
        let mut table = Table::new(1, 1);
        table.rows = vec![(0, Vec::new()); n];
        for text in generate(&mut table, &vec![vec![BEGIN]; n], &seeds, &config, &ends()) {
            *counts.entry(text.ids.first().copied()).or_default() += 1;
        }
        counts
    };
    let logits = sample::to_numbers(&Table::new(1, 1).logits(0, &[BEGIN]));
    let weights = |temperature: f64| -> BTreeMap<Option<i64>, f64> {
        let weight = |id: i64| (logits[id as usize] / temperature).exp();
        let all: Vec<(Option<i64>, f64)> =
            [(None, weight(END)), (Some(3), weight(3)), (Some(4), weight(4)), (Some(5), weight(5))].to_vec();
        let sum: f64 = all.iter().map(|(_, weight)| weight).sum();
        all.into_iter().map(|(id, weight)| (id, weight / sum)).collect()
    };
    for temperature in [1.0, 0.5] {
        let counts = draw(temperature, None, None);
        for (id, expected) in weights(temperature) {
            let share = counts.get(&id).copied().unwrap_or(0) as f64 / n as f64;
            assert!((share - expected).abs() < 0.03, "{id:?}: {share} instead of {expected}");
        }
    }
    let mut ranked: Vec<(Option<i64>, f64)> = weights(1.0).into_iter().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let first_two: Vec<Option<i64>> = ranked[..2].iter().map(|(id, _)| *id).collect();
    assert!(draw(1.0, Some(2), None).keys().all(|id| first_two.contains(id)));
    // As little as the most probable token holds: that one alone.
    assert_eq!(draw(1.0, None, Some(ranked[0].1 * 0.9)).len(), 1);
    assert_eq!(draw(1.0, None, Some((ranked[0].1 + ranked[1].1) * 0.99)).len(), 2);
}

#[test]
fn texts_do_not_depend_on_their_company() {
    let strategies = [
        Strategy::Greedy,
        Strategy::Beam { width: 3, length_penalty: 1.0 },
        Strategy::Sample { temperature: 1.3, top_k: Some(4), top_p: Some(0.95) },
    ];
    for strategy in strategies {
        let config = GenerationConfig { strategy, min_tokens: 1, max_tokens: 6 };
        let width = config.rows_per_image();
        let prompts: Vec<Vec<i64>> = (0..5).map(|i| [vec![BEGIN], vec![3 + i % 3; i as usize % 3]].concat()).collect();
        let seeds = [7, 8, 9, 10, 11];
        let all = generate(&mut Table::new(5, width), &prompts, &seeds, &config, &ends());
        for image in 0..5 {
            let mut table = Table::new(5, width);
            table.keep_images(&[image as i64]);
            let alone = generate(&mut table, &prompts[image..=image], &seeds[image..=image], &config, &ends());
            assert_eq!(alone[0].ids, all[image].ids);
        }
    }
}

fn captioner(pooler: Pooler) -> Coca {
    let config = CocaConfig {
        image: VitConfig { size: ModelSize::Pico, patch_size: 8, image_size: 16, pool: ImagePool::Average },
        text: TextConfig { size: ModelSize::Pico, context_length: 12, vocab_size: 9 },
        embed_dim: 16,
        adapter_bias: false,
        special_tokens: SpecialTokens::Exclude,
        logit_scale_init: 10.0,
        logit_scale_max: 100.0,
        captioner: CaptionerConfig {
            pooler,
            text_decoder_layers: 2,
            mlps: Mlps::Two,
            tie_vocabulary: false,
            class_token_in_memory: false,
            image_decoder: None,
        },
        head: None,
    };
    Coca::new(config, 5, Kind::Double, Device::Cpu)
}

#[test]
fn cached_and_uncached_texts_are_the_same() {
    for pooler in [Pooler::None, Pooler::Cascade { queries: 3 }] {
        let network = captioner(pooler);
        let images = random(&[4, 3, 16, 16], 1);
        let memory = tch::no_grad(|| network.memory(&network.image_tokens(&images, None), None));
        // The first row's prompt is longer, so that rows end at different places.
        let prompts = [vec![BEGIN, 5, 3], vec![BEGIN], vec![BEGIN, 4], vec![BEGIN]];
        for strategy in [
            Strategy::Greedy,
            Strategy::Beam { width: 1, length_penalty: 1.0 },
            Strategy::Beam { width: 4, length_penalty: 0.6 },
            Strategy::Sample { temperature: 1.5, top_k: None, top_p: Some(0.9) },
        ] {
            let config = GenerationConfig { strategy, min_tokens: 2, max_tokens: 9 };
            config.validate(12, 3).unwrap();
            let width = config.rows_per_image();
            let run = |decoder: &mut dyn NextToken| generate(decoder, &prompts, &[1, 2, 3, 4], &config, &ends());
            let cached = run(&mut CachedDecoder::new(&network, &memory, width));
            let full = run(&mut FullDecoder::new(&network, &memory, width));
            for (cached, full) in cached.iter().zip(&full) {
                assert_eq!((&cached.ids, cached.ended), (&full.ids, full.ended), "{strategy:?}");
                assert_close(cached.log_probability, full.log_probability, 1e-9);
            }
            // Alone, an image gets the text that it gets beside others.
            let alone = tch::no_grad(|| memory.narrow(0, 2, 1));
            let mut decoder = CachedDecoder::new(&network, &alone, width);
            assert_eq!(generate(&mut decoder, &prompts[2..3], &[3], &config, &ends())[0].ids, cached[2].ids);
        }
    }
}

#[test]
fn the_log_probability_is_the_captioners() {
    let network = captioner(Pooler::None);
    let memory = tch::no_grad(|| network.memory(&network.image_tokens(&random(&[1, 3, 16, 16], 1), None), None));
    let config = GenerationConfig { strategy: Strategy::Greedy, min_tokens: 3, max_tokens: 3 };
    let text = &generate(&mut CachedDecoder::new(&network, &memory, 1), &[vec![BEGIN]], &[0], &config, &ends())[0];
    let ids: Vec<i64> = [vec![BEGIN], text.ids.clone()].concat();
    let tokens = network.text_tower.forward_tokens(&Tensor::from_slice(&ids).unsqueeze(0));
    let log = network.caption_states(&tokens, &memory).matmul(&network.vocabulary().tr()).log_softmax(2, Kind::Double);
    let sum: f64 = text.ids.iter().enumerate().map(|(t, &id)| log.double_value(&[0, t as i64, id])).sum();
    assert_close(text.log_probability, sum, 1e-10);
    assert!(!text.ended && text.ids.len() == 3);
}

#[test]
fn steps_of_the_text_tower_are_its_columns() {
    let builder = ParameterBuilder::new(2, Kind::Double, Device::Cpu);
    let config = TextConfig { size: ModelSize::Pico, context_length: 6, vocab_size: 9 };
    let tower = CausalText::new(&builder, config);
    let ids = Tensor::from_slice(&[0i64, 5, 3, 8, 1, 2]).view([1, 6]);
    tch::no_grad(|| {
        let whole = tower.forward_tokens(&ids);
        let mut past: Vec<_> = (0..2).map(|_| None).collect();
        for t in 0..6 {
            let step = tower.forward_step(&ids.select(1, t), t, &mut past);
            let difference: f64 = (step - whole.narrow(1, t, 1)).abs().max().double_value(&[]);
            assert!(difference < 1e-12);
        }
    });
}

#[test]
fn wrong_values_are_named() {
    let config = |strategy| GenerationConfig { strategy, min_tokens: 1, max_tokens: 5 };
    let sample = |temperature, top_k, top_p| config(Strategy::Sample { temperature, top_k, top_p });
    for (config, prompt, expected) in [
        (config(Strategy::Greedy), 6, "max_tokens is 5, but a prompt of 6 tokens"),
        (GenerationConfig { min_tokens: 6, ..config(Strategy::Greedy) }, 1, "min_tokens"),
        (config(Strategy::Beam { width: 0, length_penalty: 1.0 }), 1, "width"),
        (config(Strategy::Beam { width: 2, length_penalty: -1.0 }), 1, "length_penalty"),
        (sample(0.0, None, None), 1, "temperature"),
        (sample(1.0, Some(0), None), 1, "top_k"),
        (sample(1.0, None, Some(1.5)), 1, "top_p"),
    ] {
        let error = config.validate(10, prompt).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
