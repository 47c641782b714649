//! How far a backup or a restore is, and bytes that are counted and hashed as they pass.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ring::digest::{Context, SHA256};

/// Shared between who works and who watches.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Progress {
    /// Bytes of the home that have passed.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Bytes of the home in all; 0 until that is known.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Lets the work end soon, with nothing left of it.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn expect(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }
}

/// Counts and hashes what is read through it, and fails when the work is cancelled.
pub(crate) struct Hashing<'a, R> {
    inner: R,
    progress: &'a Progress,
    hash: Context,
    pub(crate) bytes: u64,
    /// Whether reading failed, as opposed to writing what was read.
    pub(crate) has_failed: bool,
}

impl<'a, R: Read> Hashing<'a, R> {
    pub(crate) fn new(inner: R, progress: &'a Progress) -> Self {
        Self { inner, progress, hash: Context::new(&SHA256), bytes: 0, has_failed: false }
    }

    /// The SHA-256 of what has passed, in hexadecimal.
    pub(crate) fn sha256(self) -> String {
        use std::fmt::Write;
        self.hash.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
    }
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let read = self.inner.read(buffer).inspect_err(|error| {
            self.has_failed = error.kind() != io::ErrorKind::Interrupted;
        })?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        self.progress.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
