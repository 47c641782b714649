//! Metrics: a row a data point, of every type in the same columns, so that one statement reaches all of them.

use super::OtlpError;
use super::any::{Attributes, id, stated};
use super::request::{Output, Records, Reject, message, messages, micros};
use crate::builders::{Doubles, Finished, Integers, Texts, Times, Truths, Words};
use crate::put::{List, put_display, put_double, put_named, put_string};
use crate::wire::{Fields, Value, each_fixed64, each_varint};

/// Bit of `flags`: the point says that there is no value.
const NO_RECORDED_VALUE: u64 = 1;

#[derive(Debug, Default)]
pub(super) struct Metrics {
    ts: Times,
    metric: Words,
    value: Doubles,
    unit: Words,
    attributes: Texts,
    kind: Words,
    value_int: Integers,
    temporality: Words,
    is_monotonic: Truths,
    count: Integers,
    sum: Doubles,
    min: Doubles,
    max: Doubles,
    bounds: Texts,
    bucket_counts: Texts,
    exponential: Texts,
    quantiles: Texts,
    exemplars: Texts,
    flags: Integers,
    description: Words,
    nanos: Integers,
    start_nanos: Integers,
    scratch: Scratch,
}

/// The JSON of a point before it is known to be good.
#[derive(Debug, Default)]
struct Scratch {
    attributes: Attributes,
    bounds: List,
    bucket_counts: List,
    exponential: List,
    quantiles: List,
    exemplars: List,
}

/// What all points of a metric share.
#[derive(Debug, Default, Clone, Copy)]
struct Metric<'a> {
    name: Option<&'a str>,
    description: Option<&'a str>,
    unit: Option<&'a str>,
    kind: Kind,
    temporality: Option<&'static str>,
    is_monotonic: Option<bool>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[default]
    Gauge,
    Sum,
    Histogram,
    Exponential,
    Summary,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            5 => Self::Gauge,
            7 => Self::Sum,
            9 => Self::Histogram,
            10 => Self::Exponential,
            11 => Self::Summary,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Sum => "sum",
            Self::Histogram => "histogram",
            Self::Exponential => "exponential_histogram",
            Self::Summary => "summary",
        }
    }
}

/// The numbers of a point.
#[derive(Debug, Default)]
struct Point {
    nanos: u64,
    start_nanos: u64,
    value: Option<f64>,
    value_int: Option<i64>,
    count: Option<i64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    flags: u64,
}

impl<'a> Metric<'a> {
    /// Reads what stands beside the data, and the data.
    fn read(record: &'a [u8]) -> Result<(Self, &'a [u8]), Reject> {
        let mut metric = Self::default();
        let mut data = None;
        for field in Fields::of(record) {
            let (number, value) = field?;
            match number {
                1 => metric.name = stated(value.bytes())?,
                2 => metric.description = stated(value.bytes())?,
                3 => metric.unit = stated(value.bytes())?,
                other => {
                    if let Some(kind) = Kind::of(other) {
                        (metric.kind, data) = (kind, Some(value.bytes()));
                    }
                }
            }
        }
        let data = data.ok_or(Reject::NoPoints)?;
        for field in Fields::of(data) {
            match field? {
                (2, value) if metric.kind != Kind::Gauge => metric.temporality = temporality(value.number()),
                (3, value) if metric.kind == Kind::Sum => metric.is_monotonic = Some(value.number() != 0),
                _ => {}
            }
        }
        if metric.kind == Kind::Sum {
            metric.is_monotonic = metric.is_monotonic.or(Some(false));
        }
        Ok((metric, data))
    }
}

fn temporality(number: u64) -> Option<&'static str> {
    match number {
        1 => Some("delta"),
        2 => Some("cumulative"),
        _ => None,
    }
}

impl Point {
    fn read(kind: Kind, message: &[u8], scratch: &mut Scratch) -> Result<Self, Reject> {
        scratch.attributes.clear();
        for list in [
            &mut scratch.bounds,
            &mut scratch.bucket_counts,
            &mut scratch.exponential,
            &mut scratch.quantiles,
            &mut scratch.exemplars,
        ] {
            list.clear();
        }
        let mut point = Self::default();
        for field in Fields::of(message) {
            let (number, value) = field?;
            match (number, kind) {
                (2, _) => point.start_nanos = value.number(),
                (3, _) => point.nanos = value.number(),
                (_, Kind::Gauge | Kind::Sum) => point.number(number, value, scratch)?,
                (_, Kind::Histogram) => point.histogram(number, value, scratch)?,
                (_, Kind::Exponential) => point.exponential(number, value, scratch)?,
                (_, Kind::Summary) => point.summary(number, value, scratch)?,
            }
        }
        if kind == Kind::Exponential {
            put_exponential(message, scratch.exponential.whole())?;
        }
        if point.flags & NO_RECORDED_VALUE != 0 {
            (point.value, point.value_int) = (None, None);
        }
        Ok(point)
    }

    fn number(&mut self, number: u32, value: Value<'_>, scratch: &mut Scratch) -> Result<(), Reject> {
        match number {
            4 => (self.value, self.value_int) = (Some(value.double()), None),
            6 => (self.value, self.value_int) = (Some(value.signed() as f64), Some(value.signed())),
            5 => put_exemplar(scratch.exemplars.next(), value.bytes())?,
            7 => scratch.attributes.add(value.bytes())?,
            8 => self.flags = value.number(),
            _ => {}
        }
        Ok(())
    }

    fn histogram(&mut self, number: u32, value: Value<'_>, scratch: &mut Scratch) -> Result<(), Reject> {
        match number {
            4 => self.count = Some(saturated(value.number())),
            5 => self.sum = Some(value.double()),
            6 => each_fixed64(value, |count| put_display(scratch.bucket_counts.next(), count))?,
            7 => each_fixed64(value, |bound| put_double(scratch.bounds.next(), f64::from_bits(bound)))?,
            8 => put_exemplar(scratch.exemplars.next(), value.bytes())?,
            9 => scratch.attributes.add(value.bytes())?,
            10 => self.flags = value.number(),
            11 => self.min = Some(value.double()),
            12 => self.max = Some(value.double()),
            _ => {}
        }
        Ok(())
    }

    fn exponential(&mut self, number: u32, value: Value<'_>, scratch: &mut Scratch) -> Result<(), Reject> {
        match number {
            1 => scratch.attributes.add(value.bytes())?,
            4 => self.count = Some(saturated(value.number())),
            5 => self.sum = Some(value.double()),
            10 => self.flags = value.number(),
            11 => put_exemplar(scratch.exemplars.next(), value.bytes())?,
            12 => self.min = Some(value.double()),
            13 => self.max = Some(value.double()),
            _ => {}
        }
        Ok(())
    }

    fn summary(&mut self, number: u32, value: Value<'_>, scratch: &mut Scratch) -> Result<(), Reject> {
        match number {
            4 => self.count = Some(saturated(value.number())),
            5 => self.sum = Some(value.double()),
            6 => put_quantile(scratch.quantiles.next(), value.bytes())?,
            7 => scratch.attributes.add(value.bytes())?,
            8 => self.flags = value.number(),
            _ => {}
        }
        Ok(())
    }
}

fn saturated(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Scale, zero bucket and both ranges of buckets of an exponential histogram as an object.
fn put_exponential(point: &[u8], out: &mut Vec<u8>) -> Result<(), Reject> {
    let (mut scale, mut zero_count, mut zero_threshold) = (0, 0, 0.0);
    for field in Fields::of(point) {
        match field? {
            (6, value) => scale = value.zigzag(),
            (7, value) => zero_count = value.number(),
            (14, value) => zero_threshold = value.double(),
            _ => {}
        }
    }
    out.extend_from_slice(b"{\"scale\":");
    put_display(out, scale);
    out.extend_from_slice(b",\"zero_count\":");
    put_display(out, zero_count);
    out.extend_from_slice(b",\"zero_threshold\":");
    put_double(out, zero_threshold);
    for (name, number) in [("positive", 8), ("negative", 9)] {
        out.push(b',');
        put_string(out, name);
        out.push(b':');
        put_buckets(message(point, number)?, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn put_buckets(buckets: &[u8], out: &mut Vec<u8>) -> Result<(), Reject> {
    let (mut offset, mut counts) = (0, List::default());
    for field in Fields::of(buckets) {
        match field? {
            (1, value) => offset = value.zigzag(),
            (2, value) => each_varint(value, |count| put_display(counts.next(), count))?,
            _ => {}
        }
    }
    out.extend_from_slice(b"{\"offset\":");
    put_display(out, offset);
    out.extend_from_slice(b",\"counts\":");
    out.extend_from_slice(counts.close().unwrap_or("[]").as_bytes());
    out.push(b'}');
    Ok(())
}

/// `[quantile, value]`.
fn put_quantile(out: &mut Vec<u8>, message: &[u8]) -> Result<(), Reject> {
    let (mut quantile, mut value) = (0.0, 0.0);
    for field in Fields::of(message) {
        match field? {
            (1, number) => quantile = number.double(),
            (2, number) => value = number.double(),
            _ => {}
        }
    }
    out.push(b'[');
    put_double(out, quantile);
    out.push(b',');
    put_double(out, value);
    out.push(b']');
    Ok(())
}

/// An exemplar as an object, under the names of the protocol.
fn put_exemplar(out: &mut Vec<u8>, message: &[u8]) -> Result<(), Reject> {
    let mut attributes = Attributes::default();
    let mut hex = String::new();
    out.extend_from_slice(b"{\"time_unix_nano\":");
    let time = Fields::of(message).flatten().find(|(number, _)| *number == 2);
    put_display(out, time.map_or(0, |(_, value)| value.number()));
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            3 => {
                out.extend_from_slice(b",\"value\":");
                put_double(out, value.double());
            }
            6 => {
                out.extend_from_slice(b",\"value\":");
                put_display(out, value.signed());
            }
            4 if id::<8>(value.bytes(), &mut hex) => put_named(out, "span_id", &hex),
            5 if id::<16>(value.bytes(), &mut hex) => put_named(out, "trace_id", &hex),
            7 => attributes.add(value.bytes())?,
            _ => {}
        }
    }
    if let Some(object) = attributes.close() {
        out.extend_from_slice(b",\"attributes\":");
        out.extend_from_slice(object.as_bytes());
    }
    out.push(b'}');
    Ok(())
}

impl Records for Metrics {
    fn take<E: From<OtlpError>>(&mut self, record: &[u8], output: &mut Output<'_, E>) -> Result<(), E> {
        let (metric, data) = match Metric::read(record) {
            Ok(read) => read,
            Err(why) => return output.reject(Self::count(record).max(1), why),
        };
        for point in messages(data, 1) {
            let message = point.map_err(OtlpError::from)?;
            if output.is_spent() {
                output.reject(1, Reject::TooMuchText)?;
                continue;
            }
            match Point::read(metric.kind, message, &mut self.scratch) {
                Ok(point) => {
                    let text = self.push(&metric, &point, output.observed_us);
                    output.row(self, text, message.len())?;
                }
                Err(why) => output.reject(1, why)?,
            }
        }
        Ok(())
    }

    fn count(record: &[u8]) -> u64 {
        let data = Fields::of(record).flatten().filter(|(number, _)| Kind::of(*number).is_some()).last();
        data.map_or(0, |(_, data)| messages(data.bytes(), 1).count() as u64)
    }

    fn finish(&mut self, batch: &mut Finished) {
        batch.add("ts", &mut self.ts);
        batch.add("metric", &mut self.metric);
        batch.add("value", &mut self.value);
        batch.add("unit", &mut self.unit);
        batch.add("attributes", &mut self.attributes);
        batch.add("type", &mut self.kind);
        batch.add("value_int", &mut self.value_int);
        batch.add("temporality", &mut self.temporality);
        batch.add("is_monotonic", &mut self.is_monotonic);
        batch.add("count", &mut self.count);
        batch.add("sum", &mut self.sum);
        batch.add("min", &mut self.min);
        batch.add("max", &mut self.max);
        batch.add("bounds", &mut self.bounds);
        batch.add("bucket_counts", &mut self.bucket_counts);
        batch.add("exponential", &mut self.exponential);
        batch.add("quantiles", &mut self.quantiles);
        batch.add("exemplars", &mut self.exemplars);
        batch.add("flags", &mut self.flags);
        batch.add("description", &mut self.description);
        batch.add("time_unix_nano", &mut self.nanos);
        batch.add("start_time_unix_nano", &mut self.start_nanos);
    }
}

impl Metrics {
    /// Adds a point to the columns; returns the bytes of its texts.
    fn push(&mut self, metric: &Metric<'_>, point: &Point, observed_us: i64) -> usize {
        let scratch = &mut self.scratch;
        self.ts.push(micros(point.nanos).unwrap_or(observed_us));
        self.metric.push(metric.name);
        self.value.push(point.value);
        self.unit.push(metric.unit);
        self.kind.push(Some(metric.kind.name()));
        self.value_int.push(point.value_int);
        self.temporality.push(metric.temporality);
        self.is_monotonic.push(metric.is_monotonic);
        self.count.push(point.count);
        self.sum.push(point.sum);
        self.min.push(point.min);
        self.max.push(point.max);
        self.flags.push_stated(point.flags);
        self.description.push(metric.description);
        self.nanos.push_stated(point.nanos);
        self.start_nanos.push_stated(point.start_nanos);
        let attributes = scratch.attributes.close();
        self.attributes.push(attributes);
        let mut text = attributes.map_or(0, str::len)
            + metric.name.map_or(0, str::len)
            + metric.description.map_or(0, str::len);
        for (column, list) in [
            (&mut self.bounds, &mut scratch.bounds),
            (&mut self.bucket_counts, &mut scratch.bucket_counts),
            (&mut self.exponential, &mut scratch.exponential),
            (&mut self.quantiles, &mut scratch.quantiles),
            (&mut self.exemplars, &mut scratch.exemplars),
        ] {
            let json = list.close();
            text += json.map_or(0, str::len);
            column.push(json);
        }
        text
    }
}
