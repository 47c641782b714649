//! Messages of a server that is not there, as rows.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use proptest::prelude::*;

use super::message::tests::{begin, commit, delete, insert, relation, truncate, update};
use super::*;

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// A row: operation, key, text, where its transaction was committed, its number, what did not change.
type Row = (String, Option<i32>, Option<String>, i64, i64, Option<String>);

fn take(rows: &mut Rows, bytes: &[u8]) -> Taken {
    match Message::parse(bytes).unwrap() {
        Message::Relation(message) => {
            rows.set_relation(message, &Found::default()).unwrap();
            Taken::Kept
        }
        message => rows.take(&message).unwrap(),
    }
}

fn table() -> Vec<u8> {
    relation(9, "orders", b'd', &[(true, "id", INT4), (false, "name", TEXT)])
}

fn shown(group: &rows::Group) -> Vec<Row> {
    let mut all = vec![];
    for (stream, batch) in &group.batches {
        assert_eq!(stream.as_str(), "orders");
        let text = |name: &str| {
            let texts = batch.column_by_name(name).unwrap().as_string::<i32>();
            texts.iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>()
        };
        let number = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        let ids = batch.column_by_name("id").unwrap().as_primitive::<Int32Type>();
        let (ops, names, unchanged) = (text("_op"), text("name"), text("_unchanged"));
        let (lsns, changes) = (number("_lsn"), number("_change"));
        for row in 0..batch.num_rows() {
            let id = ids.is_valid(row).then(|| ids.value(row));
            let op = ops[row].clone().unwrap();
            let (lsn, change) = (lsns.value(row), changes.value(row));
            all.push((op, id, names[row].clone(), lsn, change, unchanged[row].clone()));
        }
    }
    all
}

fn row(op: &str, id: Option<i32>, name: Option<&str>, lsn: i64, change: i64) -> Row {
    (op.to_owned(), id, name.map(str::to_owned), lsn, change, None)
}

/// A transaction of every kind of change, and a second one.
fn log() -> Vec<Vec<u8>> {
    vec![
        begin(100, 0),
        table(),
        insert(9, &[Some("1"), Some("a")]),
        update(9, None, &[Some("1"), Some("~")]),
        update(9, Some((b"K", &[Some("1"), None])), &[Some("2"), Some("b")]),
        delete(9, &[Some("2"), None]),
        truncate(&[9]),
        commit(100, 148),
        begin(148, 5),
        insert(9, &[Some("3"), None]),
        commit(148, 196),
    ]
}

fn rows_of_log() -> Vec<Row> {
    let mut unchanged = row("update", Some(1), None, 100, 3);
    unchanged.5 = Some("[\"name\"]".to_owned());
    vec![
        row("insert", Some(1), Some("a"), 100, 1),
        unchanged,
        row("delete", Some(1), None, 100, 4),
        row("update", Some(2), Some("b"), 100, 5),
        row("delete", Some(2), None, 100, 6),
        row("truncate", None, None, 100, 7),
        row("insert", Some(3), None, 148, 1),
    ]
}

#[test]
fn each_change_is_a_row_and_one_of_a_key_is_two() {
    let mut rows = Rows::new(None, LogPosition::default());
    for message in log() {
        assert_eq!(take(&mut rows, &message), Taken::Kept);
    }
    let group = rows.group().unwrap().unwrap();
    assert_eq!(shown(&group), rows_of_log());
    assert_eq!(group.position, LogPosition { lsn: 196, changes: 0 });
    assert!(rows.group().unwrap().is_none());
}

#[test]
fn what_has_landed_is_left_out_wherever_it_was_cut() {
    let whole = rows_of_log();
    // The second transaction is committed exactly where the first one ends.
    let cuts = (0..=7).map(|changes| (100, changes)).chain([(148, 0), (148, 1), (196, 0), (500, 0)]);
    for (lsn, changes) in cuts {
        let mut rows = Rows::new(None, LogPosition { lsn, changes });
        for message in log() {
            take(&mut rows, &message);
        }
        let group = rows.group().unwrap().map(|group| shown(&group)).unwrap_or_default();
        let expected: Vec<Row> =
            whole.iter().filter(|row| (row.3, row.4) > (lsn as i64, changes as i64)).cloned().collect();
        assert_eq!(group, expected, "behind {lsn}, {changes}");
    }
}

#[test]
fn a_transaction_that_is_too_large_is_cut_and_goes_on_behind_the_cut() {
    let text = "x".repeat(1 << 20);
    let log: Vec<Vec<u8>> = [vec![begin(100, 0), table()], vec![insert(9, &[Some("1"), Some(&text)]); 20]]
        .concat()
        .into_iter()
        .chain([commit(100, 148)])
        .collect();
    let (mut landed, mut ids, mut looks) = (LogPosition::default(), vec![], 0);
    // Killed after each group: a new look begins.
    while landed.lsn != 148 {
        let mut rows = Rows::new(None, landed);
        let full = log.iter().any(|message| take(&mut rows, message) == Taken::Full);
        let group = rows.group().unwrap();
        assert!(full || rows.position().lsn == 148);
        landed = rows.position();
        ids.extend(group.iter().flat_map(shown).map(|row| row.4));
        looks += 1;
    }
    assert_eq!(ids, (1..=20).collect::<Vec<i64>>());
    assert!(looks >= 3, "{looks} looks");
}

#[test]
fn a_table_that_changes_its_form_begins_a_new_batch() {
    let mut rows = Rows::new(Some("all".parse().unwrap()), LogPosition::default());
    let wider = relation(9, "orders", b'f', &[(true, "id", INT4), (true, "TS", TEXT), (true, "_op", INT4)]);
    for message in [
        begin(100, 0),
        table(),
        insert(9, &[Some("1"), None]),
        wider,
        insert(9, &[Some("2"), Some("x"), Some("3")]),
        // The whole old row has what was not sent.
        update(9, Some((b"O", &[Some("2"), Some("x"), Some("3")])), &[Some("2"), Some("~"), Some("4")]),
        commit(100, 148),
    ] {
        take(&mut rows, &message);
    }
    let group = rows.group().unwrap().unwrap();
    let names = |at: usize| -> Vec<String> {
        group.batches[at].1.schema().fields().iter().map(|field| field.name().clone()).collect()
    };
    let own = ["_op", "_table", "_lsn", "_change", "_commit_ts", "_unchanged"];
    assert_eq!(names(0), [&["ts", "id", "name"][..], &own].concat());
    assert_eq!(names(1), [&["ts", "id", "TS_1", "_op_1"][..], &own].concat());
    let texts = group.batches[1].1.column(2).as_string::<i32>().clone();
    assert_eq!((texts.value(0), texts.value(1)), ("x", "x"));
    assert_eq!(group.batches[0].0.as_str(), "all");
}

#[test]
fn nonsense_is_an_error() {
    let check = |messages: &[Vec<u8>]| {
        let mut rows = Rows::new(None, LogPosition::default());
        let refused = messages.iter().any(|bytes| match Message::parse(bytes).unwrap() {
            Message::Relation(message) => rows.set_relation(message, &Found::default()).is_err(),
            message => rows.take(&message).is_err(),
        });
        assert!(refused, "{messages:?}");
    };
    check(&[insert(9, &[])]);
    check(&[table(), insert(9, &[Some("1"), None])]);
    check(&[begin(1, 0), table(), insert(9, &[Some("1")])]);
    check(&[begin(1, 0), table(), insert(9, &[Some("one"), None])]);
    check(&[begin(u64::MAX, 0), table(), insert(9, &[Some("1"), None])]);
    check(&[begin(1, 0), truncate(&[9])]);
    check(&[relation(9, "Not A Stream", b'd', &[])]);
}

proptest! {
    #[test]
    fn positions_keep_their_form(lsn: u64, changes: u64) {
        let position = LogPosition { lsn, changes };
        prop_assert_eq!(LogPosition::of_detail(&position.to_detail()), Some(position));
    }
}

#[test]
fn a_position_is_readable() {
    let text = LogPosition { lsn: 0x16_B374_D848, changes: 7 }.to_detail();
    assert_eq!(text, "{\"lsn\":\"16/B374D848\",\"changes\":7}");
    assert_eq!(LogPosition::of_detail("{\"lsn\":\"0\"}"), None);
    assert_eq!(slot_name("0123456789ABCDEF0123456789abcdef"), "aap_0123456789abcdef");
}
