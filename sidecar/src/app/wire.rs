//! A TCP connection to the app that knows whether a byte has left.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use synod_failpoint::{Point, check};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::SharedStream;

/// How long the loopback may take to accept; longer means that the app's backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection, shared between the HTTP machinery and whoever watches it.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stream: SharedStream,
    written: AtomicU64,
}

impl Wire {
    pub(super) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, SharedStream::connect(address))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Self {
            shared: Arc::new(Shared {
                stream,
                written: AtomicU64::new(0),
            }),
        })
    }

    /// Bytes that the kernel has taken for the app so far.
    pub(super) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// Nothing was received that nobody asked for, neither bytes nor the end.
    pub(super) fn quiet(&self) -> bool {
        self.shared.stream.quiet()
    }

    fn count(&self, written: usize) -> io::Result<usize> {
        self.shared
            .written
            .fetch_add(written as u64, Ordering::AcqRel);
        check(Point::AppBytesSent)?;
        Ok(written)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.shared.stream.poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.shared.stream.poll_write(cx, bytes))?;
        Poll::Ready(self.count(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.shared.stream.poll_write_vectored(cx, bytes))?;
        Poll::Ready(self.count(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.stream.shutdown())
    }
}
