//! What a process used: CPU, bytes to and from the disk, resident memory. From `/proc`.

use std::time::{Duration, Instant};

/// `USER_HZ`, which Linux has fixed for user space on every architecture that we run on.
const TICKS: f64 = 100.0;

/// The use of one process since a moment.
#[derive(Debug)]
pub(crate) struct Meter {
    pid: u32,
    began: Instant,
    cpu: f64,
    children: f64,
    written: u64,
}

impl Meter {
    /// From now on.
    pub(crate) fn start(pid: u32) -> Self {
        let (cpu, children) = (cpu_seconds(pid, OWN), cpu_seconds(pid, CHILDREN));
        Self { pid, began: Instant::now(), cpu, children, written: bytes_written(pid) }
    }

    /// Seconds on a core, user and system.
    pub(crate) fn cpu(&self) -> f64 {
        // One tick is the least that can be told apart.
        (cpu_seconds(self.pid, OWN) - self.cpu).max(1.0 / TICKS)
    }

    /// The same of its children that have ended.
    pub(crate) fn children(&self) -> f64 {
        cpu_seconds(self.pid, CHILDREN) - self.children
    }

    /// Bytes that the process wrote to files. Over QUIC none of them are the network's, which `sendmsg` does not count here.
    ///
    /// Not `write_bytes`: it books the whole folio that a write makes dirty, which may be megabytes since Linux 6.16.
    pub(crate) fn written(&self) -> u64 {
        bytes_written(self.pid).saturating_sub(self.written)
    }

    /// Time on the wall.
    pub(crate) fn wall(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Where user and system time stand in `/proc/PID/stat`, after the name in parentheses, which may hold anything.
const OWN: [usize; 2] = [11, 12];
const CHILDREN: [usize; 2] = [13, 14];

fn cpu_seconds(pid: u32, fields_of: [usize; 2]) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = &stat[stat.rfind(')').unwrap() + 2..];
    let fields: Vec<&str> = after.split(' ').collect();
    let ticks: u64 = fields_of.iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
    ticks as f64 / TICKS
}

fn bytes_written(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/io"), "wchar:")
}

/// Resident memory in bytes: `VmRSS`, `RssAnon` or `RssFile`.
pub(crate) fn memory(pid: u32, which: &str) -> u64 {
    field(&format!("/proc/{pid}/status"), &format!("{which}:")) * 1024
}

fn field(path: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Seconds that this thread has spent on a core.
pub(crate) fn thread_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
