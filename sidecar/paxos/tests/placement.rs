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

/// 2 leads, 1 gets nothing of many windows that are chosen.
fn leave_behind(net: &mut Net, count: usize) -> Slot {
    net.elect_member(id(2));
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
