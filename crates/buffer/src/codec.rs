//! Rows to payload and back: Arrow IPC messages, each buffer compressed by itself with zstd level 1, so that a scan
//! pays only for the columns it wants. A payload is any number of dictionary batch messages and one record batch
//! message; the schema travels beside it.
//!
//! Decoding takes bytes from disks and from peers, so everything is checked before Arrow sees it: message framing,
//! buffer bounds, claimed sizes. [`DECODED_BYTES_MAX`] bounds what one payload may become.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, write_message,
};
use arrow_ipc::{CompressionType, Message, MessageHeader, MetadataVersion, root_as_message};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use bytes::Bytes;

use crate::{Error, FrameSchema, SCHEMA_BYTES_MAX};

/// Most bytes that one payload may decompress to. Batches are a few megabytes; this stops a compression bomb.
pub const DECODED_BYTES_MAX: u64 = 256 << 20;

/// Largest payload. It must fit into one message of the transport (20 MiB) beside its schema (at most 4 MiB), its
/// positions and the envelope: what is accepted can be sent.
pub const PAYLOAD_BYTES_MAX: u64 = 15 << 20;

/// The level at which zstd costs least for what it saves.
const ZSTD_LEVEL: i32 = 1;

/// A batch that is ready to be stored or sent.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    /// Its schema.
    pub schema: Arc<FrameSchema>,
    /// The rows as IPC messages.
    pub payload: Bytes,
    /// Number of rows.
    pub rows: u32,
    /// Smallest `ts`, microseconds; 0 where the stream has none.
    pub ts_min_us: i64,
    /// Largest `ts`, microseconds.
    pub ts_max_us: i64,
    /// Size of the rows as the source gave them.
    pub raw_bytes: u64,
}

pub(crate) fn write_options() -> IpcWriteOptions {
    IpcWriteOptions::try_new(8, false, MetadataVersion::V5)
        .and_then(|options| options.try_with_compression(Some(CompressionType::ZSTD)))
        .and_then(|options| options.try_with_compression_level(Some(ZSTD_LEVEL)))
        .expect("these options are valid together")
}

/// Encodes batches; keeps its compressor and scratch space between calls.
#[derive(Debug)]
pub struct Encoder {
    options: IpcWriteOptions,
    context: IpcWriteContext,
    generator: IpcDataGenerator,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// A fresh encoder.
    pub fn new() -> Self {
        Self {
            options: write_options(),
            context: IpcWriteContext::default(),
            generator: IpcDataGenerator::default(),
        }
    }

    /// Encodes `batch`, whose schema must be that of `schema`. `raw_bytes` is its size as the source gave it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the schemas differ or there are more than `u32::MAX` rows; [`Error::Oversize`] if the schema,
    /// the payload or what it decodes to is larger than can be sent and decoded again: then cut the batch by rows;
    /// [`Error::Arrow`].
    pub fn encode(
        &mut self,
        batch: &RecordBatch,
        schema: &Arc<FrameSchema>,
        raw_bytes: u64,
    ) -> Result<EncodedBatch, Error> {
        if !same_columns(batch.schema_ref(), schema.arrow()) {
            return Err(Error::Invalid("the batch has other columns than its schema".into()));
        }
        within(schema.ipc().len() as u64, SCHEMA_BYTES_MAX as u64)?;
        let rows = u32::try_from(batch.num_rows())
            .map_err(|_| Error::Invalid("more rows than a batch can have".into()))?;
        let (ts_min_us, ts_max_us) = time_range(batch);
        let mut tracker = DictionaryTracker::new(false);
        give_dictionary_ids(schema.arrow(), &mut tracker);
        let (dictionaries, body) = self
            .generator
            .encode(batch, &mut tracker, &self.options, &mut self.context)
            .map_err(Error::arrow("encode batch"))?;
        let mut payload = Vec::with_capacity(
            dictionaries.iter().chain([&body]).map(|m| m.ipc_message.len() + m.arrow_data.len() + 32).sum(),
        );
        for message in dictionaries.into_iter().chain([body]) {
            write_message(&mut payload, message, &self.options).map_err(Error::arrow("encode batch"))?;
        }
        let payload = Bytes::from(payload);
        within(payload.len() as u64, PAYLOAD_BYTES_MAX)?;
        within(decoded_bytes(&payload)?, DECODED_BYTES_MAX)?;
        Ok(EncodedBatch { schema: schema.clone(), payload, rows, ts_min_us, ts_max_us, raw_bytes })
    }
}

impl EncodedBatch {
    /// Whether it can be sent and decoded again.
    pub(crate) fn check_size(&self) -> Result<(), Error> {
        within(self.schema.ipc().len() as u64, SCHEMA_BYTES_MAX as u64)?;
        within(self.payload.len() as u64, PAYLOAD_BYTES_MAX)
    }
}

fn within(bytes: u64, limit: u64) -> Result<(), Error> {
    if bytes > limit { Err(Error::Oversize { bytes, limit }) } else { Ok(()) }
}

/// What a payload of ours decompresses to, by what its buffers say.
fn decoded_bytes(payload: &[u8]) -> Result<u64, Error> {
    let (mut bytes, mut at) = (0, 0);
    while at < payload.len() {
        let part = MessagePart::read(payload, at)?;
        let body = &payload[part.body_start..part.body_start + part.body_length];
        at = part.body_start + part.body_length;
        let dictionary = part.message.header_as_dictionary_batch().and_then(|batch| batch.data());
        if let Some(batch) = dictionary.or_else(|| part.message.header_as_record_batch()) {
            bytes += claimed_bytes(&batch, body)?;
        }
    }
    Ok(bytes)
}

/// Whether columns agree in number, names and types; ids and metadata do not matter.
fn same_columns(one: &Schema, other: &Schema) -> bool {
    one.fields().len() == other.fields().len()
        && one
            .fields()
            .iter()
            .zip(other.fields())
            .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type())
}

/// Gives dictionary ids in the order in which the schema message gave them: depth first, a dictionary before what is
/// nested in its values.
fn give_dictionary_ids(schema: &Schema, tracker: &mut DictionaryTracker) {
    fn visit(data_type: &DataType, tracker: &mut DictionaryTracker) {
        match data_type {
            DataType::Dictionary(_, values) => {
                tracker.next_dict_id();
                visit(values, tracker);
            }
            DataType::List(field)
            | DataType::LargeList(field)
            | DataType::ListView(field)
            | DataType::LargeListView(field)
            | DataType::FixedSizeList(field, _)
            | DataType::Map(field, _) => visit(field.data_type(), tracker),
            DataType::Struct(fields) => fields.iter().for_each(|f| visit(f.data_type(), tracker)),
            DataType::Union(fields, _) => fields.iter().for_each(|(_, f)| visit(f.data_type(), tracker)),
            DataType::RunEndEncoded(_, values) => visit(values.data_type(), tracker),
            _ => {}
        }
    }
    schema.fields().iter().for_each(|field: &Arc<Field>| visit(field.data_type(), tracker));
}

fn time_range(batch: &RecordBatch) -> (i64, i64) {
    let Some(column) = batch.column_by_name("ts") else { return (0, 0) };
    if !matches!(column.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
        return (0, 0);
    }
    let times = column.as_primitive::<TimestampMicrosecondType>();
    if times.null_count() == 0 {
        let bounds = times.values().iter().fold(None, |bounds: Option<(i64, i64)>, &ts| {
            Some(bounds.map_or((ts, ts), |(min, max)| (min.min(ts), max.max(ts))))
        });
        return bounds.unwrap_or((0, 0));
    }
    let present = || times.iter().flatten();
    (present().min().unwrap_or(0), present().max().unwrap_or(0))
}

/// Decodes a payload; with a projection, only those columns are decompressed, in that order.
///
/// # Errors
/// For any bytes that are not a payload of that schema. Never panics; never allocates more than
/// [`DECODED_BYTES_MAX`] on their word.
pub fn decode(
    schema: &FrameSchema,
    payload: &Bytes,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, Error> {
    guarded("decode batch", || decode_checked(schema, payload, projection))
}

/// Runs code of Arrow on bytes of others. What we can check is checked before; a panic that remains is that input's
/// error, not the end of the process.
pub(crate) fn guarded<T>(what: &'static str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::Invalid(format!("{what}: refused by Arrow"))))
}

fn decode_checked(
    schema: &FrameSchema,
    payload: &Bytes,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, Error> {
    let columns = schema.arrow().fields().len();
    if projection.is_some_and(|p| p.iter().any(|&i| i >= columns)) {
        return Err(Error::Invalid("a column that the schema does not have".into()));
    }
    let whole = Buffer::from(payload.clone());
    let mut dictionaries: HashMap<i64, ArrayRef> = HashMap::new();
    let wanted = projection.map(|p| dictionary_ids(schema.arrow(), p));
    let mut budget = DECODED_BYTES_MAX;
    let mut at = 0;
    while at < payload.len() {
        let part = MessagePart::read(payload, at)?;
        let body = whole.slice_with_length(part.body_start, part.body_length);
        at = part.body_start + part.body_length;
        match part.message.header_type() {
            MessageHeader::DictionaryBatch => {
                let batch = part
                    .message
                    .header_as_dictionary_batch()
                    .ok_or_else(|| Error::Invalid("a dictionary message without its batch".into()))?;
                if batch.isDelta() {
                    return Err(Error::Invalid("a delta dictionary".into()));
                }
                if wanted.as_ref().is_some_and(|ids| !ids.contains(&batch.id())) {
                    continue;
                }
                if let Some(data) = batch.data() {
                    check_buffers(&data, &body, &mut budget)?;
                }
                read_dictionary(&body, batch, schema.arrow(), &mut dictionaries, &part.message.version())
                    .map_err(Error::arrow("decode dictionary"))?;
            }
            MessageHeader::RecordBatch => {
                if at != payload.len() {
                    return Err(Error::Invalid("bytes after the record batch".into()));
                }
                let batch = part
                    .message
                    .header_as_record_batch()
                    .ok_or_else(|| Error::Invalid("a record batch message without its batch".into()))?;
                check_buffers(&batch, &body, &mut budget)?;
                return RecordBatchDecoder::try_new(
                    &body,
                    batch,
                    schema.arrow().clone(),
                    &dictionaries,
                    &part.message.version(),
                )
                .and_then(|decoder| decoder.with_projection(projection).read_record_batch())
                .map_err(Error::arrow("decode batch"));
            }
            other => return Err(Error::Invalid(format!("a message of kind {other:?}"))),
        }
    }
    Err(Error::Invalid("no record batch".into()))
}

/// The dictionaries that the projected columns use.
fn dictionary_ids(schema: &Schema, projection: &[usize]) -> Vec<i64> {
    let mut ids = Vec::new();
    for &column in projection {
        let one = Schema::new(vec![schema.fields()[column].clone()]);
        for field in one.flattened_fields() {
            #[expect(deprecated, reason = "arrow offers no other way to the id of a decoded schema")]
            ids.extend(field.dict_id());
        }
    }
    ids
}

struct MessagePart<'a> {
    message: Message<'a>,
    body_start: usize,
    body_length: usize,
}

impl<'a> MessagePart<'a> {
    /// The encapsulated message at `at`: `ffffffff | metadata length u32 | metadata | body`.
    fn read(payload: &'a [u8], at: usize) -> Result<Self, Error> {
        let invalid = |what: &str| Error::Invalid(format!("{what} at byte {at}"));
        let (prefix, rest) =
            payload[at..].split_first_chunk::<8>().ok_or_else(|| invalid("a cut message prefix"))?;
        if prefix[..4] != [0xff; 4] {
            return Err(invalid("no message marker"));
        }
        let length = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
        let metadata = rest.get(..length).ok_or_else(|| invalid("a cut message"))?;
        let message = root_as_message(metadata).map_err(|_| invalid("an unreadable message"))?;
        if message.version() != MetadataVersion::V5 {
            return Err(invalid("a message of another version"));
        }
        let body_start = at + 8 + length;
        let body_length = usize::try_from(message.bodyLength()).map_err(|_| invalid("a negative length"))?;
        if payload.len() - body_start < body_length {
            return Err(invalid("a cut message body"));
        }
        Ok(Self { message, body_start, body_length })
    }
}

/// Arrow slices without looking, and trusts the claimed sizes: look here.
fn check_buffers(batch: &arrow_ipc::RecordBatch<'_>, body: &[u8], budget: &mut u64) -> Result<(), Error> {
    let left = budget.checked_sub(claimed_bytes(batch, body)?);
    *budget = left.ok_or_else(|| Error::Invalid("more data than a batch may hold".into()))?;
    Ok(())
}

/// What the buffers of a batch say that they become. They lie in the body, and nothing about them is impossible.
fn claimed_bytes(batch: &arrow_ipc::RecordBatch<'_>, body: &[u8]) -> Result<u64, Error> {
    let invalid = |what: &str| Error::Invalid(what.to_owned());
    let rows = u64::try_from(batch.length()).map_err(|_| invalid("a negative number of rows"))?;
    if rows > u64::from(u32::MAX) {
        return Err(invalid("too many rows"));
    }
    for node in batch.nodes().into_iter().flatten() {
        let (length, nulls) = (node.length(), node.null_count());
        if !(0..=i64::from(u32::MAX)).contains(&length) || !(0..=length).contains(&nulls) {
            return Err(invalid("an impossible column length"));
        }
    }
    let compressed = batch.compression().is_some();
    let mut total = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let bytes = range
            .and_then(|(start, length)| body.get(start..start.checked_add(length)?))
            .ok_or_else(|| invalid("a column outside its message"))?;
        let claimed = match bytes.first_chunk::<8>() {
            Some(prefix) if compressed => match i64::from_le_bytes(*prefix) {
                -1 => bytes.len() as u64,
                length => u64::try_from(length).map_err(|_| invalid("a negative column size"))?,
            },
            _ => bytes.len() as u64,
        };
        total = total.saturating_add(claimed);
    }
    Ok(total)
}
