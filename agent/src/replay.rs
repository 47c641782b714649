//! `aap-agent buffer replay`: the rows of a store, such as a salvaged one, sent to a running agent.
//!
//! Rows go in as ingest runs of Arrow data, one for each stretch of batches with the same columns, named after the
//! store and the first batch. So a replay that is broken off or repeated adds nothing twice. The rows get new ids: their
//! old ones belong to the store they come from. Replay a store that is at rest: one that is reclaimed meanwhile names its stretches anew.

use std::io::Cursor;

use aap_buffer::offline::{KeyInfo, OfflineStore};
use aap_buffer::{Frame, FrameKind, decode};
use aap_proto::problem_of_status;
use aap_proto::v1::ingest_reply::Kind as Reply;
use aap_proto::v1::ingest_request::Kind as Request;
use aap_proto::v1::node_client::NodeClient;
use aap_proto::v1::{IngestFinish, IngestOpen, IngestRequest};
use aap_runtime::Home;
use aap_types::{ExitCode, Problem, Sequence, StreamKey, StreamName};
use arrow_ipc::writer::StreamWriter;
use bytes::Bytes;
use camino::Utf8Path;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::cli::{Output, print_line};
use crate::ingest::digest::hex;
use crate::offline::{ExportError, keys_of};
use crate::uplink::landing_consumer;

/// A run is closed at this size: it is held in memory.
const RUN_BYTES: usize = 32 << 20;
/// One message.
const PIECE_BYTES: usize = 256 << 10;

/// A stretch of batches with the same columns.
struct Run {
    stream: StreamName,
    name: String,
    fingerprint: u64,
    writer: StreamWriter<Cursor<Vec<u8>>>,
}

/// What of a store is sent.
pub(crate) struct What<'a> {
    /// Only this stream.
    pub(crate) stream: Option<&'a StreamName>,
    /// What the coordinator acknowledged, too.
    pub(crate) delivered_too: bool,
}

/// An agent delivers its own buffer by itself: a replay would only double it.
pub(crate) fn refuse_own(directory: &Utf8Path, home: &Home) -> Result<(), Problem> {
    let own = home.agent().join("buffer");
    let same = directory.canonicalize_utf8().ok().zip(own.canonicalize_utf8().ok());
    if same.is_some_and(|(given, own)| given == own) {
        let message = format!("`{directory}` is the buffer of the agent that would take the rows");
        return Err(Problem::new("buffer.replay_own", ExitCode::Conflict, message)
            .hint_command("it delivers them by itself; see what waits", "aap status"));
    }
    Ok(())
}

/// Sends what was asked for, stretch by stretch.
pub(crate) fn run(store: &OfflineStore, what: &What<'_>, home: &Home, output: Output) -> Result<u8, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Problem::new("buffer.replay", ExitCode::Failed, "start threads").caused_by(&error)
    })?;
    let mut client = runtime.block_on(connect(home))?;
    let store_id = hex(&store.identity().store_id);
    let (mut added, mut total) = (0, 0);
    let mut send = |run: Run| -> Result<(), Problem> {
        let (rows, rows_total) = runtime.block_on(send(&mut client, run))?;
        (added, total) = (added + rows, total + rows_total);
        Ok(())
    };
    let infos = store.keys();
    for key in keys_of(store, what.stream)? {
        let delivered = match what.delivered_too {
            true => Sequence::ZERO,
            false => delivered(&infos, &key),
        };
        let mut open: Option<Run> = None;
        let mut failed = None;
        let exported = store.export::<ExportError>(&key, |frame| {
            if failed.is_some() || frame.kind != FrameKind::Data || frame.id.sequence <= delivered {
                return Ok(());
            }
            let full = open.as_ref().is_some_and(|run| {
                run.fingerprint != frame.schema.fingerprint()
                    || run.writer.get_ref().get_ref().len() > RUN_BYTES
            });
            if full && let Some(run) = open.take() {
                failed = send(run).err();
            }
            add(&mut open, &frame, &store_id)
        });
        exported.map_err(|error| error.problem())?;
        if let Some(problem) = failed {
            return Err(problem);
        }
        if let Some(run) = open {
            send(run)?;
        }
    }
    print_line(&match output {
        Output::Json => serde_json::json!({
            "format_version": "1.0", "kind": "buffer.replay", "rows": added, "rows_total": total,
        })
        .to_string(),
        Output::Text => format!("{added} rows were added, {} were there already", total - added),
    });
    Ok(0)
}

/// How far the coordinator has acknowledged a stream.
fn delivered(infos: &[KeyInfo], key: &StreamKey) -> Sequence {
    let cursors = infos.iter().find(|info| info.key == *key).map(|info| &info.cursors);
    let uplink = cursors.into_iter().flatten().find(|(consumer, _)| consumer == landing_consumer());
    uplink.map_or(Sequence::ZERO, |(_, sequence)| *sequence)
}

fn add(open: &mut Option<Run>, frame: &Frame, store_id: &str) -> Result<(), ExportError> {
    let batch = decode(&frame.schema, &frame.payload, None)?;
    if batch.num_rows() == 0 {
        return Ok(());
    }
    if open.is_none() {
        let name = format!("replay/{store_id}/{}/{}", frame.id.key.epoch, frame.id.sequence);
        let writer = StreamWriter::try_new(Cursor::new(Vec::new()), batch.schema_ref())?;
        let stream = frame.id.key.stream.clone();
        *open = Some(Run { stream, name, fingerprint: frame.schema.fingerprint(), writer });
    }
    if let Some(run) = open {
        run.writer.write(&batch)?;
    }
    Ok(())
}

async fn connect(home: &Home) -> Result<NodeClient<Channel>, Problem> {
    let path = home.agent_socket();
    // The address is a formality: the connector goes to the socket.
    let endpoint = Endpoint::from_static("http://agent.invalid");
    let socket = path.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        Problem::new("agent.unreachable", ExitCode::Unavailable, format!("no agent answers on `{path}`"))
            .caused_by(&error)
            .hint_command("start the platform", "aap up --detach")
    })?;
    Ok(NodeClient::new(channel).max_decoding_message_size(aap_proto::MESSAGE_BYTES_MAX))
}

/// Sends one run. Returns the rows it added, and all rows it has.
async fn send(client: &mut NodeClient<Channel>, mut run: Run) -> Result<(u64, u64), Problem> {
    let arrow = |error: arrow_schema::ArrowError| ExportError::from(error).problem();
    run.writer.finish().map_err(arrow)?;
    let bytes = Bytes::from(run.writer.into_inner().map_err(arrow)?.into_inner());
    let open = IngestOpen {
        stream: run.stream.to_string(),
        name: run.name,
        format: "arrow".to_owned(),
        codec: String::new(),
        again: false,
        size: bytes.len() as u64,
        replayable: true,
    };
    let pieces = (0..bytes.len())
        .step_by(PIECE_BYTES)
        .map(|from| bytes.slice(from..bytes.len().min(from + PIECE_BYTES)));
    let requests: Vec<IngestRequest> = std::iter::once(Request::Open(open))
        .chain(pieces.map(Request::Data))
        .chain([Request::Finish(IngestFinish {})])
        .map(|kind| IngestRequest { kind: Some(kind) })
        .collect();
    let mut replies = client
        .ingest(futures::stream::iter(requests))
        .await
        .map_err(|status| problem_of_status(&status))?
        .into_inner();
    while let Some(reply) = replies.message().await.map_err(|status| problem_of_status(&status))? {
        match reply.kind {
            Some(Reply::Opened(opened)) if opened.complete => return Ok((0, opened.rows)),
            Some(Reply::Done(done)) => return Ok((done.rows, done.rows_total)),
            _ => {}
        }
    }
    Err(Problem::new("buffer.replay", ExitCode::Unavailable, "the agent ended before all rows were taken")
        .hint("the same command continues where it stopped"))
}
