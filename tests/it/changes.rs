//! Every change of tables of PostgreSQL: folded by key the stream is the table, and each change is there once, whoever is killed.

use std::collections::BTreeSet;
use std::process::Command;

use aap_tests::Platform;
use serde_json::Value;

use super::sinks::postgres::Postgres;
use super::sinks::{Place, apply, settles};

/// What the stream says is in the table: for each key the last of its changes, unless that is its end. A truncation ends all keys.
/// A value that was left out of a change is the one before.
const FOLDED: &str = "with c as (select *, row_number() over (order by _lsn, _change) as n from changes where _table = 'SCHEMA.orders'), \
    cut as (select coalesce(max(n), 0) as cut_n from c where _op = 'truncate'), \
    live as (select c.* from c, cut where n > cut_n), \
    newest as (select id, arg_max(_op, n) as op, arg_max(name, n) as name, arg_max(total, n) as total, \
             arg_max(body, n) filter (where _unchanged is null) as body from live group by id) \
    select count(*) n, coalesce(sum(id), 0)::bigint s, coalesce(md5(string_agg(concat_ws('|', id, name, total, md5(body)), ',' order by id)), '') h \
    from newest where op <> 'delete'";

/// The same, asked of the table.
const STORED: &str = "select count(*), coalesce(sum(id), 0)::bigint, \
    coalesce(md5(string_agg(concat_ws('|', id, name, total, md5(body)), ',' order by id)), '') from SCHEMA.orders";

struct Shop {
    place: Postgres,
    schema: &'static str,
}

impl Shop {
    fn find(test: &str, schema: &'static str) -> Option<Self> {
        let place = Postgres::find(test, schema)?;
        place.psql(&format!(
            "create table {schema}.orders (id bigint primary key, name text, total numeric(12,2), body text); \
             create table {schema}.customers (id int primary key, since timestamptz, tags text[])"
        ));
        Some(Self { place, schema })
    }

    fn document(&self, more: &str) -> String {
        let schema = self.schema;
        self.place.source_of(
            "shop",
            &format!("changes: {{ tables: [{schema}.orders, {schema}.customers], stream: changes{more} }}"),
        )
    }

    fn sql(&self, text: &str) -> String {
        self.place.psql(&text.replace("SCHEMA", self.schema))
    }

    /// The slot of the only source of this test.
    fn slot(&self) -> String {
        let sql = "select string_agg(s.slot_name, ',') from pg_replication_slots s where exists (select from \
                   pg_publication_tables p where p.pubname = s.slot_name and p.schemaname = 'SCHEMA')";
        self.sql(sql)
    }

    /// Whether the slot is there for good: one that is being made is listed, too, and a server that is killed then forgets it.
    fn is_ready(&self) -> bool {
        let sql = "select count(*) from pg_publication b where obj_description(b.oid, 'pg_publication') is not null and exists \
                   (select from pg_publication_tables p where p.pubname = b.pubname and p.schemaname = 'SCHEMA')";
        self.sql(sql) != "0"
    }

    fn has_all(&self, platform: &Platform) -> bool {
        let row = platform.rows(&FOLDED.replace("SCHEMA", self.schema)).pop().unwrap_or_default();
        let text = |name: &str| match &row[name] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let folded = format!("{}|{}|{}", text("n"), text("s"), text("h"));
        let stored = self.sql(STORED);
        folded == stored
    }
}

/// A test that failed leaves no slot, which would keep the server's log for ever.
impl Drop for Shop {
    fn drop(&mut self) {
        let sql = format!(
            "select pg_drop_replication_slot(s.slot_name) from pg_replication_slots s where exists \
             (select from pg_publication_tables p where p.pubname = s.slot_name and p.schemaname = '{}')",
            self.schema
        );
        Command::new("psql").args([self.place.address(), "-qAtc", &sql]).output().ok();
    }
}

fn has_stream(platform: &Platform) -> bool {
    platform.aap(&["stream", "show", "changes"]).code == 0
}

/// Whether `aap status` tells of a problem.
fn says(platform: &Platform, what: &str) -> bool {
    let ran = platform.aap(&["status"]);
    (ran.out + &ran.err).contains(what)
}

/// How many changes are there twice.
fn doubled(platform: &Platform) -> u64 {
    platform.count(
        "select count(*) from (select _lsn, _change, _table, count(*) from changes group by all having count(*) > 1)",
    )
}

fn platform() -> Platform {
    let platform = Platform::new();
    platform.up(&[]).ok();
    platform
}

#[test]
fn changes_are_rows_once_and_fold_to_the_table_whoever_is_killed() {
    let Some(shop) = Shop::find("postgres changes", "it_changes") else { return };
    let platform = platform();
    // What was there first is not read: each key is changed below.
    apply(&platform, &shop.document(""));
    settles("the slot is made", || shop.is_ready());
    shop.sql("insert into SCHEMA.orders select n, 'n' || n, n / 100.0, repeat(md5(n::text), 100) from generate_series(1, 2000) n on conflict do nothing");
    shop.sql("insert into SCHEMA.customers values (1, '2026-11-26 10:00:00+00', array['a', 'b']), (2, 'infinity', null) on conflict do nothing");
    settles("the first changes are rows", || has_stream(&platform) && shop.has_all(&platform));

    // One that begins first and ends last, and one that is given up, while others come and go.
    let long = shop.place.psql_begun(
        "begin; insert into it_changes.orders select n, 'late', 1, null from generate_series(5001, 5100) n; select pg_sleep(6); \
         update it_changes.orders set name = 'later' where id between 5001 and 5050; commit",
    );
    let aborted = shop.place.psql_begun(
        "begin; insert into it_changes.orders select n, 'never', 1, null from generate_series(9001, 9100) n; select pg_sleep(3); rollback",
    );
    for round in 0..6_u64 {
        let low = round * 200;
        shop.sql(&format!(
            "update SCHEMA.orders set total = total + 1 where id between {low} and {}",
            low + 300
        ));
        shop.sql(&format!("delete from SCHEMA.orders where id between {low} and {}", low + 20));
        shop.sql(&format!(
            "update SCHEMA.orders set id = id + 10000, name = 'moved' where id between {} and {}",
            low + 21,
            low + 30
        ));
        shop.sql(&format!("insert into SCHEMA.orders select n, 'again', 7, 'x' from generate_series({low}, {}) n on conflict do nothing", low + 5));
        match round {
            1 | 3 => drop(platform.kill_and_wait("coordinator")),
            4 => shop.place.kill_and_restart(),
            _ => {}
        }
    }
    drop((long.end(), aborted.end()));
    // The server was killed under them, or they ended in order: either way the log says which.
    settles("the stream is the table", || shop.has_all(&platform));
    assert_eq!(doubled(&platform), 0);
    assert_eq!(platform.count("select count(*) from changes where name = 'never'"), 0);

    // A transaction that is cut into several groups, killed within; values that were not sent; a table that gets a column.
    // Large values are kept apart, and are not sent again where they do not change.
    shop.sql("alter table SCHEMA.orders alter column body set storage external");
    shop.sql("insert into SCHEMA.orders select n, 'large', 1, repeat(md5(n::text), 200) from generate_series(20001, 30000) n on conflict do nothing");
    platform.kill_and_wait("coordinator");
    shop.sql("alter table SCHEMA.orders add column if not exists note text; update SCHEMA.orders set note = 'x' where id = 20001");
    settles("all of it is there", || shop.has_all(&platform));
    assert_eq!(doubled(&platform), 0);
    assert_eq!(
        platform.count("select count(*) from changes where name = 'large' and _op = 'insert'"),
        10_000
    );
    // The table as it was compared does not tell of the new column.
    let noted = "select * from changes where note = 'x'";
    settles("the new column is there", || {
        let ran = platform.aap(&["query", "--wait-for-ingest", "-o", "ndjson", noted]);
        ran.code == 0 && !ran.out.trim().is_empty()
    });
    let row = &platform.rows(noted)[0];
    assert_eq!(
        (&row["_op"], &row["_unchanged"], &row["body"]),
        (&"update".into(), &"[\"body\"]".into(), &Value::Null),
        "{row}"
    );
    assert!(row["ts"] == row["_commit_ts"] && row["_lsn"].is_number(), "{row}");
    let moved = platform
        .count("select count(*) from changes where _op = 'delete' and name is null and id is not null");
    assert!(moved > 0, "deletes have their key alone");
    let tags = platform.rows("select * from changes where _table = 'it_changes.customers' order by id");
    assert_eq!((&tags[0]["tags"], &tags[1]["since"]), (&"{a,b}".into(), &Value::Null), "{tags:?}");
    shop.sql("truncate SCHEMA.orders");
    settles("nothing is left", || shop.has_all(&platform));
    // Twice where another test had the server killed between its commit and the answer.
    assert!(platform.count("select count(*) from changes where _op = 'truncate'") >= 1);

    // What it kept on the server goes with it.
    let slot = shop.slot();
    platform.aap(&["delete", "source", "shop", "--yes"]).ok();
    let sql = format!("select count(*) from pg_replication_slots where slot_name = '{slot}'");
    assert_eq!((slot.len(), shop.sql(&sql).as_str()), (20, "0"));
    assert_eq!(shop.sql("select count(*) from pg_publication_tables where schemaname = 'SCHEMA'"), "0");
}

#[test]
fn a_transaction_of_several_groups_lands_once_though_the_coordinator_dies_behind_each_group() {
    let Some(shop) = Shop::find("postgres changes crash points", "it_changes_crash") else { return };
    let mut platform = Platform::new();
    // The group is durable, and the slot does not know.
    platform.set_env("AAP_FAIL", "landing.after_commit_before_ack:1=abort");
    platform.up(&[]).ok();
    // The node's own metrics land, too, and kill it then: it is asked again.
    let path = platform.beside("shop.yaml");
    std::fs::write(&path, shop.document("")).unwrap();
    settles("it is declared", || platform.aap(&["apply", "-f", path.to_str().unwrap()]).code == 0);
    settles("the slot is made", || shop.is_ready());
    shop.sql("insert into SCHEMA.customers values (1, now(), null) on conflict do nothing");
    shop.sql(
        "insert into SCHEMA.orders select n, 'n' || n, 1, repeat(md5(n::text), 200) from generate_series(1, 5000) n on conflict do nothing; \
         update SCHEMA.orders set id = id + 100000 where id % 100 = 0; delete from SCHEMA.orders where id % 100 = 1",
    );
    shop.sql("insert into SCHEMA.customers values (2, now(), null) on conflict do nothing");
    let mut lives = BTreeSet::new();
    settles("it dies four times", || {
        lives.extend(platform.pid("coordinator"));
        lives.len() > 4
    });
    // It may die once more while it is asked to stop.
    settles("it is down", || platform.down().code == 0);
    platform.set_env("AAP_FAIL", "");
    platform.up(&[]).ok();
    settles("the stream is the table", || has_stream(&platform) && shop.has_all(&platform));
    assert_eq!(doubled(&platform), 0);
    let tables = "select count(*) from changes where _table = 'it_changes_crash.customers'";
    settles("the last one is there", || platform.count(tables) == 2);
    assert_eq!(platform.count("select count(*) from changes where _op = 'insert'"), 5_002);
    platform.aap(&["delete", "source", "shop", "--yes"]).ok();
}

#[test]
fn the_log_of_other_tables_is_not_kept_and_a_slot_that_is_gone_is_said() {
    let Some(shop) = Shop::find("postgres changes lost", "it_changes_lost") else { return };
    let platform = platform();
    apply(&platform, &shop.document(""));
    settles("the slot is made", || shop.is_ready());
    let slot = shop.slot();
    let behind = || {
        let sql = format!(
            "select coalesce(max(pg_current_wal_lsn() - confirmed_flush_lsn), 0)::bigint from pg_replication_slots where slot_name = '{slot}'"
        );
        shop.sql(&sql).parse::<u64>().unwrap()
    };
    shop.sql("create table SCHEMA.other as select n, repeat('x', 1000) x from generate_series(1, 5000) n");
    settles("the slot moves on", || behind() < 1 << 20);

    // Another document, other tables.
    shop.sql("create table SCHEMA.more (id int primary key)");
    apply(&platform, &shop.document("").replace("it_changes_lost.customers", "it_changes_lost.more"));
    let published = "select string_agg(tablename, ',' order by tablename) from pg_publication_tables where schemaname = 'SCHEMA'";
    settles("it publishes the other one", || shop.sql(published) == "more,orders");
    shop.sql("insert into SCHEMA.more values (7) on conflict do nothing");
    settles("its change is there", || {
        has_stream(&platform) && platform.count("select count(*) from changes where id = 7") == 1
    });

    // Somebody drops the slot.
    settles("somebody drops the slot", || {
        let sql = format!("select pg_drop_replication_slot('{slot}')");
        let dropped = Command::new("psql").args([shop.place.address(), "-qAtc", &sql]).output().unwrap();
        dropped.status.success()
    });
    settles("it is said", || says(&platform, "are lost"));
    shop.sql("insert into SCHEMA.more values (8) on conflict do nothing");
    platform.aap(&["delete", "source", "shop", "--yes"]).ok();
    apply(&platform, &shop.document("").replace("it_changes_lost.customers", "it_changes_lost.more"));
    settles("a new slot is made", || shop.is_ready());
    shop.sql("insert into SCHEMA.more values (9) on conflict do nothing");
    settles("it goes on", || platform.count("select count(*) from changes where id = 9") == 1);
    assert_eq!(platform.count("select count(*) from changes where id = 8"), 0);
    platform.aap(&["delete", "source", "shop", "--yes"]).ok();
}

#[test]
fn what_keeps_changes_from_being_read_is_said() {
    let Some(shop) = Shop::find("postgres changes refused", "it_changes_bad") else { return };
    let platform = platform();
    let path = platform.beside("bad.yaml");
    std::fs::write(&path, shop.document(", snapshot: true")).unwrap();
    platform.aap(&["apply", "-f", path.to_str().unwrap(), "-o", "json"]).refused(2, "config.invalid");

    let refused = |document: &str, expected: &str| {
        apply(&platform, document);
        settles(expected, || says(&platform, expected));
        platform.aap(&["delete", "source", "shop", "--yes"]).ok();
    };
    shop.sql("create table SCHEMA.bare (id int)");
    let of = |tables: &str| shop.place.source_of("shop", &format!("changes: {{ {tables} }}"));
    refused(&of("tables: [it_changes_bad.bare]"), "nothing tells the rows apart");
    refused(&of("tables: [it_changes_bad.none]"), "there is no table");
    refused(&of("publication: it_changes_nothing"), "no publication");
    shop.sql("insert into SCHEMA.bare values (1); update SCHEMA.bare set id = 2");

    // Somebody who may read, and may not read the log.
    shop.sql(
        "do $$ begin create role it_changes_reader login password 'aap'; exception when duplicate_object then null; end $$; \
         grant usage on schema SCHEMA to it_changes_reader; grant select on all tables in schema SCHEMA to it_changes_reader; \
         drop publication if exists it_changes_all; create publication it_changes_all for table SCHEMA.orders",
    );
    let reader = of("publication: it_changes_all").replace("//aap@", "//it_changes_reader@");
    refused(&reader, "may not read the server's log");
    let maker = of("tables: [it_changes_bad.orders]").replace("//aap@", "//it_changes_reader@");
    refused(&maker, "may not make a publication");
    assert_eq!(shop.slot(), "");

    // With the right it needs no more than somebody else's publication.
    shop.sql("alter role it_changes_reader replication");
    apply(&platform, &reader);
    settles("a change comes", || {
        shop.sql("insert into SCHEMA.orders values ((random() * 1e15)::bigint, 'x', 1, null)");
        platform.aap(&["stream", "show", "orders"]).code == 0
            && platform.count("select count(*) from orders") > 0
    });
    platform.aap(&["delete", "source", "shop", "--yes"]).ok();
    shop.sql("drop publication it_changes_all; drop owned by it_changes_reader; drop role it_changes_reader");
}
