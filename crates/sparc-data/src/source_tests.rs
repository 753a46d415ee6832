//! Tests of sources: servers and commands that fail in every way that they do fail.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Instant;

use super::*;

/// What the server does to a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Closes the connection after so many bytes of the body.
    DropAfter(usize),
    /// Sends nothing after so many bytes of the body, and keeps the connection.
    StallAfter(usize),
    /// Does not answer.
    Silent,
    /// Answers with this status.
    Status(u16),
    /// Sends the whole object though a range was asked for.
    NoRanges,
    /// Names another version of the object.
    Changed,
    /// None.
    Fine,
}

/// A server that has files, and faults for the first requests.
pub(crate) struct Server {
    pub(crate) address: String,
    /// Path and first byte of each request.
    requests: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Server {
    pub(crate) fn start(files: HashMap<String, Vec<u8>>, faults: Vec<Fault>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let state = Arc::new((files, Mutex::new(faults.into_iter()), requests.clone()));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || {
                    let (path, start, end) = request(&stream);
                    state.2.lock().unwrap().push((path.clone(), start));
                    let fault = state.1.lock().unwrap().next().unwrap_or(Fault::Fine);
                    // A client that has given up is no concern of the server.
                    let _ = answer(stream, state.0.get(&path), start, end, fault);
                });
            }
        });
        Server { address, requests }
    }

    /// The first bytes asked for, request after request.
    pub(crate) fn starts(&self) -> Vec<u64> {
        self.requests.lock().unwrap().iter().map(|request| request.1).collect()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|request| request.0.clone()).collect()
    }
}

/// Path, first byte, and the last one if a range was asked for.
fn request(stream: &TcpStream) -> (String, u64, Option<usize>) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let range = lines
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(ToOwned::to_owned));
    let Some((start, end)) = range.as_ref().and_then(|range| range.split_once('-')) else {
        return (path, 0, None);
    };
    (path, start.parse().unwrap(), Some(end.trim().parse().unwrap_or(usize::MAX)))
}

fn answer(
    mut stream: TcpStream,
    file: Option<&Vec<u8>>,
    start: u64,
    end: Option<usize>,
    fault: Fault,
) -> io::Result<()> {
    if matches!(fault, Fault::Silent) {
        sleep(Duration::from_secs(20));
        return Ok(());
    }
    let plain = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let (Some(file), false) = (file, matches!(fault, Fault::Status(_))) else {
        let status = if let Fault::Status(status) = fault { status } else { 404 };
        return stream.write_all(plain(status).as_bytes());
    };
    let end = end.filter(|_| !matches!(fault, Fault::NoRanges)).map(|end| end.min(file.len() - 1));
    let body = end.map_or(&file[..], |end| &file[start as usize..=end]);
    let etag = if matches!(fault, Fault::Changed) { "\"two\"" } else { "\"one\"" };
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nETag: {etag}\r\nLast-Modified: Sat, 01 Nov 2025 00:00:00 GMT\r\nConnection: close\r\n",
        if end.is_some() { 206 } else { 200 },
        body.len()
    );
    if let Some(end) = end {
        head += &format!("Content-Range: bytes {start}-{end}/{}\r\n", file.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    match fault {
        Fault::DropAfter(n) => stream.write_all(&body[..n.min(body.len())]),
        Fault::StallAfter(n) => {
            stream.write_all(&body[..n.min(body.len())])?;
            sleep(Duration::from_secs(20));
            Ok(())
        }
        _ => stream.write_all(body),
    }
}

/// Long enough for a busy machine, short enough to stall on.
const HASTE: Patience = Patience { retries: 3, timeout_s: 1.0 };

fn noise(n: usize) -> Vec<u8> {
    (0..n as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

fn object(server: &Server) -> Source {
    Source::parse(&format!("{}/folder/a b.tar", server.address)).unwrap()
}

fn serve(bytes: &[u8], faults: Vec<Fault>) -> Server {
    Server::start(HashMap::from([("/folder/a%20b.tar".to_owned(), bytes.to_vec())]), faults)
}

fn fetch(source: &Source) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Fetcher::new(HASTE).open(source)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[test]
fn an_object_survives_drops_errors_and_stalls_and_is_resumed_in_the_middle() {
    let bytes = noise(900_000);
    let faults = [
        Fault::Status(500),
        Fault::DropAfter(0),
        Fault::DropAfter(200_000),
        Fault::Status(503),
        Fault::StallAfter(100_000),
        Fault::Status(429),
        Fault::DropAfter(300_000),
    ];
    let server = serve(&bytes, faults.to_vec());
    assert!(fetch(&object(&server)).unwrap() == bytes);
    assert_eq!(server.starts(), [0, 0, 0, 200_000, 200_000, 300_000, 300_000, 600_000]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start_again() {
    let bytes = noise(500_000);
    let server = serve(&bytes, vec![Fault::DropAfter(300_000), Fault::NoRanges, Fault::NoRanges]);
    assert!(fetch(&object(&server)).unwrap() == bytes);
    assert_eq!(server.starts(), [0, 300_000, 0]);
}

#[test]
fn what_does_not_get_better_is_an_error_in_time() {
    let bytes = noise(500_000);
    let started = Instant::now();
    let says = |faults: Vec<Fault>| fetch(&object(&serve(&bytes, faults))).unwrap_err();
    assert!(says(vec![Fault::Status(500); 9]).to_string().contains("after 4 attempts"));
    assert!(says(vec![Fault::StallAfter(70); 9]).to_string().contains("no byte for 1 seconds"));
    assert!(says(vec![Fault::Silent; 9]).to_string().contains("no answer for 1 seconds"));
    // Alive, and yet no use: 10 bytes at a time would take for ever.
    assert!(says(vec![Fault::DropAfter(10); 99]).to_string().contains("after 4 attempts"));
    assert!(says(vec![Fault::DropAfter(9_999), Fault::Changed]).to_string().contains("it changed"));
    assert_eq!(says(vec![Fault::Status(403)]).kind(), io::ErrorKind::PermissionDenied);
    let absent = Source::parse(&format!("{}/absent.tar", serve(&bytes, vec![]).address)).unwrap();
    assert_eq!(fetch(&absent).unwrap_err().kind(), io::ErrorKind::NotFound);
    // Nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert!(fetch(&Source::parse(&format!("http://{free}/a.tar")).unwrap()).is_err());
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn large_stretches_are_passed_over_by_a_new_request() {
    let bytes = noise(20 << 20);
    let server = serve(&bytes, vec![]);
    let fetcher = Fetcher::new(HASTE);
    let mut reader = fetcher.open(&object(&server)).unwrap();
    assert_eq!(reader.length(), Some(bytes.len() as u64));
    let mut some = [0; 100];
    for (skip, at) in [(0, 0), (1_000, 1_100), (18 << 20, (18 << 20) + 1_200)] {
        reader.seek(SeekFrom::Current(skip)).unwrap();
        reader.read_exact(&mut some).unwrap();
        assert!(some[..] == bytes[at..at + 100], "{at}");
    }
    assert_eq!(server.starts(), [0, (18 << 20) + 1_200]);
    assert!(reader.seek(SeekFrom::Current(-1)).is_err());
    assert_eq!(fetcher.read_at(&object(&server), 77, 5).unwrap(), bytes[77..82]);
    // Not even that where the server knows no ranges.
    let server = serve(&bytes[..5_000], vec![Fault::NoRanges, Fault::NoRanges]);
    assert_eq!(fetcher.read_at(&object(&server), 77, 5).unwrap(), bytes[77..82]);
    assert_eq!(fetcher.length(&object(&server)).unwrap(), Some(5_000));
}

#[test]
fn a_command_that_fails_or_stalls_is_started_again_and_gives_each_byte_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let bytes = noise(700_000);
    std::fs::write(&data, &bytes).unwrap();
    let count = folder.path().join("count");
    // Each time it comes further: fails, stalls, succeeds.
    let script = format!(
        "cd '{}'; echo x >> count; case $(wc -l < count) in 1) head -c 100000 data; exit 3;; 2) head -c 400000 data; sleep 99;; *) cat data;; esac",
        folder.path().display()
    );
    assert!(fetch(&Source::Pipe(script.clone())).unwrap() == bytes);
    assert_eq!(std::fs::read_to_string(&count).unwrap().lines().count(), 3);

    let started = Instant::now();
    let error = fetch(&Source::Pipe("printf abc; exit 7".into())).unwrap_err().to_string();
    assert!(error.contains("printf abc") && error.contains("exit status: 7"), "{error}");
    // What it has started itself, and what holds its output open, does not keep anyone waiting.
    let error = fetch(&Source::Pipe("sleep 99 & sleep 99".into())).unwrap_err().to_string();
    assert!(error.contains("nothing for 1 seconds"), "{error}");
    let error = fetch(&Source::Pipe("exec >&-; sleep 99".into())).unwrap_err().to_string();
    assert!(error.contains("does not end"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    // A reader that has seen enough ends the command.
    let mut reader = Fetcher::new(HASTE).open(&Source::Pipe("yes".into())).unwrap();
    reader.seek(SeekFrom::Current(1_000_000)).unwrap();
    drop(reader);
}

#[test]
fn names_become_sources_and_back() {
    for name in [
        "a/b.tar",
        "pipe:cat a.tar | cat",
        "s3://bucket/a/b.tar",
        "gs://bucket/b.tar",
        "https://host/a%20b.tar",
        "x/t.TSV",
    ] {
        let source = Source::parse(name).unwrap();
        assert_eq!(source.to_string(), name);
        assert_eq!(serde_json::from_str::<Source>(&serde_json::to_string(&source).unwrap()).unwrap(), source);
    }
    assert!(matches!(Source::parse("x/t.TSV").unwrap(), Source::Table(_)));
    for (name, reason) in [
        ("pipe: ", "without a command"),
        ("ftp://host/a.tar", "no scheme `ftp`"),
        ("https://host/a.tar?signature=1", "pipe:curl"),
        ("http://", "host"),
    ] {
        assert!(Source::parse(name).unwrap_err().contains(reason), "{name}: {:?}", Source::parse(name));
    }
    assert!(Patience { retries: 1, timeout_s: 0.0 }.validate().is_err());
    assert!(Patience { retries: 1, timeout_s: f64::NAN }.validate().is_err());
}
