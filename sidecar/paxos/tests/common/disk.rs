//! A disk under virtual time: records written and synced, a crash loses what is not synced.

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, CommandKind, Configuration, Entry, Genesis, Header, Identity,
    Io, Member, Record, Recovered, Slot,
};

pub(crate) struct Disk {
    identity: Option<Identity>,
    genesis: Option<Genesis>,
    boot: Boot,
    durable: View,
    written: View,
    pending: VecDeque<(Io, Vec<Record>)>,
    /// Slots whose bodies are lost.
    pub(crate) damaged: Vec<Slot>,
}

/// What the records so far amount to.
#[derive(Clone, Default)]
pub(crate) struct View {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
    pub(crate) commit: Slot,
    pub(crate) log: BTreeMap<Slot, Entry>,
    staged: BTreeMap<Slot, (Ballot, Entry)>,
    pub(crate) base: Option<Base>,
    kept: (Ballot, Slot),
    upgrades: BTreeMap<Slot, u32>,
    joining: Option<Configuration>,
    pub(crate) changes: BTreeMap<Slot, Configuration>,
}

pub(crate) fn entry_of(record: &Record) -> Option<&Entry> {
    match record {
        Record::Append(entry)
        | Record::Stage { entry, .. }
        | Record::Repair(entry)
        | Record::Learn(entry) => Some(entry),
        _ => None,
    }
}

impl View {
    fn add(&mut self, record: Record) {
        match record {
            Record::Genesis(_) => {}
            Record::Promise(ballot) => {
                assert!(ballot > self.promised, "I1: promises rise on disk");
                self.promised = ballot;
            }
            Record::Append(entry) => {
                assert_eq!(entry.slot, self.last.next(), "appended behind the last");
                assert_eq!(
                    entry.ballot, self.accepted,
                    "appended in the ballot adopted"
                );
                self.last = entry.slot;
                self.log.insert(entry.slot, entry);
            }
            Record::Stage { ballot, entry } => {
                self.staged.insert(entry.slot, (ballot, entry));
            }
            Record::Adopt { ballot, from, last } => {
                assert!(from > self.commit, "a committed entry is never cut");
                assert!(ballot > self.accepted && ballot <= self.promised, "I2");
                assert!(from.0 <= self.last.0 + 1, "no hole");
                self.log.split_off(&from);
                for slot in from.0..=last.0 {
                    let (staged, entry) = self.staged.remove(&Slot(slot)).expect("staged");
                    assert_eq!(staged, ballot, "staged for this adoption");
                    self.log.insert(Slot(slot), entry);
                }
                self.staged.clear();
                self.last = last;
                self.accepted = ballot;
            }
            Record::Commit(slot) => {
                assert!(slot <= self.last, "I5 on disk");
                self.commit = self.commit.max(slot);
            }
            Record::Repair(entry) => {
                self.log.insert(entry.slot, entry);
            }
            Record::Compact(base) => {
                assert!(base.slot <= self.last, "a compaction within the log");
                if let Some(held) = self.log.get(&base.slot) {
                    assert_eq!(held.ballot, base.ballot, "the base is part of the log");
                }
                self.begin_behind(base);
            }
            Record::Install(base) => {
                assert!(base.slot > self.commit, "I5: nothing chosen is cut");
                self.kept = self.kept.max((self.accepted, self.last));
                self.last = base.slot;
                self.log.clear();
                self.staged.clear();
                self.begin_behind(base);
            }
            Record::Protocol { slot, version } => {
                assert!(slot <= self.last, "a raise within the log");
                self.upgrades.insert(slot, version);
            }
            Record::Join(configuration) => {
                assert_eq!(self.last, Slot::ZERO, "joined with an empty log");
                self.joining = Some(configuration);
            }
            Record::Learn(entry) => {
                assert!(entry.slot > self.commit, "I5: nothing chosen is cut");
                assert!(entry.slot.0 <= self.last.0 + 1, "no hole");
                self.kept = self.kept.max((self.accepted, self.last));
                self.log.split_off(&entry.slot);
                self.staged.clear();
                (self.last, self.commit) = (entry.slot, entry.slot);
                self.log.insert(entry.slot, entry);
            }
            Record::Enter {
                slot,
                configuration,
            } => {
                let ballot = configuration.first_ballot();
                assert!(slot <= self.last && slot >= self.commit, "I5 on disk");
                assert!(ballot > self.promised, "I1: entering never lowers it");
                self.log.split_off(&slot.next());
                self.staged.clear();
                (self.last, self.commit) = (slot, slot);
                (self.promised, self.accepted) = (ballot, ballot);
                self.changes.insert(slot, configuration);
            }
        }
    }

    fn begin_behind(&mut self, base: Base) {
        assert!(base.slot > self.base_slot(), "a base never goes back");
        self.log = self.log.split_off(&base.slot.next());
        self.upgrades = self.upgrades.split_off(&base.slot.next());
        self.changes = self.changes.split_off(&base.slot.next());
        self.commit = self.commit.max(base.slot);
        let least = Ballot::none(base.configuration.epoch);
        self.promised = self.promised.max(least);
        self.accepted = self.accepted.max(least);
        self.base = Some(base);
    }

    pub(crate) fn base_slot(&self) -> Slot {
        self.base.as_ref().map_or(Slot::ZERO, |base| base.slot)
    }
}

impl Disk {
    pub(crate) fn empty() -> Self {
        Self {
            identity: None,
            genesis: None,
            boot: Boot(0),
            durable: View::default(),
            written: View::default(),
            pending: VecDeque::new(),
            damaged: Vec::new(),
        }
    }

    pub(crate) fn new(member: &Member, genesis: &Genesis) -> Self {
        let none = Ballot::none(genesis.configuration.epoch);
        let view = View {
            promised: none,
            accepted: none,
            ..View::default()
        };
        Self {
            durable: view.clone(),
            written: view,
            identity: Some(Identity {
                name: member.name.clone(),
                incarnation: member.incarnation,
            }),
            genesis: Some(genesis.clone()),
            ..Self::empty()
        }
    }

    /// The disk of a member that comes later: it has the genesis, and whom to ask.
    pub(crate) fn joining(
        member: &Member,
        genesis: &Genesis,
        configuration: Configuration,
    ) -> Self {
        let mut disk = Self::new(member, genesis);
        disk.durable.joining = Some(configuration);
        disk.crash();
        disk
    }

    /// Writes that are not synced.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn durable(&self) -> &View {
        &self.durable
    }

    /// L1a: all of a staged log is on disk before the record that adopts it is written.
    fn check_staged(&self, ballot: Ballot, from: Slot, last: Slot) {
        for slot in from.0..=last.0 {
            let staged = self.durable.staged.get(&Slot(slot));
            assert!(
                staged.is_some_and(|(staged, _)| *staged == ballot),
                "L1a: slot {slot} adopted before it was staged and synced"
            );
        }
    }

    pub(crate) fn write(&mut self, io: Io, records: Vec<Record>) {
        for record in &records {
            if let Record::Adopt { ballot, from, last } = record {
                self.check_staged(*ballot, *from, *last);
            }
        }
        let after = self
            .pending
            .back()
            .map_or(io, |(before, _)| Io(before.0 + 1));
        assert_eq!(io, after, "writes are numbered one by one");
        for record in &records {
            if let Record::Repair(entry) = record {
                self.damaged.retain(|slot| *slot != entry.slot);
            }
            self.written.add(record.clone());
        }
        self.pending.push_back((io, records));
    }

    pub(crate) fn sync(&mut self, io: Io) {
        while self.pending.front().is_some_and(|(done, _)| *done <= io) {
            let (_, records) = self.pending.pop_front().expect("it is there");
            for record in records {
                self.durable.add(record);
            }
        }
    }

    pub(crate) fn crash(&mut self) {
        self.pending.clear();
        self.written = self.durable.clone();
    }

    /// A copy of all that is synced, as a snapshot of the volume.
    pub(crate) fn snapshot(&self) -> View {
        self.durable.clone()
    }

    /// The volume is put back to an earlier snapshot.
    pub(crate) fn roll_back(&mut self, view: View, boot: Boot) {
        self.durable = view;
        self.boot = boot;
        self.crash();
    }

    pub(crate) fn boot(&self) -> Boot {
        self.boot
    }

    pub(crate) fn load(&self, from: Slot, through: Slot, max_bytes: u64) -> Vec<Entry> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        for slot in from.0..=through.0 {
            let slot = Slot(slot);
            let Some(entry) = self.written.log.get(&slot) else {
                break;
            };
            bytes += entry.weight();
            if self.damaged.contains(&slot) || (!entries.is_empty() && bytes > max_bytes) {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }

    /// What the next start finds.
    pub(crate) fn restart(&mut self) -> Recovered {
        self.boot = Boot(self.boot.0 + 1);
        let view = &self.durable;
        let mut runs: Vec<(Slot, Ballot)> = Vec::new();
        for entry in view.log.values() {
            if runs
                .last()
                .is_none_or(|(_, ballot)| *ballot != entry.ballot)
            {
                runs.push((entry.slot, entry.ballot));
            }
        }
        self.damaged.retain(|slot| *slot > view.base_slot());
        let readable = |entry: &&Entry| !self.damaged.contains(&entry.slot);
        Recovered {
            identity: self.identity.clone().expect("a disk with an identity"),
            boot: self.boot,
            genesis: self.genesis.clone(),
            promised: view.promised,
            accepted: view.accepted,
            kept: view.kept,
            base: view.base.clone(),
            upgrades: view.upgrades.clone().into_iter().collect(),
            joining: view.joining.clone(),
            changes: view.changes.clone().into_iter().collect(),
            ended_by: view
                .log
                .get(&view.last)
                .filter(|entry| view.commit == view.last && readable(entry))
                .filter(|entry| entry.command.kind == CommandKind::RECONFIGURE)
                .cloned(),
            last: view.last,
            runs,
            last_time: view
                .log
                .values()
                .filter(readable)
                .map(|entry| entry.time)
                .max()
                .unwrap_or(AgreedTime(0)),
            commit: view.commit,
            tail: view
                .log
                .range(view.commit.next()..)
                .map(|(_, entry)| entry)
                .filter(readable)
                .cloned()
                .collect(),
            faulty: view
                .log
                .values()
                .filter(|entry| self.damaged.contains(&entry.slot))
                .map(|entry| Header {
                    slot: entry.slot,
                    ballot: entry.ballot,
                    hash: entry.hash(),
                })
                .collect(),
        }
    }
}
