//! Writes the data set: scenes drawn in parallel, written in order.

use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use webdataset::Sample;

use super::attributes::class_index;
use super::attributes::class_name;
use super::holdout::held_out_pairs;
use super::record::{key, sample};
use super::scene::{Split, scene};
use super::{Error, ShapesConfig, metadata};
use crate::shard_writer::{ShardLimits, ShardWriter};

/// Samples that one thread may be ahead of the writer.
const SAMPLES_AHEAD: usize = 64;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapesSummary {
    /// The shards of all splits, in order.
    pub shards: Vec<PathBuf>,
    /// Number of samples in them.
    pub n_samples: usize,
    /// Names of the (colour, shape) classes that training does not contain.
    pub held_out: Vec<String>,
}

/// Writes the shards and the metadata of a data set to `out`, replacing what an earlier run wrote there.
///
/// The bytes depend on `config` alone, not on `threads`. `progress` is called with the number of samples
/// done and their total.
///
/// # Errors
///
/// When the configuration makes no sense, when the folder holds shards that are not of this data set, or
/// when something cannot be written. Shards that are complete by then stay; none is half-written.
pub fn write_shapes(
    config: &ShapesConfig,
    out: &Path,
    threads: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ShapesSummary, Error> {
    config.check()?;
    metadata::begin(out)?;
    let total = config.n_samples();
    let mut n_done = 0;
    progress(n_done, total);
    let mut shards = Vec::new();
    for split in Split::ALL {
        let mut writer = ShardWriter::new(out, split.name(), ShardLimits::samples(config.samples_per_shard))?;
        draw_in_order(config, split, threads.max(1), |sample| {
            writer.write(&sample)?;
            n_done += 1;
            progress(n_done, total);
            Ok(())
        })?;
        shards.extend(writer.finish()?.into_iter().map(|shard| shard.path));
    }
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    metadata::end(config, out, shards.iter().filter_map(name).collect())?;
    let held_out = held_out_pairs(config.seed).into_iter();
    Ok(ShapesSummary {
        shards,
        n_samples: total,
        held_out: held_out.map(|pair| class_name(class_index(pair))).collect(),
    })
}

/// Hands all samples of a split to `write`, in order. Thread t of T draws the samples t, t + T, …, so the
/// channels, read in turn, need no sorting.
fn draw_in_order(
    config: &ShapesConfig,
    split: Split,
    threads: usize,
    mut write: impl FnMut(Sample) -> Result<(), Error>,
) -> Result<(), Error> {
    let n_samples = config.n_samples_of(split);
    let threads = threads.min(n_samples);
    thread::scope(|scope| {
        // The receivers live in here: on an error they go, sending fails, and the threads end.
        let channels: Vec<Receiver<_>> = (0..threads)
            .map(|first| {
                let (sender, receiver) = bounded(SAMPLES_AHEAD);
                scope.spawn(move || draw_every(config, split, first, threads, &sender));
                receiver
            })
            .collect();
        for index in 0..n_samples {
            let received = channels[index % threads].recv();
            write(received.expect("a drawing thread sends all its samples")?)?;
        }
        Ok(())
    })
}

fn draw_every(config: &ShapesConfig, split: Split, first: usize, step: usize, sender: &Sender<Result<Sample, Error>>) {
    for index in (first..config.n_samples_of(split)).step_by(step) {
        let scene = scene(config.seed, split, index);
        let drawn = sample(&scene, config.image_size).map_err(|source| Error::Encode { key: key(&scene), source });
        if sender.send(drawn).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::{held_out_pairs, is_complete};
    use std::collections::BTreeMap;
    use std::fs;

    fn config() -> ShapesConfig {
        ShapesConfig { seed: 9, image_size: 48, train: 25, val: 7, test: 0, samples_per_shard: 10 }
    }

    fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let read = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        };
        entries.map(read).collect()
    }

    #[test]
    fn bytes_depend_on_neither_run_nor_threads() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        for (folder, threads) in folders.iter().zip([1, 3, 1]) {
            write_shapes(&config(), folder.path(), threads, &mut |_, _| {}).unwrap();
        }
        let written = files(folders[0].path());
        let names: Vec<&str> = written.keys().map(String::as_str).collect();
        let expected = [
            "classes.json",
            "seg_classes.json",
            "shapes.json",
            "train-00000.tar",
            "train-00001.tar",
            "train-00002.tar",
            "val-00000.tar",
        ];
        assert_eq!(names, expected);
        for folder in &folders[1..] {
            assert!(files(folder.path()) == written);
        }
    }

    #[test]
    fn completeness_is_of_one_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        assert!(!is_complete(&config(), out));
        let mut calls = Vec::new();
        let mut progress = |done, total| calls.push((done, total));
        let summary = write_shapes(&config(), out, 2, &mut progress).unwrap();
        assert_eq!(calls, (0..=32).map(|n| (n, 32)).collect::<Vec<_>>());
        assert_eq!((summary.n_samples, summary.shards.len()), (32, 4));
        assert!(is_complete(&config(), out));
        let other = ShapesConfig { seed: 10, ..config() };
        assert!(!is_complete(&other, out));
        // A smaller set over a larger one leaves none of the old shards behind.
        let smaller = ShapesConfig { train: 5, ..config() };
        write_shapes(&smaller, out, 2, &mut |_, _| {}).unwrap();
        assert!(is_complete(&smaller, out) && !is_complete(&config(), out));
        assert!(!out.join("train-00001.tar").exists());
        fs::remove_file(out.join("train-00000.tar")).unwrap();
        assert!(!is_complete(&smaller, out));
    }

    #[test]
    fn metadata_lists_classes_and_held_out_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let empty = ShapesConfig { train: 1, val: 0, ..config() };
        write_shapes(&empty, folder.path(), 1, &mut |_, _| {}).unwrap();
        let read = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&fs::read(folder.path().join(name)).unwrap()).unwrap()
        };
        let classes = read("classes.json");
        assert_eq!(classes["classes"].as_array().unwrap().len(), 64);
        for template in classes["templates"].as_array().unwrap() {
            assert_eq!(template.as_str().unwrap().matches("{}").count(), 1);
        }
        let seg = read("seg_classes.json");
        assert_eq!(seg["classes"].as_array().unwrap().len(), 65);
        assert_eq!(seg["classes"][1], classes["classes"][0]);
        let held_out = read("shapes.json")["held_out_classes"].clone();
        let expected: Vec<usize> = held_out_pairs(9).into_iter().map(class_index).collect();
        assert_eq!(held_out, serde_json::json!(expected));
    }

    #[test]
    fn an_error_leaves_no_half_written_shard_and_no_summary() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        write_shapes(&config(), out, 1, &mut |_, _| {}).unwrap();
        fs::remove_file(out.join("train-00001.tar")).unwrap();
        fs::create_dir(out.join("train-00001.tar.tmp")).unwrap();
        assert!(write_shapes(&config(), out, 2, &mut |_, _| {}).is_err());
        assert!(!out.join("shapes.json").exists() && !is_complete(&config(), out));
        fs::remove_dir(out.join("train-00001.tar.tmp")).unwrap();
        write_shapes(&config(), out, 2, &mut |_, _| {}).unwrap();
        assert!(is_complete(&config(), out));
    }

    #[test]
    fn an_output_that_is_a_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write_shapes(&config(), file.path(), 1, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(&*file.path().to_string_lossy()), "{error}");
    }

    #[test]
    fn senseless_configurations_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let bad = [
            ShapesConfig { image_size: 8, ..config() },
            ShapesConfig { samples_per_shard: 0, ..config() },
            ShapesConfig { train: 0, val: 0, ..config() },
        ];
        for config in bad {
            assert!(write_shapes(&config, folder.path(), 1, &mut |_, _| {}).is_err());
        }
        assert!(files(folder.path()).is_empty());
    }
}
