//! Delivers groups: see the documentation of the crate for the steps.

use std::time::Duration;

use aap_sinks::{Failure, FailureKind, Group, GroupLimits, Guarantee, Positions, Sink, Target};
use futures::future::BoxFuture;
use reqwest::Method;
use serde::Deserialize;

use super::bulk::{self, Source};
use super::index::{self, Indices};
use super::ledger::{Held, Ledger};
use super::server::Server;
use super::spec::ElasticsearchSpec;
use crate::fail::{HttpError, Words, setting};

/// Rows at a time: enough that the looks at the ledger do not count; few enough that little is written again after a doubt.
const GROUP_ROWS: usize = 20_000;
/// Bytes at a time: what a group may take of the coordinator's memory.
const GROUP_BYTES: usize = 16 << 20;
/// How long rows wait for others. The server shows new rows once a second by itself.
const LINGER: Duration = Duration::from_millis(250);

/// A sink that writes to Elasticsearch or OpenSearch.
#[derive(Debug)]
pub struct ElasticsearchSink {
    target: Target,
    spec: ElasticsearchSpec,
    server: Option<Server>,
    /// What it knows since it took the place over; taken out while it writes, so that a call that is dropped leaves none.
    held: Option<Held>,
    indices: Indices,
}

impl ElasticsearchSink {
    /// A sink for `target`. Connects when it is first used.
    pub fn new(target: Target, spec: ElasticsearchSpec) -> Self {
        Self { target, spec, server: None, held: None, indices: Indices::default() }
    }

    /// Connections, kept until something fails: secrets are read anew then.
    async fn connect(&mut self) -> Result<Server, Failure> {
        self.spec.check().map_err(|why| setting("the Elasticsearch sink", why))?;
        match self.server.take() {
            Some(server) => Ok(server),
            None => {
                let words = Words { server: "the search server", place: self.spec.place() };
                Server::of(&self.spec, words).await
            }
        }
    }

    async fn take_over(&mut self) -> Result<Positions, Failure> {
        self.held = None;
        self.indices.forget();
        let server = self.connect().await?;
        let held = self.ledger(&server).take_over().await?;
        let positions = held.positions.clone();
        (self.server, self.held) = (Some(server), Some(held));
        Ok(positions)
    }

    async fn write_group(&mut self, group: &Group) -> Result<(), Failure> {
        if group.slices.is_empty() {
            return Ok(());
        }
        let Some(mut held) = self.held.take() else {
            return Err(Failure::moved("the sink has not asked where it stands"));
        };
        let server = self.connect().await?;
        let mut indices = std::mem::take(&mut self.indices);
        let written = self.write_with(&server, &mut indices, &mut held, group).await;
        // Rows that are not taken leave everything as it is.
        if matches!(&written, Ok(()) | Err(Failure { kind: FailureKind::Rows(_), .. })) {
            (self.server, self.held, self.indices) = (Some(server), Some(held), indices);
        }
        written
    }

    async fn write_with(
        &self,
        server: &Server,
        indices: &mut Indices,
        held: &mut Held,
        group: &Group,
    ) -> Result<(), Failure> {
        if let Some(moved) = group.misplaced(&held.positions) {
            return Err(moved);
        }
        let ledger = self.ledger(server);
        ledger.check(held).await?;
        let mut sources = vec![];
        for (number, slice) in group.slices.iter().enumerate().filter(|(_, slice)| slice.rows.num_rows() > 0)
        {
            let source = Source::of(number, slice, &self.spec);
            let kinds = index::kinds(slice.rows.schema_ref());
            for index in source.indices() {
                indices.ensure(server, self.spec.create, &index, &kinds).await?;
            }
            sources.push(source);
        }
        let bad = bulk::send_all(server, &self.spec, sources).await?;
        match bad.is_empty() {
            true => ledger.advance(held, group).await,
            // The others are there, and will be the same when they are written again.
            false => Err(Failure::rows(bad)),
        }
    }

    async fn look(&mut self) -> Result<Vec<String>, Failure> {
        let server = self.connect().await?;
        let seen = self.look_with(&server).await.map_err(|error| server.words.failure(&error))?;
        self.server = Some(server);
        Ok(seen)
    }

    async fn look_with(&self, server: &Server) -> Result<Vec<String>, HttpError> {
        #[derive(Deserialize)]
        struct Root {
            #[serde(default)]
            cluster_name: String,
            version: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            number: String,
            distribution: Option<String>,
        }
        let root: Root = server.ask(Method::GET, "", None).await?.read()?;
        let name = root.version.distribution.as_deref().unwrap_or("elasticsearch");
        let mut lines = vec![format!("cluster: {}, {name} {}", root.cluster_name, root.version.number)];
        let made = if self.spec.create { "would be created" } else { "is missing, and `create` is `false`" };
        lines.push(match self.spec.index.is_fixed() {
            false => format!("index: {}; one that is not there {made}", self.spec.index),
            true => match index::fields(server, &self.spec.index.to_string()).await? {
                Some(fields) => format!("index: {}, {} fields", self.spec.index, fields.len()),
                None => format!("index: {} {made}", self.spec.index),
            },
        });
        lines.push(match self.ledger(server).look().await? {
            Some(positions) => format!("ledger: {}, {} keys of this sink", self.spec.ledger, positions.len()),
            None => format!("ledger: {} {made}", self.spec.ledger),
        });
        Ok(lines)
    }

    fn ledger<'a>(&'a self, server: &'a Server) -> Ledger<'a> {
        Ledger { server, spec: &self.spec, sink: &self.target.name, uid: &self.target.uid }
    }
}

impl Sink for ElasticsearchSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::Idempotent
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits { rows: GROUP_ROWS, bytes: GROUP_BYTES, linger: LINGER }
    }

    fn resume_point(&mut self) -> BoxFuture<'_, Result<Positions, Failure>> {
        Box::pin(self.take_over())
    }

    fn write<'a>(&'a mut self, group: &'a Group) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.write_group(group))
    }

    fn probe(&mut self) -> BoxFuture<'_, Result<Vec<String>, Failure>> {
        Box::pin(self.look())
    }
}
