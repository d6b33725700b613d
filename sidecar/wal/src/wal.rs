//! The log of one member, for the one thread that writes it.
//!
//! In: records. Out: their being synced. Calls the disk and nothing else; what it has synced is
//! shared with the readers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use synod_failpoint::{Point, check, hit};
use synod_mutant::{Mutant, planted};
use synod_paxos::{Genesis, Identity, Incarnation, Record, Recovered};

use crate::codec::{self, Content};
use crate::disk::{Disk, DiskLock, LockError};
use crate::draft::{Batch, Draft, Place};
use crate::error::{AppendError, OpenError, SyncError};
use crate::format::{Hash, Kind};
use crate::genesis;
use crate::open;
use crate::opening::{Opening, Start};
use crate::options::Options;
use crate::outline::Outline;
use crate::page::SegmentPage;
use crate::reader::LogReader;
use crate::segment::{self, Segment};
use crate::shared::Shared;
use crate::spare::{Spare, SpareMaker, Spares};
use crate::state::Position;
use crate::superblock::{Superblock, Superblocks};

/// A place in the log: grows with each record. All before a synced one are synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The log of one member, open for writing.
///
/// An order of records that contradicts [`synod_paxos::record`] is a broken invariant of the
/// caller's, and panics before anything of it is written.
#[derive(Debug)]
pub struct Wal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) shared: Arc<Shared>,
    pub(crate) superblocks: Superblocks,
    /// What the copies say.
    pub(crate) superblock: Superblock,
    pub(crate) spares: Spares,
    /// The segment that is written.
    pub(crate) current: Segment,
    /// Bytes of all segments, the current one counted, the spare not.
    pub(crate) segment_bytes: u64,
    /// Number of the last batch written.
    pub(crate) batch: u64,
    /// Hash of the last header written.
    pub(crate) predecessor: Hash,
    /// The state with what is pending.
    pub(crate) ahead: Outline,
    pub(crate) pending: Pending,
    /// As soon as it is written.
    pub(crate) genesis: Option<Genesis>,
    /// Segments may not be needed any more.
    pub(crate) release_due: bool,
    pub(crate) failed: Option<SyncError>,
    /// Last: the directory is given back when all else is closed.
    pub(crate) _lock: Box<dyn DiskLock>,
}

/// Records that were taken and not yet written: always room for them in the current segment.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    drafts: Vec<Draft>,
    bytes: u64,
    /// Memory that is used again.
    batch: Batch,
}

/// A record did not fit.
enum Refusal {
    Full,
    TooLarge { bytes: u64, most: u64 },
    Failed(SyncError),
}

// === impl Wal ===

impl Wal {
    /// Opens the log in `disk`, or makes one for `new` when there is none; otherwise only the name
    /// of `new` matters. When this returns, the start was counted, and the last batch was written
    /// once more, and both are synced (rule W3).
    pub fn open(
        disk: Arc<dyn Disk>,
        options: &Options,
        new: Identity,
    ) -> Result<(Self, Recovered), OpenError> {
        open::open(disk, options, new)
    }

    /// Moves a log that lost records out of the way, so that the next open makes a new one.
    /// Nothing is deleted. Returns the name it has now, beside the old one.
    pub fn set_aside(disk: &dyn Disk) -> Result<String, LockError> {
        let _lock = disk.lock()?;
        Ok(disk.set_aside()?)
    }

    /// Takes records, in order, without waiting for a sync (unless a segment has run full). All
    /// that were taken before the next [`Wal::sync`] count together or not at all, as far as they
    /// fit into one segment.
    ///
    /// A `Commit` that tells nothing new, or finds no room, is left out. A `Repair` that does not
    /// have the slot, ballot and hash of an entry held is left out.
    pub fn append(&mut self, records: &[Record]) -> Result<Lsn, AppendError> {
        self.check()?;
        for (taken, record) in records.iter().enumerate() {
            self.take(Draft::new(record))
                .map_err(|refusal| match refusal {
                    Refusal::Full => AppendError::Full { taken },
                    Refusal::TooLarge { bytes, most } => {
                        AppendError::TooLarge { taken, bytes, most }
                    }
                    Refusal::Failed(error) => AppendError::Failed(error),
                })?;
        }
        Ok(self.lsn())
    }

    /// Whether this record, that the log begins behind a base, may be taken before others that wait
    /// for room, and so make it: the chosen entry that it names is on disk, and stays there.
    pub fn makes_room(&self, record: &Record) -> bool {
        let Record::Compact(base) = record else {
            return false;
        };
        let held = self.shared.read().state.ballot_at(base.slot);
        base.slot > self.ahead.base && held == Some(base.ballot)
    }

    /// Writes and syncs all records taken so far: one write of them, one of the copies of their
    /// headers, one sync; after a new promise or adoption also the two copies of the state.
    pub fn sync(&mut self) -> Result<Lsn, SyncError> {
        self.check()?;
        self.flush()?;
        let (promised, accepted) = (self.ahead.promised, self.ahead.accepted);
        if (self.superblock.promised, self.superblock.accepted) != (promised, accepted) {
            self.superblock.promised = promised;
            self.superblock.accepted = accepted;
            let result = self.superblocks.write(&self.superblock);
            self.poison_on_error(result)?;
        }
        if std::mem::take(&mut self.release_due) {
            self.release()?;
        }
        Ok(self.lsn())
    }

    /// Bytes of all segments, the one in reserve counted.
    pub fn bytes(&self) -> u64 {
        self.segment_bytes + self.spares.bytes()
    }

    /// The same without what is not written yet: neither the one in reserve nor the rest of the current one.
    pub fn used_bytes(&self) -> u64 {
        let rest = u64::from(self.current.bytes - self.current.end);
        self.segment_bytes - rest
    }

    /// No further segment can be made: refuse new proposals now. What is under way still fits, up
    /// to a segment less [`Options::reserve_bytes`] after this was first seen, if
    /// [`Wal::spare_wanted`] is asked after each sync.
    pub fn is_full(&self) -> bool {
        self.spares.is_refused()
    }

    /// Reads entries, from any thread, while this writes.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// Something that makes the next segment, when one is wanted; to be told to
    /// [`Wal::spare_made`]. Without this, a segment is made when it is needed, which takes time.
    pub fn spare_wanted(&mut self) -> Option<SpareMaker> {
        if self.spares.is_ready() || self.spares.is_making() {
            return None;
        }
        if !self.may_grow_to(self.options.max_bytes) {
            self.spares.refuse();
            return None;
        }
        Some(self.spares.begin())
    }

    /// The result of a [`SpareMaker`].
    pub fn spare_made(&mut self, spare: Spare) {
        self.spares.made(spare);
    }

    /// The end of what was taken.
    fn lsn(&self) -> Lsn {
        let records = self.pending.drafts.len() as u64 * crate::format::HEADER_BYTES as u64;
        let end = u64::from(self.current.end) + self.pending.bytes - records;
        Lsn((self.current.sequence << 32) + end)
    }

    fn check(&self) -> Result<(), SyncError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// A failed write or sync is final.
    fn poison_on_error<T>(&mut self, result: io::Result<T>) -> Result<T, SyncError> {
        result.map_err(|error| {
            tracing::error!(%error, "the log cannot be written");
            let error = SyncError {
                cause: error.to_string(),
            };
            self.failed = Some(error.clone());
            error
        })
    }

    fn take(&mut self, draft: Draft) -> Result<(), Refusal> {
        let most = Segment::capacity(self.options.segment_bytes);
        let bytes = draft.bytes();
        if bytes > most {
            return Err(Refusal::TooLarge { bytes, most });
        }
        let kind = draft.header.kind;
        if kind == Kind::Commit && draft.header.slot <= self.ahead.commit {
            return Ok(());
        }
        if kind == Kind::Repair && !self.is_wanted(&draft).map_err(Refusal::Failed)? {
            return Ok(());
        }
        if !self.make_room(bytes, kind).map_err(Refusal::Failed)? {
            return match kind {
                Kind::Commit => Ok(()),
                _ => Err(Refusal::Full),
            };
        }
        self.push(draft);
        Ok(())
    }

    /// Takes a record for which there is room.
    pub(crate) fn push(&mut self, draft: Draft) {
        if let Err(what) = self.ahead.advance(&draft.header) {
            panic!("a record that cannot follow the earlier ones was to be written: {what}");
        }
        self.pending.bytes += draft.bytes();
        assert!(self.pending.bytes <= self.current.room(), "room was made");
        self.pending.drafts.push(draft);
    }

    /// An entry with this very header is held.
    fn is_wanted(&mut self, repair: &Draft) -> Result<bool, SyncError> {
        // What is pending may cut it.
        self.flush()?;
        let header = repair.header.entry_header();
        match self.reader().header(header.slot) {
            Ok(held) if held == header => Ok(true),
            held => {
                let slot = header.slot.0;
                tracing::warn!(
                    slot,
                    ?held,
                    "a repair that fits no entry of the log is left out"
                );
                Ok(false)
            }
        }
    }

    /// Sees to it that there is room for a record, beginning a segment if need be.
    pub(crate) fn make_room(&mut self, bytes: u64, kind: Kind) -> Result<bool, SyncError> {
        loop {
            let room = self.current.room() - self.pending.bytes;
            // Without another segment, the last part of this one is for promises and the like.
            let last_part = !self.spares.is_ready() && (kind.is_entry() || kind == Kind::Commit);
            let kept = if last_part {
                self.options.reserve_bytes
            } else {
                0
            };
            if bytes + kept <= room {
                return Ok(true);
            }
            if self.spares.is_ready() {
                self.flush()?;
                self.begin_segment()?;
                continue;
            }
            // A log that is to be adopted is beside the own one until it is whole.
            let most = match kind {
                Kind::Stage => 2 * self.options.max_bytes,
                _ => self.options.max_bytes,
            };
            if (kind == Kind::Commit && self.is_full()) || !self.make_spare(most) {
                return Ok(false);
            }
        }
    }

    fn may_grow_to(&self, most: u64) -> bool {
        self.bytes() + self.options.segment_bytes <= most
    }

    fn make_spare(&mut self, most: u64) -> bool {
        if !self.may_grow_to(most) {
            self.spares.refuse();
            return false;
        }
        self.spares.make()
    }

    /// Goes on in the segment in reserve. All that came before is synced.
    fn begin_segment(&mut self) -> Result<(), SyncError> {
        assert!(
            self.pending.drafts.is_empty(),
            "the last segment is complete"
        );
        let spare = self.spares.take().expect("the caller has looked");
        let page = SegmentPage {
            sequence: self.current.sequence + 1,
            bytes: self.options.segment_bytes,
            identity: self.identity.clone(),
            first_batch: self.batch + 1,
            predecessor: self.predecessor,
        };
        let opening = {
            let inner = self.shared.read();
            Opening {
                outline: inner.state.outline.clone(),
                base: inner.state.base.clone(),
                joining: inner.state.joining.clone(),
            }
        };
        let result = segment::install(self.disk.as_ref(), &spare, &page, opening);
        let segment = self.poison_on_error(result)?;
        hit(Point::WalSegmentBegun);
        self.segment_bytes += page.bytes;
        self.superblock.later_segments = segment.later();
        self.current = segment.clone();
        self.shared.write().segments.push(segment);
        self.release_due = true;
        let result = self.superblocks.write(&self.superblock);
        self.poison_on_error(result)
    }

    /// Removes the segments that hold nothing that is needed. What the log begins with is told in
    /// files of its own first, so that a crash between any two steps leaves the same log. All that
    /// came before is synced.
    fn release(&mut self) -> Result<(), SyncError> {
        let inner = self.shared.read();
        let current = self.current.sequence;
        let needed = inner.state.oldest_needed().unwrap_or(current);
        let kept = inner.segments_from(needed.min(current));
        let (Some(first), Some(genesis)) = (kept.first(), &self.genesis) else {
            return Ok(());
        };
        let (removed, rest): (Vec<Segment>, Vec<Segment>) = inner
            .segments
            .iter()
            .cloned()
            .partition(|segment| segment.sequence < first.sequence);
        if removed.is_empty() || inner.state.base.is_none() {
            return Ok(());
        }
        let start = Start {
            segment: first.sequence,
            opening: first.opening.as_ref().clone(),
            genesis: genesis.clone(),
        };
        drop(inner);
        let written =
            check(Point::WalBeforeBeginning).and_then(|()| start.write(self.disk.as_ref()));
        match written {
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "no room to note which log segments are not needed");
                self.release_due = true;
                return Ok(());
            }
            result => self.poison_on_error(result)?,
        }
        hit(Point::WalAfterBeginning);
        let numbers: Vec<u64> = removed.iter().map(|segment| segment.sequence).collect();
        let result = segment::remove(self.disk.as_ref(), &numbers);
        self.poison_on_error(result)?;
        hit(Point::WalReleased);
        self.segment_bytes = rest.iter().map(|segment| u64::from(segment.bytes)).sum();
        self.shared.write().segments = rest;
        self.spares.reconsider();
        Ok(())
    }

    /// Writes what is pending as one batch, syncs it, and shows it to the readers.
    pub(crate) fn flush(&mut self) -> Result<(), SyncError> {
        if self.pending.drafts.is_empty() {
            return Ok(());
        }
        let place = Place {
            salt: self.current.salt,
            offset: self.current.end,
            batch: self.batch + 1,
            predecessor: self.predecessor,
        };
        let drafts = std::mem::take(&mut self.pending.drafts);
        let format = drafts.iter().map(Draft::version).max();
        if format.is_some_and(|format| format > self.superblock.format) {
            self.superblock.format = format.unwrap_or_default();
            let result = self.superblocks.write(&self.superblock);
            self.poison_on_error(result)?;
        }
        let contents = drafts.iter().filter_map(Draft::content).cloned().collect();
        for body in drafts.iter().filter_map(Draft::genesis_body) {
            let result = genesis::write(self.disk.as_ref(), body);
            self.poison_on_error(result)?;
            hit(Point::WalGenesisCopied);
            self.genesis = codec::genesis(body);
        }
        let batch = std::mem::take(&mut self.pending.batch).encode(drafts, place);
        assert_eq!(
            (batch.records.len() + batch.copies.len()) as u64,
            self.pending.bytes,
            "room was made for exactly this"
        );
        self.pending.bytes = 0;
        hit_kinds(&batch, |(before, _)| before);
        let result = self.write(&batch);
        self.poison_on_error(result)?;
        hit_kinds(&batch, |(_, after)| after);
        self.batch = place.batch;
        self.predecessor = batch.predecessor;
        self.current.end += batch.records.len() as u32;
        self.current.count += batch.headers.len() as u32;
        self.show(&batch, contents);
        self.pending.batch = batch;
        Ok(())
    }

    fn write(&self, batch: &Batch) -> io::Result<()> {
        let last = self.current.count + batch.headers.len() as u32 - 1;
        let copies_at = self.current.copy_at(last);
        let file = &self.current.file;
        check(Point::WalBeforeWrite)?;
        file.write_all_at(&batch.records, u64::from(self.current.end))?;
        check(Point::WalRecordsWritten)?;
        file.write_all_at(&batch.copies, u64::from(copies_at))?;
        check(Point::WalBeforeSync)?;
        let again = planted(Mutant::FailedSyncIsTriedAgain);
        file.sync_data()
            .or_else(|error| if again { file.sync_data() } else { Err(error) })?;
        hit(Point::WalAfterSync);
        Ok(())
    }

    fn show(&mut self, batch: &Batch, mut contents: VecDeque<Content>) {
        let is_base = |content: &Content| matches!(content, Content::Base(_));
        self.release_due |= contents.iter().any(is_base);
        let mut inner = self.shared.write();
        for header in &batch.headers {
            let position = Position {
                segment: self.current.sequence,
                offset: header.offset,
            };
            let twofold = header.kind.is_twofold();
            let content = twofold.then(|| contents.pop_front()).flatten();
            let result = inner.state.apply(header, position, true, content);
            assert_eq!(result, Ok(()), "what was taken can be replayed");
        }
        *inner.current() = self.current.clone();
    }
}

pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Reaches the points of the kinds of records that a batch has.
fn hit_kinds(batch: &Batch, which: fn((Point, Point)) -> Point) {
    if !synod_failpoint::ENABLED {
        return;
    }
    for header in &batch.headers {
        let points = match header.kind {
            Kind::Promise => (Point::WalBeforePromise, Point::WalAfterPromise),
            Kind::Stage => (Point::WalBeforeStage, Point::WalAfterStage),
            Kind::Adopt => (Point::WalBeforeAdopt, Point::WalAfterAdopt),
            Kind::Enter => (Point::WalBeforeEnter, Point::WalAfterEnter),
            Kind::Compact => (Point::WalBeforeCompact, Point::WalAfterCompact),
            Kind::Install => (Point::WalBeforeInstall, Point::WalAfterInstall),
            Kind::Join => (Point::WalBeforeJoin, Point::WalAfterJoin),
            _ => continue,
        };
        hit(which(points));
    }
}

/// A fresh incarnation: 128 random bits.
pub fn new_incarnation() -> Incarnation {
    Incarnation(uuid::Uuid::new_v4().as_u128())
}
