//! What the tests of the log share: records, a small disk, and comparing what was found.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod run;

use std::sync::Arc;

use bytes::Bytes;
use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, Command, CommandId, CommandKind, Configuration, Entry, Epoch,
    Genesis, GroupId, Header, Identity, Incarnation, Member, MemberId, Quorums, Record, Recovered,
    Role, Slot,
};
use synod_wal::testing::MemDisk;
use synod_wal::{LogReader, OpenError, Options, ReadError, Wal};

/// The smallest segments, so that tests see many.
pub(crate) const SEGMENT_BYTES: u64 = 8192;

pub(crate) fn options() -> Options {
    Options::new(SEGMENT_BYTES, 1 << 30)
}

pub(crate) fn identity() -> Identity {
    Identity {
        name: "notes-0".to_owned(),
        incarnation: Incarnation(0x0123_4567_89ab_cdef),
    }
}

pub(crate) fn open(disk: &MemDisk) -> Result<(Wal, Recovered), OpenError> {
    Wal::open(Arc::new(disk.clone()), &options(), identity())
}

pub(crate) fn reopen(disk: &MemDisk) -> (Wal, Recovered) {
    disk.restart();
    open(disk).expect("the log opens again")
}

pub(crate) fn ballot(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round,
        node: MemberId(if round == 0 { 0 } else { 2 }),
    }
}

pub(crate) fn entry(slot: u64, round: u64, payload: impl Into<Vec<u8>>) -> Entry {
    Entry {
        slot: Slot(slot),
        ballot: ballot(round),
        time: AgreedTime(1_000 + slot),
        seed: u128::from(slot) << 70 | u128::from(round),
        command: Command {
            kind: CommandKind::REQUEST,
            id: CommandId {
                member: MemberId(2),
                boot: Boot(1),
                sequence: slot,
            },
            floor: 1,
            payload: Bytes::from(payload.into()),
        },
    }
}

/// What a log begins behind.
pub(crate) fn base(slot: u64, ballot: Ballot) -> Base {
    Base {
        slot: Slot(slot),
        ballot,
        time: AgreedTime(1_000 + slot),
        protocol: 2,
        ..Base::of_genesis(&genesis())
    }
}

/// The members that a log was given for this epoch.
pub(crate) fn configuration(epoch: u64) -> Configuration {
    Configuration {
        epoch: Epoch(epoch),
        first_leader: MemberId(1),
        ..genesis().configuration
    }
}

pub(crate) fn header(entry: &Entry) -> Header {
    Header {
        slot: entry.slot,
        ballot: entry.ballot,
        hash: entry.hash(),
    }
}

pub(crate) fn genesis() -> Genesis {
    Genesis {
        group: GroupId([7; 16]),
        configuration: Configuration {
            epoch: Epoch(1),
            members: vec![Member {
                id: MemberId(1),
                name: "notes-0".to_owned(),
                incarnation: identity().incarnation,
                role: Role::Voter,
                region: String::new(),
            }],
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        },
        policy: Bytes::from_static(b"policy"),
        protocol: 1,
        initial_state: Bytes::new(),
    }
}

/// Genesis, then a leader in round 1 that found nothing.
pub(crate) fn beginning() -> Vec<Record> {
    vec![
        Record::Genesis(genesis()),
        Record::Promise(ballot(1)),
        Record::Adopt {
            ballot: ballot(1),
            from: Slot(1),
            last: Slot(0),
        },
    ]
}

pub(crate) fn write(wal: &mut Wal, records: &[Record]) {
    wal.append(records).expect("there is room");
    wal.sync().expect("the disk works");
}

/// All entries, none faulty.
pub(crate) fn read_all(reader: &LogReader) -> Vec<Entry> {
    let (first, last) = reader.range();
    let mut entries: Vec<Entry> = Vec::new();
    let mut next = first;
    while next <= last {
        let some = reader.read(next, last, 3_000).expect("all can be read");
        assert!(
            some.iter()
                .map(|entry| entry.slot.0)
                .eq(next.0..next.0 + some.len() as u64)
        );
        next = Slot(next.0 + some.len() as u64);
        entries.extend(some);
    }
    entries
}

/// Each entry, or the header of a faulty one.
pub(crate) fn read_each(reader: &LogReader) -> Vec<Result<Entry, Header>> {
    let (first, last) = reader.range();
    (first.0..=last.0)
        .map(|slot| match reader.read(Slot(slot), Slot(slot), 1) {
            Ok(mut entries) => Ok(entries.remove(0)),
            Err(ReadError::Faulty(header)) => Err(header),
            Err(error) => panic!("slot {slot}: {error}"),
        })
        .collect()
}

/// Numbers that look random and are the same each time.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % sides
    }
}

pub(crate) const HEADER: usize = 128;
pub(crate) const SECTOR: usize = 512;

/// A log with one segment: entries 1..=n of some length, each synced by itself.
pub(crate) fn log_of(payloads: &[&[u8]]) -> (MemDisk, Vec<Entry>) {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    let mut entries = Vec::new();
    for (slot, payload) in (1..).zip(payloads) {
        entries.push(entry(slot, 1, *payload));
        write(
            &mut wal,
            &[Record::Append(entries[slot as usize - 1].clone())],
        );
    }
    (disk, entries)
}

pub(crate) fn segment(disk: &MemDisk) -> Vec<u8> {
    disk.content("segment-0000000000000001").unwrap()
}

pub(crate) fn damage(disk: &MemDisk, change: impl FnOnce(&mut [u8])) {
    disk.damage("segment-0000000000000001", change);
}

/// Where the records are: walks the headers of a sound segment.
pub(crate) fn records(segment: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut records = Vec::new();
    let mut at = SECTOR;
    while segment[at..at + HEADER].iter().any(|byte| *byte != 0) {
        let length = u32::from_le_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
        let end = at + HEADER + length.next_multiple_of(8) + 8;
        records.push(at..end);
        at = end;
    }
    records
}
