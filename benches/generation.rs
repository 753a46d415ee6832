//! Captions with a cache of keys and values, and without.
//!
//! `cargo bench -p sparc-benches --bench generation`. A captioner of size S (12 + 12 blocks of width 384, 196 patches,
//! 8,192 pieces), with the values it starts with, writes 30 tokens for each of 16 images.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use sparc_core::TextEnds;
use sparc_models::ModelSize;
use sparc_models::generation::{CachedDecoder, FullDecoder, GenerationConfig, NextToken, Strategy, generate};
use sparc_models::heads::Pooler;
use sparc_models::layers::Mlps;
use sparc_models::networks::{CaptionerConfig, Coca, CocaConfig, SpecialTokens};
use sparc_models::text::TextConfig;
use sparc_models::vit::{ImagePool, VitConfig};
use tch::{Device, Kind, Tensor};

const IMAGES: i64 = 16;
const TOKENS: usize = 30;

fn network() -> Coca {
    let config = CocaConfig {
        image: VitConfig { size: ModelSize::S, patch_size: 16, image_size: 224, pool: ImagePool::Cls },
        text: TextConfig { size: ModelSize::S, context_length: 76, vocab_size: 8192 },
        embed_dim: 512,
        adapter_bias: false,
        special_tokens: SpecialTokens::Exclude,
        logit_scale_init: 10.0,
        logit_scale_max: 100.0,
        captioner: CaptionerConfig {
            pooler: Pooler::None,
            text_decoder_layers: 12,
            mlps: Mlps::Two,
            tie_vocabulary: false,
            class_token_in_memory: false,
            image_decoder: None,
        },
        head: None,
    };
    Coca::new(config, 0, Kind::Float, Device::Cpu)
}

fn main() {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    let network = network();
    let memory_bmw = Tensor::randn([IMAGES, 196, 384], (Kind::Float, Device::Cpu));
    let ends = TextEnds { begin: 0, end: 1, never: vec![0, 2] };
    let prompts = vec![vec![ends.begin]; IMAGES as usize];
    let seeds = [0; IMAGES as usize];
    let mut group = criterion.benchmark_group("captions");
    group.throughput(Throughput::Elements(IMAGES as u64));
    for (name, strategy) in [("greedy", Strategy::Greedy), ("beam 3", Strategy::Beam { width: 3, length_penalty: 1.0 })]
    {
        let config = GenerationConfig { strategy, min_tokens: TOKENS, max_tokens: TOKENS };
        let run = |decoder: &mut dyn NextToken| black_box(generate(decoder, &prompts, &seeds, &config, &ends));
        let rows = config.rows_per_image();
        group.bench_function(format!("{name}, cached"), |bencher| {
            bencher.iter(|| run(&mut CachedDecoder::new(&network, &memory_bmw, rows)));
        });
        group.bench_function(format!("{name}, uncached"), |bencher| {
            bencher.iter(|| run(&mut FullDecoder::new(&network, &memory_bmw, rows)));
        });
    }
    group.finish();
    criterion.final_summary();
}
