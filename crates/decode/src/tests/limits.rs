//! Short and sparse records take memory by their size, not by rows times columns; long ones end a batch.

use super::*;
use crate::{BAD_TEXT_BYTES_MAX, BATCH_BYTES_MAX, CELLS_MAX, DecodeError, FIELD_NAME_BYTES_MAX, ROWS_MAX};

/// Decodes all of `input`, batch by batch, and checks that none is beyond a limit; gives the number of rows and of batches.
fn check(decoder: &mut Decoder, input: &[u8]) -> (usize, usize) {
    let (mut at, mut rows, mut batches) = (0, 0, 0);
    while at < input.len() {
        let decoded = decoder.decode(&input[at..], &context()).unwrap();
        assert!(decoded.raw_bytes > 0, "{at}");
        at += usize::try_from(decoded.raw_bytes).unwrap();
        let batch = decoded.batch;
        assert!(batch.num_rows() <= ROWS_MAX, "{}", batch.num_rows());
        // One row more than the limit may be needed to reach it, and the leading columns are not counted.
        assert!(batch.num_rows() * (batch.num_columns().saturating_sub(7)) <= CELLS_MAX + 4096);
        rows += batch.num_rows();
        batches += 1;
    }
    (rows, batches)
}

fn decoder(format: Format) -> Decoder {
    Decoder::new(DecoderConfig::of(format)).unwrap()
}

#[test]
fn sparse_records_are_cut_into_batches_of_bounded_size() {
    let mut input = String::new();
    (0..200).for_each(|n| input.push_str(&format!("{{\"m{n}\":{n}}}\n")));
    input.push_str(&"{\"m17\":3}\n".repeat(100_000));
    let (rows, batches) = check(&mut decoder(Format::Ndjson), input.as_bytes());
    assert_eq!(rows, 100_200);
    assert!((4..=8).contains(&batches), "{batches}");
}

#[test]
fn empty_records_after_many_columns_cost_no_columns() {
    let mut decoder = decoder(Format::Ndjson);
    let names: String = (0..4096).map(|n| format!("{{\"m{n}\":1}}\n")).collect();
    check(&mut decoder, names.as_bytes());
    let input = "{}\n".repeat(20_000);
    let batch = decoder.decode(input.as_bytes(), &context()).unwrap().batch;
    assert_eq!((batch.num_rows(), batch.num_columns()), (1024, 1));
    assert_eq!(check(&mut decoder, input.as_bytes()).0, 20_000);
    // A column that was left out comes back with its type.
    let batch = decoder.decode(b"{\"m4000\":7}\n{}\n", &context()).unwrap().batch;
    assert_eq!(column(&batch, "m4000"), ["7", "NULL"]);
    assert_eq!(batch.num_columns(), 2);
}

#[test]
fn millions_of_empty_lines_are_many_batches() {
    let lines = vec![b'\n'; 300_000];
    assert_eq!(check(&mut decoder(Format::Text), &lines), (300_000, 5));
    let mut invalid = lines.clone();
    invalid[299_998] = 0xff;
    assert_eq!(check(&mut decoder(Format::Text), &invalid), (299_999, 5));
    let pairs = "a=1\n".repeat(150_000);
    assert_eq!(check(&mut decoder(Format::Logfmt), pairs.as_bytes()), (150_000, 3));
    let cri = "2026-11-23T22:00:00Z stdout F x\n".repeat(70_000);
    assert_eq!(check(&mut decoder(Format::Cri), cri.as_bytes()), (70_000, 2));
    let csv = format!("a,b\n{}", "1,\n".repeat(150_000));
    assert_eq!(check(&mut decoder(Format::Csv), csv.as_bytes()), (150_000, 3));
}

#[test]
fn long_input_is_many_batches_and_no_record_is_cut() {
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(300_000));
    let input = line.repeat(40);
    for format in [Format::Ndjson, Format::Text] {
        let (rows, batches) = check(&mut decoder(format), input.as_bytes());
        assert_eq!(rows, 40, "{format:?}");
        assert!(batches >= input.len() / BATCH_BYTES_MAX, "{batches}");
    }
    let csv = format!("a\n{}", format!("\"{}\n\"\n", "y".repeat(300_000)).repeat(40));
    assert_eq!(check(&mut decoder(Format::Csv), csv.as_bytes()).0, 40);
}

#[test]
fn a_document_goes_on_where_its_batch_was_full() {
    let elements: Vec<String> = (0..150_000).map(|n| format!("{{\"n\":{n}}}")).collect();
    let document = format!("[{}]", elements.join(",\n"));
    let mut decoder = decoder(Format::Json);
    assert_eq!(check(&mut decoder, document.as_bytes()), (150_000, 3));
    assert_eq!(check(&mut decoder, b"{\"n\":1}"), (1, 1), "the next document is one of its own");
    let broken = format!("[{}", elements.join(",\n"));
    let mut at = 0;
    let error = loop {
        match decoder.decode(&broken.as_bytes()[at..], &context()) {
            Ok(decoded) => at += usize::try_from(decoded.raw_bytes).unwrap(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DecodeError::Document { .. }), "{error}");
    assert_eq!(decoder.decode(b"{\"n\":2}", &context()).unwrap().batch.num_rows(), 1);
}

#[test]
fn a_name_that_is_too_long_is_refused_and_leaves_no_trace() {
    let long = "n".repeat(FIELD_NAME_BYTES_MAX + 1);
    let input = format!("{{\"{long}\":1}}\n{{\"{}\":2}}\n", &long[1..]);
    let decoded = decode(Format::Ndjson, input.as_bytes());
    assert_eq!(reasons(&decoded), [(1, "a field name of more than 512 bytes".to_owned())]);
    assert_eq!((decoded.batch.num_rows(), decoded.batch.num_columns()), (1, 2));
    let decoded = decode(Format::Logfmt, format!("{long}=1 a=2\n").as_bytes());
    assert_eq!(decoded.bad.len(), 1);
}

#[test]
fn a_bad_record_keeps_a_megabyte_of_its_text_and_counts_the_rest() {
    let input = format!("{}\n{{}}\n", "x".repeat(BAD_TEXT_BYTES_MAX + 5));
    let decoded = decode(Format::Ndjson, input.as_bytes());
    assert_eq!((decoded.bad[0].text.len(), decoded.bad[0].cut), (BAD_TEXT_BYTES_MAX, 5));
}

#[test]
fn a_zero_byte_is_no_field_name() {
    let input = b"{\"a\\u0062\":1}\n{\0:1}\n{\"a\\u0062\":2, \0:3}\n{\"ab\":4}\n";
    let decoded = decode(Format::Ndjson, input);
    assert_eq!(decoded.bad.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(column(&decoded.batch, "ab"), ["1", "4"]);
    let escaped = decode(Format::Ndjson, b"{\"\\n\":1}\n{\0:1}\n{\0:1                    }\n");
    assert_eq!(escaped.bad.len(), 2);
}
