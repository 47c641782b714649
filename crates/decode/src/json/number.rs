//! JSON numbers by hand, and by `std` where rounding is hard.

use super::fault::Fault;

/// A number as the column types see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    Integer(i64),
    Float(f64),
    /// Neither holds it without loss of size: an integer beyond 64 bits, a double beyond its range. Its text is kept.
    Beyond,
}

/// Powers of ten a double holds exactly: with a mantissa below 2^53, one multiplication or division rounds right.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Reads the number that begins at `start` with a digit or `-`; returns it and the byte after it.
#[inline(always)]
pub(crate) fn number(bytes: &[u8], start: usize) -> Result<(Number, usize), Fault> {
    let negative = bytes.get(start) == Some(&b'-');
    let first = start + usize::from(negative);
    let (mantissa, end) = digits(bytes, first, 0);
    let count = end - first;
    if count == 0 || (count > 1 && bytes[first] == b'0') {
        return Err(Fault::syntax(start, "number without digits or with a leading zero"));
    }
    if matches!(bytes.get(end), Some(b'.' | b'e' | b'E')) {
        return fraction(bytes, start, negative, mantissa, end);
    }
    // Eighteen digits always fit.
    if count <= 18 {
        let value = mantissa as i64;
        return Ok((Number::Integer(if negative { -value } else { value }), end));
    }
    Ok((
        text(bytes, start, end).and_then(|text| text.parse().ok()).map_or(Number::Beyond, Number::Integer),
        end,
    ))
}

#[inline(always)]
fn digits(bytes: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(digit) = bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (value, at)
}

#[inline]
fn fraction(
    bytes: &[u8],
    start: usize,
    negative: bool,
    whole: u64,
    whole_end: usize,
) -> Result<(Number, usize), Fault> {
    let (mut mantissa, mut end, mut scale) = (whole, whole_end, 0i32);
    if bytes[end] == b'.' {
        let (value, after) = digits(bytes, end + 1, whole);
        if after == end + 1 {
            return Err(Fault::syntax(end, "number without digits after its point"));
        }
        scale = -((after - end - 1).min(1 << 20) as i32);
        (mantissa, end) = (value, after);
    }
    let mantissa_end = end;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = bytes.get(end + 1).copied();
        let first = end + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
        let (exponent, after) = digits(bytes, first, 0);
        if after == first {
            return Err(Fault::syntax(end, "number without digits in its exponent"));
        }
        let exponent = if after - first > 4 { 1 << 20 } else { exponent as i32 };
        scale = scale.saturating_add(if sign == Some(b'-') { -exponent } else { exponent });
        end = after;
    }
    // At most nineteen digits cannot have overflowed the mantissa.
    let exact = mantissa_end - start <= 19 && mantissa <= 1 << 53 && scale.unsigned_abs() <= 22;
    if exact {
        let power = POWERS[scale.unsigned_abs() as usize];
        let value = if scale < 0 { mantissa as f64 / power } else { mantissa as f64 * power };
        return Ok((Number::Float(if negative { -value } else { value }), end));
    }
    let parsed = text(bytes, start, end).and_then(|text| text.parse::<f64>().ok());
    Ok((parsed.filter(|value| value.is_finite()).map_or(Number::Beyond, Number::Float), end))
}

fn text(bytes: &[u8], start: usize, end: usize) -> Option<&str> {
    std::str::from_utf8(&bytes[start..end]).ok()
}
