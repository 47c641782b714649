//! How often: `50/s burst 100`.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Largest number in a rate. With an hour for the unit, the nanoseconds that a whole burst takes still fit into 62 bits.
const NUMBER_MAX: u32 = 1_000_000;

/// So many in a unit of time on average, and at most `burst` of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    times: NonZeroU32,
    unit: Unit,
    burst: NonZeroU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    const ALL: [Self; 3] = [Self::Second, Self::Minute, Self::Hour];

    const fn word(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "min",
            Self::Hour => "h",
        }
    }

    const fn nanoseconds(self) -> u64 {
        const SECOND: u64 = 1_000_000_000;
        match self {
            Self::Second => SECOND,
            Self::Minute => 60 * SECOND,
            Self::Hour => 3_600 * SECOND,
        }
    }
}

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no rate: write `50/s`, `10/min` or `100/h burst 20`, with numbers from 1 to {NUMBER_MAX}")]
pub struct RateError(String);

impl Rate {
    /// So many a second, at most `burst` at once. Numbers above a million count as a million.
    ///
    /// # Panics
    /// Where one is 0, in a constant at compile time.
    pub const fn per_second(times: u32, burst: u32) -> Self {
        Self::new(times, Unit::Second, burst)
    }

    /// The same a minute.
    ///
    /// # Panics
    /// As [`Self::per_second`].
    pub const fn per_minute(times: u32, burst: u32) -> Self {
        Self::new(times, Unit::Minute, burst)
    }

    const fn new(times: u32, unit: Unit, burst: u32) -> Self {
        Self { times: bounded(times), unit, burst: bounded(burst) }
    }

    /// What may be taken at once after a pause.
    pub const fn burst(self) -> u32 {
        self.burst.get()
    }

    /// How long one takes to be paid for, rounded down: 1 ns or more.
    pub const fn interval(self) -> Duration {
        Duration::from_nanos(self.interval_ns())
    }

    /// How long a whole burst takes to be paid for.
    pub const fn window(self) -> Duration {
        Duration::from_nanos(self.window_ns())
    }

    pub(crate) const fn interval_ns(self) -> u64 {
        // At most a million a second.
        self.unit.nanoseconds() / self.times.get() as u64
    }

    pub(crate) const fn window_ns(self) -> u64 {
        self.interval_ns() * self.burst.get() as u64
    }
}

const fn bounded(number: u32) -> NonZeroU32 {
    let number = if number > NUMBER_MAX { NUMBER_MAX } else { number };
    NonZeroU32::new(number).expect("a rate of nothing would never let anything through")
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.times, self.unit.word())?;
        if self.burst == self.times { Ok(()) } else { write!(f, " burst {}", self.burst) }
    }
}

impl FromStr for Rate {
    type Err = RateError;
    fn from_str(text: &str) -> Result<Self, RateError> {
        parse(text).ok_or_else(|| RateError(text.escape_default().take(64).collect()))
    }
}

fn parse(text: &str) -> Option<Rate> {
    let number = |text: &str| text.parse::<NonZeroU32>().ok().filter(|number| number.get() <= NUMBER_MAX);
    let mut words = text.split_whitespace();
    let (times, unit) = words.next()?.split_once('/')?;
    let times = number(times)?;
    let unit = Unit::ALL.into_iter().find(|known| known.word() == unit)?;
    let burst = match words.next() {
        None => times,
        Some("burst") => number(words.next()?)?,
        Some(_) => return None,
    };
    words.next().is_none().then_some(Rate { times, unit, burst })
}

impl TryFrom<String> for Rate {
    type Error = RateError;
    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written_and_everything_else_is_refused() {
        for text in ["50/s burst 100", "10/min", "1/h burst 1000000", "1000000/s"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!("10/min burst 10".parse::<Rate>().unwrap(), Rate::per_minute(10, 10));
        for text in [
            "",
            "50",
            "50/d",
            "0/s",
            "-1/s",
            "1/s burst",
            "1/s burst 0",
            "1/s 5",
            "1/s burst 1 1",
            "1000001/s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_window_does_not_overflow() {
        let rate: Rate = "1/h burst 1000000".parse().unwrap();
        assert_eq!(rate.window(), Duration::from_secs(3_600_000_000));
        assert_eq!(Rate::per_second(1_000_000, 1).interval(), Duration::from_micros(1));
    }
}
