//! The log as it stands in memory: the ballots of all of it as runs, and the entries of its end.
//! Everything that is not committed is in memory, or known to be faulty; older entries stay as long
//! as the cache has room and are otherwise read back by [`crate::Output::Load`].

use std::collections::VecDeque;

use synod_mutant::{Mutant, planted};

use crate::types::{AgreedTime, Ballot, Entry, Slot};

/// What a reader of the log gets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Batch {
    /// Entries from the slot asked for on.
    Entries(Vec<Entry>),
    /// They are on disk only.
    OnDisk,
    /// The slot asked for cannot be read (rule W2).
    Faulty,
}

/// A contiguous log `first..=last`.
#[derive(Debug)]
pub(crate) struct Log {
    first: Slot,
    last: Slot,
    commit: Slot,
    /// Ballot of the entry before `first`, which is chosen.
    before: Ballot,
    /// `(first slot, ballot)` of each run of equal ballots, in slot order.
    runs: Vec<(Slot, Ballot)>,
    /// The end of the log; ends at `last`. `None` where a slot is faulty.
    cache: VecDeque<Option<Entry>>,
    cached_bytes: u64,
    uncommitted_bytes: u64,
    /// Greatest stamp ever seen in this log, cut entries included: agreed time never goes back.
    time: AgreedTime,
}

impl Log {
    /// A log that begins behind the entry `base`. All of it as recovered; checked by the caller.
    pub(crate) fn new(
        base: (Slot, Ballot),
        last: Slot,
        commit: Slot,
        runs: Vec<(Slot, Ballot)>,
        time: AgreedTime,
    ) -> Self {
        let (base, before) = base;
        assert!(base <= commit && commit <= last, "I5: commit <= last");
        let missing = (last.0 - commit.0) as usize;
        Self {
            first: base.next(),
            last,
            commit,
            before,
            runs,
            cache: std::iter::repeat_with(|| None).take(missing).collect(),
            cached_bytes: 0,
            uncommitted_bytes: 0,
            time,
        }
    }

    pub(crate) fn first(&self) -> Slot {
        self.first
    }

    pub(crate) fn last(&self) -> Slot {
        self.last
    }

    pub(crate) fn commit(&self) -> Slot {
        self.commit
    }

    pub(crate) fn time(&self) -> AgreedTime {
        self.time
    }

    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cached_bytes
    }

    pub(crate) fn uncommitted_bytes(&self) -> u64 {
        self.uncommitted_bytes
    }

    /// First slot that may be in memory.
    fn cache_first(&self) -> Slot {
        Slot(self.last.0 + 1 - self.cache.len() as u64)
    }

    /// Mean weight of what is in memory; 0 while that is too little to tell by: neither a number of
    /// entries nor `enough` bytes.
    pub(crate) fn mean_weight(&self, enough: u64) -> u64 {
        const ENTRIES: u64 = 16;
        let count = self.cache.len() as u64;
        if count < ENTRIES && self.cached_bytes < enough {
            return 0;
        }
        self.cached_bytes / count.max(1)
    }

    /// Ballot of the entry at `slot`, also of the one before the first. (The position before the
    /// first slot of all has the lowest one.)
    pub(crate) fn ballot_at(&self, slot: Slot) -> Option<Ballot> {
        if slot == self.first.prev() {
            return Some(self.before);
        }
        if slot < self.first || slot > self.last {
            return None;
        }
        let at = match self.runs.last() {
            Some((start, _)) if *start <= slot => self.runs.len(),
            _ => self.runs.partition_point(|(start, _)| *start <= slot),
        };
        self.runs[..at].last().map(|(_, ballot)| *ballot)
    }

    pub(crate) fn entry(&self, slot: Slot) -> Option<&Entry> {
        if slot < self.cache_first() || slot > self.last {
            return None;
        }
        let at = (slot.0 - self.cache_first().0) as usize;
        self.cache.get(at)?.as_ref()
    }

    /// Entries from `from` to `through` at most, about `max_bytes` of them, at least one.
    pub(crate) fn batch(&self, from: Slot, through: Slot, max_bytes: u64) -> Batch {
        assert!(from <= through && through <= self.last, "within the log");
        if from < self.cache_first() {
            return Batch::OnDisk;
        }
        let mut bytes = 0;
        let mut entries = Vec::new();
        let start = (from.0 - self.cache_first().0) as usize;
        let count = (through.0 - from.0 + 1) as usize;
        for entry in self.cache.range(start..start + count) {
            let Some(entry) = entry else { break };
            if !entries.is_empty() && bytes + entry.weight() > max_bytes {
                break;
            }
            bytes += entry.weight();
            entries.push(entry.clone());
        }
        if entries.is_empty() {
            Batch::Faulty
        } else {
            Batch::Entries(entries)
        }
    }

    /// All entries in memory after `after`, in order, faulty ones left out.
    pub(crate) fn after(&self, after: Slot) -> impl Iterator<Item = &Entry> {
        let start = (after.0 + 1).saturating_sub(self.cache_first().0) as usize;
        self.cache
            .range(start.min(self.cache.len())..)
            .filter_map(Option::as_ref)
    }

    /// Adds an entry behind the last.
    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.slot, self.last.next(), "the log is contiguous");
        if self
            .runs
            .last()
            .is_none_or(|(_, ballot)| *ballot != entry.ballot)
        {
            self.runs.push((entry.slot, entry.ballot));
        }
        self.last = entry.slot;
        self.time = self.time.max(entry.time);
        self.cached_bytes += entry.weight();
        self.uncommitted_bytes += entry.weight();
        self.cache.push_back(Some(entry));
    }

    /// Removes everything after `after`, never what is committed (rule L1b).
    pub(crate) fn cut(&mut self, after: Slot) {
        assert!(after >= self.commit, "a committed entry is never cut");
        assert!(after <= self.last, "the cut is within the log");
        while self.last > after {
            if let Some(entry) = self.cache.pop_back().flatten() {
                self.cached_bytes -= entry.weight();
                self.uncommitted_bytes -= entry.weight();
            }
            self.last = self.last.prev();
        }
        let keep = self.runs.partition_point(|(start, _)| *start <= after);
        self.runs.truncate(keep);
    }

    /// Puts a staged log behind `after` in place of all that was there. `runs` covers
    /// `after + 1..=last`; `tail` is its end, as much as is in memory: the rest is committed.
    pub(crate) fn install(
        &mut self,
        after: Slot,
        last: Slot,
        runs: &[(Slot, Ballot)],
        time: AgreedTime,
        commit: Slot,
        tail: VecDeque<Entry>,
    ) {
        self.cut(after);
        assert!(last >= after, "nothing is cut but what was cut");
        for (start, ballot) in runs {
            if self.runs.last().is_none_or(|(_, before)| before != ballot) {
                self.runs.push((*start, *ballot));
            }
        }
        let in_memory = tail.len() as u64;
        if in_memory < last.0 - after.0 {
            // A hole between what was cached and what is: only committed entries may be missing.
            assert!(
                last.0 - in_memory <= commit.0,
                "uncommitted entries stay in memory"
            );
            self.cache.clear();
            self.cached_bytes = 0;
            self.uncommitted_bytes = 0;
        }
        for entry in tail {
            self.cached_bytes += entry.weight();
            self.uncommitted_bytes += entry.weight();
            self.cache.push_back(Some(entry));
        }
        self.last = last;
        self.time = self.time.max(time);
        self.raise_commit(commit.min(last));
    }

    /// Forgets the chosen entries up to `slot`.
    pub(crate) fn compact(&mut self, slot: Slot) {
        assert!(slot <= self.commit, "only what is chosen is forgotten");
        let Some(ballot) = self.ballot_at(slot) else {
            return;
        };
        while !self.cache.is_empty() && self.cache_first() <= slot {
            let gone = self.cache.pop_front().flatten();
            self.cached_bytes -= gone.map_or(0, |entry| entry.weight());
        }
        let kept = self.runs.partition_point(|(start, _)| *start <= slot);
        self.runs.drain(..kept);
        if slot < self.last
            && self
                .runs
                .first()
                .is_none_or(|(start, _)| *start > slot.next())
        {
            self.runs.insert(0, (slot.next(), ballot));
        }
        self.first = slot.next();
        self.before = ballot;
    }

    /// Begins anew behind the chosen entry at `slot`.
    pub(crate) fn replace(&mut self, slot: Slot, ballot: Ballot, time: AgreedTime) {
        assert!(slot > self.commit, "I5: commit never goes down");
        let time = self.time.max(time);
        *self = Self::new((slot, ballot), slot, slot, Vec::new(), time);
    }

    /// Everything up to `commit` is chosen. Never goes down.
    pub(crate) fn raise_commit(&mut self, commit: Slot) {
        assert!(commit <= self.last, "I5: commit <= last");
        if commit <= self.commit && !planted(Mutant::CommitGoesDown) {
            return;
        }
        let from = self.commit.next().max(self.cache_first());
        let start = (from.0 - self.cache_first().0) as usize;
        let end = (commit.0 + 1).saturating_sub(self.cache_first().0) as usize;
        let bytes: u64 = self
            .cache
            .range(start..end.max(start))
            .flatten()
            .map(Entry::weight)
            .sum();
        self.uncommitted_bytes -= bytes;
        self.commit = commit;
    }

    /// Forgets old entries until at most `limit` bytes are in memory; only those up to `through`,
    /// and never uncommitted ones.
    pub(crate) fn evict(&mut self, limit: u64, through: Slot) {
        let through = through.min(self.commit);
        while self.cached_bytes > limit && self.cache_first() <= through {
            let Some(entry) = self.cache.pop_front() else {
                return;
            };
            self.cached_bytes -= entry.map_or(0, |entry| entry.weight());
        }
    }

    /// A good copy of a faulty slot has come.
    pub(crate) fn fill(&mut self, entry: Entry) {
        assert_eq!(
            self.ballot_at(entry.slot),
            Some(entry.ballot),
            "the same entry"
        );
        self.time = self.time.max(entry.time);
        if entry.slot < self.cache_first() {
            return;
        }
        let at = (entry.slot.0 - self.cache_first().0) as usize;
        if self.cache[at].is_none() {
            self.cached_bytes += entry.weight();
            if entry.slot > self.commit {
                self.uncommitted_bytes += entry.weight();
            }
            self.cache[at] = Some(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Command, Epoch, MemberId};

    fn ballot(round: u64) -> Ballot {
        Ballot {
            epoch: Epoch(1),
            round,
            node: MemberId(1),
        }
    }

    fn entry(slot: u64, round: u64) -> Entry {
        Entry {
            slot: Slot(slot),
            ballot: ballot(round),
            time: AgreedTime(slot * 10),
            seed: 0,
            command: Command {
                payload: vec![0; 100].into(),
                ..Command::default()
            },
        }
    }

    fn log(rounds: &[u64]) -> Log {
        let mut log = Log::new(
            (Slot(0), Ballot::default()),
            Slot(0),
            Slot(0),
            Vec::new(),
            AgreedTime(0),
        );
        for (at, round) in rounds.iter().enumerate() {
            log.append(entry(at as u64 + 1, *round));
        }
        log
    }

    #[test]
    fn ballots_are_known_for_the_whole_log_even_when_entries_are_evicted() {
        let mut log = log(&[1, 1, 2, 2, 5]);
        log.raise_commit(Slot(5));
        log.evict(0, Slot(4));
        assert!(log.entry(Slot(4)).is_none() && log.entry(Slot(5)).is_some());
        let rounds: Vec<u64> = (1..=5)
            .filter_map(|slot| log.ballot_at(Slot(slot)))
            .map(|ballot| ballot.round)
            .collect();
        assert_eq!(rounds, [1, 1, 2, 2, 5]);
        assert_eq!(log.ballot_at(Slot(6)), None);
        assert_eq!(log.ballot_at(Slot(0)), Some(Ballot::default()));
    }

    #[test]
    fn an_uncommitted_entry_is_never_evicted() {
        let mut log = log(&[1, 1, 1]);
        log.raise_commit(Slot(1));
        log.evict(0, Slot(3));
        assert!(log.entry(Slot(1)).is_none());
        assert!(log.entry(Slot(2)).is_some());
    }

    #[test]
    fn a_cut_and_install_replaces_the_end() {
        let mut log = log(&[1, 1, 1, 1]);
        log.raise_commit(Slot(2));
        let tail = [entry(3, 2), entry(4, 3)].into();
        let runs = [(Slot(3), ballot(2)), (Slot(4), ballot(3))];
        log.install(Slot(2), Slot(4), &runs, AgreedTime(40), Slot(2), tail);
        assert_eq!(log.ballot_at(Slot(3)), Some(ballot(2)));
        assert_eq!(log.uncommitted_bytes(), 2 * entry(1, 1).weight());
        log.cut(Slot(3));
        assert_eq!(log.last(), Slot(3));
        assert_eq!(log.time(), AgreedTime(40), "time never goes back");
    }

    #[test]
    fn what_is_forgotten_leaves_the_ballot_of_its_last_entry() {
        for through in 1..=5 {
            let mut log = log(&[1, 1, 2, 2, 5]);
            log.raise_commit(Slot(5));
            log.evict(3 * entry(1, 1).weight(), Slot(5));
            log.compact(Slot(through));
            log.compact(Slot(through));
            assert_eq!(log.first(), Slot(through + 1));
            let rounds: Vec<u64> = (0..=5)
                .filter_map(|slot| log.ballot_at(Slot(slot)))
                .map(|ballot| ballot.round)
                .collect();
            assert_eq!(rounds, [1, 1, 2, 2, 5][through as usize - 1..]);
            let held = 5 - through.max(2);
            assert_eq!(log.cached_bytes(), held * entry(1, 1).weight());
            log.append(entry(6, 5));
            assert_eq!(log.ballot_at(Slot(6)), Some(ballot(5)));
        }
    }

    #[test]
    fn a_log_that_begins_anew_keeps_its_time() {
        let mut log = log(&[1, 1, 1]);
        log.raise_commit(Slot(1));
        log.replace(Slot(9), ballot(4), AgreedTime(20));
        assert_eq!(
            (log.first(), log.last(), log.commit()),
            (Slot(10), Slot(9), Slot(9))
        );
        assert_eq!((log.cached_bytes(), log.uncommitted_bytes()), (0, 0));
        assert_eq!(log.time(), AgreedTime(30));
        log.append(entry(10, 4));
        assert_eq!(log.ballot_at(Slot(9)), Some(ballot(4)));
    }

    #[test]
    #[should_panic(expected = "a committed entry is never cut")]
    fn a_cut_at_a_committed_slot_ends_the_process() {
        let mut log = log(&[1, 1]);
        log.raise_commit(Slot(2));
        log.cut(Slot(1));
    }

    #[test]
    fn bytes_not_committed_are_counted() {
        let mut log = log(&[1, 1, 1]);
        let weight = entry(1, 1).weight();
        assert_eq!(log.uncommitted_bytes(), 3 * weight);
        log.raise_commit(Slot(2));
        assert_eq!(log.uncommitted_bytes(), weight);
        log.cut(Slot(2));
        assert_eq!(log.uncommitted_bytes(), 0);
        assert_eq!(log.cached_bytes(), 2 * weight);
    }

    #[test]
    fn a_batch_has_at_least_one_entry_and_otherwise_keeps_its_limit() {
        let log = log(&[1, 1, 1]);
        let len = |bytes| match log.batch(Slot(1), Slot(3), bytes) {
            Batch::Entries(entries) => entries.len(),
            _ => 0,
        };
        assert_eq!(len(1), 1);
        assert_eq!(len(2 * entry(1, 1).weight()), 2);
        assert_eq!(len(u64::MAX), 3);
    }
}
