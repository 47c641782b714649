//! The journal of systemd, read from its files: exactly once, through kills, rotation and restarts.
//!
//! A file is known by the id in its header, which stays when journald archives it under another name. How far it was read
//! is the number of its last entry, made durable with the rows. Files are looked for and looked at every second.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use aap_buffer::Entry;
use aap_decode::journal::{Cursor, Journal, JournalError, JournalRows};
use aap_runtime::Shutdown;
use aap_types::{SourceKind, SourcePosition};
use camino::{Utf8Path, Utf8PathBuf};

use super::{SourceDeps, SourceError};
use crate::config::{JournaldSpec, Start};
use crate::ingress::{IngressError, Parcel, Sealer, positions_only};

/// Between looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Folders below a place: journald has one, the machine's id.
const DEPTH_MAX: usize = 2;
/// Files that are followed; more than journald keeps.
const FILES_MAX: usize = 1000;

/// One file, and how far it was read.
struct Followed {
    journal: Journal<File>,
    cursor: Cursor,
    /// Entries that are damaged, and fields that could not be read, so far.
    damaged: u64,
    left_out: u64,
}

/// All files, by id.
type Files = BTreeMap<String, Followed>;

/// What one look found.
struct Found {
    files: Files,
    parcel: Parcel,
    problems: Vec<String>,
    has_more: bool,
}

/// Reads until the source is asked to stop.
pub(super) async fn run(
    name: String,
    spec: JournaldSpec,
    deps: SourceDeps,
    shutdown: Shutdown,
) -> Result<(), SourceError> {
    let mut files = Files::new();
    let prefix = key(&name, "");
    let is_of_it =
        |position: &SourcePosition| position.kind == SourceKind::File && position.key.starts_with(&prefix);
    // Files that come later are read from their beginning, whatever is configured.
    let mut is_first = !deps.ingress.buffer.positions().iter().any(is_of_it);
    loop {
        let (own, spec_, deps_) = (name.clone(), spec.clone(), deps.clone());
        let permit = deps.decoding.clone().acquire_owned().await;
        let looking = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            look(&own, &spec_, &deps_, files, is_first)
        });
        let found = looking.await.map_err(|error| SourceError::Config(error.to_string()))?;
        let found = found.map_err(|error| SourceError::Config(error.to_string()))?;
        is_first = false;
        files = found.files;
        deps.board.source(&name, |entry| entry.detail = format!("follows {} files", files.len()));
        deps.board.source_problem(&name, "read", found.problems.into_iter().next());
        if !found.parcel.is_empty() {
            deps.ingress.failpoints.reach("agent.after_read");
            tokio::select! {
                stored = deps.ingress.append(found.parcel) => {
                    stored.map_err(|error| SourceError::Config(format!("store entries: {error}")))?;
                }
                // Read again at the next start: no position moved.
                () = shutdown.requested() => return Ok(()),
            }
        }
        if found.has_more && !shutdown.is_requested() {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

/// Looks for files and reads what is new, a batch of each. Blocks.
fn look(
    name: &str,
    spec: &JournaldSpec,
    deps: &SourceDeps,
    mut files: Files,
    is_first: bool,
) -> Result<Found, IngressError> {
    let mut problems = Vec::new();
    let mut paths = Vec::new();
    spec.places().iter().for_each(|place| list(place, DEPTH_MAX, &mut paths));
    let (mut parcel, mut sealer, mut has_more) = (Parcel::default(), Sealer::default(), false);
    let mut there = Vec::new();
    for path in paths.into_iter().take(FILES_MAX) {
        let journal = match File::open(&path).map_err(JournalError::from).and_then(Journal::open) {
            Ok(journal) => journal,
            Err(error) => {
                problems.push(format!("`{path}`: {}", chain(&error)));
                continue;
            }
        };
        let id = journal.id();
        there.push(id.clone());
        if files.contains_key(&id) {
            continue;
        }
        let mut followed = Followed { journal, cursor: Cursor::default(), damaged: 0, left_out: 0 };
        let known = deps.ingress.buffer.position(SourceKind::File, &key(name, &id));
        let behind = match (&known, spec.start) {
            (Some(position), _) => Some(position.offset),
            (None, Start::End) if is_first => Some(u64::MAX),
            (None, _) => None,
        };
        if let Some(seqnum) = behind
            && let Err(error) = followed.journal.seek(&mut followed.cursor, seqnum)
        {
            problems.push(format!("`{path}`: {}", chain(&error)));
        }
        if known.is_none() && followed.cursor.seqnum > 0 {
            let position = position(name, &id, followed.cursor);
            parcel.join(positions_only(&spec.stream, vec![position])?);
        }
        files.insert(id, followed);
    }
    files.retain(|id, _| there.contains(id));
    for (id, followed) in &mut files {
        let mut rows = JournalRows::default();
        let read = rows.read(&followed.journal, &mut followed.cursor, deps.ingress.clock.unix_us());
        if let Err(error) = read {
            problems.push(format!("journal {id}: {}", chain(&error)));
        }
        followed.damaged += rows.damaged;
        followed.left_out += rows.left_out;
        if followed.damaged > 0 {
            problems.push(format!("{} entries of journal {id} are damaged", followed.damaged));
        }
        if followed.left_out > 0 {
            problems.push(format!("{} fields of journal {id} cannot be read", followed.left_out));
        }
        let batch = rows
            .finish()
            .map_err(|error| IngressError::Decode { stream: spec.stream.clone(), source: error.into() })?;
        let Some(batch) = batch else { continue };
        has_more = true;
        let bytes = batch.get_array_memory_size() as u64;
        parcel.add(&spec.stream, &mut sealer, &batch, bytes)?;
        // With the last entry, so that the position is not there before all of what it stands for.
        if let Some(Entry::Own { positions, .. }) = parcel.entries.last_mut() {
            positions.push(position(name, id, followed.cursor));
        }
    }
    Ok(Found { files, parcel, problems, has_more })
}

fn key(name: &str, id: &str) -> String {
    format!("{name}/journal/{id}")
}

fn position(name: &str, id: &str, cursor: Cursor) -> SourcePosition {
    SourcePosition {
        kind: SourceKind::File,
        key: key(name, id),
        offset: cursor.seqnum,
        detail: String::new(),
    }
}

/// Journal files of a folder and those in it.
fn list(folder: &Utf8Path, depth: usize, paths: &mut Vec<Utf8PathBuf>) {
    for entry in folder.read_dir_utf8().into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => list(entry.path(), depth - 1, paths),
            // `.journal~` was not closed well; what is whole in it is read.
            Ok(kind) if kind.is_file() && entry.file_name().ends_with(".journal") => {
                paths.push(entry.path().to_owned());
            }
            Ok(kind) if kind.is_file() && entry.file_name().ends_with(".journal~") => {
                paths.push(entry.path().to_owned());
            }
            _ => {}
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::Rig;

    /// Where Debian has it; `tests/services/journald.sh` installs it.
    const WRITER: &str = "/lib/systemd/systemd-journal-remote";

    /// Writes entries `from..to` with the program of systemd that writes journals; false where there is none.
    fn write(folder: &std::path::Path, file: &str, from: u64, to: u64) -> bool {
        if !std::path::Path::new(WRITER).exists() {
            eprintln!("skipped: no {WRITER}");
            return false;
        }
        std::fs::create_dir_all(folder).unwrap();
        let path = folder.join(file);
        let mut child = Command::new(WRITER)
            .args(["-o", path.to_str().unwrap(), "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        for id in from..to {
            let long = "x".repeat(if id % 100 == 0 { 4000 } else { 1 });
            write!(
                input,
                "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID=0123456789abcdef0123456789abcdef\n\
                 MESSAGE=message {id}\nPRIORITY={}\n_SYSTEMD_UNIT=web.service\nSYSLOG_IDENTIFIER=web\n_PID=42\n_HOSTNAME=h\nLONG={long}\n\n",
                1_700_000_000_000_000 + id,
                1000 + id,
                id % 8
            )
            .unwrap();
        }
        drop(input);
        assert!(child.wait().unwrap().success());
        true
    }

    fn spec(folder: &std::path::Path, start: &str) -> JournaldSpec {
        let spec = serde_json::json!({ "type": "journald", "directory": folder, "start": start });
        serde_json::from_value(spec).unwrap()
    }

    async fn read_until(rig: &Rig, spec: JournaldSpec, what: &str, holds: impl Fn(&Rig) -> bool) {
        rig.deps.board.add_source("j", crate::testing::entry());
        let shutdown = Shutdown::default();
        let running = run("j".into(), spec, rig.deps.clone(), shutdown.clone());
        let (ran, ()) = tokio::join!(running, async {
            rig.until(what, holds).await;
            shutdown.request();
        });
        ran.unwrap();
    }

    fn messages(rig: &Rig) -> Vec<String> {
        rig.texts("journal", "body")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn each_entry_is_read_once_through_restarts_and_rotation() {
        let mut rig = Rig::new();
        let folder = rig.path("journal");
        if !write(&folder.join("m"), "system.journal", 0, 1500) {
            return;
        }
        let spec = spec(&folder, "beginning");
        read_until(&rig, spec.clone(), "the first entries", |rig| messages(rig).len() >= 1500).await;
        rig.restart();
        // While nobody reads, more is written, and the file is archived under another name.
        write(&folder.join("m"), "system.journal", 1500, 2000);
        std::fs::rename(folder.join("m/system.journal"), folder.join("m/system@1.journal")).unwrap();
        write(&folder.join("m"), "system.journal", 2000, 2100);
        read_until(&rig, spec, "all entries", |rig| messages(rig).len() >= 2100).await;
        let expected: Vec<String> = (0..2100).map(|id| format!("message {id}")).collect();
        let mut found = messages(&rig);
        found.sort_by_key(|text| text[8..].parse::<u64>().unwrap());
        assert_eq!(found, expected);
        assert_eq!(rig.texts("journal", "severity")[..3], ["FATAL", "ERROR", "ERROR"]);
        assert_eq!(rig.texts("journal", "unit")[0], "web.service");
        assert_eq!(rig.texts("journal", "pid")[0], "42");
        assert_eq!(rig.texts("journal", "ts")[0], "2023-11-14T22:13:20");
        let attributes: serde_json::Value =
            serde_json::from_str(&rig.texts("journal", "attributes")[0]).unwrap();
        assert!(rig.deps.board.sources()["j"].problems.is_empty(), "{:?}", rig.deps.board.sources());
        assert_eq!(attributes["LONG"].as_str().map(str::len), Some(4000), "a compressed field: {attributes}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn from_the_end_means_what_is_written_after_the_first_start() {
        let rig = Rig::new();
        let folder = rig.path("journal");
        if !write(&folder, "system.journal", 0, 10) {
            return;
        }
        let spec = spec(&folder, "end");
        let writing = |rig: &Rig| {
            let is_there = rig.deps.board.sources()["j"].detail.starts_with("follows 1");
            if is_there && messages(rig).is_empty() {
                write(&folder, "system.journal", 10, 12);
            }
            messages(rig).len() >= 2
        };
        read_until(&rig, spec, "the later entries", writing).await;
        assert_eq!(messages(&rig)[..2], ["message 10", "message 11"]);
    }

    #[test]
    fn what_is_no_journal_is_named_and_damage_ends_nothing() {
        let rig = Rig::new();
        let folder = rig.path("journal");
        if !write(&folder, "system.journal", 0, 200) {
            return;
        }
        assert!(Journal::open(vec![b'x'; 4096]).is_err());
        assert!(Journal::open(b"LPKSHHRH".to_vec()).is_err());
        let whole = std::fs::read(folder.join("system.journal")).unwrap();
        let read = |bytes: Vec<u8>| {
            let (mut rows, mut cursor, mut total) = (JournalRows::default(), Cursor::default(), 0);
            let Ok(journal) = Journal::open(bytes) else { return 0 };
            while let Ok(more @ 1..) = rows.read(&journal, &mut cursor, 0) {
                total += more;
                rows.finish().unwrap();
            }
            total
        };
        assert_eq!(read(whole.clone()), 200);
        // Wherever a byte is wrong, reading ends, and never with a panic.
        for at in (0..whole.len().min(400_000)).step_by(997) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            assert!(read(damaged) <= 200, "{at}");
        }
    }
}
