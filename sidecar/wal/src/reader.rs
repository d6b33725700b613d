//! Reading entries back, from any thread.
//!
//! In: slots. Out: entries whose checksum and hash were verified. Memory is what is asked for, and
//! a piece read ahead.

use std::collections::BTreeMap;
use std::sync::Arc;

use synod_paxos::{Ballot, Entry, Header, Slot};

use crate::codec;
use crate::cursor::{Cursor, CursorError};
use crate::error::ReadError;
use crate::format::RecordHeader;
use crate::shared::Shared;
use crate::state::Position;

/// Least and most that is read at once, in bytes.
const READ_AHEAD_BYTES: (u64, u64) = (16 << 10, 1 << 20);

/// Reads entries while the log is written. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// A stretch of slots that can be read in one go.
struct Stretch {
    cursor: Cursor,
    staged_in: Option<Ballot>,
    last: Slot,
    /// Where second copies are.
    repairs: BTreeMap<Slot, Position>,
}

// === impl LogReader ===

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The entries from `from` on, through `through` at most, until they weigh `max_bytes`, but at
    /// least one. Only what is synced and neither cut nor replaced is there. Stops before an entry
    /// that cannot be read; an error is always about `from` itself.
    pub fn read(&self, from: Slot, through: Slot, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        let (least, most) = READ_AHEAD_BYTES;
        let read_ahead = max_bytes.clamp(least, most) as u32;
        let mut entries: Vec<Entry> = Vec::new();
        let mut weight = 0;
        let mut next = from;
        while entries.is_empty() || (next <= through && weight < max_bytes) {
            let mut stretch = match self.stretch(next, through, read_ahead) {
                Ok(stretch) => stretch,
                // The log may have been cut meanwhile.
                Err(_) if !entries.is_empty() => break,
                Err(error) => return Err(error),
            };
            while next <= stretch.last && (entries.is_empty() || weight < max_bytes) {
                match self.next_entry(&mut stretch, next) {
                    Ok(entry) => {
                        weight += entry.weight();
                        next = next.next();
                        entries.push(entry);
                    }
                    Err(error) if entries.is_empty() => return Err(error),
                    Err(_) => return Ok(entries),
                }
            }
        }
        Ok(entries)
    }

    /// First slot held and last slot held and synced; the last is before the first when there is
    /// none.
    pub fn range(&self) -> (Slot, Slot) {
        let inner = self.shared.read();
        (inner.state.first(), inner.state.last())
    }

    /// The header of an entry that is held, whether or not its body can be read.
    pub(crate) fn header(&self, slot: Slot) -> Result<Header, ReadError> {
        let mut stretch = self.stretch(slot, slot, READ_AHEAD_BYTES.0 as u32)?;
        let header = stretch.find(slot)?;
        Ok(header.entry_header())
    }

    fn stretch(&self, slot: Slot, through: Slot, read_ahead: u32) -> Result<Stretch, ReadError> {
        let inner = self.shared.read();
        let out_of_range = || ReadError::OutOfRange {
            slot,
            first: inner.state.first(),
            last: inner.state.last(),
        };
        if slot > inner.state.last() || slot > through {
            return Err(out_of_range());
        }
        let located = inner.state.locate(slot).ok_or_else(out_of_range)?;
        let last = located.last.min(through);
        let segments = inner.segments_from(located.start.segment).to_vec();
        let repairs = inner.state.repairs.range(slot..=last);
        Ok(Stretch {
            cursor: Cursor::new(segments, located.start, read_ahead).ok_or_else(out_of_range)?,
            staged_in: located.staged_in,
            last,
            repairs: repairs.map(|(slot, position)| (*slot, *position)).collect(),
        })
    }

    fn next_entry(&self, stretch: &mut Stretch, slot: Slot) -> Result<Entry, ReadError> {
        let header = stretch.find(slot)?;
        if let Some(position) = stretch.repairs.get(&slot)
            && let Some(entry) = self.repaired(*position, &header)
        {
            return Ok(entry);
        }
        let body = stretch.cursor.body(&header);
        body.and_then(|body| codec::entry(&header, body))
            .ok_or(ReadError::Faulty(header.entry_header()))
    }

    /// The second copy of an entry, if it can be read.
    fn repaired(&self, position: Position, damaged: &RecordHeader) -> Option<Entry> {
        let segment = self.shared.read().segment(position.segment)?.clone();
        let mut cursor = Cursor::new(vec![segment], position, READ_AHEAD_BYTES.0 as u32)?;
        let header = cursor.next().ok()??;
        let body = cursor.body(&header)?;
        let same = header.entry_header() == damaged.entry_header();
        codec::entry(&header, body).filter(|_| same)
    }
}

// === impl Stretch ===

impl Stretch {
    /// Goes on to the record of this slot.
    fn find(&mut self, slot: Slot) -> Result<RecordHeader, ReadError> {
        loop {
            match self.cursor.next() {
                Ok(Some(header)) if header.slot == slot && header.belongs_to(self.staged_in) => {
                    return Ok(header);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(CursorError::Lost) => return Err(ReadError::Lost { slot }),
                Err(CursorError::Io(error)) => return Err(ReadError::Io(error)),
            }
        }
    }
}
