//! A log, and a model of it that keeps everything in memory, which random steps are done to. A step is
//! written and read as one line.

use proptest::prelude::*;
use synod_paxos::{Ballot, Base, Boot, Configuration, Entry, Epoch, Record, Recovered, Slot};
use synod_wal::Wal;
use synod_wal::testing::{MemDisk, Survival};

use super::{Dice, ballot, base, configuration, entry, genesis, header, open, read_all};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// So many entries of so many bytes.
    Append {
        entries: u8,
        bytes: u16,
    },
    /// A higher promise.
    Promise,
    /// Some staged entries above what is kept, and perhaps their adoption.
    Adopt {
        kept: u8,
        entries: u8,
        finish: bool,
    },
    Commit {
        behind: u8,
    },
    /// The log begins so far behind the last entry known to be chosen.
    Compact {
        behind: u8,
    },
    /// A base that is so far ahead takes the place of the log.
    Install {
        ahead: u8,
    },
    /// The next entry is known to be chosen, whatever the log holds there.
    Learn,
    /// The log ends with the last entry of its epoch, so far behind its end.
    Enter {
        behind: u8,
    },
    /// The protocol is raised by the last entry known to be chosen.
    Protocol,
    Sync,
    /// The process ends.
    Restart,
    /// The machine stops during the next sync, after so many steps of the disk.
    Crash {
        steps: u8,
        seed: u64,
    },
    /// Bytes of a committed entry go bad, then a peer sends it.
    Repair {
        pick: u16,
    },
    /// A segment is made ahead of time.
    Spare,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    pub(crate) commit: Slot,
    pub(crate) base: Option<Base>,
    pub(crate) kept: (Ballot, Slot),
    pub(crate) upgrades: Vec<(Slot, u32)>,
    pub(crate) changes: Vec<(Slot, Configuration)>,
    /// Behind the base.
    pub(crate) log: Vec<Entry>,
}

/// A log, its model, and all states that a crash may leave.
pub(crate) struct Run {
    pub(crate) disk: MemDisk,
    pub(crate) wal: Wal,
    pub(crate) model: Model,
    pub(crate) staged: Vec<Entry>,
    /// After the last acknowledged sync, and after each record since.
    pub(crate) possible: Vec<Model>,
    pub(crate) round: u64,
    /// The number of the last start.
    pub(crate) boot: Boot,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..6_u8, 0..1500_u16).prop_map(|(entries, bytes)| Step::Append { entries, bytes }),
        1 => Just(Step::Promise),
        2 => (any::<u8>(), 0..5_u8, prop::bool::weighted(0.8))
            .prop_map(|(kept, entries, finish)| Step::Adopt { kept, entries, finish }),
        2 => any::<u8>().prop_map(|behind| Step::Commit { behind }),
        2 => (0..4_u8).prop_map(|behind| Step::Compact { behind }),
        1 => (1..9_u8).prop_map(|ahead| Step::Install { ahead }),
        1 => Just(Step::Protocol),
        2 => Just(Step::Learn),
        1 => (0..4_u8).prop_map(|behind| Step::Enter { behind }),
        5 => Just(Step::Sync),
        1 => Just(Step::Restart),
        2 => (0..8_u8, any::<u64>()).prop_map(|(steps, seed)| Step::Crash { steps, seed }),
        1 => any::<u16>().prop_map(|pick| Step::Repair { pick }),
        1 => Just(Step::Spare),
    ];
    prop::collection::vec(step, 1..60)
}

/// The word of a line such as `Append { entries: 3, bytes: 100 }`, and its numbers in order.
pub(crate) fn words(line: &str) -> (&str, Vec<u64>) {
    let mut words = line.split(|it: char| !it.is_alphanumeric() && it != '_');
    let word = words.next().expect("a split has a part");
    let number = |it: &str| match it {
        "true" => Some(1),
        "false" => Some(0),
        _ => it.parse().ok(),
    };
    (word, words.filter_map(number).collect())
}

impl Step {
    /// The step that is written like this.
    pub(crate) fn read(line: &str) -> Self {
        let (word, numbers) = words(line);
        match (word, &numbers[..]) {
            ("Append", [entries, bytes]) => Self::Append {
                entries: *entries as u8,
                bytes: *bytes as u16,
            },
            ("Promise", []) => Self::Promise,
            ("Adopt", [kept, entries, finish]) => Self::Adopt {
                kept: *kept as u8,
                entries: *entries as u8,
                finish: *finish == 1,
            },
            ("Commit", [behind]) => Self::Commit {
                behind: *behind as u8,
            },
            ("Compact", [behind]) => Self::Compact {
                behind: *behind as u8,
            },
            ("Install", [ahead]) => Self::Install {
                ahead: *ahead as u8,
            },
            ("Learn", []) => Self::Learn,
            ("Enter", [behind]) => Self::Enter {
                behind: *behind as u8,
            },
            ("Protocol", []) => Self::Protocol,
            ("Sync", []) => Self::Sync,
            ("Restart", []) => Self::Restart,
            ("Crash", [steps, seed]) => Self::Crash {
                steps: *steps as u8,
                seed: *seed,
            },
            ("Repair", [pick]) => Self::Repair { pick: *pick as u16 },
            ("Spare", []) => Self::Spare,
            _ => panic!("no such step: {line}"),
        }
    }
}

impl Model {
    /// What a start found, with these entries.
    pub(crate) fn found(recovered: &Recovered, log: Vec<Entry>) -> Self {
        Self {
            promised: recovered.promised,
            accepted: recovered.accepted,
            commit: recovered.commit,
            base: recovered.base.clone(),
            kept: recovered.kept,
            upgrades: recovered.upgrades.clone(),
            changes: recovered.changes.clone(),
            log,
        }
    }

    pub(crate) fn first(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.slot.0) + 1
    }

    pub(crate) fn last(&self) -> u64 {
        self.first() + self.log.len() as u64 - 1
    }

    fn begin_behind(&mut self, base: Base) {
        self.commit = self.commit.max(base.slot);
        self.log.retain(|entry| entry.slot > base.slot);
        self.upgrades.retain(|(slot, _)| *slot > base.slot);
        self.changes.retain(|(slot, _)| *slot > base.slot);
        self.base = Some(base);
    }
}

/// The machine stops and starts again; what was not synced is lost in part.
pub(crate) fn crash(disk: &MemDisk, seed: u64) {
    let mut dice = Dice(seed);
    let choose = || match dice.roll(2) {
        0 => Survival::Lost,
        _ => Survival::Kept,
    };
    disk.crash(choose, |changes| changes.min(seed as usize % 4));
}

impl Run {
    pub(crate) fn new() -> Self {
        let disk = MemDisk::new();
        let (wal, _) = open(&disk).unwrap();
        let mut run = Self {
            disk,
            wal,
            model: Model::default(),
            staged: Vec::new(),
            possible: vec![Model::default()],
            round: 1,
            boot: Boot(1),
        };
        run.write(Record::Genesis(genesis()));
        run.adopt(0, 0, true);
        run.sync();
        run
    }

    /// Hands a record to both.
    fn write(&mut self, record: Record) {
        self.wal.append(std::slice::from_ref(&record)).unwrap();
        let model = &mut self.model;
        match record {
            Record::Genesis(_) => (model.promised, model.accepted) = (ballot(0), ballot(0)),
            Record::Promise(ballot) => model.promised = ballot,
            Record::Append(entry) => model.log.push(entry),
            Record::Stage { entry, .. } => self.staged.push(entry),
            Record::Adopt { ballot, from, .. } => {
                model.accepted = ballot;
                let first = model.first();
                model.log.truncate((from.0 - first) as usize);
                model.log.append(&mut self.staged);
            }
            Record::Commit(slot) => model.commit = model.commit.max(slot),
            Record::Repair(_) => {}
            Record::Compact(base) => model.begin_behind(base),
            Record::Install(base) => {
                model.kept = model.kept.max((model.accepted, Slot(model.last())));
                model.log.clear();
                self.staged.clear();
                model.begin_behind(base);
            }
            Record::Protocol { slot, version } => model.upgrades.push((slot, version)),
            Record::Join(_) => unreachable!("only an empty log joins"),
            Record::Learn(entry) => {
                model.kept = model.kept.max((model.accepted, Slot(model.last())));
                model.log.retain(|it| it.slot < entry.slot);
                model.commit = entry.slot;
                model.log.push(entry);
                self.staged.clear();
            }
            Record::Enter {
                slot,
                configuration,
            } => {
                let ballot = configuration.first_ballot();
                (model.promised, model.accepted) = (ballot, ballot);
                model.log.retain(|it| it.slot <= slot);
                model.commit = slot;
                model.changes.push((slot, configuration));
                self.staged.clear();
            }
        }
        self.possible.push(self.model.clone());
    }

    /// In the epoch that was entered last.
    fn ballot(&self, round: u64) -> Ballot {
        Ballot {
            epoch: self.model.promised.epoch.max(Epoch(1)),
            ..ballot(round)
        }
    }

    fn adopt(&mut self, kept: u8, entries: u8, finish: bool) {
        self.round += 1;
        self.staged.clear();
        let ballot = self.ballot(self.round);
        self.write(Record::Promise(ballot));
        let (commit, last) = (self.model.commit.0, self.model.last());
        let kept = commit + u64::from(kept) % (last - commit + 1);
        for slot in kept + 1..=kept + u64::from(entries) {
            let entry = entry(slot, self.round - 1, vec![self.round as u8; 100]);
            self.write(Record::Stage { ballot, entry });
        }
        if finish {
            self.write(Record::Adopt {
                ballot,
                from: Slot(kept + 1),
                last: Slot(kept + u64::from(entries)),
            });
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Append { entries, bytes } => {
                for _ in 0..entries {
                    let slot = self.model.last() + 1;
                    let payload = vec![slot as u8; usize::from(bytes)];
                    let mut entry = entry(slot, 0, payload);
                    entry.ballot = self.model.accepted;
                    self.write(Record::Append(entry));
                }
            }
            Step::Promise => {
                self.round += 1;
                self.staged.clear();
                self.write(Record::Promise(self.ballot(self.round)));
            }
            Step::Adopt {
                kept,
                entries,
                finish,
            } => self.adopt(kept, entries, finish),
            Step::Commit { behind } => {
                let last = self.model.last();
                self.write(Record::Commit(Slot(last.saturating_sub(u64::from(behind)))));
            }
            Step::Compact { behind } => {
                let slot = self.model.commit.0.saturating_sub(u64::from(behind));
                if slot >= self.model.first() {
                    let entry = &self.model.log[(slot - self.model.first()) as usize];
                    let base = base(slot, entry.ballot);
                    self.write(Record::Compact(base));
                }
            }
            Step::Install { ahead } => {
                let slot = self.model.commit.0 + u64::from(ahead);
                let base = base(slot, self.model.promised);
                self.write(Record::Install(base));
            }
            Step::Protocol => {
                let slot = self.model.commit;
                let known = self.model.upgrades.iter().any(|(at, _)| *at == slot);
                if slot.0 >= self.model.first() && !known {
                    let version = 2 + slot.0 as u32;
                    self.write(Record::Protocol { slot, version });
                }
            }
            Step::Learn => {
                let mut entry = entry(self.model.commit.0 + 1, 0, vec![7; 200]);
                entry.ballot = self.ballot(self.round + 5);
                self.write(Record::Learn(entry));
            }
            Step::Enter { behind } => {
                let slot = self.model.last().saturating_sub(u64::from(behind));
                let slot = Slot(slot.max(self.model.commit.0));
                let known = self.model.changes.iter().any(|(at, _)| *at == slot);
                if slot.0 >= self.model.first() && !known {
                    let configuration = configuration(self.model.promised.epoch.0 + 1);
                    self.write(Record::Enter {
                        slot,
                        configuration,
                    });
                }
            }
            Step::Sync => self.sync(),
            Step::Restart => {
                self.disk.restart();
                self.reopen();
            }
            Step::Crash { steps, seed } => {
                self.disk.stop_after(u64::from(steps));
                let synced = self.wal.sync().is_ok();
                if synced {
                    self.possible = vec![self.model.clone()];
                }
                crash(&self.disk, seed);
                self.reopen();
            }
            Step::Repair { pick } => self.repair(pick),
            Step::Spare => {
                if let Some(maker) = self.wal.spare_wanted() {
                    self.wal.spare_made(maker.make());
                }
            }
        }
    }

    pub(crate) fn sync(&mut self) {
        self.wal.sync().unwrap();
        self.possible = vec![self.model.clone()];
        self.check_entries();
    }

    /// One of the possible states is found, and the log goes on from there.
    pub(crate) fn reopen(&mut self) {
        let (wal, recovered) = open(&self.disk).unwrap();
        let found = Model::found(&recovered, read_all(&wal.reader()));
        assert!(
            self.possible.contains(&found),
            "found {found:?} instead of one of {:?}",
            self.possible
        );
        let chosen = (found.commit.0 + 1 - found.first()) as usize;
        assert_eq!(recovered.last, Slot(found.last()));
        assert_eq!(recovered.tail, found.log[chosen..]);
        assert_eq!(recovered.faulty, []);
        let mut runs: Vec<(Slot, Ballot)> = Vec::new();
        for entry in &found.log {
            if runs
                .last()
                .is_none_or(|(_, ballot)| *ballot != entry.ballot)
            {
                runs.push((entry.slot, entry.ballot));
            }
        }
        assert_eq!(recovered.runs, runs);
        assert!(recovered.boot > self.boot, "each start has its number");
        self.boot = recovered.boot;
        self.wal = wal;
        self.model = found.clone();
        self.possible = vec![found];
        self.staged.clear();
    }

    fn check_entries(&self) {
        assert_eq!(read_all(&self.wal.reader()), self.model.log);
    }

    /// Damages the body of some entry on disk, and repairs it.
    fn repair(&mut self, pick: u16) {
        self.sync();
        let Some(victim) = self
            .model
            .log
            .get(usize::from(pick) % self.model.log.len().max(1))
        else {
            return;
        };
        // All records whose header has the entry's hash: its own, and earlier repairs.
        let hash = victim.hash().0;
        let mut damaged = false;
        for name in self.disk.names() {
            self.disk.damage(&name, |bytes| {
                for at in (512..bytes.len().saturating_sub(264)).step_by(8) {
                    let is_record = bytes[at + 88..at + 104] == hash
                        && bytes[at + 12..at + 16] == (at as u32).to_le_bytes();
                    if is_record {
                        bytes[at + 130] = bytes[at + 130].wrapping_add(1);
                        damaged = true;
                    }
                }
            });
        }
        assert!(damaged, "the entry is somewhere");
        let (slot, victim) = (victim.slot, victim.clone());
        let error = self.wal.reader().read(slot, slot, 1).unwrap_err();
        let synod_wal::ReadError::Faulty(found) = error else {
            panic!("{error}");
        };
        assert_eq!(found, header(&victim));
        self.write(Record::Repair(victim));
        self.sync();
    }
}
