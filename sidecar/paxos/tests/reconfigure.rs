//! Scenarios of changes of the configuration: rules M1-M4, and what is refused.

mod common;

use common::reconfiguration::{
    THREE, WITH_4, epoch, first_ballot, member, stop_sign, three, three_and_an_observer, undecided,
    write,
};
use common::{MS, Net, id};
use synod_paxos::Role::{self, Observer, Voter, Witness};
use synod_paxos::{
    Ballot, Configuration, Entry, Epoch, Incarnation, MemberId, Message, Quorums,
    ReconfigureRefused, Settings, Slot, Standing,
};

// === M1 ===

#[test]
fn m1_a_configuration_takes_effect_when_it_is_chosen_and_never_when_it_is_appended() {
    let mut net = three();
    let next = net.next(&WITH_4);
    undecided(&mut net, &WITH_4);
    let stop = stop_sign(&net);
    assert_eq!(stop.reconfigures_to(), Some(next.clone()));
    for number in 1..=3 {
        assert_eq!(epoch(&net, number), 1);
        assert_eq!(net.node(id(number)).configurations, []);
    }
    net.heal();
    net.until(2000, "the epoch", |net| {
        (1..=3).all(|it| epoch(net, it) == 2)
    });
    net.run(100);
    for number in 1..=3 {
        let told = &net.node(id(number)).configurations;
        assert_eq!(*told, [(stop.slot, next.clone())]);
    }
}

#[test]
fn m1_nothing_follows_a_stop_sign_in_its_epoch_and_what_waits_comes_in_the_next() {
    let mut net = three();
    undecided(&mut net, &WITH_4);
    let stop = stop_sign(&net);
    let own = net.propose(id(1), b"of the leader");
    let other = net.propose(id(2), b"of another");
    net.run(50);
    assert_eq!(net.paxos(id(1)).last(), stop.slot, "the log is closed");
    net.heal();
    net.until(5000, "both", |net| {
        net.node(id(1)).slot_of(own).is_some() && net.node(id(2)).slot_of(other).is_some()
    });
    for entry in net.history.values() {
        let expected = if entry.slot > stop.slot { 2 } else { 1 };
        assert_eq!(entry.ballot.epoch, Epoch(expected), "{}", entry.slot);
    }
    assert!(net.history.contains_key(&stop.slot.next()), "slots go on");
}

#[test]
fn m1_an_entry_behind_a_stop_sign_is_not_taken_from_anybody() {
    let mut net = three();
    net.filter = Box::new(|from, to, message| {
        // 2 takes the stop-sign, and 1 does not hear of it; 3 does not get it.
        let accept = matches!(message, Message::Accept { .. });
        (from == id(1) && !(accept && to == id(3))) || matches!(message, Message::Heartbeat(_))
    });
    net.change(&WITH_4).expect("proposed");
    net.run(20);
    let stop = stop_sign(&net);
    assert_eq!(net.paxos(id(2)).last(), stop.slot);
    net.filter = Box::new(|_, _, _| false);
    let behind = Entry {
        slot: stop.slot.next(),
        ..stop.clone()
    };
    let before = net.paxos(id(2)).counters().impossible_messages;
    let accept = |previous: Slot, entries: Vec<Entry>| Message::Accept {
        ballot: stop.ballot,
        previous,
        previous_ballot: stop.ballot,
        entries,
        commit: Slot(0),
        commit_ballot: Ballot::default(),
        early: false,
    };
    net.inject(id(1), id(2), accept(stop.slot, vec![behind.clone()]));
    assert_eq!(net.paxos(id(2)).last(), stop.slot);
    assert_eq!(net.paxos(id(2)).counters().impossible_messages, before + 1);
    // Nor with the stop-sign itself in one message.
    let before = net.paxos(id(3)).counters().impossible_messages;
    let both = accept(stop.slot.prev(), vec![stop.clone(), behind]);
    net.inject(id(1), id(3), both);
    assert_eq!(net.paxos(id(3)).last(), stop.slot.prev());
    assert_eq!(net.paxos(id(3)).counters().impossible_messages, before + 1);
}

#[test]
fn m1_entering_sets_promise_and_adoption_to_the_first_ballot_by_one_record() {
    let mut net = three();
    net.change(&WITH_4).expect("proposed");
    net.until(2000, "2 enters", |net| epoch(net, 2) == 2);
    let first = first_ballot(2, 1);
    let paxos = net.paxos(id(2));
    assert_eq!((paxos.promised(), paxos.accepted()), (first, first));
    // Not synced yet: nobody hears of it, and a crash takes it back.
    assert_eq!(paxos.hello().epoch, Epoch(1));
    assert_eq!(net.node(id(2)).configurations, []);
    net.crash(id(2));
    assert_eq!(net.node(id(2)).disk.durable().promised.epoch, Epoch(1));
    net.start(id(2));
    net.until(3000, "2 enters again", |net| {
        !net.node(id(2)).configurations.is_empty()
    });
    assert_eq!(net.paxos(id(2)).hello().epoch, Epoch(2));
    net.restart(id(2));
    assert_eq!(epoch(&net, 2), 2, "after a restart");
    assert_eq!(net.paxos(id(2)).configuration().members.len(), 4);
}

#[test]
fn m1_the_first_leader_leads_without_an_election_once_its_record_is_synced() {
    let mut net = three();
    net.stalled.insert(id(2));
    let mut next = net.next(&THREE);
    next.first_leader = id(2);
    let elections: u64 = (1..=3)
        .map(|it| net.paxos(id(it)).counters().elections)
        .sum();
    net.stalled.clear();
    net.propose_at(id(1), &next).expect("proposed");
    // 2 enters, and its disk does not answer from then on.
    net.until(2000, "2 enters", |net| epoch(net, 2) == 2);
    net.stalled.insert(id(2));
    net.run(20);
    assert_eq!(net.paxos(id(2)).standing(), Standing::Follower, "unsynced");
    net.stalled.clear();
    net.until(2000, "2 leads", |net| net.settled_leader() == Some(id(2)));
    write(&mut net, id(3), 2);
    assert_eq!(net.paxos(id(2)).promised(), first_ballot(2, 2));
    let after: u64 = (1..=3)
        .map(|it| net.paxos(id(it)).counters().elections)
        .sum();
    assert_eq!(elections, after, "nobody stood");
}

#[test]
fn m1_a_first_leader_that_starts_again_prepares_like_everybody_else() {
    let mut net = three();
    net.change(&THREE).expect("proposed");
    net.until(2000, "1 leads", |net| {
        net.leader() == Some(id(1)) && epoch(net, 1) == 2
    });
    net.run(100);
    assert_eq!(net.paxos(id(1)).promised(), first_ballot(2, 1));
    // All of them: nobody knows of a leader.
    for number in 1..=3 {
        net.restart(id(number));
        assert_eq!(net.paxos(id(number)).accepted(), first_ballot(2, 1));
        assert_eq!(net.paxos(id(number)).standing(), Standing::Follower);
    }
    net.elect();
    let leader = net.leader().unwrap();
    assert!(net.paxos(leader).promised().round > 0, "after phase 1");
    write(&mut net, id(1), 2);
}

#[test]
fn m1_a_leader_says_last_that_its_epoch_is_over() {
    let mut net = three();
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Heartbeat(_)));
    net.change(&WITH_4).expect("proposed");
    net.run(10);
    assert!(
        (1..=3).all(|it| epoch(&net, it) == 2),
        "no heartbeat told them"
    );
}

#[test]
fn m1_only_the_first_leader_that_was_chosen_may_use_round_0() {
    let mut net = three();
    net.change(&THREE).expect("proposed");
    net.run(500);
    let before = net.paxos(id(3)).counters().impossible_messages;
    let ballot = first_ballot(2, 2);
    let prepare = Message::Prepare {
        ballot,
        accepted: ballot,
        last: Slot(1),
        commit: Slot(1),
        handed_over: true,
    };
    net.inject(id(2), id(3), prepare);
    assert_eq!(net.paxos(id(3)).promised(), first_ballot(2, 1));
    assert_eq!(net.paxos(id(3)).counters().impossible_messages, before + 1);
}

#[test]
fn m1_without_a_first_leader_somebody_is_elected() {
    let mut net = three();
    let mut next = net.next(&THREE);
    next.first_leader = MemberId(0);
    net.propose_at(id(1), &next).expect("proposed");
    net.until(5000, "a leader of the epoch", |net| {
        let leader = net.settled_leader();
        leader.is_some_and(|leader| net.paxos(leader).epoch() == Epoch(2))
    });
    write(&mut net, id(2), 2);
}

#[test]
fn m1_a_first_leader_that_is_gone_holds_nobody_up_for_long() {
    let mut net = three();
    let mut next = net.next(&THREE);
    next.first_leader = id(2);
    net.filter = Box::new(|from, _, _| from != id(2));
    net.propose_at(id(1), &next).expect("proposed");
    net.until(2000, "the epoch", |net| epoch(net, 3) == 2);
    net.crash(id(2));
    net.heal();
    let timeout_ms = net.paxos(id(3)).status().election_timeout_ns / MS;
    net.until(6 * timeout_ms, "another leads", |net| {
        net.settled_leader().is_some()
    });
    write(&mut net, id(1), 2);
    net.start(id(2));
    let last = net.paxos(id(1)).last();
    net.until_all_applied(3000, last);
}

// === M2, M3, M4: what is refused ===

#[test]
fn m3_only_the_leader_takes_a_change_and_only_one_of_the_epoch_in_force() {
    let mut net = three();
    let next = net.next(&WITH_4);
    let leader = Some(id(1));
    assert_eq!(
        net.propose_at(id(2), &next),
        Err(ReconfigureRefused::NotLeader { leader })
    );
    net.change_now(&WITH_4);
    let (expected, current) = (Epoch(1), Epoch(2));
    assert_eq!(
        net.propose_at(id(1), &next),
        Err(ReconfigureRefused::Epoch { expected, current })
    );
}

#[test]
fn m2_a_change_waits_for_the_one_before_and_for_an_entry_of_its_epoch() {
    let mut net = three();
    undecided(&mut net, &WITH_4);
    let epoch = Epoch(2);
    assert_eq!(
        net.change(&THREE),
        Err(ReconfigureRefused::UnderWay { epoch })
    );
    net.heal();
    // In epoch 2 nothing gets chosen.
    net.filter = Box::new(|from, to, message| match message {
        Message::Accept { entries, .. } => {
            from != id(1) || entries.iter().all(|it| it.ballot.epoch == Epoch(1))
        }
        _ => to != id(9),
    });
    net.until(2000, "1 leads in it", |net| {
        net.paxos(id(1)).epoch() == Epoch(2) && net.leader() == Some(id(1))
    });
    net.run(20);
    assert!(!net.paxos(id(1)).old_epoch_retired());
    assert_eq!(
        net.change(&THREE),
        Err(ReconfigureRefused::UnderWay { epoch })
    );
    net.heal();
    net.until(3000, "an entry", |net| net.paxos(id(1)).old_epoch_retired());
    net.run(200);
    net.change(&THREE).expect("proposed");
}

#[test]
fn p8_members_do_not_change_before_the_group_speaks_protocol_2() {
    let mut net = Net::at_protocol(3, 1);
    net.elect_member(id(1));
    net.run(300);
    assert_eq!(
        net.change(&WITH_4),
        Err(ReconfigureRefused::Protocol { in_force: 1 })
    );
}

#[test]
fn p4_what_is_no_configuration_is_refused_with_the_reason() {
    let mut net = three();
    let last = net.paxos(id(1)).last();
    let flexible = |phase1, phase2| Quorums::Flexible { phase1, phase2 };
    let wrong: [fn(&mut Configuration); 6] = [
        |it| it.epoch = Epoch(3),
        |it| it.members.clear(),
        |it| {
            for member in &mut it.members {
                member.role = Role::Witness;
            }
        },
        |it| it.members[1].name = it.members[0].name.clone(),
        |it| it.first_leader = id(7),
        |it| {
            it.members[2].role = Role::Observer;
            it.first_leader = id(3);
        },
    ];
    let mut tried: Vec<Configuration> = Vec::new();
    for change in wrong {
        let mut next = net.next(&THREE);
        change(&mut next);
        tried.push(next);
    }
    for quorums in [
        flexible(1, 2),
        flexible(3, 0),
        flexible(0, 3),
        flexible(4, 1),
    ] {
        let mut next = net.next(&THREE);
        next.quorums = quorums;
        tried.push(next);
    }
    for next in tried {
        let now = net.now(id(1));
        let result = net.with_paxos(id(1), |paxos| {
            paxos.propose_configuration(now, Epoch(1), &next)
        });
        assert!(
            matches!(result, Err(ReconfigureRefused::Invalid(_))),
            "{next:?}: {result:?}"
        );
    }
    assert_eq!(net.paxos(id(1)).last(), last, "no effect");
}

#[test]
fn m4_a_number_and_an_incarnation_are_used_once_also_behind_snapshots() {
    let mut net = three_and_an_observer();
    net.change_now(&THREE);
    write(&mut net, id(1), 3);
    let through = net.node(id(1)).through;
    net.compact(id(1), through);
    assert_eq!(net.paxos(id(1)).base().former, [member(4, Observer)]);
    let used = |net: &mut Net, number: u32, incarnation: u128| {
        let mut next = net.next(&THREE);
        let mut new = member(number, Observer);
        new.name = "another".to_owned();
        new.incarnation = Incarnation(incarnation);
        next.members.retain(|it| it.id != new.id);
        next.members.push(new);
        next.members.sort_by_key(|it| it.id);
        let result = net.propose_at(id(1), &next);
        result.map_err(|it| matches!(it, ReconfigureRefused::UsedBefore { .. }))
    };
    for _ in 0..2 {
        assert_eq!(used(&mut net, 4, 1004), Err(true), "itself");
        assert_eq!(used(&mut net, 4, 5555), Err(true), "its number");
        assert_eq!(used(&mut net, 5, 1004), Err(true), "its incarnation");
        assert_eq!(used(&mut net, 3, 5555), Err(true), "a present one's number");
        net.restart(id(1));
        net.elect_member(id(1));
        net.run(300);
    }
    assert_eq!(used(&mut net, 5, 5555), Ok(()));
}

#[test]
fn m2_a_voter_is_made_of_an_observer_that_has_caught_up_and_one_at_a_time() {
    let mut net = three();
    let unknown = [(1, Voter), (2, Voter), (3, Voter), (4, Voter)];
    let member = id(4);
    assert_eq!(
        net.change(&unknown),
        Err(ReconfigureRefused::NotCaughtUp { member })
    );
    net.change_now(&WITH_4);
    assert_eq!(
        net.change(&unknown),
        Err(ReconfigureRefused::NotCaughtUp { member }),
        "it has not come yet"
    );
    net.join(4);
    let slot = net.paxos(id(1)).last();
    net.until_all_applied(5000, slot);
    net.run(300);
    let more = [
        (1, Voter),
        (2, Voter),
        (3, Voter),
        (4, Observer),
        (5, Observer),
        (6, Observer),
    ];
    net.change_now(&more);
    net.join(5);
    net.join(6);
    net.run(1000);
    let members = vec![id(5), id(6)];
    let two = [
        (1, Voter),
        (2, Voter),
        (3, Voter),
        (4, Observer),
        (5, Voter),
        (6, Voter),
    ];
    assert_eq!(
        net.change(&two),
        Err(ReconfigureRefused::ManyNewVoters { members })
    );
    let members = vec![id(7), id(8)];
    let witnesses = [
        (1, Voter),
        (2, Voter),
        (3, Voter),
        (7, Witness),
        (8, Witness),
    ];
    assert_eq!(
        net.change(&witnesses),
        Err(ReconfigureRefused::ManyNewVoters { members })
    );
    net.change_now(&[
        (1, Voter),
        (2, Voter),
        (3, Voter),
        (4, Voter),
        (5, Observer),
    ]);
    write(&mut net, id(4), 2);
}

/// Three voters and a fourth member, of which 1 leads. One is heard, but nothing of more than a window of the
/// log gets there.
fn led_by_1_and_one_is_far_behind(members: &[(u32, Role)], behind: MemberId) -> Net {
    let settings = Settings {
        window_bytes: 4000,
        total_window_bytes: 400_000,
        max_message_bytes: 700,
        max_body_bytes: 1000,
        ..Settings::default()
    };
    let mut net = Net::with(&[Voter; 3], Quorums::Majority, settings);
    net.elect_member(id(1));
    net.run(300);
    net.change_now(members);
    net.join(4);
    net.run(500);
    net.filter =
        Box::new(move |_, to, message| to != behind || !matches!(message, Message::Accept { .. }));
    for _ in 0..60 {
        net.propose(id(1), &[7; 300]);
        net.run(2);
    }
    net.run(20);
    net
}

#[test]
fn m2_an_observer_more_than_a_window_behind_does_not_become_a_voter() {
    let mut net = led_by_1_and_one_is_far_behind(&WITH_4, id(4));
    let voters = [(1, Voter), (2, Voter), (3, Voter), (4, Voter)];
    let member = id(4);
    assert_eq!(
        net.change(&voters),
        Err(ReconfigureRefused::NotCaughtUp { member })
    );
    net.heal();
    net.run(3000);
    net.change_now(&voters);
}

#[test]
fn m2_the_voters_of_the_new_configuration_must_be_heard() {
    let mut net = three_and_an_observer();
    net.change_now(&[(1, Voter), (2, Voter), (3, Voter), (4, Voter)]);
    net.run(300);
    net.crash(id(3));
    net.run(1000);
    let members = vec![id(3)];
    assert_eq!(
        net.change(&[(1, Voter), (3, Voter)]),
        Err(ReconfigureRefused::Unheard { members })
    );
    // A quorum is enough.
    net.change_now(&[(1, Voter), (2, Voter), (3, Voter)]);
}

#[test]
fn m2_nobody_becomes_a_witness_and_a_witness_becomes_nothing_else() {
    let mut net = three_and_an_observer();
    let changed = |net: &mut Net, at: usize, role: Role| {
        let mut next = WITH_4_AND_A_WITNESS;
        next[at].1 = role;
        net.change(&next)
    };
    net.change_now(&WITH_4_AND_A_WITNESS);
    net.join(5);
    net.run(500);
    for (at, role) in [(4, Voter), (4, Observer), (2, Witness), (3, Witness)] {
        let member = id(at as u32 + 1);
        assert_eq!(
            changed(&mut net, at, role),
            Err(ReconfigureRefused::Witness { member }),
            "{member} as {role:?}"
        );
    }
    assert_eq!(changed(&mut net, 3, Voter), Ok(()));
}

#[test]
fn m2_a_new_witness_is_no_part_of_the_quorum_that_must_be_heard() {
    let mut net = three_and_an_observer();
    net.crash(id(3));
    net.run(1000);
    // 1 and 2 of 4 are no quorum.
    let members = vec![id(3), id(5)];
    assert_eq!(
        net.change(&[(1, Voter), (2, Voter), (3, Voter), (5, Witness)]),
        Err(ReconfigureRefused::Unheard { members })
    );
    net.change_now(&[(1, Voter), (2, Voter), (5, Witness)]);
    write(&mut net, id(1), 2);
}

#[test]
fn m2_a_witness_that_has_no_log_yet_is_no_part_of_a_quorum() {
    let mut net = three();
    net.change_now(&[(1, Voter), (2, Voter), (3, Voter), (4, Witness)]);
    // It is heard, and gets nothing of the log.
    net.filter = Box::new(|from, to, message| {
        let is_its = from == id(4) || to == id(4);
        !is_its || matches!(message, Message::Heartbeat(_))
    });
    net.join(4);
    net.run(1000);
    let two = [(1, Voter), (4, Witness)];
    let members = vec![id(4)];
    assert_eq!(
        net.change(&two),
        Err(ReconfigureRefused::Unheard { members })
    );
    net.heal();
    net.run(2000);
    net.change_now(&two);
}

/// Seed 20272968 of the simulator: what the witness lacked was cut off the log before it got it, and nobody
/// could lead without it.
#[test]
fn m2_a_witness_that_is_far_behind_is_no_part_of_a_quorum() {
    let members = [(1, Voter), (2, Voter), (3, Voter), (4, Witness)];
    let mut net = led_by_1_and_one_is_far_behind(&members, id(4));
    let two = [(1, Voter), (4, Witness)];
    let members = vec![id(4)];
    assert_eq!(
        net.change(&two),
        Err(ReconfigureRefused::Unheard { members })
    );
    net.heal();
    net.run(3000);
    net.change_now(&two);
}

#[test]
fn w5_no_copy_that_has_the_log_gives_up_its_vote_before_enough_of_the_others_have_it() {
    let all = [(1, Voter), (2, Voter), (3, Voter), (4, Voter), (5, Witness)];
    let mut net = Net::with(&[Voter; 4], Quorums::Majority, Settings::default());
    net.elect_member(id(1));
    net.run(300);
    net.change_now(&all);
    net.join(5);
    net.run(500);
    net.crash(id(4));
    net.run(1000);
    write(&mut net, id(1), 3);
    // A quorum of what would be left is heard, and may know of the log what 4 needs no more.
    let members = vec![id(4)];
    let few = Err(ReconfigureRefused::FewCopies { members });
    assert_eq!(net.change(&[(1, Voter), (4, Voter), (5, Witness)]), few);
    let without_a_vote = [
        (1, Voter),
        (2, Observer),
        (3, Observer),
        (4, Voter),
        (5, Witness),
    ];
    assert_eq!(net.change(&without_a_vote), few);
    // Who is away may go, and those that stay have the log.
    net.change_now(&[(1, Voter), (2, Voter), (3, Voter), (5, Witness)]);
    net.change_now(&[(1, Voter), (2, Voter), (5, Witness)]);
    write(&mut net, id(1), 2);
}

#[test]
fn w5_a_copy_that_is_heard_and_far_behind_is_none_of_those_that_have_the_log() {
    let members = [(1, Voter), (2, Voter), (3, Voter), (4, Witness)];
    let mut net = led_by_1_and_one_is_far_behind(&members, id(3));
    let without_2 = [(1, Voter), (3, Voter), (4, Witness)];
    let members = vec![id(3)];
    assert_eq!(
        net.change(&without_2),
        Err(ReconfigureRefused::FewCopies { members })
    );
    net.heal();
    net.run(3000);
    net.change_now(&without_2);
}

#[test]
fn w5_without_a_witness_the_quorums_see_to_it_that_the_state_is_left() {
    let mut net = Net::with(&[Voter; 4], Quorums::Majority, Settings::default());
    net.elect_member(id(1));
    net.run(300);
    net.crash(id(4));
    net.run(1000);
    write(&mut net, id(1), 3);
    net.change_now(&[(1, Voter), (2, Voter), (4, Voter)]);
}

/// Three voters, an observer and a witness.
const WITH_4_AND_A_WITNESS: [(u32, Role); 5] = [
    (1, Voter),
    (2, Voter),
    (3, Voter),
    (4, Observer),
    (5, Witness),
];
