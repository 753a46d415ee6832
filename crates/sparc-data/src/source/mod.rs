//! Where bytes come from: a file, the output of a command, an object behind a URL, a table of files.
//!
//! A [`Source`] is a name; a [`Fetcher`] opens it. What is opened is read forward only, and goes on by
//! itself after dropped connections, server errors and stalls: whoever reads it sees the same bytes or
//! an error, never fewer bytes.

mod pipe;
mod remote;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use url::Url;

use pipe::PipeReader;
use remote::{Remote, RemoteReader};

/// What a shard pattern names once it is expanded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Source {
    /// A tar on a local disk.
    File(PathBuf),
    /// A `.csv` or `.tsv` on a local disk that names image files and their captions.
    Table(PathBuf),
    /// A tar that a shell command prints, written `pipe:command`.
    Pipe(String),
    /// A tar behind `http://`, `https://`, `s3://` or `gs://`.
    Object(Url),
}

impl Source {
    /// Reads a source as it is written.
    ///
    /// # Errors
    ///
    /// A URL that cannot be parsed or is of another scheme, or a pipe without a command.
    pub fn parse(text: &str) -> Result<Source, String> {
        if let Some(command) = text.strip_prefix("pipe:") {
            if command.trim().is_empty() {
                return Err("`pipe:` without a command".into());
            }
            return Ok(Source::Pipe(command.into()));
        }
        if let Some((scheme, _)) = text.split_once("://") {
            let url = Url::parse(text).map_err(|error| error.to_string())?;
            return match scheme {
                _ if url.query().is_some() => {
                    Err("URLs with a query, such as signed ones, are not read; use pipe:curl".into())
                }
                "http" | "https" | "s3" | "gs" => Ok(Source::Object(url)),
                _ => Err(format!("no scheme `{scheme}`; there are http, https, s3, gs and `pipe:command`")),
            };
        }
        Ok(Source::from(PathBuf::from(text)))
    }

    /// The path of a source on a local disk.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File(path) | Source::Table(path) => Some(path),
            Source::Pipe(_) | Source::Object(_) => None,
        }
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Source {
        let is_table = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv") || e.eq_ignore_ascii_case("tsv"));
        if is_table { Source::Table(path) } else { Source::File(path) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) | Source::Table(path) => write!(f, "{}", path.display()),
            Source::Pipe(command) => write!(f, "pipe:{command}"),
            Source::Object(url) => write!(f, "{url}"),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        source.to_string()
    }
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Source, String> {
        Source::parse(&text)
    }
}

/// How patient a [`Fetcher`] is with servers and commands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// How often in a row something is tried again. A stretch of bytes that arrives sets the count back.
    pub retries: u32,
    /// Seconds without a byte after which a connection or a command counts as dead.
    pub timeout_s: f64,
}

impl Default for Patience {
    /// Eight retries, which together wait about 20 seconds, and 30 seconds for a byte: object_store's
    /// default for a whole request.
    fn default() -> Patience {
        Patience { retries: 8, timeout_s: 30.0 }
    }
}

impl Patience {
    /// Checks ranges.
    ///
    /// # Errors
    ///
    /// The field and its range.
    pub fn validate(&self) -> Result<(), String> {
        // An hour: no server that has been silent for longer will speak again.
        if !(self.timeout_s > 0.0 && self.timeout_s <= 3_600.0) {
            return Err(format!("timeout_s must lie in (0, 3600], got {}", self.timeout_s));
        }
        if self.retries > 1_000 {
            return Err(format!("retries must be at most 1000, got {}", self.retries));
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_s)
    }
}

/// Counts failures in a row and says how long to wait before the next attempt.
#[derive(Debug)]
struct Attempts {
    patience: Patience,
    failures: u32,
    /// Bytes since the last failure.
    progress: u64,
}

impl Attempts {
    /// So many bytes show that a source is alive: one that gives a few and dies each time is not.
    const ALIVE: u64 = 64 << 10;
    const FIRST_WAIT: Duration = Duration::from_millis(100);
    const LONGEST_WAIT: Duration = Duration::from_secs(10);

    fn new(patience: Patience) -> Attempts {
        Attempts { patience, failures: 0, progress: 0 }
    }

    fn progressed(&mut self, bytes: u64) {
        self.progress += bytes;
        if self.progress >= Self::ALIVE {
            self.failures = 0;
        }
    }

    /// The wait before the next attempt, or `None` if there is none.
    fn failed(&mut self) -> Option<Duration> {
        self.progress = 0;
        self.failures += 1;
        let wait = Self::FIRST_WAIT.saturating_mul(1 << (self.failures - 1).min(10)).min(Self::LONGEST_WAIT);
        (self.failures <= self.patience.retries).then_some(wait)
    }
}

/// Opens sources; connections are shared between all that one fetcher opens.
#[derive(Debug)]
pub struct Fetcher {
    patience: Patience,
    remote: OnceLock<Result<Arc<Remote>, String>>,
}

impl Default for Fetcher {
    fn default() -> Fetcher {
        Fetcher::new(Patience::default())
    }
}

impl Fetcher {
    /// Opens nothing yet.
    pub fn new(patience: Patience) -> Fetcher {
        Fetcher { patience, remote: OnceLock::new() }
    }

    fn remote(&self) -> io::Result<&Arc<Remote>> {
        let remote = self.remote.get_or_init(|| Remote::new(self.patience).map(Arc::new).map_err(|e| e.to_string()));
        remote.as_ref().map_err(|reason| io::Error::other(reason.clone()))
    }

    /// Opens a source from its beginning.
    ///
    /// # Errors
    ///
    /// The system's or the server's reason, after the last retry.
    pub(crate) fn open(&self, source: &Source) -> io::Result<SourceReader> {
        let inner = match source {
            Source::File(path) | Source::Table(path) => {
                let file = File::open(path)?;
                let length = file.metadata()?.len();
                Inner::File(BufReader::with_capacity(1 << 20, file), length)
            }
            Source::Pipe(command) => Inner::Pipe(PipeReader::start(command, self.patience)?),
            Source::Object(url) => Inner::Remote(Box::new(RemoteReader::open(self.remote()?, url, 0..u64::MAX)?)),
        };
        Ok(SourceReader { inner, fetching: Duration::ZERO })
    }

    /// Reads bytes from the middle.
    ///
    /// # Errors
    ///
    /// The system's or the server's reason; a source that ends before; a pipe, which has no middle.
    pub(crate) fn read_at(&self, source: &Source, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        match source {
            Source::File(path) | Source::Table(path) => {
                std::os::unix::fs::FileExt::read_exact_at(&File::open(path)?, &mut bytes, offset)?;
            }
            Source::Object(url) => {
                let range = offset..offset.saturating_add(length as u64);
                RemoteReader::open(self.remote()?, url, range)?.read_exact(&mut bytes)?;
            }
            Source::Pipe(_) => return Err(io::Error::new(io::ErrorKind::Unsupported, "a pipe has no middle")),
        }
        Ok(bytes)
    }

    /// Bytes of a source, if they can be known without reading it.
    ///
    /// # Errors
    ///
    /// The system's or the server's reason.
    pub(crate) fn length(&self, source: &Source) -> io::Result<Option<u64>> {
        match source {
            Source::File(path) | Source::Table(path) => Ok(Some(std::fs::metadata(path)?.len())),
            // The answer to a request for one byte names the length, and costs no connection.
            Source::Object(url) => Ok(Some(RemoteReader::open(self.remote()?, url, 0..1)?.length())),
            Source::Pipe(_) => Ok(None),
        }
    }

    /// Reads a small companion file whole; `None` if it is not there.
    ///
    /// # Errors
    ///
    /// Any reason but its absence, and more than `limit` bytes.
    pub(crate) fn read_small(&self, source: &Source, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let reader = match self.open(source) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            reader => reader?,
        };
        let mut bytes = Vec::new();
        reader.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit} bytes")));
        }
        Ok(Some(bytes))
    }
}

/// The bytes of one source from front to back. It can seek forward from where it stands, and nothing
/// else.
pub(crate) struct SourceReader {
    inner: Inner,
    fetching: Duration,
}

enum Inner {
    File(BufReader<File>, u64),
    Pipe(PipeReader),
    Remote(Box<RemoteReader>),
}

impl SourceReader {
    /// Bytes in all, if that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match &self.inner {
            Inner::File(_, length) => Some(*length),
            Inner::Pipe(_) => None,
            Inner::Remote(reader) => Some(reader.length()),
        }
    }

    /// Time spent waiting for bytes since the last call.
    pub(crate) fn take_fetching(&mut self) -> Duration {
        std::mem::take(&mut self.fetching)
    }

    fn buffered(&mut self) -> &mut dyn BufRead {
        match &mut self.inner {
            Inner::File(reader, _) => reader,
            Inner::Pipe(reader) => reader,
            Inner::Remote(reader) => reader,
        }
    }
}

impl Read for SourceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        let read = self.buffered().read(into);
        self.fetching += started.elapsed();
        read
    }
}

impl BufRead for SourceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let started = Instant::now();
        self.buffered().fill_buf()?;
        self.fetching += started.elapsed();
        self.buffered().fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.buffered().consume(amount);
    }
}

impl Seek for SourceReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let started = Instant::now();
        let SeekFrom::Current(forward @ 0..) = to else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "sources are read forward only"));
        };
        let place = match &mut self.inner {
            Inner::File(reader, _) => reader.seek_relative(forward).and_then(|()| reader.stream_position()),
            Inner::Pipe(reader) => discard(reader, forward as u64),
            Inner::Remote(reader) => reader.skip(forward as u64),
        };
        self.fetching += started.elapsed();
        place
    }
}

/// Reads `n` bytes away; gives `n`.
fn discard(reader: &mut dyn BufRead, n: u64) -> io::Result<u64> {
    let mut left = n;
    while left > 0 {
        let available = reader.fill_buf()?.len() as u64;
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let step = available.min(left);
        reader.consume(step as usize);
        left -= step;
    }
    Ok(n)
}

#[cfg(test)]
#[path = "../source_tests.rs"]
pub(crate) mod tests;
