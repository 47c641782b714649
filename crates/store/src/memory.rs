//! Metadata in memory, for tests of whoever uses the store.
//!
//! | file | owns |
//! |---|---|
//! | `access.rs` | users, sessions, tokens, node identities |
//! | `cluster.rs` | leases, whose the metadata is, positions of sources |

mod access;
mod cluster;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_runtime::SystemClock;
use aap_types::{BatchId, NodeId, Sequence, SourceKind, StreamKey, StreamName, unite_columns};

use crate::{
    AccessKind, AccessRow, Catalogue, Claim, Deleted, Error, Fence, Fencing, LakeCommit, LakeFile,
    LandedPosition, MetadataStore, NodeRecord, ResourceRecord, ResourceStore, Retention, RowCounts,
    SinkDeadLetter, SinkState, StreamRecord,
};
use cluster::LeaseRow;

/// Metadata in memory. Behaves as [`crate::SqliteStore`] does, and as the store of a cluster, but forgets.
#[derive(Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<State>>,
    fencing: Mutex<Fencing>,
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
    resources: BTreeMap<(String, String), ResourceRecord>,
    sinks: BTreeMap<String, SinkState>,
    ledgers: BTreeMap<String, (u64, String)>,
    dead_letters: BTreeMap<(String, BatchId, u64), SinkDeadLetter>,
    clock: SystemClock,
    /// How far the time of leases is ahead of the clock.
    ahead: Duration,
    leases: BTreeMap<String, LeaseRow>,
    claim: Claim,
    positions: BTreeMap<(NodeId, SourceKind, String), LandedPosition>,
    access: BTreeMap<(AccessKind, String), AccessRow>,
}

impl State {
    fn of_sink(&self, uid: &str) -> impl Iterator<Item = &SinkDeadLetter> {
        self.dead_letters.iter().filter(move |((sink, ..), _)| sink == uid).map(|(_, letter)| letter)
    }
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a change of the lake.
    fn lake(&self) -> Result<MutexGuard<'_, State>, Error> {
        let fencing = self.fencing.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.state();
        match fencing.fence()? {
            Some(fence) if !state.is_held_at(&fence.lease, fence.token) => {
                Err(Error::Fenced { lease: fence.lease.clone() })
            }
            _ => Ok(state),
        }
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
        let mut state = self.lake()?;
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
        let mut state = self.lake()?;
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
        let mut state = self.lake()?;
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

    fn set_fence(&self, fence: Option<Fence>) {
        self.fencing.lock().unwrap_or_else(PoisonError::into_inner).set(fence);
    }
}

impl ResourceStore for MemoryStore {
    fn resources(&self) -> Result<Vec<ResourceRecord>, Error> {
        Ok(self.state().resources.values().cloned().collect())
    }

    fn put_resource(&self, resource: &ResourceRecord) -> Result<(), Error> {
        let (kind, name) = (resource.kind.clone(), resource.name.clone());
        let mut state = self.state();
        let found = state.resources.get(&(kind.clone(), name.clone())).map_or(0, |known| known.revision);
        let expected = resource.revision.saturating_sub(1);
        if found != expected {
            return Err(Error::Revision { kind, name, expected, found });
        }
        state.resources.insert((kind, name), resource.clone());
        Ok(())
    }

    fn restore_resources(&self, resources: &[(ResourceRecord, SinkState)]) -> Result<(), Error> {
        let mut state = self.state();
        for (resource, sink) in resources {
            state.resources.insert((resource.kind.clone(), resource.name.clone()), resource.clone());
            state.sinks.insert(resource.uid.clone(), sink.clone());
        }
        Ok(())
    }

    fn delete_resource(&self, kind: &str, name: &str) -> Result<bool, Error> {
        let mut state = self.state();
        let deleted = state.resources.remove(&(kind.to_owned(), name.to_owned()));
        if let Some(deleted) = &deleted {
            state.sinks.remove(&deleted.uid);
            state.ledgers.remove(&deleted.uid);
            state.dead_letters.retain(|(sink, ..), _| *sink != deleted.uid);
        }
        Ok(deleted.is_some())
    }

    fn sink_state(&self, uid: &str) -> Result<SinkState, Error> {
        Ok(self.state().sinks.get(uid).cloned().unwrap_or_default())
    }

    fn set_sink_state(&self, uid: &str, sink: &SinkState) -> Result<(), Error> {
        self.state().sinks.insert(uid.to_owned(), sink.clone());
        Ok(())
    }

    fn sink_ledger(&self, uid: &str) -> Result<Option<(u64, String)>, Error> {
        Ok(self.state().ledgers.get(uid).cloned())
    }

    fn replace_sink_ledger(&self, uid: &str, version: u64, ledger: &str) -> Result<(), Error> {
        let mut state = self.state();
        let found = state.ledgers.get(uid).map_or(0, |(version, _)| *version);
        let expected = version.saturating_sub(1);
        if found != expected {
            let (kind, name) = ("Ledger".to_owned(), uid.to_owned());
            return Err(Error::Revision { kind, name, expected, found });
        }
        state.ledgers.insert(uid.to_owned(), (version, ledger.to_owned()));
        Ok(())
    }

    fn add_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error> {
        let mut state = self.state();
        for letter in letters {
            let place = (uid.to_owned(), letter.batch.clone(), letter.row);
            state.dead_letters.entry(place).or_insert_with(|| letter.clone());
        }
        Ok(())
    }

    fn drop_dead_letters_beyond(
        &self,
        uid: &str,
        written: &BTreeMap<StreamKey, Sequence>,
    ) -> Result<(), Error> {
        self.state().dead_letters.retain(|(sink, batch, _), _| {
            let through = written.get(&batch.key).copied().unwrap_or_default();
            sink != uid || batch.sequence <= through
        });
        Ok(())
    }

    fn dead_letters(&self, uid: &str, limit: usize) -> Result<Vec<SinkDeadLetter>, Error> {
        Ok(self.state().of_sink(uid).take(limit).cloned().collect())
    }

    fn dead_letter_count(&self, uid: &str) -> Result<u64, Error> {
        Ok(self.state().of_sink(uid).count() as u64)
    }

    fn set_sink_paused(&self, uid: &str, paused: bool) -> Result<(), Error> {
        self.state().sinks.entry(uid.to_owned()).or_default().paused = paused;
        Ok(())
    }

    fn begin_replay(&self, uid: &str, now_us: i64) -> Result<(u64, u64), Error> {
        let mut state = self.state();
        let next = state.sinks.get(uid).map_or(0, |known| known.replays) + 1;
        let number = next.max(u64::try_from(now_us).unwrap_or(0));
        let mut rows = 0;
        for ((sink, ..), letter) in &mut state.dead_letters {
            if sink == uid && letter.replay == 0 {
                letter.replay = number;
                rows += 1;
            }
        }
        if rows == 0 {
            return Ok((0, 0));
        }
        state.sinks.entry(uid.to_owned()).or_default().replays = number;
        Ok((number, rows))
    }

    fn pending_replay(&self, uid: &str) -> Result<Option<(u64, Vec<SinkDeadLetter>)>, Error> {
        let state = self.state();
        let first = state.of_sink(uid).map(|letter| letter.replay).filter(|replay| *replay > 0).min();
        let of = |number| state.of_sink(uid).filter(|letter| letter.replay == number).cloned().collect();
        Ok(first.map(|number| (number, of(number))))
    }

    fn requeue_dead_letters(&self, uid: &str, letters: &[SinkDeadLetter]) -> Result<(), Error> {
        let mut state = self.state();
        for letter in letters {
            let place = (uid.to_owned(), letter.batch.clone(), letter.row);
            if let Some(known) = state.dead_letters.get_mut(&place) {
                known.replay = 0;
                known.reason.clone_from(&letter.reason);
                known.at_us = letter.at_us;
            }
        }
        Ok(())
    }

    fn end_replay(&self, uid: &str, replay: u64) -> Result<(), Error> {
        self.state().dead_letters.retain(|(sink, ..), letter| sink != uid || letter.replay != replay);
        Ok(())
    }

    fn purge_dead_letters(&self, uid: &str) -> Result<u64, Error> {
        let mut state = self.state();
        let before = state.dead_letters.len();
        state.dead_letters.retain(|(sink, ..), letter| sink != uid || letter.replay != 0);
        Ok((before - state.dead_letters.len()) as u64)
    }
}
