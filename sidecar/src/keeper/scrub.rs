//! Reads this member's snapshots again and again, slowly, so that damage is found while there is another
//! (rule W5). What is damaged is set aside; the keeper sees that it is gone, and has another take its place.

use std::time::Duration;

use tokio::time::sleep;

use super::tell_finding;
use crate::snapshot::Store;

/// Read in a second, at most, in bytes: what clients need of the disk comes first.
const RATE: u64 = 16 << 20;

/// Reads all of them, once every `period`. Runs until it is dropped.
pub(super) async fn run(store: Store, period: Duration) {
    loop {
        // Members that were started together do not read at the same time.
        sleep(period.mul_f64(rand::random_range(0.75..1.0))).await;
        match store.scrub(RATE).await {
            Ok(findings) => findings.iter().for_each(tell_finding),
            Err(error) => tracing::error!(%error, "the snapshots cannot be read"),
        }
    }
}
