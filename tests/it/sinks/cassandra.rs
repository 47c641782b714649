//! The Cassandra sink, counted by a client that shares no code with it.

use std::sync::Arc;

use aap_tests::{Platform, Service};
use futures::TryStreamExt;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;

use super::{Place, each_once_through_kills};

pub(crate) struct Cassandra {
    service: Service,
    keyspace: String,
}

impl Cassandra {
    pub(crate) fn find(test: &str) -> Option<Self> {
        let service = Service::find("cassandra", "cassandra", "AAP_TEST_CASSANDRA", test)?;
        Some(Self { service, keyspace: format!("it_{}_{}", test.replace(' ', "_"), std::process::id()) })
    }

    /// The cluster as the catalog `cassandra`.
    pub(crate) fn catalog(&self) -> String {
        let node = &self.service.address;
        format!(
            "apiVersion: aap/v1\nkind: Catalog\nmetadata: {{ name: cassandra }}\nspec:\n  cassandra: {{ nodes: ['{node}'] }}\n"
        )
    }

    /// The table of the sink as a table of it.
    pub(crate) fn table(&self) -> String {
        format!("cassandra.{}.events", self.keyspace)
    }

    /// What its partitions are found by.
    pub(crate) fn partition_key(&self) -> Vec<String> {
        let names = async {
            let session = SessionBuilder::new().known_node(&self.service.address).build().await.unwrap();
            let cql = "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = ? AND table_name = 'events'";
            let rows = session.query_iter(cql, (&self.keyspace,)).await.unwrap();
            let rows = rows.rows_stream::<(String, String)>().unwrap();
            rows.try_collect::<Vec<_>>().await.unwrap()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let columns = runtime.block_on(names);
        columns.into_iter().filter(|(_, kind)| kind == "partition_key").map(|(name, _)| name).collect()
    }

    async fn ids(&self) -> Vec<i64> {
        let session: Arc<Session> =
            Arc::new(SessionBuilder::new().known_node(&self.service.address).build().await.unwrap());
        let all = format!("SELECT \"id\" FROM {}.events", self.keyspace);
        let rows = session.query_iter(all, ()).await.unwrap().rows_stream::<(i64,)>().unwrap();
        rows.map_ok(|(id,)| id).try_collect().await.unwrap()
    }
}

impl Place for Cassandra {
    fn document(&self) -> String {
        let (node, keyspace) = (&self.service.address, &self.keyspace);
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: cassandra }}\nspec:\n  streams: [events]\n  \
             cassandra: {{ nodes: ['{node}'], keyspace: {keyspace}, table: events, create: true }}\n"
        )
    }

    fn stored(&self) -> (u64, u64, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut ids = runtime.block_on(self.ids());
        let (rows, sum) = (ids.len() as u64, ids.iter().sum::<i64>() as u64);
        ids.sort_unstable();
        ids.dedup();
        (rows, ids.len() as u64, sum)
    }

    fn kill_and_restart(&self) {
        self.service.kill_and_restart();
    }
}

#[test]
fn rows_in_cassandra_are_there_once_whoever_is_killed() {
    let Some(place) = Cassandra::find("kills") else { return };
    each_once_through_kills(&place, Platform::new(), "cassandra");
}
