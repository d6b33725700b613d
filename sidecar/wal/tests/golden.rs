//! The format on disk does not change by accident: a log written by version 1 is checked in.
//!
//! When the format changes on purpose, it gets a new version, and a new folder beside this one; the
//! old one stays, and must still be readable. `UPDATE_GOLDEN=1` writes the files.

mod common;

use std::path::PathBuf;

use common::{ballot, beginning, entry, genesis, identity, open, read_all, write};
use synod_paxos::{AgreedTime, Boot, Record, Recovered, Slot};
use synod_wal::testing::MemDisk;

const FILES: [&str; 4] = ["genesis", "segment-0000000000000001", "state-a", "state-b"];

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(file)
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
    let disk = log();
    assert_eq!(disk.names(), FILES);
    for file in FILES {
        let content = disk.content(file).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path("")).unwrap();
            std::fs::write(path(file), &content).unwrap();
        }
        let golden = std::fs::read(path(file)).unwrap();
        assert!(
            content == golden,
            "{file} differs from what version 1 wrote"
        );
    }
}

#[test]
fn a_log_of_version_1_is_read() {
    let disk = MemDisk::new();
    for file in FILES {
        disk.put(file, std::fs::read(path(file)).unwrap());
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
        first: Slot(1),
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
