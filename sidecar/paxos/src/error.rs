//! Why something was refused.

use crate::settings::SettingsError;
use crate::types::{CommandKind, Epoch, GroupId, Incarnation, MemberId, Slot};

/// Why a member cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// Settings contradict each other.
    #[error("the settings of the agreement contradict each other")]
    Settings(#[from] SettingsError),
    /// There is no group yet.
    #[error("the log holds no genesis: wait for the group to be formed, then write it first")]
    NoGenesis,
    /// The group does not count on this log.
    #[error(
        "incarnation {0} is not in the group's configuration: this log has to come in by \
         replacement of a member"
    )]
    NotAMember(Incarnation),
    /// The group has agreed on a protocol that this program does not speak.
    #[error("the group speaks protocol {group}, this program {min} to {max}: run another version")]
    Protocol {
        /// The group's.
        group: u32,
        /// Lowest spoken here.
        min: u32,
        /// Highest spoken here.
        max: u32,
    },
    /// The configuration in the genesis is not one.
    #[error("the configuration in the genesis is not valid: {0}")]
    Configuration(&'static str),
    /// What the log says contradicts itself.
    #[error("what was recovered from the log contradicts itself: {0}")]
    Recovered(&'static str),
}

/// Why a command was not even taken: nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeRefused {
    /// Too much is waiting.
    #[error("too many commands wait for agreement: try again later")]
    Overloaded,
    /// More than [`crate::Settings::max_payload_bytes`].
    #[error("the command is larger than the {limit} bytes that one may have")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The disk has no room.
    #[error("the disk is full: free space, or compact the log")]
    DiskFull,
    /// An entry of the log cannot be read, and there is no other member to have a copy from.
    #[error(
        "the log entry at slot {slot} cannot be read and no other member has a copy: restore the \
         volume, or start a new group from a backup"
    )]
    Unreadable {
        /// The first such entry.
        slot: Slot,
    },
    /// The id is not of this member and start, or not above all earlier ones.
    #[error("command ids must be of this member and start, and grow")]
    BadId,
    /// A kind that nobody may propose from outside.
    #[error("commands of kind {} cannot be proposed", .0.0)]
    Kind(CommandKind),
    /// This member was found to have forgotten what it promised, speaks the group's protocol no more,
    /// or is in the group no more.
    #[error("this member takes part no more")]
    Ended,
}

/// Why a snapshot was not taken in place of the start of the log: nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotRefused {
    /// Members of the group may not know what to do without the entries (rule P8).
    #[error(
        "the group speaks protocol {in_force}, a log can begin with a snapshot from protocol 2 on: \
         upgrade the group first"
    )]
    Protocol {
        /// What the group speaks.
        in_force: u32,
    },
    /// It is of another history than this log, which cannot be.
    #[error(
        "the snapshot at slot {slot} does not belong to this log: it comes from another group, or \
         one of the two is damaged; it must not be used"
    )]
    OtherHistory {
        /// The snapshot's.
        slot: Slot,
    },
    /// Entries that were not handed over yet would be forgotten.
    #[error("the snapshot at slot {slot} is beyond slot {delivered}, the last handed to the app")]
    Beyond {
        /// The snapshot's.
        slot: Slot,
        /// How far this member is.
        delivered: Slot,
    },
    /// This member is about to end.
    #[error("this member takes part no more")]
    Ended,
}

/// Why no upgrade of the protocol was proposed: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeRefused {
    /// Only the leader proposes it.
    #[error("this member does not lead: ask the leader")]
    NotLeader {
        /// Who does, as far as is known here.
        leader: Option<MemberId>,
    },
    /// It would change nothing, or lead back.
    #[error("the group speaks protocol {in_force} already, and there is no way back")]
    NotAbove {
        /// What the group speaks.
        in_force: u32,
    },
    /// This program does not speak it.
    #[error("this member speaks protocols up to {max}: upgrade its program first")]
    Unknown {
        /// Highest spoken here.
        max: u32,
    },
    /// Members that do not speak it, or have not been heard of since this one started.
    #[error(
        "not all members have said that they speak it: upgrade the program of those that do not, \
         and start those that are down"
    )]
    Unsupported {
        /// Which, by number.
        members: Vec<MemberId>,
    },
    /// Another upgrade is under way, or leadership is.
    #[error("an upgrade or a change of leaders is under way: try again later")]
    Busy,
    /// This member is about to end.
    #[error("this member takes part no more")]
    Ended,
}

/// Why it was not proposed to skip a slot: nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkipRefused {
    /// Only the leader that has asked the members proposes it, and only in that ballot.
    #[error("this member does not lead, or not in the ballot in which it has asked")]
    NotLeader {
        /// Who does, as far as is known here.
        leader: Option<MemberId>,
    },
    /// Members of the group may not know what to do (rule P8).
    #[error(
        "the group speaks protocol {in_force}, requests are skipped from protocol 2 on: upgrade the \
         group first"
    )]
    Protocol {
        /// What the group speaks.
        in_force: u32,
    },
    /// A change of leaders or members is under way, the window or the disk is full, or no time to stamp
    /// with is known yet.
    #[error("the leader takes nothing new just now: try again later")]
    Busy,
    /// This member is about to end.
    #[error("this member takes part no more")]
    Ended,
}

/// Why no change of the configuration was proposed: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureRefused {
    /// Only the leader proposes it.
    #[error("this member does not lead: ask the leader")]
    NotLeader {
        /// Who does, as far as is known here.
        leader: Option<MemberId>,
    },
    /// It was computed from another configuration than the one in force (rule M3).
    #[error(
        "the change was computed from epoch {expected}, the group is in epoch {current}: look at the \
         members again and decide anew"
    )]
    Epoch {
        /// What it was computed from.
        expected: Epoch,
        /// The one in force.
        current: Epoch,
    },
    /// The last change is not chosen yet, or the members it left behind are still needed (rule M2).
    #[error(
        "the change to epoch {epoch} is under way: wait until an entry of that epoch is chosen, then \
         decide anew"
    )]
    UnderWay {
        /// The epoch that begins.
        epoch: Epoch,
    },
    /// Members of the group may not know what to do (rule P8).
    #[error(
        "the group speaks protocol {in_force}, members change from protocol 2 on: upgrade the group \
         first"
    )]
    Protocol {
        /// What the group speaks.
        in_force: u32,
    },
    /// It is no configuration that a group can have.
    #[error("the new configuration is not valid: {0}")]
    Invalid(&'static str),
    /// Rule M4: numbers and incarnations are used once.
    #[error(
        "member {member} with incarnation {incarnation}: its number or its incarnation was used \
         before; a member that comes back needs an empty disk and a new number"
    )]
    UsedBefore {
        /// The number asked for.
        member: MemberId,
        /// The incarnation asked for.
        incarnation: Incarnation,
    },
    /// A witness has no state of the app, and an app's log may begin behind a state.
    #[error(
        "member {member} cannot change between running the app and being a witness: remove it, and \
         add a new member in its place"
    )]
    Witness {
        /// Who.
        member: MemberId,
    },
    /// Witnesses have no state of the app, and what copies lack of the log, all others may have forgotten.
    #[error(
        "too few of the members that run the app and stay voters have the log, and witnesses cannot give \
         them a state: wait until they have caught up, or remove those that will not come back"
    )]
    FewCopies {
        /// Which have not caught up, by number.
        members: Vec<MemberId>,
    },
    /// A change may make one member a voter, so that no quorum rests on logs that are not there yet.
    #[error("only one member can become a voter at a time: change them one after the other")]
    ManyNewVoters {
        /// Which, by number.
        members: Vec<MemberId>,
    },
    /// Rule M2: whoever becomes a voter is an observer first and has the log.
    #[error(
        "member {member} cannot become a voter yet: add it as an observer, and wait until it has \
         caught up with the leader"
    )]
    NotCaughtUp {
        /// Who.
        member: MemberId,
    },
    /// Rule M2: the new voters would have to be able to decide at once.
    #[error(
        "too few voters of the new configuration are heard here, and have the log, to decide anything: \
         start those that are down, and let witnesses catch up"
    )]
    Unheard {
        /// Which are not heard, by number.
        members: Vec<MemberId>,
    },
    /// A change of leaders is under way, the window is full, or no time to stamp with is known yet.
    #[error("the leader takes nothing new just now: try again later")]
    Busy,
    /// This member is about to end.
    #[error("this member takes part no more")]
    Ended,
}

/// Why a peer's [`crate::Hello`] was refused. The connection is closed with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefusal {
    /// It belongs to another group.
    #[error("the peer belongs to group {theirs}, this member to {ours}")]
    OtherGroup {
        /// Its group.
        theirs: GroupId,
        /// This member's.
        ours: GroupId,
    },
    /// No protocol version in common, or not the group's.
    #[error(
        "the peer speaks protocol {their_min} to {their_max}, this member {our_min} to {our_max}: \
         upgrade the older one"
    )]
    Protocol {
        /// Its lowest.
        their_min: u32,
        /// Its highest.
        their_max: u32,
        /// Our lowest.
        our_min: u32,
        /// Our highest.
        our_max: u32,
    },
    /// Not in the configuration.
    #[error("member {member} is not in the configuration")]
    UnknownMember {
        /// What it calls itself.
        member: MemberId,
    },
    /// Another log than the one the configuration counts on.
    #[error("member {member} is in the configuration with another incarnation than {theirs}")]
    OtherIncarnation {
        /// What it calls itself.
        member: MemberId,
        /// The life of its log.
        theirs: Incarnation,
    },
    /// It was a member once, and nobody needs it any more.
    #[error("member {member} was removed from the group, which is in epoch {epoch}")]
    Removed {
        /// Who.
        member: MemberId,
        /// The epoch in force.
        epoch: Epoch,
    },
    /// Its log lacks what it once acknowledged (rule M4).
    #[error(
        "member {member} has forgotten what it acknowledged: its volume was rolled back or copied"
    )]
    Forgetful {
        /// Who.
        member: MemberId,
    },
}
