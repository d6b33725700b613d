//! The log as apply reads it.

use std::io;

use synod_paxos::{Entry, Slot};
use synod_wal::{LogReader, ReadError};

use crate::apply::EntrySource;

/// Reads agreed entries back from this member's log.
#[derive(Clone, Debug)]
pub struct LogSource(pub LogReader);

impl EntrySource for LogSource {
    /// An entry that waits for repair from a peer is [`io::ErrorKind::WouldBlock`]: try again. One
    /// that a snapshot stands for is [`io::ErrorKind::NotFound`].
    fn read(&self, from: Slot, through: Slot, max_bytes: u64) -> io::Result<Vec<Entry>> {
        self.0.read(from, through, max_bytes).map_err(|error| {
            let kind = match &error {
                ReadError::Faulty(_) => io::ErrorKind::WouldBlock,
                ReadError::Io(error) => error.kind(),
                ReadError::OutOfRange { slot, first, .. } if slot < first => {
                    io::ErrorKind::NotFound
                }
                ReadError::OutOfRange { .. } | ReadError::Lost { .. } => io::ErrorKind::InvalidData,
            };
            io::Error::new(kind, error)
        })
    }
}
