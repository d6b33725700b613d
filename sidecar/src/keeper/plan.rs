//! What becomes of the snapshots of a member: which of them may be used and which go, with which of them a
//! copy that must be made anew begins, where the log is cut, and what is wanted of other members. Pure: the
//! keeper looks, and does what this says.

use synod_mutant::{Mutant, planted};
use synod_paxos::Slot;

use crate::app::Instance;
use crate::apply::Verified;
use crate::snapshot::{SnapshotId, Standing};

/// A snapshot in the store of this member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub id: SnapshotId,
    /// Its slot.
    pub slot: Slot,
    /// Whether it may be used.
    pub standing: Standing,
    /// While that is open.
    pub compared: Compared,
}

/// What the comparison of the copies says of the state that is in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
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
pub enum Fate {
    /// It may be used.
    Verified,
    /// It is used without.
    Unverified,
    /// Nobody may use it.
    Discarded,
}

/// What a member has, and what it is to come from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scene<'a> {
    /// Its snapshots, oldest first.
    pub kept: &'a [Kept],
    /// With that of this slot a copy that must be made anew begins; 0: with the start of the log.
    pub base: Slot,
    /// It cannot, but with one of this slot or a later one.
    pub void: Option<Slot>,
    /// The newest that apply was told of.
    pub told: Slot,
    /// The log, or what stands for it, has come so far.
    pub reached: Slot,
    /// The log begins behind this slot.
    pub log_base: Slot,
    /// Apply reads no entries up to here.
    pub not_needed: Slot,
    /// The log has no room for two snapshots.
    pub nearly_full: bool,
    /// The log goes on only behind a snapshot of this slot or a later one.
    pub needs: Option<Slot>,
    /// Of a witness: so far enough copies have a state, by [`crate::snapshot::policy::held`]; `None`: it is none.
    pub held: Option<Slot>,
}

/// With what a copy that must be made anew can begin, unlike with what apply knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// This one.
    With(SnapshotId),
    /// The log, which is whole.
    WithNothing,
}

// === impl Compared ===

impl Compared {
    /// Of a snapshot at this slot; `maker`: whose state it is, if this process has made it.
    pub fn of(maker: Option<Instance>, slot: Slot, verified: Verified) -> Self {
        match maker {
            Some(maker) if verified.covers(maker, slot) => Self::Agrees,
            Some(maker) if verified.tolerates(maker, slot) => Self::OthersAway,
            Some(maker) if verified.is_of(maker) => Self::Open,
            _ => Self::Never,
        }
    }
}

// === impl Scene ===

impl Scene<'_> {
    fn usable(&self) -> impl DoubleEndedIterator<Item = &Kept> {
        self.kept.iter().filter(|it| it.standing.usable())
    }

    /// What apply builds on is gone, such as one that was damaged.
    pub fn base_is_lost(&self) -> bool {
        let is_here = self.usable().any(|it| it.slot == self.base);
        self.void.is_none() && self.base > Slot::ZERO && !is_here
    }

    /// Apply is to be told of this, if of anything: the newest that the log reaches; where the base is void,
    /// whatever can take its place.
    pub fn begin(&self) -> Option<Begin> {
        let from = self.void.map(|void| void.max(self.log_base));
        let from = from.unwrap_or(self.told.max(self.base).next());
        let newest = self.usable().rev().find(|it| it.slot <= self.reached);
        if let Some(newest) = newest.filter(|it| it.slot >= from) {
            return Some(Begin::With(newest.id));
        }
        (from == Slot::ZERO).then_some(Begin::WithNothing)
    }

    /// The log may be cut behind this one: the older of two, so that one may be damaged, as long as there is
    /// room for that; not behind what apply may still read; and of a witness, which has no state, not behind
    /// what the copies have just now (rule W5): who had one when this was saved may have lost it.
    pub fn cut(&self) -> Option<SnapshotId> {
        let mut newest = self.usable().rev();
        let last = newest.next();
        let older = if self.nearly_full {
            last
        } else {
            newest.next()
        };
        let held = |slot: Slot| self.held.is_none_or(|held| slot <= held);
        let unread = |slot: Slot| slot <= self.not_needed || planted(Mutant::LogIsCutUnderApply);
        let cuts = |it: &&Kept| it.slot > self.log_base && unread(it.slot) && held(it.slot);
        older.filter(cuts).map(|it| it.id)
    }

    /// A snapshot of this slot or a later one is needed from another member: the log lacks what no log has
    /// any more, or begins behind one that is lost here.
    pub fn needed(&self) -> Option<Slot> {
        let newest = self.usable().next_back().map(|it| it.slot);
        let is_lost = newest.unwrap_or_default() < self.log_base;
        self.needs.max(is_lost.then_some(self.log_base))
    }

    /// The same, where nobody may have one yet: a copy has nothing to begin with.
    pub fn lacked(&self) -> Option<Slot> {
        let void = self.void.filter(|_| self.begin().is_none());
        self.needed().max(void.map(|from| from.max(self.log_base)))
    }
}

/// `fills`: the log has no more room to wait for copies that are away (rule N2). `astray`: from this slot on
/// the copy was found to differ. `None`: it waits on, or does not wait.
pub fn fate(kept: &Kept, fills: bool, astray: Option<Slot>) -> Option<Fate> {
    let is_astray = astray.is_some_and(|astray| astray <= kept.slot);
    if kept.standing != Standing::Uncompared {
        return None;
    }
    match kept.compared {
        Compared::Agrees => Some(Fate::Verified),
        Compared::Never => Some(Fate::Discarded),
        _ if is_astray => Some(Fate::Discarded),
        Compared::Open if planted(Mutant::OpenCountsAsCompared) => Some(Fate::Verified),
        Compared::OthersAway if fills => Some(Fate::Unverified),
        Compared::OthersAway | Compared::Open => None,
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

    /// What the digits stand for: usable snapshots, of these slots.
    fn usable(slots: &[u64]) -> Vec<Kept> {
        let usable = slots.iter();
        usable
            .map(|slot| kept(*slot, Standing::Verified, Compared::Never))
            .collect()
    }

    fn scene(kept: &[Kept]) -> Scene<'_> {
        Scene {
            kept,
            reached: Slot(200),
            ..Scene::default()
        }
    }

    fn with(slot: u64) -> Begin {
        Begin::With(SnapshotId([u8::try_from(slot).expect("small"); 32]))
    }

    #[test]
    fn apply_is_told_once_of_the_newest_that_the_log_reaches() {
        let mut all = usable(&[10, 20]);
        all.push(kept(30, Standing::Uncompared, Compared::Open));
        let newest = Scene {
            base: Slot(10),
            told: Slot(10),
            ..scene(&all)
        };
        assert_eq!(newest.begin(), Some(with(20)));
        assert_eq!(
            Scene {
                told: Slot(20),
                ..newest
            }
            .begin(),
            None
        );
        assert_eq!(
            Scene {
                base: Slot(20),
                ..newest
            }
            .begin(),
            None
        );
        assert_eq!(
            Scene {
                reached: Slot(19),
                ..newest
            }
            .begin(),
            None
        );
        assert_eq!(scene(&[]).begin(), None);
    }

    #[test]
    fn where_the_base_is_void_another_takes_its_place_that_the_log_goes_on_from() {
        let all = usable(&[10, 20]);
        let void = |from: u64, log_base: u64| Scene {
            base: Slot(20),
            told: Slot(20),
            void: Some(Slot(from)),
            log_base: Slot(log_base),
            ..scene(&all)
        };
        assert_eq!(
            void(20, 10).begin(),
            Some(with(20)),
            "that of another member"
        );
        assert_eq!(void(21, 10).begin(), None);
        let older = |from, log_base| Scene {
            kept: &all[..1],
            ..void(from, log_base)
        };
        assert_eq!(older(10, 10).begin(), Some(with(10)));
        assert_eq!(older(10, 11).begin(), None, "the log is cut");
        assert_eq!(older(11, 10).begin(), None, "forgotten");
        let nothing = |from, log_base| Scene {
            kept: &[],
            ..void(from, log_base)
        };
        assert_eq!(nothing(0, 0).begin(), Some(Begin::WithNothing));
        assert_eq!(nothing(1, 0).begin(), None);
        assert_eq!(nothing(0, 1).begin(), None);
    }

    #[test]
    fn a_base_is_lost_when_no_usable_snapshot_is_there_in_its_place() {
        let mut all = usable(&[10, 20]);
        let lost = |kept: &[Kept], base: u64| {
            Scene {
                base: Slot(base),
                ..scene(kept)
            }
            .base_is_lost()
        };
        assert!(!lost(&all, 20) && !lost(&all, 10) && lost(&all, 15) && lost(&[], 15));
        assert!(!lost(&[], 0), "the start of the log");
        let known = Scene {
            void: Some(Slot(1)),
            base: Slot(15),
            ..scene(&all)
        };
        assert!(!known.base_is_lost(), "apply knows it");
        all[1].standing = Standing::Uncompared;
        assert!(lost(&all, 20));
    }

    #[test]
    fn the_log_is_cut_behind_the_older_of_two_that_apply_does_not_need() {
        let all = usable(&[10, 20, 30]);
        let id = |slot: u8| Some(SnapshotId([slot; 32]));
        let cut = Scene {
            not_needed: Slot(30),
            ..scene(&all)
        };
        assert_eq!(cut.cut(), id(20));
        assert_eq!(
            Scene {
                nearly_full: true,
                ..cut
            }
            .cut(),
            id(30)
        );
        assert_eq!(
            Scene {
                not_needed: Slot(19),
                ..cut
            }
            .cut(),
            None
        );
        assert_eq!(
            Scene {
                log_base: Slot(20),
                ..cut
            }
            .cut(),
            None
        );
        assert_eq!(
            Scene {
                kept: &all[..1],
                ..cut
            }
            .cut(),
            None
        );
        let one = Scene {
            kept: &all[..1],
            nearly_full: true,
            ..cut
        };
        assert_eq!(one.cut(), id(10));
    }

    #[test]
    fn w5_a_witness_cuts_its_log_behind_nothing_that_too_few_copies_have_by_now() {
        let all = usable(&[10, 20, 30]);
        let cut = Scene {
            not_needed: Slot(30),
            held: Some(Slot(20)),
            ..scene(&all)
        };
        assert_eq!(cut.cut(), Some(SnapshotId([20; 32])));
        for (held, nearly_full) in [(19, false), (29, true), (0, true)] {
            let held = Some(Slot(held));
            let cut = Scene {
                nearly_full,
                held,
                ..cut
            };
            assert_eq!(cut.cut(), None, "{held:?}");
        }
    }

    #[test]
    fn another_members_is_wanted_for_a_log_or_a_copy_that_cannot_go_on_and_not_otherwise() {
        let all = usable(&[10]);
        let whole = Scene {
            base: Slot(10),
            told: Slot(10),
            log_base: Slot(10),
            ..scene(&all)
        };
        assert_eq!((whole.needed(), whole.lacked()), (None, None));
        let behind = Scene {
            needs: Some(Slot(40)),
            ..whole
        };
        assert_eq!(
            (behind.needed(), behind.lacked()),
            (Some(Slot(40)), Some(Slot(40)))
        );
        let lost = Scene {
            log_base: Slot(11),
            ..whole
        };
        assert_eq!(
            (lost.needed(), lost.lacked()),
            (Some(Slot(11)), Some(Slot(11)))
        );
        let void = Scene {
            void: Some(Slot(12)),
            ..whole
        };
        assert_eq!((void.needed(), void.lacked()), (None, Some(Slot(12))));
        let cut = Scene {
            void: Some(Slot(8)),
            base: Slot(20),
            kept: &[],
            ..whole
        };
        assert_eq!(
            cut.lacked(),
            Some(Slot(10)),
            "what lies behind the log is of no use"
        );
        let older = Scene {
            void: Some(Slot(8)),
            base: Slot(20),
            ..whole
        };
        assert_eq!(older.lacked(), None, "it has one");
    }
}
