//! Tables of image files and captions: `.csv` and `.tsv` with a header line, open_clip's columns
//! `filepath` and `title` unless others are named.
//!
//! Of a table only the places of its rows are kept, 8 bytes each: rows and images are read when their
//! turn has come.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use csv::{ByteRecord, ReaderBuilder};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::grouping::MAX_MEMBER_BYTES;
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};

/// The columns of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Holds the path of an image, absolute or from the working directory.
    pub image: String,
    /// Holds the caption.
    pub text: String,
}

impl Default for Columns {
    /// open_clip's `--csv-img-key` and `--csv-caption-key`.
    fn default() -> Columns {
        Columns { image: "filepath".into(), text: "title".into() }
    }
}

/// A table, ready to give its rows in any order.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    separator: u8,
    /// Number of the columns.
    image: usize,
    text: usize,
    /// Where rows begin.
    rows: Vec<u64>,
}

impl Table {
    /// Finds the columns and the rows.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or has no such columns.
    pub(crate) fn open(path: &Path, columns: &Columns) -> Result<Table, Error> {
        let io = |reason| Error::Io { path: path.into(), reason };
        let unusable = |reason: String| Error::Table { path: path.into(), reason };
        let file = File::open(path).map_err(io)?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        // open_clip's tables have tabs whatever they are called.
        let mut line = Vec::new();
        reader.by_ref().take(MAX_ROW_BYTES).read_until(b'\n', &mut line).map_err(io)?;
        let separator = if line.contains(&b'\t') { b'\t' } else { b',' };
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut rows_reader = builder(separator).from_reader(reader);
        let mut record = ByteRecord::new();
        rows_reader.read_byte_record(&mut record).map_err(|error| unusable(error.to_string()))?;
        let names: Vec<String> = record
            .iter()
            .map(|name| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim().to_owned())
            .collect();
        let find = |wanted: &str| {
            names
                .iter()
                .position(|name| name == wanted)
                .ok_or_else(|| unusable(format!("it has no column `{wanted}`; there are: {}", names.join(", "))))
        };
        let (image, text) = (find(&columns.image)?, find(&columns.text)?);
        let mut rows = Vec::new();
        while rows_reader.read_byte_record(&mut record).map_err(|error| unusable(error.to_string()))? {
            let start = record.position().map_or(0, csv::Position::byte);
            if record.as_slice().len() as u64 >= MAX_ROW_BYTES {
                let number = rows.len() + 1;
                return Err(unusable(format!(
                    "row {number} is longer than {MAX_ROW_BYTES} bytes: is a quote not closed?"
                )));
            }
            rows.push(start);
        }
        Ok(Table { path: path.into(), separator, image, text, rows })
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

/// Pairs of an image file and a text, from a table with the columns `image` and `text` or open_clip's; paths are
/// absolute or from the working directory.
///
/// # Errors
///
/// A file that cannot be read or has no such columns, no rows, or a row without a path or a text.
pub fn read_pairs(path: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    let named = Columns { image: "image".into(), text: "text".into() };
    let table = match Table::open(path, &named) {
        // Whose error is told: of the columns that this function documents first.
        Err(error @ Error::Table { .. }) => Table::open(path, &Columns::default()).map_err(|_| error),
        table => table,
    }?;
    let unusable = |reason: String| Error::Table { path: path.into(), reason };
    if table.rows.is_empty() {
        return Err(unusable("it has no rows".into()));
    }
    let mut pairs = Vec::with_capacity(table.len());
    for (row, &start) in table.rows.iter().enumerate() {
        let record =
            read_row(path, table.separator, start).map_err(|reason| Error::Io { path: path.into(), reason })?;
        let field = |column: usize, what: &str| {
            let text = std::str::from_utf8(record.get(column).unwrap_or_default())
                .map_err(|_| unusable(format!("row {}: the {what} is not UTF-8", row + 1)))?;
            if text.trim().is_empty() { Err(unusable(format!("row {} has no {what}", row + 1))) } else { Ok(text) }
        };
        let image = field(table.image, "image")?;
        pairs.push((PathBuf::from(image), field(table.text, "text")?.to_owned()));
    }
    Ok(pairs)
}

/// Longer rows are not read.
const MAX_ROW_BYTES: u64 = 1 << 20;

fn builder(separator: u8) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder.delimiter(separator).flexible(true).has_headers(false);
    builder
}

/// A row of a table, not yet read.
#[derive(Debug, Clone)]
pub(crate) struct TableRow {
    pub(crate) table: Arc<Table>,
    /// Its number, from 0.
    pub(crate) row: usize,
}

impl TableRow {
    /// Reads the row and its image. The key is the path as it is written.
    ///
    /// # Errors
    ///
    /// Why the sample is left out.
    pub(crate) fn read(&self) -> Result<RawSample, Skip> {
        let Table { path, separator, image, text, rows } = &*self.table;
        let shard: Arc<str> = path.to_string_lossy().into();
        let unreadable = |key: &str, detail: String| Skip {
            reason: SkipReason::FileUnreadable,
            shard: shard.to_string(),
            key: key.to_owned(),
            detail,
        };
        let row = self.row;
        let record =
            read_row(path, *separator, rows[row]).map_err(|e| unreadable(&format!("row {row}"), e.to_string()))?;
        let field = |column: usize| record.get(column).unwrap_or_default();
        let key = String::from_utf8_lossy(field(*image)).into_owned();
        if key.is_empty() {
            return Err(unreadable(&format!("row {row}"), "it names no image".into()));
        }
        let file = Path::new(&key);
        let bytes = read_file(file).map_err(|error| unreadable(&key, error.to_string()))?;
        let extension = file.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        // The decoder goes by content; the extension only says that this is the image.
        let known = extension.filter(|extension| ["jpg", "jpeg", "png", "webp"].contains(&extension.as_str()));
        let members =
            HashMap::from([(known.unwrap_or_else(|| "jpg".into()), bytes), ("txt".into(), field(*text).to_vec())]);
        Ok(RawSample { shard, key, members })
    }
}

fn read_row(path: &Path, separator: u8, start: u64) -> io::Result<ByteRecord> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut record = ByteRecord::new();
    let reader = BufReader::with_capacity(1 << 10, file.take(MAX_ROW_BYTES));
    builder(separator).buffer_capacity(1 << 10).from_reader(reader).read_byte_record(&mut record)?;
    Ok(record)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Looked at before it is opened: opening a pipe waits for its other end.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
    }
    let file = File::open(path)?;
    let length = metadata.len();
    if length > MAX_MEMBER_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has {length} bytes")));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_MEMBER_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, text: &[u8]) -> (tempfile::TempDir, Result<Table, Error>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let table = Table::open(&path, &Columns::default());
        (folder, table)
    }

    fn rows(table: Table) -> Vec<Result<RawSample, Skip>> {
        let table = Arc::new(table);
        (0..table.len()).map(|row| TableRow { table: table.clone(), row }.read()).collect()
    }

    #[test]
    fn rows_are_read_with_quotes_line_breaks_and_either_separator() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a.PNG");
        std::fs::write(&image, b"pixels").unwrap();
        let image = image.to_str().unwrap();
        for (name, separator) in [("t.csv", ','), ("t.csv", '\t'), ("t.tsv", '\t')] {
            let text = format!(
                "\u{feff}title,other,filepath\r\n\"two\nlines, \"\"quoted\"\"\",x,{image}\r\nplain,y,{image}\n"
            );
            let text = if separator == '\t' {
                text.replace(",x,", "\tx\t").replace(",y,", "\ty\t").replace("e,o", "e\to").replace("r,f", "r\tf")
            } else {
                text
            };
            let (_folder, table) = table(name, text.as_bytes());
            let rows = rows(table.unwrap());
            let first = rows[0].as_ref().unwrap();
            assert_eq!(first.key, image);
            assert_eq!(first.members["png"], b"pixels");
            assert_eq!(first.members["txt"], b"two\nlines, \"quoted\"");
            assert_eq!(rows[1].as_ref().unwrap().members["txt"], b"plain");
            assert_eq!(rows.len(), 2);
        }
    }

    #[test]
    fn pairs_are_read_with_either_names_of_columns() {
        let read = |text: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("pairs.csv");
            std::fs::write(&path, text).unwrap();
            read_pairs(&path).map_err(|error| error.to_string())
        };
        let expected = vec![(PathBuf::from("a.jpg"), "a, b".to_owned()), (PathBuf::from("b c.jpg"), "d".to_owned())];
        assert_eq!(read("image,text\na.jpg,\"a, b\"\nb c.jpg,d\n").unwrap(), expected);
        assert_eq!(read("title\tmore\tfilepath\na, b\t1\ta.jpg\nd\t2\tb c.jpg\n").unwrap(), expected);
        assert!(read("image,title\na.jpg,x\n").unwrap_err().contains("no column `text`"));
        assert!(read("image,text\n").unwrap_err().contains("no rows"));
        assert!(read("image,text\na.jpg,x\na.jpg\n").unwrap_err().contains("row 2 has no text"));
        assert!(read("image,text\n ,x\n").unwrap_err().contains("row 1 has no image"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (_folder, table) = table("t.csv", b"image,title\na.jpg,x\n");
        let error = table.unwrap_err().to_string();
        assert!(
            error.contains("t.csv") && error.contains("no column `filepath`") && error.contains("image, title"),
            "{error}"
        );
        let (_folder, table) = self::table("t.csv", b"filepath,title\nabsent.jpg,x\n,y\n");
        let rows = rows(table.unwrap());
        let skip = rows[0].as_ref().unwrap_err();
        assert_eq!((skip.reason, skip.key.as_str()), (SkipReason::FileUnreadable, "absent.jpg"));
        assert_eq!(rows[1].as_ref().unwrap_err().key, "row 1");
        let (_folder, empty) = self::table("t.csv", b"");
        assert!(empty.is_err());
        let unclosed = [b"filepath,title\na.jpg,\"", &[b'x'; 1 << 20][..], b"\nb.jpg,y\n"].concat();
        let (_folder, unclosed) = self::table("t.csv", &unclosed);
        assert!(unclosed.unwrap_err().to_string().contains("row 1 is longer"));
    }
}
