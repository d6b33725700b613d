mod common;
use common::{Net, id};
use synod_paxos::Role::{Observer, Voter};
#[test]
fn smoke() {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(300);
    net.propose(id(2), b"before");
    net.run(50);
    net.change_now(&[(1, Voter), (2, Voter), (3, Voter), (4, Observer)]);
    net.join(4);
    let slot = net.paxos(id(1)).last();
    net.until_all_applied(5000, slot);
    net.run(500);
    net.change_now(&[(1, Voter), (2, Voter), (4, Voter)]);
    net.propose(id(2), b"after");
    net.run(500);
    assert_eq!(net.node(id(4)).payloads().len(), 2);
    assert!(net.node(id(3)).removed.is_some());
}
