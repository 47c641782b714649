//! Which route a request is for.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;

use super::refusal::{Refusal, bad_path, no_route};
use super::spec::{Matches, RouteSpec};

/// Routes under their names, those that ask for more first.
#[derive(Debug, Clone)]
pub struct RouteTable<R> {
    routes: Vec<(Matches, Arc<R>)>,
}

impl<R> RouteTable<R> {
    /// Of routes in the order of their names, which decides between two that ask for the same.
    pub fn new<'a>(routes: impl IntoIterator<Item = (&'a RouteSpec, Arc<R>)>) -> Self
    where
        R: 'a,
    {
        let mut routes: Vec<_> =
            routes.into_iter().map(|(spec, route)| (spec.matches.clone(), route)).collect();
        routes.sort_by_key(|(matches, _)| std::cmp::Reverse(weight(matches)));
        Self { routes }
    }

    /// The route of a request.
    ///
    /// # Errors
    /// `gateway.bad_path` (400), `gateway.no_route` (404).
    pub fn find(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<&Arc<R>, Refusal> {
        if !is_plain(uri.path()) {
            return Err(bad_path());
        }
        let host = host_of(uri, headers);
        let is_for = |matches: &Matches| holds(matches, method, host.as_deref(), uri.path(), headers);
        let found = self.routes.iter().find(|(matches, _)| is_for(matches));
        found.map(|(_, route)| route).ok_or_else(no_route)
    }
}

impl<R> Default for RouteTable<R> {
    fn default() -> Self {
        Self { routes: vec![] }
    }
}

/// A host before any, a whole path before a beginning, a longer one before a shorter, more conditions before fewer.
fn weight(matches: &Matches) -> (bool, bool, usize, usize) {
    let path = matches.path.as_ref().or(matches.prefix.as_ref());
    let conditions = matches.headers.len() + usize::from(!matches.methods.is_empty());
    (matches.host.is_some(), matches.path.is_some(), path.map_or(0, String::len), conditions)
}

fn holds(matches: &Matches, method: &Method, host: Option<&str>, path: &str, headers: &HeaderMap) -> bool {
    let of_host =
        matches.host.as_ref().is_none_or(|wanted| host.is_some_and(|host| host.eq_ignore_ascii_case(wanted)));
    let of_path = match (&matches.path, &matches.prefix) {
        (Some(whole), _) => path == whole,
        (None, Some(prefix)) => is_within(path, prefix),
        (None, None) => false,
    };
    let of_method = match matches.methods.as_slice() {
        [] => ![Method::CONNECT, Method::TRACE].contains(method),
        methods => methods.iter().any(|wanted| wanted == method.as_str()),
    };
    let has =
        |(name, value): (&String, &String)| headers.get_all(name.as_str()).iter().any(|found| found == value);
    of_host && of_path && of_method && matches.headers.iter().all(has)
}

/// Whether a path begins with another, in whole segments.
pub(crate) fn is_within(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The host that was asked, without port.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(host) = uri.host() {
        return Some(host.to_owned());
    }
    let text = headers.get(hyper::header::HOST)?.to_str().ok()?;
    let authority: Uri = text.parse().ok()?;
    authority.host().map(str::to_owned)
}

/// Whether everybody reads a path alike: it begins with a slash and has no segment `.` or `..`, no empty one but the last, no slash or
/// backslash that is encoded, and nothing encoded that need not be (RFC 3986 section 6.2.2.2). What is not plain could be one path for the
/// rule that lets it through, and another for the server behind.
pub(crate) fn is_plain(path: &str) -> bool {
    let Some(segments) = path.strip_prefix('/') else { return false };
    let mut segments = segments.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        if (segment.is_empty() && !is_last) || !is_plain_segment(segment) {
            return false;
        }
    }
    true
}

fn is_plain_segment(segment: &str) -> bool {
    let decoded: Vec<u8> = percent_decode_str(segment).collect();
    let is_bad = |byte: &u8| b"/\\".contains(byte) || byte.is_ascii_control();
    decoded != b"." && decoded != b".." && !decoded.iter().any(is_bad) && is_encoded_sparingly(segment)
}

/// Whether what is encoded is whole, and none of the letters that everybody may decode.
fn is_encoded_sparingly(segment: &str) -> bool {
    segment.split('%').skip(1).all(|rest| {
        let byte = rest.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        byte.is_some_and(|byte| !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(matches: &str) -> RouteSpec {
        let text =
            format!(r#"{{"match": {matches}, "public": true, "upstreams": {{"urls": ["http://u"]}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn found(method: &str, uri: &str, header: Option<(&str, &str)>) -> String {
        let routes = [
            ("any", r#"{"prefix": "/"}"#),
            ("exact", r#"{"path": "/models/a"}"#),
            ("host", r#"{"host": "m.example", "prefix": "/"}"#),
            ("long", r#"{"prefix": "/models/b"}"#),
            ("short", r#"{"prefix": "/models", "methods": ["GET"]}"#),
            ("tenant", r#"{"prefix": "/models", "methods": ["GET"], "headers": {"x-tenant": "acme"}}"#),
        ]
        .map(|(name, matches)| (route(matches), Arc::new(name)));
        let table = RouteTable::new(routes.iter().map(|(spec, name)| (spec, name.clone())));
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        match table.find(&method, &uri.parse().unwrap(), &headers) {
            Ok(name) => (**name).to_owned(),
            Err(refusal) => refusal.problem.code.clone(),
        }
    }

    #[test]
    fn the_route_that_asks_for_most_is_the_one() {
        for (method, uri, header, expected) in [
            ("GET", "/x", None, "any"),
            ("GET", "/models", None, "short"),
            ("GET", "/models/", None, "short"),
            ("GET", "/models/c?x=1", None, "short"),
            ("POST", "/models/c", None, "any"),
            ("GET", "/modelsx", None, "any"),
            ("GET", "/models/a", None, "exact"),
            ("GET", "/models/a/b", None, "short"),
            ("PUT", "/models/b/c", None, "long"),
            ("GET", "/models", Some(("x-tenant", "acme")), "tenant"),
            ("GET", "/models", Some(("x-tenant", "acm")), "short"),
            ("GET", "/models", Some(("host", "M.example:80")), "host"),
            ("GET", "http://m.example/models/a", None, "host"),
            ("CONNECT", "/x", None, "gateway.no_route"),
            ("GET", "/models/../x", None, "gateway.bad_path"),
        ] {
            assert_eq!(found(method, uri, header), expected, "{method} {uri} {header:?}");
        }
    }

    #[test]
    fn a_path_that_two_could_read_differently_is_not_plain() {
        for plain in ["/", "/a/", "/a.b/..c", "/a%20b", "/%C3%A4"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in [
            "",
            "a",
            "/a/../b",
            "/a/.",
            "/%2e%2E/b",
            "/a/.%2e",
            "/a%2fb",
            "/a%5cb",
            "/a\\b",
            "/%00",
            "/a//b",
            "//a",
            "/%41",
            "/%7e",
            "/%",
            "/%4",
            "/%zz",
        ] {
            assert!(!is_plain(other), "{other}");
        }
    }
}
