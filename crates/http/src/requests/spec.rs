//! What an operator says about a sink.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use aap_runtime::SecretRef;
use aap_sinks::Template;
use camino::Utf8PathBuf;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::client::{Compression, Login, check_url, header};

/// Rows of a request: some hundred kilobytes of JSON, which any server takes.
const MAX_ROWS_DEFAULT: NonZeroUsize = NonZeroUsize::new(1000).expect("not zero");
/// Beyond that a request takes more of the coordinator's memory than a sink may.
const MAX_ROWS_MAX: usize = 100_000;
/// How long an answer may take.
const TIMEOUT_S_DEFAULT: NonZeroU64 = NonZeroU64::new(30).expect("not zero");
const TIMEOUT_S_MAX: u64 = 600;
/// Requests under way at a time.
const CONCURRENCY_DEFAULT: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");
const CONCURRENCY_MAX: usize = 64;
/// Headers that the sink sets by itself, or that hold secrets.
const OURS: [&str; 9] = [
    "aap-batch",
    "aap-rows",
    "aap-stream",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
];

/// Where rows go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// `https://host/path`; `{stream}` is replaced by the name of the stream.
    pub url: Template,
    /// Default: `POST`.
    #[serde(default)]
    pub method: Verb,
    /// What a body is. Default: a row a line.
    #[serde(default)]
    pub format: Format,
    /// Sent with each request. No secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Where a token stands that is sent as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<SecretRef>,
    /// Who we are. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// A PEM file with the authorities to believe. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
    /// How bodies are compressed. Default: not at all.
    #[serde(default)]
    pub compression: Compression,
    /// Rows of a request; one batch of more rows goes as one request nevertheless. Default: 1000.
    #[serde(default = "max_rows_default")]
    pub max_rows: NonZeroUsize,
    /// How long an answer may take, in seconds. Default: 30.
    #[serde(default = "timeout_default")]
    pub timeout_s: NonZeroU64,
    /// Requests under way at a time, each of another node. Default: 4.
    #[serde(default = "concurrency_default")]
    pub concurrency: NonZeroUsize,
}

/// The method of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// `POST`.
    #[default]
    #[serde(rename = "POST")]
    Post,
    /// `PUT`.
    #[serde(rename = "PUT")]
    Put,
}

/// What a body is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line.
    #[default]
    Ndjson,
    /// An array of JSON objects.
    Json,
}

fn max_rows_default() -> NonZeroUsize {
    MAX_ROWS_DEFAULT
}

fn timeout_default() -> NonZeroU64 {
    TIMEOUT_S_DEFAULT
}

fn concurrency_default() -> NonZeroUsize {
    CONCURRENCY_DEFAULT
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Json => "application/json",
        }
    }
}

impl HttpSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        [&self.bearer, &self.password].into_iter().flatten().cloned().collect()
    }

    /// Where it writes, without anything secret.
    pub fn place(&self) -> String {
        self.url.to_string()
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let sample = "s".parse().map_err(|_never| "no stream has a name".to_owned())?;
        check_url(&self.url.of(&sample))?;
        for (name, value) in &self.headers {
            if OURS.contains(&name.to_lowercase().as_str()) {
                let instead = match name.to_lowercase().as_str() {
                    "authorization" => "; give `bearer`, or `username` and `password`",
                    _ => "",
                };
                return Err(format!("`{name}` in `headers` is set by the sink itself{instead}"));
            }
            header(name, value)
                .ok_or_else(|| format!("`{name}` in `headers` is no header that can be sent"))?;
        }
        match (&self.username, &self.password, &self.bearer) {
            (Some(_), None, _) => {
                return Err("`username` needs a `password`, as in `password: env:NAME`".to_owned());
            }
            (None, Some(_), _) => return Err("`password` needs a `username`".to_owned()),
            (Some(_), Some(_), Some(_)) => {
                return Err("`bearer` stands beside `username`: give one of them".to_owned());
            }
            _ => {}
        }
        for (name, value, most) in [
            ("max_rows", self.max_rows.get(), MAX_ROWS_MAX),
            (
                "timeout_s",
                usize::try_from(self.timeout_s.get()).unwrap_or(usize::MAX),
                TIMEOUT_S_MAX as usize,
            ),
            ("concurrency", self.concurrency.get(), CONCURRENCY_MAX),
        ] {
            if value > most {
                return Err(format!("`{name}` is at most {most}"));
            }
        }
        Ok(())
    }

    pub(crate) fn login(&self) -> Login {
        let token = self.bearer.as_ref().map(|token| ("Bearer", token));
        Login::of(self.username.as_ref(), self.password.as_ref(), token)
    }

    pub(crate) fn method(&self) -> Method {
        match self.method {
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s.get())
    }

    /// Those that were checked.
    pub(crate) fn header_map(&self) -> HeaderMap {
        self.headers.iter().filter_map(|(name, value)| header(name, value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let url = if more.contains("url:") { "" } else { "url: 'https://a.example/in/{stream}'\n" };
        let found = match serde_norway::from_str::<HttpSpec>(&format!("{url}{more}")) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check(
            "method: PUT\nformat: json\ncompression: zstd\nheaders: {X-Site: oslo}\nbearer: file:/x\n",
            "fine",
        );
        check("url: 'a.example/x'\n", "no URL");
        check("url: 'https://me:pw@a.example'\n", "`username` and `password`");
        check("headers: {Authorization: x}\n", "give `bearer`");
        check("headers: {Idempotency-Key: x}\n", "set by the sink itself");
        check("headers: {'a b': x}\n", "no header");
        check("bearer: hunter2\n", "never written down here");
        check("bearer: env:A\nusername: me\npassword: env:B\n", "give one of them");
        check("username: me\n", "needs a `password`");
        check("max_rows: 0\n", "nonzero");
        check("timeout_s: 3600\n", "at most 600");
        check("method: GET\n", "unknown variant `GET`");
        check("colour: red\n", "unknown field `colour`");
    }
}
