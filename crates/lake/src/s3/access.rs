//! What every document about a store says. Each has these fields among its own, because a document that refuses fields which it
//! does not know cannot take them from a part.

use aap_runtime::SecretRef;
use camino::Utf8Path;
use object_store::path::Path;

/// What AWS takes for a region where none is named; most other stores look at none.
const REGION_DEFAULT: &str = "us-east-1";

/// How a store is reached, as a document says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    pub(crate) url: &'a str,
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    pub(crate) access_key: Option<&'a SecretRef>,
    pub(crate) secret_key: Option<&'a SecretRef>,
    pub(crate) session_token: Option<&'a SecretRef>,
    pub(crate) ca: Option<&'a Utf8Path>,
    pub(crate) path_style: Option<bool>,
    pub(crate) insecure: bool,
}

/// Where the objects of a url stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location<'a> {
    Bucket { name: &'a str, prefix: &'a str },
    Directory(&'a Utf8Path),
}

impl<'a> Access<'a> {
    /// Where it is, without anything secret.
    pub(crate) fn place(&self) -> String {
        match self.endpoint {
            Some(endpoint) => format!("{} at {endpoint}", self.url),
            None => self.url.to_owned(),
        }
    }

    /// Looks at what no single field can know. The error is what is wrong, and what to write instead.
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Location::Directory(_) = self.location()? {
            return self.check_directory();
        }
        match (self.access_key, self.secret_key) {
            (Some(_), None) => return Err("`access_key` needs a `secret_key`, as in `file:PATH`".into()),
            (None, Some(_)) => return Err("`secret_key` needs an `access_key`, as in `env:NAME`".into()),
            (None, None) if self.session_token.is_some() => {
                return Err("`session_token` needs an `access_key` and a `secret_key`".into());
            }
            (None, None) if self.endpoint.is_some() => {
                return Err("a store with an `endpoint` needs an `access_key` and a `secret_key`".into());
            }
            _ => {}
        }
        self.check_endpoint()
    }

    fn check_directory(&self) -> Result<(), String> {
        let given = [
            ("endpoint", self.endpoint.is_some()),
            ("region", self.region.is_some()),
            ("access_key", self.access_key.is_some()),
            ("secret_key", self.secret_key.is_some()),
            ("session_token", self.session_token.is_some()),
            ("ca", self.ca.is_some()),
            ("path_style", self.path_style.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(format!("`{name}` means nothing for a directory")),
            None => Ok(()),
        }
    }

    fn check_endpoint(&self) -> Result<(), String> {
        let Some(endpoint) = self.endpoint else { return Ok(()) };
        let form = || format!("`endpoint` `{endpoint}` is not `https://HOST:PORT`");
        let (scheme, rest) = endpoint.split_once("://").ok_or_else(form)?;
        let authority = rest.trim_end_matches('/');
        let uri: hyper::Uri = format!("{scheme}://{authority}/").parse().map_err(|_| form())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(form)?;
        if authority.contains(['/', '@', '?', '#']) {
            return Err(form());
        }
        match scheme {
            "https" => Ok(()),
            "http" if self.insecure || is_this_machine(host) => Ok(()),
            "http" => Err(format!(
                "`{endpoint}` is not encrypted: rows and keys could be read on the way. Use https, or say `insecure: true`"
            )),
            _ => Err(form()),
        }
    }

    /// The parts of `url`.
    pub(crate) fn location(&self) -> Result<Location<'a>, String> {
        let form = || {
            // It is not repeated: it may have a secret in it.
            "`url` is `s3://BUCKET/PREFIX`, or `file:///DIRECTORY`, with nothing else in it".to_owned()
        };
        if let Some(directory) = self.url.strip_prefix("file://") {
            let directory = Utf8Path::new(directory);
            return if directory.is_absolute() { Ok(Location::Directory(directory)) } else { Err(form()) };
        }
        let rest = self.url.strip_prefix("s3://").ok_or_else(form)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(form());
        }
        let prefix = prefix.trim_end_matches('/');
        Path::parse(prefix).map_err(|error| format!("the prefix in `url` cannot be: {error}"))?;
        Ok(Location::Bucket { name, prefix })
    }

    pub(crate) fn region(&self) -> &'a str {
        self.region.unwrap_or(REGION_DEFAULT)
    }

    pub(crate) fn has_path_style(&self, bucket: &str) -> bool {
        // A certificate for all buckets covers no name with another dot in it.
        self.path_style.unwrap_or(self.endpoint.is_some() || bucket.contains('.'))
    }
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
