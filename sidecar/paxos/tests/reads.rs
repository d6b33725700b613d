//! Scenarios of reads: rule R1.

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{MS, Net, id};
use synod_paxos::{MemberId, Message, ReadId, Slot};

fn settled() -> (Net, MemberId, Vec<MemberId>) {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(500);
    let mut others = net.members();
    others.retain(|other| *other != leader);
    (net, leader, others)
}

fn write(net: &mut Net, member: MemberId) -> Slot {
    let command = net.propose(member, b"write");
    net.until(1000, "its slot", |net| {
        net.node(member).slot_of(command).is_some()
    });
    net.node(member).slot_of(command).unwrap()
}

#[test]
fn r1_a_read_anywhere_sees_every_write_that_ended_before_it() {
    let (mut net, _, _) = settled();
    for number in 1..30 {
        let slot = write(&mut net, id(number % 3 + 1));
        let reader = id((number + 1) % 3 + 1);
        let read = net.read(reader, u64::from(number));
        net.until(100, "an index", |net| {
            net.node(reader).ready.contains_key(&read)
        });
        assert!(net.node(reader).ready[&read] >= slot);
    }
}

#[test]
fn r1_a_group_of_one_answers_reads_at_once() {
    let mut net = Net::new(1);
    net.elect();
    net.run(10);
    let read = net.read(id(1), 1);
    assert!(net.node(id(1)).ready.contains_key(&read));
}

#[test]
fn r1_a_deposed_leader_that_does_not_know_it_gives_no_index() {
    let (mut net, leader, others) = settled();
    net.isolate(leader);
    let read = net.read(leader, 1);
    net.until(2000, "another leader", |net| {
        net.settled_leader().is_some_and(|other| other != leader)
    });
    let next = net.leader().unwrap();
    write(&mut net, next);
    assert!(others.contains(&next));
    net.run(1000);
    assert!(net.node(leader).ready.is_empty(), "a stale index");
    assert!(net.node(leader).failed.contains(&read));
}

#[test]
fn r1_a_voter_that_promised_higher_confirms_nothing() {
    let (mut net, leader, others) = settled();
    let ballot = net.paxos(leader).promised();
    let mut higher = ballot;
    higher.round += 1;
    higher.node = others[0];
    let prepare = Message::Prepare {
        ballot: higher,
        accepted: ballot,
        last: Slot(0),
        commit: Slot(0),
        handed_over: true,
    };
    net.inject(others[0], others[1], prepare);
    let before = net.delivered.get("confirmed").copied();
    net.inject(leader, others[1], Message::Confirm { ballot, round: 1 });
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Prepare { .. }));
    net.run(5);
    assert_eq!(net.delivered.get("confirmed").copied(), before);
}

#[test]
fn r1_reads_that_come_together_share_a_round_and_one_that_comes_later_has_its_own() {
    let (mut net, leader, _) = settled();
    let rounds = net.paxos(leader).counters().read_rounds;
    let now = net.now(leader);
    net.with_paxos(leader, |paxos| {
        for number in 0..100 {
            paxos.read(now, ReadId(number));
        }
    });
    net.drain(leader);
    assert_eq!(net.paxos(leader).counters().read_rounds, rounds + 1);
    net.read(leader, 1000);
    assert_eq!(net.paxos(leader).counters().read_rounds, rounds + 2);
    net.run(10);
    assert_eq!(net.node(leader).ready.len(), 101);
}

#[test]
fn r1_an_index_is_not_used_for_a_read_that_came_after_its_round_began() {
    let (mut net, leader, others) = settled();
    // The first round is answered late; meanwhile something is written and read again.
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Confirmed { .. }));
    let early = net.read(leader, 1);
    net.run(1);
    let slot = write(&mut net, leader);
    let late = net.read(leader, 2);
    let ballot = net.paxos(leader).promised();
    net.inject(others[0], leader, Message::Confirmed { ballot, round: 1 });
    assert!(net.node(leader).ready[&early] < slot, "it began before");
    assert!(!net.node(leader).ready.contains_key(&late));
    net.heal();
    net.until(1000, "its own round", |net| {
        net.node(leader).ready.contains_key(&late)
    });
    assert!(net.node(leader).ready[&late] >= slot);
}

#[test]
fn r1_an_answer_to_an_earlier_start_serves_no_read_of_this_one() {
    let (mut net, leader, others) = settled();
    let reader = others[0];
    let answers = Rc::new(RefCell::new(Vec::new()));
    let kept = Rc::clone(&answers);
    net.filter = Box::new(move |_, to, message| {
        let answer = to == reader && matches!(message, Message::ReadIndexes { .. });
        if answer {
            kept.borrow_mut().push(message.clone());
        }
        !answer
    });
    net.read(reader, 1);
    net.run(10);
    assert_eq!(answers.borrow().len(), 1);
    write(&mut net, leader);
    net.restart(reader);
    net.run(1);
    net.read(reader, 1);
    net.run(1);
    let old = answers.borrow()[0].clone();
    net.inject(leader, reader, old);
    assert!(net.node(reader).ready.is_empty());
}

#[test]
fn r1_a_read_without_any_leader_fails_in_time() {
    let (mut net, leader, others) = settled();
    net.crash(leader);
    net.crash(others[1]);
    net.run(500);
    let read = net.read(others[0], 1);
    net.until(2000, "its end", |net| {
        net.node(others[0]).failed.contains(&read)
    });
}

#[test]
fn r1_a_read_asked_of_a_leader_that_dies_fails_and_is_not_left_waiting() {
    let (mut net, leader, others) = settled();
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Confirmed { .. }));
    let read = net.read(others[0], 1);
    net.run(1);
    net.crash(leader);
    net.heal();
    net.until(2000, "its end", |net| {
        net.node(others[0]).failed.contains(&read)
    });
    assert!(net.node(others[0]).ready.is_empty());
}

#[test]
fn r1_a_lost_round_is_confirmed_again() {
    let (mut net, leader, _) = settled();
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Confirm { .. }));
    let read = net.read(leader, 1);
    net.run(2);
    net.heal();
    let began = net.now_ns;
    net.until(1000, "an index", |net| {
        net.node(leader).ready.contains_key(&read)
    });
    assert!(net.now_ns - began <= 40 * MS);
}
