//! Resource limits of the process.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Memory for splitting a statement, which reads no data.
pub(crate) const PLAN_MEMORY_BYTES: u64 = 256 << 20;
/// Address space beyond DuckDB's own limit: programs and libraries, stacks, arenas, batches on their way.
const OVERHEAD_BYTES: u64 = 512 << 20;
/// What a single spill file may reach, for each byte of memory.
const FILE_FACTOR: u64 = 8;
/// The kernel takes us first when memory runs out.
const OOM_SCORE: &[u8] = b"900";

/// Sets the limits. Returns the layers that could not be set.
pub(crate) fn limit(memory_bytes: u64) -> Vec<String> {
    let mut missing = vec![];
    let mut set = |resource, name: &str, bytes: u64| {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        if let Err(error) = setrlimit(resource, limit) {
            missing.push(format!("limit of {name}: {error}"));
        }
    };
    set(Resource::As, "memory", memory_bytes.saturating_add(OVERHEAD_BYTES));
    set(Resource::Core, "core files", 0);
    set(Resource::Fsize, "file size", memory_bytes.saturating_mul(FILE_FACTOR));
    raise_open_files();
    ignore_file_size_signal();
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        missing.push(format!("oom score: {error}"));
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        missing.push(format!("not dumpable: {error}"));
    }
    missing
}

/// A query over a long history opens many files.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Without it a query over more than the soft limit fails with a clear message.
    setrlimit(Resource::Nofile, raised).unwrap_or_default();
}

/// So that a spill over the limit is an error of that write and not the end of the process.
#[expect(unsafe_code, reason = "std has no way to ignore a signal")]
fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
