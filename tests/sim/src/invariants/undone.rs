//! I15: nothing that was answered to a client is ever undone.
//!
//! A write that was answered lies at a slot that a quorum has synced, at that very moment; I4 sees
//! to it that the slot never changes after that. Source: the promise of the whole product; the bug
//! class "answer before commit" (Redpanda 3036).

use synod_paxos::Slot;

use super::Violation;
use super::chosen::Chosen;

/// A client is told that its write is at `slot`.
pub(crate) fn answered(op: u64, slot: Slot, chosen: &Chosen) -> Result<(), Violation> {
    if slot > chosen.through() {
        return Err(Violation::new(
            "I15",
            format!(
                "operation {op} was answered at slot {slot}, and only {} is chosen",
                chosen.through()
            ),
        ));
    }
    Ok(())
}
