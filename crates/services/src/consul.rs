//! Healthy instances of a service of Consul.

use std::time::Duration;

use aap_runtime::SecretRef;
use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderValue;
use serde::Deserialize;

use crate::ask::{Ask, AskError, Service};
use crate::order::Instance;

/// Longest wait for an answer: the agent of Consul on the machine, which asks its servers.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct ConsulService {
    pub(crate) consul: Service,
    pub(crate) name: String,
    pub(crate) tag: Option<String>,
    pub(crate) token: Option<SecretRef>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsulError {
    #[error("ask Consul")]
    Asked(#[source] AskError),
    #[error("the token for Consul cannot be read")]
    Token(#[source] aap_runtime::SecretError),
    #[error("the token for Consul has letters that no token has")]
    TokenForm,
    #[error("Consul says {0}")]
    Refused(hyper::StatusCode),
    #[error("Consul answers what cannot be read")]
    Unreadable(#[source] serde_json::Error),
    #[error("no healthy instance of the service `{0}` is registered")]
    Nothing(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Registered,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Registered {
    /// Empty: that of its node.
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    weights: Option<Weights>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u16,
}

impl ConsulService {
    pub(crate) async fn instances(&self) -> Result<Vec<Instance>, ConsulError> {
        let headers = token_header(self.token.clone()).await?.into_iter().collect();
        let tag = self.tag.as_ref().map(|tag| format!("&tag={tag}")).unwrap_or_default();
        let path = format!("/v1/health/service/{}?passing=true{tag}", self.name);
        let ask = Ask { method: Method::GET, path: &path, headers, body: Bytes::new() };
        let (status, answer) = self.consul.ask(ask).await.map_err(ConsulError::Asked)?;
        if !status.is_success() {
            return Err(ConsulError::Refused(status));
        }
        let instances = read(&answer).map_err(ConsulError::Unreadable)?;
        if instances.is_empty() { Err(ConsulError::Nothing(self.name.clone())) } else { Ok(instances) }
    }
}

/// The header that shows a token, where there is one.
pub(crate) async fn token_header(
    token: Option<SecretRef>,
) -> Result<Option<(&'static str, HeaderValue)>, ConsulError> {
    let Some(reference) = token else { return Ok(None) };
    let token = tokio::task::spawn_blocking(move || reference.read()).await;
    let token = token.map_err(|_panic| ConsulError::TokenForm)?.map_err(ConsulError::Token)?;
    let mut value = HeaderValue::from_str(token.reveal()).map_err(|_| ConsulError::TokenForm)?;
    value.set_sensitive(true);
    Ok(Some(("x-consul-token", value)))
}

fn read(answer: &[u8]) -> Result<Vec<Instance>, serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(answer)?;
    let usable = entries.into_iter().filter(|entry| entry.service.port != 0);
    Ok(usable
        .map(|Entry { node, service }| {
            let host = if service.address.is_empty() { node.address } else { service.address };
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            Instance {
                address: format!("{host}:{}", service.port),
                priority: 0,
                weight: service.weights.map_or(1, |weights| weights.passing),
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_where_its_service_or_else_its_node_is() {
        let answer = r#"[
            {"Node": {"Address": "10.0.0.1"}, "Service": {"Address": "", "Port": 7400, "Weights": {"Passing": 5}}, "Checks": []},
            {"Node": {"Address": "10.0.0.2"}, "Service": {"Address": "fd00::1", "Port": 7401}},
            {"Node": {"Address": "10.0.0.3"}, "Service": {"Address": "c3.example", "Port": 0}}
        ]"#;
        let found: Vec<_> =
            read(answer.as_bytes()).unwrap().into_iter().map(|it| (it.address, it.weight)).collect();
        assert_eq!(found, [("10.0.0.1:7400".to_owned(), 5), ("[fd00::1]:7401".to_owned(), 1)]);
        assert!(read(b"{}").is_err() && read(b"[{}]").is_err());
    }
}
