//! Line ends inside of a record: taken out while its format sees one line, and put back into what was decoded.
//!
//! A record that holds the stand-in itself gets a line end for it: a record separator (U+001E) in text of several lines.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_buffer::Buffer as ArrowBuffer;
use memchr::memchr;
use memchr::memmem::find;

/// Stands for a line end inside a record of several lines until the record is decoded, where the format keeps them.
pub(crate) const INNER_LINE_END: u8 = 0x1e;

/// How JSON writes the stand-in, and what it writes for a line end.
const IN_JSON: (&str, &str) = ("\\u001e", "\\n");

/// The same rows with the line ends back in their texts.
pub(crate) fn restore(batch: RecordBatch) -> RecordBatch {
    let columns: Vec<ArrayRef> = batch.columns().iter().map(restored).collect();
    RecordBatch::try_new(batch.schema(), columns).unwrap_or(batch)
}

fn restored(column: &ArrayRef) -> ArrayRef {
    let Some(texts) = column.as_string_opt::<i32>() else { return column.clone() };
    if find(texts.values(), IN_JSON.0.as_bytes()).is_some() {
        let restored = texts.iter().map(|text| text.map(|text| in_json(&in_text(text))));
        return Arc::new(restored.collect::<StringArray>());
    }
    if memchr(INNER_LINE_END, texts.values()).is_none() {
        return column.clone();
    }
    // Same length, so the offsets stay.
    let values: Vec<u8> =
        texts.values().iter().map(|byte| if *byte == INNER_LINE_END { b'\n' } else { *byte }).collect();
    let restored =
        StringArray::try_new(texts.offsets().clone(), ArrowBuffer::from(values), texts.nulls().cloned());
    restored.map_or_else(|_| column.clone(), |texts| Arc::new(texts))
}

fn in_text(text: &str) -> String {
    text.replace(char::from(INNER_LINE_END), "\n")
}

/// Texts inside of a JSON object: the attributes. What follows an escaped backslash only looks like the stand-in.
fn in_json(text: &str) -> String {
    if !text.starts_with('{') {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix(IN_JSON.0) {
            out.push_str(IN_JSON.1);
            rest = after;
        } else {
            let end = rest.char_indices().nth(2).map_or(rest.len(), |(end, _)| end);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_come_back_into_texts_and_into_texts_inside_of_json() {
        for (decoded, text) in [
            (vec!["plain", ""], vec!["plain", ""]),
            (vec!["one\u{1e}two", "\u{1e}"], vec!["one\ntwo", "\n"]),
            (vec![r#"{"k":"a\u001eb\\u001e"}"#, "a\u{1e}b"], vec![r#"{"k":"a\nb\\u001e"}"#, "a\nb"]),
            (vec![r"no object: \u001e"], vec![r"no object: \u001e"]),
        ] {
            let column: ArrayRef = Arc::new(StringArray::from(decoded));
            let batch = RecordBatch::try_from_iter([("c", column)]).unwrap();
            let restored = restore(batch);
            let texts: Vec<&str> = restored.column(0).as_string::<i32>().iter().flatten().collect();
            assert_eq!(texts, text);
        }
    }
}
