//! What is on its way to disk. Records come in, numbered writes go out; when a write is synced it
//! says what has become true (rule P1: nothing that depends on an unsynced record leaves).

use std::collections::VecDeque;

use crate::output::Io;
use crate::record::Record;
use crate::types::{Ballot, Slot};

/// What becomes true once a write is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The promise is kept.
    Promised(Ballot),
    /// The log as adopted in `accepted` is kept up to `last`.
    Log { accepted: Ballot, last: Slot },
    /// Staged entries of `ballot` are kept up to `through`.
    Staged { ballot: Ballot, through: Slot },
    /// The entry is readable again.
    Repaired(Slot),
    /// The epoch of this ballot was entered, with a log up to `last`.
    Entered { ballot: Ballot, last: Slot },
    /// The log begins behind this slot.
    Based(Slot),
    /// Nothing that anybody waits for.
    Nothing,
}

/// The queue in front of the disk.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Records of the write that is being filled.
    records: Vec<Record>,
    /// Number of the write that is being filled.
    filling: Io,
    /// Writes handed out and not synced, with the time they were handed out.
    in_flight: VecDeque<(Io, u64)>,
    /// Bytes of entries that are not synced, in the order of their writes.
    bytes: VecDeque<(Io, u64)>,
    unsynced_bytes: u64,
    effects: VecDeque<(Io, Effect)>,
    synced: Io,
    /// A commit up to here is on disk, or on its way.
    stored_commit: Slot,
}

impl Journal {
    pub(crate) fn new(stored_commit: Slot) -> Self {
        Self {
            records: Vec::new(),
            filling: Io(1),
            in_flight: VecDeque::new(),
            bytes: VecDeque::new(),
            unsynced_bytes: 0,
            effects: VecDeque::new(),
            synced: Io(0),
            stored_commit,
        }
    }

    /// Queues a record; the number says which write it will be part of.
    pub(crate) fn record(&mut self, record: Record, effect: Effect) -> Io {
        self.note_bytes(&record);
        self.records.push(record);
        match (self.effects.back_mut(), effect) {
            // One effect a write is enough for a run of appends.
            (
                Some((io, Effect::Log { accepted, last })),
                Effect::Log {
                    accepted: same,
                    last: further,
                },
            ) if *io == self.filling && *accepted == same => *last = further,
            (
                Some((io, Effect::Staged { ballot, through })),
                Effect::Staged {
                    ballot: same,
                    through: further,
                },
            ) if *io == self.filling && *ballot == same => *through = further,
            _ => self.effects.push_back((self.filling, effect)),
        }
        self.filling
    }

    /// One thing more that becomes true with the record queued last.
    pub(crate) fn and(&mut self, effect: Effect) {
        assert!(!self.records.is_empty(), "an effect belongs to a record");
        self.effects.push_back((self.filling, effect));
    }

    /// What was appended behind `keep` is cut again: it counts no more once it is synced.
    pub(crate) fn cut(&mut self, keep: Slot) {
        for (_, effect) in &mut self.effects {
            if let Effect::Log { last, .. } = effect {
                *last = keep.min(*last);
            }
        }
    }

    /// The write that the record queued last is part of.
    pub(crate) fn filling(&self) -> Io {
        self.filling
    }

    fn note_bytes(&mut self, record: &Record) {
        let bytes = match record {
            Record::Append(entry)
            | Record::Stage { entry, .. }
            | Record::Repair(entry)
            | Record::Learn(entry) => entry.weight(),
            _ => return,
        };
        self.unsynced_bytes += bytes;
        match self.bytes.back_mut() {
            Some((io, sum)) if *io == self.filling => *sum += bytes,
            _ => self.bytes.push_back((self.filling, bytes)),
        }
    }

    /// The next write, if there is one. `commit` rides along when it is news.
    pub(crate) fn take(
        &mut self,
        now_ns: u64,
        limit: usize,
        commit: Slot,
    ) -> Option<(Io, Vec<Record>)> {
        if self.records.is_empty() || self.in_flight.len() >= limit {
            return None;
        }
        if commit > self.stored_commit {
            self.stored_commit = commit;
            self.records.push(Record::Commit(commit));
        }
        let io = self.filling;
        self.filling = Io(io.0 + 1);
        self.in_flight.push_back((io, now_ns));
        Some((io, std::mem::take(&mut self.records)))
    }

    /// A write of the commit alone, for idle times.
    pub(crate) fn take_commit(&mut self, now_ns: u64, commit: Slot) -> Option<(Io, Vec<Record>)> {
        if !self.records.is_empty() || !self.in_flight.is_empty() || commit <= self.stored_commit {
            return None;
        }
        self.stored_commit = commit;
        let io = self.filling;
        self.filling = Io(io.0 + 1);
        self.in_flight.push_back((io, now_ns));
        Some((io, vec![Record::Commit(commit)]))
    }

    /// Everything up to `io` is synced. False if it was never handed out.
    pub(crate) fn sync(&mut self, io: Io) -> bool {
        if io >= self.filling {
            return false;
        }
        self.synced = self.synced.max(io);
        while self.in_flight.front().is_some_and(|(done, _)| *done <= io) {
            self.in_flight.pop_front();
        }
        while let Some((written, bytes)) = self.bytes.front().copied()
            && written <= io
        {
            self.bytes.pop_front();
            self.unsynced_bytes -= bytes;
        }
        true
    }

    /// The next thing that has become true, in order.
    pub(crate) fn effect(&mut self) -> Option<Effect> {
        let (io, effect) = *self.effects.front()?;
        if io > self.synced {
            return None;
        }
        self.effects.pop_front();
        Some(effect)
    }

    /// The write has been handed out.
    pub(crate) fn is_handed_out(&self, io: Io) -> bool {
        io < self.filling
    }

    pub(crate) fn is_synced(&self, io: Io) -> bool {
        io <= self.synced
    }

    /// Since when the oldest write has been with the disk.
    pub(crate) fn waiting_since(&self) -> Option<u64> {
        self.in_flight.front().map(|(_, since)| *since)
    }

    /// Bytes of entries that are not synced yet.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, MemberId};

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: MemberId(1),
        }
    }

    #[test]
    fn an_effect_shows_only_after_its_write_is_synced() {
        let mut journal = Journal::new(Slot::ZERO);
        let effect = Effect::Promised(ballot(1));
        let io = journal.record(Record::Promise(ballot(1)), effect);
        assert_eq!(journal.effect(), None);
        let (taken, records) = journal.take(5, 1, Slot::ZERO).expect("a write");
        assert_eq!((taken, records.len()), (io, 1));
        assert_eq!(journal.effect(), None);
        assert!(journal.sync(io));
        assert_eq!(journal.effect(), Some(effect));
        assert_eq!(journal.effect(), None);
    }

    #[test]
    fn a_write_waits_while_the_disk_has_enough_of_them() {
        let mut journal = Journal::new(Slot::ZERO);
        journal.record(Record::Promise(ballot(1)), Effect::Promised(ballot(1)));
        assert!(journal.take(0, 1, Slot::ZERO).is_some());
        let io = journal.record(Record::Promise(ballot(2)), Effect::Promised(ballot(2)));
        assert!(journal.take(0, 1, Slot::ZERO).is_none());
        assert!(!journal.sync(io), "it was not handed out");
        assert!(journal.sync(Io(1)));
        assert!(journal.take(0, 1, Slot::ZERO).is_some());
    }
}
