//! Metrics as people read them: label, group, unit and direction of every key the tasks report.

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The larger.
    Higher,
    /// The smaller.
    Lower,
    /// Neither: the value is a point of reference, such as chance.
    Neither,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A fraction in `[0, 1]`, written as percent with one decimal.
    Percent,
    /// A number, written with four significant digits.
    Number,
}

/// What is known about a metric key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricInfo {
    /// The task, for headings; empty for unknown keys.
    pub group: String,
    /// The metric within its group.
    pub label: String,
    /// How its values are written.
    pub unit: Unit,
    /// Which value wins.
    pub better: Better,
}

/// Group of what generated captions say of Shapes.
const SHAPES: &str = "Captions of Shapes";

/// Label, group, unit and direction of a metric key; an unknown key is shown as it is.
pub fn metric_info(key: &str) -> MetricInfo {
    if let Some(info) = key.strip_prefix("compositional.").and_then(compositional) {
        return info;
    }
    if let Some(info) = key.strip_prefix("reranked_").and_then(reranked) {
        return info;
    }
    let known = |group: &str, label: &str, better| MetricInfo {
        group: group.to_owned(),
        label: label.to_owned(),
        unit: Unit::Percent,
        better,
    };
    let recall = |prefix: &str| key.strip_prefix(prefix).filter(|k| k.parse::<u32>().is_ok());
    if let Some(k) = recall("image_to_text_R@") {
        return known("Retrieval", &format!("image to text R@{k}"), Better::Higher);
    }
    if let Some(k) = recall("text_to_image_R@") {
        return known("Retrieval", &format!("text to image R@{k}"), Better::Higher);
    }
    if let Some(metric) = key.strip_prefix("regions_") {
        return match metric {
            "box_P@0.5" => known("Regions", "phrases found at IoU 0.5", Better::Higher),
            "box_mean_IoU" => known("Regions", "mean IoU of the predicted box", Better::Higher),
            _ => known("Regions", &metric.replace('_', " "), Better::Higher),
        };
    }
    let rank = |label: &str| MetricInfo { unit: Unit::Number, ..known("Retrieval", label, Better::Lower) };
    let loss = |label: &str| MetricInfo { unit: Unit::Number, ..known("Losses", label, Better::Lower) };
    if let Some(n) = key.strip_prefix("caption_BLEU-") {
        return known("Captioning", &format!("BLEU-{n}"), Better::Higher);
    }
    if let Some(info) = key.strip_prefix("vqa_").and_then(vqa) {
        return info;
    }
    let (classify, segment, ground) = ("Zero-shot classification", "Segmentation", "Grounding");
    let head = "Classification by the head";
    match key {
        "image_to_text_mean_rank" => rank("image to text, mean rank"),
        "image_to_text_median_rank" => rank("image to text, median rank"),
        "text_to_image_mean_rank" => rank("text to image, mean rank"),
        "text_to_image_median_rank" => rank("text to image, median rank"),
        "zeroshot_acc1" => known(classify, "top-1 accuracy", Better::Higher),
        "zeroshot_acc5" => known(classify, "top-5 accuracy", Better::Higher),
        "zeroshot_mean_per_class_recall" => known(classify, "mean per-class recall", Better::Higher),
        "head_acc1" => known(head, "top-1 accuracy", Better::Higher),
        "head_acc5" => known(head, "top-5 accuracy", Better::Higher),
        "head_mean_per_class_recall" => known(head, "mean per-class recall", Better::Higher),
        "segmentation_mIoU" => known(segment, "mIoU", Better::Higher),
        "segmentation_mIoU_with_background" => known(segment, "mIoU with background", Better::Higher),
        "segmentation_mIoU_per_image" => known(segment, "mIoU per image", Better::Higher),
        "segmentation_mIoU_per_image_with_background" => {
            known(segment, "mIoU per image with background", Better::Higher)
        }
        "segmentation_pixel_accuracy" => known(segment, "pixel accuracy", Better::Higher),
        "grounding_pointing_accuracy" => known(ground, "pointing accuracy", Better::Higher),
        "grounding_mean_IoU" => known(ground, "mean IoU of the box", Better::Higher),
        "grounding_mean_mask_IoU" => known(ground, "mean IoU of the mask", Better::Higher),
        "grounding_box_accuracy@0.5" => known(ground, "boxes found at IoU 0.5", Better::Higher),
        "grounding_box_choice" => known(ground, "right one of the image's boxes", Better::Higher),
        "grounding_chance" => known(ground, "pointing by chance", Better::Neither),
        "caption_loss" => loss("captioning, per token"),
        "caption_loss_masked" => loss("captioning, patches hidden"),
        "reconstruction_error" => loss("reconstruction"),
        "reconstruction_error_of_another_text" => {
            MetricInfo { better: Better::Neither, ..loss("reconstruction from another's text") }
        }
        "caption_ROUGE-L" => known("Captioning", "ROUGE-L", Better::Higher),
        "caption_CIDEr" => known("Captioning", "CIDEr-D × 100", Better::Higher),
        "caption_distinct" => known("Captioning", "different captions", Better::Neither),
        "caption_mean_words" => MetricInfo { unit: Unit::Number, ..known("Captioning", "words", Better::Neither) },
        "shapes_true" => known(SHAPES, "captions that are true", Better::Higher),
        "shapes_true_of_another" => known(SHAPES, "that would be true of another image", Better::Neither),
        "shapes_parsed" => known(SHAPES, "captions that are sentences of Shapes", Better::Higher),
        "shapes_object_precision" => known(SHAPES, "objects said that are there", Better::Higher),
        "shapes_object_recall" => known(SHAPES, "objects there that are said", Better::Higher),
        "shapes_attribute_precision" => known(SHAPES, "attributes said that are right", Better::Higher),
        "shapes_position_precision" => known(SHAPES, "relations and places said that hold", Better::Higher),
        _ => MetricInfo { group: String::new(), label: key.to_owned(), unit: Unit::Number, better: Better::Neither },
    }
}

/// What follows `vqa_`: a measure, of the network's answers or of the answer most frequent in training.
fn vqa(key: &str) -> Option<MetricInfo> {
    let (measure, better) = match key.strip_prefix("most_frequent_") {
        Some(measure) => (measure, Better::Neither),
        None => (key, Better::Higher),
    };
    let label = match measure {
        "accuracy" => "VQA accuracy",
        "exact_match" => "one of the answers",
        "whole_match" => "all of the answers",
        _ => return None,
    };
    let label = match better {
        Better::Neither => format!("{label}, always the most frequent"),
        Better::Higher | Better::Lower => label.to_owned(),
    };
    Some(MetricInfo { group: "Questions".to_owned(), label, unit: Unit::Percent, better })
}

/// What follows `reranked_`: the keys of retrieval, and the bound of its second stage.
fn reranked(key: &str) -> Option<MetricInfo> {
    let group = "Retrieval, re-ranked".to_owned();
    let bound = |label: &str| MetricInfo {
        group: group.clone(),
        label: label.to_owned(),
        unit: Unit::Percent,
        better: Better::Neither,
    };
    match key {
        "image_to_text_listed" => Some(bound("image to text, own among the candidates")),
        "text_to_image_listed" => Some(bound("text to image, own among the candidates")),
        _ => Some(metric_info(key)).filter(|info| info.group == "Retrieval").map(|info| MetricInfo { group, ..info }),
    }
}

/// What follows `compositional.`: `match.` where the matching head judges, `both.` where it and the score do, the kind of
/// test, `[source]`.
fn compositional(key: &str) -> Option<MetricInfo> {
    let judges = [("match.", ", matching head"), ("both.", ", matching head + score")];
    let (judge, key) =
        judges.into_iter().find_map(|(prefix, judge)| Some((judge, key.strip_prefix(prefix)?))).unwrap_or(("", key));
    let known = |group: &str, label: String| {
        Some(MetricInfo { group: format!("{group}{judge}"), label, unit: Unit::Percent, better: Better::Higher })
    };
    let (kind, source) = match key.split_once('[') {
        Some((kind, rest)) => (kind, Some(rest.rsplit_once(']')?)),
        None => (key, None),
    };
    let (negatives, statements) = ("True caption among false ones", "True and false statements");
    match (kind, source) {
        ("negatives", None) => known(negatives, "all cases".into()),
        ("negatives.strict", None) => known(negatives, "all cases, ties as wrong".into()),
        ("negatives.mean_of_sources", None) => known(negatives, "mean of sources".into()),
        ("negatives", Some((source, ""))) => known(negatives, source.into()),
        ("statements", None) => known(statements, "area under ROC".into()),
        ("statements", Some((source, ""))) => known(statements, format!("area under ROC, {source}")),
        ("statements_accuracy", None) => known(statements, "judged right".into()),
        ("statements_accuracy", Some((source, ""))) => known(statements, format!("judged right, {source}")),
        ("pairs", Some((source, point @ (".text" | ".image" | ".group")))) => {
            known("Two images, two captions", format!("{source}: {}", &point[1..]))
        }
        _ => None,
    }
}

/// One metric of every method.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRow {
    /// The key in `summary.json`.
    pub key: String,
    /// Label, group, unit and direction.
    pub info: MetricInfo,
    /// One value a method, in the order of the methods; `None` where it was not measured.
    pub values: Vec<Option<f64>>,
    /// Low and high end of each value's interval; may be shorter than the values.
    pub intervals: Vec<Option<(f64, f64)>>,
    /// What else is to be known of it, such as the number of cases; may be empty.
    pub note: String,
}

impl MetricRow {
    /// A row described by [`metric_info`].
    pub fn new(key: impl Into<String>, values: Vec<Option<f64>>) -> Self {
        let key = key.into();
        Self { info: metric_info(&key), key, values, intervals: Vec::new(), note: String::new() }
    }

    /// The value of method `index` as it is shown; `–` where there is none.
    pub(super) fn shown(&self, index: usize) -> String {
        self.value(index).map_or_else(|| "–".to_owned(), |value| self.write(value))
    }

    /// The interval of method `index` as it is shown, if it has one.
    pub(super) fn shown_interval(&self, index: usize) -> Option<String> {
        let (low, high) = self.intervals.get(index).copied().flatten()?;
        Some(format!("{}–{}", self.write(low), self.write(high)))
    }

    /// The value of method `index` if it was measured and is finite.
    pub(super) fn value(&self, index: usize) -> Option<f64> {
        self.values.get(index).copied().flatten().filter(|value| value.is_finite())
    }

    fn write(&self, value: f64) -> String {
        match self.info.unit {
            Unit::Percent => format!("{:.1}", 100.0 * value),
            Unit::Number => significant(value),
        }
    }

    /// For each method whether its value, as shown, is the best; nobody wins where all are equal.
    pub(super) fn best(&self) -> Vec<bool> {
        let sign = match self.info.better {
            Better::Higher => 1.0,
            Better::Lower => -1.0,
            Better::Neither => return vec![false; self.values.len()],
        };
        // Compared as written, so that two equal figures are never marked differently.
        let ranks: Vec<Option<f64>> = (0..self.values.len())
            .map(|index| Some(sign * self.write(self.value(index)?).parse::<f64>().ok()?))
            .collect();
        let measured = || ranks.iter().flatten().copied();
        let best = measured().fold(f64::NEG_INFINITY, f64::max);
        let contested = measured().any(|rank| rank < best);
        ranks.into_iter().map(|rank| contested && rank == Some(best)).collect()
    }
}

/// `value` with four significant digits, in plain notation where that is short.
pub(super) fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..15.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let decimals = (3.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    if decimals == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 15] = [
        "image_to_text_R@1",
        "image_to_text_R@5",
        "image_to_text_R@10",
        "text_to_image_R@1",
        "text_to_image_R@5",
        "text_to_image_R@10",
        "zeroshot_acc1",
        "zeroshot_acc5",
        "zeroshot_mean_per_class_recall",
        "segmentation_mIoU",
        "segmentation_mIoU_with_background",
        "segmentation_mIoU_per_image",
        "grounding_pointing_accuracy",
        "grounding_mean_IoU",
        "grounding_chance",
    ];

    #[test]
    fn every_key_of_the_tasks_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<_> =
            KEYS.iter().map(|key| (metric_info(key).group, metric_info(key).label)).collect();
        assert_eq!(labels.len(), KEYS.len());
        assert!(KEYS.iter().all(|key| metric_info(key).label != *key));
        assert_eq!(metric_info("grounding_chance").better, Better::Neither);
    }

    #[test]
    fn keys_of_sources_and_of_the_matching_head_are_told_apart() {
        let keys = [
            "compositional.negatives",
            "compositional.negatives.strict",
            "compositional.negatives.mean_of_sources",
            "compositional.negatives[mean_of_sources]",
            "compositional.negatives[a]",
            "compositional.match.negatives[a]",
            "compositional.both.negatives[a]",
            "compositional.statements[a]",
            "compositional.match.statements_accuracy[a]",
            "compositional.pairs[a].text",
            "compositional.pairs[a].group",
            "compositional.match.pairs[a].group",
            "reranked_image_to_text_R@1",
            "image_to_text_R@1",
            "reranked_text_to_image_mean_rank",
            "reranked_image_to_text_listed",
        ];
        let shown: std::collections::BTreeSet<_> =
            keys.iter().map(|key| (metric_info(key).group, metric_info(key).label)).collect();
        assert_eq!(shown.len(), keys.len());
        assert!(keys.iter().all(|key| !metric_info(key).group.is_empty()));
        assert_eq!(metric_info("compositional.negatives[sugarcrepe/add_obj]").label, "sugarcrepe/add_obj");
        assert_eq!(metric_info("compositional.negatives[a[b]]").label, "a[b]");
        assert_eq!(metric_info("reranked_text_to_image_mean_rank").better, Better::Lower);
    }

    #[test]
    fn unknown_keys_are_shown_as_they_are() {
        let odd =
            ["compositional.x", "compositional.negatives[a", "compositional.pairs[a].x", "reranked_zeroshot_acc1"];
        for key in ["samples_per_s", "image_to_text_R@x", ""].into_iter().chain(odd) {
            assert_eq!(metric_info(key).label, key);
        }
    }

    #[test]
    fn best_is_judged_as_shown() {
        let best = |values: &[Option<f64>]| MetricRow::new("zeroshot_acc1", values.to_vec()).best();
        assert_eq!(best(&[Some(0.2), Some(0.3), None]), [false, true, false]);
        assert_eq!(best(&[Some(0.30001), Some(0.3), Some(0.1)]), [true, true, false]);
        assert_eq!(best(&[Some(0.3), Some(0.3)]), [false, false]);
        assert_eq!(best(&[Some(0.3)]), [false]);
        assert_eq!(best(&[Some(f64::NAN), Some(0.1), Some(0.0)]), [false, true, false]);
        let chance = MetricRow::new("grounding_chance", vec![Some(0.1), Some(0.2)]);
        assert_eq!(chance.best(), [false, false]);
        let mut loss = MetricRow::new("loss", vec![Some(2.0), Some(1.0)]);
        loss.info.better = Better::Lower;
        assert_eq!(loss.best(), [false, true]);
    }

    #[test]
    fn numbers_have_four_significant_digits() {
        assert_eq!(
            [0.0, 1.0, 1234.56, 0.012344, -2.71449, 2.0e-9].map(significant),
            ["0", "1", "1235", "0.01234", "-2.714", "2.000e-9"]
        );
    }
}
