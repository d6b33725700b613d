//! A client's connection, watched: strict framing and time limits below the HTTP library.
//!
//! In: a TCP stream. Out: the same bytes, up to the first that must not be acted on; from there on
//! the library sees the end of the stream, and the stream comes back to whoever accepted it, with
//! the reason, to answer and close.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::framing::{Framing, Violation};
use crate::net::TcpStream;

/// What the two ends of a connection's watch share.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Requests whose response is not complete.
    busy: AtomicU32,
    /// The connection was upgraded: its bytes are no longer HTTP.
    tunnel: AtomicBool,
    /// Requests that have begun.
    begun: AtomicU64,
    /// Which of them, counted from 1, has bytes in its body that must not be acted on; 0: none.
    broken: AtomicU64,
    /// Woken when no request is under way any more.
    reader: AtomicWaker,
    /// Woken when a body breaks.
    body: AtomicWaker,
}

/// Held while a request is under way.
#[derive(Debug)]
pub(super) struct Busy(Arc<Watched>);

/// Why the connection came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Bytes that must not be acted on, in a header section.
    Head(Violation),
    /// The same in a body: whoever reads it answers.
    Body,
    /// Nothing was wrong with the bytes; the library ended the connection with the rest of a body
    /// still to come, which was answered before its end.
    Unread,
    /// A header section that took too long.
    SlowHead,
    /// Nothing came for long.
    Idle,
}

/// A connection that was refused.
#[derive(Debug)]
pub(super) struct Returned {
    pub(super) stream: TcpStream,
    pub(super) refused: Refused,
    /// The request is a HEAD: its answer has no body.
    pub(super) bodiless: bool,
}

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Guard {
    /// Always there until drop.
    stream: Option<TcpStream>,
    /// Bytes read before it was known which protocol this is.
    first: Bytes,
    /// `None` for HTTP/2, whose frames cannot be misread.
    framing: Option<Framing>,
    watched: Arc<Watched>,
    patience: Patience,
    refused: Option<Refused>,
    /// The library was told that no more comes, and so had not ended the connection by itself.
    end_told: bool,
    back: Option<oneshot::Sender<Returned>>,
    read_limit: Option<(Waits, Instant)>,
    write_limit: Option<Instant>,
    read_alarm: Option<Pin<Box<Sleep>>>,
    write_alarm: Option<Pin<Box<Sleep>>>,
}

/// What a read waits for; the number is that of the request on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    ForRequest(u64),
    ForRestOfHead(u64),
}

// === impl Watched ===

impl Watched {
    /// A request begins.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        self.begun.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// Requests that have begun: the number of the last of them.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// The connection is about to be upgraded.
    pub(super) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) > 0
    }

    /// Ready when no request is under way; else the reader is woken when that is so.
    fn poll_at_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.reader.register(cx.waker());
        if self.is_busy() {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// For whoever waits for a piece of the body of that request: it broke, and no piece will come.
    pub(super) fn poll_broken(&self, request: u64, cx: &mut Context<'_>) -> Poll<()> {
        self.body.register(cx.waker());
        if self.broken.load(Ordering::Acquire) == request {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn breaks(&self, request: u64) {
        self.broken.store(request, Ordering::Release);
        self.body.wake();
    }

    fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.reader.wake();
    }
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(
        stream: TcpStream,
        first: Bytes,
        framing: Option<Framing>,
        watched: Arc<Watched>,
        patience: Patience,
    ) -> (Self, oneshot::Receiver<Returned>) {
        let (back, returned) = oneshot::channel();
        let guard = Self {
            stream: Some(stream),
            first,
            framing,
            watched,
            patience,
            refused: None,
            end_told: false,
            back: Some(back),
            read_limit: None,
            write_limit: None,
            read_alarm: None,
            write_alarm: None,
        };
        (guard, returned)
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(
            self.stream
                .as_mut()
                .expect("a guard has its stream until it is dropped"),
        )
    }

    /// Looks at what was just read into `buf` behind `before`.
    fn inspect(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(framing) = self.framing.as_mut().filter(|_| !self.watched.is_tunnel()) else {
            return;
        };
        if let Err((passed, violation)) = framing.take(&buf.filled()[before..]) {
            self.refused = Some(if framing.in_head() {
                Refused::Head(violation)
            } else {
                // The one whose head was the last: those before it are complete.
                self.watched.breaks(framing.heads());
                Refused::Body
            });
            buf.set_filled(before + passed);
        }
    }

    /// What the library gets once the connection was refused.
    fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library would take an end of the stream for a client that has left, and break off
        // the request before the bad one, or the one whose body is bad, before it is answered.
        std::task::ready!(self.watched.poll_at_rest(cx));
        self.end_told = true;
        Poll::Ready(Ok(()))
    }

    /// Whoever gets the stream back has something to say. Behind an answer that has ended the connection
    /// nothing may come any more.
    fn has_last_words(&self) -> bool {
        self.end_told && matches!(self.refused, Some(Refused::Head(_) | Refused::SlowHead))
    }

    /// Nothing to read now: waits, but not for ever.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(framing) = self.framing.as_ref().filter(|_| !self.watched.is_tunnel()) else {
            return Poll::Pending;
        };
        let (waits, patience) = if framing.in_head() {
            (Waits::ForRestOfHead(framing.heads()), self.patience.head)
        } else if framing.is_idle() && self.watched.poll_at_rest(cx).is_ready() {
            (Waits::ForRequest(framing.heads()), self.patience.idle)
        } else {
            self.read_limit = None;
            return Poll::Pending;
        };
        let limit = match self.read_limit {
            Some((same, limit)) if same == waits => limit,
            _ => Instant::now() + patience,
        };
        self.read_limit = Some((waits, limit));
        std::task::ready!(poll_alarm(&mut self.read_alarm, limit, cx));
        self.refused = Some(match waits {
            Waits::ForRestOfHead(_) => Refused::SlowHead,
            Waits::ForRequest(_) => Refused::Idle,
        });
        self.poll_refused(cx)
    }

    /// After a write: a client that takes nothing for long is cut off.
    fn after_write<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write_limit = None;
            return written;
        }
        let patience = self.patience.write;
        let limit = *self
            .write_limit
            .get_or_insert_with(|| Instant::now() + patience);
        std::task::ready!(poll_alarm(&mut self.write_alarm, limit, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Ready once `limit` is reached. The timer is set anew only when it has to be.
pub(super) fn poll_alarm(
    alarm: &mut Option<Pin<Box<Sleep>>>,
    limit: Instant,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(limit)));
    if alarm.deadline() > limit {
        alarm.as_mut().reset(limit);
    }
    loop {
        std::task::ready!(alarm.as_mut().poll(cx));
        if alarm.deadline() >= limit {
            return Poll::Ready(());
        }
        alarm.as_mut().reset(limit);
    }
}

impl AsyncRead for Guard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refused.is_some() {
            return self.poll_refused(cx);
        }
        let before = buf.filled().len();
        if self.first.is_empty() {
            match self.stream().poll_read(cx, buf) {
                Poll::Ready(read) => read?,
                Poll::Pending => return self.poll_patience(cx),
            }
        } else {
            let step = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..step]);
            self.first.advance(step);
        }
        let came = buf.filled().len() > before;
        self.inspect(buf, before);
        if came && buf.filled().len() == before {
            return self.poll_refused(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write(cx, bytes);
        self.after_write(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write_vectored(cx, bytes);
        self.after_write(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_last_words() {
            return Poll::Ready(Ok(()));
        }
        self.stream().poll_shutdown(cx)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let in_body = |framing: &Framing| !framing.is_idle() && !framing.in_head();
        let unread = self.framing.as_ref().is_some_and(in_body) && !self.watched.is_tunnel();
        let refused = match self.refused {
            Some(Refused::Head(_) | Refused::SlowHead) if !self.end_told => Some(Refused::Unread),
            Some(refused) => Some(refused),
            None => unread.then_some(Refused::Unread),
        };
        if let (Some(stream), Some(refused), Some(back)) =
            (self.stream.take(), refused, self.back.take())
        {
            // Nobody waits when the server has been dropped: then the stream just closes.
            let _ = back.send(Returned {
                stream,
                refused,
                bodiless: self.framing.as_ref().is_some_and(Framing::is_bodiless),
            });
        }
    }
}
