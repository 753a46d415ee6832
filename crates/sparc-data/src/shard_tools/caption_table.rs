//! Which image has which captions: comma- or tab-separated tables, JSON and JSON lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::make::CaptionColumns;
use crate::error::Error;
use crate::record::RegionRecord;

/// Names of the column with the image, looked for in this order. `filepath` and `title` are open_clip's.
const IMAGE_NAMES: [&str; 8] =
    ["filepath", "image", "image_path", "file_name", "filename", "image_name", "path", "file"];
/// Names of the column with the caption.
const CAPTION_NAMES: [&str; 7] = ["title", "caption", "captions", "text", "sentence", "comment", "description"];

/// An image and what the table says of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    pub(super) line: u64,
    pub(super) image: String,
    pub(super) captions: Vec<String>,
    pub(super) regions: Option<Vec<RegionRecord>>,
    /// Other keys of a JSON object.
    pub(super) more: Map<String, Json>,
}

/// Rows one after the other; those of the same image that are neighbours are one.
pub(super) struct CaptionTable {
    path: PathBuf,
    columns: CaptionColumns,
    length: u64,
    rows: Rows,
    next: Option<Row>,
}

enum Rows {
    Separated { records: Box<csv::StringRecordsIntoIter<File>>, image: usize, caption: usize },
    Lines { lines: Lines<BufReader<File>>, line: u64, bytes: u64 },
    Whole { items: std::vec::IntoIter<Json>, total: usize },
}

impl CaptionTable {
    /// Opens a table: `.json` as JSON, `.jsonl` and `.ndjson` as JSON lines, everything else as separated
    /// by tabs if its first line has one, and else by commas. A `.json` file is held in memory as a whole;
    /// the others are read as they are needed.
    pub(super) fn open(path: &Path, columns: &CaptionColumns) -> Result<CaptionTable, Error> {
        let io = |reason| Error::Io { path: path.into(), reason };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let rows = match extension.as_str() {
            "json" => Rows::whole(path, file)?,
            "jsonl" | "ndjson" => Rows::Lines { lines: BufReader::new(file).lines(), line: 0, bytes: 0 },
            _ => Rows::separated(path, columns)?,
        };
        Ok(CaptionTable { path: path.into(), columns: columns.clone(), length, rows, next: None })
    }

    /// Share of the table that has been read.
    pub(super) fn share(&self) -> f64 {
        let of = |bytes: u64| bytes as f64 / self.length.max(1) as f64;
        match &self.rows {
            Rows::Separated { records, .. } => of(records.reader().position().byte()),
            Rows::Lines { bytes, .. } => of(*bytes),
            Rows::Whole { items, total } => 1.0 - items.len() as f64 / (*total).max(1) as f64,
        }
    }

    /// The next image with all captions of its neighbouring rows.
    pub(super) fn next_image(&mut self) -> Result<Option<Row>, Error> {
        let Some(mut row) = self.next.take().map_or_else(|| self.row(), |row| Ok(Some(row)))? else {
            return Ok(None);
        };
        while let Some(other) = self.row()? {
            if other.image != row.image {
                self.next = Some(other);
                break;
            }
            row.captions.extend(other.captions);
            if let Some(regions) = other.regions {
                row.regions.get_or_insert_default().extend(regions);
            }
        }
        Ok(Some(row))
    }

    fn row(&mut self) -> Result<Option<Row>, Error> {
        let path = &self.path;
        match &mut self.rows {
            Rows::Separated { records, image, caption } => {
                let Some(record) = records.next() else {
                    return Ok(None);
                };
                let record = record.map_err(|error| of_csv(path, &error))?;
                let line = record.position().map_or(0, |position| position.line());
                let field = |index: usize| record.get(index).unwrap_or_default().to_owned();
                Ok(Some(Row { line, image: field(*image), captions: vec![field(*caption)], ..Row::default() }))
            }
            Rows::Lines { lines, line, bytes } => loop {
                let Some(text) = lines.next() else {
                    return Ok(None);
                };
                *line += 1;
                let text = text.map_err(|error| at(path, *line, error))?;
                *bytes += text.len() as u64 + 1;
                if text.trim().is_empty() {
                    continue;
                }
                let value: Json = serde_json::from_str(&text).map_err(|error| at(path, *line, error))?;
                return of_json(value, *line, &self.columns).map(Some).map_err(|reason| at(path, *line, reason));
            },
            Rows::Whole { items, total } => {
                let Some(item) = items.next() else {
                    return Ok(None);
                };
                let number = (*total - items.len()) as u64;
                of_json(item, number, &self.columns).map(Some).map_err(|reason| Error::Annotations {
                    path: path.clone(),
                    line: None,
                    reason: format!("entry {number}: {reason}"),
                })
            }
        }
    }
}

impl Rows {
    fn whole(path: &Path, mut file: File) -> Result<Rows, Error> {
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|reason| Error::Io { path: path.into(), reason })?;
        let bad = |reason: String| Error::Annotations { path: path.into(), line: None, reason };
        let items = match serde_json::from_str(&text).map_err(|error| bad(error.to_string()))? {
            Json::Array(items) => items,
            // Captions by image.
            Json::Object(object) => object
                .into_iter()
                .map(|(image, captions)| serde_json::json!({IMAGE_NAMES[0]: image, CAPTION_NAMES[0]: captions}))
                .collect(),
            _ => return Err(bad("neither a list of objects nor an object of captions by image".into())),
        };
        Ok(Rows::Whole { total: items.len(), items: items.into_iter() })
    }

    fn separated(path: &Path, columns: &CaptionColumns) -> Result<Rows, Error> {
        let io = |reason| Error::Io { path: path.into(), reason };
        let mut first_line = Vec::new();
        const LONGEST: u64 = 1 << 20;
        BufReader::new(File::open(path).map_err(io)?.take(LONGEST)).read_until(b'\n', &mut first_line).map_err(io)?;
        let delimiter = if first_line.contains(&b'\t') { b'\t' } else { b',' };
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).from_path(path).map_err(|e| of_csv(path, &e))?;
        let header = reader.headers().map_err(|error| of_csv(path, &error))?.clone();
        // Excel begins files with a byte order mark.
        let names: Vec<&str> = header.iter().map(|name| name.trim_start_matches('\u{feff}').trim()).collect();
        let find = |wanted: &Option<String>, usual: &[&str], what: &str| {
            let usual =
                || usual.iter().find_map(|usual| names.iter().position(|name| name.eq_ignore_ascii_case(usual)));
            match wanted {
                Some(wanted) => names.iter().position(|name| name == wanted),
                None => usual(),
            }
            .ok_or_else(|| Error::Annotations {
                path: path.into(),
                line: Some(1),
                reason: format!(
                    "no column for the {what}; name it with --{what}-column. Columns: {}",
                    names.join(", ")
                ),
            })
        };
        let image = find(&columns.image, &IMAGE_NAMES, "image")?;
        let caption = find(&columns.caption, &CAPTION_NAMES, "caption")?;
        Ok(Rows::Separated { records: Box::new(reader.into_records()), image, caption })
    }
}

/// An object with the image and its caption or captions; `regions` as in the record format, and other
/// keys are kept.
fn of_json(value: Json, line: u64, columns: &CaptionColumns) -> Result<Row, String> {
    let Json::Object(mut object) = value else {
        return Err("not an object".into());
    };
    let mut take = |wanted: &Option<String>, usual: &[&str]| match wanted {
        Some(wanted) => object.shift_remove(wanted),
        None => usual.iter().find_map(|name| object.shift_remove(*name)),
    };
    let image = match take(&columns.image, &IMAGE_NAMES) {
        Some(Json::String(image)) => image,
        _ => {
            return Err(format!(
                "no key for the image that is a text (looked for {})",
                looked(&columns.image, &IMAGE_NAMES)
            ));
        }
    };
    let captions = match take(&columns.caption, &CAPTION_NAMES) {
        Some(Json::String(caption)) => vec![caption],
        Some(Json::Array(captions)) => captions
            .into_iter()
            .map(|caption| match caption {
                Json::String(caption) => Ok(caption),
                other => Err(format!("a caption of {image} is no text: {other}")),
            })
            .collect::<Result<_, _>>()?,
        None | Some(Json::Null) => Vec::new(),
        Some(other) => return Err(format!("the captions of {image} are neither a text nor a list: {other}")),
    };
    let regions = match object.shift_remove("regions") {
        None | Some(Json::Null) => None,
        Some(regions) => {
            Some(serde_json::from_value(regions).map_err(|error| format!("the regions of {image}: {error}"))?)
        }
    };
    Ok(Row { line, image, captions, regions, more: object })
}

fn looked(wanted: &Option<String>, usual: &[&str]) -> String {
    wanted.clone().unwrap_or_else(|| usual.join(", "))
}

fn at(path: &Path, line: u64, reason: impl ToString) -> Error {
    Error::Annotations { path: path.into(), line: Some(line), reason: reason.to_string() }
}

fn of_csv(path: &Path, error: &csv::Error) -> Error {
    Error::Annotations { path: path.into(), line: error.position().map(csv::Position::line), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, text: &str, columns: &CaptionColumns) -> Result<Vec<Row>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut rows = Vec::new();
        let mut table = CaptionTable::open(&path, columns).map_err(|error| error.to_string())?;
        while let Some(row) = table.next_image().map_err(|error| error.to_string())? {
            rows.push(row);
        }
        assert!((table.share() - 1.0).abs() < 1e-9, "{}", table.share());
        Ok(rows)
    }

    fn captions(name: &str, text: &str) -> Vec<(String, Vec<String>)> {
        let rows = rows(name, text, &CaptionColumns::default()).unwrap();
        rows.into_iter().map(|row| (row.image, row.captions)).collect()
    }

    #[test]
    fn every_layout_gives_the_same_rows() {
        let expected: Vec<(String, Vec<String>)> = vec![
            ("a.jpg".into(), vec!["one, two".into(), "three".into()]),
            ("b.jpg".into(), vec!["four \"x\"".into()]),
        ];
        for (name, text) in [
            ("t.csv", "id,image,caption\n0,a.jpg,\"one, two\"\n1,a.jpg,three\r\n2,b.jpg,\"four \"\"x\"\"\"\n"),
            // open_clip's tables are separated by tabs, whatever they are called.
            ("t.csv", "filepath\ttitle\na.jpg\tone, two\na.jpg\tthree\nb.jpg\t\"four \"\"x\"\"\"\n"),
            ("t.tsv", "\u{feff}FilePath\tTitle\na.jpg\tone, two\na.jpg\tthree\nb.jpg\t\"four \"\"x\"\"\"\n"),
            ("t.json", r#"{"a.jpg": ["one, two", "three"], "b.jpg": "four \"x\""}"#),
            (
                "t.json",
                r#"[{"image": "a.jpg", "captions": ["one, two", "three"]}, {"file_name": "b.jpg", "text": "four \"x\""}]"#,
            ),
            (
                "t.jsonl",
                "{\"image\": \"a.jpg\", \"caption\": \"one, two\"}\n\n{\"image\": \"a.jpg\", \"caption\": \"three\"}\n{\"image\": \"b.jpg\", \"caption\": \"four \\\"x\\\"\"}\n",
            ),
        ] {
            assert_eq!(captions(name, text), expected, "{text}");
        }
    }

    #[test]
    fn json_objects_keep_regions_and_other_keys() {
        let text = r#"[{"image": "a", "caption": null, "regions": [{"box": [0, 0, 1, 1], "text": "x"}], "url": "u"}]"#;
        let rows = rows("t.json", text, &CaptionColumns::default()).unwrap();
        assert_eq!(rows[0].regions.as_ref().unwrap()[0].text, "x");
        assert_eq!(serde_json::to_string(&rows[0].more).unwrap(), r#"{"url":"u"}"#);
    }

    #[test]
    fn errors_name_the_file_and_the_place() {
        let columns = CaptionColumns::default();
        let error = rows("t.csv", "id,words\n1,a\n", &columns).unwrap_err();
        assert!(
            error.contains("t.csv line 1: no column for the image; name it with --image-column. Columns: id, words"),
            "{error}"
        );
        let error = rows("t.csv", "image,caption\na.jpg,x\nb.jpg\n", &columns).unwrap_err();
        assert!(error.contains("t.csv line 3"), "{error}");
        let error = rows("t.jsonl", "{\"image\": \"a\"}\n{\n", &columns).unwrap_err();
        assert!(error.contains("t.jsonl line 2"), "{error}");
        let error = rows("t.json", r#"[{"image": "a", "caption": [3]}]"#, &columns).unwrap_err();
        assert!(error.contains("entry 1: a caption of a is no text: 3"), "{error}");
        let named = CaptionColumns { image: Some("words".into()), caption: Some("id".into()) };
        assert_eq!(rows("t.csv", "id,words\n1,a\n", &named).unwrap()[0].image, "a");
        let error = rows("t.json", r#"[{"image": "a"}]"#, &named).unwrap_err();
        assert!(error.contains("looked for words"), "{error}");
    }
}
