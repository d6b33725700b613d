//! The thread that owns the log: groups all writes that wait into one sync.

use synod_paxos::Record;

use crate::error::SyncError;
use crate::wal::Wal;

/// A handle on the thread that writes the log. Dropping it writes and syncs what is queued, then
/// ends the thread.
#[derive(Debug)]
pub struct LogWriter {}

impl LogWriter {
    /// Starts the thread. `on_synced` gets the number of a write once it and all before it are
    /// synced; `on_fatal` is called once, when nothing more can be written: end the process.
    pub fn spawn(
        wal: Wal,
        on_synced: impl FnMut(u64) + Send + 'static,
        on_fatal: impl FnOnce(SyncError) + Send + 'static,
    ) -> std::io::Result<Self> {
        let _ = (wal, on_synced, on_fatal);
        unimplemented!()
    }

    /// Queues records behind all earlier ones. Never waits: what the caller has under way bounds
    /// the queue. `io` grows with each write.
    pub fn write(&self, io: u64, records: Vec<Record>) {
        let _ = (io, records);
        unimplemented!()
    }

    /// The disk is full, or nearly: take no new proposals. Entries already queued wait for space.
    pub fn is_full(&self) -> bool {
        unimplemented!()
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        unimplemented!()
    }
}
