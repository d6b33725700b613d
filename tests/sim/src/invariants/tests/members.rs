//! The same for changes of the members: who may vote, what may follow, what must be refused.

use synod_paxos::ReconfigureRefused;

use super::*;
use crate::invariants::epochs::Epochs;
use crate::invariants::requests::Seen;

#[test]
fn a_configuration_that_may_not_follow_is_seen() {
    use Role::{Observer, Voter};
    let start = || {
        Epochs::new(
            &configuration(1, &[(1, Voter), (2, Voter), (3, Observer)]),
            9,
        )
    };
    let chosen = |next: &Configuration| start().chosen(&stop_sign(5, next));
    let fine = configuration(2, &[(1, Voter), (3, Voter), (4, Observer)]);
    chosen(&fine).unwrap();
    let skipped = configuration(3, &[(1, Voter)]);
    assert_eq!(broken(chosen(&skipped)), "I11");
    let at_once = configuration(2, &[(1, Voter), (4, Voter)]);
    assert_eq!(broken(chosen(&at_once)), "M2");
    let mut other_log = fine.clone();
    other_log.members[2] = Member {
        incarnation: Incarnation(2),
        ..member(4, Observer)
    };
    assert_eq!(broken(chosen(&other_log)), "M4");
    let mut epochs = start();
    epochs.chosen(&stop_sign(5, &fine)).unwrap();
    assert_eq!(
        (epochs.left(MemberId(2)), epochs.left(MemberId(1))),
        (Some(Epoch(2)), None)
    );
    let back = configuration(3, &[(1, Voter), (2, Observer)]);
    assert_eq!(broken(epochs.chosen(&stop_sign(6, &back))), "M4");
}

#[test]
fn a_member_that_enters_what_nobody_chose_or_proposes_in_another_life_is_seen() {
    let two = of_voters(2, 3);
    let mut epochs = Epochs::new(&of_voters(1, 3), 3);
    assert_eq!(broken(epochs.enters(0, 1, &two)), "M1");
    let stop = stop_sign(5, &two);
    epochs.chosen(&stop).unwrap();
    assert_eq!(broken(epochs.enters(0, 1, &of_voters(2, 2))), "M1");
    epochs.enters(0, 1, &two).unwrap();
    let own = entry(6, ballot(2, 0), 6);
    epochs.appends(0, 1, Some(&stop), &own).unwrap();
    assert_eq!(broken(epochs.appends(0, 2, Some(&stop), &own)), "M1");
    // Whoever follows it appends the same.
    epochs.appends(1, 2, Some(&stop), &own).unwrap();
    let behind = entry(6, ballot(1, 1), 6);
    assert_eq!(broken(epochs.appends(1, 2, Some(&stop), &behind)), "I11");
}

#[test]
fn an_epoch_that_is_retired_too_early_and_a_false_removal_are_seen() {
    let mut epochs = Epochs::new(&of_voters(1, 3), 3);
    epochs.retires(0, Epoch(1), None).unwrap();
    epochs.chosen(&stop_sign(5, &of_voters(2, 2))).unwrap();
    assert_eq!(broken(epochs.retires(0, Epoch(2), Some(Epoch(1)))), "M6");
    epochs.retires(0, Epoch(2), Some(Epoch(2))).unwrap();
    let told = |member, own, epoch, reached| {
        epochs.removed(member, Epoch(own), Epoch(epoch), Some(Epoch(reached)))
    };
    told(2, 2, 2, 1).unwrap();
    told(2, 1, 2, 2).unwrap();
    assert_eq!(broken(told(2, 1, 2, 1)), "M6", "its vote may be needed");
    assert_eq!(broken(told(1, 2, 2, 2)), "M6");
    assert_eq!(broken(told(2, 3, 3, 3)), "M6");
}

#[test]
fn votes_without_a_vote_are_seen() {
    let mut epochs = Epochs::new(&of_voters(1, 1), 3);
    let two = configuration(2, &[(1, Role::Voter), (2, Role::Observer)]);
    epochs.chosen(&stop_sign(5, &two)).unwrap();
    let vote = Message::Accepted {
        ballot: ballot(2, 1),
        slot: Slot(5),
    };
    epochs.leaves(1, &vote).unwrap();
    assert_eq!(broken(epochs.leaves(2, &vote)), "M4");
    let stands = Message::Prepare {
        ballot: ballot(2, 2),
        accepted: ballot(1, 1),
        last: Slot(5),
        commit: Slot(0),
        handed_over: false,
    };
    epochs.leaves(0, &stands).unwrap();
    assert_eq!(broken(epochs.leaves(1, &stands)), "M4");
}

#[test]
fn votes_are_counted_by_the_epoch_that_they_are_of() {
    let first = of_voters(1, 1);
    let genesis = Genesis {
        group: GroupId([1; 16]),
        configuration: first.clone(),
        policy: bytes::Bytes::new(),
        protocol: 2,
        initial_state: bytes::Bytes::new(),
    };
    let disk = |number: u32| {
        let Member {
            name, incarnation, ..
        } = member(number, Role::Voter);
        Disk::new(Identity { name, incarnation }, genesis.clone(), false)
    };
    let two = configuration(2, &[(1, Role::Voter), (2, Role::Observer)]);
    let mut chosen = Chosen::new(2, &first);
    let (mut one, mut other) = (disk(1), disk(2));
    let (from, last) = (Slot(1), Slot(0));
    let adopt = Record::Adopt {
        ballot: ballot(1, 1),
        from,
        last,
    };
    let start = [
        Record::Promise(ballot(1, 1)),
        adopt,
        Record::Append(stop_sign(1, &two)),
    ];
    let enter = Record::Enter {
        slot: Slot(1),
        configuration: two,
    };
    for record in &start {
        one.write(record).unwrap();
        other.write(record).unwrap();
    }
    assert_eq!(broken(chosen.committed(0, Slot(1), &one)), "I4");
    for (member, disk) in [(0, &mut one), (1, &mut other)] {
        disk.synced_up_to(3);
        chosen.synced(member, disk).unwrap();
        assert_eq!(chosen.through(), Slot(1));
        disk.write(&enter).unwrap();
        disk.synced_up_to(1);
        chosen.synced(member, disk).unwrap();
    }
    let behind = Ballot {
        node: MemberId(0),
        ..ballot(2, 0)
    };
    other.write(&Record::Append(entry(2, behind, 2))).unwrap();
    other.synced_up_to(1);
    chosen.synced(1, &other).unwrap();
    assert_eq!(chosen.through(), Slot(1), "an observer chooses nothing");
    one.write(&Record::Append(entry(2, behind, 2))).unwrap();
    one.synced_up_to(1);
    chosen.synced(0, &one).unwrap();
    assert_eq!(chosen.through(), Slot(2));
}

/// A leader of three voters and an observer takes this in its first epoch.
fn taken(
    leads: bool,
    ends_epoch: bool,
    expected: u64,
    next: &Configuration,
) -> Result<(), Violation> {
    use Role::{Observer, Voter};
    let first = configuration(1, &[(1, Voter), (2, Voter), (3, Observer), (4, Observer)]);
    let epochs = Epochs::new(&first, 9);
    let seen = Seen {
        leads,
        last: Slot(7),
        ends_epoch,
        configuration: first,
        lost: vec![MemberId(2)],
    };
    requests::taken(0, &seen, Epoch(expected), next, &epochs, None)
}

#[test]
fn a_change_that_had_to_be_refused_is_seen() {
    use Role::{Observer, Voter};
    let fine = configuration(2, &[(1, Voter), (3, Voter), (4, Observer)]);
    taken(true, false, 1, &fine).unwrap();
    assert_eq!(broken(taken(false, false, 1, &fine)), "M2");
    assert_eq!(broken(taken(true, true, 1, &fine)), "M2");
    assert_eq!(broken(taken(true, false, 2, &fine)), "M3");
    let wrong = [
        (configuration(3, &[(1, Voter)]), "M3"),
        (
            configuration(2, &[(1, Voter), (3, Voter), (4, Voter)]),
            "M2",
        ),
        (configuration(2, &[(1, Voter), (5, Voter)]), "M2"),
        (configuration(2, &[(1, Observer)]), "M2"),
        (configuration(2, &[(1, Voter), (2, Voter)]), "M2"),
    ];
    for (next, rule) in &wrong {
        assert_eq!(broken(taken(true, false, 1, next)), *rule, "{next:?}");
    }
    let mut again = fine;
    again.members[0].incarnation = Incarnation(77);
    assert_eq!(broken(taken(true, false, 1, &again)), "M4");
}

#[test]
fn a_change_before_the_last_is_over_and_a_refusal_with_an_effect_are_seen() {
    let two = of_voters(2, 2);
    let mut epochs = Epochs::new(&of_voters(1, 3), 3);
    epochs.chosen(&stop_sign(5, &two)).unwrap();
    let seen = Seen {
        leads: true,
        last: Slot(7),
        ends_epoch: false,
        configuration: two,
        lost: Vec::new(),
    };
    let next = of_voters(3, 1);
    let taken = |reached| requests::taken(0, &seen, Epoch(2), &next, &epochs, Some(Epoch(reached)));
    taken(2).unwrap();
    assert_eq!(broken(taken(1)), "M2");
    let refusal = ReconfigureRefused::Busy;
    requests::refused(0, &seen, Slot(7), &refusal).unwrap();
    assert_eq!(broken(requests::refused(0, &seen, Slot(8), &refusal)), "M3");
}
