//! Writes WebDataset shards so that a name `<split>-00000.tar` is either absent or complete.
//!
//! A shard grows under a temporary name in the folder it will live in, is flushed and fsynced, and
//! only then takes its final name. Whatever interrupts the writer leaves a `.tmp` file at most, which
//! no reader's `*.tar` pattern finds and the next run overwrites.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use webdataset::shard::compress::Compression;
use webdataset::{Sample, TarWriter, Value};

/// Bytes gathered before the file is written to: about a hundred small samples.
const BUFFER_BYTES: usize = 1 << 20;

/// Why shards could not be written; every kind names the path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration of the writer makes no sense.
    #[error("cannot write shards to {}: {problem}", path.display())]
    Invalid {
        /// The folder.
        path: PathBuf,
        /// What is wrong, in words.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A sample could not be appended, or the archive could not be ended.
    #[error("cannot write {what} to {}", path.display())]
    Tar {
        /// The sample, or the end of the archive.
        what: String,
        /// The shard's temporary name.
        path: PathBuf,
        /// What the archive writer says.
        #[source]
        source: webdataset::core::Error,
    },
}

/// When a shard is full, whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLimits {
    /// Most samples.
    pub samples: usize,
    /// Most bytes of the file. A larger sample gets a shard of its own.
    pub bytes: u64,
}

impl ShardLimits {
    /// A limit of the number alone.
    pub fn samples(samples: usize) -> ShardLimits {
        ShardLimits { samples, bytes: u64::MAX }
    }
}

/// A shard that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenShard {
    /// Where it is.
    pub path: PathBuf,
    /// Samples in it.
    pub n_samples: usize,
}

/// Writes samples to `<folder>/<split>-%05d.tar`, as many to a shard as its limits allow.
///
/// [`ShardWriter::finish`] must be called: dropping the writer discards the shard in work.
#[derive(Debug)]
pub struct ShardWriter {
    folder: PathBuf,
    split: String,
    limits: ShardLimits,
    current: Option<OpenShard>,
    finished: Vec<WrittenShard>,
}

/// A shard under its temporary name.
#[derive(Debug)]
struct OpenShard {
    tar: TarWriter,
    /// The same open file, kept for the fsync after the archive writer has let go of its handle.
    file: File,
    temporary: PathBuf,
    n_samples: usize,
    bytes: u64,
}

impl ShardWriter {
    /// A writer for `<folder>/<split>-%05d.tar`; the folder is made where it is missing.
    ///
    /// # Errors
    ///
    /// When a limit is zero, `split` is not a plain file name, or the folder cannot be made.
    pub fn new(folder: &Path, split: &str, limits: ShardLimits) -> Result<Self, Error> {
        let invalid = |problem: String| Error::Invalid { path: folder.to_owned(), problem };
        if limits.samples == 0 || limits.bytes == 0 {
            return Err(invalid("a shard must hold at least one sample and one byte".into()));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if split.is_empty() || !split.chars().all(plain) {
            return Err(invalid(format!("{split:?} is not a split's name")));
        }
        fs::create_dir_all(folder).map_err(at("create the folder", folder))?;
        Ok(Self { folder: folder.to_owned(), split: split.to_owned(), limits, current: None, finished: Vec::new() })
    }

    /// Name of the shard with number `index`.
    pub fn shard_name(split: &str, index: usize) -> String {
        format!("{split}-{index:05}.tar")
    }

    /// Appends a sample, which must have a key and byte or text fields.
    ///
    /// # Errors
    ///
    /// When the sample or the shard cannot be written. The shard in work is then discarded.
    pub fn write(&mut self, sample: &Sample) -> Result<(), Error> {
        let bytes = archived_bytes(sample);
        if let Some(full) = self.current.take_if(|shard| shard.bytes.saturating_add(bytes) > self.limits.bytes) {
            self.complete(full)?;
        }
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => self.open()?,
        };
        if let Err(source) = shard.tar.write(sample) {
            let what = format!("sample {:?}", sample.key().unwrap_or("without a key"));
            let path = shard.temporary.clone();
            shard.discard();
            return Err(Error::Tar { what, path, source });
        }
        shard.n_samples += 1;
        shard.bytes += bytes;
        if shard.n_samples == self.limits.samples {
            self.complete(shard)
        } else {
            self.current = Some(shard);
            Ok(())
        }
    }

    /// Completes the last shard and returns all shards, in order.
    ///
    /// # Errors
    ///
    /// When the last shard cannot be ended, synced or renamed.
    pub fn finish(mut self) -> Result<Vec<WrittenShard>, Error> {
        if let Some(shard) = self.current.take() {
            self.complete(shard)?;
        }
        Ok(std::mem::take(&mut self.finished))
    }

    fn open(&self) -> Result<OpenShard, Error> {
        let name = Self::shard_name(&self.split, self.finished.len());
        let temporary = self.folder.join(format!("{name}.tmp"));
        let file = File::create(&temporary).map_err(at("create", &temporary))?;
        let handle = file.try_clone().map_err(at("open", &temporary))?;
        let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, handle));
        let tar = TarWriter::new(out, Compression::None).map_err(|source| Error::Tar {
            what: "an archive".into(),
            path: temporary.clone(),
            source,
        })?;
        // A fixed time makes equal samples into equal files.
        let tar = tar.with_mtime(Some(0));
        Ok(OpenShard { tar, file, temporary, n_samples: 0, bytes: END_OF_ARCHIVE })
    }

    /// Ends the archive (its writer's `Drop` would only log an error), syncs it and names it.
    fn complete(&mut self, shard: OpenShard) -> Result<(), Error> {
        let OpenShard { tar, file, temporary, n_samples, .. } = shard;
        let name = Self::shard_name(&self.split, self.finished.len());
        let path = self.folder.join(name);
        let ended = tar.close().map_err(|source| Error::Tar {
            what: "the end of the archive".into(),
            path: temporary.clone(),
            source,
        });
        let named = ended.and_then(|()| publish(&file, &temporary, &path));
        match named {
            Ok(()) => self.finished.push(WrittenShard { path, n_samples }),
            Err(_) => discard_file(&temporary),
        }
        named
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if let Some(shard) = self.current.take() {
            shard.discard();
        }
    }
}

impl OpenShard {
    fn discard(self) {
        // Unlinked first, so that the trailer written by the archive writer's `Drop` goes nowhere.
        discard_file(&self.temporary);
    }
}

/// Bytes of the blocks of zeros that end an archive.
const END_OF_ARCHIVE: u64 = 1024;

/// Bytes that a sample takes in an archive: for each member a header and whole blocks. (Names of more
/// than a hundred bytes take some more, which a limit of megabytes need not know.)
fn archived_bytes(sample: &Sample) -> u64 {
    const BLOCK: u64 = 512;
    let bytes = |value: &Value| match value {
        Value::Bytes(bytes) => bytes.len() as u64,
        Value::Text(text) => text.len() as u64,
        _ => 0,
    };
    let members = sample.iter().filter(|(name, _)| !name.starts_with("__"));
    members.map(|(_, value)| BLOCK + bytes(value).next_multiple_of(BLOCK)).sum()
}

/// Writes a whole file through a temporary name in the same folder, fsynced before the rename.
///
/// # Errors
///
/// When any step fails; the file of that name is then what it was before.
pub fn write_file_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = File::create(&temporary).map_err(at("create", &temporary)).and_then(|mut file| {
        file.write_all(bytes).map_err(at("write", &temporary))?;
        publish(&file, &temporary, path)
    });
    if written.is_err() {
        discard_file(&temporary);
    }
    written
}

/// Makes the finished file durable, gives it its name, and makes the name durable.
pub(crate) fn publish(file: &File, temporary: &Path, path: &Path) -> Result<(), Error> {
    file.sync_all().map_err(at("sync", temporary))?;
    fs::rename(temporary, path).map_err(at("rename to", path))?;
    // Folders can be opened and synced on Unix only; elsewhere the rename is as durable as it gets.
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder).and_then(|handle| handle.sync_all()).map_err(at("sync the folder", folder))?;
    }
    Ok(())
}

/// Best effort: the error that led here is the one to report, and a `.tmp` file harms nobody.
fn discard_file(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// An error of the operating system, with what was tried on which path.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample(index: usize) -> Sample {
        let mut sample = Sample::with_key(format!("{index:03}"));
        sample.insert("txt", Value::Bytes(vec![b'a'; 100 * index].into()));
        sample
    }

    /// What a folder holds, sorted.
    pub(crate) fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn shards_roll_over_and_nothing_else_remains() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(&folder.path().join("new"), "train", ShardLimits::samples(2)).unwrap();
        for index in 0..5 {
            writer.write(&sample(index)).unwrap();
        }
        let shards = writer.finish().unwrap();
        let expected = ["train-00000.tar", "train-00001.tar", "train-00002.tar"];
        assert_eq!(names(&folder.path().join("new")), expected);
        assert_eq!(shards.iter().map(|shard| shard.n_samples).collect::<Vec<_>>(), [2, 2, 1]);
        let read = webdataset::shard::TarFiles::open(shards[1].path.to_str().unwrap()).unwrap();
        let members: Vec<String> = read.map(|file| file.unwrap().name).collect();
        assert_eq!(members, ["002.txt", "003.txt"]);
    }

    #[test]
    fn a_shard_has_no_final_name_before_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(folder.path(), "val", ShardLimits::samples(3)).unwrap();
        writer.write(&sample(0)).unwrap();
        assert_eq!(names(folder.path()), ["val-00000.tar.tmp"]);
        drop(writer);
        assert_eq!(names(folder.path()), [""; 0]);
    }

    /// Files stay below the limit, but for a sample that alone is above it.
    #[test]
    fn bytes_end_a_shard_too() {
        let folder = tempfile::tempdir().unwrap();
        let limits = ShardLimits { samples: 9, bytes: 4_096 };
        let mut writer = ShardWriter::new(folder.path(), "train", limits).unwrap();
        for index in [1, 2, 3, 60, 1, 1] {
            writer.write(&sample(index)).unwrap();
        }
        let shards = writer.finish().unwrap();
        assert_eq!(shards.iter().map(|shard| shard.n_samples).collect::<Vec<_>>(), [3, 1, 2]);
        let bytes = |shard: &WrittenShard| fs::metadata(&shard.path).unwrap().len();
        assert_eq!(shards.iter().map(bytes).collect::<Vec<_>>(), [4_096, 512 + 6_144 + 1_024, 3_072]);
    }

    #[test]
    fn a_bad_sample_leaves_only_complete_shards() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = ShardWriter::new(folder.path(), "val", ShardLimits::samples(1)).unwrap();
        writer.write(&sample(0)).unwrap();
        let error = writer.write(&Sample::new()).unwrap_err();
        assert!(error.to_string().contains("val-00001.tar.tmp"), "{error}");
        drop(writer);
        assert_eq!(names(folder.path()), ["val-00000.tar"]);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "in the way").unwrap();
        let error = ShardWriter::new(&file.join("below"), "train", ShardLimits::samples(1)).unwrap_err();
        assert!(error.to_string().contains("file/below"), "{error}");
    }

    #[test]
    fn a_name_that_is_taken_by_a_folder_is_an_error_without_leftovers() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("train-00000.tar/held")).unwrap();
        let mut writer = ShardWriter::new(folder.path(), "train", ShardLimits::samples(1)).unwrap();
        let error = writer.write(&sample(1)).unwrap_err();
        assert!(error.to_string().contains("train-00000.tar"), "{error}");
        drop(writer);
        assert_eq!(names(folder.path()), ["train-00000.tar"]);
    }

    #[test]
    fn senseless_configurations_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ShardWriter::new(folder.path(), "train", ShardLimits::samples(0)).is_err());
        assert!(ShardWriter::new(folder.path(), "../train", ShardLimits::samples(1)).is_err());
        assert!(ShardWriter::new(folder.path(), "", ShardLimits::samples(1)).is_err());
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shapes.json");
        write_file_atomically(&path, b"first").unwrap();
        write_file_atomically(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["shapes.json"]);
        assert!(write_file_atomically(&folder.path().join("no/file"), b"").is_err());
    }
}
