use std::collections::BTreeMap;

use arrow_schema::DataType;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn names(batch: &RecordBatch) -> Vec<String> {
    batch.schema().fields().iter().map(|field| field.name().clone()).collect()
}

#[test]
fn fields_become_typed_columns() {
    let input =
        br#"{"ts":"2026-11-23T22:44:30.123456Z","n":1,"f":1.5,"ok":true,"s":"x","o":{"a": [1,2]},"z":null}
{"ts":"2026-11-23T23:44:30+01:00","n":-2,"f":2,"ok":false,"s":"","o":[],"z":null}
"#;
    let decoded = decode(Format::Ndjson, input);
    assert_eq!(reasons(&decoded), []);
    let batch = &decoded.batch;
    assert_eq!(names(batch), ["ts", "n", "f", "ok", "s", "o"], "a column of nulls is left out");
    assert_eq!(ts(batch), [OBSERVED_US + 123_456, OBSERVED_US]);
    let types: Vec<_> = names(batch).iter().map(|name| type_of(batch, name)).collect();
    assert_eq!(types, ["Timestamp(µs, \"UTC\")", "Int64", "Float64", "Boolean", "Utf8", "Utf8"]);
    assert_eq!(column(batch, "o"), [r#"{"a": [1,2]}"#, "[]"]);
    assert_eq!(column(batch, "f"), ["1.5", "2.0"]);
}

#[test]
fn bad_records_are_named_and_the_others_kept() {
    let long = format!("{{\"a\":{}1{}}}", "[".repeat(70), "]".repeat(70));
    let lines: Vec<(&[u8], &str)> = vec![
        (b"{\"a\":1}", ""),
        (b"{\"a\":tru}", "not JSON: no value where one must stand at byte 5 of the record"),
        (b"{\"a\":1", "not JSON: no comma or closing brace after a value at byte 6 of the record"),
        (b"{\"a\":\"x", "not JSON: control character or line end in a string at byte 7 of the record"),
        (b"{\"a\":1}x", "not JSON: something after the object at byte 7 of the record"),
        (b"[1]", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"{\"a\":01}", "not JSON: number without digits or with a leading zero at byte 5 of the record"),
        (b"{\"a\":NaN}", "not JSON: no value where one must stand at byte 5 of the record"),
        (b"{\"a\":\"\\x\"}", "not JSON: unknown escape at byte 6 of the record"),
        (b"{\"a\":\"\\ud800\"}", "not JSON: lone surrogate at byte 6 of the record"),
        (b"{\"a\":\"\\udc00\"}", "not JSON: lone surrogate at byte 6 of the record"),
        (b"{\"a\":\"\xff\"}", "not UTF-8 at byte 6 of the record"),
        (b"{\"a\":1,}", "not JSON: no field name where one must stand at byte 7 of the record"),
        (b"{a:1}", "not JSON: no field name where one must stand at byte 1 of the record"),
        (b"{\"a\" 1}", "not JSON: no colon after a field name at byte 5 of the record"),
        (long.as_bytes(), "nested deeper than 64 levels"),
        (b"   ", ""),
        (b"{\"a\":2}\r", ""),
    ];
    let mut input = lines.iter().flat_map(|(line, _)| [line, b"\n".as_slice()].concat()).collect::<Vec<_>>();
    input.extend_from_slice(b"{\"a\":3}");
    let decoded = decode(Format::Ndjson, &input);
    assert_eq!(column(&decoded.batch, "a"), ["1", "2", "3"]);
    let expected = lines.iter().zip(1..).filter(|((_, reason), _)| !reason.is_empty());
    let expected: Vec<_> = expected.map(|((_, reason), line)| (line, (*reason).to_owned())).collect();
    assert_eq!(reasons(&decoded), expected);
    for row in &decoded.bad {
        assert!(input[row.offset as usize..].starts_with(&row.text));
        assert_eq!(row.text, lines[row.line as usize - 1].0);
    }
}

#[test]
fn a_bad_record_teaches_the_schema_nothing() {
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Ndjson)).unwrap();
    let input = b"{\"a\":1}\n{\"a\":\"text\",\"new\":1}}\n{\"a\":1.5,\"b\":1,\n{\"a\":2}\n";
    let decoded = decoder.decode(input, &context()).unwrap();
    assert_eq!(decoded.bad.len(), 2);
    assert_eq!(names(&decoded.batch), ["ts", "a"]);
    assert_eq!(type_of(&decoded.batch, "a"), "Int64");
    assert_eq!(column(&decoded.batch, "a"), ["1", "2"]);
}

#[test]
fn types_widen_and_stay_wide() {
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Ndjson)).unwrap();
    let mut check = |input: &str, kind: &str, values: &[&str]| {
        let batch = decoder.decode(input.as_bytes(), &context()).unwrap().batch;
        assert_eq!(
            (type_of(&batch, "a").as_str(), column(&batch, "a")),
            (kind, values.iter().map(|v| v.to_string()).collect()),
            "{input}"
        );
    };
    check("{\"b\":1}\n{\"a\":1}\n{\"a\":null}\n", "Int64", &["NULL", "1", "NULL"]);
    check("{\"a\":1}\n{}\n{\"a\":0.5}\n{\"a\":3}\n", "Float64", &["1.0", "NULL", "0.5", "3.0"]);
    check("{\"a\":1}\n", "Float64", &["1.0"]);
    check("{\"a\":1}\n{\"a\":true}\n{\"a\":\"x\"}\n{\"a\":7}\n", "Utf8", &["1.0", "true", "x", "7"]);
    check("{\"a\":1.50}\n{\"a\":false}\n{\"a\":{}}\n", "Utf8", &["1.50", "false", "{}"]);
}

#[test]
fn numbers_that_no_column_type_holds_keep_their_text() {
    let input = "{\"id\":9223372036854775807,\"x\":1.5,\"k\":9007199254740993}\n{\"id\":9223372036854775808,\"x\":1e400,\"k\":0.5}\n";
    let batch = decode(Format::Ndjson, input.as_bytes()).batch;
    assert_eq!(column(&batch, "id"), ["9223372036854775807", "9223372036854775808"]);
    assert_eq!(column(&batch, "x"), ["1.5", "1e400"]);
    assert_eq!(column(&batch, "k"), ["9007199254740993", "0.5"]);
}

#[test]
fn the_last_of_a_repeated_field_stands() {
    let decoded = decode(Format::Ndjson, b"{\"a\":1,\"a\":2}\n{\"a\":3}\n{\"a\":1,\"b\":\"x\",\"a\":null}\n");
    assert_eq!(column(&decoded.batch, "a"), ["2", "3", "NULL"]);
    assert_eq!(decoded.duplicate_fields, 2);
}

#[test]
fn the_time_comes_from_the_best_field_that_states_one() {
    let check = |input: &str, us: i64, raw: Option<&str>| {
        let batch = decode(Format::Ndjson, input.as_bytes()).batch;
        assert_eq!(ts(&batch), [us], "{input}");
        assert_eq!(
            batch.column_by_name("ts_raw").map(|_| cell(&batch, "ts_raw", 0)),
            raw.map(str::to_owned),
            "{input}"
        );
    };
    let second = 1_000_000;
    check(r#"{"ts":1795473870}"#, OBSERVED_US, None);
    check(r#"{"ts":1795473871000}"#, OBSERVED_US + second, None);
    check(
        r#"{"time":"2026-11-23T22:44:31Z","timestamp":"2026-11-23T22:44:32Z"}"#,
        OBSERVED_US + 2 * second,
        None,
    );
    check(
        r#"{"timestamp":"2026-11-23T22:44:32Z","time":"2026-11-23T22:44:31Z"}"#,
        OBSERVED_US + 2 * second,
        None,
    );
    check(r#"{"@timestamp":"2026-11-23T22:44:29.5Z","x":1}"#, OBSERVED_US - second / 2, None);
    check(r#"{"ts":"soon"}"#, OBSERVED_US, Some("soon"));
    check(r#"{"ts":12,"time":0.25}"#, OBSERVED_US, Some("12"));
    check(r#"{"x":12}"#, OBSERVED_US, None);
}

#[test]
fn names_sql_cannot_tell_apart_get_a_number() {
    let batch = decode(Format::Ndjson, br#"{"a":1,"A":2,"_seq":3,"":4,"TS":5,"a\u0062":6,"q\"":7}"#).batch;
    assert_eq!(names(&batch), ["ts", "a", "A_2", "_seq_2", "_", "TS_2", "ab", "q\""]);
}

#[test]
fn a_record_of_too_many_fields_is_refused_and_leaves_no_trace() {
    let many = |range: std::ops::Range<usize>| {
        let fields: Vec<_> = range.map(|n| format!("\"c{n}\":1")).collect();
        format!("{{{}}}\n", fields.join(","))
    };
    let input = many(0..5000) + "{\"a\":1}\n" + &many(0..4095);
    let decoded = decode(Format::Ndjson, input.as_bytes());
    assert_eq!(reasons(&decoded), [(1, "more than 4096 columns in this stream's records".to_owned())]);
    assert_eq!((decoded.batch.num_rows(), decoded.batch.num_columns()), (2, 4097));
}

#[test]
fn documents_are_arrays_or_one_object() {
    let rows = |input: &[u8]| {
        let decoded = match Decoder::new(DecoderConfig::of(Format::Json)).unwrap().decode(input, &context()) {
            Ok(decoded) => decoded,
            Err(crate::DecodeError::Document { element, .. }) => return ("broken".to_owned(), vec![element]),
            Err(error) => panic!("{error}"),
        };
        let values =
            if decoded.batch.column_by_name("a").is_some() { column(&decoded.batch, "a") } else { vec![] };
        (values.join(","), reasons(&decoded).into_iter().map(|(line, _)| line).collect::<Vec<_>>())
    };
    assert_eq!(rows(b" [ {\"a\":1},\n{\"a\":\n2} ]\n"), ("1,2".to_owned(), vec![]));
    assert_eq!(rows(b"{\"a\":1}"), ("1".to_owned(), vec![]));
    assert_eq!(rows(b"[]"), (String::new(), vec![]));
    assert_eq!(rows(b""), (String::new(), vec![]));
    assert_eq!(rows(b"[{\"a\":1},\n5,\n{\"a\":2}]"), ("1,2".to_owned(), vec![2]));
    // What cannot be read on is no document: no row of it is kept.
    assert_eq!(rows(b"[{\"a\":1},\n{\"a\":,\n{\"a\":2}]"), ("broken".to_owned(), vec![2]));
    assert_eq!(rows(b"[{\"a\":1}"), ("broken".to_owned(), vec![1]));
    assert_eq!(rows(b"[{\"a\":1}] x"), ("broken".to_owned(), vec![2]));
    assert_eq!(rows(b"[{\"a\":1},]"), ("broken".to_owned(), vec![2]));
    // Elements count, wherever their lines end.
    assert_eq!(rows(b"[{\"a\":1},5,{\"a\":2},null]"), ("1,2".to_owned(), vec![2, 4]));
    assert_eq!(rows(b"[\n\n{\"a\":\n1},\n\n{\"a\":tru}]"), ("broken".to_owned(), vec![2]));
    assert_eq!(rows(b"[{\"a\":1},{\"a\":\"\xff\"},{}]"), ("broken".to_owned(), vec![2]));
    assert_eq!(rows(b"[{\"a\":\"\xff\"}]"), ("broken".to_owned(), vec![1]));
}

#[test]
fn raw_text_is_kept_on_request() {
    let config = DecoderConfig { keep_raw: true, ..DecoderConfig::of(Format::Ndjson) };
    let batch = decode_with(config, b" {\"a\": 1} \n{\"a\":x}\n{\"raw\":2}\n").batch;
    assert_eq!(column(&batch, "raw"), ["{\"a\": 1}", "{\"raw\":2}"]);
    assert_eq!(column(&batch, "raw_2"), ["NULL", "2"]);
}

/// What a column shows for a value of a record, where the column is text.
/// A document gives rows, or says that it is broken.
fn document(input: &[u8]) {
    match Decoder::new(DecoderConfig::of(Format::Json)).unwrap().decode(input, &context()) {
        Ok(decoded) => assert_eq!(decoded.raw_bytes, input.len() as u64),
        Err(error) => assert!(matches!(error, crate::DecodeError::Document { .. }), "{error}"),
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "[ -~]{0,80}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c\"\\\\é]{0,3}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

fn any_records() -> impl Strategy<Value = Vec<BTreeMap<String, Value>>> {
    prop::collection::vec(prop::collection::btree_map("[a-h]|k\"|ü\n", any_value(), 0..8), 1..20)
}

proptest! {
    #[test]
    fn every_record_serde_writes_is_read_back(records in any_records()) {
        let lines: Vec<_> = records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
        let decoded = decode(Format::Ndjson, lines.join("\n").as_bytes());
        prop_assert!(decoded.bad.is_empty(), "{:?}", decoded.bad);
        prop_assert_eq!(decoded.batch.num_rows(), records.len());
        for (row, record) in records.iter().enumerate() {
            for (name, value) in record {
                if decoded.batch.column_by_name(name).is_none() {
                    prop_assert!(value.is_null());
                    continue;
                }
                let shown = cell(&decoded.batch, name, row);
                let kind = type_of(&decoded.batch, name);
                match (kind.as_str(), value) {
                    (_, Value::Null) => prop_assert_eq!(shown, "NULL"),
                    ("Float64", Value::Number(n)) => prop_assert_eq!(shown.parse::<f64>().ok(), n.as_f64()),
                    ("Utf8", Value::Number(n)) => prop_assert_eq!(shown.parse::<f64>().ok(), n.as_f64()),
                    _ => prop_assert_eq!(shown, as_text(value)),
                }
            }
        }
    }

    #[test]
    fn a_line_is_a_row_exactly_when_serde_reads_an_object(line in "[{}\\[\\]\":,\\\\ a-cu0-9.eE+\\-tfn\u{0}-\u{20}é]{0,24}") {
        let line = line.replace('\n', " ");
        let read = serde_json::from_str::<Value>(&line);
        let decoded = decode(Format::Ndjson, line.as_bytes());
        if line.trim_matches([' ', '\t', '\r']).is_empty() {
            prop_assert!(decoded.bad.is_empty() && decoded.batch.num_rows() == 0);
        } else if matches!(read, Ok(Value::Object(_))) {
            prop_assert_eq!(decoded.batch.num_rows(), 1, "{:?}", decoded.bad);
        } else {
            prop_assert_eq!(decoded.bad.len(), 1, "{:?}", read);
        }
    }

    #[test]
    fn any_bytes_are_rows_or_bad_rows(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        document(&bytes);
        decode(Format::Ndjson, &bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_truncation_and_no_flipped_byte_panics(records in any_records(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = serde_json::to_vec(&records).unwrap();
        for end in 0..text.len() {
            document(&text[..end]);
            decode(Format::Ndjson, &text[..end]);
        }
        let at = at.index(text.len());
        text[at] = byte;
        document(&text);
        decode(Format::Ndjson, &text);
    }
}

#[test]
fn text_of_few_values_is_a_dictionary_and_reads_the_same() {
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Ndjson)).unwrap();
    let mut check = |values: &[Option<String>], kind: &str| {
        let lines: Vec<_> = values.iter().map(|value| json!({ "a": value, "n": 1 }).to_string()).collect();
        let batch = decoder.decode(lines.join("\n").as_bytes(), &context()).unwrap().batch;
        let expected: Vec<_> =
            values.iter().map(|value| value.clone().unwrap_or("NULL".to_owned())).collect();
        assert_eq!((type_of(&batch, "a").as_str(), column(&batch, "a")), (kind, expected));
    };
    let words = |rows: usize, of: usize| {
        (0..rows)
            .map(|row| (row % 7 != 3).then(|| format!("a rather long word {} é\n", row * 31 % of)))
            .collect::<Vec<_>>()
    };
    let dictionary = "Dictionary(Int8, Utf8)";
    check(&words(300, 20), dictionary);
    check(&words(255, 20), "Utf8");
    check(&words(2000, 127), dictionary);
    check(&vec![None; 300], dictionary);
    check(&words(100, 100), "Utf8");
    check(&words(1000, 20), dictionary);
    check(&words(2000, 128), "Utf8");
    check(&words(1000, 20), "Utf8");
}

#[test]
fn a_bad_record_leaves_no_word_behind() {
    let lines =
        (0..400).map(|row| format!("{{\"a\":\"w{}\"{}\n", row % 3, if row % 5 == 0 { "" } else { "}" }));
    let decoded = decode(Format::Ndjson, lines.collect::<String>().as_bytes());
    assert_eq!((decoded.batch.num_rows(), decoded.bad.len()), (320, 80));
    let expected: Vec<_> = (0..400).filter(|row| row % 5 != 0).map(|row| format!("w{}", row % 3)).collect();
    assert_eq!(column(&decoded.batch, "a"), expected);
}

/// A record with every scalar type, its fields in any order and with any white space between.
fn any_typed_line() -> impl Strategy<Value = String> {
    let field = (
        prop::option::of(any::<i64>()),
        prop::option::of(any::<f64>().prop_filter("finite", |f| f.is_finite())),
        prop::option::of(prop_oneof![".{0,30}", "[a-c]"]),
        prop::option::of(any::<bool>()),
        any::<[prop::sample::Index; 4]>(),
        prop::sample::select(vec!["", " ", "\t \r"]),
    );
    field.prop_map(|(i, f, s, b, order, space)| {
        let mut fields = [("i", json!(i)), ("f", json!(f)), ("s", json!(s)), ("b", json!(b))];
        for (at, index) in order.iter().enumerate() {
            fields.swap(at, index.index(4));
        }
        let fields: Vec<_> =
            fields.iter().map(|(k, v)| format!("{space}\"{k}\"{space}:{space}{v}{space}")).collect();
        format!("{space}{{{}}}{space}\n", fields.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn arrow_json_reads_the_same(lines in prop::collection::vec(any_typed_line(), 256..400)) {
        let text = lines.concat();
        let decoded = decode(Format::Ndjson, text.as_bytes());
        prop_assert!(decoded.bad.is_empty());
        let ours = decoded.batch.project(&(1..decoded.batch.num_columns()).collect::<Vec<_>>()).unwrap();
        let plain = ours.columns().iter().map(|array| match array.data_type() {
            DataType::Dictionary(_, _) => arrow_cast::cast(array, &DataType::Utf8).unwrap(),
            _ => array.clone(),
        });
        let named = ours.schema().fields().iter().map(|field| field.name().clone()).zip(plain).collect::<Vec<_>>();
        let ours = RecordBatch::try_from_iter_with_nullable(named.into_iter().map(|(name, array)| (name, array, true))).unwrap();
        let reader = arrow_json::ReaderBuilder::new(ours.schema()).with_batch_size(lines.len());
        let theirs = reader.build(text.as_bytes()).unwrap().next().unwrap().unwrap();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn every_width_finds_the_same_end(bytes in prop::collection::vec(prop_oneof![8 => 0x20u8..0x7f, 1 => any::<u8>()], 0..100), from in 0usize..100) {
        let from = from.min(bytes.len());
        let expected = (from..bytes.len()).find(|at| matches!(bytes[*at], b'"' | b'\\' | 0..=0x1f)).unwrap_or(bytes.len());
        prop_assert_eq!(crate::scan::string_end(&bytes, from), expected);
        prop_assert_eq!(crate::scan::string_end_portable(&bytes, from), expected);
    }
}

#[test]
fn garbage_takes_no_more_memory_than_its_size_warrants() {
    let mut input = b"x\n".repeat(1 << 20);
    input.extend_from_slice(b"{\"a\":1}\n");
    let decoded = decode(Format::Ndjson, &input);
    assert_eq!(decoded.batch.num_rows(), 1);
    assert_eq!(decoded.bad.iter().map(|row| row.records).sum::<u64>(), 1 << 20);
    assert!(decoded.bad.len() < (1 << 16) + 40, "{}", decoded.bad.len());
    let last = decoded.bad.last().unwrap();
    assert_eq!(last.offset, (last.line - 1) * 2);
    assert_eq!(last.text.len() as u64, last.records * 2 - 1);

    let elements = [b"[".as_slice(), &b"1,\n".repeat(1 << 20), b"{}]"].concat();
    let decoded = decode(Format::Json, &elements);
    assert_eq!(
        (decoded.batch.num_rows(), decoded.bad.iter().map(|row| row.records).sum::<u64>()),
        (1, 1 << 20)
    );
    assert_eq!(decoded.bad[9].line, 10);
}
