//! Syslog, RFC 5424 and RFC 3164, recognised line by line.
//!
//! `<34>1 2003-10-11T22:14:15.003Z host app 123 ID47 [id@1 key="value"] message` and
//! `<34>Oct 11 22:14:15 host app[123]: message`, the latter also without priority or host and with an RFC 3339 time, as
//! daemons write it to files. What has neither shape is a message without a header, as RFC 3164 4.3.3 has it. The
//! columns are `facility, host, app, procid, msgid`; structured data stands in the attributes, the priority gives the severity.

use serde_json::{Map, Value};

use crate::config::Format;
use crate::decoded::RowError;
use crate::record::Records;
use crate::severity::Severity;

/// The facilities by number.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

pub(crate) fn read(line: &str, records: &mut Records, keep_raw: bool) -> Result<(), RowError> {
    let message = match priority(line) {
        Some((priority, rest)) => {
            records.severity(Severity::of_priority(priority));
            records.text_field("facility", FACILITIES[usize::from(priority >> 3)].as_bytes())?;
            match rest.strip_prefix("1 ") {
                Some(rest) => modern(rest, records)?,
                None => classic(rest, records)?,
            }
        }
        None => {
            let message = classic(line, records)?;
            records.severity(Severity::of_line(message.as_bytes()));
            message
        }
    };
    if !keep_raw {
        records.body(message.as_bytes());
    }
    Ok(())
}

fn priority(line: &str) -> Option<(u8, &str)> {
    let (digits, rest) = line.strip_prefix('<')?.split_once('>')?;
    let is_number = (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let priority = digits.parse::<u8>().ok().filter(|priority| is_number && *priority <= 191)?;
    Some((priority, rest))
}

/// The rest of an RFC 5424 line after its version; returns the message.
fn modern<'a>(rest: &'a str, records: &mut Records) -> Result<&'a str, RowError> {
    let mut rest = rest;
    let mut word = || {
        let (word, after) = rest.split_once(' ').ok_or(error("the RFC 5424 header ends early"))?;
        rest = after;
        Ok(word)
    };
    let time = word()?;
    let fields = [("host", word()?), ("app", word()?), ("procid", word()?), ("msgid", word()?)];
    if time != "-" {
        let us = records.time.text(time.as_bytes()).ok_or(error("a time that cannot be read"))?;
        records.stamp(Some(us));
    }
    for (name, value) in fields.into_iter().filter(|(_, value)| *value != "-") {
        records.text_field(name, value.as_bytes())?;
    }
    let (data, message) = structured_data(rest)?;
    if !data.is_empty() {
        records.attributes(Value::Object(data).to_string().as_bytes());
    }
    let message = message.strip_prefix(' ').unwrap_or(message);
    Ok(message.strip_prefix('\u{feff}').unwrap_or(message))
}

/// `-` or `[id name="value" …][…]`, and what follows. A name that comes again makes a list.
fn structured_data(text: &str) -> Result<(Map<String, Value>, &str), RowError> {
    let mut data = Map::new();
    if let Some(rest) = text.strip_prefix('-') {
        return Ok((data, rest));
    }
    let mut rest = text;
    while let Some(inner) = rest.strip_prefix('[') {
        let id_end = inner.find([' ', ']']).ok_or(error("structured data without an end"))?;
        let mut element = Map::new();
        rest = &inner[id_end..];
        while let Some(parameter) = rest.strip_prefix(' ') {
            let (name, quoted) =
                parameter.split_once("=\"").ok_or(error("structured data without a value"))?;
            let (value, after) = parameter_value(quoted)?;
            rest = after;
            add(&mut element, name, value);
        }
        rest = rest.strip_prefix(']').ok_or(error("structured data without an end"))?;
        data.insert(inner[..id_end].to_owned(), Value::Object(element));
    }
    if data.is_empty() { Err(error("no structured data where it must stand")) } else { Ok((data, rest)) }
}

fn add(element: &mut Map<String, Value>, name: &str, value: String) {
    match element.get_mut(name) {
        None => drop(element.insert(name.to_owned(), Value::String(value))),
        Some(Value::Array(values)) => values.push(Value::String(value)),
        Some(first) => *first = Value::Array(vec![first.take(), Value::String(value)]),
    }
}

/// A value up to its closing quote, with `\"`, `\\` and `\]` unescaped, and what follows.
fn parameter_value(text: &str) -> Result<(String, &str), RowError> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let stop = rest.find(['"', '\\']).ok_or(error("structured data without an end"))?;
        value.push_str(&rest[..stop]);
        let after = &rest[stop + 1..];
        if rest.as_bytes()[stop] == b'"' {
            return Ok((value, after));
        }
        match after.as_bytes().first() {
            Some(b'"' | b'\\' | b']') => {
                value.push_str(&after[..1]);
                rest = &after[1..];
            }
            _ => {
                value.push('\\');
                rest = after;
            }
        }
    }
}

/// An RFC 3164 line after its priority, or a line of a log file; returns the message.
fn classic<'a>(line: &'a str, records: &mut Records) -> Result<&'a str, RowError> {
    let Some((us, used)) = records.time.leading_with_length(line.as_bytes()) else { return Ok(line) };
    let Some(rest) = line[used..].strip_prefix([' ', ':']) else { return Ok(line) };
    records.stamp(Some(us));
    let rest = rest.trim_start_matches(' ');
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let rest = if tag(first).is_some() || after.is_empty() {
        rest
    } else {
        records.text_field("host", first.as_bytes())?;
        after
    };
    let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let Some((app, process)) = tag(first) else { return Ok(rest) };
    records.text_field("app", app.as_bytes())?;
    if let Some(process) = process {
        records.text_field("procid", process.as_bytes())?;
    }
    Ok(after)
}

/// `app[123]:` or `app:`, in parts.
fn tag(word: &str) -> Option<(&str, Option<&str>)> {
    let name = word.strip_suffix(':')?;
    match name.strip_suffix(']').and_then(|name| name.split_once('[')) {
        Some((app, process)) => (!app.is_empty()).then_some((app, Some(process))),
        None => (!name.is_empty()).then_some((name, None)),
    }
}

fn error(what: &'static str) -> RowError {
    RowError::Format { format: Format::Syslog.words(), what }
}
