//! Scenarios of much unresolved work: nothing is sent in one go that the queue of a connection does
//! not hold (rule P3, I12). The shell breaks a connection whose queue grows too long, and what is
//! begun anew with the next one must not be too long again.

mod common;

use std::cell::Cell;

use common::{MS, Net, id};
use synod_paxos::{Lane, MemberId, Message, Quorums, Role, Settings, Slot};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// All sizes a 64th of the usual ones.
fn small() -> Settings {
    let settings = Settings {
        window_bytes: 512 * KIB,
        total_window_bytes: MIB,
        max_message_bytes: 32 * KIB,
        max_body_bytes: 256 * KIB,
        max_pending_bytes: MIB,
        cache_bytes: 256 * KIB,
        ..Settings::default()
    };
    Settings {
        queue_bytes: settings.largest_burst_bytes(),
        ..settings
    }
}

fn most(net: &Net, from: MemberId, to: MemberId, kind: &'static str) -> u64 {
    net.bursts.get(&(from, to, kind)).copied().unwrap_or(0)
}

/// The lane for the log breaks and comes back, as when its queue was too long.
fn reconnect(net: &mut Net, from: MemberId, to: MemberId) {
    for up in [false, true] {
        let now = net.now(from);
        net.with_paxos(from, |paxos| {
            paxos.handle_connection(now, to, Lane::Log, up);
        });
    }
    net.drain(from);
}

#[test]
fn p3_an_entrance_with_much_unresolved_work_gives_a_new_leader_a_share_at_a_time() {
    let settings = Settings::default();
    let share = settings.most_forwarded_bytes();
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, settings);
    net.elect_member(id(1));
    net.run(300);
    net.crash(id(1));
    // Nobody leads, and 62 MiB come in.
    net.cut(2, 3);
    net.run(1000);
    let commands: Vec<_> = (0..62)
        .map(|_| net.propose(id(3), &vec![0; MIB as usize]))
        .collect();
    assert!(net.paxos(id(3)).status().pending_bytes > 62 * MIB);
    net.heal();
    net.elect_member(id(2));
    reconnect(&mut net, id(3), id(2));
    net.until(5000, "all of it", |net| {
        let node = net.node(id(3));
        commands.iter().all(|it| node.slot_of(*it).is_some())
    });
    let burst = most(&net, id(3), id(2), "propose");
    assert!((8 * MIB..=share).contains(&burst), "{burst} bytes at once");
    let log = most(&net, id(2), id(3), "accept");
    assert!(log <= net.settings.largest_burst_bytes(), "{log} bytes");
    let status = net.paxos(id(3)).status();
    assert_eq!((status.pending_bytes, status.given_bytes), (0, 0));
}

#[test]
fn p3_commands_that_are_not_chosen_in_time_are_given_again_a_little_at_a_time() {
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, small());
    net.elect_member(id(1));
    net.run(300);
    // Commands arrive and nothing is heard of them.
    net.filter = Box::new(|from, to, message| {
        !(from == id(1) && to == id(3) && matches!(message, Message::Accept { .. }))
    });
    for _ in 0..200 {
        net.propose(id(3), &[0; 4000]);
    }
    net.run(3000);
    assert!(net.paxos(id(3)).counters().resends > 0);
    let share = net.settings.most_forwarded_bytes();
    assert!(most(&net, id(3), id(1), "propose") <= share);
    assert!(net.paxos(id(3)).status().given_bytes <= share);
    net.heal();
    net.until(5000, "all of it", |net| {
        net.paxos(id(3)).status().pending_commands == 0
    });
}

#[test]
fn p3_what_a_leader_without_room_gives_back_is_given_again_until_it_is_chosen() {
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, small());
    net.elect_member(id(1));
    net.run(300);
    let now = net.now(id(1));
    net.with_paxos(id(1), |paxos| paxos.handle_disk(now, true));
    for _ in 0..200 {
        net.propose(id(3), &[0; 4000]);
    }
    net.run(20);
    assert_eq!(net.paxos(id(3)).status().given_bytes, 0, "all came back");
    let before = net.delivered.get("propose").copied();
    net.run(1000);
    let tries = net.delivered["propose"] - before.unwrap_or(0);
    assert!((1..200).contains(&tries), "{tries} messages in a second");
    let now = net.now(id(1));
    net.with_paxos(id(1), |paxos| paxos.handle_disk(now, false));
    net.until(2000, "all of it", |net| {
        net.paxos(id(3)).status().pending_commands == 0
    });
    assert_eq!(net.node(id(1)).payloads().len(), 200, "each once");
}

/// Of five, only 1 can lead: 2 and 3 hear nobody else, 4 and 5 are dead. 2 alone has what was chosen
/// lately, more than four windows of it.
fn only_1_can_lead() -> (Net, Slot) {
    let settings = Settings {
        cache_bytes: 4 * MIB,
        ..small()
    };
    let mut net = Net::with(&[Role::Voter; 5], Quorums::Majority, settings);
    net.elect_member(id(2));
    net.run(300);
    net.isolate(id(1));
    net.isolate(id(3));
    for _ in 0..600 {
        net.propose(id(2), &[0; 4000]);
        net.run(1);
    }
    let last = net.paxos(id(2)).commit();
    net.crash(id(4));
    net.crash(id(5));
    net.heal();
    net.cut(2, 3);
    (net, last)
}

#[test]
fn p3_a_promise_is_sent_a_window_at_a_time() {
    let (mut net, last) = only_1_can_lead();
    net.delay_ns = 5 * MS;
    net.until(20_000, "1 leads with all of it", |net| {
        net.settled_leader() == Some(id(1)) && net.paxos(id(1)).commit() >= last
    });
    let burst = most(&net, id(2), id(1), "promise");
    assert!(
        (100 * KIB..=net.settings.largest_burst_bytes()).contains(&burst),
        "{burst} bytes at once"
    );
    assert_eq!(net.paxos(id(1)).counters().impossible_messages, 0);
}

#[test]
fn p3_a_promise_goes_on_although_parts_and_answers_get_lost() {
    let (mut net, last) = only_1_can_lead();
    net.loss = 50;
    net.until(20_000, "1 leads with all of it", |net| {
        net.settled_leader() == Some(id(1)) && net.paxos(id(1)).commit() >= last
    });
}

#[test]
fn l1_a_candidate_takes_a_long_log_to_the_disk_as_it_comes_and_keeps_little_in_memory() {
    let (mut net, last) = only_1_can_lead();
    let window = net.settings.window_bytes;
    let before = net.paxos(id(1)).counters().elections;
    let (promised, unsynced) = (Cell::new(0), Cell::new(0));
    net.until(20_000, "1 leads", |net| {
        let status = net.paxos(id(1)).status();
        promised.set(status.promised_bytes.max(promised.get()));
        unsynced.set(status.unsynced_bytes.max(unsynced.get()));
        net.settled_leader() == Some(id(1))
    });
    net.until(1000, "all of it", |net| net.paxos(id(1)).commit() >= last);
    for bytes in [promised.get(), unsynced.get()] {
        assert!((window / 2..3 * window).contains(&bytes), "{bytes} bytes");
    }
    let ballots = net.paxos(id(1)).counters().elections - before;
    assert_eq!(ballots, 1, "in one go");
    assert_eq!(net.paxos(id(1)).counters().impossible_messages, 0);
    // What it lacked is in its log, and is handed over from there.
    net.until(1000, "apply", |net| net.node(id(1)).through >= last);
    assert_eq!(net.node(id(1)).payloads().len(), 600);
}

#[test]
fn l1_a_candidate_with_a_slow_disk_asks_for_no_more_than_it_writes() {
    let (mut net, last) = only_1_can_lead();
    net.sync_ns = 60 * MS;
    let most = Cell::new(0);
    net.until(20_000, "1 leads", |net| {
        most.set(net.paxos(id(1)).status().unsynced_bytes.max(most.get()));
        net.settled_leader() == Some(id(1))
    });
    assert!(most.get() < 3 * net.settings.window_bytes, "{most:?} bytes");
    net.until(2000, "all of it", |net| net.paxos(id(1)).commit() >= last);
}

#[test]
fn l1_a_candidate_without_a_quorum_takes_about_a_window_of_a_promise_and_no_more() {
    let (mut net, last) = only_1_can_lead();
    net.filter =
        Box::new(|from, _, message| from != id(3) || !matches!(message, Message::Promise { .. }));
    let most = Cell::new(0);
    let end_ns = net.now_ns + 5000 * MS;
    net.until(6000, "the end", |net| {
        most.set(net.paxos(id(1)).status().promised_bytes.max(most.get()));
        net.now_ns > end_ns
    });
    let window = net.settings.window_bytes;
    assert!((window..3 * window).contains(&most.get()), "{most:?} bytes");
    net.heal();
    net.cut(2, 3);
    net.until(20_000, "1 leads with all of it", |net| {
        net.settled_leader() == Some(id(1)) && net.paxos(id(1)).commit() >= last
    });
}

/// 3 is the entrance, 1 leads and 2 follows it. Nothing of the log comes to 3.
fn log_does_not_reach_the_entrance() -> Net {
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, small());
    net.elect_member(id(1));
    net.run(300);
    net.filter = Box::new(|_, to, message| {
        to != id(3) || !matches!(message, Message::Accept { .. } | Message::AcceptSync { .. })
    });
    net
}

#[test]
fn p6_large_commands_that_are_given_again_while_the_leader_has_them_are_not_logged_again() {
    let mut net = log_does_not_reach_the_entrance();
    for _ in 0..3 {
        net.propose(id(3), &vec![0; 200 << 10]);
    }
    net.run(3000);
    reconnect(&mut net, id(3), id(1));
    net.run(3000);
    assert!(net.paxos(id(3)).counters().resends > 3);
    assert!(net.paxos(id(1)).counters().repeated_commands > 3);
    // As much as is with the leader at a time.
    assert_eq!(net.node(id(1)).payloads().len(), 1, "each once");
    net.heal();
    net.until(5000, "all of it", |net| {
        net.paxos(id(3)).status().pending_commands == 0
    });
    assert_eq!(net.node(id(1)).payloads().len(), 3, "each once");
}

#[test]
fn p6_a_command_that_a_leader_adopted_with_its_log_is_not_logged_again() {
    let mut net = log_does_not_reach_the_entrance();
    // 2 has it in its log, and does not know it chosen, when 1 dies.
    net.filter = Box::new(|_, to, message| {
        let accept = matches!(message, Message::Accept { .. } | Message::AcceptSync { .. });
        let answer = matches!(message, Message::Accepted { .. });
        !(answer || accept && to == id(3))
    });
    net.propose(id(3), &vec![0; 200 << 10]);
    net.run(5);
    net.crash(id(1));
    net.until(5000, "2 leads", |net| net.leader() == Some(id(2)));
    net.run(400);
    assert!(net.paxos(id(2)).counters().repeated_commands > 0);
    net.heal();
    net.until(5000, "it is chosen", |net| {
        net.paxos(id(3)).status().pending_commands == 0
    });
    net.run(1000);
    assert_eq!(net.node(id(2)).payloads().len(), 1, "once");
}

#[test]
fn p6_a_command_that_came_back_in_the_leaders_log_is_not_given_again_however_slow_the_disks() {
    let mut net = Net::with(&[Role::Voter; 3], Quorums::Majority, small());
    net.elect_member(id(1));
    net.run(300);
    net.sync_ns = 450 * MS;
    let before = net.delivered.get("propose").copied();
    let command = net.propose(id(3), &vec![0; 200 << 10]);
    net.until(2000, "its slot", |net| {
        net.node(id(3)).slot_of(command).is_some()
    });
    let times = net.delivered["propose"] - before.unwrap_or(0);
    assert_eq!((times, net.paxos(id(3)).counters().resends), (1, 0));
}
