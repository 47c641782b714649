//! The protobuf wire format, read field by field without making messages: what is wanted goes straight into columns.
//!
//! A message is a sequence of `(number, value)`; unknown fields are passed over, as protobuf demands of a reader.

/// The bytes are not a protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct WireError {
    /// What is wrong.
    pub what: &'static str,
}

const CUT: WireError = WireError { what: "a field goes beyond the end of its message" };

/// One value as it stands on the wire; what it means is the schema's business.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// A message, a text, bytes, or packed numbers; empty where the field is of another type, as a reader of protobuf treats it.
    pub(crate) fn bytes(self) -> &'a [u8] {
        if let Self::Bytes(bytes) = self { bytes } else { &[] }
    }

    /// A number of any width.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Varint(number) | Self::Fixed64(number) => number,
            Self::Fixed32(number) => u64::from(number),
            Self::Bytes(_) => 0,
        }
    }

    /// An `int64`, `int32` or `sfixed64`.
    pub(crate) fn signed(self) -> i64 {
        self.number().cast_signed()
    }

    /// A `sint32` or `sint64`: zigzag.
    pub(crate) fn zigzag(self) -> i64 {
        let number = self.number();
        (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
    }

    /// A `double`.
    pub(crate) fn double(self) -> f64 {
        f64::from_bits(self.number())
    }
}

/// The fields of one message, in the order in which they were written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { CUT } else { WireError { what: "a number of more than ten bytes" } })
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| CUT)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let tag = self.varint()?;
        let number =
            u32::try_from(tag >> 3).map_err(|_| WireError { what: "a field number beyond 32 bits" })?;
        let value = match tag & 7 {
            _ if number == 0 => return Err(WireError { what: "a field without a number" }),
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.take(8)?.try_into().map_or(0, u64::from_le_bytes)),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().map_or(0, u32::from_le_bytes)),
            _ => return Err(WireError { what: "a field of a type that is not in use" }),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    /// After an error there is nothing more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The numbers of a repeated field of fixed 64 bits, packed or one by one.
pub(crate) fn each_fixed64(value: Value<'_>, mut take: impl FnMut(u64)) -> Result<(), WireError> {
    let Value::Bytes(packed) = value else {
        take(value.number());
        return Ok(());
    };
    let (numbers, rest) = packed.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(CUT);
    }
    numbers.iter().for_each(|number| take(u64::from_le_bytes(*number)));
    Ok(())
}

/// The numbers of a repeated field of varints, packed or one by one.
pub(crate) fn each_varint(value: Value<'_>, mut take: impl FnMut(u64)) -> Result<(), WireError> {
    let Value::Bytes(packed) = value else {
        take(value.number());
        return Ok(());
    };
    let mut numbers = Fields::of(packed);
    while !numbers.rest.is_empty() {
        take(numbers.varint()?);
    }
    Ok(())
}

/// Appends a varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends the beginning of a field: its number, and 0 for varints, 1 for 64 bits, 2 for bytes, 5 for 32 bits.
pub(crate) fn put_tag(out: &mut Vec<u8>, number: u32, wire_type: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// Appends a field of bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_tag(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_of_every_type_are_read() {
        let mut message = Vec::new();
        put_tag(&mut message, 1, 0);
        put_varint(&mut message, 300);
        put_bytes(&mut message, 2, b"text");
        put_tag(&mut message, 3, 1);
        message.extend_from_slice(&1.5f64.to_le_bytes());
        put_tag(&mut message, 4, 5);
        message.extend_from_slice(&7u32.to_le_bytes());
        let fields: Vec<_> = Fields::of(&message).collect::<Result<_, _>>().unwrap();
        assert_eq!(fields[0], (1, Value::Varint(300)));
        assert_eq!(fields[1], (2, Value::Bytes(b"text")));
        assert_eq!(fields[2].1.double(), 1.5);
        assert_eq!(fields[3], (4, Value::Fixed32(7)));
        for cut in 1..message.len() {
            // Wherever it breaks off, that is an error or the end of a field, never a panic.
            Fields::of(&message[..cut]).for_each(drop);
        }
        assert_eq!(Value::Varint(3).zigzag(), -2);
        assert!(Fields::of(&[0x0b]).any(|field| field.is_err()), "groups are not in use");
    }

    proptest! {
        #[test]
        fn numbers_come_back_as_they_were_written(number: u64, garbage: Vec<u8>) {
            let mut message = Vec::new();
            put_tag(&mut message, 9, 0);
            put_varint(&mut message, number);
            prop_assert_eq!(Fields::of(&message).next(), Some(Ok((9, Value::Varint(number)))));
            Fields::of(&garbage).for_each(drop);
        }
    }
}
