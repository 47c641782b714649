//! A stream of a real server for one test, and a client that shares no code with the sink: `redis-cli`.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use aap_redis::{RedisServer, RedisSink, RedisSpec};
use aap_sinks::Target;
use serde_json::{Value, json};

/// Where a test writes.
pub(crate) struct Place {
    /// The stream's key.
    pub(crate) key: String,
    /// `host:port`.
    pub(crate) node: String,
    uid: String,
    password: tempfile::NamedTempFile,
    // Whoever kills the server waits until nobody else needs it. Released by the end of the process, too.
    _lock: File,
}

/// Whether a test kills the server, or changes it for all.
#[derive(PartialEq, Eq)]
pub(crate) enum Needs {
    Shared,
    Alone,
}

/// The password of the tests' server.
const PASSWORD: &str = "aap";

impl Place {
    /// A key of its own, not yet made. `None`, with a line that says so, where there is no server.
    pub(crate) async fn new(test: &str, needs: Needs) -> Option<Self> {
        let Ok(url) = std::env::var("AAP_TEST_REDIS") else {
            let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
            assert!(!required.contains("redis"), "{test}: no Redis (AAP_TEST_REDIS), and it is required");
            println!("skipped: {test}: no Redis (AAP_TEST_REDIS)");
            return None;
        };
        let lock = tokio::task::spawn_blocking(move || {
            let file = File::create(std::env::temp_dir().join("aap-test-redis.lock")).unwrap();
            match needs {
                Needs::Alone => file.lock().unwrap(),
                Needs::Shared => file.lock_shared().unwrap(),
            }
            file
        });
        let password = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(password.path(), PASSWORD).unwrap();
        let node = url.rsplit_once('@').unwrap().1.trim_end_matches("/0").to_owned();
        let id = std::process::id();
        let (key, uid) = (format!("t:{test}:{id}"), format!("{test}{id}"));
        let place = Self { key, node, uid, password, _lock: lock.await.unwrap() };
        for key in [place.key.clone(), place.ledger(), format!("aap:sink:{}", place.uid)] {
            place.cli(&["DEL", &key]);
        }
        Some(place)
    }

    /// Where the ledger of the key stands.
    pub(crate) fn ledger(&self) -> String {
        format!("aap:ledger:{}:{{{}}}", self.uid, self.key)
    }

    /// A spec for the key, changed by `more`.
    pub(crate) fn spec(&self, more: Value) -> RedisSpec {
        let password = format!("file:{}", self.password.path().display());
        let mut spec =
            json!({"url": format!("redis://{}", self.node), "key": self.key, "password": password});
        let members = spec.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        members.retain(|_, value| !value.is_null());
        serde_json::from_value(spec).unwrap()
    }

    /// The server alone.
    pub(crate) fn server(&self) -> RedisServer {
        let password = format!("file:{}", self.password.path().display());
        serde_json::from_value(json!({"url": format!("redis://{}", self.node), "password": password}))
            .unwrap()
    }

    pub(crate) fn sink(&self, more: Value) -> RedisSink {
        RedisSink::new(Target { name: "stream".into(), uid: self.uid.clone() }, self.spec(more))
    }

    /// What `redis-cli` says to a command.
    pub(crate) fn cli(&self, command: &[&str]) -> Value {
        cli(&self.node, command)
    }

    /// The entries of the key, each as its fields.
    pub(crate) fn entries(&self) -> Vec<HashMap<String, String>> {
        entries(&self.node, &self.key)
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(&self) {
        tokio::task::spawn_blocking(|| {
            service("fault", &["redis", "KILL"]);
            service("redis.sh", &["start"]);
        })
        .await
        .unwrap();
    }
}

pub(crate) fn cli(node: &str, command: &[&str]) -> Value {
    let (host, port) = node.rsplit_once(':').unwrap();
    let output = Command::new("redis-cli")
        .args(["-h", host, "-p", port, "--json"])
        .args(command)
        .env("REDISCLI_AUTH", PASSWORD)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or(Value::String(text.trim().to_owned()))
}

pub(crate) fn entries(node: &str, key: &str) -> Vec<HashMap<String, String>> {
    let found = cli(node, &["XRANGE", key, "-", "+"]);
    let entries = found.as_array().unwrap_or_else(|| panic!("{key}: {found}")).iter().map(|entry| {
        let parts: Vec<String> =
            entry[1].as_array().unwrap().iter().map(|part| part.as_str().unwrap().to_owned()).collect();
        parts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    });
    entries.collect()
}

/// Runs one of the scripts of the servers.
pub(crate) fn service(script: &str, arguments: &[&str]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services");
    let output = Command::new(folder.join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
