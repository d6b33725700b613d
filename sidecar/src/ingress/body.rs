//! Bodies in both directions: what a client sends, and what it gets.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
    /// As the client sends it to this member.
    Incoming(Incoming),
    /// As another member passes it on.
    Channel(Channel),
}

/// A body whose frames come from another task.
#[derive(Debug)]
pub struct Channel {
    frames: mpsc::Receiver<Result<Frame<Bytes>, BoxError>>,
    /// Bytes still to come, where that is known.
    remaining: Option<u64>,
}

// === impl RequestBody ===

impl RequestBody {
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
            Self::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Channel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full { data, trailers } => data.is_none() && trailers.is_none(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Channel(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Self::Incoming(body) => body.size_hint(),
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
