//! A log on its way from a new leader (rule L1a): nothing of it counts before all of it is on disk.

use std::collections::VecDeque;

use crate::types::{AgreedTime, Ballot, Entry, Slot};

/// Entries staged for an adoption in `ballot`.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) ballot: Ballot,
    /// The log is kept up to here.
    pub(crate) after: Slot,
    /// Last slot of the log afterwards.
    pub(crate) last: Slot,
    /// What the leader says is chosen.
    pub(crate) commit: Slot,
    /// Next slot that is needed.
    pub(crate) next: Slot,
    /// Ballots of what is staged, as runs.
    pub(crate) runs: Vec<(Slot, Ballot)>,
    /// The end of what is staged: all that is not known to be chosen, and a little more.
    pub(crate) tail: VecDeque<Entry>,
    tail_bytes: u64,
    /// The raises of the protocol in it.
    pub(crate) upgrades: Vec<(Slot, u32)>,
    pub(crate) time: AgreedTime,
    /// Last slot that was given to the disk; `None` while nothing was.
    pub(crate) written: Option<Slot>,
    /// On disk up to here.
    pub(crate) synced: Slot,
}

impl Staging {
    pub(crate) fn new(ballot: Ballot, after: Slot, last: Slot, commit: Slot) -> Self {
        Self {
            ballot,
            after,
            last,
            commit,
            next: after.next(),
            runs: Vec::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            upgrades: Vec::new(),
            time: AgreedTime(0),
            written: None,
            synced: after,
        }
    }

    /// This is a part of the same adoption.
    pub(crate) fn continues(&self, ballot: Ballot, after: Slot, last: Slot) -> bool {
        (self.ballot, self.after, self.last) == (ballot, after, last)
    }

    /// The slot is held already, by agreement: it is not staged.
    pub(crate) fn skip(&mut self, slot: Slot) {
        assert_eq!(slot, self.next, "parts are staged in order");
        assert!(self.written.is_none(), "what is held comes first");
        self.next = slot.next();
    }

    /// Takes the next entry; the caller has given it to the disk.
    pub(crate) fn push(&mut self, entry: Entry, cache_bytes: u64) {
        assert_eq!(entry.slot, self.next, "parts are staged in order");
        if self
            .runs
            .last()
            .is_none_or(|(_, ballot)| *ballot != entry.ballot)
        {
            self.runs.push((entry.slot, entry.ballot));
        }
        if let Some(version) = entry.command.upgrades_to() {
            self.upgrades.push((entry.slot, version));
        }
        self.time = self.time.max(entry.time);
        self.written = Some(entry.slot);
        self.next = entry.slot.next();
        self.tail_bytes += entry.weight();
        self.tail.push_back(entry);
        while self.tail_bytes > cache_bytes
            && self.tail.len() > 1
            && self.tail.front().is_some_and(|old| old.slot <= self.commit)
        {
            let old = self.tail.pop_front();
            self.tail_bytes -= old.map_or(0, |old| old.weight());
        }
    }

    /// All of it came and is on disk.
    pub(crate) fn is_ready(&self) -> bool {
        self.next > self.last && self.written.is_none_or(|written| self.synced >= written)
    }

    /// Leaves out everything up to `keep`: that much is committed here meanwhile.
    pub(crate) fn trim(&mut self, keep: Slot) {
        while self.tail.front().is_some_and(|entry| entry.slot <= keep) {
            self.tail.pop_front();
        }
        let covered = self
            .runs
            .partition_point(|(start, _)| *start <= keep.next());
        if covered > 0 {
            self.runs.drain(..covered - 1);
            self.runs[0].0 = keep.next();
        }
        if keep >= self.last {
            self.runs.clear();
        }
    }
}
