//! The calendar, and the fixed spellings of time read by hand: RFC 3339, common log, syslog.

use jiff::tz::TimeZone;

/// A time as it is written: the reading of a clock, and how far that clock is from UTC if it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The clock's reading, as if it were UTC.
    pub(crate) civil_us: i64,
    /// How far the clock is ahead of UTC.
    pub(crate) offset_s: Option<i32>,
    /// How many bytes state the time.
    pub(crate) length: usize,
}

/// `2026-11-23T22:44:30.123456Z`; also a space or `_` for `T`, `/` in the date, `,` before the fraction, no fraction, no zone.
#[inline]
pub(crate) fn rfc3339(text: &[u8]) -> Option<Stamp> {
    let fixed: &[u8; 19] = text.first_chunk()?;
    let separated = matches!((fixed[4], fixed[7]), (b'-', b'-') | (b'/', b'/'))
        && matches!(fixed[10], b'T' | b't' | b' ' | b'_')
        && fixed[13] == b':'
        && fixed[16] == b':';
    if !separated {
        return None;
    }
    let year = two(fixed, 0)? * 100 + two(fixed, 2)?;
    let date = days(year as i32, two(fixed, 5)?, two(fixed, 8)?)?;
    let clock = clock(two(fixed, 11)?, two(fixed, 14)?, two(fixed, 17)?)?;
    let (fraction_us, fraction_end) = fraction(text, 19);
    let civil_us = (date * 86_400 + clock) * 1_000_000 + fraction_us;
    let (offset_s, length) = zone(text, fraction_end);
    Some(Stamp { civil_us, offset_s, length })
}

/// `23/Nov/2026:22:44:30 +0100`, and without the zone.
pub(crate) fn common_log(text: &[u8]) -> Option<Stamp> {
    let fixed: &[u8; 20] = text.first_chunk()?;
    let separated =
        fixed[2] == b'/' && fixed[6] == b'/' && fixed[11] == b':' && fixed[14] == b':' && fixed[17] == b':';
    if !separated {
        return None;
    }
    let year = two(fixed, 7)? * 100 + two(fixed, 9)?;
    let date = days(year as i32, month(&fixed[3..6])?, two(fixed, 0)?)?;
    let clock = clock(two(fixed, 12)?, two(fixed, 15)?, two(fixed, 18)?)?;
    let (offset_s, length) = zone(text, 20);
    Some(Stamp { civil_us: (date * 86_400 + clock) * 1_000_000, offset_s, length })
}

/// `Nov 23 22:44:30` and `Nov  3 …`: no year, so the one that brings it nearest to `observed_us`. `Nov 23 2026 22:44:30` too.
pub(crate) fn syslog(text: &[u8], observed_us: i64) -> Option<Stamp> {
    let fixed: &[u8; 15] = text.first_chunk()?;
    if fixed[3] != b' ' || fixed[6] != b' ' {
        return None;
    }
    let month = month(&fixed[..3])?;
    let day = if fixed[4] == b' ' { digit(fixed[5])? } else { two(fixed, 4)? };
    if let Some(with_year) = text.first_chunk::<20>().filter(|long| long[11] == b' ' && long[14] == b':') {
        let year = two(with_year, 7)? * 100 + two(with_year, 9)?;
        let clock = clock(two(with_year, 12)?, two(with_year, 15)?, two(with_year, 18)?)?;
        let civil_us = (days(year as i32, month, day)? * 86_400 + clock) * 1_000_000;
        return Some(Stamp { civil_us, offset_s: None, length: 20 });
    }
    if fixed[9] != b':' || fixed[12] != b':' {
        return None;
    }
    let clock = clock(two(fixed, 7)?, two(fixed, 10)?, two(fixed, 13)?)?;
    let (fraction_us, length) = fraction(text, 15);
    let this_year = year_of(observed_us.div_euclid(86_400_000_000));
    let candidates = (this_year - 1..=this_year + 1)
        .filter_map(|year| Some((days(year, month, day)? * 86_400 + clock) * 1_000_000 + fraction_us));
    let civil_us = candidates.min_by_key(|us| us.abs_diff(observed_us))?;
    Some(Stamp { civil_us, offset_s: None, length })
}

/// A zone at `at`: `Z`, `+01:00`, `+0100`, `+01`, `UTC`, each also after one space; the offset and the byte after it.
#[inline]
fn zone(text: &[u8], at: usize) -> (Option<i32>, usize) {
    let spaced = at + usize::from(text.get(at) == Some(&b' '));
    match text.get(spaced) {
        Some(b'Z' | b'z') if spaced == at => (Some(0), spaced + 1),
        Some(b'+' | b'-') => match offset(&text[spaced..]) {
            Some((seconds, used)) => (Some(seconds), spaced + used),
            None => (None, at),
        },
        Some(b'U') if text[spaced..].starts_with(b"UTC") => (Some(0), spaced + 3),
        _ => (None, at),
    }
}

/// `+01:00`, `+0100`, `-01`: seconds ahead of UTC, and the bytes used.
pub(crate) fn offset(text: &[u8]) -> Option<(i32, usize)> {
    let sign = if *text.first()? == b'-' { -1 } else { 1 };
    let hours = two(text, 1)?;
    let (minutes, used) = match text.get(3) {
        Some(b':') => (two(text, 4)?, 6),
        Some(b'0'..=b'9') => (two(text, 3)?, 5),
        _ => (0, 3),
    };
    (hours < 24 && minutes < 60).then_some((sign * (hours * 3600 + minutes * 60) as i32, used))
}

/// The reading of a clock in `zone` as a time; where clocks were turned, the earlier reading of two, the later side of a gap.
pub(crate) fn in_zone(civil_us: i64, zone: &TimeZone) -> Option<i64> {
    let civil = jiff::Timestamp::from_microsecond(civil_us).ok()?.to_zoned(TimeZone::UTC).datetime();
    Some(zone.to_ambiguous_timestamp(civil).compatible().ok()?.as_microsecond())
}

/// A fraction of a second at `at`, in microseconds, and the byte after it.
#[inline]
fn fraction(text: &[u8], at: usize) -> (i64, usize) {
    if !matches!(text.get(at), Some(b'.' | b',')) {
        return (0, at);
    }
    let (mut end, mut us, mut unit) = (at + 1, 0, 100_000);
    while let Some(value) = text.get(end).copied().and_then(digit) {
        us += i64::from(value) * unit;
        unit /= 10;
        end += 1;
    }
    if end == at + 1 { (0, at) } else { (us, end) }
}

#[inline]
fn clock(hour: u32, minute: u32, second: u32) -> Option<i64> {
    // A leap second is read as the second after it.
    (hour < 24 && minute < 60 && second <= 60).then_some(i64::from(hour * 3600 + minute * 60 + second))
}

#[inline]
fn digit(byte: u8) -> Option<u32> {
    let value = byte.wrapping_sub(b'0');
    (value < 10).then_some(u32::from(value))
}

#[inline]
fn two(text: &[u8], at: usize) -> Option<u32> {
    Some(digit(*text.get(at)?)? * 10 + digit(*text.get(at + 1)?)?)
}

fn month(name: &[u8]) -> Option<u32> {
    const NAMES: [&[u8; 3]; 12] =
        [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
    NAMES.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|index| index as u32 + 1)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar: Howard Hinnant's `days_from_civil`.
#[inline]
fn days(year: i32, month: u32, day: u32) -> Option<i64> {
    if !(1..=12).contains(&month) || day == 0 || day > month_days(year, month) {
        return None;
    }
    let year = i64::from(year) - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (i64::from(month) + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[inline]
fn month_days(year: i32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// The year a day lies in.
fn year_of(day: i64) -> i32 {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    (year_of_era + era * 400 + i64::from(day_of_year >= 306)) as i32
}
