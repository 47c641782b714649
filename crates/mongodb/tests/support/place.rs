//! A collection of a real server for one test, and a client that shares no code with the sink: `mongodb.sh`, which asks through
//! the client of Python.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use aap_mongodb::{MongoDbSink, MongoDbSpec};
use aap_sinks::Target;
use serde_json::{Value, json};

/// Where a test writes.
pub(crate) struct Place {
    /// The database: one for each test.
    pub(crate) database: String,
    uid: String,
    url: String,
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

/// The collection of the tests.
pub(crate) const COLLECTION: &str = "events";
/// User and password of the tests' server.
const USER: &str = "aap";

impl Place {
    /// A database of its own, not yet made. `None`, with a line that says so, where there is no server.
    pub(crate) async fn new(test: &str, needs: Needs) -> Option<Self> {
        let Ok(url) = std::env::var("AAP_TEST_MONGODB") else {
            let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
            assert!(
                !required.contains("mongodb"),
                "{test}: no MongoDB (AAP_TEST_MONGODB), and it is required"
            );
            println!("skipped: {test}: no MongoDB (AAP_TEST_MONGODB)");
            return None;
        };
        let lock = tokio::task::spawn_blocking(move || {
            let file = File::create(std::env::temp_dir().join("aap-test-mongodb.lock")).unwrap();
            match needs {
                Needs::Alone => file.lock().unwrap(),
                Needs::Shared => file.lock_shared().unwrap(),
            }
            file
        });
        let password = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(password.path(), USER).unwrap();
        let id = std::process::id();
        let (database, uid) = (format!("t-{test}-{id}"), format!("{test}{id}"));
        let place = Self { database, uid, url, password, _lock: lock.await.unwrap() };
        place.command(json!({"dropDatabase": 1}));
        Some(place)
    }

    /// A spec for the collection, changed by `more`.
    pub(crate) fn spec(&self, more: Value) -> MongoDbSpec {
        let mut spec = json!({
            "url": self.url,
            "database": self.database,
            "collection": COLLECTION,
            "username": USER,
            "password": format!("file:{}", self.password.path().display()),
            // What speaks the protocol here has no other decimals.
            "decimals": "text",
        });
        let members = spec.as_object_mut().unwrap();
        members.extend(more.as_object().unwrap().clone());
        members.retain(|_, value| !value.is_null());
        serde_json::from_value(spec).unwrap()
    }

    pub(crate) fn sink(&self, more: Value) -> MongoDbSink {
        MongoDbSink::new(Target { name: "documents".into(), uid: self.uid.clone() }, self.spec(more))
    }

    /// What the server says to a command.
    pub(crate) fn command(&self, command: Value) -> Value {
        let told = service("mongodb.sh", &["command", &self.database, &command.to_string()]);
        serde_json::from_str(&told).unwrap()
    }

    /// The documents of a collection.
    pub(crate) fn documents(&self, collection: &str) -> Vec<Value> {
        let told = service("mongodb.sh", &["documents", &self.database, collection]);
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(&self) {
        tokio::task::spawn_blocking(|| {
            service("fault", &["mongodb", "KILL"]);
            service("mongodb.sh", &["start"]);
        })
        .await
        .unwrap();
    }
}

/// Runs one of the scripts of the servers.
pub(crate) fn service(script: &str, arguments: &[&str]) -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services");
    let output = Command::new(folder.join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
