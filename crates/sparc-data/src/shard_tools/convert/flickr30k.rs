//! Flickr30k Entities (Plummer et al. 2015, arXiv:1505.04870).
//!
//! `Sentences/<id>.txt` has five sentences with phrases marked as `[/EN#12/people A man]`; the number is
//! the entity, 0 for none. `Annotations/<id>.xml` has objects with the entities' numbers as `name` and a
//! `bndbox`, or none for scenes and what cannot be seen. Boxes count pixels from 1 and hold their last
//! pixel, as Pascal VOC's do.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::super::sink::{NewSample, Output, Progress, Sink, WrittenShards};
use super::{read_image, region};
use crate::error::Error;
use crate::record::RegionRecord;

/// Where Flickr30k Entities lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flickr30kFiles {
    /// The folder of images, `<id>.jpg`.
    pub images: PathBuf,
    /// The folder `Sentences`.
    pub sentences: PathBuf,
    /// The folder `Annotations`.
    pub annotations: PathBuf,
    /// A list of ids, one a line, such as `train.txt`; without it, all that have sentences.
    pub ids: Option<PathBuf>,
}

/// A sentence without its marks, and its phrases with their entities.
struct Sentence {
    text: String,
    phrases: Vec<(String, String)>,
}

/// Boxes of entities, in pixels, and the image's size.
struct Boxes {
    size: (f64, f64),
    of_entity: HashMap<String, Vec<[f64; 4]>>,
}

/// Writes images with their sentences as captions; each box of a phrase's entity becomes a region with
/// that phrase, once for each different phrase.
///
/// # Errors
///
/// Files that cannot be read or are not what they should be, or when something cannot be written. Nothing
/// is left of the shards then.
pub fn convert_flickr30k(
    files: &Flickr30kFiles,
    output: &Output,
    progress: &mut dyn FnMut(Progress),
) -> Result<WrittenShards, Error> {
    let ids = ids(files)?;
    let mut sink = Sink::new(output, &files.sentences)?;
    for (index, id) in ids.iter().enumerate() {
        if let Some(image) = read_image(&mut sink, id, &files.images.join(format!("{id}.jpg"))) {
            let sentences: Vec<Sentence> = text(&files.sentences.join(format!("{id}.txt")))?
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(sentence)
                .collect();
            let boxes = boxes(&files.annotations.join(format!("{id}.xml")))?;
            let regions = Some(regions(&sentences, &boxes));
            let captions = sentences.into_iter().map(|sentence| sentence.text).collect();
            sink.add(NewSample { key: id.clone(), image, captions, regions, ..NewSample::default() })?;
        }
        progress(Progress { share: (index + 1) as f64 / ids.len() as f64, samples: sink.samples() });
    }
    sink.finish()
}

fn text(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|reason| Error::Io { path: path.into(), reason })
}

fn ids(files: &Flickr30kFiles) -> Result<Vec<String>, Error> {
    if let Some(path) = &files.ids {
        return Ok(text(path)?.split_whitespace().map(str::to_owned).collect());
    }
    let folder = &files.sentences;
    let entries = std::fs::read_dir(folder).map_err(|reason| Error::Io { path: folder.clone(), reason })?;
    let mut ids: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".txt").map(str::to_owned))
        .collect();
    ids.sort();
    Ok(ids)
}

fn sentence(line: &str) -> Sentence {
    let (mut words, mut phrases): (Vec<&str>, Vec<(String, Vec<&str>)>) = (Vec::new(), Vec::new());
    let mut inside = false;
    for word in line.split_whitespace() {
        if let Some(mark) = word.strip_prefix("[/EN#") {
            let entity = mark.split('/').next().unwrap_or_default();
            phrases.push((entity.to_owned(), Vec::new()));
            inside = true;
            continue;
        }
        let (word, ends) = match word.strip_suffix(']') {
            Some(word) if inside => (word, true),
            _ => (word, false),
        };
        if let Some((_, phrase)) = phrases.last_mut().filter(|_| inside) {
            phrase.push(word);
        }
        words.push(word);
        inside &= !ends;
    }
    let phrases = phrases.into_iter().map(|(entity, phrase)| (entity, phrase.join(" "))).collect();
    Sentence { text: words.join(" "), phrases }
}

fn boxes(path: &Path) -> Result<Boxes, Error> {
    let text = text(path)?;
    let bad = |reason: String| Error::Annotations { path: path.into(), line: None, reason };
    let document = roxmltree::Document::parse(&text).map_err(|error| bad(error.to_string()))?;
    let number = |node: roxmltree::Node<'_, '_>, name: &str| {
        let value = node.children().find(|child| child.has_tag_name(name)).and_then(|child| child.text());
        let value = value.ok_or_else(|| bad(format!("<{}> without <{name}>", node.tag_name().name())))?;
        value.trim().parse::<f64>().map_err(|error| bad(format!("<{name}> {value}: {error}")))
    };
    let size = document.descendants().find(|node| node.has_tag_name("size")).ok_or_else(|| bad("no <size>".into()))?;
    let size = (number(size, "width")?, number(size, "height")?);
    let mut of_entity: HashMap<String, Vec<[f64; 4]>> = HashMap::new();
    for object in document.descendants().filter(|node| node.has_tag_name("object")) {
        let Some(place) = object.children().find(|child| child.has_tag_name("bndbox")) else {
            continue;
        };
        let corners = [
            number(place, "xmin")? - 1.0,
            number(place, "ymin")? - 1.0,
            number(place, "xmax")?,
            number(place, "ymax")?,
        ];
        for name in object.children().filter(|child| child.has_tag_name("name")) {
            of_entity.entry(name.text().unwrap_or_default().trim().to_owned()).or_default().push(corners);
        }
    }
    Ok(Boxes { size, of_entity })
}

fn regions(sentences: &[Sentence], boxes: &Boxes) -> Vec<RegionRecord> {
    let mut seen = HashSet::new();
    let mut regions = Vec::new();
    for (entity, phrase) in sentences.iter().flat_map(|sentence| &sentence.phrases) {
        if seen.insert((entity, phrase)) {
            let places = boxes.of_entity.get(entity).into_iter().flatten();
            regions.extend(places.map(|place| region(*place, boxes.size, phrase)));
        }
    }
    regions
}
