//! Connections to a member, which must prove its name.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::TcpKeepalive;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::expiry::{self, Expiring};
use super::{Identity, IdentityError, Names, Who};
use crate::config::Tls;
use crate::net::{self, TcpStream};

/// Limit on one attempt, name lookup and handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Limit on the first step of it. A fresh attempt reaches a link that has healed sooner than the
/// retransmissions of an old one.
const TCP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long sent bytes may stay unacknowledged before the kernel gives the connection up. A healed
/// link does not revive a connection whose retransmissions have backed off.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(4);
/// Silence after which the other side is asked whether it is there, by the kernel and by HTTP/2.
pub(crate) const KEEPALIVE_AFTER: Duration = Duration::from_secs(2);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The caller's own files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The table has no line for it.
    #[error("the peer table has no address of {0}")]
    NoAddress(String),
    /// Name lookup or TCP failed.
    #[error("cannot reach {address}: {error}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// It took too long.
    #[error("{address} did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Where.
        address: String,
    },
    /// What answered is not the member that was meant, or refused us.
    #[error("{address} is not the expected member: {}", super::words::plain(error))]
    Handshake {
        /// Where.
        address: String,
        /// What TLS said.
        error: std::io::Error,
    },
    /// HTTP/2 did not come up.
    #[error("cannot speak gRPC with {address}: {error}")]
    Grpc {
        /// Where.
        address: String,
        /// What the library said, with its causes.
        error: String,
    },
}

/// A connection whose other side has proved its name.
type Secure = Expiring<TlsStream<TcpStream>>;

/// Makes connections to one member, each with the newest certificates and the newest address.
#[derive(Clone)]
pub struct Connector {
    identity: Identity,
    expected: Who,
    address: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// A gRPC channel to `address` (`host:port`) for an operator or a command line: `files` hold its
/// certificate, `own` says whose that is, `expected` whom it wants to speak to.
pub async fn connect(
    files: &Tls,
    names: &Names,
    own: Who,
    address: &str,
    expected: Who,
) -> Result<Channel, ConnectError> {
    let identity = Identity::load(files, names, own)?;
    Connector::fixed(identity, expected, address.to_owned())
        .channel()
        .await
}

// === impl Connector ===

impl Connector {
    /// To a member that is found by asking `address` at each connection.
    pub fn new(
        identity: Identity,
        expected: Who,
        address: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self {
            identity,
            expected,
            address: Arc::new(address),
        }
    }

    /// To a member at a known place.
    pub fn fixed(identity: Identity, expected: Who, address: String) -> Self {
        Self::new(identity, expected, move || Some(address.clone()))
    }

    /// A channel that is connected now.
    pub async fn channel(&self) -> Result<Channel, ConnectError> {
        self.channel_over(endpoint(WINDOW)).await
    }

    /// The same for large messages: with another bound on what may be on its way before it is read,
    /// in bytes, and in few frames.
    pub async fn bulk_channel(&self, window: u32) -> Result<Channel, ConnectError> {
        self.channel_over(endpoint(window).max_frame_size(window / 8))
            .await
    }

    async fn channel_over(&self, endpoint: Endpoint) -> Result<Channel, ConnectError> {
        let grpc = |error: tonic::transport::Error| ConnectError::Grpc {
            address: (self.address)().unwrap_or_default(),
            error: causes(&error),
        };
        // The first connection is made here, so that its errors keep their kind.
        let mut first = Some(self.dial().await?);
        let again = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let ready = first.take();
            let again = again.clone();
            async move {
                match ready {
                    Some(stream) => Ok(TokioIo::new(stream)),
                    None => again.dial().await.map(TokioIo::new),
                }
            }
        });
        endpoint
            .connect_with_connector(connector)
            .await
            .map_err(grpc)
    }

    /// A channel that connects when it is used, and again after each loss.
    pub fn lazy_channel(&self) -> Channel {
        endpoint(WINDOW).connect_with_connector_lazy(self.clone())
    }

    /// One TCP connection with TLS, the other side's name verified.
    pub async fn dial(&self) -> Result<Secure, ConnectError> {
        let address = (self.address)()
            .ok_or_else(|| ConnectError::NoAddress(self.identity.names().of(&self.expected)))?;
        let attempt = self.attempt(&address);
        match timeout(CONNECT_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut { address }),
        }
    }

    async fn attempt(&self, address: &str) -> Result<Secure, ConnectError> {
        let unreachable = |error| ConnectError::Unreachable {
            address: address.to_owned(),
            error,
        };
        let mut last = std::io::Error::other("the name has no address");
        for place in net::lookup_host(address).await.map_err(unreachable)? {
            match timeout(TCP_TIMEOUT, TcpStream::connect(place)).await {
                Ok(Ok(stream)) => return self.secure(address, place, stream).await,
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(unreachable(last))
    }

    async fn secure(
        &self,
        address: &str,
        place: SocketAddr,
        stream: TcpStream,
    ) -> Result<Secure, ConnectError> {
        tune(&stream).map_err(|error| ConnectError::Unreachable {
            address: address.to_owned(),
            error,
        })?;
        let tls = TlsConnector::from(self.identity.client(&self.expected));
        let stream = tls
            .connect(ServerName::IpAddress(place.ip().into()), stream)
            .await
            .map_err(|error| ConnectError::Handshake {
                address: address.to_owned(),
                error,
            })?;
        let shown = stream.get_ref().1.peer_certificates();
        let lasts = expiry::lasts(shown.unwrap_or_default());
        Ok(Expiring::new(stream, lasts))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.expected).finish()
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Secure>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.dial().await.map(TokioIo::new) })
    }
}

/// Socket options of every connection between members, both ends.
pub(super) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let asks = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    net::watch(stream, &asks, USER_TIMEOUT)
}

/// The authority is never looked up: the connector knows the place, the certificate the name.
fn endpoint(window: u32) -> Endpoint {
    Endpoint::from_static("http://member.synod.invalid")
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .http2_keep_alive_interval(KEEPALIVE_AFTER)
        .keep_alive_timeout(USER_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// What may be on its way before the other side has read it, in bytes.
pub(crate) const WINDOW: u32 = 8 << 20;

/// An error with its causes: the library's own words say only "transport error".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        at = cause.source();
    }
    text
}
