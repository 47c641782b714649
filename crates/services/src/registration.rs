//! Says in Consul where this coordinator is, for as long as it is there.
//!
//! ```text
//!  start ──► register, passing for 30 s ──► pass, every 10 s ──► shutdown: deregister
//!                 ▲                            │ no: Consul was started anew, or away
//!                 └────────────────────────────┘
//! ```
//! What Consul kept of a coordinator that was killed may say where that was, so it begins with registering, and after each failure again.
//! There are two services: that of agents, under the name that was set, and that of operators, under the same with `-operators`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aap_runtime::{SecretRef, Shutdown};
use bytes::Bytes;
use camino::Utf8PathBuf;
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{info, warn};

use crate::ask::{Ask, Service, ServiceUrl};
use crate::consul::{ANSWER_MAX, ConsulError, token_header};
use crate::locator::is_plain;

/// How long a coordinator counts as there after it last said so: three times [`SAY_EVERY`], so that two answers may be late.
const TTL: &str = "30s";
/// How often it says so, and looks whether Consul is back.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// When Consul forgets one that was killed: later than any restart takes.
const FORGOTTEN_AFTER: &str = "10m";

/// The section `discovery.consul`: where, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsulSpec {
    /// `http://HOST:PORT` or `https://HOST:PORT`: the agent of Consul on this machine.
    pub address: String,
    /// The name of the service for agents; operators' has `-operators` behind it. Default: `aap`.
    #[serde(default = "service_default")]
    pub service: String,
    /// What the services are tagged with. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Where the token stands that is shown. Over `https`, or to this machine, only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretRef>,
    /// A PEM file with the authorities to believe. Default: those of the machine. Only with `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Utf8PathBuf>,
}

fn service_default() -> String {
    "aap".to_owned()
}

impl ConsulSpec {
    /// Every secret that it refers to.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.token.iter().cloned().collect()
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        let url: ServiceUrl = self.address.parse().map_err(|why| format!("`address`: {why}"))?;
        if !is_plain(&self.service) || self.service.contains('.') {
            return Err("`service` is a name of a-z, 0-9, `-` and `_`".to_owned());
        }
        if self.tags.iter().any(|tag| !is_plain(tag)) {
            return Err("`tags` have letters other than a-z, 0-9, `-`, `_` and `.`".to_owned());
        }
        if self.ca.is_some() && !url.is_tls() {
            return Err("`ca` is the file of an authority, for `https`".to_owned());
        }
        if self.token.is_some() && !url.is_tls() && !url.is_loopback() {
            return Err("a token goes over https, or to this machine, only".to_owned());
        }
        Ok(())
    }
}

/// One service, as Consul is told of it.
#[derive(Debug)]
struct Told {
    id: String,
    name: String,
    host: String,
    port: u16,
    /// Whether Consul was told by this process, and took it the last time.
    is_registered: AtomicBool,
}

/// A coordinator in Consul.
#[derive(Debug)]
pub struct Registration {
    consul: Service,
    token: Option<SecretRef>,
    tags: Vec<String>,
    services: Vec<Told>,
    /// Why it is not registered now, in one line; none at first.
    trouble: Mutex<Option<String>>,
}

impl Registration {
    /// Nothing is said yet. `who` tells coordinators apart, and stays the same over restarts; `agents` and `operators` are where they
    /// find it, `HOST:PORT`.
    ///
    /// # Errors
    /// What is wrong with the section, or with an address.
    pub fn new(spec: &ConsulSpec, who: &str, agents: &str, operators: &str) -> Result<Self, String> {
        spec.check()?;
        let told = |name: String, address: &str| {
            let wrong = || format!("`{address}` is not HOST:PORT");
            let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = port.parse().map_err(|_| wrong())?;
            Ok::<_, String>(Told {
                id: format!("{name}-{who}"),
                name,
                host,
                port,
                is_registered: AtomicBool::new(false),
            })
        };
        let services = vec![
            told(spec.service.clone(), agents)?,
            told(format!("{}-operators", spec.service), operators)?,
        ];
        let consul = Service::new(spec.address.parse()?, spec.ca.clone(), ANSWER_MAX);
        let (token, tags) = (spec.token.clone(), spec.tags.clone());
        Ok(Self { consul, token, tags, services, trouble: Mutex::default() })
    }

    /// Why Consul does not say now where this coordinator is.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps it registered until `shutdown`, and takes it back then.
    ///
    /// # Errors
    /// None: whatever Consul does, the coordinator goes on.
    pub async fn keep(&self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        while !shutdown.is_requested() {
            self.say().await;
            tokio::select! {
                () = tokio::time::sleep(SAY_EVERY) => {}
                () = shutdown.requested() => {}
            }
        }
        for told in &self.services {
            if let Err(error) = self.put(&format!("deregister/{}", told.id), "service", Bytes::new()).await {
                let error = chain(&error);
                warn!(service = told.name, error, "Consul still says that this coordinator is there");
            }
        }
        Ok(())
    }

    /// Says once that it is there.
    async fn say(&self) {
        let mut trouble = None;
        for told in &self.services {
            let said = match told.is_registered.load(Ordering::Relaxed) {
                true => self.pass(told).await,
                false => self.register(told).await,
            };
            told.is_registered.store(said.is_ok(), Ordering::Relaxed);
            if let Err(error) = said {
                trouble.get_or_insert_with(|| chain(&error));
            }
        }
        let before = std::mem::replace(
            &mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner),
            trouble.clone(),
        );
        match (before, trouble) {
            (None, Some(error)) => {
                warn!(consul = %self.consul.url(), error, "this coordinator cannot be registered in Consul");
            }
            (Some(_), None) => info!(consul = %self.consul.url(), "registered in Consul again"),
            _ => {}
        }
    }

    async fn pass(&self, told: &Told) -> Result<(), ConsulError> {
        match self.put(&format!("pass/service:{}", told.id), "check", Bytes::new()).await {
            // It lost what it knew.
            Err(ConsulError::Refused(_)) => self.register(told).await,
            passed => passed,
        }
    }

    async fn register(&self, told: &Told) -> Result<(), ConsulError> {
        let check = json!({
            "Name": "the coordinator says so",
            "TTL": TTL,
            "Status": "passing",
            "DeregisterCriticalServiceAfter": FORGOTTEN_AFTER,
        });
        let service = json!({
            "ID": told.id,
            "Name": told.name,
            "Tags": self.tags,
            "Address": told.host,
            "Port": told.port,
            "Check": check,
        });
        self.put("register", "service", Bytes::from(service.to_string())).await?;
        info!(service = told.name, host = told.host, port = told.port, "registered in Consul");
        Ok(())
    }

    async fn put(&self, what: &str, of: &str, body: Bytes) -> Result<(), ConsulError> {
        let headers = token_header(self.token.clone()).await?.into_iter().collect();
        let path = format!("/v1/agent/{of}/{what}");
        let ask = Ask { method: Method::PUT, path: &path, headers, body };
        let (status, _) = self.consul.ask(ask).await.map_err(ConsulError::Asked)?;
        if status.is_success() { Ok(()) } else { Err(ConsulError::Refused(status)) }
    }
}

/// An error with what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&error.to_string());
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn spec(text: &str) -> ConsulSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_cannot_be_registered_is_refused() {
        for (text, word) in [
            (r#"{"address": "http://127.0.0.1:8500"}"#, ""),
            (
                r#"{"address": "https://c:8501", "service": "aap-eu", "tags": ["a.b"], "token": "env:T", "ca": "/a"}"#,
                "",
            ),
            (r#"{"address": "127.0.0.1:8500"}"#, "`address`"),
            (r#"{"address": "http://127.0.0.1", "service": "a/b"}"#, "`service`"),
            (r#"{"address": "http://127.0.0.1", "service": "a.b"}"#, "`service`"),
            (r#"{"address": "http://127.0.0.1", "tags": ["a b"]}"#, "`tags`"),
            (r#"{"address": "http://127.0.0.1", "ca": "/a"}"#, "`ca`"),
            (r#"{"address": "http://consul.example", "token": "env:T"}"#, "over https"),
        ] {
            let found = spec(text).check().err().unwrap_or_default();
            assert!(found.contains(word) && found.is_empty() == word.is_empty(), "{text}: {found}");
        }
        let none = Registration::new(&spec(r#"{"address": "http://a"}"#), "c1", "nowhere", "a:1");
        assert!(none.unwrap_err().contains("`nowhere`"));
    }

    /// A server that answers so many requests with these statuses in turn, and how each began.
    async fn served(listener: &TcpListener, statuses: &[&str]) -> Vec<(String, String)> {
        let mut seen = vec![];
        for status in statuses {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 4096];
            let mut length = 0;
            loop {
                length += stream.read(&mut bytes[length..]).await.unwrap();
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let wanted = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= wanted.map_or(0, |wanted| wanted.parse().unwrap()) {
                    seen.push((head.lines().next().unwrap().to_owned(), body.to_owned()));
                    break;
                }
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        seen
    }

    #[tokio::test]
    async fn it_registers_whatever_consul_kept_and_takes_itself_back_when_it_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let spec = spec(&format!(r#"{{"address": "{address}", "tags": ["it"]}}"#));
        let registration = Registration::new(&spec, "c1", "[fd00::1]:7400", "c1.example:7401").unwrap();
        let shutdown = Shutdown::default();
        let (stop, ok) = (shutdown.clone(), "200 OK");
        let serve = async {
            let first = served(&listener, &[ok, ok]).await;
            stop.request();
            (first, served(&listener, &[ok, ok]).await)
        };
        let (_, (first, last)) = tokio::join!(registration.keep(shutdown), serve);
        let lines: Vec<&str> = first.iter().chain(&last).map(|(line, _)| line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "PUT /v1/agent/service/register HTTP/1.1",
                "PUT /v1/agent/service/register HTTP/1.1",
                "PUT /v1/agent/service/deregister/aap-c1 HTTP/1.1",
                "PUT /v1/agent/service/deregister/aap-operators-c1 HTTP/1.1",
            ]
        );
        let told: serde_json::Value = serde_json::from_str(&first[0].1).unwrap();
        let expected = ("aap-c1", "aap", "fd00::1", 7400);
        let found = (&told["ID"], &told["Name"], &told["Address"], &told["Port"]);
        assert_eq!(found, (&expected.0.into(), &expected.1.into(), &expected.2.into(), &expected.3.into()));
        assert_eq!((&told["Tags"][0], &told["Check"]["TTL"]), (&"it".into(), &TTL.into()));
        assert_eq!(registration.trouble(), None);
    }

    #[tokio::test]
    async fn a_consul_that_is_away_or_refuses_is_told_and_stops_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let spec = spec(&format!(r#"{{"address": "{address}"}}"#));
        let registration = Registration::new(&spec, "c1", "a:1", "a:2").unwrap();
        let denied = ["403 Forbidden"; 2];
        let what = |seen: Vec<(String, String)>| -> Vec<bool> {
            seen.iter().map(|(line, _)| line.starts_with("PUT /v1/agent/service/register")).collect()
        };
        let (_, seen) = tokio::join!(registration.say(), served(&listener, &denied));
        assert_eq!(what(seen), [true, true]);
        assert_eq!(registration.trouble().unwrap(), "Consul says 403 Forbidden");
        let (_, seen) = tokio::join!(registration.say(), served(&listener, &["200 OK"; 2]));
        assert_eq!((registration.trouble(), what(seen)), (None, vec![true, true]));
        // The first is unknown all of a sudden.
        let (_, seen) =
            tokio::join!(registration.say(), served(&listener, &["404 Not Found", "200 OK", "200 OK"]));
        assert_eq!((registration.trouble(), what(seen)), (None, vec![false, true, false]));
        drop(listener);
        registration.say().await;
        assert!(registration.trouble().unwrap().contains("ask Consul: no connection"));
    }
}
