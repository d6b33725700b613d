//! What can go wrong with a log, and what to do about it.

use std::io;

use synod_paxos::{Header, Slot};

use crate::disk::holder;

/// A log could not be opened. Nothing was changed that a later open could miss.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has this log open.
    #[error("the log is in use by {}; end it first", holder(*.pid))]
    InUse {
        /// Process id of the holder, when known.
        pid: Option<u32>,
    },
    /// The directory holds another member's log.
    #[error("the log belongs to member {found:?}, not to {expected:?}; use another data folder")]
    OtherMember {
        /// Who the log belongs to.
        found: String,
        /// Who wanted to open it.
        expected: String,
    },
    /// A later version of this software wrote the log.
    #[error("the log has format version {found}, this program knows {known}; use a newer program")]
    UnknownVersion {
        /// Version on disk.
        found: u32,
        /// Version of this program.
        known: u32,
    },
    /// Something this member may have promised or accepted is lost: its log must not vote again.
    /// Set it aside with [`crate::Wal::set_aside`] and come back as a new incarnation.
    #[error("the log has lost records ({what}); this member needs a new incarnation")]
    LostRecords {
        /// What is missing or contradicts itself.
        what: String,
    },
    /// The options make no sense.
    #[error("log option {option}: {must}")]
    BadOption {
        /// Its name.
        option: &'static str,
        /// What it must be.
        must: String,
    },
    /// There is no room even to note this start.
    #[error("no room for the log; free space on its volume or raise its limit")]
    Full,
    /// The file system said no.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the file system said.
        source: io::Error,
    },
}

/// Records were not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// No room for entries; the first `taken` of the records given were taken. Promises and
    /// commits still fit. Try the rest again later: space is looked for at each try.
    #[error("no room for more entries in the log; free space on its volume or raise its limit")]
    Full {
        /// How many of the records given were taken.
        taken: usize,
    },
    /// A record that no segment can hold; the first `taken` of the records given were taken.
    #[error("a record of {bytes} bytes does not fit into a log segment, which takes {most}")]
    TooLarge {
        /// How many of the records given were taken.
        taken: usize,
        /// Size of the record on disk.
        bytes: u64,
        /// Largest size that fits.
        most: u64,
    },
    /// Writing failed, which is final: see [`SyncError`].
    #[error(transparent)]
    Failed(#[from] SyncError),
}

/// A write or sync failed, now or earlier. What is on disk is not known any more: the process must
/// end, and its next start finds out (rule W3).
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log cannot be written any more: {cause}")]
pub struct SyncError {
    /// What the file system said.
    pub cause: String,
}

/// Entries could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The first entry asked for is there but damaged; a copy with this header heals it.
    #[error("slot {} cannot be read and waits for repair from a peer", .0.slot)]
    Faulty(Header),
    /// The log does not hold the first entry asked for.
    #[error("slot {slot} is not in the log, which holds {first} to {last}")]
    OutOfRange {
        /// The slot asked for.
        slot: Slot,
        /// First slot held.
        first: Slot,
        /// Last slot held and synced; before `first` when there is none.
        last: Slot,
    },
    /// The entry and what is known about it are both damaged: the process must end, and its next
    /// start says what is lost.
    #[error("slot {slot} and its header are both damaged; restart this member")]
    Lost {
        /// The slot asked for.
        slot: Slot,
    },
    /// The file system said no.
    #[error("reading the log: {0}")]
    Io(#[from] io::Error),
}

// === impl OpenError ===

impl OpenError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn lost(what: impl Into<String>) -> Self {
        Self::LostRecords { what: what.into() }
    }
}
