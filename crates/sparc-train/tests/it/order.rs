//! The order of samples survives whatever happens to the program.

use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture::Fixture;

/// A mixture of shards and a table, so that all that a state can hold is in it.
fn mixture(fixture: &Fixture) -> String {
    let image = |name: &str| fixture.path(format!("images/{name}.png"));
    std::fs::create_dir(fixture.path("images")).unwrap();
    let mut table = "filepath,title\n".to_owned();
    for shade in 0..30u8 {
        let path = image(&shade.to_string());
        image::RgbImage::from_pixel(32, 32, image::Rgb([8 * shade, 7, 99])).save(&path).unwrap();
        table += &format!("{},a plain image number {shade}\n", path.display());
    }
    std::fs::write(fixture.path("table.csv"), table).unwrap();
    let pipe = "pipe:cat data/val-00000.tar";
    format!(
        "data.train=[{{data: 'data/train-*.tar::{pipe}', weight: 2}}, {{data: table.csv, weight: 1, resample: true}}]"
    )
}

/// Killed with SIGKILL again and again, at any point, resumed with another number of workers, and given
/// an index on the way: every step has the samples that the undisturbed run has, each step once.
#[test]
fn a_run_that_is_killed_again_and_again_loses_and_repeats_no_sample() {
    const STEPS: u64 = 90;
    let fixture = Fixture::new();
    let data = mixture(&fixture);
    let arguments =
        ["train", "run.yaml", "--set", "train.steps=90", "--set", "train.checkpoint_every=4", "--set", &data];
    fixture.succeed(&[&arguments[..], &["--set", "output=whole"]].concat());

    let log = fixture.path("run/metrics.jsonl");
    let steps = || std::fs::read_to_string(&log).map_or(0, |text| text.lines().count() as u64);
    let mut generator = ChaCha8Rng::seed_from_u64(7);
    let mut kills = 0;
    while kills < 8 {
        // What has been logged beyond the last checkpoint is cut off at the start, so this moves on slowly.
        let target = steps() / 4 * 4 + generator.random_range(1..12);
        if target >= STEPS {
            break;
        }
        let workers = format!("data.workers={}", [1, 2, 5][kills % 3]);
        let resume: &[&str] =
            if fixture.path("run/latest").exists() { &["--resume", "latest"] } else { &["--overwrite"] };
        let mut child = fixture.start(&[&arguments[..], &["--set", &workers], resume].concat());
        let started = Instant::now();
        // A resume first cuts the log back; a target before that would kill it too early to move on.
        while steps() < target && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(120), "waited in vain");
            sleep(Duration::from_millis(generator.random_range(1..5)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        if kills == 4 {
            let lines = fixture.succeed(&["shards", "index", "data/train-*.tar", "--json"]);
            let line: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
            assert_eq!((line["samples"].as_u64(), line["members"].as_u64()), (Some(120), Some(120 * 5)));
            assert!(fixture.path("data/train-00000.tar.index").exists());
        }
    }
    assert!(kills >= 6, "{kills} kills");
    fixture.succeed(&[&arguments[..], &["--resume", "latest"]].concat());
    assert_eq!(fixture.log("run"), fixture.log("whole"));
    assert_eq!(fixture.log("run").len() as u64, STEPS);
    let fingerprints: std::collections::BTreeSet<String> = fixture
        .log("run")
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["batch_fingerprint"].to_string())
        .collect();
    assert_eq!(fingerprints.len() as u64, STEPS, "two steps had the same samples");
}

#[test]
fn data_that_cannot_be_mixed_or_indexed_is_named() {
    let fixture = Fixture::new();
    let plan = |setting: &str| fixture.fail(&["plan", "run.yaml", "--set", setting]);
    let says = |message: String, part: &str| assert!(message.contains(part), "`{part}` is missing in: {message}");
    says(plan("data.train=[{data: 'data/train-*.tar'}]"), "data.train.0.weight is missing");
    says(plan("data.train=[{data: absent.tar, weight: 1}]"), "absent.tar does not exist");
    says(plan("data.train=ftp://host/a.tar"), "no scheme `ftp`");
    says(plan("data.remote={retries: 1, timeout_s: 0}"), "data.remote.timeout_s must lie in");
    says(plan("data.last_batch=repeat"), "data.last_batch");
    let train = |data: &str| fixture.fail(&["train", "run.yaml", "--set", &format!("data.train={data}")]);
    std::fs::write(fixture.path("table.csv"), "image,caption\na.jpg,b\n").unwrap();
    says(train("table.csv"), "no column `filepath`; there are: image, caption");

    let shard = fixture.path("data/train-00000.tar");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    says(fixture.fail(&["shards", "index", "data/train-*.tar"]), "train-00000.tar cannot be indexed");
    assert!(!fixture.path("data/train-00000.tar.index").exists());
    // Evaluation reads tars on disks only, and says so.
    says(fixture.fail(&["shards", "index", "table.csv"]), "table.csv is no tar on a local disk");
}
