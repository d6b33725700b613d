//! Random histories of a log whose files are damaged by chance, opened again, and gone on with. What is found
//! is compared with what was written, byte by byte and record by record, without a look at the format.
//!
//! A start may refuse a log, or say of an entry that it is faulty, only where something was damaged. What it
//! gives it gives as written. It may be silent about the last records of a log only where each of them was
//! damaged, and the first is partly as if it had never been written (rule W2).

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use common::run::{Model, Run, Step, crash, steps, words};
use common::{SECTOR, header, identity, open, options, read_each};
use proptest::prelude::*;
use synod_fuzz::{corpus, fuzz};
use synod_paxos::{Boot, Entry, Header, Record, Recovered};
use synod_wal::testing::MemDisk;
use synod_wal::{Disk as _, FileDisk, OpenError, Wal};

/// Some seconds of them.
const CASES: u32 = 4_000;
/// On real files it takes longer.
const CASES_ON_FILES: u32 = 60;

/// Something that happens to files while nobody looks. Files are counted in the order of their names, and
/// begin again behind the last; so do sectors.
#[derive(Clone, Debug)]
enum Damage {
    Flip {
        file: u8,
        at: u16,
        bits: u8,
    },
    /// Zeros or other bytes over some sectors.
    Fill {
        file: u8,
        sector: u8,
        sectors: u8,
        byte: u8,
    },
    /// Zeros from one byte to another.
    Blank {
        file: u8,
        at: u16,
        bytes: u16,
    },
    /// A write that went to another place; where it was meant to go are zeros, or it is there too.
    Misdirect {
        file: u8,
        sector: u8,
        sectors: u8,
        to_file: u8,
        to_sector: u8,
        there_too: bool,
    },
    Unreadable {
        file: u8,
        sector: u8,
    },
    Remove {
        file: u8,
    },
    /// Also under a name that was not there: the next segment, or another one in reserve.
    Copy {
        file: u8,
        to: u8,
    },
    /// Longer or shorter by so many sectors.
    Resize {
        file: u8,
        sectors: u8,
        longer: bool,
    },
    /// All that one sync wrote to segments: as if it never had, or with these bits changed.
    Sync {
        sync: u8,
        bits: u8,
    },
    /// As the whole file was after an earlier sync.
    Older {
        file: u8,
        version: u8,
    },
}

/// A log and what happens to it.
#[derive(Clone, Debug)]
struct Case {
    before: Vec<Step>,
    /// The machine stops at the end, or only the process.
    crash: Option<(u8, u64)>,
    damage: Vec<Damage>,
    /// The start that finds it is cut short first.
    interrupted: Option<(u8, u64)>,
    after: Vec<Step>,
}

type Files = BTreeMap<String, Vec<u8>>;

/// A run of which everything is kept.
struct Watched {
    run: Run,
    /// Each state that was, with the number of the sync that made it last.
    history: Vec<(u32, Model)>,
    /// Files after each sync.
    versions: Vec<Files>,
    /// For each byte of a file, which sync it came with; 0 if it is zero.
    written: BTreeMap<String, Vec<u32>>,
}

/// What a damage did to what was written.
struct Harm {
    /// Syncs of which a byte is not there any more.
    touched: BTreeSet<u32>,
    /// Syncs of which a byte is as if it had never been written.
    unwritten: BTreeSet<u32>,
    /// Syncs of which a byte is as it was.
    left: BTreeSet<u32>,
    /// Nothing that is there only once was damaged.
    is_mild: bool,
    /// Copies of the state that are as they were.
    state_copies: usize,
}

// === impl Case ===

fn damage() -> impl Strategy<Value = Damage> {
    let (file, sector, sectors) = (any::<u8>, any::<u8>, || 1..5_u8);
    let byte = prop_oneof![4 => Just(0), 1 => Just(0xff), 1 => any::<u8>()];
    prop_oneof![
        4 => (file(), any::<u16>(), 1..=u8::MAX).prop_map(|(file, at, bits)| Damage::Flip { file, at, bits }),
        3 => (file(), sector(), sectors(), byte)
            .prop_map(|(file, sector, sectors, byte)| Damage::Fill { file, sector, sectors, byte }),
        2 => (file(), any::<u16>(), 1..8_000_u16)
            .prop_map(|(file, at, bytes)| Damage::Blank { file, at, bytes }),
        4 => (file(), sector(), sectors(), file(), sector(), any::<bool>()).prop_map(
            |(file, sector, sectors, to_file, to_sector, there_too)| Damage::Misdirect {
                file, sector, sectors, to_file, to_sector, there_too,
            }
        ),
        1 => (file(), sector()).prop_map(|(file, sector)| Damage::Unreadable { file, sector }),
        1 => file().prop_map(|file| Damage::Remove { file }),
        1 => (file(), file()).prop_map(|(file, to)| Damage::Copy { file, to }),
        1 => (file(), sectors(), any::<bool>())
            .prop_map(|(file, sectors, longer)| Damage::Resize { file, sectors, longer }),
        2 => (any::<u8>(), prop_oneof![Just(0), any::<u8>()])
            .prop_map(|(sync, bits)| Damage::Sync { sync, bits }),
        2 => (file(), any::<u8>()).prop_map(|(file, version)| Damage::Older { file, version }),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let stop = || prop::option::weighted(0.3, (0..12_u8, any::<u64>()));
    let damages = prop_oneof![
        2 => prop::collection::vec(damage(), 1),
        2 => prop::collection::vec(damage(), 0..5),
    ];
    (steps(), stop(), damages, stop(), steps()).prop_map(
        |(before, crash, damage, interrupted, after)| Case {
            before,
            crash,
            damage,
            interrupted,
            after,
        },
    )
}

impl Case {
    fn write(&self) -> String {
        let mut out = String::new();
        let mut line =
            |it: &dyn std::fmt::Debug| writeln!(out, "{it:?}").expect("a string takes all");
        self.before.iter().for_each(|it| line(it));
        line(&format_args!("Stop {:?}", self.crash));
        self.damage.iter().for_each(|it| line(it));
        line(&format_args!("Open {:?}", self.interrupted));
        self.after.iter().for_each(|it| line(it));
        out
    }

    fn read(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let stop = |line: &str| match words(line).1[..] {
            [steps, seed] => Some((steps as u8, seed)),
            _ => None,
        };
        let (mut crash, mut interrupted) = (None, None);
        let mut until = |word: &str, stopped: &mut Option<(u8, u64)>| -> Vec<&str> {
            let part = lines.by_ref().map_while(|line| {
                if !line.starts_with(word) {
                    return Some(line);
                }
                *stopped = stop(line);
                None
            });
            part.collect()
        };
        let before = until("Stop", &mut crash);
        let damage = until("Open", &mut interrupted);
        let after = until("\n", &mut None);
        let steps = |lines: &[&str]| lines.iter().map(|line| Step::read(line)).collect();
        Self {
            before: steps(&before),
            crash,
            damage: damage.iter().map(|line| Damage::read(line)).collect(),
            interrupted,
            after: steps(&after),
        }
    }
}

// === impl Damage ===

impl Damage {
    fn read(line: &str) -> Self {
        let (word, numbers) = words(line);
        let number = |at: usize| numbers[at] as u8;
        let file = number(0);
        match word {
            "Flip" => Self::Flip {
                file,
                at: numbers[1] as u16,
                bits: number(2),
            },
            "Fill" => Self::Fill {
                file,
                sector: number(1),
                sectors: number(2),
                byte: number(3),
            },
            "Blank" => Self::Blank {
                file,
                at: numbers[1] as u16,
                bytes: numbers[2] as u16,
            },
            "Misdirect" => Self::Misdirect {
                file,
                sector: number(1),
                sectors: number(2),
                to_file: number(3),
                to_sector: number(4),
                there_too: number(5) == 1,
            },
            "Unreadable" => Self::Unreadable {
                file,
                sector: number(1),
            },
            "Remove" => Self::Remove { file },
            "Copy" => Self::Copy {
                file,
                to: number(1),
            },
            "Resize" => Self::Resize {
                file,
                sectors: number(1),
                longer: number(2) == 1,
            },
            "Sync" => Self::Sync {
                sync: number(0),
                bits: number(1),
            },
            "Older" => Self::Older {
                file,
                version: number(1),
            },
            _ => panic!("no such damage: {line}"),
        }
    }

    fn apply(&self, disk: &MemDisk, watched: &Watched) {
        let names = disk.names();
        if names.is_empty() {
            return;
        }
        let name = |file: u8| names[usize::from(file) % names.len()].as_str();
        let content = |file: u8| disk.content(name(file)).expect("it is there");
        let range = |length: usize, sector: u8, sectors: u8| {
            let start = usize::from(sector) % length.div_ceil(SECTOR).max(1) * SECTOR;
            start..(start + usize::from(sectors) * SECTOR).min(length)
        };
        match *self {
            Self::Flip { file, at, bits } => disk.damage(name(file), |bytes| {
                if !bytes.is_empty() {
                    bytes[usize::from(at) % bytes.len()] ^= bits;
                }
            }),
            Self::Fill {
                file,
                sector,
                sectors,
                byte,
            } => disk.damage(name(file), |bytes| {
                let range = range(bytes.len(), sector, sectors);
                bytes[range].fill(byte);
            }),
            Self::Blank {
                file,
                at,
                bytes: length,
            } => disk.damage(name(file), |bytes| {
                let start = usize::from(at).min(bytes.len());
                let end = (start + usize::from(length)).min(bytes.len());
                bytes[start..end].fill(0);
            }),
            Self::Misdirect {
                file,
                sector,
                sectors,
                to_file,
                to_sector,
                there_too,
            } => {
                let content = content(file);
                let from = range(content.len(), sector, sectors);
                if !there_too {
                    disk.damage(name(file), |bytes| bytes[from.clone()].fill(0));
                }
                disk.damage(name(to_file), |bytes| {
                    let to = range(bytes.len(), to_sector, sectors);
                    let length = to.len().min(from.len());
                    let moved = &content[from][..length];
                    bytes[to.start..][..length].copy_from_slice(moved);
                });
            }
            Self::Unreadable { file, sector } => {
                let at = range(content(file).len(), sector, 1).start;
                disk.make_unreadable(name(file), at);
            }
            Self::Remove { file } => disk.remove(name(file)).expect("it works"),
            Self::Copy { file, to } => {
                let segments = names.iter().filter_map(|it| it.strip_prefix("segment-"));
                let last = segments
                    .max()
                    .map_or(0, |it| u64::from_str_radix(it, 16).expect("hex"));
                let new = [
                    format!("segment-{:016x}", last + 1),
                    format!("spare-{last:016x}"),
                ];
                let targets = || names.iter().chain(&new);
                let to = targets().nth(usize::from(to) % targets().count());
                disk.put(to.expect("one of them"), content(file));
            }
            Self::Resize {
                file,
                sectors,
                longer,
            } => {
                let mut content = content(file);
                let bytes = usize::from(sectors) * SECTOR;
                let length = if longer {
                    content.len() + bytes
                } else {
                    content.len().saturating_sub(bytes)
                };
                content.resize(length, 0);
                disk.put(name(file), content);
            }
            Self::Sync { sync, bits } => {
                let sync = u32::from(sync) % (watched.versions.len() as u32 + 1);
                let segments = watched.written.iter();
                for (name, written) in segments.filter(|(it, _)| it.starts_with("segment")) {
                    disk.damage(name, |bytes| {
                        let at = written
                            .iter()
                            .zip(bytes)
                            .filter(|(it, _)| **it == sync && sync > 0);
                        at.for_each(|(_, byte)| *byte = if bits == 0 { 0 } else { *byte ^ bits });
                    });
                }
            }
            Self::Older { file, version } => {
                let versions = &watched.versions;
                let version = versions.get(usize::from(version) % versions.len().max(1));
                if let Some(older) = version.and_then(|files| files.get(name(file))) {
                    disk.put(name(file), older.clone());
                }
            }
        }
    }
}

// === impl Watched ===

fn files(disk: &MemDisk) -> Files {
    let content = |name: String| disk.content(&name).map(|content| (name, content));
    disk.names().into_iter().filter_map(content).collect()
}

impl Watched {
    fn new() -> Self {
        let run = Run::new();
        let mut watched = Self {
            history: Vec::new(),
            versions: Vec::new(),
            written: BTreeMap::new(),
            run,
        };
        watched.synced(Vec::new());
        watched
    }

    fn step(&mut self, step: Step) {
        let pending = self.run.possible.clone();
        self.run.step(step);
        if self.run.possible.len() == 1 {
            self.synced(pending);
        }
    }

    /// All up to now is on disk, and there were these states in between.
    fn synced(&mut self, between: Vec<Model>) {
        let sync = self.versions.len() as u32 + 1;
        let now = self.run.model.clone();
        let states = between.into_iter().chain([now]);
        self.history.extend(states.map(|state| (sync, state)));
        let files = files(&self.run.disk);
        self.written.retain(|name, _| files.contains_key(name));
        for (name, content) in &files {
            let written = self.written.entry(name.clone()).or_default();
            written.resize(content.len(), 0);
            for (written, byte) in written.iter_mut().zip(content) {
                *written = match (*byte, *written) {
                    (0, _) => 0,
                    (_, 0) => sync,
                    (_, written) => written,
                };
            }
        }
        self.versions.push(files);
    }

    /// What became of `sound`, of which only what was written counts.
    fn harm(
        &self,
        sound: &Files,
        disk: &MemDisk,
        unreadable: &BTreeSet<(String, usize)>,
        crashed: bool,
    ) -> Harm {
        let damaged = files(disk);
        let mut harm = Harm {
            touched: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            left: BTreeSet::new(),
            is_mild: true,
            state_copies: 0,
        };
        let is_sound = |name: &str| {
            damaged.get(name) == sound.get(name) && !unreadable.iter().any(|(file, _)| file == name)
        };
        let count = |of: [&str; 2]| of.iter().filter(|name| is_sound(name)).count();
        harm.state_copies = count(["state-a", "state-b"]);
        for (name, content) in sound.iter().filter(|(name, _)| name.starts_with("segment")) {
            let (found, written) = (damaged.get(name), self.written.get(name));
            for (at, byte) in content.iter().enumerate() {
                let now = found.and_then(|found| found.get(at));
                let sync = written.and_then(|written| written.get(at));
                let sync = sync.copied().unwrap_or(0);
                let lost = unreadable.contains(&(name.clone(), at / SECTOR));
                if lost || now != Some(byte) {
                    harm.touched.insert(sync);
                } else if *byte != 0 {
                    harm.left.insert(sync);
                }
                // Only the copies of the state can tell that the last file is missing.
                let is_forgotten = found.is_none() && harm.state_copies == 0;
                if (now == Some(&0) || is_forgotten) && *byte != 0 {
                    harm.unwritten.insert(sync);
                }
            }
        }
        let segments = |files: &Files| -> Vec<String> {
            let names = files.keys().filter(|name| name.starts_with("segment"));
            names.cloned().collect()
        };
        let lengths = |files: &Files, name: &String| files.get(name).map(Vec::len);
        harm.is_mild = harm.touched.is_empty()
            && segments(sound) == segments(&damaged)
            && segments(sound)
                .iter()
                .all(|name| lengths(sound, name) == lengths(&damaged, name))
            && harm.state_copies > 0
            // A crash may have left only one.
            && count(["start-a", "start-b"]) > usize::from(crashed);
        harm
    }
}

/// A start, and what it found.
fn found(disk: &MemDisk) -> Result<(Wal, Recovered), OpenError> {
    disk.restart();
    open(disk)
}

fn check(case: &Case) -> Result<(), String> {
    let mut watched = Watched::new();
    for step in case.before.clone() {
        watched.step(step);
    }
    let (disk, boot) = (watched.run.disk.clone(), watched.run.boot);
    if let Some((steps, seed)) = case.crash {
        disk.stop_after(steps.into());
        if watched.run.wal.sync().is_ok() {
            let now = vec![watched.run.model.clone()];
            let pending = std::mem::replace(&mut watched.run.possible, now);
            watched.synced(pending);
        }
        crash(&disk, seed);
    } else {
        disk.restart();
    }
    let sound = files(&disk);
    let mut unreadable = BTreeSet::new();
    for damage in &case.damage {
        if let Damage::Unreadable { file, sector } = damage {
            let names = disk.names();
            if let Some(name) = names.get(usize::from(*file) % names.len().max(1)) {
                let sectors = disk.content(name).map_or(0, |it| it.len().div_ceil(SECTOR));
                unreadable.insert((name.clone(), usize::from(*sector) % sectors.max(1)));
            }
        }
        damage.apply(&disk, &watched);
    }
    let harm = watched.harm(&sound, &disk, &unreadable, case.crash.is_some());
    if let Some((steps, seed)) = case.interrupted {
        disk.stop_after(steps.into());
        let _ = open(&disk);
        crash(&disk, seed);
    }
    let (wal, recovered) = match found(&disk) {
        Ok(found) => found,
        Err(OpenError::LostRecords { what }) => return refused(&disk, &harm, &what),
        Err(error) => return Err(format!("refused with another error: {error}")),
    };
    let read = read_each(&wal.reader());
    drop(wal);
    let state = state(&watched, &harm, &recovered, &read, case.damage.len())?;
    if harm.state_copies > 0 && recovered.boot <= boot {
        return Err(format!("start {} again", recovered.boot));
    }
    let (wal, again) = found(&disk).map_err(|error| format!("not opened again: {error}"))?;
    let counted = Recovered {
        boot: Boot(recovered.boot.0 + 1),
        ..recovered.clone()
    };
    if again != counted || read_each(&wal.reader()) != read {
        return Err(format!("another start finds {again:?}, not {counted:?}"));
    }
    go_on(watched.run, wal, state, &recovered, case)
}

/// The log is refused: there is a reason, and nothing else is said later.
fn refused(disk: &MemDisk, harm: &Harm, what: &str) -> Result<(), String> {
    if harm.is_mild {
        return Err(format!("refused with little damage: {what}"));
    }
    match found(disk) {
        Err(OpenError::LostRecords { .. }) => {}
        other => return Err(format!("refused ({what}), and then {other:?}")),
    }
    disk.restart();
    Wal::set_aside(disk).map_err(|error| format!("not set aside: {error:?}"))?;
    let (_, fresh) = found(disk).map_err(|error| format!("no new log: {error}"))?;
    if fresh.boot != Boot(1) || fresh.genesis.is_some() {
        return Err(format!("the new log is not empty: {fresh:?}"));
    }
    Ok(())
}

/// Which of the states that were it is.
fn state(
    watched: &Watched,
    harm: &Harm,
    recovered: &Recovered,
    read: &[Result<Entry, Header>],
    damages: usize,
) -> Result<Model, String> {
    let faulty: Vec<Header> = read.iter().filter_map(|it| it.clone().err()).collect();
    if recovered.faulty != faulty {
        return Err(format!(
            "{:?} are faulty, it says {:?}",
            faulty, recovered.faulty
        ));
    }
    if !faulty.is_empty() && harm.touched.is_empty() {
        return Err(format!("undamaged entries are faulty: {faulty:?}"));
    }
    let same = |(read, entry): (&Result<Entry, Header>, &Entry)| match read {
        Ok(read) => read == entry,
        Err(read) => *read == header(entry),
    };
    let fits = |model: &Model| {
        let found = Model {
            promised: model.promised,
            ..Model::found(recovered, model.log.clone())
        };
        found == *model
            && recovered.promised >= model.promised
            && recovered.last.0 == model.last()
            && read.len() == model.log.len()
            && read.iter().zip(&model.log).all(same)
    };
    let acknowledged = watched.run.possible.first().expect("there is one");
    let last = watched.run.possible.iter().map(|it| it.promised).max();
    if Some(recovered.promised) > last {
        return Err(format!("promised {} of {last:?}", recovered.promised));
    }
    if harm.state_copies > 0
        && (recovered.promised < acknowledged.promised
            || recovered.accepted < acknowledged.accepted)
    {
        return Err(format!(
            "promised {} and accepted {}, after {} and {}",
            recovered.promised, recovered.accepted, acknowledged.promised, acknowledged.accepted
        ));
    }
    let raised = |model: &Model| Model {
        promised: recovered.promised,
        ..model.clone()
    };
    if let Some(model) = watched.run.possible.iter().rev().find(|it| fits(it)) {
        return Ok(raised(model));
    }
    let Some(at) = watched.history.iter().rposition(|(_, it)| fits(it)) else {
        return Err(format!(
            "found {recovered:?} with {read:?}, which never was; {acknowledged:?} is synced"
        ));
    };
    let (sync, model) = &watched.history[at];
    let is_whole = watched
        .history
        .get(at + 1)
        .is_none_or(|(next, _)| next != sync);
    let first_lost = sync + u32::from(is_whole);
    let lost = first_lost..=watched.versions.len() as u32;
    // A sync of nothing but a start, or of nothing at all, loses nothing.
    let matters = |sync: &u32| {
        let of = |at: u32| watched.history.iter().rev().find(|(it, _)| *it == at);
        of(*sync).map(|(_, it)| it) != of(*sync - 1).map(|(_, it)| it)
    };
    let lost: Vec<u32> = lost.filter(matters).collect();
    if let Some(sync) = lost.iter().find(|it| !harm.touched.contains(it)) {
        return Err(format!(
            "sync {sync} of {lost:?} is lost and was not damaged"
        ));
    }
    if lost
        .first()
        .is_some_and(|first| !harm.unwritten.contains(first))
    {
        return Err(format!("{lost:?} is lost, and it was all written"));
    }
    // Two damages hit one record and its second header, and what follows is there to tell.
    let behind = harm.left.range(first_lost + 1..).next();
    if let (Some(behind), [_, ..], true) = (behind, &lost[..], damages <= 2) {
        return Err(format!("{lost:?} is lost, though {behind} is there"));
    }
    Ok(raised(model))
}

/// Repairs what is faulty, and goes on as if nothing had been.
fn go_on(
    run: Run,
    mut wal: Wal,
    state: Model,
    recovered: &Recovered,
    case: &Case,
) -> Result<(), String> {
    for faulty in &recovered.faulty {
        let mut good = state.log.iter();
        let good = good.find(|entry| header(entry) == *faulty);
        let good = good.expect("it was compared").clone();
        wal.append(&[Record::Repair(good)])
            .map_err(|error| format!("no repair: {error}"))?;
    }
    wal.sync().map_err(|error| format!("no repair: {error}"))?;
    let mut run = Run {
        wal,
        staged: Vec::new(),
        possible: vec![state.clone()],
        model: state,
        boot: recovered.boot,
        ..run
    };
    for step in case.after.clone() {
        run.step(step);
    }
    run.sync();
    run.disk.restart();
    run.reopen();
    Ok(())
}

#[test]
fn a_damaged_log_is_healed_or_says_what_is_faulty_or_that_it_is_lost() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testdata/damaged");
    for (name, text) in corpus(folder) {
        check(&Case::read(&text)).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    fuzz(CASES, &cases(), Case::write, |case| {
        assert_eq!(
            format!("{:?}", Case::read(&case.write())),
            format!("{case:?}")
        );
        check(&case)
    });
}

#[test]
fn files_of_a_file_system_are_found_as_those_in_memory() {
    let show = Case::write;
    fuzz(CASES_ON_FILES, &cases(), show, |case| {
        let mut watched = Watched::new();
        case.before
            .iter()
            .for_each(|step| watched.step(step.clone()));
        let disk = watched.run.disk.clone();
        disk.restart();
        let can_read = |it: &&Damage| !matches!(it, Damage::Unreadable { .. });
        for damage in case.damage.iter().filter(can_read) {
            damage.apply(&disk, &watched);
        }
        let folder = tempfile::tempdir().expect("there is room");
        let real = FileDisk::new(folder.path().join("log")).expect("it has a name");
        drop(real.lock().expect("it is made"));
        for (name, content) in files(&disk) {
            std::fs::write(folder.path().join("log").join(name), content).expect("there is room");
        }
        let found = |opened: Result<(Wal, Recovered), OpenError>| match opened {
            Ok((wal, recovered)) => Ok((recovered, read_each(&wal.reader()))),
            Err(error) => Err(error.to_string()),
        };
        let on_files = found(Wal::open(Arc::new(real), &options(), identity()));
        let in_memory = found(open(&disk));
        if on_files != in_memory {
            return Err(format!("{on_files:?}, in memory {in_memory:?}"));
        }
        Ok(())
    });
}
