//! Where a sink stands whose server has no place for that: a book on our side.
//!
//! ```text
//!  intend: "these ranges are on their way"  ──► send ──► commit: "they are there", or crash
//!                                                          └─► the next owner sends exactly these ranges again, under
//!                                                              the same names, before anything else
//! ```
//! A book cannot become durable together with the rows, so a range can be sent twice. What it makes sure is that the second time
//! is like the first: a server that remembers the names of what it has taken can tell.

use std::fmt::Debug;
use std::sync::Arc;

use aap_types::{Sequence, StreamKey};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{Failure, Group, Positions};

/// Batches of one key: those after `after`, up to and including `through`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Whose.
    pub key: StreamKey,
    /// Everything up to here was written before.
    pub after: Sequence,
    /// Where it ends.
    pub through: Sequence,
}

/// What a ledger holds of a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Goes up by one with every change; 0 where nothing was ever written.
    pub version: u64,
    /// How far each key was written.
    pub positions: Positions,
    /// What was about to be written behind that, and may have been.
    pub intent: Vec<Range>,
}

/// The place of one sink's [`Entry`]. Durable when a call returns.
pub trait Ledger: Debug + Send + Sync {
    /// What stands there.
    ///
    /// # Errors
    /// It cannot be read now.
    fn read(&self) -> BoxFuture<'_, Result<Entry, Failure>>;

    /// Puts `entry` in the place of the one whose version is one less.
    ///
    /// # Errors
    /// [`crate::FailureKind::Moved`] if another version stands there: somebody else writes.
    fn replace(&self, entry: Entry) -> BoxFuture<'_, Result<(), Failure>>;
}

/// A sink's side of its [`Ledger`]: who owns it, and what may be written next.
///
/// Not cancel-safe: after a call that was dropped nothing is owned, and [`Self::take_over`] tells how it ended.
#[derive(Debug)]
pub struct Book {
    ledger: Arc<dyn Ledger>,
    held: Option<Entry>,
}

impl Book {
    /// A book that is not owned yet.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger, held: None }
    }

    /// Makes us the owner: a former one finds another version from now on. Says how far everything was written.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.held = None;
        let found = self.ledger.read().await?;
        let positions = found.positions.clone();
        self.replace(found).await?;
        Ok(positions)
    }

    /// How far everything was written, without owning it.
    ///
    /// # Errors
    /// Those of the ledger.
    pub async fn look(&self) -> Result<Positions, Failure> {
        Ok(self.ledger.read().await?.positions)
    }

    /// What was on its way when the former owner ended.
    pub fn intended(&self) -> Vec<Range> {
        self.held.as_ref().map(|entry| entry.intent.clone()).unwrap_or_default()
    }

    /// Notes durably that a group is about to be sent. The same group once more costs nothing.
    ///
    /// # Errors
    /// [`crate::FailureKind::Moved`] if the group does not go on where the book stands, or the book is not ours any more.
    pub async fn intend(&mut self, group: &Group) -> Result<(), Failure> {
        let mut entry = self.stand(group)?;
        let ranges = group.ranges();
        if entry.intent == ranges {
            self.held = Some(entry);
            return Ok(());
        }
        entry.intent = ranges;
        self.replace(entry).await
    }

    /// Notes durably that a group was taken.
    ///
    /// # Errors
    /// As [`Self::intend`].
    pub async fn commit(&mut self, group: &Group) -> Result<(), Failure> {
        let mut entry = self.stand(group)?;
        entry.positions.extend(group.positions());
        entry.intent.clear();
        self.replace(entry).await
    }

    /// Takes the entry out, if the group goes on where it stands.
    fn stand(&mut self, group: &Group) -> Result<Entry, Failure> {
        let Some(entry) = self.held.take() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        match group.misplaced(&entry.positions) {
            Some(moved) => Err(moved),
            None => Ok(entry),
        }
    }

    async fn replace(&mut self, mut entry: Entry) -> Result<(), Failure> {
        entry.version += 1;
        self.ledger.replace(entry.clone()).await?;
        self.held = Some(entry);
        Ok(())
    }
}

/// A ledger in memory, for tests: as durable as whoever holds it.
#[derive(Debug, Default)]
pub struct MemoryLedger(std::sync::Mutex<Entry>);

impl Ledger for MemoryLedger {
    fn read(&self) -> BoxFuture<'_, Result<Entry, Failure>> {
        let entry = self.entry().clone();
        Box::pin(async { Ok(entry) })
    }

    fn replace(&self, entry: Entry) -> BoxFuture<'_, Result<(), Failure>> {
        let mut held = self.entry();
        let replaced = match held.version + 1 == entry.version {
            true => {
                *held = entry;
                Ok(())
            }
            false => Err(Failure::moved(format!("the ledger is at version {}", held.version))),
        };
        Box::pin(async { replaced })
    }
}

impl MemoryLedger {
    fn entry(&self) -> std::sync::MutexGuard<'_, Entry> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "conformance"))]
mod tests {
    use super::*;
    use crate::FailureKind;
    use crate::conformance::{key, slice};

    fn group(after: u64, through: u64) -> Group {
        Group { slices: vec![slice(&key("edge-1", "events"), after, through)] }
    }

    #[tokio::test]
    async fn an_owner_that_was_replaced_notes_nothing_more() {
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
        let (mut first, mut second) = (Book::new(ledger.clone()), Book::new(ledger));
        first.take_over().await.unwrap();
        first.intend(&group(0, 3)).await.unwrap();
        first.commit(&group(0, 3)).await.unwrap();
        assert_eq!(second.take_over().await.unwrap()[&key("edge-1", "events")], Sequence(3));
        assert_eq!(first.intend(&group(3, 4)).await.unwrap_err().kind, FailureKind::Moved);
        assert_eq!(first.intend(&group(3, 4)).await.unwrap_err().kind, FailureKind::Moved);
        second.intend(&group(3, 4)).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_intended_is_told_until_it_is_committed() {
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
        let mut first = Book::new(ledger.clone());
        first.take_over().await.unwrap();
        first.intend(&group(0, 3)).await.unwrap();
        let mut second = Book::new(ledger.clone());
        assert!(second.take_over().await.unwrap().is_empty());
        assert_eq!(second.intended(), group(0, 3).ranges());
        // The same again changes nothing; a group that goes on elsewhere is refused.
        let before = ledger.read().await.unwrap().version;
        second.intend(&group(0, 3)).await.unwrap();
        assert_eq!(ledger.read().await.unwrap().version, before);
        second.commit(&group(0, 3)).await.unwrap();
        assert!(second.intended().is_empty());
        assert_eq!(second.intend(&group(2, 5)).await.unwrap_err().kind, FailureKind::Moved);
    }
}
