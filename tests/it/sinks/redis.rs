//! The Redis sink, counted by `redis-cli`.

use std::process::Command;

use aap_tests::{Platform, Service};
use serde_json::Value;

use super::{Place, each_once_through_kills};

/// Entries that are read at a time.
const PAGE: usize = 50_000;

struct Redis {
    service: Service,
    key: String,
}

impl Redis {
    fn find(test: &str) -> Option<Self> {
        let service = Service::find("redis", "redis", "AAP_TEST_REDIS", test)?;
        Some(Self { service, key: format!("it:{test}:{}", std::process::id()) })
    }

    /// `host:port`.
    fn node(&self) -> &str {
        let address =
            self.service.address.rsplit_once('@').map_or(self.service.address.as_str(), |(_, node)| node);
        address.trim_end_matches("/0")
    }

    /// Entries from an id on, as (id, names and values).
    fn page(&self, from: &str) -> Vec<(String, Vec<Value>)> {
        let (host, port) = self.node().rsplit_once(':').unwrap();
        let output = Command::new("redis-cli")
            .args(["-h", host, "-p", port, "--json", "XRANGE", &self.key, from, "+", "COUNT"])
            .arg(PAGE.to_string())
            .env("REDISCLI_AUTH", "aap")
            .output()
            .unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let entries = found.as_array().unwrap().iter();
        entries
            .map(|entry| (entry[0].as_str().unwrap().to_owned(), entry[1].as_array().unwrap().clone()))
            .collect()
    }

    fn ids(&self) -> Vec<u64> {
        let (mut ids, mut from) = (vec![], "-".to_owned());
        loop {
            let page = self.page(&from);
            let Some((last, _)) = page.last() else { return ids };
            from = format!("({last}");
            for (_, parts) in &page {
                let at = parts.iter().step_by(2).position(|name| name == "id").unwrap();
                ids.push(parts[2 * at + 1].as_str().unwrap().parse().unwrap());
            }
        }
    }
}

impl Place for Redis {
    fn document(&self) -> String {
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: redis }}\nspec:\n  streams: [events]\n  \
             redis: {{ url: 'redis://{}', key: '{}', password: env:AAP_TEST_SECRET }}\n",
            self.node(),
            self.key
        )
    }

    fn stored(&self) -> (u64, u64, u64) {
        let mut ids = self.ids();
        let (rows, sum) = (ids.len() as u64, ids.iter().sum());
        ids.sort_unstable();
        ids.dedup();
        (rows, ids.len() as u64, sum)
    }

    fn kill_and_restart(&self) {
        self.service.kill_and_restart();
    }
}

#[test]
fn entries_in_redis_stand_there_once_whoever_is_killed() {
    let Some(place) = Redis::find("kills") else { return };
    each_once_through_kills(&place, Platform::new(), "redis");
}
