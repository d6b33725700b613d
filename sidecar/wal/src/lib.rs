//! The log on disk: segments, checksums, recovery.
//!
//! In: [`synod_paxos::Record`]s, in order. Out: [`synod_paxos::Recovered`] at a start, and entries
//! by slot at any time. It knows no message and no clock, and decides nothing: what a record means
//! for the log is written down in [`synod_paxos::record`].
//!
//! - [`Wal`] is the log itself, for one thread.
//! - [`LogWriter`] is a thread that owns one and syncs in groups.
//! - [`LogReader`] reads entries from any thread.
//! - [`Disk`] is all that is asked of a file system: [`FileDisk`] is the real one.

mod codec;
mod cursor;
mod disk;
mod draft;
mod error;
mod file_disk;
mod format;
mod genesis;
mod open;
mod opening;
mod options;
mod outline;
mod page;
mod reader;
mod recover;
mod sealed;
mod segment;
mod shared;
mod spare;
mod state;
mod superblock;
pub mod testing;
mod wal;
mod whole;
#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own: reads clocks"
)]
mod writer;

pub use disk::{Disk, DiskFile, DiskLock, LockError};
pub use error::{AppendError, OpenError, ReadError, SyncError};
pub use file_disk::FileDisk;
pub use options::Options;
pub use reader::LogReader;
pub use spare::{Spare, SpareMaker};
pub use wal::{Lsn, Wal, new_incarnation};
pub use writer::LogWriter;
