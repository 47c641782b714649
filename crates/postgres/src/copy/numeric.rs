//! `numeric` on the wire.
//!
//! ```text
//!  digits i16 | weight i16 | sign u16 | scale i16 | digit i16 × digits        all big-endian
//! ```
//! A digit counts to 10,000. The first one stands for 10,000^weight; zeros at both ends are left out. `scale` is how many decimal
//! places are shown.

/// Digits in base 10,000 of the largest value: 38 decimal ones, split at the point, which may cut one in two.
const DIGITS_MAX: usize = 11;
const BASE: u128 = 10_000;
/// Decimal digits in one.
const PER_DIGIT: u32 = 4;
const NEGATIVE: u16 = 0x4000;

/// Appends `value / 10^scale` with the length in front, as a field of a row.
pub(crate) fn write(value: i128, scale: u32, out: &mut Vec<u8>) {
    let mut digits = [0_u16; DIGITS_MAX];
    // From the end, so that the first digit in use is at `first`.
    let mut first = DIGITS_MAX;
    let mut rest = value.unsigned_abs();
    // The last digit behind the point has fewer decimal places where the scale does not fill it.
    let broken = scale % PER_DIGIT;
    let weight_of_last = -i16::try_from(scale.div_ceil(PER_DIGIT)).unwrap_or(i16::MAX);
    if broken > 0 {
        let unit = 10_u128.pow(broken);
        first -= 1;
        digits[first] = (rest % unit) as u16 * 10_u16.pow(PER_DIGIT - broken);
        rest /= unit;
    }
    while rest > 0 {
        first -= 1;
        // Most values fit 64 bits, whose division is many times as fast.
        let (quotient, digit) = match u64::try_from(rest) {
            Ok(small) => (u128::from(small / BASE as u64), (small % BASE as u64) as u16),
            Err(_wide) => (rest / BASE, (rest % BASE) as u16),
        };
        digits[first] = digit;
        rest = quotient;
    }
    let mut end = DIGITS_MAX;
    let mut weight = weight_of_last + (DIGITS_MAX - first) as i16 - 1;
    while end > first && digits[end - 1] == 0 {
        end -= 1;
    }
    while first < end && digits[first] == 0 {
        first += 1;
        weight -= 1;
    }
    let used = &digits[first..end];
    if used.is_empty() {
        weight = 0;
    }
    let sign = if value < 0 { NEGATIVE } else { 0 };
    out.extend_from_slice(&(8 + 2 * used.len() as i32).to_be_bytes());
    out.extend_from_slice(&(used.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&(scale as i16).to_be_bytes());
    for digit in used {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

/// Whether `value / 10^scale` fits `numeric(precision, places)` without being rounded. `places` may be negative.
pub(crate) fn fits(value: i128, scale: i32, precision: i32, places: i32) -> bool {
    let magnitude = value.unsigned_abs();
    // More places than the column keeps must be zeros.
    let cut = scale - places;
    let exact = cut <= 0 || power(cut).map_or(magnitude == 0, |unit| magnitude.is_multiple_of(unit));
    // The digits before the point must be few enough.
    let whole = precision - places + scale;
    exact && (magnitude == 0 || whole >= 0 && power(whole).is_none_or(|limit| magnitude < limit))
}

/// `None` where it is larger than any value.
fn power(exponent: i32) -> Option<u128> {
    10_u128.checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As text, from the bytes alone.
    fn read(field: &[u8]) -> String {
        let number = |at: usize| i16::from_be_bytes([field[at], field[at + 1]]);
        let length = i32::from_be_bytes(field[..4].try_into().unwrap());
        assert_eq!(length as usize, field.len() - 4);
        let (count, weight, sign, scale) = (number(4), number(6), number(8) as u16, number(10));
        assert_eq!(field.len(), 12 + 2 * count as usize);
        let digit = |place: i16| match weight - place {
            at if (0..count).contains(&at) => number(12 + 2 * at as usize),
            _ => 0,
        };
        if count > 0 {
            assert!(digit(weight) != 0 && digit(weight - count + 1) != 0, "zeros at the ends are left out");
        }
        let whole: String = (0..=weight.max(0)).rev().map(|place| format!("{:04}", digit(place))).collect();
        let whole = whole.trim_start_matches('0');
        let fraction: String = (1..=(scale + 3) / 4).map(|place| format!("{:04}", digit(-place))).collect();
        let mut text = if sign == NEGATIVE { "-".to_owned() } else { String::new() };
        text.push_str(if whole.is_empty() { "0" } else { whole });
        if scale > 0 {
            text.push('.');
            text.push_str(&fraction[..scale as usize]);
            assert!(fraction[scale as usize..].bytes().all(|digit| digit == b'0'), "places beyond the scale");
        }
        text
    }

    fn text(value: i128, scale: u32) -> String {
        let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale as usize + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
        let sign = if value < 0 { "-" } else { "" };
        if scale > 0 { format!("{sign}{whole}.{fraction}") } else { format!("{sign}{whole}") }
    }

    fn check(value: i128, scale: u32) {
        let mut out = vec![];
        write(value, scale, &mut out);
        assert_eq!(read(&out), text(value, scale));
    }

    const LARGEST: i128 = 10_i128.pow(38) - 1;

    proptest! {
        #[test]
        fn a_number_is_what_its_text_says(value in -LARGEST..=LARGEST, shift in 0_u32..127, scale in 0_u32..=38) {
            check(value >> shift, scale);
        }

        #[test]
        fn any_unsigned_integer_is_what_its_text_says(value: u64) {
            check(value.into(), 0);
        }

        #[test]
        fn round_numbers_are_too(digits in 1_i128..10_000, zeros in 0_u32..34, scale in 0_u32..=38) {
            check(digits * 10_i128.pow(zeros), scale);
            check(-digits * 10_i128.pow(zeros), scale);
        }
    }

    #[test]
    fn the_ends_of_the_range() {
        for scale in 0..=38 {
            for value in [0, 1, -1, LARGEST, -LARGEST, u64::MAX.into(), i64::MIN.into()] {
                check(value, scale);
            }
        }
    }

    #[test]
    fn only_what_is_not_rounded_fits() {
        assert!(fits(12_345, 2, 5, 2) && fits(-12_345, 2, 38, 2));
        assert!(!fits(12_345, 2, 4, 2), "four digits");
        assert!(!fits(12_345, 2, 5, 1) && fits(12_340, 2, 5, 1), "one place");
        assert!(fits(0, 38, 1, 0) && !fits(1, 38, 1, 0));
        assert!(fits(12_300, 0, 3, -2) && !fits(12_345, 0, 5, -2) && !fits(123_400, 0, 3, -2), "hundreds");
        assert!(
            fits(LARGEST, 0, 1000, 500) && fits(1, 3, 3, 5) && !fits(1, 1, 3, 5),
            "more places than digits"
        );
    }
}
