//! Who still reads files that the catalogue has hidden. Times are ordinal numbers, not clocks.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Readers and hidden files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    readers: BTreeSet<u64>,
    /// Paths with the moment they were hidden, oldest first.
    hidden: VecDeque<(u64, String)>,
}

/// While it lives, no file that was visible when it was taken is unlinked.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    number: u64,
}

impl Pins {
    /// Take it before reading the catalogue.
    pub(crate) fn pin(&self) -> Pin {
        let mut state = self.state();
        let number = state.tick();
        state.readers.insert(number);
        Pin { pins: self.clone(), number }
    }

    /// Remembers files that the catalogue no longer shows. Call after the commit.
    pub(crate) fn hide(&self, paths: impl IntoIterator<Item = String>) {
        let mut state = self.state();
        let number = state.tick();
        state.hidden.extend(paths.into_iter().map(|path| (number, path)));
    }

    /// A moment: later than that of every pin that is held now, and earlier than that of every one that is taken from now on.
    pub(crate) fn mark(&self) -> u64 {
        self.state().tick()
    }

    /// The moment of the oldest pin that is held.
    pub(crate) fn oldest_reader(&self) -> Option<u64> {
        self.state().readers.first().copied()
    }

    /// Takes the files out that no reader can still know.
    pub(crate) fn unread(&self) -> Vec<String> {
        let mut state = self.state();
        let oldest_reader = state.readers.first().copied().unwrap_or(u64::MAX);
        let mut free = vec![];
        while state.hidden.front().is_some_and(|(hidden, _)| *hidden < oldest_reader) {
            free.extend(state.hidden.pop_front().map(|(_, path)| path));
        }
        free
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.state().readers.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_file_stays_until_its_readers_are_gone() {
        let pins = Pins::default();
        let early = pins.pin();
        pins.hide(["a".to_owned()]);
        let late = pins.pin();
        assert!(pins.unread().is_empty(), "the early reader may know it");
        drop(early);
        assert_eq!(pins.unread(), ["a"], "the late reader cannot know it");
        pins.hide(["b".to_owned()]);
        assert!(pins.unread().is_empty());
        drop(late);
        assert_eq!(pins.unread(), ["b"]);
    }
}
