//! What members say to each other. Every message travels in an [`Envelope`].

use crate::types::{
    Ballot, Boot, Command, CommandId, Entry, Epoch, GroupId, Header, Incarnation, MemberId, Slot,
};

/// The outside of every message: refused by a member of another group or by another incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group of the sender.
    pub group: GroupId,
    /// The sender's number.
    pub from: MemberId,
    /// The sender's life.
    pub from_incarnation: Incarnation,
    /// The receiver's life, as the sender knows it.
    pub to_incarnation: Incarnation,
    /// What is said.
    pub message: Message,
}

/// The first thing said on each connection (rules M4, P8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's group.
    pub group: GroupId,
    /// The sender's number.
    pub member: MemberId,
    /// The sender's name.
    pub name: String,
    /// The sender's life.
    pub incarnation: Incarnation,
    /// The sender's start.
    pub boot: Boot,
    /// Drawn at random at each start of a process: two processes that claim the same `boot` are a
    /// volume that was copied or rolled back.
    pub life: u64,
    /// The sender's epoch.
    pub epoch: Epoch,
    /// The sender's synced promise.
    pub promised: Ballot,
    /// The sender's synced `accepted`.
    pub accepted: Ballot,
    /// The sender's last synced slot.
    pub last: Slot,
    /// Lowest protocol version the sender speaks.
    pub protocol_min: u32,
    /// Highest protocol version the sender speaks.
    pub protocol_max: u32,
}

/// Which connection a message belongs on, so that a long one never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Elections and the normal case: one FIFO stream per peer.
    Log,
    /// Heartbeats and read confirmations.
    Heartbeat,
    /// Catch-up and repair.
    Bulk,
}

/// What is said. Slots, ballots and times as in [`crate::types`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Phase 1a.
    Prepare {
        ballot: Ballot,
        accepted: Ballot,
        last: Slot,
        commit: Slot,
        /// The leader asked for it: this disturbs nobody (rule E3).
        handed_over: bool,
    },
    /// Phase 1b, in one or more parts; the promise counts once all parts came, in order.
    Promise {
        ballot: Ballot,
        accepted: Ballot,
        last: Slot,
        commit: Slot,
        /// First slot of this member's log: below it only a snapshot can help.
        first: Slot,
        /// Ballot of the chosen entry before it.
        before: Ballot,
        /// Slot before the first entry of the whole suffix.
        after: Slot,
        /// Number of this part, from 0.
        part: u32,
        /// No more parts follow.
        done: bool,
        suffix: Vec<Entry>,
        /// Slots that count as present but cannot be read (rule W2).
        faulty: Vec<Header>,
        /// How long ago the promiser last took anything of an older ballot, in nanoseconds; for
        /// fences (rule R3). `u64::MAX`: never in this life.
        age_ns: u64,
    },
    /// A ballot was refused because a higher one was promised.
    Refused {
        /// The ballot that was refused.
        ballot: Ballot,
        /// The higher promise.
        promised: Ballot,
    },
    /// Phase 2a for a whole log: what a follower needs to hold the leader's log (rule L1b).
    AcceptSync {
        ballot: Ballot,
        /// The follower keeps its log up to here and cuts the rest.
        after: Slot,
        /// Number of this part, from 0.
        part: u32,
        /// No more parts follow.
        done: bool,
        entries: Vec<Entry>,
        /// Last slot of the adopted log.
        last: Slot,
        commit: Slot,
        commit_ballot: Ballot,
    },
    /// All parts of the `AcceptSync` of `ballot` up to `through` are on disk: flow control for long
    /// ones. 0: nothing of it is known here (any more), begin again. Said by the proposer of
    /// `ballot` itself: all parts of the receiver's promise up to `through` have come.
    Staged { ballot: Ballot, through: Slot },
    /// Phase 2a for new entries.
    Accept {
        ballot: Ballot,
        previous: Slot,
        previous_ballot: Ballot,
        entries: Vec<Entry>,
        commit: Slot,
        commit_ballot: Ballot,
        /// Followers may learn these from each other's votes (rule R4; not yet used).
        early: bool,
    },
    /// Phase 2b: all slots up to `slot` are synced in `ballot`.
    Accepted { ballot: Ballot, slot: Slot },
    /// The follower's log does not join `previous`: send again from its last slot.
    Gap { ballot: Ballot, last: Slot },
    /// Sent to all, all the time (rule E1).
    Heartbeat(Heartbeat),
    /// Commands for the leader.
    Propose {
        commands: Vec<Command>,
        /// The sender has not seen whether some of them were chosen, and never will: a snapshot took
        /// the place of the entries. They are put into the log whatever is there already.
        again: bool,
    },
    /// The command was not taken and will not be, by this leader.
    NotTaken { id: CommandId, reason: NotTaken },
    /// What commit must a read wait for?
    ReadIndex { ids: Vec<ReadId> },
    /// Rule R1's answer.
    ReadIndexes { ids: Vec<ReadId>, index: Slot },
    /// This member cannot answer: ask again.
    ReadRefused { ids: Vec<ReadId> },
    /// The leader proves that it still leads (rule R1).
    Confirm { ballot: Ballot, round: u64 },
    /// No higher ballot was promised when `round` came.
    Confirmed { ballot: Ballot, round: u64 },
    /// You take over, now (rule E3).
    Transfer { ballot: Ballot },
    /// I hold these headers but not their bodies.
    RepairRequest { headers: Vec<Header> },
    /// Bodies for them.
    Repair { entries: Vec<Entry> },
    /// What you need of my log is gone: it begins behind this chosen entry. With that entry you have
    /// all before it, otherwise a snapshot helps, of this slot or a later one.
    Compacted { slot: Slot, ballot: Ballot },
    /// You have entered a later epoch than I: what is chosen behind this slot (rule M6)?
    LearnRequest { after: Slot },
    /// These entries are chosen.
    Learn { entries: Vec<Entry> },
}

impl Message {
    /// It serves to help, or to be helped, out of an epoch: also those talk so that were removed.
    pub(crate) fn is_help(&self) -> bool {
        matches!(
            self,
            Self::Heartbeat(_)
                | Self::LearnRequest { .. }
                | Self::Learn { .. }
                | Self::Compacted { .. }
                | Self::RepairRequest { .. }
        )
    }
}

/// What a member tells all others about itself (rule E1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The highest ballot whose leader this member follows, or its promise.
    pub ballot: Ballot,
    /// Whom it hears.
    pub hears: Vec<MemberId>,
    /// It hears its leader and the leader says it is healthy; for the leader: see rule E1.
    pub healthy: bool,
    pub last: Slot,
    pub commit: Slot,
    pub commit_ballot: Ballot,
    pub applied: Slot,
    /// The disk has not answered for longer than an election timeout.
    pub disk_stalled: bool,
    /// The app has not finished anything though something waits.
    pub app_stalled: bool,
    /// Sender's clocks when it sent this, in nanoseconds.
    pub mono_ns: u64,
    pub wall_ns: u64,
    /// The receiver's `mono_ns` of its last heartbeat that came here, and how long ago that was;
    /// for round trips. Both 0 when none came.
    pub echo_mono_ns: u64,
    pub echo_held_ns: u64,
    /// Mean weight of the sender's latest entries, in bytes, so that others can tell how far they are
    /// behind. 0: not known.
    pub entry_bytes: u64,
    /// How gladly the sender leads: 0 to 100.
    pub preference: u32,
    /// The sender's election timeout, in nanoseconds: who is silent for so long is not heard by it any
    /// more. 0: not known, of a sender that does not tell.
    pub timeout_ns: u64,
}

/// A read that waits for an index; unique within one start of one member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Why a leader did not take a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotTaken {
    /// Its queue is full: try again later.
    Overloaded,
    /// The disk has no room.
    DiskFull,
    /// Larger than what the group agreed to take.
    TooLarge,
    /// The only log there is has an entry that cannot be read.
    Unreadable,
}
