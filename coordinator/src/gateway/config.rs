//! The section `gateway` of the configuration.

use std::net::SocketAddr;

use aap_gateway::{Network, Rate};
use aap_redis::RedisServer;
use serde::{Deserialize, Serialize};

use crate::config::OwnCertificate;

/// What stands before every call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// How often somebody may call.
    pub limits: LimitsConfig,
    /// The server by which coordinators of a cluster count together. Default: each counts alone.
    pub redis: Option<RedisServer>,
    /// Where routes are served. Default: nowhere. Beyond loopback it needs `tls`.
    pub listen: Option<SocketAddr>,
    /// The certificate there. Default: none, and no TLS.
    pub tls: Option<OwnCertificate>,
    /// Proxies that are believed, by address or network: what they say in `X-Forwarded-For` is who a request is from, on this listener and on that of operators.
    pub trusted_hops: Vec<Network>,
    /// Whether connections from them begin with the PROXY protocol, version 1 or 2: then all of them must. Default: no.
    pub proxy_protocol: bool,
}

/// How often somebody may call: `50/s burst 100`, in `s`, `min` or `h`. `null` lifts a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Calls of one user, and apart from them of the user's API tokens together. Default: 50/s burst 100, which nobody reaches by hand.
    pub per_principal: Option<Rate>,
    /// Calls with the token of the platform's home. Default: 1000/s burst 2000: scripts on the coordinator's own machine are its operator's.
    pub operator: Option<Rate>,
    /// Calls from one address, before anything is known of who makes them; of IPv6 from one /64. Default: 1000/s burst 2000, because many
    /// users may have one address.
    pub per_address: Option<Rate>,
    /// Log-ins from one address, whether they succeed or not. Default: 10/min burst 20.
    pub log_in: Option<Rate>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            per_principal: Some(Rate::per_second(50, 100)),
            operator: Some(Rate::per_second(1_000, 2_000)),
            per_address: Some(Rate::per_second(1_000, 2_000)),
            log_in: Some(Rate::per_minute(10, 20)),
        }
    }
}

impl GatewayConfig {
    pub(crate) fn check(&self) -> Result<(), String> {
        if let Some(server) = &self.redis {
            server.check().map_err(|why| format!("gateway.redis: {why}"))?;
        }
        if self.listen.is_some_and(|listen| !listen.ip().is_loopback()) && self.tls.is_none() {
            return Err(
                "gateway.listen is not loopback, and needs `gateway.tls: { certificate, key }`".to_owned()
            );
        }
        if self.proxy_protocol && self.trusted_hops.is_empty() {
            return Err(
                "gateway.proxy_protocol needs `gateway.trusted_hops`: from whom it is taken".to_owned()
            );
        }
        Ok(())
    }
}
