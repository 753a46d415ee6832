//! Forward and forward + backward of every objective, over batch sizes.
//!
//! `cargo bench -p sparc-benches --bench objectives` measures times. With `-- --peak` after it, every case
//! runs once, forward and backward, in a process of its own and prints by how much that raises the peak
//! memory, as a JSON line. The peers in PyTorch: `benches/peers/objectives.py`.
//!
//! Sizes in the names: b pairs, l tokens, p patches, d width.

use std::hint::black_box;
use std::process::Command;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use sparc_core::Gathered;
use sparc_core::objectives::clip::{ClipInputs, clip_loss};
use sparc_core::objectives::sparc::{Kernel, SparcConfig, SparcInputs, sparc_loss_by};
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
            tch::set_num_threads(2);
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

fn clip(criterion: &mut Criterion) {
    for b in [64, 256, 1024] {
        measure(criterion, "clip", &format!("b{b}_d512"), b, &|| {
            let (image, text, scale) = (leaf(&[b, 512]), leaf(&[b, 512]), Tensor::from(14.0f32));
            Box::new(move || {
                let (image, text) = (Gathered::single(&image), Gathered::single(&text));
                clip_loss(&ClipInputs { image, text, row_offset: 0, logit_scale: &scale }).total
            })
        });
    }
}

/// The local loss alone: every token valid, and captions of 10 to 25 tokens; fused, and composed of tch operations.
fn sparc(criterion: &mut Criterion) {
    let (l, p, d) = (55, 196, 512);
    for (name, mixed, kernel) in [
        ("sparc_local", false, Kernel::Fused),
        ("sparc_local_mixed", true, Kernel::Fused),
        ("sparc_local_composed", false, Kernel::Composed),
        ("sparc_local_mixed_composed", true, Kernel::Composed),
    ] {
        for b in [16, 32, 64] {
            measure(criterion, name, &format!("b{b}_l{l}_p{p}_d{d}"), b, &|| {
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

criterion_group!(benches, clip, sparc);

fn main() {
    match Mode::get() {
        Mode::Times => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
        // A `Criterion` of its own: that of `benches` would read the command line.
        Mode::Peaks | Mode::PeakOf(_) => {
            [clip, sparc].map(|objective| objective(&mut Criterion::default())).into_iter().collect()
        }
    }
}
