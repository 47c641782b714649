//! The Elasticsearch sink, counted by searches of an OpenSearch.

use aap_tests::{Platform, Service};
use serde_json::{Value, json};

use super::{Place, each_once_through_kills};

/// The most documents that one search gives.
const PAGE: u64 = 10_000;

struct OpenSearch {
    service: Service,
    index: String,
}

impl OpenSearch {
    fn find(test: &str) -> Option<Self> {
        let service = Service::find("opensearch", "opensearch", "AAP_TEST_OPENSEARCH", test)?;
        Some(Self { service, index: format!("it-{test}-{}", std::process::id()) })
    }

    fn ask(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/{}/{path}", self.service.address, self.index);
        let mut answer =
            ureq::post(url).header("content-type", "application/json").send(body.to_string()).unwrap();
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }
}

impl Place for OpenSearch {
    fn document(&self) -> String {
        let (url, index) = (&self.service.address, &self.index);
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: search }}\nspec:\n  streams: [events]\n  \
             elasticsearch: {{ urls: ['{url}'], index: {index}, ledger: {index}-ledger }}\n"
        )
    }

    fn stored(&self) -> (u64, u64, u64) {
        self.ask("_refresh", &json!({}));
        let (mut ids, mut rows, mut after) = (vec![], 0, Value::Null);
        loop {
            let mut query = json!({"size": PAGE, "track_total_hits": true, "_source": false, "sort": ["id"]});
            if !after.is_null() {
                query["search_after"] = after;
            }
            let found = self.ask("_search", &query);
            rows = found["hits"]["total"]["value"].as_u64().unwrap().max(rows);
            let hits = found["hits"]["hits"].as_array().unwrap();
            let Some(last) = hits.last() else { break };
            after = last["sort"].clone();
            ids.extend(hits.iter().map(|hit| hit["sort"][0].as_u64().unwrap()));
        }
        ids.sort_unstable();
        ids.dedup();
        (rows, ids.len() as u64, ids.iter().sum())
    }

    fn kill_and_restart(&self) {
        self.service.kill_and_restart();
    }
}

#[test]
fn documents_in_opensearch_are_there_once_whoever_is_killed() {
    let Some(place) = OpenSearch::find("kills") else { return };
    each_once_through_kills(&place, Platform::new(), "search");
}
