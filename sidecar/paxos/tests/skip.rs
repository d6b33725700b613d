//! Scenarios of slots that nobody executes: rule K1, as far as it is the agreement's.

mod common;

use common::{Net, id};
use synod_paxos::{
    Ballot, Command, CommandId, CommandKind, MemberId, Message, ProposeRefused, SkipRefused, Slot,
};

fn skip(net: &mut Net, member: MemberId, ballot: Ballot) -> Result<(), SkipRefused> {
    let now = net.now(member);
    let payload = b"which".to_vec().into();
    let result = net.with_paxos(member, |paxos| paxos.skip(now, ballot, payload));
    net.drain(member);
    result
}

/// Three members; 1 leads.
fn group(protocol: u32) -> Net {
    let mut net = Net::at_protocol(3, protocol);
    net.elect_member(id(1));
    net.run(300);
    net
}

#[test]
fn k1_a_slot_is_skipped_by_the_leader_in_the_ballot_in_which_it_asked_and_in_no_other() {
    let mut net = group(2);
    let asked = net.paxos(id(1)).promised();
    let leader = Some(id(1));
    assert_eq!(
        skip(&mut net, id(2), asked),
        Err(SkipRefused::NotLeader { leader })
    );
    skip(&mut net, id(1), asked).expect("proposed");
    net.run(50);
    let slot = net.paxos(id(1)).last();
    for member in net.members() {
        assert_eq!(net.paxos(member).commit(), slot);
    }
    // The same member leads again, and has asked nobody yet.
    net.elect_member(id(2));
    net.elect_member(id(1));
    let now = net.paxos(id(1)).promised();
    assert!(now > asked);
    assert_eq!(
        skip(&mut net, id(1), asked),
        Err(SkipRefused::NotLeader { leader })
    );
    skip(&mut net, id(1), now).expect("proposed");
}

#[test]
fn p8_no_slot_is_skipped_before_all_members_know_what_that_is() {
    let mut net = group(1);
    let ballot = net.paxos(id(1)).promised();
    assert_eq!(
        skip(&mut net, id(1), ballot),
        Err(SkipRefused::Protocol { in_force: 1 })
    );
}

#[test]
fn k1_no_entrance_proposes_a_skip_nor_does_a_leader_take_one_from_there() {
    let mut net = group(2);
    let command = Command {
        kind: CommandKind::SKIP,
        id: CommandId {
            member: id(1),
            boot: net.paxos(id(1)).boot(),
            sequence: 1,
        },
        floor: 0,
        payload: b"which".to_vec().into(),
    };
    let now = net.now(id(1));
    let result = net.with_paxos(id(1), |paxos| paxos.propose(now, command.clone()));
    assert_eq!(result, Err(ProposeRefused::Kind(CommandKind::SKIP)));
    let last = net.paxos(id(1)).last();
    let forwarded = Message::Propose {
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
