//! All that there is to do, in the order in which it must be done.

use crate::base::Base;
use crate::configuration::Configuration;
use crate::message::{Lane, Message, NotTaken, ReadId};
use crate::record::Record;
use crate::types::{Ballot, CommandId, Entry, Epoch, MemberId, Slot};

/// Number of a write; [`crate::Paxos::handle_synced`] reports it. Grows by one with each `Persist`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Io(pub u64);

/// Number of a [`Output::Load`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One thing that the shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write these records behind all earlier ones and sync them; then `handle_synced(io)`.
    /// A record that only carries a commit need not be synced by itself, but is reported too.
    Persist { io: Io, records: Vec<Record> },
    /// Send, in order per `(to, lane)`; with `after`, not before that write is synced (rule P1). The
    /// write was handed out before. What a broken connection loses is sent again when it matters.
    Send {
        to: MemberId,
        lane: Lane,
        message: Message,
        after: Option<Io>,
    },
    /// Everything up to `through` is chosen and synced here: hand it to apply. `entries` are those
    /// at hand, in order, ending at `through`; what is missing before them is read from the log.
    Chosen { through: Slot, entries: Vec<Entry> },
    /// A command of this member's was chosen at this slot: it is no longer sent again.
    Resolved { id: CommandId, slot: Slot },
    /// A command of this member's was refused before any copy of it left this member: it never
    /// will be chosen. (A refusal by a remote leader is not definite; the command is sent again
    /// until it is chosen, and its expiry makes it do nothing.)
    Withdrawn { id: CommandId, reason: NotTaken },
    /// A read may be served once `applied >= index`.
    ReadReady { id: ReadId, index: Slot },
    /// No index can be had now: the caller asks again under a new id (rule R1).
    ReadFailed { id: ReadId },
    /// Read entries from the log, from `from`, about `max_bytes` of them, at least one; then
    /// `handle_loaded`.
    Load {
        ticket: Ticket,
        from: Slot,
        through: Slot,
        max_bytes: u64,
    },
    /// Leadership as this member sees it has changed; for logs, metrics and status. `ballot` is the
    /// one that the leader leads in; without a leader the highest that this member has promised.
    LeaderChanged {
        leader: Option<MemberId>,
        ballot: Ballot,
    },
    /// No peer that was asked holds the entries that this member needs next: get a snapshot of this
    /// slot or a later one, check and store it, then [`crate::Paxos::handle_installed`]. Said again
    /// only when the slot has changed, or after what was needed has come.
    NeedSnapshot { at_least: Slot },
    /// The log begins behind this base now, and that is synced: apply goes on from the snapshot, and
    /// what is handed over next is behind its slot.
    Installed { base: Base },
    /// The protocol in force was raised by the entry at this slot.
    ProtocolChanged { slot: Slot, protocol: u32 },
    /// The configuration in force from the slot after this one on, in order with [`Output::Chosen`] and
    /// [`Output::Installed`]. This member acts in it already: [`crate::Paxos::contacts`].
    ConfigurationChanged {
        slot: Slot,
        epoch: Epoch,
        configuration: Configuration,
    },
    /// This member is in the group no more from this epoch on. It votes and asks for nothing, but helps
    /// those that do not know of the change yet: it may be ended once the epoch before is retired
    /// ([`crate::Paxos::old_epoch_retired`], as the others see it). Said once per start.
    Removed { epoch: Epoch },
    /// The group has agreed on a protocol that this program does not speak: nothing behind `slot` can
    /// be understood here. The process ends, and a newer program goes on with the same log.
    Outdated { slot: Slot, protocol: u32 },
    /// This member must stop and can come back only as a new incarnation (rule M4).
    Forgetful { reported_by: MemberId },
}
