//! The MongoDB sink, counted by the client of Python, which `mongodb.sh` asks.

use aap_tests::{Platform, Service};
use serde_json::Value;

use super::{Place, each_once_through_kills};

struct MongoDb {
    service: Service,
    database: String,
}

impl MongoDb {
    fn find(test: &str) -> Option<Self> {
        let service = Service::find("mongodb", "mongodb", "AAP_TEST_MONGODB", test)?;
        Some(Self { service, database: format!("it-{test}-{}", std::process::id()) })
    }
}

impl Place for MongoDb {
    fn document(&self) -> String {
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: mongodb }}\nspec:\n  streams: [events]\n  \
             mongodb: {{ url: '{}', database: {}, collection: '{{stream}}', username: aap, password: env:AAP_TEST_SECRET }}\n",
            self.service.address, self.database
        )
    }

    fn stored(&self) -> (u64, u64, u64) {
        let told = self.service.tool(&["documents", &self.database, "events", "id"]);
        let id = |line: &str| serde_json::from_str::<Value>(line).unwrap()["id"].as_u64().unwrap();
        let mut ids: Vec<u64> = told.lines().map(id).collect();
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
fn documents_in_mongodb_stand_there_once_whoever_is_killed() {
    let Some(place) = MongoDb::find("kills") else { return };
    each_once_through_kills(&place, Platform::new(), "mongodb");
}
