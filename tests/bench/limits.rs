//! Limits of this machine, measured beside the figures: compression, a bare fdatasync, medians.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::input::Input;
use crate::meter::thread_seconds;

/// What one compressor does with an input that is cut into pieces, each compressed alone.
#[derive(Debug)]
pub(crate) struct Compressed {
    /// 10^6 bytes of input per second on a core.
    pub(crate) rate: f64,
    /// Bytes of output for a line.
    pub(crate) line_bytes: f64,
}

/// zstd at `level`, `rows` lines at a time.
pub(crate) fn zstd(input: &Input, level: i32, rows: usize) -> Compressed {
    let pieces: Vec<&[u8]> = input.pieces(rows).collect();
    let mut compressor = zstd::bulk::Compressor::new(level).unwrap();
    let began = thread_seconds();
    let out: usize = pieces.iter().map(|piece| compressor.compress(piece).unwrap().len()).sum();
    let rate = input.bytes.len() as f64 / 1e6 / (thread_seconds() - began);
    Compressed { rate, line_bytes: out as f64 / input.rows as f64 }
}

/// Latencies of pwrite and fdatasync of 64 KiB into a file that is there already.
pub(crate) fn bare_fdatasync(directory: &Path, lasting: Duration) -> Vec<Duration> {
    const SPAN: usize = 16 << 20;
    const STEP: usize = 64 << 10;
    let path = directory.join("bare");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; SPAN], 0).unwrap();
    file.sync_all().unwrap();
    let bytes = vec![0xA5; STEP];
    let (began, mut at, mut latencies) = (Instant::now(), 0, vec![]);
    while began.elapsed() < lasting {
        let before = Instant::now();
        file.write_all_at(&bytes, at as u64).unwrap();
        file.sync_data().unwrap();
        latencies.push(before.elapsed());
        at = (at + STEP) % SPAN;
    }
    std::fs::remove_file(&path).unwrap();
    latencies
}

/// The value below which `share` of them lie, in milliseconds.
pub(crate) fn percentile_ms(latencies: &mut [Duration], share: f64) -> f64 {
    latencies.sort_unstable();
    let at = ((latencies.len() as f64 * share) as usize).min(latencies.len() - 1);
    latencies[at].as_secs_f64() * 1e3
}

/// The middle one.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
