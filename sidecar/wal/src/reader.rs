//! Reading entries back, from any thread.

use synod_paxos::{Entry, Slot};

use crate::error::ReadError;

/// Reads entries while the log is written. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogReader {}

impl LogReader {
    /// The entries from `from` on, through `through` at most, until they weigh `max_bytes`, but at
    /// least one. Only what is synced and neither cut nor replaced is there. Stops before a faulty
    /// entry; an error is always about `from` itself.
    pub fn read(&self, from: Slot, through: Slot, max_bytes: u64) -> Result<Vec<Entry>, ReadError> {
        let _ = (from, through, max_bytes);
        unimplemented!()
    }
}
