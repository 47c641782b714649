//! `aap stream tail`: the newest rows of a stream, and then what lands.

use std::sync::Arc;
use std::time::Duration;

use aap_proto::v1::{self, query_event};
use aap_sql::{Catalog, EngineQuery, Format, QueryEvent, ResolvedTables, TableNeed};
use aap_types::{ExitCode, Problem, Sequence, StreamKey, StreamName};
use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::catalog::{LakeAndLanding, catalogue_problem};
use crate::queries::{Answer, AnswerSender, Queries, Ticket, format_of, send};

/// Rows shown when none are asked for.
const ROWS: u64 = 10;
/// Each look at what is new starts an engine; more often would cost more than it shows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(300);

/// Starts a tail for `principal`.
pub fn tail(queries: &Queries, request: v1::TailStreamRequest, principal: &str) -> Result<Answer, Problem> {
    let stream: StreamName = request.stream.parse().map_err(|_| unknown_stream(queries, &request.stream))?;
    let format = format_of(&request.format)?;
    if request.follow && !matches!(format, Format::Rows | Format::Ndjson | Format::Csv) {
        let message = format!("a stream cannot be followed as {}", request.format);
        return Err(Problem::new("stream.follow_format", ExitCode::Usage, message).hint("use ndjson or csv"));
    }
    let ticket = queries.register("", &format!("tail {stream}"), principal)?;
    let tail = Tail { stream, format, rows: if request.rows == 0 { ROWS } else { request.rows } };
    Ok(queries.spawn(ticket, move |queries, ticket, answer| async move {
        tail.run(&queries, &ticket, &answer, request.follow).await
    }))
}

/// `stream.unknown`, naming the near ones.
pub(crate) fn unknown_stream(queries: &Queries, name: &str) -> Problem {
    let known = queries.inner.tables.table_names();
    let near = aap_sql::problem::unknown_table(name, &known);
    Problem { code: "stream.unknown".to_owned(), ..near }
}

struct Tail {
    stream: StreamName,
    format: Format,
    rows: u64,
}

impl Tail {
    async fn run(
        self,
        queries: &Queries,
        ticket: &Ticket,
        answer: &AnswerSender,
        follow: bool,
    ) -> Result<(), Problem> {
        let order = |direction: &str| {
            format!("ts {direction} nulls first, _epoch {direction}, _seq {direction}, _row {direction}")
        };
        let newest = format!(
            "select * from (select * from \"{}\" order by {} limit {}) order by {}",
            self.stream,
            order("desc").replace("nulls first", "nulls last"),
            self.rows,
            order("asc")
        );
        let as_of_us = queries.inner.clock.unix_us();
        let mut seen = self.tails(queries);
        let tables: Arc<dyn Catalog> = queries.inner.tables.clone();
        let mut part = self.part(queries, ticket, newest, tables).await?;
        let mut rows = part.rows;
        part.send(ticket, answer, true, false).await?;
        let mut changes = queries.inner.landing.buffer().changes();
        if !follow {
            return self.end(answer, rows, as_of_us).await;
        }
        loop {
            changes.mark_unchanged();
            let now = self.tails(queries);
            if now != seen {
                let after: Arc<dyn Catalog> = Arc::new(Beyond {
                    tables: queries.inner.tables.clone(),
                    stream: self.stream.clone(),
                    seen,
                });
                let sql = format!("select * from \"{}\" order by _node, _epoch, _seq, _row", self.stream);
                part = self.part(queries, ticket, sql, after).await?;
                rows += part.rows;
                part.send(ticket, answer, false, self.format == Format::Csv).await?;
                seen = now;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = ticket.cancel.requested() => return Err(aap_sql::problem::cancelled()),
            }
            tokio::time::sleep(FOLLOW_PAUSE).await;
        }
        self.end(answer, rows, as_of_us).await
    }

    async fn end(&self, answer: &AnswerSender, rows: u64, as_of_us: i64) -> Result<(), Problem> {
        let done = v1::QueryDone { rows, as_of_us, ..Default::default() };
        send(answer, query_event::Kind::Done(done)).await
    }

    /// Where the stream ends now.
    fn tails(&self, queries: &Queries) -> Vec<(StreamKey, Sequence)> {
        let tails = queries.inner.landing.buffer().tails().into_iter();
        let mut tails: Vec<_> = tails.filter(|(key, _)| key.stream == self.stream).collect();
        tails.sort();
        tails
    }

    async fn part(
        &self,
        queries: &Queries,
        ticket: &Ticket,
        sql: String,
        tables: Arc<dyn Catalog>,
    ) -> Result<Rows, Problem> {
        let mut query = queries.engine_query(&v1::QueryRequest::default())?;
        query = EngineQuery { sql, format: self.format, ..query };
        let mut stream = queries.inner.engine.run(query, tables, ticket.cancel.clone()).await?;
        let mut part = Rows::default();
        while let Some(event) = stream.next().await {
            match event? {
                QueryEvent::Columns(columns) => {
                    let columns =
                        columns.into_iter().map(|c| v1::Column { name: c.name, r#type: c.type_name });
                    part.columns = columns.collect();
                }
                QueryEvent::Data(bytes) => part.data.push(bytes),
                QueryEvent::End(end) => part.rows = end.rows,
            }
        }
        Ok(part)
    }
}

/// The rows of one look.
#[derive(Default)]
struct Rows {
    columns: Vec<v1::Column>,
    data: Vec<Bytes>,
    rows: u64,
}

impl Rows {
    async fn send(
        &self,
        ticket: &Ticket,
        answer: &AnswerSender,
        first: bool,
        cut_header: bool,
    ) -> Result<(), Problem> {
        if first {
            let started = v1::QueryStarted { id: ticket.id.clone(), columns: self.columns.clone() };
            send(answer, query_event::Kind::Started(started)).await?;
        }
        let mut data: Vec<u8> = self.data.concat();
        if cut_header {
            let header = data.iter().position(|byte| *byte == b'\n').map_or(data.len(), |end| end + 1);
            data.drain(..header);
        }
        if data.is_empty() { Ok(()) } else { send(answer, query_event::Kind::Data(data.into())).await }
    }
}

/// The frames of a stream beyond what was seen; no files.
struct Beyond {
    tables: Arc<LakeAndLanding>,
    stream: StreamName,
    seen: Vec<(StreamKey, Sequence)>,
}

impl Catalog for Beyond {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let mut resolved = self.tables.resolve(need)?;
        for table in resolved.manifest.tables.iter_mut().filter(|table| table.name == self.stream.as_str()) {
            table.parquet.clear();
            table.after.clone_from(&self.seen);
        }
        Ok(resolved)
    }

    fn table_names(&self) -> Vec<String> {
        self.tables.table_names()
    }
}

/// Whether the stream exists. Blocking work on the pool.
pub(crate) async fn require_stream(queries: &Queries, name: &str) -> Result<StreamName, Problem> {
    let (tables, wanted) = (queries.inner.tables.clone(), name.to_owned());
    let found = spawn_blocking(move || {
        let catalogue = tables.lake.catalogue().map_err(|error| catalogue_problem(&error))?;
        let stream: Option<StreamName> = wanted.parse().ok();
        Ok(stream.filter(|stream| tables.streams(&catalogue).contains(stream)))
    });
    let found: Result<Option<StreamName>, Problem> = found.await.map_err(|panic| bug(&panic))?;
    match found? {
        Some(stream) => Ok(stream),
        None => {
            let (queries, name) = (queries.clone(), name.to_owned());
            Err(spawn_blocking(move || unknown_stream(&queries, &name))
                .await
                .unwrap_or_else(|panic| bug(&panic)))
        }
    }
}

/// A panic of ours, as a problem.
pub(crate) fn bug(error: &tokio::task::JoinError) -> Problem {
    Problem::new("platform.bug", ExitCode::Bug, "the coordinator failed at its work").caused_by(error)
}
