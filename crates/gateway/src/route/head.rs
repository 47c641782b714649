//! What of a head is passed on, and what is added.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{self, HeaderName, HeaderValue};

/// What is about one connection and not about the message (RFC 9110, section 7.6.1), and what proxies of old add.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What is said of whoever asked: made anew, because anybody can write it.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];
/// By which a request is found again in logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Whether the gateway itself writes a header, so that no route may.
pub(crate) fn is_ours(name: &str) -> bool {
    let name = name.to_lowercase();
    let named = |list: &[&str]| list.contains(&name.as_str());
    named(&HOP_BY_HOP)
        || named(&FORWARDED)
        || [REQUEST_ID.as_str(), TRACEPARENT.as_str(), "host", "content-length"].contains(&name.as_str())
}

/// Takes away what is about one connection: the names above, and those that `connection` lists.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether a request wants the connection to become a WebSocket.
pub(crate) fn is_web_socket(headers: &HeaderMap) -> bool {
    let lists = |name: HeaderName, wanted: &str| {
        let values = headers.get_all(name);
        let mut words =
            values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    lists(header::CONNECTION, "upgrade") && lists(header::UPGRADE, "websocket")
}

/// Who asked, as an upstream is told.
pub(crate) fn add_forwarded(
    headers: &mut HeaderMap,
    client: IpAddr,
    is_tls: bool,
    host: Option<&HeaderValue>,
) {
    for name in FORWARDED {
        headers.remove(name);
    }
    let client = client.to_canonical().to_string();
    if let Ok(client) = HeaderValue::from_str(&client) {
        headers.insert(HeaderName::from_static("x-forwarded-for"), client);
    }
    let scheme = HeaderValue::from_static(if is_tls { "https" } else { "http" });
    headers.insert(HeaderName::from_static("x-forwarded-proto"), scheme);
    if let Some(host) = host {
        headers.insert(HeaderName::from_static("x-forwarded-host"), host.clone());
    }
}

/// By what a request is found again: its id, and the trace that it belongs to, which `fresh` begins where it has none.
pub(crate) fn add_trace(headers: &mut HeaderMap, request_id: &str, fresh: u128) {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, id);
    }
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(trace_of);
    let (trace, flags) = given.unwrap_or_else(|| (format!("{:032x}", fresh.max(1)), "01".to_owned()));
    // The span is this hop's own.
    let span = ((fresh >> 64) as u64 ^ fresh as u64).max(1);
    if let Ok(value) = HeaderValue::from_str(&format!("00-{trace}-{span:016x}-{flags}")) {
        headers.insert(TRACEPARENT, value);
    }
}

/// Trace and flags of a `traceparent` that is well formed.
fn trace_of(value: &str) -> Option<(String, String)> {
    let parts: Vec<&str> = value.split('-').collect();
    let [version, trace, span, flags] = parts.as_slice() else { return None };
    let is_hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_some = |text: &str| text.bytes().any(|byte| byte != b'0');
    let is_well = *version == "00" && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    (is_well && is_some(trace) && is_some(span)).then(|| ((*trace).to_owned(), (*flags).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn what_is_about_one_connection_is_not_passed_on() {
        let mut head =
            headers(&[("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "a")]);
        remove_hop_by_hop(&mut head);
        assert_eq!(head, headers(&[("accept", "a")]));
        assert!(is_web_socket(&headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!is_web_socket(&headers(&[("connection", "upgrade"), ("upgrade", "h2c")])));
    }

    #[test]
    fn what_somebody_says_of_themselves_is_replaced() {
        let mut head = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
        ]);
        let host = HeaderValue::from_static("a.example");
        add_forwarded(&mut head, "10.0.0.1".parse().unwrap(), true, Some(&host));
        let expected = [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "a.example"),
        ];
        assert_eq!(head, headers(&expected));
    }

    #[test]
    fn a_trace_goes_on_and_a_broken_one_begins_anew() {
        let traced = |given: &'static str| {
            let mut head = headers(&[("traceparent", given)]);
            add_trace(&mut head, "r1", 0xab);
            assert_eq!(head["x-request-id"], "r1");
            head["traceparent"].to_str().unwrap().to_owned()
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            traced("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
            format!("00-{trace}-00000000000000ab-00")
        );
        let anew = format!("00-{:032x}-00000000000000ab-01", 0xab);
        for broken in ["", "x", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
            assert_eq!(traced(broken), anew, "{broken}");
        }
    }
}
