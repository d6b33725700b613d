//! Who runs along next, and how it goes on from there: to the end, or back.

use std::sync::Arc;

use super::super::authority::Issued;
use super::super::plan as work;
use super::super::revisions::is_under_way;
use super::super::revisions::world::{ROLLS, SAVED, UID, World};
use super::*;

#[test]
fn a_new_version_runs_along_on_half_of_the_copies_before_it_takes_over() {
    let mut world = World::with(ROLLS);
    world.image = "j";
    world.rounds(30, usize::MAX);
    assert_eq!(world.images(), ["j"]);
    assert_eq!((world.in_force, world.silent()), (0, Some(1)));
    assert_eq!(
        world.copies,
        [Some(0), Some(1), Some(1)],
        "the leader's stays"
    );
    let said = world.said();
    assert!(said.contains("RevisionRunsAlong"), "{said}");
    assert!(said.contains("caught up: notes-eu-0, notes-ap-0"), "{said}");
    for view in &world.views {
        let spec = &view.own(UID).expect("there").spec;
        assert_eq!((spec.revision, spec.revise.as_ref()), (0, None));
        let along = spec.along.as_ref().expect("told");
        assert_eq!((along.revision, along.member.as_str()), (1, ""));
    }
    world.take_over();
    world.rounds(10, usize::MAX);
    assert_eq!(world.in_force, 1);
    world.expect_done("j");
    // And the next one.
    world.image = "k";
    world.rounds(30, usize::MAX);
    world.take_over();
    world.rounds(10, usize::MAX);
    world.expect_done("k");
    assert_eq!(world.images(), ["j", "k"]);
}

/// Whoever works ends at each half-step, once or each time.
#[test]
fn whoever_ends_while_a_version_runs_along_is_followed_by_one_that_goes_on() {
    for writes in 0..12 {
        for always in [false, true] {
            for lost_report in [false, true] {
                for back in [None, Some(writes * 2)] {
                    let mut world = World::with(ROLLS);
                    world.image = "j";
                    for round in 0..120 {
                        if back == Some(round) {
                            world.image = "i";
                        }
                        let ends = always || round == writes;
                        world.hub(if ends { writes % 2 } else { usize::MAX });
                        world.hub(if ends { 1 } else { usize::MAX });
                        for at in 0..3 {
                            world.operator(at, !(lost_report && round % 2 == 0));
                        }
                        if back.is_none() {
                            world.take_over();
                        }
                        // From there on all that is left is to end.
                        if round > 2 * writes && world.is_over() {
                            break;
                        }
                    }
                    let what = (writes, always, lost_report, back);
                    assert!(world.agreed.len() <= 1, "{what:?}: {:?}", world.images());
                    assert!(back.is_some() || world.in_force == 1, "{what:?}");
                    world.rounds(8, usize::MAX);
                    world.expect_done(if back.is_some() { "i" } else { "j" });
                }
            }
        }
    }
}

#[test]
fn at_each_step_it_is_taken_back_by_putting_the_template_back_and_its_number_is_spent() {
    let mut spent = 0;
    for looks in 0..60 {
        let mut world = World::with(ROLLS);
        world.image = "j";
        for look in 0..looks {
            match look % 4 {
                0 => {
                    world.hub(usize::MAX);
                }
                at => world.operator(at - 1, true),
            }
        }
        world.image = "i";
        world.rounds(20, usize::MAX);
        assert_eq!((world.in_force, world.silent()), (0, None), "{looks}");
        world.expect_done("i");
        spent += world.taken_back.len();
        let before = world.agreed.len();
        world.image = "k";
        world.rounds(40, usize::MAX);
        // What was recorded and not begun yet begins first, and is taken back.
        let (last, _) = world.agreed.last().expect("agreed");
        assert_eq!(
            (World::image_of(last), last.number),
            ("k", world.newest),
            "{looks}"
        );
        assert!(world.agreed.len() <= before + 2, "{looks}");
        world.take_over();
        world.rounds(10, usize::MAX);
        world.expect_done("k");
    }
    assert!(spent > 20, "hardly any had begun: {spent}");
}

#[test]
fn one_that_answers_otherwise_stays_silent_until_the_template_is_another() {
    for (looks, to) in [(8, "i"), (30, "i"), (30, "k")] {
        let mut world = World::with(ROLLS);
        world.image = "j";
        world.rounds(looks, usize::MAX);
        world.disagreement = "slot 17, POST /which: revision 0 answered with status 200";
        let pods = |world: &World| world.pods.iter().filter(|it| **it == Some(1)).count();
        world.rounds(2, usize::MAX);
        let before = pods(&world);
        world.take_over();
        world.rounds(10, usize::MAX);
        assert_eq!((world.in_force, world.silent()), (0, Some(1)));
        assert_eq!(pods(&world), before, "no more pods of it");
        let said = world.said();
        assert!(said.contains("slot 17, POST /which"), "{said}");
        assert!(said.contains("put the template back"), "{said}");
        world.image = to;
        world.rounds(40, usize::MAX);
        world.take_over();
        world.rounds(10, usize::MAX);
        assert_eq!(world.taken_back, [1]);
        world.expect_done(to);
    }
}

#[test]
fn pods_that_do_not_start_hold_it_where_it_is_and_are_taken_back() {
    let mut world = World::with(ROLLS);
    world.start = 0;
    world.image = "j";
    world.rounds(40, usize::MAX);
    assert_eq!(world.pods.iter().filter(|it| **it == Some(1)).count(), 1);
    assert_eq!(world.copies.iter().filter(|it| **it == Some(0)).count(), 2);
    world.image = "i";
    world.rounds(20, usize::MAX);
    world.expect_done("i");
}

#[test]
fn nobody_runs_along_whose_copy_is_the_last_that_answers_or_has_not_what_it_begins_with() {
    let begun = || {
        let mut world = World::with(ROLLS);
        world.image = "j";
        world.begin();
        world.reported();
        world
    };
    let edit = |world: &mut World, at: usize, change: fn(&mut GroupMemberStatus)| {
        let group = Arc::make_mut(world.views[at].group.as_mut().expect("there"));
        change(&mut group.status.as_mut().expect("there").members[0]);
    };
    let next = |world: &World| {
        let course = world.valid().revisions;
        assert_eq!(course.silent, Some(1));
        course.next.map(|(_, name)| name)
    };
    let is = |name: &str| Some(name.to_owned());
    let none: fn(&mut GroupMemberStatus) = |it| it.may = None;
    let down: fn(&mut GroupMemberStatus) = |it| it.state = MemberState::CatchingUp;
    let unready: fn(&mut GroupMemberStatus) = |it| it.ready = false;
    let starts: fn(&mut GroupMemberStatus) = |it| {
        it.made_of = Some(1);
        it.running = None;
        it.state = MemberState::CatchingUp;
    };
    let along: fn(&mut GroupMemberStatus) = |it| {
        it.made_of = Some(1);
        it.running = Some(1);
    };
    for (changes, expected) in [
        (vec![], is("notes-ap-0")),
        (vec![(2, none)], is("notes-eu-0")),
        (vec![(2, unready)], is("notes-eu-0")),
        (vec![(2, none), (1, none)], is("notes-us-0")),
        (vec![(2, none), (1, none), (0, none)], None),
        (vec![(2, down), (1, down)], None),
        (vec![(2, down), (0, down)], None),
        (vec![(2, starts)], is("notes-ap-0")),
        (vec![(2, along)], is("notes-eu-0")),
        (vec![(2, along), (1, starts)], is("notes-eu-0")),
        (vec![(2, along), (0, down)], None),
        (vec![(2, along), (1, along)], None),
    ] {
        let mut world = begun();
        for (at, change) in &changes {
            edit(&mut world, *at, *change);
        }
        let at: Vec<_> = changes.iter().map(|it| it.0).collect();
        assert_eq!(next(&world), expected, "{at:?}");
    }
    // Whose pod is away stays next, however the others are.
    let mut world = begun();
    world.hub(usize::MAX);
    world.reported();
    edit(&mut world, 2, |it| {
        it.made_of = None;
        it.state = MemberState::Unreachable;
    });
    assert_eq!(next(&world), is("notes-ap-0"));
}

/// As [`turn`] finds it with two more members in the last cluster, all of which are as that one's first but for
/// what is said of them.
fn turn_of_five(said: [fn(&mut GroupMemberStatus); 5]) -> Option<String> {
    let mut world = World::with(ROLLS);
    world.image = "j";
    world.begin();
    world.reported();
    let mut roster = world.valid().roster;
    let last = roster.members.last().expect("three").clone();
    let group = Arc::make_mut(world.views[2].group.as_mut().expect("there"));
    let there = &mut group.status.as_mut().expect("there").members;
    for name in ["notes-ap-1", "notes-ap-2"] {
        let mut member = last.clone();
        member.member.name = name.to_owned();
        roster.members.push(member);
        let mut said = there[0].clone();
        said.name = name.to_owned();
        there.push(said);
    }
    let places = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2)];
    for ((at, index), change) in places.into_iter().zip(said) {
        let group = Arc::make_mut(world.views[at].group.as_mut().expect("there"));
        change(&mut group.status.as_mut().expect("there").members[index]);
    }
    let state = super::super::revisions::state(&world.views, UID).expect("it leads");
    let tally = Tally::new(&roster, &world.views);
    let found = turn(&tally, state, 1, &world.views, UID);
    found.map(|it| it.member.name.clone())
}

#[test]
fn half_of_the_copies_are_enough_and_where_another_is_not_well_nobody_is_taken_away() {
    let same: fn(&mut GroupMemberStatus) = |_| {};
    let along: fn(&mut GroupMemberStatus) = |it| {
        it.made_of = Some(1);
        it.running = Some(1);
    };
    let down: fn(&mut GroupMemberStatus) = |it| it.state = MemberState::CatchingUp;
    for (said, expected) in [
        ([same, same, same, same, same], Some("notes-ap-0")),
        ([same, same, along, along, same], Some("notes-ap-2")),
        ([same, same, along, along, along], None),
        ([same, same, same, same, down], Some("notes-eu-0")),
        ([same, down, same, same, same], Some("notes-ap-0")),
    ] {
        assert_eq!(turn_of_five(said).as_deref(), expected);
    }
}

#[test]
fn one_that_runs_along_needs_members_and_an_operator_that_know_how() {
    let mut world = World::with(ROLLS);
    world.protocol = 2;
    world.reported();
    world.image = "j";
    world.rounds(6, usize::MAX);
    let said = world.said();
    assert!(
        said.contains("WaitingForProtocol") && said.contains("Switch"),
        "{said}"
    );
    assert!(world.agreed.is_empty());
    world.yaml = SAVED.to_owned();
    world.rounds(6, usize::MAX);
    assert_eq!((world.images(), world.in_force), (vec!["j"], 1));
    // What was switched to is taken back, whatever the next one would need.
    world.yaml = ROLLS.to_owned();
    world.image = "i";
    world.rounds(6, usize::MAX);
    assert_eq!((world.images(), world.in_force), (vec!["j", "i"], 2));

    let mut world = World::with(ROLLS);
    world.image = "j";
    let group = Arc::make_mut(world.views[0].group.as_mut().expect("there"));
    let status = group.status.as_mut().expect("there");
    status.revision.as_mut().expect("it leads").newest = None;
    world.hub(usize::MAX);
    let said = world.said();
    assert!(
        said.contains("RevisionPending") && said.contains("updated"),
        "{said}"
    );
    assert_eq!(world.record.as_ref().map(Vec::len), Some(1));
}

#[test]
fn members_stay_as_they_are_while_a_version_runs_along() {
    let mut world = World::with(ROLLS);
    world.image = "j";
    world.rounds(20, usize::MAX);
    assert!(world.silent().is_some());
    assert!(is_under_way(&world.views, UID));
    // One that is paused or refused goes no further, and what runs along stays.
    let valid = world.valid();
    let plan = work::upkeep(&valid.roster, &world.views, &Issued::default(), Some(true));
    for (_, spec) in plan.groups {
        let along = spec.along.expect("it runs along");
        assert_eq!((along.revision, along.member.as_str()), (1, ""));
    }
    let mut world = World::with(ROLLS);
    world.image = "j";
    world.until(|world| {
        let group = world.views[2].own(UID);
        let along = group.and_then(|it| it.spec.along.as_ref());
        along.is_some_and(|it| !it.member.is_empty())
    });
    let valid = world.valid();
    let plan = work::upkeep(&valid.roster, &world.views, &Issued::default(), Some(true));
    for (_, spec) in plan.groups {
        assert_eq!(spec.along.expect("it runs along").member, "");
    }
}
