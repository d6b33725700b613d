//! Scenarios of the normal case: rules P1-P6.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{MS, Net, id};
use synod_paxos::{
    Ballot, CommandKind, Epoch, MemberId, Message, ProposeRefused, Quorums, Role, Settings, Slot,
    WaitingOn,
};

const VOTER: Role = Role::Voter;

fn others(net: &Net, member: MemberId) -> Vec<MemberId> {
    let mut others = net.members();
    others.retain(|other| *other != member);
    others
}

#[test]
fn a_group_of_one_leads_and_commits_at_once() {
    let mut net = Net::new(1);
    net.until(10, "a leader", |net| net.leader().is_some());
    let command = net.propose(id(1), b"one");
    net.until(10, "its slot", |net| {
        net.node(id(1)).slot_of(command).is_some()
    });
    assert_eq!(net.node(id(1)).payloads(), ["one"]);
}

#[test]
fn three_members_elect_a_leader_and_agree_on_commands_of_all() {
    let mut net = Net::new(3);
    net.elect();
    let commands: Vec<_> = (0..30)
        .map(|n: u32| {
            let member = id(n % 3 + 1);
            net.run(1);
            (member, net.propose(member, &n.to_le_bytes()))
        })
        .collect();
    net.until(1000, "all slots", |net| {
        commands
            .iter()
            .all(|(member, command)| net.node(*member).slot_of(*command).is_some())
    });
    let last = net.paxos(net.leader().unwrap()).last();
    net.until_all_applied(1000, last);
    let payloads = net.node(id(1)).payloads();
    assert_eq!(payloads.len(), 30);
    for member in net.members() {
        assert_eq!(net.node(member).payloads(), payloads);
    }
}

#[test]
fn p1_entries_reach_followers_and_are_chosen_before_the_leaders_own_sync() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(200);
    net.stalled.insert(leader);
    net.propose(leader, b"one");
    net.run(3);
    let last = net.paxos(leader).last();
    assert_eq!(net.paxos(leader).commit(), last, "two followers chose it");
    assert!(net.paxos(leader).synced() < last);
    assert!(
        net.node(leader).through < last,
        "not applied before its sync"
    );
}

#[test]
fn p1_the_leaders_own_vote_counts_only_after_its_sync() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(200);
    let before = net.paxos(leader).commit();
    net.isolate(others(&net, leader)[0]);
    net.stalled.insert(leader);
    net.propose(leader, b"one");
    net.run(20);
    assert_eq!(
        net.paxos(leader).commit(),
        before,
        "one follower is not enough"
    );
    net.stalled.clear();
    net.run(5);
    assert!(net.paxos(leader).commit() > before);
}

#[test]
fn p1_a_follower_votes_only_after_its_sync() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(200);
    let before = net.paxos(leader).commit();
    for follower in others(&net, leader) {
        net.stalled.insert(follower);
    }
    net.propose(leader, b"one");
    net.run(20);
    assert_eq!(net.paxos(leader).commit(), before);
    let follower = others(&net, leader)[0];
    assert!(net.paxos(follower).last() > before, "it has the entry");
    net.stalled.remove(&follower);
    net.run(5);
    assert!(net.paxos(leader).commit() > before);
}

#[test]
fn p1b_an_accept_that_does_not_join_the_log_is_not_taken() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.propose(leader, b"one");
    net.run(200);
    let follower = others(&net, leader)[0];
    let last = net.paxos(follower).last();
    let ballot = net.paxos(follower).promised();
    let wrong = Ballot { round: 0, ..ballot };
    let mut entry = net.paxos(follower).entry(last).expect("cached").clone();
    entry.slot = last.next();
    for (previous, previous_ballot, slot) in [
        (last, wrong, last.next()),
        (last.next(), ballot, last.next().next()),
    ] {
        entry.slot = slot;
        net.inject(
            leader,
            follower,
            Message::Accept {
                ballot,
                previous,
                previous_ballot,
                entries: vec![entry.clone()],
                commit: Slot(0),
                commit_ballot: Ballot::default(),
                early: false,
            },
        );
        assert_eq!(net.paxos(follower).last(), last);
    }
}

#[test]
fn p1b_an_accept_of_a_ballot_not_promised_is_not_taken() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.propose(leader, b"one");
    net.run(200);
    let follower = others(&net, leader)[0];
    let last = net.paxos(follower).last();
    let ballot = net.paxos(follower).promised();
    for ballot in [
        Ballot {
            round: ballot.round + 1,
            ..ballot
        },
        Ballot {
            round: ballot.round - 1,
            ..ballot
        },
    ] {
        let mut entry = net.paxos(follower).entry(last).expect("cached").clone();
        entry.slot = last.next();
        entry.ballot = ballot;
        net.inject(
            leader,
            follower,
            Message::Accept {
                ballot,
                previous: last,
                previous_ballot: net.paxos(follower).ballot_at(last).unwrap(),
                entries: vec![entry],
                commit: last.next(),
                commit_ballot: ballot,
                early: false,
            },
        );
        assert_eq!(net.paxos(follower).last(), last);
        assert!(net.paxos(follower).commit() <= last);
    }
}

#[test]
fn p2_a_lone_command_does_not_wait_and_commands_during_a_sync_share_the_next() {
    let mut net = Net::new(1);
    net.elect();
    net.run(50);
    net.sync_ns = 10 * MS;
    let before = net.node(id(1)).syncs;
    let mut commands = vec![net.propose(id(1), b"first")];
    net.run(5);
    commands.extend((0..100).map(|_| net.propose(id(1), b"next")));
    net.until(100, "all of them", |net| {
        commands
            .iter()
            .all(|command| net.node(id(1)).slot_of(*command).is_some())
    });
    let syncs = net.node(id(1)).syncs - before;
    assert!((2..=4).contains(&syncs), "{syncs} syncs for 101 commands");
}

#[test]
fn p3_a_dead_follower_stops_neither_the_others_nor_the_leaders_memory() {
    let settings = Settings {
        window_bytes: 64 << 10,
        total_window_bytes: 64 << 10,
        max_body_bytes: 16 << 10,
        cache_bytes: 16 << 10,
        ..Settings::default()
    };
    let mut net = Net::with(&[VOTER; 3], Quorums::Majority, settings);
    let leader = net.elect();
    let dead = others(&net, leader)[0];
    net.run(100);
    net.isolate(dead);
    for _ in 0..400 {
        net.propose(leader, &[0; 1000]);
        net.run(1);
    }
    net.run(10);
    let status = net.paxos(leader).status();
    assert_eq!(status.commit, status.last, "all committed without it");
    assert!(status.cached_bytes < 40 << 10, "{}", status.cached_bytes);
    for peer in &status.peers {
        assert!(peer.in_flight_bytes <= 70 << 10);
    }
    net.heal();
    net.until_all_applied(5000, status.last);
    assert!(net.node(leader).loads > 0, "it caught up from disk");
}

#[test]
fn p3_a_follower_that_acknowledges_nothing_is_sent_no_more_than_its_window() {
    let settings = Settings {
        window_bytes: 64 << 10,
        max_message_bytes: 8 << 10,
        max_body_bytes: 16 << 10,
        ..Settings::default()
    };
    let mut net = Net::with(&[VOTER; 3], Quorums::Majority, settings);
    let leader = net.elect();
    let mute = others(&net, leader)[0];
    net.run(100);
    net.filter = Box::new(move |from, _, message| {
        !(from == mute && matches!(message, Message::Accepted { .. }))
    });
    for _ in 0..200 {
        net.propose(leader, &[0; 1000]);
        net.run(1);
    }
    let status = net.paxos(leader).status();
    let peer = status.peers.iter().find(|peer| peer.member == mute);
    let in_flight = peer.expect("a peer").in_flight_bytes;
    assert!(in_flight >= 64 << 10, "the window is used: {in_flight}");
    assert!(in_flight < 73 << 10, "and kept: {in_flight}");
    net.heal();
    net.until_all_applied(5000, status.last);
}

#[test]
fn p3_past_the_window_commands_are_refused_and_nothing_is_lost() {
    let settings = Settings {
        window_bytes: 64 << 10,
        total_window_bytes: 64 << 10,
        max_pending_bytes: 128 << 10,
        max_body_bytes: 16 << 10,
        ..Settings::default()
    };
    let mut net = Net::with(&[VOTER; 3], Quorums::Majority, settings);
    let leader = net.elect();
    net.run(100);
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Accept { .. }));
    let mut taken = Vec::new();
    let refused = loop {
        match net.try_propose(leader, &[0; 1000]) {
            Ok(command) => taken.push(command),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, ProposeRefused::Overloaded);
    assert!(net.paxos(leader).status().uncommitted_bytes <= 66 << 10);
    net.heal();
    net.until(5000, "all that was taken", |net| {
        taken
            .iter()
            .all(|command| net.node(leader).slot_of(*command).is_some())
    });
}

#[test]
fn p3_a_leader_whose_disk_is_slower_than_the_others_keeps_no_more_in_memory() {
    let settings = Settings {
        window_bytes: 64 << 10,
        total_window_bytes: 64 << 10,
        max_body_bytes: 16 << 10,
        cache_bytes: 16 << 10,
        ..Settings::default()
    };
    let mut net = Net::with(&[VOTER; 3], Quorums::Majority, settings);
    let leader = net.elect();
    net.run(100);
    net.stalled.insert(leader);
    for _ in 0..300 {
        net.propose(leader, &[0; 1000]);
        net.run(1);
    }
    assert_eq!(net.leader(), Some(leader), "not yet stalled for too long");
    let status = net.paxos(leader).status();
    assert!(status.commit > net.paxos(leader).synced(), "others choose");
    assert!(status.cached_bytes < 96 << 10, "{}", status.cached_bytes);
    assert_eq!(status.waiting_on, Some(WaitingOn::Window));
    net.stalled.clear();
    net.until(2000, "all of it", |net| {
        net.paxos(leader).status().pending_commands == 0
    });
}

#[test]
fn p3_a_command_over_the_limit_or_with_a_bad_id_is_refused() {
    let mut net = Net::new(1);
    net.elect();
    let limit = Settings::default().max_payload_bytes();
    let large = vec![0; limit as usize + 1];
    assert_eq!(
        net.try_propose(id(1), &large),
        Err(ProposeRefused::TooLarge { limit })
    );
    let now = net.now(id(1));
    let boot = net.paxos(id(1)).boot();
    let command = |member, sequence, kind| synod_paxos::Command {
        kind,
        id: synod_paxos::CommandId {
            member: id(member),
            boot,
            sequence,
        },
        ..Default::default()
    };
    let mut propose = |member, sequence, kind| {
        net.with_paxos(id(1), |paxos| {
            paxos.propose(now, command(member, sequence, kind))
        })
    };
    let request = CommandKind::REQUEST;
    assert_eq!(propose(2, 50, request), Err(ProposeRefused::BadId));
    assert_eq!(propose(1, 50, request), Ok(()));
    assert_eq!(propose(1, 50, request), Err(ProposeRefused::BadId));
    let noop = CommandKind::NOOP;
    assert_eq!(propose(1, 51, noop), Err(ProposeRefused::Kind(noop)));
}

#[test]
fn p3_a_full_disk_refuses_commands_until_there_is_room() {
    let mut net = Net::new(1);
    net.elect();
    let now = net.now(id(1));
    net.with_paxos(id(1), |paxos| paxos.handle_disk(now, true));
    assert_eq!(
        net.try_propose(id(1), b"one"),
        Err(ProposeRefused::DiskFull)
    );
    net.with_paxos(id(1), |paxos| paxos.handle_disk(now, false));
    net.propose(id(1), b"two");
}

#[test]
fn p4_flexible_quorums_commit_with_the_smaller_phase_and_elect_with_the_larger() {
    let quorums = Quorums::Flexible {
        phase1: 3,
        phase2: 2,
    };
    let mut net = Net::with(&[VOTER; 4], quorums, Settings::default());
    let leader = net.elect();
    net.run(300);
    let rest = others(&net, leader);
    net.crash(rest[0]);
    net.crash(rest[1]);
    let command = net.propose(leader, b"with two of four");
    net.until(1000, "a commit by two", |net| {
        net.node(leader).slot_of(command).is_some()
    });
    net.crash(leader);
    net.start(rest[0]);
    net.run(3000);
    assert_eq!(net.leader(), None, "two of four elect nobody");
    net.start(rest[1]);
    let leader = net.elect();
    let slot = net.paxos(leader).last();
    net.until_all_applied(2000, slot);
    assert_eq!(net.node(leader).payloads(), ["with two of four"]);
}

#[test]
fn p4_observers_take_the_log_but_do_not_count() {
    let roles = [VOTER, VOTER, VOTER, Role::Observer, Role::Observer];
    let mut net = Net::with(&roles, Quorums::Majority, Settings::default());
    let leader = net.elect();
    net.propose(leader, b"one");
    let slot = net.paxos(leader).last();
    net.until_all_applied(1000, slot);
    for other in others(&net, leader) {
        if other.0 <= 3 {
            net.cut(leader.0, other.0);
        }
    }
    net.propose(leader, b"two");
    net.run(100);
    assert_eq!(net.paxos(leader).commit(), slot, "observers do not choose");
    net.crash(id(1));
    net.crash(id(2));
    net.heal();
    net.run(3000);
    assert_eq!(net.settled_leader(), None, "observers do not elect");
}

#[test]
fn p6_a_command_given_to_a_leader_that_dies_is_given_to_the_next_under_the_same_id() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(300);
    let entrance = others(&net, leader)[0];
    net.filter = Box::new(move |from, _, message| {
        from != leader || matches!(message, Message::Heartbeat(_))
    });
    let command = net.propose(entrance, b"one");
    net.run(2);
    net.crash(leader);
    net.heal();
    net.until(2000, "its slot", |net| {
        net.node(entrance).slot_of(command).is_some()
    });
    net.start(leader);
    net.run(1000);
    let copies = net
        .node(leader)
        .applied
        .values()
        .filter(|entry| entry.command.id == command)
        .count();
    assert_eq!(copies, 1);
}

#[test]
fn p6_a_command_that_got_lost_on_the_way_is_given_again() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(300);
    let entrance = others(&net, leader)[0];
    let lost = Rc::new(Cell::new(0));
    let counter = Rc::clone(&lost);
    net.filter = Box::new(move |_, _, message| {
        let propose = matches!(message, Message::Propose { .. });
        if propose {
            counter.set(counter.get() + 1);
        }
        !propose || counter.get() > 1
    });
    let command = net.propose(entrance, b"one");
    net.until(2000, "its slot", |net| {
        net.node(entrance).slot_of(command).is_some()
    });
    assert!(lost.get() > 1);
}

#[test]
fn p6_a_command_is_resolved_once() {
    let mut net = Net::new(3);
    let leader = net.elect();
    let entrance = others(&net, leader)[0];
    net.run(300);
    let command = net.propose(entrance, b"one");
    net.run(100);
    let entry = net.node(leader).applied.values().last().unwrap().clone();
    let next = others(&net, leader)[1];
    net.elect_member(next);
    // The same command comes to the next leader once more.
    net.inject(
        entrance,
        next,
        Message::Propose {
            commands: vec![entry.command],
            again: false,
        },
    );
    net.run(100);
    let copies = net.node(entrance).applied.values();
    assert_eq!(
        copies.filter(|entry| entry.command.id == command).count(),
        2
    );
    assert_eq!(net.node(entrance).resolved.len(), 1);
}

#[test]
fn genesis_nobody_proposes_in_the_ballot_that_all_start_with() {
    let net = Net::new(3);
    let none = Ballot::none(Epoch(1));
    for member in net.members() {
        let paxos = net.paxos(member);
        assert_eq!((paxos.promised(), paxos.accepted()), (none, none));
        assert_eq!(paxos.last(), Slot(0));
        assert_eq!(paxos.leader(), None);
    }
}
