//! The numbers that mean something, each with a type of its own.

use std::fmt;

use bytes::Bytes;

/// A position in the agreed log. The first is 1; 0 means "before the log".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u64);

/// Number of a membership configuration. The first is 1; 0 means "before genesis".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// A member as the configuration numbers it. One per incarnation, never used again; 0 means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u32);

/// One life of a log: made with an empty disk, gone with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u128);

/// Number of a start of an incarnation, from 1, synced before anything else is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Boot(pub u64);

/// A group of members that agree with each other: the hash of its genesis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 16]);

/// Who proposes, and in which attempt. Ordered by epoch, then round, then node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    /// The configuration in which this ballot works.
    pub epoch: Epoch,
    /// The attempt; round 0 belongs to the first leader that the configuration names.
    pub round: u64,
    /// The proposer; [`MemberId`] 0 only in the ballot that nobody proposes in.
    pub node: MemberId,
}

/// Hash over the content of an [`Entry`] (everything but the hash itself): 128 bits of BLAKE3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryHash(pub [u8; 16]);

/// Agreed time: nanoseconds since the Unix epoch. Never goes back along the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgreedTime(pub u64);

/// Identity of a command, given once by its entrance and kept through resends, forwards and
/// hand-over. A [`MemberId`] stands for one incarnation, so this is `(incarnation, boot, sequence)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// The entrance.
    pub member: MemberId,
    /// The entrance's start.
    pub boot: Boot,
    /// Counts the commands of that start, from 1.
    pub sequence: u64,
}

/// What kind of command a slot holds. The agreement itself looks into [`CommandKind::UPGRADE`] and
/// [`CommandKind::RECONFIGURE`] only; a kind it does not know is carried unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandKind(pub u16);

impl CommandKind {
    /// Does nothing; a fresh leader proposes one.
    pub const NOOP: Self = Self(0);
    /// A client's request (`synod.v1.Request`).
    pub const REQUEST: Self = Self(1);
    /// The replicated policy (`synod.v1.Policy`).
    pub const POLICY: Self = Self(2);
    /// The protocol version from the next slot on.
    pub const UPGRADE: Self = Self(3);
    /// A new revision of the app.
    pub const REVISION: Self = Self(4);
    /// The new revision has taken over.
    pub const REVISION_DONE: Self = Self(5);
    /// A poisonous slot that nobody executes. Made by a leader, in the ballot in which it has asked.
    pub const SKIP: Self = Self(6);
    /// The stop-sign of an epoch.
    pub const RECONFIGURE: Self = Self(7);
    /// The revision that runs along silently answers otherwise than the one that answers clients.
    pub const REVISION_DISAGREES: Self = Self(8);

    /// Only a leader makes such a command, none comes from an entrance.
    pub(crate) fn is_of_leader(self) -> bool {
        [Self::NOOP, Self::UPGRADE, Self::SKIP, Self::RECONFIGURE].contains(&self)
    }
}

/// What is proposed: stored, hashed and sent as the bytes received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// What the payload is.
    pub kind: CommandKind,
    /// Who gave it, once. All zero for commands the leader makes itself.
    pub id: CommandId,
    /// The lowest sequence of `id`'s start that is not resolved yet; all below may be forgotten.
    pub floor: u64,
    /// Opaque to the agreement.
    pub payload: Bytes,
}

/// One position of the log with its value. All of it but `ballot` is the chosen value; a value
/// keeps the ballot it was first proposed in when a later leader adopts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub slot: Slot,
    /// The ballot in which it was proposed.
    pub ballot: Ballot,
    /// The leader's stamp (rule P5).
    pub time: AgreedTime,
    /// The leader's random stamp: 128 bits.
    pub seed: u128,
    /// What is to be done.
    pub command: Command,
}

impl Entry {
    /// Bytes that an entry weighs besides its payload, for windows and limits.
    pub const OVERHEAD_BYTES: u64 = 128;

    /// What this entry counts for in windows and limits, in bytes.
    pub fn weight(&self) -> u64 {
        self.command.payload.len() as u64 + Self::OVERHEAD_BYTES
    }

    /// Hash over the whole content, by which members compare and repair entries.
    pub fn hash(&self) -> EntryHash {
        let mut hasher = blake3::Hasher::new();
        let mut fixed = [0_u8; 90];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            fixed[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&self.slot.0.to_le_bytes());
        put(&self.ballot.epoch.0.to_le_bytes());
        put(&self.ballot.round.to_le_bytes());
        put(&self.ballot.node.0.to_le_bytes());
        put(&self.time.0.to_le_bytes());
        put(&self.seed.to_le_bytes());
        put(&self.command.kind.0.to_le_bytes());
        put(&self.command.id.member.0.to_le_bytes());
        put(&self.command.id.boot.0.to_le_bytes());
        put(&self.command.id.sequence.to_le_bytes());
        put(&self.command.floor.to_le_bytes());
        put(&(self.command.payload.len() as u64).to_le_bytes());
        assert_eq!(at, fixed.len(), "every field of an entry is hashed");
        hasher.update(&fixed);
        hasher.update(&self.command.payload);
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        EntryHash(hash)
    }
}

/// What remains known of an entry whose body may be lost: enough to recognise a good copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Header {
    /// Its position.
    pub slot: Slot,
    /// The ballot in which it was proposed.
    pub ballot: Ballot,
    /// [`Entry::hash`].
    pub hash: EntryHash,
}

/// The two clocks of a machine, read by the shell and handed in with each event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// `CLOCK_BOOTTIME` in nanoseconds: never goes back while the process lives.
    pub mono_ns: u64,
    /// Wall clock in nanoseconds since the Unix epoch. Decides no vote, lease or election.
    pub wall_ns: u64,
}

/// Agreed time as it was known once; it goes on with this machine's monotonic clock (rule P5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    /// What it was.
    pub time: AgreedTime,
    /// When, as [`Now::mono_ns`].
    pub mono_ns: u64,
}

// === impl Reading ===

impl Reading {
    /// What it is at `mono_ns`.
    pub fn at(self, mono_ns: u64) -> AgreedTime {
        let since_ns = mono_ns.saturating_sub(self.mono_ns);
        AgreedTime(self.time.0.saturating_add(since_ns))
    }
}

// === impl Epoch ===

impl Epoch {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

// === impl Slot ===

impl Slot {
    /// The position before the log.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The position before this one; the one before 0 is 0.
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

// === impl Display ===

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for GroupId {
    /// The first 32 bits in hex, as clients see them in `Synod-Slot`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4]
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.round, self.node)
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.member, self.boot, self.sequence)
    }
}
