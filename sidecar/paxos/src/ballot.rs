//! Ballots: who proposes, and in which attempt.

use crate::types::{Ballot, Epoch, MemberId};

impl Ballot {
    /// More attempts than there will ever be: whoever says so lies.
    const ROUNDS: u64 = 1 << 62;

    /// What everybody has promised when an epoch without a first leader begins (rule M5).
    pub const fn none(epoch: Epoch) -> Self {
        Self {
            epoch,
            round: 0,
            node: MemberId(0),
        }
    }

    /// The first ballot of `node` above this one, in the same epoch.
    pub(crate) fn above(self, node: MemberId) -> Self {
        Self {
            epoch: self.epoch,
            round: self.round.saturating_add(1),
            node,
        }
    }

    /// A ballot that members of `epoch` may have come to by counting.
    pub(crate) fn is_of(self, epoch: Epoch) -> bool {
        self.epoch == epoch && self.round < Self::ROUNDS
    }

    /// Somebody may propose in it: in round 0 the first leader that the configuration names, in all
    /// others whoever got through phase 1.
    pub(crate) fn is_elected(self) -> bool {
        self.node != MemberId(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_are_ordered_by_epoch_then_round_then_node() {
        let ballot = |epoch, round, node| Ballot {
            epoch: Epoch(epoch),
            round,
            node: MemberId(node),
        };
        assert!(ballot(1, 9, 9) < ballot(2, 0, 0));
        assert!(ballot(1, 1, 9) < ballot(1, 2, 1));
        assert!(ballot(1, 2, 1) < ballot(1, 2, 2));
        assert!(ballot(1, 2, 3).above(MemberId(1)) > ballot(1, 2, 3));
    }

    #[test]
    fn nobody_proposes_in_the_ballot_of_genesis() {
        assert!(!Ballot::none(Epoch(1)).is_elected());
        assert!(Ballot::none(Epoch(1)).above(MemberId(1)).is_elected());
    }
}
