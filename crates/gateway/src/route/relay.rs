//! A WebSocket on its way: whatever each side says, as it is.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// Piece that is passed on at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Passes on what each side says, until one of them ends or nothing moved for `idle`. Each direction goes on by itself: one that stands
/// because nobody takes it does not hold up the other.
pub(crate) async fn relay<A, B>(ours: A, theirs: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (our_read, mut our_write) = tokio::io::split(ours);
    let (their_read, mut their_write) = tokio::io::split(theirs);
    let moved = Notify::new();
    let stands = async { while tokio::time::timeout(idle, moved.notified()).await.is_ok() {} };
    tokio::select! {
        _end = pass_on(our_read, &mut their_write, &moved) => {}
        _end = pass_on(their_read, &mut our_write, &moved) => {}
        () = stands => {}
    }
    // They may be gone.
    our_write.shutdown().await.ok();
    their_write.shutdown().await.ok();
}

/// Until there is nothing more, or nobody takes it.
async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Notify,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let bytes = from.read(&mut piece).await?;
        if bytes == 0 {
            return Ok(());
        }
        moved.notify_one();
        to.write_all(&piece[..bytes]).await?;
        to.flush().await?;
        moved.notify_one();
    }
}
