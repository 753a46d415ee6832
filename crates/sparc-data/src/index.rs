//! The index of a shard: which members lie where, so that samples can be passed over unread.
//!
//! Format and rules: `docs/formats/shards.md`. An index is a promise about layout alone. Its shard's
//! length is compared when it is opened and each member's header when the member is read, so the index of
//! another shard, or of this one before it was written anew, gives an error and no wrong sample.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::grouping::{Content, Group, Grouping, MAX_SAMPLE_BYTES};
use crate::shards::RawSample;
use crate::skips::Skip;
use crate::source::{Fetcher, Source};
use crate::tar_members::{MemberData, TarMembers, Wish};

/// What is appended to a shard's name.
pub const SUFFIX: &str = ".index";
const FORMAT: &str = "sparc shard index";
const VERSION: u32 = 1;
/// Larger indices are not read: room for some five million members.
const MAX_INDEX_BYTES: u64 = 256 << 20;
const BLOCK: u64 = 512;

/// The first line of an index.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    /// Bytes of the shard.
    length: u64,
    members: usize,
}

/// A line of an index: name, place of the first byte, number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line(String, u64, u64);

/// What [`write_index`] has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexSummary {
    /// The index.
    pub path: PathBuf,
    /// Samples in the shard.
    pub samples: u64,
    /// Members of the shard.
    pub members: u64,
}

/// Writes the index of a shard beside it, complete or not at all. Only headers are read.
///
/// # Errors
///
/// A shard that cannot be read to its end marker, or an index that cannot be written.
pub fn write_index(shard: &Path) -> Result<IndexSummary, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |reason| Error::Io { path, reason }
    };
    let broken = |reason: String| Error::Index { shard: shard.display().to_string(), reason };
    let reader = Fetcher::default().open(&Source::File(shard.into())).map_err(io(shard))?;
    let length = reader.length().unwrap_or(0);
    let mut tar = TarMembers::new(reader, Some(length));
    let (mut lines, mut grouping, mut samples) = (Vec::new(), Grouping::new(None), 0);
    while let Some(member) = tar.next(|_| Wish::Skip).map_err(|error| broken(error.to_string()))? {
        samples += u64::from(grouping.push(&member.name, member.size, Content::Kept(())).finished.is_some());
        lines.push(Line(member.name, member.offset, member.size));
    }
    if !tar.ended() {
        return Err(broken("it ends without its end marker: it is cut off".into()));
    }
    samples += u64::from(grouping.finish().is_some());

    let header = Header { format: FORMAT.into(), version: VERSION, length, members: lines.len() };
    let mut text = line_of(&header);
    lines.iter().for_each(|line| text.push_str(&line_of(line)));
    let path = PathBuf::from(format!("{}{SUFFIX}", shard.display()));
    let temporary = PathBuf::from(format!("{}.tmp", path.display()));
    File::create(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(io(&path))?;
    Ok(IndexSummary { path, samples, members: lines.len() as u64 })
}

fn line_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("lines of an index are plain data") + "\n"
}

/// Where a member lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    offset: u64,
    size: u64,
}

/// A sample of which places are known, and nothing has been read.
#[derive(Debug, Clone)]
pub(crate) struct PlacedSample {
    source: Arc<Source>,
    key: String,
    members: HashMap<String, Span>,
    bytes: u64,
}

/// The samples that an index of `source` names, in order; what would be skipped in reading is skipped
/// here. `None` if there is no index, or, with a warning, none that fits.
///
/// # Errors
///
/// A server that does not say whether there is an index.
pub(crate) fn placed_samples(
    source: &Source,
    fetcher: &Fetcher,
    wanted: &'static [&'static str],
) -> Result<Option<Vec<Result<PlacedSample, Skip>>>, Error> {
    let beside = match source {
        Source::File(path) => Source::File(format!("{}{SUFFIX}", path.display()).into()),
        Source::Object(url) => {
            let mut url = url.clone();
            url.set_path(&format!("{}{SUFFIX}", url.path()));
            Source::Object(url)
        }
        Source::Table(_) | Source::Pipe(_) => return Ok(None),
    };
    let read = fetcher.read_small(&beside, MAX_INDEX_BYTES);
    let Some(bytes) = read.map_err(|reason| Error::Io { path: beside.to_string().into(), reason })? else {
        return Ok(None);
    };
    let io = |reason| Error::Io { path: source.to_string().into(), reason };
    let length = fetcher.length(source).map_err(io)?;
    match parse(&bytes, length.unwrap_or(0)) {
        Ok(lines) => Ok(Some(place(&Arc::new(source.clone()), lines, wanted))),
        Err(reason) => {
            tracing::warn!("the index {beside} is not used: {reason}; `sparc shards index` writes it again");
            Ok(None)
        }
    }
}

/// The lines of an index, checked against the length of its shard.
fn parse(bytes: &[u8], length: u64) -> Result<Vec<Line>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let (first, rest) = text.split_once('\n').ok_or("it is cut off")?;
    let header: Header = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
    if header.format != FORMAT || header.version != VERSION {
        return Err(format!("it is a `{}` of version {}", header.format, header.version));
    }
    if header.length != length {
        return Err(format!("it is of a shard with {} bytes, and this one has {length}", header.length));
    }
    let (mut lines, mut end) = (Vec::new(), 0);
    for (index, line) in rest.lines().enumerate() {
        let line: Line = serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 2))?;
        // In order, each behind its header, all inside the shard.
        let fits = line.1.checked_sub(BLOCK).is_some_and(|header| header >= end);
        end =
            line.1.checked_add(line.2).filter(|&end| fits && end <= length).ok_or_else(|| {
                format!("line {}: {} bytes at {} do not fit into the shard", index + 2, line.2, line.1)
            })?;
        lines.push(line);
    }
    match lines.len() == header.members {
        true => Ok(lines),
        false => Err(format!("it has {} lines of {}", lines.len(), header.members)),
    }
}

fn place(source: &Arc<Source>, lines: Vec<Line>, wanted: &'static [&'static str]) -> Vec<Result<PlacedSample, Skip>> {
    let shard = source.to_string();
    let sample = |group: Group<Span>| PlacedSample {
        source: source.clone(),
        bytes: group.bytes(),
        key: group.key,
        members: group.members,
    };
    let mut samples = Vec::new();
    let mut grouping = Grouping::new(Some(wanted));
    for Line(name, offset, size) in lines {
        let content = match grouping.wish(&name) {
            Wish::Skip => Content::Unwanted,
            Wish::Read { limit } if size > limit => Content::TooLarge,
            Wish::Read { .. } => Content::Kept(Span { offset, size }),
        };
        let pushed = grouping.push(&name, size, content);
        samples.extend(pushed.finished.map(|group| Ok(sample(group))));
        samples
            .extend(pushed.skip.map(|(reason, key, detail)| Err(Skip { reason, shard: shard.clone(), key, detail })));
    }
    samples.extend(grouping.finish().map(|group| Ok(sample(group))));
    samples
}

impl PlacedSample {
    /// Bytes of all members.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads the members.
    ///
    /// # Errors
    ///
    /// A disk or server that does not give them, or a shard that has something else there.
    pub(crate) fn read(self, fetcher: &Fetcher) -> Result<RawSample, Error> {
        let mut spans: Vec<(String, Span)> = self.members.into_iter().collect();
        spans.sort_by_key(|(_, span)| span.offset);
        let mut members = HashMap::with_capacity(spans.len());
        let mut run: Vec<(String, Span)> = Vec::new();
        for span in spans {
            if run.last().is_some_and(|(_, last)| span.1.offset - (last.offset + last.size) > NEAR) {
                read_run(&self.source, &self.key, &std::mem::take(&mut run), &mut members, fetcher)?;
            }
            run.push(span);
        }
        if !run.is_empty() {
            read_run(&self.source, &self.key, &run, &mut members, fetcher)?;
        }
        Ok(RawSample { shard: self.source.to_string().into(), key: self.key, members })
    }
}

/// Members nearer than this are read at once, with what lies between them.
const NEAR: u64 = 64 << 10;

fn read_run(
    source: &Source,
    key: &str,
    run: &[(String, Span)],
    members: &mut HashMap<String, Vec<u8>>,
    fetcher: &Fetcher,
) -> Result<(), Error> {
    let stale = |reason: String| Error::StaleIndex { index: format!("{source}{SUFFIX}"), reason };
    let (first, last) = (run[0].1, run[run.len() - 1].1);
    let start = first.offset - BLOCK;
    let length = (last.offset + last.size).next_multiple_of(BLOCK) - start;
    debug_assert!(length <= MAX_SAMPLE_BYTES + NEAR * run.len() as u64 + BLOCK * 2);
    let bytes = fetcher
        .read_at(source, start, length as usize)
        .map_err(|reason| Error::Read { shard: source.to_string(), reason: reason.to_string() })?;
    for (extension, span) in run {
        let archive = &bytes[(span.offset - BLOCK - start) as usize..];
        let member = TarMembers::new(Cursor::new(archive), Some(archive.len() as u64))
            .next(|_| Wish::Read { limit: span.size })
            .map_err(|error| stale(format!("{key}.{extension}: {error}")))?;
        // A long name, or one beyond ASCII, stands in a header of its own, before this one.
        let whole = format!("{key}.{extension}");
        let same = |name: &str| name.starts_with(key) && name.eq_ignore_ascii_case(&whole);
        let fits = |name: &str| same(name) || !whole.is_ascii() || whole.len() >= 100;
        match member {
            Some(member) if member.size == span.size && fits(&member.name) => match member.data {
                MemberData::Read(data) => members.insert(extension.clone(), data),
                MemberData::Unwanted | MemberData::TooLarge(_) => None,
            },
            Some(member) => {
                return Err(stale(format!("{key}.{extension}: there is `{}` of {} bytes", member.name, member.size)));
            }
            None => return Err(stale(format!("{key}.{extension}: the shard ends there"))),
        };
    }
    Ok(())
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
