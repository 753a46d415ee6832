//! Which shards there are, and what samples a shard holds.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use webdataset::core::braceexpand;

use crate::error::Error;
use crate::grouping::{Content, Group, Grouping};
pub use crate::grouping::{MAX_MEMBER_BYTES, MAX_SAMPLE_BYTES};
use crate::skips::{Skip, SkipReason};
use crate::source::{Fetcher, Source, SourceReader};
use crate::tar_members::{MemberData, TarMembers};

/// Expands a list of source patterns: `a::b` joins, `{000..011}` ranges and alternatives, `*` and `?` in
/// the file name of local files. `pipe:`, `http://`, `https://`, `s3://` and `gs://` as [`Source`] reads
/// them. The result is in the order of the patterns, sorted within a wildcard.
///
/// # Errors
///
/// A malformed pattern, one that matches nothing, or a local file that does not exist. What lies behind a
/// URL or a pipe is not looked at.
pub fn expand_sources(patterns: &str) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for pattern in patterns.split("::") {
        let failed = |reason: String| Error::Pattern { pattern: pattern.into(), reason };
        if pattern.trim().is_empty() {
            return Err(failed("it is empty".into()));
        }
        for name in braceexpand(pattern).map_err(|error| failed(error.to_string()))? {
            match Source::parse(&name).map_err(failed)? {
                Source::File(path) | Source::Table(path) if name.contains(['*', '?']) => {
                    let matches = expand_wildcard(&path)?;
                    if matches.is_empty() {
                        return Err(failed(format!("no file matches {name}")));
                    }
                    sources.extend(matches.into_iter().map(Source::from));
                }
                Source::File(path) | Source::Table(path) if !path.is_file() => {
                    return Err(Error::MissingShard { path, pattern: pattern.into() });
                }
                source => sources.push(source),
            }
        }
    }
    Ok(sources)
}

/// As [`expand_sources`], for what reads tars on a local disk only.
///
/// # Errors
///
/// As there; and a source that is no such tar.
pub fn expand_shards(patterns: &str) -> Result<Vec<PathBuf>, Error> {
    let local = |source| match source {
        Source::File(path) => Ok(path),
        other => Err(Error::Pattern {
            pattern: patterns.into(),
            reason: format!("{other} is no tar on a local disk, and nothing else is read here"),
        }),
    };
    expand_sources(patterns)?.into_iter().map(local).collect()
}

fn expand_wildcard(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wildcard = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let io = |reason| Error::Io { path: folder.into(), reason };
    let mut matches = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // An index lies beside its shard, and is none.
        if !name.ends_with(crate::index::SUFFIX) && matches_wildcard(wildcard.as_bytes(), name.as_bytes()) {
            matches.push(path.with_file_name(&*name));
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
/// Extensions of the members that training a classifier reads.
pub const CLASSIFICATION_MEMBERS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "txt", "json", "cls"];
/// Extensions of the members that evaluation reads.
pub const EVALUATION_MEMBERS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "txt", "json", "cls", "seg.png"];
/// The samples of one shard in order. Two neighbouring members with the same key belong together.
///
/// A shard that is cut off yields what stands before the cut, without the sample that the cut goes
/// through, and then one [`Skip`].
pub struct ShardSamples {
    shard: Arc<str>,
    members: TarMembers<SourceReader>,
    grouping: Grouping<Vec<u8>>,
    pending: Option<Skip>,
    done: bool,
}

impl ShardSamples {
    /// Opens a shard on a local disk.
    ///
    /// # Errors
    ///
    /// The system's reason, naming the shard.
    pub fn open(path: &Path) -> Result<ShardSamples, Error> {
        ShardSamples::fetch(&Source::File(path.into()), &Fetcher::default())
    }

    /// Opens a shard wherever it is.
    ///
    /// # Errors
    ///
    /// The system's or the server's reason, naming the shard.
    pub fn fetch(source: &Source, fetcher: &Fetcher) -> Result<ShardSamples, Error> {
        let reader = fetcher.open(source).map_err(|reason| Error::Io { path: source.to_string().into(), reason })?;
        let length = reader.length();
        Ok(ShardSamples {
            shard: source.to_string().into(),
            members: TarMembers::new(reader, length),
            grouping: Grouping::new(None),
            pending: None,
            done: false,
        })
    }

    /// Reads members of these extensions only (in lower case); the others are passed over.
    pub fn keeping(mut self, extensions: &'static [&'static str]) -> ShardSamples {
        self.grouping = Grouping::new(Some(extensions));
        self
    }

    /// Time spent waiting for bytes since the last call.
    pub(crate) fn take_fetching(&mut self) -> Duration {
        self.members.reader_mut().take_fetching()
    }

    /// The shard is cut off: the sample under way may have lost members and is dropped.
    fn cut_off(&mut self, reason: SkipReason, detail: String) -> Skip {
        let key = self.grouping.finish().map(|group| group.key).unwrap_or_default();
        Skip { reason, shard: self.shard.to_string(), key, detail }
    }

    fn sample(&self, group: Group<Vec<u8>>) -> RawSample {
        RawSample { shard: self.shard.clone(), key: group.key, members: group.members }
    }
}

impl Iterator for ShardSamples {
    type Item = Result<RawSample, Skip>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(skip) = self.pending.take() {
                return Some(Err(skip));
            }
            if self.done {
                let last = self.grouping.finish()?;
                return Some(Ok(self.sample(last)));
            }
            let ShardSamples { members, grouping, .. } = self;
            match members.next(|name| grouping.wish(name)) {
                Ok(Some(member)) => {
                    let content = match member.data {
                        MemberData::Read(bytes) => Content::Kept(bytes),
                        MemberData::Unwanted => Content::Unwanted,
                        MemberData::TooLarge(_) => Content::TooLarge,
                    };
                    let pushed = self.grouping.push(&member.name, member.size, content);
                    let shard = &self.shard;
                    self.pending =
                        pushed.skip.map(|(reason, key, detail)| Skip { reason, shard: shard.to_string(), key, detail });
                    if let Some(group) = pushed.finished {
                        return Some(Ok(self.sample(group)));
                    }
                }
                Ok(None) => {
                    self.done = true;
                    if !self.members.ended() {
                        let detail = "the shard ends without its end marker".into();
                        return Some(Err(self.cut_off(SkipReason::ShardCutOff, detail)));
                    }
                }
                Err(error) => {
                    self.done = true;
                    let reason = match error.kind() {
                        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => SkipReason::ShardCutOff,
                        _ => SkipReason::ReadFailed,
                    };
                    return Some(Err(self.cut_off(reason, error.to_string())));
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
