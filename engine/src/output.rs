//! Frames to the daemon, and the byte cap of an answer.

use std::io::{self, Write};

use aap_sql::wire::{self, Kind};
use serde::Serialize;

/// Data frames are cut to this, so that the consumer gets the first rows soon and nobody holds much.
const DATA_BYTES: usize = 64 << 10;

/// Stdout as frames.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: io::Stdout,
    data: Vec<u8>,
    sent: u64,
    bytes_max: u64,
}

impl Output {
    /// Nothing written yet. `bytes_max` of 0 is no cap.
    pub(crate) fn new(bytes_max: u64) -> Self {
        let bytes_max = if bytes_max == 0 { u64::MAX } else { bytes_max };
        Self { stdout: io::stdout(), data: Vec::with_capacity(2 * DATA_BYTES), sent: 0, bytes_max }
    }

    /// Sends a message after all data so far.
    pub(crate) fn message(&mut self, kind: Kind, message: &impl Serialize) -> io::Result<()> {
        self.flush_data()?;
        let mut stdout = self.stdout.lock();
        wire::write_json(&mut stdout, kind, message)?;
        stdout.flush()
    }

    /// The bytes of the answer that are not sent yet; append to it.
    pub(crate) fn data(&mut self) -> &mut Vec<u8> {
        &mut self.data
    }

    /// Bytes of the answer so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.sent + self.data.len() as u64
    }

    /// Whether the answer is beyond its cap.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Sends data if enough has gathered, or if none was sent before.
    pub(crate) fn pace(&mut self) -> io::Result<()> {
        if self.data.len() >= DATA_BYTES || self.sent == 0 { self.flush_data() } else { Ok(()) }
    }

    fn flush_data(&mut self) -> io::Result<()> {
        let mut stdout = self.stdout.lock();
        for part in self.data.chunks(DATA_BYTES) {
            wire::write(&mut stdout, Kind::Data, part)?;
        }
        stdout.flush()?;
        self.sent += self.data.len() as u64;
        self.data.clear();
        Ok(())
    }
}

/// For the writers of Parquet and Arrow.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.data.extend_from_slice(bytes);
        if self.data.len() >= DATA_BYTES {
            self.flush_data()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
