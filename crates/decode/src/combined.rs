//! The access log of nginx and Apache, common or combined:
//! `192.0.2.7 - frank [23/Nov/2026:22:44:30 +0000] "GET /a HTTP/1.1" 200 2326 "https://ref/" "agent/1.0" …`
//!
//! `-` is null. Quoted texts keep their escapes as the server wrote them. What follows the user agent stands in the attributes as
//! `{"extra": …}`. A request that is no HTTP request line stands whole in `path`.

use crate::config::Format;
use crate::decoded::RowError;
use crate::record::Records;

pub(crate) fn read(line: &str, records: &mut Records) -> Result<(), RowError> {
    let error = |what| RowError::Format { format: Format::Combined.words(), what };
    let (address, rest) = line.split_once(' ').ok_or(error("no client address"))?;
    // A user name may hold spaces: it ends where the time begins.
    let (names, rest) = rest.split_once(" [").ok_or(error("no time in brackets"))?;
    let (ident, user) = names.split_once(' ').ok_or(error("no user"))?;
    let (time, rest) = rest.split_once("] ").ok_or(error("no time in brackets"))?;
    let time_us = records.time.text(time.as_bytes()).ok_or(error("a time that cannot be read"))?;
    let (request, rest) = quoted(rest).ok_or(error("no quoted request"))?;
    let mut words = rest.trim_start().splitn(3, ' ');
    let status = words.next().filter(|status| is_number(status)).ok_or(error("no status"))?;
    let bytes = words.next().filter(|bytes| *bytes == "-" || is_number(bytes)).ok_or(error("no size"))?;
    let rest = words.next().unwrap_or("").trim_start();

    records.stamp(Some(time_us));
    text(records, "remote_addr", address)?;
    text(records, "ident", ident)?;
    text(records, "remote_user", user)?;
    give_request(records, request)?;
    number(records, "status", status)?;
    number(records, "bytes", bytes)?;
    let rest = match quoted(rest) {
        Some((referer, rest)) => {
            text(records, "referer", referer)?;
            rest.trim_start()
        }
        None => rest,
    };
    let rest = match quoted(rest) {
        Some((agent, rest)) => {
            text(records, "user_agent", agent)?;
            rest.trim_start()
        }
        None => rest,
    };
    if !rest.is_empty() {
        records.attributes(serde_json::json!({ "extra": rest }).to_string().as_bytes());
    }
    Ok(())
}

fn give_request(records: &mut Records, request: &str) -> Result<(), RowError> {
    let is_method = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_' || byte == b'-')
    };
    match request.split_once(' ') {
        Some((method, target)) if is_method(method) => {
            text(records, "method", method)?;
            let (path, protocol) = target.rsplit_once(" HTTP/").unwrap_or((target, ""));
            text(records, "path", path)?;
            if protocol.is_empty() { Ok(()) } else { text(records, "protocol", &target[path.len() + 1..]) }
        }
        _ => text(records, "path", request),
    }
}

/// A text in quotes at the beginning of `text`, in which a backslash takes the next character with it, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut from = 0;
    loop {
        let stop = from + memchr::memchr2(b'"', b'\\', inner.as_bytes().get(from..)?)?;
        if inner.as_bytes()[stop] == b'"' {
            return Some((&inner[..stop], &inner[stop + 1..]));
        }
        from = stop + 2;
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn text(records: &mut Records, field: &str, value: &str) -> Result<(), RowError> {
    if value == "-" { Ok(()) } else { records.text_field(field, value.as_bytes()) }
}

fn number(records: &mut Records, field: &str, value: &str) -> Result<(), RowError> {
    if value == "-" { Ok(()) } else { records.field(field, value.as_bytes()) }
}
