//! How fast appends become durable, beside a bare loop of pwrite and fdatasync of the same size on the same disk.
//!
//! `cargo run --release -p aap-buffer --example append_rate -- [DIRECTORY] [BATCH_BYTES] [TOTAL_MB] [APPENDERS]`

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, BufferConfig, EncodedBatch, Entry, FrameSchema, RealFileSystem};
use aap_runtime::{Clock, SystemClock};
use aap_types::{Sequence, StreamKey};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use camino::Utf8PathBuf;

struct Run {
    directory: Utf8PathBuf,
    batch_bytes: usize,
    batches: usize,
    appenders: usize,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = Utf8PathBuf::from(arguments.next().unwrap_or_else(|| "/tmp/append-rate".into()));
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (batch_bytes, total_mb, appenders) = (number(65_536)?, number(256)?, number(4)?);
    let run = Run { batches: total_mb * 1_000_000 / batch_bytes, directory, batch_bytes, appenders };
    std::fs::create_dir_all(&run.directory)?;
    let clock = Arc::new(SystemClock::default());

    let bare = bare_loop(&run, clock.as_ref())?;
    report("bare pwrite + fdatasync", &run, &bare);
    let (first, total) = buffer(&run, clock.clone()).await?;
    report("buffer, fresh segments", &run, &first);
    let recovery = clock.monotonic();
    let opened = Buffer::open(Arc::new(RealFileSystem), clock.clone(), config(&run)?)?;
    let took = clock.monotonic().saturating_sub(recovery);
    println!("reopened {} MB in {took:?}, {} bytes read", total / 1_000_000, opened.recovery.bytes_read);
    opened.buffer.close();
    std::fs::remove_dir_all(&run.directory)?;
    Ok(())
}

/// One latency per batch, and the whole time.
struct Outcome {
    latencies: Vec<Duration>,
    took: Duration,
}

fn bare_loop(run: &Run, clock: &dyn Clock) -> Result<Outcome, Box<dyn Error>> {
    let path = run.directory.join("bare");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path)?;
    let span = 16usize << 20;
    file.write_all_at(&vec![0; span], 0)?;
    File::sync_all(&file)?;
    let bytes = vec![0xA5; run.batch_bytes];
    let start = clock.monotonic();
    let mut latencies = Vec::with_capacity(run.batches);
    for batch in 0..run.batches {
        let before = clock.monotonic();
        let at = (batch * run.batch_bytes) % (span - run.batch_bytes.min(span - 1));
        file.write_all_at(&bytes, at as u64)?;
        file.sync_data()?;
        latencies.push(clock.monotonic().saturating_sub(before));
    }
    let took = clock.monotonic().saturating_sub(start);
    std::fs::remove_file(&path)?;
    Ok(Outcome { latencies, took })
}

fn config(run: &Run) -> Result<BufferConfig, Box<dyn Error>> {
    Ok(BufferConfig::new(run.directory.join("store"), "bench".parse()?))
}

async fn buffer(run: &Run, clock: Arc<SystemClock>) -> Result<(Outcome, u64), Box<dyn Error>> {
    let buffer = Buffer::open(Arc::new(RealFileSystem), clock.clone(), config(run)?)?.buffer;
    let schema = FrameSchema::of(Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)])));
    let payload = Bytes::from(vec![0xA5; run.batch_bytes]);
    let start = clock.monotonic();
    let mut appenders = tokio::task::JoinSet::new();
    for _ in 0..run.appenders {
        let (buffer, schema, payload, clock) =
            (buffer.clone(), schema.clone(), payload.clone(), clock.clone());
        let batches = run.batches / run.appenders;
        appenders.spawn(async move {
            let mut latencies = Vec::with_capacity(batches);
            for _ in 0..batches {
                let batch = EncodedBatch {
                    schema: schema.clone(),
                    payload: payload.clone(),
                    rows: 1000,
                    ts_min_us: 0,
                    ts_max_us: 0,
                    raw_bytes: payload.len() as u64,
                };
                let stream = "bench".parse().map_err(|_| aap_buffer::Error::Closed)?;
                let before = clock.monotonic();
                buffer.append(vec![Entry::Own { stream, batch, positions: vec![] }]).await?;
                latencies.push(clock.monotonic().saturating_sub(before));
            }
            Ok::<_, aap_buffer::Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(part) = appenders.join_next().await {
        latencies.extend(part??);
    }
    let took = clock.monotonic().saturating_sub(start);
    let identity = buffer.identity();
    let key = StreamKey { node: identity.node, epoch: identity.epoch, stream: "bench".parse()? };
    let before = clock.monotonic();
    let (mut after, mut read) = (Sequence::ZERO, 0u64);
    loop {
        let frames = buffer.read(&key, after, 4 << 20)?;
        let Some(last) = frames.last() else { break };
        after = last.last_sequence();
        read += frames.iter().map(|frame| frame.payload.len() as u64).sum::<u64>();
    }
    let rate = read as f64 / 1e6 / clock.monotonic().saturating_sub(before).as_secs_f64();
    println!("{:<26} {rate:>9.1} MB/s", "buffer, read back");
    let total = buffer.stats().stored_bytes;
    buffer.close();
    Ok((Outcome { latencies, took }, total))
}

fn report(name: &str, run: &Run, outcome: &Outcome) {
    let mut sorted = outcome.latencies.clone();
    sorted.sort();
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).copied().unwrap_or_default();
    let bytes = (sorted.len() * run.batch_bytes) as f64;
    println!(
        "{name:<26} {:>9.1} MB/s   p50 {:>9.1?}   p99 {:>9.1?}   {} appends of {} bytes, {} at once",
        bytes / 1e6 / outcome.took.as_secs_f64(),
        at(0.5),
        at(0.99),
        sorted.len(),
        run.batch_bytes,
        run.appenders,
    );
}
