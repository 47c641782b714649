//! What one caller may see in a query: which streams, whose rows of them, which nodes, which other systems.
//!
//! Streams and catalogs that a caller may not query are not there for them. Rows of nodes that they may not see are left out by the engine,
//! by the column `_node` that every row has.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use aap_access::{Kind, NodeIdentity, Object, Policy, Principal, Rows, Verb};
use aap_proto::v1;
use aap_sql::problem::unknown_table;
use aap_sql::{Catalog, Manifest, ResolvedTables, TableManifest, TableNeed};
use aap_types::{ExitCode, NodeId, Problem, StreamName};

use super::guard::{Caller, Touched, facts_of};
use crate::catalog::{LakeAndLanding, catalogue_problem, stream_of};
use crate::identities::Identities;

/// What one caller may see. As of the start of their query.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    principal: Arc<Principal>,
    policy: Arc<Policy>,
    identities: Identities,
    /// Sites and labels of nodes; empty for whoever sees everything.
    nodes: Arc<HashMap<NodeId, NodeIdentity>>,
    /// Takes which streams are read, for the record of it.
    touched: Touched,
}

impl Scope {
    /// Of a caller.
    ///
    /// # Errors
    /// `access.store`.
    pub(crate) async fn of(caller: &Caller, identities: &Identities) -> Result<Self, Problem> {
        let (principal, policy) = (caller.principal.clone(), caller.policy.clone());
        let known = if policy.sees_all_rows(&principal) { vec![] } else { identities.list(None).await? };
        let (identities, touched) = (identities.clone(), caller.touched().clone());
        Ok(Self { principal, policy, identities, nodes: by_name(known), touched })
    }

    /// The same with sites and labels as they are now: a tail outlives them. Blocking.
    fn refreshed(&self) -> Result<Self, Problem> {
        Ok(Self { nodes: by_name(self.identities.list_now()?), ..self.clone() })
    }

    /// Whether they see every row of every stream, so that nothing needs to be looked at.
    pub(crate) fn sees_all_rows(&self) -> bool {
        self.policy.sees_all_rows(&self.principal)
    }

    /// Whose rows of a stream they see.
    fn rows(&self, stream: &StreamName) -> Rows {
        self.policy.rows(&self.principal, stream.as_str())
    }

    /// Whether a stream is there for them.
    pub(crate) fn sees(&self, stream: &StreamName) -> bool {
        !self.rows(stream).is_none()
    }

    /// Whether rows of a stream that came from a node are theirs to see.
    pub(crate) fn sees_rows(&self, stream: &StreamName, node: &NodeId) -> bool {
        self.rows(stream).admits(facts_of(node, self.nodes.get(node)))
    }

    /// Whether they may ask a node itself.
    pub(crate) fn asks(&self, node: &NodeId) -> bool {
        let facts = facts_of(node, self.nodes.get(node));
        self.policy.decide(&self.principal, Verb::Query, &Object::from(facts)).allowed
    }

    /// Whether another system is there for them.
    pub(crate) fn sees_catalog(&self, name: &str) -> bool {
        let catalog = Object::named(Kind::Catalog, name);
        self.policy.decide(&self.principal, Verb::Query, &catalog).allowed
    }

    /// `query.rows_limited`: whoever answers cannot leave out rows.
    pub(crate) fn require_all_rows(&self, stream: &StreamName, engine: &str) -> Result<(), Problem> {
        if self.rows(stream).is_all() {
            return Ok(());
        }
        let message = format!("you see only rows of some nodes of `{stream}`, which {engine} cannot be told");
        Err(Problem::new("query.rows_limited", ExitCode::Denied, message)
            .hint("ask without --engine: the platform's own engine leaves the others out"))
    }
}

fn by_name(known: Vec<NodeIdentity>) -> Arc<HashMap<NodeId, NodeIdentity>> {
    Arc::new(known.into_iter().map(|known| (known.node.clone(), known)).collect())
}

/// The coordinator's own tables, as one caller sees them.
#[derive(Debug, Clone)]
pub(crate) struct Scoped {
    pub(crate) tables: Arc<LakeAndLanding>,
    pub(crate) scope: Scope,
}

impl Scoped {
    /// Refuses what they do not see, as if it were not there.
    fn require(&self, need: &[TableNeed]) -> Result<(), Problem> {
        for stream in need.iter().filter_map(stream_of) {
            self.scope.touched.note(Kind::Stream, stream.as_str());
        }
        let hidden = need.iter().find(|need| stream_of(need).is_some_and(|stream| !self.scope.sees(&stream)));
        hidden.map_or(Ok(()), |need| Err(unknown_table(&need.name, &self.table_names())))
    }

    fn limited(&self, mut found: ResolvedTables) -> Result<ResolvedTables, Problem> {
        let Manifest { tables } = &mut found.manifest;
        tables.iter_mut().try_for_each(|table| self.limit(table))?;
        Ok(found)
    }

    /// Says whose rows the engine may show.
    fn limit(&self, table: &mut TableManifest) -> Result<(), Problem> {
        let Some(stream) = table.only.clone() else { return Ok(()) };
        let rows = self.scope.rows(&stream);
        if !rows.is_all() {
            let (origins, scope) = (self.origins(&stream)?, self.scope.refreshed()?);
            let seen = origins.into_iter().filter(|node| scope.sees_rows(&stream, node));
            table.nodes = Some(seen.collect());
        }
        Ok(())
    }

    /// Whoever has rows in a stream.
    fn origins(&self, stream: &StreamName) -> Result<BTreeSet<NodeId>, Problem> {
        let catalogue = self.tables.lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let landed = self.tables.buffer.tails().into_iter().map(|(key, _)| key);
        let keys = landed.chain(catalogue.cursors.into_iter().map(|(key, _)| key));
        Ok(keys.filter(|key| key.stream == *stream).map(|key| key.node).collect())
    }

    /// What reading a table takes.
    pub(crate) fn scan_of(&self, table: &TableManifest) -> v1::Scan {
        self.tables.scan_of(table)
    }
}

impl Catalog for Scoped {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        self.require(need)?;
        self.limited(self.tables.resolve(need)?)
    }

    fn outline(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        self.require(need)?;
        self.limited(self.tables.outline(need)?)
    }

    fn table_names(&self) -> Vec<String> {
        let sees = |name: &String| name.parse().is_ok_and(|stream| self.scope.sees(&stream));
        self.tables.table_names().into_iter().filter(sees).collect()
    }
}

/// Finds out which streams a statement names that nodes will answer, and refuses those that the caller does not see.
#[derive(Debug)]
pub(crate) struct Named {
    tables: Scoped,
    /// None: the statement was not understood so far.
    streams: Mutex<Option<Vec<StreamName>>>,
}

impl Named {
    pub(crate) fn new(tables: Scoped) -> Self {
        Self { tables, streams: Mutex::default() }
    }

    /// The streams, once the statement was understood.
    pub(crate) fn streams(&self) -> Option<Vec<StreamName>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Catalog for Named {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let found = self.tables.resolve(need)?;
        let streams = need.iter().filter_map(stream_of).collect();
        *self.streams.lock().unwrap_or_else(PoisonError::into_inner) = Some(streams);
        Ok(found)
    }

    fn table_names(&self) -> Vec<String> {
        self.tables.table_names()
    }
}
