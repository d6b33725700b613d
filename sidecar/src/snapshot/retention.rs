//! Which snapshots are kept. Pure.

use synod_paxos::Slot;

use super::store::Standing;

/// Usable ones that are kept: the log may be cut behind the older, and if the newer turns out to be
/// damaged, there is the older.
const KEPT: usize = 2;

/// What may go, oldest first, of snapshots given oldest first. Of those that wait for their comparison, the
/// first stays until it is over, however fast new ones come, and the last, which is worth most.
pub(super) fn superfluous(snapshots: &[(Slot, Standing)]) -> Vec<Slot> {
    let usable = |(_, standing): &&(Slot, Standing)| standing.usable();
    let newest = snapshots.iter().rposition(|it| it.1.usable());
    let (older, waiting) = snapshots.split_at(newest.map_or(0, |at| at + 1));
    let surplus = older.iter().filter(usable).count().saturating_sub(KEPT);
    let first_kept = older.iter().filter(usable).nth(surplus);
    let go_older = older
        .iter()
        .filter(|it| !it.1.usable() || first_kept.is_some_and(|kept| it.0 < kept.0));
    let inner = waiting.get(1..waiting.len().saturating_sub(1));
    let go = go_older.chain(inner.into_iter().flatten());
    go.map(|(slot, _)| *slot).collect()
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
        assert_eq!(left("v????"), "v?..?");
        assert_eq!(left("uv????"), "uv?..?");
    }

    #[test]
    fn what_is_being_compared_is_not_thrown_away_because_new_ones_come() {
        assert_eq!(left("?"), "?");
        assert_eq!(left("??"), "??");
        assert_eq!(left("????"), "?..?");
        assert_eq!(left("v?"), "v?");
        assert_eq!(left("v??"), "v??");
    }
}
