//! The shell around the agreement: event loop, peers over gRPC, the log's thread.
//!
//! In: what the rest of the sidecar wants agreed on ([`NodeHandle`]), what peers say, what the log
//! has synced. Out: chosen entries (to [`crate::apply::Feed`]), answers, messages. It decides
//! nothing: every decision is `synod_paxos::Paxos`'s, which this feeds and whose outputs it carries
//! out.

mod channels;
pub(crate) mod clock;
mod complaint;
mod control;
mod disruption;
mod door;
mod event_loop;
pub mod handle;
mod input;
mod leadership;
mod link;
pub mod members;
mod outbox;
mod queue;
mod reads;
mod refusal;
mod source;
mod stops;
pub mod wire;

pub use channels::Channels;
pub use control::{Control, Facts};
pub use door::PeerDoor;
pub use event_loop::{NodeEnd, Parts, Running, start};
pub(crate) use handle::name;
pub use handle::{Decided, Description, NodeHandle, NodeStatus, Proposed, Seat};
pub use source::LogSource;
pub use stops::Stops;
pub(crate) use stops::leader;

#[cfg(test)]
mod tests;
