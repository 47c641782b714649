//! Requests as clients send them, in JSON and on the wire, and what stands in the rows.

use arrow_array::{ArrayRef, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::DataType;

use super::{OtlpError, RESOURCE_BYTES_MAX, ROWS_MAX, Signal, Taken, decode, json_to_protobuf};
use crate::wire::{put_bytes, put_tag, put_varint};

const OBSERVED_US: i64 = 1_800_000_000_000_000;

fn take(signal: Signal, request: &[u8]) -> Result<(Vec<RecordBatch>, Taken), OtlpError> {
    let mut batches = Vec::new();
    let taken = decode::<OtlpError>(signal, request, OBSERVED_US, &mut |batch, _| {
        batches.push(batch);
        Ok(())
    })?;
    assert_eq!(taken.rows, batches.iter().map(|batch| batch.num_rows() as u64).sum::<u64>());
    Ok((batches, taken))
}

fn take_json(signal: Signal, json: &str) -> (Vec<RecordBatch>, Taken) {
    take(signal, &json_to_protobuf(signal, json.as_bytes()).unwrap()).unwrap()
}

/// One value of a row as text; `-` for null.
fn value(batch: &RecordBatch, row: usize, column: &str) -> String {
    let options = FormatOptions::default().with_null("-");
    let column = batch.column_by_name(column).unwrap_or_else(|| panic!("no column {column}"));
    ArrayFormatter::try_new(&without_zone(column), &options).unwrap().value(row).to_string()
}

/// Times as they are printed without a database of zones.
pub(crate) fn without_zone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(unit, Some(_)) => {
            arrow_cast::cast(column, &DataType::Timestamp(*unit, None)).unwrap()
        }
        _ => column.clone(),
    }
}

#[track_caller]
fn check(batch: &RecordBatch, row: usize, expected: &[(&str, &str)]) {
    for (column, text) in expected {
        assert_eq!(value(batch, row, column), *text, "{column}");
    }
}

const LOGS: &str = r#"{"resourceLogs":[{"resource":{"attributes":[
  {"key":"service.name","value":{"stringValue":"shop"}},{"key":"pid","value":{"intValue":"42"}}]},
 "scopeLogs":[{"scope":{"name":"lib","version":"1.2","attributes":[{"key":"s","value":{"boolValue":true}}]},"logRecords":[
  {"timeUnixNano":"1700000000123456789","observedTimeUnixNano":1700000001000000000,"severityNumber":17,"severityText":"Err",
   "body":{"stringValue":"it \"broke\""},"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174","flags":1,
   "eventName":"e","droppedAttributesCount":3,"unknown":{"a":[1]},
   "attributes":[{"key":"list","value":{"arrayValue":{"values":[{"intValue":1},{"doubleValue":1.5},{"stringValue":"é\n"},{}]}}},
     {"key":"map","value":{"kvlistValue":{"values":[{"key":"b","value":{"bytesValue":"AQID/w=="}}]}}}]},
  {"body":{"kvlistValue":{"values":[{"key":"k","value":{"intValue":"-7"}}]}},"traceId":"00","severityNumber":99}]}]}]}"#;

#[test]
fn a_log_record_is_a_row_with_its_resource_and_scope() {
    let (batches, taken) = take_json(Signal::Logs, LOGS);
    assert_eq!(taken, Taken { rows: 2, rejected: 0, reason: String::new() });
    check(
        &batches[0],
        0,
        &[
            ("ts", "2023-11-14T22:13:20.123456"),
            ("observed_ts", "2023-11-14T22:13:21"),
            ("time_unix_nano", "1700000000123456789"),
            ("severity", "ERROR"),
            ("severity_number", "17"),
            ("severity_text", "Err"),
            ("body", "it \"broke\""),
            ("trace_id", "5b8efff798038103d269b633813fc60c"),
            ("span_id", "eee19b7ec3c1b174"),
            ("flags", "1"),
            ("event_name", "e"),
            ("dropped_attributes_count", "3"),
            ("attributes", r#"{"list":[1,1.5,"é\n",null],"map":{"b":"AQID/w=="}}"#),
            ("resource", r#"{"service.name":"shop","pid":42}"#),
            ("service_name", "shop"),
            ("scope_name", "lib"),
            ("scope_version", "1.2"),
            ("scope_attributes", r#"{"s":true}"#),
        ],
    );
    check(
        &batches[0],
        1,
        &[
            // No time is stated: the time of the request.
            ("ts", "2027-01-15T08:00:00"),
            ("time_unix_nano", "-"),
            ("severity", "-"),
            ("severity_number", "99"),
            ("body", r#"{"k":-7}"#),
            ("trace_id", "-"),
            ("attributes", "-"),
            ("service_name", "shop"),
        ],
    );
}

const METRICS: &str = r#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[
 {"name":"requests","unit":"1","description":"d","sum":{"aggregationTemporality":2,"isMonotonic":true,"dataPoints":[
   {"asInt":"9007199254740993","startTimeUnixNano":"1700000000000000000","timeUnixNano":"1700000001000000000",
    "attributes":[{"key":"route","value":{"stringValue":"/"}}],
    "exemplars":[{"timeUnixNano":"5","asDouble":2.5,"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174"}]}]}},
 {"name":"load","gauge":{"dataPoints":[{"asDouble":0.25},{"flags":1},{"asDouble":"NaN"}]}},
 {"name":"latency","histogram":{"aggregationTemporality":1,"dataPoints":[
   {"count":"3","sum":6.5,"min":0.5,"max":4,"bucketCounts":["1","2",0],"explicitBounds":[1,2.5]}]}},
 {"name":"exp","exponentialHistogram":{"aggregationTemporality":2,"dataPoints":[
   {"count":5,"scale":-1,"zeroCount":2,"positive":{"offset":-3,"bucketCounts":["1","2"]}}]}},
 {"name":"sum","summary":{"dataPoints":[{"count":"2","sum":3,"quantileValues":[{"quantile":0.5,"value":1.5},{"quantile":1,"value":2}]}]}},
 {"name":"nothing"}]}]}]}"#;

#[test]
fn a_data_point_of_every_type_is_a_row() {
    let (batches, taken) = take_json(Signal::Metrics, METRICS);
    assert_eq!((taken.rows, taken.rejected), (7, 1));
    assert!(taken.reason.contains("data points"), "{}", taken.reason);
    let [batch] = &batches[..] else { panic!("{batches:?}") };
    check(
        batch,
        0,
        &[
            ("ts", "2023-11-14T22:13:21"),
            ("metric", "requests"),
            ("type", "sum"),
            ("unit", "1"),
            ("description", "d"),
            ("value_int", "9007199254740993"),
            ("value", "9007199254740992.0"),
            ("temporality", "cumulative"),
            ("is_monotonic", "true"),
            ("start_time_unix_nano", "1700000000000000000"),
            ("attributes", r#"{"route":"/"}"#),
            (
                "exemplars",
                r#"[{"time_unix_nano":5,"value":2.5,"trace_id":"5b8efff798038103d269b633813fc60c","span_id":"eee19b7ec3c1b174"}]"#,
            ),
            ("resource", "-"),
        ],
    );
    check(batch, 1, &[("metric", "load"), ("type", "gauge"), ("value", "0.25"), ("value_int", "-")]);
    check(batch, 2, &[("value", "-"), ("flags", "1"), ("is_monotonic", "-")]);
    check(batch, 3, &[("value", "NaN")]);
    check(
        batch,
        4,
        &[
            ("type", "histogram"),
            ("temporality", "delta"),
            ("count", "3"),
            ("sum", "6.5"),
            ("min", "0.5"),
            ("max", "4.0"),
            ("bounds", "[1.0,2.5]"),
            ("bucket_counts", "[1,2,0]"),
            ("value", "-"),
        ],
    );
    let exponential = r#"{"scale":-1,"zero_count":2,"zero_threshold":0.0,"positive":{"offset":-3,"counts":[1,2]},"negative":{"offset":0,"counts":[]}}"#;
    check(batch, 5, &[("type", "exponential_histogram"), ("exponential", exponential), ("count", "5")]);
    check(batch, 6, &[("type", "summary"), ("quantiles", "[[0.5,1.5],[1.0,2.0]]"), ("sum", "3.0")]);
}

const TRACES: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
 {"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","parentSpanId":"eee19b7ec3c1b173","name":"GET /","kind":2,
  "startTimeUnixNano":"1700000000000000001","endTimeUnixNano":"1700000000500000003","traceState":"a=b",
  "status":{"code":2,"message":"no"},"attributes":[{"key":"n","value":{"doubleValue":1}}],
  "events":[{"timeUnixNano":"7","name":"e","attributes":[{"key":"x","value":{"stringValue":"y"}}]},{"name":"f"}],
  "links":[{"traceId":"5b8efff798038103d269b633813fc60d","spanId":"eee19b7ec3c1b175"}]},
 {"traceId":"00000000000000000000000000000000","spanId":"eee19b7ec3c1b174","name":"no trace"}]}]}]}"#;

#[test]
fn a_span_is_a_row_and_one_without_ids_is_refused_by_itself() {
    let (batches, taken) = take_json(Signal::Traces, TRACES);
    assert_eq!((taken.rows, taken.rejected), (1, 1));
    assert!(taken.reason.contains("trace_id"), "{}", taken.reason);
    check(
        &batches[0],
        0,
        &[
            ("ts", "2023-11-14T22:13:20"),
            ("end_ts", "2023-11-14T22:13:20.500"),
            ("duration_ns", "500000002"),
            ("trace_id", "5b8efff798038103d269b633813fc60c"),
            ("span_id", "eee19b7ec3c1b174"),
            ("parent_span_id", "eee19b7ec3c1b173"),
            ("name", "GET /"),
            ("kind", "server"),
            ("status", "error"),
            ("status_message", "no"),
            ("trace_state", "a=b"),
            ("attributes", r#"{"n":1.0}"#),
            (
                "events",
                r#"[{"time_unix_nano":7,"name":"e","attributes":{"x":"y"}},{"time_unix_nano":0,"name":"f"}]"#,
            ),
            ("links", r#"[{"trace_id":"5b8efff798038103d269b633813fc60d","span_id":"eee19b7ec3c1b175"}]"#),
        ],
    );
}

#[test]
fn the_answer_names_what_was_refused() {
    let taken = Taken { rows: 1, rejected: 2, reason: "why".into() };
    assert_eq!(
        Signal::Traces.answer_json(&taken),
        r#"{"partialSuccess":{"errorMessage":"why","rejectedSpans":"2"}}"#
    );
    assert_eq!(Signal::Logs.answer(&taken), b"\x0a\x07\x08\x02\x12\x03why");
    assert_eq!(Signal::Logs.answer_json(&Taken::default()), "{}");
    assert!(Signal::Logs.answer(&Taken::default()).is_empty());
}

/// A request of log records, each given as a message.
fn logs_of(resource: &[u8], records: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let (mut scope, mut resource_logs, mut request) = (Vec::new(), Vec::new(), Vec::new());
    records.into_iter().for_each(|record| put_bytes(&mut scope, 2, &record));
    // Records before their resource: protobuf knows no order of fields.
    put_bytes(&mut resource_logs, 2, &scope);
    put_bytes(&mut resource_logs, 1, resource);
    put_bytes(&mut request, 1, &resource_logs);
    request
}

fn log(body: &[u8]) -> Vec<u8> {
    let (mut any, mut record) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, body);
    put_bytes(&mut record, 5, &any);
    record
}

#[test]
fn a_bad_record_does_not_take_the_others_with_it() {
    let mut deep = b"\x0a\x01x".to_vec();
    for _ in 0..100 {
        let (mut array, mut any) = (Vec::new(), Vec::new());
        put_bytes(&mut array, 1, &deep);
        put_bytes(&mut any, 5, &array);
        deep = any;
    }
    let mut nested = Vec::new();
    put_bytes(&mut nested, 5, &deep);
    let large = log(&vec![b'x'; super::RECORD_BYTES_MAX]);
    let records = [log(b"first"), log(b"\xff\xfe"), nested, large, log(b"last")];
    let (batches, taken) = take(Signal::Logs, &logs_of(b"", records)).unwrap();
    assert_eq!((taken.rows, taken.rejected), (2, 3));
    assert_eq!(taken.reason, "a text is not UTF-8");
    assert_eq!([value(&batches[0], 0, "body"), value(&batches[0], 1, "body")], ["first", "last"]);
}

#[test]
fn a_request_that_is_broken_is_refused_whole() {
    let whole = logs_of(b"", [log(b"first"), log(b"second")]);
    for cut in 1..whole.len() {
        assert!(take(Signal::Logs, &whole[..cut]).is_err(), "{cut}");
    }
    assert!(take(Signal::Traces, b"\x0a\xff").is_err());
    for json in ["", "[]", "{\"resourceLogs\":3}", "{\"resourceLogs\":[{]}", "{} x"] {
        assert!(json_to_protobuf(Signal::Logs, json.as_bytes()).is_err(), "{json}");
    }
    let id = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"xyz"}]}]}]}"#;
    let error = json_to_protobuf(Signal::Logs, id.as_bytes()).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("hex"), "{error:?}");
}

#[test]
fn many_records_fill_many_batches_each_with_its_resource() {
    let mut resource = Vec::new();
    let (mut any, mut pair) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, b"many");
    put_bytes(&mut pair, 1, b"service.name");
    put_bytes(&mut pair, 2, &any);
    put_bytes(&mut resource, 1, &pair);
    let rows = ROWS_MAX * 2 + 5;
    let request = logs_of(&resource, (0..rows).map(|_| log(b"x")));
    let (batches, taken) = take(Signal::Logs, &request).unwrap();
    assert_eq!(taken.rows, rows as u64);
    assert!(batches.iter().all(|batch| batch.num_rows() <= ROWS_MAX));
    for batch in &batches {
        for row in [0, batch.num_rows() - 1] {
            assert_eq!(value(batch, row, "service_name"), "many");
        }
    }
}

#[test]
fn a_few_bytes_never_become_terabytes() {
    let mut resource = Vec::new();
    let (mut any, mut pair) = (Vec::new(), Vec::new());
    put_bytes(&mut any, 1, &vec![b'x'; RESOURCE_BYTES_MAX - 64]);
    put_bytes(&mut pair, 1, b"k");
    put_bytes(&mut pair, 2, &any);
    put_bytes(&mut resource, 1, &pair);
    let request = logs_of(&resource, (0..100_000).map(|_| Vec::new()));
    let (_, taken) = take(Signal::Logs, &request).unwrap();
    assert!(taken.rows < 10_000, "{taken:?}");
    assert_eq!(taken.rows + taken.rejected, 100_000);
    resource.extend_from_slice(&resource.clone());
    let (_, taken) = take(Signal::Logs, &logs_of(&resource, [log(b"x")])).unwrap();
    assert_eq!((taken.rows, taken.rejected), (0, 1));
}

#[test]
fn a_status_says_when_to_come_again() {
    let mut expected = Vec::new();
    put_tag(&mut expected, 1, 0);
    put_varint(&mut expected, 8);
    put_bytes(&mut expected, 2, b"full");
    let any = b"\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x01";
    put_bytes(&mut expected, 3, any);
    assert_eq!(super::status(8, "full", Some(1)), expected);
}
