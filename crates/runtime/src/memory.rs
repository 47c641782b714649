//! Memory of a daemon that runs for months beside others: heaps that do not multiply, and start-up code let go.

/// Heaps of the allocator. One a thread keeps what a burst on that thread once took; two serve a daemon of two workers.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS_MAX: i32 = 2;
/// Freed memory beyond this at the end of a heap goes back to the system.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TRIM_BYTES: i32 = 8 << 20;
/// An allocation from this size on has a mapping of its own. glibc raises its 128 KiB by itself as such blocks are freed,
/// but no longer once the trim threshold is set: then every buffer of a batch would be mapped, faulted in page by page and
/// unmapped, a fifth of the time of taking Arrow batches.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAP_BYTES: i32 = 1 << 20;

/// Bounds what the allocator keeps. Call it first in `main`, before there are threads.
pub fn bound_heaps() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and changes the allocator's own settings; no other thread runs yet.
    #[expect(unsafe_code, reason = "mallopt(3) has no safe form")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAP_BYTES);
    }
}

/// Gives back what only the start needed: pages of code, which the system maps again from the program's file when they
/// are called, and freed heap.
pub fn release_start_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        for (from, to) in maps.lines().filter_map(|line| code_range(line, program.to_str()?)) {
            release(from, to);
        }
        release_freed();
    }
}

/// Gives freed heap back, also from between what is in use: after work that took much of it at once.
pub fn release_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time from any thread.
    #[expect(unsafe_code, reason = "malloc_trim(3) has no safe form")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The addresses of a line of `/proc/self/maps`, if it maps code of `program` that nobody can have written to.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn code_range(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, access, path) = (fields.next()?, fields.next()?, fields.nth(3)?);
    let (from, to) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (access == "r-xp" && path == program).then_some((address(from)?, address(to)?))
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn release(from: usize, to: usize) {
    // SAFETY: a private mapping of a file that is readable and executable only holds what the file holds: pages that are
    // dropped come back the same at the next access.
    #[expect(unsafe_code, reason = "madvise(2) is unsafe because it can drop what was written; nothing was")]
    let released = unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    if released != 0 {
        tracing::debug!("the system keeps the start-up code in memory");
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_the_program_itself_is_let_go() {
        let line = "5588aa000000-5588aa100000 r-xp 00003000 fe:00 131   /usr/bin/aap-agent";
        assert_eq!(code_range(line, "/usr/bin/aap-agent"), Some((0x5588_aa00_0000, 0x5588_aa10_0000)));
        for (line, program) in [
            (line, "/usr/bin/other"),
            ("5588aa000000-5588aa100000 r--p 0 fe:00 131 /usr/bin/aap-agent", "/usr/bin/aap-agent"),
            ("7ffd0000-7ffe0000 r-xp 00000000 00:00 0 [vdso]", "/usr/bin/aap-agent"),
            ("", ""),
        ] {
            assert_eq!(code_range(line, program), None, "{line}");
        }
        release_start_up();
        bound_heaps();
    }
}
