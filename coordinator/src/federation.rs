//! Tables of one query: streams of the platform, and tables of other systems and of nodes, fetched before the engine reads them.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_federation::{Budget, Part, Remote, Report, Scan, Spool};
use aap_proto::v1;
use aap_runtime::Shutdown;
use aap_sql::{Catalog, Manifest, ResolvedTables, TableManifest, TableNeed};
use aap_types::{ExitCode, Problem};
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::try_join_all;
use tokio::runtime::Handle;

use crate::access::Scoped;
use crate::catalog::ScratchFolder;
use crate::catalogs::Catalogs;
use crate::node_tables::{self, NodeTables};

/// The catalogue of one query.
#[derive(Debug)]
pub(crate) struct Federated {
    pub(crate) local: Scoped,
    pub(crate) catalogs: Catalogs,
    pub(crate) nodes: Arc<NodeTables>,
    /// Where fetched rows are put; made when there are some.
    pub(crate) folder: Utf8PathBuf,
    /// What may be fetched.
    pub(crate) budget: Budget,
    pub(crate) deadline: Duration,
    pub(crate) cancel: Shutdown,
    pub(crate) runtime: Handle,
    scans: Mutex<Vec<v1::Scan>>,
}

/// What a need of the statement turns out to be.
enum Place {
    Here(TableNeed),
    There(TableNeed, Arc<dyn Remote>, Scan),
}

impl Federated {
    /// For a query that fetches into `folder`.
    pub(crate) fn new(
        local: Scoped,
        (catalogs, nodes): (Catalogs, NodeTables),
        (folder, budget): (Utf8PathBuf, Budget),
        (deadline, cancel): (Duration, Shutdown),
    ) -> Self {
        let (runtime, nodes) = (Handle::current(), Arc::new(nodes));
        Self { local, catalogs, nodes, folder, budget, deadline, cancel, runtime, scans: Mutex::default() }
    }

    fn place(&self, need: &TableNeed) -> Place {
        let remote = need.path.first().and_then(|first| self.remote(first));
        match (remote, &need.scan) {
            (Some(remote), Some(scan)) => Place::There(need.clone(), remote, scan.clone()),
            // `lake.logs` is the stream `logs`, and `web.access` the stream of that name.
            _ => Place::Here(need.clone()),
        }
    }

    /// What lies behind the first part of a table's name.
    fn remote(&self, first: &str) -> Option<Arc<dyn Remote>> {
        match first.eq_ignore_ascii_case(node_tables::CATALOG) {
            true => Some(self.nodes.clone()),
            false => {
                self.catalogs.find(first).filter(|_| self.local.scope.sees_catalog(&first.to_lowercase()))
            }
        }
    }

    /// Fetches all of them at once.
    fn fetch(&self, wanted: Vec<(TableNeed, Arc<dyn Remote>, Scan)>) -> Result<Fetched, Problem> {
        if wanted.is_empty() {
            return Ok(Fetched::default());
        }
        let folder = make_folder(&self.folder)?;
        let scans = wanted.iter().enumerate().map(|(at, (_, remote, scan))| {
            let path = self.folder.join(at.to_string());
            fetch_one(remote.as_ref(), scan, Spool::new(path, self.budget.clone()))
        });
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        let fetched = self.runtime.block_on(async {
            let fetched = tokio::select! {
                fetched = try_join_all(scans) => fetched,
                () = self.cancel.requested() => Err(aap_sql::problem::cancelled()),
                () = tokio::time::sleep(self.deadline) => Err(aap_sql::problem::deadline(deadline_ms)),
            };
            if fetched.is_err() {
                self.nodes.forsake().await;
            }
            fetched
        })?;
        let mut tables = vec![];
        for ((need, remote, _), (files, report)) in wanted.iter().zip(fetched) {
            tables.push(TableManifest {
                name: need.name.clone(),
                ipc: files,
                aggregated: report.aggregated,
                columns: report.aggregated.then(|| report.columns.clone()),
                ..TableManifest::default()
            });
            self.note(scans_of(need, remote.as_ref(), report));
        }
        Ok(Fetched { tables, folder: Some(folder) })
    }

    fn note(&self, scans: impl IntoIterator<Item = v1::Scan>) {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).extend(scans);
    }
}

#[derive(Default)]
struct Fetched {
    tables: Vec<TableManifest>,
    folder: Option<ScratchFolder>,
}

async fn fetch_one(
    remote: &dyn Remote,
    scan: &Scan,
    mut spool: Spool,
) -> Result<(Vec<Utf8PathBuf>, Report), Problem> {
    let report = remote.scan(scan, &mut spool).await?;
    spool.finish()?;
    Ok((spool.files().to_vec(), report.with_moved(&spool)))
}

fn make_folder(path: &Utf8Path) -> Result<ScratchFolder, Problem> {
    std::fs::create_dir_all(path).map_err(|error| {
        Problem::new("query.scratch", ExitCode::Failed, format!("cannot make the scratch folder `{path}`"))
            .caused_by(&error)
    })?;
    Ok(ScratchFolder(path.to_owned()))
}

/// What each place of the table did.
fn scans_of(need: &TableNeed, remote: &dyn Remote, report: Report) -> Vec<v1::Scan> {
    let scan = v1::Scan {
        table: need.path.join("."),
        place: format!("{} {}", remote.kind(), remote.place()),
        statement: report.statement,
        pushed: report.pushed,
        kept: report.kept.into_iter().map(|kept| format!("{}: {}", kept.what, kept.why)).collect(),
        rows: report.rows,
        bytes: report.bytes,
        aggregated: report.aggregated,
    };
    if report.parts.is_empty() {
        return vec![scan];
    }
    let part = |Part { place, rows, bytes }| {
        let place = format!("{} {place}", remote.kind());
        v1::Scan { place, rows, bytes, ..scan.clone() }
    };
    report.parts.into_iter().map(part).collect()
}

impl Catalog for Federated {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let (mut here, mut there) = (vec![], vec![]);
        for need in need {
            match self.place(need) {
                Place::Here(need) => here.push(need),
                Place::There(need, remote, scan) => there.push((need, remote, scan)),
            }
        }
        // Streams first: a query that names what is not there need not wait for other systems.
        let local = self.local.resolve(&here)?;
        let known = |need: &TableNeed| local.manifest.tables.iter().any(|table| table.name == need.name);
        if let Some(missing) = here.iter().find(|need| !need.path.is_empty() && !known(need)) {
            return Err(self.catalogs.unknown(&missing.name, |name| self.local.scope.sees_catalog(name)));
        }
        for table in &local.manifest.tables {
            self.note([self.local.scan_of(table)]);
        }
        let fetched = self.fetch(there)?;
        let tables = local.manifest.tables.into_iter().chain(fetched.tables).collect();
        let pins: Box<dyn Any + Send> = Box::new((local.pins, fetched.folder));
        Ok(ResolvedTables { manifest: Manifest { tables }, pins })
    }

    fn table_names(&self) -> Vec<String> {
        self.local.table_names()
    }

    fn scans(&self) -> Vec<v1::Scan> {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn coverage(&self) -> Vec<v1::Coverage> {
        self.nodes.coverage()
    }
}
