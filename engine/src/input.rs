//! Lines of JSON from the daemon, read without buffering beyond what came.

use std::io::{self, Read, Stdin};

use serde::de::DeserializeOwned;

/// A manifest of thousands of files fits; a line without an end does not fill the memory.
const LINE_BYTES_MAX: usize = 256 << 20;

/// Stdin, line by line.
#[derive(Debug)]
pub(crate) struct Input {
    stdin: Stdin,
    pending: Vec<u8>,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { stdin: io::stdin(), pending: vec![] }
    }

    /// The next line, parsed. `None` when the daemon closed the pipe.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(searched + at + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            searched = self.pending.len();
            if searched > LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line does not end"));
            }
            if !self.read_more()? {
                return Ok(None);
            }
        }
    }

    /// Reads until the daemon closes the pipe, whatever it sends.
    pub(crate) fn wait_for_close(mut self) {
        loop {
            self.pending.clear();
            if !matches!(self.read_more(), Ok(true)) {
                return;
            }
        }
    }

    fn read_more(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 64 << 10];
        loop {
            match self.stdin.lock().read(&mut bytes) {
                Ok(read) => {
                    self.pending.extend_from_slice(&bytes[..read]);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}
