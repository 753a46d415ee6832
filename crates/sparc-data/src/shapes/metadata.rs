//! The files beside the shards: what was written, and the class names that evaluation reads.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attributes::{N_CLASSES, class_index, class_name};
use super::holdout::held_out_pairs;
use super::scene::Split;
use super::{Error, ShapesConfig};
use crate::shard_writer::{ShardWriter, write_file_atomically};

/// Raised whenever the same configuration would give other bytes.
const VERSION: u32 = 1;

const SUMMARY: &str = "shapes.json";
const CLASSES: &str = "classes.json";
const SEG_CLASSES: &str = "seg_classes.json";
/// Says that shards in a folder without a summary are ours, left by an interrupted run.
const IN_WORK: &str = "shapes.json.partial";

/// Prompts without an article, which `orange circle` would need as `an` and the others as `a`.
const TEMPLATES: [&str; 6] =
    ["{}", "one {}", "a picture of one {}", "an image of one {}", "a scene with one {}", "there is one {}"];

/// `shapes.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    dataset: String,
    version: u32,
    config: ShapesConfig,
    /// File names in the order of writing.
    shards: Vec<String>,
    n_samples: usize,
    held_out_classes: Vec<usize>,
    held_out: Vec<String>,
}

#[derive(Serialize)]
struct Classes {
    classes: Vec<String>,
    templates: [&'static str; TEMPLATES.len()],
}

#[derive(Serialize)]
struct SegClasses {
    classes: Vec<String>,
    ignore: u8,
    background: u8,
}

/// Whether `out` holds the finished data set of this configuration.
pub fn is_complete(config: &ShapesConfig, out: &Path) -> bool {
    let summary = fs::read(out.join(SUMMARY)).ok();
    let summary = summary.and_then(|bytes| serde_json::from_slice::<Summary>(&bytes).ok());
    summary.is_some_and(|summary| {
        let beside = [CLASSES, SEG_CLASSES].map(String::from);
        summary.version == VERSION
            && summary.config == *config
            && summary.shards.iter().chain(&beside).all(|name| out.join(name).is_file())
    })
}

/// The configuration of the data set in a folder, if there is one whose scenes this version draws.
pub(super) fn config_of(folder: &Path) -> Option<ShapesConfig> {
    let bytes = fs::read(folder.join(SUMMARY)).ok()?;
    let summary: Summary = serde_json::from_slice(&bytes).ok()?;
    (summary.version == VERSION).then_some(summary.config)
}

/// Takes away what an earlier run wrote, so that no old shard is read beside new ones.
///
/// # Errors
///
/// When the folder holds shards that no run of ours left there, or something cannot be removed.
pub(super) fn begin(out: &Path) -> Result<(), Error> {
    let io = |source| Error::Folder { path: out.to_owned(), source };
    fs::create_dir_all(out).map_err(io)?;
    let mut stale = Vec::new();
    for entry in fs::read_dir(out).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let name = name.to_string_lossy();
        if is_shard(name.strip_suffix(".tmp").unwrap_or(&name)) {
            stale.push(out.join(&*name));
        }
    }
    let is_ours = out.join(SUMMARY).exists() || out.join(IN_WORK).exists();
    if let Some(path) = stale.first().filter(|_| !is_ours) {
        return Err(Error::ForeignShard { path: path.clone() });
    }
    // In this order: at no moment are our shards without one of the two files that call them ours.
    write_file_atomically(&out.join(IN_WORK), b"")?;
    if out.join(SUMMARY).exists() {
        stale.insert(0, out.join(SUMMARY));
    }
    for path in stale {
        fs::remove_file(&path).map_err(|source| Error::Folder { path, source })?;
    }
    Ok(())
}

/// Writes the metadata, the summary last: it says that everything else is there.
///
/// # Errors
///
/// When a file cannot be written.
pub(super) fn end(config: &ShapesConfig, out: &Path, shards: Vec<String>) -> Result<(), Error> {
    let names: Vec<String> = (0..N_CLASSES).map(class_name).collect();
    let labels = std::iter::once("background".to_owned()).chain(names.iter().cloned());
    let seg_classes = SegClasses { classes: labels.collect(), ignore: 255, background: 0 };
    write_json(&out.join(SEG_CLASSES), &seg_classes)?;
    write_json(&out.join(CLASSES), &Classes { classes: names, templates: TEMPLATES })?;
    let held_out_classes: Vec<usize> = held_out_pairs(config.seed).into_iter().map(class_index).collect();
    let summary = Summary {
        dataset: "shapes".into(),
        version: VERSION,
        config: config.clone(),
        shards,
        n_samples: config.n_samples(),
        held_out: held_out_classes.iter().copied().map(class_name).collect(),
        held_out_classes,
    };
    write_json(&out.join(SUMMARY), &summary)?;
    let marker = out.join(IN_WORK);
    fs::remove_file(&marker).map_err(|source| Error::Folder { path: marker, source })
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("metadata has string keys only");
    bytes.push(b'\n');
    Ok(write_file_atomically(path, &bytes)?)
}

/// Whether a file name is one that the data set's writers give to shards.
fn is_shard(name: &str) -> bool {
    Split::ALL.iter().any(|split| {
        let number = name
            .strip_prefix(split.name())
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|rest| rest.strip_suffix(".tar"));
        number
            .and_then(|digits| digits.parse().ok())
            .is_some_and(|index| ShardWriter::shard_name(split.name(), index) == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_shards() {
        for name in ["train-00000.tar", "val-00012.tar", "test-99999.tar"] {
            assert!(is_shard(name), "{name}");
        }
        for name in ["train-0.tar", "training-00000.tar", "train-00000.tar.gz", "train-+0001.tar"] {
            assert!(!is_shard(name), "{name}");
        }
    }

    #[test]
    fn foreign_shards_are_left_alone() {
        let out = tempfile::tempdir().unwrap();
        let shard = out.path().join("train-00000.tar");
        fs::write(&shard, "photographs").unwrap();
        let error = begin(out.path()).unwrap_err();
        assert!(error.to_string().contains("train-00000.tar"), "{error}");
        assert_eq!(fs::read(&shard).unwrap(), b"photographs");
        fs::write(out.path().join(IN_WORK), "").unwrap();
        begin(out.path()).unwrap();
        assert!(!shard.exists(), "what an interrupted run left is removed");
    }
}
