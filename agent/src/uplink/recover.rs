//! `aap node recover`: what becomes of batches whose stream forked.
//!
//! A forked stream is held: the ledger has other batches under the same identities. An operator decides whether the rows
//! that stand here are new (they are sent again, under identities of the present epoch) or the same in another form
//! (they are let go; queries on the node still find them while they are retained).

use aap_buffer::{Buffer, EncodedBatch, Entry, Frame, FrameKind};
use aap_types::{ExitCode, Problem, Sequence, SourceKind, SourcePosition, StreamKey};

use super::state::{State, landing_consumer};
use crate::board::Board;

/// Read at a time, and appended as one group.
const READ_BYTES: usize = 4 << 20;

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Deliver the rows under new identities.
    Resend,
    /// Let them go.
    Discard,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Streams that were held.
    pub streams: u64,
    /// Batches of them that had not been delivered.
    pub batches: u64,
    /// Rows of these.
    pub rows: u64,
}

/// Decides about everything that is held. Safe to repeat: what was sent again is not sent twice.
///
/// # Errors
/// `node.recover`: the buffer could not be read or written; the streams stay held.
pub async fn recover(
    buffer: &Buffer,
    state: &State,
    board: &Board,
    how: Recovery,
) -> Result<Recovered, Problem> {
    let mut recovered = Recovered::default();
    for key in state.held().into_keys() {
        recovered.streams += 1;
        let mut after = begin(buffer, &key);
        loop {
            let frames = read(buffer, &key, after).await?;
            let Some(last) = frames.last().map(Frame::last_sequence) else { break };
            let data = frames.into_iter().filter(|frame| frame.kind == FrameKind::Data);
            let data: Vec<Frame> = data.collect();
            recovered.batches += data.len() as u64;
            recovered.rows += data.iter().map(|frame| u64::from(frame.rows)).sum::<u64>();
            if how == Recovery::Resend && !data.is_empty() {
                let entries = resealed(&key, last, data);
                buffer.append(entries).await.map_err(|error| failed(&key, &error))?;
            }
            after = last;
        }
        buffer.advance(landing_consumer(), &key, after);
        state.release(&key);
        board.uplink(|entry| drop(entry.forked.remove(&key.to_string())));
        tracing::warn!(%key, ?how, "a forked stream was recovered");
    }
    Ok(recovered)
}

/// After what was delivered, or sent again by a call that did not come to its end.
fn begin(buffer: &Buffer, key: &StreamKey) -> Sequence {
    let sent_again = buffer.position(SourceKind::Ingest, &marker_key(key)).map_or(0, |marker| marker.offset);
    buffer.cursor(landing_consumer(), key).max(Sequence(sent_again))
}

fn marker_key(key: &StreamKey) -> String {
    format!("recover/{key}")
}

async fn read(buffer: &Buffer, key: &StreamKey, after: Sequence) -> Result<Vec<Frame>, Problem> {
    let (buffer, own) = (buffer.clone(), key.clone());
    let frames = tokio::task::spawn_blocking(move || buffer.read(&own, after, READ_BYTES)).await;
    frames.map_err(|error| failed(key, &error))?.map_err(|error| failed(key, &error))
}

/// The same rows as new batches; the position in their group says how far this came.
fn resealed(key: &StreamKey, last: Sequence, frames: Vec<Frame>) -> Vec<Entry> {
    let marker = SourcePosition {
        kind: SourceKind::Ingest,
        key: marker_key(key),
        offset: last.0,
        detail: String::new(),
    };
    frames
        .into_iter()
        .map(|frame| Entry::Own {
            stream: key.stream.clone(),
            positions: vec![marker.clone()],
            batch: EncodedBatch {
                schema: frame.schema,
                payload: frame.payload,
                rows: frame.rows,
                ts_min_us: frame.ts_min_us,
                ts_max_us: frame.ts_max_us,
                raw_bytes: frame.raw_bytes,
            },
        })
        .collect()
}

fn failed(key: &StreamKey, error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new("node.recover", ExitCode::Failed, format!("stream `{}` was not recovered", key.stream))
        .caused_by(error)
        .hint("the batches are still held; repeat the command")
}
