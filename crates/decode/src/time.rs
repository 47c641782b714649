//! Timestamps in the spellings of logs and records, to microseconds since 1970.
//!
//! Digits beyond microseconds are cut. A time without a zone is in the configured one, else in UTC.
//!
//! | file | owns |
//! |---|---|
//! | `time.rs` | [`TimeReader`]: which spelling a source uses |
//! | `time/civil.rs` | the calendar, and the fixed forms read by hand |

pub(crate) mod civil;

use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;

use crate::config::{ConfigError, TimestampRule};

/// 1973-03-03: a number below it is a count or a duration, not a time in any unit.
const EPOCH_MIN: u64 = 100_000_000;

/// Where the time at the beginning of a line ends at the latest.
const LEADING_BYTES_MAX: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Milli,
    Micro,
    Nano,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Spelling {
    Auto,
    Rfc3339,
    Epoch(Unit),
    CommonLog,
    Syslog,
    Pattern(String),
}

/// Reads the times of one source.
#[derive(Debug)]
pub(crate) struct TimeReader {
    spelling: Spelling,
    /// `None` is UTC.
    zone: Option<TimeZone>,
    observed_us: i64,
}

impl TimeReader {
    pub(crate) fn new(rule: Option<&TimestampRule>) -> Result<Self, ConfigError> {
        let spelling = rule.and_then(|rule| rule.format.as_deref()).map_or(Ok(Spelling::Auto), spelling)?;
        let zone = rule.and_then(|rule| rule.zone.as_deref()).map(zone).transpose()?.flatten();
        Ok(Self { spelling, zone, observed_us: 0 })
    }

    /// Tells the time of the call: it dates what has no time, and gives the year where one is missing.
    pub(crate) fn observed(&mut self, us: i64) {
        self.observed_us = us;
    }

    pub(crate) fn observed_us(&self) -> i64 {
        self.observed_us
    }

    /// The time a text states, all of it.
    #[inline]
    pub(crate) fn text(&self, text: &[u8]) -> Option<i64> {
        match &self.spelling {
            Spelling::Auto => self.auto(text),
            Spelling::Rfc3339 => self.whole(civil::rfc3339(text), text),
            Spelling::CommonLog => self.whole(civil::common_log(text), text),
            Spelling::Syslog => self.whole(civil::syslog(text, self.observed_us), text),
            Spelling::Epoch(unit) => epoch_text(text, Some(*unit)),
            Spelling::Pattern(pattern) => self.pattern(pattern, text),
        }
    }

    #[inline]
    fn auto(&self, text: &[u8]) -> Option<i64> {
        self.whole(civil::rfc3339(text), text).or_else(|| self.auto_slowly(text))
    }

    #[cold]
    fn auto_slowly(&self, text: &[u8]) -> Option<i64> {
        self.whole(civil::common_log(text), text)
            .or_else(|| self.whole(civil::syslog(text, self.observed_us), text))
            .or_else(|| epoch_text(text, None))
    }

    fn whole(&self, read: Option<civil::Stamp>, text: &[u8]) -> Option<i64> {
        let stamp = read.filter(|stamp| stamp.length == text.len())?;
        self.place(stamp)
    }

    /// The time at the beginning of a line, in brackets or not: in the configured spelling, else in one of the usual ones.
    #[inline]
    pub(crate) fn leading(&self, line: &[u8]) -> Option<i64> {
        match line.strip_prefix(b"[") {
            None => Some(self.leading_with_length(line)?.0),
            // A pattern may begin with the bracket.
            Some(inner) => {
                Some(self.leading_with_length(inner).or_else(|| self.leading_with_length(line))?.0)
            }
        }
    }

    /// The same, and how many bytes state it.
    #[inline]
    pub(crate) fn leading_with_length(&self, line: &[u8]) -> Option<(i64, usize)> {
        if self.spelling != Spelling::Auto {
            return self.leading_as_configured(line);
        }
        let stamp = match line.first()? {
            b'0'..=b'9' => civil::rfc3339(line).or_else(|| civil::common_log(line))?,
            b'A'..=b'Z' => civil::syslog(line, self.observed_us)?,
            _ => return None,
        };
        Some((self.place(stamp)?, stamp.length))
    }

    #[inline(never)]
    fn leading_as_configured(&self, line: &[u8]) -> Option<(i64, usize)> {
        let stamp = match &self.spelling {
            Spelling::Auto | Spelling::Rfc3339 => civil::rfc3339(line)?,
            Spelling::CommonLog => civil::common_log(line)?,
            Spelling::Syslog => civil::syslog(line, self.observed_us)?,
            Spelling::Epoch(unit) => {
                let is_digit = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
                let length = line.iter().take_while(is_digit).count();
                let number = &line[..length];
                let number = number.strip_suffix(b".").unwrap_or(number);
                return Some((epoch_text(number, Some(*unit))?, number.len()));
            }
            Spelling::Pattern(pattern) => return self.leading_pattern(pattern, line),
        };
        Some((self.place(stamp)?, stamp.length))
    }

    /// A time of a pattern is text of at most [`LEADING_BYTES_MAX`] bytes; a character that this cuts is not part of it.
    fn leading_pattern(&self, pattern: &str, line: &[u8]) -> Option<(i64, usize)> {
        let head = line.get(..LEADING_BYTES_MAX).unwrap_or(line);
        let head = head.utf8_chunks().next()?.valid();
        let (parsed, length) = BrokenDownTime::parse_prefix(pattern, head).ok()?;
        Some((self.broken_down(&parsed)?, length))
    }

    #[inline]
    fn place(&self, stamp: civil::Stamp) -> Option<i64> {
        match (stamp.offset_s, &self.zone) {
            (Some(offset), _) => stamp.civil_us.checked_sub(i64::from(offset) * 1_000_000),
            (None, None) => Some(stamp.civil_us),
            (None, Some(zone)) => civil::in_zone(stamp.civil_us, zone),
        }
    }

    fn pattern(&self, pattern: &str, text: &[u8]) -> Option<i64> {
        let text = std::str::from_utf8(text).ok()?;
        self.broken_down(&BrokenDownTime::parse(pattern, text).ok()?)
    }

    fn broken_down(&self, parsed: &BrokenDownTime) -> Option<i64> {
        if let Ok(timestamp) = parsed.to_timestamp() {
            return Some(timestamp.as_microsecond());
        }
        let civil = parsed.to_datetime().ok()?;
        let zone = self.zone.clone().unwrap_or(TimeZone::UTC);
        Some(zone.to_ambiguous_timestamp(civil).compatible().ok()?.as_microsecond())
    }

    /// The time a whole number states.
    #[inline]
    pub(crate) fn integer(&self, value: i64) -> Option<i64> {
        match self.spelling {
            Spelling::Epoch(unit) => unit.to_us(value),
            Spelling::Auto => unit_of(value.unsigned_abs())?.to_us(value),
            _ => None,
        }
    }

    /// The time a fractional number states: seconds, unless the configuration says otherwise.
    pub(crate) fn float(&self, value: f64) -> Option<i64> {
        let factor = match self.spelling {
            Spelling::Epoch(Unit::Second) => 1e6,
            Spelling::Epoch(Unit::Milli) => 1e3,
            Spelling::Epoch(Unit::Micro) => 1.0,
            Spelling::Epoch(Unit::Nano) => 1e-3,
            Spelling::Auto if value.abs() >= EPOCH_MIN as f64 => match unit_of(value.abs() as u64)? {
                Unit::Second => 1e6,
                Unit::Milli => 1e3,
                Unit::Micro => 1.0,
                Unit::Nano => 1e-3,
            },
            _ => return None,
        };
        let us = (value * factor).round();
        (us.abs() < 9e18).then_some(us as i64)
    }
}

impl Unit {
    fn to_us(self, value: i64) -> Option<i64> {
        match self {
            Unit::Second => value.checked_mul(1_000_000),
            Unit::Milli => value.checked_mul(1000),
            Unit::Micro => Some(value),
            Unit::Nano => Some(value.div_euclid(1000)),
        }
    }
}

/// The unit in which a number of this size is a time between 1973 and 5138.
fn unit_of(size: u64) -> Option<Unit> {
    match size {
        0..EPOCH_MIN => None,
        EPOCH_MIN..100_000_000_000 => Some(Unit::Second),
        100_000_000_000..100_000_000_000_000 => Some(Unit::Milli),
        100_000_000_000_000..100_000_000_000_000_000 => Some(Unit::Micro),
        _ => Some(Unit::Nano),
    }
}

fn epoch_text(text: &[u8], unit: Option<Unit>) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    if !text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return None;
    }
    let reader =
        TimeReader { spelling: unit.map_or(Spelling::Auto, Spelling::Epoch), zone: None, observed_us: 0 };
    match text.parse::<i64>() {
        Ok(value) => reader.integer(value),
        Err(_) => reader.float(text.parse().ok()?),
    }
}

fn spelling(text: &str) -> Result<Spelling, ConfigError> {
    Ok(match text {
        "auto" => Spelling::Auto,
        "rfc3339" => Spelling::Rfc3339,
        "epoch_s" => Spelling::Epoch(Unit::Second),
        "epoch_ms" => Spelling::Epoch(Unit::Milli),
        "epoch_us" => Spelling::Epoch(Unit::Micro),
        "epoch_ns" => Spelling::Epoch(Unit::Nano),
        "common_log" => Spelling::CommonLog,
        "syslog" => Spelling::Syslog,
        pattern if pattern.contains('%') => {
            check_pattern(pattern)
                .map_err(|reason| ConfigError::TimePattern { format: pattern.to_owned(), reason })?;
            Spelling::Pattern(pattern.to_owned())
        }
        _ => return Err(ConfigError::TimeFormat { format: text.to_owned() }),
    })
}

/// Whether a pattern reads what it writes, and that states a time. One that does not would date every record with the time it
/// was read, without a word.
fn check_pattern(pattern: &str) -> Result<(), String> {
    // No two of its numbers are the same, and it is after noon.
    let sample = jiff::civil::date(2026, 11, 23).at(22, 8, 59, 123_456_000).to_zoned(TimeZone::UTC);
    let sample = sample.map_err(|error| error.to_string())?;
    let text = jiff::fmt::strtime::format(pattern, &sample).map_err(|error| error.to_string())?;
    let parsed = BrokenDownTime::parse(pattern, &text).map_err(|error| error.to_string())?;
    let reader = TimeReader { spelling: Spelling::Auto, zone: None, observed_us: 0 };
    match reader.broken_down(&parsed) {
        Some(_) => Ok(()),
        None => Err("it states no whole date: year, month and day are needed".to_owned()),
    }
}

fn zone(text: &str) -> Result<Option<TimeZone>, ConfigError> {
    let refuse = || ConfigError::Zone { zone: text.to_owned() };
    if matches!(text, "UTC" | "utc" | "Z") {
        return Ok(None);
    }
    if text.starts_with(['+', '-']) {
        let seconds =
            civil::offset(text.as_bytes()).filter(|(_, used)| *used == text.len()).ok_or_else(refuse)?.0;
        let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|_| refuse())?;
        return Ok(Some(TimeZone::fixed(offset)));
    }
    TimeZone::get(text).map(Some).map_err(|_| refuse())
}
