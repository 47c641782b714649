//! How a sink stands: what `aap sink ls` and `show` say, and metrics.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aap_proto::v1;
use aap_runtime::Clock;
use aap_sinks::{Group, Guarantee, Positions};
use aap_types::{Problem, Sequence, StreamKey, StreamName};

/// Rates are means over this time.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Where a sink is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It asks its server where it stands.
    Starting,
    /// It writes, or has nothing to write.
    Running,
    /// Its server is away; it tries again.
    Retrying,
    /// Its server will not have it until somebody acts; it tries again, rarely.
    Refused,
    /// An operator stopped it.
    Paused,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Refused => "refused",
            Self::Paused => "paused",
        }
    }
}

/// The standing of one sink, written by its runner and read by everybody.
#[derive(Debug)]
pub(crate) struct Board {
    driver: &'static str,
    place: String,
    guarantee: Guarantee,
    clock: Arc<dyn Clock>,
    /// Where it begins: what lies before does not wait for it.
    starts: Positions,
    standing: Mutex<Standing>,
}

#[derive(Debug)]
struct Standing {
    state: State,
    problem: Option<Problem>,
    written: Positions,
    /// Keys that it takes, with where they end.
    keys: Vec<(StreamKey, Sequence)>,
    rows: BTreeMap<StreamName, u64>,
    written_us: i64,
    /// When, and how many rows were written by then.
    samples: VecDeque<(Duration, u64)>,
}

impl Board {
    pub(crate) fn new(
        driver: &'static str,
        place: String,
        guarantee: Guarantee,
        starts: Positions,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let standing = Standing {
            state: State::Starting,
            problem: None,
            written: Positions::new(),
            keys: vec![],
            rows: BTreeMap::new(),
            written_us: 0,
            samples: VecDeque::new(),
        };
        Self { driver, place, guarantee, clock, starts, standing: Mutex::new(standing) }
    }

    /// Where it is now; a problem that is over is forgotten.
    pub(crate) fn enter(&self, state: State, problem: Option<Problem>) {
        let mut standing = self.standing();
        standing.state = state;
        // While it tries again it still has the problem for which it does.
        if problem.is_some() || state != State::Starting {
            standing.problem = problem;
        }
    }

    /// What its server said of where it stands.
    pub(crate) fn stands_at(&self, written: &Positions) {
        self.standing().written.clone_from(written);
    }

    /// A group was committed.
    pub(crate) fn wrote(&self, group: &Group) {
        let (now, now_us) = (self.clock.monotonic(), self.clock.unix_us());
        let mut standing = self.standing();
        standing.written.extend(group.positions());
        for slice in &group.slices {
            *standing.rows.entry(slice.key.stream.clone()).or_default() += slice.rows.num_rows() as u64;
        }
        standing.written_us = now_us;
        let rows = standing.rows.values().sum();
        standing.samples.push_back((now, rows));
        while standing.samples.len() > 2 && standing.samples[1].0 + RATE_WINDOW < now {
            standing.samples.pop_front();
        }
    }

    /// Why it does not write, while it does not.
    pub(crate) fn problem(&self) -> Option<String> {
        let standing = self.standing();
        let problem = standing.problem.as_ref()?;
        Some(match problem.causes.last() {
            Some(cause) => format!("{}: {cause}", problem.message),
            None => problem.message.clone(),
        })
    }

    /// Keys it takes, with where they end.
    pub(crate) fn sees(&self, keys: Vec<(StreamKey, Sequence)>) {
        self.standing().keys = keys;
    }

    /// As operators see it. `tails` are the ends of all keys now.
    pub(crate) fn status(
        &self,
        name: String,
        revision: u64,
        dead_letters: u64,
        tails: &[(StreamKey, Sequence)],
    ) -> v1::SinkStatus {
        let now = self.clock.monotonic();
        let standing = self.standing();
        let ends: BTreeMap<&StreamKey, Sequence> = tails.iter().map(|(key, tail)| (key, *tail)).collect();
        let mut streams: BTreeMap<&StreamName, v1::SinkStream> = BTreeMap::new();
        for (key, seen) in &standing.keys {
            let through = standing.written.get(key).copied().unwrap_or_default();
            let landed = ends.get(key).copied().unwrap_or(*seen);
            let stream = streams.entry(&key.stream).or_insert_with(|| v1::SinkStream {
                stream: key.stream.to_string(),
                rows: standing.rows.get(&key.stream).copied().unwrap_or_default(),
                ..v1::SinkStream::default()
            });
            let behind = through.max(self.starts.get(key).copied().unwrap_or_default());
            stream.waiting_batches += landed.0.saturating_sub(behind.0);
            stream.positions.push(v1::SinkPosition {
                node: key.node.to_string(),
                epoch: key.epoch.0,
                through: through.0,
                landed: landed.0,
            });
        }
        let streams: Vec<v1::SinkStream> = streams.into_values().collect();
        v1::SinkStatus {
            name,
            kind: self.driver.to_owned(),
            target: self.place.clone(),
            guarantee: self.guarantee.as_str().to_owned(),
            state: standing.state.as_str().to_owned(),
            problem: standing
                .problem
                .as_ref()
                .and_then(|p| serde_json::to_string(p).ok())
                .unwrap_or_default(),
            rows: standing.rows.values().sum(),
            rows_per_second: rate(&standing.samples, now),
            written_us: standing.written_us,
            dead_letters,
            waiting_batches: streams.iter().map(|stream| stream.waiting_batches).sum(),
            revision,
            streams,
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows a second over the window that ends now.
fn rate(samples: &VecDeque<(Duration, u64)>, now: Duration) -> f64 {
    let (Some((from, first)), Some((_, last))) = (samples.front(), samples.back()) else { return 0.0 };
    let seconds = now.saturating_sub(*from).as_secs_f64();
    if seconds > 2.0 * RATE_WINDOW.as_secs_f64() {
        return 0.0;
    }
    (last - first) as f64 / seconds.max(0.001)
}
