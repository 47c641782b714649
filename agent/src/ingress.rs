//! The way of records into the buffer: decode, seal, append, and only then an answer.
//!
//! ```text
//! bytes of whole records ─▶ Packer (blocking pool) ─▶ Parcel ─▶ Ingress::append ─▶ durable ─▶ answer
//!                            decode · encode          entries    one group          counters
//! ```
//!
//! A parcel is all or nothing: its batches, its dead letters and its source positions are one group of the buffer.
//! A source has one append under way at a time for each thing it reads in order (a file, an ingest run), and
//! decodes the next parcel meanwhile. So an append that fails can never be followed by a later one that succeeds,
//! which would commit a position beyond rows that are not there.

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::{Buffer, EncodedBatch, Encoder, Entry, FrameSchema, mutant};
use aap_decode::{BadRow, Context, Decoded, Decoder, dead_letters, refuse_lines};
use aap_runtime::Clock;
use aap_types::{BatchId, SourcePosition, StreamName};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::counters::{Counters, DropReason};
use crate::drain::Drain;
use crate::failpoint::Failpoints;
use crate::line_ends;

/// Rows a batch is sealed at: the cost per batch is small from here on, and a query can still skip it by its time range.
pub const BATCH_BYTES: usize = 1 << 20;
/// By how much the mutant `answerfirst` answers too early.
const ANSWERED_FIRST: Duration = Duration::from_millis(300);

/// Why records did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    /// An operator drains this node.
    #[error("this node is being drained and takes no new rows")]
    Draining,
    /// The buffer refused or failed.
    #[error("append to the buffer")]
    Append(#[source] aap_buffer::Error),
    /// The rows could not be sealed.
    #[error("seal a batch of stream `{stream}`")]
    Seal {
        /// The stream.
        stream: StreamName,
        /// Why.
        #[source]
        source: aap_buffer::Error,
    },
    /// The decoder could not take the bytes at all.
    #[error("decode records of stream `{stream}`")]
    Decode {
        /// The stream.
        stream: StreamName,
        /// Why.
        #[source]
        source: aap_decode::DecodeError,
    },
    /// A bug of ours.
    #[error("build the dead letters of stream `{stream}`: {reason}")]
    DeadLetters {
        /// The stream.
        stream: StreamName,
        /// Why.
        reason: String,
    },
}

/// What stands or falls together.
#[derive(Debug, Clone, Default)]
pub struct Parcel {
    /// What to append.
    pub entries: Vec<Entry>,
    /// The books it changes, one item a batch.
    pub tallies: Vec<Tally>,
}

/// What one batch adds to the books of its stream.
#[derive(Debug, Clone)]
pub struct Tally {
    /// The stream that was fed.
    pub stream: StreamName,
    /// Good rows.
    pub rows: u64,
    /// Records that could not be read.
    pub bad: u64,
    /// Records that were refused by themselves while the others were taken.
    pub rejected: u64,
    /// Rows of the dead-letter stream that hold them.
    pub letters: u64,
    /// Bytes of input.
    pub bytes: u64,
    /// Bytes beyond a limit that are not in any row.
    pub cut: u64,
    /// Invalid UTF-8 sequences replaced.
    pub replaced: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(stream: &StreamName) -> Self {
        Self {
            stream: stream.clone(),
            rows: 0,
            bad: 0,
            rejected: 0,
            letters: 0,
            bytes: 0,
            cut: 0,
            replaced: 0,
        }
    }
}

impl Parcel {
    /// Good rows.
    pub fn rows(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.rows).sum()
    }
    /// Records that are dead letters.
    pub fn bad(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.bad).sum()
    }
    /// Bytes of input.
    pub fn bytes(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.bytes).sum()
    }
    /// Whether there is nothing to append.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Adds rows of a stream, sealed as one batch or as many as they fill.
    pub fn add(
        &mut self,
        stream: &StreamName,
        sealer: &mut Sealer,
        batch: &RecordBatch,
        raw_bytes: u64,
    ) -> Result<(), IngressError> {
        let sealed = sealer.seal_parts(batch, raw_bytes);
        for batch in sealed.map_err(|source| IngressError::Seal { stream: stream.clone(), source })? {
            let (rows, bytes) = (u64::from(batch.rows), batch.raw_bytes);
            self.entries.push(Entry::Own { stream: stream.clone(), batch, positions: vec![] });
            self.tallies.push(Tally { rows, bytes, ..Tally::new(stream) });
        }
        Ok(())
    }

    /// Adds what `other` has.
    pub fn join(&mut self, other: Parcel) {
        self.entries.extend(other.entries);
        self.tallies.extend(other.tallies);
    }
}

/// The door of the buffer that all sources share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingress {
    /// The buffer behind it.
    pub buffer: Buffer,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The books.
    pub counters: Arc<Counters>,
    /// Crash points.
    pub failpoints: Failpoints,
    /// Whether new rows are taken.
    pub drain: Arc<Drain>,
}

impl Ingress {
    /// Appends a parcel as one group and returns when it is durable. Waits for room. The books count it when it is durable, so
    /// that a parcel that is tried again is counted once.
    pub async fn append(&self, parcel: Parcel) -> Result<Vec<BatchId>, IngressError> {
        if mutant::is("answerfirst") {
            return Ok(self.answer_first(parcel));
        }
        self.append_now(parcel).await
    }

    async fn append_now(&self, parcel: Parcel) -> Result<Vec<BatchId>, IngressError> {
        let _taking = self.drain.taking();
        let Parcel { entries, tallies } = parcel;
        self.failpoints.reach("agent.before_append");
        let ids = self.buffer.append(entries).await.map_err(IngressError::Append)?;
        self.book(&tallies);
        self.failpoints.reach("agent.after_append_before_answer");
        Ok(ids)
    }

    /// The same, but refuses at once where it would have to wait for room, and while the node is being drained.
    pub async fn try_append(&self, parcel: Parcel) -> Result<Vec<BatchId>, IngressError> {
        let _taking = self.drain.taking();
        if self.drain.is_draining() {
            return Err(IngressError::Draining);
        }
        if mutant::is("answerfirst") {
            return Ok(self.answer_first(parcel));
        }
        let Parcel { entries, tallies } = parcel;
        if entries.is_empty() {
            self.book(&tallies);
            return Ok(vec![]);
        }
        self.failpoints.reach("agent.before_append");
        let ticket = self.buffer.try_append(entries).map_err(IngressError::Append)?;
        let ids = ticket.durable().await.map_err(IngressError::Append)?;
        self.book(&tallies);
        self.failpoints.reach("agent.after_append_before_answer");
        Ok(ids)
    }

    /// The mutant `answerfirst`.
    fn answer_first(&self, parcel: Parcel) -> Vec<BatchId> {
        let ingress = self.clone();
        #[expect(clippy::disallowed_methods, reason = "a deliberate fault: nobody owns what was answered")]
        tokio::spawn(async move {
            // Long enough for the answer to reach its client before a crash point of the append is passed.
            tokio::time::sleep(ANSWERED_FIRST).await;
            ingress.append_now(parcel).await
        });
        vec![]
    }

    fn book(&self, tallies: &[Tally]) {
        for tally in tallies {
            self.counters.count(&tally.stream, |count| {
                count.rows_read += tally.rows + tally.bad + tally.rejected;
                count.bytes_read += tally.bytes;
                count.bytes_cut += tally.cut;
                count.replaced += tally.replaced;
                count.rows_durable += tally.rows;
                count.batches_durable += u64::from(tally.rows > 0);
                if tally.bad > 0 && !mutant::is("nobooks") {
                    *count.rows_dropped.entry(DropReason::DeadLetter).or_default() += tally.bad;
                }
            });
            if tally.rejected > 0 {
                self.counters.count(&tally.stream, |count| {
                    *count.rows_dropped.entry(DropReason::Rejected).or_default() += tally.rejected;
                });
            }
            if tally.letters > 0 {
                self.counters.count(&tally.stream.dead_letters(), |count| {
                    count.rows_read += tally.letters;
                    count.rows_durable += tally.letters;
                    count.batches_durable += 1;
                });
            }
        }
    }
}

/// Makes sealed batches of rows; keeps its compressor and the last schema.
#[derive(Debug, Default)]
pub struct Sealer {
    encoder: Encoder,
    known: Option<(SchemaRef, Arc<FrameSchema>)>,
}

impl Sealer {
    /// Seals one batch. `raw_bytes` is its size as the source gave it.
    pub fn seal(&mut self, batch: &RecordBatch, raw_bytes: u64) -> Result<EncodedBatch, aap_buffer::Error> {
        let schema = self.schema(batch.schema_ref());
        self.encoder.encode(batch, &schema, raw_bytes)
    }

    /// Seals a batch of any size: as one, or, if that is more than can be sent, cut by rows into parts that are not. Only a
    /// single row can be too large.
    pub fn seal_parts(
        &mut self,
        batch: &RecordBatch,
        raw_bytes: u64,
    ) -> Result<Vec<EncodedBatch>, aap_buffer::Error> {
        match self.seal(batch, raw_bytes) {
            Err(aap_buffer::Error::Oversize { .. }) if batch.num_rows() > 1 => {
                let (half, half_bytes) = (batch.num_rows() / 2, raw_bytes / 2);
                let mut parts = self.seal_parts(&batch.slice(0, half), half_bytes)?;
                let rest = batch.slice(half, batch.num_rows() - half);
                parts.extend(self.seal_parts(&rest, raw_bytes - half_bytes)?);
                Ok(parts)
            }
            sealed => Ok(vec![sealed?]),
        }
    }

    fn schema(&mut self, wanted: &SchemaRef) -> Arc<FrameSchema> {
        match &self.known {
            Some((known, schema)) if Arc::ptr_eq(known, wanted) || known == wanted => schema.clone(),
            _ => {
                let schema = FrameSchema::of(wanted.clone());
                self.known = Some((wanted.clone(), schema.clone()));
                schema
            }
        }
    }
}

/// Turns the bytes of one source into parcels. Lives as long as what it reads, because column types are learned.
#[derive(Debug)]
pub struct Packer {
    stream: StreamName,
    source: String,
    decoder: Decoder,
    sealer: Sealer,
    letters: Sealer,
    joins_lines: bool,
}

/// What became of the bytes of one call.
#[derive(Debug)]
pub struct Packed {
    /// What to append.
    pub parcel: Parcel,
    /// The first record that could not be read; all such are in the parcel as dead letters.
    pub first_bad: Option<BadRow>,
}

impl Packer {
    /// A packer that feeds `stream`; `source` names the origin in dead letters.
    pub fn new(stream: StreamName, source: String, decoder: Decoder) -> Self {
        let (sealer, letters) = Default::default();
        Self { stream, source, decoder, sealer, letters, joins_lines: false }
    }

    /// Whether line ends inside of records were taken out of them: they are put back into the rows.
    #[must_use]
    pub fn joining_lines(mut self, joins_lines: bool) -> Self {
        self.joins_lines = joins_lines;
        self
    }

    /// The decoder, for its record boundaries.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Shows the decoder bytes that it must know but that give no rows, such as a header.
    pub fn learn(&mut self, header: &[u8]) {
        if let Err(error) = self.decoder.decode(header, &Context::default()) {
            tracing::debug!(stream = %self.stream, %error, "header was not understood");
        }
    }

    /// Decodes and seals whole records, as one batch or as many as they fill, with the positions that they reach. Takes a
    /// while: blocking pool.
    pub fn pack(
        &mut self,
        records: &[u8],
        context: &Context<'_>,
        positions: Vec<SourcePosition>,
    ) -> Result<Packed, IngressError> {
        let mut packed = Packed { parcel: Parcel::default(), first_bad: None };
        let mut at = 0;
        while at < records.len() {
            let numbers_elements = self.decoder.numbers_elements();
            let lines_before = || match numbers_elements {
                true => 0,
                false => memchr::memchr_iter(b'\n', &records[..at]).count() as u64,
            };
            let decoded = self
                .decoder
                .decode(&records[at..], context)
                .map_err(|source| IngressError::Decode { stream: self.stream.clone(), source })?;
            if packed.first_bad.is_none()
                && let Some(bad) = decoded.bad.first()
            {
                let (line, offset) = (bad.line + lines_before(), bad.offset + at as u64);
                packed.first_bad = Some(BadRow { line, offset, ..bad.clone() });
            }
            let taken = usize::try_from(decoded.raw_bytes).unwrap_or(usize::MAX).min(records.len() - at);
            debug_assert!(taken > 0, "a decoder that takes nothing never ends");
            at = if taken == 0 { records.len() } else { at + taken };
            self.seal(decoded, context, taken, &mut packed.parcel)?;
        }
        // With the last entry, so that the position is not there before all of what it stands for.
        if let Some(Entry::Own { positions: own, .. }) = packed.parcel.entries.last_mut() {
            own.extend(positions);
        }
        Ok(packed)
    }

    /// Adds the rows of one batch and its dead letters to a parcel.
    fn seal(
        &mut self,
        decoded: Decoded,
        context: &Context<'_>,
        bytes: usize,
        parcel: &mut Parcel,
    ) -> Result<(), IngressError> {
        let mut tally = Tally {
            rows: decoded.batch.num_rows() as u64,
            bytes: bytes as u64,
            replaced: decoded.replaced,
            ..Tally::new(&self.stream)
        };
        if !decoded.bad.is_empty() {
            parcel.entries.push(self.dead(&decoded.bad, context.observed_us, &mut tally)?);
        }
        if tally.rows > 0 {
            let batch = self.with_line_ends(decoded.batch);
            let parts = self
                .sealer
                .seal_parts(&batch, decoded.raw_bytes)
                .map_err(|source| IngressError::Seal { stream: self.stream.clone(), source })?;
            let entry = |batch| Entry::Own { stream: self.stream.clone(), batch, positions: vec![] };
            parcel.entries.extend(parts.into_iter().map(entry));
        }
        if tally.rows + tally.bad > 0 {
            parcel.tallies.push(tally);
        }
        Ok(())
    }

    /// Bytes that could not be taken, as dead letters, a line each.
    pub fn refuse(&mut self, records: &[u8], observed_us: i64, why: &str) -> Result<Parcel, IngressError> {
        let mut parcel = Parcel::default();
        let mut tally = Tally { bytes: records.len() as u64, ..Tally::new(&self.stream) };
        let bad = refuse_lines(records, why);
        if !bad.is_empty() {
            parcel.entries.push(self.dead(&bad, observed_us, &mut tally)?);
            parcel.tallies.push(tally);
        }
        Ok(parcel)
    }

    fn with_line_ends(&self, batch: RecordBatch) -> RecordBatch {
        if self.joins_lines { line_ends::restore(batch) } else { batch }
    }

    fn dead(&mut self, bad: &[BadRow], observed_us: i64, tally: &mut Tally) -> Result<Entry, IngressError> {
        let stream = self.stream.dead_letters();
        let batch = dead_letters(bad, self.stream.as_str(), &self.source, observed_us).map_err(|error| {
            IngressError::DeadLetters { stream: self.stream.clone(), reason: error.to_string() }
        })?;
        let raw_bytes = bad.iter().map(|row| row.text.len() as u64).sum();
        let batch = self.with_line_ends(batch);
        let batch = self
            .letters
            .seal(&batch, raw_bytes)
            .map_err(|source| IngressError::Seal { stream: stream.clone(), source })?;
        tally.letters = bad.len() as u64;
        tally.bad = bad.iter().map(|row| row.records).sum();
        tally.cut = bad.iter().map(|row| row.cut).sum();
        Ok(Entry::Own { stream, batch, positions: vec![] })
    }
}

/// A parcel of no rows that makes positions durable, and takes them to the ledger.
pub fn positions_only(stream: &StreamName, positions: Vec<SourcePosition>) -> Result<Parcel, IngressError> {
    let ts = Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
    let batch = RecordBatch::new_empty(Arc::new(Schema::new(vec![ts])));
    let batch = Sealer::default()
        .seal(&batch, 0)
        .map_err(|source| IngressError::Seal { stream: stream.clone(), source })?;
    let entries = vec![Entry::Own { stream: stream.clone(), batch, positions }];
    Ok(Parcel { entries, tallies: vec![] })
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, BinaryArray};

    use super::*;

    /// Rows of bytes that do not compress.
    fn noise(rows: usize, row_bytes: usize) -> RecordBatch {
        let mut state = 1u64;
        let mut row = || {
            let words = (0..row_bytes.div_ceil(8)).flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            words.collect::<Vec<u8>>()
        };
        let column: ArrayRef = Arc::new(BinaryArray::from_iter_values((0..rows).map(|_| row())));
        RecordBatch::try_from_iter([("body", column)]).unwrap()
    }

    #[test]
    fn a_batch_that_is_too_large_to_send_is_cut_by_rows_and_keeps_all_of_them() {
        let batch = noise(40, 1 << 20);
        let parts = Sealer::default().seal_parts(&batch, 1000).unwrap();
        assert!(parts.len() > 2, "{}", parts.len());
        assert!(parts.iter().all(|part| part.payload.len() as u64 <= aap_buffer::PAYLOAD_BYTES_MAX));
        assert_eq!(parts.iter().map(|part| part.raw_bytes).sum::<u64>(), 1000);
        let mut row = 0;
        for part in parts {
            let rows = aap_buffer::decode(&part.schema, &part.payload, None).unwrap();
            assert_eq!(rows.column(0).as_ref(), batch.slice(row, rows.num_rows()).column(0).as_ref());
            row += rows.num_rows();
        }
        assert_eq!(row, 40);
    }

    #[test]
    fn a_single_row_that_is_too_large_to_send_is_refused() {
        let refused = Sealer::default().seal_parts(&noise(3, 18 << 20), 1);
        assert!(matches!(refused, Err(aap_buffer::Error::Oversize { .. })));
    }
}
