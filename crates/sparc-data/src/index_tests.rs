//! Tests of the index: what it gives is what reading gives, and what does not fit is noticed.

use std::process::Command;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::shards::ShardSamples;
use crate::skips::SkipReason;

const WANTED: &[&str] = &["jpg", "txt"];

/// A member of a tar, written without the program's own code.
fn member(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    header[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
    header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn shard() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in [
        ("a/1.jpg", vec![1; 700]),
        ("a/1.txt", b"one".to_vec()),
        ("__readme.txt", b"no sample".to_vec()),
        ("a/2.JPG", vec![2; 512]),
        // Far apart: two reads.
        ("a/2.npy", vec![9; 200_000]),
        ("a/2.txt", b"two".to_vec()),
        ("a/2.txt", b"once more".to_vec()),
        ("a/3.npy", vec![9; 10]),
        ("a/4.jpg", Vec::new()),
    ] {
        bytes.extend(member(name, &data));
    }
    bytes.extend([0; 1024]);
    bytes
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.tar");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

type Found = Vec<Result<(String, HashMap<String, Vec<u8>>, u64), Skip>>;

fn streamed(path: &Path) -> Found {
    let samples = ShardSamples::open(path).unwrap().keeping(WANTED);
    samples.map(|sample| sample.map(|s| (s.key.clone(), s.members.clone(), s.bytes()))).collect()
}

fn placed(path: &Path) -> Option<Result<Found, Error>> {
    let fetcher = Fetcher::default();
    let placed = placed_samples(&Source::File(path.into()), &fetcher, WANTED).unwrap()?;
    let read = |sample: PlacedSample| {
        let bytes = sample.bytes();
        sample.read(&fetcher).map(|read| (read.key, read.members, bytes))
    };
    Some(placed.into_iter().map(|sample| sample.map_or_else(|skip| Ok(Err(skip)), |s| read(s).map(Ok))).collect())
}

#[test]
fn an_index_gives_the_samples_and_skips_that_reading_gives() {
    let (_folder, path) = written(&shard());
    assert!(placed(&path).is_none());
    let summary = write_index(&path).unwrap();
    assert_eq!((summary.samples, summary.members), (4, 9));
    assert_eq!(summary.path, path.with_extension("tar.index"));
    let found = placed(&path).unwrap().unwrap();
    assert_eq!(found, streamed(&path));
    let skip = found.iter().find_map(|sample| sample.as_ref().err()).unwrap();
    assert_eq!(skip.reason, SkipReason::DuplicateMember);
}

/// Long names and names beyond ASCII have headers of their own.
#[test]
fn names_of_any_kind_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(130);
    for name in ["é.txt", "é.jpg", &format!("{long}.txt"), &format!("{long}.jpg")] {
        std::fs::write(folder.path().join(name), name.repeat(9)).unwrap();
    }
    for format in ["gnu", "pax"] {
        let path = folder.path().join(format!("{format}.tar"));
        let tar = format!("tar --format={format} -cf {} *.txt *.jpg --sort=name", path.display());
        assert!(Command::new("sh").args(["-c", &tar]).current_dir(folder.path()).status().unwrap().success());
        write_index(&path).unwrap();
        let found = placed(&path).unwrap().unwrap();
        assert_eq!(found, streamed(&path), "{format}");
        assert!(found.len() >= 2);
    }
}

#[test]
fn an_index_that_does_not_fit_is_not_used() {
    let (_folder, path) = written(&shard());
    let index = write_index(&path).unwrap().path;
    let text = std::fs::read_to_string(&index).unwrap();
    let replace = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        std::fs::write(&index, text.replacen(from, to, 1)).unwrap();
    };
    for (from, to) in [
        ("\"version\":1", "\"version\":2"),
        ("\"members\":9", "\"members\":10"),
        ("[\"a/1.txt\",", "[\"a/1.txt\" "),
        (",700]", ",70000000]"),
        (",512,", ",511,"),
        ("\n", ""),
        (",3]", ",18446744073709551615]"),
    ] {
        replace(from, to);
        assert!(placed(&path).is_none(), "{from} -> {to}");
    }
    // Another length of the shard.
    std::fs::write(&index, &text).unwrap();
    let mut bytes = shard();
    bytes.extend([0; 512]);
    std::fs::write(&path, &bytes).unwrap();
    assert!(placed(&path).is_none());
    // The right length and another layout: an error where it is read.
    let other = [member("b/1.jpg", &[1; 700]), shard()[1536..].to_vec()].concat();
    std::fs::write(&path, &other).unwrap();
    let error = placed(&path).unwrap().unwrap_err().to_string();
    assert!(error.contains("s.tar.index does not fit") && error.contains("b/1.jpg"), "{error}");
    // The same layout with other bytes is no fault.
    let other = [member("a/1.jpg", &[8; 700]), shard()[1536..].to_vec()].concat();
    std::fs::write(&path, &other).unwrap();
    assert_eq!(placed(&path).unwrap().unwrap(), streamed(&path));
}

#[test]
fn a_broken_shard_gets_no_index() {
    let bytes = shard();
    for cut in [bytes.len() - 1024, 700, 0] {
        let (_folder, path) = written(&bytes[..cut]);
        let error = write_index(&path).unwrap_err().to_string();
        assert!(error.contains("s.tar cannot be indexed"), "{error}");
        assert!(!path.with_extension("tar.index").exists());
    }
}

/// Whatever stands in an index: no panic, and no member that is not in the shard under that name.
#[test]
fn damaged_indices_are_survived() {
    let (_folder, path) = written(&shard());
    let index = write_index(&path).unwrap().path;
    let text = std::fs::read(&index).unwrap();
    let whole = streamed(&path);
    let truth: HashMap<&str, &HashMap<String, Vec<u8>>> =
        whole.iter().flatten().map(|(key, members, _)| (key.as_str(), members)).collect();
    let (mut refused, mut wrong, mut read) = (0, 0, 0);
    for seed in 0..2_000 {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = text.clone();
        for _ in 0..generator.random_range(1..4) {
            let place = generator.random_range(0..bytes.len());
            match generator.random_range(0..3) {
                0 => bytes[place] = *b"0123456789[],\"/.a\n".get(generator.random_range(0..18)).unwrap(),
                1 => bytes[place] ^= 1 << generator.random_range(0..8),
                _ => drop(bytes.remove(place)),
            }
        }
        std::fs::write(&index, bytes).unwrap();
        match placed(&path) {
            None => refused += 1,
            Some(Err(_)) => wrong += 1,
            Some(Ok(found)) => {
                read += 1;
                for (key, members, _) in found.iter().flatten() {
                    let truth = truth.get(key.as_str()).copied();
                    // The second a/2.txt is one as well, where the line of the first is damaged.
                    let is_true = |name: &str, data: &[u8]| truth.unwrap()[name] == data || data == b"once more";
                    assert!(members.iter().all(|(name, data)| is_true(name, data)), "{seed}: {key}");
                }
            }
        }
    }
    assert!(refused > 300 && wrong > 50 && read > 20, "{refused} {wrong} {read}");
}
