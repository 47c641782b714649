//! The section of MQTT.

use std::time::Duration;

use aap_types::{ByteCount, StreamName};
use axum::http::Uri;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::Period;
use super::load::Complaint;

/// Messages of an MQTT broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttSpec {
    /// Always `mqtt`.
    pub r#type: String,
    /// `mqtt://HOST[:1883]` or `mqtts://HOST[:8883]`.
    pub server: String,
    /// Of the protocol. Default: 5.
    #[serde(default)]
    pub version: MqttVersion,
    /// What the broker knows the session by; no other client may use it. Default: `aap-`, the host and the source's name.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Who logs in.
    #[serde(default)]
    pub user: Option<String>,
    /// File with the password, mode 0600.
    #[serde(default)]
    pub password_file: Option<Utf8PathBuf>,
    /// Authority of the broker's certificate, PEM, from the home on. Default: those of the machine.
    #[serde(default)]
    pub ca: Option<Utf8PathBuf>,
    /// Own certificate, where the broker wants one, PEM.
    #[serde(default)]
    pub certificate: Option<Utf8PathBuf>,
    /// Its key, PEM, mode 0600.
    #[serde(default)]
    pub key: Option<Utf8PathBuf>,
    /// What is subscribed to. A message goes to the first whose filter it matches.
    pub topics: Vec<TopicSpec>,
    /// How long the broker keeps messages for this source while it is away (version 5). Default: 24 h.
    #[serde(default = "keep_session")]
    pub keep_session: Period,
    /// Largest message; what is larger is dropped and counted. Default: 1 MiB, at most 8 MiB.
    #[serde(default = "message")]
    pub message_bytes_max: ByteCount,
    /// For `aap source test`: a session of its own that acknowledges nothing.
    #[serde(skip)]
    pub is_trial: bool,
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value", into = "String")]
pub enum MqttVersion {
    /// 3.1.1.
    V3,
    /// 5.
    #[default]
    V5,
}

impl TryFrom<serde_json::Value> for MqttVersion {
    type Error = String;
    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        // `5` is a number in YAML, `3.1.1` is a text.
        match value.to_string().trim_matches('"') {
            "5" | "5.0" => Ok(Self::V5),
            "3.1.1" => Ok(Self::V3),
            other => Err(format!("`{other}` is not a version of MQTT: 3.1.1 or 5")),
        }
    }
}

impl From<MqttVersion> for String {
    fn from(version: MqttVersion) -> String {
        match version {
            MqttVersion::V3 => "3.1.1".to_owned(),
            MqttVersion::V5 => "5".to_owned(),
        }
    }
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicSpec {
    /// `sensors/+/temperature`, `logs/#`, `$share/GROUP/FILTER`.
    pub filter: String,
    /// The stream that its messages feed.
    pub stream: StreamName,
    /// 0, 1 or 2. Default: 1.
    #[serde(default = "qos")]
    pub qos: u8,
    /// What a message is. Default: raw.
    #[serde(default)]
    pub format: PayloadSpec,
}

/// What a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PayloadSpec {
    /// A row.
    #[default]
    Raw,
    /// A JSON object.
    Json,
    /// Lines of text, a row each.
    Lines,
}

impl MqttSpec {
    const TOPICS_MAX: usize = 100;
    /// What the protocol gives a text.
    const TEXT_BYTES_MAX: usize = 65_535;
    const KEEP_SESSION_MAX: Duration = Duration::from_secs(u32::MAX as u64 - 1);

    /// Host, port, and whether it is spoken to over TLS.
    pub fn address(&self) -> Option<(String, u16, bool)> {
        let uri: Uri = self.server.parse().ok()?;
        let (is_tls, port) = match uri.scheme_str()? {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        let is_plain = uri.path().trim_matches('/').is_empty() && !self.server.contains('@');
        is_plain.then(|| (host.to_owned(), uri.port_u16().unwrap_or(port), is_tls))
    }

    pub(super) fn check(&self) -> Result<(), Complaint> {
        let Some((host, _, is_tls)) = self.address() else {
            let message =
                format!("`{}` is not of the form mqtt://HOST:PORT or mqtts://HOST:PORT", self.server);
            return Err(("server", message));
        };
        let is_near = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.password_file.is_some() && !is_tls && !is_near {
            let message = "the password would be shown to everybody on the way: use mqtts://".to_owned();
            return Err(("server", message));
        }
        if self.user.is_none() && self.password_file.is_some() {
            return Err(("password_file", "a password needs `user`".to_owned()));
        }
        if self.certificate.is_some() != self.key.is_some() {
            return Err(("certificate", "a certificate needs its key, and a key its certificate".to_owned()));
        }
        if !(1..=Self::TOPICS_MAX).contains(&self.topics.len()) {
            return Err(("topics", format!("a source has 1 to {} topics", Self::TOPICS_MAX)));
        }
        for topic in &self.topics {
            if topic.qos > 2 {
                return Err(("qos", format!("`{}` is not a quality of service: 0, 1 or 2", topic.qos)));
            }
            if !is_filter(&topic.filter) || topic.filter.len() > Self::TEXT_BYTES_MAX {
                let message = format!(
                    "`{}` is not a filter of topics: `+` stands for one level, `#` for all that follow, at the end",
                    topic.filter
                );
                return Err(("filter", message));
            }
        }
        if self.client_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 256) {
            return Err(("client_id", "an id has 1 to 256 bytes".to_owned()));
        }
        if self.keep_session.0 > Self::KEEP_SESSION_MAX {
            return Err(("keep_session", "a session is kept for 136 years at most".to_owned()));
        }
        if !(1024..=8 << 20).contains(&self.message_bytes_max.0) {
            return Err(("message_bytes_max", "the message limit is from 1KiB to 8MiB".to_owned()));
        }
        Ok(())
    }
}

fn is_filter(filter: &str) -> bool {
    let levels: Vec<&str> = filter.split('/').collect();
    let is_good = |(at, level): (usize, &&str)| match *level {
        "+" => true,
        "#" => at + 1 == levels.len(),
        other => !other.contains(['+', '#', '\0']),
    };
    !filter.is_empty() && levels.iter().enumerate().all(is_good)
}

fn qos() -> u8 {
    1
}
fn keep_session() -> Period {
    Period(Duration::from_secs(24 * 3600))
}
fn message() -> ByteCount {
    ByteCount::mib(1)
}
