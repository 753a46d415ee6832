//! Converters on miniature data sets, written here as their documentation describes them.

use std::io::Cursor;
use std::path::Path;

use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};

use super::super::peek::{PeekedSample, peek};
use super::super::scan::TOOL_MEMBERS;
use super::super::sink::tests::{output, picture};
use super::super::sink::{Output, Progress, WrittenShards};
use super::*;
use crate::decode::decode_labels;
use crate::shard_writer::{ShardLimits, ShardWriter};
use crate::shards::ShardSamples;

/// A folder to put a data set in and shards beside it.
struct Place {
    folder: tempfile::TempDir,
    shares: Vec<f64>,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap(), shares: Vec::new() }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> std::path::PathBuf {
        let path = self.at(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn convert(
        &mut self,
        work: impl FnOnce(&Output, &mut dyn FnMut(Progress)) -> Result<WrittenShards, Error>,
    ) -> Result<(WrittenShards, Vec<PeekedSample>), String> {
        let output = output(&self.at("out"), 2);
        let shares = &mut self.shares;
        let written = work(&output, &mut |progress| shares.push(progress.share)).map_err(|error| error.to_string())?;
        assert!(self.shares.is_sorted() && self.shares.iter().all(|share| (0.0..=1.0).contains(share)));
        let (samples, skips) = peek(&written.shards, 100).unwrap();
        assert!(skips.is_empty(), "{skips}");
        Ok((written, samples))
    }
}

/// Boxes in pixels of an image of the given size, with their texts, in order.
fn regions(sample: &PeekedSample, (width, height): (f32, f32)) -> Vec<([i32; 4], String)> {
    let regions = sample.regions.as_ref().expect("annotated");
    let pixels =
        |[x0, y0, x1, y1]: [f32; 4]| [x0 * width, y0 * height, x1 * width, y1 * height].map(|v| v.round() as i32);
    regions.iter().map(|region| (pixels(region.box_xyxy), region.text.clone())).collect()
}

fn png(image: &image::DynamicImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

const COCO_IMAGES: &str = r#""images": [
    {"license": 4, "file_name": "000000000009.jpg", "height": 20, "width": 40, "id": 9, "date_captured": "x"},
    {"file_name": "000000000025.jpg", "height": 20, "width": 40, "id": 25},
    {"file_name": "000000000030.jpg", "height": 20, "width": 40, "id": 30}]"#;

fn coco() -> (Place, CocoFiles) {
    let place = Place::new();
    for name in ["000000000009.jpg", "000000000025.jpg"] {
        place.put(&format!("images/{name}"), picture(40, 20));
    }
    let captions = place.put(
        "captions.json",
        format!(
            r#"{{"info": {{}}, {COCO_IMAGES}, "annotations": [
            {{"image_id": 25, "id": 1, "caption": "A giraffe. "}}, {{"image_id": 9, "id": 2, "caption": "Bowls"}},
            {{"image_id": 9, "id": 3, "caption": "Food in bowls"}}]}}"#
        ),
    );
    let instances = place.put(
        "instances.json",
        format!(
            r#"{{{COCO_IMAGES}, "annotations": [
            {{"segmentation": [[1, 2, 3, 4]], "area": 3.5, "iscrowd": 0, "image_id": 9, "bbox": [4.0, 5.0, 10.0, 15.5], "category_id": 51, "id": 7}},
            {{"segmentation": {{"counts": [3], "size": [20, 40]}}, "iscrowd": 1, "image_id": 9, "bbox": [0, 0, 40, 10], "category_id": 1, "id": 8}},
            {{"iscrowd": 0, "image_id": 9, "bbox": [50, 0, 5, 5], "category_id": 51, "id": 9}}],
            "categories": [{{"supercategory": "person", "id": 1, "name": "person"}}, {{"id": 51, "name": "bowl"}}]}}"#
        ),
    );
    let files = CocoFiles {
        images: place.at("images"),
        captions: Some(captions),
        instances: Some(instances),
        ..CocoFiles::default()
    };
    (place, files)
}

fn members(written: &WrittenShards, key: &str) -> std::collections::HashMap<String, Vec<u8>> {
    let samples = written.shards.iter().flat_map(|shard| ShardSamples::open(shard).unwrap().keeping(&TOOL_MEMBERS));
    samples.map(Result::unwrap).find(|sample| sample.key == key).unwrap().members
}

#[test]
fn coco_captions_and_instances() {
    let (mut place, mut files) = coco();
    // Beside the images, label maps of COCO-Stuff.
    place.put("stuff/000000000009.png", png(&GrayImage::from_pixel(40, 20, Luma([91])).into()));
    files.stuff = Some(place.at("stuff"));
    let (written, samples) = place.convert(|output, progress| convert_coco(&files, output, progress)).unwrap();
    // The third image is not there, the box at 50 is outside, and one image has no label map.
    assert_eq!(written.skips.to_string(), "skipped{no_image=1, box_empty=1, bad_label=1}");
    assert_eq!(samples.iter().map(|sample| sample.key.as_str()).collect::<Vec<_>>(), ["000000000009", "000000000025"]);
    assert_eq!(samples[0].captions, ["Bowls", "Food in bowls"]);
    // The box ends below the image, and is moved to its edge.
    assert_eq!(regions(&samples[0], (40.0, 20.0)), [([4, 5, 14, 20], "bowl".to_owned())]);
    assert_eq!(samples[1].regions, Some(vec![]));
    let members = members(&written, "000000000009");
    assert!(decode_labels(&members["seg.png"]).unwrap().as_raw().iter().all(|&label| label == 91));
    let record: serde_json::Value = serde_json::from_slice(&members["json"]).unwrap();
    assert_eq!(record["ignore_regions"], serde_json::json!([{"box": [0.0, 0.0, 1.0, 0.5], "text": "person"}]));
}

#[test]
fn coco_panoptic_masks() {
    let (mut place, files) = coco();
    let panoptic = place.put(
        "panoptic.json",
        format!(
            r#"{{{COCO_IMAGES}, "annotations": [{{"image_id": 9, "file_name": "000000000009.png", "segments_info": [
            {{"id": 70000, "category_id": 200, "bbox": [0, 0, 20, 20], "iscrowd": 0, "area": 1}},
            {{"id": 258, "category_id": 51, "bbox": [20, 0, 10, 20], "iscrowd": 0, "area": 1}}]}}],
            "categories": [{{"id": 1, "name": "person", "isthing": 1}}, {{"id": 51, "name": "bowl", "isthing": 1}},
            {{"id": 200, "name": "rug-merged", "isthing": 0}}]}}"#
        ),
    );
    let colours = RgbImage::from_fn(40, 20, |x, _| match x {
        0..20 => Rgb([112, 17, 1]),
        20..30 => Rgb([2, 1, 0]),
        _ => Rgb([0, 0, 0]),
    });
    place.put("masks/000000000009.png", png(&colours.into()));
    let files = CocoFiles {
        captions: files.captions,
        images: files.images,
        panoptic: Some((panoptic, place.at("masks"))),
        ..CocoFiles::default()
    };
    let (written, samples) = place.convert(|output, progress| convert_coco(&files, output, progress)).unwrap();
    // Only things are regions; the image without annotations is not annotated.
    assert_eq!(regions(&samples[0], (40.0, 20.0)), [([20, 0, 30, 20], "bowl".to_owned())]);
    assert_eq!(samples[1].regions, None);
    let members = members(&written, "000000000009");
    let row = |member: &str| {
        decode_labels(&members[member]).unwrap().rows().next().unwrap().map(|p| p.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(row("seg.png"), [[2; 20].as_slice(), &[1; 10], &[255; 10]].concat());
    assert_eq!(row("inst.png"), [[0; 20].as_slice(), &[1; 10], &[0; 10]].concat());
    let names = std::fs::read_to_string(place.at("out/seg_classes.json")).unwrap();
    let names: serde_json::Value = serde_json::from_str(&names).unwrap();
    assert_eq!(names, serde_json::json!({"0": "person", "1": "bowl", "2": "rug-merged"}));
}

#[test]
fn coco_files_that_do_not_fit_are_named() {
    let (mut place, mut files) = coco();
    files.captions = Some(place.put("bad.json", r#"{"images": [], "annotations": [{"image_id": 3, "caption": "x"}]}"#));
    let error = place.convert(|output, progress| convert_coco(&files, output, progress)).unwrap_err();
    assert!(error.contains("bad.json: an annotation belongs to the image 3"), "{error}");
    files.captions = Some(place.put("bad.json", "{\"images\": [],\n\"annotations\": 3}"));
    let error = place.convert(|output, progress| convert_coco(&files, output, progress)).unwrap_err();
    assert!(error.contains("bad.json line 2: invalid type"), "{error}");
    assert!(!place.at("out").join("train-00000.tar").exists());
}

#[test]
fn flickr30k_entities() {
    let mut place = Place::new();
    place.put("images/36979.jpg", picture(50, 40));
    place.put(
        "Sentences/36979.txt",
        "[/EN#137644/people A group of friends] playing [/EN#137645/other cards] at [/EN#0/notvisual each other] .\n\
         [/EN#137644/people A group of friends] holds [/EN#1/bodyparts/people a man 's arm] [ sic ]\n",
    );
    place.put(
        "Annotations/36979.xml",
        "<annotation>\n<filename>36979.jpg</filename><size><width>50</width><height>40</height><depth>3</depth></size>\
         <object><name>137644</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>25</xmax><ymax>40</ymax></bndbox></object>\
         <object><name>137645</name><name>1</name><bndbox><xmin>6</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>\
         <object><name>137644</name><bndbox><xmin>31</xmin><ymin>1</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>\
         <object><name>7</name><scene>1</scene><nobndbox>0</nobndbox></object></annotation>",
    );
    let files = Flickr30kFiles {
        images: place.at("images"),
        sentences: place.at("Sentences"),
        annotations: place.at("Annotations"),
        ids: None,
    };
    let convert = |files: Flickr30kFiles| {
        move |output: &Output, progress: &mut dyn FnMut(Progress)| convert_flickr30k(&files, output, progress)
    };
    let (_, samples) = place.convert(convert(files.clone())).unwrap();
    assert_eq!(
        samples[0].captions,
        ["A group of friends playing cards at each other .", "A group of friends holds a man 's arm [ sic ]"]
    );
    let expected = [
        ([0, 10, 25, 40], "A group of friends"),
        ([30, 0, 50, 40], "A group of friends"),
        ([5, 0, 10, 20], "cards"),
        ([5, 0, 10, 20], "a man 's arm"),
    ];
    assert_eq!(regions(&samples[0], (50.0, 40.0)), expected.map(|(place, text)| (place, text.to_owned())));
    // A broken file, by its name.
    std::fs::remove_dir_all(place.at("out")).unwrap();
    place.put("Annotations/36979.xml", "<annotation><size><width>50</width><height>x</height></size></annotation>");
    let error = place.convert(convert(files)).unwrap_err();
    assert!(error.contains("36979.xml: <height> x: invalid float"), "{error}");
}

#[test]
fn visual_genome() {
    let mut place = Place::new();
    place.put("images/VG_100K/1.jpg", picture(80, 60));
    place.put("images/VG_100K_2/2.jpg", picture(80, 60));
    let files = VisualGenomeFiles {
        images: place.at("images"),
        image_data: place.put(
            "image_data.json",
            r#"[{"width": 80, "url": "u", "height": 60, "image_id": 1, "coco_id": null, "flickr_id": null},
                {"width": 80, "height": 60, "image_id": 2, "coco_id": 9}, {"width": 8, "height": 6, "image_id": 4, "coco_id": null}]"#,
        ),
        regions: place.put(
            "region_descriptions.json",
            r#"[{"regions": [{"region_id": 1382, "width": 40, "height": 30, "image_id": 1, "phrase": "the clock is green ", "y": 15, "x": 20}], "id": 1},
                {"id": 2, "regions": [{"region_id": 3, "width": 80, "height": 61, "image_id": 2, "phrase": "a street", "y": 0, "x": -1}]},
                {"id": 3, "regions": []}, {"id": 4, "regions": []}]"#,
        ),
        coco_captions: Some(place.put(
            "captions.json",
            r#"{"images": [], "annotations": [{"image_id": 9, "caption": "A street with cars"}]}"#,
        )),
    };
    let (written, samples) = place.convert(|output, progress| convert_visual_genome(&files, output, progress)).unwrap();
    // Image 3 has no data, image 4 no file.
    assert_eq!(written.skips.to_string(), "skipped{no_image=2}");
    assert_eq!(regions(&samples[0], (80.0, 60.0)), [([20, 15, 60, 45], "the clock is green".to_owned())]);
    assert_eq!(regions(&samples[1], (80.0, 60.0)), [([0, 0, 79, 60], "a street".to_owned())]);
    assert_eq!((samples[0].captions.len(), samples[1].captions.join("|")), (0, "A street with cars".to_owned()));
    // The list is read bit by bit: an error in its middle comes after what stands before it.
    std::fs::remove_dir_all(place.at("out")).unwrap();
    place.put("region_descriptions.json", "[{\"id\": 1, \"regions\": []},\n{\"id\": \"x\"}]");
    let error = place.convert(|output, progress| convert_visual_genome(&files, output, progress)).unwrap_err();
    assert!(error.contains("region_descriptions.json line 2: invalid type"), "{error}");
}

/// `pickle.dumps(refs, 0)` of Python 2, in which texts are bytes.
const REFS: &[u8] = b"(lp0\n(dp1\nS'sent_ids'\np2\n(lp3\nI0\naI1\nasS'file_name'\np4\nS'COCO_train2014_000000000009_0.jpg'\np5\nsS'ann_id'\np6\nI7\nsS'ref_id'\np7\nI0\nsS'image_id'\np8\nI9\nsS'split'\np9\nS'train'\np10\nsS'sentences'\np11\n(lp12\n(dp13\nS'tokens'\np14\n(lp15\nS'left'\nasS'raw'\np16\nS'Left bowl.'\nsS'sent_id'\np17\nI0\nsS'sent'\np18\nS'left bowl'\np19\nsa(dp20\ng18\nS'the orange one'\nsasa(dp21\ng6\nI9\nsg8\nI9\nsg9\nS'testA'\nsg11\n(lp22\n(dp23\ng18\nS'right bowl'\nsasa.";

#[test]
fn refcoco() {
    let (mut place, coco) = coco();
    let files = RefCocoFiles {
        images: place.at("images"),
        refs: place.put("refs(unc).p", REFS),
        instances: coco.instances.unwrap(),
        split: "train".into(),
        coco_captions: coco.captions,
    };
    let (written, samples) = place.convert(|output, progress| convert_refcoco(&files, output, progress)).unwrap();
    assert_eq!((written.samples, samples[0].captions.len()), (1, 2));
    let expected = [([4, 5, 14, 20], "left bowl"), ([4, 5, 14, 20], "the orange one")];
    assert_eq!(regions(&samples[0], (40.0, 20.0)), expected.map(|(place, text)| (place, text.to_owned())));
    std::fs::remove_dir_all(place.at("out")).unwrap();
    let other = RefCocoFiles { split: "val".into(), ..files.clone() };
    let error = place.convert(|output, progress| convert_refcoco(&other, output, progress)).unwrap_err();
    assert!(error.contains("no reference of the split \"val\"; there are train, testA"), "{error}");
    place.put("refs(unc).p", b"cos\nsystem\n(S'true'\ntR.");
    let error = place.convert(|output, progress| convert_refcoco(&files, output, progress)).unwrap_err();
    assert!(error.contains("not a pickle of RefCOCO's references"), "{error}");
}

/// A tar as img2dataset writes it.
fn downloads(place: &Place, samples: &[(&str, Option<Vec<u8>>, &str)]) -> std::path::PathBuf {
    let mut writer = ShardWriter::new(place.folder.path(), "grit", ShardLimits::samples(100)).unwrap();
    for (key, image, json) in samples {
        let mut sample = webdataset::Sample::with_key(*key);
        let mut insert = |extension: &str, data: Vec<u8>| {
            sample.insert(extension, webdataset::Value::Bytes(data.into()));
        };
        if let Some(image) = image {
            insert("jpg", image.clone());
        }
        insert("json", json.as_bytes().to_vec());
        insert("txt", Vec::new());
        writer.write(&sample).unwrap();
    }
    writer.finish().unwrap().remove(0).path
}

#[test]
fn img2dataset_output() {
    let mut place = Place::new();
    let ok = r#"{"caption": "un café", "url": "http://x", "key": "000000000", "status": "success", "error_message": null, "width": 30, "exif": "{}", "sha256": "ab"}"#;
    let failed =
        r#"{"caption": "x", "key": "000000001", "status": "failed_to_download", "error_message": "HTTP Error 404"}"#;
    let tar = downloads(&place, &[("000000000", Some(picture(30, 20)), ok), ("000000001", None, failed)]);
    let (written, samples) = place.convert(|output, progress| convert_img2dataset(&[tar], output, progress)).unwrap();
    assert_eq!((written.samples, written.skips.to_string().as_str()), (1, "skipped{no_image=1}"));
    assert_eq!((samples[0].captions.join("|"), samples[0].regions.clone()), ("un café".to_owned(), None));
    let record: serde_json::Value = serde_json::from_slice(&members(&written, "000000000")["json"]).unwrap();
    let expected = serde_json::json!({"url": "http://x", "width": 30, "sha256": "ab", "captions": ["un café"]});
    assert_eq!(record, expected);
}

#[test]
fn grit_from_parquet_or_from_the_records() {
    let from_parquet: Vec<(&str, Option<Vec<u8>>, &str)> = vec![
        ("000000000", Some(picture(100, 100)), r#"{"caption": "un café near a red door"}"#),
        ("000000001", Some(picture(100, 100)), r#"{"caption": "two dogs"}"#),
        ("000000007", Some(picture(100, 100)), r#"{"caption": "not in the table"}"#),
    ];
    let mut in_record = from_parquet.clone();
    in_record[0].2 = r#"{"caption": "un café near a red door", "ref_exps": [[0, 23, 0.1, 0.2, 0.5, 0.9, 0.75]],
        "noun_chunks": [[0.0, 7.0, 0.1, 0.2, 0.5, 0.9, 0.75], [13, 23, 0.5, 0, 1.0001, 1, 0.5]]}"#;
    in_record[1].2 = r#"{"caption": "two dogs", "noun_chunks": "[[0, 8, 0, 0, 1, 1, 0.9]]", "ref_exps": null}"#;
    for (samples, beside) in [(from_parquet, true), (in_record, false)] {
        let mut place = Place::new();
        let tar = downloads(&place, &samples);
        if beside {
            place.put("grit-00000.parquet", include_bytes!("../golden/grit.parquet"));
        }
        let (written, samples) = place.convert(|output, progress| convert_grit(&[tar], output, progress)).unwrap();
        assert_eq!(written.skips.to_string(), "skipped{bad_json=1}");
        let expected = [
            ([10, 20, 50, 90], "un café"),
            ([50, 0, 100, 100], "a red door"),
            ([10, 20, 50, 90], "un café near a red door"),
        ];
        assert_eq!(regions(&samples[0], (100.0, 100.0)), expected.map(|(place, text)| (place, text.to_owned())));
        assert_eq!(samples[0].regions.as_ref().unwrap()[1].score, Some(0.5));
        // The same phrase and box in both columns.
        assert_eq!(regions(&samples[1], (100.0, 100.0)), [([0, 0, 100, 100], "two dogs".to_owned())]);
    }
}

#[test]
fn a_parquet_file_that_is_none_is_named() {
    let mut place = Place::new();
    let tar = downloads(&place, &[("0", Some(picture(10, 10)), r#"{"caption": "x"}"#)]);
    place.put("grit-00000.parquet", b"PAR1 nothing");
    let error = place.convert(|output, progress| convert_grit(&[tar], output, progress)).unwrap_err();
    assert!(error.contains("grit-00000.parquet"), "{error}");
    assert!(!Path::new(&place.at("out/train-00000.tar")).exists());
}
