//! The writing thread, on a real file system and on one that fails.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::mpsc;

use common::{ballot, beginning, entry, identity, open, read_all, reopen};
use synod_paxos::{Entry, Record, Slot};
use synod_wal::testing::MemDisk;
use synod_wal::{Disk, FileDisk, LogWriter, OpenError, Options, SyncError, Wal};

/// A writer, what it reports as synced, and what ends it.
fn spawn(wal: Wal) -> (LogWriter, mpsc::Receiver<u64>, mpsc::Receiver<SyncError>) {
    let (synced, on_synced) = mpsc::channel();
    let (fatal, on_fatal) = mpsc::channel();
    let writer = LogWriter::spawn(
        wal,
        move |io| {
            let _ = synced.send(io);
        },
        move |error| {
            let _ = fatal.send(error);
        },
    );
    (writer.unwrap(), on_synced, on_fatal)
}

fn wait_for(synced: &mpsc::Receiver<u64>, io: u64) {
    let mut last = 0;
    while last < io {
        let next = synced.recv().expect("the writer lives");
        assert!(next > last, "reported in order");
        last = next;
    }
}

#[test]
fn writes_to_a_real_directory_are_found_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("data").join("log");
    let disk = || -> Arc<dyn Disk> { Arc::new(FileDisk::new(&directory).unwrap()) };
    let small = Options::new(64 << 10, 4 << 20);
    let (wal, _) = Wal::open(disk(), &small, identity()).unwrap();
    let error = Wal::open(disk(), &small, identity()).unwrap_err();
    let holder = std::process::id();
    assert!(
        matches!(error, OpenError::InUse { pid: Some(pid) } if pid == holder),
        "{error}"
    );

    let (writer, synced, fatal) = spawn(wal);
    writer.write(1, beginning());
    let entries: Vec<Entry> = (1..=1_000)
        .map(|slot| entry(slot, 1, vec![slot as u8; 300]))
        .collect();
    for (io, entry) in (2..).zip(&entries) {
        writer.write(io, vec![Record::Append(entry.clone())]);
    }
    wait_for(&synced, 1_001);
    assert_eq!(read_all(&writer.reader()), entries);
    assert!(writer.bytes() > 512 << 10 && !writer.is_full());
    writer.write(1_002, vec![Record::Commit(Slot(900))]);
    wait_for(&synced, 1_002);
    drop(writer);
    assert!(fatal.try_recv().is_err());

    for entry in std::fs::read_dir(&directory).unwrap() {
        let mode = entry.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let mode = std::fs::metadata(&directory).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);

    let (wal, recovered) = Wal::open(disk(), &small, identity()).unwrap();
    assert_eq!((recovered.last, recovered.commit), (Slot(1_000), Slot(900)));
    assert_eq!(read_all(&wal.reader()), entries);
    drop(wal);

    let name = Wal::set_aside(disk().as_ref()).unwrap();
    assert_eq!(name, "log.set-aside-1");
    assert!(
        folder
            .path()
            .join("data")
            .join(name)
            .join("state-a")
            .exists()
    );
    let (wal, recovered) = Wal::open(disk(), &small, identity()).unwrap();
    assert_eq!(recovered.last, Slot(0));
    drop(wal);
    assert_eq!(Wal::set_aside(disk().as_ref()).unwrap(), "log.set-aside-2");
}

#[test]
fn writes_that_wait_share_a_sync() {
    let disk = MemDisk::new();
    let large = Options::new(4 << 20, 1 << 30);
    let (wal, _) = Wal::open(Arc::new(disk.clone()), &large, identity()).unwrap();
    let (syncs_before, _) = disk.counts();
    let (entered, on_entered) = mpsc::channel();
    let (release, on_release) = mpsc::channel::<()>();
    let mut first = true;
    let writer = LogWriter::spawn(
        wal,
        move |io| {
            let _ = entered.send(io);
            if std::mem::take(&mut first) {
                // All other writes queue while this one is being reported.
                let _ = on_release.recv();
            }
        },
        |error| panic!("{error}"),
    )
    .unwrap();
    writer.write(1, beginning());
    assert_eq!(on_entered.recv(), Ok(1));
    let (syncs, _) = disk.counts();
    assert!(syncs > syncs_before);
    for io in 2..500 {
        writer.write(io, vec![Record::Append(entry(io - 1, 1, "x"))]);
    }
    release.send(()).unwrap();
    assert_eq!(on_entered.recv(), Ok(499), "one report for all of them");
    assert_eq!(disk.counts().0, syncs + 1, "and one sync");
}

#[test]
fn a_write_of_commits_alone_costs_no_sync_and_is_kept_at_the_end() {
    let disk = MemDisk::new();
    let (wal, _) = open(&disk).unwrap();
    let (writer, synced, _fatal) = spawn(wal);
    writer.write(1, beginning());
    writer.write(2, vec![Record::Append(entry(1, 1, "x"))]);
    wait_for(&synced, 2);
    let (syncs, _) = disk.counts();
    writer.write(3, vec![Record::Commit(Slot(1))]);
    assert_eq!(synced.recv(), Ok(3));
    assert_eq!(disk.counts().0, syncs);
    drop(writer);
    assert_eq!(reopen(&disk).1.commit, Slot(1));
}

#[test]
fn a_failed_sync_is_told_once_and_nothing_is_reported_afterwards() {
    let disk = MemDisk::new();
    let (wal, _) = open(&disk).unwrap();
    let (writer, synced, fatal) = spawn(wal);
    writer.write(1, beginning());
    wait_for(&synced, 1);
    disk.fail_sync_after(0);
    writer.write(2, vec![Record::Promise(ballot(3))]);
    writer.write(3, vec![Record::Promise(ballot(4))]);
    fatal.recv().expect("the caller is told to end the process");
    assert!(synced.recv().is_err(), "the thread has ended");
    writer.write(4, vec![Record::Promise(ballot(5))]);
    assert!(fatal.recv().is_err());
}

/// Bytes of all segments, the one in reserve counted.
fn segments_in(disk: &MemDisk) -> u64 {
    let is_segment = |name: &&String| name.starts_with("segment-") || name.starts_with("spare-");
    disk.names().iter().filter(is_segment).count() as u64 * common::SEGMENT_BYTES
}

/// How many segments were tried to be made, as the name of the one in reserve says.
fn spare_number(disk: &MemDisk) -> Option<u64> {
    let names = disk.names();
    let number = names.iter().find_map(|name| name.strip_prefix("spare-"))?;
    u64::from_str_radix(number, 16).ok()
}

#[test]
fn entries_wait_for_space_in_their_order_and_the_warning_comes_before() {
    let disk = MemDisk::new();
    let (wal, _) = open(&disk).unwrap();
    // The state, the genesis, and three segments.
    disk.set_capacity(Some(4 * common::SEGMENT_BYTES + 1024));
    let (writer, synced, _fatal) = spawn(wal);
    writer.write(1, beginning());
    wait_for(&synced, 1);
    // The warning comes while there is still room.
    let (mut io, mut slot) = (1, 0);
    while !writer.is_full() {
        io += 1;
        slot += 1;
        writer.write(io, vec![Record::Append(entry(slot, 1, vec![3; 200]))]);
        assert_eq!(synced.recv(), Ok(io));
        assert!(io < 100, "the disk is full at some time");
        // The next segment was made, or refused, before this one is full.
        while !writer.is_full() && writer.bytes() != segments_in(&disk) {
            std::thread::yield_now();
        }
    }
    // A full disk is not asked for a segment at each write.
    for _ in 0..2_000 {
        io += 1;
        writer.write(io, vec![Record::Commit(Slot(1))]);
        assert_eq!(synced.recv(), Ok(io));
    }
    let warned_at = io;
    // Whoever does not listen fills the rest, then waits.
    for next in io + 1..io + 60 {
        slot += 1;
        writer.write(next, vec![Record::Append(entry(slot, 1, vec![3; 200]))]);
    }
    writer.write(io + 60, vec![Record::Promise(ballot(2))]);
    assert!(synced.recv().unwrap() > warned_at, "some still fit");
    disk.set_capacity(None);
    let mut last = 0;
    while last < io + 60 {
        last = synced.recv().unwrap();
    }
    let tries = loop {
        match spare_number(&disk) {
            Some(number) => break number,
            None => std::thread::yield_now(),
        }
    };
    drop(writer);
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.promised, ballot(2));
    assert_eq!(read_all(&wal.reader()).len() as u64, slot);
    assert!(tries < 100, "{tries} tries to make a segment");
}
