//! The log of one member.

use std::io;
use std::sync::Arc;

use synod_paxos::{Identity, Incarnation, Record, Recovered};

use crate::disk::{Disk, LockError};
use crate::error::{AppendError, OpenError, SyncError};
use crate::options::Options;
use crate::reader::LogReader;

/// A place in the log: grows with each record. All before a synced one are synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The log of one member, open for writing.
#[derive(Debug)]
pub struct Wal {
    reader: LogReader,
}

/// Makes the next segment ahead of time, in any thread: zeros take a while to write.
#[derive(Debug)]
pub struct SpareMaker {
    disk: Arc<dyn Disk>,
}

impl Wal {
    /// Opens the log in `disk`, or makes one for `new` when there is none; otherwise only the name
    /// of `new` matters. The start is counted and synced, the last batch was written again and
    /// synced, when this returns (rule W3).
    pub fn open(
        disk: Arc<dyn Disk>,
        options: &Options,
        new: Identity,
    ) -> Result<(Self, Recovered), OpenError> {
        let _ = (disk, options, new);
        unimplemented!()
    }

    /// Moves a log that lost records out of the way, so that the next open makes a new one.
    /// Nothing is deleted. Returns the name it has now, beside the old one.
    pub fn set_aside(disk: &dyn Disk) -> Result<String, LockError> {
        let _lock = disk.lock()?;
        Ok(disk.set_aside()?)
    }

    /// Takes records, in order, without syncing them.
    pub fn append(&mut self, records: &[Record]) -> Result<Lsn, AppendError> {
        let _ = records;
        unimplemented!()
    }

    /// Writes and syncs all records taken so far. A failure is final.
    pub fn sync(&mut self) -> Result<Lsn, SyncError> {
        unimplemented!()
    }

    /// Bytes of all segments, the one in reserve counted.
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }

    /// No further segment can be made: refuse new proposals now. What is under way still fits.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }

    /// Reads entries, from any thread, while this writes.
    pub fn reader(&self) -> LogReader {
        self.reader.clone()
    }

    /// Something that makes the next segment, when one is wanted; report its result to
    /// [`Wal::spare_made`].
    pub fn spare_wanted(&mut self) -> Option<SpareMaker> {
        unimplemented!()
    }

    /// The result of a [`SpareMaker`].
    pub fn spare_made(&mut self, result: io::Result<()>) {
        let _ = result;
        unimplemented!()
    }
}

impl SpareMaker {
    /// Does it.
    pub fn make(self) -> io::Result<()> {
        let _ = self.disk;
        unimplemented!()
    }
}

/// A fresh incarnation: 128 random bits.
pub fn new_incarnation() -> Incarnation {
    Incarnation(uuid::Uuid::new_v4().as_u128())
}
