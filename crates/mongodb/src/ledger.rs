//! Who may write, and how far each key was written: documents in a collection of their own.
//!
//! ```text
//!  _id: UID                         {"sink": "orders", "owner": ObjectId}
//!  _id: UID/NODE/EPOCH/STREAM       {"sink": "orders", "through": 12}
//! ```
//! A position is changed where it stands as the writer believes it, or made where there is none: of two that write, one finds
//! out.

use aap_sinks::{Failure, Group, Positions};
use aap_types::{Epoch, Sequence, StreamKey};
use futures::TryStreamExt;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{self, Document, doc};
use serde::Deserialize;

use crate::fail::{self, DUPLICATE_KEY, MongoError};
use crate::link::{Link, majority, within};
use crate::spec::{LEDGER, MongoDbSpec};

/// Positions in a command: far below the thousands that every server takes.
const POSITIONS_AT_A_TIME: usize = 500;

/// The ledger of a sink.
#[derive(Debug)]
pub(crate) struct Ledger<'a> {
    pub(crate) link: &'a Link,
    pub(crate) spec: &'a MongoDbSpec,
    pub(crate) sink: &'a str,
    pub(crate) uid: &'a str,
}

/// A ledger that is ours, as it stands.
#[derive(Debug)]
pub(crate) struct Held {
    owner: ObjectId,
    pub(crate) positions: Positions,
}

#[derive(Debug, Deserialize)]
struct Head {
    owner: ObjectId,
}

#[derive(Debug, Deserialize)]
struct Position {
    #[serde(rename = "_id")]
    id: String,
    through: i64,
}

/// The answer to a command that writes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    n: i64,
    #[serde(default)]
    write_errors: Vec<Said>,
    write_concern_error: Option<Said>,
}

#[derive(Debug, Deserialize)]
struct Said {
    code: i32,
    #[serde(default)]
    errmsg: String,
}

impl Ledger<'_> {
    /// Makes us the owner.
    pub(crate) async fn take_over(&self) -> Result<Held, MongoError> {
        // A number that nobody had before, also where the ledger was lost and begins again.
        let owner = ObjectId::new();
        let heads = self.link.collection(LEDGER);
        let set = doc! { "$set": { "sink": self.sink, "owner": owner } };
        within(heads.update_one(doc! { "_id": self.uid }, set).upsert(true)).await?;
        Ok(Held { owner, positions: self.positions().await? })
    }

    /// Whether it is us who may write.
    pub(crate) async fn is_ours(&self, held: &Held) -> Result<bool, MongoError> {
        let heads = self.link.collection(LEDGER).clone_with_type::<Head>();
        let head = within(heads.find_one(doc! { "_id": self.uid })).await?;
        Ok(head.is_some_and(|head| head.owner == held.owner))
    }

    /// How far everything was written.
    pub(crate) async fn positions(&self) -> Result<Positions, MongoError> {
        // `0` is what comes behind `/`: everything that begins with the prefix, by the index that each collection has.
        let of_sink = doc! { "_id": { "$gte": self.prefix(), "$lt": format!("{}0", self.uid) } };
        let positions = self.link.collection(LEDGER).clone_with_type::<Position>();
        let found: Vec<Position> =
            within(async { positions.find(of_sink).await?.try_collect().await }).await?;
        found.iter().map(|position| self.read(position)).collect()
    }

    /// Moves the positions of a group, all of whose rows are acknowledged.
    pub(crate) async fn advance(&self, held: &mut Held, group: &Group) -> Result<(), Failure> {
        for slices in group.slices.chunks(POSITIONS_AT_A_TIME) {
            let updates: Vec<Document> =
                slices.iter().map(|slice| self.update(&slice.key, slice.after, slice.through)).collect();
            self.write(updates).await?;
        }
        held.positions.extend(group.positions());
        Ok(())
    }

    /// From `after` to `through`. Where nothing was ever written, there is no document.
    fn update(&self, key: &StreamKey, after: Sequence, through: Sequence) -> Document {
        doc! {
            "q": { "_id": format!("{}{key}", self.prefix()), "through": signed(after) },
            "u": { "$set": { "sink": self.sink, "through": signed(through) } },
            "upsert": after == Sequence::ZERO,
        }
    }

    async fn write(&self, updates: Vec<Document>) -> Result<(), Failure> {
        let moved = || Failure::moved(format!("another writer was at `{}.{LEDGER}`", self.spec.database));
        let failed = |error: &MongoError| fail::failure(self.spec, error);
        let wanted = updates.len() as i64;
        let concern = bson::serialize_to_bson(&majority()).map_err(|error| failed(&answer(&error)))?;
        let command =
            doc! { "update": LEDGER, "updates": updates, "ordered": false, "writeConcern": concern };
        let written = match self.link.command(command).await {
            // One that was to be made is there.
            Err(error) if error.code() == Some(DUPLICATE_KEY) => return Err(moved()),
            written => written.map_err(|error| failed(&error))?,
        };
        let written: Written =
            bson::deserialize_from_document(written).map_err(|error| failed(&answer(&error)))?;
        let is_duplicate = |said: &Said| said.code == DUPLICATE_KEY;
        let other = written.write_errors.into_iter().filter(|said| !is_duplicate(said));
        if let Some(Said { code, errmsg }) = other.chain(written.write_concern_error).next() {
            return Err(failed(&MongoError::Server { code, message: errmsg }));
        }
        if written.n == wanted { Ok(()) } else { Err(moved()) }
    }

    fn prefix(&self) -> String {
        format!("{}/", self.uid)
    }

    fn read(&self, position: &Position) -> Result<(StreamKey, Sequence), MongoError> {
        let key = position.id.strip_prefix(&self.prefix()).and_then(key);
        let key = key.ok_or_else(|| MongoError::Answer(format!("`{}` is no position", position.id)))?;
        Ok((key, Sequence(position.through.cast_unsigned())))
    }
}

/// What a key's `Display` makes.
fn key(text: &str) -> Option<StreamKey> {
    let mut parts = text.splitn(3, '/');
    let (node, epoch, stream) = (parts.next()?, parts.next()?, parts.next()?);
    Some(StreamKey {
        node: node.parse().ok()?,
        epoch: Epoch(epoch.parse().ok()?),
        stream: stream.parse().ok()?,
    })
}

/// The server's integers have a sign. It is only compared here, and turned back.
fn signed(sequence: Sequence) -> i64 {
    sequence.0.cast_signed()
}

fn answer(error: &bson::error::Error) -> MongoError {
    MongoError::Answer(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let whole = aap_sinks::conformance::key("edge-1", "web.access");
        assert_eq!(key(&whole.to_string()), Some(whole));
        assert_eq!(key("edge-1/7"), None);
    }
}
