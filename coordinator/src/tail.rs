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
    let tail = Tail { stream, format, rows: request.rows };
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
    /// How many of the newest rows come first: none, or all with `u64::MAX`.
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
        let as_of_us = queries.inner.clock.unix_us();
        // The engine takes its snapshot later than we look: what lands in between belongs to the next part.
        let mut seen = self.tails(queries);
        let newest = newest(&self.stream, &seen, self.rows);
        let call = Call { queries, ticket, answer };
        let mut rows = self.part(&call, newest, queries.inner.tables.clone(), Part::First).await?;
        let mut changes = queries.inner.landing.buffer().changes();
        if !follow {
            return self.end(answer, rows, as_of_us).await;
        }
        loop {
            changes.mark_unchanged();
            let now = self.tails(queries);
            if now != seen {
                let sql = format!(
                    "select * from \"{}\" where {} order by _node, _epoch, _seq, _row",
                    self.stream,
                    any_of(&now, "_seq <=")
                );
                let after: Arc<dyn Catalog> = Arc::new(Beyond {
                    tables: queries.inner.tables.clone(),
                    stream: self.stream.clone(),
                    seen,
                });
                rows += self.part(&call, sql, after, Part::Next).await?;
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

    /// Passes one answer on as it comes. Answers its rows.
    async fn part(
        &self,
        call: &Call<'_>,
        sql: String,
        tables: Arc<dyn Catalog>,
        part: Part,
    ) -> Result<u64, Problem> {
        let query = call.queries.engine_query(&v1::QueryRequest::default())?;
        let query = EngineQuery { sql, format: self.format, ..query };
        let mut stream = call.queries.inner.engine.run(query, tables, call.ticket.cancel.clone()).await?;
        let mut header = part == Part::Next && self.format == Format::Csv;
        let mut rows = 0;
        while let Some(event) = stream.next().await {
            match event? {
                QueryEvent::Columns(columns) if part == Part::First => {
                    let columns =
                        columns.into_iter().map(|c| v1::Column { name: c.name, r#type: c.type_name });
                    let started = v1::QueryStarted { id: call.ticket.id.clone(), columns: columns.collect() };
                    call.send(query_event::Kind::Started(started)).await?;
                }
                QueryEvent::Columns(_) => {}
                QueryEvent::Data(bytes) => {
                    let bytes = if header { without_first_line(bytes) } else { bytes };
                    header = false;
                    if !bytes.is_empty() {
                        call.send(query_event::Kind::Data(bytes)).await?;
                    }
                }
                QueryEvent::End(end) => rows = end.rows,
            }
        }
        Ok(rows)
    }
}

/// Whose tail this is, and who listens.
struct Call<'a> {
    queries: &'a Queries,
    ticket: &'a Ticket,
    answer: &'a AnswerSender,
}

impl Call<'_> {
    async fn send(&self, kind: query_event::Kind) -> Result<(), Problem> {
        tokio::select! {
            sent = send(self.answer, kind) => sent,
            () = self.ticket.cancel.requested() => Err(aap_sql::problem::cancelled()),
        }
    }
}

/// The newest rows, or what landed since.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    First,
    Next,
}

/// The newest `rows` of what was there when the stream ended at `seen`, oldest first.
fn newest(stream: &StreamName, seen: &[(StreamKey, Sequence)], rows: u64) -> String {
    let seen = any_of(seen, "_seq >");
    // What is beyond the engine's numbers is beyond any stream.
    let limit = i64::try_from(rows).map_or(String::new(), |rows| format!(" limit {rows}"));
    let (newest_first, oldest_first) = (order("desc").replace("nulls first", "nulls last"), order("asc"));
    format!(
        "select * from (select * from \"{stream}\" where not ({seen}) order by {newest_first}{limit}) order by {oldest_first}"
    )
}

fn order(direction: &str) -> String {
    format!("ts {direction} nulls first, _epoch {direction}, _seq {direction}, _row {direction}")
}

/// Rows of these lives whose sequence stands in this relation to their end.
fn any_of(tails: &[(StreamKey, Sequence)], relation: &str) -> String {
    let each = tails.iter().map(|(key, end)| {
        format!("(_node = '{}' and _epoch = {} and {relation} {})", key.node, key.epoch.0, end.0)
    });
    each.chain(["false".to_owned()]).collect::<Vec<_>>().join(" or ")
}

fn without_first_line(bytes: Bytes) -> Bytes {
    let header = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    bytes.slice(header..)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rows_means_none_and_the_largest_number_means_all() {
        let newest = |rows| newest(&"logs".parse().unwrap(), &[], rows);
        assert!(newest(0).contains(" limit 0)") && newest(7).contains(" limit 7)"));
        assert!(!newest(u64::MAX).contains("limit"), "{}", newest(u64::MAX));
    }
}
