//! Scenarios of a change of leader: rules L1-L4, P1a.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{MS, Net, id};
use synod_paxos::{Ballot, Heartbeat, MemberId, Message, Quorums, Role, Settings, Slot, Standing};

fn small() -> Settings {
    Settings {
        max_message_bytes: 500,
        cache_bytes: 1000,
        ..Settings::default()
    }
}

/// Three members, 1 leads, time to settle.
fn three_led_by_1(settings: Settings) -> Net {
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, settings);
    net.elect_member(id(1));
    net.run(300);
    net
}

fn write(net: &mut Net, member: MemberId, count: usize) {
    for _ in 0..count {
        net.propose(member, b"payload");
        net.run(2);
    }
}

#[test]
fn l1_what_was_chosen_survives_when_only_one_of_the_new_quorum_has_it() {
    let mut net = three_led_by_1(Settings::default());
    net.isolate(id(3));
    let command = net.propose(id(1), b"chosen by 1 and 2");
    net.until(100, "its slot", |net| {
        net.node(id(1)).slot_of(command).is_some()
    });
    let slot = net.node(id(1)).slot_of(command).unwrap();
    net.crash(id(1));
    net.heal();
    // Member 3 lacks it; whoever leads, both must have it.
    net.elect();
    net.until_all_applied(2000, slot);
    assert_eq!(net.node(id(3)).payloads(), ["chosen by 1 and 2"]);
}

#[test]
fn l1_a_member_without_the_entries_may_lead_and_adopts_them_first() {
    let mut net = three_led_by_1(small());
    net.isolate(id(3));
    write(&mut net, id(1), 20);
    let slot = net.paxos(id(1)).commit();
    net.crash(id(1));
    net.heal();
    // 2 never stands for election: its Prepares get lost.
    net.filter =
        Box::new(|from, _, message| !(from == id(2) && matches!(message, Message::Prepare { .. })));
    net.until(10_000, "3 leads", |net| net.settled_leader() == Some(id(3)));
    net.until_all_applied(2000, slot);
    assert_eq!(net.node(id(3)).payloads().len(), 20);
}

#[test]
fn l1_a_log_of_a_later_ballot_wins_over_a_longer_one() {
    let mut net = three_led_by_1(Settings::default());
    net.isolate(id(1));
    for _ in 0..20 {
        net.propose(id(1), b"long but old");
    }
    net.until(3000, "another leader", |net| {
        net.settled_leader().is_some_and(|leader| leader != id(1))
    });
    let leader = net.leader().unwrap();
    let command = net.propose(leader, b"short but chosen");
    net.run(50);
    let slot = net.node(leader).slot_of(command).unwrap();
    assert!(slot < net.paxos(id(1)).last());
    // Only one of those that chose it is left, and 1 has the longer log.
    net.crash(leader);
    net.heal();
    net.elect();
    net.until_all_applied(2000, slot);
    assert_eq!(net.node(id(1)).payloads()[0], "short but chosen");
}

#[test]
fn l1a_the_log_is_not_changed_before_all_of_an_accept_sync_is_on_disk() {
    let mut net = three_led_by_1(small());
    net.isolate(id(3));
    write(&mut net, id(1), 30);
    net.heal();
    // 3 gets the first parts of the new leader's log, and no more.
    let parts = Rc::new(Cell::new(0));
    let counter = Rc::clone(&parts);
    net.crash(id(1));
    net.filter = Box::new(move |_, to, message| match message {
        Message::AcceptSync { part, .. } if to == id(3) => {
            counter.set(counter.get() + 1);
            *part < 2
        }
        Message::Prepare { .. } => to != id(2),
        _ => true,
    });
    net.until(10_000, "parts", |_| parts.get() > 4);
    net.run(20);
    let before = net.paxos(id(3)).accepted();
    assert!(before < net.paxos(id(3)).promised(), "not adopted");
    net.restart(id(3));
    assert_eq!(net.paxos(id(3)).accepted(), before, "nor by a restart");
    let last = net.paxos(id(2)).last();
    net.heal();
    net.until_all_applied(5000, last);
    assert_eq!(net.node(id(3)).payloads().len(), 30);
}

#[test]
fn l1a_a_long_log_arrives_although_answers_about_its_parts_got_lost() {
    let settings = Settings {
        window_bytes: 32 << 10,
        max_body_bytes: 8 << 10,
        max_message_bytes: 4 << 10,
        cache_bytes: 8 << 10,
        ..Settings::default()
    };
    let mut net = Net::with(&[Role::Voter; 5], Quorums::Majority, settings);
    net.elect_member(id(1));
    net.run(300);
    net.isolate(id(3));
    for _ in 0..200 {
        net.propose(id(1), &[0; 1000]);
        net.run(2);
    }
    let last = net.paxos(id(1)).commit();
    net.crash(id(1));
    net.heal();
    net.filter = Box::new(|from, _, message| match message {
        Message::Prepare { .. } => from == id(2),
        Message::Staged { .. } => false,
        _ => true,
    });
    net.until(10_000, "2 leads", |net| net.settled_leader() == Some(id(2)));
    net.run(100);
    let ballot = net.paxos(id(2)).promised();
    assert!(net.paxos(id(3)).accepted() < ballot);
    net.heal();
    net.until_all_applied(3000, last);
    assert_eq!(net.paxos(id(2)).promised(), ballot, "by this very leader");
}

#[test]
fn l1_a_promise_ends_when_its_ballot_is_adopted() {
    let mut net = Net::with(&[Role::Voter; 5], Quorums::Majority, small());
    net.elect_member(id(1));
    net.run(300);
    net.isolate(id(3));
    write(&mut net, id(1), 40);
    net.elect_member(id(4));
    write(&mut net, id(4), 5);
    net.run(100);
    // Only 3, which lacks it all, may stand. 2 reads its part of the log back slowly, and is given
    // the new leader's log before it has told all of its own.
    net.crash(id(4));
    net.heal();
    net.load_ns.insert(id(2), 5 * MS);
    net.filter =
        Box::new(|from, _, message| from == id(3) || !matches!(message, Message::Prepare { .. }));
    net.until(10_000, "3 leads", |net| net.settled_leader() == Some(id(3)));
    net.run(500);
    let slot = net.paxos(id(3)).last();
    net.until_all_applied(3000, slot);
    assert_eq!(net.paxos(id(3)).counters().impossible_messages, 0);
    assert!(net.node(id(2)).loads > 0);
}

#[test]
fn p1b_after_a_promise_nothing_of_an_older_ballot_is_acknowledged() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 2);
    net.run(200);
    net.stalled.insert(id(2));
    net.propose(id(1), b"not synced at 2");
    net.run(2);
    assert!(net.paxos(id(2)).last() > net.paxos(id(2)).synced());
    let votes = Rc::new(Cell::new(0));
    let counter = Rc::clone(&votes);
    let old = net.paxos(id(2)).accepted();
    net.filter = Box::new(move |from, _, message| {
        if let Message::Accepted { ballot, .. } = message
            && from == id(2)
            && *ballot == old
        {
            counter.set(counter.get() + 1);
        }
        true
    });
    promise_of_2_to_3(&mut net);
    net.stalled.clear();
    net.run(50);
    assert_eq!(net.paxos(id(2)).synced(), net.paxos(id(2)).last());
    assert_eq!(votes.get(), 0);
}

#[test]
fn l1b_what_the_old_leader_alone_had_is_cut_when_it_comes_back() {
    let mut net = three_led_by_1(Settings::default());
    net.isolate(id(1));
    let lost = net.propose(id(1), b"nobody else has it");
    net.run(5);
    let orphan = net.paxos(id(1)).last();
    net.until(3000, "another leader", |net| {
        net.settled_leader().is_some_and(|leader| leader != id(1))
    });
    let leader = net.leader().unwrap();
    let other = net.propose(leader, b"another");
    net.run(50);
    let slot = net.node(leader).slot_of(other).unwrap();
    assert!(slot >= orphan);
    net.crash(id(1));
    net.heal();
    net.start(id(1));
    net.until_all_applied(2000, slot);
    assert_eq!(net.node(id(1)).payloads(), ["another"]);
    assert!(
        net.node(id(1))
            .applied
            .values()
            .all(|entry| entry.command.id != lost)
    );
}

#[test]
fn l1b_a_repeated_accept_sync_changes_nothing() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 3);
    net.run(200);
    let paxos = net.paxos(id(2));
    let (ballot, last, commit) = (paxos.promised(), paxos.last(), paxos.commit());
    net.inject(
        id(1),
        id(2),
        Message::AcceptSync {
            ballot,
            after: Slot(0),
            part: 0,
            done: true,
            entries: Vec::new(),
            last: Slot(0),
            commit: Slot(0),
            commit_ballot: Ballot::default(),
        },
    );
    net.run(10);
    let paxos = net.paxos(id(2));
    assert_eq!((paxos.last(), paxos.commit()), (last, commit));
}

#[test]
fn l1b_an_accept_sync_below_commit_is_not_taken() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 3);
    net.run(200);
    let commit = net.paxos(id(2)).commit();
    let ballot = Ballot {
        round: net.paxos(id(2)).promised().round + 5,
        node: id(3),
        ..net.paxos(id(2)).promised()
    };
    net.inject(
        id(3),
        id(2),
        Message::Prepare {
            ballot,
            accepted: Ballot::none(ballot.epoch),
            last: Slot(0),
            commit: Slot(0),
            handed_over: true,
        },
    );
    assert_eq!(net.paxos(id(2)).promised(), ballot);
    net.inject(
        id(3),
        id(2),
        Message::AcceptSync {
            ballot,
            after: Slot(0),
            part: 0,
            done: true,
            entries: Vec::new(),
            last: Slot(0),
            commit: Slot(0),
            commit_ballot: Ballot::default(),
        },
    );
    assert_eq!(net.paxos(id(2)).commit(), commit);
    assert!(net.paxos(id(2)).last() >= commit);
    assert!(net.paxos(id(2)).counters().impossible_messages > 0);
}

/// 2 promises a ballot of 3 on injected words; nothing else of that ballot exists.
fn promise_of_2_to_3(net: &mut Net) -> Ballot {
    let before = net.paxos(id(2)).promised();
    let ballot = Ballot {
        round: before.round + 5,
        node: id(3),
        ..before
    };
    let prepare = Message::Prepare {
        ballot,
        accepted: net.paxos(id(3)).accepted(),
        last: net.paxos(id(3)).last(),
        commit: net.paxos(id(3)).commit(),
        handed_over: true,
    };
    net.inject(id(3), id(2), prepare);
    assert_eq!(net.paxos(id(2)).promised(), ballot);
    ballot
}

#[test]
fn l1b_an_adoption_leaves_alone_what_got_committed_since_the_promise() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 2);
    net.run(200);
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Accepted { .. }));
    net.propose(id(1), b"chosen, as 2 learns only later");
    net.run(3);
    let (last, commit) = (net.paxos(id(2)).last(), net.paxos(id(2)).commit());
    assert!(commit < last);
    let old = net.paxos(id(2)).ballot_at(last).unwrap();
    let held = net.paxos(id(2)).entry(last).unwrap().clone();
    let ballot = promise_of_2_to_3(&mut net);
    let beat = Heartbeat {
        ballot: old,
        last,
        commit: last,
        commit_ballot: old,
        mono_ns: net.now_ns,
        ..Heartbeat::default()
    };
    net.inject(id(3), id(2), Message::Heartbeat(beat));
    assert_eq!(net.paxos(id(2)).commit(), last);
    let sync = Message::AcceptSync {
        ballot,
        after: commit,
        part: 0,
        done: true,
        entries: vec![held],
        last,
        commit,
        commit_ballot: old,
    };
    net.inject(id(3), id(2), sync);
    assert_eq!(net.paxos(id(2)).accepted(), ballot);
    assert_eq!(net.paxos(id(2)).commit(), last);
    net.run(20);
}

#[test]
fn p1b_an_accept_before_the_adoption_is_not_taken() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 2);
    net.run(200);
    let last = net.paxos(id(2)).last();
    let mut entry = net.paxos(id(2)).entry(last).unwrap().clone();
    let previous_ballot = entry.ballot;
    let ballot = promise_of_2_to_3(&mut net);
    entry.slot = last.next();
    entry.ballot = ballot;
    let accept = Message::Accept {
        ballot,
        previous: last,
        previous_ballot,
        entries: vec![entry],
        commit: last.next(),
        commit_ballot: ballot,
        early: false,
    };
    net.inject(id(3), id(2), accept);
    assert_eq!(net.paxos(id(2)).last(), last);
    assert!(net.paxos(id(2)).accepted() < ballot);
}

#[test]
fn l1b_a_higher_promise_throws_the_staged_part_away() {
    let mut net = three_led_by_1(small());
    net.isolate(id(3));
    write(&mut net, id(1), 30);
    net.crash(id(1));
    net.heal();
    net.filter = Box::new(move |_, to, message| match message {
        Message::AcceptSync { part, .. } if to == id(3) => *part < 2,
        Message::Prepare { .. } => to != id(2),
        _ => true,
    });
    net.until(10_000, "2 leads", |net| net.leader() == Some(id(2)));
    net.run(30);
    net.crash(id(2));
    net.start(id(1));
    net.heal();
    // A later leader sends its own log; what 2 had sent must not get mixed in.
    net.elect();
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    assert_eq!(net.node(id(3)).payloads().len(), 30);
}

#[test]
fn l2_a_late_promise_is_answered_and_commit_goes_down_nowhere() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 5);
    let chosen = net.paxos(id(1)).commit();
    // 1 knows the commit; 2 and 3 elect a leader that may not. 1 hears of it only later.
    net.isolate(id(1));
    net.until(3000, "another leader", |net| {
        net.settled_leader().is_some_and(|leader| leader != id(1))
    });
    assert!(net.paxos(id(1)).commit() >= chosen);
    net.heal();
    let slot = net.paxos(net.leader().unwrap()).last();
    net.until_all_applied(3000, slot);
    assert_eq!(net.paxos(id(1)).standing(), Standing::Follower);
    assert!(net.paxos(id(1)).commit() >= chosen);
}

#[test]
fn l2_a_leader_whose_commit_is_lower_than_a_followers_lowers_nothing() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 3);
    net.run(200);
    // 2 and 3 take entries but hear of no commit; only 1 does.
    net.filter = Box::new(|from, _, message| {
        let mute = match message {
            Message::Accept { entries, .. } => entries.is_empty(),
            Message::Heartbeat(_) => true,
            _ => false,
        };
        !(from == id(1) && mute)
    });
    net.propose(id(1), b"known to be chosen by 1 alone");
    net.run(3);
    let commit = net.paxos(id(1)).commit();
    assert!(net.paxos(id(2)).commit() < commit && net.paxos(id(3)).commit() < commit);
    net.until(3000, "another leader", |net| {
        net.leader().is_some_and(|leader| leader != id(1))
    });
    net.run(100);
    assert!(net.paxos(id(1)).commit() >= commit);
    net.heal();
    let leader = net.elect();
    let slot = net.paxos(leader).last();
    net.until_all_applied(3000, slot);
    assert_eq!(net.node(id(2)).payloads().len(), 4);
}

#[test]
fn l3_a_fresh_leader_gives_no_read_index_before_an_entry_of_its_own_is_chosen() {
    let mut net = three_led_by_1(Settings::default());
    let command = net.propose(id(1), b"one");
    net.run(3);
    let slot = net.node(id(1)).slot_of(command).unwrap();
    net.crash(id(1));
    net.filter = Box::new(|_, _, message| !matches!(message, Message::Accepted { .. }));
    net.until(3000, "a leader", |net| net.leader().is_some());
    let leader = net.leader().unwrap();
    let read = net.read(leader, 1);
    net.run(100);
    assert!(!net.node(leader).ready.contains_key(&read), "too early");
    net.heal();
    net.until(3000, "an index", |net| {
        let node = net.node(leader);
        node.ready.contains_key(&read) || node.failed.contains(&read)
    });
    if let Some(index) = net.node(leader).ready.get(&read) {
        assert!(*index > slot, "its own entry is below the index");
    }
}

#[test]
fn l4_a_commit_is_taken_only_with_the_ballot_of_the_entry_there() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 2);
    net.run(200);
    // An entry that is not chosen: 2 has it from 1, nobody else.
    net.filter = Box::new(|from, to, message| {
        !(matches!(message, Message::Accepted { .. } | Message::Accept { .. })
            && (to == id(3) || from == id(2)))
    });
    net.propose(id(1), b"not chosen");
    net.run(3);
    let last = net.paxos(id(2)).last();
    assert!(net.paxos(id(2)).commit() < last);
    let right = net.paxos(id(2)).ballot_at(last).unwrap();
    let other = Ballot {
        round: right.round + 1,
        node: id(3),
        ..right
    };
    let beat = |commit_ballot, now_ns| {
        Message::Heartbeat(Heartbeat {
            ballot: other,
            last,
            commit: last,
            commit_ballot,
            mono_ns: now_ns,
            ..Heartbeat::default()
        })
    };
    let now_ns = net.now_ns;
    net.inject(id(3), id(2), beat(other, now_ns));
    assert!(net.paxos(id(2)).commit() < last, "another entry was meant");
    net.inject(id(3), id(2), beat(right, now_ns));
    assert_eq!(net.paxos(id(2)).commit(), last, "this very entry was meant");
}

#[test]
fn l4_what_was_applied_was_chosen() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 5);
    net.run(1);
    net.crash(id(2));
    net.start(id(2));
    let last = net.paxos(id(2)).last();
    net.with_paxos(id(2), |paxos| paxos.handle_applied(last));
    assert_eq!(net.paxos(id(2)).commit(), last);
    net.with_paxos(id(2), |paxos| paxos.handle_applied(Slot(last.0 + 1)));
    assert_eq!(net.paxos(id(2)).commit(), last, "beyond the log: ignored");
}

#[test]
fn x3_an_own_command_is_resolved_though_its_entry_leaves_memory_before_it_is_handed_over() {
    let mut net = three_led_by_1(small());
    write(&mut net, id(3), 3);
    net.run(200);
    let before = net.paxos(id(3)).last();
    let command = net.propose(id(3), b"chosen, as 3 does not know");
    net.until(10, "its entry at 3", |net| net.paxos(id(3)).last() > before);
    net.isolate(id(3));
    let slot = net.paxos(id(3)).last();
    net.run(5);
    assert!(net.paxos(id(1)).commit() >= slot && net.paxos(id(3)).commit() < slot);
    // Another leader's log, far longer than the cache, is adopted behind that entry.
    net.elect_member(id(2));
    write(&mut net, id(2), 40);
    assert_eq!(net.node(id(3)).slot_of(command), None);
    net.heal();
    // The group sees that nothing is handed over before it is resolved.
    let last = net.paxos(id(2)).last();
    net.until_all_applied(3000, last);
    assert_eq!(net.node(id(3)).slot_of(command), Some(slot));
    assert_eq!(net.paxos(id(3)).counters().resends, 0);
}

#[test]
fn p1a_a_restarted_leader_prepares_anew_before_it_proposes() {
    let mut net = Net::new(1);
    net.elect();
    net.propose(id(1), b"one");
    net.run(10);
    let before = net.paxos(id(1)).promised();
    net.restart(id(1));
    assert_eq!(net.paxos(id(1)).standing(), Standing::Follower);
    net.elect();
    assert!(net.paxos(id(1)).promised() > before);
}

#[test]
fn p1a_no_prepare_leaves_before_the_own_promise_is_synced() {
    let mut net = Net::new(3);
    net.sync_ns = 50 * MS;
    net.until(5000, "a campaign", |net| {
        net.members()
            .iter()
            .any(|member| net.paxos(*member).standing() == Standing::Candidate)
    });
    net.run(20);
    assert_eq!(net.delivered.get("prepare"), None);
    net.elect();
}

/// Where one promise is enough to lead, nobody else's comes after the own one.
#[test]
fn p1a_the_own_promise_counts_only_once_it_is_synced() {
    let quorums = Quorums::Flexible {
        phase1: 1,
        phase2: 3,
    };
    let mut net = Net::with(&[Role::Voter; 3], quorums, Settings::default());
    net.elect_member(id(1));
    net.run(300);
    net.sync_ns = 50 * MS;
    // A write is under way when 2 is told to lead, and the disk never gets to its promise.
    let (before, last) = (net.node(id(2)).synced, net.paxos(id(2)).last());
    net.propose(id(1), b"one");
    net.until(10, "the entry", |net| net.paxos(id(2)).last() > last);
    let ballot = net.paxos(id(1)).promised();
    net.inject(id(1), id(2), Message::Transfer { ballot });
    assert!(net.paxos(id(2)).promised() > ballot);
    let prepares = net.delivered.get("prepare").copied();
    net.until(100, "the write", |net| net.node(id(2)).synced > before);
    net.stalled.insert(id(2));
    let standing = net.paxos(id(2)).standing();
    assert_eq!(standing, Standing::Candidate, "it has no quorum yet");
    let end_ns = net.now_ns + 400 * MS;
    net.until(500, "the end", |net| {
        assert_ne!(net.paxos(id(2)).standing(), Standing::Leader);
        net.now_ns > end_ns
    });
    assert_eq!(net.delivered.get("prepare").copied(), prepares);
    // A crash makes it forget the ballot: what it had proposed there, it might propose otherwise.
    net.stalled.clear();
    net.restart(id(2));
    assert_eq!(net.paxos(id(2)).promised(), ballot);
    net.elect();
}

#[test]
fn m4_while_an_adoption_is_on_its_way_to_the_disk_a_member_does_not_pass_for_forgetful() {
    let mut net = three_led_by_1(Settings::default());
    net.isolate(id(1));
    net.propose(id(1), b"at 1 alone");
    net.run(100);
    let told = |net: &Net| {
        let hello = net.paxos(id(1)).hello();
        (hello.accepted, hello.last)
    };
    let before = told(&net);
    net.run(2000);
    net.sync_ns = 20 * MS;
    net.heal();
    let cut = Cell::new(false);
    net.until(5000, "1 follows", |net| {
        assert!(told(net) >= before, "{:?} is less", told(net));
        cut.set(cut.get() || net.paxos(id(1)).synced() < before.1);
        told(net) > before
    });
    assert!(cut.get(), "nothing was cut");
}

#[test]
fn p1b_a_promise_to_another_leaves_only_once_it_is_synced() {
    let mut net = three_led_by_1(Settings::default());
    for member in [id(2), id(3)] {
        net.stalled.insert(member);
    }
    let before = net.delivered.get("promise").copied();
    let ballot = net.paxos(id(1)).promised();
    let prepare = Message::Prepare {
        ballot: Ballot {
            round: ballot.round + 1,
            node: id(3),
            ..ballot
        },
        accepted: ballot,
        last: net.paxos(id(2)).last(),
        commit: Slot::ZERO,
        handed_over: true,
    };
    net.inject(id(3), id(2), prepare);
    assert!(net.paxos(id(2)).promised() > ballot);
    net.run(100);
    assert_eq!(net.delivered.get("promise").copied(), before);
    net.stalled.clear();
    net.until(100, "the promise", |net| {
        net.delivered.get("promise").copied() > before
    });
}

#[test]
fn a_follower_far_behind_catches_up_while_the_load_goes_on() {
    let mut net = three_led_by_1(Settings {
        max_message_bytes: 2000,
        cache_bytes: 4000,
        ..Settings::default()
    });
    net.isolate(id(3));
    write(&mut net, id(1), 500);
    net.crash(id(3));
    net.heal();
    net.start(id(3));
    for _ in 0..300 {
        net.propose(id(1), b"more");
        net.run(1);
    }
    let behind = net.paxos(id(1)).last().0 - net.paxos(id(3)).last().0;
    assert!(behind < 20, "still {behind} slots behind");
}

#[test]
fn all_members_restart_and_go_on_with_everything() {
    let mut net = three_led_by_1(Settings::default());
    write(&mut net, id(1), 10);
    let last = net.paxos(id(1)).last();
    for member in net.members() {
        net.crash(member);
    }
    for member in net.members() {
        net.start(member);
    }
    let leader = net.elect();
    net.propose(leader, b"after");
    net.until_all_applied(2000, last.next());
    net.run(100);
    assert_eq!(net.node(id(2)).payloads().len(), 11);
}

#[test]
fn l1b_a_late_answer_of_an_earlier_start_does_not_hold_up_a_follower_for_ever() {
    let mut net = three_led_by_1(small());
    net.isolate(id(3));
    write(&mut net, id(1), 60);
    net.elect_member(id(2));
    net.delivered.clear();
    net.heal();
    net.until(2000, "3 stages", |net| {
        net.delivered.get("staged").is_some_and(|count| *count >= 3)
    });
    let ballot = net.paxos(id(2)).promised();
    assert!(net.paxos(id(3)).accepted() < ballot, "not adopted yet");
    net.restart(id(3));
    net.run(1);
    assert!(net.paxos(id(3)).accepted() < ballot, "not adopted yet");
    let through = Slot(40);
    net.inject(id(3), id(2), Message::Staged { ballot, through });
    let last = net.paxos(id(2)).last();
    net.until_all_applied(5000, last);
}
