//! What comes to the event loop from its own tasks and threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use synod_paxos::{
    Configuration, Entry, Hello, HelloRefusal, Incarnation, Io, Lane, MemberId, Message, Ticket,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

use super::clock;
use super::wire::BatchHead;

/// All lanes, in the order of [`lane_index`].
pub(super) const LANES: [Lane; 3] = [Lane::Log, Lane::Heartbeat, Lane::Bulk];

/// One event.
#[derive(Debug)]
pub(super) enum Input {
    /// A connection begins: what do we say?
    OurHello(oneshot::Sender<Hello>),
    /// A peer's first words, on a connection either of us made.
    TheirHello {
        hello: Hello,
        reply: oneshot::Sender<Result<Hello, HelloRefusal>>,
    },
    /// A peer refused ours.
    Refused {
        peer: MemberId,
        refusal: HelloRefusal,
    },
    /// A connection that we made came up or went down.
    Connection {
        peer: MemberId,
        lane: Lane,
        up: bool,
    },
    /// Messages from an authenticated peer.
    Messages {
        head: BatchHead,
        messages: Vec<Message>,
        /// Gives the room that they take back.
        room: Option<OwnedSemaphorePermit>,
    },
    /// A write and all before it are on disk.
    Synced(Io),
    /// Entries were read from the log.
    Loaded { ticket: Ticket, entries: Vec<Entry> },
    /// The log cannot be written any more.
    LogFailed(String),
}

/// Never full for long: what comes from peers is bounded by the room they must take first, all
/// else by what the agreement has under way.
pub(super) type Inputs = mpsc::UnboundedSender<Input>;

/// The other members, and what tasks share about each.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) me: MemberId,
    pub(super) incarnation: Incarnation,
    pub(super) peers: BTreeMap<MemberId, Arc<Peer>>,
}

/// One other member.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: MemberId,
    pub(super) name: String,
    pub(super) incarnation: Incarnation,
    /// `CLOCK_BOOTTIME` of the last frame that came from it; 0: none yet.
    heard_ns: AtomicU64,
    /// It was heard on a new connection: whoever waits before dialling it, per lane, stops waiting.
    back: [Notify; 3],
}

// === impl Roster ===

impl Roster {
    pub(super) fn new(configuration: &Configuration, me: MemberId) -> Self {
        let mut incarnation = Incarnation::default();
        let mut peers = BTreeMap::new();
        for member in &configuration.members {
            if member.id == me {
                incarnation = member.incarnation;
                continue;
            }
            let peer = Peer {
                id: member.id,
                name: member.name.clone(),
                incarnation: member.incarnation,
                heard_ns: AtomicU64::new(0),
                back: Default::default(),
            };
            peers.insert(member.id, Arc::new(peer));
        }
        Self {
            me,
            incarnation,
            peers,
        }
    }
}

// === impl Peer ===

impl Peer {
    /// A frame came from it.
    pub(super) fn heard(&self) {
        self.heard_ns.store(clock::now().mono_ns, Ordering::Relaxed);
    }

    /// How long nothing has come from it, in nanoseconds; `None` when nothing ever came.
    pub(super) fn silent_ns(&self) -> Option<u64> {
        let heard = self.heard_ns.load(Ordering::Relaxed);
        (heard > 0).then(|| clock::now().mono_ns.saturating_sub(heard))
    }

    /// It dialled us, so it can be dialled.
    pub(super) fn is_back(&self) {
        for waiting in &self.back {
            waiting.notify_waiters();
        }
    }

    /// Returns when it dialled us.
    pub(super) async fn comes_back(&self, lane: Lane) {
        self.back[lane_index(lane)].notified().await;
    }
}

/// Position of a lane in [`LANES`].
pub(super) fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Log => 0,
        Lane::Heartbeat => 1,
        Lane::Bulk => 2,
    }
}
