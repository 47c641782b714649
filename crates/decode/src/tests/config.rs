use super::*;
use crate::{ConfigError, TimestampRule};

#[test]
fn the_configuration_is_flat_and_refuses_what_it_does_not_know() {
    let text = r#"{"format":"regex","pattern":"(?P<a>.*)","timestamp":{"column":"t","format":"%Y","zone":"Europe/Berlin"},"keep_raw":true}"#;
    let config: DecoderConfig = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&config).unwrap(), text);
    assert_eq!(serde_json::from_str::<DecoderConfig>("{}").unwrap(), DecoderConfig::of(Format::Text));
    assert!(serde_json::from_str::<DecoderConfig>(r#"{"format":"xml"}"#).is_err());
    assert!(serde_json::from_str::<DecoderConfig>(r#"{"formt":"csv"}"#).is_err());
}

#[test]
fn a_wrong_option_is_named() {
    let check = |config: DecoderConfig, expected: &str| {
        let error: ConfigError = Decoder::new(config).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string().split(':').next().unwrap(), expected);
    };
    let of = DecoderConfig::of;
    check(
        DecoderConfig { pattern: Some("x".into()), ..of(Format::Csv) },
        "option `pattern` does not apply to format `Csv`",
    );
    check(
        DecoderConfig { delimiter: Some(';'), ..of(Format::Text) },
        "option `delimiter` does not apply to format `Text`",
    );
    check(
        of(Format::Regex),
        "format `regex` needs `pattern` with at least one named group such as `(?P<level>[A-Z]+)`",
    );
    check(
        DecoderConfig { pattern: Some("a.*".into()), ..of(Format::Regex) },
        "format `regex` needs `pattern` with at least one named group such as `(?P<level>[A-Z]+)`",
    );
    check(DecoderConfig { pattern: Some("(?P<a>".into()), ..of(Format::Regex) }, "read `pattern`");
    check(
        DecoderConfig { pattern: Some("(?P<a>\\w{5000}{5000})".into()), ..of(Format::Regex) },
        "read `pattern`",
    );
    check(DecoderConfig { delimiter: Some('"'), ..of(Format::Csv) }, "`'\"'` cannot separate fields");
    check(
        DecoderConfig { columns: Some(vec!["a".into(), "a".into()]), ..of(Format::Csv) },
        "`columns` is empty or names `a` twice",
    );
    let rule = |format: Option<&str>, zone: Option<&str>| {
        let timestamp =
            TimestampRule { column: None, format: format.map(str::to_owned), zone: zone.map(str::to_owned) };
        DecoderConfig { timestamp: Some(timestamp), ..of(Format::Ndjson) }
    };
    check(rule(Some("yesterday"), None), "`yesterday` is not a time format");
    check(rule(None, Some("Mars/Olympus")), "`Mars/Olympus` is not a time zone");
    check(rule(None, Some("+25:00")), "`+25");
}

#[test]
fn input_beyond_the_limit_is_refused_before_anything_is_read() {
    // Zeroes cost no memory until they are read, which they are not.
    let input = vec![0; crate::INPUT_BYTES_MAX + 1];
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Ndjson)).unwrap();
    let error = decoder.decode(&input, &context()).unwrap_err();
    assert_eq!(error.to_string(), "268435457 bytes in one piece: the most is 268435456");
    assert_eq!(decoder.decode(b"{\"a\":1}", &context()).unwrap().batch.num_rows(), 1);
}

#[test]
fn dead_letters_keep_text_and_reason() {
    let decoded = decode(Format::Ndjson, b"{\"a\":1}\nno\xff\n");
    let batch = crate::dead_letters(&decoded.bad, "events", "http", OBSERVED_US).unwrap();
    assert_eq!(ts(&batch), [OBSERVED_US]);
    let row: Vec<_> =
        ["stream", "reason", "source", "text"].iter().map(|name| cell(&batch, name, 0)).collect();
    assert_eq!(row, ["events", "not UTF-8 at byte 2 of the record", "http", "no\u{fffd}"]);
}
