//! `sparc shards phrases` on Shapes, where it is known what the captions name.

use sparc_data::shards::ShardSamples;

use crate::fixture::Fixture;

#[test]
fn phrases_name_the_objects_of_the_scenes() {
    let fixture = Fixture::new();
    let phrases = ["shards", "phrases", "data/train-*.tar", "data/test-*.tar", "--out", "phrased", "--json"];
    let counts: serde_json::Value = serde_json::from_str(&fixture.succeed(&phrases)).unwrap();
    assert_eq!(
        [&counts["shards"], &counts["kept_shards"], &counts["samples"]].map(|n| n.as_u64().unwrap()),
        [2, 0, 144]
    );
    let (mut objects, mut named) = (0, 0);
    for sample in ShardSamples::open(&fixture.path("phrased/train-00000.tar")).unwrap() {
        let record: serde_json::Value = serde_json::from_slice(&sample.unwrap().members["json"]).unwrap();
        let phrases = record["phrases"].as_array().unwrap();
        for object in record["scene"]["objects"].as_array().unwrap() {
            let name = format!("{} {}", object["color"].as_str().unwrap(), object["shape"].as_str().unwrap());
            objects += 1;
            named += u32::from(phrases.iter().any(|phrase| phrase.as_str().unwrap().ends_with(&name)));
        }
    }
    // Objects that two of a scene are like are named in the plural alone.
    assert!(objects > 200 && named * 10 > objects * 9, "{named} of {objects}");
    // The shards are as good as before.
    assert!(fixture.succeed(&["shards", "lint", "--data", "phrased/*.tar"]).contains("144 samples in 2 shards"));
    let stat = fixture.succeed(&["shards", "stat", "--data", "phrased/*.tar"]);
    assert!(stat.contains("phrases per searched sample: mean 1"), "{stat}");
    // Nothing is left to do; other settings would mix with these.
    let again: serde_json::Value = serde_json::from_str(&fixture.succeed(&phrases)).unwrap();
    assert_eq!(again["kept_shards"], 2);
    let error = fixture.fail(&[&phrases[..], &["--sample"]].concat());
    assert!(
        error.contains("phrases.jsonl line 1: the phrases of this folder were made with other settings"),
        "{error}"
    );
}
