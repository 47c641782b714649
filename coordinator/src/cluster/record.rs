//! What a record of the landing topic holds: a batch with its schema, a skip, or the mark of a take-over.
//!
//! A record stands for itself: it can be read without those before it, which may have been deleted.

use std::collections::HashMap;
use std::sync::Arc;

use aap_buffer::{EncodedBatch, Entry, FrameSchema};
use aap_proto::v1::{self, landed};
use aap_types::{NodeId, Sequence, StreamKey};
use bytes::Bytes;
use prost::Message;

/// Schemas that are kept while records are read: a stream has a handful of forms. Beyond it, all are read anew.
const SCHEMAS_MAX: usize = 16_384;

/// A record that is none of ours, or of a later version.
#[derive(Debug, thiserror::Error)]
#[error("a record of the landing topic cannot be read: {0}")]
pub(crate) struct Unreadable(String);

/// A batch or a skip as a record. Batches have their identity by now: [`Entry::Own`] has no record.
pub(crate) fn encode(entry: &Entry) -> Option<Vec<u8>> {
    let landed = match entry {
        Entry::Own { .. } => return None,
        Entry::Landed { id, digest, positions, sealed_us, batch } => v1::Landed {
            node: id.key.node.to_string(),
            schema: batch.schema.ipc().clone(),
            kind: Some(landed::Kind::Batch(v1::Batch {
                epoch: id.key.epoch.0,
                stream: id.key.stream.to_string(),
                sequence: id.sequence.0,
                digest: digest.0.to_vec().into(),
                schema_fingerprint: batch.schema.fingerprint(),
                rows: batch.rows,
                ts_min_us: batch.ts_min_us,
                ts_max_us: batch.ts_max_us,
                sealed_us: *sealed_us,
                raw_bytes: batch.raw_bytes,
                positions: positions.clone(),
                payload: batch.payload.clone(),
            })),
        },
        Entry::Skip { key, from, to, rows, reason } => v1::Landed {
            node: key.node.to_string(),
            schema: Bytes::new(),
            kind: Some(landed::Kind::Skip(v1::Skip {
                epoch: key.epoch.0,
                stream: key.stream.to_string(),
                from: from.0,
                to: to.0,
                rows: *rows,
                reason: reason.clone(),
            })),
        },
    };
    Some(landed.encode_to_vec())
}

/// The mark of a take-over.
pub(crate) fn mark(cluster: &str, coordinator: &str, token: u64) -> Vec<u8> {
    let mark = v1::Mark { coordinator: coordinator.to_owned(), token, cluster: cluster.to_owned() };
    let kind = Some(landed::Kind::Mark(mark));
    v1::Landed { node: String::new(), schema: Bytes::new(), kind }.encode_to_vec()
}

/// Reads records.
#[derive(Debug)]
pub(crate) struct Decoder {
    cluster: String,
    schemas: HashMap<u64, Arc<FrameSchema>>,
}

impl Decoder {
    /// Of the topic of this cluster.
    pub(crate) fn of(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), schemas: HashMap::new() }
    }

    /// The batch or skip of a record; `None` of a mark, and of what a later version adds.
    pub(crate) fn decode(&mut self, record: Bytes) -> Result<Option<Entry>, Unreadable> {
        let bad = |why: &dyn std::fmt::Display| Unreadable(why.to_string());
        let v1::Landed { node, schema, kind } = v1::Landed::decode(record).map_err(|error| bad(&error))?;
        match kind {
            Some(landed::Kind::Mark(mark)) if mark.cluster != self.cluster => {
                Err(Unreadable(format!("the topic is that of the cluster `{}`", mark.cluster)))
            }
            None | Some(landed::Kind::Mark(_)) => Ok(None),
            Some(landed::Kind::Batch(batch)) => {
                let node: NodeId = node.parse().map_err(|error| bad(&error))?;
                let (id, digest, _) = aap_proto::batch_id(&node, &batch).map_err(|error| bad(&error))?;
                let schema = self.schema(batch.schema_fingerprint, schema)?;
                let rows = EncodedBatch {
                    schema,
                    payload: batch.payload,
                    rows: batch.rows,
                    ts_min_us: batch.ts_min_us,
                    ts_max_us: batch.ts_max_us,
                    raw_bytes: batch.raw_bytes,
                };
                let (positions, sealed_us) = (batch.positions, batch.sealed_us);
                Ok(Some(Entry::Landed { id, digest, positions, sealed_us, batch: rows }))
            }
            Some(landed::Kind::Skip(skip)) => {
                let node = node.parse().map_err(|error| bad(&error))?;
                let stream = skip.stream.parse().map_err(|error| bad(&error))?;
                Ok(Some(Entry::Skip {
                    key: StreamKey { node, epoch: aap_types::Epoch(skip.epoch), stream },
                    from: Sequence(skip.from),
                    to: Sequence(skip.to),
                    rows: skip.rows,
                    reason: skip.reason,
                }))
            }
        }
    }

    fn schema(&mut self, fingerprint: u64, ipc: Bytes) -> Result<Arc<FrameSchema>, Unreadable> {
        if let Some(known) = self.schemas.get(&fingerprint) {
            return Ok(known.clone());
        }
        let schema = FrameSchema::from_ipc(ipc).map_err(|error| Unreadable(error.to_string()))?;
        if schema.fingerprint() != fingerprint {
            return Err(Unreadable("a schema whose fingerprint does not hold".to_owned()));
        }
        if self.schemas.len() >= SCHEMAS_MAX {
            self.schemas.clear();
        }
        self.schemas.insert(fingerprint, schema.clone());
        Ok(schema)
    }
}

#[cfg(test)]
mod tests {
    use aap_buffer::Encoder;
    use aap_types::{BatchId, Digest, Epoch};
    use arrow_array::{Int64Array, RecordBatch};

    use super::*;

    fn key() -> StreamKey {
        StreamKey { node: "n".parse().unwrap(), epoch: Epoch(7), stream: "logs".parse().unwrap() }
    }

    fn batch() -> Entry {
        let rows = RecordBatch::try_from_iter([(
            "n",
            Arc::new(Int64Array::from(vec![1, 2])) as arrow_array::ArrayRef,
        )])
        .unwrap();
        let schema = FrameSchema::of(rows.schema());
        let batch = Encoder::new().encode(&rows, &schema, 16).unwrap();
        let id = BatchId { key: key(), sequence: Sequence(3) };
        let digest = Digest::of(&id, &[], &batch.payload);
        Entry::Landed { id, digest, positions: Bytes::new(), sealed_us: 9, batch }
    }

    #[test]
    fn what_is_written_reads_back_the_same_and_marks_are_nothing() {
        let skip = Entry::Skip {
            key: key(),
            from: Sequence(4),
            to: Sequence(6),
            rows: 5,
            reason: "poison".to_owned(),
        };
        let mut decoder = Decoder::of("it");
        for entry in [batch(), skip, batch()] {
            let read = decoder.decode(encode(&entry).unwrap().into()).unwrap().unwrap();
            assert_eq!(format!("{read:?}"), format!("{entry:?}"));
        }
        assert!(decoder.decode(mark("it", "c1", 4).into()).unwrap().is_none());
        assert!(decoder.decode(mark("other", "c1", 4).into()).is_err());
    }

    #[test]
    fn what_is_no_record_is_an_error_and_never_a_panic() {
        let whole = encode(&batch()).unwrap();
        for length in 1..whole.len() {
            let _either = Decoder::of("it").decode(Bytes::copy_from_slice(&whole[..length]));
        }
        let mut other = v1::Landed::decode(whole.as_slice()).unwrap();
        other.schema = FrameSchema::of(Arc::new(arrow_schema::Schema::empty())).ipc().clone();
        assert!(Decoder::of("it").decode(other.encode_to_vec().into()).is_err());
        other.node = "not a node".to_owned();
        assert!(Decoder::of("it").decode(other.encode_to_vec().into()).is_err());
    }
}
