//! Leaders that come and go.

use super::*;

/// What a copy has to say: its digests, what it was told, and what it has thrown away.
struct Copy {
    lineage: u64,
    digests: BTreeMap<Slot, Digest>,
    released: Slot,
    mark: Option<Mark>,
}

impl Copy {
    fn new(responses: &[Response]) -> Self {
        let slots = (1..).map(Slot);
        Self {
            lineage: 1,
            digests: slots.zip(responses.iter().map(digest)).collect(),
            released: Slot::ZERO,
            mark: None,
        }
    }

    /// One call of the leader.
    fn is_asked(&mut self, comparer: &mut Comparer, member: u32) {
        let finished = comparer.finished();
        if comparer.lineage(id(member)) == self.lineage {
            let mark = comparer.mark(id(member)).cloned();
            if mark.is_some() || comparer.is_over(id(member)) {
                self.mark = mark;
            }
        }
        self.released = self.released.max(comparer.released());
        self.digests = self.digests.split_off(&self.released.next());
        comparer.handle_told(id(member), finished);
        let batch = Batch {
            lineage: self.lineage,
            from: Slot::ZERO,
            released: self.released,
            through: Slot(4),
            digests: self.digests.clone().into_iter().collect(),
            mark: self.mark.clone(),
            ..Batch::default()
        };
        comparer.handle_batch(id(member), batch);
    }
}

fn copies(third: &Response) -> [Copy; 3] {
    let alike = [usual(), usual(), usual(), usual()];
    let astray = [usual(), usual(), third.clone(), usual()];
    [Copy::new(&alike), Copy::new(&alike), Copy::new(&astray)]
}

#[test]
fn whenever_a_leader_goes_the_next_does_not_vouch_for_a_copy_that_was_found_to_differ() {
    for calls in 0..20_u32 {
        let mut copies = copies(&other_body("x"));
        let mut first = comparer(3, OnDivergence::Alert);
        for call in 0..calls {
            copies[(call % 3) as usize].is_asked(&mut first, call % 3 + 1);
        }
        let mut second = comparer(3, OnDivergence::Alert);
        for call in 0..9 {
            copies[call % 3].is_asked(&mut second, call as u32 % 3 + 1);
        }
        assert_eq!(second.verified(id(3)), Slot(2), "after {calls} calls");
        assert_eq!(second.verified(id(1)), Slot(4));
        let told = verdicts(&mut second);
        assert!(told.len() <= 1, "{told:?}");
    }
}

#[test]
fn a_new_leader_takes_out_nobody_while_one_that_an_earlier_one_took_out_is_still_out() {
    let mut copies = copies(&other_body("x"));
    let mut first = comparer(3, OnDivergence::Quarantine);
    for call in 0..9 {
        copies[call % 3].is_asked(&mut first, call as u32 % 3 + 1);
    }
    let mut second = comparer(3, OnDivergence::Quarantine);
    for (copy, member) in copies.iter_mut().zip(1..) {
        copy.is_asked(&mut second, member);
    }
    assert_eq!(verdicts(&mut second), [], "it is out already");
    says(&mut second, 1, 5, &other_body("y"));
    says(&mut second, 2, 5, &usual());
    says(&mut second, 3, 5, &usual());
    let told = odd(1, 5, Part::Body, OnDivergence::Alert);
    assert_eq!(verdicts(&mut second), [told]);
    rebuilt(&mut second, 3, 0);
    let told = odd(1, 5, Part::Body, OnDivergence::Quarantine);
    assert_eq!(verdicts(&mut second), [told]);
}

#[test]
fn a_digest_is_thrown_away_only_when_all_copies_have_heard_what_came_of_its_slot() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for member in 1..=3 {
        says(&mut comparer, member, 3, &usual());
    }
    assert_eq!(comparer.finished(), Slot(3));
    for member in [1, 3] {
        comparer.handle_told(id(member), Slot(3));
        assert_eq!(comparer.released(), Slot(0));
    }
    comparer.handle_told(id(2), Slot(2));
    assert_eq!(comparer.released(), Slot(2));
}

#[test]
fn what_earlier_leaders_have_judged_is_not_judged_again_by_those_that_are_left() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    let thrown_away = Batch {
        lineage: 1,
        released: Slot(3),
        through: Slot(3),
        ..Batch::default()
    };
    comparer.handle_batch(id(1), thrown_away);
    says(&mut comparer, 2, 3, &usual());
    says(&mut comparer, 3, 3, &other_body("x"));
    assert_eq!(verdicts(&mut comparer), []);
}

#[test]
fn a_tie_is_over_when_those_that_are_left_agree_and_not_before_all_were_heard() {
    let mut copies = copies(&Response {
        status: 404,
        ..usual()
    });
    let third = Response {
        status: 500,
        ..usual()
    };
    copies[1].digests.insert(Slot(3), digest(&third));
    let mut first = comparer(3, OnDivergence::Quarantine);
    for call in 0..9 {
        copies[call % 3].is_asked(&mut first, call as u32 % 3 + 1);
    }
    let mut second = comparer(3, OnDivergence::Quarantine);
    for round in 0..3 {
        for member in [1, 2, 3] {
            if round == 1 && member > 1 {
                // A person has restarted two of them.
                let fresh = Copy::new(&[usual(), usual(), usual(), usual()]);
                let copy = &mut copies[member as usize - 1];
                *copy = Copy {
                    lineage: 2,
                    ..fresh
                };
            }
            copies[member as usize - 1].is_asked(&mut second, member);
            let is_over = round > 1 || round == 1 && member == 3;
            let told: Vec<_> = second.marks().collect();
            assert_eq!(told.is_empty(), is_over, "{round} {member} {told:?}");
        }
    }
    assert_eq!(copies[0].mark, None);
    assert_eq!(second.verified(id(1)), Slot(4));
    let told = no_majority(3, 3, Part::StatusClass, true);
    assert_eq!(verdicts(&mut first), [told]);
    assert_eq!(verdicts(&mut second), []);
}

#[test]
fn of_what_an_earlier_process_has_left_no_measure_follows_until_the_copy_differs_again() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    let left = Batch {
        lineage: 1,
        from: Slot(4),
        through: Slot(4),
        mark: Some(Mark::of_an_earlier_life(Slot(2))),
        ..Batch::default()
    };
    comparer.handle_batch(id(3), left);
    for member in 1..=2 {
        says(&mut comparer, member, 5, &usual());
    }
    assert_eq!(verdicts(&mut comparer), []);
    says(&mut comparer, 3, 5, &other_body("x"));
    assert_eq!(comparer.verified(id(3)), Slot(1));
    let told = odd(3, 2, Part::Body, OnDivergence::Quarantine);
    assert_eq!(verdicts(&mut comparer), [told]);
}

#[test]
fn what_an_earlier_leader_has_found_to_be_noise_makes_no_difference_while_a_copy_is_away() {
    let noise = crate::apply::digests::Noise {
        route: "notes".into(),
        part: etag_part(),
    };
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for member in 1..=2 {
        let batch = Batch {
            lineage: 1,
            noise: [noise.clone()].into(),
            ..Batch::default()
        };
        comparer.handle_batch(id(member), batch);
        says(&mut comparer, member, 1, &etag(&member.to_string()));
    }
    assert_eq!(verdicts(&mut comparer), []);
    assert_eq!(comparer.verified(id(1)), Slot(1));
    assert!(comparer.noise().contains(&noise));
}

#[test]
fn what_a_copy_has_answered_before_it_was_made_anew_is_not_held_against_it() {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    says(&mut comparer, 1, 5, &usual());
    says(&mut comparer, 3, 5, &other_body("x"));
    rebuilt(&mut comparer, 3, 0);
    says(&mut comparer, 3, 5, &usual());
    assert_eq!(comparer.verified(id(3)), Slot(5));
    says(&mut comparer, 2, 5, &usual());
    assert_eq!(verdicts(&mut comparer), []);
}

/// Two copies draw something for each answer, and the third has lost with its process what it has drawn.
fn tie_of_noise() -> Comparer {
    let mut comparer = comparer(3, OnDivergence::Quarantine);
    for member in 1..=2 {
        says(&mut comparer, member, 1, &etag(&member.to_string()));
    }
    says_nothing(&mut comparer, 3, 1);
    let told = no_majority(2, 1, etag_part(), true);
    assert_eq!(verdicts(&mut comparer), [told]);
    assert_eq!(comparer.verified(id(1)), Slot(0));
    comparer
}

#[test]
fn a_tie_is_over_when_what_differs_there_turns_out_to_be_noise() {
    let mut comparer = tie_of_noise();
    for member in 1..=3 {
        assert!(!comparer.is_over(id(1)) && comparer.finished() == Slot(0));
        says(&mut comparer, member, 2, &etag(&member.to_string()));
    }
    assert_eq!(verdicts(&mut comparer), [noisy(2, etag_part())]);
    assert_eq!(comparer.marks().count(), 0);
    assert!(comparer.is_over(id(1)) && comparer.is_over(id(2)));
    assert_eq!(comparer.verified(id(1)), Slot(2));
    assert_eq!(comparer.finished(), Slot(2));
    // A copy that has not heard that yet says what it has noted.
    let mark = tie_of_noise().mark(id(1)).cloned();
    let batch = Batch {
        mark,
        ..answering(&comparer, 1)
    };
    comparer.handle_batch(id(1), batch);
    assert_eq!(comparer.verified(id(1)), Slot(2));
    assert!(comparer.is_over(id(1)));
    says(&mut comparer, 1, 3, &etag("1"));
    assert!(!comparer.is_over(id(1)));
}

#[test]
fn a_tie_of_noise_that_an_earlier_leader_has_found_stands_for_what_else_it_has_heard_is_not_known()
{
    let first = tie_of_noise();
    let mut second = comparer(3, OnDivergence::Quarantine);
    for member in 1..=2 {
        let batch = Batch {
            through: Slot(1),
            digests: vec![(Slot(1), digest(&etag(&member.to_string())))],
            ..answering(&first, member)
        };
        second.handle_batch(id(member), batch);
    }
    says_nothing(&mut second, 3, 1);
    for member in 1..=3 {
        says(&mut second, member, 2, &etag(&member.to_string()));
    }
    assert_eq!(verdicts(&mut second), [noisy(2, etag_part())]);
    assert_eq!(second.verified(id(1)), Slot(0));
    assert!(!second.is_over(id(1)));
}

#[test]
fn a_tie_of_noise_stands_once_a_copy_was_made_anew_whose_digests_are_lost_with_it() {
    let mut comparer = tie_of_noise();
    let batch = Batch {
        lineage: 77,
        from: Slot(1),
        through: Slot(1),
        ..answering(&comparer, 3)
    };
    comparer.handle_batch(id(3), batch);
    for member in 1..=3 {
        says(&mut comparer, member, 2, &etag(&member.to_string()));
    }
    assert_eq!(verdicts(&mut comparer), [noisy(2, etag_part())]);
    assert_eq!(comparer.verified(id(1)), Slot(0));
}

#[test]
fn a_tie_of_noise_stands_once_a_copy_tells_what_an_earlier_leader_has_found() {
    let mut comparer = tie_of_noise();
    let mark = comparer.mark(id(1)).cloned();
    let batch = Batch {
        mark,
        ..answering(&comparer, 3)
    };
    comparer.handle_batch(id(3), batch);
    for member in 1..=3 {
        says(&mut comparer, member, 2, &etag(&member.to_string()));
    }
    assert_eq!(comparer.verified(id(2)), Slot(0));
}

#[test]
fn what_differs_besides_noise_while_a_tie_stands_is_told_when_that_is_over() {
    let mut comparer = tie_of_noise();
    for member in 1..=2 {
        says(&mut comparer, member, 2, &other_body(&member.to_string()));
    }
    says_nothing(&mut comparer, 3, 2);
    for member in 1..=3 {
        says(&mut comparer, member, 3, &etag(&member.to_string()));
    }
    let told = [noisy(3, etag_part()), no_majority(2, 2, Part::Body, true)];
    assert_eq!(verdicts(&mut comparer), told);
    assert_eq!(comparer.verified(id(1)), Slot(1));
    assert!(!comparer.is_over(id(1)));
}
