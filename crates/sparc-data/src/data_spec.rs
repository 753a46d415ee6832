//! Which data to train on: one data set, or a mixture of several by weight.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::shards::expand_sources;
use crate::source::Source;
use crate::table::Columns;

/// Training data as written: a pattern, one [`SetSpec`], or a list of them.
#[derive(Debug, Clone, PartialEq)]
pub enum DataSpec {
    /// Patterns of one data set, each sample once an epoch.
    Pattern(String),
    /// One data set.
    Set(SetSpec),
    /// Several data sets; each sample comes from one of them, drawn by weight.
    Mixture(Vec<SetSpec>),
}

/// One data set as written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSpec {
    /// Patterns: `a::b` joins, `{000..011}` and `*` expand.
    pub data: String,
    /// Share of a mixture's samples, relative to the other weights. Required in a mixture, and of no
    /// meaning elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Whether an epoch draws shards with replacement, as many as there are, instead of taking each once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resample: bool,
    /// Columns of `.csv` and `.tsv` files; open_clip's unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
}

impl Serialize for DataSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DataSpec::Pattern(pattern) => pattern.serialize(serializer),
            DataSpec::Set(set) => set.serialize(serializer),
            DataSpec::Mixture(sets) => sets.serialize(serializer),
        }
    }
}

/// By the kind of value that is there, so that errors name the key inside it.
impl<'de> Deserialize<'de> for DataSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DataSpec, D::Error> {
        struct SpecVisitor;

        impl<'de> Visitor<'de> for SpecVisitor {
            type Value = DataSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern such as train-{000..011}.tar, a data set {data: …}, or a list of data sets")
            }

            fn visit_str<E>(self, pattern: &str) -> Result<DataSpec, E> {
                Ok(DataSpec::Pattern(pattern.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DataSpec, A::Error> {
                SetSpec::deserialize(MapAccessDeserializer::new(map)).map(DataSpec::Set)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<DataSpec, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(sequence)).map(DataSpec::Mixture)
            }
        }

        deserializer.deserialize_any(SpecVisitor)
    }
}

/// One data set, ready to be read.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSet {
    /// Shards and tables in their canonical order.
    pub sources: Vec<Source>,
    /// Share of a mixture's samples, relative to the other weights.
    pub weight: f64,
    /// Whether an epoch draws sources with replacement.
    pub resample: bool,
    /// Columns of tables.
    pub columns: Columns,
}

impl DataSet {
    /// Each sample once an epoch; columns as open_clip names them.
    pub fn new(sources: Vec<Source>) -> DataSet {
        DataSet { sources, weight: 1.0, resample: false, columns: Columns::default() }
    }
}

impl DataSpec {
    /// Expands all patterns and checks the weights.
    ///
    /// # Errors
    ///
    /// As [`expand_sources`]; a mixture with a data set without a positive weight, or of no data set; a
    /// weight outside a mixture.
    pub fn resolve(&self) -> Result<Vec<DataSet>, Error> {
        let set = |spec: &SetSpec, weight: f64| {
            Ok(DataSet {
                sources: expand_sources(&spec.data)?,
                weight,
                resample: spec.resample,
                columns: spec.columns.clone().unwrap_or_default(),
            })
        };
        match self {
            DataSpec::Pattern(pattern) => Ok(vec![DataSet::new(expand_sources(pattern)?)]),
            DataSpec::Set(spec) if spec.weight.is_some() => Err(Error::Order(
                "data.train.weight: one data set alone has none; a mixture is a list of data sets".into(),
            )),
            DataSpec::Set(spec) => Ok(vec![set(spec, 1.0)?]),
            DataSpec::Mixture(specs) if specs.is_empty() => {
                Err(Error::Order("data.train is a mixture of no data set".into()))
            }
            DataSpec::Mixture(specs) => specs
                .iter()
                .enumerate()
                .map(|(index, spec)| match spec.weight {
                    Some(weight) if weight > 0.0 && weight.is_finite() => set(spec, weight),
                    Some(weight) => {
                        Err(Error::Order(format!("data.train.{index}.weight must be positive, got {weight}")))
                    }
                    None => {
                        let reason = "is missing: each data set of a mixture needs one";
                        Err(Error::Order(format!("data.train.{index}.weight {reason}")))
                    }
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<DataSpec, String> {
        let mut reader = serde_json::Deserializer::from_str(json);
        DataSpec::deserialize(&mut reader).map_err(|error| error.to_string())
    }

    #[test]
    fn the_three_forms_are_read_and_written() {
        let set = SetSpec { data: "a.tar".into(), weight: Some(2.0), resample: true, columns: None };
        for (json, spec) in [
            (r#""a.tar::b.tar""#, DataSpec::Pattern("a.tar::b.tar".into())),
            (r#"{"data":"a.tar","weight":2.0,"resample":true}"#, DataSpec::Set(set.clone())),
            (r#"[{"data":"a.tar","weight":2.0,"resample":true}]"#, DataSpec::Mixture(vec![set])),
        ] {
            assert_eq!(parse(json).unwrap(), spec);
            assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        }
        assert!(parse("7").unwrap_err().contains("a pattern such as"));
        assert!(parse(r#"[{"data": "a", "wieght": 1}]"#).unwrap_err().contains("`wieght`"));
    }

    #[test]
    fn weights_are_checked() {
        let resolve = |json: &str| parse(json).unwrap().resolve().unwrap_err().to_string();
        assert!(resolve(r#"[{"data": "pipe:a", "weight": 1}, {"data": "pipe:b"}]"#).contains("1.weight is missing"));
        assert!(resolve(r#"[{"data": "pipe:a", "weight": -1}]"#).contains("0.weight must be positive"));
        assert!(resolve("[]").contains("no data set"));
        assert!(resolve(r#"{"data": "pipe:a", "weight": 1}"#).contains("mixture is a list"));
    }
}
