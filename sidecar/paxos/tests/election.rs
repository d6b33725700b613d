//! Scenarios of elections: rules E1-E4.

mod common;

use std::cell::Cell;

use common::{MS, Net, id};
use synod_paxos::{Heartbeat, MemberId, Message, PeerStatus, Quorums, Role, Settings, Standing};

const VOTER: Role = Role::Voter;

fn settled(members: usize) -> (Net, MemberId) {
    let mut net = Net::new(members);
    let leader = net.elect();
    net.run(1500);
    assert_eq!(net.settled_leader(), Some(leader));
    (net, leader)
}

fn others(net: &Net, member: MemberId) -> Vec<MemberId> {
    let mut others = net.members();
    others.retain(|other| *other != member);
    others
}

#[test]
fn e4_after_the_leaders_death_another_leads_within_300_ms() {
    for members in [3, 5] {
        for seed in 0..10 {
            let (mut net, leader) = settled(members);
            net.run(seed * 7);
            let command = net.propose(others(&net, leader)[0], b"before");
            net.run(5);
            assert!(net.node(others(&net, leader)[0]).slot_of(command).is_some());
            net.crash(leader);
            let died = net.now_ns;
            net.until(2000, "another leader", |net| net.settled_leader().is_some());
            let took_ms = (net.now_ns - died) / MS;
            assert!(took_ms < 300, "{members} members: {took_ms} ms");
        }
    }
}

#[test]
fn e4_without_a_reset_connection_it_takes_one_election_timeout_more_or_less() {
    let (mut net, leader) = settled(3);
    let timeout_ns = net.paxos(leader).status().election_timeout_ns;
    assert_eq!(timeout_ns, 150 * MS, "adapted to a fast network");
    net.isolate(leader);
    let cut = net.now_ns;
    net.until(2000, "another leader", |net| {
        net.settled_leader().is_some_and(|other| other != leader)
    });
    assert!(net.now_ns - cut < 2 * timeout_ns);
}

#[test]
fn e4_timeouts_follow_the_round_trip_within_their_bounds() {
    let mut net = Net::new(3);
    net.delay_ns = 60 * MS;
    net.elect();
    net.run(10_000);
    let timeout_ms = net.paxos(id(1)).status().election_timeout_ns / MS;
    assert!((480..700).contains(&timeout_ms), "{timeout_ms} ms");
    net.delay_ns = 2000 * MS;
    net.run(120_000);
    let timeout_ms = net.paxos(id(1)).status().election_timeout_ns / MS;
    assert_eq!(timeout_ms, 5000);
}

#[test]
fn e2_a_member_that_comes_back_does_not_disturb_the_leader() {
    let (mut net, leader) = settled(3);
    let ballot = net.paxos(leader).promised();
    let away = others(&net, leader)[0];
    net.isolate(away);
    net.run(5000);
    net.heal();
    net.run(2000);
    assert_eq!(net.settled_leader(), Some(leader));
    assert_eq!(net.paxos(leader).promised(), ballot);
    net.restart(away);
    net.run(2000);
    assert_eq!(net.paxos(leader).promised(), ballot);
}

#[test]
fn e2_a_deaf_member_does_not_disturb_the_leader() {
    let (mut net, leader) = settled(3);
    let ballot = net.paxos(leader).promised();
    let deaf = others(&net, leader)[0];
    for other in others(&net, deaf) {
        net.cuts.insert((other, deaf));
    }
    net.run(5000);
    assert_eq!(net.settled_leader(), Some(leader));
    assert_eq!(net.paxos(leader).promised(), ballot);
}

#[test]
fn e2_a_mute_member_does_not_disturb_the_leader() {
    let (mut net, leader) = settled(3);
    let ballot = net.paxos(leader).promised();
    let mute = others(&net, leader)[0];
    for other in others(&net, mute) {
        net.cuts.insert((mute, other));
    }
    net.run(5000);
    net.heal();
    net.run(1000);
    assert_eq!(net.settled_leader(), Some(leader));
    assert_eq!(net.paxos(leader).promised(), ballot);
}

#[test]
fn e2_a_member_cut_off_from_the_leader_alone_does_not_take_over() {
    let (mut net, leader) = settled(3);
    let ballot = net.paxos(leader).promised();
    net.cut(leader.0, others(&net, leader)[0].0);
    net.run(5000);
    assert_eq!(net.settled_leader(), Some(leader));
    assert_eq!(net.paxos(leader).promised(), ballot);
}

#[test]
fn e2_voters_shield_a_leader_that_works_from_a_prepare() {
    let (mut net, leader) = settled(3);
    let [one, two] = others(&net, leader)[..] else {
        unreachable!()
    };
    let mut ballot = net.paxos(leader).promised();
    ballot.round += 10;
    ballot.node = one;
    let prepare = Message::Prepare {
        ballot,
        accepted: net.paxos(leader).accepted(),
        last: net.paxos(leader).last(),
        commit: net.paxos(leader).commit(),
        handed_over: false,
    };
    net.inject(one, two, prepare.clone());
    net.inject(one, leader, prepare);
    assert_eq!(net.paxos(two).counters().prepares_ignored, 1);
    assert_eq!(net.paxos(leader).counters().prepares_ignored, 1);
    net.run(1000);
    assert_eq!(net.settled_leader(), Some(leader));
}

#[test]
fn e2_a_higher_promise_of_a_lone_member_is_overtaken_by_the_leader_and_it_follows_again() {
    let (mut net, leader) = settled(3);
    let [one, _] = others(&net, leader)[..] else {
        unreachable!()
    };
    // Member `one` is told to take over, but nobody hears of it.
    let ballot = net.paxos(leader).promised();
    net.filter = Box::new(move |from, _, message| {
        !(from == one && matches!(message, Message::Prepare { .. }))
    });
    net.inject(leader, one, Message::Transfer { ballot });
    assert!(net.paxos(one).promised() > ballot);
    net.run(1000);
    assert_eq!(net.settled_leader(), Some(leader));
    assert!(net.paxos(leader).promised() > ballot);
    let command = net.propose(leader, b"one");
    net.run(50);
    let slot = net.node(leader).slot_of(command).unwrap();
    assert!(net.node(one).through >= slot, "it takes part again");
}

#[test]
fn e3_a_leader_without_a_quorum_steps_down_and_says_so() {
    let (mut net, leader) = settled(3);
    for other in others(&net, leader) {
        net.crash(other);
    }
    net.run(1000);
    assert_eq!(net.paxos(leader).standing(), Standing::Follower);
    assert_eq!(net.paxos(leader).leader(), None);
    let last = net.node(leader).leaders.last();
    assert_eq!(last.map(|(leader, _)| *leader), Some(None));
    assert!(net.paxos(leader).status().waiting_on.is_some());
}

#[test]
fn e3_a_leader_whose_disk_stands_still_gives_way() {
    let (mut net, leader) = settled(3);
    net.stalled.insert(leader);
    net.propose(leader, b"one");
    net.until(1000, "another leader", |net| {
        net.settled_leader().is_some_and(|other| other != leader)
    });
    let command = net.propose(net.leader().unwrap(), b"two");
    let next = net.leader().unwrap();
    net.until(100, "commits without it", |net| {
        net.node(next).slot_of(command).is_some()
    });
    net.run(2000);
    assert_ne!(
        net.leader(),
        Some(leader),
        "it does not come back like that"
    );
}

#[test]
fn e3_a_leader_whose_app_stands_still_gives_way_to_one_that_has_applied_more() {
    let (mut net, leader) = settled(3);
    net.nodes.get_mut(&leader).unwrap().applies = false;
    net.propose(leader, b"poison for one copy");
    net.run(100);
    let now = net.now(leader);
    net.with_paxos(leader, |paxos| paxos.handle_app(now, true));
    net.drain(leader);
    net.until(1000, "another leader", |net| {
        net.settled_leader().is_some_and(|other| other != leader)
    });
}

#[test]
fn e3_a_leader_whose_app_stands_still_stays_while_nobody_has_applied_more() {
    let (mut net, leader) = settled(3);
    for node in net.nodes.values_mut() {
        node.applies = false;
    }
    net.propose(leader, b"poison for all");
    net.run(100);
    let now = net.now(leader);
    net.with_paxos(leader, |paxos| paxos.handle_app(now, true));
    net.run(2000);
    assert_eq!(net.settled_leader(), Some(leader));
}

#[test]
fn e3_a_transfer_takes_a_round_trip_or_two_and_loses_nothing() {
    let (mut net, leader) = settled(3);
    net.delay_ns = 5 * MS;
    net.run(2000);
    let target = others(&net, leader)[1];
    let command = net.propose(leader, b"on its way");
    net.transfer(Some(target));
    let began = net.now_ns;
    net.until(1000, "the target leads", |net| net.leader() == Some(target));
    // The entry arrives and is acknowledged, the word to prepare, promises back, syncs in between.
    assert!(net.now_ns - began <= 30 * MS, "{}", net.now_ns - began);
    net.until(1000, "its slot", |net| {
        net.node(leader).slot_of(command).is_some()
    });
}

#[test]
fn e3_a_transfer_to_a_dead_member_is_given_up_and_commands_go_on() {
    let (mut net, leader) = settled(3);
    let target = others(&net, leader)[1];
    net.isolate(target);
    net.propose(leader, b"it will not get this");
    net.transfer(Some(target));
    let command = net.propose(leader, b"waits for the transfer");
    net.until(1000, "its slot", |net| {
        net.node(leader).slot_of(command).is_some()
    });
    assert_eq!(net.leader(), Some(leader));
}

#[test]
fn a_witness_leads_only_while_nobody_with_an_app_can() {
    let roles = [VOTER, VOTER, Role::Witness];
    let mut net = Net::with(&roles, Quorums::Majority, Settings::default());
    for _ in 0..5 {
        let leader = net.elect();
        assert_ne!(leader, id(3));
        net.run(300);
        net.restart(leader);
    }
    // Now 2 can hear nobody but the witness, and its Prepares get lost.
    net.crash(id(1));
    net.filter =
        Box::new(|from, _, message| !(from == id(2) && matches!(message, Message::Prepare { .. })));
    net.until(10_000, "the witness leads", |net| {
        net.settled_leader() == Some(id(3))
    });
    net.heal();
    net.until(5000, "it hands over", |net| {
        net.settled_leader() == Some(id(2))
    });
}

#[test]
fn a_preferred_member_takes_over() {
    let mut wins = 0;
    for seed in 0..10 {
        let mut net = Net::new(3);
        net.settings.preference = 0;
        net.run(seed);
        for member in [1, 2] {
            net.restart(id(member));
        }
        wins += u32::from(net.elect() == id(3));
    }
    assert!(wins >= 9, "{wins} of 10");
}

#[test]
fn e4_a_group_split_around_one_member_recovers_within_four_timeouts() {
    // Omni-Paxos, "quorum loss": the leader and all others hear only the hub.
    let (mut net, leader) = settled(5);
    let hub = others(&net, leader)[0];
    for one in 1..=5 {
        for two in one + 1..=5 {
            if id(one) != hub && id(two) != hub {
                net.cut(one, two);
            }
        }
    }
    let cut = net.now_ns;
    net.until(5000, "the hub leads", |net| {
        net.settled_leader() == Some(hub)
    });
    assert!(net.now_ns - cut < 4 * 150 * MS);
    let command = net.propose(hub, b"one");
    net.until(500, "a commit", |net| {
        net.node(hub).slot_of(command).is_some()
    });
}

#[test]
fn e4_a_constrained_election_recovers_within_four_timeouts() {
    // Omni-Paxos, "constrained election": the leader is gone, and only one of the others is
    // connected to a quorum, one whose log is behind.
    let (mut net, leader) = settled(5);
    let rest = others(&net, leader);
    let hub = rest[0];
    net.cut(hub.0, leader.0);
    net.run(100);
    for _ in 0..5 {
        net.propose(leader, b"the hub does not have it");
        net.run(2);
    }
    let slot = net.paxos(leader).commit();
    assert!(net.paxos(hub).last() < slot);
    for (at, one) in rest.iter().enumerate() {
        net.cut(leader.0, one.0);
        for two in &rest[at + 1..] {
            if *one != hub {
                net.cut(one.0, two.0);
            }
        }
    }
    let cut = net.now_ns;
    net.until(5000, "the hub leads", |net| {
        net.settled_leader() == Some(hub)
    });
    assert!(net.now_ns - cut < 4 * 150 * MS);
    net.until(500, "what was chosen", |net| net.node(hub).through >= slot);
}

#[test]
fn e4_a_chain_of_three_keeps_or_finds_one_stable_leader() {
    // Omni-Paxos, "chained": the ends hear only the middle.
    for cut_off in 1..=2 {
        let (mut net, leader) = settled(3);
        let end = others(&net, leader)[cut_off - 1];
        net.cut(leader.0, end.0);
        net.run(1000);
        let stable = net.settled_leader().expect("a leader");
        let ballot = net.paxos(stable).promised();
        net.run(5000);
        assert_eq!(net.paxos(stable).promised(), ballot, "no ping-pong");
        let command = net.propose(stable, b"one");
        net.until(500, "a commit", |net| {
            net.node(stable).slot_of(command).is_some()
        });
    }
}

#[test]
fn e4_every_single_one_way_cut_recovers_within_four_timeouts() {
    for from in 1..=3 {
        for to in 1..=3 {
            if from == to {
                continue;
            }
            let (mut net, _) = settled(3);
            net.cuts.insert((id(from), id(to)));
            let cut = net.now_ns;
            // Somebody with a quorum commits again, and keeps doing so.
            net.run(600);
            let leader = net.settled_leader().expect("a leader");
            let command = net.propose(leader, b"one");
            net.until(200, "a commit", |net| {
                net.node(leader).slot_of(command).is_some()
            });
            assert!(net.now_ns - cut < 5 * 150 * MS);
            let ballot = net.paxos(leader).promised();
            net.run(5000);
            assert_eq!(net.paxos(leader).promised(), ballot, "{from} to {to}");
        }
    }
}

#[test]
fn e1_a_leader_whose_log_does_not_get_through_is_replaced_though_its_heartbeats_do() {
    let (mut net, leader) = settled(3);
    net.filter = Box::new(move |from, _, message| {
        from != leader || !matches!(message, Message::Accept { .. })
    });
    net.propose(leader, b"stuck");
    net.until(2000, "another leader", |net| {
        net.settled_leader().is_some_and(|other| other != leader)
    });
}

#[test]
fn a_change_of_leader_is_told_with_the_ballot_of_that_leader() {
    let mut net = Net::new(3);
    for leader in [1, 2, 3, 1] {
        net.elect_member(id(leader));
        net.run(300);
        let ballot = net.paxos(id(leader)).promised();
        for member in net.members() {
            let told = net.node(member).leaders.last().copied();
            assert_eq!(told, Some((Some(id(leader)), ballot)), "at {member}");
        }
    }
    // 3 hears of the next leader before it could promise it anything.
    net.filter =
        Box::new(|_, to, message| to != id(3) || !matches!(message, Message::Prepare { .. }));
    net.elect_member(id(2));
    let ballot = net.paxos(id(2)).promised();
    assert!(net.paxos(id(3)).promised() < ballot);
    assert_eq!(net.node(id(3)).leaders.last(), Some(&(Some(id(2)), ballot)));
    for member in net.members() {
        for (leader, ballot) in &net.node(member).leaders {
            assert!(leader.is_none_or(|leader| leader == ballot.node));
        }
    }
}

/// A heartbeat of `from` as an answer to what the leader sent so many milliseconds ago.
fn answer(net: &Net, from: MemberId, ago_ms: u64, sent_ns: u64) -> Message {
    let paxos = net.paxos(from);
    Message::Heartbeat(Heartbeat {
        ballot: paxos.promised(),
        hears: others(net, from).into_iter().collect(),
        healthy: true,
        last: paxos.synced(),
        commit: paxos.commit(),
        commit_ballot: paxos.ballot_at(paxos.commit()).unwrap(),
        mono_ns: sent_ns,
        echo_mono_ns: sent_ns - ago_ms * MS,
        ..Heartbeat::default()
    })
}

#[test]
fn e4_a_member_that_stood_still_for_a_while_does_not_cost_the_leader_its_place() {
    let (mut net, leader) = settled(3);
    net.run(2000);
    let (ballot, quick_ns) = (
        net.paxos(leader).promised(),
        net.paxos(leader).status().election_timeout_ns,
    );
    let follower = others(&net, leader)[0];
    let late = answer(&net, follower, 1000, net.now_ns);
    net.inject(follower, leader, late);
    let end_ns = net.now_ns + 5000 * MS;
    let patient = Cell::new(false);
    net.until(6000, "the end", |net| {
        let timeout_ns = net.paxos(leader).status().election_timeout_ns;
        patient.set(patient.get() || timeout_ns > 5 * quick_ns);
        net.now_ns > end_ns
    });
    assert!(patient.get(), "the leader waits longer for the others");
    assert_eq!(net.paxos(leader).promised(), ballot);
    assert_eq!(net.settled_leader(), Some(leader));
}

/// Seed 20270665 of the simulator: a machine was started anew, and the last heartbeat of the life before came
/// behind the first words of this one.
#[test]
fn a_member_whose_clock_begins_anew_is_heard_though_its_last_heartbeat_came_late() {
    let (mut net, leader) = settled(3);
    net.run(2000);
    let follower = others(&net, leader)[0];
    let late = answer(&net, follower, 10, net.now_ns + 30_000 * MS);
    net.inject(follower, leader, late);
    net.run(3000);
    let peers = net.paxos(leader).status().peers;
    let heard = |it: &PeerStatus| it.member == follower && it.heard;
    assert!(peers.iter().any(heard), "{peers:?}");
}

#[test]
fn e4_the_last_word_of_a_member_that_is_gone_comes_late_and_does_not_cost_the_leader_its_place() {
    let (mut net, leader) = settled(5);
    net.run(2000);
    let ballot = net.paxos(leader).promised();
    let gone = others(&net, leader)[0];
    net.isolate(gone);
    net.run(2000);
    let late = answer(&net, gone, 5000, net.now_ns);
    net.inject(gone, leader, late);
    net.run(500);
    let patience_ns = net.paxos(leader).status().election_timeout_ns;
    let others = net
        .members()
        .into_iter()
        .filter(|it| ![leader, gone].contains(it));
    let mut others = others.map(|it| net.paxos(it).status().election_timeout_ns);
    assert!(
        others.all(|it| it < patience_ns / 5),
        "nobody else has seen that"
    );
    net.run(10_000);
    assert_eq!(net.paxos(leader).promised(), ballot);
    assert_eq!(net.settled_leader(), Some(leader));
}

#[test]
fn e4_a_heartbeat_that_comes_after_later_ones_says_nothing_however_late_it_is() {
    let (mut net, leader) = settled(3);
    net.run(10_000);
    let timeout_ns = net.paxos(leader).status().election_timeout_ns;
    let follower = others(&net, leader)[0];
    let before = net.paxos(leader).counters().stale_messages;
    let old = answer(&net, follower, 10, net.now_ns - 5000 * MS);
    net.inject(follower, leader, old);
    assert_eq!(net.paxos(leader).counters().stale_messages, before + 1);
    net.run(1000);
    let status = net.paxos(leader).status();
    assert_eq!(status.election_timeout_ns, timeout_ns);
}
