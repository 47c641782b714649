use proptest::prelude::*;

use super::*;

fn csv(input: &str) -> Decoded {
    decode(Format::Csv, input.as_bytes())
}

#[test]
fn the_header_names_columns_and_the_values_their_types() {
    let input = "\u{feff}id,price,ok,name,ts,zip\r\n1,1.50,true,Ann,2026-11-23T22:44:29Z,01234\r\n2,3,false,\"B, \"\"C\"\"\nD\",,99999\r\n3,,,\"\",x,1\r\n";
    let decoded = csv(input);
    assert_eq!(reasons(&decoded), []);
    let batch = &decoded.batch;
    for (name, kind, values) in [
        ("id", "Int64", ["1", "2", "3"]),
        ("price", "Float64", ["1.5", "3.0", "NULL"]),
        ("ok", "Boolean", ["true", "false", "NULL"]),
        ("name", "Utf8", ["Ann", "B, \"C\"\nD", ""]),
        ("zip", "Utf8", ["01234", "99999", "1"]),
        ("ts_raw", "Utf8", ["NULL", "NULL", "x"]),
    ] {
        assert_eq!(
            (type_of(batch, name).as_str(), column(batch, name)),
            (kind, values.map(str::to_owned).to_vec()),
            "{name}"
        );
    }
    assert_eq!(ts(batch), [OBSERVED_US - 1_000_000, OBSERVED_US, OBSERVED_US]);
}

#[test]
fn ragged_and_broken_records_are_named() {
    let decoded = csv("a,b\n1,2\n3\n\n4,5,6\n\"x\"y,1\n7,8\n\"open,9\n10,11\n");
    assert_eq!(column(&decoded.batch, "a"), ["1", "7", "10"]);
    let expected = [
        (3, "1 fields where the header has 2"),
        (5, "3 fields where the header has 2"),
        (6, "not CSV: text after a closing quote"),
        (8, "not CSV: quoted field without an end"),
    ];
    assert_eq!(reasons(&decoded), expected.map(|(line, reason)| (line, reason.to_owned())));
    assert_eq!(&decoded.bad[3].text[..], b"\"open,9");
}

#[test]
fn the_header_is_read_once_in_the_life_of_a_decoder() {
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Csv)).unwrap();
    assert_eq!(decoder.decode(b"a,a,,A\n", &context()).unwrap().batch.num_rows(), 0);
    let batch = decoder.decode(b"1,2,3,4\n", &context()).unwrap().batch;
    let values = ["a", "a_2", "_", "A_3"].map(|name| cell(&batch, name, 0));
    assert_eq!(values, ["1", "2", "3", "4"]);
}

#[test]
fn columns_and_delimiter_may_be_given() {
    let config = DecoderConfig {
        delimiter: Some('\t'),
        columns: Some(vec!["a".into(), "b".into()]),
        keep_raw: true,
        ..DecoderConfig::of(Format::Csv)
    };
    let batch = decode_with(config, b"1\tx,y\n").batch;
    assert_eq!(["a", "b", "raw"].map(|name| cell(&batch, name, 0)), ["1", "x,y", "1\tx,y"]);
}

#[test]
fn a_header_that_cannot_name_columns_is_an_error() {
    let wide = vec!["c"; 5000].join(",");
    for (input, expected) in [
        (wide.as_bytes(), "read the CSV header: 5000 columns, the most is 4096"),
        (b"a\xff,b\n", "read the CSV header: not UTF-8"),
    ] {
        let error =
            Decoder::new(DecoderConfig::of(Format::Csv)).unwrap().decode(input, &context()).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn the_header_ends_where_its_record_does() {
    let length =
        |input: &str| Decoder::new(DecoderConfig::of(Format::Csv)).unwrap().header_length(input.as_bytes());
    assert_eq!(length("a,b\n1,2\n"), 4);
    assert_eq!(length("\n\r\na,b\n1,2\n"), 7);
    assert_eq!(length("a,\"b\nc\"\n1,2\n"), 8);
    assert_eq!(length("\n\n"), 0);
    assert_eq!(length(""), 0);
    let decoder = Decoder::new(DecoderConfig::of(Format::Ndjson)).unwrap();
    assert_eq!(decoder.header_length(b"{}\n"), 0);
}

#[test]
fn a_boundary_never_lies_within_quotes() {
    let decoder = Decoder::new(DecoderConfig::of(Format::Csv)).unwrap();
    for (chunk, expected) in
        [("a,b\n1,\"x\ny", 4), ("a,\"b\nc\"\nd", 8), ("a\"b\nc", 4), ("a,b", 0), ("\"a\"x\nb\n", 7)]
    {
        assert_eq!(decoder.boundary(chunk.as_bytes()), expected, "{chunk}");
    }
}

proptest! {
    #[test]
    fn what_was_quoted_is_read_back(rows in prop::collection::vec(prop::collection::vec("[a-z\",\n\r é]{1,8}", 3), 1..20)) {
        let quoted = rows.iter().map(|row| row.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect::<Vec<_>>().join(","));
        let text = format!("a,b,c\n{}\n", quoted.collect::<Vec<_>>().join("\n"));
        let decoded = csv(&text);
        prop_assert!(decoded.bad.is_empty());
        for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
            let expected: Vec<_> = rows.iter().map(|row| row[index].clone()).collect();
            prop_assert_eq!(column(&decoded.batch, name), expected);
        }
    }

    #[test]
    fn cutting_at_boundaries_changes_nothing(text in "[ab\",\n]{0,60}", at in any::<prop::sample::Index>()) {
        let text = format!("x,y\n{text}");
        let whole = csv(&text);
        let mut decoder = Decoder::new(DecoderConfig::of(Format::Csv)).unwrap();
        let cut = decoder.boundary(&text.as_bytes()[..at.index(text.len() + 1)]);
        let (first, rest) = text.as_bytes().split_at(cut);
        let parts = [first, rest].map(|part| decoder.decode(part, &context()).unwrap());
        let rows: usize = parts.iter().map(|part| part.batch.num_rows()).sum();
        let bad: usize = parts.iter().map(|part| part.bad.len()).sum();
        prop_assert_eq!((rows, bad), (whole.batch.num_rows(), whole.bad.len()));
    }

    #[test]
    fn any_bytes_are_csv_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut decoder = Decoder::new(DecoderConfig::of(Format::Csv)).unwrap();
        decoder.boundary(&bytes);
        decoder.decode(&bytes, &context()).map(|_| ()).unwrap_or_default();
        decoder.decode(&bytes, &context()).map(|_| ()).unwrap_or_default();
    }
}
