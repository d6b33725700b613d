//! One process of a member: the agreement with what its shell must remember around it.
//!
//! This is state only; `shell` moves it. All of it is gone when the process dies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use synod_paxos::{
    Boot, Command, CommandId, CommandKind, Epoch, Io, Lane, MemberId, Message, Paxos, ReadId, Slot,
};

use crate::calendar::{Event, Life};
use crate::client::Attempt;
use crate::copy::Copy;
use crate::network::{LANES, index_of};
use crate::poison::Term;
use crate::snapshots::Keeper;

/// A write handed to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) io: Io,
    pub(crate) records: usize,
}

/// A message that may have to wait for a write.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) to: MemberId,
    pub(crate) lane: Lane,
    pub(crate) message: Message,
    pub(crate) after: Option<Io>,
}

/// A running member.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) life: Life,
    pub(crate) paxos: Paxos,
    pub(crate) copy: Copy,
    /// It gets no time; what is meant for it waits in `deferred`.
    pub(crate) paused: bool,
    pub(crate) deferred: Vec<Event>,
    /// True time of the next [`Event::Timer`] in the calendar.
    pub(crate) timer_ns: Option<u64>,
    pub(crate) synced_io: Io,
    /// Writes that are not synced, oldest first.
    pub(crate) writes: VecDeque<Write>,
    /// How many of them the sync under way covers; 0: none is under way.
    pub(crate) syncing: usize,
    /// Per (peer, lane) what waits for a sync, and all behind it.
    held: Vec<VecDeque<Outgoing>>,
    /// Sequence of the last command.
    pub(crate) sequence: u64,
    /// Sequences of commands that are not resolved.
    pub(crate) unresolved: BTreeSet<u64>,
    /// Who waits for the answer to a command.
    pub(crate) attempts: BTreeMap<CommandId, Attempt>,
    pub(crate) last_read: ReadId,
    /// Reads that wait for an index: who waits, and what the index must reach.
    pub(crate) reads: BTreeMap<ReadId, (Attempt, Slot)>,
    /// Reads that wait until their index is applied.
    pub(crate) ready_reads: BTreeMap<(Slot, ReadId), Attempt>,
    pub(crate) steps: u64,
    /// With whom it is to be connected, and the version of that.
    pub(crate) contacts: Vec<usize>,
    pub(crate) contacts_version: Option<u64>,
    /// The shell was told of the configurations up to this epoch.
    pub(crate) told_epoch: Epoch,
    pub(crate) keeper: Keeper,
    /// The read whose index tells what was chosen when this life began.
    pub(crate) proof_read: Option<ReadId>,
    /// If it leads: what it knows of requests that fail.
    pub(crate) term: Option<Term>,
    /// The set of promises that is on disk.
    pub(crate) promises_saved: u64,
    /// It was told that it is in the group no more.
    pub(crate) told_removed: bool,
}

// === impl Process ===

impl Process {
    pub(crate) fn new(
        life: Life,
        paxos: Paxos,
        copy: Copy,
        keeper: Keeper,
        machines: usize,
    ) -> Self {
        Self {
            life,
            contacts: Vec::new(),
            contacts_version: None,
            told_epoch: paxos.base().configuration.epoch,
            keeper,
            proof_read: None,
            term: None,
            promises_saved: 0,
            told_removed: false,
            paxos,
            copy,
            paused: false,
            deferred: Vec::new(),
            timer_ns: None,
            synced_io: Io(0),
            writes: VecDeque::new(),
            syncing: 0,
            held: (0..machines * LANES.len())
                .map(|_| VecDeque::new())
                .collect(),
            sequence: 0,
            unresolved: BTreeSet::new(),
            attempts: BTreeMap::new(),
            last_read: ReadId(0),
            reads: BTreeMap::new(),
            ready_reads: BTreeMap::new(),
            steps: 0,
        }
    }

    fn queue(&mut self, to: MemberId, lane: Lane) -> &mut VecDeque<Outgoing> {
        let lane = LANES
            .iter()
            .position(|l| *l == lane)
            .expect("all lanes are listed");
        &mut self.held[index_of(to) * LANES.len() + lane]
    }

    /// Takes a message: gives it back when it may leave now.
    pub(crate) fn hold(&mut self, outgoing: Outgoing) -> Option<Outgoing> {
        let synced = self.synced_io;
        let queue = self.queue(outgoing.to, outgoing.lane);
        if queue.is_empty() && outgoing.after.is_none_or(|io| io <= synced) {
            return Some(outgoing);
        }
        queue.push_back(outgoing);
        None
    }

    /// What waited for a connection that is gone is lost with it.
    pub(crate) fn drop_held(&mut self, to: MemberId, lane: Lane) {
        self.queue(to, lane).clear();
    }

    /// All messages that may leave after a sync.
    pub(crate) fn release(&mut self) -> Vec<Outgoing> {
        let synced = self.synced_io;
        let mut free = Vec::new();
        for queue in &mut self.held {
            while queue
                .front()
                .is_some_and(|o| o.after.is_none_or(|io| io <= synced))
            {
                free.extend(queue.pop_front());
            }
        }
        free
    }

    pub(crate) fn next_read(&mut self) -> ReadId {
        self.last_read = ReadId(self.last_read.0 + 1);
        self.last_read
    }

    /// The next command of this life, which began as this boot of its member.
    pub(crate) fn command(&mut self, boot: Boot, kind: CommandKind, payload: Bytes) -> Command {
        let floor = self.floor();
        self.sequence += 1;
        let id = CommandId {
            member: self.paxos.member(),
            boot,
            sequence: self.sequence,
        };
        Command {
            kind,
            id,
            floor,
            payload,
        }
    }

    /// The lowest unresolved sequence, which all commands carry (rule P6).
    pub(crate) fn floor(&self) -> u64 {
        self.unresolved
            .first()
            .copied()
            .unwrap_or(self.sequence + 1)
    }
}
