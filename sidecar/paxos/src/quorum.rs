//! Quorums are a type, checked where they are made (rule P4).

/// How many voters decide, per phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quorums {
    /// More than half of the voters, in both phases.
    Majority,
    /// Flexible Paxos (Howard, Malkhi, Spiegelman 2016): `phase1 + phase2 > voters`.
    Flexible { phase1: u32, phase2: u32 },
}

impl Quorums {
    /// Both phases meet in at least one voter, and can be reached.
    pub fn fit(self, voters: usize) -> bool {
        let (phase1, phase2) = (self.phase1(voters), self.phase2(voters));
        let reachable = 1..=voters;
        reachable.contains(&phase1) && reachable.contains(&phase2) && phase1 + phase2 > voters
    }

    /// Voters needed for a promise: Prepare, quorum reads.
    pub fn phase1(self, voters: usize) -> usize {
        match self {
            Self::Majority => voters / 2 + 1,
            Self::Flexible { phase1, .. } => phase1 as usize,
        }
    }

    /// Voters needed to choose: commit, leader health, step-down.
    pub fn phase2(self, voters: usize) -> usize {
        match self {
            Self::Majority => voters / 2 + 1,
            Self::Flexible { phase2, .. } => phase2 as usize,
        }
    }
}

/// The highest value that `quorum` of `values` have reached; sorts them.
pub(crate) fn reached<T: Copy + Ord + Default>(values: &mut [T], quorum: usize) -> T {
    assert!(quorum > 0, "a quorum has members");
    if values.len() < quorum {
        return T::default();
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[quorum - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_that_need_not_meet_do_not_fit() {
        assert!(
            Quorums::Flexible {
                phase1: 3,
                phase2: 2
            }
            .fit(4)
        );
        assert!(
            !Quorums::Flexible {
                phase1: 2,
                phase2: 2
            }
            .fit(4)
        );
        assert!(
            !Quorums::Flexible {
                phase1: 5,
                phase2: 1
            }
            .fit(4)
        );
        assert!(
            !Quorums::Flexible {
                phase1: 4,
                phase2: 0
            }
            .fit(4)
        );
        assert!(!Quorums::Majority.fit(0));
        assert!((1..9).all(|voters| Quorums::Majority.fit(voters)));
    }

    #[test]
    fn a_value_is_reached_when_a_quorum_has_it() {
        assert_eq!(reached(&mut [3, 9, 5], 2), 5);
        assert_eq!(reached(&mut [3, 9, 5], 3), 3);
        assert_eq!(reached(&mut [7], 1), 7);
        assert_eq!(reached(&mut [7], 2), 0);
    }
}
