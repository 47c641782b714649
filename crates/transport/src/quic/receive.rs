//! The receiving side of a session: every stream of the connection, merged into one queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use quinn::{Connection, ConnectionError, RecvStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::wire;
use crate::Error;
use crate::limits::{QUIC_RECEIVED_KIB_MAX, QUIC_RECEIVED_MESSAGES_MAX};

/// A message with the part of the budget that it holds until it is taken.
type Received<M> = Result<(M, OwnedSemaphorePermit), Error>;

/// Where the streams of a connection deliver.
struct Merge<M> {
    queue: mpsc::Sender<Received<M>>,
    budget: Arc<Semaphore>,
}

impl<M> Clone for Merge<M> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), budget: self.budget.clone() }
    }
}

/// The messages of `connection`, and the work that reads them, which the caller must run. `control` is the
/// control stream; its end is the end of the session, once the other streams have ended too. `lost` is set when
/// the connection dies because nothing arrived any more.
pub(crate) fn receive<M: Message + Default + 'static>(
    connection: Connection,
    control: RecvStream,
    lost: Arc<AtomicBool>,
) -> (BoxStream<'static, Result<M, Error>>, impl Future<Output = ()> + Send + 'static) {
    let (queue, queued) = mpsc::channel(QUIC_RECEIVED_MESSAGES_MAX);
    let budget = Arc::new(Semaphore::new(QUIC_RECEIVED_KIB_MAX as usize));
    let messages =
        ReceiverStream::new(queued).map(|received: Received<M>| received.map(|(message, _)| message));
    let merge = Merge { queue: queue.clone(), budget };
    let work = async move {
        let result = tokio::select! {
            result = merge_streams(&connection, control, merge) => result,
            // Nobody wants the messages any more.
            () = queue.closed() => Ok(()),
        };
        if connection.close_reason() == Some(ConnectionError::TimedOut) {
            lost.store(true, Ordering::Relaxed);
        }
        if let Err(error) = result {
            // The receiver may be gone, then nobody needs the reason.
            drop(queue.send(Err(error)).await);
        }
    };
    (messages.boxed(), work)
}

async fn merge_streams<M: Message + Default + 'static>(
    connection: &Connection,
    control: RecvStream,
    merge: Merge<M>,
) -> Result<(), Error> {
    let mut lanes = JoinSet::new();
    let mut control = std::pin::pin!(read_stream(control, merge.clone()));
    let mut accepting = true;
    loop {
        tokio::select! {
            // In this order: a lane that arrived before the end of the control stream is still read.
            biased;
            lane = connection.accept_uni(), if accepting => match lane {
                Ok(lane) => drop(lanes.spawn(read_stream(lane, merge.clone()))),
                // The streams tell the same, after what they still hold.
                Err(_) => accepting = false,
            },
            Some(lane) = lanes.join_next() => joined(lane)?,
            end = &mut control => {
                end?;
                break;
            }
        }
    }
    while let Some(lane) = lanes.join_next().await {
        joined(lane)?;
    }
    Ok(())
}

fn joined(lane: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    lane.unwrap_or_else(|panic| Err(Error::broken(panic)))
}

/// Reads one stream to its end. Takes budget before it reads a message, so that what is held stays bounded.
async fn read_stream<M: Message + Default>(mut stream: RecvStream, merge: Merge<M>) -> Result<(), Error> {
    while let Some(length) = wire::read_length(&mut stream).await? {
        let kib = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX);
        let permit = merge.budget.clone().acquire_many_owned(kib).await.map_err(Error::broken)?;
        let message = wire::read_message(&mut stream, length).await?;
        if merge.queue.send(Ok((message, permit))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
