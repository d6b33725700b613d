//! Which snapshots are kept. Pure.

use synod_paxos::Slot;

use super::store::Standing;

/// Usable ones that are kept: the log may be cut behind the older, and if the newer turns out to be
/// damaged, there is the older.
const KEPT: usize = 2;
/// Newer ones that are kept while they wait for their comparison.
const WAITING: usize = 2;

/// What may go, oldest first, of snapshots given oldest first.
pub(super) fn superfluous(snapshots: &[(Slot, Standing)]) -> Vec<Slot> {
    let (mut usable, mut waiting) = (0, 0);
    let mut go = Vec::new();
    for (slot, standing) in snapshots.iter().rev() {
        let kept = if standing.usable() {
            usable += 1;
            usable <= KEPT
        } else {
            waiting += 1;
            usable == 0 && waiting <= WAITING
        };
        if !kept {
            go.push(*slot);
        }
    }
    go.reverse();
    go
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `v` verified, `u` unverified, `?` not compared, at slots 1, 2, ..
    fn left(snapshots: &str) -> String {
        let standing = |letter| match letter {
            'v' => Standing::Verified,
            'u' => Standing::Unverified,
            _ => Standing::Uncompared,
        };
        let all: Vec<_> = (1..)
            .zip(snapshots.chars())
            .map(|(slot, letter)| (Slot(slot), standing(letter)))
            .collect();
        let go = superfluous(&all);
        assert!(go.is_sorted(), "oldest first");
        let stays = |(slot, letter)| {
            if go.contains(&Slot(slot)) {
                '.'
            } else {
                letter
            }
        };
        (1..).zip(snapshots.chars()).map(stays).collect()
    }

    #[test]
    fn the_two_newest_usable_snapshots_are_kept_and_newer_ones_may_wait() {
        assert_eq!(left(""), "");
        assert_eq!(left("v"), "v");
        assert_eq!(left("vvv"), ".vv");
        assert_eq!(left("vuvv"), "..vv");
        assert_eq!(left("v?v"), "v.v");
    }

    #[test]
    fn the_only_good_one_is_kept_however_many_come_after_it() {
        assert_eq!(left("v????"), "v..??");
        assert_eq!(left("uv????"), "uv..??");
        assert_eq!(left("????"), "..??");
    }
}
