//! `summary.json`: every method's metrics, and how long it took.

use std::path::Path;

use serde_json::{Map, Value};

use super::{ReportError, atomic};

/// The key beside the methods.
const SECONDS: &str = "seconds";

/// What `summary.json` holds: `{"clip": {metric: value, …}, "sparc": {…}, "seconds": …}`.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Each method's key with its metrics, in the order in which they are to be written.
    pub methods: Vec<(String, Vec<(String, f64)>)>,
    /// Wall-clock seconds of the whole run.
    pub seconds: f64,
}

impl Summary {
    /// The file's content. Values that are not finite become `null`.
    pub fn to_json(&self) -> Value {
        let metrics = |metrics: &[(String, f64)]| -> Value {
            metrics.iter().map(|(key, value)| (key.clone(), Value::from(*value))).collect::<Map<_, _>>().into()
        };
        let mut root: Map<String, Value> =
            self.methods.iter().map(|(method, values)| (method.clone(), metrics(values))).collect();
        root.insert(SECONDS.to_owned(), Value::from(self.seconds));
        root.into()
    }
}

/// Writes `summary.json`, whole or not at all.
///
/// # Errors
/// When the file cannot be written, or a method is named twice or like another key.
pub fn write_summary(path: &Path, summary: &Summary) -> Result<(), ReportError> {
    let mut seen = std::collections::BTreeSet::from([SECONDS]);
    if let Some((method, _)) = summary.methods.iter().find(|(method, _)| !seen.insert(method)) {
        return Err(ReportError::Mismatch(format!("the key `{method}` would stand twice in the summary")));
    }
    atomic::write(path, format!("{:#}\n", summary.to_json()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(methods: &[&str]) -> Summary {
        let metrics = vec![("z_last".to_owned(), 0.5), ("a_first".to_owned(), f64::NAN)];
        let methods = methods.iter().map(|method| ((*method).to_owned(), metrics.clone())).collect();
        Summary { methods, seconds: 12.5 }
    }

    #[test]
    fn keeps_the_given_order() {
        let text = summary(&["sparc", "clip"]).to_json().to_string();
        assert_eq!(
            text,
            r#"{"sparc":{"z_last":0.5,"a_first":null},"clip":{"z_last":0.5,"a_first":null},"seconds":12.5}"#
        );
    }

    #[test]
    fn is_written_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        let summary = summary(&["clip"]);
        write_summary(&path, &summary).unwrap();
        let read: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(read, summary.to_json());
    }

    #[test]
    fn colliding_keys_are_refused() {
        let path = Path::new("never-written.json");
        for methods in [&["clip", "clip"][..], &["seconds"][..]] {
            assert!(write_summary(path, &summary(methods)).is_err());
        }
        assert!(!path.exists());
    }
}
