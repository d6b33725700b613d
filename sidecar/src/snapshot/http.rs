//! Method `http`: the app itself says what its state is, and takes it back.
//!
//! In: two endpoints of the app. Out: a [`Draft`] that holds what `save` answered; or an app that
//! has taken, by `restore`, what a snapshot holds. Each request has a connection of its own, which
//! is never used again. What the app gets besides method and path:
//!
//! | field | value |
//! |---|---|
//! | `host` | `localhost`, on every copy |
//! | `user-agent` | `synod` |
//! | `synod-snapshot` | `save`, `restore`, `settle` or `applied` |
//! | `synod-slot` | the last slot whose effect is in the state; 0 with `applied` |
//! | `accept-encoding` | `identity` |
//! | `connection` | `close` |
//! | `content-type` | `application/octet-stream`, for `restore` |
//! | `content-length` | size of the state, for `restore` |
//!
//! `save` is answered 200 with the whole state as its body, of declared length or in chunks. An
//! answer whose end is that of the connection is refused, since a dying app looks the same.
//! `restore` is answered 2xx when the state is in place. `settle` is answered 200 or 204 when
//! nothing goes on behind the app's last response, and 503 while something does.

mod error;
mod exchange;
#[cfg(test)]
mod tests;
mod upload;

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use synod_failpoint::{Point, hit};
use synod_paxos::Slot;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

pub use error::{HttpError, HttpFailure, Step};

use super::draft::Draft;
use super::head::Head;
use super::reader::StateReader;
use super::store::{Store, StoreError};
use crate::config::Protocol;
use exchange::Exchange;
use upload::Upload;

const SNAPSHOT: HeaderName = HeaderName::from_static("synod-snapshot");
const SLOT: HeaderName = HeaderName::from_static("synod-slot");
/// Pieces that wait for the disk, or for the app; none is larger than [`PIECE_BYTES`] by much.
const QUEUED_PIECES: usize = 4;
/// Of the answer to a question, in bytes.
const ANSWER_BYTES: usize = 1 << 10;
/// Of a state that is sent, in bytes.
const PIECE_BYTES: usize = 256 << 10;
/// Between two questions whether the app has settled.
const ASK_AGAIN: Duration = Duration::from_millis(5);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_millis(200);

/// An app that saves and restores its own state.
#[derive(Clone, Debug)]
pub struct HttpSnapshots {
    /// Where the app listens.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Answers with the state.
    pub save: Endpoint,
    /// Takes the state.
    pub restore: Endpoint,
    /// Tells whether the app still works on what it has answered already.
    pub settle: Option<Endpoint>,
    /// What is too much.
    pub limits: HttpLimits,
}

/// A request to the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// HTTP method.
    pub method: Method,
    /// Path, with a query if there is one.
    pub path: PathAndQuery,
}

/// Whether the process that listens now is the one that is meant. Asked on each connection, before
/// the first byte is sent (rule A4).
pub type SameApp = Arc<dyn Fn() -> bool + Send + Sync>;

/// What is too much of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest state, in bytes.
    pub state_bytes: u64,
    /// Longest time in which nothing moves. Noticed within twice that time.
    pub silence: Duration,
    /// Longest time for the whole of it.
    pub whole: Duration,
}

// === impl HttpSnapshots ===

impl HttpSnapshots {
    /// Asks the app for its state and takes it. The app may go on when this returns; the draft is
    /// not a snapshot before [`Draft::commit`]. After an error, or when this is dropped, the
    /// connection is closed, and soon nothing is left of the draft.
    pub async fn save(
        &self,
        store: &Store,
        head: Head,
        tables: Bytes,
        same: &SameApp,
    ) -> Result<Draft, HttpError> {
        let slot = head.slot;
        let saving = self.try_save(store, head, tables, same);
        self.limited(Step::Save, &self.save, saving, slot).await
    }

    /// Gives the app the state of a snapshot. After an error nobody knows what the app holds: it
    /// must be started anew before it is used.
    pub async fn restore(&self, reader: StateReader, same: &SameApp) -> Result<(), HttpError> {
        let slot = reader.snapshot().head.slot;
        let restoring = self.try_restore(reader, same);
        self.limited(Step::Restore, &self.restore, restoring, slot)
            .await
    }

    /// Waits until the app has settled; at once, if it has no endpoint for that.
    pub async fn settle(&self, slot: Slot) -> Result<(), HttpError> {
        let Some(endpoint) = &self.settle else {
            return Ok(());
        };
        let settling = self.try_settle(endpoint, slot);
        self.limited(Step::Settle, endpoint, settling, slot).await
    }

    async fn limited<T>(
        &self,
        step: Step,
        endpoint: &Endpoint,
        work: impl Future<Output = Result<T, HttpFailure>>,
        slot: Slot,
    ) -> Result<T, HttpError> {
        let whole = self.limits.whole;
        let done = timeout(whole, work).await;
        done.unwrap_or(Err(HttpFailure::TooSlow(whole)))
            .map_err(|why| HttpError {
                step,
                endpoint: format!("{} {}", endpoint.method, endpoint.path),
                slot,
                why,
            })
    }

    async fn try_save(
        &self,
        store: &Store,
        head: Head,
        tables: Bytes,
        same: &SameApp,
    ) -> Result<Draft, HttpFailure> {
        let request = request(&self.save, "save", head.slot, Upload::empty());
        let mut exchange = Exchange::open(self.address, self.protocol).await?;
        check(same)?;
        let response = timeout(self.limits.silence, exchange.send(request)).await;
        let response = response.map_err(|_| HttpFailure::Silent(self.limits.silence))??;
        if response.status() != StatusCode::OK {
            return Err(HttpFailure::Status(response.status()));
        }
        if response.headers().contains_key(header::CONTENT_ENCODING) {
            return Err(HttpFailure::Encoded);
        }
        let mut body = response.into_body();
        let declared = body.size_hint().exact();
        if declared.is_none() && exchange.ends_with_connection() {
            return Err(HttpFailure::NoLength);
        }
        let expected = declared.unwrap_or(0);
        if expected > self.limits.state_bytes {
            return Err(HttpFailure::TooLarge(self.limits.state_bytes));
        }
        let store = store.clone();
        let (pieces, mut written) = mpsc::channel::<Bytes>(QUEUED_PIECES);
        let writing = tokio::task::spawn_blocking(move || {
            let mut draft = store.begin(head, &tables, expected)?;
            while let Some(piece) = written.blocking_recv() {
                draft.push(&piece)?;
            }
            Ok(draft)
        });
        let received = self.receive(&mut body, pieces).await;
        let draft: Result<Draft, StoreError> = match writing.await {
            Ok(draft) => draft,
            Err(error) => return Err(HttpFailure::Broken(error.to_string())),
        };
        let draft = draft?;
        received?;
        exchange.finish().await?;
        Ok(draft)
    }

    /// All of a body, to whoever writes it; ends early when that one has ended.
    async fn receive(
        &self,
        body: &mut Incoming,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<(), HttpFailure> {
        let HttpLimits {
            state_bytes,
            silence,
            ..
        } = self.limits;
        let mut bytes = 0;
        loop {
            let frame = tokio::select! {
                frame = timeout(silence, body.frame()) => frame,
                () = pieces.closed() => return Ok(()),
            };
            let Some(frame) = frame.map_err(|_| HttpFailure::Silent(silence))? else {
                return Ok(());
            };
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            bytes += data.len() as u64;
            if bytes > state_bytes {
                return Err(HttpFailure::TooLarge(state_bytes));
            }
            if pieces.send(data).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn try_restore(
        &self,
        mut reader: StateReader,
        same: &SameApp,
    ) -> Result<(), HttpFailure> {
        let (slot, total) = {
            let snapshot = reader.snapshot();
            (snapshot.head.slot, snapshot.state_bytes)
        };
        let mut exchange = Exchange::open(self.address, self.protocol).await?;
        check(same)?;
        hit(Point::RestoreBegun);
        let (pieces, queue) = mpsc::channel(QUEUED_PIECES);
        let (upload, progress) = Upload::new(queue, total);
        // Ends with the state, or when the upload is dropped.
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = BytesMut::zeroed(PIECE_BYTES);
                let read = match reader.read(&mut piece) {
                    Ok(0) => return,
                    read => read.map(|count| piece.split_to(count).freeze()),
                };
                let read = read.and_then(|piece| {
                    synod_failpoint::check(Point::RestorePieceRead).map(|()| piece)
                });
                let failed = read.is_err();
                if pieces.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        let mut request = request(&self.restore, "restore", slot, upload);
        let octets = HeaderValue::from_static("application/octet-stream");
        request.headers_mut().insert(header::CONTENT_TYPE, octets);
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, total.into());
        let mut sending = std::pin::pin!(exchange.send(request));
        let mut moved = 0;
        let response = loop {
            match timeout(self.limits.silence, &mut sending).await {
                Ok(response) => break response,
                Err(_) if progress.sent() == moved => {
                    return Err(HttpFailure::Silent(self.limits.silence));
                }
                Err(_) => moved = progress.sent(),
            }
        };
        hit(Point::RestoreAnswered);
        if let Some(error) = progress.error() {
            return Err(HttpFailure::Snapshot(error));
        }
        let response = response?;
        if !response.status().is_success() {
            return Err(HttpFailure::Status(response.status()));
        }
        if progress.sent() != total {
            return Err(HttpFailure::Early {
                sent: progress.sent(),
                total,
            });
        }
        Ok(())
    }

    async fn try_settle(&self, endpoint: &Endpoint, slot: Slot) -> Result<(), HttpFailure> {
        let mut pause = ASK_AGAIN;
        loop {
            let request = request(endpoint, "settle", slot, Upload::empty());
            let mut exchange = Exchange::open(self.address, self.protocol).await?;
            let response = timeout(self.limits.silence, exchange.send(request)).await;
            let response = response.map_err(|_| HttpFailure::Silent(self.limits.silence))??;
            match response.status() {
                StatusCode::OK | StatusCode::NO_CONTENT => return Ok(()),
                StatusCode::SERVICE_UNAVAILABLE => {}
                status => return Err(HttpFailure::Status(status)),
            }
            sleep(pause).await;
            pause = (pause * 2).min(ASK_AGAIN_AT_MOST);
        }
    }
}

/// Asks an app a question of a few words, such as which slot its state contains: the body of its
/// answer, if that is 200.
pub async fn ask(
    address: SocketAddr,
    protocol: Protocol,
    endpoint: &Endpoint,
    same: &SameApp,
    limit: Duration,
) -> Result<String, HttpFailure> {
    let asking = async {
        let request = request(endpoint, "applied", Slot::ZERO, Upload::empty());
        let mut exchange = Exchange::open(address, protocol).await?;
        check(same)?;
        let response = exchange.send(request).await?;
        if response.status() != StatusCode::OK {
            return Err(HttpFailure::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| HttpFailure::Broken(error.to_string()))?;
        let text = String::from_utf8(body.to_bytes().into());
        text.map_err(|_| HttpFailure::Broken("its answer is not a text".to_owned()))
    };
    let done = timeout(limit, asking).await;
    done.unwrap_or(Err(HttpFailure::TooSlow(limit)))
}

fn check(same: &SameApp) -> Result<(), HttpFailure> {
    if same() {
        return Ok(());
    }
    Err(HttpFailure::OtherApp)
}

/// The same bytes on every copy.
fn request(endpoint: &Endpoint, what: &'static str, slot: Slot, body: Upload) -> Request<Upload> {
    let mut request = Request::new(body);
    *request.method_mut() = endpoint.method.clone();
    *request.uri_mut() = endpoint.path.clone().into();
    let headers = request.headers_mut();
    for (name, value) in [
        (header::HOST, "localhost"),
        (header::USER_AGENT, "synod"),
        (SNAPSHOT, what),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(SLOT, slot.0.into());
    let identity = HeaderValue::from_static("identity");
    headers.insert(header::ACCEPT_ENCODING, identity);
    request
}

impl From<StoreError> for HttpFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
