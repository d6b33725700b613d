//! Logs that begin behind a base: what is not needed goes, what is needed stays, whatever happens.

mod common;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use common::{
    SECTOR, SEGMENT_BYTES, ballot, base, beginning, entry, genesis, identity, open, options,
    read_all, reopen, write,
};
use synod_paxos::{Entry, Record, Slot};
use synod_wal::testing::MemDisk;
use synod_wal::{AppendError, FileDisk, LogWriter, OpenError, Options, ReadError, Wal};

/// A log of many segments.
fn long_log(entries: u64) -> (MemDisk, Wal) {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    append(&mut wal, 1..=entries);
    (disk, wal)
}

fn append(wal: &mut Wal, slots: std::ops::RangeInclusive<u64>) {
    for slot in slots {
        write(wal, &[Record::Append(some_entry(slot))]);
    }
}

fn some_entry(slot: u64) -> Entry {
    entry(slot, 1, vec![slot as u8; 500])
}

/// A new log that may have so many.
fn of_four_segments(disk: &MemDisk) -> Wal {
    let limits = Options {
        max_bytes: 4 * SEGMENT_BYTES,
        ..options()
    };
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), &limits, identity()).unwrap();
    write(&mut wal, &beginning());
    wal
}

fn segments(disk: &MemDisk) -> Vec<u64> {
    let names = disk.names();
    let numbers = names
        .iter()
        .filter_map(|name| name.strip_prefix("segment-"));
    let mut numbers: Vec<u64> = numbers
        .map(|it| u64::from_str_radix(it, 16).unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn what_is_reserved_is_not_used_yet() {
    let (disk, mut wal) = long_log(1);
    let (used, all) = (wal.used_bytes(), wal.bytes());
    assert!(
        used < SEGMENT_BYTES && all >= SEGMENT_BYTES,
        "{used} of {all}"
    );
    if let Some(maker) = wal.spare_wanted() {
        wal.spare_made(maker.make());
    }
    assert_eq!((wal.used_bytes(), segments(&disk).len()), (used, 1));
    assert_eq!(wal.bytes(), 2 * SEGMENT_BYTES);
    let (disk, wal) = long_log(60);
    let full = segments(&disk).len() as u64 - 1;
    let used = wal.used_bytes();
    assert!(used > full * SEGMENT_BYTES && used < (full + 1) * SEGMENT_BYTES);
}

#[test]
fn segments_that_hold_nothing_needed_are_removed_and_the_rest_is_read_as_ever() {
    let (disk, mut wal) = long_log(60);
    let before = wal.bytes();
    let reader = wal.reader();
    assert!(segments(&disk).len() > 4);
    write(&mut wal, &[Record::Compact(base(50, ballot(1)))]);
    let left = segments(&disk);
    assert!(left.len() <= 2, "{left:?}");
    assert!(left[0] > 2);
    assert!(wal.bytes() < before / 2);
    assert_eq!(reader.range(), (Slot(51), Slot(60)));
    assert!(matches!(
        reader.read(Slot(50), Slot(60), 1),
        Err(ReadError::OutOfRange {
            first: Slot(51),
            ..
        })
    ));
    let mut expected: Vec<Entry> = (51..=60).map(some_entry).collect();
    assert_eq!(read_all(&reader), expected);
    drop(wal);
    for _ in 0..3 {
        let (mut wal, recovered) = reopen(&disk);
        assert_eq!(recovered.base, Some(base(50, ballot(1))));
        assert_eq!(recovered.genesis, Some(genesis()));
        assert_eq!(recovered.commit, Slot(50));
        assert_eq!(recovered.runs, [(Slot(51), ballot(1))]);
        assert_eq!(
            (recovered.promised, recovered.accepted),
            (ballot(1), ballot(1))
        );
        let next = recovered.last.next();
        expected.push(some_entry(next.0));
        append(&mut wal, next.0..=next.0);
        assert_eq!(read_all(&wal.reader()), expected);
    }
    let (mut wal, _) = reopen(&disk);
    append(&mut wal, 64..=90);
    write(&mut wal, &[Record::Compact(base(88, ballot(1)))]);
    assert!(segments(&disk).len() <= 2);
    let (wal, _) = {
        drop(wal);
        reopen(&disk)
    };
    assert_eq!(read_all(&wal.reader()), [some_entry(89), some_entry(90)]);
}

#[test]
fn a_log_in_a_folder_begins_behind_a_base_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("log");
    let open = || {
        let disk = Arc::new(FileDisk::new(&directory).unwrap());
        Wal::open(disk, &options(), identity()).unwrap()
    };
    let (mut wal, _) = open();
    write(&mut wal, &beginning());
    let mut next = 1;
    for _ in 0..4 {
        append(&mut wal, next..=next + 39);
        next += 40;
        write(&mut wal, &[Record::Compact(base(next - 3, ballot(1)))]);
        let names = std::fs::read_dir(&directory).unwrap();
        let names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        let kept = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("segment-");
        assert!(names.iter().filter(kept).count() <= 2, "{names:?}");
        drop(wal);
        let (again, recovered) = open();
        assert_eq!(recovered.base, Some(base(next - 3, ballot(1))));
        assert_eq!(
            read_all(&again.reader()),
            [some_entry(next - 2), some_entry(next - 1)]
        );
        wal = again;
    }
}

#[test]
fn a_log_that_a_base_takes_the_place_of_needs_one_segment() {
    let (disk, mut wal) = long_log(60);
    write(&mut wal, &[Record::Promise(ballot(4))]);
    let stage = |slot| Record::Stage {
        ballot: ballot(4),
        entry: entry(slot, 2, vec![9; 900]),
    };
    let staged: Vec<Record> = (50..90).map(stage).collect();
    write(&mut wal, &staged);
    write(&mut wal, &[Record::Install(base(45, ballot(3)))]);
    assert_eq!(segments(&disk).len(), 1);
    drop(wal);
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.base, Some(base(45, ballot(3))));
    assert_eq!((recovered.last, recovered.commit), (Slot(45), Slot(45)));
    assert_eq!(
        (recovered.promised, recovered.accepted),
        (ballot(4), ballot(1))
    );
    assert_eq!(recovered.kept, (ballot(1), Slot(60)));
    assert_eq!((recovered.runs, recovered.tail), (Vec::new(), Vec::new()));
    // It goes on like any other.
    let adopt = Record::Adopt {
        ballot: ballot(4),
        from: Slot(46),
        last: Slot(47),
    };
    write(&mut wal, &[stage(46), stage(47), adopt]);
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.accepted, ballot(4));
    assert_eq!(recovered.runs, [(Slot(46), ballot(2))]);
    assert_eq!(read_all(&wal.reader()).len(), 2);
}

#[test]
fn what_is_staged_stays_when_all_before_it_goes() {
    let (disk, mut wal) = long_log(20);
    let staged: Vec<Entry> = (21..=60).map(|slot| entry(slot, 2, vec![9; 500])).collect();
    let stage = |entry: &Entry| Record::Stage {
        ballot: ballot(4),
        entry: entry.clone(),
    };
    let records: Vec<Record> = staged.iter().map(stage).collect();
    write(&mut wal, &[Record::Promise(ballot(4))]);
    write(&mut wal, &records);
    write(&mut wal, &[Record::Compact(base(20, ballot(1)))]);
    let left = segments(&disk);
    assert!(left.len() > 2 && left[0] > 1, "{left:?}");
    let adopt = Record::Adopt {
        ballot: ballot(4),
        from: Slot(21),
        last: Slot(60),
    };
    write(&mut wal, &[adopt]);
    assert_eq!(read_all(&wal.reader()), staged);
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.accepted, ballot(4));
    assert_eq!(read_all(&wal.reader()), staged);
}

#[test]
fn a_full_log_that_begins_behind_a_base_takes_entries_again() {
    let mut wal = of_four_segments(&MemDisk::new());
    let mut slot = 0;
    for _ in 0..5 {
        let error = loop {
            match wal.append(&[Record::Append(some_entry(slot + 1))]) {
                Ok(_) => slot += 1,
                Err(error) => break error,
            }
            wal.sync().unwrap();
        };
        assert!(matches!(error, AppendError::Full { taken: 0 }));
        assert!(wal.is_full());
        write(&mut wal, &[Record::Compact(base(slot - 1, ballot(1)))]);
        assert!(!wal.is_full());
        assert!(wal.bytes() <= 2 * SEGMENT_BYTES);
    }
    assert!(slot > 100);
    assert_eq!(read_all(&wal.reader()), [some_entry(slot)]);
}

#[test]
fn a_log_as_large_as_may_be_is_adopted_beside_another_one() {
    let mut wal = of_four_segments(&MemDisk::new());
    let mut last = 0;
    while wal.append(&[Record::Append(some_entry(last + 1))]).is_ok() {
        wal.sync().unwrap();
        last += 1;
    }
    write(&mut wal, &[Record::Promise(ballot(2))]);
    // What another member can have behind the end of this one.
    let mut staged = Vec::new();
    for slot in last + 1..=2 * last {
        let entry = some_entry(slot);
        let record = Record::Stage {
            ballot: ballot(2),
            entry: entry.clone(),
        };
        write(&mut wal, &[record]);
        staged.push(entry);
    }
    let adopt = Record::Adopt {
        ballot: ballot(2),
        from: Slot(last + 1),
        last: Slot(2 * last),
    };
    write(&mut wal, &[adopt]);
    assert!(wal.bytes() <= 8 * SEGMENT_BYTES);
    write(&mut wal, &[Record::Compact(base(last, ballot(1)))]);
    assert!(wal.bytes() <= 5 * SEGMENT_BYTES);
    assert_eq!(read_all(&wal.reader()), staged);
    // There is an end to that, too.
    let stage = |slot| Record::Stage {
        ballot: ballot(3),
        entry: some_entry(slot),
    };
    write(&mut wal, &[Record::Promise(ballot(3))]);
    let mut slot = 2 * last;
    while wal.append(&[stage(slot + 1)]).is_ok() {
        wal.sync().unwrap();
        slot += 1;
    }
    assert!(wal.bytes() <= 8 * SEGMENT_BYTES);
}

#[test]
fn a_full_log_is_made_shorter_by_what_waits_behind_the_entries_that_find_no_room() {
    let disk = MemDisk::new();
    let wal = of_four_segments(&disk);
    let (sender, synced) = mpsc::channel();
    let on_synced = move |io| sender.send(io).expect("the test waits");
    let writer = LogWriter::spawn(wal, on_synced, |error| panic!("{error}")).unwrap();
    for slot in 1..=80 {
        writer.write(slot, vec![Record::Append(some_entry(slot))]);
    }
    let wait = || synced.recv_timeout(Duration::from_secs(20));
    while !writer.is_full() {
        wait().unwrap();
    }
    writer.write(100, vec![Record::Compact(base(10, ballot(1)))]);
    // An entry that found no room before is synced now.
    while writer.reader().range().0 != Slot(11) {
        wait().unwrap();
    }
    assert!(segments(&disk)[0] > 1, "room was made");
}

#[test]
fn each_copy_of_what_the_log_begins_with_may_be_damaged_and_not_both() {
    let (disk, mut wal) = long_log(40);
    write(&mut wal, &[Record::Compact(base(30, ballot(1)))]);
    append(&mut wal, 41..=60);
    write(&mut wal, &[Record::Compact(base(55, ballot(1)))]);
    drop(wal);
    let spoil = |disk: &MemDisk, name: &str| disk.damage(name, |bytes| bytes[SECTOR + 40] ^= 1);
    for name in ["start-a", "start-b"] {
        let disk = disk.copy();
        disk.restart();
        spoil(&disk, name);
        let (wal, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.base, Some(base(55, ballot(1))));
        assert_eq!(recovered.genesis, Some(genesis()));
        assert_eq!(read_all(&wal.reader()).len(), 5);
    }
    disk.restart();
    spoil(&disk, "start-a");
    spoil(&disk, "start-b");
    assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
}

#[test]
fn a_damaged_base_is_read_from_its_second_copy_and_healed() {
    let (disk, mut wal) = long_log(3);
    write(&mut wal, &[Record::Compact(base(2, ballot(1)))]);
    write(&mut wal, &[Record::Promise(ballot(7))]);
    drop(wal);
    let content = common::segment(&disk);
    let record = common::records(&content).into_iter().rev().nth(1).unwrap();
    for at in (record.start + common::HEADER..record.end - 8).step_by(7) {
        let disk = disk.copy();
        disk.restart();
        common::damage(&disk, |bytes| bytes[at] ^= 0x10);
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.base, Some(base(2, ballot(1))), "byte {at}");
        let healed = common::segment(&disk);
        assert_eq!(healed[record.clone()], content[record.clone()]);
    }
}

#[test]
fn a_segment_that_is_needed_and_lost_is_noticed() {
    let (disk, mut wal) = long_log(60);
    write(&mut wal, &[Record::Compact(base(20, ballot(1)))]);
    drop(wal);
    disk.restart();
    let left = segments(&disk);
    assert!(left.len() > 2);
    for number in left {
        let without = MemDisk::new();
        for name in disk.names() {
            if name != format!("segment-{number:016x}") {
                without.put(&name, disk.content(&name).unwrap());
            }
        }
        let result = open(&without);
        assert!(
            matches!(result, Err(OpenError::LostRecords { .. })),
            "segment {number}"
        );
    }
}

#[test]
fn a_log_that_does_not_say_why_it_begins_so_late_has_lost_entries() {
    let (disk, mut wal) = long_log(60);
    let before = disk.copy();
    write(&mut wal, &[Record::Compact(base(50, ballot(1)))]);
    // The record is gone with the end of the log, and what was done about it is there.
    for name in ["start-a", "start-b"] {
        before.put(name, disk.content(name).unwrap());
    }
    before.restart();
    let error = open(&before).unwrap_err();
    assert!(
        matches!(&error, OpenError::LostRecords { what } if what.contains("in no segment")),
        "{error}"
    );
}

#[test]
fn a_program_that_knows_only_version_1_is_told_before_the_first_record_of_version_2() {
    let version =
        |disk: &MemDisk| ["state-a", "state-b"].map(|name| disk.content(name).unwrap()[8]);
    for record in [
        Record::Compact(base(2, ballot(1))),
        Record::Install(base(9, ballot(1))),
        Record::Protocol {
            slot: Slot(2),
            version: 2,
        },
    ] {
        let (disk, mut wal) = long_log(3);
        assert_eq!(version(&disk), [1, 1]);
        // The machine stops at each step: where the record is, the copies tell of it.
        wal.append(std::slice::from_ref(&record)).unwrap();
        for steps in 0..4 {
            let disk = disk.copy();
            disk.restart();
            let (mut wal, _) = open(&disk).unwrap();
            let length = |disk: &MemDisk| common::records(&common::segment(disk)).len();
            let before = length(&disk);
            disk.stop_after(steps);
            let _ = wal.append(std::slice::from_ref(&record));
            let written = wal.sync().is_ok();
            disk.crash(|| synod_wal::testing::Survival::Kept, |changes| changes);
            if written || length(&disk) > before {
                assert_eq!(version(&disk), [2, 2], "{steps} steps");
            }
        }
        wal.sync().unwrap();
        assert_eq!(version(&disk), [2, 2]);
        drop(wal);
        let _ = reopen(&disk);
        assert_eq!(version(&disk), [2, 2], "and stays so");
    }
}

#[test]
#[should_panic(expected = "begins behind 9")]
fn a_base_beyond_the_log_is_a_broken_invariant() {
    let (_, mut wal) = long_log(3);
    let _ = wal.append(&[Record::Compact(base(9, ballot(1)))]);
}

#[test]
#[should_panic(expected = "commit 2 replaced by base 2")]
fn a_base_in_place_of_what_is_chosen_is_a_broken_invariant() {
    let (_, mut wal) = long_log(3);
    let records = [Record::Commit(Slot(2)), Record::Install(base(2, ballot(1)))];
    let _ = wal.append(&records);
}

#[test]
#[should_panic(expected = "without its entries")]
fn what_was_staged_before_a_base_took_the_place_of_the_log_is_not_adopted_behind_it() {
    let (_, mut wal) = long_log(3);
    let stage = |slot| Record::Stage {
        ballot: ballot(4),
        entry: entry(slot, 2, "staged"),
    };
    let records = [Record::Promise(ballot(4)), stage(4), stage(5), stage(6)];
    write(&mut wal, &records);
    write(&mut wal, &[Record::Install(base(5, ballot(3)))]);
    let adopt = Record::Adopt {
        ballot: ballot(4),
        from: Slot(6),
        last: Slot(6),
    };
    let _ = wal.append(&[adopt]);
}
