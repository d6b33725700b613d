//! Sockets of a simulated network, each host of which has a runtime and a clock of its own.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Handle, Id};
pub use turmoil::net::TcpStream;
pub(crate) use turmoil::net::lookup_host;

/// A simulated host looks after no connection: what is lost there is for HTTP/2 to notice.
#[expect(clippy::unnecessary_wraps, reason = "as the system's")]
pub(crate) fn watch(_: &TcpStream, _: &TcpKeepalive, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Takes connections, and can be seen to.
pub struct TcpListener {
    inner: turmoil::net::TcpListener,
    number: NonZeroU64,
}

/// A socket that listens.
struct Listening {
    host: Id,
    port: u16,
    number: NonZeroU64,
}

thread_local! {
    /// All hosts of a simulation run on its thread.
    static LISTENING: RefCell<(u64, Vec<Listening>)> = const { RefCell::new((0, Vec::new())) };
}

/// The sockets that take connections to this address: each by a number that no other ever has.
pub(crate) fn listening(address: SocketAddr) -> io::Result<Vec<NonZeroU64>> {
    let host = Handle::current().id();
    LISTENING.with_borrow(|(_, all)| {
        let found = all
            .iter()
            .filter(|it| it.host == host && it.port == address.port());
        Ok(found.map(|it| it.number).collect())
    })
}

/// Nobody goes past a sidecar.
#[expect(clippy::unnecessary_wraps, reason = "as the system's")]
pub(crate) fn connected(_: u16) -> io::Result<BTreeSet<IpAddr>> {
    Ok(BTreeSet::new())
}

// === impl TcpListener ===

impl TcpListener {
    /// Only at an unspecified address or the loopback.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let inner = turmoil::net::TcpListener::bind(address).await?;
        let (host, port) = (Handle::current().id(), inner.local_addr()?.port());
        let number = LISTENING.with_borrow_mut(|(last, all)| {
            *last += 1;
            let number = NonZeroU64::new(*last).expect("counted from 1");
            all.push(Listening { host, port, number });
            number
        });
        Ok(Self { inner, number })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.inner.accept().await
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl std::fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TcpListener").field(&self.number).finish()
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        LISTENING.with_borrow_mut(|(_, all)| all.retain(|it| it.number != self.number));
    }
}

/// A connection that several use at once.
#[derive(Debug)]
pub(crate) struct SharedStream(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    stream: TcpStream,
    /// Of who waits for bytes: a look at what has come takes its place, and must not.
    reader: Waker,
}

// === impl SharedStream ===

impl SharedStream {
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let reader = Waker::noop().clone();
        Ok(Self(Mutex::new(Inner { stream, reader })))
    }

    /// Nothing was received that was not read, neither bytes nor the end.
    pub(crate) fn quiet(&self) -> bool {
        let Inner { stream, reader } = &mut *self.lock();
        let mut cx = Context::from_waker(reader);
        stream
            .poll_peek(&mut cx, &mut ReadBuf::new(&mut [0]))
            .is_pending()
    }

    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Inner { stream, reader } = &mut *self.lock();
        reader.clone_from(cx.waker());
        Pin::new(stream).poll_read(cx, buf)
    }

    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write(cx, bytes)
    }

    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().stream).poll_write_vectored(cx, bytes)
    }

    /// Nothing more will be sent.
    pub(crate) fn shutdown(&self) -> io::Result<()> {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut self.lock().stream).poll_shutdown(&mut cx) {
            Poll::Ready(done) => done,
            Poll::Pending => unreachable!("a simulated end is sent at once"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
