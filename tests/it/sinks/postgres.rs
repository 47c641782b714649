//! The PostgreSQL sink, counted by `psql`.

use std::process::Command;

use aap_tests::{Platform, Running, Service};

use super::{Place, apply, assert_each_once, each_once_through_kills, ingest, settles, sink};

pub(crate) struct Postgres {
    service: Service,
    schema: &'static str,
}

impl Postgres {
    pub(crate) fn find(test: &str, schema: &'static str) -> Option<Self> {
        let service = Service::find("postgres", "postgres", "AAP_TEST_POSTGRES", test)?;
        let place = Self { service, schema };
        place.psql(&format!("drop schema if exists {schema} cascade; create schema {schema}"));
        Some(place)
    }

    /// Asks again while another test has the server killed.
    pub(crate) fn psql(&self, sql: &str) -> String {
        let (mut out, mut err) = (String::new(), String::new());
        settles("psql reaches the server", || {
            let output = Command::new("psql")
                .args([self.service.address.as_str(), "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql])
                .output()
                .unwrap();
            out = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            err = String::from_utf8_lossy(&output.stderr).into_owned();
            // 2: no connection, or it was lost; or the server said so with its last words.
            output.status.code() != Some(2) && !err.contains("FATAL:  terminating connection")
        });
        assert!(err.is_empty() || err.contains("NOTICE"), "{sql}: {err}");
        out
    }

    /// The address without its password, which stands in the environment.
    fn url(&self) -> String {
        let (scheme, rest) = self.service.address.split_once("://").unwrap();
        let (user, host) = rest.split_once('@').unwrap();
        let user = user.split(':').next().unwrap();
        format!("{scheme}://{user}@{host}")
    }

    /// The server as the catalog `pg`.
    pub(crate) fn catalog(&self) -> String {
        format!(
            "apiVersion: aap/v1\nkind: Catalog\nmetadata: {{ name: pg }}\nspec:\n  postgres: {{ url: '{}', password: env:AAP_TEST_SECRET }}\n",
            self.url()
        )
    }

    /// The table `orders` as a source.
    pub(crate) fn source(&self) -> String {
        let what = format!("table: {}.orders\n    cursor: id\n    every_seconds: 1", self.schema);
        self.source_of("orders", &what)
    }

    /// A source that reads `what`.
    pub(crate) fn source_of(&self, name: &str, what: &str) -> String {
        let url = self.url();
        format!(
            "apiVersion: aap/v1\nkind: Source\nmetadata: {{ name: {name} }}\nspec:\n  postgres:\n    url: '{url}'\n    \
             password: env:AAP_TEST_SECRET\n    {what}\n"
        )
    }

    /// Its server.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Where it answers, with its password.
    pub(crate) fn address(&self) -> &str {
        &self.service.address
    }

    /// Statements that go on while the test does.
    pub(crate) fn psql_begun(&self, sql: &str) -> Running {
        Running::of(Command::new("psql").args([
            self.service.address.as_str(),
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]))
    }

    /// Where metadata may lie, as YAML: in a schema beside that of the test, which is empty now.
    pub(crate) fn metadata(&self) -> String {
        let schema = format!("{}_store", self.schema);
        self.psql(&format!("drop schema if exists {schema} cascade"));
        format!("{{ url: '{}', password: env:AAP_TEST_SECRET, schema: {schema} }}", self.url())
    }

    fn with(&self, more: &str) -> String {
        let (url, schema) = (self.url(), self.schema);
        format!(
            "apiVersion: aap/v1\nkind: Sink\nmetadata: {{ name: pg }}\nspec:\n  streams: [events]\n  postgres:\n    url: '{url}'\n    \
             password: env:AAP_TEST_SECRET\n    table: {schema}.events\n    ledger: {schema}.ledger\n    {more}\n"
        )
    }
}

impl Place for Postgres {
    fn document(&self) -> String {
        self.with("create: true")
    }

    fn stored(&self) -> (u64, u64, u64) {
        let text = self.psql(&format!(
            "select count(*), count(distinct id), coalesce(sum(id), 0) from {}.events",
            self.schema
        ));
        let numbers: Vec<u64> = text.split('|').map(|number| number.parse().unwrap()).collect();
        (numbers[0], numbers[1], numbers[2])
    }

    fn kill_and_restart(&self) {
        self.service.kill_and_restart();
    }
}

#[test]
fn rows_in_postgresql_are_there_exactly_once_whoever_is_killed() {
    let Some(place) = Postgres::find("postgres kills", "it_kills") else { return };
    each_once_through_kills(&place, Platform::new(), "pg");
}

#[test]
fn rows_that_postgresql_refuses_are_dead_letters_and_are_replayed_once_the_table_takes_them() {
    let Some(place) = Postgres::find("postgres dead letters", "it_dead") else { return };
    let platform = Platform::new();
    platform.up(&[]).ok();
    place.psql(
        "create table it_dead.events (ts timestamptz, id bigint primary key check (id <> 17), name text, price float8)",
    );
    apply(&platform, &place.with("create: false"));
    ingest(&platform, 0, 100);
    settles("the bad row is known", || sink(&platform, "pg")["dead_letters"] != 0);
    settles("everything else is written", || {
        place.stored().0 + sink(&platform, "pg")["dead_letters"].as_u64().unwrap() == 100
    });
    let letters = platform.aap(&["sink", "dlq", "ls", "pg", "-o", "json", "--limit", "0"]).ok().json();
    let letters = letters["items"].as_array().unwrap();
    assert!(letters.iter().any(|letter| letter["reason"].as_str().unwrap().contains("check")), "{letters:?}");

    // Still refused: it comes back.
    platform.aap(&["sink", "dlq", "replay", "pg"]).ok();
    settles("what is still bad is back", || sink(&platform, "pg")["dead_letters"].as_u64().unwrap() >= 1);
    place.psql("alter table it_dead.events drop constraint events_id_check");
    settles("all is replayed", || {
        platform.aap(&["sink", "dlq", "replay", "pg"]).ok();
        sink(&platform, "pg")["dead_letters"] == 0
    });
    assert_each_once(&platform, &place, "pg", 100);
}

#[test]
fn a_sink_that_was_stopped_for_long_is_fed_from_the_lake_and_one_made_now_begins_now() {
    let Some(place) = Postgres::find("postgres from the lake", "it_lake") else { return };
    let platform = Platform::new();
    // A landing buffer that keeps nothing that the lake has.
    let folder = platform.home().join("config");
    std::fs::create_dir_all(&folder).unwrap();
    let config = "apiVersion: aap/v1\nkind: Coordinator\nmetadata: { name: coordinator }\nspec:\n  landing: { retain: 0 }\n  \
                  lake: { age_seconds: 1 }\n";
    std::fs::write(folder.join("coordinator.yaml"), config).unwrap();
    platform.up(&[]).ok();
    apply(&platform, &place.document());
    platform.aap(&["sink", "pause", "pg"]).ok();
    ingest(&platform, 0, 50_000);
    settles("the lake has it", || {
        let shown = platform.aap(&["stream", "show", "events", "-o", "json"]);
        shown.code == 0 && shown.json()["item"]["rows_in_lake"] == 50_000
    });
    assert_eq!(sink(&platform, "pg")["state"], "paused");
    platform.aap(&["sink", "resume", "pg"]).ok();
    assert_each_once(&platform, &place, "pg", 50_000);

    // The same stream to another table, from now on.
    let now = place
        .with("create: true\n  start: now")
        .replace("name: pg", "name: late")
        .replace("it_lake.events", "it_lake.late");
    apply(&platform, &now);
    settles("it stands", || sink(&platform, "late")["state"] == "running");
    ingest(&platform, 50_000, 50_010);
    settles("both have the new rows", || {
        place.psql("select count(*) from it_lake.events") == "50010"
            && place.psql("select count(*), min(id) from it_lake.late") == "10|50000"
    });
}

#[test]
fn what_is_wrong_with_a_sink_is_said_with_its_line_or_in_its_state() {
    let Some(place) = Postgres::find("postgres bad input", "it_bad") else { return };
    // Each answer is that of a server that is there.
    let _quiet = Service::quiet();
    let mut platform = Platform::new();
    platform.set_env("AAP_TEST_SECRET", "wrong");
    platform.up(&[]).ok();
    let path = platform.beside("bad.yaml");
    let refused = |document: &str| {
        std::fs::write(&path, document).unwrap();
        platform.aap(&["apply", "-f", path.to_str().unwrap(), "-o", "json"]).refused(2, "config.invalid")
    };
    let problem = refused(&place.with("creat: true"));
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("bad.yaml:11") && problem["hints"].to_string().contains("create"), "{problem}");
    refused(&place.document().replace("streams: [events]", "streams: ['[']"));
    refused("apiVersion: aap/v1\nkind: Sink\nmetadata: { name: pg }\nspec: { streams: [events] }\n");
    platform.aap(&["sink", "show", "pg", "-o", "json"]).refused(3, "sink.not_found");

    // A wrong password is no reason to lose anything.
    apply(&platform, &place.document());
    ingest(&platform, 0, 100);
    settles("it is refused", || sink(&platform, "pg")["state"] == "refused");
    assert_eq!(sink(&platform, "pg")["problem"]["code"], "sink.denied");
    platform.aap(&["sink", "test", "pg", "-o", "json"]).refused(5, "sink.denied");
    platform.down().ok();
    platform.set_env("AAP_TEST_SECRET", "aap");
    platform.up(&[]).ok();
    assert_each_once(&platform, &place, "pg", 100);
    let changed = platform.aap(&["diff", "-f", path.to_str().unwrap()]);
    assert_ne!(changed.code, 0);
    platform.aap(&["delete", "sink", "pg", "--yes"]).ok();
    platform.aap(&["sink", "show", "pg", "-o", "json"]).refused(3, "sink.not_found");
    assert_eq!(place.stored().0, 100, "the table is not ours to delete");
}

#[test]
fn a_sink_goes_on_where_it_stood_after_the_coordinators_metadata_was_lost() {
    let Some(place) = Postgres::find("postgres lost metadata", "it_lost") else { return };
    let platform = Platform::new();
    platform.up(&[]).ok();
    apply(&platform, &place.document());
    ingest(&platform, 0, 1_000);
    assert_each_once(&platform, &place, "pg", 1_000);
    platform.down().ok();
    for name in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        std::fs::remove_file(platform.home().join("coordinator").join(name)).ok();
    }
    platform.up(&[]).ok();
    ingest(&platform, 1_000, 2_000);
    assert_each_once(&platform, &place, "pg", 2_000);
}

/// The harness, over programs that deliver rows twice.
pub(crate) fn finds_doubled_rows(platform: Platform) {
    let Some(place) = Postgres::find("postgres mutant", "it_mutant") else { return };
    platform.up(&[]).ok();
    place.psql("create table it_mutant.events (ts timestamptz, id bigint, name text, price float8)");
    apply(&platform, &place.with("create: false"));
    for from in (0..3_000).step_by(1_000) {
        ingest(&platform, from, from + 1_000);
        settles("it is written", || place.stored().1 == from + 1_000);
    }
    let (rows, distinct, _) = place.stored();
    assert!(rows > distinct && distinct == 3_000, "the harness did not notice: {rows} rows, {distinct} ids");
}
