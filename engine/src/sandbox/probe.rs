//! `aap-engine --self-test`: goes into the sandbox and tries to get out. One line for each attempt.

use std::fs::File;
use std::io;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use aap_sql::Manifest;
use camino::Utf8PathBuf;
use rustix::process::{getppid, test_kill_process};

use super::{forbid_system_calls, limit, restrict_files};

/// Memory for the test.
const MEMORY_BYTES: u64 = 256 << 20;

/// Enters the sandbox, with the current folder as scratch, and reports what every attempt to leave it met.
pub fn self_test() -> String {
    let mut lines = vec![];
    let scratch = std::env::current_dir().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    let scratch = scratch.unwrap_or_else(|| "/nonexistent".into());
    let parent = getppid();
    let mut missing = limit(MEMORY_BYTES);
    missing.extend(forbid_system_calls());
    missing.extend(restrict_files(&Manifest::default(), &scratch));
    lines.extend(missing.into_iter().map(|layer| format!("missing: {layer}")));
    let mut attempt = |what: &str, outcome: io::Result<()>| {
        lines.push(match outcome {
            Ok(()) => format!("{what}: ALLOWED"),
            Err(error) => format!("{what}: refused ({error})"),
        });
    };
    attempt("read /etc/passwd", File::open("/etc/passwd").map(drop));
    attempt("list /", std::fs::read_dir("/").map(drop));
    attempt("read /proc/self/environ", File::open("/proc/self/environ").map(drop));
    attempt("write /tmp/aap-engine-escape", File::create("/tmp/aap-engine-escape").map(drop));
    attempt("udp socket", UdpSocket::bind("127.0.0.1:0").map(drop));
    attempt("tcp socket", TcpStream::connect("127.0.0.1:1").map(drop));
    attempt("unix socket", UnixDatagram::unbound().map(drop));
    attempt("run a program", Command::new("/bin/true").spawn().map(drop));
    attempt("trace", trace());
    attempt(
        "signal the parent",
        parent.map_or(Ok(()), |parent| test_kill_process(parent).map_err(io::Error::from)),
    );
    attempt("executable memory", executable_memory());
    attempt("change the system's name", set_host_name());
    attempt("more memory than the limit", allocate(4 * MEMORY_BYTES));
    lines.push(outcome_of_own_work("write in scratch", File::create(scratch.join("probe")).map(drop)));
    lines.push(outcome_of_own_work("start a thread", std::thread::Builder::new().spawn(|| {}).map(drop)));
    lines.join("\n")
}

fn outcome_of_own_work(what: &str, outcome: io::Result<()>) -> String {
    match outcome {
        Ok(()) => format!("{what}: works"),
        Err(error) => format!("{what}: BROKEN ({error})"),
    }
}

fn allocate(bytes: u64) -> io::Result<()> {
    let mut space: Vec<u8> = vec![];
    let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
    space.try_reserve_exact(bytes).map_err(io::Error::other)
}

fn result(returned: i64) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "std has no ptrace")]
fn trace() -> io::Result<()> {
    // SAFETY: PTRACE_TRACEME takes no pointers.
    result(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })
}

#[expect(unsafe_code, reason = "std has no mmap")]
fn executable_memory() -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh anonymous mapping that nobody uses.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[expect(unsafe_code, reason = "std has no sethostname")]
fn set_host_name() -> io::Result<()> {
    // SAFETY: a pointer to zero bytes is valid for length zero.
    result(i64::from(unsafe { libc::sethostname(c"".as_ptr(), 0) }))
}
