//! The metric table as plain text and as Markdown: metrics are rows, because their names are long and
//! the methods few.

use super::metric::{Better, MetricRow, Unit};

/// The table for a terminal. The best value of each row is marked with `*`; percentages have one decimal, and
/// intervals stand beside their values.
pub fn text_table(methods: &[String], rows: &[MetricRow]) -> String {
    let names: Vec<String> = rows.iter().map(row_name).collect();
    let name_width = names.iter().map(|name| width(name) + 2).max().unwrap_or(0).max(8);
    let columns: Vec<Column> = (0..methods.len())
        .map(|column| {
            let cells = rows.iter().map(|row| width(&row.shown(column))).max().unwrap_or(0);
            let intervals = rows.iter().filter_map(|row| row.shown_interval(column)).map(|interval| width(&interval));
            // With the space before them; a long name has their room, too.
            let interval = intervals.max().map_or(0, |width| width + 1);
            Column { value: cells.max(width(&methods[column]).saturating_sub(interval)), interval }
        })
        .collect();
    let head =
        columns.iter().zip(methods).map(|(column, name)| column.padded(format!("{name:>w$} ", w = column.value)));
    let mut lines = vec![format!("{:<name_width$}{}", "", head.collect::<String>())];
    lines.push("─".repeat(width(&lines[0])));
    let mut group = "";
    for (row, name) in rows.iter().zip(&names) {
        if row.info.group != group {
            group = &row.info.group;
            lines.push(if group.is_empty() { String::new() } else { group.to_owned() });
        }
        let best = row.best();
        let cells = columns.iter().enumerate().map(|(index, column)| {
            let mark = if best.get(index) == Some(&true) { '*' } else { ' ' };
            let interval = row.shown_interval(index).unwrap_or_default();
            column.padded(format!(
                "{:>w$}{mark}{interval:>i$}",
                row.shown(index),
                w = column.value,
                i = column.interval
            ))
        });
        let indent = if group.is_empty() { "" } else { "  " };
        lines.push(format!("{:<name_width$}{}", format!("{indent}{name}"), cells.collect::<String>()));
    }
    let has_intervals = columns.iter().any(|column| column.interval > 0);
    let legend = [
        (rows.iter().any(|row| row.best().contains(&true)), "* best of the row"),
        (has_intervals, "a–b: 95 % interval, images resampled"),
    ];
    if legend.iter().any(|(is_needed, _)| *is_needed) {
        lines.push(String::new());
        lines.extend(legend.iter().filter(|(is_needed, _)| *is_needed).map(|(_, text)| (*text).to_owned()));
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Widths of a method's values and of their intervals; a mark stands between the two.
struct Column {
    value: usize,
    interval: usize,
}

impl Column {
    /// A cell, so that figures stand in columns with interval or without.
    fn padded(&self, cell: String) -> String {
        format!("  {cell:<w$}", w = self.value + 1 + self.interval)
    }
}

/// The table as Markdown. The best value of each row is bold.
pub fn markdown_table(methods: &[String], rows: &[MetricRow]) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
    let mut lines = vec![
        format!("| metric |{}", methods.iter().map(|name| format!(" {} |", escape(name))).collect::<String>()),
        format!("|---|{}", "---:|".repeat(methods.len())),
    ];
    for row in rows {
        let best = row.best();
        let cell = |column: usize| {
            let interval = row.shown_interval(column).map_or_else(String::new, |interval| format!(" ({interval})"));
            match best.get(column) {
                Some(true) => format!(" **{}**{interval} |", row.shown(column)),
                _ => format!(" {}{interval} |", row.shown(column)),
            }
        };
        let group = if row.info.group.is_empty() { String::new() } else { format!("{}: ", row.info.group) };
        let cells: String = (0..methods.len()).map(cell).collect();
        lines.push(format!("| {} |{cells}", escape(&format!("{group}{}", row_name(row)))));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The label with its unit, its direction where that is not the usual one, and its note.
fn row_name(row: &MetricRow) -> String {
    let unit = match row.info.unit {
        Unit::Percent => " %",
        Unit::Number => "",
    };
    let direction = match row.info.better {
        Better::Lower => " ↓",
        Better::Higher | Better::Neither => "",
    };
    let note = if row.note.is_empty() { String::new() } else { format!(" ({})", row.note) };
    format!("{}{unit}{direction}{note}", row.info.label)
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Vec<String>, Vec<MetricRow>) {
        let rows = vec![
            MetricRow::new("image_to_text_R@1", vec![Some(0.1234), Some(0.2)]),
            MetricRow::new("text_to_image_R@10", vec![Some(1.0), Some(0.5)]),
            MetricRow::new("grounding_pointing_accuracy", vec![Some(0.4), None]),
            MetricRow::new("samples_per_s", vec![Some(81.5), Some(79.25)]),
        ];
        (vec!["CLIP".to_owned(), "SPARC".to_owned()], rows)
    }

    #[test]
    fn text_table_lays_out_columns_and_marks_the_best() {
        let (methods, rows) = example();
        let expected = "
                         CLIP   SPARC
──────────────────────────────────────
Retrieval
  image to text R@1 %    12.3    20.0*
  text to image R@10 %  100.0*   50.0
Grounding
  pointing accuracy %    40.0       –

samples_per_s            81.5   79.25

* best of the row
";
        assert_eq!(format!("\n{}", text_table(&methods, &rows)), expected);
    }

    #[test]
    fn intervals_stand_in_a_column_of_their_own() {
        let row = |key: &str, values: [f64; 2]| MetricRow::new(key, values.map(Some).to_vec());
        let with = |row: MetricRow, intervals: Vec<Option<(f64, f64)>>, note: &str| MetricRow {
            intervals,
            note: note.to_owned(),
            ..row
        };
        let rows = [
            row("zeroshot_acc1", [0.25, 0.5]),
            with(row("compositional.negatives", [0.5, 1.0]), vec![Some((0.4, 0.6)), None], "n 40"),
            with(row("compositional.negatives[a]", [0.5, 0.45]), vec![Some((0.075, 0.6)), Some((0.3, 1.0))], ""),
        ];
        let expected = "
                      CLIP             SPARC
────────────────────────────────────────────────────────
Zero-shot classification
  top-1 accuracy %    25.0              50.0*
True caption among false ones
  all cases % (n 40)  50.0  40.0–60.0  100.0*
  a %                 50.0*  7.5–60.0   45.0  30.0–100.0

* best of the row
a–b: 95 % interval, images resampled
";
        let table = format!("\n{}", text_table(&["CLIP".to_owned(), "SPARC".to_owned()], &rows));
        assert_eq!(table, expected, "{table}");
        let markdown = markdown_table(&["CLIP".to_owned(), "SPARC".to_owned()], &rows);
        assert!(markdown.contains("all cases % (n 40) | 50.0 (40.0–60.0) | **100.0** |"), "{markdown}");
    }

    #[test]
    fn markdown_table_marks_the_best_and_escapes_bars() {
        let (mut methods, rows) = example();
        methods[0] = "a|b".to_owned();
        let expected = "\
| metric | a\\|b | SPARC |
|---|---:|---:|
| Retrieval: image to text R@1 % | 12.3 | **20.0** |
| Retrieval: text to image R@10 % | **100.0** | 50.0 |
| Grounding: pointing accuracy % | 40.0 | – |
| samples_per_s | 81.5 | 79.25 |
";
        assert_eq!(markdown_table(&methods, &rows), expected);
    }

    #[test]
    fn rows_shorter_or_longer_than_the_methods_are_laid_out() {
        let methods = vec!["a".to_owned(), "b".to_owned()];
        let rows = [vec![], vec![Some(0.1)], vec![Some(0.1), None, Some(0.3)]]
            .map(|values| MetricRow::new("zeroshot_acc1", values));
        assert_eq!(text_table(&methods, &rows).lines().filter(|line| line.contains("top-1")).count(), 3);
        assert!(!text_table(&[], &[]).contains('*'));
    }
}
