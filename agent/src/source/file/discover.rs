//! Which files a source's globs name.
//!
//! Rules: regular files only. A symbolic link counts if it leads to a regular file; a linked directory below a
//! wildcard is not entered (links can form loops). One file reached by several names counts once, under the first.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use super::identity::{FileId, Stamp};
use crate::config::FileSpec;

/// Directories entered in one scan: a glob such as `/**` must not walk a whole machine for ever.
const DIRECTORIES_MAX: usize = 20_000;

/// The globs of a source, ready to match.
#[derive(Debug, Clone)]
pub(super) struct Globs {
    include: GlobSet,
    exclude: GlobSet,
    roots: Vec<Root>,
}

/// The part of a glob before its first wildcard, and how far below it names can match.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Root {
    base: PathBuf,
    /// Levels of directories below `base`; `None` = any number.
    depth: Option<usize>,
}

/// A file that the globs name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub(super) path: PathBuf,
    /// Device and inode.
    pub(super) id: FileId,
    /// Size and last change now.
    pub(super) stamp: Stamp,
}

/// What one scan found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The files.
    pub(super) files: Vec<Found>,
    /// The directories in which more may appear.
    pub(super) directories: Vec<PathBuf>,
    /// What symbolic links lead to, hop by hop: they may be replaced where no glob looks.
    pub(super) linked: HashSet<PathBuf>,
    /// What could not be looked at, and why.
    pub(super) problems: Vec<(PathBuf, String)>,
}

impl Globs {
    /// Compiles the globs, which the configuration has checked.
    pub(super) fn new(spec: &FileSpec) -> Result<Self, globset::Error> {
        let mut roots: Vec<Root> = Vec::new();
        for glob in &spec.include {
            let root = Root::of(glob);
            if !roots.contains(&root) {
                roots.push(root);
            }
        }
        Ok(Self { include: set(&spec.include)?, exclude: set(&spec.exclude)?, roots })
    }

    /// Whether a path is meant.
    pub(super) fn matches(&self, path: &Path) -> bool {
        self.include.is_match(path) && !self.exclude.is_match(path)
    }

    /// Looks at the file system. Blocking.
    pub(super) fn scan(&self) -> Scan {
        let mut walk =
            Walk { globs: self, scan: Scan::default(), files: HashSet::new(), entered: HashSet::new() };
        for root in &self.roots {
            walk.directory(&root.base, root.depth, true);
        }
        walk.scan
    }
}

fn set(globs: &[String]) -> Result<GlobSet, globset::Error> {
    let mut builder = GlobSetBuilder::new();
    for glob in globs {
        let compiled: Glob = GlobBuilder::new(glob).literal_separator(true).build()?;
        builder.add(compiled);
    }
    builder.build()
}

impl Root {
    fn of(glob: &str) -> Self {
        let parts: Vec<&str> = glob.split('/').filter(|part| !part.is_empty()).collect();
        let wild = |part: &&str| part.contains(['*', '?', '[', '{', '\\']);
        let literal = parts.iter().position(wild).unwrap_or(parts.len().saturating_sub(1));
        let base = PathBuf::from("/").join(parts[..literal].iter().collect::<PathBuf>());
        let below = &parts[literal..];
        let depth = (!below.iter().any(|part| part.contains("**"))).then(|| below.len().saturating_sub(1));
        Self { base, depth }
    }
}

struct Walk<'a> {
    globs: &'a Globs,
    scan: Scan,
    files: HashSet<FileId>,
    entered: HashSet<(PathBuf, Option<usize>)>,
}

impl Walk<'_> {
    fn directory(&mut self, path: &Path, depth: Option<usize>, root: bool) {
        if self.entered.len() >= DIRECTORIES_MAX {
            let text = format!("more than {DIRECTORIES_MAX} directories; the rest is not watched");
            return self.scan.problems.push((path.to_owned(), text));
        }
        if !self.entered.insert((path.to_owned(), depth)) {
            return;
        }
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !root => return,
            Err(error) => {
                // It may come with any of its parents: the nearest that is there tells.
                self.scan
                    .directories
                    .extend(path.ancestors().skip(1).find(|up| up.is_dir()).map(Path::to_owned));
                return self.scan.problems.push((path.to_owned(), format!("cannot list: {error}")));
            }
        };
        self.scan.directories.push(path.to_owned());
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort();
        for name in names {
            self.entry(name, depth);
        }
    }

    fn entry(&mut self, path: PathBuf, depth: Option<usize>) {
        let Ok(link) = std::fs::symlink_metadata(&path) else { return };
        if link.is_dir() {
            match depth {
                Some(0) => {}
                Some(levels) => self.directory(&path, Some(levels - 1), false),
                None => self.directory(&path, None, false),
            }
            return;
        }
        if !self.globs.matches(&path) {
            return;
        }
        if link.is_symlink() {
            self.link(&path);
        }
        // A link that leads nowhere, or to a directory, device or pipe, is not a file of ours.
        let Ok(metadata) = std::fs::metadata(&path) else { return };
        if !metadata.is_file() || !self.files.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified_us = modified.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        self.scan.files.push(Found {
            path,
            id: (metadata.dev(), metadata.ino()),
            stamp: Stamp { size: metadata.len(), modified_us },
        });
    }

    /// Notes what stands behind a link, and where.
    fn link(&mut self, path: &Path) {
        const HOPS_MAX: usize = 8;
        let mut at = path.to_owned();
        for _ in 0..HOPS_MAX {
            let Ok(target) = std::fs::read_link(&at) else { return };
            let Some(parent) = at.parent() else { return };
            // `..` in a target would give the directory a name that no event bears.
            let joined = parent.join(target);
            let Some((parent, name)) = joined.parent().zip(joined.file_name()) else { return };
            let Ok(parent) = parent.canonicalize() else { return };
            at = parent.join(name);
            self.scan.linked.insert(at.clone());
            if self.entered.insert((parent.clone(), Some(usize::MAX))) {
                self.scan.directories.push(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn globs(include: &[&str], exclude: &[&str]) -> Globs {
        let list =
            |globs: &[&str]| globs.iter().map(|glob| format!("'{glob}'")).collect::<Vec<_>>().join(",");
        let text =
            format!("type: file\nstream: logs\ninclude: [{}]\nexclude: [{}]", list(include), list(exclude));
        Globs::new(&serde_norway::from_str(&text).unwrap()).unwrap()
    }

    #[test]
    fn globs_find_regular_files_once_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        for name in ["a.log", "b.log", "c.txt", "sub/d.log", "sub/deep/e.log"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x\n").unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("c.txt"), dir.path().join("link.log")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("a.log"), dir.path().join("z-same.log")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join("device.log")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("sub/loop.log")).unwrap();
        let names = |globs: &Globs| {
            let scan = globs.scan();
            let name = |found: &Found| found.path.strip_prefix(dir.path()).unwrap().display().to_string();
            scan.files.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(&globs(&[&format!("{root}/*.log")], &[])), ["a.log", "b.log", "link.log"]);
        let all = names(&globs(&[&format!("{root}/**/*.log")], &["**/b.log"]));
        assert_eq!(all, ["a.log", "link.log", "sub/d.log", "sub/deep/e.log"]);
        assert_eq!(names(&globs(&[&format!("{root}/sub/*/e.log")], &[])), ["sub/deep/e.log"]);
        assert_eq!(names(&globs(&[&format!("{root}/a.log")], &[])), ["a.log"]);
        assert_eq!(globs(&[&format!("{root}/none/*.log")], &[]).scan().problems.len(), 1);
    }
}
