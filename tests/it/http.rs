//! The HTTP source as its contract describes it: formats, codecs, limits, keys, bad rows, and what stands in the answers.

use aap_tests::{Answer, Platform};
use serde_json::{Value, json};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// What the source says of `body` sent as `content_type`.
#[track_caller]
fn post(platform: &Platform, target: &str, content_type: &str, body: &[u8]) -> Answer {
    platform.http().post(target, &[("content-type", content_type)], body).unwrap()
}

/// The answer is a refusal with `status` and `code`, and says why.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) -> String {
    let error = &answer.body["error"];
    assert_eq!((answer.status, error["code"].as_str()), (status, Some(code)), "{answer:?}");
    error["message"].as_str().unwrap().to_owned()
}

#[track_caller]
fn taken(answer: &Answer, rows: u64) {
    assert_eq!((answer.status, &answer.body["rows"]), (200, &json!(rows)), "{answer:?}");
}

#[test]
fn rows_of_every_format_are_there_when_the_answer_comes() {
    let platform = Platform::started(&[]);
    let expected = vec![json!({"id": 1, "city": "Lyon"}), json!({"id": 2, "city": "Oslo"})];
    let check = |stream: &str, content_type: &str, body: &[u8]| {
        taken(&post(&platform, stream, content_type, body), 2);
        let rows = platform.rows(&format!("select id, city from \"{stream}\" order by _epoch, _seq, _row"));
        assert_eq!(rows, expected, "{content_type}");
    };
    let lines = b"{\"id\":1,\"city\":\"Lyon\"}\n{\"id\":2,\"city\":\"Oslo\"}\n";
    check("ndjson", "application/x-ndjson", lines);
    check("ndjson-unterminated", "application/x-ndjson; charset=utf-8", &lines[..lines.len() - 1]);
    check("array", "application/json", br#"[{"id":1,"city":"Lyon"},{"id":2,"city":"Oslo"}]"#);
    check("csv", "text/csv", b"id,city\r\n1,Lyon\r\n2,\"Oslo\"\r\n");
    let sql = "select * from (values (1, 'Lyon'), (2, 'Oslo')) t (id, city)";
    let mut export = platform.command("aap");
    let export = export.args(["query", "-o", "arrow", sql]).output().unwrap();
    check("arrow", "application/vnd.apache.arrow.stream", &export.stdout);

    taken(&post(&platform, "one", "application/json", br#"{"id":7}"#), 1);
    taken(&post(&platform, "text", "text/plain", b"one\r\ntwo\nthree"), 3);
    let bodies = platform.rows("select body from text order by _epoch, _seq, _row");
    assert_eq!(bodies, vec![json!({"body": "one"}), json!({"body": "two"}), json!({"body": "three"})]);
    taken(&post(&platform, "nothing", "text/plain", b""), 0);
}

#[test]
fn compressed_bodies_are_taken_up_to_the_limit_of_what_they_hold() {
    let platform = Platform::started(&[]);
    let send = |encoding: &str, body: &[u8]| {
        platform.http().post("packed", &[NDJSON, ("content-encoding", encoding)], body).unwrap()
    };
    let lines: String = (0..1000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    for (encoding, program) in [("gzip", "gzip"), ("zstd", "zstd")] {
        taken(&send(encoding, &compressed(program, lines.as_bytes())), 1000);
        let bomb = compressed(program, &vec![b'x'; 300 << 20]);
        let message = refused(&send(encoding, &bomb), 413, "http.too_large");
        assert!(message.contains("16777216"), "the limit is named: {message}");
        refused(&send(encoding, b"neither"), 400, "http.bad_compression");
        let whole = compressed(program, lines.as_bytes());
        refused(&send(encoding, &whole[..whole.len() / 2]), 400, "http.bad_compression");
    }
    refused(&send("br", b"x"), 415, "http.encoding_unknown");
    refused(&post(&platform, "packed", "text/plain", &vec![b'x'; 17 << 20]), 413, "http.too_large");
    assert_eq!(platform.count("select count(*) from packed"), 2000);
    assert!(platform.panics().is_empty());
}

/// `bytes` as a program of the system packs them.
fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(bytes).unwrap());
        child.wait_with_output().unwrap().stdout
    })
}

#[test]
fn a_key_makes_a_repeated_request_the_same_request() {
    let platform = Platform::started(&[]);
    let send = |target: &str, key: &str, body: &str| {
        platform.http().post(target, &[NDJSON, ("idempotency-key", key)], body.as_bytes()).unwrap()
    };
    let first = send("keyed", "k1", "{\"id\":1}");
    taken(&first, 1);
    assert_eq!(send("keyed", "k1", "{\"id\":1}").body, first.body, "the same answer");
    refused(&send("keyed", "k1", "{\"id\":2}"), 422, "http.key_reused");
    taken(&send("keyed", "k2", "{\"id\":1}"), 1);
    taken(&send("other", "k1", "{\"id\":1}"), 1);
    refused(&send("keyed", &"k".repeat(300), "{\"id\":1}"), 400, "http.bad_key");
    // A refused request does not use its key up.
    refused(&send("keyed", "k3", "nonsense"), 400, "http.bad_rows");
    taken(&send("keyed", "k3", "{\"id\":3}"), 1);
    platform.kill_and_wait("agent");
    let again = aap_tests::eventually("an answer of the new agent", || {
        let headers = [NDJSON, ("idempotency-key", "k1")];
        platform.http().post("keyed", &headers, b"{\"id\":1}").ok().filter(|answer| answer.status == 200)
    });
    assert_eq!(again.body, first.body, "the same answer after a kill");
    platform.down().ok();
    platform.up(&[]).ok();
    assert_eq!(send("keyed", "k1", "{\"id\":1}").body, first.body, "the same answer after a restart");
    assert_eq!(platform.count("select count(*) from keyed"), 3);
}

#[test]
fn many_requests_with_one_key_at_once_add_their_rows_once() {
    let platform = Platform::started(&[]);
    let http = platform.http();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let headers = [NDJSON, ("idempotency-key", "same")];
                taken(&http.post("race", &headers, b"{\"id\":1}\n{\"id\":2}\n").unwrap(), 2);
            });
        }
    });
    assert_eq!(platform.count("select count(*) from race"), 2);
}

#[test]
fn bad_rows_are_refused_whole_or_kept_apart_with_text_and_reason() {
    let platform = Platform::started(&[]);
    let body = b"{\"id\":1}\nnot json\n{\"id\":2}\n[3]\n";
    let answer = post(&platform, "mixed", "application/x-ndjson", body);
    let message = refused(&answer, 400, "http.bad_rows");
    assert_eq!(answer.body["error"]["row"], 2);
    assert!(message.contains("row 2") && message.contains("nothing was taken"), "{message}");
    assert_eq!(platform.count("select count(*) from mixed"), 0);

    let answer = post(&platform, "mixed?on_error=dead-letter", "application/x-ndjson", body);
    taken(&answer, 2);
    assert_eq!(answer.body["bad_rows"], 2);
    let dead = platform.rows("select stream, text, reason from \"mixed.dead\" order by _epoch, _seq, _row");
    assert_eq!(dead[0]["text"], "not json");
    assert!(dead.iter().all(|row| row["stream"] == "mixed" && !row["reason"].as_str().unwrap().is_empty()));
    assert_eq!((dead.len(), &dead[1]["text"]), (2, &json!("[3]")));
    refused(&post(&platform, "mixed?on_error=ignore", "text/plain", b"x"), 400, "http.bad_parameter");
    let csv = post(&platform, "mixed", "text/csv", b"a,b\n1,2\n1,2,3\n");
    assert!(refused(&csv, 400, "http.bad_rows").contains("3 fields where the header has 2"));
}

#[test]
fn slow_clients_keep_nobody_out() {
    use std::io::Write;
    let platform = Platform::started(&[]);
    let address = platform.http().address().to_owned();
    let head = format!(
        "POST /v1/streams/slow HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: text/plain\r\n\
         content-length: 1000000\r\n\r\nfirst\n",
        platform.token()
    );
    let slow: Vec<_> = (0..40)
        .map(|_| {
            let mut connection = std::net::TcpStream::connect(&address).unwrap();
            connection.write_all(head.as_bytes()).unwrap();
            connection
        })
        .collect();
    for id in 0..20 {
        taken(&post(&platform, "others", "application/x-ndjson", format!("{{\"id\":{id}}}").as_bytes()), 1);
    }
    let large = vec![b'x'; 16 << 20];
    taken(&post(&platform, "others", "text/plain", &large), 1);
    drop(slow);
    assert_eq!(platform.count("select count(*) from others"), 21);
}

#[test]
fn elements_of_an_array_are_named_by_their_number() {
    let platform = Platform::started(&[]);
    for (body, row) in [("[{\"a\":1},5,{\"a\":2}]", 2), ("[{\"a\":1},\n\n{\"a\":2},{\"a\":]", 3)] {
        let answer = post(&platform, "array", "application/json", body.as_bytes());
        assert!(refused(&answer, 400, "http.bad_rows").contains(&format!("row {row}:")), "{answer:?}");
        assert_eq!(answer.body["error"]["row"], row);
    }
}

#[test]
fn what_is_no_valid_input_is_refused_by_name_and_nothing_of_it_stays() {
    let platform = Platform::started(&[]);
    let bad = |content_type: &str, body: &[u8], word: &str| {
        let message = refused(&post(&platform, "bad", content_type, body), 400, "http.bad_rows");
        assert!(message.contains(word), "`{word}` is not in: {message}");
    };
    let json = "application/x-ndjson";
    bad(json, b"{\"a\":NaN}", "row 1");
    bad(json, b"{\"a\":Infinity}", "row 1");
    bad(json, b"{\"a\":\"\xff\xfe\"}", "UTF-8");
    bad(json, b"{\"a\":\"\\ud800\"}", "surrogate");
    bad(json, b"{\"a\":01}", "row 1");
    bad(json, b"{\"a\":1} trailing", "row 1");
    bad(
        json,
        &[b"{\"a\":".repeat(10_000), b"1".to_vec(), b"}".repeat(10_000)].concat(),
        "nested deeper than",
    );
    bad(
        json,
        &[b"{\"a\":".to_vec(), b"[".repeat(10_000), b"]".repeat(10_000), b"}".to_vec()].concat(),
        "nested",
    );
    let wide: Value =
        (0..5000).map(|n| (format!("c{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
    bad(json, wide.to_string().as_bytes(), "columns");
    let header: Vec<String> = (0..5000).map(|n| format!("c{n}")).collect();
    bad("text/csv", format!("{0}\n{0}\n", header.join(",")).as_bytes(), "columns");
    let garbage: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    bad(json, &garbage, "row 1");
    bad("application/json", &garbage, "row 1");
    bad("text/csv", &garbage, "UTF-8");
    bad("application/vnd.apache.arrow.stream", &garbage, "Arrow");
    bad("application/json", b"[{\"a\":1},", "JSON");
    bad("application/json", b"42", "object");
    for content_type in ["application/xml", "", "multipart/form-data; boundary=x"] {
        refused(&post(&platform, "bad", content_type, b"x"), 415, "http.type_unknown");
    }
    for name in ["Bad", "_x", "a%20b", &"x".repeat(64), "..%2Fx"] {
        let answer = post(&platform, name, json, b"{}");
        assert!(refused(&answer, 400, "http.bad_stream").contains("a-z"), "{name}");
    }
    assert_eq!(platform.count("select count(*) from bad"), 0);
    taken(&post(&platform, "good", json, b"{\"a\":1}"), 1);
    assert!(platform.panics().is_empty(), "{:?}", platform.panics());
}

#[test]
fn odd_columns_are_taken_under_names_that_hide_nothing() {
    let platform = Platform::started(&[]);
    let body = br#"{"_seq":"mine","_node":"mine","a":1,"":2,"ts":"not a time","A":3,"n":null,"big":18446744073709551616}"#;
    taken(&post(&platform, "odd", "application/json", body), 1);
    let row = &platform.rows("select * from odd")[0];
    assert_eq!(row["_seq"], 1, "the row's identity is ours: {row}");
    let text = row.to_string();
    assert_eq!(text.matches("mine").count(), 2, "both values are there: {row}");
    assert!(text.contains("not a time"), "a time that is none keeps its text: {row}");
    assert!(text.contains("18446744073709551616"), "no digit is lost: {row}");
}

#[test]
fn a_wrong_token_is_refused_and_says_where_the_right_one_is() {
    let platform = Platform::started(&[]);
    for token in ["", "wrong", &platform.token()[1..]] {
        let answer = platform.http().with_token(token).post("x", &[NDJSON], b"{}").unwrap();
        assert!(refused(&answer, 401, "auth.token_refused").contains("operator.token"));
    }
    assert_eq!(platform.count("select count(*) from x"), 0);
}

#[test]
fn the_agent_says_that_it_lives_that_it_is_ready_and_what_it_counted() {
    let platform = Platform::started(&[]);
    let get = |path: &str| platform.http().get(path).unwrap();
    assert_eq!((get("/healthz").status, get("/readyz").status), (200, 200));
    taken(&post(&platform, "counted?on_error=dead-letter", "application/x-ndjson", b"{\"a\":1}\nbad\n"), 1);
    assert_eq!(platform.metric("aap_agent_rows_read_total{stream=\"counted\"}"), 2.0);
    assert_eq!(platform.metric("aap_agent_rows_durable_total{stream=\"counted\"}"), 1.0);
    let dropped = "aap_agent_rows_dropped_total{stream=\"counted\",reason=\"dead_letter\"}";
    assert_eq!(platform.metric(dropped), 1.0, "read = durable + dropped");
    assert_eq!(platform.metric("aap_agent_uplink_connected"), 1.0);
}

#[test]
fn a_request_without_its_end_takes_nothing() {
    use std::io::{Read, Write};
    let platform = Platform::started(&[]);
    let address = platform.http().address().to_owned();
    let token = platform.token();
    let mut connection = std::net::TcpStream::connect(&address).unwrap();
    let head = format!(
        "POST /v1/streams/cut HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\nhalf\n"
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok();
    assert!(!answer.contains(" 200 "), "{answer}");
    taken(&post(&platform, "whole", "text/plain", b"x"), 1);
    assert_eq!(platform.count("select count(*) from cut"), 0);
}

#[test]
fn a_path_that_is_not_there_is_404_and_a_wrong_method_405_at_both_daemons() {
    let platform = Platform::started(&[]);
    let coordinator = aap_tests::Http::new(&platform.endpoint("operator").unwrap(), "");
    for http in [platform.http(), coordinator] {
        for path in ["/", "/v1/nothing", "/metrics/more"] {
            refused(&http.get(path).unwrap(), 404, "http.no_such_path");
        }
        assert_eq!(http.get("/healthz").unwrap().status, 200);
    }
    refused(&platform.http().get("/v1/streams/events").unwrap(), 405, "http.wrong_method");
}
