//! The metric table of the page.

use super::html::escape;
use super::metric::{Better, MetricRow, Unit};

/// The table, with a bar under every percentage and, for two methods, their difference.
pub(super) fn metric_table(methods: &[String], rows: &[MetricRow], palette_len: usize) -> String {
    let with_difference = methods.len() == 2;
    let heads: String = methods
        .iter()
        .enumerate()
        .map(|(index, name)| {
            format!("<th scope=\"col\"><span class=\"dot m{}\"></span>{}</th>", index % palette_len, escape(name))
        })
        .collect();
    let difference = if with_difference {
        let title = format!("{} minus {}", methods[1], methods[0]);
        format!("<th scope=\"col\" class=\"delta\" title=\"{}\">gain</th>", escape(&title))
    } else {
        String::new()
    };
    let difference_column = if with_difference { "<col class=\"difference\">" } else { "" };
    let n_methods = methods.len();
    let n_columns = 1 + n_methods + usize::from(with_difference);
    let mut body = String::new();
    let mut group = "";
    for row in rows {
        if row.info.group != group {
            group = &row.info.group;
            let name = if group.is_empty() { "Other" } else { group };
            body.push_str(&format!(
                "<tr class=\"group\"><th colspan=\"{n_columns}\" scope=\"rowgroup\">{}</th></tr>\n",
                escape(name)
            ));
        }
        body.push_str(&row_html(row, n_methods, palette_len, with_difference));
    }
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Results\" tabindex=\"0\"><table class=\"metrics\" style=\"--methods:{n_methods}\">\n\
         <colgroup><col><col span=\"{n_methods}\" class=\"method\">{difference_column}</colgroup>\n<thead><tr><th scope=\"col\">Metric</th>{heads}{difference}</tr></thead>\n<tbody>\n{body}</tbody>\n\
         </table></div>\n"
    )
}

fn row_html(row: &MetricRow, n_methods: usize, palette_len: usize, with_difference: bool) -> String {
    let best = row.best();
    let cells: String =
        (0..n_methods).map(|index| cell(row, index, best.get(index) == Some(&true), palette_len)).collect();
    let (arrow, spoken) = match row.info.better {
        Better::Higher => ("↑", "higher is better"),
        Better::Lower => ("↓", "lower is better"),
        Better::Neither => ("", ""),
    };
    let direction = if arrow.is_empty() {
        String::new()
    } else {
        format!(
            "&nbsp;<span class=\"direction\" title=\"{spoken}\"><span aria-hidden=\"true\">{arrow}</span><span class=\"unseen\">{spoken}</span></span>"
        )
    };
    let note = match row.note.as_str() {
        "" => String::new(),
        note => format!(" <small>{}</small>", escape(note)),
    };
    let reference = if row.info.better == Better::Neither { " class=\"reference\"" } else { "" };
    format!(
        "<tr{reference}><th scope=\"row\" title=\"{}\">{}{direction}{note}</th>{cells}{}</tr>\n",
        escape(&row.key),
        escape(&row.info.label),
        if with_difference { difference_cell(row) } else { String::new() },
    )
}

fn cell(row: &MetricRow, index: usize, best: bool, palette_len: usize) -> String {
    let percent = row.info.unit == Unit::Percent;
    let unit = if percent && row.value(index).is_some() { "<small>%</small>" } else { "" };
    let bar = match row.value(index) {
        Some(value) if percent => {
            let width = 100.0 * value.clamp(0.0, 1.0);
            let whisker = row.intervals.get(index).copied().flatten().map_or_else(String::new, |(low, high)| {
                let (low, high) = (100.0 * low.clamp(0.0, 1.0), 100.0 * high.clamp(0.0, 1.0));
                format!("<b style=\"left:{low:.1}%;width:{:.1}%\"></b>", high - low)
            });
            format!("<span class=\"bar m{}\"><i style=\"width:{width:.1}%\"></i>{whisker}</span>", index % palette_len)
        }
        _ => String::new(),
    };
    let interval = row.shown_interval(index).map_or_else(String::new, |interval| {
        format!("<span class=\"interval\" title=\"95 % interval, images resampled\">{}</span>", escape(&interval))
    });
    let (class, note) = if best { (" class=\"best\"", "<span class=\"unseen\"> best</span>") } else { ("", "") };
    format!("<td{class}><span class=\"value\">{}{unit}{note}</span>{bar}{interval}</td>", escape(&row.shown(index)))
}

/// The second method's value less the first's, in points where the values are percentages.
fn difference_cell(row: &MetricRow) -> String {
    let (Some(first), Some(second)) = (row.value(0), row.value(1)) else {
        return "<td class=\"delta\"></td>".to_owned();
    };
    if row.info.better == Better::Neither || row.info.unit != Unit::Percent {
        return "<td class=\"delta\"></td>".to_owned();
    }
    // From the figures as shown: a reader who subtracts must get the same.
    let tenths = |value: f64| (1000.0 * value).round();
    let points = (tenths(second) - tenths(first)) / 10.0;
    let improves = if row.info.better == Better::Lower { points < 0.0 } else { points > 0.0 };
    let class = if points == 0.0 {
        "even"
    } else if improves {
        "gain"
    } else {
        "loss"
    };
    let text = if points == 0.0 { "±0.0".to_owned() } else { format!("{points:+.1}").replace('-', "−") };
    format!("<td class=\"delta {class}\">{text}</td>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn methods(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn best_is_marked_once_and_the_difference_is_that_of_the_figures() {
        let rows = [MetricRow::new("zeroshot_acc1", vec![Some(0.1004), Some(0.1246)])];
        let html = metric_table(&methods(&["CLIP", "SPARC"]), &rows, 8);
        assert_eq!(html.matches("class=\"best\"").count(), 1);
        assert!(html.contains(">10.0<") && html.contains(">12.5<") && html.contains(">+2.5<"), "{html}");
        assert!(html.contains("higher is better"));
    }

    #[test]
    fn intervals_and_notes_are_shown() {
        let row = MetricRow {
            intervals: vec![None, Some((0.1, 0.3))],
            note: "n < 9".to_owned(),
            ..MetricRow::new("compositional.negatives[a]", vec![Some(0.1), Some(0.25)])
        };
        let html = metric_table(&methods(&["CLIP", "SPARC"]), &[row], 8);
        assert_eq!(html.matches("class=\"interval\"").count(), 1);
        assert!(html.contains("10.0–30.0") && html.contains("left:10.0%;width:20.0%"), "{html}");
        assert!(html.contains("<small>n &lt; 9</small>"), "{html}");
    }

    #[test]
    fn missing_values_and_single_methods_are_laid_out() {
        let rows = [MetricRow::new("<key>", vec![None]), MetricRow::new("grounding_chance", vec![Some(2.0)])];
        let html = metric_table(&methods(&["<one>"]), &rows, 8);
        assert!(html.contains("&lt;key&gt;") && html.contains("&lt;one&gt;") && html.contains('–'));
        assert!(html.contains("width:100.0%") && !html.contains("gain"));
    }
}
