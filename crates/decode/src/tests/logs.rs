use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The named cells of one line's row.
fn check(format: Format, line: &str, expected: &[(&str, &str)]) {
    let decoded = decode(format, line.as_bytes());
    assert_eq!(reasons(&decoded), [], "{line}");
    assert_eq!(decoded.batch.num_rows(), 1, "{line}");
    for (name, value) in expected {
        let shown = match *name {
            "ts" => (ts(&decoded.batch)[0] - OBSERVED_US).to_string(),
            name if decoded.batch.column_by_name(name).is_none() => "absent".to_owned(),
            name => cell(&decoded.batch, name, 0),
        };
        assert_eq!(&shown, value, "{name} of {line}");
    }
}

fn refused(format: Format, line: &str) -> String {
    let decoded = decode(format, line.as_bytes());
    assert_eq!((decoded.batch.num_rows(), decoded.bad.len()), (0, 1), "{line}");
    assert_eq!(decoded.bad[0].text, line.as_bytes());
    decoded.bad[0].reason.to_string()
}

#[test]
fn combined_lines_of_nginx_and_apache() {
    let nginx = r#"203.0.113.7 - - [23/Nov/2026:23:44:29 +0100] "GET /api/v1/x?q=a%20b HTTP/1.1" 200 612 "https://example.com/" "Mozilla/5.0 (X11; Linux x86_64) \"quoted\"" "198.51.100.1" rt=0.003"#;
    check(
        Format::Combined,
        nginx,
        &[
            ("ts", "-1000000"),
            ("remote_addr", "203.0.113.7"),
            ("remote_user", "absent"),
            ("method", "GET"),
            ("path", "/api/v1/x?q=a%20b"),
            ("protocol", "HTTP/1.1"),
            ("status", "200"),
            ("bytes", "612"),
            ("referer", "https://example.com/"),
            ("user_agent", r#"Mozilla/5.0 (X11; Linux x86_64) \"quoted\""#),
            ("attributes", r#"{"extra":"\"198.51.100.1\" rt=0.003"}"#),
            ("body", "NULL"),
            ("severity", "NULL"),
        ],
    );
    let apache = r#"127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326"#;
    check(
        Format::Combined,
        apache,
        &[("remote_user", "frank"), ("protocol", "HTTP/1.0"), ("referer", "absent"), ("bytes", "2326")],
    );
    let probe = r#"192.0.2.1 - - [23/Nov/2026:22:44:30 +0000] "\x16\x03\x01" 400 157 "-" "-""#;
    check(
        Format::Combined,
        probe,
        &[("path", r"\x16\x03\x01"), ("method", "absent"), ("status", "400"), ("user_agent", "absent")],
    );
    let empty = r#"192.0.2.1 - - [23/Nov/2026:22:44:30 +0000] "-" 408 - "-" "-""#;
    check(Format::Combined, empty, &[("path", "absent"), ("status", "408"), ("bytes", "absent")]);
    assert_eq!(refused(Format::Combined, "hello"), "not a combined access log line: no client address");
    assert_eq!(
        refused(Format::Combined, &apache.replace("2000", "x000")),
        "not a combined access log line: a time that cannot be read"
    );
    assert_eq!(
        refused(Format::Combined, &apache.replace(" 200 ", " two ")),
        "not a combined access log line: no status"
    );
    assert_eq!(refused(Format::Combined, &apache[..70]), "not a combined access log line: no quoted request");
}

#[test]
fn the_line_is_kept_as_body_on_request() {
    let line = r#"127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 1"#;
    for (format, line) in [
        (Format::Combined, line),
        (Format::Syslog, "<13>Nov 23 22:44:30 h app: m"),
        (Format::Logfmt, "msg=x a=1"),
    ] {
        let batch =
            decode_with(DecoderConfig { keep_raw: true, ..DecoderConfig::of(format) }, line.as_bytes()).batch;
        assert_eq!(cell(&batch, "body", 0), line);
    }
}

#[test]
fn syslog_of_rfc_5424() {
    check(
        Format::Syslog,
        "<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \u{feff}'su root' failed for lonvick on /dev/pts/8",
        &[
            ("severity", "ERROR"),
            ("facility", "auth"),
            ("host", "mymachine.example.com"),
            ("app", "su"),
            ("procid", "absent"),
            ("msgid", "ID47"),
            ("attributes", "NULL"),
            ("body", "'su root' failed for lonvick on /dev/pts/8"),
        ],
    );
    check(
        Format::Syslog,
        r#"<165>1 2026-11-23T15:44:29.000003-07:00 192.0.2.1 myproc 8710 - [exampleSDID@32473 iut="3" eventSource="Appli\"c]ation\\" x="1" x="2"][examplePriority@32473 class="high"]"#,
        &[
            ("ts", "-999997"),
            ("severity", "INFO"),
            ("facility", "local4"),
            ("procid", "8710"),
            (
                "attributes",
                r#"{"examplePriority@32473":{"class":"high"},"exampleSDID@32473":{"eventSource":"Appli\"c]ation\\","iut":"3","x":["1","2"]}}"#,
            ),
            ("body", ""),
        ],
    );
    check(
        Format::Syslog,
        "<0>1 - - - - - - x",
        &[("ts", "0"), ("severity", "FATAL"), ("host", "absent"), ("body", "x")],
    );
    for (line, expected) in [
        ("<34>1 2003-10-11T22:14:15.003Z host", "the RFC 5424 header ends early"),
        ("<34>1 yesterday h a p m - x", "a time that cannot be read"),
        ("<34>1 - h a p m [id k=\"v", "structured data without an end"),
        ("<34>1 - h a p m [id k", "structured data without a value"),
        ("<34>1 - h a p m x", "no structured data where it must stand"),
    ] {
        assert_eq!(refused(Format::Syslog, line), format!("not syslog: {expected}"));
    }
}

#[test]
fn syslog_of_rfc_3164_and_of_log_files() {
    check(
        Format::Syslog,
        "<34>Nov 23 22:44:29 mymachine su: 'su root' failed",
        &[
            ("ts", "-1000000"),
            ("severity", "ERROR"),
            ("facility", "auth"),
            ("host", "mymachine"),
            ("app", "su"),
            ("body", "'su root' failed"),
        ],
    );
    check(
        Format::Syslog,
        "Nov  3 22:44:30 web-1 sshd[4711]: Accepted publickey for root",
        &[
            ("ts", &(-20 * 86_400_000_000i64).to_string()),
            ("severity", "NULL"),
            ("host", "web-1"),
            ("app", "sshd"),
            ("procid", "4711"),
            ("body", "Accepted publickey for root"),
        ],
    );
    check(
        Format::Syslog,
        "2026-11-23T22:44:30.250000+00:00 web-1 kernel: [ 12.5] ERROR in cpu",
        &[
            ("ts", "250000"),
            ("severity", "ERROR"),
            ("host", "web-1"),
            ("app", "kernel"),
            ("body", "[ 12.5] ERROR in cpu"),
        ],
    );
    check(
        Format::Syslog,
        "<13>Nov 23 22:44:30 myapp[7]: no host",
        &[("host", "absent"), ("app", "myapp"), ("procid", "7"), ("body", "no host")],
    );
    check(Format::Syslog, "<13>only words", &[("body", "only words"), ("severity", "INFO"), ("ts", "0")]);
    check(Format::Syslog, "<999>only words", &[("body", "<999>only words"), ("severity", "NULL")]);
}

#[test]
fn logfmt_pairs_become_columns() {
    check(
        Format::Logfmt,
        r#"ts=2026-11-23T22:44:31Z level=warn msg="slow \"query\"\n" took=1.5 rows=7 path=/a=b empty= blank="" ok"#,
        &[
            ("ts", "1000000"),
            ("severity", "WARN"),
            ("level", "warn"),
            ("body", "slow \"query\"\n"),
            ("took", "1.5"),
            ("rows", "7"),
            ("path", "/a=b"),
            ("empty", "absent"),
            ("blank", ""),
            ("ok", "true"),
        ],
    );
    check(Format::Logfmt, r#"a="\q\u0041" b=x"y"#, &[("a", "\\qA"), ("b", "x\"y")]);
    assert_eq!(refused(Format::Logfmt, "just some words"), "not logfmt: no key=value pair");
    assert_eq!(refused(Format::Logfmt, "a=\"open"), "not logfmt: a quoted value without an end");
    assert_eq!(refused(Format::Logfmt, "a=1 =2"), "not logfmt: a value without a key");
}

#[test]
fn named_groups_become_columns() {
    let config = DecoderConfig {
        pattern: Some(
            r"^(?P<ts>\S+) (?P<level>[A-Z]+) \[(?P<thread>[^\]]*)\] (?:took (?P<ms>\d+) )?(?P<message>.*)$"
                .to_owned(),
        ),
        ..DecoderConfig::of(Format::Regex)
    };
    let decoded = decode_with(
        config,
        b"2026-11-23T22:44:30Z ERROR [main] took 12 boom\n2026-11-23T22:44:30Z INFO [w-1] fine\nelse\n",
    );
    assert_eq!(column(&decoded.batch, "severity"), ["ERROR", "INFO"]);
    assert_eq!(column(&decoded.batch, "body"), ["boom", "fine"]);
    assert_eq!(column(&decoded.batch, "ms"), ["12", "NULL"]);
    assert_eq!(type_of(&decoded.batch, "ms"), "Int64");
    assert_eq!(
        reasons(&decoded),
        [(3, "not what the pattern describes: the expression does not match".to_owned())]
    );
}

#[test]
fn container_lines_are_joined_and_named_after_their_pod() {
    let input = b"2016-10-06T00:17:09.669794202Z stdout P one \n2016-10-06T00:17:09.7Z stderr F ERROR oops\n2016-10-06T00:17:10Z stdout F two\n2016-10-06T00:17:11Z stdout F\n2016-10-06T00:17:12Z stdin F x\n2016-10-06T00:17:12Z stdout P tail";
    let context = Context {
        path: Some("/var/log/pods/shop_cart-7d9f_0f2c-11/nginx/0.log"),
        resource: Some(r#"{"host.name":"n1"}"#),
        ..context()
    };
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Cri)).unwrap();
    let decoded = decoder.decode(input, &context).unwrap();
    let batch = &decoded.batch;
    assert_eq!(column(batch, "body"), ["ERROR oops", "one two", "", "tail"]);
    assert_eq!(column(batch, "stream"), ["stderr", "stdout", "stdout", "stdout"]);
    assert_eq!(cell(batch, "severity", 0), "ERROR");
    assert_eq!(ts(batch)[1], 1_475_713_029_669_794, "a joined line has the time of its first piece");
    let place = ["namespace", "pod", "container"].map(|name| cell(batch, name, 3));
    assert_eq!(place, ["shop", "cart-7d9f", "nginx"]);
    let resource: Value = serde_json::from_str(&cell(batch, "resource", 0)).unwrap();
    assert_eq!((&resource["k8s.pod.uid"], &resource["host.name"]), (&"0f2c-11".into(), &"n1".into()));
    assert_eq!(
        reasons(&decoded),
        [(5, "not a container log line: neither stdout nor stderr after the time".to_owned())]
    );

    let path = Some("/var/log/containers/cart-7d9f_shop_side-car-0123456789abcdef.log");
    let again = decoder
        .decode(b"2016-10-06T00:17:09Z stdout F x\n", &Context { path, resource: None, ..context })
        .unwrap();
    assert_eq!(
        ["namespace", "pod", "container"].map(|name| cell(&again.batch, name, 0)),
        ["shop", "cart-7d9f", "side-car"]
    );
}

#[test]
fn a_container_boundary_waits_for_the_last_piece() {
    let decoder = Decoder::new(DecoderConfig::of(Format::Cri)).unwrap();
    let lines = [
        "2016-10-06T00:17:09Z stdout F a\n",
        "2016-10-06T00:17:09Z stdout P b\n",
        "2016-10-06T00:17:09Z stderr F c\n",
        "2016-10-06T00:17:09Z stdout F d\n",
        "2016-",
    ];
    let boundary = |count: usize| decoder.boundary(lines[..count].concat().as_bytes());
    let length = lines[0].len();
    assert_eq!([1, 2, 3, 4, 5].map(boundary), [length, length, length, 4 * length, 4 * length]);
}

#[test]
fn invalid_text_of_a_log_line_is_replaced_and_counted() {
    let decoded = decode(Format::Syslog, b"<13>a\xff\xfeb\n");
    assert_eq!(
        (column(&decoded.batch, "body"), decoded.replaced),
        (vec!["a\u{fffd}\u{fffd}b".to_owned()], 2)
    );
}

proptest! {
    #[test]
    fn any_bytes_are_rows_or_bad_rows_in_every_log_format(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in [Format::Logfmt, Format::Combined, Format::Syslog, Format::Cri] {
            decode(format, &bytes);
        }
    }

    #[test]
    fn no_mutilation_of_a_real_line_panics(at in any::<prop::sample::Index>(), with in "[\\[\\]<>\"\\\\= 1:é-]{0,3}") {
        let lines = [
            (Format::Combined, r#"203.0.113.7 - - [23/Nov/2026:23:44:29 +0100] "GET / HTTP/1.1" 200 612 "https://e/" "M (\"q\")" x"#),
            (Format::Syslog, r#"<165>1 2026-11-23T15:44:29.000003-07:00 192.0.2.1 myproc 8710 - [ex@3 iut="3" e="A\"c]a\\"][p@3 c="h"] text"#),
            (Format::Syslog, "<34>Nov 23 22:44:29 mymachine su[12]: 'su root' failed"),
            (Format::Logfmt, r#"ts=2026-11-23T22:44:31Z level=warn msg="slow \"query\"\n" ok"#),
            (Format::Cri, "2016-10-06T00:17:09.669794202Z stdout P:X one"),
            (Format::Text, "[2026-11-23 22:44:27,500] [warn] x"),
        ];
        for (format, line) in lines {
            let at = at.index(line.len() + 1);
            decode(format, &line.as_bytes()[..at]);
            let end = (at + with.len()).min(line.len());
            decode(format, &[&line.as_bytes()[..at], with.as_bytes(), &line.as_bytes()[end..]].concat());
        }
    }
}

#[test]
fn records_of_a_log_source_have_the_columns_of_the_log_model_beside_their_own() {
    let context = Context { resource: Some("{\"log.file.path\":\"/x\"}"), ..context() };
    let input = b"{\"ts\":\"2026-11-23T22:44:29Z\",\"level\":\"error\",\"msg\":\"gone\"}\n{\"level\":30}\n{\"a\":1}\n";
    let mut decoder = Decoder::new(DecoderConfig::of(Format::Ndjson)).unwrap();
    let batch = decoder.decode(input, &context).unwrap().batch;
    assert_eq!(column(&batch, "severity"), ["ERROR", "INFO", "NULL"]);
    assert_eq!(column(&batch, "level"), ["error", "30", "NULL"]);
    assert_eq!(column(&batch, "msg"), ["gone", "NULL", "NULL"]);
    assert_eq!(cell(&batch, "resource", 2), "{\"log.file.path\":\"/x\"}");
    let observed = batch.column_by_name("observed_ts").unwrap();
    assert_eq!(observed.as_primitive::<TimestampMicrosecondType>().values()[..], [OBSERVED_US; 3]);
    // Once stated, the column stays; a field of the same name takes its place.
    let batch = decoder.decode(b"{\"a\":2}\n", &context).unwrap().batch;
    assert_eq!(column(&batch, "severity"), ["NULL"]);
    let batch = decoder.decode(b"{\"Severity\":\"Odd\",\"resource\":7}\n", &context).unwrap().batch;
    assert_eq!(
        (column(&batch, "Severity"), column(&batch, "resource")),
        (vec!["Odd".to_owned()], vec!["7".to_owned()])
    );
    assert!(batch.column_by_name("severity").is_none());

    let mut decoder = Decoder::new(DecoderConfig::of(Format::Csv)).unwrap();
    let batch = decoder.decode(b"level,n\nWARN,1\n,2\n", &context).unwrap().batch;
    assert_eq!(
        (column(&batch, "severity"), column(&batch, "n")),
        (vec!["WARN".to_owned(), "NULL".to_owned()], vec!["1".to_owned(), "2".to_owned()])
    );
    // Who does not say where records come from gets their fields only.
    let batch = decode(Format::Ndjson, input).batch;
    assert!(batch.column_by_name("severity").is_none() && batch.column_by_name("resource").is_none());
}
