//! Writing JSON text, piece by piece, into buffers that are used again.

/// Writes a text with quotes and escapes.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing text into memory cannot fail");
}

/// Writes a number as JSON.
pub(crate) fn put_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    use std::io::Write;
    write!(out, "{value}").expect("writing into memory cannot fail");
}

/// Writes a double: the shortest form that reads back as the same; what JSON has no number for as text.
pub(crate) fn put_double(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        serde_json::to_writer(out, &value).expect("writing a number into memory cannot fail");
    } else {
        let name = if value.is_nan() {
            "\"NaN\""
        } else if value > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        };
        out.extend_from_slice(name.as_bytes());
    }
}

/// `,"name":"text"`.
pub(crate) fn put_named(out: &mut Vec<u8>, name: &str, text: &str) {
    out.push(b',');
    put_string(out, name);
    out.push(b':');
    put_string(out, text);
}

/// A JSON array that is opened by its first element. Its text is ours, so it is UTF-8.
#[derive(Debug, Default)]
pub(crate) struct List(Vec<u8>);

impl List {
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// For something else than an array.
    pub(crate) fn whole(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Where the next element is to be written.
    pub(crate) fn next(&mut self) -> &mut Vec<u8> {
        self.0.push(if self.0.is_empty() { b'[' } else { b',' });
        &mut self.0
    }

    /// The array; `None` if it has no elements.
    pub(crate) fn close(&mut self) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        if self.0[0] == b'[' {
            self.0.push(b']');
        }
        std::str::from_utf8(&self.0).ok()
    }
}
