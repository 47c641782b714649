//! What stands in a store, read by programs that share no code with the sink: files from a directory, or objects by curl; Parquet by
//! the rows of its reader.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

/// Where the objects of a test are.
#[derive(Debug, Clone)]
pub(crate) enum Objects {
    Directory(PathBuf),
    Store { endpoint: String, keys: String, ca: Option<String>, bucket: String, prefix: String },
}

impl Objects {
    /// Names of all objects, in their order, and what they hold.
    pub(crate) fn all(&self) -> Vec<(String, Bytes)> {
        let mut all = match self {
            Self::Directory(root) => files(root, root),
            Self::Store { bucket, prefix, .. } => {
                let names = self.names(bucket, prefix);
                names
                    .into_iter()
                    .map(|name| {
                        let bytes = self.curl(&format!("/{bucket}/{name}"));
                        (name.strip_prefix(&format!("{prefix}/")).unwrap().to_owned(), bytes.into())
                    })
                    .collect()
            }
        };
        all.sort();
        all
    }

    /// Names of the Parquet files, in their order, and what they hold.
    pub(crate) fn parquet(&self) -> Vec<(String, Bytes)> {
        let mut all = self.all();
        all.retain(|(name, _)| name.ends_with(".parquet"));
        all
    }

    /// A value of some columns from each row of a stream.
    pub(crate) fn rows(&self, stream: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let files = self.parquet().into_iter().filter(|(name, _)| name.starts_with(&format!("{stream}/")));
        files.flat_map(|(_, bytes)| rows_of(bytes, columns)).collect()
    }

    fn names(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let mut names = vec![];
        let mut after = String::new();
        loop {
            // The parameters stand in the order in which they are signed.
            let query =
                format!("/{bucket}?list-type=2&prefix={}%2F&start-after={after}", prefix.replace('/', "%2F"));
            let text = String::from_utf8(self.curl(&query)).unwrap();
            let page: Vec<String> = text
                .split("<Key>")
                .skip(1)
                .map(|rest| rest.split("</Key>").next().unwrap().to_owned())
                .collect();
            let Some(last) = page.last() else { return names };
            after = last.replace('/', "%2F");
            names.extend(page);
        }
    }

    fn curl(&self, path: &str) -> Vec<u8> {
        let Self::Store { endpoint, keys, ca, .. } = self else { panic!("a directory") };
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--fail",
            "--retry",
            "20",
            "--retry-all-errors",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
        ]);
        command.args(["--user", keys]);
        if let Some(ca) = ca {
            command.args(["--cacert", ca]);
        }
        let output = command.arg(format!("{endpoint}{path}")).output().expect("curl is installed");
        assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

fn files(root: &Path, folder: &Path) -> Vec<(String, Bytes)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut found = vec![];
    for entry in entries.map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(root, &entry));
        } else if let Ok(bytes) = std::fs::read(&entry) {
            let name = entry.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push((name, bytes.into()));
        }
    }
    found
}

/// The columns as text; `None` for NULL, and for a column that the file does not have.
pub(crate) fn rows_of(bytes: Bytes, columns: &[&str]) -> Vec<Vec<Option<String>>> {
    let reader = SerializedFileReader::new(bytes).unwrap();
    let rows = reader.get_row_iter(None).unwrap();
    let row = |row: parquet::record::Row| {
        let value = |column: &&str| {
            let found = row.get_column_iter().find(|(name, _)| name == column)?;
            match found.1 {
                Field::Null => None,
                Field::Str(text) => Some(text.clone()),
                other => Some(other.to_string()),
            }
        };
        columns.iter().map(value).collect()
    };
    rows.map(|found| row(found.unwrap())).collect()
}

/// A note in the footer of a file.
pub(crate) fn note(bytes: &Bytes, key: &str) -> Option<String> {
    let reader = SerializedFileReader::new(bytes.clone()).unwrap();
    let notes = reader.metadata().file_metadata().key_value_metadata()?;
    notes.iter().find(|note| note.key == key)?.value.clone()
}
