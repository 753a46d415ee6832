//! Noun phrases by the pattern of CLOC's labelling (arXiv:2410.02746, Listing 1): an optional determiner, any
//! adjectives, one or more nouns; in NLTK's notation `NP: {<DT>?<JJ.*>*<NN.*>+}`.

use std::ops::Range;

/// The phrases among tags of the Penn Treebank, from the left, each as long as it can be.
pub fn noun_phrases<S: AsRef<str>>(tags: &[S]) -> Vec<Range<usize>> {
    let count =
        |start: usize, prefix: &str| tags[start..].iter().take_while(|tag| tag.as_ref().starts_with(prefix)).count();
    let (mut phrases, mut start) = (Vec::new(), 0);
    while start < tags.len() {
        let determiner = usize::from(tags[start].as_ref() == "DT");
        let nouns = start + determiner + count(start + determiner, "JJ");
        let end = nouns + count(nouns, "NN");
        if end > nouns {
            phrases.push(start..end);
        }
        // Adjectives without a noun have none from their middle on either.
        start = end.max(start + 1);
    }
    phrases
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The pattern tried at every place, by the definition: the first of the longest matches.
    fn by_definition(tags: &[&str]) -> Vec<Range<usize>> {
        let matches = |range: &[&str]| {
            let range = range.strip_prefix(&["DT"]).unwrap_or(range);
            let adjectives = range.iter().take_while(|tag| tag.starts_with("JJ")).count();
            adjectives < range.len() && range[adjectives..].iter().all(|tag| tag.starts_with("NN"))
        };
        let (mut found, mut start) = (Vec::new(), 0);
        while start < tags.len() {
            match (start + 1..=tags.len()).rev().find(|&end| matches(&tags[start..end])) {
                Some(end) => {
                    found.push(start..end);
                    start = end;
                }
                None => start += 1,
            }
        }
        found
    }

    proptest! {
        #[test]
        fn phrases_are_those_of_the_pattern(kinds in proptest::collection::vec(0..7usize, 0..40)) {
            let tags: Vec<&str> = kinds.iter().map(|&kind| ["DT", "JJ", "JJR", "NN", "NNS", "NNP", "VBZ"][kind]).collect();
            prop_assert_eq!(noun_phrases(&tags), by_definition(&tags));
        }
    }

    /// Time is linear: a million adjectives without a noun would take hours otherwise.
    #[test]
    fn endless_adjectives_end() {
        assert!(noun_phrases(&vec!["JJ"; 1 << 20]).is_empty());
        assert!(noun_phrases(&vec!["DT"; 1 << 20]).is_empty());
        let everything = noun_phrases(&[vec!["JJ"; 1 << 20], vec!["NN"]].concat());
        assert_eq!((everything.len(), everything[0].clone()), (1, 0..(1 << 20) + 1));
    }
}
