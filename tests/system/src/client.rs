//! A client of members: connections are kept and used again; an error says whether the request can
//! have been seen by anybody.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Speaks to one address.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Nobody has seen the request.
    #[error("the request was not sent: {0}")]
    NotSent(String),
    /// Somebody may have.
    #[error("no response: {0}")]
    Lost(String),
}

// === impl Client ===

impl Client {
    /// Of this address.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Where it speaks to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request and reads the whole response.
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Answer, Failed> {
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::from_str(&self.address.to_string());
            request
                .headers_mut()
                .insert(HOST, host.expect("an address is a header value"));
        }
        match timeout(limit, self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(Failed::Lost(format!("nothing within {limit:?}"))),
        }
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, Failed> {
        loop {
            let kept = self.take();
            let fresh = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let answer = read(response).await?;
                    self.keep(sender);
                    return Ok(answer);
                }
                Err(mut error) => match error.take_message() {
                    // The kept connection had ended: nothing left this process.
                    Some(unsent) if !fresh => request = unsent,
                    Some(_) => return Err(Failed::NotSent(error.into_error().to_string())),
                    None => return Err(Failed::Lost(error.into_error().to_string())),
                },
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failed> {
        let not_sent = |error: &dyn std::error::Error| Failed::NotSent(error.to_string());
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|e| not_sent(&e))?;
        stream.set_nodelay(true).map_err(|e| not_sent(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| not_sent(&e))?;
        tokio::spawn(connection);
        sender.ready().await.map_err(|e| not_sent(&e))?;
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        if !sender.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push(sender);
        }
    }
}

async fn read(response: Response<hyper::body::Incoming>) -> Result<Answer, Failed> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await;
    let body = body.map_err(|error| Failed::Lost(error.to_string()))?;
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.to_bytes(),
    })
}

// === impl Answer ===

impl Answer {
    /// The number that `Synod-Slot` says.
    pub fn slot(&self) -> Option<u64> {
        let slot = self.header("synod-slot")?;
        slot.split(';').next()?.trim().parse().ok()
    }

    /// What `Synod-Outcome` says.
    pub fn outcome(&self) -> Option<&str> {
        self.header("synod-outcome")
    }

    /// A header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A request without or with a body.
pub fn request(method: &str, target: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(target);
    request
        .body(Full::new(body.into()))
        .expect("tests ask for what can be asked for")
}
