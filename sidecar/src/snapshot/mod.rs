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

use tokio::sync::oneshot;

pub use draft::Draft;
pub use findings::Finding;
pub use head::{Head, HeadError, Method, SnapshotId, StateDigest};
pub use reader::StateReader;
pub use store::{Snapshot, Standing, Store, StoreError};
pub use walk::ReadError;

/// What is large is synced whenever so much of it was written, in bytes: a log on the same disk that syncs
/// meanwhile waits for one such piece at most, and not for all that is in memory by then.
const SYNC_BYTES: u64 = 4 << 20;

/// How much less of a processor that is in demand such work gets: about a tenth of what the rest does, so
/// that it comes to its end however busy the machine is.
const NICE: i32 = 10;

/// Runs `work` on a thread of its own that may block, and that leaves the processors to whoever waits for
/// an answer: for what makes much work that nobody waits for. It is done even if nobody awaits it.
pub(crate) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("snapshots".to_owned());
    let started = thread.spawn(move || {
        give_way();
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // Nobody may be waiting any more.
        let _ = done.send(worked);
    });
    started.expect("a thread can be started");
    match result.await.expect("the thread sends before it ends") {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// On Linux, this is of a thread, and for ever: therefore no thread of the runtime's.
fn give_way() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!(%error, "a thread does not give way");
    }
}

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

#[cfg(test)]
mod background_tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_gives_way_and_nothing_else_does() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let within = in_background(nice).await;
        assert_eq!(within, (before + NICE).min(19));
        assert_eq!(blocking(nice).await, before);
        assert_eq!(nice(), before);
    }

    #[tokio::test]
    #[should_panic(expected = "as it was said")]
    async fn its_panic_is_that_of_whoever_waits() {
        in_background(|| panic!("as it was said")).await;
    }
}
