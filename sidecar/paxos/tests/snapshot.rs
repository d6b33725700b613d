//! Scenarios of logs that begin behind a snapshot: rules W5, L1, L1b, L4, M4.

mod common;

use common::{MS, Net, id};
use synod_paxos::{
    Ballot, Base, Epoch, MemberId, Message, Quorums, Role, Settings, Slot, SnapshotRefused,
};

fn small() -> Settings {
    Settings {
        max_message_bytes: 500,
        cache_bytes: 1000,
        ..Settings::default()
    }
}

/// Three members, 1 leads.
fn three_led_by_1() -> Net {
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, small());
    net.elect_member(id(1));
    net.run(300);
    net
}

fn write(net: &mut Net, member: MemberId, count: usize) {
    for _ in 0..count {
        net.propose(member, b"payload");
        net.run(2);
    }
    net.run(50);
}

fn compact_all(net: &mut Net, members: &[u32]) -> Slot {
    let mut least = Slot(u64::MAX);
    for member in members {
        let through = net.node(id(*member)).through;
        net.compact(id(*member), through);
        least = least.min(through);
    }
    net.run(50);
    least
}

/// 3 was cut off while the others wrote and forgot.
fn three_is_behind() -> (Net, Slot) {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 3);
    net.isolate(id(3));
    write(&mut net, id(1), 20);
    let base = compact_all(&mut net, &[1, 2]);
    write(&mut net, id(1), 5);
    net.cuts.clear();
    (net, base)
}

#[test]
fn w5_what_a_snapshot_stands_for_is_forgotten_and_a_start_goes_on_behind_it() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 20);
    let before = net.paxos(id(2)).status();
    let base = compact_all(&mut net, &[2]);
    let after = net.paxos(id(2)).status();
    assert_eq!((after.first, after.last), (base.next(), before.last));
    assert_eq!(
        (after.commit, after.accepted),
        (before.commit, before.accepted)
    );
    assert_eq!(net.node(id(2)).disk.durable().log.len(), 0);
    write(&mut net, id(1), 5);
    for _ in 0..3 {
        net.restart(id(2));
        net.run(300);
        assert_eq!(net.paxos(id(2)).first(), base.next());
    }
    let last = net.paxos(id(1)).last();
    net.until_all_applied(1000, last);
    assert_eq!(net.node(id(2)).payloads().len(), 25);
}

#[test]
fn a_leader_that_has_forgotten_leads_on_and_so_does_a_new_one() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 10);
    compact_all(&mut net, &[1, 2, 3]);
    write(&mut net, id(1), 5);
    net.crash(id(1));
    net.elect();
    let leader = net.leader().unwrap();
    write(&mut net, leader, 5);
    net.start(id(1));
    let last = net.paxos(leader).last();
    net.until_all_applied(2000, last);
    assert_eq!(net.node(id(1)).needed, []);
    assert_eq!(net.node(id(1)).payloads().len(), 20);
}

#[test]
fn l1b_a_follower_that_lacks_what_the_leader_has_forgotten_asks_for_a_snapshot_once() {
    let (mut net, base) = three_is_behind();
    net.run(3000);
    assert_eq!(net.node(id(3)).needed, [base]);
    assert_eq!(net.paxos(id(3)).needs_snapshot(), Some(base));
    assert_eq!(net.paxos(id(3)).status().needs_snapshot, Some(base));
    let newer = net.base_at(id(2), net.node(id(2)).through);
    net.install(id(3), newer.clone()).expect("taken");
    let last = net.paxos(id(1)).last();
    net.until_all_applied(1000, last);
    assert_eq!(net.node(id(3)).installed, [newer.slot]);
    assert_eq!(net.paxos(id(3)).needs_snapshot(), None);
    write(&mut net, id(3), 3);
    assert_eq!(net.node(id(3)).payloads().len(), 31);
    // The group can do without another member now.
    net.crash(id(2));
    write(&mut net, id(1), 3);
    assert_eq!(net.node(id(3)).payloads().len(), 34);
}

#[test]
fn l1b_a_follower_whose_snapshot_is_beyond_the_log_that_was_adopted_goes_on_from_there() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 3);
    net.isolate(id(3));
    // 2 adopts the very log that 3 has.
    net.elect_member(id(2));
    write(&mut net, id(2), 20);
    let base = compact_all(&mut net, &[1, 2]);
    write(&mut net, id(2), 5);
    let newer = net.base_at(id(2), Slot(base.0 + 3));
    net.install(id(3), newer).expect("taken");
    net.run(20);
    net.cuts.clear();
    let last = net.paxos(id(2)).last();
    net.until_all_applied(2000, last);
    assert_eq!(net.node(id(3)).needed, []);
}

#[test]
fn l1b_a_follower_that_adopted_the_log_and_could_not_say_so_before_that_was_forgotten_goes_on() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 3);
    net.isolate(id(3));
    net.elect_member(id(2));
    write(&mut net, id(2), 3);
    let ballot = net.paxos(id(2)).status().accepted;
    net.heal();
    net.filter =
        Box::new(|from, _, message| from != id(3) || !matches!(message, Message::Accepted { .. }));
    net.until(500, "it has adopted the log", |net| {
        net.node(id(3)).disk.durable().accepted == ballot
    });
    // Its answer is lost with its connections.
    net.crash(id(3));
    net.heal();
    write(&mut net, id(2), 20);
    let base = compact_all(&mut net, &[1, 2]);
    net.start(id(3));
    net.until(3000, "it asks", |net| net.node(id(3)).needed == [base]);
    let newer = net.base_at(id(2), net.node(id(2)).through);
    net.install(id(3), newer).expect("taken");
    write(&mut net, id(2), 3);
    let last = net.paxos(id(2)).last();
    net.until_all_applied(1000, last);
}

#[test]
fn l1b_a_follower_restarted_while_it_installs_has_the_log_of_before_or_after() {
    for synced in [false, true] {
        let (mut net, base) = three_is_behind();
        net.until(3000, "it asks", |net| !net.node(id(3)).needed.is_empty());
        let newer = net.base_at(id(1), base);
        net.install(id(3), newer.clone()).expect("taken");
        if synced {
            net.run(2);
        }
        net.restart(id(3));
        let first = if synced { base.next() } else { Slot(1) };
        assert_eq!(net.paxos(id(3)).first(), first);
        // A snapshot that the own store has is told of at each start.
        net.install(id(3), newer).expect("taken");
        let last = net.paxos(id(1)).last();
        net.until_all_applied(3000, last);
        assert_eq!(net.node(id(3)).payloads().len(), 28);
    }
}

#[test]
fn l1_a_candidate_that_lacks_what_others_have_forgotten_gives_way_to_them() {
    let mut net = Net::with(&[Role::Voter; 5], Quorums::Majority, small());
    net.elect_member(id(1));
    net.isolate(id(3));
    write(&mut net, id(1), 20);
    let base = compact_all(&mut net, &[1, 2, 4, 5]);
    net.cuts.clear();
    net.crash(id(1));
    // The others do not stand until 3 has.
    net.filter =
        Box::new(|from, _, message| from == id(3) || !matches!(message, Message::Prepare { .. }));
    net.until(20_000, "3 stands and learns", |net| {
        net.paxos(id(3)).needs_snapshot() == Some(base)
    });
    let ballot = net.paxos(id(3)).promised();
    assert_eq!(ballot.node, id(3));
    net.heal();
    let patience_ms = 4 * net.paxos(id(3)).status().election_timeout_ns / MS;
    net.until(2 * patience_ms, "another leads", |net| {
        net.settled_leader().is_some()
    });
    let leader = net.leader().unwrap();
    write(&mut net, leader, 2);
    assert_eq!(net.paxos(id(3)).counters().elections_won, 0);
    assert_eq!(net.node(id(3)).needed, [base]);
    let newer = net.base_at(leader, net.node(leader).through);
    net.install(id(3), newer).expect("taken");
    net.run(1000);
    assert_eq!(net.settled_leader(), Some(leader));
    write(&mut net, id(3), 2);
    assert_eq!(net.node(id(3)).payloads().len(), 24);
}

#[test]
fn l1_a_candidate_that_lacks_what_is_chosen_leaves_the_others_alone_for_a_while() {
    let (mut net, _) = three_is_behind();
    net.crash(id(1));
    // 2 does not stand, so 3 tries again and again.
    net.filter =
        Box::new(|from, _, message| from != id(2) || !matches!(message, Message::Prepare { .. }));
    net.run(20_000);
    let tries = net.paxos(id(3)).counters().elections;
    let patience_ms = 4 * net.paxos(id(3)).status().election_timeout_ns / MS;
    assert!((2..=20_000 / patience_ms).contains(&tries), "{tries} tries");
}

#[test]
fn l4_a_snapshot_of_an_entry_that_is_held_raises_the_commit_and_cuts_nothing_behind_it() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 5);
    // 3 gets entries but does not learn that they are chosen.
    net.filter = Box::new(|from, to, message| {
        let tells = match message {
            Message::Accept { entries, .. } => entries.is_empty(),
            Message::Heartbeat(_) => true,
            _ => false,
        };
        to != id(3) || !tells || from == id(3)
    });
    net.propose(id(1), b"one");
    net.propose(id(1), b"two");
    net.run(20);
    let (commit, last) = (net.paxos(id(3)).commit(), net.paxos(id(3)).last());
    assert!(
        commit < last.prev(),
        "it does not know yet: {commit} {last}"
    );
    let base = net.base_at(id(1), last.prev());
    net.install(id(3), base.clone()).expect("taken");
    net.run(5);
    let paxos = net.paxos(id(3));
    assert_eq!((paxos.first(), paxos.last()), (last, last));
    assert_eq!(paxos.commit(), base.slot);
    assert_eq!(net.node(id(3)).installed, [base.slot]);
    net.heal();
    net.until_all_applied(1000, last);
}

/// 1 was deposed with entries of its own that nobody else has; the others have chosen other ones.
fn a_deposed_leader() -> (Net, Ballot, Slot) {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 3);
    net.isolate(id(1));
    for _ in 0..30 {
        net.propose(id(1), b"never chosen");
    }
    net.until(5000, "another leader", |net| {
        net.settled_leader().is_some_and(|leader| leader != id(1))
    });
    let leader = net.leader().unwrap();
    write(&mut net, leader, 10);
    let old = net.paxos(id(1)).accepted();
    let last = net.paxos(id(1)).last();
    assert!(last > net.paxos(leader).last());
    (net, old, last)
}

#[test]
fn l4_a_snapshot_of_an_entry_that_is_not_held_takes_the_place_of_the_whole_log() {
    let (mut net, old, last) = a_deposed_leader();
    let leader = net.leader().unwrap();
    let base = net.base_at(leader, net.node(leader).through);
    net.install(id(1), base.clone()).expect("taken");
    net.run(5);
    let paxos = net.paxos(id(1));
    assert_eq!((paxos.first(), paxos.last()), (base.slot.next(), base.slot));
    assert_eq!((paxos.accepted(), paxos.commit()), (old, base.slot));
    // M4: what it had acknowledged is more than its log has now, and it has not forgotten it.
    assert_eq!((paxos.hello().accepted, paxos.hello().last), (old, last));
    net.restart(id(1));
    assert_eq!(net.paxos(id(1)).hello().last, last);
    net.heal();
    net.connect(id(1), id(2));
    net.connect(id(1), id(3));
    write(&mut net, leader, 2);
    let last = net.paxos(leader).last();
    net.until_all_applied(2000, last);
    assert!(!net.node(id(1)).forgetful);
    assert_eq!(net.node(id(1)).payloads().len(), 15);
}

#[test]
fn i7_nothing_is_promised_behind_a_snapshot_before_it_is_synced() {
    let (mut net, old, _) = a_deposed_leader();
    let leader = net.leader().unwrap();
    net.stalled.insert(id(1));
    let base = net.base_at(leader, net.node(leader).through);
    net.install(id(1), base.clone()).expect("taken");
    net.heal();
    net.run(300);
    // The network checks each promise and vote against the disk.
    assert_eq!(net.node(id(1)).installed, []);
    assert_eq!(net.node(id(1)).disk.durable().accepted, old);
    net.stalled.clear();
    let last = net.paxos(leader).last();
    net.until_all_applied(3000, last);
    assert_eq!(net.node(id(1)).installed, [base.slot]);
}

#[test]
fn p1b_entries_that_do_not_join_behind_a_snapshot_are_not_taken() {
    let mut net = Net::with(&[Role::Voter; 5], Quorums::Majority, small());
    net.elect_member(id(1));
    write(&mut net, id(1), 3);
    for (one, two) in [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] {
        net.cut(one, two);
    }
    for _ in 0..10 {
        net.propose(id(1), b"never chosen");
    }
    net.until(10_000, "another leader", |net| {
        net.settled_leader().is_some_and(|leader| leader > id(2))
    });
    let leader = net.leader().unwrap();
    write(&mut net, leader, 5);
    // 2 still follows 1, and holds what 1 has proposed in vain.
    let old = net.paxos(id(1)).accepted();
    assert_eq!(net.paxos(id(2)).promised(), old);
    let slot = net.node(leader).through;
    let base = net.base_at(leader, slot);
    let held = |slot| net.paxos(id(1)).entry(slot).cloned().expect("held");
    let (stale, next) = (held(slot), held(slot.next()));
    assert_eq!(net.paxos(id(2)).ballot_at(slot), Some(old));
    net.filter = Box::new(|_, _, _| false);
    net.install(id(2), base.clone()).expect("taken");
    net.run(5);
    for entries in [vec![next.clone()], vec![stale, next]] {
        let accept = Message::Accept {
            ballot: old,
            previous: entries[0].slot.prev(),
            previous_ballot: old,
            entries,
            commit: Slot(0),
            commit_ballot: Ballot::default(),
            early: false,
        };
        net.inject(id(1), id(2), accept);
        assert_eq!(net.paxos(id(2)).last(), slot);
    }
}

#[test]
fn i7_entries_on_their_way_to_the_disk_do_not_count_for_the_log_that_takes_their_place() {
    let (mut net, old, _) = a_deposed_leader();
    let leader = net.leader().unwrap();
    // The last of its own entries are not on disk yet.
    net.stalled.insert(id(1));
    for _ in 0..10 {
        net.propose(id(1), b"never chosen");
    }
    net.run(5);
    assert!(net.paxos(id(1)).last() > net.paxos(id(1)).synced());
    let base = net.base_at(leader, net.node(leader).through);
    net.install(id(1), base.clone()).expect("taken");
    assert!(net.paxos(id(1)).synced() <= base.slot);
    net.stalled.clear();
    net.run(20);
    let paxos = net.paxos(id(1));
    assert_eq!((paxos.synced(), paxos.last()), (base.slot, base.slot));
    assert_eq!(paxos.accepted(), old);
    net.heal();
    let last = net.paxos(leader).last();
    net.until_all_applied(3000, last);
}

#[test]
fn i12_a_disk_that_does_not_answer_is_given_one_more_write_for_a_shorter_log_and_no_more() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 20);
    net.stalled.insert(id(2));
    // As many writes as may be with the disk at once.
    for _ in 0..5 {
        net.propose(id(1), b"payload");
        net.run(2);
    }
    let writes = |net: &Net| net.node(id(2)).disk.pending();
    let most = net.settings.max_persists as usize;
    assert_eq!(writes(&net), most);
    let through = net.node(id(2)).through.0;
    for back in [9, 6, 3, 0] {
        net.compact(id(2), Slot(through - back));
        assert_eq!(writes(&net), most + 1);
    }
    net.stalled.clear();
    net.run(100);
    assert_eq!(net.node(id(2)).disk.durable().base_slot(), Slot(through));
}

#[test]
fn own_commands_that_were_chosen_in_a_snapshot_are_chosen_once_more() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 3);
    // What 3 gives gets through, what it should hear of it does not.
    net.filter = Box::new(|_, to, message| {
        to != id(3) || matches!(message, Message::Heartbeat(_) | Message::Prepare { .. })
    });
    let command = net.propose(id(3), b"of 3");
    net.run(30);
    let chosen = |net: &Net, member| {
        let all = net.node(id(member)).applied.values();
        all.filter(|entry| entry.command.id == command).count()
    };
    assert_eq!(chosen(&net, 1), 1);
    let base = compact_all(&mut net, &[1, 2]);
    net.heal();
    let base = net.base_at(id(1), base);
    net.install(id(3), base).expect("taken");
    net.until(3000, "its fate", |net| {
        net.node(id(3)).slot_of(command).is_some()
    });
    net.run(1000);
    assert_eq!(chosen(&net, 1), 2, "apply drops the second");
    assert_eq!(net.node(id(3)).resolved.len(), 1);
    assert_eq!(net.paxos(id(3)).status().pending_commands, 0);
}

#[test]
fn w2_an_entry_that_cannot_be_read_and_that_all_others_have_forgotten_needs_a_snapshot() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 10);
    net.crash(id(3));
    let spoiled = net.node(id(3)).disk.durable().last.prev();
    net.nodes
        .get_mut(&id(3))
        .unwrap()
        .disk
        .damaged
        .push(spoiled);
    let base = compact_all(&mut net, &[1, 2]);
    write(&mut net, id(1), 3);
    net.start(id(3));
    net.until(3000, "it asks", |net| !net.node(id(3)).needed.is_empty());
    net.run(1000);
    assert_eq!(net.node(id(3)).needed, [base]);
    assert!(net.node(id(3)).through < spoiled);
    let base = net.base_at(id(1), base);
    net.install(id(3), base).expect("taken");
    let last = net.paxos(id(1)).last();
    net.until_all_applied(1000, last);
    assert_eq!(net.paxos(id(3)).status().faulty, 0);
}

#[test]
fn a_snapshot_that_does_not_fit_is_refused_with_the_reason_and_nothing_is_done() {
    let mut net = three_led_by_1();
    write(&mut net, id(1), 10);
    let through = net.node(id(2)).through;
    let good = net.base_at(id(2), through);
    let other = Base {
        ballot: Ballot {
            epoch: Epoch(1),
            round: 1,
            node: id(3),
        },
        ..good.clone()
    };
    let later = Base {
        slot: Slot(through.0 + 5),
        ..good.clone()
    };
    let newer = Base {
        protocol: 1,
        ..good.clone()
    };
    let now = net.now(id(2));
    let mut offer = |base: &Base| {
        let base = base.clone();
        net.with_paxos(id(2), |paxos| paxos.handle_snapshot(now, base))
    };
    let slot = through;
    assert_eq!(offer(&other), Err(SnapshotRefused::OtherHistory { slot }));
    assert_eq!(offer(&newer), Err(SnapshotRefused::OtherHistory { slot }));
    assert_eq!(
        offer(&later),
        Err(SnapshotRefused::Beyond {
            slot: later.slot,
            delivered: through
        })
    );
    assert_eq!(
        net.install(id(2), other),
        Err(SnapshotRefused::OtherHistory { slot })
    );
    assert_eq!(net.paxos(id(2)).first(), Slot(1));
    net.compact(id(2), through);
    net.compact(id(2), through);
    assert_eq!(net.paxos(id(2)).base(), &good);
}

#[test]
fn p8_no_log_begins_with_a_snapshot_before_the_group_speaks_protocol_2() {
    let mut net = Net::at_protocol(3, 1);
    net.elect();
    write(&mut net, id(1), 5);
    let base = net.base_at(id(1), net.node(id(1)).through);
    let now = net.now(id(1));
    let result = net.with_paxos(id(1), |paxos| paxos.handle_snapshot(now, base));
    assert_eq!(result, Err(SnapshotRefused::Protocol { in_force: 1 }));
}

#[test]
fn a_snapshot_far_ahead_is_installed_by_a_member_that_hears_nobody() {
    let (mut net, _) = three_is_behind();
    net.isolate(id(3));
    let base = net.base_at(id(1), net.node(id(1)).through);
    net.install(id(3), base.clone()).expect("taken");
    net.run(10);
    assert_eq!(net.node(id(3)).installed, [base.slot]);
    assert_eq!(net.paxos(id(3)).commit(), base.slot);
}
