//! The seam to whoever knows which files a table is made of.

use std::any::Any;

use aap_proto::v1;
use aap_types::Problem;

use crate::{Manifest, TableNeed};

/// Finds the files of tables.
pub trait Catalog: Send + Sync + 'static {
    /// The files of every table in `need`, pinned until the query ends. Runs on the blocking pool.
    ///
    /// A name it does not know is left out of the manifest (the caller then names the near ones), or is a
    /// [`crate::problem::unknown_table`].
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem>;

    /// The same, for a caller that opens no Parquet file of a table whose columns the manifest declares: these files need not be
    /// where it says.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    fn outline(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        self.resolve(need)
    }

    /// All names it knows.
    fn table_names(&self) -> Vec<String>;

    /// What was read of each table that was resolved, for whoever asks how a query was answered.
    fn scans(&self) -> Vec<v1::Scan> {
        vec![]
    }

    /// Which nodes were asked for each table that was resolved, where nodes were, and which of them answered.
    fn coverage(&self) -> Vec<v1::Coverage> {
        vec![]
    }
}

/// What a catalogue found.
pub struct ResolvedTables {
    /// The files.
    pub manifest: Manifest,
    /// Whatever keeps the files in being; dropped when the engine has ended.
    pub pins: Box<dyn Any + Send>,
}

impl std::fmt::Debug for ResolvedTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResolvedTables").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}
