//! Epochs on disk: entering one is there whole or not at all, and what was learnt is read as ever.

mod common;

use common::{
    HEADER, ballot, base, beginning, configuration, damage, entry, genesis, log_of, open, read_all,
    records, reopen, segment, write,
};
use synod_paxos::{CommandKind, Entry, Record, Slot};
use synod_wal::OpenError;
use synod_wal::testing::MemDisk;

fn enter(slot: u64, epoch: u64) -> Record {
    Record::Enter {
        slot: Slot(slot),
        configuration: configuration(epoch),
    }
}

/// Three entries.
fn before() -> (MemDisk, Vec<Entry>) {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    reopen(&disk);
    (disk, entries)
}

/// The last of which ends the epoch.
fn ended() -> (MemDisk, Vec<Entry>) {
    let (disk, entries) = log_of(&[b"one", b"two", b"three"]);
    let (mut wal, _) = reopen(&disk);
    write(&mut wal, &[enter(3, 2)]);
    (disk, entries)
}

#[test]
fn m1_an_epoch_that_was_entered_is_found_with_its_members_and_its_ballot() {
    let (disk, entries) = ended();
    let first = configuration(2).first_ballot();
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!((recovered.promised, recovered.accepted), (first, first));
    assert_eq!(recovered.changes, [(Slot(3), configuration(2))]);
    assert_eq!((recovered.commit, recovered.last), (Slot(3), Slot(3)));
    assert_eq!(read_all(&wal.reader()), entries);
    let mut next = entry(4, 0, "four");
    next.ballot = first;
    write(&mut wal, &[Record::Append(next.clone()), enter(4, 3)]);
    drop(wal);
    let (wal, recovered) = reopen(&disk);
    let changes = [(Slot(3), configuration(2)), (Slot(4), configuration(3))];
    assert_eq!(recovered.changes, changes);
    assert_eq!(read_all(&wal.reader()).last(), Some(&next));
}

#[test]
fn m1_a_torn_entry_into_an_epoch_is_none_and_a_damaged_one_is_healed() {
    let (disk, _) = ended();
    let whole = segment(&disk);
    let range = records(&whole).pop().expect("the entry into the epoch");
    for at in range.clone() {
        let torn = disk.copy();
        for name in ["state-a", "state-b"] {
            torn.put(name, before().0.content(name).unwrap());
        }
        // The rest was never written, nor the copy of the header.
        damage(&torn, |bytes| {
            bytes[at..range.end].fill(0);
            let copies = bytes.len() - 512 - records(&whole).len() * HEADER;
            bytes[copies..copies + HEADER].fill(0);
        });
        let (_, recovered) = open(&torn).unwrap_or_else(|error| panic!("byte {at}: {error}"));
        // Nothing is lost when only the mark is missing.
        let entered = at >= range.end - 8;
        assert_eq!(!recovered.changes.is_empty(), entered, "byte {at}");
        assert_eq!(recovered.promised > ballot(1), entered, "byte {at}");
        assert_eq!(recovered.last, Slot(3));
        let flipped = disk.copy();
        damage(&flipped, |bytes| bytes[at] ^= 0x40);
        for _ in 0..2 {
            let (_, recovered) = reopen(&flipped);
            assert_eq!(recovered.changes, [(Slot(3), configuration(2))]);
            assert_eq!(recovered.promised, configuration(2).first_ballot());
        }
        assert_eq!(segment(&flipped)[at], whole[at], "byte {at} was healed");
    }
}

#[test]
fn both_copies_of_the_members_must_be_damaged_to_lose_them() {
    let (disk, _) = ended();
    let range = records(&segment(&disk)).pop().unwrap();
    let body = range.start + HEADER..range.end - 8;
    damage(&disk, |bytes| {
        bytes[body.start + 30] ^= 1;
        bytes[body.end - 20] ^= 1;
    });
    assert!(matches!(open(&disk), Err(OpenError::LostRecords { .. })));
}

#[test]
fn m6_what_is_learnt_takes_the_place_of_what_the_log_held_and_is_chosen() {
    let (disk, mut entries) = log_of(&[b"one", b"two", b"three", b"four"]);
    let (mut wal, _) = reopen(&disk);
    write(&mut wal, &[Record::Commit(Slot(1))]);
    let learnt: Vec<Entry> = (2..=3).map(|slot| entry(slot, 6, "learnt")).collect();
    let records: Vec<Record> = learnt.iter().cloned().map(Record::Learn).collect();
    write(&mut wal, &records);
    entries.truncate(1);
    entries.extend(learnt);
    assert_eq!(read_all(&wal.reader()), entries);
    entries.push(entry(4, 1, "again in the ballot accepted"));
    write(&mut wal, &[Record::Append(entries[3].clone())]);
    for _ in 0..2 {
        assert_eq!(read_all(&wal.reader()), entries);
        drop(wal);
        let (again, recovered) = reopen(&disk);
        assert_eq!((recovered.commit, recovered.last), (Slot(3), Slot(4)));
        assert_eq!(recovered.accepted, ballot(1));
        assert_eq!(recovered.kept, (ballot(1), Slot(4)), "it had more");
        let runs = [
            (Slot(1), ballot(1)),
            (Slot(2), ballot(6)),
            (Slot(4), ballot(1)),
        ];
        assert_eq!(recovered.runs, runs);
        wal = again;
    }
}

#[test]
fn m6_a_stop_sign_that_was_learnt_but_not_entered_is_told_at_the_next_start() {
    let (disk, _) = log_of(&[b"one"]);
    let (mut wal, _) = reopen(&disk);
    let mut stop = entry(2, 6, "a stop-sign");
    stop.command.kind = CommandKind::RECONFIGURE;
    write(&mut wal, &[Record::Learn(stop.clone())]);
    drop(wal);
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.ended_by, Some(stop));
    write(&mut wal, &[Record::Learn(entry(3, 6, "no stop-sign"))]);
    drop(wal);
    assert_eq!(reopen(&disk).1.ended_by, None);
}

#[test]
fn m5_whom_to_ask_is_kept_until_that_epoch_is_entered_however_short_the_log_becomes() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(
        &mut wal,
        &[Record::Genesis(genesis()), Record::Join(configuration(3))],
    );
    drop(wal);
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.joining, Some(configuration(3)));
    assert_eq!(recovered.genesis, Some(genesis()));
    for slot in 1..=40 {
        write(&mut wal, &[Record::Learn(entry(slot, 1, vec![9; 900]))]);
    }
    write(&mut wal, &[Record::Compact(base(39, ballot(1)))]);
    assert!(disk.content("segment-0000000000000001").is_none(), "gone");
    drop(wal);
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.joining, Some(configuration(3)));
    write(&mut wal, &[enter(40, 2)]);
    drop(wal);
    let (mut wal, recovered) = reopen(&disk);
    assert_eq!(recovered.joining, Some(configuration(3)));
    assert_eq!(recovered.changes, [(Slot(40), configuration(2))]);
    let mut last = entry(41, 0, "stop");
    last.ballot = configuration(2).first_ballot();
    write(&mut wal, &[Record::Append(last), enter(41, 3)]);
    drop(wal);
    assert_eq!(reopen(&disk).1.joining, None);
}

#[test]
#[should_panic(expected = "cannot follow the earlier ones")]
fn i1_an_entry_that_would_lower_the_promise_is_a_broken_invariant() {
    let (disk, _) = ended();
    let (mut wal, _) = reopen(&disk);
    let _ = wal.append(&[enter(3, 2)]);
}

#[test]
#[should_panic(expected = "cannot follow the earlier ones")]
fn i5_learning_over_what_is_chosen_is_a_broken_invariant() {
    let (disk, _) = ended();
    let (mut wal, _) = reopen(&disk);
    let _ = wal.append(&[Record::Learn(entry(3, 5, "other"))]);
}

#[test]
fn the_beginning_of_a_log_says_nothing_of_members() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    drop(wal);
    let (_, recovered) = reopen(&disk);
    assert_eq!((recovered.joining, recovered.changes), (None, Vec::new()));
}
