//! I11: epochs are totally ordered along the log, and a stop-sign is the last slot of its epoch.
//!
//! Source: Lamport, Malkhi, Zhou, *Reconfiguring a State Machine* (2010), stoppable Paxos. Agreed
//! time, which never goes back along the log, is checked in the same place.

use synod_paxos::{CommandKind, Entry};

use super::Violation;

/// `entry` may stand right behind `before`.
pub(crate) fn follows(before: &Entry, entry: &Entry) -> Result<(), Violation> {
    let (old, new) = (before.ballot.epoch, entry.ballot.epoch);
    let stopped = before.command.kind == CommandKind::RECONFIGURE;
    if new < old || (stopped && new == old) || (!stopped && new > old) {
        return Err(Violation::new(
            "I11",
            format!(
                "slot {} of epoch {new} stands behind one of epoch {old}",
                entry.slot
            ),
        ));
    }
    if entry.time < before.time {
        return Err(Violation::new(
            "P5",
            format!("agreed time goes back at slot {}", entry.slot),
        ));
    }
    Ok(())
}
