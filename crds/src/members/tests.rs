//! Single steps. `model` drives whole groups.

use super::*;

mod model;

const FAR: &str = "r1";

fn wanted(names: &[&str]) -> Vec<Wanted> {
    let one = |name: &&str| Wanted {
        name: (*name).to_owned(),
        role: MemberRole::Voter,
        region: FAR.to_owned(),
    };
    names.iter().map(one).collect()
}

/// `names` with the letter of the role: `Va-0`, `Oa-1`, `Wa-2`; small: the leader does not hear it.
fn group(members: &[&str]) -> Group {
    let one = |(at, text): (usize, &&str)| {
        let (letter, name) = text.split_at(1);
        let role = match letter.to_ascii_uppercase().as_str() {
            "V" => MemberRole::Voter,
            "O" => MemberRole::Observer,
            _ => MemberRole::Witness,
        };
        let heard = letter.to_ascii_uppercase() == letter;
        Member {
            id: at as u32 + 1,
            name: name.to_owned(),
            incarnation: format!("life-of-{name}"),
            role,
            heard,
            caught_up: heard,
        }
    };
    Group {
        epoch: 7,
        settled: true,
        leader: members[0][1..].to_owned(),
        members: members.iter().enumerate().map(one).collect(),
        former: vec!["earlier".to_owned()],
    }
}

type There = BTreeMap<String, Option<Process>>;

/// Each with the disk that the group knows.
fn there(names: &[&str]) -> There {
    let one = |name: &&str| {
        let process = Process {
            incarnation: format!("life-of-{name}"),
            empty: false,
        };
        ((*name).to_owned(), Some(process))
    };
    names.iter().map(one).collect()
}

fn says(there: &mut There, name: &str, incarnation: &str, empty: bool) {
    let process = Process {
        incarnation: incarnation.to_owned(),
        empty,
    };
    there.insert(name.to_owned(), Some(process));
}

fn look(wanted: &[Wanted], group: &Group, there: &There) -> Plan {
    plan(Situation {
        wanted,
        group,
        there,
        held: false,
        given_up: &BTreeSet::new(),
    })
}

/// The step in words.
fn step(wanted: &[Wanted], group: &Group, there: &There) -> String {
    look(wanted, group, there).step.to_string()
}

const THREE: [&str; 3] = ["a-0", "a-1", "a-2"];
const VOTERS: [&str; 3] = ["Va-0", "Va-1", "Va-2"];

#[test]
fn a_group_as_it_should_be_is_left_alone_also_when_a_voter_is_down() {
    let there = there(&THREE);
    for members in [VOTERS, ["Va-0", "va-1", "Va-2"]] {
        let plan = look(&wanted(&THREE), &group(&members), &there);
        assert_eq!(plan.step, Step::Nothing);
        assert_eq!((plan.start, plan.take_away), (vec![], vec![]));
    }
}

#[test]
fn nothing_is_changed_or_taken_away_before_the_epoch_has_settled() {
    let mut group = group(&VOTERS);
    group.settled = false;
    let mut there = there(&["a-0", "a-1", "a-2", "a-3"]);
    says(&mut there, "a-1", "earlier", false);
    let plan = look(&wanted(&["a-0", "a-1"]), &group, &there);
    let until = Until::Settled;
    assert_eq!(plan.step, wait(until, "a-0"));
    assert_eq!((plan.take_away, plan.empty), (vec![], vec![]));
    group.settled = true;
    let plan = look(&wanted(&["a-0", "a-1"]), &group, &there);
    assert_eq!(plan.take_away, ["a-3"], "a-2 is still in the group");
    assert_eq!(plan.empty, ["a-1"]);
}

#[test]
fn a_new_member_starts_then_joins_without_a_vote_then_gets_one() {
    let four = wanted(&["a-0", "a-1", "a-2", "a-3"]);
    let mut there = there(&THREE);
    let plan = look(&four, &group(&VOTERS), &there);
    assert_eq!(plan.step, wait(Until::Started, "a-3"));
    assert_eq!(plan.start, ["a-3"]);
    there.insert("a-3".to_owned(), None);
    let plan = look(&four, &group(&VOTERS), &there);
    assert_eq!(plan.step, wait(Until::Started, "a-3"));
    assert_eq!(plan.start, [""; 0]);
    says(&mut there, "a-3", "new", true);
    let Step::Change { epoch, changes } = look(&four, &group(&VOTERS), &there).step else {
        panic!("it joins");
    };
    assert_eq!(epoch, 7);
    let join = Change::Join {
        name: "a-3".to_owned(),
        incarnation: "new".to_owned(),
        role: MemberRole::Observer,
        region: FAR.to_owned(),
    };
    assert_eq!(changes, [join]);
    says(&mut there, "a-3", "life-of-a-3", true);
    let mut in_it = group(&["Va-0", "Va-1", "Va-2", "oa-3"]);
    assert_eq!(look(&four, &in_it, &there).step, wait(Until::Heard, "a-3"));
    in_it.members[3].heard = true;
    assert_eq!(
        look(&four, &in_it, &there).step,
        wait(Until::CaughtUp, "a-3")
    );
    in_it.members[3].caught_up = true;
    assert_eq!(step(&four, &in_it, &there), "a-3 becomes a voter");
    // An observer is as it should be.
    let mut three = four;
    three[3].role = MemberRole::Observer;
    assert_eq!(look(&three, &in_it, &there).step, Step::Nothing);
}

#[test]
fn several_join_at_once_and_get_their_votes_one_by_one() {
    let five = wanted(&["a-0", "a-1", "a-2", "a-3", "a-4"]);
    let mut there = there(&THREE);
    says(&mut there, "a-3", "n3", true);
    assert_eq!(
        step(&five, &group(&VOTERS), &there),
        "a-3 joins with an empty log",
        "whoever has started waits for nobody"
    );
    says(&mut there, "a-4", "n4", true);
    assert_eq!(
        step(&five, &group(&VOTERS), &there),
        "a-3 joins with an empty log; a-4 joins with an empty log"
    );
    says(&mut there, "a-3", "life-of-a-3", true);
    says(&mut there, "a-4", "life-of-a-4", true);
    let joined = group(&["Va-0", "Va-1", "Va-2", "oa-3", "Oa-4"]);
    assert_eq!(step(&five, &joined, &there), "a-4 becomes a voter");
    let both = group(&["Va-0", "Va-1", "Va-2", "Oa-3", "Oa-4"]);
    assert_eq!(step(&five, &both, &there), "a-3 becomes a voter");
}

#[test]
fn a_member_that_lost_its_disk_is_replaced_in_one_change() {
    let mut there = there(&THREE);
    says(&mut there, "a-1", "new", true);
    let lost = group(&["Va-0", "va-1", "Va-2"]);
    assert_eq!(
        step(&wanted(&THREE), &lost, &there),
        "a-1 leaves (number 2); a-1 joins with an empty log"
    );
    // Were it heard in the life that is lost: that is over.
    let heard = group(&VOTERS);
    assert!(step(&wanted(&THREE), &heard, &there).starts_with("a-1 leaves"));
    // In that life it is no part of a quorum either, whatever the leader has heard last.
    for members in [["Va-0", "va-1", "va-2"], ["Va-0", "Va-1", "va-2"]] {
        assert_eq!(
            look(&wanted(&THREE), &group(&members), &there).step,
            wait(Until::Quorum, "a-1")
        );
    }
}

#[test]
fn a_disk_that_may_not_be_taken_in_is_told() {
    let four = wanted(&["a-0", "a-1", "a-2", "a-3"]);
    let group = group(&VOTERS);
    let mut there = there(&THREE);
    for (incarnation, empty, until) in [
        ("earlier", false, Until::Emptied),
        ("earlier", true, Until::Emptied),
        ("of-others", false, Until::OwnDisk),
        ("life-of-a-1", true, Until::OwnDisk),
    ] {
        says(&mut there, "a-3", incarnation, empty);
        let plan = look(&four, &group, &there);
        assert_eq!(plan.step, wait(until, "a-3"), "{incarnation}");
        assert_eq!(plan.empty.is_empty(), until == Until::OwnDisk);
    }
    // The same for one that is in the group.
    let mut there = self::there(&THREE);
    says(&mut there, "a-1", "earlier", false);
    let plan = look(&wanted(&THREE), &group, &there);
    assert_eq!(plan.step, wait(Until::Emptied, "a-1"));
    assert_eq!(plan.empty, ["a-1"]);
}

#[test]
fn members_leave_one_vote_at_a_time_the_highest_first_and_the_leader_last() {
    let five = ["a-0", "a-1", "a-2", "a-3", "a-4"];
    let all = there(&five);
    let mut now = group(&["Va-0", "Va-1", "Va-2", "Va-3", "Va-4"]);
    let three = wanted(&THREE);
    assert_eq!(step(&three, &now, &all), "a-4 leaves (number 5)");
    now.leader = "a-4".to_owned();
    assert_eq!(step(&three, &now, &all), "a-3 leaves (number 4)");
    now.leader = "a-0".to_owned();
    now.members[3].heard = false;
    assert_eq!(step(&three, &now, &all), "a-3 leaves (number 4)");
    let last = wanted(&["a-0"]);
    let mut two = group(&["Va-0", "Va-1"]);
    two.leader = "a-1".to_owned();
    assert_eq!(step(&last, &two, &all), "a-1 leaves (number 2)");
}

#[test]
fn observers_leave_all_at_once_and_before_voters() {
    let now = group(&["Va-0", "Va-1", "Va-2", "Oa-3", "oa-4"]);
    let there = there(&["a-0", "a-1", "a-2", "a-3", "a-4"]);
    assert_eq!(
        step(&wanted(&["a-0"]), &now, &there),
        "a-3 leaves (number 4); a-4 leaves (number 5)"
    );
}

#[test]
fn nobody_leaves_while_the_rest_would_be_no_quorum() {
    let there = there(&["a-0", "a-1", "a-2", "a-3", "a-4"]);
    let two_down = group(&["Va-0", "va-1", "va-2", "Va-3", "Va-4"]);
    // Of a-0 to a-3, two are heard; without a-3, and without a-4, it is the same.
    let plan = look(&wanted(&THREE), &two_down, &there);
    assert_eq!(plan.step, wait(Until::Quorum, "a-4"));
    // One that is silent may go: three of four are heard then.
    let kept = wanted(&["a-0", "a-1", "a-3", "a-4"]);
    assert_eq!(step(&kept, &two_down, &there), "a-2 leaves (number 3)");
    let no_quorum = group(&["Va-0", "va-1", "va-2"]);
    assert_eq!(
        look(&wanted(&["a-0", "a-1"]), &no_quorum, &there).step,
        wait(Until::Quorum, "a-2")
    );
    let mut four = self::there(&THREE);
    says(&mut four, "a-3", "new", true);
    assert_eq!(
        look(&wanted(&["a-0", "a-1", "a-2", "a-3"]), &no_quorum, &four).step,
        wait(Until::Quorum, "a-1"),
        "nor can anything else be chosen"
    );
    assert_eq!(
        look(&[], &group(&["Va-0"]), &there).step,
        wait(Until::Quorum, "a-0"),
        "somebody stays"
    );
}

#[test]
fn who_is_to_come_is_there_before_anybody_goes() {
    let moved = wanted(&["a-0", "a-1", "b-0"]);
    let mut there = there(&THREE);
    let now = group(&VOTERS);
    assert_eq!(look(&moved, &now, &there).step, wait(Until::Started, "b-0"));
    says(&mut there, "b-0", "new", true);
    assert_eq!(step(&moved, &now, &there), "b-0 joins with an empty log");
    says(&mut there, "b-0", "life-of-b-0", true);
    let mut now = group(&["Va-0", "Va-1", "Va-2", "Ob-0"]);
    now.members[3].caught_up = false;
    assert_eq!(
        look(&moved, &now, &there).step,
        wait(Until::CaughtUp, "b-0")
    );
    now.members[3].caught_up = true;
    assert_eq!(step(&moved, &now, &there), "b-0 becomes a voter");
    let now = group(&["Va-0", "Va-1", "Va-2", "Vb-0"]);
    assert_eq!(step(&moved, &now, &there), "a-2 leaves (number 3)");
}

#[test]
fn a_voter_of_which_less_is_wanted_loses_its_vote_and_stays() {
    let mut now_wanted = wanted(&THREE);
    now_wanted[2].role = MemberRole::Observer;
    let there = there(&THREE);
    assert_eq!(
        step(&now_wanted, &group(&VOTERS), &there),
        "a-2 becomes an observer"
    );
}

#[test]
fn a_copy_that_is_to_be_a_witness_goes_and_comes_back_and_so_does_a_witness() {
    let mut witness = wanted(&THREE);
    witness[2].role = MemberRole::Witness;
    let mut there = there(&THREE);
    for members in [VOTERS, ["Va-0", "Va-1", "Oa-2"]] {
        let step = step(&witness, &group(&members), &there);
        assert_eq!(step, "a-2 leaves (number 3)");
    }
    let voters = wanted(&THREE);
    let mixed = group(&["Va-0", "Va-1", "Wa-2"]);
    assert_eq!(step(&voters, &mixed, &there), "a-2 leaves (number 3)");
    let mut gone = group(&["Va-0", "Va-1"]);
    gone.former.push("life-of-a-2".to_owned());
    assert_eq!(look(&witness, &gone, &there).empty, ["a-2"]);
    says(&mut there, "a-2", "new", true);
    assert_eq!(
        step(&witness, &gone, &there),
        "a-2 joins with an empty log, as a witness"
    );
}

#[test]
fn witnesses_come_one_by_one_while_a_quorum_is_heard_without_them() {
    let mut five = wanted(&["a-0", "a-1", "a-2", "a-3", "a-4"]);
    five[3].role = MemberRole::Witness;
    five[4].role = MemberRole::Witness;
    let mut there = there(&THREE);
    says(&mut there, "a-3", "n3", true);
    says(&mut there, "a-4", "n4", true);
    let first = "a-3 joins with an empty log, as a witness";
    assert_eq!(step(&five, &group(&VOTERS), &there), first);
    // Two of four would be none.
    let silent = group(&["Va-0", "Va-1", "va-2"]);
    let waits = look(&five, &silent, &there).step;
    assert_eq!(waits, wait(Until::Quorum, "a-3"));
    says(&mut there, "a-3", "life-of-a-3", true);
    let mut in_it = group(&["Va-0", "Va-1", "Va-2", "Wa-3"]);
    in_it.members[3].caught_up = false;
    let second = "a-4 joins with an empty log, as a witness";
    assert_eq!(step(&five, &in_it, &there), second);
    says(&mut there, "a-4", "life-of-a-4", true);
    let mut all = group(&["Va-0", "Va-1", "Va-2", "Wa-3", "Wa-4"]);
    all.members[3].caught_up = false;
    assert_eq!(
        look(&five, &all, &there).step,
        wait(Until::CaughtUp, "a-3"),
        "nobody goes before it has the log"
    );
    all.members[3].caught_up = true;
    assert_eq!(look(&five, &all, &there).step, Step::Nothing);
    // Its disk is lost.
    says(&mut there, "a-4", "new", true);
    assert_eq!(
        step(&five, &all, &there),
        "a-4 leaves (number 5); a-4 joins with an empty log, as a witness"
    );
}

#[test]
fn a_vote_more_waits_for_a_quorum_also_in_the_place_of_one_that_had_none() {
    let mut three = wanted(&THREE);
    three[2].role = MemberRole::Witness;
    let mut there = there(&THREE);
    says(&mut there, "a-2", "new", true);
    let one = group(&["Va-0", "Oa-1", "Oa-2"]);
    let after_the_vote = look(&three, &one, &there).step;
    assert_eq!(after_the_vote.to_string(), "a-1 becomes a voter");
    let mut waits = one.clone();
    waits.members[1].caught_up = false;
    assert_eq!(
        step(&three, &waits, &there),
        "a-2 leaves (number 3)",
        "what is lost of it may go, and it comes later"
    );
    let two = group(&["Va-0", "Va-1", "Oa-2"]);
    let step = step(&three, &two, &there);
    assert_eq!(
        step,
        "a-2 leaves (number 3); a-2 joins with an empty log, as a witness"
    );
}

#[test]
fn a_witness_does_not_wait_for_whoever_is_lost_and_not_wanted() {
    let mut three = wanted(&THREE);
    three[2].role = MemberRole::Witness;
    let mut there = there(&["a-0", "a-1", "b-0"]);
    says(&mut there, "a-2", "new", true);
    // Two of four would be none.
    let before = group(&["Va-0", "Va-1", "vb-0"]);
    assert_eq!(step(&three, &before, &there), "b-0 leaves (number 3)");
    let heard = group(&["Va-0", "va-1", "Vb-0"]);
    assert_eq!(
        look(&three, &heard, &there).step,
        wait(Until::Quorum, "a-2")
    );
    // What it is to begin behind, too few copies have as long as that one counts.
    let mut four = three.clone();
    four.extend(wanted(&["a-3"]));
    let there = self::there(&["a-0", "a-1", "a-2", "a-3", "b-0"]);
    let mut in_it = group(&["Va-0", "Va-1", "Va-3", "Wa-2", "vb-0"]);
    in_it.members[3].caught_up = false;
    assert_eq!(step(&four, &in_it, &there), "b-0 leaves (number 5)");
}

#[test]
fn w5_where_there_are_witnesses_the_state_stays_in_enough_hands() {
    let mut two = wanted(&["a-0", "a-1", "a-2"]);
    two[2].role = MemberRole::Witness;
    let there = there(&["a-0", "a-1", "a-2", "b-0"]);
    let mut all = group(&["Va-0", "Va-1", "Wa-2", "Vb-0"]);
    assert_eq!(step(&two, &all, &there), "b-0 leaves (number 4)");
    all.members[1].caught_up = false;
    assert_eq!(
        look(&two, &all, &there).step,
        wait(Until::CaughtUp, "a-1"),
        "it would be the witness that makes the quorum"
    );
    let mut without = group(&["Va-0", "Va-1", "Vb-0"]);
    without.members[1].caught_up = false;
    assert_eq!(
        step(&wanted(&["a-0", "a-1"]), &without, &there),
        "b-0 leaves (number 3)",
        "both must have what is chosen"
    );
}

#[test]
fn a_group_is_never_left_without_a_copy() {
    let one = wanted(&["a-0"]);
    let mut there = there(&["a-0", "a-1"]);
    let before = group(&["Wa-0", "Va-1"]);
    assert_eq!(
        step(&one, &before, &there),
        "a-0 leaves (number 1)",
        "it comes back as a copy before the other goes"
    );
    let silent = group(&["Va-1", "wa-0"]);
    assert_eq!(look(&one, &silent, &there).step, wait(Until::Quorum, "a-0"));
    let mut three = wanted(&THREE);
    three[1].role = MemberRole::Witness;
    three[2].role = MemberRole::Witness;
    says(&mut there, "a-0", "new", true);
    says(&mut there, "a-2", "life-of-a-2", false);
    let lost = group(&["Va-0", "Wa-1", "Wa-2"]);
    assert_eq!(look(&three, &lost, &there).step, wait(Until::Quorum, "a-0"));
}

#[test]
fn nobody_is_taken_out_while_a_request_is_undecided_and_joining_goes_on() {
    let mut there = there(&["a-0", "a-1", "a-2", "a-3"]);
    let held = |wanted: &[Wanted], group: &Group, there: &There| {
        plan(Situation {
            wanted,
            group,
            there,
            held: true,
            given_up: &BTreeSet::from(["nobody's".to_owned()]),
        })
        .step
        .to_string()
    };
    let now = group(&["Va-0", "Va-1", "Va-2", "Oa-3"]);
    let stays = " stays until it is decided what becomes of the request that copies fail at";
    for (names, who) in [(&THREE[..], "a-3"), (&THREE[..2], "a-3")] {
        assert_eq!(
            held(&wanted(names), &now, &there),
            format!("{who}{stays}"),
            "an observer"
        );
    }
    let voters = group(&VOTERS);
    assert_eq!(
        held(&wanted(&THREE[..2]), &voters, &there),
        format!("a-2{stays}")
    );
    says(&mut there, "a-1", "new", true);
    assert_eq!(
        held(&wanted(&THREE), &voters, &there),
        format!("a-1{stays}")
    );
    says(&mut there, "a-3", "new-too", true);
    let four = wanted(&["a-0", "a-1", "a-2", "a-3"]);
    assert_eq!(held(&four, &voters, &there), "a-3 joins with an empty log");
}

#[test]
fn what_a_person_has_thrown_away_is_taken_out_although_a_request_is_undecided() {
    let mut there = there(&["a-0", "a-1", "a-2"]);
    let voters = group(&VOTERS);
    says(&mut there, "a-1", "new", true);
    let old = voters.members.iter().find(|it| it.name == "a-1");
    let given_up = BTreeSet::from([old.expect("it is there").incarnation.clone()]);
    let plan = plan(Situation {
        wanted: &wanted(&THREE),
        group: &voters,
        there: &there,
        held: true,
        given_up: &given_up,
    });
    let step = plan.step.to_string();
    assert!(step.starts_with("a-1 leaves"), "{step}");
}
