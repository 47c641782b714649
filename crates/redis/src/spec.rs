//! What an operator says about a sink.

use std::num::NonZeroU64;

use aap_runtime::SecretRef;
use aap_sinks::Template;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// Redis's own.
const PORT_DEFAULT: u16 = 6379;
/// What the keys of ledgers begin with.
pub(crate) const OURS: [&str; 2] = ["aap:ledger:", "aap:sink:"];

/// Where rows go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSpec {
    /// `redis://host:port/database`, or `rediss://` for TLS. Of a cluster: one of its nodes.
    pub url: String,
    /// The key of the stream; `{stream}` is replaced by the name of our stream.
    pub key: Template,
    /// What an entry holds. Default: a field for each column.
    #[serde(default)]
    pub format: Format,
    /// About how many entries a stream keeps; older ones go. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maxlen: Option<NonZeroU64>,
    /// Who we are. Default: the server's `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// A PEM file with the authorities to believe. Default: those of the machine. Only with `rediss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
}

/// A server, and who we are there: for whoever wants no more of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisServer {
    /// `redis://host:port/database`, or `rediss://` for TLS. Of a cluster: one of its nodes.
    pub url: String,
    /// Who we are. Default: the server's `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// A PEM file with the authorities to believe. Default: those of the machine. Only with `rediss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
}

impl RedisServer {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let address = Address::of(&self.url)?;
        if self.ca.is_some() && !address.is_tls {
            return Err("`ca` needs TLS: write `rediss://` in `url`".to_owned());
        }
        if self.username.is_some() && self.password.is_none() {
            return Err("`username` needs a `password`, as in `password: env:NAME`".to_owned());
        }
        Ok(())
    }
}

/// What an entry holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A field for each column that has a value, as text.
    #[default]
    Fields,
    /// One field, `json`, with the row as a JSON object.
    Json,
}

/// A server, as a URL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: i64,
    pub(crate) is_tls: bool,
}

impl Address {
    /// What a URL says, or what is wrong with it.
    pub(crate) fn of(url: &str) -> Result<Self, String> {
        let wrong = || {
            "`url` is none of a server: write `redis://HOST:PORT` or `rediss://HOST:PORT/DATABASE`".to_owned()
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let is_tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(wrong()),
        };
        if rest.contains('@') {
            return Err(
                "a user or password stands in `url`: give them by `username` and `password`".to_owned()
            );
        }
        let (node, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse().ok().filter(|number| *number >= 0).ok_or_else(wrong)?,
        };
        let (host, port) = split(node).ok_or_else(wrong)?;
        Ok(Self { host, port, database, is_tls })
    }

    /// Another node of the same cluster.
    pub(crate) fn at(&self, node: &str) -> Option<Self> {
        let (host, port) = split(node)?;
        Some(Self { host, port, ..self.clone() })
    }

    /// As the cluster calls its nodes.
    pub(crate) fn node(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Host and port. An IPv6 address stands in brackets where a port follows.
fn split(node: &str) -> Option<(String, u16)> {
    let (host, port) = match node.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port > 0)?),
        _ => (node, PORT_DEFAULT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty() && !host.contains(['/', '?', ' '])).then(|| (host.to_owned(), port))
}

impl RedisSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Where it writes, without anything secret.
    pub fn place(&self) -> String {
        format!("{} key {}", self.url, self.key)
    }

    /// The server alone.
    pub(crate) fn server(&self) -> RedisServer {
        let Self { url, username, password, ca, .. } = self.clone();
        RedisServer { url, username, password, ca }
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        self.server().check()?;
        let key = self.key.to_string();
        if key.replace("{stream}", "").contains(['{', '}']) {
            return Err("`key` cannot have braces: they tell a cluster where keys belong".to_owned());
        }
        if OURS.iter().any(|ours| key.starts_with(ours)) {
            return Err(format!("`key` `{key}` cannot be: the sinks' ledgers have such names"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let base = [("url:", "url: 'redis://a'\n"), ("key:", "key: 'aap:{stream}'\n")];
        let text =
            base.iter().filter(|(key, _)| !more.contains(key)).map(|(_, line)| *line).collect::<String>();
        let found = match serde_norway::from_str::<RedisSpec>(&(text + more)) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check("url: 'rediss://[::1]:6380/2'\nca: /x\nmaxlen: 10\nformat: json\npassword: env:X\n", "fine");
        check("url: 'http://a'\n", "write `redis://HOST:PORT`");
        check("url: 'redis://a/x'\n", "write `redis://HOST:PORT`");
        check("url: 'redis://:hunter2@a'\n", "by `username` and `password`");
        check("ca: /x\n", "write `rediss://`");
        check("username: me\n", "needs a `password`");
        check("password: hunter2\n", "never written down here");
        check("key: 'a}b'\n", "cannot have braces");
        check("key: 'aap:ledger:x'\n", "the sinks' ledgers");
        check("maxlen: 0\n", "nonzero");
        check("colour: red\n", "unknown field `colour`");
    }

    #[test]
    fn a_url_names_a_server() {
        let address = Address::of("rediss://[::1]:6380/2").unwrap();
        assert_eq!(address, Address { host: "::1".into(), port: 6380, database: 2, is_tls: true });
        assert_eq!(Address::of("redis://a").unwrap().node(), "a:6379");
        assert_eq!(address.at("b:7000").unwrap().node(), "b:7000");
    }
}
