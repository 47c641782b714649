//! A regular expression of the user's: its named groups become columns.
//!
//! Groups mean what logfmt keys mean: `msg`, `message` and `body` fill the body, `level`, `lvl` and `severity` the severity, the
//! time fields the time. A group that took no part in the match is null. The engine is linear in the line: no
//! expression can make it hang.

use regex::{CaptureLocations, Regex, RegexBuilder};

use crate::config::{ConfigError, Format};
use crate::decoded::RowError;
use crate::logfmt::give;
use crate::record::Records;

/// Largest compiled expression: far beyond what anybody writes by hand.
const COMPILED_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct PatternParser {
    regex: Regex,
    locations: CaptureLocations,
    /// The named groups, by number.
    groups: Vec<(usize, String)>,
}

impl PatternParser {
    pub(crate) fn new(pattern: Option<&str>) -> Result<Self, ConfigError> {
        let pattern = pattern.ok_or(ConfigError::PatternMissing)?;
        let regex = RegexBuilder::new(pattern).size_limit(COMPILED_BYTES_MAX).build();
        let regex = regex.map_err(|error| ConfigError::Pattern(Box::new(error)))?;
        let names = regex.capture_names().enumerate();
        let groups: Vec<_> = names.filter_map(|(number, name)| Some((number, name?.to_owned()))).collect();
        if groups.is_empty() {
            return Err(ConfigError::PatternMissing);
        }
        Ok(Self { locations: regex.capture_locations(), regex, groups })
    }

    pub(crate) fn read(&mut self, line: &str, records: &mut Records, keep_raw: bool) -> Result<(), RowError> {
        if self.regex.captures_read(&mut self.locations, line).is_none() {
            return Err(RowError::Format {
                format: Format::Regex.words(),
                what: "the expression does not match",
            });
        }
        for (number, name) in &self.groups {
            if let Some((start, end)) = self.locations.get(*number) {
                give(records, name, &line.as_bytes()[start..end], start == end, keep_raw)?;
            }
        }
        Ok(())
    }
}
