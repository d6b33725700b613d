//! Scenarios of members that come later: rules M4, M5.

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use common::reconfiguration::{WITH_4, epoch, three, three_and_an_observer, write};
use common::{MS, Net, id};
use synod_paxos::Role::{Observer, Voter, Witness};
use synod_paxos::{Ballot, Epoch, Message, Quorums, Role, Settings, Slot};

/// Three voters, and two that come without a vote.
const WITH_4_AND_5: [(u32, Role); 5] = [
    (1, Voter),
    (2, Voter),
    (3, Voter),
    (4, Observer),
    (5, Observer),
];

#[test]
fn m5_a_member_that_comes_later_gets_all_of_the_log_through_all_epochs() {
    let mut net = three();
    write(&mut net, id(1), 3);
    net.change_now(&WITH_4);
    write(&mut net, id(1), 3);
    net.change_now(&WITH_4_AND_5);
    write(&mut net, id(1), 3);
    net.join(5);
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    assert_eq!(epoch(&net, 5), 3);
    assert_eq!(net.node(id(5)).payloads().len(), 9);
    assert_eq!(net.node(id(5)).removed, None, "epoch 2 was before its time");
    for _ in 0..2 {
        net.restart(id(5));
        net.run(300);
        assert_eq!(epoch(&net, 5), 3);
    }
    write(&mut net, id(5), 2);
}

#[test]
fn m5_a_member_that_comes_later_may_start_again_at_any_point_of_it() {
    let settings = Settings {
        max_message_bytes: 500,
        ..Settings::default()
    };
    let mut net = Net::with(&[Voter; 3], Quorums::Majority, settings);
    net.elect_member(id(1));
    net.run(300);
    write(&mut net, id(1), 20);
    net.change_now(&WITH_4);
    write(&mut net, id(1), 20);
    net.join(4);
    let last = net.paxos(id(1)).last();
    let mut starts = 0;
    while net.node(id(4)).through < last {
        // Whatever is on disk then.
        net.delay_ns = MS;
        net.run(3 + starts % 5);
        net.restart(id(4));
        for other in 1..=3 {
            net.reset(4, other);
        }
        net.run(1);
        starts += 1;
        assert!(starts < 400, "it gets no further");
    }
    assert!(starts > 1, "in one go");
    net.run(500);
    write(&mut net, id(4), 2);
}

#[test]
fn m5_a_member_that_comes_later_gets_a_snapshot_where_the_log_is_forgotten() {
    let mut net = three();
    write(&mut net, id(1), 20);
    for number in 1..=3 {
        let through = net.node(id(number)).through;
        net.compact(id(number), through);
    }
    // The snapshot is of before its time, too.
    let before = net.base_at(id(1), net.node(id(1)).through);
    net.change_now(&WITH_4);
    write(&mut net, id(1), 5);
    net.join(4);
    net.until(3000, "it asks", |net| !net.node(id(4)).needed.is_empty());
    net.install(id(4), before).expect("taken");
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    assert_eq!((epoch(&net, 4), net.node(id(4)).removed), (2, None));
    net.restart(id(4));
    net.run(500);
    net.change_now(&[(1, Voter), (2, Voter), (4, Voter)]);
    net.crash(id(2));
    write(&mut net, id(4), 2);
}

#[test]
fn m4_a_member_never_votes_before_it_has_entered_an_epoch_that_names_it_a_voter() {
    let mut net = three_and_an_observer();
    let voters = [(1, Voter), (2, Voter), (3, Voter), (4, Voter)];
    let next = net.next(&voters);
    // 4 does not hear of the end of the epoch, and the first leader is gone: 2 and 3 of four are too few.
    net.cut(4, 1);
    net.cut(4, 2);
    net.cut(4, 3);
    net.propose_at(id(1), &next).expect("proposed");
    net.until(3000, "the others", |net| {
        epoch(net, 2) == 3 && epoch(net, 3) == 3
    });
    net.crash(id(1));
    net.run(3000);
    assert_eq!(net.settled_leader(), None);
    // 4 is asked for its vote, and may not give it: what it needs to know is kept from it.
    net.cuts.clear();
    net.filter = Box::new(|_, to, message| {
        to != id(4) || !matches!(message, Message::Learn { .. } | Message::Heartbeat(_))
    });
    net.run(3000);
    let paxos = net.paxos(id(4));
    assert_eq!(
        (paxos.epoch(), paxos.promised().epoch),
        (Epoch(2), Epoch(2))
    );
    assert_eq!(net.settled_leader(), None);
    net.heal();
    net.until(5000, "a leader", |net| net.settled_leader().is_some());
    write(&mut net, id(4), 2);
}

/// Notes the epochs that `voter` votes in from now on.
fn votes_of(net: &mut Net, voter: u32) -> Rc<RefCell<BTreeSet<Epoch>>> {
    let votes = Rc::new(RefCell::new(BTreeSet::new()));
    let noted = Rc::clone(&votes);
    net.filter = Box::new(move |from, _, message| {
        if let Message::Accepted { ballot, .. } = message
            && from == id(voter)
        {
            noted.borrow_mut().insert(ballot.epoch);
        }
        true
    });
    votes
}

#[test]
fn m4_a_member_votes_in_no_epoch_that_is_before_its_time() {
    let mut net = three();
    net.change_now(&WITH_4);
    write(&mut net, id(1), 3);
    net.change_now(&WITH_4_AND_5);
    let votes = votes_of(&mut net, 5);
    net.join(5);
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    write(&mut net, id(1), 2);
    assert_eq!(*votes.borrow(), [Epoch(3)].into());
}

#[test]
fn m4_a_member_votes_in_no_epoch_that_it_was_removed_by() {
    let mut net = three();
    write(&mut net, id(1), 2);
    let votes = votes_of(&mut net, 3);
    write(&mut net, id(1), 2);
    net.change_now(&[(1, Voter), (2, Voter)]);
    net.until(2000, "3 knows", |net| {
        net.node(id(3)).removed == Some(Epoch(2))
    });
    write(&mut net, id(1), 2);
    assert_eq!(*votes.borrow(), [Epoch(1)].into());
}

#[test]
fn m4_a_lost_disk_is_replaced_by_a_new_incarnation_in_one_change() {
    let mut net = three_and_an_observer();
    net.lose(3);
    net.run(500);
    net.change_now(&[(1, Voter), (2, Voter), (4, Voter)]);
    write(&mut net, id(1), 3);
    net.crash(id(2));
    write(&mut net, id(4), 3);
    let last = net.paxos(id(1)).last();
    net.until(3000, "both", |net| net.node(id(4)).through >= last);
}

#[test]
fn observers_follow_and_count_for_nothing() {
    let mut net = three_and_an_observer();
    net.crash(id(2));
    net.crash(id(3));
    net.run(3000);
    assert_eq!(
        net.settled_leader(),
        None,
        "1 and an observer are no quorum"
    );
    let command = net.propose(id(4), b"waits");
    net.run(1000);
    assert_eq!(net.node(id(4)).slot_of(command), None);
    assert_eq!(net.paxos(id(4)).counters().elections, 0);
    net.start(id(2));
    net.until(5000, "its fate", |net| {
        net.node(id(4)).slot_of(command).is_some()
    });
}

#[test]
fn a_witness_votes_and_leads_only_when_no_voter_with_an_app_can() {
    let mut net = three_and_an_observer();
    net.change_now(&[
        (1, Voter),
        (2, Voter),
        (3, Voter),
        (4, Observer),
        (5, Witness),
    ]);
    net.join(5);
    net.run(300);
    net.change_now(&[(1, Voter), (2, Voter), (4, Observer), (5, Witness)]);
    net.run(300);
    net.crash(id(2));
    write(&mut net, id(1), 2);
    net.start(id(2));
    net.run(500);
    net.crash(id(1));
    net.until(5000, "2 leads", |net| net.settled_leader() == Some(id(2)));
    let next = net.next(&[(2, Voter), (4, Observer), (5, Witness)]);
    assert_eq!(next.first_leader, id(2), "not the witness");
}

#[test]
fn m2_a_new_witness_votes_once_it_has_the_log_and_nobody_waits_for_it() {
    let mut net = Net::with(&[Voter; 2], Quorums::Majority, Settings::default());
    net.elect_member(id(1));
    net.run(300);
    write(&mut net, id(1), 20);
    // It is not there yet.
    net.change_now(&[(1, Voter), (2, Voter), (3, Witness)]);
    write(&mut net, id(2), 2);
    let entered = net.paxos(id(1)).last();
    net.join(3);
    let last = net.paxos(id(1)).last();
    assert!(last >= entered);
    net.until_all_applied(5000, last);
    assert_eq!(epoch(&net, 3), 2);
    net.crash(id(2));
    net.run(1000);
    write(&mut net, id(1), 2);
    net.start(id(2));
    net.run(500);
    net.crash(id(1));
    net.until(5000, "2 leads", |net| net.settled_leader() == Some(id(2)));
    write(&mut net, id(2), 2);
    net.start(id(1));
    net.run(500);
    // Its disk is lost: one out, another in.
    net.lose(3);
    net.run(1000);
    net.change_now(&[(1, Voter), (2, Voter), (4, Witness)]);
    net.join(4);
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    net.crash(id(1));
    net.until(5000, "2 leads", |net| net.settled_leader() == Some(id(2)));
    write(&mut net, id(2), 2);
}

#[test]
fn p1b_a_promise_leaves_behind_what_was_learnt_since_it_was_given() {
    let settings = Settings {
        max_message_bytes: 500,
        ..Settings::default()
    };
    let mut net = Net::with(&[Voter; 3], Quorums::Majority, settings);
    net.elect_member(id(1));
    net.run(300);
    net.cut(3, 1);
    net.cut(3, 2);
    write(&mut net, id(1), 30);
    let next = net.next(&WITH_4);
    net.propose_at(id(1), &next).expect("proposed");
    net.run(3000);
    let ballot = Ballot {
        epoch: Epoch(1),
        round: 50,
        node: id(2),
    };
    let prepare = Message::Prepare {
        ballot,
        accepted: net.paxos(id(3)).accepted(),
        last: Slot::ZERO,
        commit: Slot::ZERO,
        handed_over: false,
    };
    net.inject(id(2), id(3), prepare);
    net.run(50);
    assert_eq!(net.paxos(id(3)).promised(), ballot);
    let synced = net.paxos(id(3)).synced();
    let told = Rc::new(RefCell::new(BTreeSet::new()));
    let noted = Rc::clone(&told);
    net.filter = Box::new(move |from, _, message| {
        if let Message::Promise { last, .. } = message
            && from == id(3)
        {
            noted.borrow_mut().insert(*last);
        }
        true
    });
    net.stalled.insert(id(3));
    net.cuts.clear();
    net.reset(3, 1);
    net.reset(3, 2);
    net.until(3000, "it learns", |net| net.paxos(id(3)).last() > synced);
    net.inject(
        id(2),
        id(3),
        Message::Prepare {
            ballot,
            accepted: net.paxos(id(3)).accepted(),
            last: synced,
            commit: Slot::ZERO,
            handed_over: false,
        },
    );
    net.run(3);
    assert!(told.borrow().iter().all(|last| *last <= synced), "{told:?}");
    net.stalled.clear();
    net.until(5000, "the next epoch", |net| epoch(net, 3) == 2);
}
