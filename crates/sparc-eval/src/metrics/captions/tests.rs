//! Expected numbers are what pycocoevalcap 1.2 (`PTBTokenizer` on Java 17, `Bleu(4)`, `Rouge`, `Cider`) gave for
//! these captions; those of [`CiderVariant::Original`] are its `Cider` without the `min` and without the Gaussian.

use proptest::prelude::*;

use super::*;

type Captions = Vec<(&'static str, &'static str, Vec<&'static str>)>;

fn own_captions() -> Captions {
    vec![
        (
            "kite",
            "A boy flies a red kite on the beach",
            vec!["A boy flies a red kite on the beach.", "The boy's kite is red!", "Kite flying near the sea"],
        ),
        ("cat", "a cat sleeps on a sofa", vec!["Two cats sleep on a sofa (grey).", "A pair of cats doesn't move"]),
        (
            "bus",
            "The red red red bus passes the street at 5 p.m.",
            vec!["A double-decker bus drives down the street.", "The red bus passes St. Paul's at 5 p.m."],
        ),
        ("empty-room", "Room", vec!["An empty room with 3 1/2 chairs", "a room"]),
    ]
}

fn corpus(captions: &[(&str, &str, Vec<&str>)]) -> Result<CaptionCorpus, CaptionError> {
    CaptionCorpus::new(
        captions.iter().map(|(id, hypothesis, _)| ((*id).to_owned(), (*hypothesis).to_owned())),
        captions
            .iter()
            .map(|(id, _, references)| ((*id).to_owned(), references.iter().map(|r| (*r).to_owned()).collect())),
        EmptyCaptions::Refuse,
    )
}

#[track_caller]
fn close(ours: f64, expected: f64) {
    assert!((ours - expected).abs() < 1e-12, "{ours} against {expected}");
}

#[test]
fn bleu_is_that_of_the_reference_program() {
    let scores = bleu(&corpus(&own_captions()).unwrap());
    let expected = [0.7494981232899265, 0.7088247245034782, 0.6232384608101698, 0.5356671597222038];
    scores.corpus.into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));
    let expected = [
        [0.9999999997777782, 0.9999999997708338, 0.9999999997625665, 0.9999999997524806],
        [0.4232408623042269, 0.3785581355808426, 0.31184653363597087, 5.4085366077075346e-05],
        [0.7272727272066117, 0.6605782590127613, 0.4594222376755416, 5.900468725762905e-05],
        [0.3678794404356846, 0.0003678794406196241, 3.678794406809375e-05, 1.163336936997511e-05],
    ];
    for (ours, expected) in scores.per_image.iter().flatten().zip(expected.iter().flatten()) {
        close(*ours, *expected);
    }
}

#[test]
fn rouge_l_is_that_of_the_reference_program() {
    let scores = rouge_l(&corpus(&own_captions()).unwrap());
    close(scores.corpus, 0.6718457184076054);
    let expected = [1.0, 0.3860759493670886, 0.6724409448818898, 0.6288659793814433];
    scores.per_image.into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));
}

#[test]
fn cider_is_that_of_the_reference_program() {
    let scores = cider(&corpus(&own_captions()).unwrap(), CiderVariant::Deduplicated);
    close(scores.corpus, 2.1102220510094463);
    let expected = [3.954597628734133, 0.8413759708287458, 2.1255969070922305, 1.5193176973826759];
    scores.per_image.into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));

    let scores = cider(&corpus(&own_captions()).unwrap(), CiderVariant::Original);
    close(scores.corpus, 2.2872890575487013);
    let expected = [4.058796933163684, 0.9534038797921923, 2.4144998259773938, 1.722455591261534];
    scores.per_image.into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));
}

#[test]
fn one_image_has_no_document_frequencies() {
    let one = corpus(&own_captions()[..1]).unwrap();
    assert_eq!(cider(&one, CiderVariant::Deduplicated).corpus, 0.0);
    close(bleu(&one).corpus[3], 0.9999999997524806);
}

#[test]
fn errors_name_the_image() {
    let mut captions = own_captions();
    captions[1].1 = " ... ";
    assert_eq!(
        corpus(&captions).unwrap_err().to_string(),
        "the caption to score of image `cat` has no words: \" ... \""
    );
    captions[1].1 = "cat";
    captions[2].2[1] = "\u{1f600}";
    assert_eq!(corpus(&captions).unwrap_err().to_string(), "reference 1 of image `bus` has no words: \"\u{1f600}\"");
    captions[2].2.clear();
    assert_eq!(corpus(&captions).unwrap_err(), CaptionError::MissingReferences { id: "bus".into() });
    captions[2] = captions[0].clone();
    assert_eq!(corpus(&captions).unwrap_err(), CaptionError::DuplicateHypothesis { id: "kite".into() });
    assert_eq!(corpus(&[]).unwrap_err(), CaptionError::NoImages);
}

#[test]
fn ids_must_be_on_both_sides_and_once() {
    let named = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), "a cat".to_owned())).collect::<Vec<_>>();
    let pair = |hypotheses: &[&str], references: &[&str]| {
        let references = named(references).into_iter().map(|(id, caption)| (id, vec![caption]));
        CaptionCorpus::new(named(hypotheses), references, EmptyCaptions::Refuse)
    };
    assert_eq!(pair(&["a"], &["a", "b"]).unwrap_err(), CaptionError::MissingHypothesis { id: "b".into() });
    assert_eq!(pair(&["a", "b"], &["a"]).unwrap_err(), CaptionError::MissingReferences { id: "b".into() });
    assert_eq!(pair(&["a"], &["a", "a"]).unwrap_err(), CaptionError::DuplicateReferences { id: "a".into() });
    assert_eq!(pair(&["a"], &[]).unwrap_err(), CaptionError::MissingReferences { id: "a".into() });
}

#[test]
fn empty_captions_score_as_in_the_reference_program() {
    // An empty hypothesis against "a cat", and "cat" against an empty reference and "a cat".
    let hypotheses = [("x", ""), ("y", "cat"), ("z", "a dog runs")];
    let references = [("x", vec!["a cat"]), ("y", vec!["", "a cat"]), ("z", vec!["a dog", "dogs"])];
    let corpus = CaptionCorpus::new(
        hypotheses.map(|(id, caption)| (id.to_owned(), caption.to_owned())),
        references.map(|(id, captions)| (id.to_owned(), captions.into_iter().map(str::to_owned).collect())),
        EmptyCaptions::Score,
    )
    .unwrap();
    let bleu = bleu(&corpus);
    assert_eq!(bleu.per_image[0], [0.0; 4]);
    let expected = [0.999999999000001, 0.0009999999995000005, 9.999999996666675e-05, 3.1622776593778105e-05];
    bleu.per_image[1].into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));
    let expected = [0.0, 0.6288659793814433, 0.8299319727891156];
    rouge_l(&corpus).per_image.into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));
    let expected = [0.0, 1.2327588959298954, 1.743384349760141];
    let cider = cider(&corpus, CiderVariant::Deduplicated);
    cider.per_image.into_iter().zip(expected).for_each(|(ours, expected)| close(ours, expected));
}

/// Sentences of a few words, so that they share some.
fn some_captions() -> impl Strategy<Value = Vec<(String, Vec<String>)>> {
    let sentence = || proptest::collection::vec("cat|dog|a|red|on|big", 1..8).prop_map(|words| words.join(" "));
    proptest::collection::vec((sentence(), proptest::collection::vec(sentence(), 1..4)), 2..7)
}

fn numbered(captions: &[(String, Vec<String>)]) -> CaptionCorpus {
    let id = |index: usize| index.to_string();
    CaptionCorpus::new(
        captions.iter().enumerate().map(|(index, (hypothesis, _))| (id(index), hypothesis.clone())),
        captions.iter().enumerate().map(|(index, (_, references))| (id(index), references.clone())),
        EmptyCaptions::Refuse,
    )
    .expect("captions with words")
}

fn all_scores(corpus: &CaptionCorpus) -> Vec<f64> {
    let mut scores = bleu(corpus).corpus.to_vec();
    scores.push(rouge_l(corpus).corpus);
    scores.push(cider(corpus, CiderVariant::Deduplicated).corpus);
    scores.push(cider(corpus, CiderVariant::Original).corpus);
    scores
}

proptest! {
    #[test]
    fn order_of_images_and_references_changes_nothing(captions in some_captions(), turn in 0usize..7) {
        let before = all_scores(&numbered(&captions));
        let mut captions = captions;
        let turn = turn % captions.len();
        captions.rotate_left(turn);
        captions.iter_mut().for_each(|(_, references)| references.reverse());
        for (before, after) in before.into_iter().zip(all_scores(&numbered(&captions))) {
            prop_assert!((before - after).abs() < 1e-12, "{before} against {after}");
        }
    }

    #[test]
    fn bounds_hold(captions in some_captions()) {
        let corpus = numbered(&captions);
        prop_assert!(bleu(&corpus).per_image.iter().flatten().all(|score| (0.0..=1.0).contains(score)));
        prop_assert!(rouge_l(&corpus).per_image.iter().all(|score| (0.0..=1.0 + 1e-12).contains(score)));
        for variant in [CiderVariant::Deduplicated, CiderVariant::Original] {
            prop_assert!(cider(&corpus, variant).per_image.iter().all(|score| (0.0..=10.0 + 1e-9).contains(score)));
        }
    }

    #[test]
    fn quoting_a_reference_is_best(captions in some_captions()) {
        let quoted: Vec<_> =
            captions.iter().map(|(_, references)| (references[0].clone(), references.clone())).collect();
        let scores = rouge_l(&numbered(&quoted));
        prop_assert!(scores.per_image.iter().all(|score| (score - 1.0).abs() < 1e-12));
        prop_assert!(bleu(&numbered(&quoted)).per_image.iter().all(|scores| (scores[0] - 1.0).abs() < 1e-8));
        // With one reference, equal vectors have the cosine 1 for every length that has a weight.
        let single: Vec<_> = quoted.iter().map(|(h, r)| (h.clone(), vec![r[0].clone()])).collect();
        let (ours, theirs) = (numbered(&single), numbered(&captions.iter().zip(&single)
            .map(|((h, _), (_, r))| (h.clone(), r.clone())).collect::<Vec<_>>()));
        let quoting = cider(&ours, CiderVariant::Deduplicated).per_image;
        let others = cider(&theirs, CiderVariant::Deduplicated).per_image;
        prop_assert!(quoting.iter().zip(&others).all(|(best, other)| *best >= other - 1e-9));
    }
}

/// Against `caption_metrics_*.json` in the folder `fixtures` of the folder that SPARC_DATA names: captions of
/// Flickr8k and COCO with their tokens and scores by pycocoevalcap 1.2 on Java 17. They may not be distributed,
/// so the test does nothing where the variable is not set.
#[test]
fn agrees_with_the_reference_program_on_real_captions() {
    let Some(folder) = std::env::var_os("SPARC_DATA") else {
        eprintln!("skipped: SPARC_DATA does not name a folder with real captions");
        return;
    };
    let folder = std::path::Path::new(&folder).join("fixtures");
    let files = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let is_fixture = |path: &std::path::PathBuf| path.to_string_lossy().contains("caption_metrics_");
    let files: Vec<_> = files.filter(is_fixture).collect();
    assert!(!files.is_empty(), "no caption_metrics_*.json in {}", folder.display());
    for file in files {
        let fixture: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
        let largest = compare(&fixture);
        println!("{}: {largest:?}", file.file_name().expect("a name").to_string_lossy());
        assert!(largest.iter().all(|(_, difference)| *difference < 1e-9), "{largest:?}");
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// The largest difference by metric, for the corpus and for images; panics where tokens differ.
fn compare(fixture: &serde_json::Value) -> Vec<(String, f64)> {
    let references = fixture["references"].as_object().expect("references");
    let texts = |value: &serde_json::Value| value.as_array().expect("a list").iter().map(text).collect::<Vec<_>>();
    let corpus = CaptionCorpus::new(
        fixture["hypotheses"].as_object().expect("hypotheses").iter().map(|(id, caption)| (id.clone(), text(caption))),
        references.iter().map(|(id, captions)| (id.clone(), texts(captions))),
        EmptyCaptions::Refuse,
    )
    .expect("captions");
    for image in corpus.images() {
        assert_eq!(image.hypothesis, text(&fixture["tokenized_hypotheses"][&image.id]), "image {}", image.id);
        assert_eq!(image.references, texts(&fixture["tokenized_references"][&image.id]), "image {}", image.id);
    }
    let bleu = bleu(&corpus);
    let mut metrics: Vec<(String, CaptionScores)> = (0..4)
        .map(|n| {
            let per_image = bleu.per_image.iter().map(|scores| scores[n]).collect();
            (format!("Bleu_{}", n + 1), CaptionScores { corpus: bleu.corpus[n], per_image })
        })
        .collect();
    metrics.push(("ROUGE_L".to_owned(), rouge_l(&corpus)));
    metrics.push(("CIDEr".to_owned(), cider(&corpus, CiderVariant::Deduplicated)));
    let mut largest = Vec::new();
    for (name, scores) in metrics {
        let expected = |value: &serde_json::Value| value.as_f64().expect("a score");
        let difference = (scores.corpus - expected(&fixture["scores"][&name])).abs();
        largest.push((name.clone(), difference));
        let differences = corpus.images().iter().zip(&scores.per_image);
        let differences =
            differences.map(|(image, ours)| (ours - expected(&fixture["per_image"][&image.id][&name])).abs());
        largest.push((format!("{name} per image"), differences.fold(0.0, f64::max)));
    }
    largest
}
