//! What a record claims of its image, truly and falsely: hard negatives, statements, pairs of captions.
//!
//! Evaluation alone reads these keys, so they are not part of [`crate::record::RecordJson`], which training parses too:
//! whatever stands in them costs no sample, only the entry.

use serde::Deserialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use sparc_core::{CaptionPair, HardNegative, Statement};

use crate::record::from_python_json;
use crate::shards::RawSample;
use crate::skips::{Skip, SkipReason};

/// The claims of one record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) hard_negatives: Vec<HardNegative>,
    pub(crate) statements: Vec<Statement>,
    pub(crate) caption_pairs: Vec<CaptionPair>,
}

#[derive(Deserialize)]
struct ClaimsJson {
    #[serde(default)]
    hard_negatives: Value,
    #[serde(default)]
    statements: Value,
    #[serde(default)]
    caption_pairs: Value,
}

#[derive(Deserialize)]
struct HardNegativeJson {
    source: Text,
    caption: Text,
    negatives: Vec<Text>,
}

#[derive(Deserialize)]
struct StatementJson {
    source: Text,
    text: Text,
    label: u8,
}

#[derive(Deserialize)]
struct CaptionPairJson {
    source: Text,
    item: Text,
    caption: Text,
    other: Text,
}

/// A string with something in it, trimmed.
pub(crate) struct Text(pub(crate) String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.trim() {
            "" => Err(D::Error::custom("a string is blank")),
            text => Ok(Text(text.to_owned())),
        }
    }
}

/// The claims of the `.json` member, each that cannot be used being left out and counted. A member that is no JSON has
/// none: reading the record says so.
pub(crate) fn read_claims(sample: &RawSample, skips: &mut Vec<Skip>) -> Claims {
    let Some(claims) = sample.members.get("json").and_then(|bytes| from_python_json::<ClaimsJson>(bytes).ok()) else {
        return Claims::default();
    };
    Claims {
        hard_negatives: entries(claims.hard_negatives, "hard_negatives", hard_negative, sample, skips),
        statements: entries(claims.statements, "statements", statement, sample, skips),
        caption_pairs: entries(claims.caption_pairs, "caption_pairs", caption_pair, sample, skips),
    }
}

fn hard_negative(HardNegativeJson { source, caption, negatives }: HardNegativeJson) -> Result<HardNegative, String> {
    let negatives: Vec<String> = negatives.into_iter().map(|negative| negative.0).collect();
    if negatives.is_empty() {
        return Err("it has no negative".into());
    }
    if negatives.contains(&caption.0) {
        return Err(format!("the caption `{}` is among its negatives", caption.0));
    }
    Ok(HardNegative { source: source.0, caption: caption.0, negatives })
}

fn statement(StatementJson { source, text, label }: StatementJson) -> Result<Statement, String> {
    match label {
        0 | 1 => Ok(Statement { source: source.0, text: text.0, is_true: label == 1 }),
        _ => Err(format!("the label is {label}, not 0 or 1")),
    }
}

fn caption_pair(CaptionPairJson { source, item, caption, other }: CaptionPairJson) -> Result<CaptionPair, String> {
    if caption.0 == other.0 {
        return Err(format!("both captions are `{}`", caption.0));
    }
    Ok(CaptionPair { source: source.0, item: item.0, caption: caption.0, other: other.0 })
}

/// The entries of a list that can be read; the others are counted.
pub(crate) fn entries<J: DeserializeOwned, T>(
    value: Value,
    key: &str,
    read: impl Fn(J) -> Result<T, String>,
    sample: &RawSample,
    skips: &mut Vec<Skip>,
) -> Vec<T> {
    let values = match value {
        Value::Null => return Vec::new(),
        Value::Array(values) => values,
        _ => {
            skips.push(sample.skip(SkipReason::BadClaim, format!("`{key}` is not a list")));
            return Vec::new();
        }
    };
    let mut entries = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        match serde_json::from_value(value).map_err(|error| error.to_string()).and_then(&read) {
            Ok(entry) => entries.push(entry),
            Err(reason) => skips.push(sample.skip(SkipReason::BadClaim, format!("`{key}[{index}]`: {reason}"))),
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn read(json: &str) -> (Claims, Vec<String>) {
        let members = HashMap::from([("json".to_owned(), json.as_bytes().to_vec())]);
        let sample = RawSample { shard: "shard.tar".into(), key: "a".into(), members };
        let mut skips = Vec::new();
        let claims = read_claims(&sample, &mut skips);
        assert!(skips.iter().all(|skip| skip.reason == SkipReason::BadClaim && skip.key == "a"));
        assert!(!SkipReason::BadClaim.drops_sample() && SkipReason::BadClaim.is_a_fault());
        (claims, skips.into_iter().map(|skip| skip.detail).collect())
    }

    #[test]
    fn claims_are_read_and_trimmed() {
        let (claims, skips) = read(
            r#"{"captions": ["x"], "hard_negatives": [{"source": "swap", "caption": "a cat on a mat. ", "negatives": ["a mat on a cat.", "no cat"]}],
                "statements": [{"source": "vsr", "text": "The cat is on the mat.", "label": 1, "relation": "on"},
                               {"source": "vsr", "text": "The cat is under the mat.", "label": 0}],
                "caption_pairs": [{"source": "winoground", "item": "7", "caption": "a b", "other": "b a"}], "more": [1]}"#,
        );
        assert!(skips.is_empty(), "{skips:?}");
        let expected = HardNegative {
            source: "swap".into(),
            caption: "a cat on a mat.".into(),
            negatives: vec!["a mat on a cat.".into(), "no cat".into()],
        };
        assert_eq!(claims.hard_negatives, [expected]);
        let truths: Vec<(&str, bool)> = claims.statements.iter().map(|s| (s.text.as_str(), s.is_true)).collect();
        assert_eq!(truths, [("The cat is on the mat.", true), ("The cat is under the mat.", false)]);
        let pair =
            CaptionPair { source: "winoground".into(), item: "7".into(), caption: "a b".into(), other: "b a".into() };
        assert_eq!(claims.caption_pairs, [pair]);
    }

    #[test]
    fn what_is_no_claim_costs_that_entry_alone() {
        let (claims, skips) = read(
            r#"{"hard_negatives": [{"source": "s", "caption": "a", "negatives": []},
                                   {"source": "s", "caption": "a", "negatives": ["b", "a "]},
                                   {"source": "s", "caption": " ", "negatives": ["b"]},
                                   {"source": "s", "caption": "a", "negatives": ["b", ""]},
                                   {"source": "s", "caption": "a", "negatives": "b"},
                                   {"caption": "a", "negatives": ["b"]}, 3,
                                   {"source": "s", "caption": "good", "negatives": ["bad"]}],
                "statements": [{"source": "s", "text": "x", "label": 2}, {"source": "s", "text": "x", "label": null},
                               {"source": "s", "text": "", "label": 1}, {"source": "s", "text": "good", "label": 0}],
                "caption_pairs": {"source": "s"}}"#,
        );
        assert_eq!((claims.hard_negatives.len(), claims.statements.len(), claims.caption_pairs.len()), (1, 1, 0));
        assert_eq!((claims.hard_negatives[0].caption.as_str(), claims.statements[0].text.as_str()), ("good", "good"));
        let expected = [
            "`hard_negatives[0]`: it has no negative",
            "`hard_negatives[1]`: the caption `a` is among its negatives",
            "`hard_negatives[2]`: a string is blank",
            "`hard_negatives[3]`: a string is blank",
            "`hard_negatives[4]`: invalid type",
            "`hard_negatives[5]`: missing field `source`",
            "`hard_negatives[6]`: invalid type",
            "`statements[0]`: the label is 2, not 0 or 1",
            "`statements[1]`: invalid type",
            "`statements[2]`: a string is blank",
            "`caption_pairs` is not a list",
        ];
        assert_eq!(skips.len(), expected.len(), "{skips:#?}");
        for (skip, expected) in skips.iter().zip(expected) {
            assert!(skip.starts_with(expected), "{skip} is not {expected}");
        }
        let same = r#"{"caption_pairs": [{"source": "s", "item": "1", "caption": "a", "other": " a"}]}"#;
        assert_eq!(read(same).1, ["`caption_pairs[0]`: both captions are `a`"]);
    }

    #[test]
    fn no_claims_and_no_json_are_nothing() {
        for json in ["{}", r#"{"hard_negatives": null, "statements": []}"#, "no json"] {
            assert_eq!(read(json), (Claims::default(), Vec::new()), "{json}");
        }
        // Numbers as Python writes them, elsewhere in the record, do no harm.
        let json = r#"{"x": NaN, "statements": [{"source": "s", "text": "good", "label": 0}]}"#;
        assert_eq!(read(json).0.statements.len(), 1);
    }
}
