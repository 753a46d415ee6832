//! Parity with NLTK, hostile captions, and taggers in files.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// What `golden/make.py` has made of a text with NLTK. Random texts have words alone.
#[derive(Deserialize)]
struct Case {
    text: String,
    words: Vec<String>,
    tags: Option<Vec<String>>,
    phrases: Option<Vec<String>>,
}

fn cases() -> Vec<Case> {
    serde_json::from_str(include_str!("golden/cases.json")).unwrap()
}

thread_local! {
    /// Unpacking the weights takes a while.
    static FINDER: PhraseFinder = PhraseFinder::new(Tagger::embedded(), PhraseChoice::First);
}

fn found(captions: &[&str]) -> ImagePhrases {
    FINDER.with(|finder| finder.find("key", captions))
}

#[test]
fn words_are_those_of_nltk() {
    let cases = cases();
    assert!(cases.len() > 400);
    for case in cases {
        assert_eq!(words(&case.text), case.words, "{:?}", case.text);
    }
}

#[test]
fn tags_are_those_of_nltk() {
    let tagger = Tagger::embedded();
    let tagged = cases().into_iter().filter_map(|case| Some((case.words, case.tags?)));
    let n_words: usize = tagged
        .map(|(words, tags)| {
            assert_eq!(tagger.tag(&words), tags, "{words:?}");
            words.len()
        })
        .sum();
    assert!(n_words > 400, "{n_words}");
}

#[test]
fn phrases_are_those_of_nltk() {
    let mut n_phrases = 0;
    for case in cases() {
        let Some(expected) = case.phrases else { continue };
        let mut seen = HashSet::new();
        let different: Vec<&String> = expected.iter().filter(|phrase| seen.insert(*phrase)).collect();
        let phrases = found(&[&case.text]);
        assert_eq!(phrases.kept.iter().collect::<Vec<_>>(), different, "{:?}", case.text);
        assert_eq!((phrases.found - phrases.stop_words) as usize, expected.len(), "{:?}", case.text);
        n_phrases += different.len();
    }
    assert!(n_phrases > 100, "{n_phrases}");
}

#[test]
fn generic_words_go_before_tagging_and_phrases_of_stop_words_after() {
    let phrases = found(&["Free stock photo of a red car, a free image", "The same"]);
    assert_eq!(phrases.kept, ["a red car"]);
    // NLTK's tagger takes the lone "s" for a noun.
    let lone = found(&["the s of the car"]);
    assert_eq!((lone.found, lone.stop_words, lone.kept), (2, 1, vec!["the car".to_owned()]));
}

#[test]
fn phrases_of_all_captions_come_once_and_in_order() {
    let phrases = found(&["A dog and a cat.", "a cat beside a red ball", "A DOG"]);
    assert_eq!(phrases.kept, ["a dog", "a cat", "a red ball"]);
    assert_eq!((phrases.found, phrases.beyond_limit), (5, 0));
    assert_eq!(found(&[]), ImagePhrases::default());
}

#[test]
fn twenty_are_kept_the_first_or_some_by_the_key() {
    let things = ["dog", "cat", "table", "chair", "house"];
    let colours = ["red", "blue", "green", "yellow", "white", "black"];
    let all: Vec<String> =
        things.iter().flat_map(|thing| colours.map(|colour| format!("the {colour} {thing}"))).collect();
    let caption = all.join(" and ");
    let first = found(&[&caption]);
    assert_eq!(first.kept, all[..MAX_PHRASES]);
    assert_eq!((first.beyond_limit, first.found), (10, 30));
    let finder = PhraseFinder::new(Tagger::embedded(), PhraseChoice::Sampled);
    let of = |key: &str| finder.find(key, &[&caption]).kept;
    let places = |phrases: &[String]| -> Vec<usize> {
        phrases.iter().map(|phrase| all.iter().position(|other| other == phrase).unwrap()).collect()
    };
    let (one, other) = (places(&of("one")), places(&of("other")));
    assert_eq!((one.len(), other.len()), (MAX_PHRASES, MAX_PHRASES));
    assert!(one.is_sorted() && other.is_sorted() && one != other);
    assert_eq!(places(&of("one")), one);
    // Two thirds of the draws of each, within five standard deviations.
    let mut drawn = [0u32; 30];
    for key in 0..900 {
        places(&of(&key.to_string())).into_iter().for_each(|place| drawn[place] += 1);
    }
    assert!(drawn.iter().all(|count| (530..670).contains(count)), "{drawn:?}");
    // What is fewer is kept whole.
    assert_eq!(finder.find("one", &["a dog and a cat"]).kept, ["a dog", "a cat"]);
    assert_ne!(finder.fingerprint(), FINDER.with(PhraseFinder::fingerprint));
}

#[test]
fn sentences_end_where_readers_end_them() {
    // A full stop that ends a sentence is a word of its own; of an abbreviation, a part of it.
    let of = |text: &str| words(text).join("|");
    assert_eq!(of("a dog. a cat."), "a|dog|.|a|cat|.");
    assert_eq!(of("dr. who met mr. x. they left"), "dr.|who|met|mr.|x.|they|left");
    assert_eq!(
        of("at 5 p.m. the sun (low.) sets... slowly. no. 5. end"),
        "at|5|p.m.|the|sun|(|low|.|)|sets|...|slowly|.|no.|5.|end"
    );
}

#[test]
fn absurd_captions_take_linear_time() {
    let started = Instant::now();
    let long = 1 << 20;
    for piece in [
        "a",
        "red ",
        "dog ",
        "'",
        "\"",
        ".",
        ". ",
        "a. ",
        "-",
        "(",
        "n't ",
        "' ",
        "\u{0}",
        "\u{1f}",
        "é",
        "👩‍👩‍👧 ",
        "x.)",
        "the ",
    ] {
        let caption = piece.repeat(long / piece.len());
        let phrases = found(&[&caption]);
        assert!(phrases.kept.len() <= MAX_PHRASES);
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

proptest! {
    #[test]
    fn any_text_gives_plain_phrases(captions in proptest::collection::vec(prop_oneof![
        "\\PC{0,60}",
        any::<String>(),
        "([a-z]{1,6}|[.?!'\"`(){}<>:,;-]{1,3}|the|red|dog|\\s|[0-9]){0,40}",
    ], 0..4)) {
        let borrowed: Vec<&str> = captions.iter().map(String::as_str).collect();
        let phrases = found(&borrowed);
        prop_assert!(phrases.kept.len() <= MAX_PHRASES);
        prop_assert!(phrases.found >= phrases.kept.len() as u64 + phrases.stop_words);
        let different: HashSet<&String> = phrases.kept.iter().collect();
        prop_assert_eq!(different.len(), phrases.kept.len());
        for phrase in &phrases.kept {
            prop_assert!(!phrase.is_empty() && phrase.trim() == phrase);
            prop_assert_eq!(&phrase.to_lowercase(), phrase);
            // Each of its words is in a caption, but for quotes, which are written otherwise.
            let lower: Vec<String> = captions.iter().map(|caption| caption.to_lowercase()).collect();
            for word in phrase.split(' ').filter(|word| !word.contains(['`', '\''])) {
                prop_assert!(lower.iter().any(|caption| caption.contains(word)), "{:?}", word);
            }
        }
        prop_assert_eq!(found(&borrowed), phrases);
    }

    #[test]
    fn no_word_is_empty_or_has_a_space(text in any::<String>()) {
        for word in words(&text) {
            prop_assert!(!word.is_empty() && !word.contains(char::is_whitespace), "{:?}", word);
        }
    }
}

/// Writes a tagger in NLTK's files that knows `weights`.
fn tagger_files(folder: &std::path::Path, weights: &str, dictionary: &str, classes: &str) {
    for (name, text) in [("weights", weights), ("tagdict", dictionary), ("classes", classes)] {
        fs::write(folder.join(format!("averaged_perceptron_tagger_xyz.{name}.json")), text).unwrap();
    }
}

#[test]
fn a_tagger_in_files_is_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let weights = r#"{"bias": {"B": 1.0}, "i word dog": {"NN": 2.5}, "i-1 tag+i word NN cat": {"A": 5, "C": 5},
        "i tag+i-2 tag -START- -START2-": {"A": 0.5, "B": -0.75}, "i-2 word -start-": {"B": 100},
        "i-2 word -START-": {"C": 0.25}, "i+1 suffix ND-": {"D": 4, "A": -9}}"#;
    tagger_files(folder.path(), weights, r#"{"known": "Z", "empty": ""}"#, r#"["NN", "A", "B", "C"]"#);
    let tagger = Tagger::load(folder.path()).unwrap();
    // A: 0.5; B: 0.25; C: 0.25. Then NN 2.5 against B 1. Then A and C 5 each, and of equals the last by name.
    // D is no label, whatever its weight.
    assert_eq!(tagger.tag(&["x", "dog", "cat", "known", "empty", "end"]), ["A", "NN", "C", "Z", "B", "B"]);
    assert_eq!(tagger.tag(&[""; 0]), [""; 0]);
    let same = tempfile::tempdir().unwrap();
    tagger_files(same.path(), weights, r#"{"known": "Z", "empty": ""}"#, r#"["NN", "A", "B", "C"]"#);
    assert_eq!(Tagger::load(same.path()).unwrap().fingerprint(), tagger.fingerprint());
    tagger_files(same.path(), weights, r#"{"known": "Y"}"#, r#"["NN", "A", "B", "C"]"#);
    assert_ne!(Tagger::load(same.path()).unwrap().fingerprint(), tagger.fingerprint());
}

#[test]
fn taggers_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = || Tagger::load(folder.path()).unwrap_err().to_string();
    assert!(error().contains("no files that end in .weights.json"), "{}", error());
    tagger_files(folder.path(), r#"{"i word x": {"NN": NaN}}"#, "{}", r#"["NN"]"#);
    assert!(error().contains("xyz.weights.json"), "{}", error());
    tagger_files(folder.path(), r#"{"i+3 word x": {"NN": 1}}"#, "{}", r#"["NN"]"#);
    assert!(error().contains("\"i+3 word x\""), "{}", error());
    tagger_files(folder.path(), "{}", "{}", "[]");
    assert!(error().contains("0 labels"), "{}", error());
    tagger_files(folder.path(), "{}", "[]", r#"["NN"]"#);
    assert!(error().contains("xyz.tagdict.json"), "{}", error());
    fs::write(folder.path().join("second.classes.json"), "[]").unwrap();
    assert!(error().contains("2 files that end in .classes.json"), "{}", error());
    assert!(Tagger::load(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
}
