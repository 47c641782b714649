//! Log records: a row each.

use super::OtlpError;
use super::any::{Attributes, id, put_body, stated};
use super::request::{Output, Records, Reject, micros};
use crate::builders::{Finished, Integers, Texts, Times, Words};
use crate::wire::Fields;

/// The six severities, of four numbers each, from 1.
const SEVERITIES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

#[derive(Debug, Default)]
pub(super) struct Logs {
    ts: Times,
    observed_ts: Times,
    severity: Words,
    body: Texts,
    attributes: Texts,
    severity_number: Integers,
    severity_text: Words,
    trace_id: Texts,
    span_id: Texts,
    flags: Integers,
    event_name: Words,
    dropped_attributes: Integers,
    nanos: Integers,
    scratch: Scratch,
}

/// What a record is made into before it is known to be good.
#[derive(Debug, Default)]
struct Scratch {
    body: Vec<u8>,
    attributes: Attributes,
    trace_id: String,
    span_id: String,
}

#[derive(Debug, Default)]
struct Record<'a> {
    nanos: u64,
    observed_nanos: u64,
    severity_number: u64,
    severity_text: Option<&'a str>,
    has_body: bool,
    dropped_attributes: u64,
    flags: u64,
    event_name: Option<&'a str>,
}

impl<'a> Record<'a> {
    fn read(message: &'a [u8], scratch: &mut Scratch) -> Result<Self, Reject> {
        let mut record = Self::default();
        scratch.body.clear();
        scratch.attributes.clear();
        scratch.trace_id.clear();
        scratch.span_id.clear();
        for field in Fields::of(message) {
            let (number, value) = field?;
            match number {
                1 => record.nanos = value.number(),
                2 => record.severity_number = value.number(),
                3 => record.severity_text = stated(value.bytes())?,
                5 => {
                    scratch.body.clear();
                    put_body(&mut scratch.body, value.bytes())?;
                    record.has_body = !value.bytes().is_empty();
                }
                6 => scratch.attributes.add(value.bytes())?,
                7 => record.dropped_attributes = value.number(),
                8 => record.flags = value.number(),
                // An id that is none is no reason to lose the record.
                9 => _ = id::<16>(value.bytes(), &mut scratch.trace_id),
                10 => _ = id::<8>(value.bytes(), &mut scratch.span_id),
                11 => record.observed_nanos = value.number(),
                12 => record.event_name = stated(value.bytes())?,
                _ => {}
            }
        }
        Ok(record)
    }
}

impl Records for Logs {
    fn take<E: From<OtlpError>>(&mut self, message: &[u8], output: &mut Output<'_, E>) -> Result<(), E> {
        let record = match Record::read(message, &mut self.scratch) {
            Ok(record) => record,
            Err(why) => return output.reject(1, why),
        };
        let observed = micros(record.observed_nanos).unwrap_or(output.observed_us);
        self.ts.push(micros(record.nanos).unwrap_or(observed));
        self.observed_ts.push(observed);
        let severity = usize::try_from(record.severity_number).unwrap_or(usize::MAX).wrapping_sub(1) / 4;
        self.severity.push(SEVERITIES.get(severity).copied());
        let body = std::str::from_utf8(&self.scratch.body).ok().filter(|_| record.has_body);
        self.body.push(body);
        let attributes = self.scratch.attributes.close();
        self.attributes.push(attributes);
        self.severity_number.push_stated(record.severity_number);
        self.severity_text.push(record.severity_text);
        self.trace_id.push(non_empty(&self.scratch.trace_id));
        self.span_id.push(non_empty(&self.scratch.span_id));
        self.flags.push_stated(record.flags);
        self.event_name.push(record.event_name);
        self.dropped_attributes.push_stated(record.dropped_attributes);
        self.nanos.push_stated(record.nanos);
        let text = body.map_or(0, str::len) + attributes.map_or(0, str::len);
        output.row(self, text, message.len())
    }

    fn count(_: &[u8]) -> u64 {
        1
    }

    fn finish(&mut self, batch: &mut Finished) {
        batch.add("ts", &mut self.ts);
        batch.add("observed_ts", &mut self.observed_ts);
        batch.add("severity", &mut self.severity);
        batch.add("body", &mut self.body);
        batch.add("attributes", &mut self.attributes);
        batch.add("severity_number", &mut self.severity_number);
        batch.add("severity_text", &mut self.severity_text);
        batch.add("trace_id", &mut self.trace_id);
        batch.add("span_id", &mut self.span_id);
        batch.add("flags", &mut self.flags);
        batch.add("event_name", &mut self.event_name);
        batch.add("dropped_attributes_count", &mut self.dropped_attributes);
        batch.add("time_unix_nano", &mut self.nanos);
    }
}

/// Text, or nothing where it is empty.
pub(super) fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
