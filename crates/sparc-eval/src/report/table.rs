//! The metric table as plain text and as Markdown: metrics are rows, because their names are long and
//! the methods few.

use super::metric::{Better, MetricRow, Unit};

/// The table for a terminal. The best value of each row is marked with `*`; percentages have one decimal.
pub fn text_table(methods: &[String], rows: &[MetricRow]) -> String {
    let names: Vec<String> = rows.iter().map(row_name).collect();
    let name_width = names.iter().map(|name| width(name) + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..methods.len())
        .map(|column| {
            let cells = rows.iter().map(|row| width(&row.shown(column)));
            cells.chain([width(&methods[column])]).max().unwrap_or(0)
        })
        .collect();
    let mut lines = vec![line("", name_width, methods.iter().map(|name| (name.clone(), ' ')), &widths)];
    lines.push("─".repeat(width(&lines[0])));
    let mut group = "";
    for (row, name) in rows.iter().zip(&names) {
        if row.info.group != group {
            group = &row.info.group;
            lines.push(if group.is_empty() { String::new() } else { group.to_owned() });
        }
        let best = row.best();
        let cell = |column| (row.shown(column), if best.get(column) == Some(&true) { '*' } else { ' ' });
        let indent = if group.is_empty() { "" } else { "  " };
        lines.push(line(&format!("{indent}{name}"), name_width, (0..methods.len()).map(cell), &widths));
    }
    if rows.iter().any(|row| row.best().contains(&true)) {
        lines.push(String::new());
        lines.push("* best of the row".to_owned());
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
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
        let cell = |column: usize| match best.get(column) {
            Some(true) => format!(" **{}** |", row.shown(column)),
            _ => format!(" {} |", row.shown(column)),
        };
        let group = if row.info.group.is_empty() { String::new() } else { format!("{}: ", row.info.group) };
        let cells: String = (0..methods.len()).map(cell).collect();
        lines.push(format!("| {} |{cells}", escape(&format!("{group}{}", row_name(row)))));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The label with its unit, and its direction where that is not the usual one.
fn row_name(row: &MetricRow) -> String {
    let unit = match row.info.unit {
        Unit::Percent => " %",
        Unit::Number => "",
    };
    let direction = match row.info.better {
        Better::Lower => " ↓",
        Better::Higher | Better::Neither => "",
    };
    format!("{}{unit}{direction}", row.info.label)
}

/// One line; every cell is followed by its mark, so that figures stand in columns marked or not.
fn line(name: &str, name_width: usize, cells: impl Iterator<Item = (String, char)>, widths: &[usize]) -> String {
    let mut line = format!("{name:<name_width$}");
    for ((cell, mark), &cell_width) in cells.zip(widths) {
        line.push_str(&format!("  {cell:>cell_width$}{mark}"));
    }
    line
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
