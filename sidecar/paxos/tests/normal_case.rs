//! Scenarios of the normal case: rules P1-P6.

mod common;

use common::{Net, id};

#[test]
fn a_group_of_one_leads_and_commits_at_once() {
    let mut net = Net::new(1);
    net.until(10, "a leader", |net| net.leader().is_some());
    let command = net.propose(id(1), b"one");
    net.until(10, "its slot", |net| {
        net.node(id(1)).slot_of(command).is_some()
    });
    assert_eq!(net.node(id(1)).payloads(), ["one"]);
}

#[test]
fn three_members_elect_a_leader_and_agree_on_commands_of_all() {
    let mut net = Net::new(3);
    net.elect();
    let commands: Vec<_> = (0..30)
        .map(|n: u32| {
            let member = id(n % 3 + 1);
            net.run(1);
            (member, net.propose(member, &n.to_le_bytes()))
        })
        .collect();
    net.until(1000, "all slots", |net| {
        commands
            .iter()
            .all(|(member, command)| net.node(*member).slot_of(*command).is_some())
    });
    let last = net.paxos(net.leader().unwrap()).last();
    net.until_all_applied(1000, last);
    let payloads = net.node(id(1)).payloads();
    assert_eq!(payloads.len(), 30);
    for member in net.members() {
        assert_eq!(net.node(member).payloads(), payloads);
    }
}
