//! Disks that fail, fill up or stop at any step: nothing that was acknowledged is lost.

mod common;

use std::sync::Arc;

use common::{
    Dice, SEGMENT_BYTES, ballot, base, beginning, configuration, entry, identity, open, options,
    read_all, reopen, write,
};
use synod_paxos::{Ballot, Base, Boot, Configuration, Entry, Record, Slot};
use synod_wal::testing::{MemDisk, Survival};
use synod_wal::{AppendError, Disk as _, OpenError, Options, Wal};

/// What a member may rely on.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    promised: Ballot,
    accepted: Ballot,
    base: Option<Base>,
    changes: Vec<(Slot, Configuration)>,
    last: Slot,
    entries: Vec<Entry>,
}

fn found(disk: &MemDisk) -> (Boot, Found) {
    let (wal, recovered) = open(disk).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(recovered.faulty, []);
    let found = Found {
        promised: recovered.promised,
        accepted: recovered.accepted,
        base: recovered.base.clone(),
        changes: recovered.changes.clone(),
        last: recovered.last,
        entries: read_all(&wal.reader()),
    };
    (recovered.boot, found)
}

/// Groups of records that a member writes, each with one sync, over several segments.
fn script() -> Vec<Vec<Record>> {
    let append = |slots: std::ops::RangeInclusive<u64>, round: u64, bytes: usize| {
        slots
            .map(|slot| Record::Append(entry(slot, round, vec![slot as u8; bytes])))
            .collect()
    };
    let stage = |slot| Record::Stage {
        ballot: ballot(4),
        entry: entry(slot, 2, vec![0xEE; 300]),
    };
    let adopt = Record::Adopt {
        ballot: ballot(4),
        from: Slot(12),
        last: Slot(15),
    };
    vec![
        beginning(),
        append(1..=3, 1, 100),
        append(4..=8, 1, 900),
        vec![Record::Commit(Slot(6))],
        append(9..=20, 1, 700),
        vec![Record::Promise(ballot(4)), stage(11), stage(12), stage(13)],
        vec![
            stage(14),
            stage(15),
            adopt,
            Record::Append(entry(16, 4, "after")),
        ],
        append(17..=24, 4, 1500),
        // Segments go: some, then all but the last.
        vec![Record::Compact(base(14, ballot(2)))],
        append(25..=27, 4, 900),
        vec![Record::Install(base(40, ballot(3)))],
        append(41..=45, 4, 900),
        vec![
            Record::Commit(Slot(45)),
            Record::Compact(base(45, ballot(4))),
        ],
        append(46..=47, 4, 100),
        // An epoch ends with a log that others had.
        vec![
            Record::Learn(entry(46, 7, vec![46; 800])),
            Record::Learn(entry(47, 7, "the last")),
            Record::Enter {
                slot: Slot(47),
                configuration: configuration(2),
            },
        ],
        (48..=52)
            .map(|slot| {
                let mut entry = entry(slot, 0, vec![slot as u8; 900]);
                entry.ballot = configuration(2).first_ballot();
                Record::Append(entry)
            })
            .collect(),
    ]
}

/// Runs the script until the disk stops; how many groups were acknowledged.
fn run(disk: &MemDisk) -> usize {
    let Ok((mut wal, _)) = open(disk) else {
        return 0;
    };
    for (group, records) in script().iter().enumerate() {
        if wal.append(records).is_err() || wal.sync().is_err() {
            return group;
        }
    }
    script().len()
}

/// What is there after each group, and after each part of one.
fn expected() -> Vec<Vec<Found>> {
    let mut log = Found {
        promised: Ballot::default(),
        accepted: Ballot::default(),
        base: None,
        changes: Vec::new(),
        last: Slot(0),
        entries: Vec::new(),
    };
    let mut staged = Vec::new();
    let mut states = vec![vec![log.clone()]];
    for group in script() {
        let mut parts = vec![log.clone()];
        for record in group {
            match record {
                Record::Genesis(_) => {
                    log.promised = ballot(0);
                    log.accepted = ballot(0);
                }
                Record::Promise(ballot) => log.promised = ballot,
                Record::Append(entry) => {
                    log.last = entry.slot;
                    log.entries.push(entry);
                }
                Record::Stage { entry, .. } => staged.push(entry),
                Record::Adopt { ballot, from, last } => {
                    log.accepted = ballot;
                    log.last = last;
                    log.entries.retain(|entry| entry.slot < from);
                    let range = from..=last;
                    log.entries
                        .extend(staged.drain(..).filter(|entry| range.contains(&entry.slot)));
                }
                Record::Compact(base) => {
                    log.entries.retain(|entry| entry.slot > base.slot);
                    log.base = Some(base);
                }
                Record::Install(base) => {
                    log.entries.clear();
                    log.last = base.slot;
                    log.base = Some(base);
                }
                Record::Learn(entry) => {
                    log.entries.retain(|it| it.slot < entry.slot);
                    log.last = entry.slot;
                    log.entries.push(entry);
                }
                Record::Enter {
                    slot,
                    configuration,
                } => {
                    let ballot = configuration.first_ballot();
                    (log.promised, log.accepted) = (ballot, ballot);
                    log.changes.push((slot, configuration));
                }
                Record::Commit(_)
                | Record::Repair(_)
                | Record::Protocol { .. }
                | Record::Join(_) => {}
            }
            parts.push(log.clone());
        }
        states.push(parts);
    }
    states
}

fn survivals(seed: u64) -> impl FnMut() -> Survival {
    let mut dice = Dice(seed);
    move || match (seed, dice.roll(2)) {
        (0, _) => Survival::Lost,
        (1, _) | (_, 1) => Survival::Kept,
        _ => Survival::Lost,
    }
}

#[test]
fn a_machine_that_stops_at_any_step_loses_nothing_acknowledged() {
    let states = expected();
    let mut steps = 0;
    let mut stopped_in_segment_switch = false;
    loop {
        let mut finished = false;
        for seed in 0..8 {
            let disk = MemDisk::new();
            disk.stop_after(steps);
            let acknowledged = run(&disk);
            finished = !disk.is_stopped();
            let boot_before = disk.content("state-a").is_some();
            stopped_in_segment_switch |= disk.names().iter().any(|name| name.starts_with("spare"));
            disk.crash(survivals(seed), |changes| {
                Dice(seed + 9).roll(changes as u64 + 1) as usize
            });
            let (boot, found) = found(&disk);
            let may_be_there = states.get(acknowledged + 1).into_iter().flatten();
            let must_be_there = states[acknowledged].last();
            assert!(
                may_be_there
                    .chain(must_be_there)
                    .any(|state| *state == found),
                "stopped after {steps} steps, {acknowledged} acknowledged, seed {seed}: {found:?}"
            );
            assert!(boot >= Boot(1) && (boot <= Boot(2) || !boot_before));
            // It is a log like any other afterwards.
            let again = reopen(&disk);
            assert_eq!(read_all(&again.0.reader()), found.entries);
        }
        if finished {
            break;
        }
        steps += 1;
    }
    assert!(steps > 60, "{steps} steps");
    assert!(stopped_in_segment_switch);
}

#[test]
fn a_start_that_is_cut_short_at_any_step_changes_nothing_but_the_count() {
    let origin = MemDisk::new();
    assert_eq!(run(&origin), script().len());
    let states = expected();
    let all = states.last().and_then(|parts| parts.last()).unwrap();
    let mut boots = Vec::new();
    for steps in 0.. {
        let mut finished = false;
        for seed in 0..6 {
            let disk = origin.copy();
            disk.stop_after(steps);
            let opened = open(&disk).is_ok();
            finished = !disk.is_stopped();
            disk.crash(survivals(seed), |changes| changes);
            let (boot, found) = found(&disk);
            assert_eq!(found, *all, "stopped after {steps} steps, seed {seed}");
            assert!(
                boot > Boot(1 + u64::from(opened)),
                "a start that returned was counted"
            );
            boots.push(boot);
        }
        if finished {
            break;
        }
    }
    assert!(boots.contains(&Boot(2)) && boots.contains(&Boot(3)));
}

#[test]
fn a_promise_is_found_after_any_damage_to_what_was_written_with_it() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    let before = disk.content("segment-0000000000000001").unwrap();
    write(&mut wal, &[Record::Promise(ballot(9))]);
    drop(wal);
    // The whole batch vanishes from the log, as if the disk had lied about the sync.
    disk.damage("segment-0000000000000001", |bytes| {
        bytes.copy_from_slice(&before);
    });
    let (_, recovered) = reopen(&disk);
    assert_eq!(recovered.promised, ballot(9));
}

#[test]
fn a_failed_sync_is_final_and_the_next_start_writes_the_last_batch_again() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    write(&mut wal, &beginning());
    // Larger than the sectors that it shares with what the next start writes.
    let large = entry(1, 1, vec![1; 3_000]);
    wal.append(&[Record::Append(large.clone())]).unwrap();
    disk.fail_sync_after(0);
    assert!(wal.sync().is_err());
    assert!(wal.sync().is_err(), "no second try");
    let error = wal.append(&[Record::Commit(Slot(0))]).unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)));
    assert_eq!(wal.reader().range().1, Slot(0), "it was never shown");
    drop(wal);
    // The process ends, the machine goes on: the batch reads back well but is on no disk.
    let (wal, recovered) = reopen(&disk);
    assert_eq!(recovered.tail, std::slice::from_ref(&large));
    drop(wal);
    disk.crash(|| Survival::Lost, |changes| changes);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(
        recovered.tail,
        [large],
        "it was written again before it counted"
    );
}

#[test]
fn a_sync_that_fails_while_the_state_is_copied_is_final_too() {
    for syncs in 1..3 {
        let disk = MemDisk::new();
        let (mut wal, _) = open(&disk).unwrap();
        write(&mut wal, &beginning());
        wal.append(&[Record::Promise(ballot(3))]).unwrap();
        disk.fail_sync_after(syncs);
        assert!(wal.sync().is_err());
        assert!(wal.sync().is_err());
    }
}

#[test]
fn a_full_disk_refuses_entries_but_takes_promises_and_loses_nothing() {
    for by_limit in [true, false] {
        let disk = MemDisk::new();
        let limits = Options {
            max_bytes: if by_limit { 4 * SEGMENT_BYTES } else { 1 << 30 },
            ..options()
        };
        if !by_limit {
            disk.set_capacity(Some(4 * SEGMENT_BYTES + 3 * 4096));
        }
        let open = || Wal::open(Arc::new(disk.clone()), &limits, identity());
        let (mut wal, _) = open().unwrap();
        write(&mut wal, &beginning());
        let mut entries = Vec::new();
        let full = loop {
            let next = entry(entries.len() as u64 + 1, 1, vec![7; 333]);
            match wal.append(&[Record::Append(next.clone())]) {
                Ok(_) => entries.push(next),
                Err(error) => break error,
            }
            wal.sync().unwrap();
        };
        assert!(matches!(full, AppendError::Full { taken: 0 }), "{full}");
        assert!(wal.is_full());
        assert_eq!(wal.bytes(), 4 * SEGMENT_BYTES);
        assert!(entries.len() > 20);
        // A commit and a dozen elections still fit, and starts too.
        write(&mut wal, &[Record::Commit(Slot(5))]);
        for round in 2..8 {
            write(&mut wal, &[Record::Promise(ballot(round))]);
        }
        drop(wal);
        let (mut wal, recovered) = open().unwrap();
        assert_eq!(recovered.promised, ballot(7));
        assert_eq!(read_all(&wal.reader()), entries);
        let next = Record::Append(entry(entries.len() as u64 + 1, 1, vec![7; 333]));
        assert!(wal.append(std::slice::from_ref(&next)).is_err());
        // There is space again: no restart is needed.
        if by_limit {
            drop(wal);
            let larger = Options {
                max_bytes: 1 << 30,
                ..limits
            };
            wal = Wal::open(Arc::new(disk.clone()), &larger, identity())
                .unwrap()
                .0;
        } else {
            disk.set_capacity(None);
        }
        write(&mut wal, &[next]);
        assert!(!wal.is_full());
        assert_eq!(wal.reader().range().1, Slot(entries.len() as u64 + 1));
    }
}

#[test]
fn a_segment_made_ahead_of_time_warns_before_entries_are_refused() {
    let disk = MemDisk::new();
    let limits = Options {
        max_bytes: 2 * SEGMENT_BYTES,
        ..options()
    };
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), &limits, identity()).unwrap();
    write(&mut wal, &beginning());
    let mut taken_when_full = 0;
    for slot in 1.. {
        if let Some(maker) = wal.spare_wanted() {
            let spare = maker.make();
            wal.spare_made(spare);
        }
        if wal
            .append(&[Record::Append(entry(slot, 1, vec![1; 200]))])
            .is_err()
        {
            break;
        }
        wal.sync().unwrap();
        taken_when_full += u64::from(wal.is_full());
    }
    assert!(
        taken_when_full > 6,
        "room for what is under way: {taken_when_full}"
    );
}

#[test]
fn a_disk_too_small_for_a_log_says_so_and_works_once_it_is_larger() {
    let disk = MemDisk::new();
    disk.set_capacity(Some(SEGMENT_BYTES));
    assert!(matches!(open(&disk), Err(OpenError::Full)));
    disk.set_capacity(None);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.boot, Boot(1));
}

#[test]
fn one_sync_covers_all_that_was_taken_before_it() {
    let disk = MemDisk::new();
    let large = Options::new(1 << 20, 1 << 30);
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), &large, identity()).unwrap();
    write(&mut wal, &beginning());
    let (syncs, writes) = disk.counts();
    for slot in 1..=1_000 {
        wal.append(&[Record::Append(entry(slot, 1, "x"))]).unwrap();
    }
    wal.sync().unwrap();
    wal.sync().unwrap();
    assert_eq!(
        disk.counts(),
        (syncs + 1, writes + 2),
        "one write each for records and copies"
    );
    assert_eq!(wal.reader().range().1, Slot(1_000));
}

#[test]
fn unfinished_segments_of_an_earlier_start_are_used_or_removed() {
    let disk = MemDisk::new();
    let (wal, _) = open(&disk).unwrap();
    drop(wal);
    disk.create("spare-0000000000000007", 4096).unwrap();
    disk.create("spare-0000000000000008", SEGMENT_BYTES)
        .unwrap();
    let (mut wal, _) = reopen(&disk);
    assert!(wal.spare_wanted().is_none(), "there is one");
    assert_eq!(wal.bytes(), 2 * SEGMENT_BYTES);
    let spares = || {
        disk.names()
            .into_iter()
            .filter(|name| name.starts_with("spare"))
            .count()
    };
    assert_eq!(spares(), 1);
    write(&mut wal, &beginning());
    for slot in 1..=12 {
        write(&mut wal, &[Record::Append(entry(slot, 1, vec![1; 300]))]);
    }
    assert_eq!(spares(), 0);
}
