//! Which copy is the odd one, and what is only noise.

mod along;
mod leaders;
mod random;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;
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
    let mut digester = Digester::new("notes", status, &headers);
    digester.body(response.body.as_bytes());
    digester.finish(&HeaderMap::new())
}

fn rules(on_divergence: OnDivergence) -> Rules {
    Rules {
        on_divergence,
        ignored: BTreeSet::new(),
    }
}

fn comparer(copies: u32, on_divergence: OnDivergence) -> Comparer {
    let mut comparer = Comparer::new(rules(on_divergence));
    comparer.handle_copies(ids(1..=copies), ids(1..=copies));
    comparer
}

/// What a copy says in any case.
fn answering(comparer: &Comparer, member: u32) -> Batch {
    Batch {
        lineage: comparer.lineage(id(member)).max(1),
        mark: comparer.mark(id(member)).cloned(),
        ..Batch::default()
    }
}

/// A copy was made anew from the state of this slot.
fn rebuilt(comparer: &mut Comparer, member: u32, from: u64) {
    let batch = Batch {
        lineage: comparer.lineage(id(member)) + 1,
        from: Slot(from),
        through: Slot(from),
        ..Batch::default()
    };
    comparer.handle_batch(id(member), batch);
}

/// A copy answers at one slot, and has nothing else to say up to there.
fn says(comparer: &mut Comparer, member: u32, slot: u64, response: &Response) {
    let batch = Batch {
        through: Slot(slot),
        digests: vec![(Slot(slot), digest(response))],
        ..answering(comparer, member)
    };
    comparer.handle_batch(id(member), batch);
}

/// The same of another revision of the app.
fn says_as(comparer: &mut Comparer, revision: u64, member: u32, slot: u64, response: &Response) {
    let batch = Batch {
        revision,
        through: Slot(slot),
        digests: vec![(Slot(slot), digest(response))],
        ..answering(comparer, member)
    };
    comparer.handle_batch(id(member), batch);
}

fn says_nothing(comparer: &mut Comparer, member: u32, through: u64) {
    let batch = Batch {
        through: Slot(through),
        ..answering(comparer, member)
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

fn no_majority(of: u32, slot: u64, part: Part, all_differ: bool) -> Verdict {
    Verdict::NoMajority {
        members: ids(1..=of),
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
fn while_copies_that_were_heard_differ_nothing_beyond_is_used_whoever_is_away() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    comparer.handle_away(ids([3]));
    says(&mut comparer, 1, 4, &usual());
    assert_eq!(comparer.undisputed(id(1)), Slot(0), "copy 2 is there");
    says(&mut comparer, 2, 4, &usual());
    says(&mut comparer, 1, 5, &usual());
    says(&mut comparer, 2, 5, &other_body("x"));
    says(&mut comparer, 1, 9, &usual());
    says(&mut comparer, 2, 9, &usual());
    assert_eq!(verdicts(&mut comparer), [], "copy 3 has a word");
    for member in [1, 2] {
        assert_eq!(comparer.verified(id(member)), Slot(4));
        assert_eq!(comparer.undisputed(id(member)), Slot(4));
    }
    says(&mut comparer, 3, 5, &usual());
    says(&mut comparer, 3, 9, &usual());
    assert_eq!(comparer.undisputed(id(1)), Slot(9));
    assert_eq!(comparer.undisputed(id(2)), Slot(4), "it is the odd one");
    assert_eq!(comparer.undisputed(id(4)), Slot(0), "nobody knows it");
}

#[test]
fn only_copies_that_are_away_are_not_waited_for() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    says(&mut comparer, 1, 9, &usual());
    for (away, undisputed) in [(vec![], 0), (vec![2], 0), (vec![1, 2, 3], 9), (vec![], 0)] {
        comparer.handle_away(ids(away));
        assert_eq!(comparer.undisputed(id(1)), Slot(undisputed));
        assert_eq!(comparer.verified(id(1)), Slot(0));
    }
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
    rebuilt(&mut comparer, 3, 0);
    assert_eq!(comparer.verified(id(3)), Slot(0), "it has said nothing yet");
    says(&mut comparer, 3, 2, &usual());
    assert_eq!(comparer.verified(id(3)), Slot(2));
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
    assert_eq!(verdicts(&mut two), [no_majority(2, 3, Part::Body, true)]);
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
    let told = no_majority(4, 3, etag_part(), false);
    assert_eq!(verdicts(&mut four), [told]);
    assert_eq!(four.verified(id(1)), Slot(2));
    // A person has two of them made anew: when those that are left agree, it is over.
    rebuilt(&mut four, 3, 2);
    assert_eq!(four.verified(id(1)), Slot(2));
    rebuilt(&mut four, 4, 2);
    for member in 3..=4 {
        says_nothing(&mut four, member, 4);
    }
    assert_eq!(four.verified(id(1)), Slot(4));
    assert_eq!(four.verified(id(3)), Slot(4));
    says(&mut four, 1, 5, &usual());
    says(&mut four, 2, 5, &usual());
    says(&mut four, 3, 5, &etag("2"));
    assert_eq!(verdicts(&mut four), [], "the fourth may agree yet");
    says(&mut four, 4, 5, &etag("2"));
    let told = no_majority(4, 5, etag_part(), false);
    assert_eq!(verdicts(&mut four), [told]);
}

#[test]
fn who_comes_back_while_others_differ_is_not_vouched_for_beyond_where_it_differs_too() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for slot in 1..=3 {
        rebuilt(&mut comparer, slot, 0);
    }
    says(&mut comparer, 1, 5, &usual());
    says(&mut comparer, 2, 5, &other_body("other"));
    // Its answer to that is lost.
    says_nothing(&mut comparer, 3, 5);
    let body = digest(&usual()).difference(&digest(&other_body("other")), |_| false);
    let told = verdicts(&mut comparer);
    assert!(
        matches!(&told[..], [Verdict::NoMajority { part, .. }] if Some(part) == body.as_ref()),
        "{told:?}"
    );
    rebuilt(&mut comparer, 3, 7);
    says_nothing(&mut comparer, 1, 9);
    says(&mut comparer, 2, 9, &other_body("other"));
    says(&mut comparer, 3, 9, &other_body("third"));
    assert_eq!(verdicts(&mut comparer), [], "that some differ is known");
    assert_eq!(comparer.verified(id(3)), Slot(8));
    for number in 1..=2 {
        assert_eq!(comparer.verified(id(number)), Slot(4));
    }
    // One that is left of each is no agreement.
    rebuilt(&mut comparer, 1, 7);
    for number in 1..=3 {
        says(&mut comparer, number, 10, &usual());
    }
    assert_eq!(comparer.verified(id(2)), Slot(4));
    assert_eq!(comparer.verified(id(3)), Slot(8));
    rebuilt(&mut comparer, 2, 7);
    for number in 1..=3 {
        says(&mut comparer, number, 11, &usual());
    }
    assert_eq!(
        comparer.verified(id(3)),
        Slot(11),
        "nobody is left who differs"
    );
}

#[test]
fn a_status_class_that_differs_on_all_is_no_noise() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for (member, status) in [(1, 200), (2, 404), (3, 500)] {
        let said = Response { status, ..usual() };
        says(&mut comparer, member, 1, &said);
    }
    let told = no_majority(3, 1, Part::StatusClass, true);
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
    let told = no_majority(3, 1, etag_part(), true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

#[test]
fn of_two_copies_nobody_can_say_what_is_noise() {
    let mut comparer = comparer(2, OnDivergence::Quarantine);
    says(&mut comparer, 1, 1, &etag("1"));
    says(&mut comparer, 2, 1, &etag("2"));
    let told = no_majority(2, 1, etag_part(), true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

// === limits ===

#[test]
fn a_minority_at_most_is_taken_out_and_the_next_when_one_is_back() {
    let mut comparer = comparer(5, OnDivergence::Alert);
    comparer.handle_rules(rules(OnDivergence::Quarantine));
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
    rebuilt(&mut comparer, 1, 0);
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
    let told = no_majority(2, 2, Part::Body, true);
    assert_eq!(verdicts(&mut comparer), [told]);
}

/// Seed 20272044 of the simulator: the third could not get past a request, and was given a state from behind
/// the slot where the others differ.
#[test]
fn where_others_differ_they_do_also_when_the_last_copy_passes_it_by_with_another_state() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    says(&mut comparer, 1, 2, &usual());
    says(&mut comparer, 2, 2, &other_body("x"));
    says_nothing(&mut comparer, 1, 9);
    says_nothing(&mut comparer, 2, 9);
    assert_eq!(verdicts(&mut comparer), []);
    rebuilt(&mut comparer, 3, 7);
    let told = no_majority(2, 2, Part::Body, true);
    assert_eq!(verdicts(&mut comparer), [told]);
    assert_eq!(comparer.verified(id(2)), Slot(1));
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

// === the policy ===

#[test]
fn what_the_policy_says_may_differ_makes_no_difference() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    let rules = Rules {
        ignored: ["etag".to_owned()].into(),
        ..rules(OnDivergence::Quarantine)
    };
    comparer.handle_rules(rules);
    for member in 1..=3 {
        let said = etag(if member == 2 { "2" } else { "1" });
        says(&mut comparer, member, 1, &said);
    }
    assert_eq!(verdicts(&mut comparer), []);
    assert_eq!(comparer.verified(id(2)), Slot(1));
}

#[test]
fn an_odd_one_that_was_only_told_is_taken_out_when_the_policy_says_so() {
    let mut comparer = comparer(3, OnDivergence::Alert);
    for member in 1..=3 {
        let said = if member == 2 {
            other_body("x")
        } else {
            usual()
        };
        says(&mut comparer, member, 1, &said);
    }
    let told = odd(2, 1, Part::Body, OnDivergence::Alert);
    assert_eq!(verdicts(&mut comparer), [told]);
    for measure in [OnDivergence::Halt, OnDivergence::Quarantine] {
        comparer.handle_rules(rules(measure));
        let told = odd(2, 1, Part::Body, measure);
        assert_eq!(verdicts(&mut comparer), [told]);
        assert_eq!(comparer.mark(id(2)).expect("marked").measure, measure);
    }
}

// === revisions of the app ===

#[test]
fn what_a_revision_that_was_taken_back_has_answered_is_compared_with_nothing() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    comparer.handle_revision(1, Slot(4));
    for member in 1..=2 {
        says_as(&mut comparer, 1, member, 4, &usual());
        says_as(&mut comparer, 1, member, 5, &usual());
    }
    comparer.handle_revision(2, Slot(4));
    assert_eq!(comparer.verified(id(1)), Slot(4));
    // One that has not heard of it yet, and one that stands at the barrier.
    says_as(&mut comparer, 1, 1, 6, &usual());
    says_as(&mut comparer, 0, 3, 4, &usual());
    // What a majority of the other has answered there counts no more.
    says_as(&mut comparer, 2, 3, 5, &other_body("new"));
    for slot in 5..=6 {
        says_as(&mut comparer, 2, 2, slot, &other_body("new"));
    }
    assert_eq!(verdicts(&mut comparer), []);
    assert_eq!(comparer.verified(id(1)), Slot(4));
    // Of its own revision another is compared as ever.
    says_as(&mut comparer, 2, 1, 6, &other_body("new"));
    says_as(&mut comparer, 2, 3, 6, &other_body("odd"));
    assert_eq!(
        verdicts(&mut comparer),
        [odd(3, 6, Part::Body, OnDivergence::Quarantine)]
    );
}

#[test]
fn a_revision_that_is_not_known_to_be_in_force_is_heard_later() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    says_as(&mut comparer, 1, 1, 5, &usual());
    assert_eq!(comparer.wanted(id(1)), Slot(0));
    comparer.handle_revision(1, Slot(4));
    says_as(&mut comparer, 1, 1, 5, &usual());
    assert_eq!(comparer.wanted(id(1)), Slot(5));
}
