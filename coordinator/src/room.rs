//! The memory that batches of all nodes may take between the network and the landing buffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What all sessions share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room {
    taken: Arc<AtomicU64>,
    limit: u64,
}

impl Room {
    /// An empty room of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { taken: Arc::default(), limit }
    }

    /// A session's part of it, empty at first.
    pub(crate) fn part(&self) -> Part {
        Part { room: self.clone(), taken: 0 }
    }
}

/// What one session has on its way. Given back with it.
#[derive(Debug)]
pub(crate) struct Part {
    room: Room,
    taken: u64,
}

impl Part {
    pub(crate) fn bytes(&self) -> u64 {
        self.taken
    }

    /// Whether the session may read more. One that has nothing on its way always may: so each comes forward, and one
    /// that waits is woken by what it waits for, its own landing.
    pub(crate) fn may_grow(&self) -> bool {
        self.taken == 0 || self.room.taken.load(Ordering::Relaxed) < self.room.limit
    }

    pub(crate) fn take(&mut self, bytes: u64) {
        self.taken += bytes;
        self.room.taken.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.taken);
        self.taken -= bytes;
        self.room.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.give_back(self.taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_room_stops_those_who_have_something_on_its_way_and_nobody_for_ever() {
        let room = Room::new(100);
        let (mut one, mut other) = (room.part(), room.part());
        one.take(100);
        assert!(!one.may_grow() && other.may_grow(), "who has nothing may come forward");
        other.take(1);
        assert!(!other.may_grow());
        one.give_back(500);
        assert_eq!((one.bytes(), one.may_grow(), other.may_grow()), (0, true, true));
        one.take(100);
        drop(one);
        assert!(other.may_grow(), "a session that ends gives back what it had");
    }
}
