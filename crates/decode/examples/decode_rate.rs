//! How fast the decoders are beside a library parser and plain copying: one thread, median of five.
//!
//! Prints one JSON object a line, `{"name": …, "mb_per_core_s": …, "ratio_to": …, "ratio": …}`; MB is 10^6 bytes of input. Time
//! is the thread's time on a core where Linux tells it, so that a busy machine does not blur the figures.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use aap_decode::{Context, Decoder, DecoderConfig, Format};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

/// Input of one measurement, cut into batches like the agent's.
const INPUT_BYTES: usize = 64 << 20;
const BATCH_BYTES: usize = 1 << 20;
const RUNS: usize = 5;

fn main() {
    let json = lines(json_line);
    let text = lines(text_line);
    let copied = rate(&json, || (), |(), chunk| drop(black_box(chunk.to_vec())));
    report("memcpy", copied, "memcpy", copied);
    let arrow = rate(&json, || (), |(), chunk| arrow_json(chunk));
    report("arrow-json ndjson, schema given", arrow, "memcpy", copied);
    let serde = rate(&json, || (), |(), chunk| serde_values(chunk));
    report("serde_json ndjson to values", serde, "memcpy", copied);
    for (name, format, input) in [("ndjson", Format::Ndjson, &json), ("text", Format::Text, &text)] {
        let new = || Decoder::new(DecoderConfig::of(format)).expect("defaults are valid");
        let ours = rate(input, new, decode);
        report(name, ours, "memcpy", copied);
        if format == Format::Ndjson {
            report(name, ours, "arrow-json", arrow);
        }
    }
}

fn decode(decoder: &mut Decoder, chunk: &[u8]) {
    let context = Context { observed_us: 1_795_473_870_000_000, ..Context::default() };
    let decoded = decoder.decode(chunk, &context).expect("decode");
    assert!(decoded.bad.is_empty());
    black_box(decoded.batch);
}

fn arrow_json(chunk: &[u8]) {
    let utf8 = |name: &str| Field::new(name, DataType::Utf8, true);
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let schema = Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())), true),
        utf8("level"),
        utf8("host"),
        utf8("service"),
        int("status"),
        int("bytes"),
        Field::new("duration_ms", DataType::Float64, true),
        Field::new("cached", DataType::Boolean, true),
        utf8("message"),
    ]);
    let reader = arrow_json::ReaderBuilder::new(Arc::new(schema)).with_batch_size(8192).build(chunk);
    reader.expect("reader").for_each(|batch| drop(black_box(batch.expect("batch"))));
}

fn serde_values(chunk: &[u8]) {
    for line in chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        black_box(serde_json::from_slice::<serde_json::Value>(line).expect("valid"));
    }
}

/// Megabytes a second, the median of the runs.
fn rate<S>(input: &[Vec<u8>], new: impl Fn() -> S, mut work: impl FnMut(&mut S, &[u8])) -> f64 {
    let bytes: usize = input.iter().map(Vec::len).sum();
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let mut state = new();
            let start = seconds();
            input.iter().for_each(|chunk| work(&mut state, chunk));
            bytes as f64 / 1e6 / (seconds() - start)
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[RUNS / 2]
}

/// The seconds this thread has spent on a core, else the seconds since the first call.
fn seconds() -> f64 {
    let on_core = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = on_core.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    match ns {
        Some(ns) => ns as f64 / 1e9,
        None => BEGIN.elapsed().as_secs_f64(),
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement of real time")]
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

fn report(name: &str, rate: f64, against: &str, reference: f64) {
    let line = serde_json::json!({
        "name": name, "mb_per_core_s": rate.round(), "ratio_to": against, "ratio": (rate / reference * 100.0).round() / 100.0,
    });
    writeln!(std::io::stdout(), "{line}").expect("write to stdout");
}

/// Batches of lines made by `line` from a counter and noise.
fn lines(line: fn(&mut Vec<u8>, u64, u64)) -> Vec<Vec<u8>> {
    let (mut noise, mut n) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    let mut batches = Vec::new();
    for _ in 0..INPUT_BYTES / BATCH_BYTES {
        let mut batch = Vec::with_capacity(BATCH_BYTES + 512);
        while batch.len() < BATCH_BYTES {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            line(&mut batch, n, noise);
            n += 1;
        }
        batches.push(batch);
    }
    batches
}

const LEVELS: [&str; 8] = ["INFO", "INFO", "INFO", "DEBUG", "WARN", "INFO", "ERROR", "INFO"];
const PATHS: [&str; 4] = ["/api/v1/orders", "/api/v1/customers/search", "/static/app.js", "/healthz"];

fn stamp(n: u64) -> String {
    let ms = n % 3_600_000;
    format!("2026-11-23T22:{:02}:{:02}.{:03}Z", ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// Nine fields, about 250 bytes.
fn json_line(out: &mut Vec<u8>, n: u64, noise: u64) {
    let level = LEVELS[(noise & 7) as usize];
    let path = PATHS[(noise >> 3 & 3) as usize];
    writeln!(
        out,
        r#"{{"ts":"{}","level":"{level}","host":"web-{:02}.example.com","service":"checkout","status":{},"bytes":{},"duration_ms":{}.{:03},"cached":{},"message":"handled GET {path} for customer {:08x} in session {:012x} without retry"}}"#,
        stamp(n),
        noise >> 5 & 31,
        [200, 200, 204, 404][(noise >> 10 & 3) as usize],
        noise >> 12 & 0xfffff,
        noise >> 32 & 0xff,
        noise >> 40 & 0x3ff,
        noise >> 50 & 1 == 1,
        noise >> 32,
        noise & 0xffff_ffff_ffff,
    )
    .expect("write to memory");
}

/// A line of a log file, about 250 bytes.
fn text_line(out: &mut Vec<u8>, n: u64, noise: u64) {
    let level = LEVELS[(noise & 7) as usize];
    let path = PATHS[(noise >> 3 & 3) as usize];
    writeln!(
        out,
        "{} {level} [worker-{:02}] com.example.checkout.OrderService - handled GET {path} for customer {:016x} in session {:016x}: {} bytes in {} ms, upstream 10.0.{}.{}:8080, trace {:016x}, without retry and without a warning",
        stamp(n),
        noise >> 5 & 31,
        noise,
        noise.rotate_left(21),
        noise >> 12 & 0xfffff,
        noise >> 40 & 0x3ff,
        noise >> 8 & 0xff,
        noise >> 16 & 0xff,
        noise.rotate_left(43),
    )
    .expect("write to memory");
}
