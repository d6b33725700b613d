//! The log on one member's disk, as the agreement sees it: records in order and a mark up to which
//! they are synced.
//!
//! In: the records of `Output::Persist`. Out: what a start finds ([`Recovered`]). What is written
//! is visible at once; a crash takes back what was not synced, all of it or from some point on.
//! The meaning of each record is the one that `synod_paxos::record` documents; a record that
//! breaks its own rule is reported, never repaired.

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, CommandKind, Configuration, Entry, Genesis, Header, Identity,
    MemberId, Record, Recovered, Slot,
};

/// What counts for promises and votes, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
    pub(crate) commit: Slot,
    /// The greatest `(accepted, last)` before a base took the place of the log.
    pub(crate) kept: (Ballot, Slot),
}

/// How to take one record back.
#[derive(Debug)]
enum Undo {
    Nothing,
    Promised(Ballot),
    Append,
    Stage(Ballot, Slot, Option<Entry>),
    Adopt {
        accepted: Ballot,
        cut: Cut,
    },
    Commit(Slot),
    Repair(Slot, Header),
    Compact {
        base: Option<Base>,
        forgotten: Vec<Entry>,
        faulty: BTreeMap<Slot, Header>,
    },
    Install {
        base: Option<Base>,
        entries: Vec<Entry>,
        faulty: BTreeMap<Slot, Header>,
        staged: BTreeMap<(Ballot, Slot), Entry>,
    },
    Protocol(Slot),
    Join(Option<Configuration>),
    Learn(Cut),
    Enter(Slot),
}

/// What other entries have replaced.
#[derive(Debug)]
struct Cut {
    /// From here on.
    from: Slot,
    entries: Vec<Entry>,
    faulty: BTreeMap<Slot, Header>,
    staged: BTreeMap<(Ballot, Slot), Entry>,
}

/// One member's log.
#[derive(Debug)]
pub(crate) struct Disk {
    identity: Identity,
    genesis: Genesis,
    boot: Boot,
    written: Summary,
    synced: Summary,
    base: Option<Base>,
    upgrades: BTreeMap<Slot, u32>,
    joining: Option<Configuration>,
    changes: BTreeMap<Slot, Configuration>,
    /// The first slot behind the base is at index 0.
    entries: Vec<Entry>,
    staged: BTreeMap<(Ballot, Slot), Entry>,
    faulty: BTreeMap<Slot, Header>,
    unsynced: VecDeque<(Undo, Summary)>,
    /// The planted fault: syncs are reported and not done.
    lies: bool,
}

// === impl Disk ===

impl Disk {
    /// A disk that holds the genesis record and nothing else.
    pub(crate) fn new(identity: Identity, genesis: Genesis, lies: bool) -> Self {
        let start = Ballot {
            epoch: genesis.configuration.epoch,
            round: 0,
            node: MemberId(0),
        };
        let summary = Summary {
            promised: start,
            accepted: start,
            ..Summary::default()
        };
        Self {
            identity,
            genesis,
            boot: Boot(0),
            written: summary,
            synced: summary,
            base: None,
            upgrades: BTreeMap::new(),
            joining: None,
            changes: BTreeMap::new(),
            entries: Vec::new(),
            staged: BTreeMap::new(),
            faulty: BTreeMap::new(),
            unsynced: VecDeque::new(),
            lies,
        }
    }

    /// The disk of a member that comes later: it begins with whom to ask for the log.
    pub(crate) fn joining(
        identity: Identity,
        genesis: Genesis,
        configuration: Configuration,
        lies: bool,
    ) -> Self {
        Self {
            joining: Some(configuration),
            ..Self::new(identity, genesis, lies)
        }
    }

    /// Whose it is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Writes one record behind all others. The error says which rule of the record was broken.
    pub(crate) fn write(&mut self, record: &Record) -> Result<(), String> {
        let undo = match record {
            Record::Genesis(_) => return Err("a genesis record behind the first".into()),
            Record::Promise(ballot) => {
                if *ballot < self.written.promised {
                    return Err(format!("promise {ballot} below {}", self.written.promised));
                }
                Undo::Promised(std::mem::replace(&mut self.written.promised, *ballot))
            }
            Record::Append(entry) => self.append(entry)?,
            Record::Stage { ballot, entry } => {
                if *ballot < self.written.promised {
                    return Err(format!("stage in {ballot} below the promise"));
                }
                let old = self.staged.insert((*ballot, entry.slot), entry.clone());
                Undo::Stage(*ballot, entry.slot, old)
            }
            Record::Adopt { ballot, from, last } => self.adopt(*ballot, *from, *last)?,
            Record::Commit(slot) => {
                let commit = (*slot).max(self.written.commit);
                if commit > self.written.last {
                    return Err(format!(
                        "commit {commit} beyond the last slot {}",
                        self.written.last
                    ));
                }
                Undo::Commit(std::mem::replace(&mut self.written.commit, commit))
            }
            Record::Repair(entry) => {
                let Some(header) = self.faulty.get(&entry.slot).copied() else {
                    // A second copy of a repair that came twice: the record changes nothing.
                    self.unsynced.push_back((Undo::Nothing, self.written));
                    return Ok(());
                };
                if header_of(entry) != header {
                    return Err(format!("repair of slot {} with another entry", entry.slot));
                }
                self.faulty.remove(&entry.slot);
                Undo::Repair(entry.slot, header)
            }
            Record::Compact(base) => self.compact(base)?,
            Record::Install(base) => self.install(base)?,
            Record::Protocol { slot, version } => {
                if *slot > self.written.last || *slot <= self.base_slot() {
                    return Err(format!("a protocol from slot {slot}, which is not held"));
                }
                self.upgrades.insert(*slot, *version);
                Undo::Protocol(*slot)
            }
            Record::Join(configuration) => {
                if self.written.last > Slot::ZERO {
                    return Err(format!("joined with a log up to {}", self.written.last));
                }
                Undo::Join(self.joining.replace(configuration.clone()))
            }
            Record::Learn(entry) => self.learn(entry)?,
            Record::Enter {
                slot,
                configuration,
            } => self.enter(*slot, configuration)?,
        };
        self.unsynced.push_back((undo, self.written));
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> Result<Undo, String> {
        let state = self.written;
        if entry.slot != state.last.next() {
            return Err(format!(
                "append of slot {} behind slot {}",
                entry.slot, state.last
            ));
        }
        if entry.ballot != state.accepted || state.promised != state.accepted {
            return Err(format!(
                "append of slot {} in ballot {} with promised {} and accepted {}",
                entry.slot, entry.ballot, state.promised, state.accepted
            ));
        }
        self.entries.push(entry.clone());
        self.written.last = entry.slot;
        Ok(Undo::Append)
    }

    fn adopt(&mut self, ballot: Ballot, from: Slot, last: Slot) -> Result<Undo, String> {
        let state = self.written;
        if ballot != state.promised || ballot <= state.accepted {
            return Err(format!(
                "adopt in ballot {ballot} with promised {} and accepted {}",
                state.promised, state.accepted
            ));
        }
        if from <= state.commit || from > state.last.next() || last.next() < from {
            return Err(format!(
                "adopt {from}..={last} with commit {} and last slot {}",
                state.commit, state.last
            ));
        }
        let mut installed = Vec::new();
        for slot in from.0..=last.0 {
            let Some(entry) = self.staged.get(&(ballot, Slot(slot))) else {
                return Err(format!(
                    "adopt {from}..={last} in {ballot}, but slot {slot} was not staged"
                ));
            };
            installed.push(entry.clone());
        }
        let cut = self.cut(from);
        self.entries.extend(installed);
        self.written.accepted = ballot;
        self.written.last = last;
        Ok(Undo::Adopt {
            accepted: state.accepted,
            cut,
        })
    }

    /// Everything from this slot on goes, and all that was staged.
    fn cut(&mut self, from: Slot) -> Cut {
        Cut {
            from,
            entries: self.entries.split_off(self.index(from)),
            faulty: self.faulty.split_off(&from),
            staged: std::mem::take(&mut self.staged),
        }
    }

    fn put_back(&mut self, cut: Cut) {
        self.entries.truncate(self.index(cut.from));
        self.entries.extend(cut.entries);
        self.faulty.split_off(&cut.from);
        self.faulty.extend(cut.faulty);
        self.staged = cut.staged;
    }

    fn learn(&mut self, entry: &Entry) -> Result<Undo, String> {
        let (state, slot) = (self.written, entry.slot);
        if slot <= state.commit || slot > state.last.next() {
            return Err(format!(
                "slot {slot} learnt with commit {} and last slot {}",
                state.commit, state.last
            ));
        }
        let cut = self.cut(slot);
        self.entries.push(entry.clone());
        self.written.kept = state.kept.max((state.accepted, state.last));
        (self.written.last, self.written.commit) = (slot, slot);
        Ok(Undo::Learn(cut))
    }

    fn enter(&mut self, slot: Slot, configuration: &Configuration) -> Result<Undo, String> {
        let (state, ballot) = (self.written, configuration.first_ballot());
        if slot != state.last || slot < state.commit {
            return Err(format!(
                "an epoch ends at {slot} of a log with commit {} and last slot {}",
                state.commit, state.last
            ));
        }
        if ballot <= state.promised || ballot.epoch != state.promised.epoch.next() {
            return Err(format!(
                "an epoch entered in {ballot} while {} is promised",
                state.promised
            ));
        }
        (self.written.promised, self.written.accepted) = (ballot, ballot);
        self.written.commit = slot;
        self.changes.insert(slot, configuration.clone());
        Ok(Undo::Enter(slot))
    }

    /// A base of a later epoch is an entry into it.
    fn enter_by(&mut self, base: &Base) {
        let least = Ballot::none(base.configuration.epoch);
        self.written.promised = self.written.promised.max(least);
        self.written.accepted = self.written.accepted.max(least);
    }

    fn compact(&mut self, base: &Base) -> Result<Undo, String> {
        let (first, last) = (self.base_slot().next(), self.written.last);
        if base.slot < first || base.slot > last {
            return Err(format!(
                "a log of {first}..={last} begins behind {}",
                base.slot
            ));
        }
        let held = &self.entries[self.index(base.slot)];
        if (held.ballot, held.time) != (base.ballot, base.time) {
            return Err(format!("base {} of another entry than is held", base.slot));
        }
        let kept = self.entries.split_off(self.index(base.slot) + 1);
        let forgotten = std::mem::replace(&mut self.entries, kept);
        let behind = self.faulty.split_off(&base.slot.next());
        let faulty = std::mem::replace(&mut self.faulty, behind);
        self.written.commit = self.written.commit.max(base.slot);
        self.enter_by(base);
        Ok(Undo::Compact {
            base: self.base.replace(base.clone()),
            forgotten,
            faulty,
        })
    }

    fn install(&mut self, base: &Base) -> Result<Undo, String> {
        let state = self.written;
        if base.slot <= state.commit {
            return Err(format!(
                "base {} in place of a log with commit {}",
                base.slot, state.commit
            ));
        }
        self.written.kept = state.kept.max((state.accepted, state.last));
        (self.written.last, self.written.commit) = (base.slot, base.slot);
        self.enter_by(base);
        Ok(Undo::Install {
            base: self.base.replace(base.clone()),
            entries: std::mem::take(&mut self.entries),
            faulty: std::mem::take(&mut self.faulty),
            staged: std::mem::take(&mut self.staged),
        })
    }

    /// How many records are written and not synced.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The oldest `records` unsynced records are on the platter now.
    pub(crate) fn synced_up_to(&mut self, records: usize) {
        if self.lies {
            return;
        }
        for _ in 0..records {
            let (_, summary) = self
                .unsynced
                .pop_front()
                .expect("only what was written is synced");
            self.synced = summary;
        }
    }

    /// The machine or process dies: of the unsynced records the oldest `keep` survive.
    pub(crate) fn crash(&mut self, keep: usize) {
        while self.unsynced.len() > keep {
            let (undo, _) = self.unsynced.pop_back().expect("counted");
            self.take_back(undo);
        }
        if let Some((_, summary)) = self.unsynced.back() {
            self.synced = *summary;
        }
        self.written = self.synced;
        self.unsynced.clear();
        assert_eq!(
            self.entries.len() as u64,
            self.written.last.0 - self.base_slot().0,
            "a crash keeps the log whole"
        );
    }

    fn take_back(&mut self, undo: Undo) {
        match undo {
            Undo::Nothing => {}
            Undo::Promised(old) => self.written.promised = old,
            Undo::Append => {
                let gone = self.entries.pop().expect("it was appended");
                self.faulty.remove(&gone.slot);
                self.written.last = gone.slot.prev();
            }
            Undo::Stage(ballot, slot, old) => {
                match old {
                    Some(entry) => self.staged.insert((ballot, slot), entry),
                    None => self.staged.remove(&(ballot, slot)),
                };
            }
            Undo::Adopt { accepted, cut } => {
                self.put_back(cut);
                self.written.accepted = accepted;
                self.written.last = Slot(self.base_slot().0 + self.entries.len() as u64);
            }
            Undo::Commit(old) => self.written.commit = old,
            Undo::Repair(slot, header) => {
                self.faulty.insert(slot, header);
            }
            Undo::Compact {
                base,
                mut forgotten,
                faulty,
            } => {
                self.base = base;
                forgotten.append(&mut self.entries);
                self.entries = forgotten;
                self.faulty.extend(faulty);
            }
            Undo::Install {
                base,
                entries,
                faulty,
                staged,
            } => {
                self.base = base;
                self.written.last = Slot(self.base_slot().0 + entries.len() as u64);
                (self.entries, self.faulty, self.staged) = (entries, faulty, staged);
            }
            Undo::Protocol(slot) => {
                self.upgrades.remove(&slot);
            }
            Undo::Join(old) => self.joining = old,
            Undo::Learn(cut) => self.put_back(cut),
            Undo::Enter(slot) => {
                self.changes.remove(&slot);
            }
        }
    }

    /// A start: counts it and reads everything back (all that is left is synced by it, rule W3).
    pub(crate) fn recover(&mut self) -> Recovered {
        assert!(self.unsynced.is_empty(), "a start comes after a crash");
        self.boot.0 += 1;
        // An adoption that did not get its record never happened.
        self.staged.clear();
        let mut runs: Vec<(Slot, Ballot)> = Vec::new();
        for entry in &self.entries {
            if runs
                .last()
                .is_none_or(|(_, ballot)| *ballot != entry.ballot)
            {
                runs.push((entry.slot, entry.ballot));
            }
        }
        let commit = self.written.commit;
        Recovered {
            identity: self.identity.clone(),
            boot: self.boot,
            genesis: Some(self.genesis.clone()),
            promised: self.written.promised,
            accepted: self.written.accepted,
            kept: self.written.kept,
            base: self.base.clone(),
            upgrades: self
                .upgrades
                .range(self.base_slot().next()..)
                .map(|(slot, version)| (*slot, *version))
                .collect(),
            joining: self.joining.clone(),
            changes: self
                .changes
                .range(self.base_slot().next()..)
                .map(|(slot, configuration)| (*slot, configuration.clone()))
                .collect(),
            ended_by: self
                .read(self.written.last)
                .filter(|entry| entry.slot == commit)
                .filter(|entry| entry.command.kind == CommandKind::RECONFIGURE)
                .cloned(),
            last: self.written.last,
            runs,
            last_time: self
                .entries
                .iter()
                .rev()
                .find(|entry| !self.faulty.contains_key(&entry.slot))
                .map_or(AgreedTime(0), |entry| entry.time),
            commit,
            tail: self.entries[self.index(commit.next())..]
                .iter()
                .filter(|entry| !self.faulty.contains_key(&entry.slot))
                .cloned()
                .collect(),
            faulty: self.faulty.values().copied().collect(),
        }
    }

    /// The body of this entry is lost from now on; its header is still known.
    pub(crate) fn spoil(&mut self, slot: Slot) {
        let entry = &self.entries[self.index(slot)];
        self.faulty.insert(slot, header_of(entry));
    }

    /// The entry as it can be read; `None` when it is not there or its body is lost.
    pub(crate) fn read(&self, slot: Slot) -> Option<&Entry> {
        if self.faulty.contains_key(&slot) {
            return None;
        }
        self.entry(slot)
    }

    /// The entry whatever its state: for the checks only, no member may see this.
    pub(crate) fn entry(&self, slot: Slot) -> Option<&Entry> {
        (slot > self.base_slot())
            .then(|| self.entries.get(self.index(slot)))
            .flatten()
    }

    /// What the log begins behind; 0 for the genesis.
    pub(crate) fn base_slot(&self) -> Slot {
        self.base.as_ref().map_or(Slot::ZERO, |base| base.slot)
    }

    fn index(&self, slot: Slot) -> usize {
        usize::try_from(slot.0 - 1 - self.base_slot().0).expect("a log fits in memory")
    }

    pub(crate) fn written(&self) -> Summary {
        self.written
    }

    pub(crate) fn synced(&self) -> Summary {
        self.synced
    }

    pub(crate) fn boot(&self) -> Boot {
        self.boot
    }

    /// The first slot above `commit` whose body is lost.
    pub(crate) fn first_faulty_above(&self, commit: Slot) -> Option<Slot> {
        self.faulty
            .range(commit.next()..)
            .next()
            .map(|(slot, _)| *slot)
    }

    pub(crate) fn faulty_count(&self) -> usize {
        self.faulty.len()
    }
}

fn header_of(entry: &Entry) -> Header {
    Header {
        slot: entry.slot,
        ballot: entry.ballot,
        hash: entry.hash(),
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{
        Command, CommandId, CommandKind, Configuration, Epoch, GroupId, Incarnation, Quorums,
    };

    use super::*;
    use crate::dice::Dice;

    fn disk() -> Disk {
        let identity = Identity {
            name: "member-1".to_owned(),
            incarnation: Incarnation(1),
        };
        let genesis = Genesis {
            group: GroupId([1; 16]),
            configuration: Configuration {
                epoch: Epoch(1),
                members: Vec::new(),
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            },
            policy: bytes::Bytes::new(),
            protocol: 1,
            initial_state: bytes::Bytes::new(),
        };
        Disk::new(identity, genesis, false)
    }

    fn entry(slot: u64, ballot: Ballot) -> Entry {
        Entry {
            slot: Slot(slot),
            ballot,
            time: AgreedTime(slot),
            seed: u128::from(slot),
            command: Command {
                kind: CommandKind::REQUEST,
                id: CommandId {
                    member: MemberId(1),
                    boot: Boot(1),
                    sequence: slot,
                },
                floor: 1,
                payload: bytes::Bytes::new(),
            },
        }
    }

    /// A random history of records that keeps all their rules.
    fn history(dice: &mut Dice, length: usize) -> Vec<Record> {
        let mut model = disk();
        let mut records = Vec::new();
        while records.len() < length {
            let state = model.written();
            let round = state.promised.round;
            let next = match dice.range(0, 5) {
                0 => vec![Record::Promise(Ballot {
                    round: round + dice.range(0, 2),
                    ..state.promised
                })],
                1 if state.promised > state.accepted => {
                    let from = dice.range(state.commit.0 + 1, state.last.0 + 1);
                    let last = from + dice.range(0, 3) - 1;
                    let mut adoption: Vec<_> = (from..=last)
                        .map(|slot| Record::Stage {
                            ballot: state.promised,
                            entry: entry(slot, state.accepted),
                        })
                        .collect();
                    adoption.push(Record::Adopt {
                        ballot: state.promised,
                        from: Slot(from),
                        last: Slot(last),
                    });
                    adoption
                }
                2 if state.last > state.commit => {
                    vec![Record::Commit(Slot(
                        dice.range(state.commit.0, state.last.0),
                    ))]
                }
                _ if state.promised == state.accepted => {
                    vec![Record::Append(entry(state.last.0 + 1, state.accepted))]
                }
                _ => Vec::new(),
            };
            for record in next {
                model.write(&record).expect("the history keeps the rules");
                records.push(record);
            }
        }
        records
    }

    #[test]
    fn a_crash_leaves_what_was_kept_as_if_nothing_else_had_been_written() {
        let mut dice = Dice::new(7);
        for _ in 0..300 {
            let length = dice.range(1, 60) as usize;
            let records = history(&mut dice, length);
            let synced = dice.range(0, records.len() as u64) as usize;
            let keep = dice.range(0, (records.len() - synced) as u64) as usize;
            let mut crashed = disk();
            for record in &records {
                crashed.write(record).unwrap();
            }
            crashed.synced_up_to(synced);
            crashed.crash(keep);
            let mut straight = disk();
            for record in &records[..synced + keep] {
                straight.write(record).unwrap();
            }
            straight.synced_up_to(synced + keep);
            straight.crash(0);
            assert_eq!(crashed.recover(), straight.recover());
        }
    }

    #[test]
    fn an_entry_out_of_order_or_of_another_ballot_is_reported() {
        let mut disk = disk();
        let ballot = disk.written().accepted;
        assert!(disk.write(&Record::Append(entry(2, ballot))).is_err());
        let other = Ballot { round: 1, ..ballot };
        assert!(disk.write(&Record::Append(entry(1, other))).is_err());
        disk.write(&Record::Append(entry(1, ballot))).unwrap();
        disk.write(&Record::Promise(other)).unwrap();
        assert!(disk.write(&Record::Append(entry(2, ballot))).is_err());
    }

    #[test]
    fn an_adoption_without_all_its_entries_is_reported() {
        let mut disk = disk();
        let ballot = Ballot {
            round: 1,
            ..disk.written().accepted
        };
        disk.write(&Record::Promise(ballot)).unwrap();
        let first = Record::Stage {
            ballot,
            entry: entry(1, ballot),
        };
        disk.write(&first).unwrap();
        let adopt = Record::Adopt {
            ballot,
            from: Slot(1),
            last: Slot(2),
        };
        assert!(disk.write(&adopt).is_err());
    }

    #[test]
    fn a_lost_body_is_gone_until_a_copy_of_the_same_entry_repairs_it() {
        let mut disk = disk();
        let ballot = disk.written().accepted;
        disk.write(&Record::Append(entry(1, ballot))).unwrap();
        disk.synced_up_to(1);
        disk.crash(0);
        disk.spoil(Slot(1));
        assert_eq!(disk.read(Slot(1)), None);
        let recovered = disk.recover();
        assert_eq!((recovered.last, recovered.tail.len()), (Slot(1), 0));
        assert_eq!(recovered.faulty.len(), 1);
        let other = Entry {
            seed: 9,
            ..entry(1, ballot)
        };
        assert!(disk.write(&Record::Repair(other)).is_err());
        disk.write(&Record::Repair(entry(1, ballot))).unwrap();
        assert_eq!(disk.read(Slot(1)), Some(&entry(1, ballot)));
    }
}
