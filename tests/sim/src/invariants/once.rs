//! I13: a command takes effect at most once, whatever was retried, resent or sent through several
//! members.
//!
//! Source: Ongaro, *Consensus: Bridging Theory and Practice* (2014), section 6.3; the bug class
//! "duplicate execution by retry or forward" (Redpanda 3039, rqlite 1628).

use std::collections::BTreeMap;

use synod_paxos::Slot;

use super::Violation;

/// The slot at which each operation of a client took effect.
#[derive(Debug, Default)]
pub(crate) struct Once {
    executed: BTreeMap<u64, Slot>,
}

// === impl Once ===

impl Once {
    /// The first copy executed `slot`, which carries `op`.
    pub(crate) fn executed(&mut self, slot: Slot, op: u64) -> Result<(), Violation> {
        match self.executed.insert(op, slot) {
            None => Ok(()),
            Some(first) => Err(Violation::new(
                "I13",
                format!("operation {op} took effect at slot {first} and again at slot {slot}"),
            )),
        }
    }

    /// Where an operation took effect, if it did.
    pub(crate) fn slot_of(&self, op: u64) -> Option<Slot> {
        self.executed.get(&op).copied()
    }
}
