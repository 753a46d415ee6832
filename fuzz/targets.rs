//! What is fuzzed, and what must hold for any bytes: no panic, no hang, no memory beyond the input's size.
//!
//! Each function gives a number for what it saw: inputs that give a new one are worth keeping.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sparc_data::decode::{EncodedImage, MAX_PIXELS, Reduction, decode_labels};
use sparc_data::record::RecordJson;
use sparc_data::shards::{ShardSamples, TRAINING_MEMBERS};
use sparc_data::skips::SkipReason;

/// Nothing that small takes as long, however busy the machine is.
const HANGS: Duration = Duration::from_secs(20);

/// Bytes as a shard: its members are found and grouped into samples.
pub fn sample_grouping(bytes: &[u8]) -> u64 {
    let started = Instant::now();
    let path = scratch_file();
    std::fs::write(&path, bytes).expect("the temporary folder can be written to");
    let mut seen = DefaultHasher::new();
    let (mut held, mut cut_off) = (0, 0);
    for sample in ShardSamples::open(&path).expect("the file is there").keeping(&TRAINING_MEMBERS) {
        assert_eq!(cut_off, 0, "something came after the cut");
        match sample {
            Ok(sample) => {
                held += sample.bytes();
                (sample.members.len(), sample.key.is_empty()).hash(&mut seen);
            }
            Err(skip) => {
                cut_off += u64::from(skip.reason == SkipReason::ShardCutOff);
                without_digits(&skip.detail).hash(&mut seen);
            }
        }
    }
    assert!(held <= bytes.len() as u64, "{held} bytes of samples in a shard of {}", bytes.len());
    assert!(started.elapsed() < HANGS, "{:?}", started.elapsed());
    seen.finish()
}

/// Bytes as a record.
pub fn record_json(bytes: &[u8]) -> u64 {
    let started = Instant::now();
    let mut seen = DefaultHasher::new();
    match RecordJson::parse(bytes) {
        Ok(record) => {
            record.captions.len().hash(&mut seen);
            for region in record.regions.iter().flatten() {
                let fault = region.fault();
                if fault.is_none() {
                    let [x0, y0, x1, y1] = region.box_xyxy;
                    assert!(x0 < x1 && y0 < y1 && x0 >= -0.001 && y1 <= 1.001, "{region:?}");
                }
                fault.hash(&mut seen);
            }
        }
        Err(error) => without_digits(&error.to_string()).hash(&mut seen),
    }
    assert!(started.elapsed() < HANGS, "{:?}", started.elapsed());
    seen.finish()
}

/// Bytes as an image: its header, and where it is small also its pixels, in full and reduced.
pub fn image_header(bytes: &[u8]) -> u64 {
    const SMALL: u64 = 1 << 16;
    let started = Instant::now();
    let mut seen = DefaultHasher::new();
    match EncodedImage::open(bytes) {
        Err(error) => without_digits(&error.to_string()).hash(&mut seen),
        Ok(image) => {
            let (width, height) = image.size();
            let pixels = u64::from(width) * u64::from(height);
            assert!((1..=MAX_PIXELS).contains(&pixels), "{width}x{height}");
            image.can_reduce().hash(&mut seen);
            drop(image);
            if pixels <= SMALL {
                for reduction in [Reduction::None, Reduction::Eighth] {
                    let image = EncodedImage::open(bytes).expect("it has been opened before");
                    match image.decode(reduction) {
                        Ok(decoded) => {
                            let side = |length: u32| length.div_ceil(decoded.reduction);
                            assert_eq!(decoded.pixels.dimensions(), (side(width), side(height)));
                            true.hash(&mut seen);
                        }
                        Err(error) => without_digits(&error.to_string()).hash(&mut seen),
                    }
                }
                decode_labels(bytes).is_ok().hash(&mut seen);
            }
        }
    }
    assert!(started.elapsed() < HANGS, "{:?}", started.elapsed());
    seen.finish()
}

/// One for each process, in memory where the system has a place for that.
fn scratch_file() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("sparc-fuzz-{}.tar", std::process::id()))
}

/// Messages that differ in numbers alone are one.
fn without_digits(message: &str) -> String {
    message.chars().filter(|character| !character.is_ascii_digit()).collect()
}
