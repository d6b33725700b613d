//! For the simulator: a copy's side of the comparison, without the task that makes the digests of
//! responses.

use synod_paxos::Slot;

use super::digesting::{Compared, Verified, Word};
use super::digests::{Batch, Digest};
use super::divergence::Mark;
use super::machine::Machine;

/// What the copy of one process has answered, and what it was told about that.
#[derive(Debug)]
pub struct Side(Compared);

// === impl Side ===

impl Side {
    /// `salt` tells this process' states from those of others.
    pub fn new(salt: u64) -> Self {
        Self(Compared::new(salt))
    }

    /// To be called after each change of the machine.
    pub fn reached(&self, machine: &Machine) {
        self.0.reached(machine);
    }

    /// The app has answered this slot; before the machine hears of it.
    pub fn executed(&self, slot: Slot, digest: Digest) {
        self.0.executed(slot, digest);
    }

    /// What [`Machine::handle_astray`] must hear, and the ledger have, before this is
    /// [noted](Side::noted) and the word answered.
    pub fn to_note(&self, word: &Word) -> Option<(u64, Option<Mark>)> {
        self.0.to_note(word)
    }

    /// It is in the ledger.
    pub fn noted(&self, lineage: u64, mark: Option<Mark>) {
        self.0.noted(lineage, mark);
    }

    /// Takes the leader's word, and gives `max` digests at most.
    pub fn answer(&self, word: &Word, max: usize) -> Batch {
        self.0.answer(word, max)
    }

    /// Up to where the copy is vouched for.
    pub fn verified(&self) -> Verified {
        *self.0.verified().borrow()
    }
}
