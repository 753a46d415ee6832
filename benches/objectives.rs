//! Forward and forward + backward of every objective, over batch sizes.
//!
//! `cargo bench -p sparc-benches --bench objectives` measures times. With `-- --peak` after it, every case
//! runs once, forward and backward, in a process of its own and prints by how much that raises the peak
//! memory, as a JSON line. The peers in PyTorch: `benches/peers/objectives.py`.
//!
//! Sizes in the names: b pairs, l tokens, p patches, d width.

use std::hint::black_box;
use std::process::Command;

use criterion::{BenchmarkId, Criterion, Throughput};
use sparc_core::Gathered;
use sparc_core::objectives::clip::{ClipInputs, clip_loss};
use sparc_core::objectives::filip::{FilipInputs, filip_loss};
use sparc_core::objectives::gloria::{GloriaConfig, GloriaInputs, Temperatures, WordAggregation, gloria_loss};
use sparc_core::objectives::mgca::{CrossAttention, MgcaConfig, MgcaInputs, attend, mgca_loss};
use sparc_core::objectives::pacl::{Embedder, PaclConfig, PaclInputs, PooledPatches, pacl_loss};
use sparc_core::objectives::siglip::{SiglipInputs, siglip_loss};
use sparc_core::objectives::sparc::{Kernel, LocalTemperature, SparcConfig, SparcInputs, sparc_loss_by};
use tch::{Device, Kind, Tensor};

const OPTIONS: (Kind, Device) = (Kind::Float, Device::Cpu);
const LOCAL_ONLY: SparcConfig = SparcConfig { lambda_global: 0.0, ..SparcConfig::PAPER };

/// A loss over tensors that it owns; it is differentiated into those that require gradients.
type Loss = Box<dyn Fn() -> Tensor>;

/// What the command line asks for.
enum Mode {
    Times,
    /// Start a process for every case.
    Peaks,
    /// Be that process for one case.
    PeakOf(String),
}

impl Mode {
    fn get() -> Self {
        let mut arguments = std::env::args().skip_while(|argument| !argument.starts_with("--peak"));
        match (arguments.next().as_deref(), arguments.next()) {
            (Some("--peak-of"), Some(case)) => Self::PeakOf(case),
            (Some(_), _) => Self::Peaks,
            (None, _) => Self::Times,
        }
    }
}

/// A leaf with a gradient to add to, as in every step of a training but the first.
fn leaf(shape: &[i64]) -> Tensor {
    let mut leaf = Tensor::randn(shape, OPTIONS).set_requires_grad(true);
    leaf.sum(Kind::Float).backward();
    leaf.zero_grad();
    leaf
}

/// Measures the loss that `build` makes, alone and with its backward pass.
fn measure(criterion: &mut Criterion, name: &str, size: &str, b: i64, build: &dyn Fn() -> Loss) {
    let case = format!("{name}/{size}");
    match Mode::get() {
        Mode::PeakOf(wanted) if wanted == case => {
            // LibTorch reads OMP_NUM_THREADS; without it, as many as the peers take.
            if std::env::var_os("OMP_NUM_THREADS").is_none() {
                tch::set_num_threads(2);
            }
            let loss = build();
            let warm_up = leaf(&[256, 256]);
            warm_up.matmul(&warm_up).log_softmax(-1, None::<Kind>).sum(Kind::Float).backward();
            let peak_mib = sparc_benches::peak_mib(|| loss().backward());
            println!(r#"{{"name": "{case}", "peak_mib": {peak_mib:.1}}}"#);
        }
        Mode::PeakOf(_) => {}
        Mode::Peaks => {
            let this = std::env::current_exe().expect("the path of this program");
            let status = Command::new(this).args(["--peak-of", &case]).status().expect("starting this program");
            assert!(status.success(), "{case}: {status}");
        }
        Mode::Times => {
            let loss = build();
            let mut group = criterion.benchmark_group(name);
            group.throughput(Throughput::Elements(b as u64)).sample_size(10);
            group.bench_function(BenchmarkId::new("forward", size), |bencher| {
                bencher.iter(|| tch::no_grad(|| black_box(loss().double_value(&[]))));
            });
            group.bench_function(BenchmarkId::new("forward+backward", size), |bencher| {
                bencher.iter(|| loss().backward());
            });
            group.finish();
        }
    }
}

/// Tokens, patches and width of the paper's ViT-B/16 at 224 pixels.
const SIZES: (i64, i64, i64) = (55, 196, 512);

fn name_of_sizes(b: i64) -> String {
    let (l, p, d) = SIZES;
    format!("b{b}_l{l}_p{p}_d{d}")
}

fn clip(criterion: &mut Criterion) {
    for b in [1024, 2048, 4096] {
        measure(criterion, "clip", &format!("b{b}_d512"), b, &|| clip_case(b));
    }
    // Once, for its memory: as a whole its logits would fill 4 GiB.
    if !matches!(Mode::get(), Mode::Times) {
        measure(criterion, "clip", "b32768_d512", 32768, &|| clip_case(32768));
    }
}

fn clip_case(b: i64) -> Loss {
    let (image, text, scale) = (leaf(&[b, 512]), leaf(&[b, 512]), leaf(&[]));
    Box::new(move || {
        let (image, text) = (Gathered::single(&image), Gathered::single(&text));
        clip_loss(&ClipInputs { image, text, row_offset: 0, logit_scale: &scale }).total
    })
}

fn siglip(criterion: &mut Criterion) {
    for b in [1024, 2048, 4096] {
        measure(criterion, "siglip", &format!("b{b}_d512"), b, &|| {
            let (image, text) = (leaf(&[b, 512]), leaf(&[b, 512]));
            let (scale, bias) = (leaf(&[]), leaf(&[]));
            Box::new(move || {
                let (image, text) = (Gathered::single(&image), Gathered::single(&text));
                let inputs = SiglipInputs { image, text, row_offset: 0, logit_scale: &scale, logit_bias: &bias };
                siglip_loss(&inputs).total
            })
        });
    }
}

fn filip(criterion: &mut Criterion) {
    let (l, p, d) = SIZES;
    for b in [32, 64, 128] {
        measure(criterion, "filip", &name_of_sizes(b), b, &|| {
            let (patches, tokens, scale) = (leaf(&[b, p, d]), leaf(&[b, l, d]), leaf(&[]));
            let mask = Tensor::ones([b, l], (Kind::Bool, Device::Cpu));
            Box::new(move || {
                let inputs = FilipInputs {
                    patches: Gathered::single(&patches),
                    tokens: Gathered::single(&tokens),
                    mask: Gathered::single(&mask),
                    row_offset: 0,
                    logit_scale: &scale,
                };
                filip_loss(&inputs).total
            })
        });
    }
}

fn pacl(criterion: &mut Criterion) {
    let (_, p, d) = SIZES;
    let config = PaclConfig {
        attention_scale: 1.0,
        pooled_patches: PooledPatches::Raw,
        temperature: LocalTemperature::Shared,
        embedder: Embedder::Linear,
    };
    for b in [64, 128, 256] {
        measure(criterion, "pacl", &name_of_sizes(b), b, &|| {
            let (patches, text, scale) = (leaf(&[b, p, d]), leaf(&[b, d]), leaf(&[]));
            let config = config.clone();
            Box::new(move || {
                let (patches, text) = (Gathered::single(&patches), Gathered::single(&text));
                pacl_loss(&PaclInputs { patches, text, row_offset: 0, logit_scale: &scale }, &config).total
            })
        });
    }
}

/// The local loss alone.
fn gloria(criterion: &mut Criterion) {
    let (l, p, d) = SIZES;
    let config = GloriaConfig {
        lambda_global: 0.0,
        lambda_local: 1.0,
        scale_by_sqrt_width: true,
        word_softmax: false,
        aggregation: WordAggregation::Sum,
        temperatures: Temperatures::Learned,
        attention_scale_init: 4.0,
        word_scale_init: 5.0,
        logit_scale_init: 10.0,
    };
    for b in [16, 32, 64] {
        measure(criterion, "gloria_local", &name_of_sizes(b), b, &|| {
            let (patches, tokens) = (leaf(&[b, p, d]), leaf(&[b, l, d]));
            let scales = [leaf(&[]), leaf(&[]), leaf(&[])];
            let mask = Tensor::ones([b, l], (Kind::Bool, Device::Cpu));
            let pooled = Tensor::zeros([b, d], OPTIONS);
            let config = config.clone();
            Box::new(move || {
                let inputs = GloriaInputs {
                    patches: Gathered::single(&patches),
                    tokens: Gathered::single(&tokens),
                    mask: Gathered::single(&mask),
                    image: Gathered::single(&pooled),
                    text: Gathered::single(&pooled),
                    row_offset: 0,
                    attention_scale: &scales[0],
                    word_scale: &scales[1],
                    logit_scale: &scales[2],
                };
                gloria_loss(&inputs, &config).total
            })
        });
    }
}

/// All three terms, with parameter-free attention.
fn mgca(criterion: &mut Criterion) {
    let (l, p, d) = SIZES;
    let config = MgcaConfig {
        lambda_instance: 1.0,
        lambda_token: 1.0,
        lambda_prototype: 1.0,
        attention: CrossAttention::ParameterFree { scale: 10.0 },
        token_temperature: LocalTemperature::Shared,
        n_prototypes: 500,
        sinkhorn_eps: 0.05,
        sinkhorn_iterations: 3,
        prototype_temperature: 0.2,
        freeze_prototypes_steps: 0,
    };
    for b in [16, 32, 64] {
        measure(criterion, "mgca", &name_of_sizes(b), b, &|| {
            let (patches, tokens) = (leaf(&[b, p, d]), leaf(&[b, l, d]));
            let (image, text, prototypes, scale) = (leaf(&[b, d]), leaf(&[b, d]), leaf(&[500, d]), leaf(&[]));
            let mask = Tensor::ones([b, l], (Kind::Bool, Device::Cpu));
            let config = config.clone();
            Box::new(move || {
                let inputs = MgcaInputs {
                    words_bld: &tokens,
                    word_contexts_bld: &attend(&tokens, &patches, None, 10.0),
                    patches_bpd: &patches,
                    patch_contexts_bpd: &attend(&patches, &tokens, Some(&mask), 10.0),
                    mask_bl: &mask,
                    image: Gathered::single(&image),
                    text: Gathered::single(&text),
                    row_offset: 0,
                    prototypes_md: &prototypes,
                    logit_scale: &scale,
                    token_logit_scale: &scale,
                    denominator: None,
                };
                mgca_loss(&inputs, &config).total
            })
        });
    }
}

/// The local loss alone: every token valid, and captions of 10 to 25 tokens; fused, and composed of tch operations.
fn sparc(criterion: &mut Criterion) {
    let (l, p, d) = SIZES;
    for (name, mixed, kernel) in [
        ("sparc_local", false, Kernel::Fused),
        ("sparc_local_mixed", true, Kernel::Fused),
        ("sparc_local_composed", false, Kernel::Composed),
        ("sparc_local_mixed_composed", true, Kernel::Composed),
    ] {
        for b in [16, 32, 64] {
            measure(criterion, name, &name_of_sizes(b), b, &|| {
                let (patches, tokens, scale) = (leaf(&[b, p, d]), leaf(&[b, l, d]), leaf(&[]));
                let lengths: Vec<i64> = (0..b).map(|i| if mixed { 10 + 7 * i % 16 } else { l }).collect();
                let mask =
                    Tensor::arange(l, (Kind::Int64, Device::Cpu)).lt_tensor(&Tensor::from_slice(&lengths).unsqueeze(1));
                let pooled = Tensor::zeros([b, d], OPTIONS);
                Box::new(move || {
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
                    sparc_loss_by(kernel, &inputs, &LOCAL_ONLY).total
                })
            });
        }
    }
}

/// Every objective, in the order of the documents.
const OBJECTIVES: [fn(&mut Criterion); 7] = [clip, siglip, filip, pacl, gloria, mgca, sparc];

fn main() {
    let mut criterion = match Mode::get() {
        Mode::Times => Criterion::default().configure_from_args(),
        // It would read the command line otherwise.
        Mode::Peaks | Mode::PeakOf(_) => Criterion::default(),
    };
    for objective in OBJECTIVES {
        objective(&mut criterion);
    }
    if matches!(Mode::get(), Mode::Times) {
        criterion.final_summary();
    }
}
