//! OTLP requests in JSON, written as protobuf while they are read: names are looked up in tables of the messages.
//!
//! Of the JSON form of protobuf: camel-case names, 64-bit numbers as texts or numbers, `null` for what is not stated. Of OTLP:
//! ids of traces and spans in hex instead of base64, enumerations as numbers, unknown names passed over.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::any::{base64_bytes, hex_bytes};
use super::{OtlpError, Signal};
use crate::wire::{put_bytes, put_tag, put_varint};

/// What a field holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    /// Bytes in hex digits.
    Hex,
    Base64,
    Bool,
    /// `uint32`, `uint64`, `int64` and enumerations: a varint.
    Varint,
    /// `sint32`.
    Zigzag,
    Fixed32,
    /// `fixed64`, `sfixed64`.
    Fixed64,
    Double,
    /// By a function, because messages hold each other.
    Message(fn() -> &'static [Field]),
}

/// A field: its name in JSON, its number, what it holds. A repeated one is an array of that.
type Field = (&'static str, u32, Kind);

use Kind::{Base64, Bool, Double, Fixed32, Fixed64, Hex, Message, Text, Varint, Zigzag};

const ANY: &[Field] = &[
    ("stringValue", 1, Text),
    ("boolValue", 2, Bool),
    ("intValue", 3, Varint),
    ("doubleValue", 4, Double),
    ("arrayValue", 5, Message(|| ARRAY)),
    ("kvlistValue", 6, Message(|| KEY_VALUES)),
    ("bytesValue", 7, Base64),
];
const ARRAY: &[Field] = &[("values", 1, Message(|| ANY))];
const KEY_VALUES: &[Field] = &[("values", 1, Message(|| KEY_VALUE))];
const KEY_VALUE: &[Field] = &[("key", 1, Text), ("value", 2, Message(|| ANY))];
const RESOURCE: &[Field] = &[("attributes", 1, Message(|| KEY_VALUE)), ("droppedAttributesCount", 2, Varint)];
const SCOPE: &[Field] = &[
    ("name", 1, Text),
    ("version", 2, Text),
    ("attributes", 3, Message(|| KEY_VALUE)),
    ("droppedAttributesCount", 4, Varint),
];

const LOGS: &[Field] = &[("resourceLogs", 1, Message(|| RESOURCE_LOGS))];
const RESOURCE_LOGS: &[Field] = &[
    ("resource", 1, Message(|| RESOURCE)),
    ("scopeLogs", 2, Message(|| SCOPE_LOGS)),
    ("schemaUrl", 3, Text),
];
const SCOPE_LOGS: &[Field] =
    &[("scope", 1, Message(|| SCOPE)), ("logRecords", 2, Message(|| LOG_RECORD)), ("schemaUrl", 3, Text)];
const LOG_RECORD: &[Field] = &[
    ("timeUnixNano", 1, Fixed64),
    ("severityNumber", 2, Varint),
    ("severityText", 3, Text),
    ("body", 5, Message(|| ANY)),
    ("attributes", 6, Message(|| KEY_VALUE)),
    ("droppedAttributesCount", 7, Varint),
    ("flags", 8, Fixed32),
    ("traceId", 9, Hex),
    ("spanId", 10, Hex),
    ("observedTimeUnixNano", 11, Fixed64),
    ("eventName", 12, Text),
];

const METRICS: &[Field] = &[("resourceMetrics", 1, Message(|| RESOURCE_METRICS))];
const RESOURCE_METRICS: &[Field] = &[
    ("resource", 1, Message(|| RESOURCE)),
    ("scopeMetrics", 2, Message(|| SCOPE_METRICS)),
    ("schemaUrl", 3, Text),
];
const SCOPE_METRICS: &[Field] =
    &[("scope", 1, Message(|| SCOPE)), ("metrics", 2, Message(|| METRIC)), ("schemaUrl", 3, Text)];
const METRIC: &[Field] = &[
    ("name", 1, Text),
    ("description", 2, Text),
    ("unit", 3, Text),
    ("gauge", 5, Message(|| GAUGE)),
    ("sum", 7, Message(|| SUM)),
    ("histogram", 9, Message(|| HISTOGRAM)),
    ("exponentialHistogram", 10, Message(|| EXPONENTIAL)),
    ("summary", 11, Message(|| SUMMARY)),
];
const GAUGE: &[Field] = &[("dataPoints", 1, Message(|| NUMBER_POINT))];
const SUM: &[Field] = &[
    ("dataPoints", 1, Message(|| NUMBER_POINT)),
    ("aggregationTemporality", 2, Varint),
    ("isMonotonic", 3, Bool),
];
const HISTOGRAM: &[Field] =
    &[("dataPoints", 1, Message(|| HISTOGRAM_POINT)), ("aggregationTemporality", 2, Varint)];
const EXPONENTIAL: &[Field] =
    &[("dataPoints", 1, Message(|| EXPONENTIAL_POINT)), ("aggregationTemporality", 2, Varint)];
const SUMMARY: &[Field] = &[("dataPoints", 1, Message(|| SUMMARY_POINT))];
const NUMBER_POINT: &[Field] = &[
    ("startTimeUnixNano", 2, Fixed64),
    ("timeUnixNano", 3, Fixed64),
    ("asDouble", 4, Double),
    ("exemplars", 5, Message(|| EXEMPLAR)),
    ("asInt", 6, Fixed64),
    ("attributes", 7, Message(|| KEY_VALUE)),
    ("flags", 8, Varint),
];
const HISTOGRAM_POINT: &[Field] = &[
    ("startTimeUnixNano", 2, Fixed64),
    ("timeUnixNano", 3, Fixed64),
    ("count", 4, Fixed64),
    ("sum", 5, Double),
    ("bucketCounts", 6, Fixed64),
    ("explicitBounds", 7, Double),
    ("exemplars", 8, Message(|| EXEMPLAR)),
    ("attributes", 9, Message(|| KEY_VALUE)),
    ("flags", 10, Varint),
    ("min", 11, Double),
    ("max", 12, Double),
];
const EXPONENTIAL_POINT: &[Field] = &[
    ("attributes", 1, Message(|| KEY_VALUE)),
    ("startTimeUnixNano", 2, Fixed64),
    ("timeUnixNano", 3, Fixed64),
    ("count", 4, Fixed64),
    ("sum", 5, Double),
    ("scale", 6, Zigzag),
    ("zeroCount", 7, Fixed64),
    ("positive", 8, Message(|| BUCKETS)),
    ("negative", 9, Message(|| BUCKETS)),
    ("flags", 10, Varint),
    ("exemplars", 11, Message(|| EXEMPLAR)),
    ("min", 12, Double),
    ("max", 13, Double),
    ("zeroThreshold", 14, Double),
];
const BUCKETS: &[Field] = &[("offset", 1, Zigzag), ("bucketCounts", 2, Varint)];
const SUMMARY_POINT: &[Field] = &[
    ("startTimeUnixNano", 2, Fixed64),
    ("timeUnixNano", 3, Fixed64),
    ("count", 4, Fixed64),
    ("sum", 5, Double),
    ("quantileValues", 6, Message(|| QUANTILE)),
    ("attributes", 7, Message(|| KEY_VALUE)),
    ("flags", 8, Varint),
];
const QUANTILE: &[Field] = &[("quantile", 1, Double), ("value", 2, Double)];
const EXEMPLAR: &[Field] = &[
    ("timeUnixNano", 2, Fixed64),
    ("asDouble", 3, Double),
    ("spanId", 4, Hex),
    ("traceId", 5, Hex),
    ("asInt", 6, Fixed64),
    ("filteredAttributes", 7, Message(|| KEY_VALUE)),
];

const TRACES: &[Field] = &[("resourceSpans", 1, Message(|| RESOURCE_SPANS))];
const RESOURCE_SPANS: &[Field] = &[
    ("resource", 1, Message(|| RESOURCE)),
    ("scopeSpans", 2, Message(|| SCOPE_SPANS)),
    ("schemaUrl", 3, Text),
];
const SCOPE_SPANS: &[Field] =
    &[("scope", 1, Message(|| SCOPE)), ("spans", 2, Message(|| SPAN)), ("schemaUrl", 3, Text)];
const SPAN: &[Field] = &[
    ("traceId", 1, Hex),
    ("spanId", 2, Hex),
    ("traceState", 3, Text),
    ("parentSpanId", 4, Hex),
    ("name", 5, Text),
    ("kind", 6, Varint),
    ("startTimeUnixNano", 7, Fixed64),
    ("endTimeUnixNano", 8, Fixed64),
    ("attributes", 9, Message(|| KEY_VALUE)),
    ("droppedAttributesCount", 10, Varint),
    ("events", 11, Message(|| EVENT)),
    ("droppedEventsCount", 12, Varint),
    ("links", 13, Message(|| LINK)),
    ("droppedLinksCount", 14, Varint),
    ("status", 15, Message(|| STATUS)),
    ("flags", 16, Fixed32),
];
const EVENT: &[Field] =
    &[("timeUnixNano", 1, Fixed64), ("name", 2, Text), ("attributes", 3, Message(|| KEY_VALUE))];
const LINK: &[Field] = &[
    ("traceId", 1, Hex),
    ("spanId", 2, Hex),
    ("traceState", 3, Text),
    ("attributes", 4, Message(|| KEY_VALUE)),
    ("flags", 6, Fixed32),
];
const STATUS: &[Field] = &[("message", 2, Text), ("code", 3, Varint)];

/// Writes a JSON request of a signal as protobuf, which [`super::decode`] takes.
pub fn json_to_protobuf(signal: Signal, json: &[u8]) -> Result<Vec<u8>, OtlpError> {
    let fields = match signal {
        Signal::Logs => LOGS,
        Signal::Metrics => METRICS,
        Signal::Traces => TRACES,
    };
    let mut out = Vec::with_capacity(json.len() / 2);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = MessageReader { fields, out: &mut out }.deserialize(&mut reader).and_then(|()| reader.end());
    read.map_err(OtlpError::Json)?;
    Ok(out)
}

/// Bytes of the length of a message that is not known yet: four groups of seven bits hold 256 MiB, more than any request.
const LENGTH_BYTES: usize = 4;

/// Reads an object as a message.
struct MessageReader<'o> {
    fields: &'static [Field],
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for MessageReader<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MessageReader<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match self.fields.iter().find(|(known, ..)| *known == name) {
                Some((_, number, kind)) => {
                    map.next_value_seed(FieldReader { number: *number, kind: *kind, out: self.out })?;
                }
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// Reads the value of a field, or each value of an array.
struct FieldReader<'o> {
    number: u32,
    kind: Kind,
    out: &'o mut Vec<u8>,
}

impl FieldReader<'_> {
    fn put_number<E: Error>(self, number: i128) -> Result<(), E> {
        let wide = || u64::try_from(number).or_else(|_| i64::try_from(number).map(i64::cast_unsigned));
        let wide = wide().map_err(|_| E::custom(format!("{number} has more than 64 bits")))?;
        match self.kind {
            Varint | Bool => {
                put_tag(self.out, self.number, 0);
                put_varint(self.out, wide);
            }
            Zigzag => {
                let signed = wide.cast_signed();
                put_tag(self.out, self.number, 0);
                put_varint(self.out, (signed << 1 ^ signed >> 63).cast_unsigned());
            }
            Fixed32 => {
                let narrow =
                    u32::try_from(wide).map_err(|_| E::custom(format!("{wide} has more than 32 bits")))?;
                put_tag(self.out, self.number, 5);
                self.out.extend_from_slice(&narrow.to_le_bytes());
            }
            Fixed64 => {
                put_tag(self.out, self.number, 1);
                self.out.extend_from_slice(&wide.to_le_bytes());
            }
            Double => self.put_double(number as f64),
            Text | Hex | Base64 | Message(_) => {
                return Err(E::custom("a number where there is none in OTLP"));
            }
        }
        Ok(())
    }

    fn put_double(self, number: f64) {
        put_tag(self.out, self.number, 1);
        self.out.extend_from_slice(&number.to_bits().to_le_bytes());
    }
}

impl<'de> DeserializeSeed<'de> for FieldReader<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldReader<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.kind {
            Message(_) => "an object",
            Text => "a text",
            Hex => "hex digits",
            Base64 => "base64",
            Bool => "true or false",
            Varint | Zigzag | Fixed32 | Fixed64 | Double => "a number",
        })
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<(), E> {
        match self.kind {
            Bool => self.put_number(i128::from(truth)),
            _ => Err(E::custom("true or false where there is none in OTLP")),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.put_number(i128::from(number))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.put_number(i128::from(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        match self.kind {
            Double => {
                self.put_double(number);
                Ok(())
            }
            // JavaScript writes some whole numbers with an exponent.
            _ if number.fract() == 0.0 && number.abs() < 2f64.powi(63) => self.put_number(number as i128),
            _ => Err(E::custom(format!("{number} where a whole number stands in OTLP"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let decoded = |bytes: Option<Vec<u8>>, form: &str| {
            bytes.ok_or_else(|| E::custom(format!("a text that is not {form}")))
        };
        match self.kind {
            Text => put_bytes(self.out, self.number, text.as_bytes()),
            Hex => put_bytes(self.out, self.number, &decoded(hex_bytes(text), "hex digits")?),
            Base64 => put_bytes(self.out, self.number, &decoded(base64_bytes(text), "base64")?),
            Double => {
                let number = text.parse().map_err(|_| E::custom("a text that is no number"))?;
                self.put_double(number);
            }
            Varint | Zigzag | Fixed32 | Fixed64 => {
                return self
                    .put_number(text.parse().map_err(|_| E::custom("a text that is no whole number"))?);
            }
            Bool | Message(_) => return Err(E::custom("a text where there is none in OTLP")),
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        loop {
            let element = FieldReader { number: self.number, kind: self.kind, out: &mut *self.out };
            if elements.next_element_seed(element)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let Message(fields) = self.kind else {
            return Err(A::Error::custom("an object where there is none in OTLP"));
        };
        put_tag(self.out, self.number, 2);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; LENGTH_BYTES]);
        MessageReader { fields: fields(), out: &mut *self.out }.visit_map(map)?;
        let length = self.out.len() - at - LENGTH_BYTES;
        if length >> (7 * LENGTH_BYTES) != 0 {
            return Err(A::Error::custom("a message of more than 256 MiB"));
        }
        for (group, byte) in self.out[at..at + LENGTH_BYTES].iter_mut().enumerate() {
            let more = if group + 1 < LENGTH_BYTES { 0x80 } else { 0 };
            *byte = (length >> (7 * group) & 0x7f) as u8 | more;
        }
        Ok(())
    }
}
