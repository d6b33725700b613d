//! What can be seen of the agreement from outside: state, counters, reasons for waiting.

use crate::follower::Follower;
use crate::paxos::{Office, Paxos};
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
    /// The disk has not answered for too long.
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
    /// Its wall clock less what the majority's say (rule P5), in nanoseconds.
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
    /// The protocol version in force, as far as is known here.
    pub protocol: u32,
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
    /// Bytes of entries that are on their way to the disk.
    pub unsynced_bytes: u64,
    /// Candidate only: bytes of promises kept in memory.
    pub promised_bytes: u64,
    /// By how many bytes the furthest commit heard of is ahead of this log, as its member estimates.
    pub behind_bytes: u64,
    /// Commands of this entrance that are not chosen yet.
    pub pending_commands: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Of these, the bytes that are with the leader.
    pub given_bytes: u64,
    /// Reads that wait for an index.
    pub pending_reads: u64,
    /// Entries that are there but cannot be read.
    pub faulty: u64,
    /// A snapshot of this slot or a later one is needed.
    pub needs_snapshot: Option<Slot>,
    /// This machine's wall clock less what the majority's say (rule P5), in nanoseconds.
    pub clock_offset_ns: Option<i64>,
    /// Voters whose wall clocks are off by more than a second.
    pub skewed: Vec<MemberId>,
    /// How gladly it leads now, of 100: not at all for a while after it let another lead on request.
    pub preference: u32,
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
    /// Times that this leader began to hand over to a more preferred member.
    pub handovers: u64,
    /// Prepares ignored because the leader works (rule E2).
    pub prepares_ignored: u64,
    /// Commands sent again.
    pub resends: u64,
    /// Commands that other entrances gave again while they were in this leader's log.
    pub repeated_commands: u64,
    /// Times that entries were sent again to a follower.
    pub rewinds: u64,
    /// Entries repaired from peers.
    pub repairs: u64,
    /// Rounds of heartbeats that proved leadership for reads.
    pub read_rounds: u64,
}

impl Paxos {
    /// A snapshot of the state, for people and metrics.
    pub fn status(&self) -> Status {
        Status {
            member: self.me,
            incarnation: self.identity.incarnation,
            boot: self.boot,
            epoch: self.epoch(),
            protocol: self.protocol(),
            standing: self.standing(),
            leader: self.leader(),
            healthy: self.election.healthy,
            promised: self.acceptor.promised,
            accepted: self.acceptor.accepted,
            first: self.log.first(),
            last: self.log.last(),
            synced: self.acceptor.synced_last,
            commit: self.log.commit(),
            applied: self.applied,
            election_timeout_ns: self.election.timeout_ns,
            uncommitted_bytes: self.log.uncommitted_bytes(),
            cached_bytes: self.log.cached_bytes(),
            unsynced_bytes: self.journal.unsynced_bytes(),
            promised_bytes: match &self.office {
                Office::Candidate(candidate) => candidate.promised_bytes(),
                _ => 0,
            },
            behind_bytes: self.behind_bytes(),
            pending_commands: self.entrance.count(),
            pending_bytes: self.entrance.bytes(),
            given_bytes: self.entrance.given_bytes(),
            pending_reads: self.reads.count() as u64,
            faulty: self.faulty.len() as u64,
            needs_snapshot: self.needs_snapshot(),
            clock_offset_ns: self.own_clock_offset_ns(),
            skewed: self.skewed().to_vec(),
            preference: self.preference(),
            waiting_on: self.waiting_on(),
            peers: self.peer_statuses(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn peer_statuses(&self) -> Vec<PeerStatus> {
        let followers = match &self.office {
            Office::Leader(leader) => Some(&leader.followers),
            _ => None,
        };
        self.peers
            .iter()
            .map(|(member, peer)| {
                let follower: Option<&Follower> =
                    followers.and_then(|followers| followers.get(member));
                PeerStatus {
                    member: *member,
                    heard: self.hears(*member),
                    heard_ago_ns: peer.heard_at.map(|at| self.now.mono_ns.saturating_sub(at)),
                    healthy: peer.beat.healthy,
                    ballot: peer.beat.ballot,
                    last: peer.beat.last,
                    commit: peer.beat.commit,
                    applied: peer.beat.applied,
                    app_stalled: peer.beat.app_stalled,
                    disk_stalled: peer.beat.disk_stalled,
                    rtt_ns: peer.trip.ns,
                    jitter_ns: peer.trip.jitter_ns,
                    clock_offset_ns: self.clock_offset_ns(peer.clock),
                    acknowledged: follower.map(|follower| follower.acknowledged),
                    in_flight_bytes: follower.map_or(0, |follower| follower.in_flight_bytes),
                }
            })
            .collect()
    }

    fn waiting_on(&self) -> Option<WaitingOn> {
        if self.is_disk_stalled() {
            return Some(WaitingOn::Sync);
        }
        if self.disk_full {
            return Some(WaitingOn::Disk);
        }
        if self.needs_snapshot().is_some() {
            return Some(WaitingOn::Snapshot);
        }
        match &self.office {
            Office::Candidate(candidate) => candidate.waiting_on,
            _ if !self.election.healthy => Some(WaitingOn::Quorum),
            Office::Leader(_) if !self.has_room() => Some(WaitingOn::Window),
            _ => self
                .faulty
                .first()
                .filter(|slot| *slot <= self.log.commit())
                .map(|slot| WaitingOn::Repair { slot }),
        }
    }
}
