//! Bodies in both directions: what a client sends, and what it gets.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tempfile::TempPath;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_util::io::ReaderStream;

use super::backend::AppBody;
use super::guard::{Busy, Watched, poll_alarm};
use crate::apply::StoredBody;

const FILE_CHUNK_BYTES: usize = 64 << 10;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A client stopped in the middle of a body.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the client stopped sending its body")]
pub struct TooSlow;

/// The body of a request, wherever it comes from.
#[derive(Debug)]
pub enum RequestBody {
    /// Nothing, or nothing any more.
    Empty,
    /// All of it at once.
    Full {
        /// The content.
        data: Option<Bytes>,
        /// Fields after it; mostly none.
        trailers: Option<HeaderMap>,
    },
    /// From a file.
    File(FileBody),
    /// As the client sends it to this member.
    Client(ClientBody),
    /// As another member passes it on.
    Channel(Channel),
}

/// A body that a client sends, with a limit on the time between two of its pieces.
#[derive(Debug)]
pub struct ClientBody {
    body: Incoming,
    gap: Duration,
    /// Knows when what comes is malformed, and of which request this is the body.
    watched: Option<(Arc<Watched>, u64)>,
    /// Set while a piece is waited for.
    limit: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// A body whose frames come from another task.
#[derive(Debug)]
pub struct Channel {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
    /// Bytes still to come, where that is known.
    remaining: Option<u64>,
}

// === impl ClientBody ===

impl ClientBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.limit = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if let Some((watched, request)) = &self.watched
            && watched.poll_broken(*request, cx).is_ready()
        {
            return Poll::Ready(Some(Err("the body is malformed".into())));
        }
        let limit = *self.limit.get_or_insert_with(|| Instant::now() + self.gap);
        std::task::ready!(poll_alarm(&mut self.alarm, limit, cx));
        Poll::Ready(Some(Err(TooSlow.into())))
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// The body of the request that has begun last; it breaks off when `gap` goes by without a piece of it.
    pub(super) fn client(body: Incoming, gap: Duration, watched: Option<Arc<Watched>>) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Client(ClientBody {
            body,
            gap,
            watched: watched.map(|it| {
                let request = it.begun();
                (it, request)
            }),
            limit: None,
            alarm: None,
        })
    }

    /// A stored body. Fails when its file cannot be opened.
    pub(super) async fn stored(body: &StoredBody, trailers: HeaderMap) -> std::io::Result<Self> {
        match body {
            StoredBody::Memory(data) => Ok(Self::full(data.clone(), trailers)),
            StoredBody::File { path, len } => {
                let file = FileBody::open(path.clone(), *len, trailers).await?;
                Ok(Self::File(file))
            }
        }
    }

    /// A body that is there already.
    pub fn full(data: Bytes, trailers: HeaderMap) -> Self {
        Self::Full {
            data: (!data.is_empty()).then_some(data),
            trailers: (!trailers.is_empty()).then_some(trailers),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full { data, trailers } => Poll::Ready(
                data.take()
                    .map(Frame::data)
                    .or_else(|| trailers.take().map(Frame::trailers))
                    .map(Ok),
            ),
            Self::File(file) => file.poll_frame(cx),
            Self::Client(body) => body.poll_frame(cx),
            Self::Channel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full { data, trailers } => data.is_none() && trailers.is_none(),
            Self::File(file) => file.is_end_stream(),
            Self::Client(body) => body.body.is_end_stream(),
            Self::Channel(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Self::File(file) => SizeHint::with_exact(file.remaining),
            Self::Client(body) => body.body.size_hint(),
            Self::Channel(body) => body.size_hint(),
        }
    }
}

// === impl Channel ===

impl Channel {
    /// `bytes`: the length of the body, where it is known.
    pub(super) fn new(
        frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
        bytes: Option<u64>,
    ) -> Self {
        Self {
            frames,
            remaining: bytes,
        }
    }
}

impl Body for Channel {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = std::task::ready!(self.frames.poll_recv(cx));
        if let (Some(Ok(frame)), Some(remaining)) = (&frame, &mut self.remaining) {
            let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = remaining.checked_sub(bytes) else {
                return Poll::Ready(Some(Err("more bytes than announced".into())));
            };
            *remaining = left;
        }
        if frame.is_none() && self.remaining.is_some_and(|left| left > 0) {
            return Poll::Ready(Some(Err("fewer bytes than announced".into())));
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of a response, wherever it comes from.
#[derive(Debug)]
pub struct ResponseBody {
    kind: Kind,
    /// Until the last byte, the connection is busy.
    busy: Option<Busy>,
    /// Of a stream, among those that may be open.
    place: Option<OwnedSemaphorePermit>,
}

enum Kind {
    Full {
        data: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    File(FileBody),
    App(AppBody),
    /// The rest of a body whose beginning was held.
    AppAfter(std::vec::IntoIter<Frame<Bytes>>, AppBody),
    Channel(Channel),
}

/// A stored body on disk, read as fast as its reader takes it.
pub struct FileBody {
    stream: Pin<Box<ReaderStream<tokio::fs::File>>>,
    remaining: u64,
    trailers: Option<HeaderMap>,
    /// The file lives at least as long as this.
    _path: Arc<TempPath>,
}

// === impl ResponseBody ===

impl ResponseBody {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            busy: None,
            place: None,
        }
    }

    pub(super) fn empty() -> Self {
        Self::full(Bytes::new())
    }

    pub(super) fn full(data: Bytes) -> Self {
        Self::full_with_trailers(data, HeaderMap::new())
    }

    pub(super) fn full_with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self::of(Kind::Full {
            data: (!data.is_empty()).then_some(data),
            trailers: (!trailers.is_empty()).then_some(trailers),
        })
    }

    pub(super) fn app(body: AppBody) -> Self {
        Self::of(Kind::App(body))
    }

    pub(super) fn app_after(frames: Vec<Frame<Bytes>>, rest: AppBody) -> Self {
        Self::of(Kind::AppAfter(frames.into_iter(), rest))
    }

    pub(super) fn channel(body: Channel) -> Self {
        Self::of(Kind::Channel(body))
    }

    /// A stored response's body. Fails when its file cannot be opened.
    pub(super) async fn stored(body: &StoredBody, trailers: HeaderMap) -> std::io::Result<Self> {
        match body {
            StoredBody::Memory(data) => Ok(Self::full_with_trailers(data.clone(), trailers)),
            StoredBody::File { path, len } => {
                let file = FileBody::open(path.clone(), *len, trailers).await?;
                Ok(Self::of(Kind::File(file)))
            }
        }
    }

    pub(super) fn in_place(mut self, place: Option<OwnedSemaphorePermit>) -> Self {
        self.place = place;
        self
    }

    pub(super) fn while_busy(mut self, busy: Option<Busy>) -> Self {
        self.busy = busy;
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Full { data, trailers } => Poll::Ready(
                data.take()
                    .map(Frame::data)
                    .or_else(|| trailers.take().map(Frame::trailers))
                    .map(Ok),
            ),
            Kind::File(file) => file.poll_frame(cx),
            Kind::App(body) => Pin::new(body).poll_frame(cx),
            Kind::AppAfter(frames, body) => match frames.next() {
                Some(frame) => Poll::Ready(Some(Ok(frame))),
                None => Pin::new(body).poll_frame(cx),
            },
            Kind::Channel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full { data, trailers } => data.is_none() && trailers.is_none(),
            Kind::File(file) => file.is_end_stream(),
            Kind::App(body) => body.is_end_stream(),
            Kind::AppAfter(frames, body) => frames.len() == 0 && body.is_end_stream(),
            Kind::Channel(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Kind::File(file) => SizeHint::with_exact(file.remaining),
            Kind::App(body) => body.size_hint(),
            Kind::AppAfter(..) => SizeHint::default(),
            Kind::Channel(body) => body.size_hint(),
        }
    }
}

// === impl Kind ===

impl std::fmt::Debug for Kind {
    /// Bodies are the users' own: only what kind of body it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full { .. } => "Full",
            Self::File(_) => "File",
            Self::App(_) | Self::AppAfter(..) => "App",
            Self::Channel(_) => "Channel",
        })
    }
}

// === impl FileBody ===

impl std::fmt::Debug for FileBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileBody")
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}

impl FileBody {
    async fn open(path: Arc<TempPath>, bytes: u64, trailers: HeaderMap) -> std::io::Result<Self> {
        let file = tokio::fs::File::open(&**path).await?;
        Ok(Self {
            stream: Box::pin(ReaderStream::with_capacity(file, FILE_CHUNK_BYTES)),
            remaining: bytes,
            trailers: (!trailers.is_empty()).then_some(trailers),
            _path: path,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0 && self.trailers.is_none()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.remaining == 0 {
            return Poll::Ready(self.trailers.take().map(Frame::trailers).map(Ok));
        }
        match std::task::ready!(self.stream.as_mut().poll_next(cx)) {
            Some(Ok(data)) if data.len() as u64 <= self.remaining => {
                self.remaining -= data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Some(Ok(_)) | None => Poll::Ready(Some(Err(
                "the file of a stored body has another length".into(),
            ))),
        }
    }
}
