//! Shards from a folder of images and a table of their captions.

use std::path::Path;

use super::caption_table::CaptionTable;
use super::sink::{NewSample, Output, Progress, Sink, WrittenShards, key_of};
use crate::error::Error;
use crate::skips::SkipReason;

/// Which columns or keys of the table hold what; the usual names are looked for where none is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptionColumns {
    /// Path of the image, from the folder of images.
    pub image: Option<String>,
    /// A caption, or in JSON a list of them.
    pub caption: Option<String>,
}

/// Writes the images that a table names, with their captions, to shards. Images are taken as they are;
/// their key is their path in the table, without its extension. Images that are missing or that training
/// could not read are left out and counted.
///
/// # Errors
///
/// A table that cannot be read, a folder that has shards of this split already, no usable image at all,
/// or when something cannot be written. Nothing is left of the shards then.
pub fn make_shards(
    images: &Path,
    captions: &Path,
    columns: &CaptionColumns,
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    let mut table = CaptionTable::open(captions, columns)?;
    let mut sink = Sink::new(output, captions)?;
    while let Some(row) = table.next_image()? {
        let path = images.join(&row.image);
        let key = key_of(&row.image);
        if key.is_empty() {
            sink.skip(SkipReason::NoImage, "", format!("line {} names no image", row.line));
            continue;
        }
        match std::fs::read(&path) {
            Ok(image) => sink.add(NewSample {
                key,
                image,
                captions: row.captions,
                regions: row.regions,
                more: row.more,
                members: Vec::new(),
            })?,
            Err(error) => sink.skip(SkipReason::NoImage, &key, format!("{}: {error}", path.display())),
        }
        progress(Progress { share: table.share(), samples: sink.samples() });
    }
    sink.finish()
}

#[cfg(test)]
mod tests {
    use super::super::peek::peek;
    use super::super::sink::tests::{output, picture};
    use super::*;

    #[test]
    fn images_and_captions_come_back_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sub.folder")).unwrap();
        std::fs::write(at("a.jpg"), picture(30, 20)).unwrap();
        std::fs::write(at("sub.folder/b.v2.jpeg"), picture(31, 20)).unwrap();
        std::fs::write(at("broken.jpg"), b"<html>").unwrap();
        let table = "image,caption\na.jpg,un café\na.jpg,zweite\nsub.folder/b.v2.jpeg,third\nmissing.jpg,x\n\
                     broken.jpg,y\n,z\na.jpg,late\n";
        std::fs::write(at("t.csv"), table).unwrap();
        let mut shares = Vec::new();
        let made = make_shards(
            folder.path(),
            &at("t.csv"),
            &CaptionColumns::default(),
            &output(&at("out"), 1),
            &mut |progress| shares.push(progress.share),
        )
        .unwrap();
        assert_eq!((made.samples, made.shards.len(), made.regions), (2, 2, None));
        assert_eq!(made.skips.to_string(), "skipped{no_image=2, image_decode=1, duplicate_key=1}");
        assert!(shares.is_sorted() && *shares.last().unwrap() == 1.0, "{shares:?}");
        let (samples, skips) = peek(&made.shards, 9).unwrap();
        let shown: Vec<_> = samples.iter().map(|s| (s.key.as_str(), s.captions.join("|"), s.image.width())).collect();
        let expected = [("a", "un café|zweite".to_owned(), 30), ("sub.folder/b_v2", "third".to_owned(), 31)];
        assert_eq!((shown, skips.is_empty()), (expected.to_vec(), true));
    }

    #[test]
    fn a_table_that_breaks_off_leaves_no_shards() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.jpg"), picture(30, 20)).unwrap();
        let table = folder.path().join("t.jsonl");
        std::fs::write(&table, "{\"image\": \"a.jpg\", \"caption\": \"x\"}\n{\"image\": ").unwrap();
        let out = folder.path().join("out");
        let columns = CaptionColumns::default();
        let error = make_shards(folder.path(), &table, &columns, &output(&out, 1), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("t.jsonl line 2"), "{error}");
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    }
}
