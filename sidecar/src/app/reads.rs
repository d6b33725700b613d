//! Requests that are not ordered: many at a time, their responses passed on as they come.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client::{Client, describe};
use super::connection::Connection;
use super::headers::keep_end_to_end;
use super::{BoxError, Instance, NotSent, request};

/// Connections for reads, streams aside, at most; more requests wait.
const CONNECTIONS: usize = 128;
/// Of these, kept open while idle: all, since a new connection costs a look at who listens.
const IDLE: usize = CONNECTIONS;

type Sent = UnsyncBoxBody<Bytes, BoxError>;
type ReadConnection = Connection<Sent>;

/// Why a read got no response.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not a byte was sent.
    #[error(transparent)]
    NotSent(#[from] NotSent),
    /// This member's copy is not in a state that answers clients. Not a byte was sent.
    #[error("this member's copy of the app does not answer clients now")]
    NotServing,
    /// Part of it was sent.
    #[error("the app broke off the request: {0}")]
    Lost(String),
}

/// The connections, and to whom they may go.
#[derive(Debug)]
pub(super) struct Reads {
    state: Mutex<State>,
    permits: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    allowed: Option<Instance>,
    idle: Vec<ReadConnection>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("allowed", &self.allowed)
            .field("idle", &self.idle.len())
            .finish()
    }
}

/// A response body as it comes from the app.
pub struct ReadBody {
    body: Incoming,
    /// Goes back when the body is at its end; closed when it is dropped before.
    lent: Option<Lent>,
}

struct Lent {
    connection: ReadConnection,
    client: Client,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Which connections a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Those for responses that end soon: as many as there are, and then it waits.
    Reads,
    /// One beside them, for a response that may never end. Whoever asks limits their number.
    Streams,
}

/// Which process a request may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// The one whose state is agreed.
    Serving,
    /// Whoever listens.
    Any,
}

// === impl Client ===

impl Client {
    /// Sends a read. It goes only to the process whose state answers clients now, as
    /// `ApplyStatus::serving` says.
    pub async fn send_read<B>(
        &self,
        request: Request<B>,
        pool: Pool,
    ) -> Result<Response<ReadBody>, ReadError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.pass(request, To::Serving, pool).await
    }

    /// Sends a request that is none of our business: whatever state the app is in.
    pub async fn send_bypass<B>(
        &self,
        request: Request<B>,
        pool: Pool,
    ) -> Result<Response<ReadBody>, ReadError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.pass(request, To::Any, pool).await
    }

    async fn pass<B>(
        &self,
        request: Request<B>,
        to: To,
        pool: Pool,
    ) -> Result<Response<ReadBody>, ReadError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let permit = self.permit(pool).await?;
        let (mut head, body) = request.into_parts();
        keep_end_to_end(&mut head.headers);
        // Set anew from the body.
        head.headers.remove(header::CONTENT_LENGTH);
        let target = head
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        head.uri = request::uri(target, &mut head.headers, self.shared.protocol)
            .ok_or_else(|| ReadError::Lost("its host cannot be sent".into()))?;

        let again = (body.is_end_stream() && head.method.is_safe())
            .then(|| (head.method.clone(), head.uri.clone(), head.headers.clone()));
        let body: Sent = body.map_err(Into::into).boxed_unsync();
        let (connection, fresh) = self.lend(to).await?;
        let lent = Lent {
            connection,
            client: self.clone(),
            _permit: permit,
        };
        match (lent.send(Request::from_parts(head, body)).await, again) {
            // The app closed it as we sent. What is safe and has no body can be said again.
            (Err(_), Some(again)) if !fresh => self.pass_again(again, to, pool).await,
            (result, _) => result,
        }
    }

    async fn pass_again(
        &self,
        (method, uri, headers): (Method, Uri, HeaderMap),
        to: To,
        pool: Pool,
    ) -> Result<Response<ReadBody>, ReadError> {
        let permit = self.permit(pool).await?;
        let body: Sent = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let lent = Lent {
            connection: self.open(to).await?,
            client: self.clone(),
            _permit: permit,
        };
        lent.send(request).await
    }

    /// The right to one of the connections; a stream needs none.
    async fn permit(&self, pool: Pool) -> Result<Option<OwnedSemaphorePermit>, ReadError> {
        if pool == Pool::Streams {
            return Ok(None);
        }
        let permits = self.shared.reads.permits.clone();
        let permit = permits.acquire_owned().await;
        permit.map(Some).map_err(|_| ReadError::NotServing)
    }

    /// A connection to whom the request may go, and whether it is new.
    async fn lend(&self, to: To) -> Result<(ReadConnection, bool), ReadError> {
        loop {
            let idle = {
                let mut state = self.shared.reads.state();
                let allowed = state.allowed;
                if to == To::Serving && allowed.is_none() {
                    return Err(ReadError::NotServing);
                }
                state
                    .idle
                    .retain(|connection| Some(connection.instance()) == allowed);
                state.idle.pop()
            };
            let Some(mut connection) = idle else {
                return Ok((self.open(to).await?, true));
            };
            if connection.reusable().await && self.may(&connection, to) {
                return Ok((connection, false));
            }
        }
    }

    async fn open(&self, to: To) -> Result<ReadConnection, ReadError> {
        let mut connection = self.connect().await?;
        if !self.may(&connection, to) {
            // Apply does not know it yet, or it knows more than we do.
            self.shared.doubt.notify_one();
            return Err(NotSent::OtherInstance.into());
        }
        connection.spawn_driver();
        Ok(connection)
    }

    fn may(&self, connection: &ReadConnection, to: To) -> bool {
        to == To::Any || self.shared.reads.state().allowed == Some(connection.instance())
    }
}

// === impl Reads ===

impl Default for Reads {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }
}

impl Reads {
    pub(super) fn allow(&self, instance: Option<Instance>) {
        let mut state = self.state();
        state.allowed = instance;
        state
            .idle
            .retain(|connection| Some(connection.instance()) == instance);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lent ===

impl Lent {
    async fn send(mut self, request: Request<Sent>) -> Result<Response<ReadBody>, ReadError> {
        let written = self.connection.written();
        match self.connection.send(request).await {
            Ok(response) => Ok(response
                .map(|body| ReadBody {
                    body,
                    lent: Some(self),
                })
                .map_head()),
            Err(error) if self.connection.written() == written => Err(NotSent::Http(error).into()),
            Err(error) => Err(ReadError::Lost(describe(&error))),
        }
    }

    fn give_back(mut self) {
        self.connection.rest();
        let mut state = self.client.shared.reads.state();
        let welcome = state.allowed == Some(self.connection.instance());
        if welcome && state.idle.len() < IDLE {
            state.idle.push(self.connection);
        }
    }
}

/// The head of a response, without what must not cross.
trait MapHead {
    fn map_head(self) -> Self;
}

impl<B> MapHead for Response<B> {
    fn map_head(mut self) -> Self {
        keep_end_to_end(self.headers_mut());
        self
    }
}

// === impl ReadBody ===

impl std::fmt::Debug for ReadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadBody").finish_non_exhaustive()
    }
}

impl Body for ReadBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none()
            && let Some(lent) = self.lent.take()
        {
            lent.give_back();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ReadBody {
    fn drop(&mut self) {
        // Whoever knows that it is at its end does not ask once more.
        if self.body.is_end_stream()
            && let Some(lent) = self.lent.take()
        {
            lent.give_back();
        }
    }
}
