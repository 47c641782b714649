//! How bad a line says it is: one of the six names of the OpenTelemetry log model.

use std::sync::Arc;

use arrow_array::types::Int8Type;
use arrow_array::{ArrayRef, DictionaryArray, Int8Array, StringArray};

use crate::decoded::{Context, ts_array};

/// A severity, or none stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub(crate) enum Severity {
    Unstated = -1,
    Trace = 0,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
}

/// The names, by number.
const NAMES: [&str; 6] = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"];

/// How far into a line its level is looked for: after a time, a host and a program.
const WINDOW: usize = 96;

impl Severity {
    /// The severity of a word, in any case.
    pub(crate) fn of_word(word: &[u8]) -> Self {
        let mut upper = [0; 9];
        let Some(copy) = upper.get_mut(..word.len()) else { return Self::Unstated };
        copy.copy_from_slice(word);
        copy.make_ascii_uppercase();
        match &*copy {
            b"TRACE" | b"VERBOSE" | b"FINEST" => Self::Trace,
            b"DEBUG" | b"DBG" | b"FINE" => Self::Debug,
            b"INFO" | b"INF" | b"NOTICE" => Self::Info,
            b"WARN" | b"WARNING" | b"WRN" => Self::Warn,
            b"ERROR" | b"ERR" | b"CRIT" | b"CRITICAL" | b"ALERT" | b"SEVERE" => Self::Error,
            b"FATAL" | b"PANIC" | b"EMERG" | b"EMERGENCY" => Self::Fatal,
            _ => Self::Unstated,
        }
    }

    /// The severity of a number as the loggers of JavaScript write it: tens from 10 for trace to 60 for fatal.
    pub(crate) fn of_number(number: &[u8]) -> Self {
        match number {
            b"10" => Self::Trace,
            b"20" => Self::Debug,
            b"30" => Self::Info,
            b"40" => Self::Warn,
            b"50" => Self::Error,
            b"60" => Self::Fatal,
            _ => Self::Unstated,
        }
    }

    /// The severity of a syslog priority, as the OpenTelemetry log model maps it.
    pub(crate) fn of_priority(priority: u8) -> Self {
        match priority & 7 {
            0 => Self::Fatal,
            1..=3 => Self::Error,
            4 => Self::Warn,
            5 | 6 => Self::Info,
            _ => Self::Debug,
        }
    }

    /// The first clear level word near the beginning of a line: in capitals (`ERROR`), in brackets (`[error]`, `<warn>`), before a
    /// colon (`error:`), or after `level=`. Prose that only mentions an error states none.
    #[inline]
    pub(crate) fn of_line(line: &[u8]) -> Self {
        let line = &line[..line.len().min(WINDOW)];
        let mut at = 0;
        while at < line.len() {
            if !line[at].is_ascii_alphabetic() {
                at += 1;
                continue;
            }
            let start = at;
            while at < line.len() && (line[at].is_ascii_alphanumeric() || line[at] == b'_') {
                at += 1;
            }
            if let 3..=9 = at - start {
                let severity = Self::of_marked_word(line, start, at);
                if severity != Self::Unstated {
                    return severity;
                }
            }
        }
        Self::Unstated
    }

    #[inline]
    fn of_marked_word(line: &[u8], start: usize, end: usize) -> Self {
        // Each level word begins with one of these, which rules most words out at once.
        if !matches!(
            line[start] | 0x20,
            b't' | b'v' | b'f' | b'd' | b'i' | b'n' | b'w' | b'e' | b'c' | b'a' | b's' | b'p'
        ) {
            return Self::Unstated;
        }
        let severity = Self::of_word(&line[start..end]);
        if severity == Self::Unstated {
            return severity;
        }
        let before = start.checked_sub(1).map(|index| line[index]);
        let after = line.get(end).copied();
        let all_capitals = line[start..end].iter().all(u8::is_ascii_uppercase);
        let is_word = !matches!(before, Some(b'-' | b'.' | b'/' | b'0'..=b'9' | b'_'))
            && !matches!(after, Some(b'-' | b'.' | b'/' | b'('));
        let in_brackets = matches!(
            (before, after),
            (Some(b'['), Some(b']')) | (Some(b'<'), Some(b'>')) | (Some(b'('), Some(b')'))
        );
        let is_value = matches!(before, Some(b'=')) || matches!((before, after), (Some(b'"'), Some(b'"')));
        let is_head = after == Some(b':') && matches!(before, None | Some(b' ' | b']'));
        if (all_capitals && is_word) || in_brackets || is_value || is_head {
            severity
        } else {
            Self::Unstated
        }
    }
}

/// The severities of a batch as its dictionary column.
pub(crate) fn severity_array(keys: Vec<i8>) -> ArrayRef {
    let nulls =
        keys.contains(&-1).then(|| keys.iter().map(|key| *key >= 0).collect::<arrow_buffer::NullBuffer>());
    let keys = if nulls.is_some() { keys.into_iter().map(|key| key.max(0)).collect() } else { keys };
    dictionary(Int8Array::new(keys.into(), nulls), &NAMES)
}

/// The columns that records of an event format have beside their fields when they come from a source of logs, which says
/// so by its `resource`: when they were observed, what is known of their severity, and where they come from. A field of the
/// same name takes the place of its column. `was_stated` remembers that some record stated its severity.
pub(crate) fn log_columns(
    severity: Vec<i8>,
    was_stated: &mut bool,
    context: &Context<'_>,
    has_column: impl Fn(&str) -> bool,
) -> Vec<(&'static str, ArrayRef)> {
    if context.resource.is_none() {
        return vec![];
    }
    let rows = severity.len();
    *was_stated |= severity.iter().any(|key| *key >= 0);
    let mut columns = vec![("observed_ts", ts_array(vec![context.observed_us; rows]))];
    if *was_stated {
        columns.push(("severity", severity_array(severity)));
    }
    columns.push(("resource", constant_array(context.resource, rows)));
    columns.retain(|(name, _)| !has_column(name));
    columns
}

/// One text for every row, or null for every row.
pub(crate) fn constant_array(text: Option<&str>, rows: usize) -> ArrayRef {
    match text {
        Some(text) => dictionary(Int8Array::from(vec![0; rows]), &[text]),
        None => dictionary(Int8Array::new_null(rows), &[]),
    }
}

fn dictionary(keys: Int8Array, values: &[&str]) -> ArrayRef {
    let values = StringArray::from_iter_values(values);
    Arc::new(DictionaryArray::<Int8Type>::new(keys, Arc::new(values)))
}
