//! One member as its shell sees it: what it holds, and what it was told.

use std::collections::BTreeMap;

use bytes::Bytes;
use synod_paxos::{
    Ballot, CommandId, CommandKind, Configuration, Entry, Epoch, Io, Lane, MemberId, Message,
    Paxos, ReadId, Slot,
};

use super::disk::Disk;

pub(crate) struct Node {
    pub(crate) paxos: Option<Paxos>,
    pub(crate) disk: Disk,
    pub(crate) held: Vec<(Io, MemberId, Lane, Message)>,
    pub(crate) synced: Io,
    /// What apply got in this start, by slot.
    pub(crate) applied: BTreeMap<Slot, Entry>,
    pub(crate) through: Slot,
    pub(crate) resolved: Vec<(CommandId, Slot)>,
    pub(crate) ready: BTreeMap<ReadId, Slot>,
    pub(crate) failed: Vec<ReadId>,
    pub(crate) leaders: Vec<(Option<MemberId>, Ballot)>,
    pub(crate) forgetful: bool,
    /// Snapshots asked for, bases installed, raises of the protocol.
    pub(crate) needed: Vec<Slot>,
    pub(crate) installed: Vec<Slot>,
    pub(crate) protocols: Vec<(Slot, u32)>,
    pub(crate) outdated: Option<u32>,
    /// Configurations told, by the slots of their stop-signs, and from which epoch on it is no member.
    pub(crate) configurations: Vec<(Slot, Configuration)>,
    pub(crate) removed: Option<Epoch>,
    /// Lets apply say at once that it has executed what it got.
    pub(crate) applies: bool,
    pub(crate) sequence: u64,
    pub(crate) loads: u64,
    pub(crate) syncs: u64,
}

impl Node {
    pub(crate) fn new(disk: Disk) -> Self {
        Self {
            paxos: None,
            disk,
            held: Vec::new(),
            synced: Io(0),
            applied: BTreeMap::new(),
            through: Slot::ZERO,
            resolved: Vec::new(),
            ready: BTreeMap::new(),
            failed: Vec::new(),
            leaders: Vec::new(),
            forgetful: false,
            needed: Vec::new(),
            installed: Vec::new(),
            protocols: Vec::new(),
            outdated: None,
            configurations: Vec::new(),
            removed: None,
            applies: true,
            sequence: 0,
            loads: 0,
            syncs: 0,
        }
    }

    /// Payloads in slot order, Noops left out.
    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.applied
            .values()
            .filter(|entry| entry.command.kind == CommandKind::REQUEST)
            .map(|entry| entry.command.payload.clone())
            .collect()
    }

    pub(crate) fn slot_of(&self, id: CommandId) -> Option<Slot> {
        self.resolved
            .iter()
            .find(|(resolved, _)| *resolved == id)
            .map(|(_, slot)| *slot)
    }
}

/// Bytes of entries and commands in a message.
pub(crate) fn weight(message: &Message) -> u64 {
    match message {
        Message::Promise {
            suffix: entries, ..
        }
        | Message::AcceptSync { entries, .. }
        | Message::Accept { entries, .. }
        | Message::Repair { entries }
        | Message::Learn { entries } => entries.iter().map(Entry::weight).sum(),
        Message::Propose { commands, .. } => commands
            .iter()
            .map(|it| it.payload.len() as u64 + Entry::OVERHEAD_BYTES)
            .sum(),
        _ => 0,
    }
}

pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Prepare { .. } => "prepare",
        Message::Promise { .. } => "promise",
        Message::Refused { .. } => "refused",
        Message::AcceptSync { .. } => "accept_sync",
        Message::Staged { .. } => "staged",
        Message::Accept { .. } => "accept",
        Message::Accepted { .. } => "accepted",
        Message::Gap { .. } => "gap",
        Message::Heartbeat(_) => "heartbeat",
        Message::Propose { .. } => "propose",
        Message::NotTaken { .. } => "not_taken",
        Message::ReadIndex { .. } => "read_index",
        Message::ReadIndexes { .. } => "read_indexes",
        Message::ReadRefused { .. } => "read_refused",
        Message::Confirm { .. } => "confirm",
        Message::Confirmed { .. } => "confirmed",
        Message::Transfer { .. } => "transfer",
        Message::RepairRequest { .. } => "repair_request",
        Message::Repair { .. } => "repair",
        Message::Compacted { .. } => "compacted",
        Message::LearnRequest { .. } => "learn_request",
        Message::Learn { .. } => "learn",
    }
}
