//! The fuzz targets of `fuzz/` without a nightly compiler: seeds are mutated at random, and what gives a new
//! outcome is mutated further.
//!
//! ```sh
//! cargo run --release -p sparc-data --example fuzz -- TARGET [MINUTES [SEED]]
//! ```
//!
//! TARGET is `sample_grouping`, `record_json` or `image_header`. An input that fails is written to
//! `fuzz/artifacts/` beside the working folder, and its path is printed. The same seed tries the same inputs
//! for as long as the program runs; cargo-fuzz, which measures coverage, finds more.

#[path = "../../../fuzz/targets.rs"]
mod targets;

use std::collections::HashSet;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat, RgbImage};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Inputs are not grown beyond this.
const LONGEST: usize = 1 << 16;
/// Inputs that are kept for further mutation.
const KEPT: usize = 4_096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let target: fn(&[u8]) -> u64 = match arguments.first().map(String::as_str) {
        Some("sample_grouping") => targets::sample_grouping,
        Some("record_json") => targets::record_json,
        Some("image_header") => targets::image_header,
        _ => {
            eprintln!("usage: fuzz sample_grouping|record_json|image_header [MINUTES [SEED]]");
            return ExitCode::FAILURE;
        }
    };
    let number = |index: usize, default: f64| arguments.get(index).map_or(Some(default), |text| text.parse().ok());
    let (Some(minutes), Some(seed)) = (number(1, 10.0), number(2, 0.0)) else {
        eprintln!("MINUTES and SEED are numbers");
        return ExitCode::FAILURE;
    };
    let name = &arguments[0];
    let mut generator = ChaCha8Rng::seed_from_u64(seed as u64);
    let mut inputs = seeds(name);
    let n_seeds = inputs.len();
    let mut outcomes: HashSet<u64> = HashSet::new();
    let (mut tried, started, mut said) = (0u64, Instant::now(), Instant::now());
    let time = Duration::from_secs_f64(60.0 * minutes);
    while started.elapsed() < time {
        // Every seed as it is, then mutants.
        let input = match usize::try_from(tried) {
            Ok(index) if index < n_seeds => inputs[index].clone(),
            _ => mutant(&inputs, &mut generator),
        };
        tried += 1;
        match catch_unwind(AssertUnwindSafe(|| target(&input))) {
            Ok(outcome) => {
                if outcomes.insert(outcome) && inputs.len() < KEPT {
                    inputs.push(input);
                }
            }
            Err(_) => {
                let path = format!("fuzz/artifacts/{name}-{seed}-{tried}");
                let written = std::fs::create_dir_all("fuzz/artifacts").and_then(|()| std::fs::write(&path, &input));
                eprintln!(
                    "input {tried} fails: {path} {}",
                    written.map_or_else(|error| error.to_string(), |()| String::new())
                );
                return ExitCode::FAILURE;
            }
        }
        if said.elapsed() > Duration::from_secs(60) {
            said = Instant::now();
            eprintln!("{name}: {tried} inputs, {} outcomes, {:?}", outcomes.len(), started.elapsed());
        }
    }
    println!(
        "{name}: {tried} inputs in {:.1} minutes, {} outcomes, no failure",
        started.elapsed().as_secs_f64() / 60.0,
        outcomes.len()
    );
    ExitCode::SUCCESS
}

/// One to four changes of an input.
fn mutant(inputs: &[Vec<u8>], generator: &mut ChaCha8Rng) -> Vec<u8> {
    let mut input = inputs.choose(generator).cloned().unwrap_or_default();
    for _ in 0..generator.random_range(1..5) {
        if input.is_empty() {
            input.push(generator.random());
        }
        mutate(&mut input, inputs, generator);
        input.truncate(LONGEST);
    }
    input
}

fn mutate(input: &mut Vec<u8>, inputs: &[Vec<u8>], generator: &mut ChaCha8Rng) {
    let place = generator.random_range(0..input.len());
    let end = (place + (1 << generator.random_range(0..10))).min(input.len());
    match generator.random_range(0..9) {
        0 => input[place] ^= 1 << generator.random_range(0..8),
        1 => input[place] = generator.random(),
        // Values at the edges of what numbers can hold, and digits of tar's octal fields.
        2 => {
            input[place] =
                *[0, 1, 0x7f, 0x80, 0xff, b'0', b'7', b'"', b'\\', 0xd8, 0xda].choose(generator).unwrap_or(&0)
        }
        3 => generator.fill(&mut input[place..end]),
        4 => {
            input.drain(place..end);
        }
        5 => {
            let copy = input[place..end].to_vec();
            let at = generator.random_range(0..=input.len());
            input.splice(at..at, copy);
        }
        6 => {
            let value = *[0, 1, 255, 256, 0x7fff, 0xffff, 0x1_0000, u32::MAX].choose(generator).unwrap_or(&0);
            let bytes = if generator.random() { value.to_be_bytes() } else { value.to_le_bytes() };
            input[place..].iter_mut().zip(bytes).for_each(|(old, new)| *old = new);
        }
        7 => {
            let other = inputs.choose(generator).map_or(&[][..], |other| other);
            let from = generator.random_range(0..=other.len());
            let until = generator.random_range(from..=other.len());
            input.splice(place..end, other[from..until].iter().copied());
        }
        _ => input.truncate(place),
    }
    // A tar's headers are read no further if their checksums are wrong: half of the time they are put right.
    if generator.random() {
        sign_headers(input);
    }
}

/// Right checksums in all blocks that say they are tar headers.
fn sign_headers(input: &mut [u8]) {
    for header in input.chunks_exact_mut(512).filter(|block| block[257..].starts_with(b"ustar")) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "sample_grouping" => shards(),
        "record_json" => [
            r#"{"captions": ["a dog", "zwei \"Hunde\" \u00e9"], "regions": [{"box": [0.1, 0.2, 0.5, 0.9], "text": "dog", "score": 0.5}], "x": [1, {"y": null}]}"#,
            r#"{"captions": ["NaN"], "regions": [{"box": [NaN, -Infinity, 1e999, null], "text": ""}]}"#,
            r#"{"regions": null}"#,
            r#"{"regions": []}"#,
            "[]",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        _ => images(),
    }
}

fn images() -> Vec<Vec<u8>> {
    let colours = RgbImage::from_fn(24, 18, |x, y| image::Rgb([x as u8 * 9, y as u8 * 11, (x * y) as u8]));
    let colours = DynamicImage::from(colours);
    let deep = DynamicImage::from(colours.to_rgba16());
    let mut seeds: Vec<Vec<u8>> = [
        (&colours, ImageFormat::Jpeg),
        (&colours, ImageFormat::Png),
        (&colours, ImageFormat::WebP),
        (&DynamicImage::from(colours.to_luma8()), ImageFormat::Png),
        (&deep, ImageFormat::Png),
    ]
    .into_iter()
    .map(|(image, format)| {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("every format takes this image");
        bytes.into_inner()
    })
    .collect();
    seeds.extend(
        [
            &include_bytes!("../src/golden/progressive.jpg")[..],
            include_bytes!("../src/golden/cmyk.jpg"),
            include_bytes!("../src/golden/exif6.jpg"),
            include_bytes!("../src/golden/restart.jpg"),
            include_bytes!("../src/golden/grey.jpg"),
        ]
        .map(<[u8]>::to_vec),
    );
    seeds
}

/// Tars of three samples, plain and with long names and sizes in other notations.
fn shards() -> Vec<Vec<u8>> {
    let member = |name: &str, kind: u8, size: &[u8], data: &[u8]| {
        let mut block = vec![0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + size.len()].copy_from_slice(size);
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        block.extend(data);
        block.resize(block.len().next_multiple_of(512), 0);
        block
    };
    let file = |name: &str, data: &[u8]| member(name, b'0', format!("{:011o}", data.len()).as_bytes(), data);
    let of = |kind: u8, data: &[u8]| member("x", kind, format!("{:011o}", data.len()).as_bytes(), data);
    let end = vec![0; 1_024];
    let plain = [file("a/1.jpg", b"jpg"), file("a/1.txt", b"caption"), file("b.jpg", &[7; 600]), file("b.json", b"{}")];
    let named = [
        of(b'L', b"long/name.jpg\0"),
        file("cut", b"one"),
        of(b'x', b"18 path=pax/p.txt\n12 size=5\n"),
        file("p", b"words"),
    ];
    let binary =
        [member("c.jpg", b'0', &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4], b"four"), of(b'5', b""), file("c.txt", b"t")];
    [plain.concat(), named.concat(), binary.concat()]
        .map(|members| {
            let mut tar = [members, end.clone()].concat();
            sign_headers(&mut tar);
            tar
        })
        .into()
}
