//! Passing over a value strictly, without a tree and without recursion.

use super::fault::{Cause, Fault};
use super::number::number;
use super::text::string;
use crate::DEPTH_MAX;

/// The first byte at or after `at` that is not white space; a line end counts as such only where records span lines.
#[inline(always)]
pub(crate) fn space<const MULTILINE: bool>(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        if byte > b' ' {
            break;
        }
        let is_space = matches!(byte, b' ' | b'\t' | b'\r') || (MULTILINE && byte == b'\n');
        if !is_space {
            break;
        }
        at += 1;
    }
    at
}

/// Checks the value that begins at `at` against the grammar; returns the byte after it. One bit a level says object or array.
pub(crate) fn value<const MULTILINE: bool>(bytes: &[u8], mut at: usize) -> Result<usize, Fault> {
    let (mut depth, mut is_object) = (0u32, 0u64);
    loop {
        // A value begins at `at`.
        if let Some(&open @ (b'{' | b'[')) = bytes.get(at) {
            if depth == DEPTH_MAX {
                return Err(Fault { at, cause: Cause::TooDeep });
            }
            let object = open == b'{';
            at = space::<MULTILINE>(bytes, at + 1);
            if bytes.get(at) != Some(if object { &b'}' } else { &b']' }) {
                (depth, is_object) = (depth + 1, is_object << 1 | u64::from(object));
                if object {
                    at = field::<MULTILINE>(bytes, at)?;
                }
                continue;
            }
            at += 1;
        } else {
            at = scalar(bytes, at)?;
        }
        // A value ended before `at`: close what closes here, up to the next value or the end.
        loop {
            if depth == 0 {
                return Ok(at);
            }
            at = space::<MULTILINE>(bytes, at);
            let in_object = is_object & 1 == 1;
            match bytes.get(at) {
                Some(b',') => {
                    at = space::<MULTILINE>(bytes, at + 1);
                    if in_object {
                        at = field::<MULTILINE>(bytes, at)?;
                    }
                    break;
                }
                Some(b'}') if in_object => {}
                Some(b']') if !in_object => {}
                _ => return Err(Fault::syntax(at, "no comma or closing bracket after a value")),
            }
            (at, depth, is_object) = (at + 1, depth - 1, is_object >> 1);
        }
    }
}

/// Passes a field's name and colon; returns where its value begins.
fn field<const MULTILINE: bool>(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    if bytes.get(at) != Some(&b'"') {
        return Err(Fault::syntax(at, "no field name where one must stand"));
    }
    let end = string(bytes, at + 1, |_| {})?;
    colon::<MULTILINE>(bytes, end)
}

/// Passes the colon after a field's name; returns where its value begins.
#[inline(always)]
pub(crate) fn colon<const MULTILINE: bool>(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    let at = space::<MULTILINE>(bytes, at);
    if bytes.get(at) != Some(&b':') {
        return Err(Fault::syntax(at, "no colon after a field name"));
    }
    Ok(space::<MULTILINE>(bytes, at + 1))
}

fn scalar(bytes: &[u8], at: usize) -> Result<usize, Fault> {
    match bytes.get(at) {
        Some(b'"') => string(bytes, at + 1, |_| {}),
        Some(b'-' | b'0'..=b'9') => number(bytes, at).map(|(_, end)| end),
        Some(b't') => literal(bytes, at, b"true"),
        Some(b'f') => literal(bytes, at, b"false"),
        Some(b'n') => literal(bytes, at, b"null"),
        Some(_) => Err(Fault::syntax(at, "no value where one must stand")),
        None => Err(Fault::syntax(at, "ends in the middle")),
    }
}

/// Passes a word that must stand at `at`.
#[inline(always)]
pub(crate) fn literal(bytes: &[u8], at: usize, word: &'static [u8]) -> Result<usize, Fault> {
    let end = at + word.len();
    if bytes.get(at..end) != Some(word) {
        return Err(Fault::syntax(at, "no value where one must stand"));
    }
    Ok(end)
}
