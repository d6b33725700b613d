//! Why a snapshot did not come.

use std::time::Duration;

use tonic::{Code, Status};

use crate::identity::{ConnectError, causes};
use crate::snapshot::head::{HeadError, SnapshotId};
use crate::snapshot::store::StoreError;
use crate::snapshot::walk::ReadError;

/// A snapshot was not fetched. What has come of it stays for the next try, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// This member is fetching one already.
    #[error("another snapshot is on its way to this member; wait for it")]
    Busy,
    /// No connection.
    #[error("fetching a snapshot: {0}")]
    Connect(#[from] ConnectError),
    /// The other one is sending one already.
    #[error("that member is sending a snapshot to another one; try a third, or later")]
    SenderBusy,
    /// It was replaced by a newer one, or found to be damaged.
    #[error("that member has no snapshot {0} any more; ask what it has now")]
    Gone(SnapshotId),
    /// It did not want to.
    #[error("that member sends no snapshot: {0}")]
    Refused(String),
    /// The connection, or the other member, ended.
    #[error(
        "the transfer broke off after {received} of {total} bytes: {why}; it can go on from there"
    )]
    BrokenOff {
        /// Bytes of the file that are here.
        received: u64,
        /// Bytes of the file.
        total: u64,
        /// What was heard.
        why: String,
    },
    /// Nothing came for so long.
    #[error("nothing of the snapshot came for {} ms; try another member", .0.as_millis())]
    Silent(Duration),
    /// The checksum of a piece is wrong.
    #[error("the snapshot was damaged on its way, at byte {at}; try again")]
    DamagedOnItsWay {
        /// Where in the file the piece begins.
        at: u64,
    },
    /// It is not what its own checksums say.
    #[error("that member's copy is bad: {0}; try another member")]
    DamagedThere(#[source] ReadError),
    /// Something else than what was asked for.
    #[error("that member sent {0}; try another member")]
    NotAsAsked(&'static str),
    /// An offer that says nothing sensible.
    #[error("that member offers a snapshot that cannot be: {0}")]
    BadOffer(#[from] HeadError),
    /// This member's own disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

// === impl FetchError ===

impl FetchError {
    pub(super) fn of(status: &Status, id: SnapshotId) -> Self {
        match status.code() {
            Code::NotFound => Self::Gone(id),
            Code::ResourceExhausted => Self::SenderBusy,
            _ => Self::Refused(plain(status)),
        }
    }
}

/// The words of a status, or where it has none of its own, its causes.
pub(super) fn plain(status: &Status) -> String {
    if status.message().is_empty() {
        return status.code().description().to_owned();
    }
    causes(status)
}
