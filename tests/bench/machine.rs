//! The machine that the figures belong to, in one line.

use std::fs;

/// Processor, cores, memory, kernel, file system of the measuring directory, and how busy it is.
pub(crate) fn describe() -> String {
    let processor = first_after("/proc/cpuinfo", "model name");
    let memory: f64 = first_after("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let directory = std::env::temp_dir();
    let load = read("/proc/loadavg");
    format!(
        "{processor}, {cores} cores, {:.0} GiB, Linux {}, {} on {}, load before {}",
        memory / f64::from(1 << 20),
        kernel.trim(),
        directory.display(),
        file_system(&directory),
        load.split(' ').next().unwrap_or_default(),
    )
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first_after(path: &str, name: &str) -> String {
    let text = read(path);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
}

/// The kind of the mount that holds `directory`: the longest mount point that is a prefix of it.
fn file_system(directory: &std::path::Path) -> String {
    let mounts = read("/proc/mounts");
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 2 && directory.starts_with(fields[1]));
    holding.max_by_key(|fields| fields[1].len()).map_or("?".to_owned(), |fields| fields[2].to_owned())
}
