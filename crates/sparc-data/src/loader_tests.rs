//! Tests of the loader: order, resuming, robustness, shutting down.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};
use webdataset::shard::{Compression, TarWriter};
use webdataset::{Sample, Value};

use super::*;
use crate::prepare::CaptionChoice;
use crate::regions::RegionSettings;
use crate::skips::SkipReason;
use crate::tokenizer::{TokenizerModel, TokenizerTraining, train_tokenizer};
use crate::transform::{Augmentation, ResizeMode};

fn png(shade: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_pixel(10, 12, image::Rgb([shade, 7, 9]));
    DynamicImage::from(image).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

type Members = Vec<(&'static str, Vec<u8>)>;

fn good(index: usize) -> Members {
    let json = format!(
        r#"{{"captions": ["first {index}", "second {index}"], "regions": [{{"box": [0.1, 0.1, 0.6, 0.9], "text": "thing {index}"}}]}}"#
    );
    vec![("png", png(index as u8)), ("json", json.into_bytes())]
}

fn write(path: &Path, samples: &[(String, Members)]) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = TarWriter::new(Box::new(file), Compression::None).unwrap();
    for (key, members) in samples {
        let mut sample = Sample::with_key(key.clone());
        for (extension, data) in members {
            sample.insert(*extension, Value::Bytes(data.clone().into()));
        }
        writer.write(&sample).unwrap();
    }
    writer.close().unwrap();
}

pub(super) fn tokenizer() -> TextTokenizer {
    let captions =
        (0..60).flat_map(|i| [format!("first {i}"), format!("second {i}"), format!("thing {i}")]).collect::<Vec<_>>();
    let training = TokenizerTraining { model: TokenizerModel::Bpe, vocab_size: 90, lowercase: true };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), train_tokenizer(&captions, training).unwrap()).unwrap();
    TextTokenizer::from_file(file.path(), 12).unwrap()
}

pub(super) struct Data {
    pub(super) _folder: tempfile::TempDir,
    pub(super) config: LoaderConfig,
}

/// Three shards of ten samples, unless others are given.
pub(super) fn data(shards: Option<Vec<Vec<(String, Members)>>>) -> Data {
    let folder = tempfile::tempdir().unwrap();
    let shards = shards
        .unwrap_or_else(|| (0..3).map(|s| (0..10).map(|i| (format!("k{s}{i}"), good(s * 10 + i))).collect()).collect());
    let paths = shards
        .iter()
        .enumerate()
        .map(|(index, samples)| {
            let path = folder.path().join(format!("{index}.tar"));
            write(&path, samples);
            path
        })
        .collect();
    let config = LoaderConfig {
        shards: paths,
        batch_size: 4,
        shuffle_buffer: 8,
        shuffle_bytes: None,
        workers: 2,
        prefetch: 2,
        seed: 3,
        max_skipped_share: 0.5,
        preparation: Preparation {
            image_size: 8,
            resize: ResizeMode::Squash,
            augmentation: Augmentation { min_crop_area: 0.5, horizontal_flip: true, random_augment: None },
            dct_scaling: false,
            captions: CaptionChoice::Random,
            regions: Some(RegionSettings { max: 2, context_length: 5 }),
            seed: 3,
        },
    };
    Data { _folder: folder, config }
}

/// Keys, a digest of everything random, and the state after each of `n` batches.
fn batches(config: &LoaderConfig, state: LoaderState, n: usize) -> Vec<(Vec<String>, String, LoaderState)> {
    let digest = |tensor: &Tensor| {
        format!(
            "{:.6}",
            sparc_testing::values(tensor).iter().enumerate().map(|(i, v)| v * (i as f64 + 1.0).sqrt()).sum::<f64>()
        )
    };
    Loader::start(config.clone(), tokenizer(), state)
        .take(n)
        .map(|loaded| {
            let LoadedBatch { batch, state } = loaded.unwrap();
            let regions = batch.regions.as_ref().unwrap();
            let digest = [
                &batch.images_bchw,
                &batch.text.ids_bl,
                &regions.boxes_bm4,
                &regions.phrases.ids_bl,
                &regions.phrase_of_slot_bm,
            ]
            .map(digest)
            .join(" ");
            (batch.keys, digest, state)
        })
        .collect()
}

#[test]
fn an_epoch_holds_every_sample_once_and_epochs_differ() {
    let Data { config, _folder } = data(None);
    let all = batches(&config, LoaderState::default(), 14);
    let epoch = |range: std::ops::Range<usize>| all[range].iter().flat_map(|b| b.0.clone()).collect::<Vec<_>>();
    // 30 samples, batches of 4: seven whole batches and two samples dropped.
    let (first, second) = (epoch(0..7), epoch(7..14));
    let unique: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!((first.len(), unique.len()), (28, 28));
    assert_ne!(first, second);
    assert_eq!(all[6].2, LoaderState { epoch: 0, position: 28 });
    assert_eq!(all[7].2, LoaderState { epoch: 1, position: 4 });
}

#[test]
fn the_order_does_not_depend_on_workers() {
    let Data { config, _folder } = data(None);
    let one = batches(&LoaderConfig { workers: 1, prefetch: 1, ..config.clone() }, LoaderState::default(), 12);
    for workers in [2, 7] {
        let many = batches(&LoaderConfig { workers, prefetch: 4, ..config.clone() }, LoaderState::default(), 12);
        assert_eq!(one, many, "{workers} workers");
    }
    let other = batches(&LoaderConfig { seed: 4, ..config }, LoaderState::default(), 12);
    assert_ne!(one, other);
}

#[test]
fn resuming_anywhere_gives_the_same_batches() {
    let Data { config, _folder } = data(None);
    let whole = batches(&config, LoaderState::default(), 16);
    for done in [1, 3, 6, 7, 8, 13] {
        assert_eq!(batches(&config, whole[done - 1].2, 16 - done), whole[done..], "after {done}");
    }
}

#[test]
fn bad_samples_are_skipped_and_counted() {
    let bad: Vec<(&str, Members)> = vec![
        ("noimage", vec![("txt", b"text".to_vec())]),
        ("empty", vec![("jpg", Vec::new()), ("txt", b"text".to_vec())]),
        ("nocaption", vec![("png", png(0))]),
        ("blank", vec![("png", png(0)), ("txt", b" \n ".to_vec())]),
        ("latin1", vec![("png", png(0)), ("txt", b"caf\xe9".to_vec())]),
        ("json", vec![("png", png(0)), ("json", b"{".to_vec())]),
    ];
    let outside = br#"{"captions": ["a"], "regions": [{"box": [0.2, 0.2, 1.7, 0.9], "text": "x"}, {"box": [0, 0, 1, 1], "text": " "}]}"#;
    let mut samples: Vec<(String, Members)> = bad.into_iter().map(|(key, members)| (key.into(), members)).collect();
    samples.extend((0..8).map(|i| (format!("good{i}"), good(i))));
    samples.push(("outside".into(), vec![("png", png(0)), ("json", outside.to_vec())]));
    let python = br#"{"captions": ["a"], "regions": [{"box": [0, NaN, 1, 1], "text": "x"}, {"box": [0, 0, 0, 1], "text": "y"}]}"#;
    samples.push(("good as Python writes it".into(), vec![("png", png(0)), ("json", python.to_vec())]));
    let Data { config, _folder } = data(Some(vec![samples]));
    let mut loader = Loader::start(config, tokenizer(), LoaderState::default());
    for _ in 0..2 {
        let batch = loader.next().unwrap().unwrap().batch;
        assert!(batch.keys.iter().all(|key| key.starts_with("good") || key == "outside"));
    }
    loader.next().unwrap().unwrap();
    let skips = loader.skips();
    for reason in [
        SkipReason::NoImage,
        SkipReason::ImageDecode,
        SkipReason::NoCaption,
        SkipReason::CaptionNotUtf8,
        SkipReason::BadJson,
        SkipReason::BoxNotFinite,
        SkipReason::BoxEmpty,
        SkipReason::BoxOutsideImage,
        SkipReason::EmptyPhrase,
    ] {
        assert!(skips.iter().any(|(found, count)| found == reason && count > 0), "{reason}: {skips}");
    }
}

#[test]
fn a_shard_cut_off_loses_only_what_is_missing() {
    let Data { config, _folder } = data(None);
    let bytes = std::fs::read(&config.shards[1]).unwrap();
    std::fs::write(&config.shards[1], &bytes[..bytes.len() / 2 + 300]).unwrap();
    let mut loader = Loader::start(config, tokenizer(), LoaderState::default());
    for _ in 0..6 {
        loader.next().unwrap().unwrap();
    }
    loader.next().unwrap().unwrap();
    assert!(loader.skips().iter().any(|(reason, count)| reason == SkipReason::ShardCutOff && count >= 1));
}

#[test]
fn too_little_and_too_bad_data_are_errors_not_hangs() {
    let Data { config, _folder } = data(Some(vec![vec![("a".into(), good(1))]]));
    let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("1 usable samples, fewer than one batch of 4"), "{error}");

    let broken = (0..200).map(|i| (format!("b{i}"), vec![("txt", b"no image".to_vec())])).collect();
    let Data { config, _folder } = data(Some(vec![broken]));
    let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
    assert!(matches!(error, Error::TooManySkipped { skipped: 100, .. }), "{error}");

    let Data { mut config, _folder } = data(None);
    config.shards.push("absent.tar".into());
    let error = Loader::start(config, tokenizer(), LoaderState::default()).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("absent.tar"));
}

#[test]
fn data_that_shrank_cannot_be_resumed_silently() {
    let Data { config, _folder } = data(None);
    let state = LoaderState { epoch: 2, position: 31 };
    let error = Loader::start(config, tokenizer(), state).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("the data now has 30 samples"), "{error}");
}

#[test]
fn dropping_a_loader_early_stops_its_threads() {
    let Data { config, _folder } = data(None);
    for taken in 0..3 {
        let mut loader = Loader::start(config.clone(), tokenizer(), LoaderState::default());
        for _ in 0..taken {
            loader.next().unwrap().unwrap();
        }
        drop(loader);
    }
}

#[test]
fn regions_share_their_phrases() {
    let region = |x: f32, text: &str| format!(r#"{{"box": [{x}, 0.2, {}, 0.9], "text": "{text}"}}"#, x + 0.3);
    let sample = |regions: &[String]| {
        let json = format!(r#"{{"captions": ["first 1"], "regions": [{}]}}"#, regions.join(", "));
        vec![("png", png(3)), ("json", json.into_bytes())]
    };
    let shard: Vec<(String, Members)> = vec![
        ("two".into(), sample(&[region(0.1, "thing 7"), region(0.5, "thing 8")])),
        ("same".into(), sample(&[region(0.2, "thing 8")])),
        ("none".into(), sample(&[])),
        ("many".into(), sample(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5].map(|x| region(x, "thing 7 7 7 7 7 7 7 7")))),
    ];
    let Data { mut config, _folder } = data(Some(vec![shard]));
    config.preparation.augmentation = Augmentation::NONE;
    let batch = Loader::start(config.clone(), tokenizer(), LoaderState::default()).next().unwrap().unwrap().batch;
    let regions = batch.regions.unwrap();
    let row = |key: &str| batch.keys.iter().position(|found| found == key).unwrap() as i64;
    let valid = |key: &str| Vec::<bool>::try_from(regions.valid_bm.get(row(key))).unwrap();
    let phrase = |key: &str, slot: i64| regions.phrase_of_slot_bm.int64_value(&[row(key), slot]);
    assert_eq!(
        [valid("two"), valid("same"), valid("none")],
        [[true, true], [true, false], [false, false]].map(Vec::from)
    );
    assert_eq!(valid("many"), [true, true]);
    // Three distinct phrases, of at most five tokens.
    assert_eq!(regions.phrases.len(), 3);
    assert_eq!(regions.phrases.ids_bl.size(), [3, 5]);
    assert_eq!(phrase("many", 0), phrase("many", 1));
    assert!([phrase("two", 0), phrase("two", 1)].contains(&phrase("same", 0)));
    assert_ne!(phrase("two", 0), phrase("two", 1));
    let boxed = Vec::<f64>::try_from(regions.boxes_bm4.get(row("same")).get(0).to_kind(tch::Kind::Double)).unwrap();
    assert!(boxed.iter().zip([0.2, 0.2, 0.5, 0.9]).all(|(a, b)| (a - b).abs() < 1e-6), "{boxed:?}");

    // Without any region one empty phrase stands in.
    let Data { mut config, _folder } = data(Some(vec![(0..4).map(|i| (format!("{i}"), sample(&[]))).collect()]));
    config.preparation.regions = Some(RegionSettings { max: 3, context_length: 4 });
    let batch = Loader::start(config.clone(), tokenizer(), LoaderState::default()).next().unwrap().unwrap().batch;
    let regions = batch.regions.unwrap();
    assert_eq!((regions.phrases.len(), regions.phrase_of_slot_bm.size()), (1, vec![4, 3]));
    assert_eq!(i64::try_from(regions.valid_bm.sum(tch::Kind::Int64)).unwrap(), 0);

    // A context that the special tokens fill.
    config.preparation.regions = Some(RegionSettings { max: 3, context_length: 2 });
    let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("data.regions.context_length"), "{error}");
}

#[test]
fn all_captions_come_with_their_image() {
    let Data { mut config, _folder } = data(None);
    config.preparation.captions = CaptionChoice::All;
    let batch = Loader::start(config.clone(), tokenizer(), LoaderState::default()).next().unwrap().unwrap().batch;
    let captions = batch.captions.unwrap();
    assert_eq!(Vec::<i64>::try_from(&captions.image_of_caption_n).unwrap(), [0, 0, 1, 1, 2, 2, 3, 3]);
    // The sample's own caption is one of them.
    let content = |text: &sparc_core::TextBatch, row: i64| {
        Vec::<i64>::try_from(text.ids_bl.get(row).masked_select(&text.mask_bl.get(row))).unwrap()
    };
    for image in 0..4 {
        let own = content(&batch.text, image);
        assert!([2 * image, 2 * image + 1].map(|row| content(&captions.text, row)).contains(&own));
    }
    config.preparation.captions = CaptionChoice::First;
    let batch = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap().batch;
    assert!(batch.captions.is_none());
}

/// Texts are as long as the longest of their batch.
#[test]
fn batches_are_no_longer_than_their_longest_text() {
    let Data { config, _folder } = data(None);
    for loaded in Loader::start(config, tokenizer(), LoaderState::default()).take(5) {
        let text = loaded.unwrap().batch.text;
        let longest = i64::try_from(text.mask_bl.sum_dim_intlist(1, false, tch::Kind::Int64).max()).unwrap();
        assert_eq!(text.ids_bl.size()[1], longest);
    }
}

#[test]
fn a_byte_budget_shrinks_the_shuffle_and_loses_nothing() {
    let Data { config, _folder } = data(None);
    let order = |shuffle_bytes, workers| {
        let config = LoaderConfig { shuffle_bytes, workers, ..config.clone() };
        batches(&config, LoaderState::default(), 14).into_iter().flat_map(|batch| batch.0).collect::<Vec<_>>()
    };
    let roomy = order(Some(1 << 30), 2);
    assert_eq!(roomy, order(None, 1));
    // Room for about two samples: nearly the order of the shards.
    let tight = order(Some(400), 2);
    assert_eq!(tight, order(Some(400), 7));
    assert_ne!(tight, roomy);
    assert_eq!(tight[..28].iter().collect::<std::collections::BTreeSet<_>>().len(), 28);
}
