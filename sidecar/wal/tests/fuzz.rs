//! Logs made by chance, and damage with a structure: what disks, file systems and people do to files. A log
//! that opens is one that was, with nothing in its middle left out; or it says that it has lost something.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use common::run::{Model, Run, Step, steps};
use common::{header, open, read_each};
use proptest::prelude::*;
use synod_fuzz::{corpus, fuzz};
use synod_paxos::{Entry, Header, Slot};
use synod_wal::testing::MemDisk;
use synod_wal::{Disk, OpenError};

/// Some 15 seconds of them.
const CASES: u32 = 4_000;
const SECTOR: usize = common::SECTOR;

#[derive(Clone, Debug)]
struct Case {
    steps: Vec<Step>,
    damage: Vec<Damage>,
}

/// Files and places are taken modulo what there is; `ago`: how many syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// Bits change.
    Flip { file: u16, at: u32, change: u8 },
    /// Nothing was ever written there, it seems.
    Zero { file: u16, at: u32, length: u16 },
    /// Something else is written there.
    Fill {
        file: u16,
        at: u32,
        length: u16,
        byte: u8,
    },
    /// Sectors of one place were written to another.
    Misdirect {
        file: u16,
        at: u16,
        to_file: u16,
        to: u16,
        sectors: u8,
    },
    /// Two places have each other's sectors.
    Swap {
        file: u16,
        at: u16,
        to_file: u16,
        to: u16,
        sectors: u8,
    },
    /// A record with the copy of its header is where another belongs.
    Record { file: u16, from: u8, to: u8 },
    /// The file ends early.
    Cut { file: u16, at: u32 },
    /// The file is gone.
    Remove { file: u16 },
    /// The file is as it was.
    Old { file: u16, ago: u8 },
    /// Some of its sectors are as they were, as this says by its bits, over and over.
    Lost { file: u16, ago: u8, sectors: u32 },
    /// The file's content is another's.
    Copy { file: u16, of: u16 },
}

/// What can have become of a log by its damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    /// Nothing: all is known, even if it cannot be read.
    None,
    /// The last batch may look as if it had never been written.
    LastBatch,
    /// It may be, in a consistent way, as it was at an earlier sync.
    Since(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    use Damage::{Copy, Cut, Fill, Flip, Lost, Misdirect, Old, Record, Remove, Swap, Zero};
    let (file, at, length) = (any::<u16>(), any::<u32>(), 1..3_000_u16);
    let sectors = || {
        (
            any::<u16>(),
            any::<u16>(),
            any::<u16>(),
            any::<u16>(),
            1..5_u8,
        )
    };
    prop_oneof![
        2 => (file, at, 1..=255_u8).prop_map(|(file, at, change)| Flip { file, at, change }),
        2 => (file, at, length.clone()).prop_map(|(file, at, length)| Zero { file, at, length }),
        1 => (file, at, length, 1..=255_u8)
            .prop_map(|(file, at, length, byte)| Fill { file, at, length, byte }),
        2 => sectors().prop_map(|(file, at, to_file, to, sectors)| Misdirect { file, at, to_file, to, sectors }),
        2 => sectors().prop_map(|(file, at, to_file, to, sectors)| Swap { file, at, to_file, to, sectors }),
        3 => (file, any::<u8>(), any::<u8>()).prop_map(|(file, from, to)| Record { file, from, to }),
        1 => (file, at).prop_map(|(file, at)| Cut { file, at }),
        1 => file.prop_map(|file| Remove { file }),
        3 => (file, 1..12_u8).prop_map(|(file, ago)| Old { file, ago }),
        3 => (file, 1..5_u8, any::<u32>()).prop_map(|(file, ago, sectors)| Lost { file, ago, sectors }),
        1 => (file, any::<u16>()).prop_map(|(file, of)| Copy { file, of }),
    ]
}

/// A log as it was at each of its syncs, and each state that it was in.
struct History {
    run: Run,
    states: Vec<Model>,
    /// With how many states there were then.
    syncs: Vec<(MemDisk, usize)>,
    /// The first state that a loss of the last batch may leave.
    before_last: usize,
}

impl History {
    fn of(steps: &[Step]) -> Self {
        let run = Run::new();
        let states = run.possible.clone();
        let mut history = Self {
            syncs: vec![(run.disk.copy(), 1)],
            run,
            states,
            before_last: 0,
        };
        // The last batch is known: it has this in it, and all that is pending.
        for (at, step) in steps
            .iter()
            .chain([&Step::Promise, &Step::Sync])
            .enumerate()
        {
            if at == steps.len() + 1 {
                history.before_last = history.synced();
            }
            history.run.step(step.clone());
            history.note();
        }
        history.run.disk.restart();
        history
    }

    fn note(&mut self) {
        for state in &self.run.possible {
            if !self.states.contains(state) {
                self.states.push(state.clone());
            }
        }
        if self.run.possible.len() == 1 {
            self.syncs.push((self.run.disk.copy(), self.synced() + 1));
        }
    }

    /// The state that the last sync left.
    fn synced(&self) -> usize {
        let synced = &self.run.possible[0];
        let at = self.states.iter().rposition(|it| it == synced);
        at.expect("it was noted")
    }

    fn as_of(&self, ago: u8) -> &(MemDisk, usize) {
        &self.syncs[self.syncs.len().saturating_sub(1 + usize::from(ago))]
    }
}

impl Damage {
    fn happen(self, disk: &MemDisk, history: &History) -> Loss {
        let names = disk.names();
        let name = |file: u16| names[usize::from(file) % names.len()].as_str();
        let range = |bytes: &[u8], at: u32, length: u16| {
            let from = at as usize % bytes.len().max(1);
            from..(from + usize::from(length)).min(bytes.len())
        };
        let sectors = |file: u16, at: u16, sectors: u8| {
            let bytes = disk.content(name(file)).unwrap();
            let from = usize::from(at) % (bytes.len() / SECTOR).max(1) * SECTOR;
            let to = (from + usize::from(sectors) * SECTOR).min(bytes.len());
            (from, bytes.get(from..to).unwrap_or_default().to_vec())
        };
        let put = |file: u16, at: usize, new: &[u8]| {
            disk.damage(name(file), |bytes| {
                let end = (at + new.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&new[..end - at]);
            });
        };
        match self {
            Self::Flip { file, at, change } => {
                disk.damage(name(file), |bytes| {
                    if let Some(at) = (at as usize).checked_rem(bytes.len()) {
                        bytes[at] ^= change;
                    }
                });
                Loss::None
            }
            Self::Zero { file, at, length } => {
                disk.damage(name(file), |bytes| {
                    let range = range(bytes, at, length);
                    bytes[range].fill(0);
                });
                Loss::LastBatch
            }
            Self::Fill {
                file,
                at,
                length,
                byte,
            } => {
                disk.damage(name(file), |bytes| {
                    let range = range(bytes, at, length);
                    bytes[range].fill(byte);
                });
                Loss::None
            }
            Self::Misdirect {
                file,
                at,
                to_file,
                to,
                sectors: count,
            } => {
                let (_, moved) = sectors(file, at, count);
                let (to, _) = sectors(to_file, to, count);
                put(to_file, to, &moved);
                Loss::LastBatch
            }
            Self::Swap {
                file,
                at,
                to_file,
                to,
                sectors: count,
            } => {
                let (from, one) = sectors(file, at, count);
                let (to, other) = sectors(to_file, to, count);
                put(to_file, to, &one);
                put(file, from, &other);
                Loss::LastBatch
            }
            Self::Record { file, from, to } => {
                disk.damage(name(file), |bytes| {
                    move_record(bytes, from.into(), to.into());
                });
                Loss::LastBatch
            }
            Self::Cut { file, at } => {
                let bytes = disk.content(name(file)).unwrap();
                let length = at as usize % (bytes.len() + 1);
                disk.put(name(file), bytes[..length].to_vec());
                Loss::Since(0)
            }
            Self::Remove { file } => {
                disk.remove(name(file)).unwrap();
                disk.sync_dir().unwrap();
                Loss::Since(0)
            }
            Self::Old { file, ago } => {
                let (old, states) = history.as_of(ago);
                match old.content(name(file)) {
                    Some(bytes) => disk.put(name(file), bytes),
                    None => return Self::Remove { file }.happen(disk, history),
                }
                Loss::Since(states - 1)
            }
            Self::Lost { file, ago, sectors } => {
                let (old, states) = history.as_of(ago);
                let Some(old) = old.content(name(file)) else {
                    return Loss::None;
                };
                disk.damage(name(file), |bytes| {
                    let both = bytes.chunks_mut(SECTOR).zip(old.chunks(SECTOR));
                    for (at, (now, then)) in both.enumerate() {
                        if sectors >> (at % 32) & 1 == 1 && now.len() == then.len() {
                            now.copy_from_slice(then);
                        }
                    }
                });
                Loss::Since(states - 1)
            }
            Self::Copy { file, of } => {
                let bytes = disk.content(name(of)).unwrap();
                disk.put(name(file), bytes);
                Loss::Since(0)
            }
        }
    }
}

/// Puts one record of a segment where another begins, with the copies of their headers.
fn move_record(bytes: &mut [u8], from: usize, to: usize) {
    // Its magic, and no other damage before.
    let sound = |bytes: &[u8]| std::panic::catch_unwind(|| common::records(bytes)).ok();
    let is_segment = bytes.len() == common::SEGMENT_BYTES as usize;
    let Some(records) = is_segment.then(|| sound(bytes)).flatten() else {
        return;
    };
    if records.is_empty() {
        return;
    }
    let (from, to) = (from % records.len(), to % records.len());
    let record = bytes[records[from].clone()].to_vec();
    let at = records[to].start;
    bytes[at..at + record.len().min(SECTOR)].copy_from_slice(&record[..record.len().min(SECTOR)]);
    let copy =
        |record: usize| common::SEGMENT_BYTES as usize - SECTOR - (record + 1) * common::HEADER;
    bytes.copy_within(copy(from)..copy(from) + common::HEADER, copy(to));
}

fn check(case: &Case) -> Result<(), String> {
    let history = History::of(&case.steps);
    let disk = history.run.disk.copy();
    let mut loss = Loss::None;
    for damage in &case.damage {
        let more = damage.happen(&disk, &history);
        loss = match (loss, more) {
            (Loss::Since(one), Loss::Since(other)) => Loss::Since(one.min(other)),
            (one, other) => one.max(other),
        };
    }
    let found = match open(&disk) {
        Ok((wal, recovered)) => {
            let read = read_each(&wal.reader());
            drop(wal);
            (read, recovered)
        }
        Err(OpenError::LostRecords { .. } | OpenError::Io { .. }) => return Ok(()),
        Err(error) => return Err(format!("damage is taken for {error:?}")),
    };
    let (read, recovered) = &found;
    let faulty: BTreeSet<Slot> = recovered.faulty.iter().map(|it| it.slot).collect();
    let same = |(read, entry): (&Result<Entry, Header>, &Entry)| match read {
        Ok(read) => read == entry,
        Err(read) => {
            *read == header(entry)
                && (entry.slot <= recovered.commit || faulty.contains(&entry.slot))
        }
    };
    let fits = |model: &Model| {
        recovered.base == model.base
            && recovered.commit == model.commit
            && recovered.kept == model.kept
            && recovered.upgrades == model.upgrades
            && recovered.changes == model.changes
            && recovered.accepted == model.accepted
            && recovered.promised >= model.promised
            && read.len() == model.log.len()
            && read.iter().zip(&model.log).all(same)
    };
    let least = match loss {
        Loss::None => history.states.len() - 1,
        Loss::LastBatch => history.before_last,
        Loss::Since(state) => state.min(history.before_last),
    };
    let Some(state) = history.states.iter().rposition(fits) else {
        return Err(format!(
            "found what never was: {recovered:#?} with {read:#?}, of {:#?}",
            history.states.last()
        ));
    };
    if state < least {
        let (last, found) = (history.states.last(), &history.states[state]);
        return Err(format!(
            "{loss:?} has lost more: state {state} instead of {least}: {found:#?} of {last:#?}"
        ));
    }
    // What counts now counts at the next start, too.
    disk.restart();
    let (wal, again) = open(&disk).map_err(|error| format!("then it does not open: {error}"))?;
    let kept = (
        again.promised,
        again.accepted,
        again.commit,
        again.last,
        &again.base,
    );
    if kept
        != (
            recovered.promised,
            recovered.accepted,
            recovered.commit,
            recovered.last,
            &recovered.base,
        )
    {
        return Err(format!("then it is {again:#?} instead of {recovered:#?}"));
    }
    if read_each(&wal.reader()) != *read {
        return Err("then it reads otherwise".to_owned());
    }
    Ok(())
}

// --- as text ----------------------------------------------------------------------------------

fn write(case: &Case) -> String {
    let mut text = String::new();
    for step in &case.steps {
        let line = match step {
            Step::Append { entries, bytes } => format!("append {entries} {bytes}"),
            Step::Promise => "promise".to_owned(),
            Step::Adopt {
                kept,
                entries,
                finish,
            } => format!("adopt {kept} {entries} {}", u8::from(*finish)),
            Step::Commit { behind } => format!("commit {behind}"),
            Step::Compact { behind } => format!("compact {behind}"),
            Step::Install { ahead } => format!("install {ahead}"),
            Step::Learn => "learn".to_owned(),
            Step::Enter { behind } => format!("enter {behind}"),
            Step::Protocol => "protocol".to_owned(),
            Step::Sync => "sync".to_owned(),
            Step::Restart => "restart".to_owned(),
            Step::Crash { steps, seed } => format!("crash {steps} {seed}"),
            Step::Repair { pick } => format!("repair {pick}"),
        };
        writeln!(text, "{line}").unwrap();
    }
    for damage in &case.damage {
        let line = match *damage {
            Damage::Flip { file, at, change } => format!("flip {file} {at} {change}"),
            Damage::Zero { file, at, length } => format!("zero {file} {at} {length}"),
            Damage::Fill {
                file,
                at,
                length,
                byte,
            } => format!("fill {file} {at} {length} {byte}"),
            Damage::Misdirect {
                file,
                at,
                to_file,
                to,
                sectors,
            } => {
                format!("misdirect {file} {at} {to_file} {to} {sectors}")
            }
            Damage::Swap {
                file,
                at,
                to_file,
                to,
                sectors,
            } => {
                format!("swap {file} {at} {to_file} {to} {sectors}")
            }
            Damage::Record { file, from, to } => format!("record {file} {from} {to}"),
            Damage::Cut { file, at } => format!("cut {file} {at}"),
            Damage::Remove { file } => format!("remove {file}"),
            Damage::Old { file, ago } => format!("old {file} {ago}"),
            Damage::Lost { file, ago, sectors } => format!("lost {file} {ago} {sectors}"),
            Damage::Copy { file, of } => format!("copy {file} {of}"),
        };
        writeln!(text, "then {line}").unwrap();
    }
    text
}

fn parse(text: &str) -> Case {
    let mut case = Case {
        steps: vec![],
        damage: vec![],
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace().peekable();
        let then = words.next_if_eq(&"then").is_some();
        let name = words.next().unwrap_or_else(|| panic!("an empty line"));
        let numbers: Vec<u64> = words
            .map(|it| it.parse().unwrap_or_else(|_| panic!("{line}")))
            .collect();
        if then {
            case.damage
                .push(parse_damage(name, &numbers).unwrap_or_else(|| panic!("{line}")));
        } else {
            case.steps
                .push(parse_step(name, &numbers).unwrap_or_else(|| panic!("{line}")));
        }
    }
    case
}

fn parse_step(name: &str, numbers: &[u64]) -> Option<Step> {
    Some(match (name, numbers) {
        ("append", [entries, bytes]) => Step::Append {
            entries: *entries as u8,
            bytes: *bytes as u16,
        },
        ("promise", []) => Step::Promise,
        ("adopt", [kept, entries, finish]) => Step::Adopt {
            kept: *kept as u8,
            entries: *entries as u8,
            finish: *finish == 1,
        },
        ("commit", [behind]) => Step::Commit {
            behind: *behind as u8,
        },
        ("compact", [behind]) => Step::Compact {
            behind: *behind as u8,
        },
        ("install", [ahead]) => Step::Install {
            ahead: *ahead as u8,
        },
        ("learn", []) => Step::Learn,
        ("enter", [behind]) => Step::Enter {
            behind: *behind as u8,
        },
        ("protocol", []) => Step::Protocol,
        ("sync", []) => Step::Sync,
        ("restart", []) => Step::Restart,
        ("crash", [steps, seed]) => Step::Crash {
            steps: *steps as u8,
            seed: *seed,
        },
        ("repair", [pick]) => Step::Repair { pick: *pick as u16 },
        _ => return None,
    })
}

fn parse_damage(name: &str, numbers: &[u64]) -> Option<Damage> {
    let file = *numbers.first()? as u16;
    Some(match (name, &numbers[1..]) {
        ("flip", [at, change]) => Damage::Flip {
            file,
            at: *at as u32,
            change: *change as u8,
        },
        ("zero", [at, length]) => Damage::Zero {
            file,
            at: *at as u32,
            length: *length as u16,
        },
        ("fill", [at, length, byte]) => Damage::Fill {
            file,
            at: *at as u32,
            length: *length as u16,
            byte: *byte as u8,
        },
        ("misdirect", [at, to_file, to, sectors]) => Damage::Misdirect {
            file,
            at: *at as u16,
            to_file: *to_file as u16,
            to: *to as u16,
            sectors: *sectors as u8,
        },
        ("swap", [at, to_file, to, sectors]) => Damage::Swap {
            file,
            at: *at as u16,
            to_file: *to_file as u16,
            to: *to as u16,
            sectors: *sectors as u8,
        },
        ("record", [from, to]) => Damage::Record {
            file,
            from: *from as u8,
            to: *to as u8,
        },
        ("cut", [at]) => Damage::Cut {
            file,
            at: *at as u32,
        },
        ("remove", []) => Damage::Remove { file },
        ("old", [ago]) => Damage::Old {
            file,
            ago: *ago as u8,
        },
        ("lost", [ago, sectors]) => Damage::Lost {
            file,
            ago: *ago as u8,
            sectors: *sectors as u32,
        },
        ("copy", [of]) => Damage::Copy {
            file,
            of: *of as u16,
        },
        _ => return None,
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let damage = prop::collection::vec(damage(), 1..4);
    (steps(), damage).prop_map(|(steps, damage)| Case { steps, damage })
}

#[test]
fn what_was_found_before_is_right_or_is_said_to_be_lost() {
    for (name, text) in corpus(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/testdata/damage"
    )) {
        let case = parse(&text);
        assert_eq!(parse(&write(&case)).damage, case.damage, "{name}");
        check(&case).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}

#[test]
fn a_log_damaged_by_chance_is_right_or_is_said_to_be_lost() {
    fuzz(CASES, &cases(), write, |case| check(&case));
}
