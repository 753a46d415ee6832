//! Tests of the loader: order, resuming, robustness, shutting down.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;
use webdataset::shard::{Compression, TarWriter};
use webdataset::{Sample, Value};

use super::*;
use crate::pixels::normalize;
use crate::prepare::CaptionChoice;
use crate::regions::RegionSettings;
use crate::skips::SkipReason;
use crate::source::Source;
use crate::source::tests::{Fault, Server};
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
    let training = TokenizerTraining { model: TokenizerModel::Bpe, vocab_size: 90, lowercase: true, mask_token: false };
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
            Source::from(path)
        })
        .collect();
    let config = LoaderConfig {
        data: vec![DataSet::new(paths)],
        patience: Patience { retries: 2, timeout_s: 5.0 },
        batch_size: 4,
        share: Share::WHOLE,
        last_batch: LastBatch::Drop,
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
            regions: Some(RegionSettings { max: 2, context_length: 5, caption_from_phrases: false }),
            targets: None,
            seed: 3,
        },
    };
    Data { _folder: folder, config }
}

/// Each image has the shade that its key names.
fn assert_images_are_of_their_keys(batch: &Batch) {
    let red = batch.images_bchw.select(1, 0);
    for (place, key) in batch.keys.iter().enumerate() {
        let shade: u8 = key.trim_start_matches('k').parse().unwrap();
        let expected = f64::from(normalize(&[shade, 0, 0])[0]);
        let image = red.get(place as i64);
        assert!((image.min().double_value(&[]) - expected).abs() < 1e-6, "{key} at {place}");
        assert!((image.max().double_value(&[]) - expected).abs() < 1e-6, "{key} at {place}");
    }
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
            assert_images_are_of_their_keys(&batch);
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
    assert_eq!(all[6].2, LoaderState { epoch: 0, position: 28, sets: vec![] });
    assert_eq!(all[7].2, LoaderState { epoch: 1, position: 4, sets: vec![] });
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
        assert_eq!(batches(&config, whole[done - 1].2.clone(), 16 - done), whole[done..], "after {done}");
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
    let path = config.data[0].sources[1].path().unwrap();
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2 + 300]).unwrap();
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
    config.data[0].sources.push(Source::File("absent.tar".into()));
    let error = Loader::start(config, tokenizer(), LoaderState::default()).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("absent.tar"));
}

#[test]
fn data_that_shrank_cannot_be_resumed_silently() {
    let Data { config, _folder } = data(None);
    let state = LoaderState { epoch: 2, position: 31, sets: vec![] };
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
    config.preparation.regions = Some(RegionSettings { max: 3, context_length: 4, caption_from_phrases: false });
    let batch = Loader::start(config.clone(), tokenizer(), LoaderState::default()).next().unwrap().unwrap().batch;
    let regions = batch.regions.unwrap();
    assert_eq!((regions.phrases.len(), regions.phrase_of_slot_bm.size()), (1, vec![4, 3]));
    assert_eq!(i64::try_from(regions.valid_bm.sum(tch::Kind::Int64)).unwrap(), 0);

    // A context that the special tokens fill.
    config.preparation.regions = Some(RegionSettings { max: 3, context_length: 2, caption_from_phrases: false });
    let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("data.regions.context_length"), "{error}");
}

#[test]
fn a_panic_in_a_worker_is_an_error_that_names_the_sample() {
    let Data { mut config, _folder } = data(None);
    // No configuration file gets this far: a range without an end to draw from.
    config.preparation.augmentation.min_crop_area = f64::NEG_INFINITY;
    let mut loader = Loader::start(config, tokenizer(), LoaderState::default());
    let error = loader.next().unwrap().unwrap_err();
    assert!(matches!(&error, Error::WorkerPanicked { key, .. } if key.starts_with('k')), "{error}");
    assert!(error.to_string().contains(".tar"), "{error}");
    assert!(loader.next().is_none(), "nothing comes after an error");
}

#[test]
fn phrases_stand_in_for_missing_captions() {
    let sample = |captions: &str, phrases: &[&str]| -> Members {
        let regions: Vec<String> =
            phrases.iter().map(|text| format!(r#"{{"box": [0.1, 0.1, 0.6, 0.9], "text": "{text}"}}"#)).collect();
        let json = format!(r#"{{"captions": [{captions}], "regions": [{}]}}"#, regions.join(", "));
        vec![("png", png(5)), ("json", json.into_bytes())]
    };
    let samples = vec![
        ("own".to_owned(), sample(r#""first 3""#, &["thing 1"])),
        ("phrases".to_owned(), sample("", &["thing 1", " thing 2", "thing 1"])),
        ("neither".to_owned(), sample("", &[])),
    ];
    let Data { mut config, _folder } = data(Some(vec![samples]));
    (config.batch_size, config.max_skipped_share) = (1, 1.0);
    let tokenizer = tokenizer();
    let captions = |config: &LoaderConfig| {
        let mut found = std::collections::BTreeMap::<String, std::collections::BTreeSet<String>>::new();
        for loaded in Loader::start(config.clone(), tokenizer.clone(), LoaderState::default()).take(30) {
            let batch = loaded.unwrap().batch;
            let ids = Vec::<i64>::try_from(batch.text.ids_bl.get(0)).unwrap();
            found.entry(batch.keys[0].clone()).or_default().insert(tokenizer.decode(&ids).unwrap());
        }
        found.into_iter().map(|(key, texts)| (key, Vec::from_iter(texts))).collect::<Vec<_>>()
    };
    let own = ("own".to_owned(), vec!["first 3".to_owned()]);
    assert_eq!(captions(&config), std::slice::from_ref(&own));
    config.preparation.regions.as_mut().unwrap().caption_from_phrases = true;
    // The tokenizer has never seen a comma.
    let either_order = ["thing 1 thing 2", "thing 2 thing 1"].map(str::to_owned);
    assert_eq!(captions(&config), [own, ("phrases".to_owned(), either_order.to_vec())]);
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

#[test]
fn pairs_of_one_image_have_one_id() {
    // Every image twice, under two keys.
    let shard = |s: usize| (0..10).map(|i| (format!("k{s}{i}"), good(i))).collect();
    let Data { config, _folder } = data(Some((0..2).map(shard).collect()));
    let mut of_image = std::collections::BTreeMap::new();
    for loaded in Loader::start(config, tokenizer(), LoaderState::default()).take(10) {
        let batch = loaded.unwrap().batch;
        for (key, id) in batch.keys.iter().zip(Vec::<i64>::try_from(&batch.image_ids_b).unwrap()) {
            assert_eq!(*of_image.entry(key[2..].to_owned()).or_insert(id), id, "{key}");
        }
    }
    let ids: std::collections::BTreeSet<i64> = of_image.values().copied().collect();
    assert_eq!((of_image.len(), ids.len()), (10, 10));
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

/// The batches of all shares put together: keys, and the state, which must be one.
fn shared(config: &LoaderConfig, of: usize, state: &LoaderState, n: usize) -> Vec<(Vec<String>, LoaderState)> {
    let mut parts: Vec<_> = (0..of)
        .map(|index| {
            let config = LoaderConfig { share: Share { index, of }, workers: 1 + index, ..config.clone() };
            Loader::start(config, tokenizer(), state.clone())
        })
        .collect();
    (0..n)
        .map(|_| {
            let parts: Vec<LoadedBatch> = parts.iter_mut().map(|part| part.next().unwrap().unwrap()).collect();
            assert!(parts.iter().all(|part| part.state == parts[0].state));
            assert!(parts.iter().all(|part| part.batch.keys.len() == config.batch_size / of));
            parts.iter().for_each(|part| assert_images_are_of_their_keys(&part.batch));
            let state = parts[0].state.clone();
            (parts.into_iter().flat_map(|part| part.batch.keys).collect(), state)
        })
        .collect()
}

/// One share, two or three, one worker or seven, stopped anywhere and resumed as another number of
/// shares: the same samples in the same order. The batch divides no shard, and three shares are as many
/// as there are shards.
#[test]
fn the_order_does_not_depend_on_shares_workers_or_stops() {
    let Data { mut config, _folder } = data(None);
    config.batch_size = 6;
    for last_batch in [LastBatch::Drop, LastBatch::Fill] {
        config.last_batch = last_batch;
        let whole = shared(&config, 1, &LoaderState::default(), 24);
        for of in [2, 3, 6] {
            assert_eq!(shared(&config, of, &LoaderState::default(), 24), whole, "{of} shares");
        }
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20 {
            let stop = generator.random_range(1..24);
            let of = [1, 2, 3][generator.random_range(0..3)];
            config.workers = [1, 2, 7][generator.random_range(0..3)];
            assert_eq!(shared(&config, of, &whole[stop - 1].1, 24 - stop), whole[stop..], "{stop} {of}");
        }
    }
}

#[test]
fn the_last_batch_is_dropped_or_filled_up() {
    let Data { mut config, _folder } = data(None);
    config.batch_size = 7;
    // 30 samples: four batches and two samples.
    let keys = |config: &LoaderConfig, n| shared(config, 1, &LoaderState::default(), n).into_iter().flat_map(|b| b.0);
    let dropped: Vec<String> = keys(&config, 8).collect();
    config.last_batch = LastBatch::Fill;
    let filled: Vec<String> = keys(&config, 30).collect();
    assert_eq!(dropped[..28], filled[..28]);
    assert_eq!(dropped[28..], filled[30..58]);
    // 30 batches of 7 are 7 epochs, and nothing is lost in any.
    for epoch in filled.chunks(30) {
        assert_eq!(epoch.iter().collect::<std::collections::BTreeSet<_>>().len(), 30);
    }
    config.batch_size = 31;
    let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("30 usable samples, fewer than one batch of 31"), "{error}");
}

/// Shares cannot tell each other what they skip: a place whose sample is damaged gets one of the batch
/// before, and every other place what it has without damage.
#[test]
fn a_damaged_sample_moves_no_other_in_shared_batches() {
    let sound = |i: usize| (format!("k{i:02}"), good(i));
    let Data { mut config, _folder } = data(Some(vec![(0..36).map(sound).collect()]));
    config.batch_size = 6;
    let whole = shared(&config, 2, &LoaderState::default(), 12);
    let damaged = [3, 7, 20].map(|i| format!("k{i:02}"));
    let broken = |i: usize| match damaged.contains(&format!("k{i:02}")) {
        true => (format!("k{i:02}"), vec![("png", b"no image".to_vec()), ("txt", b"x".to_vec())]),
        false => sound(i),
    };
    let Data { config: LoaderConfig { data, .. }, _folder } = self::data(Some(vec![(0..36).map(broken).collect()]));
    config.data = data;
    for of in [2, 3, 6] {
        for (number, (batch, state)) in shared(&config, of, &LoaderState::default(), 12).into_iter().enumerate() {
            assert_eq!(state, whole[number].1);
            // Where an epoch begins, the batch before may have had what another share has now.
            let distinct = batch.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert!(distinct == 6 || number % 6 == 0, "a repetition inside a batch");
            // A filled place may be filled from in its turn.
            let near = &whole[number.saturating_sub(2)..=if number == 0 { 1 } else { number - 1 }];
            for (place, key) in batch.iter().enumerate() {
                let expected = &whole[number].0[place];
                match damaged.contains(expected) {
                    true => assert!(near.iter().any(|(batch, _)| batch.contains(key)) && !damaged.contains(key)),
                    false => assert_eq!(key, expected),
                }
            }
        }
    }
}

#[test]
fn shares_that_do_not_exist_are_errors() {
    let Data { config, _folder } = data(None);
    for (index, of, says) in [(2, 2, "no share 2 of 2"), (0, 3, "cannot be divided into 3 shares"), (0, 0, "no share")]
    {
        let config = LoaderConfig { share: Share { index, of }, ..config.clone() };
        let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_mixture_goes_through_the_loader() {
    let Data { mut config, _folder } = data(None);
    let sources = std::mem::take(&mut config.data).remove(0).sources;
    config.data = sources.into_iter().map(|source| DataSet::new(vec![source])).collect();
    let whole = shared(&config, 1, &LoaderState::default(), 30);
    assert_eq!(shared(&config, 2, &LoaderState::default(), 30), whole);
    assert_eq!(shared(&config, 2, &whole[16].1, 13), whole[17..]);
    // Each set has samples named k<set><i>, about 40 of the 120.
    for set in ["k0", "k1", "k2"] {
        let n = whole.iter().flat_map(|batch| &batch.0).filter(|key| key.starts_with(set)).count();
        assert!((24..57).contains(&n), "{set}: {n}");
    }
    // A set without a usable sample would be drawn from for ever.
    let bad = (0..5).map(|i| (format!("b{i}"), vec![("txt", b"no image".to_vec())])).collect();
    let Data { config: broken, _folder } = self::data(Some(vec![bad]));
    config.data.extend(broken.data);
    let error = Loader::start(config, tokenizer(), LoaderState::default()).find_map(Result::err).unwrap();
    assert!(error.to_string().contains("data set 3 of the mixture"), "{error}");
}

/// The same batches from a server that fails all the time, and from a command, as from the disk.
#[test]
fn sources_give_the_same_batches() {
    let Data { mut config, _folder } = data(None);
    let local = batches(&config, LoaderState::default(), 10);
    let files = std::mem::take(&mut config.data).remove(0).sources;
    let path = |source: &Source| source.path().unwrap().to_owned();
    let content = files.iter().enumerate().map(|(i, f)| (format!("/{i}.tar"), std::fs::read(path(f)).unwrap()));
    let faults = (0..9).flat_map(|i| [Fault::DropAfter(900 * i), Fault::Status(500), Fault::Fine]).collect();
    let server = Server::start(content.collect(), faults);
    let remote = (0..3).map(|i| Source::parse(&format!("{}/{i}.tar", server.address)).unwrap()).collect();
    let pipes = files.iter().map(|file| Source::Pipe(format!("cat '{}'", path(file).display()))).collect();
    for sources in [remote, pipes] {
        config.data = vec![DataSet::new(sources)];
        assert_eq!(batches(&config, LoaderState::default(), 10), local);
        assert_eq!(batches(&config, local[8].2.clone(), 1), local[9..]);
    }
    assert!(server.starts().iter().any(|&start| start > 0));
    // Training does not go on with less data because a server is down.
    let server = Server::start(Default::default(), vec![Fault::Status(500); 99]);
    config.data = vec![DataSet::new(vec![Source::parse(&format!("{}/0.tar", server.address)).unwrap()])];
    let error = Loader::start(config.clone(), tokenizer(), LoaderState::default()).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("0.tar: after 3 attempts"), "{error}");
    config.data = vec![DataSet::new(vec![Source::Pipe("head -c 700 /dev/zero | tr '\\0' x; exit 9".into())])];
    let error = Loader::start(config, tokenizer(), LoaderState::default()).next().unwrap();
    assert!(error.is_err());
}

/// Nobody waits for a server that nobody reads from any more.
#[test]
fn a_loader_that_waits_for_a_server_can_be_dropped() {
    let Data { mut config, _folder } = data(None);
    let server = Server::start(Default::default(), vec![Fault::Silent; 9]);
    config.patience = Patience { retries: 9, timeout_s: 15.0 };
    config.data = vec![DataSet::new(vec![Source::parse(&format!("{}/0.tar", server.address)).unwrap()])];
    let loader = Loader::start(config, tokenizer(), LoaderState::default());
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    drop(loader);
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}

#[test]
fn every_stage_is_timed() {
    let Data { config, _folder } = data(None);
    let mut loader = Loader::start(config, tokenizer(), LoaderState::default());
    let started = Instant::now();
    for _ in 0..14 {
        loader.next().unwrap().unwrap();
    }
    for stage in Stage::ALL {
        let time = loader.stages().get(stage);
        assert!(!time.is_zero() && time < 4 * started.elapsed(), "{stage}: {time:?}");
    }
}
