//! Hand-over: what a member whose copy cannot serve asks of one that can.
//!
//! In: calls of other members of the group, over mutual TLS. Out: the same answers that clients
//! get. A call is never handed on (hop limit 1).

use synod_paxos::MemberId;
use tonic::transport::Channel;

/// Connections to the other members, kept by the node.
pub trait PeerChannels: Send + Sync {
    /// A connection for long or large calls to this member; `None` while it cannot be had. Cheap.
    fn channel(&self, member: MemberId) -> Option<Channel>;
}
