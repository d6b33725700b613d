//! What the log needs of a file system: one flat directory of preallocated files.
//!
//! In: names and bytes. Out: I/O errors, nothing interpreted. The real one is [`crate::FileDisk`],
//! the one that loses and damages what was written is [`crate::testing::MemDisk`].

use std::fmt;
use std::io;
use std::sync::Arc;

/// A directory that holds one log. Cheap to share between threads.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes the directory if it is missing (mode 0700) and takes it for this process alone, until
    /// the lock is dropped.
    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError>;

    /// Names of all files in the directory, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file (mode 0600) of `bytes` zeros that really take up space, so that later writes
    /// need none, and syncs it. Its name lasts only after [`Disk::sync_dir`]. When this fails,
    /// nothing is left behind.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file a new name, replacing any file of that name. Lasts after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Lasts after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals last.
    fn sync_dir(&self) -> io::Result<()>;

    /// Moves the whole directory out of the way, to a name of its own beside it, durably, and
    /// returns that name. The next [`Disk::list`] finds nothing.
    fn set_aside(&self) -> io::Result<String>;
}

/// A file of fixed size, read and written at positions, by several threads at once.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all that was written last. A failure is final: what was written may be lost even if
    /// it reads back well (Rebello et al., *Can Applications Recover from fsync Failures?*, ATC'20).
    fn sync_data(&self) -> io::Result<()>;
}

/// Holds the directory for this process until dropped.
pub trait DiskLock: fmt::Debug + Send + Sync {}

/// The directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("in use by {}", holder(*.pid))]
    Held {
        /// Process id of the holder, when known.
        pid: Option<u32>,
    },
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The holder of a lock, for people.
pub(crate) fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
