//! Entries that are there but cannot be read (rule W2, after *Protocol-Aware Recovery*, FAST'18).
//! They count as present; copies come from any peer by slot, ballot and hash. (A slot known to be
//! chosen holds the very entry that was chosen, ballot included, so the same question serves for it.)

use std::collections::BTreeMap;

use crate::journal::Effect;
use crate::message::{Lane, Message};
use crate::output::Io;
use crate::paxos::{LoadFor, Paxos};
use crate::record::Record;
use crate::types::{Entry, Header, MemberId, Now, Slot};

/// Headers asked for at once, and loads for others under way at once.
const LIMIT: usize = 64;

/// The faulty slots of this member's log.
#[derive(Debug, Default)]
pub(crate) struct Faulty {
    /// A slot leaves only when its good copy is synced.
    slots: BTreeMap<Slot, (Header, Option<Io>)>,
    /// Which peer was asked last.
    asked: usize,
    /// Bytes of copies given to others since the last tick.
    lent_bytes: u64,
}

impl Faulty {
    pub(crate) fn new(headers: Vec<Header>) -> Self {
        Self {
            slots: headers
                .into_iter()
                .map(|header| (header.slot, (header, None)))
                .collect(),
            asked: 0,
            lent_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The lowest one.
    pub(crate) fn first(&self) -> Option<Slot> {
        self.slots.keys().next().copied()
    }

    /// The lowest one above `slot`: no vote reaches it.
    pub(crate) fn first_after(&self, slot: Slot) -> Option<Slot> {
        self.slots
            .range(slot.next()..)
            .next()
            .map(|(slot, _)| *slot)
    }

    /// Those above `slot` without a good copy yet.
    pub(crate) fn unfilled_after(&self, slot: Slot) -> impl Iterator<Item = Header> + '_ {
        self.slots
            .range(slot.next()..)
            .filter(|(_, (_, filled))| filled.is_none())
            .map(|(_, (header, _))| *header)
    }

    /// Those above `slot`, good copies under way or not.
    pub(crate) fn after(&self, slot: Slot) -> impl Iterator<Item = Header> + '_ {
        self.slots
            .range(slot.next()..)
            .map(|(_, (header, _))| *header)
    }

    pub(crate) fn cut(&mut self, after: Slot) {
        self.slots.split_off(&after.next());
    }

    /// What is up to here is not needed any more.
    pub(crate) fn forget(&mut self, through: Slot) {
        self.slots = self.slots.split_off(&through.next());
    }

    pub(crate) fn repaired(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }
}

impl Paxos {
    /// A chosen entry that was good cannot be read any more: a copy is asked for. Votes do not depend on
    /// it, since it is chosen; others get no copy of it here until it is mended.
    pub fn handle_damaged(&mut self, now: Now, header: Header) {
        if !self.enter(now) {
            return;
        }
        let held = header.slot >= self.log.first()
            && header.slot <= self.log.commit()
            && self.log.ballot_at(header.slot) == Some(header.ballot);
        if held {
            let slots = &mut self.faulty.slots;
            slots.entry(header.slot).or_insert((header, None));
        }
    }

    /// Asks a peer for good copies: the next one each time.
    pub(crate) fn request_repairs(&mut self) {
        self.faulty.lent_bytes = 0;
        let mut headers: Vec<Header> = self.faulty.unfilled_after(Slot::ZERO).take(LIMIT).collect();
        if let crate::paxos::Office::Candidate(candidate) = &self.office {
            headers.extend(candidate.missing.iter().take(LIMIT));
        }
        if headers.is_empty() || self.peers.is_empty() {
            return;
        }
        self.faulty.asked = (self.faulty.asked + 1) % self.peers.len();
        let peer = self.peers.keys().nth(self.faulty.asked).copied();
        if let Some(peer) = peer {
            self.send(peer, Lane::Bulk, Message::RepairRequest { headers });
        }
    }

    /// The first entry that cannot be read while nobody else could have a copy: nothing behind it is
    /// ever handed to apply, so a group of one takes no more.
    pub(crate) fn beyond_repair(&self) -> Option<Slot> {
        self.faulty.first().filter(|_| self.peers.is_empty())
    }

    /// A peer lacks bodies. Only an entry with that very hash is a copy.
    pub(crate) fn handle_repair_request(&mut self, from: MemberId, headers: &[Header]) {
        let mut entries = Vec::new();
        if headers.iter().any(|header| header.slot < self.log.first()) {
            self.tell_compacted(from);
        }
        for header in headers.iter().take(2 * LIMIT) {
            if !self.may_lend() {
                break;
            }
            if header.slot < self.log.first()
                || self.log.ballot_at(header.slot) != Some(header.ballot)
            {
                continue;
            }
            let readable = self.faulty.first_after(header.slot.prev()) != Some(header.slot);
            if let Some(entry) = self.log.entry(header.slot) {
                if entry.hash() == header.hash {
                    self.faulty.lent_bytes += entry.weight();
                    entries.push(entry.clone());
                }
            } else if readable && self.repair_loads() < LIMIT {
                self.load(LoadFor::Repair(from, *header), header.slot, header.slot);
            }
        }
        for entry in entries {
            let entries = vec![entry];
            self.send(from, Lane::Bulk, Message::Repair { entries });
        }
    }

    pub(crate) fn loaded_for_repair(&mut self, to: MemberId, header: Header, entries: Vec<Entry>) {
        let copies = entries
            .into_iter()
            .filter(|entry| entry.slot == header.slot && entry.hash() == header.hash);
        for entry in copies {
            if !self.may_lend() {
                return;
            }
            self.faulty.lent_bytes += entry.weight();
            let entries = vec![entry];
            self.send(to, Lane::Bulk, Message::Repair { entries });
        }
    }

    /// Copies for others are bounded between two ticks; they ask for the rest again.
    fn may_lend(&self) -> bool {
        self.faulty.lent_bytes < self.settings.window_bytes
    }

    /// Copies have come, for this member's log or for the log that it wants to adopt.
    pub(crate) fn handle_repair(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let header = Header {
                slot: entry.slot,
                ballot: entry.ballot,
                hash: entry.hash(),
            };
            if let crate::paxos::Office::Candidate(candidate) = &mut self.office {
                candidate.fill(header, &entry);
            }
            let slot = entry.slot;
            if self.faulty.slots.get(&slot) != Some(&(header, None)) {
                self.counters.stale_messages += 1;
                continue;
            }
            let record = Record::Repair(entry.clone());
            let io = self.journal.record(record, Effect::Repaired(slot));
            self.faulty.slots.insert(slot, (header, Some(io)));
            self.log.fill(entry.clone());
            self.counters.repairs += 1;
            if slot <= self.log.commit() {
                self.note_chosen(&entry);
            }
        }
        self.check_phase1();
    }
}
