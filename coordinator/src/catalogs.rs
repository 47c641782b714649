//! Systems whose tables a query can name: one document of kind Catalog each, whose name is the first part of the tables' names.
//!
//! ```yaml
//! apiVersion: aap/v1
//! kind: Catalog
//! metadata: { name: pg }              # select … from pg.public.orders
//! spec:
//!   postgres: { url: 'postgres://aap@db/aap', password: env:PGPASSWORD }
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use aap_federation::{Remote, Report, Scan, Spool};
use aap_runtime::documents::{Document, DocumentError};
use aap_runtime::{SecretRef, SecretSource, resolve_secrets};
use aap_store::ResourceRecord;
use aap_types::{ExitCode, Problem, nearest};
use futures::future::BoxFuture;
use serde::Deserialize;
use tracing::warn;

/// The kind of the documents that are catalogs.
pub(crate) const KIND: &str = "Catalog";
/// The sections that name a system.
const DRIVERS: [&str; 3] = ["postgres", "kafka", "cassandra"];
/// Names that mean something else in front of a table.
const RESERVED: [&str; 9] =
    ["information_schema", "lake", "main", "memory", "nodes", "pg_catalog", "pg_temp", "system", "temp"];

/// The section `spec`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogSpec {
    #[serde(default)]
    postgres: Option<aap_postgres::PostgresTablesSpec>,
    #[serde(default)]
    kafka: Option<aap_kafka::KafkaTablesSpec>,
    #[serde(default)]
    cassandra: Option<aap_cassandra::CassandraTablesSpec>,
}

impl CatalogSpec {
    /// Reads and checks the section, and the name, which stands in statements.
    pub(crate) fn read(document: &Document, name: &str) -> Result<Self, DocumentError> {
        let word = |name: &str| {
            let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
            first
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if !word(name) || RESERVED.contains(&name) {
            let message = format!("`{name}` cannot stand before a table's name");
            let hint = format!("use a-z, 0-9 and `_`, and none of {}", RESERVED.join(", "));
            return Err(document.error("name", message, Some(hint)));
        }
        let spec: Self = document.spec()?;
        let given = [spec.postgres.is_some(), spec.kafka.is_some(), spec.cassandra.is_some()];
        match given.iter().filter(|given| **given).count() {
            1 => {}
            0 => {
                let hint = format!("add one of {}", DRIVERS.map(|name| format!("`{name}:`")).join(", "));
                return Err(document.error("spec", "the catalog names no system".to_owned(), Some(hint)));
            }
            _ => {
                let hint = Some("make a catalog for each system".to_owned());
                return Err(document.error("spec", "a catalog is one system".to_owned(), hint));
            }
        }
        spec.check().map_err(|(section, message)| document.error(section, message, None))?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(spec) = &self.kafka {
            spec.check().map_err(|message| ("kafka", message))?;
        }
        if let Some(spec) = &self.cassandra {
            spec.check().map_err(|message| ("cassandra", message))?;
        }
        Ok(())
    }

    /// Every secret that it refers to.
    pub(crate) fn secrets(&self) -> Vec<SecretRef> {
        let postgres = self.postgres.iter().flat_map(aap_postgres::PostgresTablesSpec::secrets);
        let kafka = self.kafka.iter().flat_map(aap_kafka::KafkaTablesSpec::secrets);
        let cassandra = self.cassandra.iter().flat_map(aap_cassandra::CassandraTablesSpec::secrets);
        postgres.chain(kafka).chain(cassandra).collect()
    }

    fn build(self) -> Option<Arc<dyn Remote>> {
        let postgres =
            self.postgres.map(|spec| Arc::new(aap_postgres::PostgresTables::new(spec)) as Arc<dyn Remote>);
        let kafka = self.kafka.map(|spec| Arc::new(aap_kafka::KafkaTables::new(spec)) as Arc<dyn Remote>);
        let cassandra =
            self.cassandra.map(|spec| Arc::new(aap_cassandra::CassandraTables::new(spec)) as Arc<dyn Remote>);
        postgres.or(kafka).or(cassandra)
    }
}

/// A system whose document refers to secrets: they are resolved before each scan, which connects anew.
#[derive(Debug)]
struct Resolved {
    remote: Arc<dyn Remote>,
    secrets: Vec<SecretRef>,
    source: Arc<dyn SecretSource>,
}

impl Remote for Resolved {
    fn kind(&self) -> &'static str {
        self.remote.kind()
    }

    fn place(&self) -> String {
        self.remote.place()
    }

    fn scan<'a>(&'a self, scan: &'a Scan, spool: &'a mut Spool) -> BoxFuture<'a, Result<Report, Problem>> {
        Box::pin(async move {
            resolve_secrets(&self.secrets, self.source.as_ref()).await?;
            self.remote.scan(scan, spool).await
        })
    }
}

/// The systems that are declared. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalogs {
    known: Arc<RwLock<BTreeMap<String, Arc<dyn Remote>>>>,
    secrets: Arc<dyn SecretSource>,
}

impl Catalogs {
    /// None yet. `secrets` is asked for what they refer to.
    pub(crate) fn new(secrets: Arc<dyn SecretSource>) -> Self {
        Self { known: Arc::default(), secrets }
    }

    /// Takes in all that are declared. One that an earlier version took and this one does not is logged and left out.
    pub(crate) fn start_all(&self, records: &[ResourceRecord]) {
        for record in records.iter().filter(|record| record.kind == KIND) {
            if let Err(problem) = self.start(record) {
                warn!(catalog = record.name, %problem, "a catalog cannot be used");
            }
        }
    }

    /// Takes one in, or its changed document. Nothing connects before it is asked.
    pub(crate) fn start(&self, record: &ResourceRecord) -> Result<(), Problem> {
        let document = Document::of_record(&record.name, &record.document);
        let spec = CatalogSpec::read(&document, &record.name).map_err(|error| error.problem())?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let (secrets, source) = (spec.secrets(), self.secrets.clone());
        known.extend(spec.build().map(|remote| {
            let resolved: Arc<dyn Remote> = Arc::new(Resolved { remote, secrets, source });
            (record.name.clone(), resolved)
        }));
        Ok(())
    }

    /// Forgets one. Queries under way end as they would.
    pub(crate) fn stop(&self, name: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The system of that name, in any case.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Remote>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&name.to_lowercase()).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// `query.unknown_catalog`, for a table of that name, to somebody who sees those of `sees`.
    pub(crate) fn unknown(&self, table: &str, sees: impl Fn(&str) -> bool) -> Problem {
        let (first, rest) = table.split_once('.').unwrap_or((table, ""));
        let mut names = self.names();
        names.retain(|name| sees(name));
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let message = format!("there is no catalog `{first}` and no stream `{table}`");
        let problem = Problem::new("query.unknown_catalog", ExitCode::NotFound, message);
        match nearest(first, &known).first() {
            Some(near) => problem.hint(format!("did you mean `{near}.{rest}`?")),
            None if known.is_empty() => problem
                .hint("tables of other systems need a document of kind Catalog")
                .hint_command("declare one", "aap apply -f catalog.yaml"),
            None => problem.hint_command("list them", "aap get catalog"),
        }
    }
}

#[cfg(test)]
mod tests {
    use aap_runtime::documents::documents;

    use super::*;

    fn read(name: &str, spec: &str) -> Result<CatalogSpec, String> {
        let text =
            format!("apiVersion: aap/v1\nkind: Catalog\nmetadata: {{ name: {name} }}\nspec:\n  {spec}\n");
        let document = documents("catalog.yaml".into(), &text).remove(0);
        CatalogSpec::read(&document, name).map_err(|error| format!("{} {:?}", error.message, error.hint))
    }

    #[test]
    fn a_catalog_is_one_system_under_a_plain_name() {
        let postgres = "postgres: { url: 'postgres://me@db/x' }";
        assert!(read("pg", postgres).unwrap().build().is_some());
        for (name, spec, expected) in [
            ("my-pg", postgres, "cannot stand before"),
            ("nodes", postgres, "cannot stand before"),
            ("9a", postgres, "cannot stand before"),
            ("pg", "{}", "names no system"),
            ("pg", "postgress: { url: 'postgres://me@db/x' }", "postgres"),
            ("pg", "postgres: { url: 'postgres://me@db/x' }\n  kafka: { brokers: ['b:1'] }", "one system"),
            ("pg", "postgres: { url: 'postgres://me:hunter2@db/x' }", "password"),
            ("k", "kafka: { brokers: [] }", "brokers"),
        ] {
            let error = read(name, spec).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{spec}: {error}");
        }
    }
}
