//! What the agreement asks to be kept on disk, and what it finds there at a start.

use bytes::Bytes;

use crate::base::Base;
use crate::configuration::Configuration;
use crate::types::{AgreedTime, Ballot, Boot, Entry, GroupId, Header, Incarnation, Slot};

/// The first record of every log (rule M5): the same bytes on each member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Hash over all the other fields.
    pub group: GroupId,
    /// The membership of epoch 1; its `first_leader` is none.
    pub configuration: Configuration,
    /// Policy number 1 (`synod.v1.Policy`), opaque here.
    pub policy: Bytes,
    /// The protocol version that the group starts with.
    pub protocol: u32,
    /// Digest of the state that every copy starts from; empty for an empty state.
    pub initial_state: Bytes,
}

/// A durable step. Records are kept in the order given; one sync covers all that came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The group this log belongs to; only as the first record.
    Genesis(Genesis),
    /// `promised` is this ballot from here on.
    Promise(Ballot),
    /// The entry was accepted in `accepted`, which equals its ballot, behind the last entry.
    Append(Entry),
    /// Part of an adoption under way in `ballot`: changes nothing until its `Adopt`. A slot may be
    /// staged again in the same ballot, with the same entry, and beyond what is adopted then.
    Stage {
        /// The ballot of the leader that sends it.
        ballot: Ballot,
        /// The entry with the ballot that it was proposed in.
        entry: Entry,
    },
    /// Rule L1a: cuts the log from `from` on, installs the staged entries `from..=last` of
    /// `ballot` there, and sets `accepted = ballot`, all at once.
    Adopt {
        /// The ballot adopted in.
        ballot: Ballot,
        /// First slot that is cut and replaced; never at or below commit.
        from: Slot,
        /// Last slot of the log afterwards; `from - 1` when nothing was staged.
        last: Slot,
    },
    /// All slots up to here are chosen. A hint: it may be lost.
    Commit(Slot),
    /// A good copy of an entry whose own record is damaged, same slot, ballot and hash.
    Repair(Entry),
    /// The log begins behind this base, which is part of it and chosen: all entries up to its slot
    /// may go.
    Compact(Base),
    /// This base stands in place of all that the log held: it begins, ends and is chosen there. What
    /// was staged is worthless. `promised` and `accepted` stay, but are at least what everybody has
    /// promised when the base's epoch begins ([`Ballot::none`]). So it is with a [`Record::Compact`].
    Install(Base),
    /// The chosen entry at `slot` raised the protocol in force to `version`.
    Protocol {
        /// Of the entry.
        slot: Slot,
        /// From the next slot on.
        version: u32,
    },
    /// This member has not been in the group from the beginning: it asks these for the log (rule M5).
    /// Only behind the genesis. A later one counts.
    Join(Configuration),
    /// The entry is chosen, and so is all before it: it takes the place of whatever the log held from
    /// its slot on. What was staged is worthless. `promised` and `accepted` stay.
    Learn(Entry),
    /// Rule M1: the entry at `slot` is chosen and ends its epoch. Cuts what is behind it, and sets
    /// `promised` and `accepted` to [`Configuration::first_ballot`], all at once.
    Enter {
        /// Of the stop-sign.
        slot: Slot,
        /// In force from the next slot on.
        configuration: Configuration,
    },
}

/// Who this log belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The member's stable name.
    pub name: String,
    /// The life of this log.
    pub incarnation: Incarnation,
}

/// All that a start finds on the disk, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// The number of this start, already synced.
    pub boot: Boot,
    /// `None` before genesis.
    pub genesis: Option<Genesis>,
    /// The highest promise.
    pub promised: Ballot,
    /// The ballot under which the log prefix was adopted.
    pub accepted: Ballot,
    /// The greatest `(accepted, last)` that this log has had, if it ever was cut by a
    /// [`Record::Install`]: what it acknowledged, it has not forgotten (rule M4).
    pub kept: (Ballot, Slot),
    /// What the log begins behind; `None` as long as nothing was compacted.
    pub base: Option<Base>,
    /// The raises of the protocol behind that, by slot.
    pub upgrades: Vec<(Slot, u32)>,
    /// Whom a member that joined later asks for the log, until it has entered that epoch.
    pub joining: Option<Configuration>,
    /// The configurations entered behind the base, by the slots of their stop-signs.
    pub changes: Vec<(Slot, Configuration)>,
    /// The last entry, if it is known to be chosen and may end an epoch: a crash may have come before
    /// the next one was entered.
    pub ended_by: Option<Entry>,
    /// Last slot held, faulty ones counted; the base's when the log is empty.
    pub last: Slot,
    /// The ballots of the log as runs: `(first slot of the run, its ballot)`, in slot order.
    pub runs: Vec<(Slot, Ballot)>,
    /// The greatest stamp among the readable entries held; 0 when there is none. The next leader's
    /// stamps must not go back behind it.
    pub last_time: AgreedTime,
    /// The stored commit, at most `last`.
    pub commit: Slot,
    /// The entries after `commit` that are readable, in slot order.
    pub tail: Vec<Entry>,
    /// Entries that are there but cannot be read (rule W2): no vote goes past an uncommitted one.
    pub faulty: Vec<Header>,
}

impl Recovered {
    /// What a member begins with that is in no configuration that it has entered yet: a fresh log of
    /// the group, and whom to ask for the rest. Both are in its log before it talks to anybody:
    /// [`Record::Genesis`], then [`Record::Join`].
    #[must_use]
    pub fn joining(mut self, genesis: Genesis, configuration: Configuration) -> Self {
        self.genesis = Some(genesis);
        self.joining = Some(configuration);
        self
    }

    /// First slot held.
    pub fn first(&self) -> Slot {
        self.base
            .as_ref()
            .map_or(Slot::ZERO, |base| base.slot)
            .next()
    }
}
