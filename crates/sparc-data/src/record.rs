//! The project's record format: the members of one sample (see `docs/formats/shards.md`).

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

use crate::skips::SkipReason;

/// A region as written in a record: `box` is `[x0, y0, x1, y1]` in `[0, 1]` of the stored image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionRecord {
    /// `x0, y0, x1, y1`, x right, y down. A `null` is read as NaN.
    #[serde(rename = "box", deserialize_with = "coordinates")]
    pub box_xyxy: [f32; 4],
    /// What the box holds.
    pub text: String,
    /// Confidence of a pseudo-label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
}

/// A region with wrong descriptions beside its true one, by how much they differ from it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct FineRegionRecord {
    /// Box and true description.
    #[serde(flatten)]
    pub region: RegionRecord,
    /// Wrong descriptions.
    #[serde(default)]
    pub negatives: NegativesRecord,
}

/// Wrong descriptions of a region; a level may be empty or absent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NegativesRecord {
    /// One attribute is wrong.
    pub hard: Vec<String>,
    /// Two attributes are wrong.
    pub medium: Vec<String>,
    /// Three attributes are wrong.
    pub easy: Vec<String>,
    /// Another object is described.
    pub trivial: Vec<String>,
}

impl RegionRecord {
    /// What is wrong with the region, if anything. Coordinates may overshoot by the rounding of a few
    /// decimals.
    pub fn fault(&self) -> Option<SkipReason> {
        const ROUNDING: f32 = 1e-3;
        let [x0, y0, x1, y1] = self.box_xyxy;
        if !self.box_xyxy.iter().all(|v| v.is_finite()) {
            Some(SkipReason::BoxNotFinite)
        } else if x0 >= x1 || y0 >= y1 {
            Some(SkipReason::BoxEmpty)
        } else if !self.box_xyxy.iter().all(|v| (-ROUNDING..=1.0 + ROUNDING).contains(v)) {
            Some(SkipReason::BoxOutsideImage)
        } else if self.text.trim().is_empty() {
            Some(SkipReason::EmptyPhrase)
        } else {
            None
        }
    }
}

fn coordinates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f32; 4], D::Error> {
    let values = <[Option<f32>; 4]>::deserialize(deserializer)?;
    Ok(values.map(|value| value.unwrap_or(f32::NAN)))
}

/// A list of strings, or whatever else is there as `None`.
fn strings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Strings(Vec<String>),
        Other(IgnoredAny),
    }
    Ok(match Value::deserialize(deserializer)? {
        Value::Strings(strings) => Some(strings),
        Value::Other(_) => None,
    })
}

/// The `.json` member; keys that are not known are ignored, as the format allows.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct RecordJson {
    /// Captions, if the sample has them here instead of in `.txt`.
    #[serde(default)]
    pub captions: Vec<String>,
    /// Regions; no key means not annotated, an empty list annotated and none there.
    #[serde(default)]
    pub regions: Option<Vec<RegionRecord>>,
    /// Regions with wrong descriptions; read in evaluation only.
    #[serde(default)]
    pub fine_regions: Vec<FineRegionRecord>,
    /// Noun phrases of the captions, what a detector is to be asked for; nothing but tools reads them. Another
    /// type is taken for a key of somebody else's, and read as none.
    #[serde(default, deserialize_with = "strings")]
    pub phrases: Option<Vec<String>>,
}

impl RecordJson {
    /// Reads a `.json` member. Python writes NaN and Infinity, which JSON does not have: they are read as
    /// `null`.
    ///
    /// # Errors
    ///
    /// What the parser said of the member as it is.
    pub fn parse(bytes: &[u8]) -> Result<RecordJson, serde_json::Error> {
        from_python_json(bytes)
    }
}

/// JSON as Python writes it, with `null` for numbers that JSON does not have.
pub(crate) fn from_python_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| match without_python_numbers(bytes) {
        Some(repaired) => serde_json::from_slice(&repaired).map_err(|_| error),
        None => Err(error),
    })
}

/// The text with `null` for every NaN, Infinity and -Infinity outside strings; `None` if there is none.
fn without_python_numbers(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut repaired = Vec::with_capacity(bytes.len());
    let (mut rest, mut in_string, mut found) = (bytes, false, false);
    while let Some(&byte) = rest.first() {
        let word =
            [&b"NaN"[..], b"-Infinity", b"Infinity"].into_iter().find(|word| !in_string && rest.starts_with(word));
        let length = match word {
            Some(word) => {
                repaired.extend(b"null");
                found = true;
                word.len()
            }
            // An escaped character, a quote among them, does not end a string.
            None if in_string && byte == b'\\' => {
                let length = rest.len().min(2);
                repaired.extend(&rest[..length]);
                length
            }
            None => {
                in_string ^= byte == b'"';
                repaired.push(byte);
                1
            }
        };
        rest = &rest[length..];
    }
    found.then_some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_region_has_its_reason() {
        let fault = |box_xyxy: [f32; 4], text: &str| RegionRecord { box_xyxy, text: text.into(), score: None }.fault();
        assert_eq!(fault([0.0, 0.0, 1.0005, 1.0], "x"), None);
        assert_eq!(fault([0.0, f32::NAN, 1.0, 1.0], "x"), Some(SkipReason::BoxNotFinite));
        assert_eq!(fault([0.0, 0.0, f32::INFINITY, 1.0], "x"), Some(SkipReason::BoxNotFinite));
        assert_eq!(fault([0.5, 0.0, 0.5, 1.0], "x"), Some(SkipReason::BoxEmpty));
        assert_eq!(fault([0.5, 0.9, 0.6, 0.1], "x"), Some(SkipReason::BoxEmpty));
        assert_eq!(fault([0.5, 0.0, 1.5, 1.0], "x"), Some(SkipReason::BoxOutsideImage));
        assert_eq!(fault([0.0, 0.0, 1.0, 1.0], " \n"), Some(SkipReason::EmptyPhrase));
    }

    #[test]
    fn wrong_descriptions_are_read_by_level() {
        let text = br#"{"fine_regions": [{"source": "x", "box": [0, 0, 0.5, 1], "text": "a red mug",
            "negatives": {"hard": ["a blue mug"], "trivial": ["a dog", "a cat"]}}]}"#;
        let record = RecordJson::parse(text).unwrap();
        assert_eq!(record.fine_regions[0].region.box_xyxy, [0.0, 0.0, 0.5, 1.0]);
        let negatives = &record.fine_regions[0].negatives;
        assert_eq!((negatives.hard.len(), negatives.medium.len(), negatives.trivial.len()), (1, 0, 2));
    }

    #[test]
    fn phrases_of_another_type_cost_nothing() {
        let read = |phrases: &str| {
            let text = format!(r#"{{"captions": ["c"], "phrases": {phrases}}}"#);
            let record = RecordJson::parse(text.as_bytes()).unwrap();
            assert_eq!(record.captions, ["c"]);
            record.phrases
        };
        assert_eq!(read(r#"["a dog", "grass"]"#).unwrap(), ["a dog", "grass"]);
        assert_eq!(read("[]"), Some(vec![]));
        for other in ["null", "3", r#"{"a": [1, NaN]}"#, r#"["a", 2]"#, r#"[{"phrase": "x"}]"#] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn numbers_as_python_writes_them_cost_one_region() {
        let text = br#"{"captions": ["NaN \" NaN"], "x": [-Infinity, {"y": Infinity}],
            "regions": [{"box": [0, NaN, 1, 1], "text": "a"}, {"box": [0, 0, 1, null], "text": "b"}]}"#;
        let record = RecordJson::parse(text).unwrap();
        assert_eq!(record.captions, [r#"NaN " NaN"#]);
        let regions = record.regions.unwrap();
        assert!(regions.iter().all(|region| region.fault() == Some(SkipReason::BoxNotFinite)));
        assert!(RecordJson::parse(br#"{"captions": NaN}"#).is_err());
        assert!(RecordJson::parse(b"{").is_err());
    }
}
