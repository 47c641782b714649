//! What an operator says about the cluster.

use std::net::IpAddr;

use aap_runtime::SecretRef;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

/// Spark Connect's own.
const PORT_DEFAULT: u16 = 15002;

/// Where Spark Connect is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparkSpec {
    /// `sc://HOST:PORT`, or `sc://HOST:PORT/;use_ssl=true` for TLS.
    pub url: String,
    /// Where the bearer token stands, if the server wants one. Needs TLS, except on loopback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretRef>,
    /// A PEM file with the authorities to believe. Default: those of the machine. Only with TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
}

/// A server, as a URL names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_tls: bool,
}

impl Address {
    /// What a URL says, or what is wrong with it.
    pub(crate) fn of(url: &str) -> Result<Self, String> {
        let wrong = || {
            "`url` is none of Spark Connect: write `sc://HOST:PORT` or `sc://HOST:PORT/;use_ssl=true`"
                .to_owned()
        };
        let rest = url.strip_prefix("sc://").ok_or_else(wrong)?;
        if rest.contains('@') || rest.contains("token=") {
            return Err("a secret stands in `url`: give it by `token`, as in `token: env:NAME`".to_owned());
        }
        let (server, options) = rest.split_once('/').unwrap_or((rest, ""));
        let mut is_tls = false;
        for option in options.split(';').filter(|option| !option.is_empty()) {
            match option {
                "use_ssl=true" => is_tls = true,
                "use_ssl=false" => is_tls = false,
                other => return Err(format!("`{other}` in `url` is not known: only `use_ssl=true` is")),
            }
        }
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_number| wrong())?),
            _ => (server, PORT_DEFAULT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        match host.is_empty() || port == 0 {
            true => Err(wrong()),
            false => Ok(Self { host, port, is_tls }),
        }
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl SparkSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.token.iter().cloned().collect()
    }

    /// Where statements go, without anything secret.
    pub fn place(&self) -> &str {
        &self.url
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let address = Address::of(&self.url)?;
        if self.ca.is_some() && !address.is_tls {
            return Err("`ca` needs TLS: end `url` with `/;use_ssl=true`".to_owned());
        }
        if self.token.is_some() && !address.is_tls && !address.is_loopback() {
            return Err(
                "`token` needs TLS, or everybody on the way reads it: end `url` with `/;use_ssl=true`"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = match serde_norway::from_str::<SparkSpec>(text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{text}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("url: 'sc://spark'", "fine");
        check("url: 'sc://spark:15002/;use_ssl=true'\ntoken: env:X\nca: /x", "fine");
        check("url: 'sc://127.0.0.1:15002'\ntoken: env:X", "fine");
        check("url: 'sc://[::1]:15002'\ntoken: env:X", "fine");
        check("url: 'sc://spark'\ntoken: env:X", "needs TLS");
        check("url: 'sc://spark'\nca: /x", "needs TLS");
        check("url: 'sc://spark/;token=hunter2'", "give it by `token`");
        check("url: 'sc://spark/;user_id=x'", "`user_id=x`");
        check("url: 'http://spark'", "write `sc://HOST:PORT`");
        check("url: 'sc://:15002'", "write `sc://HOST:PORT`");
        check("url: 'sc://spark'\ntoken: hunter2", "never written down here");
        check("url: 'sc://spark'\ncolour: red", "unknown field `colour`");
    }

    #[test]
    fn a_url_names_a_server() {
        let address = Address::of("sc://[::1]:99/;use_ssl=true").unwrap();
        assert_eq!(address, Address { host: "::1".into(), port: 99, is_tls: true });
        assert_eq!(Address::of("sc://a").unwrap().port, 15002);
    }
}
