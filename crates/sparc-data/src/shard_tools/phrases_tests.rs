//! Shards that get phrases: what changes, what does not, and what an interruption leaves.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::super::stat::statistics;
use super::*;
use crate::phrases::{PhraseChoice, Tagger};
use crate::shards::{ShardSamples, TRAINING_MEMBERS};

fn finder() -> PhraseFinder {
    PhraseFinder::new(Tagger::embedded(), PhraseChoice::First)
}

const BLOCK: usize = 512;

/// A member with a header of its own kind: another time, mode and owner than this crate writes.
fn member(name: &[u8], kind: u8, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; BLOCK];
    header[..name.len()].copy_from_slice(name);
    header[100..108].copy_from_slice(b"0000600\0");
    header[108..116].copy_from_slice(b"0001750\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    header[136..148].copy_from_slice(b"14371573251\0");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar  \0");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut bytes = header.to_vec();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn file(name: &str, data: &[u8]) -> Vec<u8> {
    member(name.as_bytes(), b'0', data)
}

/// GNU's long name before a member.
fn long_name(name: &str) -> Vec<u8> {
    member(b"././@LongLink", b'L', &[name.as_bytes(), &[0]].concat())
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let length = (1..).find(|length: &usize| format!("{length} {key}={value}\n").len() == *length).unwrap();
    member(b"pax", b'x', format!("{length} {key}={value}\n").as_bytes())
}

const RECORD: &str = "{\"id\": 12345678901234567890123, \"captions\": [\"A red car.\"], \"n\": 1e-3}\n";
const RECORD_NOW: &str =
    "{\"id\": 12345678901234567890123, \"captions\": [\"A red car.\"], \"n\": 1e-3, \"phrases\": [\"a red car\"]}\n";

/// Makes phrases of one shard; the new one and what was found.
fn made(shard: &[u8]) -> Result<(Vec<u8>, PhraseStatistics, Vec<Skip>), Error> {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("a.tar");
    fs::write(&input, shard).unwrap();
    let (mut skips, read) = (Vec::new(), AtomicU64::new(0));
    let count = |bytes| {
        read.fetch_add(bytes, Ordering::Relaxed);
    };
    let out = folder.path().join("out");
    let statistics = add_phrases(&[input], &out, &finder(), 1, &mut |skip| skips.push(skip.clone()), &count);
    let names: HashSet<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let complete = HashSet::from(["a.tar".into(), "phrases.jsonl".into()]);
    let statistics = match statistics {
        Ok(statistics) => statistics,
        Err(error) => {
            assert_eq!(names, HashSet::from(["phrases.jsonl".into()]));
            return Err(error);
        }
    };
    assert_eq!(names, complete);
    if skips.iter().all(|skip| skip.reason != SkipReason::ShardCutOff) {
        assert_eq!(read.into_inner(), shard.len() as u64);
    }
    Ok((fs::read(out.join("a.tar")).unwrap(), statistics, skips))
}

#[test]
fn all_but_the_record_is_copied_byte_for_byte() {
    let long = "folder/".repeat(30) + "c";
    let pax_name = "d\u{e9}".repeat(80);
    let old_parts = [
        member(b"pax_global", b'g', b"22 comment=something\n"),
        member(b"folder/", b'5', b""),
        file("__index__.json", b"{\"not\": \"a record\"}"),
        file("a.jpg", &[7; 700]),
        file("a.json", RECORD.as_bytes()),
        file("a.seg.png", &[8; 513]),
        // The captions of .txt count, and a record comes into being.
        file("b.txt", b"two dogs\n\nA brown cat"),
        file("b.jpg", &[9; 10]),
        file("no_extension", b"x"),
        [long_name(&format!("{long}.txt")), file("cut", b"a tree")].concat(),
        [pax("path", &format!("{pax_name}.json")), file("e.json", RECORD.as_bytes())].concat(),
        vec![0; 1024 * 3],
    ];
    let mut parts = old_parts.clone();
    parts[4] = file("a.json", RECORD_NOW.as_bytes());
    // A new member stands behind the last one of its sample; these headers are this crate's own.
    let record = |phrases: &str| format!("{{\"phrases\": {phrases}}}");
    parts[10] = [pax("path", &format!("{pax_name}.json")), file("e.json", RECORD_NOW.as_bytes())].concat();
    let (new, statistics, skips) = made(&old_parts.concat()).unwrap();
    assert_eq!(skips, []);
    let samples = |bytes: &[u8]| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let read = ShardSamples::open(file.path()).unwrap();
        read.map(|sample| sample.map(|sample| (sample.key, sample.members))).collect::<Result<Vec<_>, Skip>>().unwrap()
    };
    let mut expected = samples(&old_parts.concat());
    expected[0].1.insert("json".into(), RECORD_NOW.into());
    expected[1].1.insert("json".into(), record(r#"["dogs","a brown cat"]"#).into());
    expected[2].1.insert("json".into(), record(r#"["a tree"]"#).into());
    expected[3].1.insert("json".into(), RECORD_NOW.into());
    assert_eq!(samples(&new), expected);
    // Without the members that are new the shard is the old one, but for the records.
    let inserted = |name: &str, record: &str| {
        let mut position = 0;
        let wanted = record.as_bytes();
        while &new[position..position + wanted.len()] != wanted {
            position += BLOCK;
        }
        let start = if name.len() > 100 { position - 2 * BLOCK - BLOCK } else { position - BLOCK };
        start..position + BLOCK
    };
    let first = inserted("b.json", &record(r#"["dogs","a brown cat"]"#));
    let second = inserted(&format!("{long}.json"), &record(r#"["a tree"]"#));
    let rest = [&new[..first.start], &new[first.end..second.start], &new[second.end..]].concat();
    assert_eq!(rest, parts.concat());
    assert_eq!((statistics.samples, statistics.phrases_per_sample.count(), statistics.phrase_words.count()), (4, 4, 5));
    assert_eq!(statistics.share_with_phrases(), Some(1.0));
}

#[test]
fn phrases_that_are_there_are_made_anew_and_twice_is_once() {
    let shard = |record: &str| [file("a.json", record.as_bytes()), file("a.jpg", &[1; 3]), vec![0; 1024]].concat();
    let (once, ..) = made(&shard(RECORD)).unwrap();
    assert_eq!(once, shard(RECORD_NOW));
    assert_eq!(made(&once).unwrap().0, once);
    let stale = RECORD_NOW.replace("a red car\"]", "something longer that was here before\"]");
    assert_ne!(stale, RECORD_NOW);
    assert_eq!(made(&shard(&stale)).unwrap().0, once);
}

#[test]
fn samples_that_cannot_be_read_stay_as_they_are_and_are_counted() {
    let parts = [
        file("json.json", b"{\"captions\": "),
        file("list.json", b"[1, 2]"),
        file("utf8.txt", b"a \xff dog"),
        [file("none.json", b"{}"), file("none.jpg", b"x")].concat(),
        file("blank.txt", b" \n\n"),
        file("bytes.json", b"\xff"),
        [file("ok.txt", b"the is"), file("ok.json", b"{\"captions\": [\"a dog\"], \"x\": NaN}")].concat(),
    ];
    let mut expected = parts.clone();
    expected[6] =
        [file("ok.txt", b"the is"), file("ok.json", b"{\"captions\": [\"a dog\"], \"x\": NaN, \"phrases\": []}")]
            .concat();
    let end = vec![0; 1024];
    let (new, statistics, skips) = made(&[parts.concat(), end.clone()].concat()).unwrap();
    assert_eq!(new, [expected.concat(), end].concat());
    let reasons: Vec<(String, &str)> = skips.iter().map(|skip| (skip.reason.to_string(), skip.key.as_str())).collect();
    let expected = [
        ("bad_json", "json"),
        ("bad_json", "list"),
        ("caption_not_utf8", "utf8"),
        ("no_caption", "none"),
        ("no_caption", "blank"),
        ("caption_not_utf8", "bytes"),
    ];
    assert_eq!(reasons, expected.map(|(reason, key)| (reason.to_owned(), key)));
    assert_eq!(
        (statistics.samples, statistics.problems["bad_json"], statistics.share_with_phrases()),
        (7, 2, Some(0.0))
    );
}

#[test]
fn a_shard_that_is_cut_off_gives_its_whole_samples_and_an_end() {
    let a = [file("a.txt", b"a dog"), file("a.json", b"{}")].concat();
    let b = [file("b.txt", b"a cat"), file("b.jpg", &[5; 2000])].concat();
    let expected = [file("a.txt", b"a dog"), file("a.json", b"{\"phrases\": [\"a dog\"]}"), vec![0; 1024]].concat();
    let whole = [a, b].concat();
    for length in [whole.len(), whole.len() - 100, whole.len() - 3 * BLOCK] {
        let (new, statistics, skips) = made(&whole[..length]).unwrap();
        assert_eq!(skips.len(), 1);
        assert_eq!((skips[0].reason, skips[0].key.as_str()), (SkipReason::ShardCutOff, "b"));
        assert!(new == expected, "{length}");
        assert_eq!(statistics.samples, 1);
    }
    assert_eq!(made(b"").unwrap().0, vec![0; 1024]);
}

#[test]
fn a_record_whose_size_stands_elsewhere_stays_as_it_is() {
    // The header's own size is that of PAX, or none.
    let same = file("a.json", RECORD.as_bytes());
    let mut none = same.clone();
    none[124..136].copy_from_slice(b"00000000000\0");
    none[148..156].fill(b' ');
    let sum: u32 = none[..BLOCK].iter().map(|&byte| u32::from(byte)).sum();
    none[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for record in [same, none] {
        let shard = [pax("size", &RECORD.len().to_string()), record, vec![0; 1024]].concat();
        let (bytes, statistics, skips) = made(&shard).unwrap();
        assert_eq!((bytes, statistics.samples), (shard, 1));
        assert!(skips.len() == 1 && skips[0].detail.contains("PAX"), "{skips:?}");
    }
}

#[test]
fn another_shard_of_the_same_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let add = |set: &str| {
        let inputs = folder.path().join(set);
        fs::create_dir_all(&inputs).unwrap();
        add_phrases(&three(&inputs)[..1], &out, &finder(), 1, &mut |_| {}, &|_| {})
    };
    add("one").unwrap();
    add("one").unwrap();
    let before = contents(&out);
    let error = add("other").unwrap_err().to_string();
    assert!(error.contains("one/train-00000.tar") && error.contains("other/train-00000.tar"), "{error}");
    assert_eq!(contents(&out), before);
}

#[test]
fn endless_captions_are_left_out() {
    let shard = [file("a.txt", "a dog ".repeat(20_000).as_bytes()), vec![0; 1024]].concat();
    let (bytes, _, skips) = made(&shard).unwrap();
    assert_eq!(bytes, shard);
    assert!(skips.len() == 1 && skips[0].detail.contains("119999"), "{skips:?}");
}

/// Three shards of two samples in a folder.
fn three(folder: &Path) -> Vec<PathBuf> {
    let shard = |index: usize| {
        let sample = |key: usize| {
            let caption = format!("a dog and a red car number {key}");
            [file(&format!("{key}.jpg"), &[1; 40]), file(&format!("{key}.txt"), caption.as_bytes())].concat()
        };
        let path = folder.join(format!("train-{index:05}.tar"));
        fs::write(&path, [sample(2 * index), sample(2 * index + 1), vec![0; 1024]].concat()).unwrap();
        path
    };
    (0..3).map(shard).collect()
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn an_interrupted_run_goes_on_and_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let shards = three(folder.path());
    let out = folder.path().join("out");
    let run =
        |shards: &[PathBuf], threads| add_phrases(shards, &out, &finder(), threads, &mut |_| {}, &|_| {}).unwrap();
    let whole = run(&shards, 2);
    let expected = contents(&out);
    assert_eq!((whole.shards, whole.kept_shards, whole.samples, whole.phrases_per_sample.count()), (3, 0, 6, 6));
    let file_of = |name: &str| out.join(name);
    let time = |name: &str| fs::metadata(file_of(name)).unwrap().modified().unwrap();
    let kept_time = time("train-00000.tar");
    // Killed while the second shard was being written, the journal's line of the third cut off.
    let journal = String::from_utf8(expected["phrases.jsonl"].clone()).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    assert_eq!(lines.len(), 4);
    fs::write(file_of("phrases.jsonl"), [lines[0], "\n", lines[1], "\n", &lines[3][..50]].concat()).unwrap();
    fs::rename(file_of("train-00001.tar"), file_of("train-00001.tar.tmp")).unwrap();
    fs::write(file_of("train-00002.tar"), b"of another time").unwrap();
    let resumed = run(&shards, 1);
    assert_eq!(contents(&out), expected);
    assert_eq!(time("train-00000.tar"), kept_time);
    assert_eq!(resumed, PhraseStatistics { kept_shards: 1, ..whole.clone() });
    // All is done; then one input has another length.
    assert_eq!(run(&shards, 2), PhraseStatistics { kept_shards: 3, ..whole.clone() });
    fs::write(&shards[1], [file("x.txt", b"a tree"), vec![0; 1024]].concat()).unwrap();
    let changed = run(&shards, 2);
    assert_eq!((changed.kept_shards, changed.samples), (2, 5));
    // What a run does not name stays.
    assert_eq!(run(&shards[1..2], 2).kept_shards, 1);
    assert_eq!(contents(&out).len(), 4);
}

#[test]
fn folders_of_others_and_of_other_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let shards = three(folder.path());
    let run = |shards: &[PathBuf], out: &Path, choice| {
        let finder = PhraseFinder::new(Tagger::embedded(), choice);
        add_phrases(shards, out, &finder, 2, &mut |_| {}, &|_| {}).map_err(|error| error.to_string())
    };
    let before = contents(folder.path());
    // Into the folder that they come from.
    let error = run(&shards, folder.path(), PhraseChoice::First).unwrap_err();
    assert!(error.contains("train-00000.tar that is not from here"), "{error}");
    assert_eq!(contents(folder.path()), before);
    let out = folder.path().join("out");
    let error = run(&[shards[0].clone(), shards[0].clone()], &out, PhraseChoice::First).unwrap_err();
    assert!(error.contains("have the same name"), "{error}");
    run(&shards[..1], &out, PhraseChoice::First).unwrap();
    let error = run(&shards, &out, PhraseChoice::Sampled).unwrap_err();
    assert!(error.contains("phrases.jsonl line 1") && error.contains("other settings"), "{error}");
    // The shards of a folder that has been made are not made again in place.
    let error = run(&[out.join("train-00000.tar")], &out, PhraseChoice::First).unwrap_err();
    assert!(error.contains("not from here"), "{error}");
    fs::write(out.join("phrases.jsonl"), "{}\n").unwrap();
    assert!(run(&shards, &out, PhraseChoice::First).unwrap_err().contains("phrases.jsonl line 1"));
}

#[test]
fn two_runs_do_not_write_to_one_folder_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let shards = three(folder.path());
    let (out, finder) = (folder.path().join("out"), finder());
    let second = OnceLock::new();
    let under_way = |_| {
        second.get_or_init(|| add_phrases(&shards, &out, &finder, 1, &mut |_| {}, &|_| {}).unwrap_err().to_string());
    };
    add_phrases(&shards, &out, &finder, 1, &mut |_| {}, &under_way).unwrap();
    let error = second.get().unwrap();
    assert!(error.contains("another run is writing") && error.contains("out"), "{error}");
    // The first has ended.
    let again = add_phrases(&shards, &out, &finder, 1, &mut |_| {}, &|_| {}).unwrap();
    assert_eq!(again.kept_shards, 3);
}

#[test]
fn statistics_of_shards_count_phrases() {
    let folder = tempfile::tempdir().unwrap();
    let shards = three(folder.path());
    let out = folder.path().join("out");
    add_phrases(&shards, &out, &finder(), 1, &mut |_| {}, &|_| {}).unwrap();
    let made: Vec<PathBuf> = shards.iter().map(|shard| out.join(shard.file_name().unwrap())).collect();
    let counts = statistics(&made, 1, &|_| {}).unwrap();
    assert_eq!(counts.candidates_per_sample.count(), 6);
    assert_eq!(counts.candidates_per_sample.quantile(0.5), Some(2));
    assert_eq!(statistics(&shards, 1, &|_| {}).unwrap().candidates_per_sample.count(), 0);
    // Training reads what it read before.
    let captions = |shard: &Path| -> Vec<Option<Vec<u8>>> {
        let samples = ShardSamples::open(shard).unwrap().keeping(&TRAINING_MEMBERS);
        samples.map(|sample| sample.unwrap().members.remove("txt")).collect()
    };
    assert_eq!(captions(&made[0]), captions(&shards[0]));
}

mod hostile {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is done to a shard, the new one has the samples that the old one has.
        #[test]
        fn broken_shards_give_what_can_be_read(places in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
                                               cut in any::<Option<prop::sample::Index>>()) {
            let mut shard = [
                file("a.txt", b"a dog"), file("a.json", b"{\"x\": 1}"), file("a.jpg", &[3; 600]),
                long_name(&"n".repeat(120)), file("b", RECORD.as_bytes()),
                file("c.json", RECORD.as_bytes()), vec![0; 1024],
            ].concat();
            for (place, value) in places {
                let place = place.index(shard.len());
                shard[place] = value;
            }
            if let Some(cut) = cut {
                shard.truncate(cut.index(shard.len()));
            }
            let keys = |bytes: &[u8]| -> Vec<String> {
                let file = tempfile::NamedTempFile::new().unwrap();
                fs::write(file.path(), bytes).unwrap();
                ShardSamples::open(file.path()).unwrap().filter_map(Result::ok).map(|sample| sample.key).collect()
            };
            if let Ok((new, statistics, _)) = made(&shard) {
                prop_assert_eq!(keys(&new), keys(&shard));
                prop_assert_eq!(statistics.samples, keys(&shard).len() as u64);
            }
        }
    }
}
