//! Native histograms as JSON, under the names of the protocol: spans as `[offset, length]`, integer buckets as absolute counts.

use crate::put::{List, put_display, put_double, put_string};
use crate::wire::{Fields, Value, WireError, each_fixed64, each_varint};

/// One side of a histogram.
#[derive(Default)]
struct Side {
    spans: List,
    counts: List,
    /// Of integer buckets, which stand as differences.
    last: i64,
}

impl Side {
    fn span(&mut self, message: &[u8]) -> Result<(), WireError> {
        let (mut offset, mut length) = (0, 0);
        for field in Fields::of(message) {
            match field? {
                (1, value) => offset = value.zigzag(),
                (2, value) => length = value.number(),
                _ => {}
            }
        }
        let out = self.spans.next();
        out.push(b'[');
        put_display(out, offset);
        out.push(b',');
        put_display(out, length);
        out.push(b']');
        Ok(())
    }

    fn deltas(&mut self, value: Value<'_>) -> Result<(), WireError> {
        each_varint(value, |delta| {
            self.last = self.last.wrapping_add(Value::Varint(delta).zigzag());
            put_display(self.counts.next(), self.last);
        })
    }

    fn floats(&mut self, value: Value<'_>) -> Result<(), WireError> {
        each_fixed64(value, |count| put_double(self.counts.next(), f64::from_bits(count)))
    }

    fn put(mut self, out: &mut Vec<u8>, name: &str) {
        out.push(b',');
        put_string(out, name);
        out.extend_from_slice(b":{\"spans\":");
        out.extend_from_slice(self.spans.close().unwrap_or("[]").as_bytes());
        out.extend_from_slice(b",\"counts\":");
        out.extend_from_slice(self.counts.close().unwrap_or("[]").as_bytes());
        out.push(b'}');
    }
}

/// Writes a `Histogram`; returns its sum and its time in milliseconds.
pub(super) fn put_histogram(out: &mut Vec<u8>, message: &[u8]) -> Result<(f64, i64), WireError> {
    let (mut positive, mut negative, mut bounds) = (Side::default(), Side::default(), List::default());
    let (mut sum, mut time_ms, mut schema, mut threshold) = (0.0, 0, 0, 0.0);
    let (mut count, mut zero) = (Value::Varint(0), Value::Varint(0));
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 | 2 => count = value,
            3 => sum = value.double(),
            4 => schema = value.zigzag(),
            5 => threshold = value.double(),
            6 | 7 => zero = value,
            8 => negative.span(value.bytes())?,
            9 => negative.deltas(value)?,
            10 => negative.floats(value)?,
            11 => positive.span(value.bytes())?,
            12 => positive.deltas(value)?,
            13 => positive.floats(value)?,
            15 => time_ms = value.signed(),
            16 => each_fixed64(value, |bound| put_double(bounds.next(), f64::from_bits(bound)))?,
            _ => {}
        }
    }
    out.extend_from_slice(b"{\"schema\":");
    put_display(out, schema);
    for (name, value) in [("count", count), ("zero_count", zero)] {
        out.push(b',');
        put_string(out, name);
        out.push(b':');
        match value {
            Value::Fixed64(_) => put_double(out, value.double()),
            _ => put_display(out, value.number()),
        }
    }
    for (name, number) in [("sum", sum), ("zero_threshold", threshold)] {
        out.push(b',');
        put_string(out, name);
        out.push(b':');
        put_double(out, number);
    }
    positive.put(out, "positive");
    negative.put(out, "negative");
    if let Some(bounds) = bounds.close() {
        out.extend_from_slice(b",\"custom_bounds\":");
        out.extend_from_slice(bounds.as_bytes());
    }
    out.push(b'}');
    Ok((sum, time_ms))
}
