//! Leases in a real PostgreSQL: one holder at a time, through races, commits under way, and a server that hangs or dies.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/place.rs"]
mod place;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use aap_postgres::{PostgresStore, PostgresStoreSpec};
use aap_runtime::{Clock, SystemClock};
use aap_store::conformance::{self, Timed, landing};
use aap_store::{Acquired, ClusterStore, Error, Fence, Lease, LeaseStore, MetadataStore};
use place::{Needs, Place, kill};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// Longer than any of these tests takes.
const TTL: Duration = Duration::from_secs(600);
/// How long a lease lasts where coordinators use it.
const USUAL_TTL: Duration = Duration::from_secs(15);

fn spec(place: &Place, schema: &str) -> PostgresStoreSpec {
    let password = place.spec(json!({})).password;
    let mut spec: PostgresStoreSpec =
        serde_json::from_value(json!({ "url": place.url(""), "schema": schema })).unwrap();
    spec.password = password;
    spec
}

/// A store in the schema of the test, as one coordinator has it.
async fn opened(place: &Place) -> Arc<PostgresStore> {
    open(spec(place, &place.schema)).await
}

/// The same by another port of this machine.
async fn opened_at(place: &Place, port: u16) -> Arc<PostgresStore> {
    let usual = place.url("");
    let (before, after) = (usual.rsplit_once(':').unwrap().0, usual.rsplit_once('/').unwrap().1);
    let spec = spec(place, &place.schema);
    open(PostgresStoreSpec { url: format!("{before}:{port}/{after}").parse().unwrap(), ..spec }).await
}

async fn open(spec: PostgresStoreSpec) -> Arc<PostgresStore> {
    spawn_blocking(move || Arc::new(PostgresStore::open(&spec).unwrap())).await.unwrap()
}

/// Does with a store what may block.
async fn on<T: Send + 'static>(
    store: &Arc<PostgresStore>,
    work: impl FnOnce(&PostgresStore) -> T + Send + 'static,
) -> T {
    let store = store.clone();
    spawn_blocking(move || work(&store)).await.unwrap()
}

fn taken(store: &PostgresStore, name: &str, holder: &str) -> Lease {
    match store.acquire_lease(name, holder, "{}", TTL).unwrap() {
        Acquired::Taken(lease) => lease,
        held @ Acquired::Held(_) => panic!("{holder} cannot take {name}: {held:?}"),
    }
}

fn named(lease: &Lease) -> Vec<(String, u64)> {
    vec![(lease.name.clone(), lease.token)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_cluster_in_postgresql_keeps_its_promises() {
    let Some(place) = Place::new("cluster", Needs::Shared).await else { return };
    let place = Arc::new(place);
    let made = place.clone();
    let runtime = Handle::current();
    spawn_blocking(move || {
        let mut number = 0;
        conformance::run_cluster(&mut || {
            number += 1;
            let schema = format!("{}_{number}", made.schema);
            let store = Box::new(PostgresStore::open(&spec(&made, &schema)).unwrap());
            let (runtime, place) = (runtime.clone(), made.clone());
            let pass = move |time: Duration| {
                let by = format!("interval '{} microseconds'", time.as_micros());
                let sql = format!("UPDATE {schema}.leases SET expires_at = expires_at - {by}");
                runtime.block_on(place.sql(&sql));
            };
            Timed { store, pass: Box::new(pass) }
        });
    })
    .await
    .unwrap();
    for number in 1..=20 {
        place.sql(&format!("DROP SCHEMA IF EXISTS {}_{number} CASCADE", place.schema)).await;
    }
}

/// Coordinators that race.
const RACERS: usize = 8;
/// How often.
const ROUNDS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_coordinators_one_has_the_lease_and_no_token_comes_twice() {
    let Some(place) = Place::new("lease_race", Needs::Shared).await else { return };
    let spec = spec(&place, &place.schema);
    let found = spawn_blocking(move || {
        let stores: Vec<_> = (0..RACERS).map(|_| PostgresStore::open(&spec).unwrap()).collect();
        let all = &Barrier::new(RACERS);
        std::thread::scope(|scope| {
            let racers = stores.iter().enumerate();
            let racers: Vec<_> =
                racers.map(|(racer, store)| scope.spawn(move || race(store, racer, all))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
        })
    });
    let found = found.await.unwrap();
    for round in 0..ROUNDS {
        let of_round: Vec<_> = found.iter().map(|of_racer| of_racer[round].as_ref().unwrap()).collect();
        let (mut taken, mut seen) = (vec![], vec![]);
        for acquired in of_round {
            match acquired {
                Acquired::Taken(lease) => taken.push((lease.holder.as_str(), lease.token)),
                Acquired::Held(lease) => seen.push((lease.holder.as_str(), lease.token)),
            }
        }
        assert_eq!((taken.len(), taken[0].1), (1, round as u64 + 1), "round {round}: {taken:?}");
        assert_eq!(seen, vec![taken[0]; RACERS - 1], "round {round}");
    }
}

/// What one of them got in each round. At the begin of a round the lease is free: never taken, given up, or expired. Nothing here
/// may panic: the others would wait at the barrier for ever.
fn race(store: &PostgresStore, racer: usize, all: &Barrier) -> Vec<Result<Acquired, Error>> {
    let round = |round: usize| {
        let holder = format!("racer-{racer} in round {round}");
        all.wait();
        let acquired = store.acquire_lease("leader", &holder, "{}", TTL);
        all.wait();
        if let Ok(Acquired::Taken(lease)) = &acquired {
            let ended = match round % 2 {
                0 => store.release_leases(&holder, &named(lease)),
                _ => store.renew_leases(&holder, &named(lease), Duration::ZERO).map(drop),
            };
            ended.and(acquired)
        } else {
            acquired
        }
    };
    (0..ROUNDS).map(round).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_lease_is_taken_by_one_of_those_who_wait_for_it() {
    let Some(place) = Place::new("lease_expiry", Needs::Shared).await else { return };
    let spec = spec(&place, &place.schema);
    let (inside, tokens) = spawn_blocking(move || {
        let (inside, tokens) = (Mutex::new(0), Mutex::new(vec![]));
        std::thread::scope(|scope| {
            for racer in 0..RACERS {
                let (spec, inside, tokens) = (&spec, &inside, &tokens);
                scope.spawn(move || {
                    wait_for_turns(&PostgresStore::open(spec).unwrap(), racer, inside, tokens)
                });
            }
        });
        (inside.into_inner().unwrap(), tokens.into_inner().unwrap())
    })
    .await
    .unwrap();
    assert_eq!(inside, 0);
    assert_eq!(tokens, (1..=(RACERS * TURNS) as u64).collect::<Vec<_>>());
}

/// How often each of them has the lease.
const TURNS: usize = 10;

/// Takes the lease again and again, and lets it expire by the server's clock alone.
fn wait_for_turns(store: &PostgresStore, racer: usize, inside: &Mutex<usize>, tokens: &Mutex<Vec<u64>>) {
    let short = Duration::from_millis(20);
    for turn in 0..TURNS {
        let holder = format!("racer-{racer} turn {turn}");
        let token = loop {
            match store.acquire_lease("leader", &holder, "{}", TTL).unwrap() {
                Acquired::Taken(lease) => break lease.token,
                Acquired::Held(lease) => assert_ne!(lease.holder, holder),
            }
        };
        let enter = |by: fn(usize) -> usize| {
            let mut inside = inside.lock().unwrap();
            *inside = by(*inside);
            *inside
        };
        assert_eq!(enter(|inside| inside + 1), 1, "nobody else has it");
        tokens.lock().unwrap().push(token);
        assert_eq!(enter(|inside| inside - 1), 0);
        store.renew_leases(&holder, &[("leader".to_owned(), token)], short).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_waits_for_no_commit_and_whoever_takes_over_does() {
    let Some(place) = Place::new("lease_commit", Needs::Shared).await else { return };
    let (one, two) = (opened(&place).await, opened(&place).await);
    let first = on(&one, |store| taken(store, "leader", "one")).await;
    one.set_fence(Some(Fence { lease: "leader".into(), token: first.token }));
    let somebody = place.client().await;
    somebody.batch_execute("BEGIN; LOCK TABLE files IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let committing = one.clone();
    let committing = spawn_blocking(move || committing.commit(&landing("logs", "a", 0, 3)));
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'files'::regclass";
    let until =
        tokio::time::timeout(Duration::from_secs(30), async { while place.lines(waits).await != ["1"] {} });
    until.await.expect("the commit waits for the table");

    let mine = named(&first);
    assert_eq!(on(&one, move |store| store.renew_leases("one", &mine, TTL)).await.unwrap(), ["leader"]);
    place.sql("UPDATE leases SET expires_at = clock_timestamp()").await;
    let tried = on(&two, |store| store.acquire_lease("leader", "two", "{}", TTL)).await.unwrap();
    let Acquired::Held(held) = tried else { panic!("a commit under it is on its way: {tried:?}") };
    assert_eq!((held.holder.as_str(), held.left), ("one", Duration::ZERO));
    assert_eq!(on(&two, |store| taken(store, "another", "two")).await.token, 1);

    somebody.batch_execute("COMMIT").await.unwrap();
    committing.await.unwrap().unwrap();
    assert_eq!(on(&two, |store| taken(store, "leader", "two")).await.token, 2);
    let late = on(&one, |store| store.commit(&landing("logs", "b", 3, 6))).await;
    assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
    assert_eq!(on(&two, |store| store.catalogue()).await.unwrap().files.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_waits_for_no_other_writer_of_the_metadata() {
    let Some(place) = Place::new("lease_writer", Needs::Shared).await else { return };
    let store = opened(&place).await;
    let lease = on(&store, |store| taken(store, "leader", "one")).await;
    let somebody = place.client().await;
    somebody.batch_execute("BEGIN; LOCK TABLE streams IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let declaring = store.clone();
    let declaring = spawn_blocking(move || {
        declaring.declare_columns(&"logs".parse().unwrap(), &[("n".into(), "BIGINT".into())])
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'streams'::regclass";
    let until =
        tokio::time::timeout(Duration::from_secs(30), async { while place.lines(waits).await != ["1"] {} });
    until.await.expect("the writer waits for the table");
    let mine = named(&lease);
    assert_eq!(on(&store, move |store| store.renew_leases("one", &mine, TTL)).await.unwrap(), ["leader"]);
    assert_eq!(on(&store, |store| taken(store, "a shard", "one")).await.token, 1);
    assert!(!declaring.is_finished());
    somebody.batch_execute("COMMIT").await.unwrap();
    declaring.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_survive_the_server_s_death() {
    let Some(place) = Place::new("lease_death", Needs::Alone).await else { return };
    let store = opened(&place).await;
    let kept = on(&store, |store| taken(store, "leader", "one")).await;
    let given = on(&store, |store| taken(store, "shard-1", "one")).await;
    let given = named(&given);
    on(&store, move |store| store.release_leases("one", &given).unwrap()).await;
    let mine = named(&kept);
    kill();
    let asked = mine.clone();
    let away = on(&store, move |store| store.renew_leases("one", &asked, TTL)).await;
    assert!(matches!(away, Err(Error::Server { .. })), "{away:?}");
    place.start().await;
    assert_eq!(on(&store, move |store| store.renew_leases("one", &mine, TTL)).await.unwrap(), ["leader"]);
    let all = on(&store, |store| store.leases()).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].holder.as_str(), all[0].token), ("one", 1));
    assert_eq!(
        on(&store, |store| taken(store, "shard-1", "two")).await.token,
        2,
        "given up, and not forgotten"
    );
    // And killed under a connection that nobody knows to be lost.
    place.restart().await;
    let again = on(&store, |store| store.acquire_lease("leader", "two", "{}", TTL)).await.unwrap();
    assert!(matches!(again, Acquired::Held(held) if held.holder == "one"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_an_error_while_there_is_time_to_stop() {
    let Some(place) = Place::new("lease_hang", Needs::Shared).await else { return };
    let hangs = Arc::new(AtomicBool::new(false));
    let port = place.mute(hangs.clone()).await;
    let store = opened_at(&place, port).await;
    let lease = on(&store, |store| taken(store, "leader", "one")).await;
    let mine = named(&lease);
    let asked = mine.clone();
    hangs.store(true, Ordering::SeqCst);
    let clock = SystemClock::default();
    let began = clock.monotonic();
    let hung = on(&store, move |store| store.renew_leases("one", &asked, USUAL_TTL)).await;
    let took = clock.monotonic() - began;
    hangs.store(false, Ordering::SeqCst);
    assert!(matches!(hung, Err(Error::Server { .. })), "{hung:?}");
    // Three seconds lie between renewals.
    assert!(took + Duration::from_secs(3) < USUAL_TTL - Duration::from_secs(2), "{took:?}");
    assert_eq!(on(&store, move |store| store.renew_leases("one", &mine, TTL)).await.unwrap(), ["leader"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_of_an_embedded_coordinator_is_handed_to_a_cluster_by_its_owner_alone() {
    let Some(place) = Place::new("lease_claim", Needs::Shared).await else { return };
    drop(opened(&place).await);
    // As an earlier version left it.
    place
        .sql(
            "ALTER TABLE lake DROP COLUMN cluster, DROP COLUMN authority; DROP TABLE leases, landing_positions, access; \
             UPDATE lake SET owner = 'mine', version = 7; UPDATE version SET version = 2",
        )
        .await;
    let store = opened(&place).await;
    on(&store, |store| {
        assert_eq!(store.catalogue().unwrap().version, 7);
        store.claim("mine").unwrap();
        let foreign = |refused: Result<(), Error>, by: &str| {
            assert!(matches!(&refused, Err(Error::Foreign { found }) if found == by), "{refused:?}");
        };
        foreign(store.claim("another"), "mine");
        foreign(store.claim_cluster("east", "aa"), "mine");
        foreign(store.convert_claim("another", "east", "aa"), "mine");
        for _ in 0..2 {
            store.convert_claim("mine", "east", "aa").unwrap();
        }
        store.claim_cluster("east", "aa").unwrap();
        foreign(store.claim("mine"), "east");
        foreign(store.claim("east"), "east");
        foreign(store.claim_cluster("west", "aa"), "east");
        let refused = store.claim_cluster("east", "bb");
        assert!(matches!(&refused, Err(Error::OtherAuthority { found }) if found == "aa"), "{refused:?}");
    })
    .await;
}
