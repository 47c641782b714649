//! Bodies on their way: how large they may be as they come and unpacked, and how long nothing may move.

use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::refusal::{Refusal, bad_body, encoding_unknown, too_large};
use super::spec::BodyLimits;

/// Anything that can go wrong with one.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body.
pub type ProxyBody = UnsyncBoxBody<Bytes, BoxError>;

/// What is unpacked at a time, to be counted and forgotten.
const PIECE_BYTES: usize = 16 << 10;
/// Larger windows of zstd are refused: 8 MiB, as its format recommends for decoders.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Why a body did not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It has more bytes than it may.
    #[error("the body is too large")]
    TooLarge,
    /// Nothing came.
    #[error("nothing of the body came for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Whoever sends it broke off, or sends what is none.
    #[error("the body broke off")]
    Broken,
    /// Whoever gets it may no more.
    #[error("whoever gets the body may no more")]
    Revoked,
}

/// A body that is watched.
pub(crate) struct Watched {
    body: ProxyBody,
    left: u64,
    idle: Duration,
    patience: Pin<Box<Sleep>>,
    until: Option<BoxFuture<'static, ()>>,
}

impl Watched {
    /// With at most `bytes`, something of it within each `idle`, and nothing after `until`.
    pub(crate) fn over(
        body: ProxyBody,
        bytes: u64,
        idle: Duration,
        until: Option<BoxFuture<'static, ()>>,
    ) -> ProxyBody {
        Self { body, left: bytes, idle, patience: Box::pin(tokio::time::sleep(idle)), until }.boxed_unsync()
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.until.as_mut().is_some_and(|until| until.as_mut().poll(context).is_ready()) {
            self.until = None;
            return Poll::Ready(Some(Err(BodyError::Revoked.into())));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            ready!(self.patience.as_mut().poll(context));
            return Poll::Ready(Some(Err(BodyError::Stalled(self.idle).into())));
        };
        if let Some(Err(error)) = &frame {
            tracing::debug!(%error, "a body broke off");
            return Poll::Ready(Some(Err(BodyError::Broken.into())));
        }
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = self.left.checked_sub(bytes) else {
                return Poll::Ready(Some(Err(BodyError::TooLarge.into())));
            };
            self.left = left;
            let next = tokio::time::Instant::now() + self.idle;
            self.patience.as_mut().reset(next);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body of these bytes.
pub(crate) fn whole(bytes: Bytes) -> ProxyBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The error of ours in a chain of errors.
pub(crate) fn body_error(error: &(dyn std::error::Error + 'static)) -> Option<BodyError> {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.into_iter().find_map(|error| error.downcast_ref::<BodyError>().copied())
}

/// All of a body within the limits, as it came.
pub(crate) async fn collect(body: ProxyBody, limits: &BodyLimits) -> Result<Bytes, Refusal> {
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) => Err(match body_error(error.as_ref()) {
            Some(BodyError::TooLarge) => too_large("as it comes", &limits.bytes.to_string()),
            Some(stalled) => bad_body(stalled.to_string()),
            None => bad_body(error.to_string()),
        }),
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Deflate,
    Zstd,
}

impl Encoding {
    /// From a header; `None` where it is as it is.
    pub(crate) fn of(header: Option<&str>) -> Result<Option<Self>, Refusal> {
        match header.map(|header| header.trim().to_lowercase()).as_deref() {
            None | Some("" | "identity") => Ok(None),
            Some("gzip" | "x-gzip") => Ok(Some(Self::Gzip)),
            Some("deflate") => Ok(Some(Self::Deflate)),
            Some("zstd") => Ok(Some(Self::Zstd)),
            Some(other) => Err(encoding_unknown(other)),
        }
    }

    /// Unpacks a body within the limits. Never has more in memory than they allow. Blocking.
    pub(crate) fn unpack(self, packed: &[u8], limits: &BodyLimits) -> Result<Vec<u8>, Refusal> {
        let mut reader: Box<dyn Read + '_> = match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Deflate => Box::new(flate2::read::ZlibDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)
                    .map_err(|error| bad_body(error.to_string()))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| bad_body(error.to_string()))?;
                Box::new(decoder)
            }
        };
        let by_ratio = (packed.len() as u64).saturating_mul(limits.ratio.get().into());
        let (mut out, mut piece) = (vec![], vec![0; PIECE_BYTES]);
        loop {
            let read = reader.read(&mut piece).map_err(|error| bad_body(error.to_string()))?;
            if read == 0 {
                return Ok(out);
            }
            let bytes = (out.len() + read) as u64;
            if bytes > limits.decoded_bytes.0 {
                return Err(too_large("unpacked", &limits.decoded_bytes.to_string()));
            }
            // A few bytes that unpack to some more are no attack.
            if bytes > by_ratio && bytes > PIECE_BYTES as u64 {
                return Err(too_large("unpacked", &format!("{} times what came", limits.ratio)));
            }
            out.extend_from_slice(&piece[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use aap_types::ByteCount;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn limits(decoded: u64) -> BodyLimits {
        BodyLimits { decoded_bytes: ByteCount(decoded), ..BodyLimits::default() }
    }

    #[test]
    fn a_body_is_unpacked_up_to_its_limits() {
        let text: Vec<u8> =
            (0..50_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761)).to_be_bytes()).collect();
        assert_eq!(Encoding::Gzip.unpack(&gzip(&text), &limits(1 << 20)).unwrap(), text);
        assert_eq!(
            Encoding::Zstd.unpack(&zstd::encode_all(&text[..], 3).unwrap(), &limits(1 << 20)).unwrap(),
            text
        );
        let refused = Encoding::Gzip.unpack(&gzip(&text), &limits(text.len() as u64 - 1)).unwrap_err();
        assert_eq!(refused.problem.code, "gateway.too_large");
        let bomb = gzip(&vec![0; 8 << 20]);
        let refused = Encoding::Gzip.unpack(&bomb, &limits(1 << 30)).unwrap_err();
        assert!(refused.problem.message.contains("100 times"), "{:?}", refused.problem);
        assert_eq!(
            Encoding::Gzip.unpack(&gzip(&[7; 10_000]), &limits(1 << 20)).unwrap().len(),
            10_000,
            "small"
        );
        assert_eq!(
            Encoding::Gzip.unpack(b"no gzip", &limits(10)).unwrap_err().problem.code,
            "gateway.bad_body"
        );
        let cut = &gzip(&text)[..1_000];
        assert_eq!(
            Encoding::Gzip.unpack(cut, &limits(1 << 20)).unwrap_err().problem.code,
            "gateway.bad_body"
        );
    }

    #[test]
    fn only_what_can_be_unpacked_is_taken() {
        assert_eq!(Encoding::of(Some("GZIP")).unwrap(), Some(Encoding::Gzip));
        assert_eq!(Encoding::of(Some("identity")).unwrap(), None);
        for unknown in ["br", "gzip, gzip", "x"] {
            assert_eq!(Encoding::of(Some(unknown)).unwrap_err().problem.code, "gateway.encoding_unknown");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_or_stands_still_ends_with_an_error() {
        let body = Watched::over(whole(Bytes::from_static(b"12345")), 4, Duration::from_secs(9), None);
        let error = body.collect().await.unwrap_err();
        assert_eq!(body_error(error.as_ref()), Some(BodyError::TooLarge));
        let silent =
            http_body_util::StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let idle = Duration::from_millis(20);
        let error = Watched::over(silent.boxed_unsync(), 4, idle, None).collect().await.unwrap_err();
        assert_eq!(body_error(error.as_ref()), Some(BodyError::Stalled(idle)));
        let silent =
            http_body_util::StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, BoxError>>());
        let until = Box::pin(tokio::time::sleep(idle));
        let ended = Watched::over(silent.boxed_unsync(), 4, Duration::from_secs(60), Some(until));
        assert_eq!(body_error(ended.collect().await.unwrap_err().as_ref()), Some(BodyError::Revoked));
    }
}
