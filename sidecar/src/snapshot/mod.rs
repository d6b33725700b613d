//! Making, keeping, sending and restoring snapshots.

mod draft;
mod findings;
mod format;
mod head;
pub mod http;
mod names;
pub mod policy;
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
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it who waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
