//! Why no group can begin.

use std::io;
use std::path::PathBuf;

use synod_paxos::Slot;
use synod_wal::{AppendError, OpenError, SyncError};

use crate::apply::TablesError;
use crate::backup::BackupError;
use crate::config::limits;
use crate::snapshot::StoreError;
use crate::snapshot::volume::VolumeError;

/// Nothing has begun; what was made so far can be removed.
#[derive(Debug, thiserror::Error)]
pub enum FoundingError {
    /// The backup is of no use.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// It is of something else.
    #[error("the backup is of the service {found:?}: restore it under that name")]
    OtherService {
        /// Of which.
        found: String,
    },
    /// The slot is not in it.
    #[error(
        "the state before slot {before} is not in this backup: it has that before each slot from \
         {first} to {last}"
    )]
    OutOfReach {
        /// Asked for.
        before: Slot,
        /// The first that can be.
        first: Slot,
        /// And the last.
        last: Slot,
    },
    /// Its entries end early.
    #[error("the backup has no entry behind slot {slot}, and says that it has: use another one")]
    Short {
        /// The last one.
        slot: Slot,
    },
    /// This program cannot run it.
    #[error("the group spoke protocol {0}, this program does not: use a newer one")]
    Protocol(u32),
    /// The tables of the snapshot.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The state that was saved.
    #[error("the state cannot be copied: {0}")]
    State(io::Error),
    /// The new store of snapshots.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder that is imported.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Nothing is there.
    #[error(
        "there is nothing in {0}: begin a group without it, or give what holds the app's files"
    )]
    Empty(PathBuf),
    /// Somebody writes to it.
    #[error("{0} was changed while it was copied: stop whatever uses it, then try again")]
    Changed(PathBuf),
    /// A log is there already.
    #[error("{0} has a log already: give a folder with nothing in it")]
    NotEmpty(PathBuf),
    /// The policy does not fit the log.
    #[error(transparent)]
    Policy(#[from] limits::TooLarge),
    /// The log is too small for what the backup has behind its snapshot.
    #[error(
        "the log of {max_bytes} bytes has no room for what the backup has behind its snapshot: allow \
         a larger one ({error})"
    )]
    LogTooSmall {
        /// Its largest size.
        max_bytes: u64,
        /// What did not fit.
        error: AppendError,
    },
    /// The new log's folder.
    #[error("the new log's folder: {0}")]
    Disk(io::Error),
    /// The new log.
    #[error("the new log: {0}")]
    Open(#[from] OpenError),
    /// The new log.
    #[error("the new log: {0}")]
    Append(AppendError),
    /// The new log.
    #[error("the new log: {0}")]
    Sync(#[from] SyncError),
}
