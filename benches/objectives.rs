//! Forward and forward + backward of every objective, over batch sizes.
//!
//! `cargo bench -p sparc-benches --bench objectives`. Sizes in the names: b pairs, l tokens,
//! p patches, d width.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sparc_core::Gathered;
use sparc_core::objectives::clip::{ClipInputs, clip_loss};
use sparc_core::objectives::sparc::{SparcConfig, SparcInputs, sparc_loss};
use tch::{Device, Kind, Tensor};

const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);
const LOCAL_ONLY: SparcConfig = SparcConfig { lambda_global: 0.0, ..SparcConfig::PAPER };

fn leaf(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, OPTIONS).set_requires_grad(true)
}

/// Measures `loss` alone, and with its backward pass into `leaves`.
fn measure(criterion: &mut Criterion, name: &str, size: &str, b: i64, leaves: &[&Tensor], loss: &dyn Fn() -> Tensor) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(b as u64)).sample_size(10);
    group.bench_function(BenchmarkId::new("forward", size), |bencher| {
        bencher.iter(|| tch::no_grad(|| black_box(loss().double_value(&[]))));
    });
    group.bench_function(BenchmarkId::new("forward+backward", size), |bencher| {
        bencher.iter(|| {
            loss().backward();
            leaves.iter().for_each(|leaf| leaf.shallow_clone().zero_grad());
        });
    });
    group.finish();
}

fn clip(criterion: &mut Criterion) {
    let scale = Tensor::from(14.0f32);
    for b in [64, 256, 1024] {
        let (image, text) = (leaf(&[b, 512]), leaf(&[b, 512]));
        let loss = || {
            let (image, text) = (Gathered::single(&image), Gathered::single(&text));
            clip_loss(&ClipInputs { image, text, row_offset: 0, logit_scale: &scale }).total
        };
        measure(criterion, "clip", &format!("b{b}_d512"), b, &[&image, &text], &loss);
    }
}

fn sparc(criterion: &mut Criterion) {
    let scale = Tensor::from(14.0f32);
    for (b, l, p, d) in [(16, 55, 196, 512), (32, 55, 196, 512), (64, 55, 196, 512)] {
        let (patches, tokens) = (leaf(&[b, p, d]), leaf(&[b, l, d]));
        let mask = Tensor::ones([b, l], (Kind::Bool, Device::Cpu));
        let pooled = Tensor::randn([b, d], OPTIONS);
        let loss = || {
            let inputs = SparcInputs {
                patches_bpd: &patches,
                tokens_bld: &tokens,
                mask_bl: &mask,
                image: Gathered::single(&pooled),
                text: Gathered::single(&pooled),
                row_offset: 0,
                logit_scale: &scale,
                local_logit_scale: &scale,
                denominator: None,
            };
            sparc_loss(&inputs, &LOCAL_ONLY).total
        };
        measure(criterion, "sparc_local", &format!("b{b}_l{l}_p{p}_d{d}"), b, &[&patches, &tokens], &loss);
    }
}

criterion_group!(benches, clip, sparc);
criterion_main!(benches);
