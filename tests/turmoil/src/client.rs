//! Clients of the group.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use synod_sidecar::net::TcpStream;
use tokio::time::timeout;

/// Longer than a member takes for any answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `Synod-Outcome`; empty: none.
    pub(crate) outcome: String,
    pub(crate) body: Bytes,
}

/// Why nothing did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("broken off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("no answer in {PATIENCE:?}")]
    TimedOut,
}

pub(crate) async fn get(address: &str, path: &str) -> Result<Answer, Error> {
    send(address, request(Method::GET, path, Bytes::new())).await
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "notes.example")
        .body(Full::new(body.into()))
        .expect("a request")
}

/// Sends it over a connection of its own.
pub(crate) async fn send(address: &str, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
    let sending = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        let response = sender.send_request(request).await?;
        let outcome = response.headers().get("synod-outcome");
        let outcome = outcome.and_then(|it| it.to_str().ok()).unwrap_or_default();
        Ok(Answer {
            status: response.status(),
            outcome: outcome.to_owned(),
            body: response.into_body().collect().await?.to_bytes(),
        })
    };
    timeout(PATIENCE, sending)
        .await
        .unwrap_or(Err(Error::TimedOut))
}
