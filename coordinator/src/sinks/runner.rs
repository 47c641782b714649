//! The life of one sink: take over, write, fail, try again.

use std::sync::Arc;
use std::time::Duration;

use aap_runtime::{Clock, SecretRef, SecretSource, Shutdown, failpoint, resolve_secrets};
use aap_sinks::{BadRow, Failure, FailureKind, Group, GroupLimits, Positions, Sink, Slice};
use aap_store::ResourceStore;
use aap_types::{ExitCode, Problem};
use arrow_array::BooleanArray;
use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_select::filter::filter_record_batch;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::blocking;
use super::board::{Board, State};
use super::dead_letters;
use super::groups::Groups;

/// The first pause after a failure: a server that restarts is often back at once.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest: somebody who has mended the cause does not wait longer for it to be noticed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A commit that is under way when the sink is to stop gets this long: one that is broken off can leave a transaction open,
/// which keeps the readers of a Kafka topic waiting. Less than the process has to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Positions without rows hurry nobody, and each costs the server a commit.
const LINGER_WITHOUT_ROWS: Duration = Duration::from_secs(5);
/// Rows that may wait for somebody to decide about them. More say that it is not the rows that are wrong.
const DEAD_LETTERS_MAX: u64 = 100_000;

/// What an operator wants of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    /// It is to stop writing.
    pub(crate) paused: bool,
    /// Goes up when it is to look again at once.
    pub(crate) pokes: u64,
}

/// One sink at work.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) sink: Box<dyn Sink>,
    /// What it refers to, and who is asked.
    pub(crate) secrets: (Vec<SecretRef>, Arc<dyn SecretSource>),
    pub(crate) groups: Arc<Groups>,
    pub(crate) store: Arc<dyn ResourceStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) board: Arc<Board>,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) stop: Shutdown,
}

impl Runner {
    /// Until it is stopped.
    pub(crate) async fn run(mut self) {
        let mut pause = PAUSE_FIRST;
        while !self.stop.is_requested() {
            if self.control.borrow_and_update().paused {
                self.board.enter(State::Paused, None);
                self.wait(Duration::MAX).await;
                continue;
            }
            self.board.enter(State::Starting, None);
            let stop = self.stop.clone();
            let too_late = async {
                stop.requested().await;
                tokio::time::sleep(STOP_GRACE).await;
            };
            let delivered = tokio::select! {
                delivered = self.deliver(&mut pause) => delivered,
                () = too_late => break,
            };
            let Err(failure) = delivered else { continue };
            self.note(&failure);
            self.wait(pause).await;
            pause = match failure.kind {
                FailureKind::Refused => PAUSE_MAX,
                _ => (2 * pause).min(PAUSE_MAX),
            };
        }
    }

    fn note(&self, failure: &Failure) {
        let Failure { kind, problem } = failure;
        let state = match kind {
            FailureKind::Refused => State::Refused,
            _ => State::Retrying,
        };
        warn!(sink = self.name, code = problem.code, causes = ?problem.causes, "{problem}");
        self.board.enter(state, Some(problem.as_ref().clone()));
    }

    /// A pause that an operator's wish ends.
    async fn wait(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = self.control.changed() => if changed.is_err() { self.stop.requested().await },
            () = self.stop.requested() => {}
        }
    }

    /// Writes until it fails, or is to pause.
    async fn deliver(&mut self, pause: &mut Duration) -> Result<(), Failure> {
        // Anew each time: what failed may have failed for a secret that was changed.
        let (references, source) = &self.secrets;
        resolve_secrets(references, source.as_ref()).await.map_err(unresolved)?;
        let mut written = self.take_over().await?;
        let mut changes = self.groups.changes();
        let mut read_ahead = None;
        let mut waits_since = None;
        info!(sink = self.name, keys = written.len(), "sink stands");
        self.board.enter(State::Running, None);
        self.repeat(&mut written).await?;
        self.replay(&mut written).await?;
        loop {
            if self.stop.is_requested() {
                return Ok(());
            }
            if self.control.has_changed().unwrap_or(false) {
                if self.control.borrow_and_update().paused {
                    return Ok(());
                }
                self.replay(&mut written).await?;
            }
            changes.borrow_and_update();
            self.board.sees(self.groups.tails());
            let next = match read_ahead.take() {
                Some(next) => Some(next),
                None => read(self.groups.clone(), written.clone(), self.sink.limits()).await?,
            };
            let Some((group, is_full)) = next else {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { self.stop.requested().await },
                    changed = self.control.changed() => self.look_again(changed).await,
                    () = self.stop.requested() => {}
                }
                continue;
            };
            if let Some(left) = self.linger(&group, is_full, &mut waits_since) {
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    changed = self.control.changed() => self.look_again(changed).await,
                    () = self.stop.requested() => {}
                }
                continue;
            }
            waits_since = None;
            let mut behind = written.clone();
            behind.extend(group.positions());
            let (groups, limits) = (self.groups.clone(), self.sink.limits());
            // Where little waits, more of it will have come by then.
            let ahead = async { if is_full { read(groups, behind, limits).await } else { Ok(None) } };
            let (committed, ahead) = tokio::join!(self.write(group, &mut written), ahead);
            committed?;
            self.board.enter(State::Running, None);
            read_ahead = ahead?;
            *pause = PAUSE_FIRST;
        }
    }

    /// An operator's wish, to be seen at the head of the loop; or the coordinator is ending.
    async fn look_again(&mut self, changed: Result<(), watch::error::RecvError>) {
        match changed {
            Ok(()) => self.control.mark_changed(),
            Err(_) => self.stop.requested().await,
        }
    }

    /// How much longer a group is to wait for company.
    fn linger(&self, group: &Group, is_full: bool, since: &mut Option<Duration>) -> Option<Duration> {
        if is_full {
            return None;
        }
        let linger = match group.rows() {
            0 => self.sink.limits().linger.max(LINGER_WITHOUT_ROWS),
            _ => self.sink.limits().linger,
        };
        let now = self.clock.monotonic();
        let waited = now.saturating_sub(*since.get_or_insert(now));
        linger.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// Where the server's ledger stands, and what of our own books goes beyond it and is not true any more.
    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.board.sees(self.groups.tails());
        let written = self.sink.resume_point().await?;
        self.board.stands_at(&written);
        let (store, uid, committed) = (self.store.clone(), self.uid.clone(), written.clone());
        // Rows of a group that was never committed will be tried again.
        blocking(move || store.drop_dead_letters_beyond(&uid, &committed)).await.map_err(local)?;
        Ok(written)
    }

    /// Writes a group, in parts where it must be; what cannot be written goes to dead letters.
    async fn write(&mut self, group: Group, written: &mut Positions) -> Result<(), Failure> {
        // The next one to write is the last.
        let mut parts = vec![group];
        while let Some(part) = parts.pop() {
            failpoint::hit("sink.before_write");
            match self.sink.write(&part).await {
                Ok(()) => {
                    failpoint::hit("sink.after_write");
                    written.extend(part.positions());
                    self.board.wrote(&part);
                }
                Err(Failure { kind: FailureKind::Rows(bad), .. }) => {
                    self.bury(&part, &bad).await?;
                    parts.push(without(part, &bad)?);
                }
                Err(Failure { kind: FailureKind::Group, problem }) => match halves(&part) {
                    Some((first, second)) => parts.extend([second, first]),
                    None => {
                        let reason = problem.causes.last().unwrap_or(&problem.message);
                        let bad = all_rows(&part, reason);
                        if bad.is_empty() {
                            return Err(Failure { kind: FailureKind::Refused, problem });
                        }
                        self.bury(&part, &bad).await?;
                        parts.push(without(part, &bad)?);
                    }
                },
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    async fn bury(&mut self, group: &Group, bad: &[BadRow]) -> Result<(), Failure> {
        warn!(sink = self.name, rows = bad.len(), reason = bad[0].reason, "rows go to dead letters");
        let letters = dead_letters::of(group, bad, self.clock.unix_us())
            .map_err(|error| local(dead_letters::problem("keep rows that cannot be written", &error)))?;
        let (store, uid, name) = (self.store.clone(), self.uid.clone(), self.name.clone());
        let kept = blocking(move || {
            let there = store.dead_letter_count(&uid)?;
            if there + letters.len() as u64 > DEAD_LETTERS_MAX {
                return Ok(Some(there));
            }
            store.add_dead_letters(&uid, &letters).map(|()| None)
        });
        match kept.await.map_err(local)? {
            None => Ok(()),
            Some(there) => {
                let message = format!("sink `{name}` has {there} dead letters already");
                let problem = Problem::new("sink.too_many_dead_letters", ExitCode::Failed, message)
                    .cause(bad[0].reason.clone())
                    .hint_command("see why", format!("aap sink dlq ls {name}"));
                Err(Failure::new(FailureKind::Refused, problem))
            }
        }
    }

    /// Writes what was on its way when the sink ended, exactly as it was.
    async fn repeat(&mut self, written: &mut Positions) -> Result<(), Failure> {
        let mut ranges = self.sink.intended();
        // A replay is repeated by whoever keeps the letters.
        ranges.retain(|range| range.key.node.as_str() != dead_letters::REPLAYS);
        if ranges.is_empty() {
            return Ok(());
        }
        let (groups, limits) = (self.groups.clone(), self.sink.limits());
        let read = spawn_blocking(move || groups.exactly(&ranges, limits)).await;
        let group = read.map_err(|panic| fed_panicked(&panic))?.map_err(|error| not_fed(&error))?;
        info!(sink = self.name, rows = group.rows(), "what was on its way is sent again");
        self.write(group, written).await
    }

    /// Writes the dead letters that an operator sent back, under a number of their own: whether the server has taken them is
    /// told by its ledger, as for any rows.
    async fn replay(&mut self, written: &mut Positions) -> Result<(), Failure> {
        let (store, uid) = (self.store.clone(), self.uid.clone());
        let pending = blocking(move || store.pending_replay(&uid)).await.map_err(local)?;
        let Some((number, letters)) = pending else { return Ok(()) };
        let group = dead_letters::group(&letters, number, written)
            .map_err(|error| local(dead_letters::problem("read dead letters", &error)))?;
        let rows = letters.len();
        if group.slices.is_empty() {
            info!(sink = self.name, rows, "dead letters had been replayed");
        } else {
            let group = self.write_replay(group).await?;
            info!(sink = self.name, rows, written = group.rows(), "dead letters replayed");
            written.extend(group.positions());
            self.board.wrote(&group);
        }
        let (store, uid) = (self.store.clone(), self.uid.clone());
        blocking(move || store.end_replay(&uid, number)).await.map_err(local)
    }

    /// Writes a replay; what is still bad leaves it first, durably, so that its end is the end of what was written alone.
    async fn write_replay(&mut self, group: Group) -> Result<Group, Failure> {
        let bad = match self.sink.write(&group).await {
            Ok(()) => return Ok(group),
            Err(Failure { kind: FailureKind::Rows(bad), .. }) => bad,
            Err(Failure { kind: FailureKind::Group, problem }) => {
                all_rows(&group, problem.causes.last().unwrap_or(&problem.message))
            }
            Err(failure) => return Err(failure),
        };
        let still_bad = dead_letters::of(&group, &bad, self.clock.unix_us())
            .map_err(|error| local(dead_letters::problem("keep dead letters", &error)))?;
        let (store, uid) = (self.store.clone(), self.uid.clone());
        blocking(move || store.requeue_dead_letters(&uid, &still_bad)).await.map_err(local)?;
        let rest = without(group, &bad)?;
        self.sink.write(&rest).await?;
        Ok(rest)
    }
}

/// Reads the next group on the blocking pool.
async fn read(
    groups: Arc<Groups>,
    written: Positions,
    limits: GroupLimits,
) -> Result<Option<(Group, bool)>, Failure> {
    let read = spawn_blocking(move || groups.next(&written, limits)).await;
    read.map_err(|panic| fed_panicked(&panic))?.map_err(|error| not_fed(&error))
}

fn fed_panicked(panic: &tokio::task::JoinError) -> Failure {
    local(Problem::new("platform.bug", ExitCode::Bug, "reading for a sink failed").caused_by(panic))
}

fn not_fed(error: &aap_lake::Error) -> Failure {
    let message = "what landed cannot be read for a sink";
    local(Problem::new("sink.read_failed", ExitCode::Failed, message).caused_by(error))
}

/// A secret cannot be had: now, or until somebody acts.
fn unresolved(problem: Problem) -> Failure {
    let kind = if problem.is_retryable() { FailureKind::Retry } else { FailureKind::Refused };
    Failure::new(kind, problem)
}

/// A failure of our own side: trying again may help.
fn local(problem: Problem) -> Failure {
    Failure::new(FailureKind::Retry, problem)
}

/// The group without some of its rows; positions stay.
fn without(group: Group, bad: &[BadRow]) -> Result<Group, Failure> {
    let slices = group.slices.into_iter().enumerate().map(|(number, slice)| {
        let mut keep = vec![true; slice.rows.num_rows()];
        bad.iter().filter(|bad| bad.slice == number).for_each(|bad| keep[bad.row] = false);
        let rows = filter_record_batch(&slice.rows, &BooleanArray::from(keep));
        let rows = rows.map_err(|error| local(dead_letters::problem("leave out rows", &error)))?;
        Ok(Slice { rows, ..slice })
    });
    Ok(Group { slices: slices.collect::<Result<_, Failure>>()? })
}

fn all_rows(group: &Group, reason: &str) -> Vec<BadRow> {
    let rows = group.slices.iter().enumerate();
    rows.flat_map(|(slice, part)| (0..part.rows.num_rows()).map(move |row| (slice, row)))
        .map(|(slice, row)| BadRow { slice, row, reason: reason.to_owned() })
        .collect()
}

/// Two groups of about half the rows, the first to be written first; `None` for one batch, which has one position.
fn halves(group: &Group) -> Option<(Group, Group)> {
    if group.slices.len() > 1 {
        let (first, second) = group.slices.split_at(group.slices.len() / 2);
        return Some((Group { slices: first.to_vec() }, Group { slices: second.to_vec() }));
    }
    let slice = group.slices.first()?;
    let sequences = slice.rows.column_by_name("_seq")?.as_primitive::<UInt64Type>().values();
    let middle = *sequences.get(sequences.len() / 2)?;
    // The batch in the middle goes to the first half, unless nothing would be left for the second.
    let last = *sequences.last()?;
    let through =
        if middle < last { middle } else { sequences.iter().copied().filter(|seq| *seq < last).max()? };
    let at = sequences.partition_point(|seq| *seq <= through);
    let through = aap_types::Sequence(through);
    let first = Slice { through, rows: slice.rows.slice(0, at), ..slice.clone() };
    let rows = slice.rows.slice(at, slice.rows.num_rows() - at);
    let second = Slice { after: through, rows, ..slice.clone() };
    Some((Group { slices: vec![first] }, Group { slices: vec![second] }))
}
