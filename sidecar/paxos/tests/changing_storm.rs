//! Chance against a group whose members change all the time: added, promoted, demoted, replaced after
//! their disks are lost, removed, the leader too, while messages get lost, links are cut, members crash
//! and logs are cut behind snapshots. The network itself checks agreement at each step.

mod common;

use std::collections::BTreeSet;

use common::reconfiguration::member;
use common::{Chance, MS, Net};
use synod_paxos::{
    Boot, CommandId, Configuration, MemberId, Quorums, ReadId, ReconfigureRefused, Role, Settings,
    Slot,
};

struct Weather {
    voters: usize,
    loss: u64,
    reorder_ms: u64,
    cuts: bool,
    snapshots: bool,
}

struct Storm {
    net: Net,
    chance: Chance,
    /// Numbers given so far.
    numbers: u32,
    /// Members whose disks are gone.
    lost: BTreeSet<MemberId>,
    commands: Vec<(MemberId, Boot, CommandId)>,
    /// Each with the highest slot of a command that was done when it began.
    reads: Vec<(MemberId, ReadId, Slot)>,
    changes: u64,
}

impl Storm {
    fn new(seed: u64, weather: &Weather) -> Self {
        let settings = Settings {
            max_message_bytes: 700,
            cache_bytes: 2000,
            ..Settings::default()
        };
        let roles = vec![Role::Voter; weather.voters];
        let mut net = Net::with(&roles, Quorums::Majority, settings);
        net.chance = Chance(seed + 1_000_000);
        net.loss = weather.loss;
        net.reorder_ns = weather.reorder_ms * MS;
        net.fetches = true;
        Self {
            net,
            chance: Chance(seed),
            numbers: weather.voters as u32,
            lost: BTreeSet::new(),
            commands: Vec::new(),
            reads: Vec::new(),
            changes: 0,
        }
    }

    fn pick(&mut self) -> MemberId {
        let members = self.net.members();
        members[self.chance.below(members.len() as u64) as usize]
    }

    /// The latest configuration that anybody has ever entered.
    fn configuration(&self) -> Configuration {
        let latest = self.net.configurations.values().next_back();
        latest.unwrap_or(&self.net.genesis.configuration).clone()
    }

    /// Whoever leads is asked for another configuration: one step away from the last.
    fn change(&mut self) {
        let Some(leader) = self.net.leader() else {
            return;
        };
        // Nobody can know at once who is gone.
        let peers = self.net.paxos(leader).status().peers;
        if peers
            .iter()
            .any(|it| it.heard && self.lost.contains(&it.member))
        {
            return;
        }
        let current = self.net.paxos(leader).configuration().clone();
        let mut next = self.net.next(&[]);
        next.members.clone_from(&current.members);
        let at = self.chance.below(next.members.len() as u64) as usize;
        let lost = next
            .members
            .iter()
            .position(|it| self.lost.contains(&it.id));
        match self.chance.below(6) {
            0 | 1 if next.members.len() < 6 => {
                let role = if self.chance.below(4) == 0 {
                    Role::Witness
                } else {
                    Role::Observer
                };
                next.members.push(member(self.numbers + 1, role));
            }
            0 | 1 => {
                next.members.remove(lost.unwrap_or(at));
            }
            2 => next.members[at].role = Role::Voter,
            3 => next.members[at].role = Role::Observer,
            // Old out, new in.
            _ => {
                let out = next.members.remove(lost.unwrap_or(at));
                let observer = next.members.iter().position(|it| it.role == Role::Observer);
                if out.role == Role::Witness {
                    next.members.push(member(self.numbers + 1, out.role));
                } else if let Some(observer) = observer.filter(|_| out.role.votes()) {
                    next.members[observer].role = out.role;
                }
            }
        }
        next.first_leader = match self.chance.below(4) {
            0 => MemberId(0),
            1 => next.voters().last().unwrap_or_default(),
            _ => self.net.paxos(leader).best_first_leader(&next),
        };
        match self.net.propose_at(leader, &next) {
            Ok(()) => {
                self.changes += 1;
                let numbers = next.members.iter().map(|it| it.id.0);
                self.numbers = numbers.max().unwrap_or(0).max(self.numbers);
            }
            Err(ReconfigureRefused::Epoch { .. } | ReconfigureRefused::NotLeader { .. }) => {
                unreachable!("the leader was asked, of its own epoch")
            }
            Err(_) => {}
        }
    }

    /// Members that were added come; those that were removed and are not needed any more go.
    fn plan(&mut self) {
        let configuration = self.configuration();
        for it in &configuration.members {
            let new = !self.net.nodes.contains_key(&it.id) && !self.lost.contains(&it.id);
            if new && self.chance.below(2) == 0 {
                self.net.join_by(it.id.0, configuration.clone());
            }
        }
        let all = self.net.nodes.values();
        let mut running = all.filter_map(|node| node.paxos.as_ref());
        let retired =
            running.any(|paxos| paxos.epoch() == configuration.epoch && paxos.old_epoch_retired());
        let gone = |it: &MemberId| configuration.member(*it).is_none();
        for member in self.net.members().into_iter().filter(gone) {
            if retired && self.chance.below(2) == 0 {
                self.net.lose(member.0);
                self.lost.insert(member);
            }
        }
    }

    /// A disk is lost, if the rest can do without.
    fn lose(&mut self) {
        let Some(leader) = self.net.settled_leader() else {
            return;
        };
        let paxos = self.net.paxos(leader);
        let configuration = paxos.configuration();
        let voters = configuration.voters().count();
        let in_use = |it: &MemberId| configuration.member(*it).is_some();
        // A change under way may rest on that very member, or one that was once proposed and comes back.
        let end = paxos.entry(paxos.last());
        let changing = end.is_some_and(|it| it.reconfigures_to().is_some());
        let own = paxos.ballot_at(paxos.commit()) == Some(paxos.promised());
        let latest = self.configuration() == *configuration;
        let steady = own && latest && !changing && paxos.old_epoch_retired();
        if !steady || voters < 3 || self.lost.iter().any(in_use) {
            return;
        }
        let member = self.pick();
        if member != leader
            && self
                .net
                .paxos(leader)
                .configuration()
                .member(member)
                .is_some()
        {
            self.net.lose(member.0);
            self.lost.insert(member);
        }
    }

    fn step(&mut self, step: u64, weather: &Weather) {
        let member = self.pick();
        let up = self.net.node(member).paxos.is_some();
        match self.chance.below(24) {
            0 if up && self.net.members().len() > 1 => self.net.crash(member),
            0..=2 if !up => self.net.start(member),
            1 if weather.cuts => {
                let other = self.pick();
                self.net.cuts.insert((member, other));
            }
            2 | 3 if weather.cuts => self.net.cuts.clear(),
            4 if self.net.stalled.contains(&member) => {
                self.net.stalled.remove(&member);
            }
            4 => {
                self.net.stalled.insert(member);
            }
            5 if up && self.net.leader() == Some(member) => self.net.transfer(None),
            6 | 7 if up && weather.snapshots => {
                let base = self.net.paxos(member).base().slot;
                let through = self.net.node(member).through;
                let kept = self.chance.below(5);
                if through.0 > base.0 + kept {
                    self.net.compact(member, Slot(through.0 - kept));
                }
            }
            8..=11 => self.change(),
            12 => self.plan(),
            13 => self.lose(),
            14 | 15 if up => {
                let done = self.highest_done();
                let read = self.net.read(member, 10_000 + step);
                self.reads.push((member, read, done));
            }
            _ if up => {
                let size = self.chance.below(300) as usize;
                if let Ok(id) = self.net.try_propose(member, &vec![step as u8; size]) {
                    let boot = self.net.paxos(member).boot();
                    self.commands.push((member, boot, id));
                }
            }
            _ => {}
        }
        let ms = self.chance.below(40);
        self.net.run(ms);
    }

    fn highest_done(&self) -> Slot {
        let done = self.commands.iter().filter_map(|(member, _, id)| {
            let node = self.net.nodes.get(member)?;
            node.slot_of(*id)
        });
        done.max().unwrap_or_default()
    }

    /// All must be well within a few election timeouts.
    fn end(&mut self) {
        for (member, read, done) in &self.reads {
            let node = self.net.nodes.get(member);
            if let Some(index) = node.and_then(|node| node.ready.get(read)) {
                assert!(index >= done, "I9: a read index below a finished write");
            }
        }
        self.net.heal();
        self.net.stalled.clear();
        self.net.loss = 0;
        self.net.reorder_ns = 0;
        for member in self.net.members() {
            if self.net.node(member).paxos.is_none() {
                self.net.start(member);
            }
        }
        for _ in 0..20 {
            self.plan();
            self.net.run(200);
        }
        self.net
            .until(30_000, "a leader", |net| net.settled_leader().is_some());
        let leader = self.net.leader().expect("a leader");
        let last = self.net.propose(leader, b"after the storm");
        self.net.until(30_000, "the last command", |net| {
            net.node(leader).slot_of(last).is_some() || net.leader() != Some(leader)
        });
        let slot = self.net.paxos(leader).commit();
        let configuration = self.configuration();
        let lost = self.lost.clone();
        self.net.until(30_000, "apply everywhere", |net| {
            configuration.members.iter().all(|it| {
                lost.contains(&it.id)
                    || net.nodes.get(&it.id).is_some_and(|node| {
                        let paxos = node.paxos.as_ref();
                        node.through >= slot
                            && paxos.is_some_and(|it| it.epoch() == configuration.epoch)
                    })
            })
        });
        // Whoever is still in the group sees all its commands chosen.
        let commands = std::mem::take(&mut self.commands);
        self.net.until(60_000, "the fate of all commands", |net| {
            commands.iter().all(|(member, boot, id)| {
                let node = net
                    .nodes
                    .get(member)
                    .filter(|_| configuration.member(*member).is_some());
                let paxos = node.and_then(|node| node.paxos.as_ref());
                paxos.is_none_or(|paxos| {
                    paxos.boot() != *boot || net.node(*member).slot_of(*id).is_some()
                })
            })
        });
        assert!(self.net.nodes.values().all(|node| !node.forgetful));
    }
}

/// Runs one storm; says how often the members changed, and how many snapshots were installed.
fn storm(seed: u64, weather: &Weather) -> (usize, u64) {
    let mut storm = Storm::new(seed, weather);
    storm.net.elect();
    storm.net.run(300);
    for step in 0..500 {
        storm.step(step, weather);
    }
    storm.end();
    (storm.net.configurations.len(), storm.net.installed)
}

/// `SYNOD_STORMS` multiplies the number of storms.
fn seeds(first: u64, count: u64) -> impl Iterator<Item = u64> {
    let times = std::env::var("SYNOD_STORMS").map_or(1, |times| times.parse().unwrap_or(1));
    (0..count * times).map(move |seed| first + seed)
}

#[test]
fn agreement_holds_while_members_change_in_fair_weather() {
    let mut changes = 0;
    for seed in seeds(0, 20) {
        let weather = Weather {
            voters: 1 + (seed % 4) as usize,
            loss: 0,
            reorder_ms: 0,
            cuts: false,
            snapshots: seed % 2 == 0,
        };
        changes += storm(seed, &weather).0;
    }
    assert!(changes > 100, "members hardly changed: {changes}");
}

#[test]
fn agreement_holds_while_members_change_in_foul_weather() {
    let (mut changes, mut installed) = (0, 0);
    for seed in seeds(100, 60) {
        let weather = Weather {
            voters: 1 + (seed % 4) as usize,
            loss: seed % 5 * 20,
            reorder_ms: seed % 7 * 3,
            cuts: seed % 3 != 0,
            snapshots: seed % 4 != 0,
        };
        let (more, snapshots) = storm(seed, &weather);
        changes += more;
        installed += snapshots;
    }
    assert!(changes > 100, "members hardly changed: {changes}");
    assert!(
        installed > 10,
        "hardly any snapshot was needed: {installed}"
    );
}
