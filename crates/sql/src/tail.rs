//! `aap stream tail`: the newest rows of a stream, and then what comes.

use std::sync::Arc;
use std::time::Duration;

use aap_buffer::Buffer;
use aap_proto::v1::{self, query_event};
use aap_types::{ExitCode, Problem, Sequence, StreamKey, StreamName};
use bytes::Bytes;

use crate::serving::{Answer, AnswerSender, Serving, Ticket, format_of, send};
use crate::{Catalog, EngineQuery, Format, QueryEvent, ResolvedTables, TableNeed, problem};

/// Each look at what is new starts an engine; more often would cost more than it shows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(300);

/// Where a tail finds its rows.
#[derive(Clone)]
pub struct TailTables {
    /// All of the stream.
    pub tables: Arc<dyn Catalog>,
    /// Where new rows of it appear first.
    pub buffer: Buffer,
}

impl std::fmt::Debug for TailTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TailTables").field("buffer", &self.buffer).finish_non_exhaustive()
    }
}

/// Starts a tail for `principal`.
///
/// # Errors
/// `stream.unknown` (3) for what is no name, `stream.follow_format` (2).
pub fn tail(
    serving: &Serving,
    source: TailTables,
    request: &v1::TailStreamRequest,
    principal: &str,
) -> Result<Answer, Problem> {
    let stream: StreamName =
        request.stream.parse().map_err(|_| unknown_stream(source.tables.as_ref(), &request.stream))?;
    let format = format_of(&request.format)?;
    if request.follow && !matches!(format, Format::Rows | Format::Ndjson | Format::Csv) {
        let message = format!("a stream cannot be followed as {}", request.format);
        return Err(Problem::new("stream.follow_format", ExitCode::Usage, message).hint("use ndjson or csv"));
    }
    let ticket = serving.register("", &format!("tail {stream}"), principal)?;
    let tail = Tail { serving: serving.clone(), source, stream, format, rows: request.rows };
    let follow = request.follow;
    Ok(serving.spawn(ticket, move |ticket, answer| async move { tail.run(&ticket, &answer, follow).await }))
}

/// `stream.unknown`, naming the near ones.
pub fn unknown_stream(tables: &dyn Catalog, name: &str) -> Problem {
    let near = problem::unknown_table(name, &tables.table_names());
    Problem { code: "stream.unknown".to_owned(), ..near }
}

struct Tail {
    serving: Serving,
    source: TailTables,
    stream: StreamName,
    format: Format,
    /// How many of the newest rows come first: none, or all with `u64::MAX`.
    rows: u64,
}

impl Tail {
    async fn run(self, ticket: &Ticket, answer: &AnswerSender, follow: bool) -> Result<(), Problem> {
        let as_of_us = self.serving.clock().unix_us();
        // The engine takes its snapshot later than we look: what lands in between belongs to the next part.
        let mut seen = self.tails();
        let newest = newest(&self.stream, &seen, self.rows);
        let call = Call { ticket, answer };
        let mut rows = self.part(&call, newest, self.source.tables.clone(), Part::First).await?;
        let mut changes = self.source.buffer.changes();
        if !follow {
            return self.end(answer, rows, as_of_us).await;
        }
        loop {
            changes.mark_unchanged();
            let now = self.tails();
            if now != seen {
                let sql = format!(
                    "select * from \"{}\" where {} order by _node, _epoch, _seq, _row",
                    self.stream,
                    any_of(&now, "_seq <=")
                );
                let after: Arc<dyn Catalog> = Arc::new(Beyond {
                    tables: self.source.tables.clone(),
                    stream: self.stream.clone(),
                    seen,
                });
                rows += self.part(&call, sql, after, Part::Next).await?;
                seen = now;
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { break },
                () = ticket.cancel.requested() => return Err(problem::cancelled()),
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
    fn tails(&self) -> Vec<(StreamKey, Sequence)> {
        let tails = self.source.buffer.tails().into_iter();
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
        let query = self.serving.engine_query(&v1::QueryRequest::default())?;
        let query = EngineQuery { sql, format: self.format, ..query };
        let mut stream = self.serving.engine().run(query, tables, call.ticket.cancel.clone()).await?;
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
    ticket: &'a Ticket,
    answer: &'a AnswerSender,
}

impl Call<'_> {
    async fn send(&self, kind: query_event::Kind) -> Result<(), Problem> {
        tokio::select! {
            sent = send(self.answer, kind) => sent,
            () = self.ticket.cancel.requested() => Err(problem::cancelled()),
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
    tables: Arc<dyn Catalog>,
    stream: StreamName,
    seen: Vec<(StreamKey, Sequence)>,
}

impl Catalog for Beyond {
    fn resolve(&self, need: &[TableNeed]) -> Result<ResolvedTables, Problem> {
        let mut resolved = self.tables.outline(need)?;
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
