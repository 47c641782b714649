//! Samples as Prometheus sends them and as targets show them, and what stands in the rows.

use arrow_array::RecordBatch;
use arrow_cast::display::{ArrayFormatter, FormatOptions};

use super::{Exposition, PrometheusError, Samples, Taken, decode_text, decode_write};
use crate::otlp::tests::without_zone;
use crate::wire::{put_bytes, put_tag, put_varint};

/// The values of a row as text, in the order of `columns`; `-` for null.
fn row(batch: &RecordBatch, row: usize, columns: &[&str]) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let value = |name: &&str| {
        let column = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        ArrayFormatter::try_new(&without_zone(column), &options).unwrap().value(row).to_string()
    };
    columns.iter().map(value).collect()
}

fn scrape(
    text: &str,
    is_open_metrics: bool,
    labels: &[(&str, &str)],
) -> Result<RecordBatch, PrometheusError> {
    let labels: Vec<_> = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let exposition =
        Exposition { text: text.as_bytes(), is_open_metrics, labels: &labels, scraped_us: 1_000_000 };
    let mut samples = Samples::default();
    let rows = decode_text::<PrometheusError>(&exposition, &mut samples, &mut |_| panic!("one batch"))?;
    let batch = samples.finish().unwrap().unwrap();
    assert_eq!(batch.num_rows() as u64, rows);
    Ok(batch)
}

#[test]
fn the_text_format_gives_a_row_a_sample() {
    let text = "# HELP http_requests_total The total.\n# TYPE http_requests_total counter\n\
        http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\
        http_requests_total{method=\"p\\\"q\\\\r\\ns\",} 3\n\n\
        # a comment\n\
        weird{problem=\"divide by zero\"} +Inf -3982045\n\
        # TYPE rpc histogram\nrpc_bucket{le=\"0.05\"} 24054\r\nrpc_sum 1.7560473e+07\nrpc_other NaN\n\
        {\"quoted.name\",job=\"theirs\"} 5";
    let batch = scrape(text, false, &[("job", "node"), ("instance", "h:1")]).unwrap();
    let columns = ["ts", "metric", "value", "type", "attributes", "job", "instance"];
    let check = |at: usize, expected: [&str; 5]| {
        let found = row(&batch, at, &columns);
        assert_eq!(found[..5], expected, "{at}");
        assert_eq!(found[5..], ["node", "h:1"]);
    };
    check(
        0,
        [
            "2014-03-17T14:26:03",
            "http_requests_total",
            "1027.0",
            "counter",
            r#"{"method":"post","code":"200","job":"node","instance":"h:1"}"#,
        ],
    );
    let escaped = r#"{"method":"p\"q\\r\ns","job":"node","instance":"h:1"}"#;
    check(1, ["1970-01-01T00:00:01", "http_requests_total", "3.0", "counter", escaped]);
    let weird = r#"{"problem":"divide by zero","job":"node","instance":"h:1"}"#;
    check(2, ["1969-12-31T22:53:37.955", "weird", "inf", "-", weird]);
    let bucket = r#"{"le":"0.05","job":"node","instance":"h:1"}"#;
    check(3, ["1970-01-01T00:00:01", "rpc_bucket", "24054.0", "histogram", bucket]);
    let none = r#"{"job":"node","instance":"h:1"}"#;
    check(4, ["1970-01-01T00:00:01", "rpc_sum", "17560473.0", "histogram", none]);
    check(5, ["1970-01-01T00:00:01", "rpc_other", "NaN", "-", none]);
    let renamed = r#"{"exported_job":"theirs","job":"node","instance":"h:1"}"#;
    check(6, ["1970-01-01T00:00:01", "quoted.name", "5.0", "-", renamed]);
}

#[test]
fn open_metrics_has_times_in_seconds_units_and_exemplars() {
    let text = "# TYPE foo_seconds counter\n# UNIT foo_seconds seconds\n\
        foo_seconds_total{a=\"b\"} 17 1520879607.789 # {trace_id=\"KOO5S4vxi0o\"} 0.67 1520879607.5\n\
        foo_seconds_created 1\n# EOF\nrubbish behind the end\n";
    let batch = scrape(text, true, &[]).unwrap();
    let columns = ["ts", "metric", "type", "unit", "attributes", "exemplars"];
    let exemplar = r#"[{"value":0.67,"timestamp":1520879607.5,"labels":{"trace_id":"KOO5S4vxi0o"}}]"#;
    let expected =
        ["2018-03-12T18:33:27.789", "foo_seconds_total", "counter", "seconds", r#"{"a":"b"}"#, exemplar];
    assert_eq!(row(&batch, 0, &columns), expected);
    assert_eq!(row(&batch, 1, &columns)[1..], ["foo_seconds_created", "counter", "seconds", "-", "-"]);
}

#[test]
fn a_line_that_is_wrong_refuses_the_whole_and_is_named() {
    for bad in [
        "x",
        "x{",
        "x{a}",
        "x{a=b} 1",
        "x{a=\"b} 1",
        "x{a=\"b\"c=\"d\"} 1",
        "x one",
        "x 1 2 3",
        "x 1 now",
        "{a=\"b\"} 1",
        "x{1=\"b\"} 1",
    ] {
        match scrape(&format!("good 1\n{bad}\ngood 2\n"), false, &[]) {
            Err(PrometheusError::Text { line: 2, .. }) => {}
            other => panic!("{bad}: {other:?}"),
        }
    }
}

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
    out
}

fn label(name: &str, value: &str) -> Vec<u8> {
    message(&[(1, name.as_bytes()), (2, value.as_bytes())])
}

fn sample(value: f64, ms: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_tag(&mut out, 1, 1);
    out.extend_from_slice(&value.to_bits().to_le_bytes());
    put_tag(&mut out, 2, 0);
    put_varint(&mut out, ms.cast_unsigned());
    out
}

fn write(request: &[u8]) -> Result<(Vec<RecordBatch>, Taken), PrometheusError> {
    let mut batches = Vec::new();
    let taken = decode_write::<PrometheusError>(request, 1, &mut |batch, _| {
        batches.push(batch);
        Ok(())
    })?;
    Ok((batches, taken))
}

#[test]
fn remote_write_gives_a_row_a_sample_and_keeps_what_it_can() {
    let stale = f64::from_bits(0x7ff0_0000_0000_0002);
    let good = message(&[
        (2, &sample(1.5, 1_395_066_363_000)),
        (1, &label("__name__", "up")),
        (1, &label("job", "j")),
        (1, &label("instance", "i")),
        (2, &sample(stale, 1_395_066_364_000)),
    ]);
    let bad = message(&[(1, &label("__name__", "x")), (1, b"\x0a\x01\xff"), (2, &sample(1.0, 1))]);
    let exemplar = [message(&[(1, &label("trace_id", "t"))]), sample(0.25, 7).split_off(9)].concat();
    let mut exemplar_only = message(&[(1, &label("__name__", "e"))]);
    put_bytes(&mut exemplar_only, 3, &exemplar);
    // A native histogram: integer count 3, sum 2.5, schema 3, one span of two buckets with deltas +1, +1.
    let mut histogram = vec![0x08, 3, 0x19];
    histogram.extend_from_slice(&2.5f64.to_le_bytes());
    histogram.extend_from_slice(&[0x20, 6, 0x5a, 4, 0x08, 2, 0x10, 2, 0x62, 2, 2, 2, 0x78, 5]);
    let histograms = message(&[(1, &label("__name__", "h")), (4, &histogram)]);
    let metadata = message(&[(2, b"x")]);
    let request = message(&[(1, &good), (1, &bad), (3, &metadata), (1, &exemplar_only), (1, &histograms)]);
    let (batches, taken) = write(&request).unwrap();
    assert_eq!((taken.rows, taken.rejected), (4, 1));
    assert_eq!(taken.reason, "a label is not UTF-8");
    let columns = ["ts", "metric", "value", "attributes", "job", "instance", "is_stale", "histogram"];
    let labels = r#"{"job":"j","instance":"i"}"#;
    assert_eq!(
        row(&batches[0], 0, &columns),
        ["2014-03-17T14:26:03", "up", "1.5", labels, "j", "i", "-", "-"]
    );
    assert_eq!(
        row(&batches[0], 1, &columns),
        ["2014-03-17T14:26:04", "up", "-", labels, "j", "i", "true", "-"]
    );
    let columns = ["metric", "value", "exemplars", "histogram"];
    let exemplars = row(&batches[0], 2, &columns);
    assert_eq!(exemplars[0], "e");
    assert!(exemplars[2].contains(r#""labels":{"trace_id":"t"}"#), "{exemplars:?}");
    let json = r#"{"schema":3,"count":3,"zero_count":0,"sum":2.5,"zero_threshold":0.0,"positive":{"spans":[[1,2]],"counts":[1,2]},"negative":{"spans":[],"counts":[]}}"#;
    assert_eq!(row(&batches[0], 3, &columns), ["h", "-", "-", json]);
    assert!(write(&request[..request.len() - 3]).is_err(), "a request that is cut is refused whole");
}

#[test]
fn many_samples_fill_many_batches() {
    let series: Vec<Vec<u8>> = (0..70_000)
        .map(|n| message(&[(1, &label("__name__", &format!("m{}", n % 5))), (2, &sample(n as f64, n))]))
        .collect();
    let request: Vec<u8> = series.iter().flat_map(|series| message(&[(1, series)])).collect();
    let (batches, taken) = write(&request).unwrap();
    assert_eq!(taken.rows, 70_000);
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 70_000);
    assert!(batches.len() > 2);
}
