//! Scenarios of agreed time: rule P5.

mod common;

use common::{MS, Net, id};
use synod_paxos::{AgreedTime, MemberId, Quorums, Role, Settings, Slot};

const VOTER: Role = Role::Voter;
const HOUR_NS: i64 = 3_600_000 * MS.cast_signed();

fn others(net: &Net, member: MemberId) -> Vec<MemberId> {
    let mut others = net.members();
    others.retain(|other| *other != member);
    others
}

/// Somebody sets a wall clock.
fn step(net: &mut Net, member: MemberId, by_ns: i64) {
    *net.wall_offset_ns.entry(member).or_default() += by_ns;
}

/// The stamp of a command that is proposed now, and what a right clock reads.
fn stamp(net: &mut Net, leader: MemberId) -> (u64, u64) {
    // Nothing comes between the proposal and its stamp: it is made at once.
    let right = net.now(MemberId(0)).wall_ns;
    let slot = net.paxos(leader).last().next();
    net.propose(leader, b"stamped");
    net.run(50);
    (net.node(leader).applied[&slot].time.0, right)
}

fn assert_right(net: &mut Net, leader: MemberId, what: &str) {
    let (stamp, right) = stamp(net, leader);
    assert!(
        stamp.abs_diff(right) < 100 * MS,
        "{what}: {stamp} at {right}"
    );
}

#[test]
fn p5_the_median_clock_stamps_and_a_wrong_one_is_reported() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(500);
    let hour_ns = 3_600_000 * MS;
    net.wall_offset_ns.insert(leader, hour_ns.cast_signed());
    net.run(500);
    net.propose(leader, b"one");
    net.run(50);
    let entry = net.node(leader).applied.values().last().expect("applied");
    let right = net.now(others(&net, leader)[0]).wall_ns;
    assert!(
        right.abs_diff(entry.time.0) < 1000 * MS,
        "not its own clock"
    );
    assert_eq!(net.paxos(leader).status().skewed, [leader]);
}

#[test]
fn p5_time_never_goes_back_and_seeds_differ_across_leaders_with_wrong_clocks() {
    let mut net = Net::new(3);
    for (member, minutes) in [(1, -50), (2, 0), (3, 70)] {
        let offset = minutes * 60_000 * MS.cast_signed();
        net.wall_offset_ns.insert(id(member), offset);
    }
    for leader in [1, 3, 2, 1] {
        net.elect_member(id(leader));
        for _ in 0..5 {
            net.propose(id(leader), b"tick");
            net.run(20);
        }
    }
    let entries: Vec<_> = net.node(id(1)).applied.values().collect();
    assert!(entries.is_sorted_by(|a, b| a.time < b.time));
    let mut seeds: Vec<u128> = entries.iter().map(|entry| entry.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), entries.len());
}

#[test]
fn p5_the_first_stamp_of_all_waits_for_the_clocks_of_a_majority() {
    let mut net = Net::new(5);
    net.elect();
    net.until(2000, "an entry", |net| net.node(id(1)).through > Slot(0));
    let first = net.node(id(1)).applied[&Slot(1)].time;
    assert!(first > AgreedTime(1_600_000_000_000_000_000), "{first:?}");
}

#[test]
fn p5_a_leader_of_a_log_without_any_time_proposes_nothing_before_it_knows_the_time() {
    let quorums = Quorums::Flexible {
        phase1: 1,
        phase2: 3,
    };
    let mut net = Net::with(&[VOTER; 3], quorums, Settings::default());
    for member in net.members() {
        net.isolate(member);
    }
    net.until(3000, "a leader of its own", |net| net.leader().is_some());
    let leader = net.leader().unwrap();
    net.propose(leader, b"too early");
    net.run(100);
    assert_eq!(net.paxos(leader).last(), Slot(0));
    net.heal();
    net.until(5000, "an entry", |net| net.node(leader).through > Slot(0));
    let first = net.node(leader).applied[&Slot(1)].time;
    assert!(first > AgreedTime(1_600_000_000_000_000_000), "{first:?}");
}

#[test]
fn p5_a_step_of_the_leaders_clock_moves_no_stamp_not_even_the_next() {
    for by_ns in [HOUR_NS, -HOUR_NS] {
        let mut net = Net::new(3);
        let leader = net.elect();
        net.run(500);
        step(&mut net, leader, by_ns);
        assert_right(&mut net, leader, "at once");
        net.run(500);
        assert_right(&mut net, leader, "when all have looked again");
        assert_eq!(net.paxos(leader).status().skewed, [leader]);
        // What the others told before no longer counts some time after.
        let deaf = others(&net, leader)[0];
        net.isolate(deaf);
        for _ in 0..15 {
            net.run(1000);
            assert_right(&mut net, leader, "with one voter gone");
        }
        let left = others(&net, deaf);
        assert_eq!(net.paxos(leader).status().skewed, left, "two that differ");
    }
}

#[test]
fn p5_a_member_with_a_wrong_clock_knows_the_agreed_time_and_by_how_much_it_is_off() {
    let mut net = Net::new(3);
    let leader = net.elect();
    let wrong = others(&net, leader)[0];
    step(&mut net, wrong, -HOUR_NS);
    net.run(500);
    let now = net.now(leader);
    let known = net.paxos(wrong).agreed_clock().expect("all are heard");
    let known = known.at(net.now(wrong).mono_ns).0;
    assert!(known.abs_diff(now.wall_ns) < 100 * MS, "{known}");
    let off = net.paxos(wrong).status().clock_offset_ns.expect("known");
    assert!(off.abs_diff(-HOUR_NS) < 100 * MS, "{off}");
    let status = net.paxos(leader).status();
    let seen = status.peers.iter().find(|it| it.member == wrong);
    let seen = seen.and_then(|it| it.clock_offset_ns).expect("known");
    assert!(seen.abs_diff(-HOUR_NS) < 100 * MS, "{seen}");
    assert!(status.clock_offset_ns.expect("known").unsigned_abs() < 100 * MS);
}

#[test]
fn p5_time_follows_when_a_majority_of_clocks_is_set_forward() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(500);
    for member in others(&net, leader) {
        step(&mut net, member, HOUR_NS);
    }
    net.run(500);
    let (stamp, right) = stamp(&mut net, leader);
    let expected = right.saturating_add_signed(HOUR_NS);
    assert!(stamp.abs_diff(expected) < 100 * MS, "{stamp}");
}

#[test]
fn p5_time_stands_still_until_it_is_that_late_when_a_majority_is_set_back() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(500);
    let (before, _) = stamp(&mut net, leader);
    for member in others(&net, leader) {
        step(&mut net, member, -2000 * MS.cast_signed());
    }
    net.run(500);
    let (after, _) = stamp(&mut net, leader);
    assert!(after > before, "never back");
    assert!(after - before < 500 * MS, "{}", after - before);
    net.run(4000);
    let (later, right) = stamp(&mut net, leader);
    assert!(later.abs_diff(right - 2000 * MS) < 100 * MS, "{later}");
}

#[test]
fn p5_the_clock_of_a_group_of_one_is_its_majority() {
    let mut net = Net::new(1);
    net.until(10, "a leader", |net| net.leader().is_some());
    net.run(200);
    assert_right(&mut net, id(1), "alone");
    step(&mut net, id(1), HOUR_NS);
    net.run(1000);
    let (stamp, right) = stamp(&mut net, id(1));
    let expected = right.saturating_add_signed(HOUR_NS);
    assert!(stamp.abs_diff(expected) < 100 * MS, "{stamp}");
}

#[test]
fn p5_after_a_long_time_without_any_member_time_is_right_again() {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(500);
    assert_right(&mut net, leader, "before");
    for member in net.members() {
        net.crash(member);
    }
    net.run(60_000);
    for member in net.members() {
        net.restart(member);
        assert_eq!(net.paxos(member).agreed_clock(), None, "its log is old");
    }
    let leader = net.elect();
    net.run(500);
    assert_right(&mut net, leader, "after");
}
