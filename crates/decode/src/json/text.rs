//! JSON strings: their end, their escapes.

use super::fault::Fault;
use crate::scan;

/// Reads the rest of a string from `at`, after its opening quote (or anywhere outside an escape), handing its decoded pieces to
/// `sink`; returns the byte after the closing quote.
pub(crate) fn string(bytes: &[u8], mut at: usize, mut sink: impl FnMut(&[u8])) -> Result<usize, Fault> {
    loop {
        let end = scan::string_end(bytes, at);
        sink(&bytes[at..end]);
        match bytes.get(end) {
            Some(b'"') => return Ok(end + 1),
            Some(b'\\') => at = escape(bytes, end, &mut sink)?,
            Some(_) => return Err(Fault::syntax(end, "control character or line end in a string")),
            None => return Err(Fault::syntax(end, "string without an end")),
        }
    }
}

/// Decodes the escape whose backslash stands at `at`; returns the byte after it.
pub(crate) fn escape(bytes: &[u8], at: usize, sink: &mut impl FnMut(&[u8])) -> Result<usize, Fault> {
    let plain: &[u8] = match bytes.get(at + 1) {
        Some(b'"') => b"\"",
        Some(b'\\') => b"\\",
        Some(b'/') => b"/",
        Some(b'b') => b"\x08",
        Some(b'f') => b"\x0c",
        Some(b'n') => b"\n",
        Some(b'r') => b"\r",
        Some(b't') => b"\t",
        Some(b'u') => return unicode(bytes, at, sink),
        _ => return Err(Fault::syntax(at, "unknown escape")),
    };
    sink(plain);
    Ok(at + 2)
}

fn unicode(bytes: &[u8], at: usize, sink: &mut impl FnMut(&[u8])) -> Result<usize, Fault> {
    let first = hex(bytes, at + 2)?;
    let (code, end) = match first {
        0xd800..=0xdbff => {
            if bytes.get(at + 6..at + 8) != Some(b"\\u") {
                return Err(Fault::syntax(at, "lone surrogate"));
            }
            let second = hex(bytes, at + 8)?;
            if !(0xdc00..=0xdfff).contains(&second) {
                return Err(Fault::syntax(at, "lone surrogate"));
            }
            (0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00), at + 12)
        }
        code => (code, at + 6),
    };
    let character = char::from_u32(code).ok_or(Fault::syntax(at, "lone surrogate"))?;
    sink(character.encode_utf8(&mut [0; 4]).as_bytes());
    Ok(end)
}

fn hex(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    let digits = bytes.get(at..at + 4).ok_or(Fault::syntax(at, "escape without an end"))?;
    digits.iter().try_fold(0, |sum, &byte| {
        let digit = (byte as char).to_digit(16).ok_or(Fault::syntax(at, "escape without four hex digits"))?;
        Ok(sum * 16 + digit)
    })
}
