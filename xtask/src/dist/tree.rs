//! The files of an installation, and archives of them whose bytes follow from the files alone: owners are root, times are
//! one time, and entries come in the order of their paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use tar::{Builder, EntryType, Header};

/// Beyond it, archives shrink by a few percent and take several times as long to make.
const COMPRESSION_LEVEL: i32 = 9;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Folder,
    File { bytes: Vec<u8>, mode: u32 },
    Link { to: String },
}

/// Files by their paths from the root on, without a leading slash. A folder stands before what is in it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    entries: BTreeMap<Utf8PathBuf, Content>,
}

impl Tree {
    /// Adds a file that everybody may read.
    pub(super) fn text(&mut self, path: impl AsRef<Utf8Path>, bytes: impl Into<Vec<u8>>) {
        self.add(path.as_ref(), Content::File { bytes: bytes.into(), mode: 0o644 });
    }

    /// Adds a file that everybody may run.
    pub(super) fn program(&mut self, path: impl AsRef<Utf8Path>, bytes: impl Into<Vec<u8>>) {
        self.add(path.as_ref(), Content::File { bytes: bytes.into(), mode: 0o755 });
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: impl AsRef<Utf8Path>, to: &str) {
        self.add(path.as_ref(), Content::Link { to: to.to_owned() });
    }

    /// Adds all files below `from` as files below `to`.
    pub(super) fn copy(&mut self, from: &Utf8Path, to: &Utf8Path) -> Result<()> {
        for entry in from.read_dir_utf8().with_context(|| format!("list `{from}`"))? {
            let path = entry.with_context(|| format!("list `{from}`"))?.into_path();
            let target = to.join(path.file_name().context("name a file")?);
            if path.is_dir() {
                self.copy(&path, &target)?;
            } else {
                let bytes = fs::read(&path).with_context(|| format!("read `{path}`"))?;
                let mode = path.metadata().with_context(|| format!("look at `{path}`"))?.permissions().mode();
                match mode & 0o100 {
                    0 => self.text(target, bytes),
                    _ => self.program(target, bytes),
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Utf8Path, content: Content) {
        let folders = path.ancestors().skip(1).filter(|folder| !folder.as_str().is_empty());
        for folder in folders {
            self.entries.entry(folder.to_owned()).or_insert(Content::Folder);
        }
        self.entries.insert(path.to_owned(), content);
    }

    /// Files with their bytes.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Utf8Path, &[u8])> {
        self.entries.iter().filter_map(|(path, content)| match content {
            Content::File { bytes, .. } => Some((path.as_path(), bytes.as_slice())),
            Content::Folder | Content::Link { .. } => None,
        })
    }

    /// A compressed tar archive, of which everything was changed at `time`, in seconds since 1970. Paths get `prefix` before them.
    pub(super) fn archive(&self, prefix: &Utf8Path, time: u64) -> Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), COMPRESSION_LEVEL).context("start compression")?;
        encoder.include_checksum(true).context("set up compression")?;
        let mut builder = Builder::new(encoder);
        for (path, content) in &self.entries {
            append(&mut builder, &prefix.join(path), content, time)
                .with_context(|| format!("archive `{path}`"))?;
        }
        builder.into_inner().and_then(zstd::Encoder::finish).context("end the archive")
    }
}

fn append(
    builder: &mut Builder<impl Write>,
    path: &Utf8Path,
    content: &Content,
    time: u64,
) -> std::io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_size(0);
    match content {
        Content::Folder => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            builder.append_data(&mut header, format!("{path}/"), std::io::empty())
        }
        Content::File { bytes, mode } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice())
        }
        Content::Link { to } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            builder.append_link(&mut header, path, to)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes_whatever_order_they_came_in() {
        let mut one = Tree::default();
        one.text("etc/a", "1");
        one.program("usr/bin/b", "2");
        one.link("usr/bin/c", "b");
        let mut other = Tree::default();
        other.link("usr/bin/c", "b");
        other.program("usr/bin/b", "2");
        other.text("etc/a", "1");
        let archive = |tree: &Tree, time| tree.archive(Utf8Path::new("top"), time).unwrap();
        assert_eq!(archive(&one, 7), archive(&other, 7));
        assert_ne!(archive(&one, 7), archive(&one, 8));
    }

    #[test]
    fn everything_belongs_to_root_and_folders_stand_before_what_is_in_them() {
        let mut tree = Tree::default();
        tree.program("usr/bin/b", "2");
        tree.link("usr/bin/c", "b");
        let bytes = zstd::decode_all(tree.archive(Utf8Path::new(""), 7).unwrap().as_slice()).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 7));
            format!("{:o} {}", header.mode().unwrap(), entry.path().unwrap().display())
        });
        assert_eq!(
            entries.collect::<Vec<_>>(),
            ["755 usr/", "755 usr/bin/", "755 usr/bin/b", "777 usr/bin/c"]
        );
    }
}
