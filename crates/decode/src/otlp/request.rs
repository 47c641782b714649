//! What requests of all signals share: resources hold scopes, scopes hold records, and records fill batches.

use arrow_array::RecordBatch;

use super::any::{Attributes, attribute, attributes, stated};
use super::{OtlpError, RECORD_BYTES_MAX, RESOURCE_BYTES_MAX, ROWS_MAX, TEXT_BYTES_MAX, Taken};
use crate::builders::{Finished, Words};
use crate::wire::{Fields, WireError};
use crate::{BATCH_BYTES_MAX, DEPTH_MAX};

/// What a row costs beside its text: numbers, times and keys.
const ROW_BYTES: usize = 128;

/// Why a record cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Reject {
    /// The request is broken here: it cannot be read on.
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("values are nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("a record of more than {RECORD_BYTES_MAX} bytes")]
    RecordTooLarge,
    #[error("a resource or scope of more than {RESOURCE_BYTES_MAX} bytes")]
    ResourceTooLarge,
    #[error("the request becomes more than {TEXT_BYTES_MAX} bytes of text")]
    TooMuchText,
    #[error("a span without a valid trace_id and span_id")]
    NoId,
    #[error("a metric without data points of a known type")]
    NoPoints,
}

/// The columns of one signal.
pub(super) trait Records: Default {
    /// Adds the rows of one record (of a metric: its data points), or rejects them.
    fn take<E: From<OtlpError>>(&mut self, record: &[u8], output: &mut Output<'_, E>) -> Result<(), E>;

    /// How many rows a record would have been.
    fn count(record: &[u8]) -> u64;

    /// Takes the rows out of the columns.
    fn finish(&mut self, batch: &mut Finished);
}

/// What stands beside every record of a scope.
#[derive(Debug, Default)]
struct Origin {
    resource: Option<String>,
    service_name: Option<String>,
    scope_name: Option<String>,
    scope_version: Option<String>,
    scope: Option<String>,
}

#[derive(Debug, Default)]
struct OriginColumns {
    resource: Words,
    service_name: Words,
    scope_name: Words,
    scope_version: Words,
    scope: Words,
}

/// The batch that is being filled, and what became of the records so far.
pub(super) struct Output<'e, E> {
    pub(super) observed_us: i64,
    emit: &'e mut dyn FnMut(RecordBatch, u64) -> Result<(), E>,
    taken: Taken,
    origin: Origin,
    origin_bytes: usize,
    columns: OriginColumns,
    /// Rows of the batch, and how many of them have their origin in the columns.
    rows: usize,
    placed: usize,
    /// Of the batch.
    bytes: usize,
    input_bytes: u64,
    /// Of the request.
    text_left: usize,
}

impl<E: From<OtlpError>> Output<'_, E> {
    /// Whether the request may have no more rows.
    pub(super) fn is_spent(&self) -> bool {
        self.text_left == 0
    }

    /// A row stands in the columns: `text` bytes of it are its own, and it was `input` bytes of the request.
    pub(super) fn row<R: Records>(&mut self, records: &mut R, text: usize, input: usize) -> Result<(), E> {
        self.rows += 1;
        self.taken.rows += 1;
        self.bytes += text + self.origin_bytes + ROW_BYTES;
        self.text_left = self.text_left.saturating_sub(text + self.origin_bytes);
        self.input_bytes += input as u64;
        if self.rows >= ROWS_MAX || self.bytes >= BATCH_BYTES_MAX {
            self.finish(records)?;
        }
        Ok(())
    }

    /// `rows` records cannot be kept. Where the request itself is broken, nothing of it is.
    pub(super) fn reject(&mut self, rows: u64, why: Reject) -> Result<(), E> {
        if let Reject::Wire(broken) = why {
            return Err(OtlpError::Wire(broken).into());
        }
        if self.taken.rejected == 0 && rows > 0 {
            self.taken.reason = why.to_string();
        }
        self.taken.rejected += rows;
        Ok(())
    }

    /// The rows since the last change of origin have this one.
    fn place(&mut self) {
        let rows = self.rows - std::mem::replace(&mut self.placed, self.rows);
        if rows > 0 {
            let (columns, origin) = (&mut self.columns, &self.origin);
            columns.resource.push_many(origin.resource.as_deref(), rows);
            columns.service_name.push_many(origin.service_name.as_deref(), rows);
            columns.scope_name.push_many(origin.scope_name.as_deref(), rows);
            columns.scope_version.push_many(origin.scope_version.as_deref(), rows);
            columns.scope.push_many(origin.scope.as_deref(), rows);
        }
    }

    fn enter(&mut self, origin: Origin) {
        self.place();
        let parts = [
            &origin.resource,
            &origin.service_name,
            &origin.scope_name,
            &origin.scope_version,
            &origin.scope,
        ];
        self.origin_bytes = parts.into_iter().flatten().map(String::len).sum();
        self.origin = origin;
    }

    fn finish<R: Records>(&mut self, records: &mut R) -> Result<(), E> {
        if self.rows == 0 {
            return Ok(());
        }
        self.place();
        let mut batch = Finished::default();
        records.finish(&mut batch);
        batch.add("resource", &mut self.columns.resource);
        batch.add("service_name", &mut self.columns.service_name);
        batch.add("scope_name", &mut self.columns.scope_name);
        batch.add("scope_version", &mut self.columns.scope_version);
        batch.add("scope_attributes", &mut self.columns.scope);
        (self.rows, self.placed, self.bytes) = (0, 0, 0);
        let input_bytes = std::mem::take(&mut self.input_bytes);
        (self.emit)(batch.batch().map_err(OtlpError::from)?, input_bytes)
    }
}

/// Decodes a whole request of one signal.
pub(super) fn decode<R: Records, E: From<OtlpError>>(
    request: &[u8],
    observed_us: i64,
    emit: &mut dyn FnMut(RecordBatch, u64) -> Result<(), E>,
) -> Result<Taken, E> {
    let mut records = R::default();
    let mut output = Output {
        observed_us,
        emit,
        taken: Taken::default(),
        origin: Origin::default(),
        origin_bytes: 0,
        columns: OriginColumns::default(),
        rows: 0,
        placed: 0,
        bytes: 0,
        input_bytes: 0,
        text_left: TEXT_BYTES_MAX,
    };
    for resource in messages(request, 1) {
        take_resource(resource.map_err(OtlpError::from)?, &mut records, &mut output)?;
    }
    output.finish(&mut records)?;
    Ok(output.taken)
}

/// The messages that stand in the fields `number`.
pub(super) fn messages(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], WireError>> {
    Fields::of(message).filter_map(move |field| match field {
        Ok((found, value)) => (found == number).then(|| Ok(value.bytes())),
        Err(error) => Some(Err(error)),
    })
}

/// The message in the field `number`; the last one if there are several, an empty one if there is none.
pub(super) fn message(of: &[u8], number: u32) -> Result<&[u8], WireError> {
    messages(of, number).last().unwrap_or(Ok(&[]))
}

fn take_resource<R: Records, E: From<OtlpError>>(
    resource_records: &[u8],
    records: &mut R,
    output: &mut Output<'_, E>,
) -> Result<(), E> {
    // It may stand behind its records.
    let resource = message(resource_records, 1).map_err(OtlpError::from)?;
    for scope_records in messages(resource_records, 2) {
        let scope_records = scope_records.map_err(OtlpError::from)?;
        let scope = message(scope_records, 1).map_err(OtlpError::from)?;
        match origin(resource, scope) {
            Ok(origin) => output.enter(origin),
            Err(why) => {
                let rows = messages(scope_records, 2).flatten().map(R::count).sum();
                output.reject(rows, why)?;
                continue;
            }
        }
        for record in messages(scope_records, 2) {
            let record = record.map_err(OtlpError::from)?;
            if record.len() > RECORD_BYTES_MAX {
                output.reject(R::count(record), Reject::RecordTooLarge)?;
            } else if output.is_spent() {
                output.reject(R::count(record), Reject::TooMuchText)?;
            } else {
                records.take(record, output)?;
            }
        }
    }
    Ok(())
}

fn origin(resource: &[u8], scope: &[u8]) -> Result<Origin, Reject> {
    if resource.len().max(scope.len()) > RESOURCE_BYTES_MAX {
        return Err(Reject::ResourceTooLarge);
    }
    let mut json = Attributes::default();
    let mut origin = Origin::default();
    attributes(resource, 1, &mut json)?;
    origin.resource = json.close().map(str::to_owned);
    origin.service_name = attribute(resource, 1, "service.name")?.map(str::to_owned);
    attributes(scope, 3, &mut json)?;
    origin.scope = json.close().map(str::to_owned);
    for field in Fields::of(scope) {
        match field? {
            (1, name) => origin.scope_name = stated(name.bytes())?.map(str::to_owned),
            (2, version) => origin.scope_version = stated(version.bytes())?.map(str::to_owned),
            _ => {}
        }
    }
    Ok(origin)
}

/// Nanoseconds since 1970 as microseconds; `None` where no time is stated.
pub(super) fn micros(nanos: u64) -> Option<i64> {
    (nanos != 0).then_some((nanos / 1000).cast_signed())
}
