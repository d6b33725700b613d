//! The body of a request to the app: nothing, or a state as it is read.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A body of known length. It ends early, hence with an error, if the state cannot be read.
#[derive(Debug)]
pub(super) struct Upload {
    pieces: Option<mpsc::Receiver<io::Result<Bytes>>>,
    left: u64,
    progress: Progress,
}

/// How far an upload is, for whoever has given it away.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    error: OnceLock<Arc<io::Error>>,
}

// === impl Progress ===

impl Progress {
    /// Bytes that were handed to the connection.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Acquire)
    }

    /// Why the state cannot be read.
    pub(super) fn error(&self) -> Option<Arc<io::Error>> {
        self.shared.error.get().cloned()
    }
}

// === impl Upload ===

impl Upload {
    pub(super) fn empty() -> Self {
        Self {
            pieces: None,
            left: 0,
            progress: Progress::default(),
        }
    }

    pub(super) fn new(pieces: mpsc::Receiver<io::Result<Bytes>>, total: u64) -> (Self, Progress) {
        let progress = Progress::default();
        let upload = Self {
            pieces: Some(pieces),
            left: total,
            progress: progress.clone(),
        };
        (upload, progress)
    }

    fn fail(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        // Of several the first counts.
        let _ = self.progress.shared.error.set(Arc::new(error));
        kind.into()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let Some(pieces) = &mut this.pieces else {
            return Poll::Ready(None);
        };
        let piece = ready!(pieces.poll_recv(cx));
        let sent = match piece {
            Some(Ok(piece)) if piece.len() as u64 <= this.left => piece,
            Some(Err(error)) => return Poll::Ready(Some(Err(this.fail(error)))),
            Some(Ok(_)) | None => {
                let what = io::Error::other("the state has another size than the snapshot says");
                return Poll::Ready(Some(Err(this.fail(what))));
            }
        };
        this.left -= sent.len() as u64;
        let total = &this.progress.shared.sent;
        total.fetch_add(sent.len() as u64, Ordering::AcqRel);
        Poll::Ready(Some(Ok(Frame::data(sent))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
