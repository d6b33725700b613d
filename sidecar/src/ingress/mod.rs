//! Client HTTP in and out: accept, classify by route, capture, answer.
//!
//! In: clients' connections, and reads that other members hand over. Out: responses. It may call
//! the agreement and apply through [`Backend`], and other members through [`PeerChannels`].
//!
//! What a client can rely on, and where it is kept:
//! - bytes that can be read in two ways are refused before anybody acts on them ([`framing`]);
//! - which requests are ordered is the policy's matter alone ([`route`]);
//! - an ordered request is proposed once, and never again under another id unless the first one
//!   is known to do nothing ([`ordered`]);
//! - a read sees a state that is new enough for its level ([`reads`]); the `Synod-Slot` of a
//!   response that is short or ends at once covers all that it may have seen, that of a long or
//!   streaming one is as of its head.

pub mod backend;
pub mod body;
pub mod handover;
pub mod route;

mod accept;
mod backlog;
mod budget;
mod capture;
mod core;
mod framing;
mod guard;
mod headers;
mod metrics;
mod ordered;
mod outcome;
mod probes;
mod problem;
mod reads;
mod room;
mod upgrade;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use accept::Server;
pub use backend::{Backend, Handles, Reads};
pub use handover::{HandoverService, PeerChannels};
pub use metrics::Metrics;

/// What a [`Server`] is made of.
pub struct Parts<B> {
    /// The rest of this member.
    pub backend: B,
    /// The way to the other members.
    pub peers: Arc<dyn PeerChannels>,
    /// This member's stable name, as `Synod-Member` says it.
    pub member: String,
    /// The app's address for upgrades; `None` where the app speaks no HTTP/1.1 or there is none.
    pub app: Option<SocketAddr>,
    /// This member is a witness: there never is an app beside it.
    pub witness: bool,
    /// Folder for bodies on disk; emptied by apply when it starts.
    pub spool: PathBuf,
    /// Limits that are this member's own matter.
    pub limits: Limits,
    /// [`Metrics::register`].
    pub metrics: Metrics,
}

/// Limits that are a member's own matter; those that members agree on are in the policy.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of clients at one time; more wait to be accepted.
    pub max_connections: usize,
    /// Requests at one time on one HTTP/2 connection.
    pub max_streams: u32,
    /// Streams and upgrades that are open to the app at one time; more get 503.
    pub open_streams: usize,
    /// Size of a header section.
    pub header_bytes: usize,
    /// Fields in a header section.
    pub header_fields: usize,
    /// From the first byte of a header section to its last.
    pub header_timeout: Duration,
    /// Without a request.
    pub idle: Duration,
    /// Without a byte of a body that has begun.
    pub body_gap: Duration,
    /// For a whole body, plus what its bytes take at `body_floor_bytes`.
    pub body_total: Duration,
    /// Bytes a second that a client has to send.
    pub body_floor_bytes: u64,
    /// Without the client taking a byte of a response.
    pub write_timeout: Duration,
    /// Memory for bodies of up to 64 KiB; what finds none goes to disk.
    pub body_memory_bytes: u64,
    /// Disk for bodies.
    pub body_disk_bytes: u64,
    /// Of it, for the bodies of one connection.
    pub connection_disk_bytes: u64,
    /// Memory for bodies that were on disk, while they are being agreed on: at least for the largest
    /// one. Together with that for small ones it is less than what may wait for one member, so that
    /// all can be given to another leader at once.
    pub command_memory_bytes: u64,
    /// For disk that other bodies hold.
    pub body_patience: Duration,
    /// For what runs, when the server is stopped.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_streams: 256,
            open_streams: 1_024,
            header_bytes: 64 << 10,
            header_fields: 100,
            header_timeout: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body_gap: Duration::from_secs(10),
            body_total: Duration::from_secs(30),
            body_floor_bytes: 16 << 10,
            write_timeout: Duration::from_secs(60),
            body_memory_bytes: 16 << 20,
            body_disk_bytes: 512 << 20,
            connection_disk_bytes: 128 << 20,
            command_memory_bytes: 16 << 20,
            body_patience: Duration::from_secs(5),
            drain: Duration::from_secs(20),
        }
    }
}

#[cfg(test)]
mod tests;
