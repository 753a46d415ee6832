//! Class names and prompt templates, and the JSON they are written in.
//!
//! Three layouts are read:
//!
//! - `["cat", "dog"]`: the index is the class or label;
//! - `{"0": "sky", "1": "building", "7": "fence"}`: the key is the class or label. Class indices must
//!   be 0, 1, 2, … without gaps; labels may have gaps;
//! - `{"classes": <either of the two>, "templates": ["a photo of a {}."]}`, for segmentation with
//!   `"ignore": 255` (a label or a list of labels) and `"background": 0` besides. `templates`,
//!   `ignore` and `background` may be absent or null; any other key is an error.
//!
//! Segmentation: a label called `background` is background unless `background` says otherwise. A label
//! called `unlabeled`, `unlabelled`, `void` or `ignore` is ignored, and so is 255 always
//! ([`LabelMap::IGNORE`]). All other labels are the foreground classes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sparc_core::LabelMap;

use crate::metrics::segmentation::PixelTruth;

/// Templates used where none are given: the bare name (SPARC's single prompt, Bica et al. 2024, section
/// 4.2) and CLIP's plainest prompt (Radford et al. 2021, section 3.1.4).
pub const DEFAULT_TEMPLATES: [&str; 2] = ["{}", "a photo of a {}."];

/// Label names that mean "does not count": COCO panoptic and CamVid (SegNet's split) use the first two.
const IGNORED_NAMES: [&str; 4] = ["unlabeled", "unlabelled", "void", "ignore"];

/// Label name that means "none of the classes".
const BACKGROUND_NAME: &str = "background";

/// Why a class list was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassListError {
    /// Not JSON, or not one of the layouts.
    #[error("class list: {0}")]
    Json(#[from] serde_json::Error),
    /// A name, index or template that cannot be used.
    #[error("class list: {0}")]
    Invalid(String),
}

fn invalid<T>(message: String) -> Result<T, ClassListError> {
    Err(ClassListError::Invalid(message))
}

/// Prompt templates; `{}` (or CLIP_benchmark's `{c}`) stands for the class name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Templates {
    /// The templates, at least one.
    pub texts: Vec<String>,
    /// Whether these are [`DEFAULT_TEMPLATES`] because none were given.
    pub are_default: bool,
}

impl Templates {
    /// The given templates, or the default ones.
    ///
    /// # Errors
    ///
    /// If the list is empty or a template has no place for the name.
    pub fn new(texts: Option<Vec<String>>) -> Result<Templates, ClassListError> {
        let Some(texts) = texts else {
            return Ok(Templates { texts: DEFAULT_TEMPLATES.map(str::to_owned).to_vec(), are_default: true });
        };
        if texts.is_empty() {
            return invalid("`templates` is empty".to_owned());
        }
        if let Some(text) = texts.iter().find(|text| !text.contains("{}") && !text.contains("{c}")) {
            return invalid(format!("the template `{text}` has no `{{}}` for the class name"));
        }
        Ok(Templates { texts, are_default: false })
    }

    /// One prompt per template.
    pub fn prompts(&self, class_name: &str) -> Vec<String> {
        self.texts.iter().map(|text| text.replace("{c}", "{}").replace("{}", class_name)).collect()
    }
}

/// Class names for zero-shot classification; the index is the class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassSet {
    /// Names, at least one.
    pub names: Vec<String>,
    /// Prompt templates.
    pub templates: Templates,
}

impl ClassSet {
    /// Reads a `classes.json`.
    ///
    /// # Errors
    ///
    /// If the text is not one of the layouts, there is no class, an index is missing, or a name is
    /// empty.
    pub fn from_json(json: &str) -> Result<ClassSet, ClassListError> {
        let file = ClassFile::parse(json)?;
        if file.ignore.is_some() || file.background.is_some() {
            return invalid("`ignore` and `background` belong to segmentation classes".to_owned());
        }
        let named = file.classes.indexed()?;
        if let Some(gap) = named.keys().enumerate().find(|(place, index)| place != *index) {
            return invalid(format!("class {} has no name", gap.0));
        }
        Ok(ClassSet { names: named.into_values().collect(), templates: Templates::new(file.templates)? })
    }
}

/// Foreground classes for zero-shot segmentation, and what each label of a label map means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentationClasses {
    /// Names of the foreground classes, at least one.
    pub names: Vec<String>,
    /// Prompt templates.
    pub templates: Templates,
    /// Whether some label means background.
    pub has_background: bool,
    /// The meaning of each label; `None` if the list does not have it.
    meaning: [Option<PixelTruth>; 256],
}

impl SegmentationClasses {
    /// Reads a `seg_classes.json`.
    ///
    /// # Errors
    ///
    /// If the text is not one of the layouts, no foreground class is left, a label is above 255, or a
    /// name is empty.
    pub fn from_json(json: &str) -> Result<SegmentationClasses, ClassListError> {
        let file = ClassFile::parse(json)?;
        let named = file.classes.indexed()?;
        let mut ignored = file.ignore.map_or_else(Vec::new, Labels::into_vec);
        ignored.push(LabelMap::IGNORE);
        let background = match file.background {
            Some(label) if ignored.contains(&label) => {
                return invalid(format!("label {label} is both background and ignored"));
            }
            Some(label) => Some(label),
            None => named
                .iter()
                .find(|(_, name)| name.eq_ignore_ascii_case(BACKGROUND_NAME))
                .and_then(|(&label, _)| u8::try_from(label).ok())
                .filter(|label| !ignored.contains(label)),
        };

        let mut meaning = [None; 256];
        for label in ignored {
            meaning[usize::from(label)] = Some(PixelTruth::Ignore);
        }
        if let Some(label) = background {
            meaning[usize::from(label)] = Some(PixelTruth::Background);
        }
        let mut names = Vec::new();
        for (label, name) in named {
            let Some(slot) = meaning.get_mut(label) else {
                return invalid(format!("label {label} (`{name}`) does not fit a label map, whose labels end at 255"));
            };
            if slot.is_some() {
                continue;
            }
            if IGNORED_NAMES.iter().any(|ignored| name.eq_ignore_ascii_case(ignored)) {
                *slot = Some(PixelTruth::Ignore);
            } else {
                *slot = Some(PixelTruth::Class(names.len()));
                names.push(name);
            }
        }
        if names.is_empty() {
            return invalid("there is no foreground class".to_owned());
        }
        let has_background = background.is_some();
        Ok(SegmentationClasses { names, templates: Templates::new(file.templates)?, has_background, meaning })
    }

    /// What a label means; `None` if the list does not have it.
    pub fn meaning(&self, label: u8) -> Option<PixelTruth> {
        self.meaning[usize::from(label)]
    }
}

/// The richest layout, to which the others are brought.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassFile {
    classes: Names,
    templates: Option<Vec<String>>,
    ignore: Option<Labels>,
    background: Option<u8>,
}

impl ClassFile {
    fn parse(json: &str) -> Result<ClassFile, ClassListError> {
        let value: serde_json::Value = serde_json::from_str(json)?;
        if value.get("classes").is_some() {
            return Ok(serde_json::from_value(value)?);
        }
        let classes = serde_json::from_value(value)?;
        Ok(ClassFile { classes, templates: None, ignore: None, background: None })
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a list of names, or an object from index to name")]
enum Names {
    List(Vec<String>),
    ByIndex(BTreeMap<String, String>),
}

impl Names {
    /// Names by index; at least one, none empty.
    fn indexed(self) -> Result<BTreeMap<usize, String>, ClassListError> {
        let mut indexed = BTreeMap::new();
        match self {
            Names::List(names) => indexed.extend(names.into_iter().enumerate()),
            Names::ByIndex(names) => {
                for (key, name) in names {
                    let Ok(index) = key.parse::<usize>() else {
                        return invalid(format!("the key `{key}` is not an index"));
                    };
                    if indexed.insert(index, name).is_some() {
                        return invalid(format!("index {index} has two names"));
                    }
                }
            }
        }
        if indexed.is_empty() {
            return invalid("there is no class".to_owned());
        }
        if let Some((index, _)) = indexed.iter().find(|(_, name)| name.trim().is_empty()) {
            return invalid(format!("the name of class {index} is empty"));
        }
        Ok(indexed)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a label from 0 to 255, or a list of them")]
enum Labels {
    One(u8),
    Many(Vec<u8>),
}

impl Labels {
    fn into_vec(self) -> Vec<u8> {
        match self {
            Labels::One(label) => vec![label],
            Labels::Many(labels) => labels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PixelTruth::{Background, Class, Ignore};

    #[test]
    fn a_plain_list_gets_the_default_templates() {
        let classes = ClassSet::from_json(r#"["cat", "dog"]"#).unwrap();
        assert_eq!(classes.names, ["cat", "dog"]);
        assert!(classes.templates.are_default);
        assert_eq!(classes.templates.prompts("cat"), ["cat", "a photo of a cat."]);
    }

    #[test]
    fn classes_with_templates() {
        let classes = ClassSet::from_json(r#"{"classes": ["cat"], "templates": ["a {}", "{c}!"]}"#).unwrap();
        assert!(!classes.templates.are_default);
        assert_eq!(classes.templates.prompts("cat"), ["a cat", "cat!"]);
    }

    #[test]
    fn class_indices_as_keys_are_ordered_as_numbers() {
        let json: Vec<String> = (0..12).rev().map(|index| format!(r#""{index}": "c{index}""#)).collect();
        let classes = ClassSet::from_json(&format!("{{{}}}", json.join(","))).unwrap();
        assert_eq!(classes.names[2], "c2");
        assert_eq!(classes.names[11], "c11");
    }

    #[test]
    fn broken_class_lists_are_refused_with_a_reason() {
        for (json, reason) in [
            ("{", "EOF"),
            ("3", "expected a list of names"),
            ("[]", "there is no class"),
            (r#"["a", " "]"#, "name of class 1 is empty"),
            (r#"{"0": "a", "2": "b"}"#, "class 1 has no name"),
            (r#"{"zero": "a"}"#, "`zero` is not an index"),
            (r#"{"1": "a", "01": "b"}"#, "index 1 has two names"),
            (r#"{"classes": ["a"], "templates": []}"#, "`templates` is empty"),
            (r#"{"classes": ["a"], "templates": ["photo"]}"#, "`photo` has no `{}`"),
            (r#"{"classes": ["a"], "tempaltes": ["{}"]}"#, "tempaltes"),
            (r#"{"classes": ["a"], "background": 0}"#, "belong to segmentation"),
        ] {
            let error = ClassSet::from_json(json).expect_err(json).to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    #[test]
    fn segmentation_labels_with_gaps_and_unlabelled() {
        // The first labels of COCO panoptic: 12 does not exist.
        let classes = SegmentationClasses::from_json(
            r#"{"0": "unlabeled", "1": "person", "11": "fire hydrant", "13": "stop sign"}"#,
        )
        .unwrap();
        assert_eq!(classes.names, ["person", "fire hydrant", "stop sign"]);
        assert_eq!(
            [0, 1, 11, 12, 13, 255].map(|label| classes.meaning(label)),
            [Some(Ignore), Some(Class(0)), Some(Class(1)), None, Some(Class(2)), Some(Ignore)]
        );
        assert!(!classes.has_background);
    }

    #[test]
    fn segmentation_layout_with_background_and_ignore() {
        let classes = SegmentationClasses::from_json(
            r#"{"classes": ["background", "disc", "square"], "ignore": [255, 7], "background": 0, "templates": null}"#,
        )
        .unwrap();
        assert_eq!(classes.names, ["disc", "square"]);
        assert_eq!(
            [0, 1, 2, 3, 7].map(|label| classes.meaning(label)),
            [Some(Background), Some(Class(0)), Some(Class(1)), None, Some(Ignore)]
        );
        assert!(classes.has_background);
        // The name alone is enough, and the number alone too.
        let by_name = SegmentationClasses::from_json(r#"["disc", "Background"]"#).unwrap();
        assert_eq!(by_name.meaning(1), Some(Background));
        let by_number = SegmentationClasses::from_json(r#"{"classes": ["disc", "wall"], "background": 1}"#).unwrap();
        assert_eq!((by_number.meaning(1), by_number.names.len()), (Some(Background), 1));
    }

    #[test]
    fn broken_segmentation_classes_are_refused_with_a_reason() {
        for (json, reason) in [
            (r#"{"256": "a"}"#, "label 256"),
            (r#"["background", "void"]"#, "no foreground class"),
            (r#"{"classes": ["a"], "ignore": 0, "background": 0}"#, "both background and ignored"),
            (r#"{"classes": ["a"], "ignore": -1}"#, "expected a label"),
        ] {
            let error = SegmentationClasses::from_json(json).expect_err(json).to_string();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
