//! Homes there and back, and everything that is refused: what is no backup, is damaged, leads elsewhere, or is in use.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use aap_runtime::{Home, ManualClock, RESTORED};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::{Error, Progress, Summary, pack, unpack};

/// Files that come back, with their modes.
const KEPT: [(&str, u32); 10] = [
    ("agent/buffer/STORE", 0o600),
    ("agent/buffer/segments/0000000000000001.seg", 0o600),
    ("agent/http-keys", 0o600),
    ("config/agent.yaml", 0o640),
    ("config/sources.d/tail.yaml", 0o600),
    ("coordinator/landing/STORE", 0o600),
    ("coordinator/meta.db", 0o644),
    ("coordinator/meta.db-wal", 0o644),
    ("run/operator.token", 0o600),
    ("tls/root.key", 0o400),
];
/// Files of one run, and what is made again.
const LEFT_OUT: [&str; 9] = [
    "agent/buffer/LOCK",
    "agent/buffer/reserve",
    "agent/buffer/segments/spare.tmp",
    "config/agent.tmp.4711",
    "coordinator/meta.db-shm",
    "log/agent.log",
    "run/agent.json",
    "run/agent.pid",
    "tmp/coordinator/scratch",
];

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> Utf8PathBuf {
        Utf8PathBuf::from_path_buf(self.0.path().canonicalize().unwrap()).unwrap().join(name)
    }

    /// A home with everything that a platform leaves.
    fn home(&self) -> Home {
        let home = Home::at(self.path("home"));
        for (name, mode) in KEPT {
            put(&home, name, mode);
        }
        LEFT_OUT.iter().for_each(|name| put(&home, name, 0o600));
        put(&home, &long_name(), 0o600);
        fs::write(home.root().join("lake/empty"), "").unwrap();
        home
    }

    fn backup(&self) -> Utf8PathBuf {
        self.path("platform.aap-backup")
    }

    fn pack(&self, home: &Home) -> Result<Summary, Error> {
        let clock = ManualClock::at(1_800_000_000_000);
        pack(home, &self.backup(), "0.1.0", &clock, &Progress::default())
    }

    fn target(&self) -> Home {
        Home::at(self.path("restored"))
    }

    fn unpack(&self) -> Result<Summary, Error> {
        unpack(&self.target(), &self.backup(), &Progress::default())
    }

    /// The backup cannot be restored, and nothing is left of the attempt. The code of the error.
    fn refused(&self) -> String {
        let error = self.unpack().unwrap_err();
        assert!(!self.path("restored").exists(), "{error}");
        assert!(!self.path("restored.restoring").exists(), "{error}");
        error.problem().code
    }

    /// The same, with what is said.
    fn is_refused_as(&self, code: &str, word: &str) {
        let error = self.unpack().unwrap_err();
        let text = error.problem().report();
        assert!(text.contains(code) && text.contains(word), "{text}");
        self.refused();
    }
}

/// Longer than a name of the plain tar format.
fn long_name() -> String {
    format!("lake/{}/date=2026-11-26/{}.parquet", "stream".repeat(20), "part".repeat(20))
}

fn put(home: &Home, name: &str, mode: u32) {
    let path = home.root().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content(name)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(name.len() * 20).collect()
}

fn mode(path: &Utf8Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_outlives_a_run_comes_back_and_the_stores_begin_a_new_epoch() {
    let folder = Folder::new();
    let made = folder.pack(&folder.home()).unwrap();
    assert_eq!(made.files, KEPT.len() as u64 + 2);
    assert_eq!(mode(&folder.backup()), 0o600);
    assert_eq!(folder.unpack().unwrap(), made);
    let root = folder.path("restored");
    for (name, expected) in KEPT {
        assert_eq!(fs::read(root.join(name)).unwrap(), content(name), "{name}");
        assert_eq!(mode(&root.join(name)), expected, "{name}");
    }
    assert_eq!(fs::read(root.join(long_name())).unwrap(), content(&long_name()));
    assert_eq!(fs::read(root.join("lake/empty")).unwrap(), b"");
    for name in LEFT_OUT {
        assert!(!root.join(name).exists(), "{name}");
    }
    for store in ["agent/buffer", "coordinator/landing"] {
        assert!(root.join(store).join(RESTORED).exists(), "{store}");
    }
    assert_eq!((mode(&root), mode(&root.join("lake"))), (0o700, 0o700));
}

#[test]
fn an_empty_folder_is_restored_into_and_one_in_use_is_not() {
    let folder = Folder::new();
    folder.pack(&folder.home()).unwrap();
    fs::create_dir(folder.path("restored")).unwrap();
    folder.unpack().unwrap();
    let before = fs::read(folder.path("restored/config/agent.yaml")).unwrap();
    let error = folder.unpack().unwrap_err().problem();
    assert_eq!((error.code.as_str(), error.exit.number()), ("restore.not_empty", 6));
    assert!(error.hints[0].command.as_ref().unwrap().starts_with("mv "), "{error:?}");
    assert_eq!(fs::read(folder.path("restored/config/agent.yaml")).unwrap(), before);
    // A file in its place.
    fs::remove_dir_all(folder.path("restored")).unwrap();
    fs::write(folder.path("restored"), "x").unwrap();
    assert_eq!(folder.unpack().unwrap_err().problem().code, "restore.not_empty");
    // What a killed restore left.
    fs::remove_file(folder.path("restored")).unwrap();
    fs::create_dir(folder.path("restored.restoring")).unwrap();
    assert_eq!(folder.unpack().unwrap_err().problem().code, "restore.under_way");
}

#[test]
fn a_platform_that_runs_is_not_packed() {
    for lock in ["run/up.lock", "agent/buffer/LOCK", "coordinator/landing/LOCK"] {
        let folder = Folder::new();
        let home = folder.home();
        let path = home.root().join(lock);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
        flock(&file, FlockOperation::LockExclusive).unwrap();
        let error = folder.pack(&home).unwrap_err().problem();
        assert_eq!((error.code.as_str(), error.exit.number()), ("backup.running", 6), "{lock}");
        assert_eq!(error.hints[0].command.as_deref(), Some("aap down"));
        assert!(!folder.backup().exists());
        drop(file);
        folder.pack(&home).unwrap();
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let folder = Folder::new();
    folder.pack(&folder.home()).unwrap();
    let whole = fs::read(folder.backup()).unwrap();
    let content = zstd::decode_all(whole.as_slice()).unwrap();
    let mut without_effect = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        // zstd has bits that mean nothing; with these changed it is still the same backup.
        if zstd::decode_all(bytes.as_slice()).is_ok_and(|found| found == content) {
            without_effect += 1;
            continue;
        }
        fs::write(folder.backup(), bytes).unwrap();
        let code = folder.refused();
        // A damaged first entry, or a damaged name, may look like something else.
        assert!(code.starts_with("restore."), "byte {at} of {}: {code}", whole.len());
    }
    assert!(without_effect < 10, "{without_effect} of {} bytes", whole.len());
}

#[test]
fn a_backup_that_was_cut_off_is_noticed_wherever_it_was() {
    let folder = Folder::new();
    folder.pack(&folder.home()).unwrap();
    let whole = fs::read(folder.backup()).unwrap();
    for length in 0..whole.len() {
        fs::write(folder.backup(), &whole[..length]).unwrap();
        let expected = if length < 4 { "restore.not_a_backup" } else { "restore.damaged" };
        assert_eq!(folder.refused(), expected, "{length} of {}", whole.len());
    }
    fs::write(folder.backup(), [&whole[..], b"more"].concat()).unwrap();
    assert_eq!(folder.refused(), "restore.damaged");
}

/// An archive made by hand.
fn write_archive(file: &Utf8Path, entries: &[(&str, &[u8], tar::EntryType)]) {
    let mut archive = tar::Builder::new(vec![]);
    for (name, content, kind) in entries {
        let mut header = tar::Header::new_gnu();
        // The library refuses to write what a hostile archive holds.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_entry_type(*kind);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    fs::write(file, zstd::encode_all(bytes.as_slice(), 1).unwrap()).unwrap();
}

fn header(format: u64, files: u64, bytes: u64) -> Vec<u8> {
    let text = format!(
        r#"{{"format":{format},"aap_version":"9","created":"2026-11-26T00:00:00Z","files":{files},"bytes":{bytes}}}"#
    );
    text.into_bytes()
}

#[test]
fn a_newer_form_and_files_that_are_no_backups_are_refused() {
    use tar::EntryType::Regular;
    let folder = Folder::new();
    assert_eq!(folder.refused(), "restore.no_file");
    write_archive(&folder.backup(), &[("backup.json", &header(2, 0, 0), Regular)]);
    folder.is_refused_as("restore.newer_format", "version 2");
    write_archive(&folder.backup(), &[("backup.json", b"{}", Regular)]);
    assert_eq!(folder.refused(), "restore.not_a_backup");
    write_archive(&folder.backup(), &[("home/x", b"x", Regular)]);
    assert_eq!(folder.refused(), "restore.not_a_backup");
    write_archive(&folder.backup(), &[]);
    assert_eq!(folder.refused(), "restore.not_a_backup");
    fs::write(folder.backup(), "plain text").unwrap();
    assert_eq!(folder.refused(), "restore.not_a_backup");
}

#[test]
fn nothing_leads_out_of_the_home_and_nothing_but_files_is_made() {
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let folder = Folder::new();
    let check = |name: &str, kind, word: &str| {
        let first = header(1, 1, 1);
        write_archive(&folder.backup(), &[("backup.json", &first, Regular), (name, b"x", kind)]);
        folder.is_refused_as("restore.damaged", word);
        assert!(!folder.path("outside").exists());
    };
    for name in
        ["home/../outside", "home/a/../../outside", "/outside", "outside", "home//outside/..", "home/"]
    {
        check(name, Regular, "leads out of the home");
    }
    for kind in [Symlink, Link, Fifo, Directory] {
        check("home/x", kind, "no file");
    }
}

#[test]
fn an_archive_that_is_not_what_it_says_is_refused() {
    use tar::EntryType::Regular;
    let folder = Folder::new();
    let manifest = |path: &str, sha256: &str| {
        format!(r#"{{"files":[{{"path":"{path}","bytes":1,"mode":384,"sha256":"{sha256}"}}]}}"#).into_bytes()
    };
    // Of the one byte `x`.
    let hash = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let good = manifest("x", hash);
    let (first, file) = (header(1, 1, 1), ("home/x", &b"x"[..], Regular));
    let check = |first: &[u8], files: &[(&str, &[u8], tar::EntryType)], last: &[u8], word: &str| {
        let ends = [("backup.json", first, Regular), ("manifest.json", last, Regular)];
        let entries = [&ends[..1], files, &ends[1..]].concat();
        write_archive(&folder.backup(), &entries);
        folder.is_refused_as("restore.damaged", word);
    };
    check(&first, &[file, file], &good, "more than it says");
    check(&header(1, 1, 0), &[file], &good, "more than it says");
    check(&header(1, 2, 2), &[file, file], &good, "twice");
    check(&header(1, 2, 2), &[file], &good, "1 of 2 files");
    check(&first, &[file], &manifest("y", hash), "`x` is not what was written");
    check(&first, &[file], &manifest("x", &hash.replace('2', "3")), "`x` is not what was written");
    check(&first, &[file], b"nonsense", "what it says of itself");
    let after = [("backup.json", &first[..], Regular), file, ("manifest.json", &good, Regular), file];
    write_archive(&folder.backup(), &after);
    folder.is_refused_as("restore.damaged", "follows its last entry");
    write_archive(&folder.backup(), &after[..3]);
    folder.unpack().unwrap();
    assert_eq!(fs::read(folder.path("restored/x")).unwrap(), b"x");
}

#[test]
fn a_backup_is_refused_where_it_would_be_none() {
    let folder = Folder::new();
    let code = |error: Error| error.problem().code;
    assert_eq!(code(folder.pack(&Home::at(folder.path("nowhere"))).unwrap_err()), "backup.no_platform");
    fs::create_dir(folder.path("bare")).unwrap();
    assert_eq!(code(folder.pack(&Home::at(folder.path("bare"))).unwrap_err()), "backup.no_platform");
    let home = folder.home();
    let into = |file: &str| {
        let clock = ManualClock::at(0);
        code(pack(&home, Utf8Path::new(file), "0.1.0", &clock, &Progress::default()).unwrap_err())
    };
    assert_eq!(into(home.root().join("lake/backup").as_str()), "backup.within_home");
    assert_eq!(into(folder.path("nowhere/backup").as_str()), "backup.not_written");
    fs::write(folder.backup(), "another").unwrap();
    assert_eq!(into(folder.backup().as_str()), "backup.file_exists");
    assert_eq!(fs::read(folder.backup()).unwrap(), b"another");
    fs::remove_file(folder.backup()).unwrap();

    symlink("/dev/null", home.root().join("lake/link")).unwrap();
    assert_eq!(code(folder.pack(&home).unwrap_err()), "backup.link");
    fs::remove_file(home.root().join("lake/link")).unwrap();
    let yaml = "kind: Coordinator\nspec: { metadata: { postgres: { url: 'postgres://db/aap' } } }\n";
    fs::write(home.config().join("coordinator.yaml"), yaml).unwrap();
    assert_eq!(code(folder.pack(&home).unwrap_err()), "backup.metadata_elsewhere");
    fs::write(home.config().join("coordinator.yaml"), "kind: Coordinator\nspec: {}\n").unwrap();
    folder.pack(&home).unwrap();
}

#[test]
fn what_is_cancelled_leaves_nothing() {
    let folder = Folder::new();
    let home = folder.home();
    let cancelled = Progress::default();
    cancelled.cancel();
    let clock = ManualClock::at(0);
    let error = pack(&home, &folder.backup(), "0.1.0", &clock, &cancelled).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    folder.pack(&home).unwrap();
    let error = unpack(&folder.target(), &folder.backup(), &cancelled).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error:?}");
    let mut left: Vec<_> =
        folder.path("").read_dir_utf8().unwrap().map(|e| e.unwrap().file_name().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["home", "platform.aap-backup"]);
}

#[test]
fn how_far_it_is_can_be_seen() {
    let folder = Folder::new();
    let (home, progress) = (folder.home(), Progress::default());
    let made = pack(&home, &folder.backup(), "0.1.0", &ManualClock::at(0), &progress).unwrap();
    assert_eq!((progress.done(), progress.total()), (made.bytes, made.bytes));
    let progress = Progress::default();
    unpack(&folder.target(), &folder.backup(), &progress).unwrap();
    assert_eq!((progress.done(), progress.total()), (made.bytes, made.bytes));
}
