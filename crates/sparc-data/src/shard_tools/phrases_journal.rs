//! Which shards of a folder have their phrases, so that an interrupted run goes on where it stood.
//!
//! `phrases.jsonl` has a line for what the phrases depend on and one for each shard that is complete, with its
//! counts. A line is appended when the shard has its name; one that was cut off in the middle counts for nothing,
//! and its shard is made again, to the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::phrases::PhraseFinder;
use crate::shard_writer::{self, write_file_atomically};

/// Beside the shards.
pub(super) const NAME: &str = "phrases.jsonl";
const FORMAT: &str = "sparc phrases";
const VERSION: u32 = 1;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Where the tagger comes from.
    tagger: String,
    /// What the phrases depend on, as a number.
    settings: String,
}

/// A shard that is complete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardEntry {
    pub(super) shard: String,
    /// The path that it was made from.
    pub(super) input: String,
    pub(super) input_bytes: u64,
    pub(super) bytes: u64,
    pub(super) samples: u64,
    /// Phrases found, before anything was left out.
    pub(super) found: u64,
    pub(super) stop_words: u64,
    pub(super) beyond_limit: u64,
    /// Values with how often they came.
    pub(super) captions_per_sample: Vec<(u64, u64)>,
    pub(super) caption_words: Vec<(u64, u64)>,
    pub(super) phrases_per_sample: Vec<(u64, u64)>,
    pub(super) phrase_words: Vec<(u64, u64)>,
    pub(super) problems: BTreeMap<String, u64>,
}

/// The file, with what it says.
pub(super) struct Journal {
    path: PathBuf,
    header: String,
    entries: BTreeMap<String, ShardEntry>,
    file: File,
    /// The folder, locked.
    _lock: File,
}

impl Journal {
    /// Opens the journal of a folder, or begins one.
    ///
    /// # Errors
    ///
    /// A folder that cannot be written to, that another run is writing to, or whose phrases were made otherwise.
    pub(super) fn open(folder: &Path, finder: &PhraseFinder) -> Result<Journal, Error> {
        fs::create_dir_all(folder).map_err(shard_writer::at("create the folder", folder))?;
        let lock = locked(folder)?;
        let path = folder.join(NAME);
        let header = Header {
            format: FORMAT.into(),
            version: VERSION,
            tagger: finder.tagger().source().into(),
            settings: format!("{:016x}", finder.fingerprint()),
        };
        let entries = match fs::read_to_string(&path) {
            Ok(text) => entries(&path, &text, &header)?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(reason) => return Err(Error::Io { path, reason }),
        };
        let header = line(&header);
        write_file_atomically(&path, text_of(&header, &entries).as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(shard_writer::at("open", &path))?;
        Ok(Journal { path, header, entries, file, _lock: lock })
    }

    /// The entry of a shard that is complete.
    pub(super) fn get(&self, shard: &str) -> Option<&ShardEntry> {
        self.entries.get(shard)
    }

    /// A shard is complete.
    ///
    /// # Errors
    ///
    /// When the line cannot be written.
    pub(super) fn append(&mut self, entry: ShardEntry) -> Result<(), Error> {
        let written = self.file.write_all(line(&entry).as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(shard_writer::at("write", &self.path))?;
        self.entries.insert(entry.shard.clone(), entry);
        Ok(())
    }

    /// Writes the lines in the order of the shards' names: the same text whatever order they were made in.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(super) fn finish(self) -> Result<(), Error> {
        Ok(write_file_atomically(&self.path, text_of(&self.header, &self.entries).as_bytes())?)
    }
}

/// The folder itself, so that nothing is left behind: the system gives up the lock when the run ends, however it does.
fn locked(folder: &Path) -> Result<File, Error> {
    let file = File::open(folder).map_err(shard_writer::at("open", folder))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(reason)) if reason.kind() == ErrorKind::Unsupported => {
            tracing::warn!("{} cannot be locked; let no other run write phrases to it", folder.display());
            Ok(file)
        }
        Err(TryLockError::Error(reason)) => Err(shard_writer::at("lock", folder)(reason).into()),
        Err(TryLockError::WouldBlock) => {
            let problem = "another run is writing phrases to it; wait for its end, or give another folder".into();
            Err(shard_writer::Error::Invalid { path: folder.into(), problem }.into())
        }
    }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("lines of the journal are plain data") + "\n"
}

fn text_of(header: &str, entries: &BTreeMap<String, ShardEntry>) -> String {
    entries.values().fold(header.to_owned(), |text, entry| text + &line(entry))
}

fn entries(path: &Path, text: &str, expected: &Header) -> Result<BTreeMap<String, ShardEntry>, Error> {
    let unusable = |number: u64, reason: String| Error::Annotations { path: path.into(), line: Some(number), reason };
    // Every whole line ends with a line break; what comes behind the last one was cut off.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let mut lines = whole.lines().zip(1..);
    let Some((first, _)) = lines.next() else {
        return Ok(BTreeMap::new());
    };
    let header: Header = serde_json::from_str(first).map_err(|error| unusable(1, error.to_string()))?;
    if header.format != expected.format || header.version != expected.version {
        return Err(unusable(1, format!("it is a `{}` of version {}", header.format, header.version)));
    }
    if header.settings != expected.settings {
        let reason = format!(
            "the phrases of this folder were made with other settings (tagger {}, {}; now {}, {}); give another \
             folder, or delete its shards and this file",
            header.tagger, header.settings, expected.tagger, expected.settings
        );
        return Err(unusable(1, reason));
    }
    lines
        .map(|(line, number)| {
            let entry: ShardEntry = serde_json::from_str(line).map_err(|error| unusable(number, error.to_string()))?;
            Ok((entry.shard.clone(), entry))
        })
        .collect()
}
