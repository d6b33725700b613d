//! The disk of a member: the production log in a memory that loses what is not synced. Writes wait in
//! the process until a sync is done by name.

use std::sync::Arc;

use synod_paxos::{Identity, Record, Recovered, Slot};
use synod_wal::testing::{MemDisk, Survival};
use synod_wal::{OpenError, Options, Wal};

use super::World;
use crate::print;
use crate::words::Wrong;

/// Sizes of a log: small, so that none of it costs time.
const SEGMENT_BYTES: u64 = 64 << 10;
const MAX_BYTES: u64 = 16 << 20;

/// Where the fields of a record's header are, as the format has them.
const PAGE: usize = 512;
const HEADER: usize = 128;
const LENGTH_AT: usize = 8;
const BATCH_AT: usize = 16;
const SLOT_AT: usize = 32;
const KIND_AT: usize = 120;
const MARK: usize = 8;
/// The kinds that hold an entry.
const ENTRY_KINDS: [u16; 4] = [4, 5, 8, 13];

impl World {
    /// Opens the log of a member; a fresh one gets what it begins with.
    pub(super) fn open_log(&self, member: u32) -> Result<(Wal, Recovered), OpenError> {
        let host = &self.hosts[&member];
        let identity = Identity {
            name: host.member.name.clone(),
            incarnation: host.member.incarnation,
        };
        let options = Options::new(SEGMENT_BYTES, MAX_BYTES);
        let (mut wal, mut recovered) = Wal::open(Arc::new(host.disk.clone()), &options, identity)?;
        if recovered.genesis.is_some() {
            return Ok((wal, recovered));
        }
        let genesis = self.genesis.clone();
        let mut records = vec![Record::Genesis(genesis.clone())];
        match host.joining.clone() {
            Some(configuration) => {
                records.push(Record::Join(configuration.clone()));
                recovered = recovered.joining(genesis, configuration);
            }
            None => recovered.genesis = Some(genesis),
        }
        wal.append(&records).expect("an empty disk has room");
        wal.sync().expect("an empty disk works");
        Ok((wal, recovered))
    }

    /// Syncs what was written: all of it, or so many writes. Whether there was anything.
    pub(crate) fn sync(&mut self, member: u32, writes: Option<u64>) -> Result<bool, Wrong> {
        let process = self.running(member)?;
        let waiting = process.writes.len();
        let count = match writes {
            None => waiting,
            Some(writes) => writes as usize,
        };
        if count > waiting || count == 0 {
            return match writes {
                None => Ok(false),
                Some(_) => Err(print::count(waiting, "write") + " wait"),
            };
        }
        let done: Vec<_> = process.writes.drain(..count).collect();
        let mut last = process.synced;
        for (io, records) in done {
            process.wal.append(&records).map_err(|it| it.to_string())?;
            last = io;
        }
        if let Err(error) = process.wal.sync() {
            self.tell(format!("{member} ends: {error}"));
            self.stop_process(member);
            return Ok(true);
        }
        self.release(member, last);
        self.beat();
        Ok(true)
    }

    /// The next sync fails.
    pub(crate) fn fail_sync(&mut self, member: u32) -> Result<(), Wrong> {
        self.running(member)?;
        self.host(member)?.disk.fail_sync_after(0);
        Ok(())
    }

    /// The disk has no room for more commands, or has it again.
    pub(crate) fn fill_disk(&mut self, member: u32, full: bool) -> Result<(), Wrong> {
        let now = self.hosts.get(&member).map(|_| self.now_at(member));
        let process = self.running(member)?;
        process.paxos.handle_disk(now.unwrap_or_default(), full);
        self.settle(member);
        Ok(())
    }

    /// The machine goes down and comes back: what was not synced is lost, and the app is gone.
    pub(super) fn lose_power(&mut self, member: u32) {
        let Some(host) = self.hosts.get_mut(&member) else {
            return;
        };
        host.disk.crash(|| Survival::Lost, |_| 0);
        host.ledger.lose_power();
        host.app.die(true);
    }

    /// A copy of the volume, to be put back later.
    pub(crate) fn copy_volume(&mut self, member: u32) -> Result<MemDisk, Wrong> {
        Ok(self.host(member)?.disk.copy())
    }

    pub(crate) fn put_volume(&mut self, member: u32, volume: &MemDisk) -> Result<(), Wrong> {
        let host = self.host_mut(member)?;
        if host.process.is_some() {
            return Err(format!("{member} runs"));
        }
        host.disk = volume.copy();
        Ok(())
    }

    /// The body of an entry on a disk goes bad.
    pub(crate) fn rot(&mut self, member: u32, slot: Slot) -> Result<(), Wrong> {
        let disk = &self.host(member)?.disk;
        let mut found = false;
        for name in disk.names() {
            if name.starts_with("segment-") {
                disk.damage(&name, |bytes| found |= spoil(bytes, slot));
            }
        }
        found
            .then_some(())
            .ok_or_else(|| format!("the disk of {member} has no slot {slot}"))
    }

    /// All copies of the genesis, and all promises in the superblocks and in the log, go bad.
    pub(crate) fn wreck(&mut self, member: u32) -> Result<(), Wrong> {
        let disk = &self.host(member)?.disk;
        for name in disk.names() {
            if name.starts_with("segment-") {
                disk.damage(&name, |bytes| bytes.fill(0xEE));
            }
        }
        Ok(())
    }

    /// The disk has never written the last batch, though it said so.
    pub(crate) fn unwrite(&mut self, member: u32) -> Result<(), Wrong> {
        let disk = &self.host(member)?.disk;
        let segments = disk.names().into_iter();
        let last = segments.filter(|it| it.starts_with("segment-")).max();
        let last = last.ok_or_else(|| format!("{member} has no log"))?;
        disk.damage(&last, |bytes| {
            let all = records(bytes);
            let batch = all.last().map(|it| it.batch);
            let size = bytes.len();
            for (index, it) in all
                .iter()
                .enumerate()
                .filter(|it| Some(it.1.batch) == batch)
            {
                bytes[it.at..it.end].fill(0);
                let copy = size - PAGE - (index + 1) * HEADER;
                bytes[copy..copy + HEADER].fill(0);
            }
        });
        Ok(())
    }
}

/// A record on a disk.
struct Found {
    at: usize,
    end: usize,
    batch: u64,
    slot: Slot,
    kind: u16,
    length: usize,
}

/// All records of a segment, in order.
fn records(segment: &[u8]) -> Vec<Found> {
    let mut all = Vec::new();
    let mut at = PAGE;
    while at + HEADER < segment.len() {
        let header = &segment[at..at + HEADER];
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let number = |from: usize, bytes: usize| {
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(&header[from..from + bytes]);
            u64::from_le_bytes(word)
        };
        let length = number(LENGTH_AT, 4) as usize;
        let end = at + HEADER + length.next_multiple_of(8) + MARK;
        all.push(Found {
            at,
            end,
            batch: number(BATCH_AT, 8),
            slot: Slot(number(SLOT_AT, 8)),
            kind: number(KIND_AT, 2) as u16,
            length,
        });
        at = end;
    }
    all
}

/// Flips a byte in the body of each copy of this entry.
fn spoil(segment: &mut [u8], slot: Slot) -> bool {
    let is_copy = |it: &Found| ENTRY_KINDS.contains(&it.kind) && it.slot == slot && it.length > 0;
    let copies: Vec<Found> = records(segment).into_iter().filter(is_copy).collect();
    for it in &copies {
        segment[it.at + HEADER] ^= 0xFF;
    }
    !copies.is_empty()
}
