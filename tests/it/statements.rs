//! What `aap query` answers, what it refuses, and where it stops.
//!
//! The corpora are what people type and what attackers try; a statement that is refused must say why in a typed error,
//! leave no trace on disk, and cost nobody else anything.

use aap_tests::Platform;
use serde_json::Value;

/// Statements that write, read files, change settings, or see beyond the data. `DIR` is a folder of the test.
const HOSTILE: &[&str] = &[
    "copy logs to 'DIR/evil.csv'",
    "copy (select 1) to 'DIR/evil.parquet' (format parquet)",
    "copy logs from '/etc/passwd'",
    "attach 'DIR/evil.db' as evil",
    "attach '/etc/passwd' as evil (type sqlite)",
    "detach memory",
    "use memory",
    "install httpfs",
    "force install httpfs from 'http://127.0.0.1:1'",
    "load httpfs",
    "load 'DIR/evil.so'",
    "update extensions",
    "create table t (a int)",
    "create or replace temp table t as select 1",
    "create view v as select 1",
    "create macro m(a) as a",
    "create secret s (type s3)",
    "create sequence s",
    "create type e as enum ('a')",
    "create schema s",
    "create index i on logs (body)",
    "drop table logs",
    "alter table logs add column x int",
    "truncate logs",
    "delete from logs",
    "update logs set body = 'x'",
    "insert into logs values (1)",
    "insert into logs select * from logs",
    "merge into logs using (select 1) s on true when matched then delete",
    "with x as (insert into logs values (1) returning *) select * from x",
    "set memory_limit = '100GB'",
    "set enable_external_access = true",
    "set global threads = 99",
    "set variable x = 1",
    "reset memory_limit",
    "pragma database_list",
    "pragma table_info('logs')",
    "pragma enable_profiling",
    "export database 'DIR/evil'",
    "import database 'DIR/evil'",
    "call pragma_version()",
    "call duckdb_functions()",
    "checkpoint",
    "force checkpoint",
    "vacuum",
    "analyze",
    "begin",
    "commit",
    "rollback",
    "prepare p as select 1",
    "execute p",
    "deallocate p",
    "explain copy logs to 'DIR/evil.csv'",
    "explain analyze copy logs to 'DIR/evil.csv'",
    "show databases",
    "show all tables",
    "select 1; select 2",
    "select 1; copy (select 1) to 'DIR/evil.csv'",
    "select * from logs; drop table logs",
    "select * from read_csv('/etc/passwd')",
    "select * from READ_CSV_AUTO('/etc/passwd')",
    "select * from \"read_csv\"('/etc/passwd')",
    "select * from main.read_csv('/etc/passwd')",
    "select * from system.main.read_csv('/etc/passwd')",
    "select * from read_parquet('HOME/lake/**/*.parquet')",
    "select * from parquet_scan('HOME/lake/**/*.parquet')",
    "select * from parquet_metadata('HOME/lake/**/*.parquet')",
    "select * from parquet_schema('HOME/lake/**/*.parquet')",
    "select * from read_json('/etc/passwd')",
    "select * from read_json_auto('/etc/passwd')",
    "select * from read_ndjson('/etc/passwd')",
    "select * from read_text('/etc/passwd')",
    "select * from read_blob('HOME/run/operator.token')",
    "select content from read_text('/proc/self/environ')",
    "select * from glob('/etc/*')",
    "select * from unnest(glob('/etc/*'))",
    "select * from sniff_csv('/etc/passwd')",
    "select * from sniff_csv(getenv('HOME'))",
    "select getenv('HOME')",
    "select GetEnv('HOME')",
    "select \"getenv\"('HOME')",
    "select main.getenv('HOME')",
    "select system.main.getenv('HOME')",
    "select getvariable('x')",
    "select current_setting('memory_limit')",
    "select * from '/etc/passwd'",
    "select * from \"/etc/passwd\"",
    "select * from 'x.parquet'",
    "select * from 'http://127.0.0.1:1/x.csv'",
    "select * from duckdb_settings()",
    "select * from duckdb_secrets()",
    "select * from duckdb_extensions()",
    "select * from pragma_database_size()",
    "select * from pg_catalog.pg_tables",
    "select * from information_schema.tables",
    "select * from memory.main.logs",
    "select * from sqlite_master",
    "select * from query('select 1')",
    "select * from query_table('logs')",
    "select * from query_table(['logs'])",
    "select json_execute_serialized_sql('x')",
    "from json_execute_serialized_sql(json_serialize_sql('select 1'))",
    "select json_serialize_sql('select 1')",
    "select nextval('s')",
    "select write_log('x')",
    "select * from which_secret('s3://x', 's3')",
    "select * from seq_scan('logs')",
    "select * from arrow_scan(1, 2, 3)",
    "select * from test_all_types()",
    "select * from aap_scan('logs')",
    "select * from sqlite_scan('/x', 't')",
    "select * from postgres_scan('host=127.0.0.1', 't', 't')",
    "select * from iceberg_scan('/x')",
    "with x as (select * from read_csv('/etc/passwd')) select * from x",
    "select (select count(*) from read_text('/etc/passwd'))",
    "select * from logs where body in (select content from read_text('/etc/passwd'))",
    "select * from logs, lateral (select * from read_csv('/etc/passwd'))",
    "select 1 order by (select count(*) from read_csv('/etc/passwd'))",
    "select 1 limit (select count(*) from read_csv('/etc/passwd'))",
    "summarize select * from read_csv('/etc/passwd')",
    "summarize '/etc/passwd'",
    "describe '/etc/passwd'",
    "describe select * from read_csv('/etc/passwd')",
    "pivot (select * from read_csv('/etc/passwd')) on column0 in ('a') using count(*)",
    "select * from range(1) union all select content from read_text('/etc/passwd')",
    "select * from logs at (version => 1)",
    "select ?",
    "select $1",
    "select load_extension('x')",
    "select lo_import('/etc/passwd')",
];

/// Statements that must work, each answering at least one row over three lines in `logs`.
const REASONABLE: &[&str] = &[
    "select 1",
    "select 1;",
    "/* a comment */ select 1 -- another",
    "values (1, 'a'), (2, 'b')",
    "from logs",
    "from logs select count(*)",
    "with t as (select 1 a) select * from t",
    "with logs as (select 1 a) select a from logs",
    "with recursive r (n) as (select 1 union all select n + 1 from r where n < 5) select * from r",
    "with t as materialized (select body from logs) select count(*) from t a, t b",
    "select row_number() over (order by _epoch, _seq, _row) from logs",
    "select sum(_row) over (partition by _node order by ts rows between 1 preceding and current row) from logs",
    "select body, lag(body) over w from logs window w as (order by _epoch, _seq, _row)",
    "select a.body from logs a join logs b using (_epoch, _seq, _row)",
    "select a.body from logs a left join logs b on a.body = b.body and b._row < 0",
    "select body from logs semi join logs b using (body)",
    "select * from logs asof join logs b using (ts)",
    "select 1 union select 2 union all select 3 except select 2",
    "select body from logs intersect select body from logs",
    "select * from range(5)",
    "select * from range(timestamp '2026-01-01', timestamp '2026-01-02', interval '6 hours')",
    "select * from generate_series(1, 5)",
    "select unnest(string_split('a,b', ','))",
    "select * from unnest(range(3)) t (x)",
    "select body, l from logs, lateral (select length(body) l)",
    "select json_extract('{\"a\":1}', '$.a')",
    "select '{\"a\":1}'::json ->> 'a'",
    "select json_object('a', 1), json_array(1, 2), json_valid('{')",
    "select json_group_array(body) from logs",
    "select * from json_each('{\"a\":1}')",
    "select resource ->> '$.\"log.file.name\"' from logs",
    "select date_trunc('hour', ts), count(*) from logs group by all",
    "select time_bucket(interval '1 minute', ts), count(*) from logs group by 1 order by 1",
    "select count(*) from logs where ts > now() - interval '10 minutes'",
    "select count(*) from logs where ts between current_timestamp - interval 1 day and current_timestamp",
    "select strftime(ts, '%Y-%m-%d'), epoch_ms(ts), date_diff('day', date '2020-01-01', current_date) from logs",
    "select timezone('Europe/Berlin', ts), make_timestamp(2020, 1, 1, 0, 0, 0), age(ts) from logs",
    "select \"body\" \"The Body\" from \"logs\"",
    "describe logs",
    "describe select * from logs",
    "summarize logs",
    "from (pivot logs on body in ('one', 'two') using count(*))",
    "unpivot (select 1 a, 2 b) on a, b",
    "select * exclude (_node) from logs",
    "select * replace (upper(body) as body) from logs",
    "select columns('b.*') from logs",
    "select body, count(*) filter (where _row = 0) from logs group by rollup (body)",
    "select body, count(*) from logs group by body having count(*) > 0 order by 2 desc nulls last, 1",
    "select body from logs qualify row_number() over (partition by body order by ts) = 1",
    "select distinct on (body) body from logs",
    "select * from logs using sample 1",
    "select * from logs order by all limit 1 offset 1",
    "select approx_count_distinct(body), quantile_cont(_row, 0.5), median(_row), stddev(_row) from logs",
    "select string_agg(body, ',' order by body), array_agg(body), list(body), first(body) from logs",
    "select arg_max(body, ts), histogram(body), mode(body) from logs",
    "select exists (select 1 from logs), case when true then 1 end, coalesce(null, 1), try_cast('a' as int)",
    "select regexp_extract(body, 'o.'), regexp_replace(body, 'o', '0'), body like 'o%', body ilike 'O%' from logs",
    "select printf('%d', 1), format('{}', 2), hash('a'), md5('a'), sha256('a'), uuid(), random()",
    "select 1::decimal(38, 10), 1::hugeint, 'x'::blob, interval '1' day, time '10:00', 'nan'::double, 'inf'::float",
    "select struct_pack(a := 1), list_value(1, 2), map_from_entries(null), row_number() over ()",
];

#[test]
fn statements_that_would_write_or_read_files_are_refused_and_leave_no_trace() {
    let platform = Platform::started(&[]);
    let folder = platform.beside("drop");
    std::fs::create_dir(&folder).unwrap();
    let before = (platform.pid("agent"), platform.pid("coordinator"));
    for statement in HOSTILE {
        let sql = statement.replace("DIR", folder.to_str().unwrap());
        let sql = sql.replace("HOME", platform.home().to_str().unwrap());
        let ran = platform.aap(&["query", "-o", "json", "--", &sql]);
        assert!([2, 3, 5].contains(&ran.code), "{sql}: {ran:?}");
        assert_eq!(ran.out, "", "{sql}");
        let code = ran.problem()["code"].as_str().unwrap().to_owned();
        ran.refused(ran.code, &code);
        assert!(!ran.err.contains("root:"), "{sql}: a file's content in {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "a file was written");
    assert_eq!((platform.pid("agent"), platform.pid("coordinator")), before, "a daemon ended");
    assert_eq!(platform.panics(), Vec::<String>::new());
}

#[test]
fn reasonable_statements_are_answered() {
    let platform = Platform::new();
    std::fs::write(platform.beside("a.log"), "one\ntwo\nthree\n").unwrap();
    platform.up(&["--tail", platform.beside("a.log").to_str().unwrap()]).ok();
    assert!(aap_tests::wait_until(aap_tests::PATIENCE, || platform.count("select count(*) from logs") == 3));
    let failed: Vec<String> = REASONABLE
        .iter()
        .filter_map(|sql| {
            let ran = platform.aap(&["query", "-o", "ndjson", "--", sql]);
            (ran.code != 0 || ran.out.is_empty()).then(|| format!("{sql}: {}{}", ran.err, ran.out))
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_malformed_statement_is_refused_with_its_place() {
    let platform = Platform::started(&[]);
    let refused = |sql: &str, exit: i32, code: &str| {
        platform.aap(&["query", "-o", "json", "--", sql]).refused(exit, code)
    };
    let place = |problem: &Value, place: &str| {
        let causes = problem["causes"].to_string();
        assert!(causes.contains(place), "{place} is not in {problem}");
    };
    place(&refused("selec 1", 2, "query.syntax"), "line 1, column 1");
    place(&refused("select 1\nfrom from x", 2, "query.syntax"), "line 2, column 6");
    refused("select", 2, "query.syntax");
    refused("select (1", 2, "query.syntax");
    refused("select 'unterminated", 2, "query.syntax");
    refused("-- nothing", 2, "query.empty");
    refused("select nosuch from host_metrics", 2, "query.unknown_column");
    refused("select nosuch(1)", 2, "query.unknown_function");
    refused("select cast('a' as int)", 1, "query.value");
    let unknown = refused("select * from host_metric", 3, "query.unknown_table");
    assert!(unknown["hints"].to_string().contains("host_metrics"), "the nearest name: {unknown}");
    let deep = format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let ran = platform.aap(&["query", "-o", "json", "--", &deep]);
    assert!([2, 1].contains(&ran.code), "nested parentheses: {ran:?}");
    ran.problem();
    let long = format!("select '{}'", "x".repeat(100_000));
    platform.aap(&["query", "-o", "json", "--", &long]).ok();
    platform.aap(&["query", "-o", "json", "select 1"]).ok();
}

#[test]
fn a_statement_past_its_caps_ends_alone() {
    let platform = Platform::started(&[]);
    let before = (platform.pid("agent"), platform.pid("coordinator"));
    let query = |arguments: &[&str]| platform.aap(&[&["query", "-o", "json"], arguments].concat());
    let endless = "select count(*) from range(100000000) a, range(1000000) b";
    query(&["--timeout", "1s", endless]).refused(1, "query.deadline");
    query(&["--timeout", "1s", "select pg_sleep(1000)"]).refused(1, "query.deadline");
    query(&["select repeat('x', 2000000000) || repeat('y', 2000000000)"]).refused(1, "query.memory");
    query(&["select count(*) from (select repeat('x', 1000000) || range s from range(100000) order by s)"])
        .refused(1, "query.memory");
    let cut = query(&["--limit", "2", "select * from range(10)"]).ok();
    assert_eq!(
        (&cut.json()["truncated"], cut.json()["items"].as_array().unwrap().len()),
        (&Value::Bool(true), 2)
    );
    assert!(cut.err.contains("--limit 0"), "cutting is announced: {}", cut.err);
    let all = query(&["--limit", "0", "select * from range(10000)"]).ok();
    assert_eq!(all.json()["items"].as_array().unwrap().len(), 10_000);
    let rows = platform.count("select count(*) from host_metrics");
    assert!(rows > 0, "other data flows");
    assert_eq!((platform.pid("agent"), platform.pid("coordinator")), before, "a daemon ended");
    assert_eq!(platform.panics(), Vec::<String>::new());
}
