//! Random groups.

use super::*;
use crate::apply::dice::Dice;

/// All digests of one run: each member's, by slot, some of them lost.
struct Group {
    copies: u32,
    said: BTreeMap<u32, BTreeMap<u64, Response>>,
    astray: Option<(u32, u64)>,
    noise: bool,
}

const SLOTS: u64 = 60;

impl Group {
    fn new(dice: &mut Dice) -> Self {
        let copies = 3 + dice.below(3) as u32;
        let astray = (dice.below(2) == 0)
            .then(|| (1 + dice.below(copies.into()) as u32, 1 + dice.below(SLOTS)));
        let noise = dice.below(2) == 0;
        let mut said = BTreeMap::new();
        for member in 1..=copies {
            let mut own = BTreeMap::new();
            for slot in 1..=SLOTS {
                let lost = astray.is_some_and(|(it, from)| it == member && slot >= from);
                let body = if lost { "astray" } else { "done" };
                let etag = if noise && slot % 3 == 0 {
                    format!("{slot}-{member}")
                } else {
                    slot.to_string()
                };
                let status = 200;
                let body = format!("{body} {slot}");
                own.insert(slot, Response { status, etag, body });
            }
            said.insert(member, own);
        }
        Self {
            copies,
            said,
            astray,
            noise,
        }
    }

    /// Hands all in, in a random order between members and in batches of random size.
    fn hand_in(&self, dice: &mut Dice) -> Comparer {
        let mut comparer = comparer(self.copies, OnDivergence::Quarantine);
        let mut through: BTreeMap<u32, u64> = (1..=self.copies).map(|it| (it, 0)).collect();
        while through.values().any(|it| *it < SLOTS) {
            let member = 1 + dice.below(self.copies.into()) as u32;
            let from = through[&member];
            let to = (from + 1 + dice.below(9)).min(SLOTS);
            let digests = self.said[&member].range(from + 1..);
            let digests = digests.take_while(|(slot, _)| **slot <= to);
            let digests = digests
                .map(|(slot, it)| (Slot(*slot), digest(it)))
                .collect();
            let batch = Batch {
                through: Slot(to),
                digests,
                ..answering(&comparer, member)
            };
            comparer.handle_batch(id(member), batch);
            through.insert(member, to);
            let verified = comparer.verified(id(member)).0;
            let (astray, first) = self.astray.unwrap_or((0, SLOTS + 1));
            assert!(astray != member || verified < first);
            assert!(verified <= to);
        }
        comparer
    }
}

#[test]
fn in_whatever_order_digests_come_only_the_copy_that_went_astray_is_named() {
    let (mut astray, mut noise) = (0, 0);
    for seed in 1..=300 {
        let mut dice = Dice(seed * 0x9E37_79B9);
        let group = Group::new(&mut dice);
        let mut comparer = group.hand_in(&mut dice);
        let mut told = verdicts(&mut comparer);
        if group.noise {
            let at = told.iter().position(|it| *it == noisy(3, etag_part()));
            told.remove(at.expect("noise is told, and where it was first"));
            noise += 1;
        }
        assert_eq!(told.len(), usize::from(group.astray.is_some()));
        if let Some((member, first)) = group.astray {
            // Where noise is not known yet, the next slot is compared first.
            let at = |slot| odd(member, slot, Part::Body, OnDivergence::Quarantine);
            let is_told = (first..=first + 1).any(|slot| told[0] == at(slot));
            assert!(is_told, "seed {seed}: {told:?}");
            astray += 1;
        }
        for member in 1..=group.copies {
            let expected = match group.astray {
                Some((it, first)) if it == member => first - 1,
                _ => SLOTS,
            };
            assert_eq!(comparer.verified(id(member)), Slot(expected), "seed {seed}");
        }
        assert_eq!(comparer.finished(), Slot(SLOTS));
        assert!(comparer.pending.is_empty());
    }
    assert!(astray > 100 && noise > 100, "{astray}, {noise}");
}

#[test]
fn never_more_than_a_minority_is_out_and_always_one_can_serve() {
    let mut taken = 0;
    for seed in 1..=300 {
        let mut dice = Dice(seed * 0x9E37_79B9);
        let copies = 1 + dice.below(6) as u32;
        let mut comparer = comparer(copies, OnDivergence::Quarantine);
        let mut serving = ids(1..=copies);
        let mut out: BTreeSet<MemberId> = BTreeSet::new();
        for slot in 1..=100 {
            match dice.below(6) {
                0 => {
                    serving = ids((1..=copies).filter(|_| dice.below(3) > 0));
                    comparer.handle_copies(ids(1..=copies), serving.clone());
                }
                1 => {
                    if let Some(member) = out.pop_first() {
                        rebuilt(&mut comparer, member.0, slot);
                    }
                }
                _ => {
                    for member in 1..=copies {
                        let said = other_body(["a", "a", "a", "b"][dice.below(4) as usize]);
                        says(&mut comparer, member, slot, &said);
                    }
                }
            }
            for verdict in verdicts(&mut comparer) {
                if let Verdict::OddOneOut {
                    member,
                    measure: OnDivergence::Quarantine,
                    ..
                } = verdict
                {
                    taken += 1;
                    assert!(out.insert(member));
                    assert!(2 * out.len() < copies as usize, "a minority");
                    assert!(serving.difference(&out).next().is_some(), "one serves");
                }
            }
        }
    }
    assert!(taken > 200, "{taken}");
}
