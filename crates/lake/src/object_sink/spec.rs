//! What an operator says about a sink into an object store.

use std::time::Duration;

use aap_runtime::SecretRef;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::s3::Access;

/// How often objects are written, at least and at most: a store asks money for each, and rows wait at the coordinator meanwhile.
const EVERY_MIN: Duration = Duration::from_millis(100);
const EVERY_MAX: Duration = Duration::from_secs(3600);
/// An object for each stream every ten seconds: a reader is not far behind, and a day of it has 8 640.
const EVERY_DEFAULT: Duration = Duration::from_secs(10);

/// Where objects go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Spec {
    /// `s3://BUCKET/PREFIX`, or `file:///DIRECTORY` for a directory on a disk of the coordinator.
    pub url: String,
    /// The address of a store that is not AWS, as in `https://minio.example.org:9000`. Default: AWS in the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Default: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Who we are. Default: the role of the machine, on AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key: Option<SecretRef>,
    /// And how we prove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key: Option<SecretRef>,
    /// With keys that are lent for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token: Option<SecretRef>,
    /// A PEM file with the authorities that signed the certificate of the store. Default: those of the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
    /// Whether the bucket stands in the path rather than in the host's name. Default: with an `endpoint`, and where the bucket's
    /// name has a dot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// Takes an `endpoint` that is not encrypted and not on this machine. Default: no.
    #[serde(default)]
    pub insecure: bool,
    /// How long rows wait for others: an object for each stream that often. Default: `10s`.
    #[serde(default)]
    pub every: Every,
    /// Takes a store that cannot refuse to overwrite: rows may be there more than once then. Default: no.
    #[serde(default)]
    pub allow_duplicates: bool,
}

/// A span of time as people write it: `500ms`, `10s`, `5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Every(Duration);

impl Every {
    /// How long that is.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Default for Every {
    fn default() -> Self {
        Self(EVERY_DEFAULT)
    }
}

impl TryFrom<String> for Every {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
        match parsed {
            Some(every) if (EVERY_MIN..=EVERY_MAX).contains(&every) => Ok(Self(every)),
            Some(_) => Err(format!("`{text}` is not between 100ms and 1h")),
            None => Err(format!(
                "`{text}` is not a span of time: write a number with its unit, such as 10s or 5m"
            )),
        }
    }
}

impl From<Every> for String {
    fn from(every: Every) -> String {
        format!("{}ms", every.0.as_millis())
    }
}

impl S3Spec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        [&self.access_key, &self.secret_key, &self.session_token].into_iter().flatten().cloned().collect()
    }

    /// Where it writes, without anything secret.
    pub fn place(&self) -> String {
        self.access().place()
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        self.access().check()
    }

    pub(super) fn access(&self) -> Access<'_> {
        Access {
            url: &self.url,
            endpoint: self.endpoint.as_deref(),
            region: self.region.as_deref(),
            access_key: self.access_key.as_ref(),
            secret_key: self.secret_key.as_ref(),
            session_token: self.session_token.as_ref(),
            ca: self.ca.as_deref(),
            path_style: self.path_style,
            insecure: self.insecure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::Location;

    fn check(text: &str, expected: &str) {
        let text = if text.contains("\"url\"") {
            format!("{{{text}}}")
        } else {
            format!("{{\"url\": \"s3://b/p\"{}{text}}}", if text.is_empty() { "" } else { ", " })
        };
        let found = match serde_json::from_str::<S3Spec>(&text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{text}: {found}");
    }

    const KEYS: &str = r#""access_key": "env:A", "secret_key": "file:/s""#;

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check(KEYS, "fine");
        check(r#""url": "s3://b""#, "fine");
        check(r#""url": "file:///mnt/nas/aap", "every": "1m""#, "fine");
        check(r#""url": "file://nas""#, "`url` is `s3://BUCKET/PREFIX`");
        check(r#""url": "s3://key:secret@b/p""#, "`url` is `s3://BUCKET/PREFIX`");
        check(r#""url": "https://b.s3.amazonaws.com/p""#, "`url` is `s3://BUCKET/PREFIX`");
        check(r#""url": "s3://b/a//b""#, "the prefix in `url` cannot be");
        check(r#""url": "file:///d", "region": "x""#, "`region` means nothing for a directory");
        check(r#""access_key": "env:A""#, "`access_key` needs a `secret_key`");
        check(r#""secret_key": "env:A""#, "`secret_key` needs an `access_key`");
        check(r#""session_token": "env:A""#, "`session_token` needs");
        check(r#""access_key": "AKIA""#, "never written down here");
        check(r#""endpoint": "https://s""#, "needs an `access_key`");
        check(&format!(r#"{KEYS}, "endpoint": "https://s:9000/""#), "fine");
        check(&format!(r#"{KEYS}, "endpoint": "http://127.0.0.1:9000""#), "fine");
        check(&format!(r#"{KEYS}, "endpoint": "http://[::1]:9000""#), "fine");
        check(&format!(r#"{KEYS}, "endpoint": "http://s:9000""#), "is not encrypted");
        check(&format!(r#"{KEYS}, "endpoint": "http://s:9000", "insecure": true"#), "fine");
        check(&format!(r#"{KEYS}, "endpoint": "s:9000""#), "is not `https://HOST:PORT`");
        check(&format!(r#"{KEYS}, "endpoint": "https://s/bucket""#), "is not `https://HOST:PORT`");
        check(r#""every": "1ms""#, "is not between");
        check(r#""every": "soon""#, "is not a span of time");
        check(r#""colour": "red""#, "unknown field `colour`");
    }

    #[test]
    fn a_spec_survives_its_text_and_shows_no_secret() {
        let text =
            format!(r#"{{"url": "s3://b/p/q/", "endpoint": "https://s:9000", "every": "2s", {KEYS}}}"#);
        let spec: S3Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(spec.place(), "s3://b/p/q/ at https://s:9000");
        assert_eq!(spec.access().location(), Ok(Location::Bucket { name: "b", prefix: "p/q" }));
        assert!(spec.access().has_path_style("b") && !spec.allow_duplicates);
        let again: S3Spec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }
}
