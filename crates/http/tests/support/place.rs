//! Indices of a real server for one test, and a client that shares no code with the sink.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too, and each binary uses another part of them"
)]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use aap_http::{ElasticsearchSink, ElasticsearchSpec};
use aap_sinks::Target;
use serde_json::{Value, json};

/// Where a test writes.
pub(crate) struct Place {
    pub(crate) url: String,
    /// What its indices begin with.
    pub(crate) prefix: String,
    // Whoever kills the server waits until nobody else needs it. Released by the end of the process, too.
    _lock: File,
}

/// Whether a test kills the server, or changes it for all.
#[derive(PartialEq, Eq)]
pub(crate) enum Needs {
    Shared,
    Alone,
}

impl Place {
    /// Indices of its own, not yet made. `None`, with a line that says so, where there is no server.
    pub(crate) async fn new(test: &str, needs: Needs) -> Option<Self> {
        let Ok(url) = std::env::var("AAP_TEST_OPENSEARCH") else {
            let required = std::env::var("AAP_TEST_SERVICES_REQUIRED").unwrap_or_default();
            assert!(
                !required.contains("opensearch"),
                "{test}: no OpenSearch (AAP_TEST_OPENSEARCH), and it is required"
            );
            println!("skipped: {test}: no OpenSearch (AAP_TEST_OPENSEARCH)");
            return None;
        };
        let lock = tokio::task::spawn_blocking(move || {
            let file = File::create(std::env::temp_dir().join("aap-test-opensearch.lock")).unwrap();
            match needs {
                Needs::Alone => file.lock().unwrap(),
                Needs::Shared => file.lock_shared().unwrap(),
            }
            file
        });
        let place =
            Self { url, prefix: format!("t-{test}-{}", std::process::id()), _lock: lock.await.unwrap() };
        place.ask("DELETE", &format!("{}-*?expand_wildcards=all", place.prefix), None);
        Some(place)
    }

    /// A spec for `{stream}` behind the prefix, changed by `more`.
    pub(crate) fn spec(&self, more: Value) -> ElasticsearchSpec {
        let mut spec = json!({
            "urls": [self.url],
            "index": format!("{}-{{stream}}", self.prefix),
            "ledger": format!("{}-ledger", self.prefix),
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    pub(crate) fn sink(&self, more: Value) -> ElasticsearchSink {
        let target = Target { name: "search".into(), uid: "0123456789abcdef0123456789abcdef".into() };
        ElasticsearchSink::new(target, self.spec(more))
    }

    /// Status and answer of the server.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent = ureq::Agent::new_with_config(config);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.url))
            .header("content-type", "application/json")
            .body(body.map(|body| body.to_string()).unwrap_or_default())
            .unwrap();
        let mut answer = agent.run(request).unwrap();
        let text = answer.body_mut().with_config().limit(256 << 20).read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The documents of an index, each with its id.
    pub(crate) fn documents(&self, stream: &str) -> Vec<(String, Value)> {
        let index = format!("{}-{stream}", self.prefix);
        self.ask("POST", &format!("{index}/_refresh"), None);
        let (mut found, mut after) = (vec![], Value::Null);
        loop {
            let mut query =
                json!({"size": 5000, "sort": [{"_seq": "asc"}, {"_row": "asc"}, {"_node": "asc"}]});
            if !after.is_null() {
                query["search_after"] = after;
            }
            let (status, answer) = self.ask("POST", &format!("{index}/_search"), Some(query));
            if status == 404 {
                return found;
            }
            let hits = answer["hits"]["hits"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
            let Some(last) = hits.last() else { return found };
            after = last["sort"].clone();
            found.extend(
                hits.iter().map(|hit| (hit["_id"].as_str().unwrap().to_owned(), hit["_source"].clone())),
            );
        }
    }

    /// How many documents an index has.
    pub(crate) fn count(&self, stream: &str) -> u64 {
        let index = format!("{}-{stream}", self.prefix);
        self.ask("POST", &format!("{index}/_refresh"), None);
        self.ask("GET", &format!("{index}/_count"), None).1["count"].as_u64().unwrap_or(0)
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart(&self) {
        tokio::task::spawn_blocking(|| {
            service("fault", &["opensearch", "KILL"]);
            service("opensearch.sh", &["start"]);
        })
        .await
        .unwrap();
    }
}

/// Runs one of the scripts of the servers.
pub(crate) fn service(script: &str, arguments: &[&str]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services");
    let output = Command::new(folder.join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
