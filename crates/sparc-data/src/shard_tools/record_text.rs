//! Changes one key of a record and leaves every other byte as it is.
//!
//! A record read and written again would have other numbers (`1e-3`, long integers, Python's NaN), other
//! spaces and other escapes. Records are the user's.

use std::ops::Range;

/// The record with `key` set to `value`, which is JSON; `None` if the text is no JSON object. Text that is JSON
/// but for Python's numbers must be given: brackets and strings are followed, and nothing else is checked.
pub(super) fn with_key(record: &[u8], key: &str, value: &str) -> Option<Vec<u8>> {
    let mut scan = Scan { text: record, place: 0 };
    scan.spaces();
    scan.expect(b'{')?;
    let (mut old, mut last) = (None, None);
    loop {
        scan.spaces();
        if scan.peek()? == b'}' {
            break;
        }
        let name = scan.string()?;
        scan.spaces();
        scan.expect(b':')?;
        scan.spaces();
        let span = scan.value()?;
        if serde_json::from_slice::<String>(&record[name]).is_ok_and(|name| name == key) {
            // Of two equal keys readers take the last.
            old = Some(span.clone());
        }
        last = Some(span.end);
        scan.spaces();
        if scan.peek()? == b',' {
            scan.place += 1;
        }
    }
    let (place, text) = match (old, last) {
        (Some(span), _) => (span, value.to_owned()),
        (None, Some(end)) => (end..end, format!(", {}: {value}", serde_json::json!(key))),
        (None, None) => (scan.place..scan.place, format!("{}: {value}", serde_json::json!(key))),
    };
    Some([&record[..place.start], text.as_bytes(), &record[place.end..]].concat())
}

/// A place in a text.
struct Scan<'a> {
    text: &'a [u8],
    place: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.place).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.place += 1)
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.place += 1;
        }
    }

    /// A string with its quotes.
    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.place;
        self.expect(b'"')?;
        loop {
            match self.peek()? {
                b'"' => {
                    self.place += 1;
                    return Some(start..self.place);
                }
                b'\\' => self.place += 2,
                _ => self.place += 1,
            }
        }
    }

    /// A value, up to the comma or bracket after it.
    fn value(&mut self) -> Option<Range<usize>> {
        let (start, mut depth, mut end) = (self.place, 0usize, self.place);
        loop {
            match self.peek()? {
                b'"' => end = self.string()?.end,
                b',' | b'}' | b']' if depth == 0 => return (end > start).then_some(start..end),
                byte => {
                    match byte {
                        b'[' | b'{' => depth += 1,
                        b']' | b'}' => depth -= 1,
                        _ => {}
                    }
                    self.place += 1;
                    if !byte.is_ascii_whitespace() {
                        end = self.place;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(record: &str) -> Option<String> {
        with_key(record.as_bytes(), "phrases", r#"["a"]"#).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_key_is_added_at_the_end_and_nothing_else_moves() {
        let record = "{ \"n\": 1e-3,\n \"id\": 123456789012345678901, \"x\": [NaN, {\"phrases\": \"}\\\"\"}] \n}\n";
        let expected = record.replace("}] \n}\n", "}], \"phrases\": [\"a\"] \n}\n");
        assert_eq!(set(record).unwrap(), expected);
        assert_eq!(set("{}").unwrap(), r#"{"phrases": ["a"]}"#);
        assert_eq!(set(" { } ").unwrap(), r#" { "phrases": ["a"]} "#);
    }

    #[test]
    fn a_key_that_is_there_is_replaced_where_it_is() {
        assert_eq!(set(r#"{"phrases" : [1, "]"] , "b": 2}"#).unwrap(), r#"{"phrases" : ["a"] , "b": 2}"#);
        assert_eq!(set(r#"{"b": null, "phr\u0061ses": null}"#).unwrap(), r#"{"b": null, "phr\u0061ses": ["a"]}"#);
        let once = set(r#"{"b": {}}"#).unwrap();
        assert_eq!(set(&once).unwrap(), once);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for record in ["", "[]", "{", "{\"a\"", "{\"a\":", "{\"a\": 1", "{\"a\": \"\\", "{\"a\":}", "{1: 2}", "null"] {
            assert_eq!(set(record), None, "{record}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(|value| serde_json::json!(value)),
            ".{0,6}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::vec((".{0,4}", inner), 0..4)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_result_is_the_object_with_the_key(pairs in proptest::collection::vec(("[a-c\"\\\\]{0,2}", json()), 0..5),
                                                  had in any::<bool>(), pretty in any::<bool>()) {
            let mut object: serde_json::Map<String, serde_json::Value> = pairs.into_iter().collect();
            if had {
                object.insert("phrases".into(), serde_json::json!({"]": "}"}));
            }
            let write = if pretty { serde_json::to_string_pretty } else { serde_json::to_string };
            let text = set(&write(&object).unwrap()).unwrap();
            object.insert("phrases".into(), serde_json::json!(["a"]));
            let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(read, object);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(prop_oneof![
            any::<u8>(), Just(b'{'), Just(b'}'), Just(b'"'), Just(b'\\'), Just(b':'), Just(b',')], 0..60)) {
            let _ = with_key(&bytes, "phrases", "[]");
        }
    }
}
