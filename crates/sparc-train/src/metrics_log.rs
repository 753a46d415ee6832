//! `metrics.jsonl`: one JSON object a line, in the order of steps, each step once.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::write_durably;
use crate::error::Error;

/// Name of the file in a run's folder.
pub const METRICS: &str = "metrics.jsonl";

/// The open log of a run.
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log to go on after `step`; what an interrupted run has logged beyond is removed.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn open(run: &Path, step: u64) -> Result<MetricsLog, Error> {
        let path = run.join(METRICS);
        let kept: String = match std::fs::read_to_string(&path) {
            Ok(text) => text.lines().filter(|line| is_up_to(line, step)).flat_map(|line| [line, "\n"]).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io(&path, error)),
        };
        let temporary = run.join(format!(".{METRICS}.part"));
        write_durably(&temporary, kept.as_bytes())?;
        std::fs::rename(&temporary, &path).map_err(|error| Error::io(&path, error))?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|error| Error::io(&path, error))?;
        Ok(MetricsLog { path, file })
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn write(&mut self, line: Map<String, Value>) -> Result<(), Error> {
        let text = Value::Object(line).to_string() + "\n";
        self.file.write_all(text.as_bytes()).map_err(|error| Error::io(&self.path, error))
    }
}

fn is_up_to(line: &str, step: u64) -> bool {
    // A line that the end of a killed run cut in two is no JSON.
    serde_json::from_str::<Value>(line).is_ok_and(|line| line["step"].as_u64().is_some_and(|logged| logged <= step))
}

/// All lines of a run's log.
///
/// # Errors
///
/// What the system said, or the number of a line that is no JSON.
pub fn read_metrics(run: &Path) -> Result<Vec<Map<String, Value>>, Error> {
    let path = run.join(METRICS);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::io(&path, error))?;
    text.lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line)
                .map_err(|error| Error::Config { path: path.clone(), reason: format!("line {}: {error}", index + 1) })
        })
        .collect()
}
