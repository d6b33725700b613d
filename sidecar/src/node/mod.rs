//! The shell around the agreement: event loop, peers over gRPC, the log's thread.
//!
//! In: what the rest of the sidecar wants agreed on ([`NodeHandle`]), what peers say, what the log
//! has synced. Out: chosen entries ([`feed`]), answers, messages. It decides nothing: every
//! decision is `synod_paxos::Paxos`'s, which this feeds and whose outputs it carries out.

mod clock;
mod complaint;
mod door;
mod event_loop;
pub mod feed;
pub mod handle;
mod input;
mod link;
mod queue;
mod refusal;
pub mod wire;

pub use door::PeerDoor;
pub use event_loop::{NodeEnd, Parts, Running, start};
pub use feed::{Feed, FeedError};
pub use handle::{Decided, NodeHandle, NodeStatus, Proposed, Seat};
