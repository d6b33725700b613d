//! What becomes of the snapshots of a member. Pure: the keeper looks, and does what this says.

use synod_paxos::Slot;

use crate::snapshot::{SnapshotId, Standing};

/// A snapshot in the store of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) id: SnapshotId,
    pub(super) slot: Slot,
    pub(super) standing: Standing,
    /// While that is open.
    pub(super) compared: Compared,
}

/// What the comparison of the copies says of the state that is in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// A majority vouches for it.
    Agrees,
    /// Nobody does yet, and those that could are away.
    OthersAway,
    /// Nobody does yet.
    Open,
    /// The copy that it is of is not there any more.
    Never,
}

/// What becomes of a snapshot that waits for its comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Verified,
    Unverified,
    Discarded,
}

/// `fills`: the log has no more room to wait for copies that are away (rule N2). `astray`: from this slot on
/// the copy was found to differ. `None`: it waits on, or does not wait.
pub(super) fn fate(kept: &Kept, fills: bool, astray: Option<Slot>) -> Option<Fate> {
    let is_astray = astray.is_some_and(|astray| astray <= kept.slot);
    match (kept.standing, kept.compared) {
        (Standing::Verified | Standing::Unverified, _) => None,
        (Standing::Uncompared, Compared::Agrees) => Some(Fate::Verified),
        (Standing::Uncompared, Compared::Never) => Some(Fate::Discarded),
        (Standing::Uncompared, _) if is_astray => Some(Fate::Discarded),
        (Standing::Uncompared, Compared::OthersAway) if fills => Some(Fate::Unverified),
        (Standing::Uncompared, Compared::OthersAway | Compared::Open) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(slot: u64, standing: Standing, compared: Compared) -> Kept {
        Kept {
            id: SnapshotId([u8::try_from(slot).expect("small"); 32]),
            slot: Slot(slot),
            standing,
            compared,
        }
    }

    #[test]
    fn what_was_not_compared_is_used_only_if_the_log_fills_and_nobody_is_there_to_object() {
        let fate = |compared, fills, astray: Option<u64>| {
            let kept = kept(9, Standing::Uncompared, compared);
            fate(&kept, fills, astray.map(Slot))
        };
        for fills in [false, true] {
            let is_used = fills.then_some(Fate::Unverified);
            for astray in [None, Some(10)] {
                assert_eq!(fate(Compared::Agrees, fills, astray), Some(Fate::Verified));
                assert_eq!(fate(Compared::OthersAway, fills, astray), is_used);
                assert_eq!(fate(Compared::Open, fills, astray), None);
                assert_eq!(fate(Compared::Never, fills, astray), Some(Fate::Discarded));
            }
            for compared in [Compared::OthersAway, Compared::Open, Compared::Never] {
                assert_eq!(fate(compared, fills, Some(9)), Some(Fate::Discarded));
            }
        }
    }

    #[test]
    fn what_is_usable_stays_what_it_is() {
        for standing in [Standing::Verified, Standing::Unverified] {
            let kept = kept(9, standing, Compared::Never);
            assert_eq!(fate(&kept, true, Some(Slot(10))), None);
        }
    }
}
