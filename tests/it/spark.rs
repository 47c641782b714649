//! The same SQL, answered by our own engine and by a Spark cluster over the lake's files: the answers are one.

use std::net::TcpListener;

use aap_tests::{PATIENCE, Platform, Service, wait_until};
use serde_json::{Value, json};

const ROWS: u64 = 2_000;

/// What both dialects have. Each row of each answer has its place by `order by`.
const STATEMENTS: [&str; 20] = [
    "select count(*) n, count(name) named, count(distinct region) regions from events",
    "select sum(id) s, min(id) low, max(id) high from events",
    "select round(avg(price), 3) mean, sum(price) total from events where price is not null",
    "select region, count(*) n from events group by region order by region nulls last",
    "select region, open, sum(id) s from events group by 1, 2 order by 1 nulls first, 2 nulls first",
    "select id, name, price, open from events where id between 10 and 30 order by id",
    "select id, name from events order by id desc limit 7",
    "select name from events where name like 'Zürich %' and not open order by id limit 5",
    "select distinct region from events where region is not null order by region",
    "select count(*) n from events where price is null or name is null",
    "select coalesce(region, 'none') place, max(price) top from events group by 1 order by 1",
    "select e.id, s.\"city\" from events e join \"web-shops\" s on e.shop = s.shop where e.id < 40 order by e.id",
    "select s.city, count(*) n from events e left join \"web-shops\" s on e.shop = s.shop group by 1 order by 1 nulls last",
    "select year(ts) y, month(ts) m, day(ts) d, count(*) n from events group by 1, 2, 3 order by 1, 2, 3",
    "select date_trunc('minute', ts) as minute, count(*) n from events group by 1 order by 1 limit 20",
    "select min(ts) as low, max(ts) as high, cast(max(ts) as date) as d from events",
    "select id from events where ts >= timestamp '2026-11-26 10:20:00+00' order by ts, id limit 3",
    "with top as (select shop, sum(id) s from events group by shop) select * from top where s > 1000 order by shop",
    "select id, row_number() over (partition by shop order by id desc) place from events order by id limit 10",
    "select upper(name) big, length(name) letters, id * 2 twice, id % 7 rest from events where id < 20 order by id -- the end",
];

fn configured(spark: &str) -> Platform {
    let platform = Platform::new();
    std::fs::create_dir_all(platform.home().join("config")).unwrap();
    let document = format!(
        "apiVersion: aap/v1\nkind: Coordinator\nmetadata: {{ name: coordinator }}\nspec: {{ lake: {{ age_seconds: 1 }}{spark} }}\n"
    );
    std::fs::write(platform.home().join("config/coordinator.yaml"), document).unwrap();
    platform.up(&[]).ok();
    platform
}

fn ingest(platform: &Platform, stream: &str, name: &str, rows: impl Iterator<Item = Value>) {
    let lines: String = rows.map(|row| format!("{row}\n")).collect();
    let arguments = ["ingest", stream, "-", "--format", "ndjson", "--name", name];
    platform.aap_with_input(&arguments, lines.as_bytes()).ok();
}

fn event(id: u64) -> Value {
    let region = [json!("eu"), json!("us"), json!(null), json!("日本")][id as usize % 4].clone();
    let name =
        if id.is_multiple_of(11) { json!(null) } else { json!(format!("Zürich \"{}\", 'q' 🦀", id % 13)) };
    let price = if id.is_multiple_of(5) { json!(null) } else { json!(id as f64 / 8.0) };
    let ts = format!("2026-11-26T10:{:02}:{:02}.{:06}Z", id / 60 % 60, id % 60, id * 17 % 1_000_000);
    json!({ "ts": ts, "id": id, "region": region, "name": name, "price": price, "open": id.is_multiple_of(3), "shop": id % 6 })
}

/// Waits until everything of a stream is in the lake.
#[track_caller]
fn await_in_lake(platform: &Platform, stream: &str, rows: u64) {
    let is_there = || {
        let shown = platform.aap(&["stream", "show", stream, "-o", "json"]);
        shown.code == 0 && shown.json()["item"]["rows_in_lake"] == rows
    };
    assert!(wait_until(PATIENCE, is_there), "{rows} rows of `{stream}` in the lake");
}

/// The problem that a query for Spark ends with.
#[track_caller]
fn refused(platform: &Platform, arguments: &[&str], exit: i32, code: &str) -> Value {
    platform.aap(&[&["query", "--engine", "spark", "-o", "json"], arguments].concat()).refused(exit, code)
}

fn answer(platform: &Platform, engine: &str, sql: &str) -> Vec<Value> {
    let ran = platform.aap(&["query", "--engine", engine, "--limit", "0", "-o", "ndjson", sql]).ok();
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Numbers by their value, whatever their type is called; everything else as it is.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let has =
                |(name, value): (&String, &Value)| other.get(name).is_some_and(|other| is_same(value, other));
            one.len() == other.len() && one.iter().all(has)
        }
        _ => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() <= one.abs() * 1e-12,
            _ => one == other,
        },
    }
}

#[test]
fn spark_answers_from_the_lake_as_our_own_engine_does() {
    let Some(spark) = Service::find("spark", "spark", "AAP_TEST_SPARK", "spark answers") else { return };
    let platform = configured(&format!(", spark: {{ url: '{}' }}", spark.address));
    // In two runs, so that there are several files, one of which has a column more.
    ingest(&platform, "events", "one", (0..ROWS / 2).map(event));
    await_in_lake(&platform, "events", ROWS / 2);
    let more = (ROWS / 2..ROWS).map(|id| {
        let mut row = event(id);
        row["extra"] = json!(id.is_multiple_of(2));
        row
    });
    ingest(&platform, "events", "two", more);
    let cities = ["Zürich", "東京", "Paris", "Oslo", "Rome"];
    ingest(
        &platform,
        "web-shops",
        "all",
        (0u64..).zip(cities).map(|(shop, city)| json!({ "shop": shop, "city": city })),
    );
    await_in_lake(&platform, "events", ROWS);
    await_in_lake(&platform, "web-shops", 5);

    for sql in STATEMENTS {
        let (own, theirs) = (answer(&platform, "duckdb", sql), answer(&platform, "spark", sql));
        assert!(!own.is_empty(), "{sql}");
        let same = is_same(&json!(own), &json!(theirs));
        assert!(same, "{sql}\nduckdb: {}\nspark:  {}", json!(own), json!(theirs));
    }
    let extra = answer(&platform, "spark", "select count(extra) n from events");
    assert_eq!(extra[0]["n"], ROWS / 2, "a column that only some files have");
    assert!(answer(&platform, "spark", "select id from events where id < 0").is_empty());
    let own = "select a.id, b.id from events a join events b on a.id = b.id where a.id = 3";
    assert_eq!(answer(&platform, "spark", own), [json!({ "id": 3, "id_1": 3 })]);

    // Limits and formats are those of every query.
    let limited = platform.aap(&[
        "query",
        "--engine",
        "spark",
        "--limit",
        "3",
        "-o",
        "json",
        "select id from events order by id",
    ]);
    let document = limited.ok().json();
    assert_eq!((document["items"].as_array().unwrap().len(), &document["truncated"]), (3, &json!(true)));
    let csv = platform
        .aap(&[
            "query",
            "--engine",
            "spark",
            "-o",
            "csv",
            "select id, region from events where id < 3 order by id",
        ])
        .ok();
    assert_eq!(csv.out.trim(), "id,region\n0,eu\n1,us\n2,");
    let explained = platform
        .aap(&["query", "explain", "--engine", "spark", "-o", "json", "select sum(id) from events"])
        .ok()
        .json();
    assert_eq!(explained["items"][0]["rows"], 1);
    assert!(explained["items"][0]["place"].as_str().unwrap().starts_with("Spark at sc://"));

    // What is wrong is told in Spark's words; commands and files are refused.
    for (sql, told) in [
        ("select * from no_such_stream", "TABLE_OR_VIEW_NOT_FOUND"),
        ("select no_such_column from events", "UNRESOLVED_COLUMN"),
        ("selec 1", "PARSE_SYNTAX_ERROR"),
        ("drop table events", "PARSE_SYNTAX_ERROR"),
        ("create table evil as select 1", "PARSE_SYNTAX_ERROR"),
        ("select 1) union (select 2); select (3", "PARSE_SYNTAX_ERROR"),
        ("select * from text.`/etc/passwd`", "text"),
        ("select 1 / 0", "DIVIDE_BY_ZERO"),
    ] {
        let problem = refused(&platform, &[sql], 1, "spark.failed");
        assert!(problem.to_string().contains(told), "{sql}: {problem}");
    }
    refused(&platform, &["--nodes", "all", "select 1"], 2, "query.engine");

    // A statement that would run for hours ends at its deadline, and the cluster is free again.
    let long = "select count(*) from range(1000000000000) where id % 7 = 8";
    refused(&platform, &["--timeout", "4s", long], 1, "query.deadline");
    assert_eq!(answer(&platform, "spark", "select count(*) n from events")[0]["n"], ROWS);
    platform.down().ok();
}

#[test]
fn what_has_not_reached_the_lake_is_told_and_a_cluster_that_is_not_there_too() {
    let platform = configured("");
    refused(&platform, &["select 1"], 3, "spark.not_configured");
    platform.down().ok();

    // A port that nobody listens on any more.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let platform = configured(&format!(", spark: {{ url: 'sc://{closed}' }}"));
    refused(&platform, &["select 1"], 7, "spark.unreachable");
    platform.down().ok();

    let Some(spark) = Service::find("spark", "spark", "AAP_TEST_SPARK", "spark and what waits") else {
        return;
    };
    let platform = configured(&format!(", spark: {{ url: '{}' }}", spark.address));
    ingest(&platform, "events", "one", (0..10).map(event));
    await_in_lake(&platform, "events", 10);
    platform.down().ok();
    // From here on the lake takes its time.
    let path = platform.home().join("config/coordinator.yaml");
    let slow = std::fs::read_to_string(&path).unwrap().replace("age_seconds: 1", "age_seconds: 3600");
    std::fs::write(&path, slow).unwrap();
    platform.up(&[]).ok();
    ingest(&platform, "events", "two", (10..15).map(event));
    ingest(&platform, "fresh", "three", (0..3).map(event));
    assert_eq!(platform.count("select count(*) from events"), 15);
    assert_eq!(platform.count("select count(*) from fresh"), 3);
    let partial = platform.aap(&[
        "query",
        "--engine",
        "spark",
        "-o",
        "csv",
        "--no-headers",
        "select count(*) from events",
    ]);
    let partial = partial.code(9);
    assert_eq!(partial.out.trim(), "10");
    assert!(partial.err.contains("5 rows of `events` have not reached the lake"), "{}", partial.err);
    refused(&platform, &["select count(*) from fresh"], 7, "spark.not_in_lake");
    platform.down().ok();
}
