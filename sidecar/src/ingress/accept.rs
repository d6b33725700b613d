//! Clients' connections: accepted, watched, and drained at the end.
//!
//! In: a listening socket. Out: requests to [`Core`], responses to clients. HTTP/1.1 and HTTP/2
//! with prior knowledge share the port and are told apart by the first bytes.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use synod_proto::v1::handover_server::HandoverServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Parts;
use super::backend::Backend;
use super::body::{RequestBody, ResponseBody};
use super::core::{Connection, Core};
use super::framing::{Framing, HeadLimits, Violation};
use super::guard::{Guard, Patience, Refused, Returned, Watched};
use super::handover::HandoverService;
use super::problem::Problem;
use crate::net::{TcpListener, TcpStream};

/// The first bytes of an HTTP/2 connection (RFC 9113, 3.4).
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that may be read from a connection beside the largest header section.
const READ_AHEAD_BYTES: usize = 8 << 10;
/// After an accept that failed for want of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// For a client to take our last words before the connection is reset.
const LINGER: Duration = Duration::from_secs(5);
/// Most of what such a client may still send meanwhile: many look for an answer only after all of
/// their body has left.
const LINGER_BYTES: usize = 32 << 20;

/// Serves clients.
pub struct Server<B> {
    core: Arc<Core<B>>,
}

// === impl Server ===

impl<B> std::fmt::Debug for Server<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl<B: Backend> Server<B> {
    /// Puts it together; nothing runs yet.
    pub fn new(parts: Parts<B>) -> Self {
        Self {
            core: Arc::new(Core::new(parts)),
        }
    }

    /// The service by which other members hand reads over and fetch answers, for the port that
    /// members use among themselves.
    pub fn handover(&self) -> HandoverServer<HandoverService<B>> {
        HandoverServer::new(HandoverService::new(self.core.clone()))
    }

    /// Accepts clients until `stop`; then finishes what runs, within the limit for that, and
    /// returns.
    pub async fn serve(&self, listener: TcpListener, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(self.core.limits.max_connections));
        let cut_off = CancellationToken::new();
        loop {
            let place = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                place = places.clone().acquire_owned() => {
                    place.expect("the places are never closed")
                }
            };
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a client's connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let core = self.core.clone();
            let (stop, cut_off) = (stop.clone(), cut_off.clone());
            connections.spawn(async move {
                let _held = core.metrics.connection();
                tokio::select! {
                    () = cut_off.cancelled() => {}
                    () = connection(&core, stream, address.ip(), stop) => {}
                }
                drop(place);
            });
        }
        drop(listener);
        connections.close();
        if timeout(self.core.limits.drain, connections.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = connections.len(),
                "clients were cut off: their requests took longer than the time to drain"
            );
            cut_off.cancel();
            connections.wait().await;
        }
    }
}

async fn connection<B: Backend>(
    core: &Arc<Core<B>>,
    mut stream: TcpStream,
    client: IpAddr,
    stop: CancellationToken,
) {
    // A failure costs latency only.
    let _ = stream.set_nodelay(true);
    let (first, is_http_2) = tokio::select! {
        () = stop.cancelled() => return,
        first = timeout(core.limits.idle, first_bytes(&mut stream)) => match first {
            Ok(Ok(first)) => first,
            // It left, or never said anything.
            Ok(Err(_)) | Err(_) => return,
        },
    };
    if first.is_empty() {
        return;
    }
    let framing = (!is_http_2).then(|| {
        Framing::new(HeadLimits {
            bytes: core.limits.header_bytes,
            fields: core.limits.header_fields,
        })
    });
    let patience = Patience {
        head: core.limits.header_timeout,
        idle: core.limits.idle,
        write: core.limits.write_timeout,
    };
    let watched = Arc::new(Watched::default());
    let (guard, returned) = Guard::new(stream, first, framing, watched.clone(), patience);
    let io = TokioIo::new(guard);
    let connection = Arc::new(Connection {
        client,
        source: Arc::new(core.room.source()),
        watched: (!is_http_2).then_some(watched),
    });
    if is_http_2 {
        serve_http_2(core, io, connection, stop).await;
    } else {
        serve_http_1(core, io, connection, stop).await;
        if let Ok(returned) = returned.await {
            last_words(core, returned).await;
        }
    }
}

/// Reads until it is clear which protocol the client speaks.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<(Bytes, bool)> {
    let mut first = BytesMut::with_capacity(4096);
    while stream.read_buf(&mut first).await? > 0 {
        let known = first.len().min(HTTP_2_PREFACE.len());
        if first[..known] != HTTP_2_PREFACE[..known] {
            return Ok((first.freeze(), false));
        }
        if known == HTTP_2_PREFACE.len() {
            return Ok((first.freeze(), true));
        }
    }
    Ok((Bytes::new(), false))
}

async fn serve_http_1<B: Backend>(
    core: &Arc<Core<B>>,
    io: TokioIo<Guard>,
    client: Arc<Connection>,
    stop: CancellationToken,
) {
    let service =
        service_fn(|request: Request<Incoming>| core.clone().serve_client(request, client.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // Both are the guard's business, which can tell an idle client from a slow one.
        .header_read_timeout(None)
        .max_headers(core.limits.header_fields)
        // The library would read ahead far more, and a slow client is not to hold that.
        .max_buf_size(core.limits.header_bytes + READ_AHEAD_BYTES)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

async fn serve_http_2<B: Backend>(
    core: &Arc<Core<B>>,
    io: TokioIo<Guard>,
    client: Arc<Connection>,
    stop: CancellationToken,
) {
    let service =
        service_fn(|request: Request<Incoming>| core.clone().serve_client(request, client.clone()));
    let header_bytes = u32::try_from(core.limits.header_bytes).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(header_bytes)
        .max_concurrent_streams(core.limits.max_streams)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .keep_alive_interval(Some(core.limits.idle))
        .serve_connection(io, service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

/// Tells a client why its bytes were not acted on, unless it was told, and closes.
async fn last_words<B: Backend>(core: &Arc<Core<B>>, returned: Returned) {
    let problem = match returned.refused {
        Refused::Head(Violation::Malformed(detail)) => Some(Problem::malformed(detail)),
        Refused::Head(Violation::TooLarge) => Some(Problem::header_too_large()),
        Refused::SlowHead => Some(Problem::too_slow("its header section took too long")),
        Refused::Body | Refused::Unread => None,
        Refused::Idle => return,
    };
    let words = problem.map(|problem| core.raw_problem(&problem, returned.bodiless));
    let mut stream = returned.stream;
    let closing = async {
        stream.write_all(&words.unwrap_or_default()).await?;
        stream.shutdown().await?;
        // Closing with bytes unread resets the connection, and the answer with it.
        let mut rest = vec![0; 16 << 10];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut rest).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, io::Error>(())
    };
    // It is the client's loss if it does not listen.
    let _ = timeout(LINGER, closing).await;
}

/// A response under way.
type Responding = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Infallible>> + Send>>;

// === impl Core ===

impl<B: Backend> Core<B> {
    /// Boxed: the library would else have to name what a request goes through.
    fn serve_client(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Responding {
        let watched = &connection.watched;
        // Before anything else is read from the connection.
        let busy = watched.as_ref().map(Watched::begin);
        let gap = self.limits.body_gap;
        let request = request.map(|body| RequestBody::client(body, gap, watched.clone()));
        Box::pin(async move {
            let response = self.handle(request, &connection).await;
            Ok(response.map(|body| body.while_busy(busy)))
        })
    }
}
