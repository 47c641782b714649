//! What was sent and what was acknowledged, per (epoch, stream), and how much may be under way.
//!
//! Pure decisions behind one short lock, shared by the sending and the receiving half of a session.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aap_types::{Sequence, StreamKey};
use tokio::sync::Notify;

/// The name under which the agent's buffer knows its landing consumer.
pub const fn landing_consumer() -> &'static str {
    "uplink"
}

#[derive(Debug, Default)]
struct Inner {
    streams: BTreeMap<StreamKey, Progress>,
    /// Bytes that may still be sent; below zero after a batch larger than the rest.
    credit: i64,
    turn: usize,
    forked: BTreeMap<StreamKey, String>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Last sequence the coordinator has or was sent in this session.
    sent: Sequence,
    /// Last sequence it acknowledged.
    acked: Sequence,
    /// Batches under way: sequence and bytes.
    flying: VecDeque<(Sequence, u64)>,
}

/// What to read and send next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Next {
    /// The stream.
    pub key: StreamKey,
    /// Everything up to here was sent.
    pub after: Sequence,
}

/// Shared by both halves.
#[derive(Debug, Default)]
pub struct State {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl State {
    /// A new session: the coordinator has everything up to `landed`, and gives this credit.
    pub fn begin(&self, landed: &[(StreamKey, Sequence)], credit_bytes: u64) {
        let mut inner = self.lock();
        inner.streams.clear();
        inner.credit = i64::try_from(credit_bytes).unwrap_or(i64::MAX);
        for (key, sequence) in landed {
            let progress = Progress { sent: *sequence, acked: *sequence, flying: VecDeque::new() };
            inner.streams.insert(key.clone(), progress);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// The next stream that has something to send, each in its turn; `None` without credit or without data.
    /// `tails` are the durable ends of the buffer.
    pub fn next(&self, tails: &[(StreamKey, Sequence)]) -> Option<Next> {
        let mut inner = self.lock();
        if inner.credit <= 0 {
            return None;
        }
        let turn = inner.turn;
        inner.turn = turn.wrapping_add(1);
        let count = tails.len();
        (0..count).map(|n| &tails[(turn.wrapping_add(n)) % count]).find_map(|(key, tail)| {
            let sent = inner.streams.get(key).map_or(Sequence::ZERO, |progress| progress.sent);
            let held = inner.forked.contains_key(key);
            (!held && sent < *tail).then(|| Next { key: key.clone(), after: sent })
        })
    }

    /// Whether a batch may leave now: it must still be the next of its stream (a refusal may have gone back), and
    /// there must be credit. Books it as under way.
    pub fn depart(&self, key: &StreamKey, first: Sequence, last: Sequence, bytes: u64) -> bool {
        let mut inner = self.lock();
        if inner.credit <= 0 || inner.forked.contains_key(key) {
            return false;
        }
        let progress = inner.streams.entry(key.clone()).or_default();
        if first > progress.sent.next() || last <= progress.sent {
            return false;
        }
        progress.sent = last;
        progress.flying.push_back((last, bytes));
        inner.credit -= i64::try_from(bytes).unwrap_or(i64::MAX);
        true
    }

    /// The coordinator has everything up to `through`. Returns how far the cursor may move: never beyond what was sent.
    pub fn acknowledged(&self, key: &StreamKey, through: Sequence) -> Option<Sequence> {
        let mut inner = self.lock();
        let progress = inner.streams.get_mut(key)?;
        if through > progress.sent {
            tracing::warn!(%key, %through, sent = %progress.sent, "an acknowledgement of what was not sent; ignored beyond that");
        }
        let through = through.min(progress.sent);
        while progress.flying.front().is_some_and(|(sequence, _)| *sequence <= through) {
            progress.flying.pop_front();
        }
        (through > progress.acked).then(|| {
            progress.acked = through;
            through
        })
    }

    /// More may be under way.
    pub fn credit(&self, bytes: u64) {
        let mut inner = self.lock();
        inner.credit = inner.credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        drop(inner);
        self.wake.notify_one();
    }

    /// The coordinator misses what comes before: send again from `expected` on. What flew comes back as credit.
    pub fn rewind(&self, key: &StreamKey, expected: Sequence) {
        let mut inner = self.lock();
        let Some(progress) = inner.streams.get_mut(key) else { return };
        progress.sent = Sequence(expected.0.saturating_sub(1)).min(progress.sent);
        let sent = progress.sent;
        let before: u64 = progress.flying.iter().map(|(_, bytes)| bytes).sum();
        progress.flying.retain(|(sequence, _)| *sequence <= sent);
        let after: u64 = progress.flying.iter().map(|(_, bytes)| bytes).sum();
        inner.credit = inner.credit.saturating_add(i64::try_from(before - after).unwrap_or(0));
        drop(inner);
        self.wake.notify_one();
    }

    /// The history of a stream is not the coordinator's: hold it. Returns whether that is news.
    pub fn forked(&self, key: &StreamKey, why: &str) -> bool {
        let mut inner = self.lock();
        let freed: u64 = inner
            .streams
            .get_mut(key)
            .map(|progress| progress.flying.drain(..).map(|(_, bytes)| bytes).sum())
            .unwrap_or(0);
        inner.credit = inner.credit.saturating_add(i64::try_from(freed).unwrap_or(0));
        inner.forked.insert(key.clone(), why.to_owned()).is_none()
    }

    /// A stream is no longer held.
    pub fn release(&self, key: &StreamKey) {
        self.lock().forked.remove(key);
    }

    /// Streams that are held.
    pub fn held(&self) -> BTreeMap<StreamKey, String> {
        self.lock().forked.clone()
    }

    /// Bytes under way.
    pub fn flying_bytes(&self) -> u64 {
        self.lock().streams.values().flat_map(|progress| &progress.flying).map(|(_, bytes)| bytes).sum()
    }

    /// Waits until credit came or something was put back. Cancel-safe.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use aap_types::Epoch;

    use super::*;

    fn key(stream: &str) -> StreamKey {
        StreamKey { node: "n".parse().unwrap(), epoch: Epoch(1), stream: stream.parse().unwrap() }
    }

    #[test]
    fn batches_leave_in_order_within_the_credit_and_each_stream_in_its_turn() {
        let state = State::default();
        let tails = [(key("a"), Sequence(9)), (key("b"), Sequence(9))];
        state.begin(&[(key("a"), Sequence(3))], 250);
        let first = state.next(&tails).unwrap();
        let second = state.next(&tails).unwrap();
        assert_ne!(first.key, second.key);
        assert!(!state.depart(&key("a"), Sequence(5), Sequence(5), 100), "4 was not sent");
        assert!(state.depart(&key("a"), Sequence(4), Sequence(4), 100));
        assert!(!state.depart(&key("a"), Sequence(4), Sequence(4), 100), "twice");
        assert!(state.depart(&key("a"), Sequence(5), Sequence(5), 100));
        assert!(state.depart(&key("b"), Sequence(1), Sequence(1), 100), "the last may exceed");
        assert_eq!(state.next(&tails), None, "no credit");
        state.credit(100);
        assert!(state.next(&tails).is_some());
    }

    #[test]
    fn no_cursor_moves_beyond_what_was_sent_and_a_gap_goes_back() {
        let state = State::default();
        state.begin(&[(key("a"), Sequence(3))], 1000);
        assert!(state.depart(&key("a"), Sequence(4), Sequence(6), 10));
        assert_eq!(state.acknowledged(&key("a"), Sequence(100)), Some(Sequence(6)));
        assert_eq!(state.acknowledged(&key("a"), Sequence(6)), None);
        assert!(state.depart(&key("a"), Sequence(7), Sequence(7), 10));
        state.rewind(&key("a"), Sequence(5));
        assert_eq!(state.next(&[(key("a"), Sequence(7))]).unwrap().after, Sequence(4));
        assert_eq!(state.flying_bytes(), 0);
        assert!(state.forked(&key("a"), "x"));
        assert_eq!(state.next(&[(key("a"), Sequence(7))]), None);
    }
}
