//! What comes to the event loop from its own tasks and threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use synod_paxos::{
    Entry, Hello, HelloRefusal, Incarnation, Io, Lane, Member, MemberId, Message, Ticket,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};

use super::clock;
use super::wire::BatchHead;

/// All lanes, in the order of [`lane_index`].
pub(super) const LANES: [Lane; 3] = [Lane::Log, Lane::Heartbeat, Lane::Bulk];

/// A peer that was silent for so long gets new connections raced against the old ones: a link that
/// heals does not revive a TCP connection that waits for its next retransmission (rule E4).
/// Heartbeats come several times as often.
pub(super) const SILENT_NS: u64 = 1_000_000_000;

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

/// Whom this member is connected with, and what tasks share about each. Changes with the group.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) me: MemberId,
    pub(super) incarnation: Incarnation,
    peers: RwLock<BTreeMap<MemberId, Arc<Peer>>>,
}

/// One other member.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: MemberId,
    pub(super) name: String,
    pub(super) incarnation: Incarnation,
    /// `CLOCK_BOOTTIME` of the last frame that came from it, or of our start.
    heard_ns: AtomicU64,
    /// When the last silence of [`SILENT_NS`] ended; 0: there was none.
    silent_until_ns: AtomicU64,
    /// When it last said that it does not hear us; 0: never.
    deaf_ns: AtomicU64,
    /// It was heard on a new connection: whoever waits before dialling it, per lane, stops waiting.
    back: [Notify; 3],
}

// === impl Roster ===

impl Roster {
    /// Without peers so far.
    pub(super) fn new(me: MemberId, incarnation: Incarnation) -> Self {
        Self {
            me,
            incarnation,
            peers: RwLock::default(),
        }
    }

    pub(super) fn get(&self, peer: MemberId) -> Option<Arc<Peer>> {
        self.lock().get(&peer).cloned()
    }

    /// From now on these are the peers. Returns those that come and those that go.
    pub(super) fn set(&self, members: &[Member]) -> (Vec<Arc<Peer>>, Vec<MemberId>) {
        let mut peers = self.peers.write().expect("no holder panics");
        let stays = |id: &MemberId| members.iter().any(|it| it.id == *id);
        let gone: Vec<MemberId> = peers.keys().filter(|it| !stays(it)).copied().collect();
        peers.retain(|id, _| stays(id));
        let new = members.iter().filter(|it| !peers.contains_key(&it.id));
        let come: Vec<Arc<Peer>> = new.map(|it| Arc::new(Peer::new(it))).collect();
        peers.extend(come.iter().map(|it| (it.id, it.clone())));
        (come, gone)
    }

    fn lock(&self) -> RwLockReadGuard<'_, BTreeMap<MemberId, Arc<Peer>>> {
        self.peers.read().expect("no holder panics")
    }
}

// === impl Peer ===

impl Peer {
    fn new(member: &Member) -> Self {
        Self {
            id: member.id,
            name: member.name.clone(),
            incarnation: member.incarnation,
            heard_ns: AtomicU64::new(clock::now().mono_ns),
            silent_until_ns: AtomicU64::new(0),
            deaf_ns: AtomicU64::new(0),
            back: Default::default(),
        }
    }

    /// A frame came from it.
    pub(super) fn heard(&self) {
        let now = clock::now().mono_ns;
        let before = self.heard_ns.swap(now, Ordering::Relaxed);
        if now.saturating_sub(before) > SILENT_NS {
            self.silent_until_ns.store(now, Ordering::Relaxed);
        }
    }

    /// Its heartbeat says that it does not hear us.
    pub(super) fn is_deaf(&self) {
        self.deaf_ns.store(clock::now().mono_ns, Ordering::Relaxed);
    }

    /// A connection made at `made_ns` may have died without a word: the peer is silent, or was
    /// since, or says that it does not hear us. Asked again, it says so at most once in [`SILENT_NS`] for each new connection.
    pub(super) fn casts_doubt_on(&self, made_ns: u64) -> bool {
        let now = clock::now().mono_ns;
        let heard = self.heard_ns.load(Ordering::Relaxed);
        let silent_until = self.silent_until_ns.load(Ordering::Relaxed);
        let is_silent = now.saturating_sub(heard) > SILENT_NS;
        let deaf = self.deaf_ns.load(Ordering::Relaxed);
        let is_new = made_ns > heard && now.saturating_sub(made_ns) < SILENT_NS;
        // What was made just before a silence ended is what ended it, or its like.
        let is_older = made_ns + SILENT_NS / 2 < silent_until.max(deaf);
        (is_silent && !is_new) || is_older
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

#[cfg(test)]
mod tests {
    use synod_paxos::Role;

    use super::*;

    fn member(id: u32) -> Member {
        Member {
            id: MemberId(id),
            name: format!("notes-{id}"),
            incarnation: Incarnation(id.into()),
            role: Role::Voter,
            region: String::new(),
        }
    }

    fn peer() -> Peer {
        Peer::new(&member(2))
    }

    #[test]
    fn a_roster_tells_who_comes_and_who_goes_and_keeps_what_is_known_of_the_others() {
        let roster = Roster::new(MemberId(1), Incarnation(1));
        let (come, gone) = roster.set(&[member(2), member(3)]);
        assert_eq!((come.len(), gone.len()), (2, 0));
        let second = roster.get(MemberId(2)).expect("there");
        let (come, gone) = roster.set(&[member(2), member(4)]);
        assert_eq!(come[0].id, MemberId(4));
        assert_eq!((come.len(), gone), (1, vec![MemberId(3)]));
        let same = roster.get(MemberId(2)).expect("stays");
        assert!(Arc::ptr_eq(&second, &same));
        assert!(roster.get(MemberId(3)).is_none());
    }

    fn ago(seconds: u64) -> u64 {
        clock::now().mono_ns - seconds * 1_000_000_000
    }

    #[test]
    fn a_connection_is_in_doubt_while_the_peer_is_silent_and_after_that_if_it_is_older() {
        let peer = peer();
        assert!(!peer.casts_doubt_on(ago(9)));
        peer.heard_ns.store(ago(5), Ordering::Relaxed);
        assert!(peer.casts_doubt_on(ago(9)));
        assert!(
            peer.casts_doubt_on(ago(2)),
            "made in the silence, which goes on"
        );
        assert!(!peer.casts_doubt_on(ago(0)), "just made");
        peer.heard();
        assert!(peer.casts_doubt_on(ago(9)), "older than the silence");
        assert!(!peer.casts_doubt_on(ago(0)));
    }

    #[test]
    fn a_connection_is_in_doubt_when_a_peer_that_is_heard_does_not_hear_us() {
        let peer = peer();
        peer.is_deaf();
        assert!(peer.casts_doubt_on(ago(2)));
        assert!(!peer.casts_doubt_on(ago(0)), "it will be heard soon");
    }
}
