//! The format on disk does not change by accident: a log written by each version is checked in.
//!
//! When the format changes on purpose, it gets a new version, and a new folder beside this one; the
//! old one stays, and must still be readable. `UPDATE_GOLDEN=1` writes the files.

mod common;

use std::path::PathBuf;

use common::{
    ballot, base, beginning, configuration, entry, genesis, identity, open, read_all, write,
};
use synod_paxos::{AgreedTime, Ballot, Base, Boot, Record, Recovered, Slot};
use synod_wal::testing::MemDisk;

const FILES: [&str; 4] = ["genesis", "segment-0000000000000001", "state-a", "state-b"];

const FILES_2: [&str; 6] = [
    "genesis",
    "segment-0000000000000003",
    "start-a",
    "start-b",
    "state-a",
    "state-b",
];

const FILES_3: [&str; 6] = [
    "genesis",
    "segment-0000000000000002",
    "start-a",
    "start-b",
    "state-a",
    "state-b",
];

fn path(version: &str, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(version)
        .join(file)
}

/// A log of version 2: segments are gone, bases and protocols are in it.
fn log_2() -> MemDisk {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    let append = |slot| Record::Append(entry(slot, 1, vec![slot as u8; 1000]));
    for slot in 1..=8 {
        write(&mut wal, &[append(slot)]);
    }
    let protocol = |slot, version| Record::Protocol {
        slot: Slot(slot),
        version,
    };
    write(&mut wal, &[Record::Commit(Slot(8)), protocol(3, 2)]);
    write(&mut wal, &[Record::Compact(base(8, ballot(1)))]);
    for slot in 9..=12 {
        write(&mut wal, &[append(slot)]);
    }
    write(&mut wal, &[Record::Promise(ballot(2))]);
    write(&mut wal, &[Record::Install(base(11, ballot(3)))]);
    let adopt = Record::Adopt {
        ballot: ballot(2),
        from: Slot(12),
        last: Slot(12),
    };
    let stage = Record::Stage {
        ballot: ballot(2),
        entry: entry(12, 2, "twelve"),
    };
    write(&mut wal, &[stage, adopt]);
    write(&mut wal, &[Record::Commit(Slot(12)), protocol(12, 3)]);
    disk
}

/// A base of a later epoch than the first.
fn later_base(slot: u64) -> Base {
    Base {
        configuration: configuration(2),
        former: configuration(1).members,
        ..base(slot, ballot(1))
    }
}

/// A log of version 3: of a member that came later, learnt what was chosen, and entered two epochs.
fn log_3() -> MemDisk {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(
        &mut wal,
        &[Record::Genesis(genesis()), Record::Join(configuration(9))],
    );
    for slot in 1..=7 {
        write(
            &mut wal,
            &[Record::Learn(entry(slot, 1, vec![slot as u8; 1000]))],
        );
    }
    write(&mut wal, &[Record::Install(later_base(9))]);
    for slot in 10..=11 {
        write(&mut wal, &[Record::Learn(entry(slot, 3, "learnt"))]);
    }
    let enter = Record::Enter {
        slot: Slot(11),
        configuration: configuration(3),
    };
    write(&mut wal, &[enter]);
    let mut entry = entry(12, 0, "twelve");
    entry.ballot = configuration(3).first_ballot();
    write(&mut wal, &[Record::Append(entry)]);
    disk
}

fn compare(disk: &MemDisk, version: &str, files: &[&str]) {
    let mut names = disk.names();
    names.retain(|name| !name.starts_with("spare-"));
    assert_eq!(names, files);
    for file in files {
        let content = disk.content(file).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path(version, "")).unwrap();
            std::fs::write(path(version, file), &content).unwrap();
        }
        let golden = std::fs::read(path(version, file)).unwrap();
        assert!(
            content == golden,
            "{file} differs from what {version} wrote"
        );
    }
}

/// Every kind of record, with fixed content.
fn log() -> MemDisk {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    write(
        &mut wal,
        &[
            Record::Append(entry(1, 1, "one")),
            Record::Append(entry(2, 1, "two, to be cut")),
            Record::Commit(Slot(1)),
        ],
    );
    let ballot = ballot(2);
    let stage = |slot| Record::Stage {
        ballot,
        entry: entry(slot, 1, format!("staged {slot}")),
    };
    write(&mut wal, &[Record::Promise(ballot), stage(2), stage(3)]);
    let adopt = Record::Adopt {
        ballot,
        from: Slot(2),
        last: Slot(3),
    };
    write(&mut wal, &[adopt, Record::Append(entry(4, 2, "four"))]);
    write(&mut wal, &[Record::Repair(entry(4, 2, "four"))]);
    disk
}

#[test]
fn version_1_is_written_byte_for_byte_as_ever() {
    compare(&log(), "v1", &FILES);
}

#[test]
fn version_2_is_written_byte_for_byte_as_ever() {
    compare(&log_2(), "v2", &FILES_2);
}

#[test]
fn version_3_is_written_byte_for_byte_as_ever() {
    compare(&log_3(), "v3", &FILES_3);
}

#[test]
fn a_log_of_version_3_is_read() {
    let disk = MemDisk::new();
    for file in FILES_3 {
        disk.put(file, std::fs::read(path("v3", file)).unwrap());
    }
    let (_, recovered) = open(&disk).unwrap();
    let first = configuration(3).first_ballot();
    assert_eq!((recovered.promised, recovered.accepted), (first, first));
    assert_eq!(recovered.base, Some(later_base(9)));
    assert_eq!(recovered.joining, Some(configuration(9)));
    assert_eq!(recovered.changes, [(Slot(11), configuration(3))]);
    assert_eq!(recovered.runs, [(Slot(10), ballot(3)), (Slot(12), first)]);
    assert_eq!((recovered.commit, recovered.last), (Slot(11), Slot(12)));
    assert_eq!(recovered.tail.len(), 1);
    assert_eq!(recovered.ended_by, None);
}

#[test]
fn a_log_of_version_2_is_read() {
    let disk = MemDisk::new();
    for file in FILES_2 {
        disk.put(file, std::fs::read(path("v2", file)).unwrap());
    }
    let (wal, recovered) = open(&disk).unwrap();
    let expected = Recovered {
        identity: identity(),
        boot: Boot(2),
        genesis: Some(genesis()),
        promised: ballot(2),
        accepted: ballot(2),
        kept: (ballot(1), Slot(12)),
        base: Some(base(11, ballot(3))),
        upgrades: vec![(Slot(12), 3)],
        joining: None,
        changes: Vec::new(),
        ended_by: None,
        last: Slot(12),
        runs: vec![(Slot(12), ballot(2))],
        last_time: AgreedTime(1_012),
        commit: Slot(12),
        tail: Vec::new(),
        faulty: Vec::new(),
    };
    assert_eq!(recovered, expected);
    assert_eq!(read_all(&wal.reader()), [entry(12, 2, "twelve")]);
}

#[test]
fn a_log_of_version_1_is_read() {
    let disk = MemDisk::new();
    for file in FILES {
        disk.put(file, std::fs::read(path("v1", file)).unwrap());
    }
    let (wal, recovered) = open(&disk).unwrap();
    let entries = [
        entry(1, 1, "one"),
        entry(2, 1, "staged 2"),
        entry(3, 1, "staged 3"),
        entry(4, 2, "four"),
    ];
    let expected = Recovered {
        identity: identity(),
        boot: Boot(2),
        genesis: Some(genesis()),
        promised: ballot(2),
        accepted: ballot(2),
        kept: (Ballot::default(), Slot(0)),
        base: None,
        upgrades: Vec::new(),
        joining: None,
        changes: Vec::new(),
        ended_by: None,
        last: Slot(4),
        runs: vec![(Slot(1), ballot(1)), (Slot(4), ballot(2))],
        last_time: AgreedTime(1_004),
        commit: Slot(1),
        tail: entries[1..].to_vec(),
        faulty: Vec::new(),
    };
    assert_eq!(recovered, expected);
    assert_eq!(read_all(&wal.reader()), entries);
}
