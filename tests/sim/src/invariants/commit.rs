//! I5: `commit <= last`, and a member's commit never decreases; and the first half of I6:
//! `applied <= commit`.
//!
//! Source: van Renesse, Altinbuken, *Paxos Made Moderately Complex* (2015), section 2 (a decision
//! is for ever); the bug class "a late promise lowers commit" (omnipaxos before 0.2.4).

use synod_paxos::Slot;

use super::Violation;

/// Per member, the highest commit and applied of this life.
#[derive(Debug)]
pub(crate) struct Commit {
    commit: Vec<Slot>,
    applied: Vec<Slot>,
}

// === impl Commit ===

impl Commit {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            commit: vec![Slot::ZERO; members],
            applied: vec![Slot::ZERO; members],
        }
    }

    /// After each step of a running member. True when its commit has moved.
    pub(crate) fn step(
        &mut self,
        member: usize,
        last: Slot,
        commit: Slot,
        applied: Slot,
    ) -> Result<bool, Violation> {
        let old = self.commit[member];
        if commit > last || commit < old {
            return Err(Violation::new(
                "I5",
                format!(
                    "member {} has commit {commit} after {old}, last slot {last}",
                    member + 1
                ),
            ));
        }
        if applied > commit {
            return Err(Violation::new(
                "I6",
                format!(
                    "member {} applied {applied} beyond its commit {commit}",
                    member + 1
                ),
            ));
        }
        self.commit[member] = commit;
        self.applied[member] = applied;
        Ok(commit > old)
    }

    /// A new life begins. What it knew to be chosen may be forgotten: the stored commit is a hint.
    pub(crate) fn restart(&mut self, member: usize) {
        self.commit[member] = Slot::ZERO;
        self.applied[member] = Slot::ZERO;
    }
}
