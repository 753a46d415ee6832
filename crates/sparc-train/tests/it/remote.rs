//! Training from an object store that drops every other connection is training from the disk.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fixture::Fixture;

/// Serves the files of a folder as objects of any bucket; gives the address.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    static REQUESTS: AtomicUsize = AtomicUsize::new(0);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let is_cut = REQUESTS.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
            // A client that has what it wants is gone.
            let _ = answer(stream, &folder, is_cut);
        }
    });
    address
}

fn answer(mut stream: TcpStream, folder: &Path, is_cut: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let start = lines.find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("range: bytes=")?.split('-').next()?.parse::<usize>().ok()
    });
    // GCS's dashes and dots come encoded.
    let name = path.rsplit('/').next().unwrap_or_default().replace("%2D", "-").replace("%2E", ".");
    let Ok(bytes) = std::fs::read(folder.join(name)) else {
        return stream.write_all(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    let body = &bytes[start.unwrap_or(0)..];
    let range = start
        .map_or(String::new(), |start| format!("Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len()));
    let head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nETag: \"1\"\r\nLast-Modified: Sat, 01 Nov 2025 00:00:00 GMT\r\n{range}Connection: close\r\n\r\n",
        if start.is_some() { 206 } else { 200 },
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(if is_cut { &body[..body.len() / 2] } else { body })
}

#[test]
fn a_bucket_trains_as_a_disk_does() {
    let fixture = Fixture::new();
    let address = serve(fixture.path("data"));
    let train = |output: &str, data: &str| {
        let (output, data) = (format!("output={output}"), format!("data.train={data}"));
        let steps = ["--set", "train.steps=40", "--set", &output, "--set", &data];
        let mut command = fixture.command(&[&["train", "run.yaml"], &steps[..]].concat());
        command.env("AWS_ENDPOINT_URL", &address).env("AWS_SKIP_SIGNATURE", "true").env("AWS_REGION", "nowhere");
        command.env("GOOGLE_BASE_URL", &address).env("GOOGLE_SKIP_SIGNATURE", "true");
        let result = command.output().unwrap();
        (result.status.success(), String::from_utf8(result.stderr).unwrap())
    };
    assert!(train("disk", "data/train-{00000..00000}.tar::data/val-00000.tar").0);
    for (scheme, bucket) in [("s3", "s3://bucket"), ("gs", "gs://bucket"), ("http", &format!("{address}/bucket"))] {
        let (success, errors) = train(scheme, &format!("{bucket}/train-{{00000..00000}}.tar::{bucket}/val-00000.tar"));
        assert!(success, "{errors}");
        assert!(errors.contains("once more, from byte"), "{errors}");
        assert_eq!(fixture.log(scheme), fixture.log("disk"), "{scheme}");
    }
    let (success, errors) = train("absent", "s3://bucket/absent.tar");
    assert!(!success && errors.contains("s3://bucket/absent.tar: it does not exist"), "{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
}
