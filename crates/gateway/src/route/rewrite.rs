//! Paths, headers and JSON as a route wants them.

use aap_runtime::SecretRef;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::spec::{JsonRewrite, Rewrite};
use super::table::is_within;

/// The path and query of a request as an upstream sees them.
pub(crate) fn path(rewrite: &Rewrite, path: &str, query: Option<&str>) -> String {
    let strip = rewrite.strip.as_deref().map(|strip| strip.trim_end_matches('/'));
    let rest = match strip {
        Some(strip) if is_within(path, strip) => &path[strip.len()..],
        _ => path,
    };
    let prefix = rewrite.prefix.as_deref().unwrap_or_default().trim_end_matches('/');
    let mut out = format!("{prefix}{rest}");
    if !out.starts_with('/') {
        out.insert(0, '/');
    }
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

/// Removes headers, then sets some. Names and values were checked.
pub(crate) fn headers(rewrite: &Rewrite, headers: &mut HeaderMap) {
    for name in &rewrite.remove {
        headers.remove(name.as_str());
    }
    for (name, value) in &rewrite.set {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

/// Headers with secrets, read anew. Blocks for small files.
///
/// # Errors
/// The header whose secret cannot be read, or cannot stand in a header, and why.
pub(crate) fn secrets(rewrite: &Rewrite) -> Result<Vec<(HeaderName, HeaderValue)>, (String, String)> {
    let header = |(name, reference): (&String, &SecretRef)| {
        let failed = |why: String| (name.clone(), why);
        let secret = reference.read().map_err(|error| failed(error.to_string()))?;
        let name = HeaderName::try_from(name).map_err(|error| failed(error.to_string()))?;
        let value = HeaderValue::try_from(secret.reveal());
        let mut value = value.map_err(|_| failed("it has letters that no header can hold".to_owned()))?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    rewrite.secrets.iter().map(header).collect()
}

/// A JSON body as it is passed on; `None` where it is no object, which is passed on as it came.
pub(crate) fn json(rewrite: &JsonRewrite, body: &[u8]) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let mut value: Value = serde_json::from_slice(body)?;
    let Value::Object(object) = &mut value else { return Ok(None) };
    for path in &rewrite.remove {
        remove(object, path);
    }
    for (path, value) in &rewrite.set {
        set(object, path, value);
    }
    serde_json::to_vec(&value).map(Some)
}

fn remove(object: &mut Map<String, Value>, path: &str) {
    match path.split_once('.') {
        None => drop(object.remove(path)),
        Some((first, rest)) => {
            if let Some(Value::Object(inner)) = object.get_mut(first) {
                remove(inner, rest);
            }
        }
    }
}

/// Makes what is missing on the way, and replaces what is no object.
fn set(object: &mut Map<String, Value>, path: &str, value: &Value) {
    let Some((first, rest)) = path.split_once('.') else {
        object.insert(path.to_owned(), value.clone());
        return;
    };
    let inner = object.entry(first).or_insert_with(|| Value::Object(Map::new()));
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    if let Value::Object(inner) = inner {
        set(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rewrite(text: Value) -> Rewrite {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_path_loses_its_beginning_and_gets_another() {
        let both = rewrite(json!({"strip": "/models/", "prefix": "/v1/"}));
        let only_strip = rewrite(json!({"strip": "/models"}));
        for (rewrite, from, to) in [
            (&both, "/models/a?x=1", "/v1/a?x=1"),
            (&both, "/models", "/v1"),
            (&both, "/modelsx", "/v1/modelsx"),
            (&only_strip, "/models", "/"),
            (&only_strip, "/models/a", "/a"),
            (&Rewrite::default(), "/models/a?", "/models/a?"),
        ] {
            let (path_only, query) =
                from.split_once('?').map_or((from, None), |(path, query)| (path, Some(query)));
            assert_eq!(path(rewrite, path_only, query), to, "{from}");
        }
    }

    #[test]
    fn headers_go_before_others_come() {
        let mut head = HeaderMap::new();
        head.insert("x-a", HeaderValue::from_static("1"));
        head.append("x-b", HeaderValue::from_static("1"));
        head.append("x-b", HeaderValue::from_static("2"));
        headers(&rewrite(json!({"remove": ["X-A", "x-b"], "set": {"X-B": "3"}})), &mut head);
        assert_eq!((head.len(), &head["x-b"]), (1, &HeaderValue::from_static("3")));
    }

    #[test]
    fn fields_of_json_go_and_come_and_everything_else_stays() {
        let change: JsonRewrite = serde_json::from_value(
            json!({"set": {"a.b": 1, "n.x": "y"}, "remove": ["secret", "deep.secret", "no.such"]}),
        )
        .unwrap();
        let body =
            json!({"a": {"c": [1, {"secret": 1}]}, "n": 5, "secret": 1, "deep": {"secret": 2, "k": null}});
        let changed = json(&change, body.to_string().as_bytes()).unwrap().unwrap();
        let changed: Value = serde_json::from_slice(&changed).unwrap();
        let expected = json!({"a": {"b": 1, "c": [1, {"secret": 1}]}, "n": {"x": "y"}, "deep": {"k": null}});
        assert_eq!(changed, expected);
        assert_eq!(json(&change, b"[1]").unwrap(), None);
        assert!(json(&change, b"{").is_err());
    }
}
