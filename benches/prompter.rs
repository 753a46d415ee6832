//! What CLOC's Prompter adds to the image tower: four boxes and four phrases an image, ViT-B/16 at 224, forward.
//!
//! `cargo bench -p sparc-benches --bench prompter`; one thread, so that shares are of work and not of waiting.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use sparc_core::objectives::cloc::{BoxEncoding, PrompterConfig, Readout, RegionHead};
use sparc_models::ModelSize;
use sparc_models::heads::HeadsConfig;
use sparc_models::networks::{DualEncoder, DualEncoderConfig, SpecialTokens};
use sparc_models::text::TextConfig;
use sparc_models::vit::{ImagePool, VitConfig};
use tch::{Device, Kind, Tensor};

/// Images encoded together, and prompts of each kind for each.
const IMAGES: i64 = 4;
const PROMPTS: i64 = 4;
const EMBED_DIM: i64 = 512;

fn network(readout: Readout) -> DualEncoder {
    let prompter = PrompterConfig { box_encoding: BoxEncoding::Sinusoidal, readout };
    let config = DualEncoderConfig {
        image: VitConfig { size: ModelSize::B, patch_size: 16, image_size: 224, pool: ImagePool::Cls },
        text: TextConfig { size: ModelSize::Pico, context_length: 16, vocab_size: 100 },
        embed_dim: EMBED_DIM,
        dense_layer: false,
        adapter_bias: false,
        special_tokens: SpecialTokens::Include,
        logit_scale_init: 14.0,
        logit_scale_max: 100.0,
        heads: HeadsConfig {
            region_head: Some(RegionHead::Prompter(prompter)),
            grounding: true,
            ..HeadsConfig::default()
        },
    };
    DualEncoder::new(config, 0, Kind::Float, Device::Cpu)
}

fn main() {
    tch::set_num_threads(1);
    let _no_gradients = tch::no_grad_guard();
    let options = (Kind::Float, Device::Cpu);
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("vit_b16");
    group.sample_size(10).measurement_time(Duration::from_secs(20));
    let images = Tensor::randn([IMAGES, 3, 224, 224], options);
    let low = Tensor::rand([IMAGES, PROMPTS, 2], options) * 0.5;
    let boxes = Tensor::cat(&[&low, &(&low + 0.3)], 2);
    let phrases = Tensor::randn([IMAGES, PROMPTS, EMBED_DIM], options);
    let valid = Tensor::ones([IMAGES, PROMPTS], (Kind::Bool, Device::Cpu));
    for (index, (name, readout)) in
        [("prompt_mean", Readout::PromptMean), ("gap_all", Readout::GapAll)].into_iter().enumerate()
    {
        let network = network(readout);
        let tower = network.encode_tower(&images);
        if index == 0 {
            group.bench_function("tower", |bencher| bencher.iter(|| black_box(network.encode_tower(&images))));
        }
        group.bench_function(BenchmarkId::new("prompter", name), |bencher| {
            bencher.iter(|| {
                let view = network.regions(&tower).expect("the network has a region head");
                black_box((view.embed(&boxes, &valid), view.predict_boxes(&phrases, &valid)))
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
