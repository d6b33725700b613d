//! What a start finds: all that was synced, and nothing else.

mod common;

use std::sync::Arc;

use common::{
    SECTOR, SEGMENT_BYTES, ballot, beginning, entry, genesis, identity, log_of, open, options,
    read_all, read_each, reopen, write,
};
use synod_paxos::{Boot, Entry, Identity, Incarnation, Record, Slot};
use synod_wal::testing::MemDisk;
use synod_wal::{AppendError, OpenError, ReadError, Wal};

#[test]
fn a_new_log_is_empty_and_starts_are_counted_from_one() {
    let disk = MemDisk::new();
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.identity, identity());
    assert_eq!(recovered.boot, Boot(1));
    assert_eq!(recovered.genesis, None);
    assert_eq!((recovered.first(), recovered.last), (Slot(1), Slot(0)));
    drop(wal);
    for boot in 2..5 {
        // Another incarnation is offered; the log has one already.
        let other = Identity {
            incarnation: Incarnation(99),
            ..identity()
        };
        let (_, recovered) = Wal::open(Arc::new(disk.clone()), &options(), other).unwrap();
        assert_eq!(
            (recovered.boot, recovered.identity),
            (Boot(boot), identity())
        );
    }
}

#[test]
fn what_was_synced_is_found_and_what_was_not_is_not() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    write(
        &mut wal,
        &[
            Record::Append(entry(1, 1, "a")),
            Record::Append(entry(2, 1, "b")),
            Record::Commit(Slot(1)),
        ],
    );
    wal.append(&[Record::Append(entry(3, 1, "c"))]).unwrap();
    assert_eq!(wal.reader().range(), (Slot(1), Slot(2)), "not synced yet");
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.genesis, Some(genesis()));
    assert_eq!(
        (recovered.promised, recovered.accepted),
        (ballot(1), ballot(1))
    );
    assert_eq!((recovered.last, recovered.commit), (Slot(2), Slot(1)));
    assert_eq!(recovered.tail, [entry(2, 1, "b")]);
    assert_eq!(recovered.runs, [(Slot(1), ballot(1))]);
    assert_eq!(recovered.last_time, entry(2, 1, "b").time);
    assert_eq!(recovered.faulty, []);
    assert_eq!(
        read_all(&wal.reader()),
        [entry(1, 1, "a"), entry(2, 1, "b")]
    );
}

#[test]
fn an_adoption_cuts_and_installs_at_once_and_a_stage_without_it_changes_nothing() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    let old: Vec<Record> = (1..=4)
        .map(|slot| Record::Append(entry(slot, 1, "old")))
        .collect();
    write(&mut wal, &old);
    let stage = |slot, round| Record::Stage {
        ballot: ballot(3),
        entry: entry(slot, round, "new"),
    };
    write(
        &mut wal,
        &[Record::Promise(ballot(3)), stage(2, 1), stage(3, 2)],
    );
    drop(wal);

    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(
        (recovered.promised, recovered.accepted),
        (ballot(3), ballot(1))
    );
    assert_eq!((recovered.last, recovered.tail.len()), (Slot(4), 4));
    // What an earlier start staged is gone: all of it comes again.
    let adopt = Record::Adopt {
        ballot: ballot(3),
        from: Slot(3),
        last: Slot(5),
    };
    write(
        &mut wal,
        &[
            stage(2, 1),
            stage(3, 1),
            stage(4, 2),
            stage(5, 2),
            stage(6, 2),
            adopt,
        ],
    );
    write(&mut wal, &[Record::Append(entry(6, 3, "newest"))]);
    let expected = [
        entry(1, 1, "old"),
        entry(2, 1, "old"),
        entry(3, 1, "new"),
        entry(4, 2, "new"),
        entry(5, 2, "new"),
        entry(6, 3, "newest"),
    ];
    assert_eq!(read_all(&wal.reader()), expected);
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(
        (recovered.promised, recovered.accepted),
        (ballot(3), ballot(3))
    );
    assert_eq!(
        recovered.runs,
        [
            (Slot(1), ballot(1)),
            (Slot(4), ballot(2)),
            (Slot(6), ballot(3))
        ]
    );
    assert_eq!(read_all(&wal.reader()), expected);
}

#[test]
fn appending_after_a_cut_never_brings_cut_entries_back() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    let old: Vec<Record> = (1..=9)
        .map(|slot| Record::Append(entry(slot, 1, "old")))
        .collect();
    write(&mut wal, &old);
    let adopt = |round, after| Record::Adopt {
        ballot: ballot(round),
        from: Slot(after + 1),
        last: Slot(after),
    };
    write(&mut wal, &[Record::Promise(ballot(2)), adopt(2, 5)]);
    assert_eq!(wal.reader().range().1, Slot(5));
    write(
        &mut wal,
        &[
            Record::Append(entry(6, 2, "new")),
            Record::Append(entry(7, 2, "new")),
        ],
    );
    write(&mut wal, &[Record::Promise(ballot(3)), adopt(3, 6)]);
    write(&mut wal, &[Record::Append(entry(7, 3, "newest"))]);
    let mut expected: Vec<Entry> = (1..=5).map(|slot| entry(slot, 1, "old")).collect();
    expected.extend([entry(6, 2, "new"), entry(7, 3, "newest")]);
    assert_eq!(read_all(&wal.reader()), expected);
    drop(wal);
    let (wal, _) = reopen(&disk);
    assert_eq!(read_all(&wal.reader()), expected);
}

#[test]
fn entries_are_found_in_a_log_of_many_segments() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    let entries: Vec<Entry> = (1..=300)
        .map(|slot| entry(slot, 1, vec![slot as u8; slot as usize % 200]))
        .collect();
    for some in entries.chunks(7) {
        let records: Vec<Record> = some.iter().cloned().map(Record::Append).collect();
        write(&mut wal, &records);
    }
    assert!(disk.names().len() > 10, "many segments");
    let check = |wal: &Wal| {
        assert_eq!(read_all(&wal.reader()), entries);
        let each: Vec<Entry> = read_each(&wal.reader())
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(each, entries);
    };
    check(&wal);
    let (wal, _) = reopen(&disk);
    check(&wal);
    let error = wal.reader().read(Slot(301), Slot(400), 1).unwrap_err();
    assert!(matches!(
        error,
        ReadError::OutOfRange {
            last: Slot(300),
            ..
        }
    ));
    assert!(wal.reader().read(Slot(0), Slot(4), 1).is_err());
}

#[test]
fn two_opens_at_once_another_member_and_another_version_are_refused() {
    let disk = MemDisk::new();
    let (wal, _) = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(OpenError::InUse { .. })));
    drop(wal);
    let other = Identity {
        name: "notes-1".to_owned(),
        ..identity()
    };
    let error = Wal::open(Arc::new(disk.clone()), &options(), other).unwrap_err();
    assert!(matches!(&error, OpenError::OtherMember { found, .. } if found == "notes-0"));

    for name in ["state-a", "segment-0000000000000001"] {
        let disk = disk.copy();
        disk.damage(name, |bytes| {
            bytes[8..12].copy_from_slice(&4_u32.to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SECTOR]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        });
        let error = open(&disk).unwrap_err();
        assert!(
            matches!(error, OpenError::UnknownVersion { found: 4, known: 3 }),
            "{error}"
        );
    }
    assert!(open(&disk).is_ok(), "nothing of this harmed it");
}

#[test]
fn a_record_that_no_segment_holds_is_refused_and_the_log_goes_on() {
    let (disk, entries) = log_of(&[b"one"]);
    let (mut wal, _) = reopen(&disk);
    let large = Record::Append(entry(3, 1, vec![0; SEGMENT_BYTES as usize]));
    let records = [Record::Append(entry(2, 1, "two")), large];
    let error = wal.append(&records).unwrap_err();
    assert!(matches!(error, AppendError::TooLarge { taken: 1, .. }));
    wal.sync().unwrap();
    assert_eq!(
        read_all(&wal.reader()),
        [entries[0].clone(), entry(2, 1, "two")]
    );
}

#[test]
#[should_panic(expected = "slot 3 after slot 1")]
fn a_gap_in_what_is_to_be_written_is_a_broken_invariant() {
    let (disk, _) = log_of(&[b"one"]);
    let (mut wal, _) = reopen(&disk);
    let _ = wal.append(&[Record::Append(entry(3, 1, "three"))]);
}

#[test]
#[should_panic(expected = "adoption of 2..=2 without its entries")]
fn an_adoption_without_its_entries_is_a_broken_invariant() {
    let (disk, _) = log_of(&[b"one"]);
    let (mut wal, _) = reopen(&disk);
    let adopt = Record::Adopt {
        ballot: ballot(2),
        from: Slot(2),
        last: Slot(2),
    };
    let _ = wal.append(&[Record::Promise(ballot(2)), adopt]);
}
