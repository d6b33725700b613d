//! One HTTP request to a member's admin port.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Longest answer that is read.
const MAX_BYTES: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nobody took the connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, std::io::Error),
    /// The connection ended, or the answer was no HTTP.
    #[error("no answer from {0}: {1}")]
    Answer(SocketAddr, String),
    /// It took too long.
    #[error("no answer from {0} within {1:?}")]
    Late(SocketAddr, Duration),
}

/// Sends a request without a body, and reads the whole answer.
pub(crate) async fn call(
    address: SocketAddr,
    method: Method,
    path: &str,
    limit: Duration,
) -> Result<(StatusCode, Bytes), CallError> {
    tokio::time::timeout(limit, exchange(address, method, path))
        .await
        .unwrap_or(Err(CallError::Late(address, limit)))
}

async fn exchange(
    address: SocketAddr,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), CallError> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| CallError::Connect(address, error))?;
    let answer = |error: &dyn std::fmt::Display| CallError::Answer(address, error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| answer(&error))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .expect("a fixed path is a target");
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| answer(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await
            .map_err(|error| answer(&error))?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange);
    tokio::select! {
        result = &mut exchange => result,
        // The connection may be done with before what it brought has been read.
        _ = connection => exchange.await,
    }
}
