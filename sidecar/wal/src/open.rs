//! A start: make or recover the log, count the start, and only then say what was found.

use std::io;
use std::sync::Arc;

use synod_failpoint::{Point, check, hit};
use synod_mutant::{Mutant, planted};
use synod_paxos::{
    AgreedTime, Ballot, Boot, CommandKind, Entry, Epoch, Header, Identity, Record, Recovered, Slot,
};

use crate::disk::{Disk, LockError};
use crate::draft::Draft;
use crate::error::{OpenError, ReadError};
use crate::format::{Kind, VERSION_1};
use crate::opening::{Opening, Start};
use crate::options::Options;
use crate::outline::GENESIS_BALLOT;
use crate::page::{MAX_NAME_BYTES, SegmentPage};
use crate::reader::LogReader;
use crate::recover::{self, Recovery, first_predecessor};
use crate::segment::{self, Segment};
use crate::shared::Shared;
use crate::spare::Spares;
use crate::state::LogState;
use crate::superblock::{Superblock, Superblocks};
use crate::wal::{Pending, Wal, is_full};

/// Read at once when the tail is read.
const TAIL_READ_BYTES: u64 = 1 << 20;

pub(crate) fn open(
    disk: Arc<dyn Disk>,
    options: &Options,
    new: Identity,
) -> Result<(Wal, Recovered), OpenError> {
    options.check()?;
    if new.name.len() > MAX_NAME_BYTES {
        return Err(OpenError::BadOption {
            option: "name",
            must: format!("must be at most {MAX_NAME_BYTES} bytes"),
        });
    }
    let lock = disk.lock().map_err(|error| match error {
        LockError::Held { pid } => OpenError::InUse { pid },
        LockError::Io(error) => OpenError::io("locking the log")(error),
    })?;
    hit(Point::RecoveryLocked);
    let list = || disk.list().map_err(OpenError::io("listing the log"));
    let found = find_state(disk.as_ref(), &list()?, &new.name)?;
    if numbers(&list()?).is_empty() {
        make(&disk, options, found.as_ref(), &new)?;
    }
    let names = list()?;
    let identity = found.as_ref().map(|found| &found.identity);
    let start = Start::find(disk.as_ref());
    let first = start.as_ref().map_or(0, |start| start.segment);
    let (unneeded, needed): (Vec<u64>, Vec<u64>) =
        numbers(&names).into_iter().partition(|it| *it < first);
    if needed.is_empty() {
        return Err(OpenError::lost(format!("segment {first} is missing")));
    }
    let mut recovery =
        recover::recover(disk.as_ref(), &needed, start.as_ref(), identity, &new.name)?;
    let lost_promise = merge(&mut recovery.state, found.as_ref())?;
    check(Point::RecoveryRead)
        .and_then(|()| recover::write(&recovery))
        .map_err(OpenError::io("writing the end of the log again"))?;
    hit(Point::RecoveryRewritten);

    let healed = start
        .as_ref()
        .map_or(Ok(()), |start| start.heal(disk.as_ref()));
    match healed {
        // Without them both copies of the beginning are needed.
        Ok(()) => segment::remove(disk.as_ref(), &unneeded)
            .map_err(OpenError::io("removing log segments that are not needed"))?,
        Err(error) if is_full(&error) => {
            tracing::warn!(%error, "no room for both copies of the log's beginning");
        }
        Err(error) => return Err(OpenError::io("noting where the log begins")(error)),
    }

    let known = found.as_ref().map_or(VERSION_1, |found| found.format);
    let boot = found.map_or(Boot(0), |found| found.boot);
    let outline = &recovery.state.outline;
    let superblock = Superblock {
        identity: recovery.identity.clone(),
        boot: Boot(boot.max(outline.boot).0 + u64::from(!planted(Mutant::StartIsNotCounted))),
        promised: outline.promised,
        accepted: outline.accepted,
        format: known.max(recovery.state.format()),
        later_segments: recovery.segments.last().map_or(0, Segment::later),
    };
    let superblocks = Superblocks::open(disk.as_ref(), &names)
        .and_then(|superblocks| superblocks.write(&superblock).map(|()| superblocks))
        .map_err(OpenError::io("counting this start"))?;
    hit(Point::RecoveryCounted);
    let genesis = recovery.genesis.clone();
    let mut wal = assemble(
        disk.clone(),
        *options,
        recovery,
        superblocks,
        superblock,
        lock,
    )?;
    begin(&mut wal, lost_promise)?;
    hit(Point::RecoveryBegun);
    let recovered = recovered(&wal, genesis)?;
    Ok((wal, recovered))
}

/// What the copies of the state say.
fn find_state(
    disk: &dyn Disk,
    names: &[String],
    name: &str,
) -> Result<Option<Superblock>, OpenError> {
    let found = Superblocks::find(disk, names)?;
    let merged = Superblock::merge(&found.copies);
    if let Some(merged) = &merged {
        if merged.identity.name != name {
            return Err(OpenError::OtherMember {
                found: merged.identity.name.clone(),
                expected: name.to_owned(),
            });
        }
        if found
            .copies
            .iter()
            .any(|copy| copy.identity != merged.identity)
        {
            return Err(OpenError::lost(
                "the copies of the state belong to two logs",
            ));
        }
    }
    let last = numbers(names).last().copied();
    if last.is_none() {
        // The state is written before the first segment is made, and the first start is counted
        // after it: until then nothing depends on this log.
        match &merged {
            None if found.any => return Err(OpenError::lost("nothing in it can be read")),
            Some(merged) if merged.boot > Boot(0) => {
                return Err(OpenError::lost("all its segments are missing"));
            }
            _ => {}
        }
    }
    let noted = merged.as_ref().map_or(0, |merged| merged.later_segments);
    if last.is_some_and(|last| last <= noted) {
        return Err(OpenError::lost(format!("segment {} is missing", noted + 1)));
    }
    Ok(merged)
}

/// Numbers of the segments, in order.
fn numbers(names: &[String]) -> Vec<u64> {
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(|name| Segment::number(name))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Makes a log; `begun` is what an earlier try left.
fn make(
    disk: &Arc<dyn Disk>,
    options: &Options,
    begun: Option<&Superblock>,
    new: &Identity,
) -> Result<(), OpenError> {
    let full_or = |doing| {
        move |error: io::Error| {
            if is_full(&error) {
                OpenError::Full
            } else {
                OpenError::io(doing)(error)
            }
        }
    };
    let names = disk.list().map_err(OpenError::io("listing the log"))?;
    let identity = begun.map_or(new, |begun| &begun.identity).clone();
    let nothing = Superblock {
        identity: identity.clone(),
        boot: Boot(0),
        promised: Ballot::default(),
        accepted: Ballot::default(),
        format: VERSION_1,
        later_segments: 0,
    };
    Superblocks::open(disk.as_ref(), &names)
        .and_then(|superblocks| superblocks.write(&nothing))
        .map_err(full_or("making the log's state"))?;
    hit(Point::LogStateMade);
    let mut spares = Spares::open(disk.clone(), &names, options.segment_bytes)?;
    if !spares.is_ready() && !spares.make() {
        return Err(OpenError::Full);
    }
    let page = SegmentPage {
        sequence: 1,
        bytes: options.segment_bytes,
        predecessor: first_predecessor(&identity),
        identity,
        first_batch: 1,
    };
    let spare = spares.take().expect("it was just made");
    segment::install(disk.as_ref(), &spare, &page, Opening::default())
        .map_err(OpenError::io("making a log segment"))?;
    hit(Point::LogMade);
    Ok(())
}

/// Rule W1: for `promised` the greater counts; a greater copy of `accepted` shows that the record
/// was lost. Returns a promise that the log does not have.
fn merge(state: &mut LogState, found: Option<&Superblock>) -> Result<Option<Ballot>, OpenError> {
    let outline = &mut state.outline;
    let Some(found) = found else {
        // No copy can be read. Recovery ends at any record that may hide a promise, so the log
        // has them all.
        return Ok(None);
    };
    if found.accepted > outline.accepted && !planted(Mutant::LostAdoptionIsForgotten) {
        return Err(OpenError::lost(format!(
            "it had adopted ballot {} but says {}",
            found.accepted, outline.accepted
        )));
    }
    if found.promised <= outline.promised || planted(Mutant::LostPromiseIsForgotten) {
        return Ok(None);
    }
    if !outline.has_genesis {
        return Err(OpenError::lost("the genesis is missing"));
    }
    outline.promised = found.promised;
    Ok(Some(found.promised))
}

fn assemble(
    disk: Arc<dyn Disk>,
    options: Options,
    recovery: Recovery,
    superblocks: Superblocks,
    superblock: Superblock,
    lock: Box<dyn crate::disk::DiskLock>,
) -> Result<Wal, OpenError> {
    let names = disk.list().map_err(OpenError::io("listing the log"))?;
    let current = recovery
        .segments
        .last()
        .expect("a log has a segment")
        .clone();
    Ok(Wal {
        spares: Spares::open(disk.clone(), &names, options.segment_bytes)?,
        segment_bytes: recovery.segments.iter().map(|s| u64::from(s.bytes)).sum(),
        disk,
        options,
        identity: recovery.identity,
        ahead: recovery.state.outline.clone(),
        shared: Arc::new(Shared::new(recovery.state, recovery.segments)),
        superblocks,
        superblock,
        current,
        batch: recovery.batch,
        predecessor: recovery.predecessor,
        pending: Pending::default(),
        genesis: recovery.genesis,
        release_due: true,
        failed: None,
        _lock: lock,
    })
}

/// Writes the start into the log, with a promise that only the state's copies still had. From now
/// on the last batch is known to have been synced.
fn begin(wal: &mut Wal, lost_promise: Option<Ballot>) -> Result<(), OpenError> {
    let mut drafts = vec![Draft::boot(wal.superblock.boot)];
    drafts.extend(lost_promise.map(|ballot| Draft::new(&Record::Promise(ballot))));
    let failed = |error: crate::SyncError| OpenError::Io {
        doing: "writing this start into the log",
        source: io::Error::other(error),
    };
    for draft in drafts {
        if !wal.make_room(draft.bytes(), Kind::Boot).map_err(failed)? {
            return Err(OpenError::Full);
        }
        wal.push(draft);
    }
    wal.flush().map_err(failed)
}

fn recovered(wal: &Wal, genesis: Option<synod_paxos::Genesis>) -> Result<Recovered, OpenError> {
    let inner = wal.shared.read();
    let state = inner.state.clone();
    drop(inner);
    let (first, last, commit) = (state.first(), state.last(), state.outline.commit);
    assert!(commit <= last, "invariant I5");
    let mut faulty = state.faulty;
    let tail = tail(&wal.reader(), commit, last, |header| {
        faulty.insert(header.slot, header);
    })?;
    let last_time = last_time(&wal.reader(), first, last)?;
    let ended_by = if commit == last && last >= first && !faulty.contains_key(&last) {
        last_entry(&wal.reader(), last)?
    } else {
        None
    };
    // Nobody promises or accepts in an epoch before the first: a member waits there for the base of
    // a later one.
    let waits = genesis
        .as_ref()
        .is_some_and(|it| it.configuration.epoch < GENESIS_BALLOT.epoch)
        && state.base.is_none()
        && state.changes.is_empty();
    let ballot = |noted: Ballot| if waits { Ballot::none(Epoch(0)) } else { noted };
    Ok(Recovered {
        last_time,
        identity: wal.identity.clone(),
        boot: wal.superblock.boot,
        genesis,
        promised: ballot(state.outline.promised),
        accepted: ballot(state.outline.accepted),
        kept: state.outline.kept,
        upgrades: state.outline.upgrades.into_iter().collect(),
        joining: state.joining,
        changes: state.changes.into_iter().collect(),
        ended_by,
        base: state.base,
        last,
        runs: state.runs,
        commit,
        tail,
        faulty: faulty.into_values().collect(),
    })
}

/// The entries behind `commit` that can be read.
fn tail(
    reader: &LogReader,
    commit: Slot,
    last: Slot,
    mut faulty: impl FnMut(Header),
) -> Result<Vec<Entry>, OpenError> {
    let mut tail: Vec<Entry> = Vec::new();
    let mut next = commit.next();
    while next <= last {
        match reader.read(next, last, TAIL_READ_BYTES) {
            Ok(entries) => {
                next = entries
                    .last()
                    .expect("at least one entry is read")
                    .slot
                    .next();
                tail.extend(entries);
            }
            Err(ReadError::Faulty(header)) => {
                faulty(header);
                next = next.next();
            }
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok(tail)
}

/// The last entry, if it can be read and may end an epoch.
fn last_entry(reader: &LogReader, last: Slot) -> Result<Option<Entry>, OpenError> {
    match reader.read(last, last, 0) {
        Ok(mut entries) => Ok(entries
            .pop()
            .filter(|entry| entry.command.kind == CommandKind::RECONFIGURE)),
        Err(ReadError::Faulty(_)) => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

/// The stamp of the last entry that can be read, which is the greatest: stamps never go back.
fn last_time(reader: &LogReader, first: Slot, last: Slot) -> Result<AgreedTime, OpenError> {
    let mut slot = last;
    while slot >= first {
        match reader.read(slot, slot, 0) {
            Ok(entries) => return Ok(entries[0].time),
            Err(ReadError::Faulty(_)) => slot = slot.prev(),
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok(AgreedTime(0))
}

fn unreadable(error: ReadError) -> OpenError {
    match error {
        ReadError::Io(error) => OpenError::io("reading the log")(error),
        error => OpenError::lost(error.to_string()),
    }
}
