//! The sections of Prometheus: what it writes to us, and what we scrape as it does.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use aap_types::{ByteCount, StreamName};
use axum::http::Uri;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::listen::{check_body_limit, check_guard, check_share, connections_per_address};
use super::load::Complaint;
use super::{Period, TlsSpec};

/// Requests of remote write 1.0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteWriteSpec {
    /// Always `prometheus_remote_write`.
    pub r#type: String,
    /// Where to listen. Default: 127.0.0.1:7411.
    #[serde(default = "listen")]
    pub listen: SocketAddr,
    /// The stream of samples. Default: `prometheus`.
    #[serde(default = "stream")]
    pub stream: StreamName,
    /// File with the bearer token that requests must show, mode 0600. Default: none is asked for.
    #[serde(default)]
    pub token_file: Option<Utf8PathBuf>,
    /// Needed for addresses other than loopback.
    #[serde(default)]
    pub tls: Option<TlsSpec>,
    /// Largest request, before and after decompression. Default: 16 MiB.
    #[serde(default = "body")]
    pub body_bytes_max: ByteCount,
    /// Connections of one address at once, 1 to 512: a proxy or a NAT has those of many clients. Default: 128.
    #[serde(default = "connections_per_address")]
    pub connections_per_address: usize,
}

impl RemoteWriteSpec {
    /// Labels and samples become three times as large as rows.
    const BODY_BYTES_MAX: u64 = 64 << 20;

    pub(super) fn check(&self) -> Result<(), Complaint> {
        check_body_limit(self.body_bytes_max.0, Self::BODY_BYTES_MAX)?;
        check_share(self.connections_per_address)?;
        check_guard([self.listen], self.tls.as_ref(), self.token_file.as_ref())
    }
}

/// Targets that are scraped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrapeSpec {
    /// Always `prometheus_scrape`.
    pub r#type: String,
    /// The stream of samples. Default: `prometheus`.
    #[serde(default = "stream")]
    pub stream: StreamName,
    /// URLs, such as http://127.0.0.1:9100/metrics.
    pub targets: Vec<String>,
    /// How often each is scraped, at least 1 s. Default: 15 s.
    #[serde(default = "every")]
    pub every: Period,
    /// How long an answer may take. Default: 10 s, at most `every`.
    #[serde(default)]
    pub timeout: Option<Period>,
    /// Labels of every sample beside `job` and `instance`, which it also may name. Default: `job` is the source's name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// File with a bearer token that is shown to the targets, mode 0600. Default: none.
    #[serde(default)]
    pub token_file: Option<Utf8PathBuf>,
    /// Authority of the targets' certificates, PEM, from the home on. Default: those of the machine.
    #[serde(default)]
    pub ca: Option<Utf8PathBuf>,
    /// Largest answer, before and after decompression. Default: 16 MiB.
    #[serde(default = "body")]
    pub body_bytes_max: ByteCount,
}

impl ScrapeSpec {
    const EVERY_MIN: Duration = Duration::from_secs(1);
    const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
    /// Each has a task.
    const TARGETS_MAX: usize = 1000;

    /// How long an answer may take.
    pub fn within(&self) -> Duration {
        self.timeout.map_or(Self::TIMEOUT_DEFAULT, |timeout| timeout.0).min(self.every.0)
    }

    pub(super) fn check(&self) -> Result<(), Complaint> {
        check_body_limit(self.body_bytes_max.0, RemoteWriteSpec::BODY_BYTES_MAX)?;
        if !(1..=Self::TARGETS_MAX).contains(&self.targets.len()) {
            return Err(("targets", format!("a scrape has 1 to {} targets", Self::TARGETS_MAX)));
        }
        for target in &self.targets {
            let uri: Uri = target.parse().map_err(|_| ("targets", format!("`{target}` is not a URL")))?;
            if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
                let message = format!("`{target}` is not a URL such as http://127.0.0.1:9100/metrics");
                return Err(("targets", message));
            }
            if uri.scheme_str() == Some("http") && self.token_file.is_some() && !is_near(&uri) {
                let message = format!("`{target}` would show the token to everybody on the way: use https");
                return Err(("token_file", message));
            }
        }
        if self.every.0 < Self::EVERY_MIN {
            return Err(("every", "a target is scraped at most once a second".to_owned()));
        }
        if self.timeout.is_some_and(|timeout| timeout.0.is_zero() || timeout.0 > self.every.0) {
            return Err(("timeout", "an answer may take some time, but not longer than `every`".to_owned()));
        }
        Ok(())
    }
}

/// Whether what is sent there stays on this machine.
fn is_near(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7411))
}
fn stream() -> StreamName {
    "prometheus".parse().expect("a literal name")
}
fn every() -> Period {
    Period(Duration::from_secs(15))
}
fn body() -> ByteCount {
    ByteCount::mib(16)
}
