//! Figures of this machine from `/proc`, under their OpenTelemetry names.
//!
//! One row is one data point: `ts, metric, value, unit, attributes` with attributes as JSON, such as
//! `system.cpu.time, 812.4, s, {"cpu.mode":"user"}`. So every figure is reached by the same statement, and a new one
//! needs no new column. Counters count from the start of the machine, as OpenTelemetry's monotonic sums do.

use std::sync::Arc;

use aap_runtime::Shutdown;
use aap_types::StreamName;
use arrow_array::builder::StringDictionaryBuilder;
use arrow_array::types::Int8Type;
use arrow_array::{Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

use super::{SourceDeps, SourceError};
use crate::config::HostMetricsSpec;
use crate::ingress::{Parcel, Sealer, Tally};

/// One data point.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    metric: &'static str,
    value: f64,
    unit: &'static str,
    attributes: String,
}

/// Reads the figures at every interval until the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: HostMetricsSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let mut ticks = tokio::time::interval(spec.every.0);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut sealer = Sealer::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let observed_us = deps.ingress.clock.unix_us();
        let stream = spec.stream.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let parcel = parcel(&points(), observed_us, &stream, &mut sealer);
            (sealer, parcel)
        });
        let (back, parcel) = reading.await.map_err(|error| SourceError::Config(error.to_string()))?;
        sealer = back;
        let stored = match parcel {
            Ok(parcel) if parcel.is_empty() => Err("nothing could be read from `/proc`".to_owned()),
            Ok(parcel) => tokio::select! {
                stored = deps.ingress.append(parcel) => stored.map(drop).map_err(|error| error.to_string()),
                // The next run has figures of its own: these need not wait for room in the buffer.
                () = shutdown.requested() => return Ok(()),
            },
            Err(error) => Err(error),
        };
        deps.board.source_problem(&name, "read", stored.err());
    }
}

fn parcel(
    points: &[Point],
    observed_us: i64,
    stream: &StreamName,
    sealer: &mut Sealer,
) -> Result<Parcel, String> {
    if points.is_empty() {
        return Ok(Parcel::default());
    }
    let batch = batch(points, observed_us).map_err(|error| error.to_string())?;
    let bytes = points
        .iter()
        .map(|point| point.metric.len() + point.unit.len() + point.attributes.len() + 16)
        .sum::<usize>() as u64;
    let sealed = sealer.seal(&batch, bytes).map_err(|error| error.to_string())?;
    let rows = points.len() as u64;
    let tally = Tally { rows, bytes, ..Tally::new(stream) };
    let entry = aap_buffer::Entry::Own { stream: stream.clone(), batch: sealed, positions: vec![] };
    Ok(Parcel { entries: vec![entry], tallies: vec![tally] })
}

fn batch(points: &[Point], observed_us: i64) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let schema = Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
        Field::new("metric", dictionary.clone(), true),
        Field::new("value", DataType::Float64, true),
        Field::new("unit", dictionary, true),
        Field::new("attributes", DataType::Utf8, true),
    ]);
    let words = |word: fn(&Point) -> &str| {
        let mut builder = StringDictionaryBuilder::<Int8Type>::new();
        points.iter().try_for_each(|point| builder.append(word(point)).map(drop))?;
        Ok::<_, arrow_schema::ArrowError>(Arc::new(builder.finish()))
    };
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(TimestampMicrosecondArray::from(vec![observed_us; points.len()]).with_timezone("UTC")),
            words(|point| point.metric)?,
            Arc::new(Float64Array::from_iter_values(points.iter().map(|point| point.value))),
            words(|point| point.unit)?,
            Arc::new(StringArray::from_iter_values(points.iter().map(|point| point.attributes.as_str()))),
        ],
    )
}

/// All figures as they are now. What cannot be read is left out.
fn points() -> Vec<Point> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut points = Vec::with_capacity(96);
    cpu(&read("/proc/stat"), &mut points);
    memory(&read("/proc/meminfo"), &mut points);
    load(&read("/proc/loadavg"), &mut points);
    disks(&read("/proc/diskstats"), &mut points);
    network(&read("/proc/net/dev"), &mut points);
    filesystems(&read("/proc/self/mounts"), &mut points);
    uptime(&read("/proc/uptime"), &mut points);
    points
}

fn point(metric: &'static str, value: f64, unit: &'static str, attributes: &[(&str, &str)]) -> Point {
    let attributes: serde_json::Map<String, serde_json::Value> =
        attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
    Point { metric, value, unit, attributes: serde_json::Value::Object(attributes).to_string() }
}

/// Ticks of `/proc/stat`: Linux fixes them at 100 a second for user space on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// Sectors of `/proc/diskstats` are of this size, whatever the device has.
const SECTOR_BYTES: f64 = 512.0;

fn cpu(stat: &str, points: &mut Vec<Point>) {
    const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "interrupt", "softirq", "steal"];
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("cpu") => {
                for (mode, ticks) in MODES.iter().zip(words) {
                    let seconds = ticks.parse::<f64>().unwrap_or(0.0) / TICKS_PER_SECOND;
                    points.push(point("system.cpu.time", seconds, "s", &[("cpu.mode", mode)]));
                }
            }
            Some("procs_running") => processes(words.next(), "running", points),
            Some("procs_blocked") => processes(words.next(), "blocked", points),
            _ => {}
        }
    }
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    if cores > 0 {
        points.push(point("system.cpu.logical.count", cores as f64, "{cpu}", &[]));
    }
}

fn processes(count: Option<&str>, status: &str, points: &mut Vec<Point>) {
    if let Some(count) = count.and_then(|count| count.parse().ok()) {
        points.push(point("system.process.count", count, "{process}", &[("process.status", status)]));
    }
}

fn memory(meminfo: &str, points: &mut Vec<Point>) {
    let kib = |name: &str| {
        let line =
            meminfo.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))?;
        line.split_ascii_whitespace().nth(1)?.parse::<f64>().ok()
    };
    let Some(total) = kib("MemTotal").filter(|total| *total > 0.0) else { return };
    let [free, buffers, cached, available] =
        ["MemFree", "Buffers", "Cached", "MemAvailable"].map(|name| kib(name).unwrap_or(0.0));
    let used = (total - free - buffers - cached).max(0.0);
    for (state, value) in [("used", used), ("free", free), ("buffers", buffers), ("cached", cached)] {
        points.push(point("system.memory.usage", value * 1024.0, "By", &[("system.memory.state", state)]));
    }
    points.push(point("system.memory.limit", total * 1024.0, "By", &[]));
    points.push(point("system.linux.memory.available", available * 1024.0, "By", &[]));
    points.push(point("system.memory.utilization", 1.0 - available / total, "1", &[]));
    if let (Some(total), Some(free)) = (kib("SwapTotal"), kib("SwapFree")) {
        for (state, value) in [("used", total - free), ("free", free)] {
            points.push(point(
                "system.paging.usage",
                value * 1024.0,
                "By",
                &[("system.paging.state", state)],
            ));
        }
    }
}

fn load(loadavg: &str, points: &mut Vec<Point>) {
    const NAMES: [&str; 3] =
        ["system.cpu.load_average.1m", "system.cpu.load_average.5m", "system.cpu.load_average.15m"];
    let mut words = loadavg.split_ascii_whitespace();
    for name in NAMES {
        if let Some(value) = words.next().and_then(|word| word.parse().ok()) {
            points.push(point(name, value, "{thread}", &[]));
        }
    }
    let threads = words.next().and_then(|word| word.split_once('/')).and_then(|(_, all)| all.parse().ok());
    if let Some(threads) = threads {
        points.push(point("system.thread.count", threads, "{thread}", &[]));
    }
}

fn disks(diskstats: &str, points: &mut Vec<Point>) {
    for line in diskstats.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(device) = words.get(2).filter(|name| !name.starts_with("loop") && !name.starts_with("ram"))
        else {
            continue;
        };
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        if number(3) + number(7) == 0.0 {
            continue;
        }
        for (direction, operations, sectors, millis) in [("read", 3, 5, 6), ("write", 7, 9, 10)] {
            let attributes = [("system.device", *device), ("disk.io.direction", direction)];
            points.push(point("system.disk.operations", number(operations), "{operation}", &attributes));
            points.push(point("system.disk.io", number(sectors) * SECTOR_BYTES, "By", &attributes));
            points.push(point("system.disk.operation_time", number(millis) / 1000.0, "s", &attributes));
        }
        points.push(point("system.disk.io_time", number(12) / 1000.0, "s", &[("system.device", *device)]));
    }
}

fn network(dev: &str, points: &mut Vec<Point>) {
    for line in dev.lines() {
        let Some((interface, figures)) = line.split_once(':') else { continue };
        let words: Vec<&str> = figures.split_ascii_whitespace().collect();
        let number = |index: usize| words.get(index).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        for (direction, from) in [("receive", 0), ("transmit", 8)] {
            let attributes =
                [("network.interface.name", interface.trim()), ("network.io.direction", direction)];
            points.push(point("system.network.io", number(from), "By", &attributes));
            points.push(point("system.network.packet.count", number(from + 1), "{packet}", &attributes));
            points.push(point("system.network.errors", number(from + 2), "{error}", &attributes));
            points.push(point("system.network.packet.dropped", number(from + 3), "{packet}", &attributes));
        }
    }
}

fn filesystems(mounts: &str, points: &mut Vec<Point>) {
    let mut seen = std::collections::HashSet::new();
    for line in mounts.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(device), Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if !device.starts_with('/') || !seen.insert(device.to_owned()) {
            continue;
        }
        let (device, place) = (&*unescaped(device), &*unescaped(place));
        let Ok(space) = rustix::fs::statvfs(place) else { continue };
        let bytes = |blocks: u64| blocks as f64 * space.f_frsize as f64;
        let (total, free, available) = (bytes(space.f_blocks), bytes(space.f_bfree), bytes(space.f_bavail));
        if total == 0.0 {
            continue;
        }
        for (state, value) in [("used", total - free), ("free", available), ("reserved", free - available)] {
            let attributes = [
                ("system.device", device),
                ("system.filesystem.mountpoint", place),
                ("system.filesystem.type", kind),
                ("system.filesystem.state", state),
            ];
            points.push(point("system.filesystem.usage", value, "By", &attributes));
        }
        let attributes = [("system.device", device), ("system.filesystem.mountpoint", place)];
        points.push(point("system.filesystem.utilization", 1.0 - free / total, "1", &attributes));
    }
}

/// A word of `/proc/self/mounts`, in which spaces, tabs, line ends and backslashes stand as three octal digits.
fn unescaped(word: &str) -> std::borrow::Cow<'_, str> {
    if !word.contains('\\') {
        return word.into();
    }
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

fn uptime(uptime: &str, points: &mut Vec<Point>) {
    if let Some(seconds) = uptime.split_ascii_whitespace().next().and_then(|word| word.parse().ok()) {
        points.push(point("system.uptime", seconds, "s", &[]));
    }
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers =
        processes.filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit));
    points.push(point(
        "system.process.count",
        numbers.count() as f64,
        "{process}",
        &[("process.status", "all")],
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_every_kind_of_figure_in_one_batch() {
        let points = points();
        for metric in [
            "system.cpu.time",
            "system.memory.usage",
            "system.cpu.load_average.1m",
            "system.network.io",
            "system.filesystem.usage",
            "system.process.count",
        ] {
            assert!(points.iter().any(|point| point.metric == metric), "{metric}");
        }
        let batch = batch(&points, 7).unwrap();
        assert_eq!(batch.num_rows(), points.len());
        assert!(points.iter().all(|point| point.value.is_finite() && point.attributes.starts_with('{')));
    }

    #[test]
    fn a_mount_point_with_a_space_is_shown() {
        assert_eq!(unescaped("/media/my\\040disk\\134x"), "/media/my disk\\x");
        assert_eq!(unescaped("/plain"), "/plain");
        assert_eq!(unescaped("/odd\\9\\04"), "/odd\\9\\04");
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("my disk");
        std::fs::create_dir(&place).unwrap();
        let escaped = place.to_str().unwrap().replace(' ', "\\040");
        let mut points = vec![];
        filesystems(&format!("/dev/vdx {escaped} ext4 rw 0 0\n"), &mut points);
        assert!(points.iter().any(|point| point.attributes.contains("my disk")), "{points:?}");
    }

    #[test]
    fn memory_states_add_up_to_the_limit() {
        let mut points = vec![];
        memory(
            "MemTotal: 100 kB\nMemFree: 40 kB\nBuffers: 10 kB\nCached: 20 kB\nMemAvailable: 60 kB\n",
            &mut points,
        );
        let of = |metric: &str| points.iter().filter(|p| p.metric == metric).map(|p| p.value).sum::<f64>();
        assert_eq!(of("system.memory.usage"), of("system.memory.limit"));
    }
}
