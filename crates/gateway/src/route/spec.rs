//! What an operator says about a route.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use aap_runtime::SecretRef;
use aap_types::ByteCount;
use camino::Utf8PathBuf;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Uri};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::address::Reach;
use super::head::is_ours;
use super::table::is_plain;
use crate::Rate;

/// Attempts after the first, at most: more of them make an outage worse.
const RETRIES_MAX: u32 = 5;

/// The section `spec` of a document of kind Route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// Which requests it is for.
    #[serde(rename = "match")]
    pub matches: Matches,
    /// Who may. Either this or `public: true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// Whether everybody may, known or not. Default: false.
    #[serde(default)]
    pub public: bool,
    /// How often each caller may; where everybody may, each address. Default: as often as the gateway lets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Rate>,
    /// How long an upstream may take until its answer begins. Default: 30.
    #[serde(default = "timeout")]
    pub timeout_seconds: NonZeroU32,
    /// How long nothing may move in a body, a stream of events or a WebSocket. Default: 60.
    #[serde(default = "idle")]
    pub idle_seconds: NonZeroU32,
    /// Largest bodies of requests.
    #[serde(default)]
    pub body: BodyLimits,
    /// What becomes of a request.
    #[serde(default)]
    pub request: Rewrite,
    /// What becomes of an answer. Paths and secrets are of requests only.
    #[serde(default)]
    pub response: Rewrite,
    /// Where it goes.
    pub upstreams: Upstreams,
    /// Attempts after the first, for methods that may be repeated and bodies of at most 64 KiB. Default: 1.
    #[serde(default = "retries")]
    pub retries: u32,
    /// When an upstream is left alone.
    #[serde(default)]
    pub breaker: BreakerSpec,
}

/// Which requests a route is for. All that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Matches {
    /// The host that was asked, without port. Default: any.
    pub host: Option<String>,
    /// What the path begins with, in whole segments: `/models` is for `/models` and `/models/a`, not for `/modelsx`.
    pub prefix: Option<String>,
    /// The whole path.
    pub path: Option<String>,
    /// Methods. Default: all but CONNECT and TRACE.
    pub methods: Vec<String>,
    /// Headers with exactly these values.
    pub headers: BTreeMap<String, String>,
}

/// What a caller needs: a permission, in the words of roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// Kind of object.
    pub resource: String,
    /// What is done to it.
    pub verb: String,
    /// Its name.
    pub name: String,
}

/// Largest bodies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BodyLimits {
    /// As they come. Default: 16 MiB.
    pub bytes: ByteCount,
    /// Unpacked. Default: 16 MiB.
    pub decoded_bytes: ByteCount,
    /// How many times larger than they came. Default: 100.
    pub ratio: NonZeroU32,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            bytes: ByteCount::mib(16),
            decoded_bytes: ByteCount::mib(16),
            ratio: NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN),
        }
    }
}

/// What is changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Taken off the front of the path.
    pub strip: Option<String>,
    /// Put before it, after that.
    pub prefix: Option<String>,
    /// Headers that get these values.
    pub set: BTreeMap<String, String>,
    /// Headers that get secrets, read for each request: `authorization: env:TOKEN`.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Headers that go.
    pub remove: Vec<String>,
    /// Fields of JSON objects.
    pub json: JsonRewrite,
}

/// Fields of a JSON object, as paths with dots.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonRewrite {
    /// Fields that get these values.
    pub set: BTreeMap<String, Value>,
    /// Fields that go.
    pub remove: Vec<String>,
}

impl JsonRewrite {
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// Servers, `http://` or `https://`, with host and port alone.
    pub urls: Vec<String>,
    /// How they are chosen. Default: one after the other.
    #[serde(default)]
    pub balance: Balance,
    /// Which addresses they may have beside public ones. Link-local ones, where clouds keep their secrets, never.
    #[serde(default)]
    pub allow: Reach,
    /// A PEM file with the authorities to believe. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
}

/// How an upstream is chosen: `round_robin`, `address`, `header:NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// One address always to the same, as long as that one is well.
    HashAddress,
    /// One value of this header always to the same.
    HashHeader(String),
}

impl TryFrom<String> for Balance {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.strip_prefix("header:")) {
            ("round_robin", _) => Ok(Self::RoundRobin),
            ("address", _) => Ok(Self::HashAddress),
            (_, Some(name)) => Ok(Self::HashHeader(name.to_owned())),
            _ => {
                Err(format!("`{text}` is no way to choose: write `round_robin`, `address` or `header:NAME`"))
            }
        }
    }
}

impl From<Balance> for String {
    fn from(balance: Balance) -> Self {
        match balance {
            Balance::RoundRobin => "round_robin".to_owned(),
            Balance::HashAddress => "address".to_owned(),
            Balance::HashHeader(name) => format!("header:{name}"),
        }
    }
}

/// When an upstream is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerSpec {
    /// Failures in a row: not reached, late, or answered with 500, 502, 503 or 504. Default: 5.
    pub failures: NonZeroU32,
    /// For how long it is left alone then. Default: 10.
    pub open_seconds: NonZeroU32,
    /// A path that is asked for all the time, every `open_seconds`; only its success brings an upstream back. Default: the next request tries.
    pub probe: Option<String>,
}

impl Default for BreakerSpec {
    fn default() -> Self {
        let number = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self { failures: number(5), open_seconds: number(10), probe: None }
    }
}

fn timeout() -> NonZeroU32 {
    NonZeroU32::new(30).unwrap_or(NonZeroU32::MIN)
}

fn idle() -> NonZeroU32 {
    NonZeroU32::new(60).unwrap_or(NonZeroU32::MIN)
}

fn retries() -> u32 {
    1
}

impl RouteSpec {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.get().into())
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds.get().into())
    }

    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.request.secrets.values().cloned().collect()
    }

    /// Whether an upstream is spoken to by TLS.
    pub fn needs_tls(&self) -> bool {
        self.upstreams.urls.iter().any(|url| url.starts_with("https:"))
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// Which field, what is wrong with it, and what to write instead.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.auth, self.public) {
            (None, false) => {
                let message =
                    "the route does not say who may: add `auth: { resource, verb, name }`, or `public: true`";
                return Err(("spec", message.to_owned()));
            }
            (Some(_), true) => return Err(("public", "with `auth` it is not public: remove one".to_owned())),
            _ => {}
        }
        self.matches.check().map_err(|why| ("match", why))?;
        for (field, rewrite) in [("request", &self.request), ("response", &self.response)] {
            rewrite.check().map_err(|why| (field, why))?;
        }
        let response = &self.response;
        if response.strip.is_some() || response.prefix.is_some() || !response.secrets.is_empty() {
            return Err(("response", "answers have no path and get no secrets".to_owned()));
        }
        self.upstreams.check().map_err(|why| ("upstreams", why))?;
        if self.retries > RETRIES_MAX {
            return Err(("retries", format!("`{}` is too many: {RETRIES_MAX} at most", self.retries)));
        }
        let is_path = |path: &String| is_plain(path);
        if self.breaker.probe.as_ref().is_some_and(|path| !is_path(path)) {
            return Err(("probe", "it is no path: write `/healthz`".to_owned()));
        }
        Ok(())
    }
}

impl Matches {
    fn check(&self) -> Result<(), String> {
        match (&self.prefix, &self.path) {
            (None, None) => return Err("it has no path: add `prefix: /models` or `path: /models`".to_owned()),
            (Some(_), Some(_)) => return Err("`prefix` or `path`, not both".to_owned()),
            _ => {}
        }
        for path in self.prefix.iter().chain(&self.path) {
            if !is_plain(path) {
                return Err(format!(
                    "`{path}` is no path: it begins with `/` and has no `.` or `..` between slashes"
                ));
            }
        }
        for method in &self.methods {
            let known =
                Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
            if [Method::CONNECT, Method::TRACE].contains(&known) || *method != method.to_uppercase() {
                return Err(format!("`{method}` is no method that is passed on: write `GET`, `POST`, …"));
            }
        }
        self.headers.iter().try_for_each(|(name, value)| check_header(name, value))
    }
}

impl Rewrite {
    fn check(&self) -> Result<(), String> {
        for path in self.strip.iter().chain(&self.prefix) {
            if !is_plain(path) {
                return Err(format!("`{path}` is no path: it begins with `/`"));
            }
        }
        let secrets = self.secrets.keys().map(|name| (name, ""));
        let set = self.set.iter().map(|(name, value)| (name, value.as_str()));
        for (name, value) in set.chain(secrets).chain(self.remove.iter().map(|name| (name, ""))) {
            check_header(name, value)?;
            if is_ours(name) {
                return Err(format!("the gateway itself writes `{name}`"));
            }
        }
        let fields = self.json.set.keys().chain(&self.json.remove);
        match fields.into_iter().find(|path| path.split('.').any(str::is_empty)) {
            Some(path) => Err(format!("`{path}` is no field: write `a` or `a.b`")),
            None => Ok(()),
        }
    }
}

fn check_header(name: &str, value: &str) -> Result<(), String> {
    HeaderName::try_from(name).map_err(|_| format!("`{name}` is no name of a header"))?;
    HeaderValue::try_from(value).map_err(|_| format!("the value of `{name}` cannot stand in a header"))?;
    Ok(())
}

impl Upstreams {
    fn check(&self) -> Result<(), String> {
        if self.urls.is_empty() {
            return Err("it goes nowhere: add `urls: ['http://host:8080']`".to_owned());
        }
        for url in &self.urls {
            let wrong = || format!("`{url}` is no server: write `http://HOST:PORT` or `https://HOST`");
            let uri: Uri = url.parse().map_err(|_| wrong())?;
            let is_server = matches!(uri.scheme_str(), Some("http" | "https"))
                && matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/" | ""));
            if !is_server || uri.host().is_none_or(str::is_empty) {
                return Err(wrong());
            }
            if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
                return Err("a user or password stands in a URL: give it by `request.secrets`".to_owned());
            }
        }
        match &self.balance {
            Balance::HashHeader(name) => check_header(name, ""),
            _ => Ok(()),
        }
    }
}
