//! Scenarios of protocol versions: rule P8.

mod common;

use common::{Net, id};
use synod_paxos::{
    Command, CommandId, CommandKind, HelloRefusal, MemberId, Message, Paxos, ProposeRefused,
    Settings, Slot, StartError, UpgradeRefused,
};

/// Three members at protocol 1, all with programs that speak 2; 1 leads.
fn old_group() -> Net {
    let mut net = Net::at_protocol(3, 1);
    net.elect_member(id(1));
    net.run(300);
    net
}

fn upgrade(net: &mut Net, member: MemberId, version: u32) -> Result<(), UpgradeRefused> {
    let now = net.now(member);
    let result = net.with_paxos(member, |paxos| paxos.upgrade(now, version));
    net.drain(member);
    result
}

fn protocols(net: &Net) -> Vec<u32> {
    let running = net.nodes.values().filter_map(|node| node.paxos.as_ref());
    running.map(Paxos::protocol).collect()
}

#[test]
fn p8_a_raise_is_in_force_on_each_member_once_it_is_chosen_and_stays_so() {
    let mut net = old_group();
    net.propose(id(2), b"before");
    net.run(20);
    net.cut(1, 3);
    net.cut(2, 3);
    upgrade(&mut net, id(1), 2).expect("proposed");
    assert_eq!(protocols(&net), [1, 1, 1], "not chosen yet");
    net.run(50);
    assert_eq!(protocols(&net), [2, 2, 1]);
    net.heal();
    net.run(1000);
    assert_eq!(protocols(&net), [2, 2, 2]);
    let slot = net.paxos(id(1)).last();
    for member in net.members() {
        assert_eq!(net.node(member).protocols, [(slot, 2)]);
        net.restart(member);
        assert_eq!(net.paxos(member).protocol(), 2, "after a restart");
        net.run(300);
    }
    net.elect();
    let leader = net.leader().unwrap();
    assert_eq!(
        upgrade(&mut net, leader, 2),
        Err(UpgradeRefused::NotAbove { in_force: 2 })
    );
}

#[test]
fn p8_a_raise_is_proposed_only_by_the_leader_when_all_members_have_said_that_they_speak_it() {
    let mut net = Net::at_protocol(3, 1);
    net.programs.insert(id(3), 1);
    net.restart(id(3));
    net.elect_member(id(1));
    net.run(300);
    assert_eq!(
        upgrade(&mut net, id(2), 2),
        Err(UpgradeRefused::NotLeader {
            leader: Some(id(1))
        })
    );
    assert_eq!(
        upgrade(&mut net, id(1), 3),
        Err(UpgradeRefused::Unknown { max: 2 })
    );
    let members = vec![id(3)];
    assert_eq!(
        upgrade(&mut net, id(1), 2),
        Err(UpgradeRefused::Unsupported { members })
    );
    net.programs.insert(id(3), 2);
    net.restart(id(3));
    net.run(100);
    upgrade(&mut net, id(1), 2).expect("proposed");
    assert_eq!(upgrade(&mut net, id(1), 2), Err(UpgradeRefused::Busy));
    net.run(100);
    assert_eq!(protocols(&net), [2, 2, 2]);
}

#[test]
fn p8_a_member_that_was_not_heard_since_this_leader_started_counts_as_not_speaking_it() {
    let mut net = old_group();
    net.crash(id(3));
    net.restart(id(1));
    net.elect_member(id(1));
    let members = vec![id(3)];
    assert_eq!(
        upgrade(&mut net, id(1), 2),
        Err(UpgradeRefused::Unsupported { members })
    );
}

#[test]
fn p8_a_program_that_is_too_old_for_the_group_is_refused_and_does_not_start() {
    let mut net = old_group();
    let old = net.paxos(id(3)).hello();
    upgrade(&mut net, id(1), 2).expect("proposed");
    net.run(100);
    let now = net.now(id(1));
    let hello = synod_paxos::Hello {
        protocol_max: 1,
        ..old
    };
    let result = net.with_paxos(id(1), |paxos| paxos.handle_hello(now, &hello));
    assert!(matches!(
        result,
        Err(HelloRefusal::Protocol { their_max: 1, .. })
    ));
    net.crash(id(3));
    let recovered = net.nodes.get_mut(&id(3)).unwrap().disk.restart();
    let settings = Settings {
        protocol_max: 1,
        ..Settings::default()
    };
    let error = Paxos::new(settings, recovered, now, 1).unwrap_err();
    assert!(matches!(error, StartError::Protocol { group: 2, .. }));
}

#[test]
fn p8_a_member_that_does_not_know_of_a_raise_yet_hears_those_who_speak_only_later_protocols() {
    let mut net = old_group();
    let good = net.paxos(id(2)).hello();
    let now = net.now(id(1));
    let mut hello = |protocol_min, protocol_max| {
        let hello = synod_paxos::Hello {
            protocol_min,
            protocol_max,
            ..good.clone()
        };
        net.with_paxos(id(1), |paxos| paxos.handle_hello(now, &hello))
    };
    assert_eq!(hello(2, 3), Ok(()));
    assert!(hello(3, 4).is_err(), "nothing in common");
    assert!(hello(2, 1).is_err());
}

#[test]
fn p8_a_member_that_finds_a_raise_beyond_its_program_ends_before_it() {
    let mut net = old_group();
    net.propose(id(1), b"before");
    net.run(20);
    net.cut(1, 3);
    net.cut(2, 3);
    upgrade(&mut net, id(1), 2).expect("proposed");
    net.run(50);
    // Its program is put back to an older one, which nobody has asked for.
    let slot = net.paxos(id(1)).last();
    net.programs.insert(id(3), 1);
    net.crash(id(3));
    net.heal();
    net.nodes.get_mut(&id(3)).unwrap().applies = true;
    net.start_deaf_to_hellos(id(3));
    net.until(3000, "it ends", |net| net.node(id(3)).outdated.is_some());
    assert_eq!(net.node(id(3)).outdated, Some(2));
    assert!(
        net.node(id(3)).through < slot,
        "nothing behind it is applied"
    );
    net.run(500);
    assert_eq!(net.paxos(id(3)).poll_timeout(), None);
}

#[test]
fn p8_a_raise_is_not_missed_in_a_log_that_is_caught_up_with_in_many_parts() {
    let mut net = Net::at_protocol(3, 1);
    net.settings = Settings {
        max_message_bytes: 500,
        cache_bytes: 800,
        ..Settings::default()
    };
    for member in net.members() {
        net.restart(member);
    }
    net.elect_member(id(1));
    net.run(300);
    net.cut(1, 3);
    net.cut(2, 3);
    upgrade(&mut net, id(1), 2).expect("proposed");
    for _ in 0..50 {
        net.propose(id(1), &[7; 100]);
        net.run(3);
    }
    // Another leader: 3 gets the log as a whole.
    net.elect_member(id(2));
    net.run(200);
    net.heal();
    let last = net.paxos(id(2)).last();
    net.until_all_applied(3000, last);
    assert_eq!(protocols(&net), [2, 2, 2]);
    net.restart(id(3));
    assert_eq!(net.paxos(id(3)).protocol(), 2);
}

#[test]
fn p8_a_raise_below_a_snapshot_is_part_of_it() {
    let mut net = old_group();
    net.isolate(id(3));
    upgrade(&mut net, id(1), 2).expect("proposed");
    net.run(50);
    for member in [id(1), id(2)] {
        let through = net.node(member).through;
        net.compact(member, through);
    }
    net.cuts.clear();
    net.fetches = true;
    net.until(3000, "it gets it", |net| {
        !net.node(id(3)).installed.is_empty()
    });
    assert_eq!(net.node(id(3)).protocols.len(), 1);
    for member in net.members() {
        net.restart(member);
        assert_eq!(net.paxos(member).protocol(), 2);
    }
}

#[test]
fn p8_a_raise_in_an_entry_that_cannot_be_read_comes_with_the_snapshot_that_stands_for_it() {
    let mut net = old_group();
    // 3 gets the entry but does not learn that it is chosen.
    net.filter = Box::new(|from, to, message| {
        let tells = match message {
            Message::Accept { entries, .. } => entries.is_empty(),
            Message::Heartbeat(_) => true,
            _ => false,
        };
        to != id(3) || !tells || from == id(3)
    });
    upgrade(&mut net, id(1), 2).expect("proposed");
    net.run(20);
    let slot = net.paxos(id(1)).last();
    assert_eq!(
        (net.paxos(id(3)).last(), protocols(&net)),
        (slot, vec![2, 2, 1])
    );
    net.crash(id(3));
    net.nodes.get_mut(&id(3)).unwrap().disk.damaged.push(slot);
    net.propose(id(1), b"behind it");
    net.run(50);
    for member in [id(1), id(2)] {
        net.compact(member, slot);
    }
    net.heal();
    net.start(id(3));
    net.until(5000, "it knows that it is chosen", |net| {
        net.paxos(id(3)).commit() >= slot && net.paxos(id(3)).needs_snapshot() == Some(slot)
    });
    assert_eq!(protocols(&net), [2, 2, 1]);
    let base = net.base_at(id(1), slot);
    net.install(id(3), base).expect("taken");
    net.run(100);
    assert_eq!(protocols(&net), [2, 2, 2]);
    assert_eq!(net.node(id(3)).payloads(), ["behind it"]);
}

#[test]
fn only_a_leader_makes_commands_that_raise_the_protocol() {
    let mut net = old_group();
    let command = Command {
        kind: CommandKind::UPGRADE,
        id: CommandId {
            member: id(1),
            boot: net.paxos(id(1)).boot(),
            sequence: 1,
        },
        floor: 0,
        payload: 2_u32.to_le_bytes().to_vec().into(),
    };
    assert_eq!(command.upgrades_to(), Some(2));
    let now = net.now(id(1));
    let result = net.with_paxos(id(1), |paxos| paxos.propose(now, command.clone()));
    assert_eq!(result, Err(ProposeRefused::Kind(CommandKind::UPGRADE)));
    let last = net.paxos(id(1)).last();
    let forwarded = synod_paxos::Message::Propose {
        commands: vec![Command {
            id: CommandId {
                member: id(2),
                ..command.id
            },
            ..command
        }],
        again: false,
    };
    net.inject(id(2), id(1), forwarded);
    net.run(50);
    assert_eq!(net.paxos(id(1)).last(), last);
    assert!(last > Slot(0));
}
