//! I3: one value per (ballot, slot) in the whole group.
//!
//! Source: Lamport, *Paxos Made Simple* (2001), section 2.2, P2b: a proposal is a value with a
//! number of its own.

use std::collections::BTreeMap;

use synod_paxos::{Ballot, Entry, Slot};

use super::Violation;

/// Every entry that any member ever wrote, by slot and ballot.
#[derive(Debug, Default)]
pub(crate) struct OneValue {
    seen: BTreeMap<(Slot, Ballot), Entry>,
}

// === impl OneValue ===

impl OneValue {
    /// A member writes an entry, as its own proposal, another's, or adopted.
    pub(crate) fn written(&mut self, member: usize, entry: &Entry) -> Result<(), Violation> {
        match self.seen.get(&(entry.slot, entry.ballot)) {
            None => {
                self.seen.insert((entry.slot, entry.ballot), entry.clone());
                Ok(())
            }
            Some(first) if first == entry => Ok(()),
            Some(first) => Err(Violation::new(
                "I3",
                format!(
                    "member {} writes {} at slot {} in ballot {}, where {} was proposed",
                    member + 1,
                    entry.command.id,
                    entry.slot,
                    entry.ballot,
                    first.command.id
                ),
            )),
        }
    }
}
