//! The answer of nodes, merged, is the answer of one engine over all their rows: same names, types and rows.

use std::path::Path;

use aap_sql::{Manifest, Planned, TableManifest};
use arrow_ipc::writer::StreamWriter;
use camino::Utf8PathBuf;
use duckdb::Connection;
use duckdb::types::Value;

use super::ANSWERS;
use crate::statement::Statement;
use crate::{database, types};

/// How a statement is expected to be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Groups,
    List,
    Columns,
    Ship,
}
use Way::{Columns, Groups, List, Ship};

fn way_of(planned: &Planned) -> Way {
    match () {
        () if planned.partial => Groups,
        () if planned.table != ANSWERS => Ship,
        () if planned.node_sql.contains("__c0") => List,
        () => Columns,
    }
}

/// Rows from which parts are cut: every type, NULL in every column, ties, repeated values.
const ROWS: &str = "SELECT
    to_timestamp(1700000000 + n * 37) AS ts,
    CASE WHEN n % 7 = 0 THEN NULL ELSE 'g' || (n % 5) END AS g,
    CASE WHEN n % 11 = 0 THEN NULL ELSE (n * 7919) % 1000 - 300 END::BIGINT AS a,
    CASE WHEN n % 13 = 0 THEN NULL ELSE (n * 104729 % 10007) / 17.0 END::DOUBLE AS d,
    ((n % 90) / 3.0)::DECIMAL(10, 2) AS money,
    ((n % 70) / 8.0)::FLOAT AS f,
    (n % 17)::INTEGER AS i,
    (n % 4)::UTINYINT AS u,
    CASE WHEN n % 5 = 1 THEN NULL ELSE n % 3 = 0 END AS b,
    DATE '2024-01-01' + (n % 9)::INTEGER AS day,
    [n % 3, n % 2]::BIGINT[] AS l,
    {'x': n % 6, 'y': 'y' || (n % 2)} AS s,
    'line ' || n || ' of ' || (n % 19) AS \"the body\",
    'node' || (n % 2) AS _node, 1::UBIGINT AS _epoch, (n // 10)::UBIGINT AS _seq, (n % 10)::UBIGINT AS _row
    FROM range(600) AS t(n)";

fn parts() -> Vec<String> {
    let part = |which: &str| format!("SELECT * FROM ({ROWS}) WHERE _seq % 3 {which}");
    vec![part("= 0"), part("> 0"), part("< 0")]
}

/// The second node lacks columns, and has others as narrower types.
fn uneven_parts() -> Vec<String> {
    let mut parts = parts();
    parts[1] = format!("SELECT * EXCLUDE (d, b, a, day), a::SMALLINT AS a FROM ({})", parts[1]);
    parts[2] = format!("SELECT ts, _node, _epoch, _seq, _row FROM ({})", parts[2]);
    parts
}

fn database_of(rows: &str) -> Connection {
    let connection = database::open().unwrap();
    connection.execute_batch(&format!("CREATE TABLE logs AS {rows}")).unwrap();
    connection
}

fn databases_of(parts: &[String]) -> Vec<Connection> {
    parts.iter().map(|part| database_of(part)).collect()
}

fn whole_of(parts: &[String]) -> Connection {
    // The declared columns of the platform: the widest types.
    let first = format!("SELECT * FROM ({ROWS}) WHERE false");
    let all: Vec<&str> = std::iter::once(first.as_str()).chain(parts.iter().map(String::as_str)).collect();
    database_of(&all.join(" UNION ALL BY NAME "))
}

fn plan(whole: &Connection, sql: &str) -> Planned {
    let statement = Statement::parse(whole, sql).unwrap();
    super::plan(whole, sql, &statement).unwrap()
}

/// A node's answer, as it travels.
fn answer(node: &Connection, sql: &str, path: &Path) {
    Statement::parse(node, sql).unwrap_or_else(|problem| panic!("{sql}: {problem:?}"));
    let mut statement = node.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let names: Vec<String> =
        (0..statement.column_count()).map(|at| types::name_of(&statement.column_logical_type(at))).collect();
    let batches = statement.stream_arrow([]).unwrap();
    let schema = types::with_names(&batches.get_schema(), &names);
    let mut writer = StreamWriter::try_new(std::fs::File::create(path).unwrap(), &schema).unwrap();
    for batch in batches {
        writer.write(&batch.unwrap().with_schema(schema.clone()).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

/// Names and types, and rows as text.
type Answer = (Vec<(String, String)>, Vec<String>);

fn run(connection: &Connection, sql: &str) -> Answer {
    let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let width = statement.column_count();
    let kinds: Vec<String> =
        (0..width).map(|at| types::name_of(&statement.column_logical_type(at))).collect();
    let rows = statement.query_map([], |row| {
        let values = (0..width).map(|at| row.get::<_, Value>(at).map(|value| shown(&value)));
        Ok(values.collect::<duckdb::Result<Vec<_>>>()?.join(" | "))
    });
    let mut rows: Vec<String> =
        rows.unwrap().collect::<duckdb::Result<_>>().unwrap_or_else(|error| panic!("{sql}: {error}"));
    if !sql.to_lowercase().contains("order by") {
        rows.sort();
    }
    let names = (0..width).map(|at| statement.column_name(at).unwrap().clone());
    (names.zip(kinds).collect(), rows)
}

/// Floats are added in another order on every run.
fn shown(value: &Value) -> String {
    match value {
        Value::Double(number) => format!("{number:.7e}"),
        Value::Float(number) => format!("{number:.4e}"),
        other => format!("{other:?}"),
    }
}

fn merged(planned: &Planned, nodes: &[Connection]) -> Connection {
    let folder = tempfile::tempdir().unwrap();
    let mut table = TableManifest { name: planned.table.clone(), ..TableManifest::default() };
    for (at, node) in nodes.iter().enumerate() {
        let path = folder.path().join(format!("{at}.arrow"));
        answer(node, &planned.node_sql, &path);
        table.ipc.push(Utf8PathBuf::from_path_buf(path).unwrap());
    }
    let merge = database::open().unwrap();
    Statement::parse(&merge, &planned.merge_sql).unwrap();
    let manifest = Manifest { tables: vec![table] };
    database::make_tables(&merge, &manifest, &[]).unwrap();
    // The files are opened while the statement runs.
    let name = types::quoted(&planned.table);
    let keep =
        format!("CREATE TABLE kept AS FROM {name}; DROP VIEW {name}; ALTER TABLE kept RENAME TO {name}");
    merge.execute_batch(&keep).unwrap_or_else(|error| panic!("{planned:#?}: {error}"));
    merge
}

fn check(parts: &[String], statements: &[(Way, &str)]) {
    let whole = whole_of(parts);
    let nodes = databases_of(parts);
    let mut failures = vec![];
    for (way, sql) in statements {
        let planned = plan(&whole, sql);
        let expected = run(&whole, sql);
        let got = run(&merged(&planned, &nodes), &planned.merge_sql);
        if got != expected || way_of(&planned) != *way {
            failures.push(format!(
                "{sql}\n  {:?}, expected {way:?}\n  {planned:#?}\n  got {got:?}\n  expected {expected:?}",
                way_of(&planned)
            ));
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n\n"));
}

const STATEMENTS: &[(Way, &str)] = &[
    // aggregates without groups
    (Groups, "select count(*) from logs"),
    (Groups, "select count(*) n, count(a), count(d) filter (where a > 100) from logs where g = 'g1'"),
    (Groups, "select sum(a), sum(i), sum(u), sum(d), sum(money), min(g), max(ts), min(day) from logs"),
    (Groups, "select sum(a) / count(*) * 100, max(ts) - min(ts), round(avg(d), 3) from logs"),
    (Groups, "select avg(a), avg(d), avg(money), avg(i) from logs"),
    (Groups, "select stddev(a), stddev_pop(d), var_samp(money), var_pop(i), variance(d) from logs"),
    (Groups, "select bool_and(b), bool_or(b), bit_or(i), bit_and(u), bit_xor(i), count_if(a > 3) from logs"),
    (Groups, "select arg_max(\"the body\", ts), arg_min(a, ts), max_by(day, ts) filter (where b) from logs"),
    (Groups, "select count(*), sum(a), avg(a), min(a), stddev(a), bool_and(b) from logs where g = 'nothing'"),
    (Groups, "select count(*) from logs having count(*) > 1000"),
    (Groups, "select 'rows' as what, count(*) as n from logs"),
    (Groups, "select coalesce(sum(a), 0), count(*) > 5 and bool_or(b) from logs where i = 99"),
    // groups
    (Groups, "select g, count(*) from logs group by g"),
    (Groups, "select g, count(*) n from logs group by 1 order by 2 desc, 1 limit 3"),
    (Groups, "select g, sum(a) s, count(*) from logs group by all order by all"),
    (Groups, "select g, sum(a) as total from logs group by g having total > 3000 order by total desc"),
    (Groups, "select g as name, i % 2 as odd, sum(d) from logs group by name, odd order by name, odd"),
    (Groups, "select g, stddev(d), var_pop(a), avg(money) from logs group by g order by g nulls first"),
    (Groups, "select g, stddev_samp(a) from logs where i = 3 and a > 500 group by g order by g"),
    (Groups, "select date_trunc('hour', ts) as hour, count(*), max(d) from logs group by hour order by hour"),
    (
        Groups,
        "select logs.g, count(*) from logs group by logs.g having count(*) > 80 and max(logs.i) > 1 order by logs.g",
    ),
    (Groups, "select l.g, sum(l.a) from logs as l where l.i < 5 group by l.g order by sum(l.a) desc"),
    (
        Groups,
        "select upper(g) || '!' as name, count(*) from logs group by upper(g) || '!' order by 1 offset 2",
    ),
    (
        Groups,
        "select case when a > 0 then 'up' else 'down' end as way, count(*) n, sum(a) filter (where b) from logs group by way order by n",
    ),
    (Groups, "select day, b, count(*), avg(d) from logs group by day, b order by day, b limit 7 offset 3"),
    (Groups, "select count(*) from logs group by g order by 1"),
    (Groups, "select g, count(*) * 2 as twice from logs group by g order by twice + 1, g"),
    (Groups, "select s.y, l[1], count(*) from logs group by s.y, l[1] order by all"),
    (Groups, "select -a as a, count(*) from logs group by a order by 1 limit 5"),
    (Groups, "select g, sum(a) as a from logs group by g order by a desc"),
    (Groups, "select g, sum(a) as a from logs group by g having sum(a) > 0 order by g"),
    (Groups, "select g, b from logs where i between 2 and 4 group by g, b order by all"),
    (
        Groups,
        "select g, max(d) - min(d) as width, arg_max(i, d) from logs group by g order by width desc nulls last",
    ),
    (Groups, "select u, any_value(u) + 1, product(1.0 + i / 100) from logs group by u order by u"),
    (
        Groups,
        "SELECT G, Count(*) AS N FROM Logs WHERE B GROUP BY G HAVING n > 10 ORDER BY N DESC, G; -- done",
    ),
    (
        Groups,
        "from logs select i % 3 = 0 as third, sum(f), avg(f), max(f), stddev(f) where a > -1e2 group by all order by 1",
    ),
    (
        Groups,
        "select sum(money * i), sum(money) / count(money), max(money), sum(case when b then 1 else 0 end) from logs",
    ),
    (Groups, "select ts::date as d, strftime(ts, '%H') as h, count(*) from logs group by 1, 2 order by 1, 2"),
    (Groups, "select g from logs where \"the body\" like '%1%' and i in (1, 2, 3) group by g order by g"),
    (Groups, "select g, i from logs group by g, i having i = 3 or count(*) > 6 order by g, i"),
    (Groups, "select i, count(*) as g from logs group by i having g > 30 order by g, i"),
    (Groups, "select count(*), count(*) + 1, min(i), min(i) from logs limit 0"),
    (Groups, "select sum(a + i) filter (where d is not null) as total, total * 2 as twice from logs"),
    (Groups, "select try_cast(\"the body\" as integer) as x, sum(b::int) from logs group by x"),
    (Groups, "select greatest(max(a), max(i)), max(a) > 3 or min(a) is null, not bool_and(b) from logs"),
    // distinct
    (Groups, "select distinct g from logs order by 1"),
    (Groups, "select distinct g, b from logs where a > 100"),
    (Groups, "select distinct date_trunc('day', ts) d0 from logs order by d0 desc limit 2"),
    (Groups, "select distinct count(*) > 85 from logs group by g order by 1"),
    (Groups, "select count(distinct g), count(distinct i) from logs"),
    (Groups, "select g, count(distinct a), count(*), sum(d), avg(i) from logs group by g order by g"),
    (
        Groups,
        "select g, count(distinct a) filter (where b), sum(distinct i), avg(distinct d) from logs group by g order by g",
    ),
    (Groups, "select b, count(distinct g), stddev(d), min(distinct a) from logs group by b order by b"),
    (Groups, "select approx_count_distinct(\"the body\"), count(*) from logs"),
    (Groups, "select g, approx_count_distinct(a) from logs group by g order by g"),
    // rows
    (List, "select a from logs order by a desc nulls last limit 10"),
    (Columns, "select a + 1, g from logs where g is not null order by a, g, 1 limit 4 offset 2"),
    (List, "select length(\"the body\") from logs where d > 500"),
    (List, "select ts, g as name from logs where name = 'g3' order by ts desc limit 20"),
    (List, "select ts as t, \"the body\" from logs order by t limit 5"),
    (List, "select a from logs order by d desc, ts limit 6"),
    (
        List,
        "select current_date >= day as old, ts < now() from logs where ts > timestamptz '2023-11-15' - interval '1 hour'",
    ),
    (Columns, "select * from logs order by ts limit 5"),
    (Columns, "select * from logs where a > 600"),
    (Columns, "select * exclude (\"the body\") from logs where i = 3 order by ts desc limit 4"),
    (Columns, "select a, a + 1, -a, a * 2 from logs where i = 4 order by a, ts"),
    (List, "select _seq, _row, g from logs where i = 5 order by g, l, ts"),
    (Columns, "select s, l from logs where i = 5 order by ts"),
    (Columns, "select list_transform(l, x -> x + 1) as more from logs where i = 6 order by ts"),
    (List, "select 1 as one from logs limit 3"),
    // what has no parts
    (Columns, "select median(a), quantile_cont(d, 0.9), mode(u) from logs where i < 9"),
    (Columns, "select g, quantile_cont(d, 0.25), count(*) from logs group by g order by g"),
    (Columns, "select g, string_agg(i::varchar, ',' order by ts) from logs group by g order by g"),
    (Columns, "select g, list(distinct u order by u), sum(distinct a) from logs group by g order by g"),
    (Columns, "select avg(ts), avg(day) from logs"),
    (Columns, "select g, b, count(*) from logs group by rollup (g, b) order by all"),
    (Columns, "from logs order by ts, g limit 2"),
    (Columns, "select first(a order by ts), last(g order by ts, a) from logs"),
    (Columns, "select g, max(a, 3) from logs group by g order by g"),
    (Columns, "select 'x' as x, count(*) from logs group by x"),
    (Columns, "select corr(a, d), skewness(a) from logs"),
    (Columns, "select distinct on (g) g, ts from logs order by g, ts"),
    (
        Columns,
        "select g, row_number() over (partition by g order by ts) as n from logs where i < 3 qualify n <= 2 order by g, n",
    ),
    (Columns, "select g, sum(count(*)) over () as all_rows from logs group by g order by g"),
    (Columns, "select unnest(l) as item from logs where i = 2 order by item limit 5"),
    (Ship, "select count(*) from logs where a = (select max(a) from logs)"),
    (
        Ship,
        "with x as (select g, a from logs where ts > '2023-11-15') select g, max(a) from x group by g order by g",
    ),
    (Ship, "select a.g, count(*) from logs a join logs b using (ts) where a.i = b.i group by 1 order by 1"),
    (Ship, "select g from logs where i = 1 union select g from logs where i = 2 order by 1"),
    (Columns, "select a, a + 1 as b, -a as c, a * 1e2 as d from logs where g = 'g1' order by ts limit 3"),
    (Ship, "select g from logs l where exists (select 1 from logs where i > l.i and g = l.g) order by g, ts"),
    (Ship, "select l.g from logs as l, range(2) as r where l.i = 3 order by l.ts"),
    (Columns, "select logs from logs where i = 3 order by logs.ts"),
    (Ship, "select count(*) from (select 1 from logs)"),
    (Ship, "select count(*) from (select * from logs where b)"),
];

#[test]
fn parts_merged_are_the_answer_of_one_engine() {
    check(&parts(), STATEMENTS);
}

#[test]
fn nodes_that_lack_columns_or_have_narrower_ones_answer_as_one_engine() {
    check(&uneven_parts(), STATEMENTS);
}

#[test]
fn all_nodes_empty_answer_as_one_empty_engine() {
    let empty = parts().remove(2);
    check(&[empty.clone(), empty], STATEMENTS);
}

/// No column is known here: nodes send rows.
#[test]
fn a_stream_that_only_nodes_know_is_answered_from_rows() {
    let (whole, nodes) = (whole_of(&parts()), databases_of(&parts()));
    for sql in [
        "select g, count(*) n, max(ts) from logs where a > 3 group by g order by n, g",
        "select l.g from logs l order by 1",
    ] {
        let planned = plan(&database::open().unwrap(), sql);
        assert_eq!(way_of(&planned), Ship);
        assert_eq!(run(&merged(&planned, &nodes), &planned.merge_sql), run(&whole, sql), "{sql}");
    }
}

#[test]
fn nodes_look_for_their_frames_in_the_range_of_time() {
    let whole = whole_of(&parts());
    for sql in [
        "select count(*) from logs where ts > '2023-11-15' and ts <= '2023-11-16' and a > 3",
        "select count(*) from logs l where l.ts between '2023-11-15' and '2023-11-16'",
        "select a from logs where ts > '2023-11-15' and ts <= '2023-11-16' order by ts limit 3",
        "select median(a) from logs where ts > '2023-11-15' and ts <= '2023-11-16'",
        "select count(*) from (select a from logs where ts > '2023-11-15' and ts <= '2023-11-16')",
        "select count(*) from logs where ts > now() - interval '1 hour' and ts < now()",
    ] {
        let planned = plan(&whole, sql);
        let needs = Statement::parse(&whole, &planned.node_sql).unwrap().tables;
        assert_eq!(needs.len(), 1, "{planned:?}");
        assert!(needs[0].ts_min_us.is_some() && needs[0].ts_max_us.is_some(), "{planned:#?}");
    }
}

#[test]
fn nodes_send_no_column_that_is_not_needed() {
    let whole = whole_of(&parts());
    for (sql, columns) in [
        ("select median(a), g from logs where d > 3 and i = 4 group by g", vec!["a", "g"]),
        ("select * exclude (l) from logs where b limit 3", vec![]),
        ("select count(*) from (select g from logs) x where g is null", vec!["g"]),
        ("select sevrity from logs", vec!["sevrity"]),
    ] {
        let planned = plan(&whole, sql);
        let (list, _) = planned.node_sql.split_once(" FROM ").unwrap();
        let wanted = if columns.is_empty() {
            "SELECT *".to_owned()
        } else {
            format!("SELECT {}", super::tree::identifiers(columns))
        };
        assert_eq!(list, wanted, "{sql}");
    }
}
