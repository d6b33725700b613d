//! What apply needs of whoever keeps the app's states: snapshots that are taken, put back and asked
//! for. Apply says when; what a snapshot is made of, where it is and how it comes to other members is
//! not its matter.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use synod_paxos::Slot;

use super::Fold;
use crate::app::Instance;

/// Keeps the app's states.
pub trait States: Send + Sync + 'static {
    /// The tables of the newest snapshot that may be used, as [`Take::tables`] were saved. Asked once,
    /// when apply begins; later ones are told by
    /// [`ApplyHandle::snapshot_available`](super::ApplyHandle::snapshot_available).
    fn latest(&self) -> Option<Bytes>;

    /// Whether a [`States::restore_volume`] was begun in an earlier life, perhaps before the machine
    /// died, and never ended. Noted durably before the first file is touched.
    fn half_restored(&self) -> bool {
        false
    }

    /// Puts the state of the snapshot at this slot into the instance, and nothing into any other:
    /// the process is looked up on each connection before the first byte is sent.
    fn restore(
        self: Arc<Self>,
        slot: Slot,
        instance: Instance,
    ) -> impl Future<Output = Result<(), RestoreError>> + Send + 'static;

    /// Puts the app's volume back as it was in the snapshot at this slot; at slot 0, as it was before
    /// the first request. Called only while no app runs. A second one may be asked for after the first
    /// was dropped: what is left of that must not get in its way. All is on disk when it returns.
    fn restore_volume(
        self: Arc<Self>,
        slot: Slot,
    ) -> impl Future<Output = Result<(), StateError>> + Send + 'static;

    /// Asks the instance, and no other, which slot its state contains. `None`: it gives no answer that
    /// makes sense, within a limit in time.
    fn ask_applied(
        self: Arc<Self>,
        instance: Instance,
    ) -> impl Future<Output = Option<Slot>> + Send + 'static;

    /// Takes a snapshot, of which nothing counts before [`States::settle`]. When dropped before its
    /// end, nothing is left of it.
    fn take(
        self: Arc<Self>,
        take: Take,
    ) -> impl Future<Output = Result<(), StateError>> + Send + 'static;

    /// For how long a [`States::take`] may go on before it ends itself; `None`: it has no limit of its own.
    fn take_limit(&self) -> Option<Duration> {
        None
    }

    /// After each [`States::take`] that went well: whether what was taken is the state of its slot. If
    /// not, or if this is never called, it must not be used.
    fn settle(&self, slot: Slot, good: bool);

    /// The snapshot at this slot has executed what nobody should have (rule K2): it may neither be used nor
    /// given to others. Get another one.
    fn void(&self, slot: Slot);

    /// The copy differs from others from this slot on: none of its snapshots from there on that was not
    /// compared may be used or given to others, in this process or a later one. Get another one, if the
    /// newest was among them.
    fn void_since(&self, slot: Slot);
}

/// A snapshot to be taken.
#[derive(Clone, Debug)]
pub struct Take {
    /// Its slot: the last that is part of it.
    pub slot: Slot,
    /// The process whose state it is, and no other.
    pub instance: Instance,
    /// All that every copy decides alike: saved ([`Fold::save`]) it is kept with the snapshot, and equal
    /// on all members.
    pub tables: Box<Fold>,
}

/// Why no state could be put back, taken or read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StateError(pub String);

/// Why a state could not be put into an app.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Nothing of it has reached the app.
    #[error("{0}")]
    NotBegun(String),
    /// Some of it may have.
    #[error("{0}")]
    Begun(String),
}

/// Without a method for snapshots: there never is one, and the whole log is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSnapshots;

const NO_METHOD: &str = "the service has no method for snapshots (state.snapshot.type)";

impl States for NoSnapshots {
    fn latest(&self) -> Option<Bytes> {
        None
    }

    async fn restore(self: Arc<Self>, _: Slot, _: Instance) -> Result<(), RestoreError> {
        Err(RestoreError::NotBegun(NO_METHOD.to_owned()))
    }

    async fn restore_volume(self: Arc<Self>, _: Slot) -> Result<(), StateError> {
        Err(StateError(NO_METHOD.to_owned()))
    }

    async fn ask_applied(self: Arc<Self>, _: Instance) -> Option<Slot> {
        None
    }

    async fn take(self: Arc<Self>, _: Take) -> Result<(), StateError> {
        Err(StateError(NO_METHOD.to_owned()))
    }

    fn settle(&self, _: Slot, _: bool) {}

    fn void(&self, _: Slot) {}

    fn void_since(&self, _: Slot) {}
}
