//! Texts as fields, and everything else as text.

use aap_columns::value::{self, Form};
use arrow_array::{Array, StringArray};

use super::Held;
use super::field::{Field, fixed, measured, variable};

/// The version that `jsonb` begins with.
const JSONB: u8 = 1;

/// Texts, into whatever can be written as one.
pub(super) fn text(values: &StringArray, held: Held) -> Option<Field<'_>> {
    Some(match held {
        Held::Text(longest) => {
            if longest.is_none() && !has_nul(values) {
                return Some(plain(values));
            }
            plain(values).faulty(move |row| unfit(values.value(row), longest))
        }
        Held::Label | Held::Json => plain(values).faulty(move |row| unfit(values.value(row), None)),
        Held::Jsonb => jsonb(values).faulty(move |row| unfit(values.value(row), None)),
        Held::Uuid => Field::new(values, move |row, out| {
            fixed(uuid(values.value(row)).unwrap_or_default().to_be_bytes(), out);
        })
        .faulty(move |row| match uuid(values.value(row)) {
            Some(_) => None,
            None => Some("the text is no UUID".to_owned()),
        }),
        _ => return None,
    })
}

fn plain(values: &StringArray) -> Field<'_> {
    Field::new(values, move |row, out| variable(values.value(row).as_bytes(), out))
}

fn jsonb(values: &StringArray) -> Field<'_> {
    Field::new(values, move |row, out| {
        measured(out, |out| {
            out.push(JSONB);
            out.extend_from_slice(values.value(row).as_bytes());
        });
    })
}

/// Whether any text contains NUL: one look at all of them is much cheaper than one at each.
fn has_nul(values: &StringArray) -> bool {
    let offsets = values.value_offsets();
    let (start, end) = (offsets[0] as usize, offsets[values.len()] as usize);
    memchr::memchr(0, &values.value_data()[start..end]).is_some()
}

fn unfit(text: &str, longest: Option<u32>) -> Option<String> {
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Some("the text contains NUL, which PostgreSQL cannot store".to_owned());
    }
    let longest = longest? as usize;
    // Characters are at most as many as bytes.
    let too_long = text.len() > longest && text.chars().count() > longest;
    too_long.then(|| format!("the text is longer than {longest} characters"))
}

/// 32 hexadecimal digits, wherever the hyphens are.
fn uuid(text: &str) -> Option<u128> {
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(text);
    let mut value = 0_u128;
    let mut digits = 0;
    for byte in inner.bytes().filter(|byte| *byte != b'-') {
        value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
        digits += 1;
    }
    (digits == 32).then_some(value)
}

/// Values of any type as text.
pub(super) fn shown(array: &dyn Array, longest: Option<u32>) -> Field<'_> {
    let texts = formatted(array, Form::Plain);
    let values = texts.clone();
    let field = Field::new(array, move |row, out| variable(values.value(row).as_bytes(), out));
    match longest {
        None => field,
        Some(_) => field.faulty(move |row| unfit(texts.value(row), longest)),
    }
}

/// Values of any type but text as JSON.
pub(super) fn json(array: &dyn Array, held: Held) -> Field<'_> {
    let texts = formatted(array, Form::Json);
    Field::new(array, move |row, out| {
        measured(out, |out| {
            if held == Held::Jsonb {
                out.push(JSONB);
            }
            out.extend_from_slice(texts.value(row).as_bytes());
        });
    })
}

/// A whole column at once, since the writers of values stay in their thread. NULL becomes an empty text, which nobody reads.
fn formatted(array: &dyn Array, form: Form) -> StringArray {
    let write = value::writer(array, form);
    let mut text = vec![];
    let texts = (0..array.len()).map(|row| {
        text.clear();
        if !array.is_null(row) {
            write(row, &mut text);
        }
        Some(String::from_utf8_lossy(&text).into_owned())
    });
    texts.collect()
}
