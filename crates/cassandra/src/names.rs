//! Names in the server.
//!
//! Keyspaces and tables have letters, digits and `_` only; columns may be called anything that is quoted.

use std::collections::HashSet;

use aap_sinks::Template;
use aap_types::StreamName;
use arrow_schema::{DataType, Schema};

/// The table that keeps owners and positions, of all sinks in a keyspace.
pub(crate) const LEDGER: &str = "aap_ledger";
/// Longest name of a keyspace or table: Cassandra's own limit.
pub(crate) const LENGTH_MAX: usize = 48;
/// The column that partitions split by, of streams and of tables.
pub(crate) const TS: &str = "ts";
/// `ts` to the microsecond.
pub(crate) const TS_US: &str = "_ts_us";
/// The columns of the key, in its order, with their types.
pub(crate) const KEY: [(&str, &str); 7] = [
    ("_stream", "text"),
    ("_node", "text"),
    ("_bucket", "timestamp"),
    (TS, "timestamp"),
    ("_epoch", "bigint"),
    ("_seq", "bigint"),
    ("_row", "bigint"),
];
/// How many of them make the partition.
pub(crate) const PARTITION_KEYS: usize = 3;

/// What the last columns of a slice are called.
pub(crate) const NODE: &str = "_node";
pub(crate) const EPOCH: &str = "_epoch";
pub(crate) const SEQ: &str = "_seq";
pub(crate) const ROW: &str = "_row";

/// Whether it needs no other letters than tables have.
pub(crate) fn is_plain(name: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.len() <= LENGTH_MAX && name.bytes().all(is_word)
}

/// The table of a stream. `web.access` goes to `web_access`, where a stream of that very name may go, too: the key begins with
/// the stream. A name that is too long ends in a number made of all of it.
pub(crate) fn table(template: &Template, stream: &StreamName) -> String {
    let whole = template.of(stream);
    let plain: String =
        whole.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    match plain.len() <= LENGTH_MAX {
        true => plain,
        false => format!("{}_{:08x}", &plain[..LENGTH_MAX - 9], fnv(&whole)),
    }
}

/// FNV-1a: any hash does that never changes.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// As CQL takes a name, whatever is in it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text of CQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A column of a slice in its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Which column of the slice.
    pub(crate) index: usize,
    /// What the table calls it.
    pub(crate) name: String,
    /// What the table calls its microseconds, if it is a time.
    pub(crate) us: Option<String>,
}

/// The columns of a slice that are no part of the key, in the order of the slice.
pub(crate) fn columns(schema: &Schema) -> Vec<Named> {
    let mut taken: HashSet<String> = KEY.iter().map(|(name, _)| (*name).to_owned()).collect();
    taken.insert(TS_US.to_owned());
    let fields = schema.fields().iter().enumerate();
    let fields = fields.filter(|(_, field)| {
        let is_id = [NODE, EPOCH, SEQ, ROW].contains(&field.name().as_str());
        let is_key_time = field.name() == TS && is_time(field.data_type());
        !is_id && !is_key_time && *field.data_type() != DataType::Null
    });
    let named = fields.map(|(index, field)| {
        // A name needs at least one letter.
        let wanted = if field.name().is_empty() { "_" } else { field.name() };
        let name = distinct(wanted.replace('\0', ""), &mut taken);
        let us = is_time(field.data_type()).then(|| distinct(format!("_{name}_us"), &mut taken));
        Named { index, name, us }
    });
    named.collect()
}

fn is_time(kind: &DataType) -> bool {
    matches!(kind, DataType::Timestamp(..))
}

fn distinct(wanted: String, taken: &mut HashSet<String>) -> String {
    let mut name = wanted.clone();
    let mut times = 0;
    while !taken.insert(name.to_lowercase()) {
        times += 1;
        name = format!("{wanted}_{times}");
    }
    name
}

#[cfg(test)]
mod tests {
    use arrow_schema::{Field, TimeUnit};

    use super::*;

    #[test]
    fn streams_have_tables_that_cassandra_allows() {
        let of = |template: &str, stream: &str| table(&template.parse().unwrap(), &stream.parse().unwrap());
        assert_eq!(of("{stream}", "web.access-log"), "web_access_log");
        assert_eq!(of("raw_{stream}", "orders"), "raw_orders");
        let long = of("{stream}", &"a".repeat(60));
        assert!(is_plain(&long), "{long}");
        assert_ne!(long, of("{stream}", &"a".repeat(61)));
    }

    #[test]
    fn names_of_the_key_stay_free() {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let check = |fields: &[(&str, DataType)], expected: &[&str]| {
            let schema: Vec<Field> =
                fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
            let found: Vec<String> = columns(&Schema::new(schema))
                .into_iter()
                .flat_map(|named| std::iter::once(named.name).chain(named.us))
                .collect();
            assert_eq!(found, expected);
        };
        check(&[("ts", time.clone()), ("n", DataType::Int64), ("_seq", DataType::UInt64)], &["n"]);
        check(&[("ts", DataType::Utf8), ("_stream", DataType::Utf8)], &["ts_1", "_stream_1"]);
        check(&[("Level", DataType::Utf8), ("level", DataType::Utf8)], &["Level", "level_1"]);
        check(&[("at", time), ("_at_us", DataType::Utf8)], &["at", "_at_us", "_at_us_1"]);
        check(&[("nothing", DataType::Null), ("", DataType::Utf8)], &["_"]);
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }
}
