//! The loader, from shards to batches of 224×224 pixels on two threads, and decoding alone on as many.
//!
//! `cargo bench -p sparc-benches --bench loader` measures on pictures that it draws itself. With
//! `-- --rates DIR` after it, every case runs once on the shards of a folder, in a process of its own, and
//! prints images a second and peak memory as a JSON line: `benches/peers/loader.py` does so with
//! photographs, beside open_clip's loader.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use sparc_benches::cpu_seconds;
use sparc_data::decode::decode_rgb;
use sparc_data::shard_tools::{CaptionColumns, Output, make_shards};
use sparc_data::shard_writer::ShardLimits;
use sparc_data::shards::{ShardSamples, TRAINING_MEMBERS, expand_shards};
use sparc_data::source::{Patience, Source};
use sparc_data::transform::{Augmentation, ResizeMode};
use sparc_data::{
    CaptionChoice, DataSet, LastBatch, Loader, LoaderConfig, LoaderState, Preparation, Share, TextTokenizer,
    TokenizerModel, TokenizerTraining, read_all_captions, train_tokenizer,
};

const WORKERS: usize = 2;
const BATCH: usize = 64;
/// Of CLIP.
const CONTEXT_LENGTH: usize = 77;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Case {
    /// JPEGs to pixels, as libjpeg-turbo does it, and nothing else: the physical limit.
    Decoding,
    Loader {
        dct_scaling: bool,
    },
}

const CASES: [Case; 3] = [Case::Decoding, Case::Loader { dct_scaling: false }, Case::Loader { dct_scaling: true }];

impl Case {
    fn name(self) -> &'static str {
        match self {
            Case::Decoding => "decoding alone",
            Case::Loader { dct_scaling: false } => "sparc",
            Case::Loader { dct_scaling: true } => "sparc, DCT scaling",
        }
    }
}

/// open_clip's training transform and shuffle buffer.
fn config(shards: Vec<PathBuf>, dct_scaling: bool) -> LoaderConfig {
    LoaderConfig {
        data: vec![DataSet::new(shards.into_iter().map(Source::from).collect())],
        patience: Patience::default(),
        batch_size: BATCH,
        share: Share::WHOLE,
        last_batch: LastBatch::Drop,
        shuffle_buffer: 5_000,
        shuffle_bytes: Some(256 << 20),
        workers: WORKERS,
        prefetch: 2,
        seed: 0,
        max_skipped_share: 0.0,
        preparation: Preparation {
            image_size: 224,
            resize: ResizeMode::CenterCrop,
            augmentation: Augmentation { min_crop_area: 0.9, horizontal_flip: false, random_augment: None },
            dct_scaling,
            captions: CaptionChoice::First,
            regions: None,
            targets: None,
            seed: 0,
        },
    }
}

fn tokenizer(shards: &[PathBuf]) -> TextTokenizer {
    let (captions, _) = read_all_captions(shards).expect("captions");
    let training =
        TokenizerTraining { model: TokenizerModel::Bpe, vocab_size: 8_192, lowercase: true, mask_token: false };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, train_tokenizer(&captions, training).expect("a tokenizer")).expect("writing it");
    TextTokenizer::from_file(&path, CONTEXT_LENGTH).expect("reading it")
}

/// The encoded images of shards.
fn encoded(shards: &[PathBuf]) -> Vec<Vec<u8>> {
    let samples = shards.iter().flat_map(|path| ShardSamples::open(path).expect("a shard").keeping(&TRAINING_MEMBERS));
    samples.map(|sample| sample.expect("a sample").members.remove("jpg").expect("a JPEG")).collect()
}

/// Seconds for `n_images` decoded on the threads that the loader has.
fn decode_for(images: &[Vec<u8>], n_images: usize) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || {
                for index in (worker..n_images).step_by(WORKERS) {
                    std::hint::black_box(decode_rgb(&images[index % images.len()]).expect("a sound JPEG"));
                }
            });
        }
    });
    started.elapsed()
}

/// A loader whose batches made in advance have been used up.
fn warm_loader(shards: &[PathBuf], tokenizer: &TextTokenizer, dct_scaling: bool) -> Loader {
    let config = config(shards.to_vec(), dct_scaling);
    let prefetch = config.prefetch;
    let mut loader = Loader::start(config, tokenizer.clone(), LoaderState::default());
    take(&mut loader, prefetch + 2);
    loader
}

fn take(loader: &mut Loader, n_batches: usize) {
    for _ in 0..n_batches {
        std::hint::black_box(loader.next().expect("an endless loader").expect("a batch"));
    }
}

/// Pictures with the detail of photographs, about: shades, edges and grain.
fn drawn(width: u32, height: u32, seed: u32) -> Vec<u8> {
    let noise = |x: u32, y: u32, c: u32| {
        let mut h = x.wrapping_mul(0x9E37_79B1) ^ y.wrapping_mul(0x85EB_CA77) ^ (c + seed).wrapping_mul(0xC2B2_AE3D);
        h = (h ^ (h >> 15)).wrapping_mul(0x2C1B_3C6D);
        ((h >> 20) & 15) as i32 - 8
    };
    let image = RgbImage::from_fn(width, height, |x, y| {
        let edge = if ((x + seed) / 47 + y / 31).is_multiple_of(3) { 60 } else { 0 };
        Rgb([0u32, 1, 2].map(|c| {
            let shade = (x * (2 + c) / 9 + y * (3 - c) / 7) % 160;
            (shade as i32 + edge + noise(x, y, c)).clamp(0, 255) as u8
        }))
    });
    let mut bytes = Cursor::new(Vec::new());
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 90)).expect("encoding");
    bytes.into_inner()
}

fn drawn_shards(folder: &Path, width: u32, height: u32, count: u32) -> Vec<PathBuf> {
    let mut table = String::from("filepath,title\n");
    for index in 0..count {
        std::fs::write(folder.join(format!("{index}.jpg")), drawn(width, height, index)).expect("writing");
        table.push_str(&format!("{index}.jpg,a picture with stripes number {index} of many\n"));
    }
    let path = folder.join("captions.csv");
    std::fs::write(&path, table).expect("writing");
    let output = Output {
        folder: folder.join("shards"),
        split: "train".into(),
        limits: ShardLimits::samples(count.div_ceil(4) as usize),
    };
    make_shards(folder, &path, &CaptionColumns::default(), &output, &mut |_| {}).expect("shards").shards
}

fn bench(criterion: &mut Criterion) {
    for (width, height, count) in [(500, 375, 512), (2_000, 1_500, 96)] {
        let folder = tempfile::tempdir().expect("a folder");
        let shards = drawn_shards(folder.path(), width, height, count);
        let (images, tokenizer) = (encoded(&shards), tokenizer(&shards));
        let mut group = criterion.benchmark_group("loader");
        group.throughput(Throughput::Elements(BATCH as u64)).sample_size(10);
        for case in CASES {
            let id = BenchmarkId::new(case.name(), format!("{width}x{height}"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|batches| match case {
                    Case::Decoding => decode_for(&images, BATCH * batches as usize),
                    Case::Loader { dct_scaling } => {
                        let mut loader = warm_loader(&shards, &tokenizer, dct_scaling);
                        let started = Instant::now();
                        take(&mut loader, batches as usize);
                        started.elapsed()
                    }
                });
            });
        }
        group.finish();
    }
}

/// Images a second, the median of three times a few seconds, processor time, and by how much memory grew.
fn rate(case: Case, folder: &Path) {
    const SECONDS: f64 = 5.0;
    let shards = expand_shards(&folder.join("*.tar").to_string_lossy()).expect("shards");
    let tokenizer = tokenizer(&shards);
    let mut rates = Vec::new();
    let (mut all_images, mut all_cpu) = (0, 0.0);
    let peak_mib = sparc_benches::peak_mib(|| match case {
        Case::Decoding => {
            let images = encoded(&shards);
            for _ in 0..3 {
                // As many as take about the time.
                let pilot = decode_for(&images, 4 * WORKERS).as_secs_f64() / (4 * WORKERS) as f64;
                let n_images = (SECONDS / pilot).ceil() as usize;
                let cpu = cpu_seconds();
                rates.push(n_images as f64 / decode_for(&images, n_images).as_secs_f64());
                (all_images, all_cpu) = (all_images + n_images, all_cpu + cpu_seconds() - cpu);
            }
        }
        Case::Loader { dct_scaling } => {
            let mut loader = warm_loader(&shards, &tokenizer, dct_scaling);
            for _ in 0..3 {
                let (mut n_images, started, cpu) = (0, Instant::now(), cpu_seconds());
                while started.elapsed().as_secs_f64() < SECONDS {
                    take(&mut loader, 1);
                    n_images += BATCH;
                }
                rates.push(n_images as f64 / started.elapsed().as_secs_f64());
                (all_images, all_cpu) = (all_images + n_images, all_cpu + cpu_seconds() - cpu);
            }
        }
    });
    rates.sort_by(f64::total_cmp);
    println!(
        r#"{{"name": "{}", "images_per_s": {:.2}, "cpu_ms": {:.3}, "peak_mib": {peak_mib:.1}, "spread": [{:.2}, {:.2}]}}"#,
        case.name(),
        rates[1],
        1e3 * all_cpu / all_images as f64,
        rates[0],
        rates[2]
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip_while(|argument| !argument.starts_with("--rate")).collect();
    match &arguments[..] {
        [flag, folder, ..] if flag == "--rates" => {
            let this = std::env::current_exe().expect("the path of this program");
            for case in CASES {
                let status = Command::new(&this).args(["--rate-of", folder, case.name()]).status().expect("starting");
                assert!(status.success(), "{}: {status}", case.name());
            }
        }
        [flag, folder, name, ..] if flag == "--rate-of" => {
            let case = CASES.into_iter().find(|case| case.name() == name).expect("a case");
            rate(case, Path::new(folder));
        }
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            bench(&mut criterion);
            criterion.final_summary();
        }
    }
}
