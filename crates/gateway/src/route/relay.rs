//! A WebSocket on its way: whatever each side says, as it is.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Piece that is passed on at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Passes on what each side says, until one of them ends or nothing moved for `idle`.
pub(crate) async fn relay<A, B>(ours: A, theirs: B, idle: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (mut our_read, mut our_write) = tokio::io::split(ours);
    let (mut their_read, mut their_write) = tokio::io::split(theirs);
    let (mut up, mut down) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        // Reading is cancel-safe; what was read is written before anything else.
        let moved = tokio::select! {
            read = our_read.read(&mut up) => pass_on(read, &up, &mut their_write, idle).await,
            read = their_read.read(&mut down) => pass_on(read, &down, &mut our_write, idle).await,
            () = tokio::time::sleep(idle) => None,
        };
        if moved.is_none() {
            break;
        }
    }
    // They may be gone.
    our_write.shutdown().await.ok();
    their_write.shutdown().await.ok();
}

/// `None` where there is nothing more, or nobody takes it.
async fn pass_on(
    read: io::Result<usize>,
    piece: &[u8],
    to: &mut (impl AsyncWrite + Unpin),
    idle: Duration,
) -> Option<()> {
    let bytes = read.ok().filter(|bytes| *bytes > 0)?;
    let written = async {
        to.write_all(&piece[..bytes]).await?;
        to.flush().await
    };
    tokio::time::timeout(idle, written).await.ok()?.ok()
}
