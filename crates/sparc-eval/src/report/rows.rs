//! From the metrics of several methods to the rows of a table: keys that only tell more of another key, the ends of its
//! interval, its number of cases and its chance, go into that key's row.

use super::metric::MetricRow;

/// Ends of the keys that belong to another key's row.
const LOW: &str = ".low";
const HIGH: &str = ".high";
const COUNT: &str = ".n";
const CHANCE: &str = ".chance";

/// One row for each key that any of the methods has, in their order; a key that a later method alone has stands behind
/// the one that it follows there.
pub fn metric_rows(methods: &[Vec<(String, f64)>]) -> Vec<MetricRow> {
    let mut keys: Vec<&str> = Vec::new();
    for method in methods {
        let mut place = 0;
        for (key, _) in method {
            match keys.iter().position(|known| known == key) {
                Some(known) => place = known + 1,
                None => {
                    keys.insert(place, key);
                    place += 1;
                }
            }
        }
    }
    let values = |key: &str| -> Vec<Option<f64>> {
        let of = |method: &Vec<(String, f64)>| method.iter().find(|(known, _)| known == key).map(|(_, value)| *value);
        methods.iter().map(of).collect()
    };
    let belongs_to_another = |key: &&str| {
        let stem = [LOW, HIGH, COUNT, CHANCE].into_iter().find_map(|end| key.strip_suffix(end));
        stem.is_some_and(|stem| keys.contains(&stem))
    };
    let row = |key: &str| {
        let detail = |end: &str| values(&format!("{key}{end}"));
        let intervals = detail(LOW).into_iter().zip(detail(HIGH)).map(|(low, high)| Some((low?, high?))).collect();
        // Of the same data, so the same for all methods.
        let first = |end: &str| detail(end).into_iter().flatten().next();
        let notes = [
            first(COUNT).map(|count| format!("n {count}")),
            first(CHANCE).map(|chance| format!("chance {:.1}", 100.0 * chance)),
        ];
        let note = notes.into_iter().flatten().collect::<Vec<_>>().join(", ");
        MetricRow { intervals, note, ..MetricRow::new(key, values(key)) }
    };
    keys.iter().copied().filter(|key| !belongs_to_another(key)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(pairs: &[(&str, f64)]) -> Vec<(String, f64)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
    }

    #[test]
    fn details_go_into_the_row_of_their_key() {
        let clip = metrics(&[
            ("zeroshot_acc1", 0.5),
            ("a[x.low]", 0.6),
            ("a[x.low].low", 0.5),
            ("a[x.low].high", 0.7),
            ("a[x.low].n", 40.0),
            ("a[x.low].chance", 0.25),
            ("n_images", 3.0),
        ]);
        let rows = metric_rows(&[clip]);
        let keys: Vec<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys, ["zeroshot_acc1", "a[x.low]", "n_images"]);
        assert_eq!((rows[1].intervals[0], rows[1].note.as_str()), (Some((0.5, 0.7)), "n 40, chance 25.0"));
        assert_eq!((rows[0].intervals[0], rows[0].note.as_str()), (None, ""));
    }

    #[test]
    fn methods_may_have_keys_of_their_own() {
        let rows = metric_rows(&[
            metrics(&[("a", 1.0), ("b", 2.0), ("n", 3.0)]),
            metrics(&[("a", 4.0), ("more", 5.0), ("b", 6.0), ("last", 7.0)]),
        ]);
        let shown: Vec<(&str, &[Option<f64>])> =
            rows.iter().map(|row| (row.key.as_str(), row.values.as_slice())).collect();
        assert_eq!(
            shown,
            [
                ("a", &[Some(1.0), Some(4.0)][..]),
                ("more", &[None, Some(5.0)]),
                ("b", &[Some(2.0), Some(6.0)]),
                ("last", &[None, Some(7.0)]),
                ("n", &[Some(3.0), None]),
            ]
        );
        assert!(metric_rows(&[]).is_empty());
    }

    #[test]
    fn an_end_without_its_key_is_a_row() {
        let rows = metric_rows(&[metrics(&[("x.low", 1.0), ("y", 1.0), ("y.low", 0.5)])]);
        assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["x.low", "y"]);
        // Half an interval is none.
        assert_eq!(rows[1].intervals, [None]);
    }
}
