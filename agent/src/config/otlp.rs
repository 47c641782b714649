//! The section of OTLP.

use std::net::{Ipv4Addr, SocketAddr};

use aap_types::{ByteCount, StreamName};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::TlsSpec;
use super::listen::{check_body_limit, check_guard, check_share, connections_per_address};
use super::load::Complaint;

/// OTLP: logs, metrics and traces over gRPC and HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtlpSpec {
    /// Always `otlp`.
    pub r#type: String,
    /// Address for gRPC. Default, where `http` is not given either: 127.0.0.1:4317.
    #[serde(default)]
    pub grpc: Option<SocketAddr>,
    /// Address for HTTP. Default, where `grpc` is not given either: 127.0.0.1:4318.
    #[serde(default)]
    pub http: Option<SocketAddr>,
    /// The stream of log records. Default: `otlp.logs`.
    #[serde(default = "logs")]
    pub logs: StreamName,
    /// The stream of data points. Default: `otlp.metrics`.
    #[serde(default = "metrics")]
    pub metrics: StreamName,
    /// The stream of spans. Default: `otlp.traces`.
    #[serde(default = "traces")]
    pub traces: StreamName,
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

impl OtlpSpec {
    /// Ports of the protocol.
    const GRPC_PORT: u16 = 4317;
    const HTTP_PORT: u16 = 4318;
    /// A request in JSON may become five times as large.
    const BODY_BYTES_MAX: u64 = 32 << 20;

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let given: Vec<_> = [self.grpc, self.http].into_iter().flatten().collect();
        let default = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if given.is_empty() { vec![default(Self::GRPC_PORT), default(Self::HTTP_PORT)] } else { given }
    }

    pub(super) fn check(&self) -> Result<(), Complaint> {
        check_body_limit(self.body_bytes_max.0, Self::BODY_BYTES_MAX)?;
        check_share(self.connections_per_address)?;
        check_guard(self.addresses(), self.tls.as_ref(), self.token_file.as_ref())
    }
}

fn logs() -> StreamName {
    "otlp.logs".parse().expect("a literal name")
}
fn metrics() -> StreamName {
    "otlp.metrics".parse().expect("a literal name")
}
fn traces() -> StreamName {
    "otlp.traces".parse().expect("a literal name")
}
fn body() -> ByteCount {
    ByteCount::mib(16)
}
