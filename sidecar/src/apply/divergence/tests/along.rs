//! A revision that runs along silently: what it answers stops the change at most.

use super::*;

/// Copies of revision 0 answer, and revision 1 runs along behind slot 4.
fn comparers(copies: u32) -> Comparers {
    let mut comparers = Comparers::new(rules(OnDivergence::Quarantine));
    comparers.handle_revision(0, Slot::ZERO, Some((1, Slot(4))));
    comparers.handle_copies(ids(1..=copies), ids(1..=copies));
    comparers
}

fn answers(comparers: &mut Comparers, revision: u64, member: u32, slot: u64, response: &Response) {
    let of = comparers.of(id(member));
    let batch = Batch {
        revision,
        lineage: 1 + revision,
        mark: of.mark(id(member)).cloned(),
        through: Slot(slot),
        digests: vec![(Slot(slot), digest(response))],
        ..Batch::default()
    };
    comparers.handle_batch(id(member), batch);
}

fn with(status: u16, body: &str) -> Response {
    Response {
        status,
        body: body.into(),
        ..usual()
    }
}

fn found(comparers: &mut Comparers) -> Vec<Verdict> {
    std::iter::from_fn(|| comparers.poll_verdict()).collect()
}

#[test]
fn another_class_of_status_codes_is_a_disagreement_and_takes_nobody_out() {
    let mut comparers = comparers(3);
    answers(&mut comparers, 1, 3, 5, &with(500, "no"));
    assert_eq!(comparers.disagreement(), None, "nobody knows yet");
    answers(&mut comparers, 0, 1, 5, &with(201, "yes"));
    assert_eq!(
        comparers.disagreement(),
        None,
        "the other may have answered alike"
    );
    answers(&mut comparers, 0, 2, 5, &with(201, "yes"));
    let expected = Disagreement {
        slot: Slot(5),
        answered: 201,
        silent: 500,
    };
    assert_eq!(comparers.disagreement(), Some(expected));
    answers(&mut comparers, 1, 3, 6, &with(404, "no"));
    for member in 1..=2 {
        answers(&mut comparers, 0, member, 6, &usual());
    }
    assert_eq!(comparers.disagreement(), Some(expected), "the first");
    assert_eq!(found(&mut comparers), []);
    for member in 1..=3 {
        assert_eq!(comparers.of(id(member)).mark(id(member)), None);
    }
}

#[test]
fn what_is_answered_otherwise_with_the_same_class_is_counted() {
    let mut comparers = comparers(3);
    for (slot, silent) in [
        (5, with(200, "done")),
        (6, with(200, "new")),
        (7, with(204, "")),
    ] {
        answers(&mut comparers, 1, 3, slot, &silent);
        for member in 1..=2 {
            answers(&mut comparers, 0, member, slot, &usual());
        }
    }
    assert_eq!(
        (comparers.differences(), comparers.disagreement()),
        (2, None)
    );
    assert_eq!(found(&mut comparers), []);
}

#[test]
fn a_silent_copy_that_begins_later_is_compared_with_what_was_answered_before() {
    let mut comparers = comparers(3);
    for slot in 3..=6 {
        for member in 1..=3 {
            answers(&mut comparers, 0, member, slot, &usual());
        }
    }
    // Up to the barrier it has executed nothing.
    answers(&mut comparers, 1, 3, 4, &with(500, ""));
    assert_eq!(comparers.disagreement(), None);
    answers(&mut comparers, 1, 3, 5, &with(500, ""));
    assert_eq!(comparers.disagreement().map(|it| it.slot), Some(Slot(5)));
}

#[test]
fn an_odd_copy_is_found_among_its_own_revision_whatever_the_other_answers() {
    // Two of the new one against one of the old.
    let mut comparers = comparers(5);
    for member in 4..=5 {
        answers(&mut comparers, 1, member, 5, &with(200, "new"));
    }
    for member in 1..=2 {
        answers(&mut comparers, 0, member, 5, &usual());
    }
    assert_eq!(found(&mut comparers), []);
    // And with the body of the new one it is the odd one.
    answers(&mut comparers, 0, 3, 5, &with(200, "new"));
    let expected = odd(3, 5, Part::Body, OnDivergence::Quarantine);
    assert_eq!(found(&mut comparers), [expected]);
    assert_eq!(comparers.disagreement(), None);
    // Of the new one none is made anew.
    let mut comparers = comparers_of_new();
    answers(&mut comparers, 1, 3, 5, &with(200, "other"));
    let expected = odd(3, 5, Part::Body, OnDivergence::Alert);
    assert_eq!(found(&mut comparers), [expected]);
    // Until it has taken over.
    comparers.handle_revision(1, Slot(4), None);
    comparers.handle_copies(ids(1..=4), ids(1..=4));
    let expected = odd(3, 5, Part::Body, OnDivergence::Quarantine);
    assert_eq!(found(&mut comparers), [expected]);
}

/// Copies 1 and 2 of the new one have answered at slot 5, and 4 of the old.
fn comparers_of_new() -> Comparers {
    let mut comparers = comparers(4);
    answers(&mut comparers, 0, 4, 5, &usual());
    answers(&mut comparers, 1, 3, 4, &usual());
    for member in 1..=2 {
        answers(&mut comparers, 1, member, 5, &with(200, "new"));
    }
    comparers
}

#[test]
fn a_silent_copy_alone_does_not_vouch_for_itself_and_is_compared_with_those_that_come_later() {
    let mut comparers = comparers(3);
    answers(&mut comparers, 1, 3, 4, &usual());
    answers(&mut comparers, 1, 3, 5, &with(200, "otherwise"));
    answers(&mut comparers, 1, 3, 6, &usual());
    let of_silent = comparers.of(id(3));
    assert_eq!(of_silent.verified(id(3)), Slot(4));
    assert_eq!(of_silent.finished(), Slot::ZERO);
    // The next has executed the same without a word of difference, and then with one.
    answers(&mut comparers, 1, 2, 4, &usual());
    answers(&mut comparers, 1, 2, 5, &with(200, "new"));
    answers(&mut comparers, 1, 2, 6, &usual());
    assert!(matches!(
        found(&mut comparers)[..],
        [Verdict::NoMajority { slot: Slot(5), .. }]
    ));
    assert_eq!(comparers.of(id(3)).verified(id(3)), Slot(4));
    // And when it has taken over, all say who is odd.
    comparers.handle_revision(1, Slot(4), None);
    comparers.handle_copies(ids(1..=3), ids(1..=3));
    answers(&mut comparers, 1, 1, 5, &with(200, "new"));
    answers(&mut comparers, 1, 1, 6, &usual());
    assert_eq!(comparers.answering().verified(id(2)), Slot(6));
    assert_eq!(comparers.answering().verified(id(3)), Slot(4));
}

#[test]
fn a_copy_that_answers_is_not_held_up_by_one_that_runs_along() {
    let mut comparers = comparers(3);
    answers(&mut comparers, 1, 3, 4, &usual());
    for member in 1..=2 {
        answers(&mut comparers, 0, member, 9, &usual());
    }
    assert_eq!(comparers.answering().finished(), Slot(9));
    assert_eq!(comparers.answering().verified(id(1)), Slot(9));
}

#[test]
fn half_of_all_copies_must_have_run_along_and_those_that_serve_be_heard() {
    let mut comparers = comparers(3);
    answers(&mut comparers, 1, 2, 8, &usual());
    answers(&mut comparers, 0, 1, 9, &usual());
    assert_eq!(comparers.compared(), Slot(0));
    answers(&mut comparers, 1, 3, 6, &usual());
    assert_eq!(comparers.compared(), Slot(6));
    answers(&mut comparers, 1, 3, 20, &usual());
    assert_eq!(comparers.compared(), Slot(8));
    answers(&mut comparers, 1, 2, 20, &usual());
    assert_eq!(comparers.compared(), Slot(9));
    // Nobody waits for a copy that does not serve.
    let mut comparers = Comparers::new(rules(OnDivergence::Quarantine));
    comparers.handle_revision(0, Slot::ZERO, Some((1, Slot(4))));
    comparers.handle_copies(ids(1..=3), ids([1]));
    answers(&mut comparers, 0, 1, 9, &usual());
    for member in 2..=3 {
        answers(&mut comparers, 1, member, 9, &usual());
    }
    assert_eq!(comparers.compared(), Slot(9));
}

#[test]
fn what_was_taken_back_is_compared_with_nothing() {
    let mut comparers = comparers(3);
    for member in 1..=2 {
        answers(&mut comparers, 0, member, 5, &usual());
    }
    answers(&mut comparers, 1, 3, 5, &with(500, ""));
    assert!(comparers.disagreement().is_some());
    comparers.handle_revision(0, Slot::ZERO, None);
    comparers.handle_copies(ids(1..=3), ids(1..=3));
    assert_eq!(comparers.disagreement(), None);
    // It says so for a moment longer.
    answers(&mut comparers, 1, 3, 6, &with(500, ""));
    for member in 1..=2 {
        answers(&mut comparers, 0, member, 6, &usual());
    }
    answers(&mut comparers, 0, 3, 6, &usual());
    assert_eq!(found(&mut comparers), []);
}
