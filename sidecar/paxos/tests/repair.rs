//! Scenarios of entries that are there but cannot be read: rule W2, I10.

mod common;

use common::{Net, id};
use synod_paxos::{Message, ProposeRefused, Quorums, Role, Settings, Slot, Standing, WaitingOn};

/// 1 leads, all have the same entries; the last one is known chosen nowhere but at 1.
fn with_uncommitted_tail() -> (Net, Slot) {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(500);
    for _ in 0..5 {
        net.propose(id(1), b"committed");
        net.run(2);
    }
    net.run(200);
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Accepted { .. }));
    net.propose(id(1), b"not committed");
    net.run(3);
    let last = net.paxos(id(1)).last();
    assert!(net.paxos(id(1)).commit() < last);
    for member in net.members() {
        assert_eq!(net.paxos(member).synced(), last);
    }
    (net, last)
}

fn damage(net: &mut Net, member: u32, slot: Slot) {
    net.crash(id(member));
    let node = net.nodes.get_mut(&id(member)).unwrap();
    node.disk.damaged.push(slot);
}

#[test]
fn w2_a_vote_never_reaches_an_uncommitted_entry_that_cannot_be_read() {
    let (mut net, last) = with_uncommitted_tail();
    damage(&mut net, 2, last);
    // 3 is gone, so the leader depends on the vote of 2, which cannot read the entry.
    net.crash(id(3));
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Repair { .. }));
    net.start(id(2));
    let before = net.paxos(id(1)).commit();
    net.run(100);
    assert_eq!(net.paxos(id(1)).commit(), before);
    assert_eq!(net.paxos(id(2)).last(), last, "it counts as present");
    net.heal();
    net.until(2000, "repair and commit", |net| {
        net.paxos(id(1)).commit() >= last && net.node(id(2)).through >= last
    });
    assert_eq!(net.paxos(id(2)).counters().repairs, 1);
}

#[test]
fn w2_a_committed_entry_is_repaired_in_the_background_by_any_peer() {
    let mut net = Net::new(3);
    let leader = net.elect();
    for _ in 0..10 {
        net.propose(leader, b"payload");
        net.run(5);
    }
    net.run(500);
    let other = net.members().into_iter().find(|it| *it != leader).unwrap();
    damage(&mut net, other.0, Slot(3));
    net.start(other);
    let last = net.paxos(leader).last();
    net.until(2000, "repair", |net| net.node(other).through >= last);
    assert!(net.node(other).disk.damaged.is_empty());
}

#[test]
fn w2_nothing_beyond_an_unreadable_entry_goes_to_apply() {
    let mut net = Net::new(3);
    let leader = net.elect();
    for _ in 0..10 {
        net.propose(leader, b"payload");
        net.run(5);
    }
    net.run(500);
    let other = net.members().into_iter().find(|it| *it != leader).unwrap();
    damage(&mut net, other.0, Slot(3));
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Repair { .. }));
    net.start(other);
    net.run(500);
    assert_eq!(net.node(other).through, Slot(2));
    assert_eq!(
        net.paxos(other).status().waiting_on,
        Some(WaitingOn::Repair { slot: Slot(3) })
    );
}

#[test]
fn i12_memory_stays_bounded_while_an_entry_that_cannot_be_read_holds_apply_up() {
    let settings = Settings {
        cache_bytes: 1000,
        ..Settings::default()
    };
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, settings);
    let leader = net.elect();
    let write = |net: &mut Net, count| {
        for _ in 0..count {
            net.propose(leader, b"payload");
            net.run(5);
        }
    };
    write(&mut net, 10);
    net.run(500);
    let other = net.members().into_iter().find(|it| *it != leader).unwrap();
    damage(&mut net, other.0, Slot(3));
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Repair { .. }));
    net.start(other);
    write(&mut net, 100);
    net.run(100);
    assert_eq!(net.node(other).through, Slot(2));
    let status = net.paxos(other).status();
    assert!(status.cached_bytes <= 1000, "{}", status.cached_bytes);
    net.heal();
    let last = net.paxos(leader).last();
    net.until_all_applied(2000, last);
}

#[test]
fn w2_a_group_of_one_takes_no_commands_behind_an_entry_that_nobody_can_repair() {
    let mut net = Net::new(1);
    net.elect();
    for _ in 0..10 {
        net.propose(id(1), b"payload");
        net.run(5);
    }
    net.run(500);
    damage(&mut net, 1, Slot(3));
    net.start(id(1));
    net.run(500);
    assert!(net.paxos(id(1)).commit() > Slot(3) && net.node(id(1)).through == Slot(2));
    let refused = net.try_propose(id(1), b"never executed");
    assert_eq!(
        refused,
        Err(ProposeRefused::Unreadable { slot: Slot(3) }),
        "it would wait for ever"
    );
}

#[test]
fn w2_a_copy_with_another_hash_repairs_nothing() {
    let (mut net, last) = with_uncommitted_tail();
    let mut forged = net.paxos(id(1)).entry(last).unwrap().clone();
    forged.seed += 1;
    damage(&mut net, 2, last);
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Repair { .. }));
    net.start(id(2));
    let entries = vec![forged];
    net.inject(id(3), id(2), Message::Repair { entries });
    net.run(10);
    assert_eq!(net.paxos(id(2)).status().faulty, 1);
    assert_eq!(net.paxos(id(2)).counters().repairs, 0);
}

#[test]
fn w2_a_candidate_fills_what_it_cannot_read_before_it_leads() {
    let (mut net, last) = with_uncommitted_tail();
    damage(&mut net, 2, last);
    damage(&mut net, 3, last);
    damage(&mut net, 1, Slot(2));
    // Only 1 can read the last entry, and it cannot be reached for repairs at first.
    net.filter = Box::new(|from, _, message| match message {
        Message::Repair { .. } => from != id(1),
        Message::Prepare { .. } => from == id(2),
        _ => true,
    });
    for member in [1, 2, 3] {
        net.start(id(member));
    }
    net.until(5000, "a candidate that waits", |net| {
        net.paxos(id(2)).status().waiting_on == Some(WaitingOn::Repair { slot: last })
    });
    assert_eq!(net.paxos(id(2)).standing(), Standing::Candidate);
    net.heal();
    let leader = net.elect();
    let slot = net.paxos(leader).last();
    net.until_all_applied(5000, slot);
    assert_eq!(
        net.node(id(2)).applied[&last].command.payload,
        "not committed"
    );
}

#[test]
fn w2_a_candidate_waits_while_an_entry_that_may_be_chosen_can_be_read_nowhere() {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(500);
    // 1 and 2 have the last entry, so it may be chosen; both copies go bad.
    net.filter = Box::new(|_, to, message| {
        !(matches!(message, Message::Accepted { .. })
            || (to == id(3) && matches!(message, Message::Accept { .. })))
    });
    net.propose(id(1), b"perhaps chosen");
    net.run(3);
    let last = net.paxos(id(2)).last();
    damage(&mut net, 1, last);
    damage(&mut net, 2, last);
    net.heal();
    net.start(id(2));
    net.start(id(1));
    net.run(5000);
    assert_eq!(net.settled_leader(), None);
    assert!(net.paxos(id(3)).last() < last);
}

#[test]
fn w2_a_log_with_an_unreadable_entry_is_left_out_when_the_others_are_a_quorum() {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(500);
    // Only 2 has the last entry on disk, and loses it; 1 dies before its own sync.
    net.filter =
        Box::new(|_, to, message| !(to == id(3) && matches!(message, Message::Accept { .. })));
    net.stalled.insert(id(1));
    net.propose(id(1), b"never chosen");
    net.run(3);
    let last = net.paxos(id(2)).last();
    net.crash(id(1));
    damage(&mut net, 2, last);
    net.stalled.clear();
    net.heal();
    net.start(id(1));
    net.start(id(2));
    let leader = net.elect();
    net.propose(leader, b"another");
    net.run(200);
    let slot = net.paxos(leader).last();
    net.until_all_applied(3000, slot);
    assert_eq!(net.node(id(2)).payloads(), ["another"]);
}

#[test]
fn w2_one_bad_copy_does_not_stop_the_group() {
    let (mut net, last) = with_uncommitted_tail();
    net.heal();
    net.run(500);
    damage(&mut net, 1, last);
    net.run(1000);
    net.start(id(1));
    let leader = net.elect();
    let slot = net.paxos(leader).last();
    net.until_all_applied(3000, slot);
    for member in net.members() {
        assert_eq!(
            net.node(member).applied[&last].command.payload,
            "not committed"
        );
    }
}

#[test]
fn w2_a_candidate_that_leaves_its_own_log_out_takes_over_nothing_of_it() {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(500);
    net.propose(id(1), b"committed");
    net.run(200);
    // 1 alone has entries of its ballot. 3 wins the next one, but no log of it arrives anywhere: at
    // the same slots it has entries of its own.
    net.isolate(id(1));
    for _ in 0..3 {
        net.propose(id(1), b"of 1 alone");
    }
    net.filter = Box::new(|from, _, message| match message {
        Message::AcceptSync { .. } => false,
        Message::Prepare { .. } => from == id(3),
        _ => true,
    });
    net.until(3000, "3 leads", |net| net.leader() == Some(id(3)));
    for _ in 0..8 {
        net.propose(id(3), b"of 3 alone");
    }
    net.run(5);
    let unreadable = net.paxos(id(3)).last();
    assert!(net.paxos(id(3)).synced() == unreadable && unreadable > net.paxos(id(1)).last());
    net.crash(id(1));
    net.crash(id(2));
    damage(&mut net, 3, unreadable);
    net.heal();
    // Its own log would win, but nobody can read all of it: 1 and 2 are a quorum without it.
    net.filter =
        Box::new(|from, _, message| from == id(3) || !matches!(message, Message::Prepare { .. }));
    for member in [1, 2, 3] {
        net.start(id(member));
    }
    net.until(10_000, "3 leads", |net| net.settled_leader() == Some(id(3)));
    net.propose(id(3), b"after");
    net.run(100);
    let slot = net.paxos(id(3)).last();
    net.until_all_applied(5000, slot);
    let expected = [
        "committed",
        "of 1 alone",
        "of 1 alone",
        "of 1 alone",
        "after",
    ];
    for member in net.members() {
        assert_eq!(net.node(member).payloads(), expected);
    }
}

#[test]
fn w2_a_candidate_asks_for_what_a_promiser_cannot_read_and_waits_for_it() {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(500);
    // 1 and 2 have an entry that 3 lacks; the copy of 2 goes bad; 3 is the only candidate.
    net.filter =
        Box::new(|_, to, message| !(to == id(3) && matches!(message, Message::Accept { .. })));
    net.propose(id(1), b"chosen by 1 and 2");
    net.run(3);
    let last = net.paxos(id(2)).last();
    assert!(net.paxos(id(1)).commit() == last && net.paxos(id(3)).last() < last);
    net.crash(id(1));
    damage(&mut net, 2, last);
    net.filter =
        Box::new(|from, _, message| from == id(3) || !matches!(message, Message::Prepare { .. }));
    net.start(id(2));
    net.until(5000, "a candidate that waits", |net| {
        net.paxos(id(3)).status().waiting_on == Some(WaitingOn::Repair { slot: last })
    });
    // The good copy is at 1, which comes back just to serve it.
    net.start(id(1));
    net.until(10_000, "3 leads", |net| net.settled_leader() == Some(id(3)));
    net.until_all_applied(5000, last);
    assert_eq!(net.node(id(3)).payloads(), ["chosen by 1 and 2"]);
    assert_eq!(net.paxos(id(3)).counters().impossible_messages, 0);
}

#[test]
fn w5_a_chosen_entry_that_is_found_damaged_later_is_mended_by_a_peer() {
    let mut net = Net::new(3);
    let leader = net.elect();
    for _ in 0..5 {
        net.propose(leader, b"payload");
        net.run(5);
    }
    net.run(200);
    let other = net.members().into_iter().find(|it| *it != leader);
    let other = other.expect("three");
    let slot = Slot(3);
    let entry = net.node(other).disk.durable().log[&slot].clone();
    let header = synod_paxos::Header {
        slot,
        ballot: entry.ballot,
        hash: entry.hash(),
    };
    let now = net.now(other);
    let node = net.nodes.get_mut(&other).expect("runs");
    let paxos = node.paxos.as_mut().expect("runs");
    // Nothing is asked for that is not held, or not chosen.
    let beyond = synod_paxos::Header {
        slot: Slot(99),
        ..header
    };
    paxos.handle_damaged(now, beyond);
    paxos.handle_damaged(now, header);
    assert_eq!(paxos.counters().repairs, 0);
    net.until(2000, "mended", |net| {
        net.paxos(other).counters().repairs == 1
    });
    net.run(500);
    assert_eq!(net.paxos(other).counters().repairs, 1, "once");
}
