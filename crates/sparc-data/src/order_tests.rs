//! Tests of the order by itself: no pixels, no threads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::index::write_index;
use crate::source::Patience;
use crate::source::tests::Server;

/// A shard of `n` samples named `<name><i>`, of growing size.
fn shard(folder: &Path, name: &str, n: usize) -> Source {
    let mut bytes = Vec::new();
    for i in 0..n {
        for (extension, size) in [("txt", 3 + 7 * i), ("jpg", 200 * (i % 5)), ("npy", 999)] {
            let name = format!("{name}{i}.{extension}");
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            bytes.extend(header);
            bytes.resize((bytes.len() + size).next_multiple_of(512), i as u8);
        }
    }
    bytes.extend([0; 1024]);
    let path = folder.join(format!("{name}.tar"));
    std::fs::write(&path, bytes).unwrap();
    Source::File(path)
}

const SHUFFLE: Shuffle = Shuffle { samples: 5, bytes: 1_500 };

fn sequence(sets: &[DataSet], state: &LoaderState) -> Sequence {
    let fetcher = Arc::new(Fetcher::new(Patience { retries: 2, timeout_s: 2.0 }));
    Sequence::new(sets, 11, SHUFFLE, fetcher, Arc::default(), state).unwrap()
}

/// The next `n` samples: key, occasion, set, state after it.
fn take(sets: &[DataSet], state: &LoaderState, n: usize) -> Vec<(String, u64, usize, LoaderState)> {
    let mut sequence = sequence(sets, state);
    let fetcher = Fetcher::default();
    let mut taken = Vec::new();
    while taken.len() < n {
        if let Next::Sample(DrawnSample { held, occasion }) = sequence.next().unwrap() {
            let key = held.read(&fetcher).unwrap().unwrap().key;
            taken.push((key, occasion, sequence.set(), sequence.state()));
        }
    }
    taken
}

fn folder_of(sizes: &[(&str, usize)]) -> (tempfile::TempDir, Vec<Source>) {
    let folder = tempfile::tempdir().unwrap();
    let sources = sizes.iter().map(|&(name, n)| shard(folder.path(), name, n)).collect();
    (folder, sources)
}

fn mixture(sources: &[Source]) -> Vec<DataSet> {
    let set = |source: &Source, weight| DataSet { weight, ..DataSet::new(vec![source.clone()]) };
    vec![set(&sources[0], 3.0), set(&sources[1], 1.0)]
}

#[test]
fn a_mixture_follows_its_weights_and_each_set_its_own_epochs() {
    let (_folder, sources) = folder_of(&[("a", 40), ("b", 9)]);
    let taken = take(&mixture(&sources), &LoaderState::default(), 4_000);
    let of = |set: usize| taken.iter().filter(move |sample| sample.2 == set).collect::<Vec<_>>();
    // Three standard deviations of a binomial with p = 0.75 are 82.
    assert!((of(0).len() as i64 - 3_000).abs() < 82, "{}", of(0).len());
    for (set, n) in [(0, 40), (1, 9)] {
        for (epoch, samples) in of(set).chunks_exact(n).enumerate() {
            let keys: BTreeSet<&str> = samples.iter().map(|sample| sample.0.as_str()).collect();
            assert_eq!(keys.len(), n);
            assert!(samples.iter().all(|sample| sample.1 == epoch as u64));
        }
    }
    // A data set alone has the order of the first in a mixture: adding one moves no sample in it.
    let alone = take(&mixture(&sources)[..1], &LoaderState::default(), 100);
    assert!(alone.iter().zip(of(0)).all(|(alone, mixed)| alone.0 == mixed.0));
}

#[test]
fn any_sequence_goes_on_from_any_state() {
    let (folder, sources) = folder_of(&[("a", 13), ("b", 9), ("c", 7)]);
    let resampled = DataSet { resample: true, ..DataSet::new(sources.clone()) };
    let sets = [vec![DataSet::new(sources.clone())], mixture(&sources), vec![resampled]];
    let whole: Vec<_> = sets.iter().map(|sets| take(sets, &LoaderState::default(), 100)).collect();
    let mut generator = ChaCha8Rng::seed_from_u64(5);
    // Without an index, and with one for some of the shards: nothing moves.
    for index in [None, Some(0), Some(2)] {
        if let Some(index) = index {
            write_index(&folder.path().join(["a.tar", "b.tar", "c.tar"][index])).unwrap();
        }
        for (sets, whole) in sets.iter().zip(&whole) {
            assert_eq!(take(sets, &LoaderState::default(), 100), *whole);
            for _ in 0..12 {
                let done = generator.random_range(1..100);
                assert_eq!(take(sets, &whole[done - 1].3, 100 - done), whole[done..], "after {done}");
            }
        }
    }
}

#[test]
fn resampling_draws_shards_with_replacement_and_treats_each_time_anew() {
    let (_folder, sources) = folder_of(&[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
    let set = DataSet { resample: true, ..DataSet::new(sources) };
    // An epoch has four draws of two samples.
    let taken = take(&[set], &LoaderState::default(), 8 * 300);
    let mut epochs_without_a = 0;
    let mut draws: BTreeMap<char, usize> = BTreeMap::new();
    for epoch in taken.chunks(8) {
        let occasions: BTreeSet<(&str, u64)> = epoch.iter().map(|sample| (sample.0.as_str(), sample.1)).collect();
        assert_eq!(occasions.len(), 8, "the same crop twice in an epoch");
        epochs_without_a += usize::from(!epoch.iter().any(|sample| sample.0.starts_with('a')));
        epoch.iter().for_each(|sample| *draws.entry(sample.0.chars().next().unwrap()).or_default() += 1);
    }
    // (3/4)^4 of 300 epochs is 95, three standard deviations 24; 600 draws each, three of them 64.
    assert!((71..119).contains(&epochs_without_a), "{epochs_without_a}");
    assert!(draws.values().all(|&n| (600 - 64..600 + 64).contains(&n)), "{draws:?}");
}

#[test]
fn a_table_is_shuffled_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = "filepath\ttitle\n".to_owned();
    for i in 0..200 {
        let image = folder.path().join(format!("{i:03}.jpg"));
        std::fs::write(&image, b"x").unwrap();
        text += &format!("{}\tcaption {i}\n", image.display());
    }
    let path = folder.path().join("table.csv");
    std::fs::write(&path, text).unwrap();
    let sets = [DataSet::new(vec![Source::from(path)])];
    let taken = take(&sets, &LoaderState::default(), 400);
    let keys = |range: std::ops::Range<usize>| taken[range].iter().map(|sample| &sample.0).collect::<Vec<_>>();
    assert_eq!(keys(0..200).into_iter().collect::<BTreeSet<_>>().len(), 200);
    assert_ne!(keys(0..200), keys(200..400));
    // Far beyond the five samples of the buffer.
    let sorted: Vec<&String> = keys(0..200).into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let moved = keys(0..200).iter().zip(&sorted).filter(|(a, b)| a != b).count();
    let early = keys(0..20).iter().filter(|key| sorted[100..].contains(key)).count();
    assert!(moved > 180 && early > 3, "{moved} {early}");
    assert_eq!(take(&sets, &taken[249].3, 150), taken[250..]);
}

/// Behind a URL an index lets a resume pass over shards unread.
#[test]
fn a_resume_behind_a_url_reads_what_it_needs_only() {
    let (folder, sources) = folder_of(&[("a", 60), ("b", 60)]);
    let local = take(&[DataSet::new(sources.clone())], &LoaderState::default(), 120);
    let mut files = HashMap::new();
    for name in ["a.tar", "b.tar", "a.tar.index", "b.tar.index"] {
        write_index(&folder.path().join(&name[..5])).unwrap();
        files.insert(format!("/{name}"), std::fs::read(folder.path().join(name)).unwrap());
    }
    let server = Server::start(files, Vec::new());
    let remote = |name: &str| Source::parse(&format!("{}/{name}", server.address)).unwrap();
    let set = [DataSet::new(vec![remote("a.tar"), remote("b.tar")])];
    let keys = |taken: &[(String, u64, usize, LoaderState)]| taken.iter().map(|s| s.0.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&take(&set, &LoaderState::default(), 120)), keys(&local));
    assert_eq!(server.paths().iter().filter(|path| path.ends_with(".index")).count(), 0);
    let before = server.starts().len();
    assert_eq!(keys(&take(&set, &local[99].3, 20)), keys(&local[100..]));
    // Both indices, both lengths, and each of the twenty samples.
    let after = server.starts();
    assert_eq!(after.len() - before, 4 + 20, "{:?}", &server.paths()[before..]);
}

#[test]
fn a_state_of_other_data_is_refused() {
    let (_folder, sources) = folder_of(&[("a", 3), ("b", 3)]);
    let state = LoaderState { epoch: 0, position: 3, sets: vec![SetState::default(); 3] };
    let refused = |sets: &[DataSet]| {
        Sequence::new(sets, 1, SHUFFLE, Arc::default(), Arc::default(), &state).err().unwrap().to_string()
    };
    assert!(refused(&mixture(&sources)).contains("3 data sets, and there are 2 now"));
    assert!(refused(&[DataSet::new(sources)]).contains("there are 1 now"));
}
