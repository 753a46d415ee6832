//! A small Shapes data set with a tokenizer and a configuration, and the binary to run on them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// Members of a sample: extension and content.
pub type Members = Vec<(&'static str, Vec<u8>)>;

/// A folder with `data/`, `tokenizer.json` and `run.yaml`.
pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// 120 training and 24 test scenes of 32×32 pixels.
    pub fn new() -> Fixture {
        let fixture = Fixture { folder: tempfile::tempdir().unwrap() };
        let data = fixture.path("data");
        let synth = ["shards", "synth", "--train", "120", "--val", "8", "--test", "24", "--image-size", "32", "--out"];
        fixture.succeed(&[&synth[..], &[data.to_str().unwrap()]].concat());
        fixture.succeed(&[
            "tokenizer",
            "train",
            "--data",
            "data/train-*.tar",
            "--out",
            "tokenizer.json",
            "--vocab-size",
            "200",
        ]);
        let config = include_str!("../../src/config_example.yaml")
            .replace("train: shards-*.tar", "train: data/train-*.tar")
            .replace("image_size: 16", "image_size: 32")
            .replace("context_length: 16", "context_length: 48")
            .replace("output: runs/example", "output: run");
        std::fs::write(fixture.path("run.yaml"), config).unwrap();
        fixture
    }

    /// Makes `tokenizer_mask.json`: the tokenizer with a mask token, for objectives that mask words.
    pub fn add_mask_tokenizer(&self) {
        let arguments = ["tokenizer", "train", "--data", "data/train-*.tar", "--out", "tokenizer_mask.json"];
        self.succeed(&[&arguments[..], &["--vocab-size", "200", "--mask-token"]].concat());
    }

    /// A path inside the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command, in the folder, with nothing inherited that would change it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sparc"));
        command.args(arguments).current_dir(self.folder.path()).env_remove("SPARC_DATA").env_remove("RUST_LOG");
        // Tests run side by side: threads of one that spin would starve the others.
        command.env("OMP_NUM_THREADS", "1");
        command
    }

    /// Runs to the end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs to the end, which must be a good one; gives standard output.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs to the end, which must be an error; gives the last line of standard error and what
    /// follows `error:`.
    #[track_caller]
    pub fn fail(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
        text[text.find("error: ").expect("an error message")..].to_owned()
    }

    /// Starts in the background.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The bytes of a file in a run's checkpoint.
    pub fn checkpoint(&self, run: &str, step: u64, file: &str) -> Vec<u8> {
        std::fs::read(self.path(format!("{run}/checkpoints/step_{step}/{file}"))).unwrap()
    }

    /// The lines of a run's log, without what depends on the machine's speed.
    pub fn log(&self, run: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(format!("{run}/metrics.jsonl"))).unwrap();
        text.lines()
            .map(|line| {
                let mut line: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
                for speed in ["samples_per_s", "data_wait_share", "stages_s"] {
                    line.remove(speed).unwrap();
                }
                serde_json::Value::Object(line).to_string()
            })
            .collect()
    }

    /// Writes a shard of samples: a key, and members by extension.
    pub fn write_shard(&self, name: &str, samples: &[(String, Members)]) {
        let mut tar = Vec::new();
        for (key, members) in samples {
            for (extension, data) in members {
                let mut header = [0; 512];
                let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
                put(0, &format!("{key}.{extension}"));
                put(100, "0000644");
                put(124, &format!("{:011o}", data.len()));
                put(136, "00000000000");
                put(148, "        ");
                put(156, "0");
                put(257, "ustar");
                put(263, "00");
                let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                tar.extend(header);
                tar.extend(data);
                tar.resize(tar.len().next_multiple_of(512), 0);
            }
        }
        tar.resize(tar.len() + 1024, 0);
        std::fs::write(self.path(name), tar).unwrap();
    }

    /// The data of the first `.jpg` member of a tar.
    pub fn first_jpeg(&self, tar: &str) -> Vec<u8> {
        let tar = std::fs::read(self.path(tar)).unwrap();
        let mut place = 0;
        loop {
            let header = &tar[place..place + 512];
            let name = String::from_utf8_lossy(&header[..100]);
            let digits = std::str::from_utf8(&header[124..135]).unwrap();
            let size = usize::from_str_radix(digits.trim(), 8).unwrap();
            if name.trim_end_matches('\0').ends_with(".jpg") {
                return tar[place + 512..place + 512 + size].to_vec();
            }
            place += 512 + size.next_multiple_of(512);
        }
    }
}
