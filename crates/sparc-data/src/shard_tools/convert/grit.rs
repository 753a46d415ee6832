//! GRIT, the grounded captions of Kosmos-2 (Peng et al. 2023, arXiv:2306.14824), as img2dataset downloads it.
//!
//! GRIT is parquet files of addresses, captions, `noun_chunks` and `ref_exps`. The last two are lists of
//! `[start, end, x0, y0, x1, y1, confidence]`: which characters of the caption, and a box in shares of the
//! image's sides. Where img2dataset was told to save those columns, they are in the `json` of each sample;
//! otherwise they are taken from the parquet file of the same name beside the tar, by its column `key`.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::Value as Json;

use super::super::sink::{NewSample, Output, Progress, WrittenShards};
use super::img2dataset::for_each_download;
use crate::error::Error;
use crate::record::RegionRecord;

/// The columns with regions: phrases, and phrases with what modifies them.
const COLUMNS: [&str; 2] = ["noun_chunks", "ref_exps"];

/// Rows of seven numbers.
type Spans = Vec<Vec<f64>>;

/// Writes the samples of img2dataset's tars with a region for each grounded span of the caption. A phrase
/// that stands in both columns with the same box is there once.
///
/// # Errors
///
/// Shards that cannot be opened, a parquet file that cannot be read where the `json` members lack the
/// columns, or when something cannot be written. Nothing is left of the new shards then.
pub fn convert_grit(
    shards: &[PathBuf],
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    for_each_download(shards, output, progress, |shard| {
        let path = shard.with_extension("parquet");
        let beside = if path.is_file() { read_spans(&path)? } else { HashMap::new() };
        Ok(move |new: &mut NewSample| {
            let in_record = COLUMNS.map(|column| new.more.shift_remove(column));
            let spans: Vec<Spans> = if in_record.iter().any(Option::is_some) {
                in_record.into_iter().flatten().map(of_json).collect::<Result<_, _>>()?
            } else {
                let name = path.display();
                beside.get(&new.key).cloned().ok_or_else(|| {
                    format!("neither the .json member nor {name} has {} for this key", COLUMNS.join(" and "))
                })?
            };
            let caption = new.captions.first().map_or("", String::as_str);
            new.regions = Some(regions(caption, &spans.concat())?);
            Ok(())
        })
    })
}

/// A column as it stands in JSON: a list, or a text that holds one, as some versions write it.
fn of_json(value: Json) -> Result<Spans, String> {
    let parsed = match value {
        Json::Null => Ok(Spans::new()),
        Json::String(text) => serde_json::from_str(&text),
        other => serde_json::from_value(other),
    };
    parsed.map_err(|error| format!("{}: {error}", COLUMNS.join(" or ")))
}

fn regions(caption: &str, spans: &Spans) -> Result<Vec<RegionRecord>, String> {
    let mut regions: Vec<RegionRecord> = Vec::new();
    for span in spans {
        let &[start, end, x0, y0, x1, y1, score] = &span[..] else {
            return Err(format!("a span of {} numbers, not 7", span.len()));
        };
        // Characters, as Python counts them.
        let text: String = caption.chars().skip(start as usize).take((end - start).max(0.0) as usize).collect();
        let box_xyxy = [x0, y0, x1, y1].map(|edge| edge.clamp(0.0, 1.0) as f32);
        let region = RegionRecord { box_xyxy, text: text.trim().to_owned(), score: Some(score as f32) };
        if !regions.iter().any(|other| other.text == region.text && other.box_xyxy == region.box_xyxy) {
            regions.push(region);
        }
    }
    Ok(regions)
}

/// Spans by key.
fn read_spans(path: &Path) -> Result<HashMap<String, Vec<Spans>>, Error> {
    let bad = |reason: String| Error::Annotations { path: path.into(), line: None, reason };
    let file = File::open(path).map_err(|reason| Error::Io { path: path.into(), reason })?;
    let reader = SerializedFileReader::new(file).map_err(|error| bad(error.to_string()))?;
    let mut spans = HashMap::new();
    for row in reader.get_row_iter(None).map_err(|error| bad(error.to_string()))? {
        let row = row.map_err(|error| bad(error.to_string()))?;
        let Some(Field::Str(key)) = column(&row, "key") else {
            return Err(bad("no column `key` of texts, by which img2dataset names its samples".into()));
        };
        let of_row = COLUMNS.map(|name| column(&row, name).map_or(Ok(Spans::new()), of_field));
        spans.insert(key.clone(), of_row.into_iter().collect::<Result<_, _>>().map_err(bad)?);
    }
    Ok(spans)
}

fn column<'a>(row: &'a Row, wanted: &str) -> Option<&'a Field> {
    row.get_column_iter().find(|(name, _)| name.as_str() == wanted).map(|(_, field)| field)
}

fn of_field(field: &Field) -> Result<Spans, String> {
    let list = |field: &Field| match field {
        Field::ListInternal(list) => Ok(list.elements().to_vec()),
        Field::Null => Ok(Vec::new()),
        other => Err(format!("a list was expected, not {other}")),
    };
    let number = |field: &Field| match field {
        Field::Double(value) => Ok(*value),
        Field::Float(value) => Ok(f64::from(*value)),
        Field::Long(value) => Ok(*value as f64),
        Field::Int(value) => Ok(f64::from(*value)),
        other => Err(format!("a number was expected, not {other}")),
    };
    list(field)?.iter().map(|span| list(span)?.iter().map(number).collect()).collect()
}
