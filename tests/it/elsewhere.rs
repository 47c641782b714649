//! Tables of other systems in one statement with streams: the answer is that of the servers themselves, and only what the
//! statement needs moves.

use aap_tests::{Platform, Ran, Service, eventually};
use serde_json::Value;

use super::sinks::cassandra::Cassandra;
use super::sinks::kafka::Kafka;
use super::sinks::postgres::Postgres;
use super::sinks::{Place, apply, assert_each_once, ingest, settles, sink};

/// Asks again while another test has the server killed.
fn asked(platform: &Platform, arguments: &[&str]) -> Ran {
    let mut ran = None;
    settles("the servers answer", || {
        let answer = platform.aap(arguments);
        let is_away = answer.code != 0 && answer.err.contains("query.remote_unreachable");
        ran = Some(answer);
        !is_away
    });
    ran.unwrap()
}

fn answered(platform: &Platform, arguments: &[&str]) -> Ran {
    asked(platform, arguments).ok()
}

/// What `aap query explain` says of each table.
fn explained(platform: &Platform, sql: &str) -> Vec<Value> {
    let document = answered(platform, &["query", "explain", sql, "-o", "json"]).json();
    document["items"].as_array().unwrap().clone()
}

fn rows(platform: &Platform, sql: &str) -> Vec<Value> {
    let ran = answered(platform, &["query", "--wait-for-ingest", "--limit", "0", "-o", "ndjson", sql]);
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only value of an answer.
fn count(platform: &Platform, sql: &str) -> u64 {
    let row = rows(platform, sql)[0].clone();
    row.as_object().unwrap().values().next().unwrap().as_u64().unwrap()
}

fn texts(value: &Value) -> String {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

/// 10,000 orders of every type that matters, with what is awkward about each.
const ORDERS: &str = "create table it_elsewhere.orders (id bigint primary key, region text, total numeric(12,2), weight float8, \
    ratio real, open boolean, day date, moment timestamptz, \"Local\" timestamp, tag uuid, info jsonb, code char(6), free numeric, \
    raw bytea, labels text[]); \
    insert into it_elsewhere.orders select n, case n % 5 when 0 then 'eu' when 1 then 'us' when 2 then 'ap' when 3 then null \
    else 'Eü ' end, (n * 7919 % 100000) / 100.0, n / 8.0, n / 3.0, n % 3 = 0, date '2026-01-01' + (n % 90)::int, \
    timestamptz '2026-11-26T10:00:00Z' + n * interval '1 second', timestamp '2026-11-26 10:00:00.000001' + n * interval '1 hour', \
    ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, jsonb_build_object('n', n), 'c' || n % 10, n / 7.0, \
    convert_to(n::text, 'UTF8'), array['a' || n % 2, 'b'] from generate_series(0, 9999) n; \
    insert into it_elsewhere.orders (id, moment) values (10000, 'infinity'); \
    create table it_elsewhere.empty (a int, b text)";

#[test]
fn postgresql_answers_in_one_statement_with_streams_and_does_what_it_can_itself() {
    let Some(place) = Postgres::find("postgres elsewhere", "it_elsewhere") else { return };
    place.psql(ORDERS);
    let platform = Platform::new();
    platform.up(&[]).ok();
    ingest(&platform, 0, 1_000);
    apply(&platform, &place.catalog());

    // The same question to both: the answer is one.
    for (ours, theirs) in [
        ("count(*), sum(total), min(day), max(id)", "count(*), sum(total), min(day), max(id)"),
        ("count(tag), count(distinct region)", "count(tag), count(distinct region)"),
        ("round(avg(id), 3), sum(id)", "round(avg(id), 3), sum(id)"),
        ("sum(weight), count(open), max(\"Local\")", "sum(weight), count(open), max(\"Local\")"),
    ] {
        for condition in [
            "true",
            "region = 'eu'",
            "region <> 'eu' and total >= 250.5",
            "region > 'ap'",
            "moment > '2026-11-26 10:30:00+00' and moment <= timestamptz '2026-11-26 11:00:00+00'",
            "id in (5, 7, 9999) or region is null",
            "id between 100 and 200 and open",
            "code = 'c3'",
            "weight > 1000 and ratio < 3000",
            "day = date '2026-02-03'",
            "tag = '00000000-0000-4000-8000-000000000042'",
            "lower(region) = 'eu' and id < 5000",
        ] {
            let own = place.psql(&format!("select {theirs} from it_elsewhere.orders where {condition}"));
            let sql = format!("select {ours} from pg.it_elsewhere.orders o where {condition}");
            let answer = answered(&platform, &["query", &sql, "-o", "csv", "--no-headers"]).out;
            let plain = |text: &str| text.trim().replace('|', ",").replace('T', " ").replace('Z', "");
            let (own, answer) = (plain(&own), plain(&answer));
            let same = own.split(',').zip(answer.split(',')).all(|(own, answer)| {
                own == answer || own.parse::<f64>().is_ok_and(|own| answer.parse() == Ok(own))
            });
            assert!(same && own.split(',').count() == answer.split(',').count(), "{sql}\n{own}\n{answer}");
        }
    }

    // Joined with a stream, and only what the join can use comes.
    let join = "select count(*), sum(o.id) from events e join pg.it_elsewhere.orders o on e.id = o.id \
                where o.region = 'eu' and o.id < 500";
    let joined = rows(&platform, join);
    assert_eq!(joined[0]["count_star()"], 100);
    let scans = explained(&platform, join);
    let there = scans.iter().find(|scan| scan["table"] == "pg.it_elsewhere.orders").unwrap();
    assert_eq!(there["rows"], 100, "{there}");
    assert!(texts(&there["pushed"]).contains("2 of 15 columns"), "{there}");
    assert!(scans.iter().any(|scan| scan["table"] == "events"), "{scans:?}");

    // Groups come instead of rows.
    let grouped = "select region, count(*) n, avg(id) from pg.it_elsewhere.orders where id < 9000 \
                   group by region having count(*) > 10 order by n desc, region limit 3";
    assert_eq!(rows(&platform, grouped).len(), 3);
    let scan = &explained(&platform, grouped)[0];
    assert_eq!((&scan["aggregated"], &scan["rows"]), (&Value::Bool(true), &5.into()), "{scan}");

    // No more rows come than are shown.
    let first = explained(&platform, "select * from pg.it_elsewhere.orders where region = 'eu' limit 7");
    assert_eq!(first[0]["rows"], 7, "{first:?}");
    // What the server would judge otherwise stays here, and says so.
    let kept = explained(&platform, "select id from pg.it_elsewhere.orders where code = 'c3' limit 7");
    assert!(texts(&kept[0]["kept"]).contains("character(6)"), "{kept:?}");

    // Every type arrives.
    let row = rows(&platform, "select * from pg.it_elsewhere.orders where id = 42")[0].clone();
    assert_eq!((&row["total"], &row["day"]), (&325.98.into(), &"2026-02-12".into()), "{row}");
    assert_eq!(row["tag"], "00000000-0000-4000-8000-000000000042");
    assert_eq!((&row["open"], &row["labels"]), (&true.into(), &"{a0,b}".into()));
    assert_eq!(count(&platform, "select count(*) from pg.it_elsewhere.orders where moment is null"), 0);
    assert_eq!(rows(&platform, "select * from pg.it_elsewhere.empty").len(), 0);

    let ask = |sql: &str| asked(&platform, &["query", sql, "-o", "json"]);
    let problem = ask("select * from pg.it_elsewhere.order").refused(3, "query.remote_table");
    assert!(problem.to_string().contains("it_elsewhere.orders"), "{problem}");
    ask("select * from pgg.it_elsewhere.orders").refused(3, "query.unknown_catalog");
    ask("select nothing from pg.it_elsewhere.orders").code(2);
    apply(&platform, &place.catalog().replace("env:AAP_TEST_SECRET", "env:HOME"));
    ask("select 1 from pg.it_elsewhere.orders").refused(5, "query.remote_denied");
    platform.aap(&["delete", "catalog", "pg", "--yes"]).ok();
    ask("select 1 from pg.it_elsewhere.orders").refused(3, "query.unknown_catalog");
}

#[test]
fn topics_are_tables_bounded_by_time_and_offset() {
    let Some(place) = Kafka::find("elsewhere") else { return };
    let platform = Platform::started(&[]);
    ingest(&platform, 0, 3_000);
    apply(&platform, &place.document());
    settles("all is in the topic", || {
        let shown = sink(&platform, "kafka");
        shown["state"] == "running" && shown["waiting_batches"] == 0
    });
    apply(&platform, &place.catalog());
    let topic = place.table();
    let all = format!("select count(*) n, count(distinct id) d, sum(id) s, min(name) m from {topic}");
    let row = rows(&platform, &all)[0].clone();
    assert_eq!((&row["n"], &row["d"]), (&3_000.into(), &3_000.into()), "{row}");
    assert_eq!(
        row["s"].as_str().map_or_else(|| row["s"].as_u64(), |text| text.parse().ok()),
        Some(4_498_500)
    );

    let bounded = format!("select count(*) from {topic} where _partition = 0 and _offset < 5");
    assert!(count(&platform, &bounded) <= 5);
    let scan = &explained(&platform, &bounded)[0];
    assert!(
        scan["rows"].as_u64().unwrap() <= 5
            && texts(&scan["kept"]) == "aggregation: a broker computes nothing",
        "{scan}"
    );
    let recent = format!("select count(*) from {topic} where ts > now() - interval 10 minutes");
    assert_eq!(count(&platform, &recent), 3_000);
    assert!(texts(&explained(&platform, &recent)[0]["pushed"]).contains("ts > timestamptz"));
    assert_eq!(
        count(&platform, &format!("select count(*) from {topic} where ts > now() + interval 1 hour")),
        0
    );
    let key = format!("select id, _value from {topic} where _key = '17'");
    let rows = rows(&platform, &key);
    assert!(rows.len() == 1 && rows[0]["id"] == 17, "{rows:?}");
    assert!(rows[0]["_value"].as_str().unwrap().contains("\"id\":17"), "{rows:?}");
    let first = format!("select * from {topic} limit 4");
    assert_eq!(explained(&platform, &first)[0]["rows"], 4);
    let join = format!("select count(*) from events e join {topic} k on e.id = k.id where k.id < 100");
    assert_eq!(count(&platform, &join), 100);
    let problem = asked(&platform, &["query", "select 1 from kafka.nosuchtopic", "-o", "json"])
        .refused(3, "query.remote_table");
    assert!(problem["message"].as_str().unwrap().contains("nosuchtopic"), "{problem}");
}

#[test]
fn cassandra_is_asked_for_partitions_and_read_whole_where_it_must() {
    let Some(place) = Cassandra::find("elsewhere") else { return };
    let platform = Platform::started(&[]);
    ingest(&platform, 0, 2_000);
    apply(&platform, &place.document());
    assert_each_once(&platform, &place, "cassandra", 2_000);
    apply(&platform, &place.catalog());
    let table = place.table();
    let row = rows(&platform, &format!("select count(*) n, count(distinct id) d, max(price) p from {table}"))
        [0]
    .clone();
    assert_eq!((&row["n"], &row["d"], &row["p"]), (&2_000.into(), &2_000.into(), &249.875.into()), "{row}");
    let partition = rows(&platform, &format!("select * from {table} limit 1"))[0].clone();
    let by_key: Vec<String> = place
        .partition_key()
        .into_iter()
        .map(|name| match &partition[&name] {
            Value::String(text) => format!("{name} = '{text}'"),
            other => format!("{name} = {other}"),
        })
        .collect();
    let sql = format!("select count(*) from {table} where {}", by_key.join(" and "));
    assert!(count(&platform, &sql) > 0);
    let scan = &explained(&platform, &sql)[0];
    assert!(
        scan["statement"].as_str().unwrap().contains(" WHERE ")
            && texts(&scan["kept"]) == "aggregation: Cassandra groups by the beginning of its key only",
        "{scan}"
    );
    let scan = &explained(&platform, &format!("select id from {table} where id = 5"))[0];
    assert!(texts(&scan["kept"]).contains("partition key"), "{scan}");
}

#[test]
fn records_of_a_topic_are_rows_once_whoever_is_killed() {
    let Some(place) = Kafka::find("source") else { return };
    let platform = Platform::started(&[]);
    let document = place.source();
    place.produce((0..500).map(|id| format!("{{\"id\":{id}}}")));
    apply(&platform, &document);
    let counts = |platform: &Platform| {
        let rows = rows(platform, "select count(*) n, count(distinct id) d from taken");
        (rows[0]["n"].as_u64().unwrap(), rows[0]["d"].as_u64().unwrap())
    };
    let exists = |platform: &Platform| platform.aap(&["stream", "show", "taken"]).code == 0;
    settles("the first records are rows", || exists(&platform) && counts(&platform) == (500, 500));
    for round in 1..=3_u64 {
        let from = round * 500;
        place.produce((from..from + 500).map(|id| format!("{{\"id\":{id}}}")));
        platform.kill_and_wait("coordinator");
        if round == 2 {
            place.kill_and_restart();
        }
        let wanted = from + 500;
        settles("what came meanwhile is there, once", || counts(&platform) == (wanted, wanted));
    }
    // What is no object is kept with its reason, and the same document changes nothing.
    place.produce(["nonsense".to_owned()].into_iter());
    apply(&platform, &document);
    settles("it is a dead letter", || platform.aap(&["stream", "show", "taken.dead"]).code == 0);
    assert_eq!(counts(&platform), (2_000, 2_000));
    let row = &rows(&platform, "select * from taken where id = 7")[0];
    assert!(row["kafka_offset"].is_number() && row["kafka_topic"].is_string(), "{row}");
    platform.down().ok();
    platform.up(&[]).ok();
    assert_eq!(counts(&platform), (2_000, 2_000));
}

/// What pushdown saves: the same question asked so that PostgreSQL may help, and so that it may not.
#[test]
#[ignore = "a measurement: `cargo xtask bench query`"]
fn pushdown_beside_none() {
    let Some(place) = Postgres::find("postgres pushdown", "it_pushdown") else { return };
    let rows = if std::env::var_os("AAP_BENCH_QUICK").is_some() { 100_000 } else { 1_000_000 };
    place.psql(&format!(
        "create table it_pushdown.orders as select n::bigint id, 'r' || n % 20 region, n / 8.0::float8 total, repeat('x', 100) note \
         from generate_series(1, {rows}) n"
    ));
    let platform = Platform::new();
    platform.up(&[]).ok();
    apply(&platform, &place.catalog());
    // Whoever reads rows first after they were loaded writes down for all who come later that they are there: not what is measured.
    let begun = std::time::Instant::now();
    place.psql("vacuum analyze it_pushdown.orders");
    let settled = begun.elapsed();
    let begun = std::time::Instant::now();
    platform.aap(&["query", "select count(*) from pg.it_pushdown.orders limit 1", "-o", "csv"]).ok();
    println!(
        "vacuum analyze {} ms, first query of all {} ms",
        settled.as_millis(),
        begun.elapsed().as_millis()
    );
    println!("{rows} rows of PostgreSQL | pushed: ms, rows, bytes | not pushed: ms, rows, bytes");
    for (what, pushed, not) in [
        (
            "filter, 5 %",
            "select sum(total) from T where region = 'r7'",
            "select sum(total) from T where region || '' = 'r7'",
        ),
        (
            "group by",
            "select region, count(*), sum(id) from T group by 1",
            "select region || '' region, count(*), sum(id) from T group by 1",
        ),
        ("first 100", "select * from T limit 100", "select * from T where note || '' <> '' limit 100"),
    ] {
        let measure = |sql: &str| {
            let sql = sql.replace(" T", " pg.it_pushdown.orders");
            let once = || {
                let begun = std::time::Instant::now();
                platform.aap(&["query", &sql, "-o", "csv"]).ok();
                begun.elapsed().as_millis()
            };
            let ms = (0..3).map(|_| once()).min().unwrap();
            let scan = explained(&platform, &sql)[0].clone();
            (ms, scan["rows"].as_u64().unwrap(), scan["bytes"].as_u64().unwrap())
        };
        let (with, without) = (measure(pushed), measure(not));
        println!(
            "{what:12} | {:6} {:9} {:11} | {:6} {:9} {:11} | {:.4} of the bytes",
            with.0,
            with.1,
            with.2,
            without.0,
            without.1,
            without.2,
            with.2 as f64 / without.2 as f64
        );
        assert!(with.2 < without.2, "{what}: {with:?} {without:?}");
    }
}

/// Writes the configuration of the coordinator.
fn set_coordinator(platform: &Platform, spec: &str) {
    let folder = platform.home().join("config");
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{ name: coordinator }}\nspec:\n  {spec}\n"
    );
    std::fs::write(folder.join("coordinator.yaml"), text).unwrap();
}

#[test]
fn metadata_moves_to_postgresql_with_everything_that_was_there() {
    let Some(place) = Postgres::find("postgres metadata", "it_metadata") else { return };
    let platform = Platform::new();
    platform.up(&[]).ok();
    ingest(&platform, 0, 1_000);
    apply(&platform, &place.document());
    assert_each_once(&platform, &place, "pg", 1_000);
    let uid = || place.psql("select string_agg(distinct uid, ',') from it_metadata.ledger");
    let before = uid();
    platform.down().ok();
    let metadata = place.metadata();
    set_coordinator(&platform, &format!("metadata: {{ postgres: {metadata} }}"));
    platform.up(&[]).ok();
    // The streams, the sink and how far it is are known, and nothing is delivered again.
    assert_eq!(platform.count("select count(*) from events"), 1_000);
    ingest(&platform, 1_000, 2_000);
    assert_each_once(&platform, &place, "pg", 2_000);
    assert_eq!(uid(), before, "the sink is the same one");
    platform.kill_and_wait("coordinator");
    place.kill_and_restart();
    ingest(&platform, 2_000, 3_000);
    assert_each_once(&platform, &place, "pg", 3_000);
    assert_eq!(place.psql("select count(*) from it_metadata_store.nodes"), "1");

    // After a power cut the coordinator is there before the server, and waits for it.
    platform.down().ok();
    let quiet = Service::quiet();
    place.service().kill_process("postgres");
    let up = platform.begin(&["up", "--detach"]);
    eventually("it waits", || platform.log("coordinator").contains("does not answer yet").then_some(()));
    place.service().revive();
    drop(quiet);
    up.end().ok();
    assert_eq!(platform.count("select count(*) from events"), 3_000);

    // Back to the file would be back to old cuts: it is refused; and so is another coordinator in the same schema.
    platform.down().ok();
    set_coordinator(&platform, "metadata: {}");
    let refused = platform.up(&[]);
    assert!(refused.code != 0 && platform.log("coordinator").contains("went to PostgreSQL"), "{refused:?}");
    let other = Platform::new();
    set_coordinator(&other, &format!("metadata: {{ postgres: {metadata} }}"));
    let refused = other.up(&[]);
    assert!(refused.code != 0 && other.log("coordinator").contains("another coordinator's"), "{refused:?}");
}

#[test]
fn rows_of_a_growing_table_are_rows_once_however_transactions_end() {
    let Some(place) = Postgres::find("postgres source", "it_source") else { return };
    place.psql(
        "create table it_source.orders (id bigserial primary key, name text, made timestamptz default now())",
    );
    let add = |from: u64, to: u64| {
        place.psql(&format!(
            "insert into it_source.orders (name) select 'n' || n from generate_series({from}, {}) n",
            to - 1
        ));
    };
    add(0, 20_000);
    let platform = Platform::new();
    platform.up(&[]).ok();
    apply(&platform, &place.source());
    let counts = |platform: &Platform| {
        if platform.aap(&["stream", "show", "orders"]).code != 0 {
            return (0, 0);
        }
        let rows = rows(platform, "select count(*) n, count(distinct name) d from orders");
        (rows[0]["n"].as_u64().unwrap(), rows[0]["d"].as_u64().unwrap())
    };
    settles("what was there is read", || counts(&platform) == (20_000, 20_000));
    // A transaction that took its numbers first and ends last: others that ended meanwhile must not hide its rows.
    let late = place.psql_begun(
        "begin; insert into it_source.orders (name) select 'late' || n from generate_series(1, 100) n; \
         select pg_sleep(4); commit",
    );
    settles("it has begun", || {
        place.psql("select count(*) from pg_stat_activity where query like '%late%pg_sleep%'") != "1"
    });
    add(20_000, 20_500);
    platform.kill_and_wait("coordinator");
    assert!(late.end().code == 0);
    add(20_500, 21_000);
    place.kill_and_restart();
    settles("all of them are read, each once", || counts(&platform) == (21_100, 21_100));
    add(21_000, 21_001);
    settles("the next row comes", || counts(&platform) == (21_101, 21_101));
    let row = &rows(&platform, "select * from orders where name = 'n5'")[0];
    assert!(row["made"].is_string() && row["ts"].is_string(), "{row}");
}
