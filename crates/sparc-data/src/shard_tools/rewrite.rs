//! A shard again, with other records: everything else is copied byte for byte, headers included.
//!
//! This is the way into shards for whatever annotates samples: it gets the members that it asks for and gives the
//! new record. A shard appears under its name when it is complete.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::grouping::{Content, Group, Grouping, is_sample_member};
use crate::shard_writer;
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};
use crate::tar_members::{MemberData, TarMembers};

const BLOCK: u64 = 512;
const BUFFER_BYTES: usize = 1 << 20;
/// The two blocks of zeros that end an archive.
const END: [u8; 1024] = [0; 1024];

/// What came of a shard.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub(super) samples: u64,
    /// Bytes of the new shard.
    pub(super) bytes: u64,
    /// What could not be read. A sample that could not be annotated is there as it was; one that a cut goes
    /// through is not.
    pub(super) skips: Vec<Skip>,
}

/// A member that has been read, and where.
struct Part {
    bytes: Vec<u8>,
    header: u64,
    /// Whether another header holds its size, which cannot be changed here.
    sized_by_pax: bool,
}

/// Copies the shard `input` to `output`, with the record that `record_of` gives for each sample, of which it sees
/// the members `wanted`; `json` must be one of them. `read` is told the bytes that have been copied, again and
/// again.
///
/// # Errors
///
/// A shard that cannot be read or written. `output` is then what it was before.
pub(super) fn rewrite_shard(
    input: &Path,
    output: &Path,
    wanted: &'static [&'static str],
    mut record_of: impl FnMut(&RawSample) -> Result<Vec<u8>, Skip>,
    read: &dyn Fn(u64),
) -> Result<Rewritten, Error> {
    let io = |reason| Error::Io { path: input.into(), reason };
    let file = File::open(input).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut tar = TarMembers::new(BufReader::with_capacity(BUFFER_BYTES, file), Some(length));
    let mut copy = Copy::new(input, output, read)?;
    let mut grouping: Grouping<Part> = Grouping::new(Some(wanted));
    let mut rewritten = Rewritten { samples: 0, bytes: 0, skips: Vec::new() };
    let shard: Arc<str> = input.to_string_lossy().into();
    // Ends of the last member of a sample, and of the last sample that is whole.
    let (mut member_end, mut whole_end) = (0, 0);
    // A record that is too large to be read may get no second one beside it.
    let mut unread_record = false;
    let mut annotate = |group: Group<Part>, end: u64, unread: bool, skips: &mut Vec<Skip>| -> Result<(), Error> {
        if unread {
            return Ok(());
        }
        let old = group.members.get("json").map(|part| (part.header, part.bytes.len() as u64));
        let is_fixed = group.members.get("json").is_some_and(|part| part.sized_by_pax);
        let members = group.members.into_iter().map(|(extension, part)| (extension, part.bytes)).collect();
        let sample = RawSample { shard: shard.clone(), key: group.key, members };
        if is_fixed {
            let detail = "the size of the .json member stands in a PAX header; write the shard anew without those";
            skips.push(sample.skip(SkipReason::BadJson, detail));
            return Ok(());
        }
        match (record_of(&sample), old) {
            (Err(skip), _) => {
                skips.push(skip);
                Ok(())
            }
            (Ok(record), Some((header, size))) => copy.replace(header, size, &record),
            (Ok(record), None) => copy.insert(end, &format!("{}.json", sample.key), &record),
        }
    };
    let cut = loop {
        match tar.next(|name| grouping.wish(name)) {
            Ok(Some(member)) => {
                let header = member.offset - BLOCK;
                let content = match member.data {
                    MemberData::Read(bytes) => Content::Kept(Part { bytes, header, sized_by_pax: member.sized_by_pax }),
                    MemberData::Unwanted => Content::Unwanted,
                    MemberData::TooLarge(_) => Content::TooLarge,
                };
                let pushed = grouping.push(&member.name, member.size, content);
                if let Some(group) = pushed.finished {
                    annotate(group, member_end, unread_record, &mut rewritten.skips)?;
                    (rewritten.samples, whole_end, unread_record) = (rewritten.samples + 1, member_end, false);
                }
                if let Some((reason, key, detail)) = pushed.skip {
                    let is_record = member.name.to_ascii_lowercase().ends_with(".json");
                    unread_record |= is_record && reason == SkipReason::MemberTooLarge;
                    rewritten.skips.push(Skip { reason, shard: shard.to_string(), key, detail });
                }
                if is_sample_member(&member.name) {
                    member_end = member.offset + member.size.next_multiple_of(BLOCK);
                }
            }
            Ok(None) if tar.ended() => break None,
            Ok(None) => break Some("the shard ends without its end marker".into()),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) => {
                break Some(error.to_string());
            }
            Err(error) => return Err(io(error)),
        }
    };
    let last = grouping.finish();
    match (cut, last) {
        (None, last) => {
            if let Some(group) = last {
                annotate(group, member_end, unread_record, &mut rewritten.skips)?;
                rewritten.samples += 1;
            }
            copy.up_to(length)?;
        }
        (Some(detail), last) => {
            let key = last.map(|group| group.key).unwrap_or_default();
            let reason = SkipReason::ShardCutOff;
            rewritten.skips.push(Skip { reason, shard: shard.to_string(), key, detail });
            copy.up_to(whole_end)?;
            copy.write(&END)?;
        }
    }
    rewritten.bytes = copy.finish()?;
    Ok(rewritten)
}

/// A file that takes over another's bytes in order, with changes.
struct Copy<'a> {
    input: PathBuf,
    from: File,
    /// Bytes of the input that have been taken over or left out.
    done: u64,
    output: PathBuf,
    temporary: PathBuf,
    to: Option<BufWriter<File>>,
    written: u64,
    read: &'a dyn Fn(u64),
}

impl<'a> Copy<'a> {
    fn new(input: &Path, output: &Path, read: &'a dyn Fn(u64)) -> Result<Copy<'a>, Error> {
        let temporary = PathBuf::from(format!("{}.tmp", output.display()));
        let from = File::open(input).map_err(|reason| Error::Io { path: input.into(), reason })?;
        let to = File::create(&temporary).map_err(shard_writer::at("create", &temporary))?;
        Ok(Copy {
            input: input.into(),
            from,
            done: 0,
            output: output.into(),
            temporary,
            to: Some(BufWriter::with_capacity(BUFFER_BYTES, to)),
            written: 0,
            read,
        })
    }

    fn input_failed(&self, reason: io::Error) -> Error {
        Error::Io { path: self.input.clone(), reason }
    }

    /// Takes over what comes before `place`.
    fn up_to(&mut self, place: u64) -> Result<(), Error> {
        let mut left = place.saturating_sub(self.done);
        let mut buffer = vec![0; usize::try_from(left).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES)];
        while left > 0 {
            let some = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.from.read_exact(&mut buffer[..some]).map_err(|reason| self.input_failed(reason))?;
            self.write(&buffer[..some])?;
            (self.read)(some as u64);
            left -= some as u64;
        }
        self.done = self.done.max(place);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        let Some(to) = &mut self.to else { return Ok(()) };
        to.write_all(bytes).map_err(shard_writer::at("write", &self.temporary)).map_err(Error::from)
    }

    /// Writes bytes and fills up the block.
    fn write_padded(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.write(bytes)?;
        let rest = bytes.len().next_multiple_of(BLOCK as usize) - bytes.len();
        self.write(&END[..rest])
    }

    /// Another content for the member of `size` bytes whose header is at `header`.
    fn replace(&mut self, header: u64, size: u64, content: &[u8]) -> Result<(), Error> {
        self.up_to(header)?;
        let mut block = [0; BLOCK as usize];
        self.from.read_exact(&mut block).map_err(|reason| self.input_failed(reason))?;
        seal(&mut block, content.len());
        self.write(&block)?;
        self.write_padded(content)?;
        let end = header + BLOCK + size.next_multiple_of(BLOCK);
        self.from.seek(SeekFrom::Start(end)).map_err(|reason| self.input_failed(reason))?;
        (self.read)(end - header);
        self.done = end;
        Ok(())
    }

    /// A member more at `place`.
    fn insert(&mut self, place: u64, name: &str, content: &[u8]) -> Result<(), Error> {
        self.up_to(place)?;
        if name.len() > NAME_BYTES {
            // As GNU tar writes long names: as the content of a member before.
            self.write(&new_header("././@LongLink", b'L', name.len() + 1))?;
            self.write_padded(&[name.as_bytes(), &[0]].concat())?;
        }
        self.write(&new_header(name, b'0', content.len()))?;
        self.write_padded(content)
    }

    /// Gives the file its name; its bytes.
    fn finish(mut self) -> Result<u64, Error> {
        let Some(to) = self.to.take() else { return Ok(self.written) };
        let file = to.into_inner().map_err(|error| shard_writer::at("write", &self.temporary)(error.into_error()))?;
        shard_writer::publish(&file, &self.temporary, &self.output)?;
        Ok(self.written)
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        // What has been published is no longer there.
        let _ = fs::remove_file(&self.temporary);
    }
}

const NAME_BYTES: usize = 100;
const SIZE: std::ops::Range<usize> = 124..136;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Sets the size and, last, the checksum of a header.
fn seal(header: &mut [u8; BLOCK as usize], size: usize) {
    header[SIZE].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[CHECKSUM].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn new_header(name: &str, kind: u8, size: usize) -> [u8; BLOCK as usize] {
    let mut header = [0; BLOCK as usize];
    let name = &name.as_bytes()[..name.len().min(NAME_BYTES)];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    header[136..148].copy_from_slice(b"00000000000\0");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut header, size);
    header
}
