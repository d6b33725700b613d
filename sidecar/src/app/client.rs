//! The app behind HTTP: ordered requests on one connection of their own, reads on others.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use synod_failpoint::{Point, check, hit};
use tokio::sync::Notify;

use super::connection::Connection;
use super::headers::keep_end_to_end;
use super::instance::Listeners;
use super::reads::Reads;
use super::request::WholeBody;
use super::spool::ResponseSpool;
use super::{App, BoxError, ExecuteError, Executed, Instance, NotSent, Order};
use crate::apply::{StoredBody, StoredResponse};
use crate::config::Protocol;

/// A cheap handle on the app.
#[derive(Clone)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    listeners: Listeners,
    spool: Arc<Path>,
    /// The connection for ordered requests, when none is under way.
    ordered: Mutex<Option<Connection<WholeBody>>>,
    pub(super) reads: Reads,
    pub(super) doubt: Notify,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("address", &self.shared.address)
            .field("protocol", &self.shared.protocol)
            .finish_non_exhaustive()
    }
}

// === impl Client ===

impl Client {
    /// A client of the app at `address`; nothing is sent yet. Large responses go to files in the
    /// folder `spool`, which must exist when the first one comes.
    pub fn new(address: SocketAddr, protocol: Protocol, spool: PathBuf) -> Self {
        Self {
            shared: Arc::new(Shared {
                address,
                protocol,
                listeners: Listeners::new(address),
                spool: spool.into(),
                ordered: Mutex::new(None),
                reads: Reads::default(),
                doubt: Notify::new(),
            }),
        }
    }

    pub(super) async fn connect<B>(&self) -> Result<Connection<B>, NotSent>
    where
        B: Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
    {
        let shared = &self.shared;
        Connection::open(shared.address, shared.protocol, &shared.listeners).await
    }

    async fn send(&self, order: Order) -> Result<Executed, ExecuteError> {
        if let Some(mut connection) = self.idle(order.instance).await {
            match self.exchange(&mut connection, &order).await {
                // It had ended unnoticed; a new one can be had at once.
                Err(ExecuteError::NotSent(_)) => {}
                result => return self.keep(connection, result),
            }
        }
        let mut connection = self.connect().await?;
        check(Point::AppConnected).map_err(NotSent::Connect)?;
        if connection.instance() != order.instance {
            return Err(NotSent::OtherInstance.into());
        }
        let result = self.exchange(&mut connection, &order).await;
        self.keep(connection, result)
    }

    async fn idle(&self, instance: Instance) -> Option<Connection<WholeBody>> {
        let mut connection = self.ordered().take()?;
        (connection.instance() == instance && connection.reusable().await).then_some(connection)
    }

    fn keep(
        &self,
        mut connection: Connection<WholeBody>,
        result: Result<Executed, ExecuteError>,
    ) -> Result<Executed, ExecuteError> {
        if result.is_ok() {
            connection.rest();
            *self.ordered() = Some(connection);
        }
        result
    }

    fn ordered(&self) -> std::sync::MutexGuard<'_, Option<Connection<WholeBody>>> {
        self.shared
            .ordered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(
        &self,
        connection: &mut Connection<WholeBody>,
        order: &Order,
    ) -> Result<Executed, ExecuteError> {
        let Some(request) = order.to_http(self.shared.protocol) else {
            return Ok(cannot_be_sent());
        };
        let written = connection.written();
        let head_only = request.method() == http::Method::HEAD;
        let sending = connection.send(request);
        match connection.drive(sending).await {
            Ok(response) => self.read(connection, response, head_only).await,
            Err(error) if connection.written() == written => Err(NotSent::Http(error).into()),
            Err(error) => Err(ExecuteError::Unknown(describe(&error))),
        }
    }

    /// Reads the response to its end.
    async fn read(
        &self,
        connection: &mut Connection<WholeBody>,
        response: Response<Incoming>,
        head_only: bool,
    ) -> Result<Executed, ExecuteError> {
        hit(Point::AppResponseBegun);
        let (mut head, mut body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let why = "it switched protocols, which nobody had asked for";
            return Err(ExecuteError::Unknown(why.into()));
        }
        let ends_with_connection = !head_only && ends_with_connection(&head);
        let mut spool = ResponseSpool::new(self.shared.spool.clone());
        let mut trailers = HeaderMap::new();
        while let Some(frame) = connection.drive(body.frame()).await {
            let frame = frame.map_err(|error| ExecuteError::Unknown(describe(&error)))?;
            hit(Point::AppResponsePiece);
            match frame.into_data() {
                Ok(data) => spool.push(data).await,
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        // The end of the connection is also what the death of the app looks like.
        if ends_with_connection
            && !matches!(self.look(), Ok(Some(now)) if now == connection.instance())
        {
            let why = "it went down while it sent a response of unknown length";
            return Err(ExecuteError::Unknown(why.into()));
        }
        keep_end_to_end(&mut head.headers);
        keep_end_to_end(&mut trailers);
        let response = match spool.finish() {
            Ok(body) => Some(StoredResponse {
                status: head.status,
                headers: head.headers,
                body,
                trailers,
            }),
            Err(error) => {
                tracing::warn!(%error, "a response could not be kept; check the data volume");
                None
            }
        };
        Ok(Executed { response })
    }
}

impl App for Client {
    fn recognise(&self, instance: Instance) {
        self.shared.listeners.recognise(instance);
    }

    fn look(&self) -> io::Result<Option<Instance>> {
        self.shared.listeners.look()
    }

    fn partly_gone(&self) -> bool {
        self.shared.listeners.partly_gone()
    }

    async fn execute(self: Arc<Self>, order: Order) -> Result<Executed, ExecuteError> {
        self.send(order).await
    }

    fn set_reads(&self, instance: Option<Instance>) {
        self.shared.reads.allow(instance);
    }

    async fn doubted(&self) {
        self.shared.doubt.notified().await;
    }
}

/// Neither a length nor chunks: the body ends where the connection does (RFC 9112, section 6.3).
fn ends_with_connection(head: &http::response::Parts) -> bool {
    head.version < Version::HTTP_2
        && head.status != StatusCode::NO_CONTENT
        && head.status != StatusCode::NOT_MODIFIED
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
}

/// Every copy answers alike what no copy can send.
fn cannot_be_sent() -> Executed {
    Executed {
        response: Some(StoredResponse {
            status: StatusCode::BAD_REQUEST,
            headers: HeaderMap::new(),
            body: StoredBody::Memory(Bytes::new()),
            trailers: HeaderMap::new(),
        }),
    }
}

/// The error with its causes; hyper's own text leaves them out.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
