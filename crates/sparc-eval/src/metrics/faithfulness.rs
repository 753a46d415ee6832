//! K-Precision (Adlakha et al. 2023): how many words of a text does another text back up?
//!
//! SPARC (Bica et al. 2024, section 4.4) takes the caption that a network ranks first for an image and asks which
//! of its words occur in the image's own captions: a wrong caption of the right things scores high, a hallucinated
//! one low. K-P = Σ_w min(n(w), m(w)) ÷ Σ_w n(w), n counting the words of the text and m those of all references
//! *together* (not the best of them); 0 for a text without words. Means are over texts.
//!
//! K-P_na counts nouns and adjectives only. Which words those are is for the caller to say (the paper names no
//! tagger); they are sought among all words of the references.

use std::collections::HashMap;

/// The words that are compared: lower case, without ASCII punctuation, without articles.
///
/// In this order, as SQuAD's normaliser does: `it's` becomes `its`, `t-shirt` becomes `tshirt`.
pub fn faithfulness_words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let kept: String = text.chars().filter(|character| !character.is_ascii_punctuation()).collect();
    let mut without_articles = String::with_capacity(kept.len());
    // An article is one between boundaries of words, which other punctuation makes too.
    let mut rest = kept.as_str();
    while let Some(first) = rest.chars().next() {
        let is_word = |character: char| character.is_alphanumeric();
        let end = rest.find(|character: char| is_word(character) != is_word(first)).unwrap_or(rest.len());
        let (piece, behind) = rest.split_at(end);
        without_articles.push_str(if matches!(piece, "a" | "an" | "the") { " " } else { piece });
        rest = behind;
    }
    without_articles.split_whitespace().map(str::to_owned).collect()
}

/// K-Precision of a text, in [0, 1]; 0 if it has no words.
pub fn k_precision<S: AsRef<str>>(text: &str, references: &[S]) -> f64 {
    k_precision_of(text, references, |_, _| true).unwrap_or(0.0)
}

/// K-Precision of the words that `counts(index, word)` picks from [`faithfulness_words`] of the text; `None` if
/// it picks none.
pub fn k_precision_of<S: AsRef<str>>(
    text: &str,
    references: &[S],
    counts: impl Fn(usize, &str) -> bool,
) -> Option<f64> {
    let mut left: HashMap<String, usize> = HashMap::new();
    for word in references.iter().flat_map(|reference| faithfulness_words(reference.as_ref())) {
        *left.entry(word).or_default() += 1;
    }
    let (mut n_words, mut n_found) = (0usize, 0usize);
    for (index, word) in faithfulness_words(text).into_iter().enumerate() {
        if !counts(index, &word) {
            continue;
        }
        n_words += 1;
        if let Some(left) = left.get_mut(&word).filter(|left| **left > 0) {
            *left -= 1;
            n_found += 1;
        }
    }
    (n_words > 0).then(|| n_found as f64 / n_words as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_those_of_squads_normaliser() {
        assert_eq!(faithfulness_words("The Dog's T-shirt, an apple; a_b"), ["dogs", "tshirt", "apple", "ab"]);
        assert_eq!(
            faithfulness_words("a\u{2019}s \u{201c}the\u{201d} theatre"),
            ["\u{2019}s", "\u{201c}", "\u{201d}", "theatre"]
        );
        assert!(faithfulness_words(" A, the an! ").is_empty());
    }

    #[test]
    fn hand_computed() {
        // two, red, dogs, run: "two" and "dogs" are there, "red" once.
        assert_eq!(k_precision("Two red, red dogs run.", &["The two dogs sleep.", "Red dogs"]), 3.0 / 5.0);
        assert_eq!(k_precision("dog dog", &["a dog", "the dog"]), 1.0, "references add up");
        assert_eq!(k_precision("dog dog", &["a dog"]), 0.5);
        assert_eq!(k_precision("", &["a dog"]), 0.0);
        assert_eq!(k_precision("dog", &[] as &[&str]), 0.0);
    }

    #[test]
    fn of_nouns_only() {
        let is_noun = |_: usize, word: &str| matches!(word, "dog" | "cat");
        assert_eq!(k_precision_of("a red dog chases a cat", &["the dog chases"], is_noun), Some(0.5));
        assert_eq!(k_precision_of("it runs", &["the dog"], is_noun), None);
        assert_eq!(k_precision_of("red dog", &["the dog"], |index, _| index == 0), Some(0.0));
    }

    proptest! {
        #[test]
        fn case_order_and_marks_change_nothing(words in proptest::collection::vec("[b-f]{1,2}", 1..8), turn in 0usize..8) {
            let references = ["bb cc, dd", "Ee ff bb"];
            let before = k_precision(&words.join(" "), &references);
            let mut words = words;
            let turn = turn % words.len();
            words.rotate_left(turn);
            let text = words.join(", ").to_uppercase() + "!";
            prop_assert_eq!(before, k_precision(&text, &references));
        }

        #[test]
        fn quoting_gives_one_and_bounds_hold(text in "[b-f ]{0,20}", reference in "[b-f ]{0,20}") {
            prop_assert!((0.0..=1.0).contains(&k_precision(&text, &[&reference])));
            prop_assume!(!text.trim().is_empty());
            prop_assert_eq!(k_precision(&text, &[&text, &reference]), 1.0);
        }
    }
}
