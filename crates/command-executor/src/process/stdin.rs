//! What writes to a process's standard input.

use super::Shared;
use async_process::ChildStdin;
use futures_lite::{AsyncWrite, AsyncWriteExt};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Writes to a process.
pub(super) enum ProcessStdin {
    Near(ChildStdin),
    Far(Arc<Shared>),
}

impl AsyncWrite for ProcessStdin {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Near(pipe) => Pin::new(pipe).poll_write(cx, bytes),
            Self::Far(shared) => shared.far().map_or(Poll::Ready(Ok(0)), |mut far| far.poll_write(cx, bytes)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Near(pipe) => Pin::new(pipe).poll_flush(cx),
            Self::Far(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Near(pipe) => Pin::new(pipe).poll_close(cx),
            Self::Far(shared) => {
                if let Some(mut far) = shared.far() {
                    far.close_input();
                }
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Drop for ProcessStdin {
    fn drop(&mut self) {
        if let Self::Far(shared) = self
            && let Some(mut far) = shared.far()
        {
            far.close_input();
        }
    }
}

/// Writes all bytes to an input and ends it.
///
/// # Errors
/// What the pipe fails with; `BrokenPipe` if the process reads no more.
pub async fn write_all(mut stdin: impl AsyncWrite + Unpin, bytes: &[u8]) -> io::Result<()> {
    stdin.write_all(bytes).await?;
    stdin.close().await
}
