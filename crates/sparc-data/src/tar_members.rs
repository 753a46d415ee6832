//! The regular files of a tar archive, read forward: ustar, GNU long names and base-256 sizes, PAX paths
//! and sizes. What is not wanted or is too large is passed over without being read.
//!
//! An archive is input from outside. Nothing is allocated on a header's word alone beyond the limit that
//! the caller sets, every loop ends with the file, and a broken header is an error, not a panic.

use std::io::{self, BufRead, Seek, SeekFrom};

const BLOCK: usize = 512;
/// Longest name or PAX header that is read; longer ones are an error. Paths have at most 4,096 bytes.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// One regular file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TarMember {
    pub(crate) name: String,
    /// Where its bytes begin in the archive; its header is the block before.
    pub(crate) offset: u64,
    /// How many bytes it has.
    pub(crate) size: u64,
    /// Whether the size stands in a PAX header before its own.
    pub(crate) sized_by_pax: bool,
    pub(crate) data: MemberData,
}

/// What became of a member's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum MemberData {
    Read(Vec<u8>),
    /// Passed over, as the caller wished.
    Unwanted,
    /// Passed over, because it has this many bytes.
    TooLarge(u64),
}

/// What the caller wants of a member.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wish {
    Skip,
    /// Read it if it has at most this many bytes.
    Read {
        limit: u64,
    },
}

/// Reads members one after the other.
pub(crate) struct TarMembers<R> {
    reader: R,
    /// Bytes of the archive up to here.
    position: u64,
    /// Bytes of the whole archive, if known; a size beyond them is a broken header.
    length: u64,
    ended: bool,
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

impl<R: BufRead + Seek> TarMembers<R> {
    /// From an archive of `length` bytes, or of as many as there are.
    pub(crate) fn new(reader: R, length: Option<u64>) -> TarMembers<R> {
        TarMembers { reader, position: 0, length: length.unwrap_or(u64::MAX), ended: false }
    }

    /// Whether the archive's end marker has been seen, which every whole tar has: a download that stopped
    /// between two members looks like one that is complete otherwise.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// What it reads from.
    pub(crate) fn reader_mut(&mut self) -> &mut R {
        &mut self.reader
    }

    fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    /// The next regular file, or `None` at the end of the archive; `wish` is asked for each name.
    pub(crate) fn next(&mut self, mut wish: impl FnMut(&str) -> Wish) -> io::Result<Option<TarMember>> {
        let (mut name, mut size) = (None, None);
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let own_size = number(&header[124..136]).ok_or_else(|| invalid("the tar header has no readable size"))?;
            match header[156] {
                b'L' => name = Some(text(&self.take(own_size, MAX_HEADER_BYTES)?)),
                b'x' | b'X' => {
                    for (key, value) in pax_records(&self.take(own_size, MAX_HEADER_BYTES)?) {
                        match key.as_slice() {
                            b"path" => name = Some(text(&value)),
                            b"size" => size = std::str::from_utf8(&value).ok().and_then(|value| value.parse().ok()),
                            _ => {}
                        }
                    }
                }
                // The present and the historic mark of a regular file, and a contiguous one.
                b'0' | 0 | b'7' => {
                    let name = name.take().unwrap_or_else(|| name_of(&header));
                    let sized_by_pax = size.is_some();
                    let size = size.unwrap_or(own_size);
                    self.check(size)?;
                    let offset = self.position;
                    let data = match wish(&name) {
                        Wish::Skip => MemberData::Unwanted,
                        Wish::Read { limit } if size > limit => MemberData::TooLarge(size),
                        Wish::Read { limit } => MemberData::Read(self.take(size, limit)?),
                    };
                    if !matches!(data, MemberData::Read(_)) {
                        self.pass(padded(size))?;
                    }
                    return Ok(Some(TarMember { name, offset, size, sized_by_pax, data }));
                }
                // Long link names and the archive's own headers belong to no file of ours; folders, links
                // and devices are no samples.
                kind => {
                    self.pass(padded(own_size))?;
                    if !matches!(kind, b'K' | b'g') {
                        (name, size) = (None, None);
                    }
                }
            }
        }
    }

    /// The next header; `None` at the end marker or the end of the file.
    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut header = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut header[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match filled {
            0 => return Ok(None),
            BLOCK => self.position += BLOCK as u64,
            _ => return Err(invalid(format!("the archive ends inside a header, {filled} of {BLOCK} bytes"))),
        }
        if header == [0; BLOCK] {
            self.ended = true;
            return Ok(None);
        }
        let stored = number(&header[148..156]);
        let sum = |byte_value: fn(u8) -> i64| {
            let field = 148..156;
            let value = |(index, &byte): (usize, &u8)| if field.contains(&index) { 32 } else { byte_value(byte) };
            header.iter().enumerate().map(value).sum::<i64>()
        };
        // Some old programs added signed bytes.
        let sums = [sum(i64::from), sum(|byte| i64::from(byte as i8))];
        match stored.and_then(|stored| i64::try_from(stored).ok()) {
            Some(stored) if sums.contains(&stored) => Ok(Some(header)),
            _ => Err(invalid("the tar header's checksum is wrong")),
        }
    }

    fn check(&self, size: u64) -> io::Result<()> {
        if size > self.remaining() {
            return Err(invalid(format!("the tar header names {size} bytes, and {} are left", self.remaining())));
        }
        Ok(())
    }

    fn take(&mut self, size: u64, limit: u64) -> io::Result<Vec<u8>> {
        self.check(size)?;
        if size > limit {
            return Err(invalid(format!("a tar header of {size} bytes")));
        }
        let mut data = vec![0; size as usize];
        self.reader.read_exact(&mut data)?;
        self.position += size;
        self.pass(padded(size) - size)?;
        Ok(data)
    }

    fn pass(&mut self, size: u64) -> io::Result<()> {
        self.check(size)?;
        self.position += size;
        // Inside the buffer where possible, and at worst one seek.
        if let Ok(small) = usize::try_from(size)
            && self.reader.fill_buf()?.len() >= small
        {
            self.reader.consume(small);
            return Ok(());
        }
        self.reader.seek(SeekFrom::Current(i64::try_from(size).map_err(|_| invalid("an endless member"))?))?;
        Ok(())
    }
}

fn padded(size: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn name_of(header: &[u8; BLOCK]) -> String {
    let name = text(&header[..100]);
    let prefix = if header[257..].starts_with(b"ustar") { text(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// A number in octal digits, or in base 256 where the first bit is set (GNU).
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // Without the mark; eight bytes are as much as a file can have.
        let digits = std::iter::once(field[0] & 0x7f).chain(field[1..].iter().copied());
        return digits.into_iter().try_fold(0u64, |value, byte| Some(value.checked_mul(256)? | u64::from(byte)));
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// `length key=value\n`, again and again; what is malformed ends the list.
fn pax_records(mut bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some(space) = bytes.iter().position(|&byte| byte == b' ') {
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let Some(record) = length.and_then(|length| bytes.get(space + 1..length)) else {
            break;
        };
        if let Some(equals) = record.iter().position(|&byte| byte == b'=') {
            let value = record[equals + 1..].strip_suffix(b"\n").unwrap_or(&record[equals + 1..]);
            records.push((record[..equals].to_vec(), value.to_vec()));
        }
        bytes = &bytes[space + 1 + record.len()..];
    }
    records
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn block(name: &str, kind: u8, size: &[u8], data: &[u8]) -> Vec<u8> {
        let mut header = [0u8; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..124 + size.len()].copy_from_slice(size);
        header[156] = kind;
        header[257..263].copy_from_slice(b"ustar\0");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut bytes = header.to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn octal(size: usize) -> Vec<u8> {
        format!("{size:011o}\0").into_bytes()
    }

    fn file(name: &str, data: &[u8]) -> Vec<u8> {
        block(name, b'0', &octal(data.len()), data)
    }

    fn read(bytes: &[u8], limit: u64) -> Vec<Result<TarMember, String>> {
        let mut members = TarMembers::new(Cursor::new(bytes), Some(bytes.len() as u64));
        let mut found = Vec::new();
        loop {
            match members.next(|name| if name.ends_with(".npy") { Wish::Skip } else { Wish::Read { limit } }) {
                Ok(Some(member)) => found.push(Ok(member)),
                Ok(None) => return found,
                Err(error) => {
                    found.push(Err(error.to_string()));
                    return found;
                }
            }
        }
    }

    fn names(found: &[Result<TarMember, String>]) -> Vec<&str> {
        found.iter().map(|member| member.as_ref().unwrap().name.as_str()).collect()
    }

    #[test]
    fn long_names_come_from_gnu_and_pax_headers() {
        let long = "d/".repeat(80) + "a.txt";
        let record = format!("{} path={long}\n", long.len() + 10);
        let archive = [
            block("././@LongLink", b'L', &octal(long.len() + 1), format!("{long}\0").as_bytes()),
            file("cut", b"1"),
            block("pax", b'x', &octal(record.len()), record.as_bytes()),
            file("cut", b"2"),
            block("folder/", b'5', &octal(0), b""),
            file("b.txt", b"3"),
            vec![0; 1024],
        ]
        .concat();
        assert_eq!(names(&read(&archive, 100)), [long.as_str(), long.as_str(), "b.txt"]);
    }

    #[test]
    fn large_and_unwanted_members_are_passed_over() {
        let archive =
            [file("a.npy", &[1; 5_000]), file("b.jpg", &[2; 700]), file("c.txt", b"hi"), vec![0; 512]].concat();
        let found: Vec<TarMember> = read(&archive, 600).into_iter().map(Result::unwrap).collect();
        assert_eq!(found[0].data, MemberData::Unwanted);
        assert_eq!(found[1].data, MemberData::TooLarge(700));
        assert_eq!(found[2].data, MemberData::Read(b"hi".to_vec()));
    }

    #[test]
    fn sizes_beyond_the_file_are_errors_at_once() {
        let huge = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for size in [huge.to_vec(), [0xff; 12].to_vec(), octal(1 << 30), b"9z9\0".to_vec()] {
            let found = read(&block("a.jpg", b'0', &size, b""), u64::MAX);
            assert!(found[0].is_err(), "{found:?}");
            assert!(read(&block("a.jpg", b'L', &size, b""), u64::MAX)[0].is_err());
            assert!(read(&block("a.jpg", b'5', &size, b""), u64::MAX)[0].is_err());
        }
        let record = b"27 size=18446744073709551615\n";
        let archive = [block("pax", b'x', &octal(record.len()), record), file("a.jpg", b"")].concat();
        assert!(read(&archive, 100)[0].is_err());
    }

    #[test]
    fn base_256_sizes_are_read() {
        let mut size = vec![0x80; 1];
        size.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        let found = read(&block("a.txt", b'0', &size, b"abc"), 100);
        assert_eq!(found[0].as_ref().unwrap().data, MemberData::Read(b"abc".to_vec()));
    }

    #[test]
    fn broken_headers_are_errors() {
        let mut archive = file("a.txt", b"one");
        archive[5] ^= 1;
        assert!(read(&archive, 100)[0].as_ref().unwrap_err().contains("checksum"));
        assert!(read(&file("a.txt", b"one")[..300], 100)[0].as_ref().unwrap_err().contains("inside a header"));
    }
}
