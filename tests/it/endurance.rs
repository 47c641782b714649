//! An hour at 10 MB/s while the coordinator is down: the input rotates, memory stays flat, and then everything drains. Runs
//! with `AAP_TEST_LONG`; `AAP_TEST_MINUTES` says how long.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use aap_tests::{Platform, Settings, amount, skipped, wait_until};

/// Bytes of one line, with its end.
const LINE_BYTES: u64 = 250;
/// What is written in a second.
const BYTES_PER_SECOND: u64 = 10_000_000;
/// How often something is written.
const TICKS_PER_SECOND: u64 = 20;
/// Size at which the input is renamed away.
const ROTATE_BYTES: u64 = 200_000_000;
/// Rotated files that are kept: the agent has that long to read them.
const KEPT: u64 = 4;
/// Resident memory may grow by so much a minute, in KiB, once caches are warm.
const SLOPE_KIB_PER_MINUTE: f64 = 1024.0;

#[test]
fn an_hour_without_a_coordinator_costs_no_memory_and_no_row() {
    let minutes = amount("AAP_TEST_MINUTES", 0, 60);
    if minutes == 0 {
        return skipped("runs with AAP_TEST_LONG");
    }
    let platform = Platform::new();
    let folder = platform.beside("logs");
    std::fs::create_dir(&folder).unwrap();
    let settings = Settings { buffer: "{ budget: 40GiB }".into(), ..Settings::default() };
    platform.prepare("n1", &settings.tail(folder.join("app.log*").to_str().unwrap()));
    let agent = platform.start("agent");

    let path = folder.join("app.log");
    let open = || OpenOptions::new().create(true).append(true).open(&path).unwrap();
    let (mut file, mut lines, mut size, mut rotations) = (open(), 0, 0, 0);
    let mut resident: Vec<(f64, f64)> = vec![];
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60 * minutes) {
        let due = Duration::from_micros(lines * LINE_BYTES * 1_000_000 / BYTES_PER_SECOND);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let chunk: String =
            (lines..lines + BYTES_PER_SECOND / LINE_BYTES / TICKS_PER_SECOND).map(line).collect();
        file.write_all(chunk.as_bytes()).unwrap();
        lines += BYTES_PER_SECOND / LINE_BYTES / TICKS_PER_SECOND;
        size += chunk.len() as u64;
        if size >= ROTATE_BYTES {
            (size, rotations) = (0, rotations + 1);
            std::fs::rename(&path, folder.join(format!("app.log.{rotations}"))).unwrap();
            file = open();
            std::fs::remove_file(folder.join(format!("app.log.{}", rotations - KEPT.min(rotations)))).ok();
        }
        resident.push((began.elapsed().as_secs_f64() / 60.0, resident_kib(agent.pid())));
    }
    let warm: Vec<_> =
        resident.iter().copied().filter(|(minute, _)| *minute > minutes as f64 / 2.0).collect();
    let slope = slope(&warm);
    let most = resident.iter().map(|(_, kib)| *kib).fold(0.0, f64::max);
    let minutely: Vec<u64> =
        resident.iter().step_by(60 * TICKS_PER_SECOND as usize).map(|(_, kib)| *kib as u64 / 1024).collect();
    eprintln!("resident MiB minute by minute: {minutely:?}");
    eprintln!("{lines} lines; resident {most:.0} KiB at most, {slope:.1} KiB a minute more");
    // Before that the allocator still takes what it will use again and again.
    assert!(minutes < 10 || slope < SLOPE_KIB_PER_MINUTE, "{slope} KiB a minute");

    let all_read = || durable(&platform) == lines;
    assert!(wait_until(Duration::from_secs(120), all_read), "{} of {lines} lines", durable(&platform));
    let began = Instant::now();
    let _coordinator = platform.start("coordinator");
    platform.await_coordinator();
    let delivered =
        || platform.agent_metric("aap_agent_buffer_waiting_batches") == Some(0.0) && platform.carrier() != "";
    assert!(wait_until(Duration::from_secs(60 * minutes.max(5)), delivered), "not drained");
    eprintln!("drained in {:?}", began.elapsed());
    let books = "select count(*) n, min(id) low, max(id) high, sum(id::hugeint)::varchar total from \
                 (select cast(left(body, 12) as bigint) id from logs)";
    let total = u128::from(lines) * u128::from(lines - 1) / 2;
    let expected = serde_json::json!({"n": lines, "low": 0, "high": lines - 1, "total": total.to_string()});
    // 144 million rows in an hour: more than a query may take that names no deadline, on a busy machine.
    let counted =
        platform.aap(&["query", "--wait-for-ingest", "--timeout", "20m", "-o", "ndjson", books]).ok();
    assert_eq!(serde_json::from_str::<serde_json::Value>(counted.out.trim()).unwrap(), expected);
}

/// A line like those of a service: a number, then words of which some vary.
fn line(id: u64) -> String {
    let mut random = aap_tests::Random::seeded(id);
    let start = format!(
        "{id:012} level=info service=checkout region=eu-{} request={:016x} user={} latency_us={} status={}",
        random.below(4),
        random.number(),
        random.below(100_000),
        random.below(2_000_000),
        [200, 200, 200, 404, 500][random.below(5) as usize],
    );
    format!("{start:.<width$}\n", width = LINE_BYTES as usize - 1)
}

fn durable(platform: &Platform) -> u64 {
    platform.agent_metric("aap_agent_rows_durable_total{stream=\"logs\"}").unwrap_or(0.0) as u64
}

fn resident_kib(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}

/// Of the line of least squares through the points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len().max(1) as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let (mut above, mut below) = (0.0, 0.0);
    for point in points {
        above += (point.0 - x) * (point.1 - y);
        below += (point.0 - x) * (point.0 - x);
    }
    if below == 0.0 { 0.0 } else { above / below }
}
