//! What damage leaves: never anything wrong. It is healed, or an entry is known to be faulty, or the
//! log says that it cannot be used any more.

mod common;

use std::sync::Arc;

use common::{
    HEADER, SECTOR, SEGMENT_BYTES, ballot, base, beginning, damage, entry, genesis, header,
    identity, log_of, open, options, read_all, read_each, records, reopen, segment, write,
};
use synod_paxos::{Boot, Identity, Incarnation, Record, Slot};
use synod_wal::testing::MemDisk;
use synod_wal::{FileDisk, OpenError, ReadError, Wal};

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_only_it() {
    for payload in [&b"short"[..], &[0; 1300], &[0xAB; 1300]] {
        let (disk, entries) = log_of(&[b"one", b"two", payload]);
        let whole = segment(&disk);
        let last = records(&whole).pop().unwrap();
        let copies = whole.len() - SECTOR - records(&whole).len() * HEADER;
        for tear in last.clone() {
            // With and without the copy of the header, which is written by another write.
            for copy_lost in [0, 1, 60, 127, 128] {
                let disk = disk.copy();
                damage(&disk, |bytes| {
                    bytes[tear..last.end].fill(0);
                    bytes[copies + HEADER - copy_lost..copies + HEADER].fill(0);
                });
                let (mut wal, recovered) =
                    open(&disk).unwrap_or_else(|error| panic!("torn at {tear}: {error}"));
                // Nothing is lost when only the mark is missing, or bytes that are zero anyway.
                let body = &whole[last.start..last.end - 8];
                let lost = body[(tear - last.start).min(body.len())..]
                    .iter()
                    .any(|b| *b != 0);
                let kept = if lost { 2 } else { 3 };
                assert_eq!(
                    recovered.tail,
                    entries[..kept],
                    "torn at {tear}, {copy_lost}"
                );
                assert_eq!(recovered.faulty, []);
                // What was cut is zeros again, and the log goes on.
                let next = entry(kept as u64 + 1, 1, "another");
                write(&mut wal, &[Record::Append(next.clone())]);
                drop(wal);
                let (wal, recovered) = reopen(&disk);
                assert_eq!(recovered.faulty, []);
                assert_eq!(read_all(&wal.reader())[kept..], [next]);
            }
        }
    }
}

#[test]
fn any_set_of_sectors_of_the_last_batch_may_be_unwritten() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    write(&mut wal, &[Record::Append(entry(1, 1, "kept"))]);
    let before = segment(&disk);
    let batch: Vec<Record> = (2..6)
        .map(|slot| Record::Append(entry(slot, 1, vec![0; 100 * slot as usize])))
        .collect();
    write(&mut wal, &batch);
    drop(wal);
    let after = segment(&disk);
    let changed: Vec<usize> = (0..after.len() / SECTOR)
        .filter(|sector| before[sector * SECTOR..][..SECTOR] != after[sector * SECTOR..][..SECTOR])
        .collect();
    assert!((5..12).contains(&changed.len()), "{changed:?}");
    for set in 1..1_u32 << changed.len() {
        let disk = disk.copy();
        damage(&disk, |bytes| {
            for (index, sector) in changed.iter().enumerate() {
                if set & (1 << index) != 0 {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    bytes[range.clone()].copy_from_slice(&before[range]);
                }
            }
        });
        let (wal, recovered) = open(&disk).unwrap_or_else(|error| panic!("{set:b}: {error}"));
        assert_eq!(recovered.faulty, [], "{set:b}");
        // All of the batch, when only copies of headers are missing, or nothing of it.
        assert!([1, 5].contains(&recovered.tail.len()), "{set:b}");
        assert_eq!(read_all(&wal.reader()), recovered.tail);
    }
}

#[test]
fn a_flipped_byte_anywhere_is_healed_or_leaves_a_faulty_entry_with_its_header() {
    let (disk, entries) = log_of(&[b"one", b"two", &[0; 1100]]);
    let whole = segment(&disk);
    let ranges = records(&whole);
    let (mut faulty, mut sound) = (0, 0);
    for at in 0..whole.len() {
        let change = [0x01, 0x80, 0xFF][at % 3];
        let disk = disk.copy();
        damage(&disk, |bytes| bytes[at] ^= change);
        let (wal, recovered) =
            open(&disk).unwrap_or_else(|error| panic!("byte {at}, {change:x}: {error}"));
        assert_eq!(
            (recovered.promised, recovered.accepted),
            (ballot(1), ballot(1))
        );
        assert_eq!(recovered.genesis, Some(genesis()));
        assert_eq!(recovered.last, Slot(3), "byte {at}: nothing was cut");
        for (read, entry) in read_each(&wal.reader()).into_iter().zip(&entries) {
            match read {
                Ok(read) => assert_eq!(read, *entry, "byte {at}"),
                Err(read) => {
                    assert_eq!(read, header(entry), "byte {at}");
                    assert_eq!(recovered.faulty, [read], "byte {at}");
                }
            }
        }
        let record = ranges.iter().position(|range| range.contains(&at));
        let in_body = record.is_some_and(|record| {
            let range = &ranges[record];
            record >= ranges.len() - 3 && (range.start + HEADER..range.end - 8).contains(&at)
        });
        assert_eq!(recovered.faulty.len(), usize::from(in_body), "byte {at}");
        assert_eq!(recovered.tail.len() + recovered.faulty.len(), 3);
        faulty += recovered.faulty.len();
        sound += usize::from(recovered.faulty.is_empty());
        drop(wal);
    }
    assert!(faulty > 500 && sound > 6_000, "{faulty} {sound}");
}

#[test]
fn a_damaged_header_is_healed_before_its_copy_can_go_bad_too() {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    for (record, range) in ranges.iter().enumerate() {
        let in_place = range.start + 40;
        let copy = SEGMENT_BYTES as usize - SECTOR - (record + 1) * HEADER + 40;
        for (first, second) in [(in_place, copy), (copy, in_place)] {
            let disk = disk.copy();
            for at in [first, second] {
                damage(&disk, |bytes| bytes[at] ^= 1);
                let (wal, recovered) = reopen(&disk);
                assert_eq!(recovered.faulty, []);
                assert_eq!(read_all(&wal.reader()), entries);
            }
        }
    }
}

#[test]
fn both_copies_of_the_genesis_must_be_damaged_to_lose_it() {
    let (disk, _) = log_of(&[b"one"]);
    let range = records(&segment(&disk))[1].clone();
    let flip = |disk: &MemDisk| damage(disk, |bytes| bytes[range.start + HEADER + 3] ^= 4);
    let healed = disk.copy();
    flip(&healed);
    let (_, recovered) = open(&healed).unwrap();
    assert_eq!(recovered.genesis, Some(genesis()));
    healed.damage("genesis", |bytes| bytes[SECTOR + 3] ^= 4);
    let (_, recovered) = reopen(&healed);
    assert_eq!(recovered.genesis, Some(genesis()), "the record was healed");
    flip(&disk);
    disk.damage("genesis", |bytes| bytes[SECTOR + 3] ^= 4);
    assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
}

#[test]
fn damage_is_never_taken_for_a_torn_tail_when_a_later_batch_was_written() {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    let second = ranges[ranges.len() - 2].clone();
    damage(&disk, |bytes| bytes[second.start..second.end].fill(0));
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last, Slot(3));
    assert_eq!(recovered.faulty, [header(&entries[1])]);
}

#[test]
fn damage_to_a_last_batch_is_no_torn_tail_once_a_start_was_counted_behind_it() {
    let (disk, entries) = log_of(&[b"one", b"two"]);
    let last = records(&segment(&disk)).pop().unwrap();
    reopen(&disk);
    disk.restart();
    damage(&disk, |bytes| bytes[last].fill(0));
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.faulty, [header(&entries[1])]);
}

#[test]
fn a_record_whose_both_headers_are_damaged_asks_for_a_new_incarnation() {
    let (disk, _) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    for (record, range) in ranges.iter().enumerate() {
        let disk = disk.copy();
        damage(&disk, |bytes| {
            let copy = bytes.len() - SECTOR - (record + 1) * HEADER;
            bytes[range.start + 40] ^= 1;
            bytes[copy + 40] ^= 1;
        });
        let error = open(&disk).unwrap_err();
        assert!(
            matches!(error, OpenError::LostRecords { .. }),
            "{record}: {error}"
        );
        disk.restart();
        Wal::set_aside(&disk).unwrap();
        assert_eq!(disk.set_aside_count(), 1);
        let fresh = Identity {
            incarnation: Incarnation(77),
            ..identity()
        };
        let (_, recovered) = Wal::open(Arc::new(disk), &options(), fresh.clone()).unwrap();
        assert_eq!((recovered.identity, recovered.boot), (fresh, Boot(1)));
    }
}

#[test]
fn a_record_that_vanished_without_a_trace_is_no_torn_tail_when_a_later_batch_is_there() {
    let (disk, _) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    for (record, range) in ranges.iter().enumerate().rev().skip(1) {
        let disk = disk.copy();
        damage(&disk, |bytes| {
            let copy = bytes.len() - SECTOR - (record + 1) * HEADER;
            bytes[range.clone()].fill(0);
            bytes[copy..copy + HEADER].fill(0);
        });
        let error = open(&disk).unwrap_err();
        assert!(
            matches!(error, OpenError::LostRecords { .. }),
            "{record}: {error}"
        );
    }
}

#[test]
fn sectors_that_cannot_be_read_are_damage_and_not_the_end() {
    let (disk, entries) = log_of(&[&[1; 900], &[2; 900], &[3; 900]]);
    let ranges = records(&segment(&disk));
    let middle = &ranges[ranges.len() - 2];
    disk.make_unreadable("segment-0000000000000001", middle.start + HEADER + 200);
    let (wal, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.last, Slot(3));
    assert_eq!(recovered.faulty.len() + recovered.tail.len(), 3);
    assert!(recovered.faulty.contains(&header(&entries[1])));
    let error = wal.reader().read(Slot(2), Slot(2), 1).unwrap_err();
    assert!(matches!(error, ReadError::Faulty(found) if found == header(&entries[1])));
}

#[test]
fn a_faulty_entry_is_repaired_by_a_copy_and_stays_repaired() {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    let second = ranges[ranges.len() - 2].clone();
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.faulty, []);
    write(&mut wal, &[Record::Commit(Slot(3))]);
    // It goes bad while the log is open.
    damage(&disk, |bytes| bytes[second.start + HEADER + 60] ^= 1);
    let some = wal.reader().read(Slot(1), Slot(3), u64::MAX).unwrap();
    assert_eq!(some, entries[..1], "what can be read before it");
    let error = wal.reader().read(Slot(2), Slot(3), u64::MAX).unwrap_err();
    let ReadError::Faulty(found) = error else {
        panic!("{error}");
    };
    assert_eq!(found, header(&entries[1]));
    // A copy of something else is left out.
    let forged = [
        Record::Repair(entry(2, 1, "forged")),
        Record::Repair(entry(9, 1, "x")),
    ];
    write(&mut wal, &forged);
    assert!(wal.reader().read(Slot(2), Slot(3), u64::MAX).is_err());
    drop(wal);
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.faulty, [header(&entries[1])]);
    write(&mut wal, &[Record::Repair(entries[1].clone())]);
    assert_eq!(read_all(&wal.reader()), entries);
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.faulty, []);
    assert_eq!(read_all(&wal.reader()), entries);
}

#[test]
fn a_cut_takes_faulty_entries_and_repairs_with_it() {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    reopen(&disk);
    damage(&disk, |bytes| {
        for record in &ranges[ranges.len() - 2..] {
            bytes[record.start + HEADER + 60] ^= 1;
        }
    });
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.faulty, [header(&entries[1]), header(&entries[2])]);
    write(&mut wal, &[Record::Repair(entries[1].clone())]);
    let adopt = Record::Adopt {
        ballot: ballot(2),
        from: Slot(2),
        last: Slot(1),
    };
    write(
        &mut wal,
        &[
            Record::Promise(ballot(2)),
            adopt,
            Record::Append(entry(2, 2, "other")),
        ],
    );
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.faulty, []);
    assert_eq!(recovered.last, Slot(2));
    assert_eq!(
        read_all(&wal.reader()),
        [entries[0].clone(), entry(2, 2, "other")]
    );
}

#[test]
fn a_segment_of_a_cloned_log_is_not_taken_for_its_own() {
    let (disk, _) = log_of(&[b"one"]);
    let clone = disk.copy();
    for (disk, payload) in [(&disk, 1), (&clone, 2)] {
        let (mut wal, _) = reopen(disk);
        for slot in 2..30 {
            write(
                &mut wal,
                &[Record::Append(entry(slot, 1, vec![payload; 600]))],
            );
        }
    }
    let name = "segment-0000000000000002";
    disk.put(name, clone.content(name).unwrap());
    disk.restart();
    assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
}

#[test]
fn a_damaged_copy_of_the_state_is_written_before_the_good_one() {
    for (bad, good) in [("state-a", "state-b"), ("state-b", "state-a")] {
        let (origin, _) = log_of(&[b"one"]);
        origin.damage(bad, |bytes| bytes[20] ^= 1);
        let mut first = None;
        for steps in 0..20 {
            let disk = origin.copy();
            disk.stop_after(steps);
            let _ = open(&disk);
            let changed = [bad, good].map(|name| disk.content(name) != origin.content(name));
            if changed.contains(&true) {
                first = first.or(Some(changed));
            }
        }
        assert_eq!(first, Some([true, false]), "{bad} is damaged");
    }
}

#[test]
fn a_header_that_goes_bad_while_the_log_is_open_is_read_from_its_copy() {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    let ranges = records(&segment(&disk));
    let (wal, _) = reopen(&disk);
    damage(&disk, |bytes| {
        bytes[ranges[ranges.len() - 2].start + 5] ^= 1;
    });
    assert_eq!(read_all(&wal.reader()), entries);
}

#[test]
fn a_greater_copy_of_accepted_shows_that_its_record_was_lost() {
    let (disk, _) = log_of(&[b"one"]);
    let older = disk.copy();
    let (mut wal, _) = reopen(&disk);
    write(
        &mut wal,
        &[
            Record::Promise(ballot(5)),
            Record::Adopt {
                ballot: ballot(5),
                from: Slot(2),
                last: Slot(1),
            },
        ],
    );
    drop(wal);
    for name in ["state-a", "state-b"] {
        older.put(name, disk.content(name).unwrap());
        assert!(matches!(open(&older), Err(OpenError::LostRecords { .. })));
        older.restart();
    }
}

#[test]
fn the_greater_promise_and_start_count_wherever_they_are() {
    let (disk, _) = log_of(&[b"one"]);
    let older = disk.copy();
    let (mut wal, _) = reopen(&disk);
    write(&mut wal, &[Record::Promise(ballot(5))]);
    drop(wal);
    // Only one copy of the state remembers the promise.
    older.put("state-b", disk.content("state-b").unwrap());
    older.damage("state-a", |bytes| bytes[20] ^= 1);
    let (mut wal, recovered) = open(&older).unwrap();
    assert_eq!((recovered.promised, recovered.boot), (ballot(5), Boot(3)));
    // It is in the log again, which can go on from it.
    write(
        &mut wal,
        &[Record::Adopt {
            ballot: ballot(5),
            from: Slot(2),
            last: Slot(1),
        }],
    );
    drop(wal);
    let (_, recovered) = reopen(&older);
    assert_eq!(recovered.accepted, ballot(5));
    // No copy at all: the log alone knows.
    for name in ["state-a", "state-b"] {
        disk.damage(name, |bytes| bytes[20] ^= 1);
    }
    let (_, recovered) = reopen(&disk);
    assert_eq!((recovered.promised, recovered.boot), (ballot(5), Boot(3)));
}

#[test]
fn missing_files_are_noticed() {
    use synod_wal::Disk as _;
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    for slot in 1..60 {
        write(&mut wal, &[Record::Append(entry(slot, 1, vec![1; 400]))]);
    }
    drop(wal);
    let segments = disk
        .names()
        .iter()
        .filter(|name| name.starts_with("segment"))
        .count() as u64;
    assert!(segments > 3);
    for missing in 1..=segments {
        let disk = disk.copy();
        disk.remove(&format!("segment-{missing:016x}")).unwrap();
        assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
    }
    for missing in 1..=segments {
        disk.remove(&format!("segment-{missing:016x}")).unwrap();
    }
    disk.restart();
    assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
}

#[test]
fn the_last_segment_is_missed_after_a_start_too() {
    use synod_wal::Disk as _;
    let (disk, _) = log_of(&[&[1; 3_000], &[2; 3_000]]);
    reopen(&disk);
    disk.restart();
    disk.remove("segment-0000000000000002").unwrap();
    for damaged in ["none", "state-a"] {
        disk.damage(damaged, |bytes| bytes[20] ^= 1);
        assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
        disk.restart();
    }
}

#[test]
fn a_copy_of_the_state_that_was_cut_short_is_made_anew() {
    for name in ["state-a", "state-b"] {
        let (disk, entries) = log_of(&[b"one"]);
        disk.put(name, vec![0; 100]);
        for _ in 0..2 {
            let (_, recovered) = reopen(&disk);
            assert_eq!(recovered.tail, entries);
        }
        assert_eq!(disk.content(name).unwrap().len(), 4096);
    }
}

#[test]
fn a_spare_that_is_not_blank_is_not_used() {
    for at in [0, 3_000, SEGMENT_BYTES as usize - 1] {
        let (disk, entries) = log_of(&[b"one"]);
        let (mut wal, _) = reopen(&disk);
        let maker = wal.spare_wanted().unwrap();
        wal.spare_made(maker.make());
        drop(wal);
        disk.damage("spare-0000000000000001", |bytes| bytes[at] = 1);
        let (mut wal, _) = reopen(&disk);
        let next = entry(2, 1, vec![2; 6_000]);
        write(&mut wal, &[Record::Append(next.clone())]);
        drop(wal);
        let (wal, recovered) = reopen(&disk);
        assert_eq!(recovered.faulty, []);
        assert_eq!(read_all(&wal.reader()), [entries[0].clone(), next]);
    }
}

#[test]
fn both_copies_of_the_beginning_are_there_again_after_a_start() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    for slot in 1..20 {
        write(&mut wal, &[Record::Append(entry(slot, 1, vec![1; 900]))]);
    }
    write(&mut wal, &[Record::Commit(Slot(19))]);
    write(&mut wal, &[Record::Compact(base(19, ballot(1)))]);
    drop(wal);
    for damaged in ["start-a", "start-b", "start-a"] {
        disk.damage(damaged, |bytes| bytes[600] ^= 1);
        let (_, recovered) = reopen(&disk);
        assert_eq!(recovered.base, Some(base(19, ballot(1))));
    }
}

#[test]
fn a_segment_that_has_grown_is_refused_before_room_is_made_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let disk = FileDisk::new(folder.path().join("log")).unwrap();
        Wal::open(Arc::new(disk), &options(), identity())
    };
    let (mut wal, _) = open().unwrap();
    write(&mut wal, &beginning());
    drop(wal);
    let file = folder.path().join("log/segment-0000000000000001");
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    for bytes in [SEGMENT_BYTES + 512, 3 << 30, 5 << 30] {
        file.set_len(bytes).unwrap();
        assert!(matches!(open(), Err(OpenError::LostRecords { .. })));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.and_then(|most| most.trim().strip_suffix(" kB"));
    let most: u64 = most.unwrap().parse().unwrap();
    assert!(most < 1 << 20, "{most} KiB of memory");
}
