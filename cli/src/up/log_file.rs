//! Logs of the daemons: opened for appending, copied away and cut when they grow.
//!
//! A daemon keeps its open file across a rotation (and across the death of its supervisor), so the file is copied and
//! then cut rather than renamed. Lines written between the two are lost; that is microseconds once in 16 MiB of log.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use camino::{Utf8Path, Utf8PathBuf};

/// A log is cut at this size.
const SIZE_MAX: u64 = 16 << 20;
/// Older parts that are kept: `agent.log.1`, `agent.log.2`.
const KEPT: u32 = 2;

/// Opens a log for appending.
pub(crate) fn open(path: &Utf8Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Cuts the log if it has grown too large. Answers whether it did.
pub(crate) fn rotate(path: &Utf8Path) -> io::Result<bool> {
    rotate_at(path, SIZE_MAX)
}

fn rotate_at(path: &Utf8Path, size_max: u64) -> io::Result<bool> {
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > size_max) {
        return Ok(false);
    }
    let part = |number: u32| Utf8PathBuf::from(format!("{path}.{number}"));
    for number in (1..KEPT).rev() {
        if part(number).exists() {
            std::fs::rename(part(number), part(number + 1))?;
        }
    }
    std::fs::copy(path, part(1))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_large_log_is_cut_and_its_writer_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(directory.path().join("a.log")).unwrap();
        let mut writer = open(&path).unwrap();
        for round in 0..4 {
            writer.write_all(format!("round {round} {}\n", "x".repeat(100)).as_bytes()).unwrap();
            assert!(rotate_at(&path, 50).unwrap());
            assert!(!rotate_at(&path, 50).unwrap());
        }
        writer.write_all(b"end\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "end\n");
        assert!(std::fs::read_to_string(format!("{path}.1")).unwrap().starts_with("round 3"));
        assert!(std::fs::read_to_string(format!("{path}.2")).unwrap().starts_with("round 2"));
        assert!(!Utf8PathBuf::from(format!("{path}.3")).exists());
    }
}
