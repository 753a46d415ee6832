//! Which shards there are, and what samples a shard holds.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use webdataset::core::{base_plus_ext, braceexpand};

use crate::error::Error;
use crate::skips::{Skip, SkipReason};
use crate::tar_members::{MemberData, TarMember, TarMembers, Wish};

/// Expands a list of shard patterns: `a::b` joins, `{000..011}` ranges and alternatives, `*` and `?`
/// in the file name. The result is in the order of the patterns, sorted within a wildcard.
///
/// # Errors
///
/// A malformed pattern, one that matches nothing, or a shard that does not exist.
pub fn expand_shards(patterns: &str) -> Result<Vec<PathBuf>, Error> {
    let mut shards = Vec::new();
    for pattern in patterns.split("::") {
        let failed = |reason: String| Error::Pattern { pattern: pattern.into(), reason };
        if pattern.trim().is_empty() {
            return Err(failed("it is empty".into()));
        }
        for path in braceexpand(pattern).map_err(|error| failed(error.to_string()))? {
            if path.contains(['*', '?']) {
                let matches = expand_wildcard(Path::new(&path))?;
                if matches.is_empty() {
                    return Err(failed(format!("no file matches {path}")));
                }
                shards.extend(matches);
            } else if Path::new(&path).is_file() {
                shards.push(path.into());
            } else {
                return Err(Error::MissingShard { path: path.into(), pattern: pattern.into() });
            }
        }
    }
    Ok(shards)
}

fn expand_wildcard(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wildcard = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let io = |reason| Error::Io { path: folder.into(), reason };
    let mut matches = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        if matches_wildcard(wildcard.as_bytes(), entry.file_name().to_string_lossy().as_bytes()) {
            matches.push(path.with_file_name(entry.file_name()));
        }
    }
    matches.sort();
    Ok(matches)
}

/// `*` stands for any run of characters, `?` for one. Linear in time but for the last star.
fn matches_wildcard(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p, n));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[n]) {
            p += 1;
            n += 1;
        } else if let Some((star_p, star_n)) = star {
            star = Some((star_p, star_n + 1));
            p = star_p + 1;
            n = star_n + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// One sample as it lies in its shard: members by extension, still encoded.
#[derive(Debug, Clone)]
pub struct RawSample {
    /// The shard's path.
    pub shard: Arc<str>,
    /// Path of the members up to the first dot of the base name.
    pub key: String,
    /// Bytes by lower-case extension, such as `jpg` or `seg.png`.
    pub members: HashMap<String, Vec<u8>>,
}

impl RawSample {
    /// Bytes of all members.
    pub fn bytes(&self) -> u64 {
        self.members.values().map(|data| data.len() as u64).sum()
    }

    /// A skip of this sample.
    pub fn skip(&self, reason: SkipReason, detail: impl ToString) -> Skip {
        Skip { reason, shard: self.shard.to_string(), key: self.key.clone(), detail: detail.to_string() }
    }
}

/// Extensions of the members that training reads.
pub const TRAINING_MEMBERS: [&str; 6] = ["jpg", "jpeg", "png", "webp", "txt", "json"];
/// Extensions of the members that evaluation reads.
pub const EVALUATION_MEMBERS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "txt", "json", "cls", "seg.png"];
/// Members with more bytes are left out: 25 million pixels take at most as much.
pub const MAX_MEMBER_BYTES: u64 = 256 << 20;
/// Members that make a sample larger than this are left out.
pub const MAX_SAMPLE_BYTES: u64 = 512 << 20;

/// The samples of one shard in order. Two neighbouring members with the same key belong together.
///
/// A shard that is cut off yields what stands before the cut, without the sample that the cut goes
/// through, and then one [`Skip`].
pub struct ShardSamples {
    shard: Arc<str>,
    members: TarMembers<BufReader<File>>,
    wanted: Option<&'static [&'static str]>,
    current: Option<RawSample>,
    pending: Option<Skip>,
    done: bool,
    has_end: bool,
}

impl ShardSamples {
    /// Opens a shard.
    ///
    /// # Errors
    ///
    /// The system's reason, naming the shard.
    pub fn open(path: &Path) -> Result<ShardSamples, Error> {
        let io = |reason| Error::Io { path: path.into(), reason };
        let mut file = File::open(path).map_err(io)?;
        let has_end = has_end_marker(&mut file).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Ok(ShardSamples {
            shard: path.to_string_lossy().into(),
            members: TarMembers::new(BufReader::with_capacity(1 << 20, file), length),
            wanted: None,
            current: None,
            pending: None,
            done: false,
            has_end,
        })
    }

    /// Reads members of these extensions only (in lower case); the others are passed over.
    pub fn keeping(mut self, extensions: &'static [&'static str]) -> ShardSamples {
        self.wanted = Some(extensions);
        self
    }

    /// The shard is cut off: the sample under way may have lost members and is dropped.
    fn cut_off(&mut self, detail: &str) -> Skip {
        let key = self.current.take().map(|sample| sample.key).unwrap_or_default();
        let (shard, detail) = (self.shard.to_string(), detail.to_owned());
        Skip { reason: SkipReason::ShardCutOff, shard, key, detail }
    }

    fn next_member(&mut self) -> Option<std::io::Result<TarMember>> {
        let ShardSamples { members, wanted, current, .. } = self;
        members.next(|name| wish(name, *wanted, current.as_ref())).transpose()
    }

    /// Adds a member; gives the sample before it if this one starts another.
    fn push(&mut self, name: &str, data: MemberData) -> Option<RawSample> {
        let (key, extension) = base_plus_ext(name)?;
        // `__index__` and the like describe the shard, not a sample.
        if key.rsplit('/').next().is_some_and(|base| base.starts_with("__")) {
            return None;
        }
        let extension = extension.to_ascii_lowercase();
        let finished = if self.current.as_ref().is_some_and(|sample| sample.key == key) {
            None
        } else {
            let next = RawSample { shard: self.shard.clone(), key: key.into(), members: HashMap::new() };
            self.current.replace(next)
        };
        if let Some(sample) = &mut self.current {
            let (reason, detail) = match (data, sample.members.entry(extension)) {
                (MemberData::Unwanted, _) => return finished,
                (MemberData::Read(data), Entry::Vacant(place)) => {
                    place.insert(data);
                    return finished;
                }
                (MemberData::Read(_), Entry::Occupied(place)) => {
                    (SkipReason::DuplicateMember, format!("a second .{}", place.key()))
                }
                (MemberData::TooLarge(bytes), place) => {
                    (SkipReason::MemberTooLarge, format!("the .{} member has {bytes} bytes", place.key()))
                }
            };
            self.pending = Some(sample.skip(reason, detail));
        }
        finished
    }
}

/// Whether to read a member, and how much of it.
fn wish(name: &str, wanted: Option<&[&str]>, current: Option<&RawSample>) -> Wish {
    let Some((key, extension)) = base_plus_ext(name) else {
        return Wish::Skip;
    };
    if wanted.is_some_and(|wanted| !wanted.contains(&extension.to_ascii_lowercase().as_str())) {
        return Wish::Skip;
    }
    let held = current.filter(|sample| sample.key == key).map_or(0, RawSample::bytes);
    Wish::Read { limit: MAX_MEMBER_BYTES.min(MAX_SAMPLE_BYTES.saturating_sub(held)) }
}

/// Whether the file ends in a block of zeros, as every whole tar does: a download that stopped between
/// two members looks like one that is complete otherwise.
fn has_end_marker(file: &mut File) -> std::io::Result<bool> {
    const BLOCK: u64 = 512;
    let length = file.metadata()?.len();
    if length < BLOCK {
        return Ok(false);
    }
    let mut block = [1; BLOCK as usize];
    file.seek(SeekFrom::Start(length - BLOCK))?;
    file.read_exact(&mut block)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(block == [0; BLOCK as usize])
}

impl Iterator for ShardSamples {
    type Item = Result<RawSample, Skip>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(skip) = self.pending.take() {
                return Some(Err(skip));
            }
            if self.done {
                return self.current.take().map(Ok);
            }
            match self.next_member() {
                Some(Ok(member)) => {
                    if let Some(sample) = self.push(&member.name, member.data) {
                        return Some(Ok(sample));
                    }
                }
                Some(Err(error)) => {
                    self.done = true;
                    return Some(Err(self.cut_off(&error.to_string())));
                }
                None => {
                    self.done = true;
                    if !self.has_end {
                        return Some(Err(self.cut_off("the shard ends without its end marker")));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        // A writer of our own, so that reader and writer do not share their mistakes.
        let mut bytes = Vec::new();
        for (name, data) in members {
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..108].copy_from_slice(b"0000644\0");
            header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes.extend(header);
            bytes.extend(*data);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    fn read(bytes: &[u8]) -> Vec<Result<RawSample, Skip>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        ShardSamples::open(file.path()).unwrap().collect()
    }

    const MEMBERS: [(&str, &[u8]); 5] = [
        ("a/1.jpg", b"one"),
        ("a/1.seg.PNG", b"map"),
        ("__index__.json", b"{}"),
        ("a/2.jpg", b"two"),
        ("a/2.txt", b"caption"),
    ];

    #[test]
    fn members_are_grouped_up_to_the_first_dot() {
        let samples: Vec<RawSample> = read(&tar(&MEMBERS)).into_iter().map(Result::unwrap).collect();
        assert_eq!(samples.iter().map(|s| s.key.as_str()).collect::<Vec<_>>(), ["a/1", "a/2"]);
        assert_eq!(samples[0].members["seg.png"], b"map");
        assert_eq!(samples[1].members.len(), 2);
    }

    #[test]
    fn a_cut_shard_gives_what_is_whole_and_one_skip() {
        let bytes = tar(&MEMBERS);
        // In the middle of the fifth member's header: `a/2` may have lost a member.
        let samples = read(&bytes[..512 * 8 + 200]);
        assert_eq!(samples[0].as_ref().unwrap().key, "a/1");
        let skip = samples[1].as_ref().unwrap_err();
        assert_eq!((skip.reason, skip.key.as_str(), samples.len()), (SkipReason::ShardCutOff, "a/2", 2));
        // Between two members, and before the first.
        let samples = read(&bytes[..512 * 8]);
        assert_eq!(samples[1].as_ref().unwrap_err().key, "a/2");
        assert_eq!(read(b"")[0].as_ref().unwrap_err().reason, SkipReason::ShardCutOff);
    }

    #[test]
    fn a_duplicate_member_is_reported_and_the_first_kept() {
        let samples = read(&tar(&[("a.txt", b"one"), ("a.txt", b"two")]));
        assert_eq!(samples[0].as_ref().unwrap_err().reason, SkipReason::DuplicateMember);
        assert_eq!(samples[1].as_ref().unwrap().members["txt"], b"one");
    }

    #[test]
    fn patterns_expand_and_missing_shards_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["t-00.tar", "t-01.tar", "u.tar"] {
            std::fs::write(at(name), b"").unwrap();
        }
        let expand = |pattern: &str| expand_shards(&pattern.replace('@', folder.path().to_str().unwrap()));
        assert_eq!(expand("@/t-{00..01}.tar::@/u.tar").unwrap(), [at("t-00.tar"), at("t-01.tar"), at("u.tar")]);
        assert_eq!(expand("@/t-*.tar").unwrap(), [at("t-00.tar"), at("t-01.tar")]);
        assert!(expand("@/t-{00..02}.tar").unwrap_err().to_string().contains("t-02.tar does not exist"));
        assert!(expand("@/x-*.tar").unwrap_err().to_string().contains("no file matches"));
        assert!(expand("@/u.tar::").is_err());
    }

    #[test]
    fn wildcards_match_as_a_shell_does() {
        for (pattern, name, expected) in
            [("*", "", true), ("a*c", "abbc", true), ("a*c", "abcd", false), ("a?c", "abc", true), ("*a*", "bab", true)]
        {
            assert_eq!(matches_wildcard(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
