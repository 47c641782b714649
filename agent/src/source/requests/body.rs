//! The body of a request: read with a limit, within the room that all bodies share, and decompressed with the same limit.
//!
//! A body takes room as it comes, so that a client that only promises one takes none. Where all room is taken, one of the
//! bodies that are on their way may go on without: it comes to its end and gives its room back, and the others follow. A body
//! that comes too slowly is given up, or it would keep its room for as long as it likes.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::refused::Refused;

/// Memory of bodies that are on their way or wait for their turn, in largest bodies. However many clients are slow, they share this.
const BODIES_MAX: usize = 8;
/// zstd frames that ask for a larger window are refused: 8 MiB (reliability-security 4.6).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// A body must come at this rate, measured over [`WINDOW`]. A phone on a bad line is faster.
const RATE_MIN: u64 = 16 << 10;
/// Long enough for a pause of whoever makes the rows, short enough that nobody holds room for nothing.
const WINDOW: Duration = Duration::from_secs(30);
/// How long a body waits for room, if no other gives any back.
const ROOM_WITHIN: Duration = Duration::from_secs(5);
/// Room is counted in these.
const ROOM_UNIT: usize = 4 << 10;

/// Of a body that is refused for its size, this much more is read and dropped: several times the largest that is taken.
const PASSED_OVER_MAX: usize = 128 << 20;
/// And for this long.
const PASS_OVER: Duration = Duration::from_secs(5);

/// How the body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::source) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

impl Codec {
    /// What `Content-Encoding` says.
    pub(in crate::source) fn of(headers: &HeaderMap) -> Result<Self, Refused> {
        Self::named(headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()))
    }

    /// The codec of a name.
    pub(in crate::source) fn named(name: Option<&[u8]>) -> Result<Self, Refused> {
        match name {
            None | Some(b"" | b"identity") => Ok(Self::Plain),
            Some(b"gzip" | b"x-gzip") => Ok(Self::Gzip),
            Some(b"zstd") => Ok(Self::Zstd),
            Some(other) => {
                let message = format!(
                    "content encoding `{}` is not known: gzip or zstd",
                    String::from_utf8_lossy(other)
                );
                Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "http.encoding_unknown", message))
            }
        }
    }

    /// The content of a body, at most `limit` bytes of it. Blocks: it belongs on the blocking pool.
    pub(in crate::source) fn decode(self, raw: Bytes, limit: usize) -> Result<Bytes, Refused> {
        let reader: Box<dyn Read> = match self {
            Self::Plain => return Ok(raw),
            Self::Gzip => Box::new(MultiGzDecoder::new(&raw[..])),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(&raw[..]).map_err(|error| broken(&error))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| broken(&error))?;
                Box::new(decoder)
            }
        };
        let mut content = Vec::with_capacity(raw.len().saturating_mul(4).min(limit));
        reader.take(limit as u64 + 1).read_to_end(&mut content).map_err(|error| broken(&error))?;
        if content.len() > limit { Err(too_large(limit)) } else { Ok(content.into()) }
    }
}

fn broken(error: &std::io::Error) -> Refused {
    Refused::new(
        StatusCode::BAD_REQUEST,
        "http.bad_compression",
        format!("the body cannot be decompressed: {error}"),
    )
}

pub(in crate::source) fn too_large(limit: usize) -> Refused {
    let message = format!("the body has more than {limit} bytes after decompression; send it in parts");
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "http.too_large", message)
}

/// The memory that bodies may have, all together. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::source) struct Room {
    units: Arc<Semaphore>,
    /// The right to go on where no room is left.
    beyond: Arc<Semaphore>,
}

impl Room {
    /// Room for [`BODIES_MAX`] bodies of the largest size.
    pub(in crate::source) fn of_bodies(body_bytes_max: usize) -> Self {
        Self::of(BODIES_MAX.saturating_mul(body_bytes_max))
    }

    /// Room for `bytes`.
    pub(in crate::source) fn of(bytes: usize) -> Self {
        Self { units: Arc::new(Semaphore::new(bytes / ROOM_UNIT)), beyond: Arc::new(Semaphore::new(1)) }
    }

    /// Nothing of it yet.
    fn nothing(&self) -> Held {
        Held { room: self.clone(), units: 0, permit: None, beyond: None }
    }
}

/// The room that one body has; it is given back when this is dropped.
#[derive(Debug)]
struct Held {
    room: Room,
    units: usize,
    permit: Option<OwnedSemaphorePermit>,
    beyond: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Takes room for `bytes` in all.
    async fn grow(&mut self, bytes: usize) -> Result<(), Refused> {
        let more = bytes.div_ceil(ROOM_UNIT).saturating_sub(self.units);
        if more == 0 || self.beyond.is_some() {
            return Ok(());
        }
        let (units, beyond) = (self.room.units.clone(), self.room.beyond.clone());
        let wanted = u32::try_from(more).unwrap_or(u32::MAX);
        let got = tokio::time::timeout(ROOM_WITHIN, async {
            tokio::select! {
                biased;
                permit = units.acquire_many_owned(wanted) => (permit.ok(), None),
                permit = beyond.acquire_owned() => (None, permit.ok()),
            }
        });
        match got.await.map_err(|_| busy())? {
            (Some(permit), _) => {
                self.units += more;
                match &mut self.permit {
                    Some(held) => held.merge(permit),
                    None => self.permit = Some(permit),
                }
            }
            (None, beyond) => self.beyond = beyond,
        }
        Ok(())
    }
}

/// There is no place for this request now.
pub(in crate::source) fn busy() -> Refused {
    Refused::new(StatusCode::TOO_MANY_REQUESTS, "http.busy", "too many requests are under way").later()
}

/// A whole body, and the room it has for as long as it is there.
#[derive(Debug)]
pub(in crate::source) struct Raw {
    pub(in crate::source) bytes: Bytes,
    _held: Held,
}

/// How slow a body may be: in every window so many bytes of it must come.
#[derive(Debug, Clone, Copy)]
pub(in crate::source) struct Patience {
    pub(in crate::source) window: Duration,
    pub(in crate::source) bytes_min: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { window: WINDOW, bytes_min: RATE_MIN * WINDOW.as_secs() }
    }
}

/// How fast a body comes.
struct Pace {
    patience: Patience,
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn begin(patience: Patience) -> Self {
        Self { patience, since: Instant::now(), bytes: 0 }
    }

    /// The next frame, if it comes fast enough.
    async fn next(&mut self, body: &mut Body) -> Result<Option<Bytes>, Refused> {
        loop {
            match tokio::time::timeout_at(self.since + self.patience.window, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.bytes += data.len() as u64;
                    return Ok(Some(data));
                }
                Ok(Some(Err(error))) => {
                    let message = format!("the body is not whole: {error}");
                    return Err(Refused::new(StatusCode::BAD_REQUEST, "http.body_cut", message));
                }
                Err(_) if self.bytes >= self.patience.bytes_min => *self = Self::begin(self.patience),
                Err(_) => {
                    let Patience { window, bytes_min } = self.patience;
                    let message = format!(
                        "{} bytes of the body came in {} s; the least is {bytes_min}",
                        self.bytes,
                        window.as_secs_f64()
                    );
                    return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "http.body_stalled", message));
                }
            }
        }
    }
}

/// Reads a body of at most `limit` bytes.
pub(in crate::source) async fn read(
    mut body: Body,
    limit: usize,
    room: &Room,
    patience: Patience,
) -> Result<Raw, Refused> {
    let (mut whole, mut held, mut pace) = (BytesMut::new(), room.nothing(), Pace::begin(patience));
    while let Some(data) = pace.next(&mut body).await? {
        let length = whole.len() + data.len();
        if length > limit {
            // Nobody else waits for this: it has neither room nor turn any more.
            drop((whole, held));
            pass_over(body).await;
            return Err(too_large(limit));
        }
        let asked = Instant::now();
        held.grow(length).await?;
        // Not the client's fault.
        pace.since += asked.elapsed();
        whole.extend_from_slice(&data);
    }
    Ok(Raw { bytes: whole.freeze(), _held: held })
}

/// Reads what a client goes on sending, for a while: most look for the answer only when all is sent, and would meet a
/// closed connection instead.
async fn pass_over(mut body: Body) {
    let mut left = PASSED_OVER_MAX;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                return;
            }
        }
    };
    if tokio::time::timeout(PASS_OVER, rest).await.is_err() {
        tracing::debug!("a client goes on sending a body that is refused");
    }
}
