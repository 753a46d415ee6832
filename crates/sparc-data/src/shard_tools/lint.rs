//! Everything that is wrong with shards, by reason, with shard and key.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;

use serde::Serialize;
use sparc_core::seed;

use super::scan::scan;
use crate::claims::read_claims;
use crate::decode::{Reduction, decode_labels};
use crate::error::Error;
use crate::eval_set::read_class;
use crate::prepare::{open_image, read_captions, read_record};
use crate::questions::read_questions;
use crate::regions::valid_regions;
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};

/// How many of everything there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LintReport {
    /// Shards read.
    pub shards: usize,
    /// Samples read.
    pub samples: u64,
    /// Problems by reason.
    pub problems: BTreeMap<String, u64>,
}

impl LintReport {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What one shard has.
#[derive(Default)]
struct Found {
    keys: Vec<String>,
    shard: String,
    problems: Vec<Skip>,
}

/// Reads shards as training and evaluation do, decodes every image and label map, and hands every problem
/// to `found`, in the order of the shards. `read` is told the bytes of samples read.
///
/// # Errors
///
/// A shard that cannot be opened.
pub fn lint(
    shards: &[PathBuf],
    threads: usize,
    found: &mut dyn FnMut(&Skip),
    read: &(dyn Fn(u64) + Sync),
) -> Result<LintReport, Error> {
    let mut report = LintReport { shards: shards.len(), ..LintReport::default() };
    // The first shard of each key, by a hash of the key: a hundred million of them fit into memory.
    let mut first_shard: HashMap<u64, usize> = HashMap::new();
    let mut names: Vec<String> = Vec::with_capacity(shards.len());
    let visit = |gathered: &mut Found, sample: Result<RawSample, Skip>| match sample {
        Ok(sample) => {
            check(&sample, &mut gathered.problems);
            gathered.shard = sample.shard.to_string();
            gathered.keys.push(sample.key);
        }
        Err(problem) => gathered.problems.push(problem),
    };
    scan(shards, threads, visit, read, |mut gathered: Found| {
        report.samples += gathered.keys.len() as u64;
        names.push(gathered.shard);
        let this = names.len() - 1;
        for key in gathered.keys {
            match first_shard.entry(seed::derive(0, &[key.as_bytes()])) {
                Entry::Vacant(place) => {
                    place.insert(this);
                }
                Entry::Occupied(first) => {
                    let detail = format!("a sample of this key is in {} already", names[*first.get()]);
                    let shard = names[this].clone();
                    gathered.problems.push(Skip { reason: SkipReason::DuplicateKey, shard, key, detail });
                }
            }
        }
        for problem in &gathered.problems {
            *report.problems.entry(problem.reason.to_string()).or_default() += 1;
            found(problem);
        }
    })?;
    Ok(report)
}

/// What is wrong with one sample.
fn check(sample: &RawSample, problems: &mut Vec<Skip>) {
    let record = read_record(sample).map_err(|problem| problems.push(problem)).ok();
    if let Some(record) = record {
        match read_captions(sample, &record) {
            Ok(captions) if captions.is_empty() => {
                problems.push(sample.skip(SkipReason::NoCaption, "neither .txt nor .json has a caption"));
            }
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
        let regions = record.regions.unwrap_or_default();
        check_instances(sample, regions.len(), problems);
        valid_regions(sample, regions, problems);
        read_claims(sample, problems);
        read_questions(sample, problems);
    }
    let size = open_image(sample).and_then(|image| {
        let size = image.encoded.size();
        image.decode(Reduction::None).map(|_| size)
    });
    match size {
        Ok(size) => check_labels(sample, size, problems),
        Err(problem) => problems.push(problem),
    }
    read_class(sample, problems);
}

/// A label map can be read and covers the frame of the image: sides differ by rounding at most.
fn check_labels(sample: &RawSample, (width, height): (u32, u32), problems: &mut Vec<Skip>) {
    let Some(bytes) = sample.members.get("seg.png") else {
        return;
    };
    let problem = match decode_labels(bytes) {
        Err(error) => error.to_string(),
        Ok(labels) => {
            let [w, h, lw, lh] = [width, height, labels.width(), labels.height()].map(f64::from);
            if (lw * h / w - lh).abs() <= 1.0 || (lh * w / h - lw).abs() <= 1.0 {
                return;
            }
            format!("{lw}x{lh} pixels do not cover the frame of an image of {width}x{height}")
        }
    };
    problems.push(sample.skip(SkipReason::BadLabel, format!("the .seg.png member: {problem}")));
}

/// Instance maps number the regions from 1.
fn check_instances(sample: &RawSample, n_regions: usize, problems: &mut Vec<Skip>) {
    let Some(bytes) = sample.members.get("inst.png") else {
        return;
    };
    let problem = match decode_labels(bytes) {
        Err(error) => error.to_string(),
        Ok(labels) => match labels.as_raw().iter().max() {
            Some(&most) if usize::from(most) > n_regions => {
                format!("instance {most}, and the record has {n_regions} regions")
            }
            _ => return,
        },
    };
    problems.push(sample.skip(SkipReason::BadLabel, format!("the .inst.png member: {problem}")));
}

#[cfg(test)]
mod tests {
    use super::super::sink::tests::{Written, picture, written};
    use super::*;
    use crate::record::RegionRecord;
    use crate::shard_writer::{ShardLimits, ShardWriter};

    fn linted(shards: &[PathBuf], threads: usize) -> (LintReport, Vec<(SkipReason, String)>) {
        let mut found = Vec::new();
        let report = lint(shards, threads, &mut |skip| found.push((skip.reason, skip.key.clone())), &|_| {}).unwrap();
        (report, found)
    }

    #[test]
    fn sound_shards_are_clean() {
        let Written { shards, _folder } = written(7, 3);
        let (report, found) = linted(&shards, 2);
        assert!(report.is_clean() && found.is_empty(), "{found:?}");
        assert_eq!((report.shards, report.samples), (3, 7));
    }

    #[test]
    fn every_problem_is_named_with_its_key_in_the_order_of_the_shards() {
        let Written { shards, _folder } = written(4, 2);
        let region = RegionRecord { box_xyxy: [0.5, 0.5, 0.2, 0.9], text: "thing".into(), score: None };
        let claim = serde_json::json!({"source": "s", "caption": "a", "negatives": []});
        let record = serde_json::json!({"captions": ["a"], "regions": [region], "hard_negatives": [claim]}).to_string();
        let labels = |value: u8, width: u32| {
            let map = image::GrayImage::from_pixel(width, 10, image::Luma([value]));
            let mut bytes = std::io::Cursor::new(Vec::new());
            map.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        type Members<'a> = &'a [(&'a str, Vec<u8>)];
        let members: [(&str, Members); 4] = [
            ("box", &[("jpg", picture(20, 10)), ("json", record.into_bytes())]),
            (
                "map",
                &[
                    ("jpg", picture(20, 10)),
                    ("seg.png", labels(1, 10)),
                    ("inst.png", labels(2, 20)),
                    ("txt", b"caption".to_vec()),
                ],
            ),
            ("cut", &[("jpg", picture(20, 10)[..400].to_vec()), ("cls", b"seven".to_vec())]),
            ("s0001", &[("txt", b"again".to_vec())]),
        ];
        let mut writer = ShardWriter::new(_folder.path(), "bad", ShardLimits::samples(9)).unwrap();
        for (key, members) in members {
            let mut sample = webdataset::Sample::with_key(key);
            for (extension, data) in members {
                sample.insert(*extension, webdataset::Value::Bytes(data.clone().into()));
            }
            writer.write(&sample).unwrap();
        }
        let path = writer.finish().unwrap().remove(0).path;
        // Without the end marker: the last sample may have lost members.
        let tar = std::fs::read(&path).unwrap();
        std::fs::write(&path, &tar[..tar.len() - 1024]).unwrap();
        let all = [shards.clone(), vec![path]].concat();
        let expected: Vec<(SkipReason, String)> = [
            (SkipReason::BoxEmpty, "box"),
            (SkipReason::BadClaim, "box"),
            (SkipReason::BadLabel, "map"),
            (SkipReason::BadLabel, "map"),
            (SkipReason::NoCaption, "cut"),
            (SkipReason::ImageDecode, "cut"),
            (SkipReason::BadLabel, "cut"),
            (SkipReason::ShardCutOff, "s0001"),
        ]
        .map(|(reason, key)| (reason, key.to_owned()))
        .into();
        for threads in [1, 3] {
            let (report, found) = linted(&all, threads);
            assert_eq!(found, expected);
            assert_eq!(report.problems["bad_label"], 3);
        }
        // The same shard twice: every key is a second one.
        let (report, found) = linted(&[shards.clone(), shards.clone()].concat(), 2);
        assert_eq!((report.problems["duplicate_key"], found[0].1.as_str()), (4, "s0000"));
    }
}
