//! What an operator says about a sink.

use aap_runtime::SecretRef;
use aap_sinks::Template;
use aap_types::{ExitCode, Problem};
use serde::{Deserialize, Serialize};

use crate::connection::ServerUrl;
use crate::names::TableName;

/// Where rows go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSpec {
    /// `postgres://user@host:port/database?sslmode=…&sslrootcert=…`. A password is refused here.
    pub url: ServerUrl,
    /// Where the password stands. Default: none, for servers that ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// `table` or `schema.table`; `{stream}` is replaced by the name of the stream.
    pub table: Template,
    /// Makes the table, and its schema, where they are missing. Default: no.
    #[serde(default)]
    pub create: bool,
    /// Adds columns that are new and widens those that have become too narrow. Default: as `create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolve: Option<bool>,
    /// What happens to a row whose key is there already. Default: append.
    #[serde(default)]
    pub mode: Mode,
    /// The columns that identify a row, for `upsert` only. The table needs a unique index over exactly these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Whether tables that are made are split by the time `ts`. Rows without one go to a partition of their own. Default: none.
    #[serde(default)]
    pub partition: Partition,
    /// `table` or `schema.table` that keeps how far everything was written. Default: `aap_ledger`. One can serve many sinks.
    /// With its schema it is found also after the search path of the user has changed; where it is not found, everything is
    /// delivered again.
    #[serde(default = "default_ledger")]
    pub ledger: String,
}

/// What happens to a row whose key is there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Every row is a row of the table.
    #[default]
    Append,
    /// The last row of a key is.
    Upsert,
}

/// How a table is split by time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// Not at all.
    #[default]
    None,
    /// A partition a day, in UTC.
    Day,
    /// A partition a month, in UTC.
    Month,
}

/// The column that partitions split by.
pub(crate) const TIME_COLUMN: &str = "ts";

fn default_ledger() -> String {
    "aap_ledger".to_owned()
}

impl PostgresSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// Whether tables follow their streams.
    pub fn evolves(&self) -> bool {
        self.evolve.unwrap_or(self.create)
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// `sink.setting`, with what to write instead.
    pub fn validate(&self) -> Result<(), Problem> {
        let probe = "s".parse().expect("a name of one letter");
        TableName::of(&self.table, &probe).map_err(|error| wrong("table", error))?;
        TableName::fixed(&self.ledger).map_err(|error| wrong("ledger", error))?;
        match (self.mode, self.key.is_empty()) {
            (Mode::Upsert, true) => {
                return Err(wrong(
                    "key",
                    "`mode: upsert` needs the columns that identify a row, as in `key: [id]`",
                ));
            }
            (Mode::Append, false) => return Err(wrong("key", "a key is for `mode: upsert` only")),
            _ => {}
        }
        if let Some(twice) =
            self.key.iter().enumerate().find(|(place, name)| self.key[..*place].contains(name))
        {
            return Err(wrong("key", format!("`{}` stands there twice", twice.1)));
        }
        if self.mode == Mode::Upsert
            && self.partition != Partition::None
            && !self.key.iter().any(|name| name == TIME_COLUMN)
        {
            let why =
                "in a table that is split by `ts`, PostgreSQL can only keep keys unique that contain `ts`";
            return Err(wrong("key", why));
        }
        Ok(())
    }
}

fn wrong(field: &str, why: impl ToString) -> Problem {
    Problem::new("sink.setting", ExitCode::Usage, format!("`{field}` of the PostgreSQL sink is not usable"))
        .cause(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let text =
            format!("url: postgres://me@db/x\npassword: env:PASSWORD\ntable: public.{{stream}}\n{more}");
        let found = match serde_norway::from_str::<PostgresSpec>(&text) {
            Ok(spec) => {
                spec.validate().map_or_else(|problem| problem.causes.join("; "), |()| "fine".to_owned())
            }
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check("create: true\npartition: day\nledger: ops.ledger\n", "fine");
        check("mode: upsert\nkey: [id, ts]\npartition: month\n", "fine");
        check("mode: upsert\n", "needs the columns that identify a row");
        check("key: [id]\n", "for `mode: upsert` only");
        check("mode: upsert\nkey: [id, id]\n", "`id` stands there twice");
        check("mode: upsert\nkey: [id]\npartition: day\n", "that contain `ts`");
        check("ledger: a.b.c\n", "names no table");
        check("colour: red\n", "unknown field `colour`");
        check("mode: replace\n", "unknown variant `replace`");
    }

    #[test]
    fn a_spec_survives_its_text_and_evolves_where_it_creates() {
        let text = r#"{"url":"postgres://me@db/x","table":"{stream}","create":true}"#;
        let spec: PostgresSpec = serde_json::from_str(text).unwrap();
        assert!(spec.evolves());
        let again: PostgresSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
        let leak = text.replace("me@", "me:hunter2@");
        let error = serde_json::from_str::<PostgresSpec>(&leak).unwrap_err().to_string();
        assert!(error.contains("password: env:NAME") && !error.contains("hunter2"), "{error}");
    }
}
