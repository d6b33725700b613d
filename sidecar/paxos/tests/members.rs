//! Scenarios of starts and hellos: rules M4, M5, P8.

mod common;

use common::{Net, genesis, id};
use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, Command, Entry, EntryHash, Envelope, Epoch, GroupId, Hello,
    HelloRefusal, Identity, Incarnation, MemberId, Message, Now, Paxos, Quorums, Recovered, Role,
    Settings, Slot, StartError,
};

fn settled() -> (Net, MemberId, MemberId) {
    let mut net = Net::new(3);
    let leader = net.elect();
    net.run(500);
    let other = net.members().into_iter().find(|it| *it != leader).unwrap();
    (net, leader, other)
}

fn write(net: &mut Net, member: MemberId, count: usize) {
    for _ in 0..count {
        net.propose(member, b"write");
        net.run(2);
    }
    net.run(50);
}

fn hello(net: &mut Net, to: MemberId, hello: &Hello) -> Result<(), HelloRefusal> {
    let now = net.now(to);
    net.with_paxos(to, |paxos| paxos.handle_hello(now, hello))
}

#[test]
fn m4_a_member_whose_volume_was_rolled_back_is_refused_and_stops() {
    let (mut net, leader, other) = settled();
    write(&mut net, leader, 3);
    let snapshot = net.node(other).disk.snapshot();
    let boot = net.node(other).disk.boot();
    write(&mut net, leader, 3);
    net.crash(other);
    net.nodes
        .get_mut(&other)
        .unwrap()
        .disk
        .roll_back(snapshot, boot);
    net.start(other);
    assert!(net.node(other).forgetful);
    net.run(1000);
    assert_eq!(net.paxos(other).poll_timeout(), None, "it is silent");
    assert_eq!(net.settled_leader(), Some(leader));
}

#[test]
fn m4_a_member_whose_boot_number_went_back_is_refused() {
    let (mut net, leader, other) = settled();
    write(&mut net, leader, 3);
    net.restart(other);
    net.restart(other);
    net.run(500);
    let snapshot = net.node(other).disk.snapshot();
    net.crash(other);
    net.nodes
        .get_mut(&other)
        .unwrap()
        .disk
        .roll_back(snapshot, Boot(1));
    net.start(other);
    assert!(net.node(other).forgetful);
}

#[test]
fn m4_a_second_process_with_the_same_start_is_refused() {
    let (mut net, leader, other) = settled();
    let mut copy = net.paxos(other).hello();
    assert_eq!(hello(&mut net, leader, &copy), Ok(()));
    copy.life += 1;
    assert_eq!(
        hello(&mut net, leader, &copy),
        Err(HelloRefusal::Forgetful { member: other })
    );
}

#[test]
fn m4_nothing_a_forgetful_member_says_counts() {
    let (mut net, leader, other) = settled();
    let mut copy = net.paxos(other).hello();
    copy.life += 1;
    hello(&mut net, leader, &copy).unwrap_err();
    let before = net.paxos(leader).counters().foreign_messages;
    let ballot = net.paxos(leader).promised();
    let slot = net.paxos(leader).last();
    net.inject(other, leader, Message::Accepted { ballot, slot });
    assert_eq!(net.paxos(leader).counters().foreign_messages, before + 1);
}

#[test]
fn m4_an_old_hello_of_a_process_that_lives_on_is_no_forgetfulness() {
    let (mut net, leader, other) = settled();
    let old = net.paxos(other).hello();
    write(&mut net, leader, 5);
    assert!(net.paxos(other).hello().last > old.last);
    assert_eq!(hello(&mut net, leader, &old), Ok(()));
}

#[test]
fn m4_entries_sent_by_a_leader_are_no_acknowledgement() {
    let (mut net, leader, other) = settled();
    write(&mut net, leader, 3);
    // The leader's own write is lost with it; its followers have the entry.
    net.stalled.insert(leader);
    net.propose(leader, b"unsynced at the leader");
    net.run(2);
    assert!(net.paxos(other).last() > net.paxos(leader).synced());
    net.crash(leader);
    net.stalled.clear();
    net.start(leader);
    assert!(!net.node(leader).forgetful, "it acknowledged nothing of it");
    let next = net.elect();
    let slot = net.paxos(next).last();
    net.until_all_applied(2000, slot);
}

#[test]
fn m4_a_restart_that_kept_everything_is_welcome() {
    let (mut net, leader, other) = settled();
    for _ in 0..5 {
        write(&mut net, leader, 2);
        net.restart(other);
        net.run(100);
        assert!(!net.node(other).forgetful);
    }
    let slot = net.paxos(leader).last();
    net.until_all_applied(1000, slot);
}

#[test]
fn hellos_of_strangers_are_refused_with_the_reason() {
    let (mut net, leader, other) = settled();
    let good = net.paxos(other).hello();
    let ours = good.group;
    let theirs = GroupId([9; 16]);
    let stranger = Hello {
        group: theirs,
        ..good.clone()
    };
    assert_eq!(
        hello(&mut net, leader, &stranger),
        Err(HelloRefusal::OtherGroup { theirs, ours })
    );
    let newer = Hello {
        protocol_min: 3,
        protocol_max: 4,
        ..good.clone()
    };
    assert!(matches!(
        hello(&mut net, leader, &newer),
        Err(HelloRefusal::Protocol { their_min: 3, .. })
    ));
    let unknown = Hello {
        member: id(9),
        ..good.clone()
    };
    assert_eq!(
        hello(&mut net, leader, &unknown),
        Err(HelloRefusal::UnknownMember { member: id(9) })
    );
    let wiped = Hello {
        incarnation: Incarnation(5),
        ..good
    };
    assert_eq!(
        hello(&mut net, leader, &wiped),
        Err(HelloRefusal::OtherIncarnation {
            member: other,
            theirs: Incarnation(5)
        })
    );
}

#[test]
fn messages_of_another_group_or_life_are_dropped_and_counted() {
    let (mut net, leader, other) = settled();
    let ballot = net.paxos(leader).promised();
    let slot = net.paxos(leader).last();
    let good = net
        .paxos(other)
        .envelope(leader, Message::Accepted { ballot, slot });
    let wrong = [
        Envelope {
            group: GroupId([9; 16]),
            ..good.clone()
        },
        Envelope {
            from_incarnation: Incarnation(1),
            ..good.clone()
        },
        Envelope {
            to_incarnation: Incarnation(1),
            ..good.clone()
        },
        Envelope {
            from: id(9),
            ..good.clone()
        },
    ];
    let before = net.paxos(leader).counters().foreign_messages;
    for envelope in wrong {
        let now = net.now(leader);
        net.with_paxos(leader, |paxos| paxos.handle_message(now, other, envelope));
    }
    assert_eq!(net.paxos(leader).counters().foreign_messages, before + 4);
}

fn recovered() -> Recovered {
    let genesis = genesis(&[Role::Voter; 3], Quorums::Majority);
    Recovered {
        identity: Identity {
            name: "notes-1".into(),
            incarnation: Incarnation(1001),
        },
        boot: Boot(1),
        genesis: Some(genesis),
        promised: Ballot::default(),
        accepted: Ballot::default(),
        kept: (Ballot::default(), Slot(0)),
        base: None,
        upgrades: Vec::new(),
        joining: None,
        changes: Vec::new(),
        ended_by: None,
        last: Slot(0),
        runs: Vec::new(),
        last_time: AgreedTime(0),
        commit: Slot(0),
        tail: Vec::new(),
        faulty: Vec::new(),
    }
}

fn entry(slot: u64, ballot: Ballot) -> Entry {
    Entry {
        slot: Slot(slot),
        ballot,
        time: AgreedTime(1),
        seed: 0,
        command: Command::default(),
    }
}

fn base(recovered: &Recovered, slot: u64) -> Base {
    Base {
        slot: Slot(slot),
        ballot: recovered.accepted,
        ..Base::of_genesis(recovered.genesis.as_ref().unwrap())
    }
}

fn start(recovered: Recovered) -> Result<Paxos, StartError> {
    Paxos::new(Settings::default(), recovered, Now::default(), 1)
}

#[test]
fn m5_a_fresh_member_has_promised_and_accepted_the_ballot_of_genesis() {
    let paxos = start(recovered()).expect("it starts");
    let none = Ballot::none(Epoch(1));
    assert_eq!((paxos.promised(), paxos.accepted()), (none, none));
    assert_eq!(paxos.member(), id(1));
}

#[test]
fn m5_there_is_no_start_without_genesis_nor_with_an_unknown_log() {
    let without = Recovered {
        genesis: None,
        ..recovered()
    };
    assert_eq!(start(without).unwrap_err(), StartError::NoGenesis);
    let mut unknown = recovered();
    unknown.identity.incarnation = Incarnation(77);
    assert_eq!(
        start(unknown).unwrap_err(),
        StartError::NotAMember(Incarnation(77))
    );
    let mut newer = recovered();
    newer.genesis.as_mut().unwrap().protocol = 9;
    assert!(matches!(
        start(newer).unwrap_err(),
        StartError::Protocol { group: 9, .. }
    ));
}

#[test]
fn a_configuration_that_is_none_is_refused_at_start() {
    let broken: [fn(&mut synod_paxos::Configuration); 5] = [
        |it| it.members[1].id = id(1),
        |it| it.members[1].name = "notes-1".into(),
        |it| it.members[1].incarnation = Incarnation(1001),
        |it| {
            it.quorums = Quorums::Flexible {
                phase1: 1,
                phase2: 2,
            }
        },
        |it| {
            for member in &mut it.members {
                member.role = Role::Witness;
            }
        },
    ];
    for change in broken {
        let mut wrong = recovered();
        change(&mut wrong.genesis.as_mut().unwrap().configuration);
        assert!(matches!(
            start(wrong).unwrap_err(),
            StartError::Configuration(_)
        ));
    }
}

#[test]
fn a_log_that_contradicts_itself_is_an_error_at_start_and_no_panic() {
    let ballot = Ballot {
        epoch: Epoch(1),
        round: 1,
        node: id(1),
    };
    let sound = Recovered {
        promised: ballot,
        accepted: ballot,
        last: Slot(5),
        commit: Slot(5),
        runs: vec![(Slot(1), ballot)],
        ..recovered()
    };
    assert!(start(sound.clone()).is_ok());
    let broken: [fn(&mut Recovered); 14] = [
        |it| it.ended_by = Some(entry(4, it.accepted)),
        |it| it.promised.epoch = Epoch(2),
        |it| {
            let mut next = it.genesis.as_ref().unwrap().configuration.clone();
            next.epoch = Epoch(3);
            it.changes = vec![(Slot(5), next)];
        },
        |it| {
            let mut next = it.genesis.as_ref().unwrap().configuration.clone();
            next.epoch = Epoch(2);
            it.changes = vec![(Slot(6), next)];
        },
        |it| it.commit = Slot(6),
        |it| it.commit = Slot(4),
        |it| it.runs.clear(),
        |it| it.runs[0].0 = Slot(2),
        |it| it.promised = Ballot::default(),
        |it| {
            // Not known to be chosen, so it cannot have been learnt from others.
            it.commit = Slot(4);
            it.tail = vec![entry(5, it.accepted)];
            it.accepted = Ballot::default();
        },
        |it| it.base = Some(base(it, 9)),
        |it| it.base = Some(base(it, 3)),
        |it| {
            let mut other = base(it, 3);
            other.configuration.members.pop();
            it.base = Some(other);
            it.runs[0].0 = Slot(4);
        },
        |it| {
            let ballot = it.accepted;
            it.faulty.push(synod_paxos::Header {
                slot: Slot(8),
                ballot,
                hash: EntryHash::default(),
            });
        },
    ];
    for change in broken {
        let mut wrong = sound.clone();
        change(&mut wrong);
        assert!(matches!(
            start(wrong).unwrap_err(),
            StartError::Recovered(_)
        ));
    }
}
