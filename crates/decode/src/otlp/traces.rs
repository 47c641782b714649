//! Spans: a row each, with its events and links as JSON.

use super::OtlpError;
use super::any::{Attributes, id, stated, text};
use super::logs::non_empty;
use super::request::{Output, Records, Reject, micros};
use crate::builders::{Finished, Integers, Texts, Times, Words};
use crate::put::{put_display, put_named, put_string};
use crate::wire::Fields;

/// By number.
const KINDS: [&str; 6] = ["unspecified", "internal", "server", "client", "producer", "consumer"];
/// By number.
const STATUSES: [&str; 3] = ["unset", "ok", "error"];

#[derive(Debug, Default)]
pub(super) struct Traces {
    ts: Times,
    trace_id: Texts,
    span_id: Texts,
    parent_span_id: Texts,
    name: Words,
    kind: Words,
    end_ts: Times,
    duration_ns: Integers,
    status: Words,
    status_message: Texts,
    attributes: Texts,
    events: Texts,
    links: Texts,
    trace_state: Texts,
    flags: Integers,
    dropped_attributes: Integers,
    dropped_events: Integers,
    dropped_links: Integers,
    start_nanos: Integers,
    scratch: Scratch,
}

/// What a span is made into before it is known to be good.
#[derive(Debug, Default)]
struct Scratch {
    attributes: Attributes,
    /// Of an event or a link.
    inner: Attributes,
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    hex: String,
    events: Vec<u8>,
    links: Vec<u8>,
}

#[derive(Debug, Default)]
struct Span<'a> {
    trace_state: Option<&'a str>,
    name: Option<&'a str>,
    kind: u64,
    start_nanos: u64,
    end_nanos: u64,
    flags: u64,
    dropped: [u64; 3],
    status: u64,
    status_message: Option<&'a str>,
}

impl<'a> Span<'a> {
    fn read(message: &'a [u8], scratch: &mut Scratch) -> Result<Self, Reject> {
        let mut span = Self::default();
        scratch.attributes.clear();
        scratch.events.clear();
        scratch.links.clear();
        let Scratch { trace_id, span_id, parent_span_id, .. } = scratch;
        [trace_id, span_id, parent_span_id].into_iter().for_each(String::clear);
        for field in Fields::of(message) {
            let (number, value) = field?;
            match number {
                1 => _ = id::<16>(value.bytes(), &mut scratch.trace_id),
                2 => _ = id::<8>(value.bytes(), &mut scratch.span_id),
                3 => span.trace_state = stated(value.bytes())?,
                4 => _ = id::<8>(value.bytes(), &mut scratch.parent_span_id),
                5 => span.name = stated(value.bytes())?,
                6 => span.kind = value.number(),
                7 => span.start_nanos = value.number(),
                8 => span.end_nanos = value.number(),
                9 => scratch.attributes.add(value.bytes())?,
                10 => span.dropped[0] = value.number(),
                11 => put_event(scratch, value.bytes())?,
                12 => span.dropped[1] = value.number(),
                13 => put_link(scratch, value.bytes())?,
                14 => span.dropped[2] = value.number(),
                15 => span.read_status(value.bytes())?,
                16 => span.flags = value.number(),
                _ => {}
            }
        }
        if scratch.trace_id.is_empty() || scratch.span_id.is_empty() {
            return Err(Reject::NoId);
        }
        Ok(span)
    }

    fn read_status(&mut self, message: &'a [u8]) -> Result<(), Reject> {
        for field in Fields::of(message) {
            match field? {
                (2, value) => self.status_message = stated(value.bytes())?,
                (3, value) => self.status = value.number(),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds an event to the array of a span's events.
fn put_event(scratch: &mut Scratch, message: &[u8]) -> Result<(), Reject> {
    let (mut nanos, mut name) = (0, "");
    scratch.inner.clear();
    for field in Fields::of(message) {
        match field? {
            (1, value) => nanos = value.number(),
            (2, value) => name = text(value.bytes())?,
            (3, value) => scratch.inner.add(value.bytes())?,
            _ => {}
        }
    }
    let out = &mut scratch.events;
    out.push(if out.is_empty() { b'[' } else { b',' });
    out.extend_from_slice(b"{\"time_unix_nano\":");
    put_display(out, nanos);
    put_named(out, "name", name);
    put_attributes(out, &mut scratch.inner);
    out.push(b'}');
    Ok(())
}

/// Adds a link to the array of a span's links.
fn put_link(scratch: &mut Scratch, message: &[u8]) -> Result<(), Reject> {
    let out = &mut scratch.links;
    out.push(if out.is_empty() { b'[' } else { b',' });
    scratch.inner.clear();
    out.extend_from_slice(b"{\"trace_id\":");
    let trace_id = Fields::of(message).flatten().find(|(number, _)| *number == 1);
    let is_known = trace_id.is_some_and(|(_, value)| id::<16>(value.bytes(), &mut scratch.hex));
    put_string(out, if is_known { &scratch.hex } else { "" });
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            2 if id::<8>(value.bytes(), &mut scratch.hex) => put_named(out, "span_id", &scratch.hex),
            3 if !value.bytes().is_empty() => put_named(out, "trace_state", text(value.bytes())?),
            4 => scratch.inner.add(value.bytes())?,
            _ => {}
        }
    }
    put_attributes(out, &mut scratch.inner);
    out.push(b'}');
    Ok(())
}

fn put_attributes(out: &mut Vec<u8>, attributes: &mut Attributes) {
    if let Some(object) = attributes.close() {
        out.extend_from_slice(b",\"attributes\":");
        out.extend_from_slice(object.as_bytes());
    }
}

/// Closes an array that was opened by its first element.
fn close(array: &mut Vec<u8>) -> Option<&str> {
    if array.is_empty() {
        return None;
    }
    array.push(b']');
    std::str::from_utf8(array).ok()
}

fn named<const NAMES: usize>(names: [&'static str; NAMES], number: u64) -> Option<&'static str> {
    usize::try_from(number).ok().and_then(|number| names.get(number).copied())
}

impl Records for Traces {
    fn take<E: From<OtlpError>>(&mut self, message: &[u8], output: &mut Output<'_, E>) -> Result<(), E> {
        let span = match Span::read(message, &mut self.scratch) {
            Ok(span) => span,
            Err(why) => return output.reject(1, why),
        };
        let scratch = &mut self.scratch;
        let start = micros(span.start_nanos).unwrap_or(output.observed_us);
        self.ts.push(start);
        self.trace_id.push(Some(&scratch.trace_id));
        self.span_id.push(Some(&scratch.span_id));
        self.parent_span_id.push(non_empty(&scratch.parent_span_id));
        self.name.push(span.name);
        self.kind.push(named(KINDS, span.kind));
        self.end_ts.push(micros(span.end_nanos).unwrap_or(start));
        let is_ended = span.end_nanos != 0 && span.start_nanos != 0;
        self.duration_ns.push(
            is_ended.then(|| span.end_nanos.cast_signed().wrapping_sub(span.start_nanos.cast_signed())),
        );
        self.status.push(named(STATUSES, span.status));
        self.status_message.push(span.status_message);
        let attributes = scratch.attributes.close();
        self.attributes.push(attributes);
        let (events, links) = (close(&mut scratch.events), close(&mut scratch.links));
        self.events.push(events);
        self.links.push(links);
        self.trace_state.push(span.trace_state);
        self.flags.push_stated(span.flags);
        self.dropped_attributes.push_stated(span.dropped[0]);
        self.dropped_events.push_stated(span.dropped[1]);
        self.dropped_links.push_stated(span.dropped[2]);
        self.start_nanos.push_stated(span.start_nanos);
        let texts = [attributes, events, links, span.name, span.status_message, span.trace_state];
        let text: usize = texts.into_iter().flatten().map(str::len).sum();
        output.row(self, text, message.len())
    }

    fn count(_: &[u8]) -> u64 {
        1
    }

    fn finish(&mut self, batch: &mut Finished) {
        batch.add("ts", &mut self.ts);
        batch.add("trace_id", &mut self.trace_id);
        batch.add("span_id", &mut self.span_id);
        batch.add("parent_span_id", &mut self.parent_span_id);
        batch.add("name", &mut self.name);
        batch.add("kind", &mut self.kind);
        batch.add("end_ts", &mut self.end_ts);
        batch.add("duration_ns", &mut self.duration_ns);
        batch.add("status", &mut self.status);
        batch.add("status_message", &mut self.status_message);
        batch.add("attributes", &mut self.attributes);
        batch.add("events", &mut self.events);
        batch.add("links", &mut self.links);
        batch.add("trace_state", &mut self.trace_state);
        batch.add("flags", &mut self.flags);
        batch.add("dropped_attributes_count", &mut self.dropped_attributes);
        batch.add("dropped_events_count", &mut self.dropped_events);
        batch.add("dropped_links_count", &mut self.dropped_links);
        batch.add("start_time_unix_nano", &mut self.start_nanos);
    }
}
