//! Connections from members and operators: no certificate of the group, no byte of an answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use synod_paxos::GroupId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use super::connect::tune;
use super::expiry::{self, Expiring};
use super::{Identity, Who, words};
use crate::net::{TcpListener, TcpStream};

/// Limit on a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at once; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 64;
/// Refusals that are remembered, so that each is reported once.
const REMEMBERED: usize = 256;

/// Who is on the other side of a connection: an extension of every request that comes over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What its certificate proves.
    pub who: Who,
    /// Where it calls from; says nothing about who it is.
    pub address: SocketAddr,
}

impl Caller {
    /// Who makes this request.
    pub fn of<T>(request: &Request<T>) -> Result<&Self, Status> {
        let caller = request.extensions().get::<Self>();
        caller.ok_or_else(|| Status::unauthenticated("no certificate"))
    }

    /// The name of the member that makes this request; `refusal` is what others are told.
    pub fn member<'a, T>(request: &'a Request<T>, refusal: &str) -> Result<&'a str, Status> {
        match &Self::of(request)?.who {
            Who::Member(name) => Ok(name),
            Who::Operator => Err(Status::permission_denied(refusal)),
        }
    }
}

/// The caller means the group that this member is of.
pub fn same_group(own: Option<GroupId>, asked: &[u8]) -> Result<(), Status> {
    match own {
        Some(own) if own.0 == *asked => Ok(()),
        _ => Err(Status::permission_denied(
            "this member belongs to another group",
        )),
    }
}

/// A connection whose other side has proved its name.
#[derive(Debug)]
pub struct Secured {
    stream: Expiring<TlsStream<TcpStream>>,
    caller: Caller,
}

/// Accepts connections for ever, until the stream is dropped.
pub fn accept(
    listener: TcpListener,
    identity: Identity,
) -> ReceiverStream<std::io::Result<Secured>> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::spawn(accept_all(listener, identity, sender));
    ReceiverStream::new(receiver)
}

async fn accept_all(
    listener: TcpListener,
    identity: Identity,
    sender: mpsc::Sender<std::io::Result<Secured>>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    let (refused, refusals) = mpsc::channel(HANDSHAKES);
    tokio::spawn(report(refusals));
    loop {
        let permit = room.clone().acquire_owned().await.expect("never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: give others time to end.
                tracing::warn!(%error, "cannot accept a peer's connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (identity, sender, refused) = (identity.clone(), sender.clone(), refused.clone());
        tokio::spawn(async move {
            let result =
                tokio::time::timeout(HANDSHAKE_TIMEOUT, secure(stream, address, &identity));
            match result.await {
                Ok(Ok(secured)) => {
                    drop(permit);
                    // The receiver is gone when the server ends.
                    let _ = sender.send(Ok(secured)).await;
                }
                Ok(Err(error)) => {
                    let _ = refused.try_send((address.ip(), words::plain(&error)));
                }
                Err(_) => {
                    let _ = refused.try_send((address.ip(), "handshake timed out".to_owned()));
                }
            }
        });
    }
}

async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    identity: &Identity,
) -> std::io::Result<Secured> {
    tune(&stream)?;
    let stream = TlsAcceptor::from(identity.server()).accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let who = certificates
        .first()
        .and_then(|it| identity.name(it))
        .ok_or_else(|| std::io::Error::other("no certificate of this service"))?;
    let lasts = expiry::lasts(certificates);
    Ok(Secured {
        stream: Expiring::new(stream, lasts),
        caller: Caller { who, address },
    })
}

/// One line per address and reason, not one per retry, also when several come from one address.
async fn report(mut refusals: mpsc::Receiver<(IpAddr, String)>) {
    let mut told: BTreeSet<(IpAddr, String)> = BTreeSet::new();
    while let Some((address, error)) = refusals.recv().await {
        // A health check that opens and closes a connection is no news.
        if error.contains("eof") || error.contains("reset") {
            tracing::debug!(peer = %address, %error, "connection ended in its handshake");
            continue;
        }
        let refusal = (address, error);
        if told.contains(&refusal) {
            continue;
        }
        if told.len() >= REMEMBERED {
            told.clear();
        }
        let (address, error) = &refusal;
        tracing::warn!(peer = %address, %error, "refused a connection to the peer port");
        told.insert(refusal);
    }
}

// === impl Secured ===

impl Connected for Secured {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
