//! Values of attributes and bodies as JSON text, written into a buffer that is used again for the next record.

use super::request::Reject;
use crate::DEPTH_MAX;
use crate::put::{put_display, put_double, put_string};
use crate::wire::{Fields, Value};

/// A text, which must be UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Reject> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Reject::NotUtf8)
}

/// A text that is left out where it is empty: protobuf does not tell the two apart.
pub(super) fn stated(bytes: &[u8]) -> Result<Option<&str>, Reject> {
    if bytes.is_empty() { Ok(None) } else { text(bytes).map(Some) }
}

/// A `KeyValue`: its parts.
fn key_value(message: &[u8]) -> Result<(&str, &[u8]), Reject> {
    let (mut key, mut value) = ("", &[][..]);
    for field in Fields::of(message) {
        match field? {
            (1, name) => key = text(name.bytes())?,
            (2, any) => value = any.bytes(),
            _ => {}
        }
    }
    Ok((key, value))
}

/// The text of the attribute `name` among those of a resource: `service.name`, say.
pub(super) fn attribute<'a>(message: &'a [u8], number: u32, name: &str) -> Result<Option<&'a str>, Reject> {
    for field in Fields::of(message) {
        let (found, value) = field?;
        if found != number {
            continue;
        }
        let (key, any) = key_value(value.bytes())?;
        if key == name {
            let string = Fields::of(any).find_map(|field| field.ok().filter(|(number, _)| *number == 1));
            return string.map(|(_, value)| text(value.bytes())).transpose();
        }
    }
    Ok(None)
}

/// Attributes as they come, one field each: an object that is opened by the first and closed by [`Self::close`].
#[derive(Debug, Default)]
pub(super) struct Attributes {
    json: Vec<u8>,
}

impl Attributes {
    pub(super) fn clear(&mut self) {
        self.json.clear();
    }

    /// Adds a `KeyValue`.
    pub(super) fn add(&mut self, message: &[u8]) -> Result<(), Reject> {
        self.json.push(if self.json.is_empty() { b'{' } else { b',' });
        put_key_value(&mut self.json, message, 1)
    }

    /// The object; `None` if there are no attributes.
    pub(super) fn close(&mut self) -> Option<&str> {
        if self.json.is_empty() {
            return None;
        }
        self.json.push(b'}');
        std::str::from_utf8(&self.json).ok()
    }
}

/// The attributes that stand in the fields `number` of a message.
pub(super) fn attributes(message: &[u8], number: u32, out: &mut Attributes) -> Result<(), Reject> {
    out.clear();
    for field in Fields::of(message) {
        let (found, value) = field?;
        if found == number {
            out.add(value.bytes())?;
        }
    }
    Ok(())
}

fn put_key_value(out: &mut Vec<u8>, message: &[u8], depth: u32) -> Result<(), Reject> {
    let (key, value) = key_value(message)?;
    put_string(out, key);
    out.push(b':');
    put_any(out, value, depth)
}

/// Writes an `AnyValue` as JSON.
pub(super) fn put_any(out: &mut Vec<u8>, message: &[u8], depth: u32) -> Result<(), Reject> {
    if depth > DEPTH_MAX {
        return Err(Reject::TooDeep);
    }
    // One of several fields: the last one stands, as protobuf says.
    let mut last = None;
    for field in Fields::of(message) {
        last = Some(field?);
    }
    match last {
        Some((1, value)) => put_string(out, text(value.bytes())?),
        Some((2, value)) => out.extend_from_slice(if value.number() == 0 { b"false" } else { b"true" }),
        Some((3, value)) => put_display(out, value.signed()),
        Some((4, value)) => put_double(out, value.double()),
        Some((5, value)) => {
            put_list(out, value.bytes(), b"[]", |out, element| put_any(out, element, depth + 1))?
        }
        Some((6, value)) => {
            put_list(out, value.bytes(), b"{}", |out, element| put_key_value(out, element, depth + 1))?;
        }
        Some((7, value)) => put_base64(out, value.bytes()),
        _ => out.extend_from_slice(b"null"),
    }
    Ok(())
}

/// Writes the elements of an `ArrayValue` or a `KeyValueList` between two brackets.
fn put_list(
    out: &mut Vec<u8>,
    message: &[u8],
    brackets: &[u8; 2],
    put: impl Fn(&mut Vec<u8>, &[u8]) -> Result<(), Reject>,
) -> Result<(), Reject> {
    out.push(brackets[0]);
    let mut is_first = true;
    for field in Fields::of(message) {
        let (1, Value::Bytes(element)) = field? else { continue };
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        put(out, element)?;
    }
    out.push(brackets[1]);
    Ok(())
}

/// The body of a log record: a text as it is, anything else as JSON.
pub(super) fn put_body(out: &mut Vec<u8>, message: &[u8]) -> Result<(), Reject> {
    match Fields::of(message).last() {
        Some(Ok((1, value))) => {
            out.extend_from_slice(text(value.bytes())?.as_bytes());
            Ok(())
        }
        _ => put_any(out, message, 1),
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Writes bytes as a JSON text in base64, as protobuf's JSON form does.
fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            out.push(match digit <= chunk.len() {
                true => BASE64[(word >> (18 - 6 * digit) & 63) as usize],
                false => b'=',
            });
        }
    }
    out.push(b'"');
}

/// The bytes of a text in base64, with or without padding, of either alphabet.
pub(super) fn base64_bytes(text: &str) -> Option<Vec<u8>> {
    let (mut out, mut word, mut bits) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let byte = match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        };
        let digit = BASE64.iter().position(|digit| *digit == byte)?;
        word = word << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

/// The bytes of an id in hex digits.
pub(super) fn hex_bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

/// An id as hex digits; `None` unless it has `BYTES` bytes that are not all zero.
pub(super) fn id<const BYTES: usize>(bytes: &[u8], hex: &mut String) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    hex.clear();
    if bytes.len() != BYTES || bytes.iter().all(|byte| *byte == 0) {
        return false;
    }
    for byte in bytes {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    true
}
