use proptest::prelude::*;

use super::*;

#[test]
fn a_line_is_the_body_with_its_time_and_severity() {
    let input = b"2026-11-23T22:44:29Z ERROR db: gone\r\nplain words about an error\n\nNov 23 22:44:28 web sshd[7]: hi\n[2026-11-23 22:44:27,500] [warn] x";
    let decoded = decode(Format::Text, input);
    let batch = &decoded.batch;
    assert_eq!(column(batch, "body")[0], "2026-11-23T22:44:29Z ERROR db: gone");
    assert_eq!(column(batch, "body")[2], "", "an empty line is a line");
    assert_eq!(column(batch, "severity"), ["ERROR", "NULL", "NULL", "NULL", "WARN"]);
    let second = 1_000_000;
    let expected = [second, 0, 0, 2 * second, 2 * second + second / 2].map(|before| OBSERVED_US - before);
    assert_eq!(ts(batch), expected);
    assert_eq!(column(batch, "resource")[0], "NULL");
    assert_eq!(type_of(batch, "severity"), "Dictionary(Int8, Utf8)");
}

#[test]
fn severity_is_stated_not_guessed() {
    use crate::severity::Severity::{self, *};
    for (line, expected) in [
        ("2026/11/23 22:44:30 [error] 7#7: *1 open() failed", Error),
        ("level=warn msg=\"x\"", Warn),
        ("{\"level\":\"debug\"}", Debug),
        ("INFO started", Info),
        ("[main] FATAL boom", Fatal),
        ("error: file not found", Error),
        ("warning: unused", Warn),
        ("<err> x", Error),
        ("NOTICE: x", Info),
        ("no errors, info only", Unstated),
        ("GET /ERROR HTTP/1.1", Unstated),
        ("an error occurred", Unstated),
        ("INFORMATION", Unstated),
        ("", Unstated),
    ] {
        assert_eq!(Severity::of_line(line.as_bytes()), expected, "{line}");
    }
}

#[test]
fn invalid_utf8_is_replaced_and_counted() {
    let decoded = decode(Format::Text, b"a\xffb\nc\xe2\x82\nok \xc3\xa9");
    assert_eq!(column(&decoded.batch, "body"), ["a\u{fffd}b", "c\u{fffd}", "ok é"]);
    assert_eq!(decoded.replaced, 2);
}

#[test]
fn the_resource_stands_in_every_row() {
    let context = Context { resource: Some("{\"log.file.path\":\"/x\"}"), ..context() };
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Text)).unwrap();
    let batch = decoder.decode(b"a\nb\n", &context).unwrap().batch;
    assert_eq!(column(&batch, "resource"), ["{\"log.file.path\":\"/x\"}"; 2]);
    let again = decoder.decode(b"c\n", &context).unwrap().batch;
    assert!(std::sync::Arc::ptr_eq(&batch.schema(), &again.schema()));
}

#[test]
fn a_boundary_leaves_the_unfinished_line() {
    let decoder = Decoder::new(DecoderConfig::of(Format::Text)).unwrap();
    assert_eq!(decoder.boundary(b"a\nb\nc"), 4);
    assert_eq!(decoder.boundary(b"abc"), 0);
}

proptest! {
    #[test]
    fn any_bytes_become_lines(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let decoded = decode(Format::Text, &bytes);
        let lossy = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = lossy.split_terminator('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned()).collect();
        prop_assert_eq!(column(&decoded.batch, "body"), lines);
    }
}
