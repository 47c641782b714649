//! What an operator says about a sink.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use aap_runtime::SecretRef;
use aap_sinks::Template;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::names;

/// Requests under way at a time. A node of default settings works on 32 writes at once and queues a hundred more; beyond that
/// requests only wait longer.
const CONCURRENCY_DEFAULT: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// A connection has 32 768 request numbers, and far fewer do any good.
const CONCURRENCY_MAX: usize = 4096;

/// Where rows go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CassandraSpec {
    /// Some nodes of the cluster, each `host:port`. The others are found through them.
    pub nodes: Vec<String>,
    /// The keyspace of tables and ledger.
    pub keyspace: String,
    /// The table; `{stream}` is replaced by the name of the stream, with `_` for what Cassandra allows in no table's name.
    pub table: Template,
    /// Makes the keyspace, the ledger and the tables where they are missing. Default: no.
    #[serde(default)]
    pub create: bool,
    /// Adds columns that are new. Default: as `create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evolve: Option<bool>,
    /// Of a keyspace that is made, as in `{class: NetworkTopologyStrategy, dc1: 3}`. Default: one copy where the cluster has one
    /// node; larger clusters need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<BTreeMap<String, ReplicationOption>>,
    /// How many copies acknowledge a write. Default: `local_quorum`.
    #[serde(default)]
    pub consistency: Consistency,
    /// The datacenter whose nodes are asked first, and that `local_…` means then. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
    /// Who we are. Default: nobody, for clusters that ask for no password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Where the password stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Encrypts. Default: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How long a partition goes on. Default: an hour.
    #[serde(default)]
    pub bucket: Bucket,
    /// Requests under way at a time. Default: 64.
    #[serde(default = "concurrency_default")]
    pub concurrency: NonZeroUsize,
}

/// A value in `replication`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ReplicationOption {
    /// A number of copies.
    Copies(u32),
    /// A strategy's name, or a number written as text.
    Text(String),
}

/// How many copies acknowledge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One, anywhere. What it acknowledged dies with the disk of that node.
    One,
    /// Two, anywhere.
    Two,
    /// Three, anywhere.
    Three,
    /// More than half of all.
    Quorum,
    /// Every one.
    All,
    /// One in our datacenter.
    LocalOne,
    /// More than half of those in our datacenter.
    #[default]
    LocalQuorum,
    /// More than half in each datacenter.
    EachQuorum,
}

/// How long a partition goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bucket {
    /// An hour, for streams of many rows: up to some hundred thousand an hour from one node make a partition that Cassandra
    /// likes.
    #[default]
    Hour,
    /// A day, for streams of few.
    Day,
}

/// How the line is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A PEM file with the authorities that sign the nodes' certificates. These must name the nodes as `nodes` does, and the
    /// others by their addresses.
    pub ca: Utf8PathBuf,
}

fn concurrency_default() -> NonZeroUsize {
    CONCURRENCY_DEFAULT
}

impl Bucket {
    /// Its length in milliseconds.
    pub(crate) fn ms(self) -> i64 {
        match self {
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

impl CassandraSpec {
    /// Every secret that it refers to, to be resolved before it connects.
    pub fn secrets(&self) -> Vec<SecretRef> {
        self.password.iter().cloned().collect()
    }

    /// How a cluster is reached, with every default.
    pub(crate) fn access(nodes: Vec<String>, keyspace: String, table: Template) -> Self {
        Self {
            nodes,
            keyspace,
            table,
            create: false,
            evolve: None,
            replication: None,
            consistency: Consistency::default(),
            datacenter: None,
            username: None,
            password: None,
            tls: None,
            bucket: Bucket::default(),
            concurrency: CONCURRENCY_DEFAULT,
        }
    }

    /// Whether tables follow their streams.
    pub fn evolves(&self) -> bool {
        self.evolve.unwrap_or(self.create)
    }

    /// Where it writes, without anything secret.
    pub fn place(&self) -> String {
        format!("{}/{}/{}", self.nodes.join(","), self.keyspace, self.table)
    }

    /// Looks at what no single field can know.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err(
                "`nodes` is empty: name some of the cluster, as in `nodes: ['cassandra-1:9042']`".into()
            );
        }
        for node in &self.nodes {
            split(node).ok_or_else(|| format!("`{node}` in `nodes` is not `HOST:PORT`"))?;
        }
        if !names::is_plain(&self.keyspace) {
            return Err(format!(
                "`keyspace` `{}` cannot be: Cassandra allows letters, digits and `_`, {} at most",
                self.keyspace,
                names::LENGTH_MAX
            ));
        }
        let stream = "s".parse().map_err(|_never| "no stream has a name".to_owned())?;
        if self.table.is_fixed() && names::table(&self.table, &stream) == names::LEDGER {
            return Err(format!("`table` cannot be `{}`: the ledger has that name", names::LEDGER));
        }
        match (&self.username, &self.password) {
            (Some(_), None) => return Err("`username` needs a `password`, as in `password: env:NAME`".into()),
            (None, Some(_)) => return Err("`password` needs a `username`".into()),
            _ => {}
        }
        if self.replication.as_ref().is_some_and(|replication| !replication.contains_key("class")) {
            return Err(
                "`replication` needs a `class`, as in `{class: NetworkTopologyStrategy, dc1: 3}`".into()
            );
        }
        if self.concurrency.get() > CONCURRENCY_MAX {
            return Err(format!("`concurrency` is at most {CONCURRENCY_MAX}"));
        }
        Ok(())
    }
}

/// Host and port. An IPv6 address stands in brackets.
pub(crate) fn split(node: &str) -> Option<(&str, u16)> {
    let (host, port) = node.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = bare.is_some() || (!host.is_empty() && !host.contains([':', '/', '@', ' ']));
    Some((bare.unwrap_or(host), port.parse().ok().filter(|port| *port > 0)?)).filter(|_| is_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(more: &str, expected: &str) {
        let text = format!("table: '{{stream}}'\n{more}");
        let text = if more.contains("nodes:") { text } else { format!("nodes: ['a:9042']\n{text}") };
        let text = if more.contains("keyspace:") { text } else { format!("keyspace: shop\n{text}") };
        let found = match serde_norway::from_str::<CassandraSpec>(&text) {
            Ok(spec) => spec.check().err().unwrap_or_else(|| "fine".to_owned()),
            Err(error) => error.to_string(),
        };
        assert!(found.contains(expected), "{more}: {found}");
    }

    #[test]
    fn wrong_settings_say_what_to_write() {
        check("", "fine");
        check("create: true\nreplication: {class: NetworkTopologyStrategy, dc1: 3}\n", "fine");
        check("nodes: ['[::1]:9042', 'b.example:9042']\nbucket: day\nconsistency: each_quorum\n", "fine");
        check("nodes: []\n", "`nodes` is empty");
        check("nodes: [a]\n", "`a` in `nodes` is not `HOST:PORT`");
        check("nodes: ['a:0']\n", "is not `HOST:PORT`");
        check("nodes: ['::1:9042']\n", "is not `HOST:PORT`");
        check("keyspace: a-b\n", "`keyspace` `a-b` cannot be");
        check("username: me\n", "needs a `password`");
        check("password: env:X\n", "needs a `username`");
        check("username: me\npassword: hunter2\n", "never written down here");
        check("replication: {replication_factor: 3}\n", "needs a `class`");
        check("consistency: any\n", "unknown variant `any`");
        check("concurrency: 0\n", "nonzero");
        check("concurrency: 100000\n", "at most 4096");
        check("colour: red\n", "unknown field `colour`");
    }

    #[test]
    fn a_spec_survives_its_text_and_shows_no_secret() {
        let text = r#"{"nodes":["a:9042","b:9042"],"keyspace":"shop","table":"t_{stream}","create":true,
            "username":"me","password":"env:SHOP"}"#;
        let spec: CassandraSpec = serde_json::from_str(text).unwrap();
        assert!(spec.evolves());
        assert_eq!(spec.place(), "a:9042,b:9042/shop/t_{stream}");
        let again: CassandraSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
        let fixed: CassandraSpec = serde_json::from_str(&text.replace("t_{stream}", "aap_ledger")).unwrap();
        assert!(fixed.check().unwrap_err().contains("the ledger has that name"));
    }
}
