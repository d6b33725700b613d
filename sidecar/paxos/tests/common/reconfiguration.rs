//! Changes of the configuration: what the shells of members and a person do about them.

use synod_paxos::Role::{self, Observer, Voter};
use synod_paxos::{
    Ballot, Configuration, Entry, Epoch, Incarnation, Lane, Member, MemberId, Message, Quorums,
    ReconfigureRefused, Slot,
};

use super::disk::Disk;
use super::node::Node;
use super::{Event, MS, Net, id};

pub(crate) const THREE: [(u32, Role); 3] = [(1, Voter), (2, Voter), (3, Voter)];
pub(crate) const WITH_4: [(u32, Role); 4] = [(1, Voter), (2, Voter), (3, Voter), (4, Observer)];

/// Three voters, 1 leads.
pub(crate) fn three() -> Net {
    let mut net = Net::new(3);
    net.elect_member(id(1));
    net.run(300);
    net
}

/// The same with 4 as an observer that has all of the log.
pub(crate) fn three_and_an_observer() -> Net {
    let mut net = three();
    write(&mut net, id(1), 3);
    net.change_now(&WITH_4);
    net.join(4);
    let slot = net.paxos(id(1)).last();
    net.until_all_applied(5000, slot);
    net.run(300);
    net
}

pub(crate) fn write(net: &mut Net, member: MemberId, count: usize) {
    for _ in 0..count {
        net.propose(member, b"payload");
        net.run(2);
    }
    net.run(50);
}

pub(crate) fn epoch(net: &Net, number: u32) -> u64 {
    net.paxos(id(number)).epoch().0
}

pub(crate) fn first_ballot(epoch: u64, node: u32) -> Ballot {
    Ballot {
        epoch: Epoch(epoch),
        round: 0,
        node: id(node),
    }
}

/// The stop-sign of 1's log.
pub(crate) fn stop_sign(net: &Net) -> Entry {
    let paxos = net.paxos(id(1));
    let entry = paxos.entry(paxos.last()).cloned().expect("in memory");
    assert!(entry.reconfigures_to().is_some());
    entry
}

/// The stop-sign of 1 is on its way and 1 alone has it; the others hear nothing of it.
pub(crate) fn undecided(net: &mut Net, members: &[(u32, Role)]) {
    net.filter = Box::new(|from, _, message| {
        from != id(1) || !matches!(message, Message::Accept { .. } | Message::AcceptSync { .. })
    });
    net.change(members).expect("proposed");
    net.run(20);
    assert_eq!(epoch(net, 1), 1, "not chosen");
}

/// A member as tests number them.
pub(crate) fn member(number: u32, role: Role) -> Member {
    Member {
        id: id(number),
        name: format!("notes-{number}"),
        incarnation: Incarnation(u128::from(number) + 1000),
        role,
        region: String::new(),
    }
}

impl Net {
    /// The configuration that the leader acts in, one epoch on, with these members.
    pub(crate) fn next(&self, members: &[(u32, Role)]) -> Configuration {
        let leader = self.leader().expect("a leader");
        let paxos = self.paxos(leader);
        let mut next = Configuration {
            epoch: paxos.epoch().next(),
            members: members
                .iter()
                .map(|(it, role)| member(*it, *role))
                .collect(),
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        };
        next.first_leader = paxos.best_first_leader(&next);
        next
    }

    /// Asks `member` to change the configuration to this one.
    pub(crate) fn propose_at(
        &mut self,
        member: MemberId,
        next: &Configuration,
    ) -> Result<(), ReconfigureRefused> {
        let now = self.now(member);
        let expected = Epoch(next.epoch.0 - 1);
        let result = self.with_paxos(member, |paxos| {
            paxos.propose_configuration(now, expected, next)
        });
        self.drain(member);
        result
    }

    /// Asks the leader for these members.
    pub(crate) fn change(&mut self, members: &[(u32, Role)]) -> Result<(), ReconfigureRefused> {
        let next = self.next(members);
        let leader = self.leader().expect("a leader");
        self.propose_at(leader, &next)
    }

    /// The same, and waits until all running members of the new epoch are in it and it is settled.
    pub(crate) fn change_now(&mut self, members: &[(u32, Role)]) {
        let next = self.next(members);
        let leader = self.leader().expect("a leader");
        self.propose_at(leader, &next).expect("proposed");
        self.until(20_000, "the new epoch", |net| {
            let inside = |it: &Member| {
                let node = net.nodes.get(&it.id).and_then(|node| node.paxos.as_ref());
                node.is_none_or(|paxos| paxos.epoch() == next.epoch && paxos.old_epoch_retired())
            };
            next.members.iter().all(inside) && net.settled_leader().is_some()
        });
    }

    /// Starts a member that is in the configuration of the present leader already.
    pub(crate) fn join(&mut self, number: u32) {
        let leader = self.leader().expect("a leader");
        let configuration = self.paxos(leader).configuration().clone();
        self.join_by(number, configuration);
    }

    pub(crate) fn join_by(&mut self, number: u32, configuration: Configuration) {
        let member = configuration.member(id(number)).expect("a member").clone();
        let disk = Disk::joining(&member, &self.genesis, configuration);
        self.nodes.insert(member.id, Node::new(disk));
        self.start(member.id);
    }

    /// A member's disk is lost, and the member with it.
    pub(crate) fn lose(&mut self, number: u32) {
        if self.nodes[&id(number)].paxos.is_some() {
            self.crash(id(number));
        }
        self.nodes.remove(&id(number));
        self.stalled.remove(&id(number));
    }

    pub(super) fn reconfigured(
        &mut self,
        member: MemberId,
        slot: Slot,
        configuration: Configuration,
    ) {
        let known = self
            .configurations
            .entry(slot)
            .or_insert_with(|| configuration.clone());
        assert_eq!(*known, configuration, "I4: one configuration behind a slot");
        let node = self.nodes.get_mut(&member).expect("a member");
        assert_eq!(node.through, slot, "told in order");
        let epochs = node.configurations.iter().map(|(_, it)| it.epoch);
        assert!(epochs.max() < Some(configuration.epoch), "told once");
        let durable = node.disk.durable();
        assert!(
            durable.promised.epoch >= configuration.epoch,
            "I7: told unsynced"
        );
        node.configurations.push((slot, configuration));
        self.at(MS, Event::Relink { member });
    }

    /// Connects a member with whom it knows now.
    pub(super) fn relink(&mut self, member: MemberId) {
        let node = self.nodes.get(&member);
        let Some(paxos) = node.and_then(|node| node.paxos.as_ref()) else {
            return;
        };
        for contact in paxos.contacts() {
            let (one, two) = (member.min(contact.id), member.max(contact.id));
            let up = self
                .nodes
                .get(&contact.id)
                .is_some_and(|it| it.paxos.is_some());
            if up && !self.linked.contains(&(one, two)) {
                self.connect(member, contact.id);
            }
        }
    }

    /// All lanes between two members break and come up again.
    pub(crate) fn reset(&mut self, one: u32, two: u32) {
        for (member, peer) in [(id(one), id(two)), (id(two), id(one))] {
            let now = self.now(member);
            for lane in [Lane::Heartbeat, Lane::Log, Lane::Bulk] {
                self.with_paxos(member, |paxos| {
                    paxos.handle_connection(now, peer, lane, false);
                });
            }
        }
        self.connect(id(one), id(two));
    }
}
