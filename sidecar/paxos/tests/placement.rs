//! Scenarios of who leads best: a member far behind (rule L1), preferred members.

mod common;

use common::{MS, Net, id};
use synod_paxos::{MemberId, Message, Quorums, Role, Settings, Slot};

const KIB: u64 = 1 << 10;

fn small() -> Settings {
    Settings {
        window_bytes: 256 * KIB,
        max_message_bytes: 32 * KIB,
        max_body_bytes: 64 * KIB,
        cache_bytes: 64 * KIB,
        preference: 0,
        ..Settings::default()
    }
}

/// Only 1 is preferred.
fn preferring_1(members: usize) -> Net {
    let mut net = Net::with(&vec![Role::Voter; members], Quorums::Majority, small());
    net.preferences.insert(id(1), 100);
    net.restart(id(1));
    net
}

/// Makes this member lead, and 1 forget that it was told to let it.
fn lead_against_preference(net: &mut Net, member: MemberId) {
    net.elect_member(member);
    net.restart(id(1));
}

/// 2 leads, 1 gets nothing of many windows that are chosen.
fn leave_behind(net: &mut Net, count: usize) -> Slot {
    lead_against_preference(net, id(2));
    net.run(300);
    let write = |net: &mut Net, count| {
        for _ in 0..count {
            net.propose(id(2), &[0; 4000]);
            net.run(1);
        }
        net.run(100);
    };
    // All know what entries weigh here.
    write(net, 20);
    net.isolate(id(1));
    write(net, count);
    net.paxos(id(2)).commit()
}

/// Everybody reads old entries back slowly: to bring 1 up to date takes seconds.
fn slow_disks(net: &mut Net) {
    for member in net.members() {
        net.load_ns.insert(member, 50 * MS);
    }
}

fn until_chosen(net: &mut Net, limit_ms: u64, at: MemberId) {
    let command = net.propose(at, b"does not wait");
    net.until(limit_ms, "its slot", |net| {
        net.node(at).slot_of(command).is_some()
    });
}

#[test]
fn l1_a_preferred_member_far_behind_leaves_the_lead_to_others_and_writes_do_not_stall() {
    let mut net = preferring_1(5);
    let last = leave_behind(&mut net, 600);
    slow_disks(&mut net);
    net.crash(id(2));
    net.heal();
    let before = net.paxos(id(1)).counters().elections;
    until_chosen(&mut net, 1000, id(3));
    assert!(net.paxos(id(1)).last() < last, "it is still behind");
    let tries = net.paxos(id(1)).counters().elections - before;
    assert_eq!(tries, 0, "it did not even stand");
}

#[test]
fn l1_a_member_far_behind_leads_when_the_better_one_tries_and_never_wins() {
    let mut net = preferring_1(3);
    let last = leave_behind(&mut net, 200);
    net.crash(id(3));
    net.heal();
    // 2 stands again and again, and is told of no promise.
    net.filter =
        Box::new(|_, to, message| to != id(2) || !matches!(message, Message::Promise { .. }));
    net.crash(id(2));
    net.start(id(2));
    net.until(5000, "1 leads with all of it", |net| {
        net.settled_leader() == Some(id(1)) && net.paxos(id(1)).commit() >= last
    });
}

#[test]
fn l1_a_preferred_member_far_behind_catches_up_and_then_leads_though_the_load_goes_on() {
    let mut net = preferring_1(5);
    leave_behind(&mut net, 600);
    net.heal();
    let began_ns = net.now_ns;
    while net.leader() != Some(id(1)) {
        let leader = net.leader().unwrap_or(id(3));
        net.propose(leader, &[0; 4000]);
        net.run(2);
        assert!(net.now_ns < began_ns + 20_000 * MS, "1 never leads");
    }
    let leader = net.elect();
    assert_eq!(leader, id(1));
    assert!(
        net.now_ns > began_ns + 2000 * MS,
        "not before a quiet while"
    );
}

#[test]
fn l1_while_a_preferred_member_is_behind_nothing_is_handed_over_however_long_it_is_heard() {
    let mut net = preferring_1(5);
    leave_behind(&mut net, 600);
    net.heal();
    slow_disks(&mut net);
    let began_ns = net.now_ns;
    let leader = net.elect();
    assert_ne!(leader, id(1));
    while net.paxos(leader).counters().handovers == 0 {
        net.propose(leader, &[0; 4000]);
        net.run(10);
        assert!(net.now_ns < began_ns + 40_000 * MS, "it never catches up");
    }
    let behind = net
        .paxos(leader)
        .commit()
        .0
        .saturating_sub(net.paxos(id(1)).synced().0);
    assert!(behind * 4000 < small().window_bytes, "{behind} slots");
    assert!(net.now_ns > began_ns + 8000 * MS, "it was soon there");
    net.until(5000, "1 leads", |net| net.settled_leader() == Some(id(1)));
}

#[test]
fn a_leader_that_is_not_preferred_hands_over_to_one_that_is_and_it_stays_there() {
    let mut net = preferring_1(3);
    lead_against_preference(&mut net, id(3));
    let changes = |net: &Net| net.node(id(2)).leaders.len();
    net.until(10_000, "1 leads", |net| net.settled_leader() == Some(id(1)));
    net.run(1000);
    let before = changes(&net);
    net.run(60_000);
    assert_eq!(net.settled_leader(), Some(id(1)));
    assert_eq!(changes(&net), before, "nothing moves any more");
}

#[test]
fn without_any_preference_the_leader_stays_where_it_is() {
    let mut net = Net::new(3);
    net.elect_member(id(2));
    net.run(60_000);
    assert_eq!(net.settled_leader(), Some(id(2)));
    assert_eq!(
        net.paxos(id(2)).status().promised,
        net.paxos(id(1)).status().promised
    );
}

#[test]
fn a_preferred_member_whose_app_or_disk_stands_still_is_not_given_the_lead() {
    for app in [true, false] {
        let mut net = preferring_1(3);
        lead_against_preference(&mut net, id(3));
        if app {
            let now = net.now(id(1));
            net.with_paxos(id(1), |paxos| paxos.handle_app(now, true));
        } else {
            net.stalled.insert(id(1));
            net.propose(id(3), b"it does not get further");
        }
        net.run(30_000);
        assert_eq!(net.settled_leader(), Some(id(3)));
        let now = net.now(id(1));
        net.stalled.clear();
        net.with_paxos(id(1), |paxos| paxos.handle_app(now, false));
        net.until(10_000, "1 leads", |net| net.settled_leader() == Some(id(1)));
    }
}

#[test]
fn a_preferred_member_that_comes_and_goes_takes_the_lead_more_and_more_rarely() {
    let mut net = preferring_1(3);
    lead_against_preference(&mut net, id(3));
    let mut waits = Vec::new();
    for _ in 0..4 {
        let began_ns = net.now_ns;
        net.until(60_000, "1 leads", |net| net.settled_leader() == Some(id(1)));
        waits.push((net.now_ns - began_ns) / MS);
        // It always fails in the same way, and 3 takes over.
        net.crash(id(1));
        net.filter = Box::new(|from, _, message| {
            from != id(2) || !matches!(message, Message::Prepare { .. })
        });
        net.until(5000, "3 leads", |net| net.settled_leader() == Some(id(3)));
        net.heal();
        net.start(id(1));
    }
    assert!(
        waits.windows(2).all(|pair| pair[1] > pair[0] * 3 / 2),
        "{waits:?}"
    );
}

#[test]
fn a_preferred_member_that_too_few_hear_is_not_given_the_lead() {
    let mut net = preferring_1(5);
    lead_against_preference(&mut net, id(3));
    net.cut(1, 2);
    net.cut(1, 4);
    net.cut(1, 5);
    net.run(30_000);
    assert_eq!(net.settled_leader(), Some(id(3)));
    assert_eq!(net.paxos(id(3)).counters().handovers, 0);
    net.heal();
    net.until(10_000, "1 leads", |net| net.settled_leader() == Some(id(1)));
}

#[test]
fn when_the_most_preferred_member_cannot_win_the_next_leads() {
    let mut net = preferring_1(5);
    net.preferences.insert(id(4), 50);
    net.restart(id(4));
    lead_against_preference(&mut net, id(3));
    let began_ns = net.now_ns;
    // Nobody gets to know that it prepares.
    net.filter =
        Box::new(|from, _, message| from != id(1) || !matches!(message, Message::Prepare { .. }));
    net.until(15_000, "4 leads", |net| net.settled_leader() == Some(id(4)));
    net.run(60_000);
    let tries: u64 = net
        .members()
        .into_iter()
        .map(|it| net.paxos(it).counters().handovers)
        .sum();
    assert!(tries < 10, "{tries} hand-overs");
    net.heal();
    net.until(60_000, "1 leads", |net| net.settled_leader() == Some(id(1)));
    assert!(net.now_ns > began_ns);
}

#[test]
fn a_preferred_member_that_is_gone_is_not_given_the_lead() {
    let mut net = preferring_1(3);
    lead_against_preference(&mut net, id(3));
    net.run(1000);
    net.crash(id(1));
    net.run(30_000);
    assert_eq!(net.settled_leader(), Some(id(3)));
    assert_eq!(net.paxos(id(3)).counters().handovers, 0);
}

#[test]
fn a_member_that_is_about_to_end_is_not_given_the_lead() {
    let mut net = preferring_1(3);
    lead_against_preference(&mut net, id(3));
    let now = net.now(id(1));
    net.with_paxos(id(1), |paxos| paxos.transfer(now, None));
    net.run(30_000);
    assert_eq!(net.settled_leader(), Some(id(3)));
}

#[test]
fn a_member_told_to_let_another_lead_does_not_get_the_lead_back_at_once() {
    let mut net = preferring_1(3);
    net.elect_member(id(1));
    net.run(1000);
    net.transfer(Some(id(2)));
    net.until(1000, "2 leads", |net| net.settled_leader() == Some(id(2)));
    net.run(60_000);
    assert_eq!(net.settled_leader(), Some(id(2)));
    net.until(300_000, "1 leads again in the end", |net| {
        net.settled_leader() == Some(id(1))
    });
}

#[test]
fn a_log_is_near_when_what_it_lacks_fits_a_window_in_bytes_however_many_slots_that_is() {
    for (count, bytes, near) in [(1500, 8, true), (60, 8000, false)] {
        let mut net = preferring_1(3);
        net.elect_member(id(2));
        net.run(300);
        let write = |net: &mut Net, count| {
            for _ in 0..count {
                net.propose(id(2), &vec![0; bytes]);
                net.run(1);
            }
        };
        write(&mut net, 20);
        net.isolate(id(1));
        write(&mut net, count);
        net.heal();
        // Heartbeats come, and no entries.
        net.filter =
            Box::new(|_, to, message| to != id(1) || matches!(message, Message::Heartbeat(_)));
        net.run(200);
        let status = net.paxos(id(1)).status();
        let lacks = count as u64 * (bytes as u64 + 128);
        assert!(
            status.behind_bytes.abs_diff(lacks) < lacks / 10,
            "{status:?}"
        );
        assert_eq!(net.paxos(id(1)).is_near(), near);
    }
}

#[test]
fn a_witness_is_handed_the_lead_neither_for_its_preference_nor_by_one_that_steps_aside() {
    let roles = [Role::Voter, Role::Voter, Role::Witness];
    let mut net = Net::with(&roles, Quorums::Majority, small());
    net.preferences.insert(id(3), 100);
    net.restart(id(3));
    net.elect_member(id(1));
    net.restart(id(3));
    net.run(10_000);
    assert_eq!(
        net.settled_leader(),
        Some(id(1)),
        "the witness is preferred"
    );
    net.transfer(None);
    net.until(1000, "the other copy leads", |net| {
        net.settled_leader() == Some(id(2))
    });
    assert_eq!(net.paxos(id(3)).counters().elections_won, 0);
}
