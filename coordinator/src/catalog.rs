//! What tables are made of: files of the lake, and frames of the landing buffer beyond the cut.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use aap_buffer::{Buffer, SegmentRef, Snapshot};
use aap_lake::{Lake, Pin};
use aap_proto::v1;
use aap_sql::{Catalog, Manifest, ResolvedTables, TableManifest, TableNeed};
use aap_store::{Catalogue, LakeFile};
use aap_types::{ExitCode, Problem, Sequence, StreamKey, StreamName};
use camino::Utf8PathBuf;

/// How often the catalogue is asked for the files of a query that turn out to be gone from the object store. They go long after they
/// were hidden, so once is enough, unless this process stood still meanwhile.
const LOOKS: usize = 3;

/// The coordinator's own data as tables.
#[derive(Debug, Clone)]
pub struct LakeAndLanding {
    /// Files.
    pub lake: Lake,
    /// Frames.
    pub buffer: Buffer,
}

impl LakeAndLanding {
    /// Streams that exist: known to the catalogue, or with frames beyond their cut.
    pub fn streams(&self, catalogue: &Catalogue) -> BTreeSet<StreamName> {
        let known = catalogue.streams.iter().map(|stream| stream.stream.clone());
        let beyond = self.buffer.tails().into_iter().filter(|(key, tail)| cut_of(catalogue, key) < *tail);
        known.chain(beyond.map(|(key, _)| key.stream)).collect()
    }
}

/// Tables as they were found, before their files were fetched.
struct Looked {
    tables: Vec<TableManifest>,
    catalogue: Catalogue,
    pins: (Snapshot, Pin),
}

/// Which tables are read by their files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    All,
    /// Those without declared columns.
    Undeclared,
}

impl Catalog for LakeAndLanding {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        self.resolve_for(need, Reads::All)
    }

    fn outline(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        self.resolve_for(need, Reads::Undeclared)
    }

    fn table_names(&self) -> Vec<String> {
        let catalogue = self.lake.catalogue().unwrap_or_default();
        self.streams(&catalogue).iter().map(ToString::to_string).collect()
    }
}

impl LakeAndLanding {
    fn resolve_for(&self, need: &[TableNeed], reads: Reads) -> Result<ResolvedTables, Problem> {
        let mut looks = 0;
        loop {
            looks += 1;
            let looked = self.look(need)?;
            match self.lake.fetch(self.files_of(&looked, reads)) {
                Ok(()) => {
                    let manifest = Manifest { tables: looked.tables };
                    return Ok(ResolvedTables { manifest, pins: Box::new(looked.pins) });
                }
                Err(error) if error.is_gone() && looks < LOOKS => {
                    tracing::info!(%error, "a file of the lake was gone when it was fetched; the catalogue is read again");
                }
                Err(error) => return Err(fetch_problem(&error)),
            }
        }
    }

    /// Pin, snapshot, catalogue, in this order: see the seam in the documentation of `aap_lake`.
    fn look(&self, need: &[TableNeed]) -> Result<Looked, Problem> {
        let pin = self.lake.pin();
        let names: Vec<StreamName> = need.iter().filter_map(stream_of).collect();
        let snapshot = self.buffer.snapshot(Some(&names));
        let catalogue = self.lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let known = self.streams(&catalogue);
        let found = need.iter().filter_map(|need| {
            let stream = stream_of(need)?;
            known.contains(&stream).then(|| self.table(need, &stream, &catalogue, &snapshot.segments))
        });
        let tables = found.collect();
        Ok(Looked { tables, catalogue, pins: (snapshot, pin) })
    }

    /// The files that must lie where the manifest says.
    fn files_of<'a>(&'a self, looked: &'a Looked, reads: Reads) -> impl Iterator<Item = &'a LakeFile> {
        let is_read = move |table: &&TableManifest| reads == Reads::All || table.columns.is_none();
        let wanted: HashSet<&Utf8PathBuf> =
            looked.tables.iter().filter(is_read).flat_map(|table| &table.parquet).collect();
        let files = looked.catalogue.files.iter();
        files.filter(move |file| wanted.contains(&self.lake.locate(&file.path)))
    }

    /// What reading a table takes, as far as the catalogue knows it: rows and bytes of files, not of frames.
    pub(crate) fn scan_of(&self, table: &TableManifest) -> v1::Scan {
        let catalogue = self.lake.catalogue().unwrap_or_default();
        let read =
            catalogue.files.iter().filter(|file| table.parquet.contains(&self.lake.locate(&file.path)));
        let (rows, bytes) = read.fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.bytes));
        let all = catalogue.files.iter().filter(|file| Some(&file.stream) == table.only.as_ref()).count();
        v1::Scan {
            table: table.name.clone(),
            place: "the platform".to_owned(),
            statement: format!(
                "{} of {all} files of the lake, and frames in {} segments that have not reached it",
                table.parquet.len(),
                table.segments.len()
            ),
            pushed: vec!["columns".to_owned(), "the range of ts".to_owned()],
            rows,
            bytes,
            ..v1::Scan::default()
        }
    }

    fn table(
        &self,
        need: &TableNeed,
        stream: &StreamName,
        catalogue: &Catalogue,
        segments: &[SegmentRef],
    ) -> TableManifest {
        // Rows without a time have the range 0..0 and match no condition on it.
        let wanted = catalogue.files.iter().filter(|file| {
            file.stream == *stream
                && need.ts_min_us.is_none_or(|min| file.ts_max_us >= min)
                && need.ts_max_us.is_none_or(|max| file.ts_min_us <= max)
        });
        let columns = catalogue.streams.iter().find(|known| known.stream == *stream);
        TableManifest {
            name: need.name.clone(),
            segments: segments.to_vec(),
            after: catalogue.cursors.iter().filter(|(key, _)| key.stream == *stream).cloned().collect(),
            only: Some(stream.clone()),
            parquet: wanted.map(|file| self.lake.locate(&file.path)).collect(),
            ipc: vec![],
            aggregated: false,
            nodes: None,
            columns: columns.map(|known| known.columns.clone()).filter(|columns| !columns.is_empty()),
        }
    }
}

/// The stream that a table's name means. `lake.logs` is `logs`.
pub(crate) fn stream_of(need: &TableNeed) -> Option<StreamName> {
    let name = match need.path.as_slice() {
        [lake, rest @ ..] if lake.eq_ignore_ascii_case("lake") && !rest.is_empty() => {
            rest.join(".").to_lowercase()
        }
        _ => need.name.clone(),
    };
    name.parse().ok()
}

/// Where the cut of `key` stands.
pub(crate) fn cut_of(catalogue: &Catalogue, key: &StreamKey) -> Sequence {
    catalogue.cursors.iter().find(|(known, _)| known == key).map_or(Sequence::ZERO, |(_, cut)| *cut)
}

/// What the operator sees when the catalogue cannot be read.
pub(crate) fn catalogue_problem(error: &aap_lake::Error) -> Problem {
    Problem::new("lake.catalogue", ExitCode::Failed, "cannot read the catalogue of the lake")
        .caused_by(error)
        .hint("look at the coordinator's log and its disk")
}

/// What the operator sees when the object store does not give what a query needs.
fn fetch_problem(error: &aap_lake::Error) -> Problem {
    Problem::new(
        "lake.unreachable",
        ExitCode::Unavailable,
        "cannot fetch the files of the lake that the query needs",
    )
    .caused_by(error)
    .hint("see whether the object store answers, and whether the coordinator's disk has room; then ask again")
}

/// Tables made of Arrow IPC files: the answers of nodes.
#[derive(Debug)]
pub struct Answers {
    /// The table's name.
    pub name: String,
    /// One file a node.
    pub files: Vec<Utf8PathBuf>,
    /// Removes the files when nobody needs them.
    pub folder: Arc<ScratchFolder>,
}

impl Catalog for Answers {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let tables = need.iter().filter(|need| need.name == self.name).map(|need| TableManifest {
            name: need.name.clone(),
            ipc: self.files.clone(),
            ..TableManifest::default()
        });
        let manifest = Manifest { tables: tables.collect() };
        Ok(ResolvedTables { manifest, pins: Box::new(self.folder.clone()) })
    }

    fn table_names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// A folder that is removed with the value.
#[derive(Debug)]
pub struct ScratchFolder(pub Utf8PathBuf);

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(path = %self.0, %error, "scratch folder was gone");
        }
    }
}

#[cfg(test)]
mod tests;
