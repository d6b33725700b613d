//! What can be seen of the agreement from outside: state, counters, reasons for waiting.

use crate::types::{Ballot, Boot, Epoch, Incarnation, MemberId, Slot};

/// What a member is doing for the current ballot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Follows somebody, or nobody.
    #[default]
    Follower,
    /// Is in phase 1.
    Candidate,
    /// Is in phase 2.
    Leader,
}

/// Why nothing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingOn {
    /// No leader, or a leader without enough followers.
    Quorum,
    /// The disk has not answered for an election timeout.
    Sync,
    /// A log entry that can be had from nobody reachable (rule W2).
    Repair {
        /// The entry.
        slot: Slot,
    },
    /// A log that begins before any log that can be had.
    Snapshot,
    /// The window is full.
    Window,
    /// The disk is full (rule W4).
    Disk,
}

/// One other member as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub member: MemberId,
    /// A heartbeat came within the election timeout.
    pub heard: bool,
    /// Time since the last heartbeat, in nanoseconds; `None` when none came.
    pub heard_ago_ns: Option<u64>,
    /// It says that it hears a healthy leader, or is one.
    pub healthy: bool,
    /// The ballot it follows.
    pub ballot: Ballot,
    /// Its last synced slot.
    pub last: Slot,
    /// Its commit.
    pub commit: Slot,
    /// What its app has executed.
    pub applied: Slot,
    /// Its app stands still.
    pub app_stalled: bool,
    /// Its disk stands still.
    pub disk_stalled: bool,
    /// Round trip, smoothed, in nanoseconds; 0 when not known.
    pub rtt_ns: u64,
    /// Mean deviation of the round trip, in nanoseconds.
    pub jitter_ns: u64,
    /// Its wall clock less ours, in nanoseconds.
    pub clock_offset_ns: Option<i64>,
    /// Leader only: what it acknowledged in this ballot.
    pub acknowledged: Option<Slot>,
    /// Leader only: bytes sent to it and not acknowledged.
    pub in_flight_bytes: u64,
}

/// The state of one member, for logs, metrics and the status page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// This member.
    pub member: MemberId,
    /// The life of its log.
    pub incarnation: Incarnation,
    /// Its start.
    pub boot: Boot,
    /// Its epoch.
    pub epoch: Epoch,
    /// What it is doing.
    pub standing: Standing,
    /// Whom it follows; itself when it leads.
    pub leader: Option<MemberId>,
    /// It hears a healthy leader, or is one (rule E1).
    pub healthy: bool,
    /// Its promise.
    pub promised: Ballot,
    /// The ballot its log was adopted in.
    pub accepted: Ballot,
    /// First slot held.
    pub first: Slot,
    /// Last slot held.
    pub last: Slot,
    /// Last slot held that is synced.
    pub synced: Slot,
    /// Last slot known to be chosen.
    pub commit: Slot,
    /// Last slot that its app has executed.
    pub applied: Slot,
    /// Election timeout in force, in nanoseconds.
    pub election_timeout_ns: u64,
    /// Bytes in the log that are not committed.
    pub uncommitted_bytes: u64,
    /// Bytes of entries kept in memory.
    pub cached_bytes: u64,
    /// Commands of this entrance that are not chosen yet.
    pub pending_commands: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Reads that wait for an index.
    pub pending_reads: u64,
    /// Entries that are there but cannot be read.
    pub faulty: u64,
    /// Somebody's wall clock is off by more than a second (rule P5).
    pub clock_skewed: bool,
    /// The reason, if nothing goes on.
    pub waiting_on: Option<WaitingOn>,
    /// All other members, by number.
    pub peers: Vec<PeerStatus>,
}

/// Things that happened, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of another group, member or incarnation, dropped.
    pub foreign_messages: u64,
    /// Messages that no honest member sends, dropped.
    pub impossible_messages: u64,
    /// Messages that came too late to matter, dropped.
    pub stale_messages: u64,
    /// Events from the shell that contradict what it did before, ignored.
    pub impossible_events: u64,
    /// Elections begun here.
    pub elections: u64,
    /// Elections won here.
    pub elections_won: u64,
    /// Times that leadership was given up here.
    pub step_downs: u64,
    /// Prepares ignored because the leader works (rule E2).
    pub prepares_ignored: u64,
    /// Commands sent again.
    pub resends: u64,
    /// Times that entries were sent again to a follower.
    pub rewinds: u64,
    /// Entries repaired from peers.
    pub repairs: u64,
    /// Rounds of heartbeats that proved leadership for reads.
    pub read_rounds: u64,
}
