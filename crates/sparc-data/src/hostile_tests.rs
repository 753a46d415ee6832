//! Shards as the world has them: every kind of broken sample with its exact count, and a thousand damaged
//! shards, which must neither panic nor hang nor take more memory than they have bytes.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::time::{Duration, Instant};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::tests::{Data, data, tokenizer};
use super::*;
use crate::prepare::read_captions;
use crate::record::RecordJson;
use crate::shards::{RawSample, ShardSamples, TRAINING_MEMBERS};
use crate::skips::SkipReason;
use crate::transform::Augmentation;

const BLOCK: usize = 512;

fn picture(format: ImageFormat) -> Vec<u8> {
    let image = RgbImage::from_fn(24, 18, |x, y| Rgb([x as u8 * 9, y as u8 * 11, (x * y) as u8]));
    let mut bytes = Cursor::new(Vec::new());
    DynamicImage::from(image).write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A writer of our own, so that anything can be written.
fn member(name: &str, size: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; BLOCK];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..124 + size.len()].copy_from_slice(size.as_bytes());
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    sign(&mut header);
    let mut bytes = header.to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn sign(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(name, &format!("{:011o}", data.len()), data)
}

fn archive(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 2 * BLOCK]].concat()
}

fn good_members() -> Vec<Vec<u8>> {
    let json =
        br#"{"captions": ["first 1", "second 2"], "regions": [{"box": [0.1, 0.1, 0.9, 0.9], "text": "thing 3"}]}"#;
    let formats = [("jpg", ImageFormat::Jpeg), ("png", ImageFormat::Png), ("webp", ImageFormat::WebP)];
    (0..9)
        .flat_map(|index| {
            let (extension, format) = formats[index % 3];
            let text = if index % 2 == 0 {
                file(&format!("g{index}.json"), json)
            } else {
                file(&format!("g{index}.txt"), b"first 4")
            };
            [file(&format!("g{index}.{extension}"), &picture(format)), text]
        })
        .collect()
}

/// Reads one epoch of one shard with the loader: usable samples and skips. A batch larger than the shard makes
/// the epoch end with an error that has the counts, before the next epoch adds to them.
fn loaded(shard: &[u8]) -> (usize, BTreeMap<SkipReason, u64>) {
    let Data { mut config, _folder } = data(Some(vec![]));
    let path = _folder.path().join("hostile.tar");
    std::fs::write(&path, shard).unwrap();
    config.data = vec![DataSet::new(vec![path.into()])];
    config.batch_size = 10_000;
    config.max_skipped_share = 1.0;
    config.preparation.augmentation = Augmentation::NONE;
    match Loader::start(config, tokenizer(), LoaderState::default()).next() {
        Some(Err(Error::TooFewSamples { usable, skips, .. })) => (usable as usize, skips.iter().collect()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_kind_of_broken_sample_has_its_reason() {
    let jpeg = picture(ImageFormat::Jpeg);
    let png = picture(ImageFormat::Png);
    let mut bomb = jpeg.clone();
    let frame = bomb.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xF0, 0x00, 0xF0, 0x00]);
    let text = |key: &str| file(&format!("{key}.txt"), b"first 1");
    let mut members = good_members();
    members.extend([
        // An image that is cut off, empty, no image, or 61,440 pixels wide and high by its header.
        file("cut.jpg", &jpeg[..jpeg.len() - 2]),
        text("cut"),
        file("empty.jpg", b""),
        text("empty"),
        file("html.jpg", b"<html>404</html>"),
        text("html"),
        file("bomb.jpg", &bomb),
        text("bomb"),
        // Captions that are missing, blank, or in another encoding.
        file("wordless.png", &png),
        file("blank.png", &png),
        file("blank.txt", b" \n\t\n"),
        file("latin.png", &png),
        file("latin.txt", b"caf\xe9"),
        file("json.png", &png),
        file("json.json", b"{\"captions\": "),
        // No image; and a key that comes twice, apart: the second has no image.
        text("imageless"),
        text("g0"),
        // Usable, with a second member of the same name, and with what nobody reads.
        file("twice.png", &png),
        file("twice.txt", b"first 1"),
        file("twice.txt", b"second 2"),
        file("twice.npy", &[7; 3_000]),
        file("no_extension", b"x"),
        file("__index__.json", b"{}"),
    ]);
    let (usable, skips) = loaded(&archive(&members));
    let expected = BTreeMap::from([
        (SkipReason::ImageDecode, 3),
        (SkipReason::ImageSize, 1),
        (SkipReason::NoCaption, 2),
        (SkipReason::CaptionNotUtf8, 1),
        (SkipReason::BadJson, 1),
        (SkipReason::NoImage, 2),
        (SkipReason::DuplicateMember, 1),
    ]);
    assert_eq!((usable, skips), (10, expected));
}

#[test]
fn members_of_absurd_size_cost_nothing() {
    // By its header it has eight gigabytes, of which none are there: the shard ends at it, and the sample
    // before it may have lost a member.
    let broken = [good_members().concat(), member("huge.jpg", "77777777777", b"tiny"), vec![0; 2 * BLOCK]].concat();
    let (usable, skips) = loaded(&broken);
    assert_eq!((usable, skips), (8, BTreeMap::from([(SkipReason::ShardCutOff, 1)])));
    // A gigabyte of zeros that are there, in a file with a hole: left out without being read.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparse.tar");
    const HUGE: u64 = 1 << 30;
    std::fs::write(&path, member("a.jpg", &format!("{HUGE:011o}"), b"")).unwrap();
    let end = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    end.set_len(HUGE + BLOCK as u64).unwrap();
    drop(end);
    let rest = archive(&[file("a.txt", b"one"), file("b.txt", b"two")]);
    std::io::Write::write_all(&mut std::fs::OpenOptions::new().append(true).open(&path).unwrap(), &rest).unwrap();
    let started = Instant::now();
    let found: Vec<_> = ShardSamples::open(&path).unwrap().collect();
    assert_eq!(found[0].as_ref().unwrap_err().reason, SkipReason::MemberTooLarge);
    assert_eq!(found[1].as_ref().unwrap().members.keys().collect::<Vec<_>>(), ["txt"]);
    assert_eq!(found.len(), 3);
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Damages a shard in one of the ways that disks, networks and people do.
fn damage(shard: &mut Vec<u8>, generator: &mut ChaCha8Rng) {
    let blocks = shard.len() / BLOCK;
    let block = |generator: &mut ChaCha8Rng| generator.random_range(0..blocks) * BLOCK;
    match generator.random_range(0..9) {
        // Flipped bits.
        0 => (0..generator.random_range(1..40)).for_each(|_| {
            let place = generator.random_range(0..shard.len());
            shard[place] ^= 1 << generator.random_range(0..8);
        }),
        // A cut, anywhere.
        1 => shard.truncate(generator.random_range(0..shard.len())),
        // Blocks that changed places, are missing, came twice, or are noise.
        2 => (0..BLOCK)
            .zip([(block(generator), block(generator)); BLOCK])
            .for_each(|(i, (a, b))| shard.swap(a + i, b + i)),
        3 => {
            let start = block(generator);
            shard.drain(start..start + BLOCK);
        }
        4 => {
            let start = block(generator);
            let copy = shard[start..start + BLOCK].to_vec();
            let at = block(generator);
            shard.splice(at..at, copy);
        }
        5 => {
            let start = block(generator);
            generator.fill(&mut shard[start..start + BLOCK]);
        }
        // Whole members that changed places: samples are torn apart, and no header is wrong.
        6 => {
            let starts = header_blocks(shard);
            if starts.is_empty() {
                return;
            }
            let end = |index: usize| starts.get(index + 1).copied().unwrap_or(shard.len());
            let (a, b) = (generator.random_range(0..starts.len()), generator.random_range(0..starts.len()));
            let (a, b) = (a.min(b), a.max(b));
            if a < b {
                let parts = [&shard[..starts[a]], &shard[starts[b]..end(b)], &shard[end(a)..starts[b]]];
                *shard = [parts.concat(), shard[starts[a]..end(a)].to_vec(), shard[end(b)..].to_vec()].concat();
            }
        }
        // A header that lies, with a checksum that fits: sizes, kinds and names.
        _ => {
            let headers = header_blocks(shard);
            if headers.is_empty() {
                return;
            }
            let at = headers[generator.random_range(0..headers.len())];
            let header = &mut shard[at..at + BLOCK];
            match generator.random_range(0..4) {
                0 => generator.fill(&mut header[124..136]),
                1 => header[124..136].copy_from_slice(b"77777777777\0"),
                2 => header[156] = *b"LKxg57XV\xff".get(generator.random_range(0..9)).unwrap(),
                _ => generator.fill(&mut header[..100]),
            }
            sign(header);
        }
    }
}

/// Where headers begin.
fn header_blocks(shard: &[u8]) -> Vec<usize> {
    (0..shard.len() / BLOCK).map(|block| block * BLOCK).filter(|&at| shard[at + 257..].starts_with(b"ustar")).collect()
}

/// Reads and prepares a shard on this thread: usable samples and skips.
fn walked(path: &Path, preparation: &Preparation, tokenizers: &Tokenizers) -> (usize, BTreeMap<SkipReason, u64>) {
    let length = std::fs::metadata(path).unwrap().len();
    let (mut usable, mut counts) = (0, BTreeMap::new());
    for sample in ShardSamples::open(path).unwrap().keeping(&TRAINING_MEMBERS) {
        let mut skips = Vec::new();
        match sample.and_then(|sample| {
            assert!(sample.bytes() <= length, "a sample is larger than its shard");
            prepare(&sample, 0, preparation, tokenizers, &mut skips, &StageTimes::default())
        }) {
            Ok(_) => usable += 1,
            Err(skip) => skips.push(skip),
        }
        skips.iter().for_each(|skip| *counts.entry(skip.reason).or_insert(0) += 1);
    }
    (usable, counts)
}

#[test]
fn damaged_shards_are_survived_and_counted() {
    let whole = archive(&good_members());
    let Data { config, _folder } = data(Some(vec![]));
    let mut preparation = config.preparation.clone();
    preparation.augmentation = Augmentation::NONE;
    let tokenizers = Tokenizers::new(tokenizer(), preparation.regions).unwrap();
    let (mut all_usable, mut all_skips) = (0, 0);
    let started = Instant::now();
    for seed in 0..1_000 {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut shard = whole.clone();
        for _ in 0..generator.random_range(1..4) {
            if shard.len() >= 4 * BLOCK {
                damage(&mut shard, &mut generator);
            }
        }
        let path = _folder.path().join("damaged.tar");
        std::fs::write(&path, &shard).unwrap();
        let walked = walked(&path, &preparation, &tokenizers);
        all_usable += walked.0;
        all_skips += walked.1.values().sum::<u64>();
        // The loader, with its threads, must count the same.
        if seed % 20 == 0 {
            assert_eq!(loaded(&shard), walked, "seed {seed}");
        }
    }
    assert!(started.elapsed() < Duration::from_secs(120), "{:?}", started.elapsed());
    assert!(all_usable > 2_500 && all_skips > 800, "{all_usable} usable, {all_skips} skips");
}

/// Records are parsed from damaged bytes without a panic.
#[test]
fn damaged_records_are_survived() {
    let record = br#"{"captions": ["a \"b\" \u00e9", ""], "regions": [{"box": [0.1, NaN, 1e9, 1], "text": "x", "score": null}]}"#;
    for seed in 0..3_000 {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = record.to_vec();
        for _ in 0..generator.random_range(1..6) {
            let place = generator.random_range(0..bytes.len());
            bytes[place] = generator.random();
        }
        bytes.truncate(generator.random_range(0..=bytes.len()));
        let _ = RecordJson::parse(&bytes);
        let members = std::collections::HashMap::from([("txt".to_owned(), bytes)]);
        let sample = RawSample { shard: "s".into(), key: "k".into(), members };
        let _ = read_captions(&sample, &RecordJson::default());
    }
}
