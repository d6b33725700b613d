//! Making, keeping, sending and restoring snapshots.
//!
//! In: what the apply machine remembers at a slot (the tables, opaque here), and the app's state,
//! by HTTP or as a volume. Out: files that stand for the log up to that slot, at this member and
//! others; and apps that hold what such a file says. Nothing here decides when a snapshot is due or
//! whether it may be relied on: [`policy`] is asked, and [`Standing`] is told.
//!
//! How one is made:
//!
//! ```text
//! policy::next_turn           this member's turn: apply ends what runs and feeds no further slot
//! HttpSnapshots::settle       the app has nothing left to do behind its responses
//!   ├─ HttpSnapshots::save    its state comes as a response ──────────────┐
//!   └─ Volume::stage          all of it is looked at, or copied           │
//!      Staged::pack           a tar of it, into Store::begin's ───────► Draft
//!                             apply goes on: after `save`; after `stage` if it is `frozen`,
//!                             else after `pack`
//! Draft::finish               synced, read back, compared, named: a Snapshot, `Uncompared`
//! Store::mark_verified        the slots' digests agreed: it is offered, the log is cut behind it
//! Store::retain               older ones go
//! ```
//!
//! How one is used:
//!
//! ```text
//! Fetcher::list               what the other members offer
//! policy::best_source         one of these
//! Fetcher::fetch              the rest of it comes, is checked, and is in this Store
//! Store::read                 a StateReader, once for the app:
//!   ├─ HttpSnapshots::restore it takes its state, or
//!   └─ Volume::restore        finds it on its volume when it starts; after each start before
//!                             that: Volume::interrupted
//! StateReader::tables         and once for the apply machine, which goes on behind that slot
//! ```
//!
//! Every step can fail with a reason, or be dropped, and leaves what was there before: only a
//! restore that has begun to change the app leaves an app that must not serve.

mod draft;
mod findings;
mod format;
mod head;
pub mod http;
mod names;
pub mod policy;
mod read_back;
mod reader;
mod retention;
mod space;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
pub mod transfer;
pub mod volume;
mod walk;

pub use draft::Draft;
pub use findings::Finding;
pub use head::{Head, HeadError, Method, SnapshotId, StateDigest};
pub use reader::StateReader;
pub use store::{Snapshot, Standing, Store, StoreError};
pub use walk::ReadError;

/// Runs `work` on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it who waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
