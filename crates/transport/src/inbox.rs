//! Where the messages of a session arrive.

use std::sync::Arc;

use aap_runtime::Shutdown;
use futures::StreamExt;
use futures::stream::BoxStream;
use tonic::codec::Streaming;

use crate::Error;

/// The receiving side of one session, of whatever carrier.
#[derive(Debug)]
pub(crate) struct Inbox<M> {
    source: Source<M>,
    /// Ends the session from this side: the listener stops.
    stop: Shutdown,
    ended: bool,
}

enum Source<M> {
    Grpc(Box<Streaming<M>>),
    Stream(BoxStream<'static, Result<M, Error>>),
}

impl<M> std::fmt::Debug for Source<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Grpc(_) => "Grpc",
            Self::Stream(_) => "Stream",
        })
    }
}

impl<M: Send + 'static> Inbox<M> {
    /// Messages of a gRPC stream.
    pub(crate) fn grpc(stream: Streaming<M>, stop: Shutdown) -> Self {
        Self { source: Source::Grpc(Box::new(stream)), stop, ended: false }
    }

    /// Messages of a stream whose `next` is cancel-safe; an error in it is the last.
    pub(crate) fn stream(stream: BoxStream<'static, Result<M, Error>>, stop: Shutdown) -> Self {
        Self { source: Source::Stream(stream), stop, ended: false }
    }

    pub(crate) async fn recv(&mut self) -> Result<Option<M>, Error> {
        if self.ended {
            return Ok(None);
        }
        let next = tokio::select! {
            biased;
            () = self.stop.requested() => Ok(None),
            next = self.source.next() => next,
        };
        self.ended = !matches!(next, Ok(Some(_)));
        next
    }
}

impl<M: Send + 'static> Source<M> {
    async fn next(&mut self) -> Result<Option<M>, Error> {
        match self {
            Self::Grpc(stream) => stream.message().await.map_err(|status| match status.code() {
                tonic::Code::OutOfRange => Error::Protocol { reason: status.message().to_owned() },
                _ => Error::Broken(Arc::new(status)),
            }),
            Self::Stream(stream) => stream.next().await.transpose(),
        }
    }
}
