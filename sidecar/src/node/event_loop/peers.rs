//! Whom the node talks to: a door that knows them, a queue and a link per lane for each. Follows the
//! agreement's contacts as members come and go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use synod_paxos::{GroupId, Incarnation, Io, Lane, Member, MemberId, Message};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::peers::PeerTable;
use crate::identity::{Connector, Identity, Who};
use crate::node::complaint::Complaints;
use crate::node::door::PeerDoor;
use crate::node::input::{Inputs, LANES, Peer, Roster, lane_index};
use crate::node::link::Link;
use crate::node::outbox::Outbox;
use crate::node::queue::SendQueue;

/// The peers of a node.
pub(super) struct Peers {
    pub(super) roster: Arc<Roster>,
    group: GroupId,
    inputs: Inputs,
    identity: Identity,
    addresses: watch::Receiver<PeerTable>,
    serving: Arc<AtomicBool>,
    queue_bytes: u64,
    complaints: Complaints,
    door: PeerDoor,
    linked: BTreeMap<MemberId, Linked>,
}

/// What all links have in common.
pub(super) struct Common {
    pub(super) group: GroupId,
    pub(super) inputs: Inputs,
    pub(super) identity: Identity,
    pub(super) addresses: watch::Receiver<PeerTable>,
    pub(super) serving: Arc<AtomicBool>,
    pub(super) queue_bytes: u64,
    pub(super) door: PeerDoor,
}

/// One of them.
struct Linked {
    boxes: [Outbox; 3],
    /// Ends its links when it is dropped.
    _links: JoinSet<()>,
}

// === impl Peers ===

impl Peers {
    /// Nobody yet; the door is open for whoever will be met.
    pub(super) fn new(common: Common, me: MemberId, incarnation: Incarnation) -> Self {
        let roster = Arc::new(Roster::new(me, incarnation));
        common.door.open(common.inputs.clone(), roster.clone());
        Self {
            roster,
            group: common.group,
            inputs: common.inputs,
            identity: common.identity,
            addresses: common.addresses,
            serving: common.serving,
            queue_bytes: common.queue_bytes,
            complaints: Complaints::default(),
            door: common.door,
            linked: BTreeMap::new(),
        }
    }

    /// From now on these are the peers: who is new is dialled, who is none any more is hung up on.
    pub(super) fn meet(&mut self, members: &[Member]) {
        let (come, gone) = self.roster.set(members);
        for peer in gone {
            self.linked.remove(&peer);
            self.door.shut_out(peer);
        }
        for peer in come {
            let linked = self.link(&peer);
            self.linked.insert(peer.id, linked);
        }
    }

    /// Sends, or drops what is for nobody's peer any more.
    pub(super) fn send(
        &mut self,
        to: MemberId,
        lane: Lane,
        message: Message,
        after: Option<Io>,
        synced: Io,
    ) {
        if let Some(linked) = self.linked.get_mut(&to) {
            linked.boxes[lane_index(lane)].send(message, after, synced);
        }
    }

    /// What waited for this write leaves, in order.
    pub(super) fn release(&mut self, synced: Io) {
        for linked in self.linked.values_mut() {
            for outbox in &mut linked.boxes {
                outbox.release(synced);
            }
        }
    }

    /// A connection went down: what waits for the disk would be out of place on the next.
    pub(super) fn went_down(&mut self, peer: MemberId, lane: Lane) {
        if let Some(linked) = self.linked.get_mut(&peer) {
            linked.boxes[lane_index(lane)].held.clear();
        }
    }

    fn link(&self, peer: &Arc<Peer>) -> Linked {
        let boxes = LANES.map(|lane| Outbox {
            queue: Arc::new(SendQueue::new(lane, self.queue_bytes)),
            held: VecDeque::new(),
        });
        let mut links = JoinSet::new();
        for lane in LANES {
            let (table, name) = (self.addresses.clone(), peer.name.clone());
            let who = Who::Member(peer.name.clone());
            let link = Link {
                group: self.group,
                lane,
                roster: self.roster.clone(),
                peer: peer.clone(),
                queue: boxes[lane_index(lane)].queue.clone(),
                connector: Connector::new(self.identity.clone(), who, move || {
                    table.borrow().address_of(&name)
                }),
                inputs: self.inputs.clone(),
                serving: self.serving.clone(),
                complaints: self.complaints.clone(),
            };
            links.spawn(link.run());
        }
        Linked {
            boxes,
            _links: links,
        }
    }
}
