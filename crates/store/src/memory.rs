//! Metadata in memory, for tests of whoever uses the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aap_types::{NodeId, Sequence, StreamKey, StreamName, unite_columns};

use crate::{
    Catalogue, Deleted, Error, LakeCommit, LakeFile, MetadataStore, NodeRecord, Retention, RowCounts,
    StreamRecord,
};

/// Metadata in memory. Behaves as [`crate::SqliteStore`] does, but forgets.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<NodeId, NodeRecord>,
    streams: BTreeMap<StreamName, (RowCounts, Vec<(String, String)>)>,
    retention: BTreeMap<StreamName, Retention>,
    files: Vec<LakeFile>,
    cursors: BTreeMap<StreamKey, Sequence>,
    deleted: BTreeMap<StreamKey, Sequence>,
    version: u64,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MetadataStore for MemoryStore {
    fn record_node(&self, node: &NodeRecord) -> Result<(), Error> {
        let mut state = self.state();
        let first_seen_us =
            state.nodes.get(&node.node).map_or(node.first_seen_us, |known| known.first_seen_us);
        state.nodes.insert(node.node.clone(), NodeRecord { first_seen_us, ..node.clone() });
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<NodeRecord>, Error> {
        Ok(self.state().nodes.values().cloned().collect())
    }

    fn node(&self, node: &NodeId) -> Result<Option<NodeRecord>, Error> {
        Ok(self.state().nodes.get(node).cloned())
    }

    fn catalogue(&self) -> Result<Catalogue, Error> {
        let state = self.state();
        let stream_of = |(stream, (counts, columns)): (&StreamName, &(RowCounts, Vec<_>))| StreamRecord {
            stream: stream.clone(),
            counts: *counts,
            columns: columns.clone(),
            retention: state.retention.get(stream).copied(),
        };
        let mut files = state.files.clone();
        files.sort_by(|a, b| a.stream.cmp(&b.stream));
        Ok(Catalogue {
            streams: state.streams.iter().map(stream_of).collect(),
            files,
            cursors: state.cursors.iter().map(|(key, through)| (key.clone(), *through)).collect(),
            deleted: state.deleted.iter().map(|(key, through)| (key.clone(), *through)).collect(),
            version: state.version,
        })
    }

    fn commit(&self, commit: &LakeCommit) -> Result<(), Error> {
        let mut state = self.state();
        for change in &commit.cursors {
            let found = state.cursors.get(&change.key).copied().unwrap_or_default();
            if found != change.from {
                return Err(Error::CutMoved { key: change.key.clone(), expected: change.from, found });
            }
        }
        if let Some(gone) = commit.remove.iter().find(|path| !state.files.iter().any(|f| f.path == **path)) {
            return Err(Error::FileGone(gone.clone()));
        }
        for change in &commit.cursors {
            state.cursors.insert(change.key.clone(), change.to);
        }
        state.files.retain(|file| !commit.remove.contains(&file.path));
        state.files.extend(commit.add.iter().cloned());
        let (counts, columns) = state.streams.entry(commit.stream.clone()).or_default();
        counts.add(&commit.counts);
        unite_columns(columns, &commit.columns);
        state.version += 1;
        Ok(())
    }

    fn declare_columns(&self, stream: &StreamName, columns: &[(String, String)]) -> Result<(), Error> {
        unite_columns(&mut self.state().streams.entry(stream.clone()).or_default().1, columns);
        Ok(())
    }

    fn delete_stream(
        &self,
        stream: &StreamName,
        floors: &[(StreamKey, Sequence)],
        _now_us: i64,
    ) -> Result<Deleted, Error> {
        let mut state = self.state();
        for (key, floor) in floors {
            let cut = state.cursors.entry(key.clone()).or_default();
            *cut = (*cut).max(*floor);
            if key.stream == *stream {
                state.deleted.insert(key.clone(), *floor);
            }
        }
        let (gone, kept) =
            std::mem::take(&mut state.files).into_iter().partition(|file: &LakeFile| file.stream == *stream);
        state.files = kept;
        state.streams.remove(stream);
        state.version += 1;
        Ok(Deleted { files: gone })
    }

    fn deletions_of(&self, node: &NodeId) -> Result<Vec<(StreamKey, Sequence)>, Error> {
        let state = self.state();
        let of_node = state.deleted.iter().filter(|(key, _)| key.node == *node);
        Ok(of_node.map(|(key, through)| (key.clone(), *through)).collect())
    }

    fn restore(&self, catalogue: &Catalogue) -> Result<(), Error> {
        let mut state = self.state();
        state.deleted = catalogue.deleted.iter().cloned().collect();
        state.files.clone_from(&catalogue.files);
        state.cursors = catalogue.cursors.iter().cloned().collect();
        let told = catalogue.streams.iter();
        state.streams = told.map(|s| (s.stream.clone(), (s.counts, s.columns.clone()))).collect();
        for stream in &catalogue.streams {
            if let Some(keep) = stream.retention {
                state.retention.entry(stream.stream.clone()).or_insert(keep);
            }
        }
        state.version = catalogue.version;
        Ok(())
    }

    fn set_retention(&self, stream: &StreamName, retention: Option<&Retention>) -> Result<(), Error> {
        let mut state = self.state();
        match retention {
            Some(keep) => state.retention.insert(stream.clone(), *keep),
            None => state.retention.remove(stream),
        };
        Ok(())
    }
}
