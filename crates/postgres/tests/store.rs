//! Metadata in a real PostgreSQL keeps the promises of every store, also when the server dies in between.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/place.rs"]
mod place;

use aap_postgres::{PostgresStore, PostgresStoreSpec};
use aap_store::MetadataStore;
use aap_store::conformance::{self, Shared};
use place::{Needs, Place};
use serde_json::json;
use tokio::task::spawn_blocking;

fn spec(place: &Place, schema: &str) -> PostgresStoreSpec {
    let password = place.spec(json!({})).password;
    let mut spec: PostgresStoreSpec =
        serde_json::from_value(json!({ "url": place.url(""), "schema": schema })).unwrap();
    spec.password = password;
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_in_postgresql_keeps_the_promises_of_every_store() {
    let Some(place) = Place::new("store", Needs::Shared).await else { return };
    let place = std::sync::Arc::new(place);
    let made = place.clone();
    spawn_blocking(move || {
        let mut number = 0;
        conformance::run(&mut || {
            number += 1;
            Box::new(PostgresStore::open(&spec(&made, &format!("{}_{number}", made.schema))).unwrap())
        });
    })
    .await
    .unwrap();
    for number in 1..=20 {
        place.sql(&format!("DROP SCHEMA IF EXISTS {}_{number} CASCADE", place.schema)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_access_in_postgresql_keep_their_promises_for_two_coordinators() {
    let Some(place) = Place::new("access", Needs::Shared).await else { return };
    let place = std::sync::Arc::new(place);
    let made = place.clone();
    let schemas = spawn_blocking(move || {
        let mut number = 0;
        conformance::run_access(&mut || {
            number += 1;
            let spec = spec(&made, &format!("{}_{number}", made.schema));
            let open = || Box::new(PostgresStore::open(&spec).unwrap());
            Shared { one: open(), other: open() }
        });
        number
    });
    for number in 1..=schemas.await.unwrap() {
        place.sql(&format!("DROP SCHEMA IF EXISTS {}_{number} CASCADE", place.schema)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_survives_the_server_s_death_and_a_newer_schema_is_refused() {
    let Some(place) = Place::new("store_death", Needs::Alone).await else { return };
    let spec = spec(&place, &place.schema);
    let opened = spec.clone();
    let store = spawn_blocking(move || PostgresStore::open(&opened).unwrap()).await.unwrap();
    let store = std::sync::Arc::new(store);
    let stream: aap_types::StreamName = "logs".parse().unwrap();
    let columns = vec![("ts".to_owned(), "TIMESTAMP".to_owned())];
    let (first, named) = (store.clone(), stream.clone());
    spawn_blocking(move || first.declare_columns(&named, &columns).unwrap()).await.unwrap();
    place.restart().await;
    let again = store.clone();
    let catalogue = spawn_blocking(move || again.catalogue()).await.unwrap().unwrap();
    assert_eq!(catalogue.streams[0].stream, stream);

    place.sql("UPDATE version SET version = 99").await;
    let refused = spawn_blocking(move || PostgresStore::open(&spec)).await.unwrap();
    assert!(matches!(refused, Err(aap_store::Error::Newer { found: 99, .. })), "{refused:?}");
}
