//! One HTTP connection to the app, for one request at a time.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::Instant;

use super::instance::{Instance, Listeners};
use super::wire::Wire;
use super::{BoxError, NotSent};
use crate::config::Protocol;

/// Apps close idle connections just as we send, so those idle for longer are not used (rule A3).
const REUSABLE: Duration = Duration::from_millis(500);
/// Response fields that are taken, at most.
const MAX_HEADERS: usize = 512;

/// An open connection to a known instance of the app.
pub(super) struct Connection<B> {
    sender: Sender<B>,
    /// Moves the bytes while it is polled; `None` once the connection has ended.
    driver: Option<Driver>,
    wire: Wire,
    instance: Instance,
    idle_since: Instant,
}

type Driver = Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>;

enum Sender<B> {
    Http1(http1::SendRequest<B>),
    Http2(http2::SendRequest<B>),
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
{
    /// Connects, and finds out to whom (rule A4): looked up after connecting, so that an app that
    /// is started anew between the two is noticed.
    pub(super) async fn open(
        address: SocketAddr,
        protocol: Protocol,
        listeners: &Listeners,
    ) -> Result<Self, NotSent> {
        let wire = Wire::connect(address).await.map_err(NotSent::Connect)?;
        let instance = listeners
            .look()
            .map_err(NotSent::Connect)?
            .ok_or(NotSent::NoListener)?;
        let io = TokioIo::new(wire.clone());
        let (sender, driver): (Sender<B>, Driver) = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_headers(MAX_HEADERS)
                    .handshake(io)
                    .await
                    .map_err(NotSent::Http)?;
                (Sender::Http1(sender), Box::pin(connection))
            }
            Protocol::H2c => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .handshake(io)
                    .await
                    .map_err(NotSent::Http)?;
                (Sender::Http2(sender), Box::pin(connection))
            }
        };
        Ok(Self {
            sender,
            driver: Some(driver),
            wire,
            instance,
            idle_since: Instant::now(),
        })
    }

    /// The process at the other end.
    pub(super) fn instance(&self) -> Instance {
        self.instance
    }

    /// Bytes that have left so far.
    pub(super) fn written(&self) -> u64 {
        self.wire.written()
    }

    /// Notes that a response is complete.
    pub(super) fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Whether another request may be sent.
    pub(super) async fn reusable(&mut self) -> bool {
        if self.idle_since.elapsed() > REUSABLE || !self.wire.quiet() {
            return false;
        }
        self.turn().await;
        self.ready_now()
    }

    /// As far as known without touching the connection.
    pub(super) fn ready_now(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    /// Sends the request. The driver must be polled, by [`Connection::drive`] or elsewhere.
    pub(super) fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<B> {
        match &mut self.sender {
            Sender::Http1(sender) => futures::future::Either::Left(sender.send_request(request)),
            Sender::Http2(sender) => futures::future::Either::Right(sender.send_request(request)),
        }
    }

    /// Runs `work` to its end and the connection beside it, in this very task: no hop between tasks
    /// for an ordered request.
    pub(super) async fn drive<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|cx| {
            self.poll_driver(cx);
            let output = work.as_mut().poll(cx);
            if output.is_pending() {
                // What the work has just asked for may be done at once.
                self.poll_driver(cx);
                return work.as_mut().poll(cx);
            }
            output
        })
        .await
    }

    /// Leaves the connection to a task of its own, for responses that are passed on as they come.
    pub(super) fn spawn_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            tokio::spawn(async move {
                if let Err(error) = driver.await {
                    tracing::debug!(%error, "a connection to the app ended");
                }
            });
        }
    }

    async fn turn(&mut self) {
        poll_fn(|cx| {
            self.poll_driver(cx);
            Poll::Ready(())
        })
        .await;
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }
}
