//! Objects behind URLs, read through object_store. After a failure the next request begins at the byte
//! that would have come next.

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{ClientOptions, GetOptions, GetRange, GetResult, ObjectStore, RetryConfig};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use url::Url;

use super::{Attempts, Patience};

/// Connections and the runtime that drives them.
pub(super) struct Remote {
    patience: Patience,
    runtime: Runtime,
    /// By scheme and host: a store holds its connections and its parsed certificates.
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("patience", &self.patience).finish_non_exhaustive()
    }
}

impl Remote {
    pub(super) fn new(patience: Patience) -> io::Result<Remote> {
        // An error means that the program has chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // One thread moves bytes from sockets; whoever reads waits on its own thread.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sparc-remote")
            .enable_all()
            .build()?;
        Ok(Remote { patience, runtime, stores: Mutex::default() })
    }

    /// The store and the path in it.
    fn locate(&self, url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), object_store::Error> {
        let base = url[..url::Position::BeforePath].to_owned();
        let path = Path::from_url_path(url.path())?;
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&base) {
            return Ok((store.clone(), path));
        }
        // Retries are made here, where a stall and a cut can be told from an end. A limit on the whole
        // request would be one on the size of shards.
        let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let endpoint = match url.scheme() {
            "s3" => ["AWS_ENDPOINT_URL", "AWS_ENDPOINT"].iter().find_map(|name| env::var(name).ok()),
            "gs" => env::var("GOOGLE_BASE_URL").ok(),
            _ => Some(base.clone()),
        };
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(self.patience.timeout())
            .with_allow_http(plain);
        let bucket = url.host_str().unwrap_or_default();
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "s3" => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(bucket);
                Arc::new(builder.with_client_options(client).with_retry(retry).build()?)
            }
            "gs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
                Arc::new(builder.with_client_options(client).with_retry(retry).build()?)
            }
            _ => {
                let builder = HttpBuilder::new().with_url(&base);
                Arc::new(builder.with_client_options(client).with_retry(retry).build()?)
            }
        };
        stores.insert(base, store.clone());
        Ok((store, path))
    }
}

/// What stopped an attempt.
enum Failure {
    /// It may go better next time.
    Passing(String),
    /// It will not.
    Lasting(io::Error),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Failure {
        use object_store::Error as E;
        // The cause is at the end of the chain; what stands before names parts of the library.
        let reason = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {}", innermost(source)),
            None => error.to_string(),
        };
        match error {
            E::NotFound { .. } => Failure::Lasting(io::Error::new(io::ErrorKind::NotFound, "it does not exist")),
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Failure::Lasting(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
            E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => {
                Failure::Lasting(io::Error::new(io::ErrorKind::Unsupported, reason))
            }
            E::UnknownConfigurationKey { .. } => Failure::Lasting(io::Error::other(reason)),
            _ => Failure::Passing(reason),
        }
    }
}

fn innermost<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// Reads an object from front to back.
pub(super) struct RemoteReader {
    remote: Arc<Remote>,
    url: Url,
    attempts: Attempts,
    /// The object as the first answer described it.
    object: Option<Described>,
    /// Bytes given out, the rest of `chunk` included.
    position: u64,
    /// Where reading ends, if the object does not end before.
    end: u64,
    stream: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// What a server that knows no ranges sends once more.
    to_pass: u64,
    chunk: Bytes,
}

/// What must not change while an object is being read.
#[derive(Debug, Clone, PartialEq)]
struct Described {
    length: u64,
    e_tag: Option<String>,
}

impl RemoteReader {
    /// Asks for these bytes of the object, `0..u64::MAX` for all; gives their reader once the server has
    /// answered.
    pub(super) fn open(remote: &Arc<Remote>, url: &Url, bytes: Range<u64>) -> io::Result<RemoteReader> {
        let mut reader = RemoteReader {
            remote: remote.clone(),
            url: url.clone(),
            attempts: Attempts::new(remote.patience),
            object: None,
            position: bytes.start,
            end: bytes.end,
            stream: None,
            to_pass: 0,
            chunk: Bytes::new(),
        };
        while let Err(failure) = reader.connect() {
            reader.wait_after(failure)?;
        }
        Ok(reader)
    }

    /// Bytes of the whole object.
    pub(super) fn length(&self) -> u64 {
        self.object.as_ref().map_or(0, |object| object.length)
    }

    /// Passes over `n` bytes: by reading where little is left of them, else by a new request.
    pub(super) fn skip(&mut self, n: u64) -> io::Result<u64> {
        /// What arrives in the time of a request or two.
        const WORTH_A_REQUEST: u64 = 8 << 20;
        let buffered = (self.chunk.len() as u64).min(n);
        self.consume(buffered as usize);
        let rest = n - buffered;
        if rest < WORTH_A_REQUEST || self.to_pass > 0 {
            return super::discard(self, rest).map(|_| n);
        }
        self.position = self.position.saturating_add(rest);
        self.stream = None;
        Ok(n)
    }

    /// Requests what comes at `position`.
    fn connect(&mut self) -> Result<(), Failure> {
        let patience = self.attempts.patience;
        let (store, path) = self.remote.locate(&self.url)?;
        let get = |range: Option<GetRange>| {
            let options = GetOptions { range, ..GetOptions::default() };
            // Timers begin inside the runtime.
            let answer = async { timeout(patience.timeout(), store.get_opts(&path, options)).await };
            let answer = self.remote.runtime.block_on(answer);
            answer.map_err(|_| Failure::Passing(format!("no answer for {} seconds", patience.timeout_s)))
        };
        self.to_pass = 0;
        let range = match (self.position, self.end) {
            (0, u64::MAX) => None,
            (position, u64::MAX) => Some(GetRange::Offset(position)),
            (position, end) => Some(GetRange::Bounded(position..end)),
        };
        let answer: GetResult = match get(range)? {
            Err(object_store::Error::NotSupported { .. }) => {
                self.to_pass = self.position;
                get(None)??
            }
            answer => answer?,
        };
        let now = Described { length: answer.meta.size, e_tag: answer.meta.e_tag.clone() };
        let before = self.object.get_or_insert_with(|| now.clone());
        if *before != now {
            let reason = format!("it changed while it was being read: {before:?} before, {now:?} now");
            return Err(Failure::Lasting(io::Error::other(reason)));
        }
        self.stream = Some(answer.into_stream());
        Ok(())
    }

    /// Waits before the next attempt, if there is one.
    fn wait_after(&mut self, failure: Failure) -> io::Result<()> {
        self.stream = None;
        let reason = match failure {
            Failure::Passing(reason) => reason,
            Failure::Lasting(error) => return Err(error),
        };
        let Some(wait) = self.attempts.failed() else {
            return Err(io::Error::other(format!("after {} attempts: {reason}", self.attempts.failures)));
        };
        tracing::warn!("{}: {reason}; once more, from byte {}", self.url, self.position);
        std::thread::sleep(wait);
        Ok(())
    }

    /// The next bytes; empty at the end of the object.
    fn next_chunk(&mut self) -> Result<Bytes, Failure> {
        let end = self.length().min(self.end);
        if self.position >= end {
            return Ok(Bytes::new());
        }
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect()?;
                continue;
            };
            let patience = self.attempts.patience;
            let next = self.remote.runtime.block_on(async { timeout(patience.timeout(), stream.next()).await });
            let Ok(next) = next else {
                return Err(Failure::Passing(format!("no byte for {} seconds", patience.timeout_s)));
            };
            let Some(chunk) = next else {
                return Err(Failure::Passing(format!("it ended after {} of {end} bytes", self.position)));
            };
            let mut chunk = chunk?;
            let pass = self.to_pass.min(chunk.len() as u64);
            self.to_pass -= pass;
            let mut chunk = chunk.split_off(pass as usize);
            chunk.truncate(usize::try_from(end - self.position).unwrap_or(usize::MAX));
            if !chunk.is_empty() {
                self.attempts.progressed(chunk.len() as u64);
                self.position += chunk.len() as u64;
                return Ok(chunk);
            }
        }
    }
}

impl Read for RemoteReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(into)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for RemoteReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.next_chunk() {
                Ok(chunk) if chunk.is_empty() => break,
                Ok(chunk) => self.chunk = chunk,
                Err(failure) => self.wait_after(failure)?,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        let _ = self.chunk.split_to(amount);
    }
}
