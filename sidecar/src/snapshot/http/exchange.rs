//! One request to the app, on a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::error::HttpFailure;
use super::upload::Upload;
use crate::config::Protocol;

/// The loopback answers at once, unless the app's backlog is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an app that was asked to close may take for it. One that does not close is left alone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that carries one request. It is closed when this is dropped.
pub(super) struct Exchange {
    sender: Sender,
    driver: Driver,
    /// Of the response: it has neither a length nor chunks.
    unbounded: bool,
}

enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

enum Driver {
    /// Gives the connection back with what came behind the response.
    Http1(AbortOnDropHandle<hyper::Result<http1::Parts<TokioIo<TcpStream>>>>),
    Http2 {
        _driver: AbortOnDropHandle<hyper::Result<()>>,
    },
}

// === impl Exchange ===

impl Exchange {
    pub(super) async fn open(address: SocketAddr, protocol: Protocol) -> Result<Self, HttpFailure> {
        let failed = |error: std::io::Error| HttpFailure::Connect(error.to_string());
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let io = TokioIo::new(stream);
        let (sender, driver) = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                let driver = tokio::spawn(connection.without_shutdown());
                (
                    Sender::Http1(sender),
                    Driver::Http1(AbortOnDropHandle::new(driver)),
                )
            }
            Protocol::H2c => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                let driver = AbortOnDropHandle::new(tokio::spawn(connection));
                (Sender::Http2(sender), Driver::Http2 { _driver: driver })
            }
        };
        Ok(Self {
            sender,
            driver,
            unbounded: false,
        })
    }

    /// Sends the only request of this connection.
    pub(super) async fn send(
        &mut self,
        mut request: Request<Upload>,
    ) -> Result<Response<Incoming>, HttpFailure> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                let close = HeaderValue::from_static("close");
                request.headers_mut().insert(header::CONNECTION, close);
                let response = sender.send_request(request).await?;
                let headers = response.headers();
                self.unbounded = !headers.contains_key(header::CONTENT_LENGTH)
                    && !headers.contains_key(header::TRANSFER_ENCODING);
                Ok(response)
            }
            Sender::Http2(sender) => {
                // HTTP/2 carries the host in the target.
                request.headers_mut().remove(header::HOST);
                let mut parts = request.uri().clone().into_parts();
                parts.scheme = Some(Scheme::HTTP);
                parts.authority = Some(Authority::from_static("localhost"));
                *request.uri_mut() = Uri::from_parts(parts).expect("all parts are there");
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// The end of the response's body is that of the connection.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.unbounded
    }

    /// After the last byte of the body: the app has nothing more to say. (In HTTP/2 each frame
    /// belongs to somebody, and the library compares lengths.)
    pub(super) async fn finish(self) -> Result<(), HttpFailure> {
        let Self { sender, driver, .. } = self;
        drop(sender);
        let Driver::Http1(driver) = driver else {
            return Ok(());
        };
        let rest = async {
            let Ok(Ok(parts)) = driver.await else {
                // Ended by itself; the body was whole all the same.
                return Bytes::new();
            };
            if !parts.read_buf.is_empty() {
                return parts.read_buf;
            }
            let mut byte = [0];
            let read = parts.io.into_inner().read(&mut byte).await;
            Bytes::copy_from_slice(&byte[..read.unwrap_or(0)])
        };
        match timeout(CLOSE_TIMEOUT, rest).await {
            Ok(rest) if !rest.is_empty() => Err(HttpFailure::Surplus),
            _ => Ok(()),
        }
    }
}
