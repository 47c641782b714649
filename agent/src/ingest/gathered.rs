//! What the client sent, until it is taken: as many bytes at a time as keep decoding and fsync busy beside each other.

use std::collections::VecDeque;
use std::time::Duration;

use aap_proto::problem_of_status;
use aap_proto::v1::IngestRequest;
use aap_proto::v1::ingest_request::Kind as Request;
use aap_types::{ExitCode, Problem};
use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt};
use tonic::Status;

use super::problems::protocol;
use super::taker::Taker;
use crate::ingress::Parcel;

/// Content of one parcel, about: what is sent compressed can become a thousand times as much, and one parcel is one append.
const PARCEL_CONTENT_BYTES: usize = 8 << 20;
/// A client that pauses this long gets what it sent made durable.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes what was gathered, or as much of it as one parcel holds: the rest stays there.
pub(super) fn take_gathered(
    taker: &mut Taker,
    gathered: &mut Gathered,
    now_us: i64,
) -> Result<Parcel, Problem> {
    let mut parcel = Parcel::default();
    let mut room = PARCEL_CONTENT_BYTES;
    while let Some(bytes) = gathered.bytes.front_mut().filter(|_| room > 0) {
        let used = taker.take(bytes, &mut room, now_us, &mut parcel)?;
        bytes.advance(used);
        if bytes.is_empty() {
            gathered.bytes.pop_front();
        }
    }
    if !gathered.bytes.is_empty() {
        return Ok(parcel);
    }
    if gathered.finished {
        parcel.join(taker.finish(now_us)?);
    } else if gathered.paused {
        parcel.join(taker.flush(now_us)?);
    }
    Ok(parcel)
}

/// What the client sent since the last time.
pub(super) struct Gathered {
    pub(super) bytes: VecDeque<Bytes>,
    /// It sent nothing for a moment.
    pub(super) paused: bool,
    /// It sent `finish`.
    pub(super) finished: bool,
}

/// Reads until there are `enough` bytes, the client pauses, or it has finished.
pub(super) async fn gather(
    requests: &mut (impl Stream<Item = Result<IngestRequest, Status>> + Send + Unpin),
    enough: usize,
) -> Result<Gathered, Problem> {
    let mut gathered = Gathered { bytes: VecDeque::new(), paused: false, finished: false };
    let mut length = 0;
    while length < enough {
        let next = if gathered.bytes.is_empty() {
            requests.next().await
        } else {
            match tokio::time::timeout(PAUSE, requests.next()).await {
                Ok(next) => next,
                Err(_) => {
                    gathered.paused = true;
                    return Ok(gathered);
                }
            }
        };
        match next.transpose().map_err(|status| problem_of_status(&status))?.map(|request| request.kind) {
            Some(Some(Request::Data(data))) => {
                length += data.len();
                gathered.bytes.push_back(data);
            }
            Some(Some(Request::Finish(_))) => {
                gathered.finished = true;
                return Ok(gathered);
            }
            Some(Some(Request::Open(_))) => return Err(protocol("a second `open`")),
            Some(None) => {}
            None => {
                // What came is durable as far as it was whole; the run continues when the client comes back.
                return Err(Problem::new(
                    "ingest.client_gone",
                    ExitCode::Interrupted,
                    "the client went away",
                ));
            }
        }
    }
    Ok(gathered)
}
