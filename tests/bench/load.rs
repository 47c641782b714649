//! A steady load: lines appended to a followed file at a given rate, and when each was written and landed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::input::Input;
use crate::site::{Site, landed};

/// The load of the figures: 10 MB/s.
pub(crate) const LOAD_BYTES: f64 = 10e6;
/// Lines come in pieces, as a service's writes do: 5 ms of the load at a time.
const PIECE_ROWS: usize = 200;

/// So many rows had been written, or had landed, at that moment.
pub(crate) type Mark = (Instant, u64);

/// A load that runs until it is stopped.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    rows: Arc<AtomicU64>,
    writer: JoinHandle<Vec<Mark>>,
}

impl Load {
    /// Appends to a new file at [`LOAD_BYTES`] a second.
    pub(crate) fn start(path: PathBuf, input: Arc<Input>) -> Self {
        let (stop, rows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), rows.clone());
        let writer = thread::spawn(move || {
            let mut file = OpenOptions::new().create_new(true).append(true).open(path).unwrap();
            let pieces: Vec<&[u8]> = input.pieces(PIECE_ROWS).collect();
            let (began, mut due, mut marks, mut written) = (Instant::now(), 0.0, vec![], 0);
            for piece in pieces.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                thread::sleep(Duration::from_secs_f64(due).saturating_sub(began.elapsed()));
                file.write_all(piece).unwrap();
                written += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
                marks.push((Instant::now(), written));
                count.store(written, Ordering::Relaxed);
                due += piece.len() as f64 / LOAD_BYTES;
            }
            marks
        });
        Self { stop, rows, writer }
    }

    /// Rows written so far.
    pub(crate) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Ends it; when how many rows had been written.
    pub(crate) fn stop(self) -> Vec<Mark> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap()
    }
}

/// Watches a count that only grows, until it is stopped.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Vec<Mark>>,
}

impl Watch {
    /// Looks at what landed at the coordinator since now, every millisecond.
    pub(crate) fn landing(site: &Site) -> Self {
        let metrics = site.coordinator_metrics();
        let base = landed(&metrics);
        Self::of(Duration::from_millis(1), move || landed(&metrics).saturating_sub(base))
    }

    /// Calls `look` again and again with a pause between.
    pub(crate) fn of(pause: Duration, mut look: impl FnMut() -> u64 + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watcher = thread::spawn(move || {
            let mut marks: Vec<Mark> = vec![];
            while !stopped.load(Ordering::Relaxed) {
                let rows = look();
                if marks.last().is_none_or(|(_, known)| *known < rows) {
                    marks.push((Instant::now(), rows));
                }
                thread::sleep(pause);
            }
            marks
        });
        Self { stop, watcher }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Vec<Mark> {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap()
    }
}

/// How long after it was written each piece of the load had arrived. Pieces that had not are left out.
pub(crate) fn latencies(written: &[Mark], arrived: &[Mark]) -> Vec<Duration> {
    let mut arrivals = arrived.iter().peekable();
    let mut found = vec![];
    for (at, rows) in written {
        while arrivals.next_if(|(_, there)| there < rows).is_some() {}
        let Some((there, _)) = arrivals.peek() else { break };
        found.push(there.saturating_duration_since(*at));
    }
    found
}
