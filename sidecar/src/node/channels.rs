//! Connections for what members ask of each other besides the agreement: hand-over, and
//! the token for stopping apps. Never on the
//! connections of the agreement itself.

use std::collections::BTreeMap;
use std::sync::Mutex;

use synod_paxos::MemberId;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::handle::NodeStatus;
use crate::config::peers::PeerTable;
use crate::identity::{Connector, Identity, Who};
use crate::ingress::PeerChannels;

/// One channel per member, made when it is first asked for; it connects, and connects again, by
/// itself.
#[derive(Debug)]
pub struct Channels {
    identity: Identity,
    peers: watch::Receiver<PeerTable>,
    node: watch::Receiver<NodeStatus>,
    made: Mutex<BTreeMap<MemberId, Channel>>,
}

// === impl Channels ===

impl Channels {
    /// For the members that `node` knows, at the addresses that `peers` has.
    pub fn new(
        identity: Identity,
        peers: watch::Receiver<PeerTable>,
        node: watch::Receiver<NodeStatus>,
    ) -> Self {
        Self {
            identity,
            peers,
            node,
            made: Mutex::default(),
        }
    }

    /// For connections of one's own to a member; `None`: it is this one, or nobody.
    pub fn connector(&self, member: MemberId) -> Option<Connector> {
        let status = self.node.borrow();
        if status.member == member {
            return None;
        }
        let name = status.find(member)?.name.clone();
        let peers = self.peers.clone();
        let who = Who::Member(name.clone());
        Some(Connector::new(self.identity.clone(), who, move || {
            peers.borrow().address_of(&name)
        }))
    }
}

impl PeerChannels for Channels {
    fn channel(&self, member: MemberId) -> Option<Channel> {
        let mut made = self.made.lock().expect("no holder panics");
        if self.node.borrow().find(member).is_none() {
            made.remove(&member);
            return None;
        }
        if let Some(channel) = made.get(&member) {
            return Some(channel.clone());
        }
        let channel = self.connector(member)?.lazy_channel();
        made.insert(member, channel.clone());
        Some(channel)
    }
}
