//! Which copy is the odd one, and what is only noise.

use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;
use crate::apply::dice::Dice;
use crate::apply::digests::Digester;

fn id(number: u32) -> MemberId {
    MemberId(number)
}

fn ids(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<MemberId> {
    numbers.into_iter().map(MemberId).collect()
}

/// What a copy answers.
#[derive(Clone, Debug)]
struct Response {
    status: u16,
    etag: String,
    body: String,
}

fn usual() -> Response {
    Response {
        status: 200,
        etag: "1".into(),
        body: "done".into(),
    }
}

fn digest(response: &Response) -> Digest {
    let mut headers = HeaderMap::new();
    headers.insert("etag", HeaderValue::try_from(&response.etag).unwrap());
    let status = StatusCode::from_u16(response.status).unwrap();
    let mut digester = Digester::new("notes", status, &headers, BTreeSet::new());
    digester.body(response.body.as_bytes());
    digester.finish(&HeaderMap::new())
}

fn comparer(copies: u32, on_divergence: OnDivergence) -> Comparer {
    let mut comparer = Comparer::new(on_divergence, Slot::ZERO);
    comparer.handle_copies(ids(1..=copies), ids(1..=copies));
    comparer
}

/// A copy answers at one slot, and has nothing else to say up to there.
fn says(comparer: &mut Comparer, member: u32, slot: u64, response: &Response) {
    let batch = Batch {
        through: Slot(slot),
        digests: vec![(Slot(slot), digest(response))],
    };
    comparer.handle_batch(id(member), batch);
}

fn says_nothing(comparer: &mut Comparer, member: u32, through: u64) {
    let batch = Batch {
        through: Slot(through),
        digests: Vec::new(),
    };
    comparer.handle_batch(id(member), batch);
}

fn verdicts(comparer: &mut Comparer) -> Vec<Verdict> {
    std::iter::from_fn(|| comparer.poll_verdict()).collect()
}

fn odd(member: u32, slot: u64, part: Part, measure: OnDivergence) -> Verdict {
    Verdict::OddOneOut {
        slot: Slot(slot),
        route: "notes".into(),
        member: id(member),
        part,
        measure,
    }
}

fn noisy(slot: u64, part: Part) -> Verdict {
    Verdict::NotDeterministic {
        slot: Slot(slot),
        route: "notes".into(),
        part,
    }
}

fn no_majority(slot: u64, part: Part, all_differ: bool) -> Verdict {
    Verdict::NoMajority {
        slot: Slot(slot),
        route: "notes".into(),
        part,
        all_differ,
    }
}

fn other_body(body: &str) -> Response {
    Response {
        body: body.into(),
        ..usual()
    }
}

fn etag(etag: &str) -> Response {
    Response {
        etag: etag.into(),
        ..usual()
    }
}

fn etag_part() -> Part {
    Part::Header("etag".into())
}

// === verdicts ===

#[test]
fn copies_that_agree_are_verified_by_a_majority_and_nobody_is_told_anything() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for slot in 1..=9 {
        says(&mut comparer, 1, slot, &usual());
        says(&mut comparer, 2, slot, &usual());
    }
    assert_eq!(verdicts(&mut comparer), []);
    assert_eq!(comparer.verified(id(1)), Slot(9));
    assert_eq!(comparer.verified(id(2)), Slot(9));
    assert_eq!(comparer.verified(id(3)), Slot(0), "it has said nothing");
    assert_eq!(comparer.finished(), Slot(0), "it may still have a word");
    says(&mut comparer, 3, 9, &usual());
    assert_eq!(comparer.verified(id(3)), Slot(9));
    assert_eq!(comparer.finished(), Slot(9));
    assert!(comparer.pending.is_empty());
}

#[test]
fn the_odd_one_is_named_as_soon_as_a_majority_agrees_with_the_first_part_that_differs() {
    let cases = [
        (other_body("x"), Part::Body),
        (etag("2"), etag_part()),
        (
            Response {
                status: 201,
                ..other_body("x")
            },
            Part::Status,
        ),
        (
            Response {
                status: 500,
                ..other_body("x")
            },
            Part::StatusClass,
        ),
    ];
    for (response, part) in cases {
        for last in 1..=3 {
            let mut comparer = comparer(3, OnDivergence::Quarantine);
            for turn in 0..3 {
                let member = 1 + (last + turn) % 3;
                let said = if member == 2 { &response } else { &usual() };
                says(&mut comparer, member, 5, said);
            }
            let told = odd(2, 5, part.clone(), OnDivergence::Quarantine);
            assert_eq!(verdicts(&mut comparer), [told]);
            assert_eq!(comparer.verified(id(2)), Slot(4));
            assert_eq!(comparer.verified(id(1)), Slot(5));
        }
    }
}

#[test]
fn one_that_has_gone_astray_is_told_once_until_it_is_made_anew() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for slot in 1..=3 {
        for member in 1..=3 {
            let said = if member == 3 {
                other_body("x")
            } else {
                usual()
            };
            says(&mut comparer, member, slot, &said);
        }
    }
    assert_eq!(verdicts(&mut comparer).len(), 1);
    assert_eq!(comparer.verified(id(3)), Slot(0));
    comparer.handle_rebuilt(id(3));
    assert_eq!(comparer.verified(id(3)), Slot(3));
    for member in 1..=3 {
        let said = if member == 3 {
            other_body("x")
        } else {
            usual()
        };
        says(&mut comparer, member, 4, &said);
    }
    let again = odd(3, 4, Part::Body, OnDivergence::Quarantine);
    assert_eq!(verdicts(&mut comparer), [again]);
}

#[test]
fn what_is_done_about_the_odd_one_is_what_was_asked_for() {
    for measure in [
        OnDivergence::Observe,
        OnDivergence::Alert,
        OnDivergence::Quarantine,
        OnDivergence::Halt,
    ] {
        let mut comparer = comparer(3, measure);
        says(&mut comparer, 1, 1, &usual());
        says(&mut comparer, 2, 1, &usual());
        says(&mut comparer, 3, 1, &other_body("x"));
        let told = odd(3, 1, Part::Body, measure);
        assert_eq!(verdicts(&mut comparer), [told]);
    }
}

#[test]
fn without_a_majority_nobody_is_taken_out_and_it_is_told_once() {
    let mut two = comparer(2, OnDivergence::Quarantine);
    says(&mut two, 1, 3, &usual());
    says(&mut two, 2, 3, &other_body("x"));
    assert_eq!(verdicts(&mut two), [no_majority(3, Part::Body, true)]);
    assert_eq!(
        (two.verified(id(1)), two.verified(id(2))),
        (Slot(2), Slot(2))
    );
    let mut four = comparer(4, OnDivergence::Quarantine);
    for slot in 3..=4 {
        for member in 1..=4 {
            let said = if member > 2 { etag("2") } else { usual() };
            says(&mut four, member, slot, &said);
        }
    }
    assert_eq!(verdicts(&mut four), [no_majority(3, etag_part(), false)]);
    assert_eq!(four.verified(id(1)), Slot(2));
    four.handle_decided(Slot(4));
    assert_eq!(four.verified(id(1)), Slot(4));
    says(&mut four, 1, 5, &usual());
    says(&mut four, 2, 5, &usual());
    says(&mut four, 3, 5, &etag("2"));
    assert_eq!(verdicts(&mut four), [], "the fourth may agree yet");
    says(&mut four, 4, 5, &etag("2"));
    assert_eq!(verdicts(&mut four), [no_majority(5, etag_part(), false)]);
}

#[test]
fn a_status_class_that_differs_on_all_is_no_noise() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for (member, status) in [(1, 200), (2, 404), (3, 500)] {
        let said = Response { status, ..usual() };
        says(&mut comparer, member, 1, &said);
    }
    let told = no_majority(1, Part::StatusClass, true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

// === noise ===

#[test]
fn what_differs_on_all_copies_is_noise_and_told_once() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for slot in 1..=3 {
        for member in 1..=3 {
            says(
                &mut comparer,
                member,
                slot,
                &etag(&format!("{slot}{member}")),
            );
        }
    }
    assert_eq!(verdicts(&mut comparer), [noisy(1, etag_part())]);
    assert_eq!(comparer.verified(id(1)), Slot(3));
    for member in 1..=3 {
        says(&mut comparer, member, 4, &other_body(&member.to_string()));
    }
    assert_eq!(verdicts(&mut comparer), [noisy(4, Part::Body)]);
}

#[test]
fn noise_does_not_hide_what_differs_besides() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for slot in 1..=2 {
        for member in 1..=3 {
            let body = if slot == 2 && member == 1 {
                "x"
            } else {
                "done"
            };
            let said = Response {
                etag: format!("{slot}{member}"),
                ..other_body(body)
            };
            says(&mut comparer, member, slot, &said);
        }
    }
    let told = [
        noisy(1, etag_part()),
        odd(1, 2, Part::Body, OnDivergence::Quarantine),
    ];
    assert_eq!(verdicts(&mut comparer), told);
    let mut both_at_once = super::tests::comparer(3, OnDivergence::Quarantine);
    for member in 1..=3 {
        let said = Response {
            etag: member.to_string(),
            ..other_body(if member == 1 { "x" } else { "done" })
        };
        says(&mut both_at_once, member, 1, &said);
    }
    let told = [
        noisy(1, etag_part()),
        odd(1, 1, Part::Body, OnDivergence::Quarantine),
    ];
    assert_eq!(verdicts(&mut both_at_once), told);
}

#[test]
fn what_differs_on_some_copies_is_no_noise_while_others_say_nothing() {
    let mut comparer = comparer(4, OnDivergence::Quarantine);
    for member in 1..=3 {
        says(&mut comparer, member, 1, &etag(&member.to_string()));
    }
    says_nothing(&mut comparer, 4, 1);
    let told = no_majority(1, etag_part(), true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

#[test]
fn of_two_copies_nobody_can_say_what_is_noise() {
    let mut comparer = comparer(2, OnDivergence::Quarantine);
    says(&mut comparer, 1, 1, &etag("1"));
    says(&mut comparer, 2, 1, &etag("2"));
    let told = no_majority(1, etag_part(), true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

// === limits ===

#[test]
fn a_minority_at_most_is_taken_out_and_the_next_when_one_is_back() {
    let mut comparer = comparer(5, OnDivergence::Alert);
    comparer.on_divergence = OnDivergence::Quarantine;
    // One after another, each with an answer of its own.
    for (slot, astray) in [(1, 1), (2, 2), (3, 3)] {
        for member in 1..=5 {
            let said = match member {
                it if it == astray => other_body(&member.to_string()),
                _ => usual(),
            };
            says(&mut comparer, member, slot, &said);
        }
    }
    let told = [
        odd(1, 1, Part::Body, OnDivergence::Quarantine),
        odd(2, 2, Part::Body, OnDivergence::Quarantine),
        odd(3, 3, Part::Body, OnDivergence::Alert),
    ];
    assert_eq!(verdicts(&mut comparer), told);
    comparer.handle_rebuilt(id(1));
    let then = odd(3, 3, Part::Body, OnDivergence::Quarantine);
    assert_eq!(verdicts(&mut comparer), [then]);
}

#[test]
fn the_last_copy_that_can_serve_is_never_taken_out() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    comparer.handle_copies(ids(1..=3), ids([3]));
    for member in 1..=3 {
        let said = if member == 3 {
            other_body("x")
        } else {
            usual()
        };
        says(&mut comparer, member, 1, &said);
    }
    let told = odd(3, 1, Part::Body, OnDivergence::Alert);
    assert_eq!(verdicts(&mut comparer), [told]);
    comparer.handle_copies(ids(1..=3), ids([2, 3]));
    let then = odd(3, 1, Part::Body, OnDivergence::Quarantine);
    assert_eq!(verdicts(&mut comparer), [then]);
}

#[test]
fn digests_that_are_lost_hold_nothing_up() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    says_nothing(&mut comparer, 1, 1);
    assert_eq!(comparer.verified(id(1)), Slot(0), "others may have one");
    let mut comparer = super::tests::comparer(3, OnDivergence::Quarantine);
    says(&mut comparer, 1, 1, &usual());
    says_nothing(&mut comparer, 2, 1);
    assert_eq!(comparer.verified(id(1)), Slot(0), "the third may have one");
    says_nothing(&mut comparer, 3, 1);
    assert_eq!(comparer.verified(id(1)), Slot(1), "nobody else has any");
    says(&mut comparer, 1, 2, &usual());
    says(&mut comparer, 2, 2, &other_body("x"));
    assert_eq!(verdicts(&mut comparer), []);
    says_nothing(&mut comparer, 3, 2);
    let told = no_majority(2, Part::Body, true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

#[test]
fn a_single_copy_needs_no_other() {
    let mut comparer = comparer(1, OnDivergence::Quarantine);
    says(&mut comparer, 1, 1, &usual());
    assert_eq!(comparer.verified(id(1)), Slot(1));
    assert_eq!(verdicts(&mut comparer), []);
}

#[test]
fn a_copy_that_is_removed_is_not_waited_for() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    says(&mut comparer, 1, 1, &usual());
    says(&mut comparer, 2, 1, &other_body("x"));
    assert_eq!(verdicts(&mut comparer), []);
    comparer.handle_copies(ids(1..=2), ids(1..=2));
    assert_eq!(verdicts(&mut comparer).len(), 1);
    says(&mut comparer, 3, 1, &usual());
    assert!(comparer.pending.is_empty(), "it has no word any more");
    assert_eq!(comparer.verified(id(3)), Slot(0));
}

#[test]
fn memory_is_bounded_while_a_copy_is_away() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    let last = PENDING as u64 + 100;
    for slot in 1..=last {
        says(&mut comparer, 1, slot, &usual());
        says(&mut comparer, 2, slot, &usual());
    }
    assert_eq!(comparer.pending.len(), PENDING);
    assert_eq!(comparer.finished(), Slot(100));
    assert_eq!(comparer.verified(id(1)), Slot(last));
    says(&mut comparer, 3, 50, &other_body("x"));
    assert_eq!(verdicts(&mut comparer), [], "too late");
}

// === random groups ===

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
        let mut out = BTreeSet::new();
        for slot in 1..=100 {
            match dice.below(6) {
                0 => {
                    serving = ids((1..=copies).filter(|_| dice.below(3) > 0));
                    comparer.handle_copies(ids(1..=copies), serving.clone());
                }
                1 => {
                    if let Some(member) = out.pop_first() {
                        comparer.handle_rebuilt(member);
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
