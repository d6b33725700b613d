//! The app as we see it: an HTTP server on the loopback that has never heard of us.
//!
//! In come ordered requests, one at a time, and reads, many at a time; out go complete responses
//! to the former and streams to the latter. It knows exactly whether a byte of an ordered request
//! has left, and which process is at the other end.

mod client;
mod connection;
mod headers;
mod instance;
mod nothing;
mod outsiders;
mod reads;
mod request;
mod spool;
#[cfg(test)]
mod tests;
mod wire;

use std::future::Future;
use std::io;
use std::sync::Arc;

pub use client::Client;
pub use instance::Instance;
pub use nothing::NoApp;
pub use outsiders::{Outsider, outsiders};
pub use reads::{Pool, ReadBody, ReadError};
pub use request::Order;
pub(crate) use spool::{MEMORY_BYTES, Spool, drop_elsewhere, load};

use crate::apply::StoredResponse;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What executes ordered requests: an app behind HTTP, or one within this process.
pub trait App: Send + Sync + 'static {
    /// Before the first look: what an earlier process of ours called the app that it knew.
    fn recognise(&self, instance: Instance) {
        let _ = instance;
    }

    /// The process that listens now; `None`: none does. An error says nothing.
    fn look(&self) -> io::Result<Option<Instance>>;

    /// Whether, since the last time this was asked, a part of what listened has gone: then the state
    /// of what [`App::look`] found is not known.
    fn partly_gone(&self) -> bool {
        false
    }

    /// Sends the request and waits for the end of its response. Called for one request at a time.
    /// When dropped before its end, the connection is closed.
    fn execute(
        self: Arc<Self>,
        order: Order,
    ) -> impl Future<Output = Result<Executed, ExecuteError>> + Send + 'static;

    /// Reads may go to this process; `None`: to none.
    fn set_reads(&self, instance: Option<Instance>);

    /// Returns when a read has found another process than it should have.
    fn doubted(&self) -> impl Future<Output = ()> + Send;
}

/// A request that was executed.
#[derive(Clone, Debug)]
pub struct Executed {
    /// Its response; `None` if it could not be kept.
    pub response: Option<StoredResponse>,
}

/// A request of which no complete response came.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// Not a byte of it was sent.
    #[error(transparent)]
    NotSent(#[from] NotSent),
    /// It may have been executed.
    #[error("the app broke off while it had the request: {0}")]
    Unknown(String),
}

/// Why not a byte was sent.
#[derive(Debug, thiserror::Error)]
pub enum NotSent {
    /// No connection.
    #[error("cannot connect to the app: {0}")]
    Connect(#[source] io::Error),
    /// Somebody accepts, but who is not seen: it is going down, or in another network namespace.
    #[error(
        "no process is seen to listen at the app's address; it must share our network namespace"
    )]
    NoListener,
    /// The process is another than the one that the request is for.
    #[error("the app was started anew")]
    OtherInstance,
    /// The connection could not be used.
    #[error("the connection to the app ended before anything was sent: {0}")]
    Http(#[source] hyper::Error),
}
