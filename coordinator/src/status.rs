//! What operators see of nodes and streams: the books, rates, lag, and what is wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aap_lake::Lake;
use aap_proto::v1;
use aap_runtime::{Clock, Shutdown};
use aap_store::{Catalogue, RowCounts};
use aap_types::{NodeId, Problem, StreamKey, StreamName};

use crate::beside::Beside;
use crate::catalog::catalogue_problem;
use crate::landing::Landing;
use crate::nodes::{NodeState, Nodes, Session};
use crate::queries::Queries;
use crate::reach::FromOthers;
use crate::sinks::Sinks;
use crate::sources::Sources;

/// Rates are means over this time.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// How often the counters are read for them.
const SAMPLE_PAUSE: Duration = Duration::from_secs(1);
/// A clock that differs by more than this is named.
const CLOCK_OFFSET_US_MAX: i64 = 1_000_000;

type RowsLanded = HashMap<(NodeId, StreamName), u64>;

/// Reads the books of everything. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    landing: Landing,
    lake: Lake,
    nodes: Nodes,
    queries: Queries,
    sinks: Sinks,
    sources: Sources,
    beside: Beside,
    clock: Arc<dyn Clock>,
    started_us: i64,
    samples: Mutex<VecDeque<(Duration, RowsLanded)>>,
}

/// Everything known of the streams at one moment.
#[derive(Debug)]
pub struct Books {
    /// As of the moment.
    pub catalogue: Catalogue,
    /// Frames beyond the cuts.
    pub waiting: Vec<(StreamKey, RowCounts)>,
}

impl Board {
    /// A board over these parts.
    pub(crate) fn new(
        landing: Landing,
        lake: Lake,
        nodes: Nodes,
        queries: Queries,
        (sinks, sources): (Sinks, Sources),
        beside: Beside,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (started_us, samples) = (clock.unix_us(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                landing,
                lake,
                nodes,
                queries,
                sinks,
                sources,
                beside,
                clock,
                started_us,
                samples,
            }),
        }
    }

    /// Servers beside the platform.
    pub(crate) fn beside(&self) -> &Beside {
        &self.inner.beside
    }

    /// How every sink stands. Blocking.
    pub fn sinks(&self) -> Vec<v1::SinkStatus> {
        self.inner.sinks.statuses("").unwrap_or_default()
    }

    /// Reads the counters for the rates, until `shutdown`.
    pub async fn sample(self, shutdown: Shutdown) -> Result<(), Problem> {
        while !shutdown.is_requested() {
            self.take_sample();
            tokio::select! {
                () = shutdown.requested() => {}
                () = tokio::time::sleep(SAMPLE_PAUSE) => {}
            }
        }
        Ok(())
    }

    fn take_sample(&self) {
        let now = self.inner.clock.monotonic();
        let landed = self.inner.landing.rows_landed();
        let mut samples = self.inner.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push_back((now, landed));
        while samples.len() > 1
            && samples.front().is_some_and(|(at, _)| now.saturating_sub(*at) > RATE_WINDOW)
        {
            samples.pop_front();
        }
    }

    /// Rows a second, by node and stream.
    fn rates(&self) -> HashMap<(NodeId, StreamName), f64> {
        let now = self.inner.clock.monotonic();
        let landed = self.inner.landing.rows_landed();
        let samples = self.inner.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, before)) = samples.front() else { return HashMap::new() };
        let seconds = now.saturating_sub(*at).as_secs_f64().max(1.0);
        let rates = landed.into_iter().map(|(key, rows)| {
            let rows = rows.saturating_sub(before.get(&key).copied().unwrap_or(0));
            (key, rows as f64 / seconds)
        });
        rates.collect()
    }

    /// The books of all streams. Blocking.
    pub fn books(&self) -> Result<Books, Problem> {
        let waiting = self.inner.lake.waiting().frames();
        let catalogue = self.inner.lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let waiting = waiting.beyond(&catalogue.cursors);
        Ok(Books { catalogue, waiting })
    }

    /// All streams. Blocking.
    pub fn streams(&self, books: &Books) -> Vec<v1::StreamStatus> {
        let mut streams: BTreeMap<&StreamName, v1::StreamStatus> = BTreeMap::new();
        for known in &books.catalogue.streams {
            add(streams.entry(&known.stream).or_default(), &known.counts);
        }
        for (key, counts) in &books.waiting {
            add(streams.entry(&key.stream).or_default(), counts);
        }
        for file in &books.catalogue.files {
            let status = streams.entry(&file.stream).or_default();
            status.files += 1;
            status.rows_in_lake += file.rows;
        }
        let rates = self.rates();
        let named = streams.into_iter().map(|(stream, status)| v1::StreamStatus {
            stream: stream.to_string(),
            rows_per_second: rates.iter().filter(|((_, s), _)| s == stream).map(|(_, rate)| rate).sum(),
            ..status
        });
        named.collect()
    }

    /// All nodes: those with a session elsewhere as that coordinator describes them.
    pub fn nodes(&self, from_others: &FromOthers) -> Vec<v1::NodeStatus> {
        let now_us = self.inner.clock.unix_us();
        let own = self.own_nodes().into_iter().map(|status| (status.node.clone(), status));
        let mut nodes: BTreeMap<String, v1::NodeStatus> = own.collect();
        for status in &from_others.nodes {
            let known = nodes.entry(status.node.clone()).or_default();
            // It may have come here since.
            if !known.connected {
                // By our clock: it was seen when that coordinator answered.
                *known = v1::NodeStatus { last_seen_us: now_us, ..status.clone() };
            }
        }
        for (node, reason) in &from_others.unknown {
            if let Some(status) = nodes.get_mut(node.as_str()) {
                status.problems.push(reason.clone());
            }
        }
        nodes.into_values().collect()
    }

    /// All nodes that are known here, connected where their session is here.
    pub fn own_nodes(&self) -> Vec<v1::NodeStatus> {
        let (now_us, rates) = (self.inner.clock.unix_us(), self.rates());
        let known = self.inner.nodes.all().into_iter().filter(|(_, state)| state.record.is_some());
        let described = known.map(|(node, state)| {
            let rate = rates.iter().filter(|((n, _), _)| *n == node).map(|(_, rate)| rate).sum();
            describe_node(&node, state, rate, now_us)
        });
        described.collect()
    }

    /// Everything. Blocking.
    pub fn status(&self, from_others: &FromOthers) -> Result<v1::StatusReply, Problem> {
        let books = self.books()?;
        let nodes = self.nodes(from_others);
        let problems = self.problems().into_iter().chain(from_others.problems.iter().cloned());
        Ok(v1::StatusReply {
            coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
            as_of_us: self.inner.clock.unix_us(),
            started_us: self.inner.started_us,
            problems: problems.collect(),
            streams: self.streams(&books),
            nodes,
        })
    }

    /// What is wrong here; nodes carry their own.
    fn problems(&self) -> Vec<String> {
        let stats = self.inner.landing.buffer().stats();
        let mut problems: Vec<String> =
            stats.problems.iter().map(|problem| format!("landing buffer: {problem}")).collect();
        problems.extend(self.inner.lake.problem());
        problems.extend(self.inner.sinks.problems());
        problems.extend(self.inner.sources.problems());
        problems.extend(self.inner.beside.problems());
        problems.extend(self.inner.landing.shards().map(|shards| shards.problems()).unwrap_or_default());
        let missing = self.inner.queries.inner.serving.sandbox_missing();
        if !missing.is_empty() {
            problems
                .push(format!("queries run without these layers of their sandbox: {}", missing.join(", ")));
        }
        problems
    }
}

fn add(status: &mut v1::StreamStatus, counts: &RowCounts) {
    status.rows += counts.rows;
    status.batches += counts.batches;
    status.bytes += counts.bytes;
    status.raw_bytes += counts.raw_bytes;
    status.rows_skipped += counts.rows_skipped;
    status.newest_us = status.newest_us.max(counts.newest_us);
    status.landed_us = status.landed_us.max(counts.landed_us);
}

fn describe_node(node: &NodeId, state: NodeState, rows_per_second: f64, now_us: i64) -> v1::NodeStatus {
    let (report, reported_us) = state.report.unwrap_or_default();
    let record = state.record.as_ref();
    // Before its welcome a node knows nothing of the session, and may never.
    let session = state.session.filter(Session::is_ready);
    let connected = session.is_some() && record.is_some();
    let last_seen_us = if connected { now_us } else { record.map_or(0, |r| r.last_seen_us).max(reported_us) };
    let mut problems = report.problems.clone();
    problems.extend(state.complaint);
    if state.clock_offset_us.abs() > CLOCK_OFFSET_US_MAX {
        problems.push(format!("its clock differs by {:.1} s", state.clock_offset_us as f64 / 1e6));
    }
    let something_waits = report.waiting_batches > 0 && state.newest_sealed_us > 0;
    let newest_here_us = state.newest_sealed_us - state.clock_offset_us;
    v1::NodeStatus {
        // Added where it is told.
        identity: None,
        node: node.to_string(),
        connected,
        transport: session.filter(|_| connected).map(|session| session.carrier).unwrap_or_default(),
        last_seen_us,
        epoch: record.map_or(0, |record| record.epoch.0),
        agent_version: record.map(|record| record.agent_version.clone()).unwrap_or_default(),
        rows_per_second,
        waiting_bytes: report.waiting_bytes,
        waiting_batches: report.waiting_batches,
        reported_us,
        quiet: report.draining,
        stored_bytes: report.stored_bytes,
        capacity_bytes: report.capacity_bytes,
        clock_offset_us: state.clock_offset_us,
        lag_ms: if something_waits { (now_us - newest_here_us).max(0) / 1000 } else { 0 },
        problems,
        streams: report.streams,
    }
}
