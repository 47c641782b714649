//! Storage that fails when told to.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use camino::Utf8Path;

use super::{FileHandle, FileSystem, Lock, Open};

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// A write takes only half of the bytes; any other call is interrupted once.
    Short,
}

/// Which calls fail. Counted are the calls that change something: create, write, sync, resize, rename, remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The first failing call, counted from 1.
    pub at: u64,
    /// How many fail in a row.
    pub times: u64,
    /// How.
    pub kind: FaultKind,
    /// Whether a failed sync drops what was written, as Linux does, and a failed write is left half done.
    pub only_syncs: bool,
}

/// Another file system whose calls can fail.
#[derive(Debug, Clone)]
pub struct FaultyFileSystem {
    inner: Arc<dyn FileSystem>,
    plan: Arc<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    calls: AtomicU64,
    fault: Mutex<Option<Fault>>,
}

impl Plan {
    fn step(&self, is_sync: bool) -> io::Result<()> {
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_some_and(|fault| fault.only_syncs && !is_sync) {
            return Ok(());
        }
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        match fault.filter(|fault| (fault.at..fault.at.saturating_add(fault.times)).contains(&call)) {
            None => Ok(()),
            Some(Fault { kind: FaultKind::Io, .. }) => Err(io::Error::from_raw_os_error(5)),
            Some(Fault { kind: FaultKind::NoSpace, .. }) => Err(io::Error::from_raw_os_error(28)),
            Some(Fault { kind: FaultKind::Short, .. }) => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

impl FaultyFileSystem {
    /// Fails nothing until told to.
    pub fn over(inner: Arc<dyn FileSystem>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Sets the fault and counts from 0 again; `None` heals.
    pub fn set(&self, fault: Option<Fault>) {
        *self.plan.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.plan.calls.store(0, Ordering::SeqCst);
    }

    /// Calls counted since the last [`Self::set`].
    pub fn calls(&self) -> u64 {
        self.plan.calls.load(Ordering::SeqCst)
    }
}

/// Interrupted calls other than reads and writes are not retried by callers, so they pass.
fn unless_interrupted(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other,
    }
}

impl FileSystem for FaultyFileSystem {
    fn create_directory(&self, path: &Utf8Path) -> io::Result<()> {
        unless_interrupted(self.plan.step(false))?;
        self.inner.create_directory(path)
    }
    fn list(&self, path: &Utf8Path) -> io::Result<Vec<String>> {
        self.inner.list(path)
    }
    fn open(&self, path: &Utf8Path, how: Open) -> io::Result<Box<dyn FileHandle>> {
        if how == Open::Create {
            unless_interrupted(self.plan.step(false))?;
        }
        let inner = self.inner.open(path, how)?;
        Ok(Box::new(FaultyFile { inner, plan: self.plan.clone() }))
    }
    fn rename(&self, from: &Utf8Path, to: &Utf8Path) -> io::Result<()> {
        unless_interrupted(self.plan.step(false))?;
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Utf8Path) -> io::Result<()> {
        unless_interrupted(self.plan.step(false))?;
        self.inner.remove(path)
    }
    fn sync_directory(&self, path: &Utf8Path) -> io::Result<()> {
        unless_interrupted(self.plan.step(true))?;
        self.inner.sync_directory(path)
    }
    fn free_bytes(&self, path: &Utf8Path) -> io::Result<u64> {
        self.inner.free_bytes(path)
    }
    fn lock(&self, path: &Utf8Path) -> io::Result<Option<Lock>> {
        self.inner.lock(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn FileHandle>,
    plan: Arc<Plan>,
}

impl FileHandle for FaultyFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(bytes, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        match self.plan.step(false) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.inner.write_at(&bytes[..bytes.len().div_ceil(2)], offset)
            }
            Err(error) => {
                // A failing disk takes a part first.
                let half = &bytes[..bytes.len() / 2];
                if !half.is_empty() {
                    self.inner.write_at(half, offset)?;
                }
                Err(error)
            }
            Ok(()) => self.inner.write_at(bytes, offset),
        }
    }
    fn sync_data(&self) -> io::Result<()> {
        unless_interrupted(self.plan.step(true))?;
        self.inner.sync_data()
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        unless_interrupted(self.plan.step(false))?;
        self.inner.set_length(length)
    }
    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }
}
