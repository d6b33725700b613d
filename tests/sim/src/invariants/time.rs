//! P5: agreed time is never later than the clocks of a majority, as long as no majority is set.
//!
//! Source: Marzullo, Owicki, *Maintaining the Time in a Distributed System* (PODC 1983): what a
//! majority of clocks has in common is right as long as a majority is. (That time never goes back is
//! checked beside I11, that it does not stay behind for ever in the liveness phase.)

use synod_paxos::{AgreedTime, Entry};

use super::Violation;

/// The true clocks of a group whose wall clocks are not set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Right {
    /// What the latest of them reads.
    pub(crate) latest_ns: u64,
    /// How far a clock can have drifted from another since the run began.
    pub(crate) drift_ns: u64,
}

/// Stamps of one moment are apart by a nanosecond each.
const SLACK_NS: u64 = 1_000_000;

/// A leader has stamped an entry, just now.
pub(crate) fn stamped(member: usize, entry: &Entry, right: Right) -> Result<(), Violation> {
    let Right {
        latest_ns,
        drift_ns,
    } = right;
    if entry.time <= AgreedTime(latest_ns + drift_ns + SLACK_NS) {
        return Ok(());
    }
    Err(Violation::new(
        "P5",
        format!(
            "member {} stamps slot {} with {:.3} s more than the latest right clock reads",
            member + 1,
            entry.slot,
            (entry.time.0 - latest_ns) as f64 / 1e9
        ),
    ))
}
