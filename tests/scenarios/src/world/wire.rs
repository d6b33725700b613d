//! What is on its way between members. Nothing arrives unless it is delivered; heartbeats, which would
//! drown everything else, arrive at once and in silence wherever there is a way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_paxos::{Boot, Envelope, Lane, Message};

use super::World;
use crate::print;
use crate::words::Wrong;

/// Heartbeats that cause heartbeats without an end.
const BEATS: usize = 100_000;

/// All links, one way each.
#[derive(Default)]
pub(super) struct Wire {
    links: BTreeMap<(u32, u32), VecDeque<Parcel>>,
    /// What is sent here is lost.
    cut: BTreeSet<(u32, u32)>,
    /// What is sent here waits until it is delivered by name. Heartbeats have a connection of their own.
    held: BTreeSet<(u32, u32)>,
    /// Members that have taken each other's hellos; the lower number first.
    pub(super) linked: BTreeSet<(u32, u32)>,
    beats: VecDeque<(u32, u32, Envelope)>,
}

/// A message on its way.
#[derive(Clone)]
struct Parcel {
    envelope: Envelope,
    /// The start of the receiver that it was sent to.
    boot: Boot,
}

// === sending ===

impl World {
    pub(super) fn transmit(&mut self, from: u32, to: u32, message: Message) {
        let Some(receiver) = self.process(to) else {
            return;
        };
        let boot = receiver.paxos.boot();
        let Ok(sender) = self.paxos(from) else {
            return;
        };
        let envelope = sender.envelope(self.hosts[&to].member.id, message);
        if let Some((ballot, slot)) = print::vote(&envelope.message) {
            self.votes.push((from, ballot, slot));
        }
        self.check_synced(from, &envelope.message);
        let is_linked = self.wire.linked.contains(&(from.min(to), from.max(to)));
        if self.wire.cut.contains(&(from, to)) || !is_linked {
            return;
        }
        if matches!(envelope.message, Message::Heartbeat(_)) {
            self.wire.beats.push_back((from, to, envelope));
            return;
        }
        let link = self.wire.links.entry((from, to)).or_default();
        link.push_back(Parcel { envelope, boot });
    }

    /// Lets all heartbeats arrive that can.
    pub(super) fn beat(&mut self) {
        let mut later = VecDeque::new();
        for _ in 0..BEATS {
            let Some((from, to, envelope)) = self.wire.beats.pop_front() else {
                self.wire.beats = later;
                return;
            };
            let Some(host) = self.hosts.get(&to).filter(|it| it.process.is_some()) else {
                continue;
            };
            if host.paused || host.frozen_ns.is_some() {
                later.push_back((from, to, envelope));
            } else {
                self.arrive(to, envelope);
            }
        }
        self.checks
            .found("heartbeats cause heartbeats without an end".to_owned());
    }

    /// Whatever waits for those that stand still is lost.
    pub(super) fn drop_beats(&mut self) {
        self.wire.beats.clear();
    }

    fn arrive(&mut self, to: u32, envelope: Envelope) {
        let now = self.now_at(to);
        let from = envelope.from;
        if let Ok(process) = self.running(to) {
            process.paxos.handle_message(now, from, envelope);
            self.settle(to);
        }
    }
}

// === delivering ===

impl World {
    /// Delivers what is on a link: all of it, so many, or the first of a kind.
    pub(crate) fn deliver(&mut self, from: u32, to: u32, which: Option<&str>) -> Result<(), Wrong> {
        let waiting = self.wire.links.get(&(from, to)).map_or(0, VecDeque::len);
        if self.host(to)?.paused {
            return Err(format!("{to} is paused"));
        }
        let parcels = match which {
            None => waiting,
            Some(which) => {
                let Ok(number) = which.parse() else {
                    let parcel = self.take_one(from, to, which)?;
                    self.hand_in(from, to, parcel);
                    return Ok(());
                };
                number
            }
        };
        if parcels == 0 || parcels > waiting {
            return Err(format!("{waiting} messages are on their way {from}->{to}"));
        }
        for _ in 0..parcels {
            let link = self.wire.links.get_mut(&(from, to));
            if let Some(parcel) = link.and_then(VecDeque::pop_front) {
                self.hand_in(from, to, parcel);
            }
        }
        Ok(())
    }

    fn take_one(&mut self, from: u32, to: u32, kind: &str) -> Result<Parcel, Wrong> {
        let link = self.wire.links.entry((from, to)).or_default();
        let of_kind = |it: &Parcel| print::kind(&it.envelope.message) == kind;
        let at = link.iter().position(of_kind);
        let parcel = at.and_then(|at| link.remove(at));
        parcel.ok_or_else(|| format!("no {kind} is on its way {from}->{to}"))
    }

    fn hand_in(&mut self, from: u32, to: u32, parcel: Parcel) {
        let kind = print::kind(&parcel.envelope.message);
        let boot = self.process(to).map(|it| it.paxos.boot());
        if boot != Some(parcel.boot) {
            return;
        }
        self.say(format!("{from} -> {to}: {kind}"));
        self.within(|world| {
            world.arrive(to, parcel.envelope);
            world.beat();
        });
    }

    /// One hop: all that is on its way now, but on links that are held. Whether there was anything.
    pub(crate) fn deliver_all(&mut self) -> bool {
        let is_open = |world: &Self, link: &(u32, u32)| {
            let paused = world.hosts.get(&link.1).is_some_and(|it| it.paused);
            !paused && !world.wire.held.contains(link) && !world.wire.cut.contains(link)
        };
        let links: Vec<((u32, u32), usize)> = self
            .wire
            .links
            .iter()
            .filter(|(link, parcels)| !parcels.is_empty() && is_open(self, link))
            .map(|(link, parcels)| (*link, parcels.len()))
            .collect();
        for (link, parcels) in &links {
            for _ in 0..*parcels {
                let waiting = self.wire.links.get_mut(link);
                if let Some(parcel) = waiting.and_then(VecDeque::pop_front) {
                    self.hand_in(link.0, link.1, parcel);
                }
            }
        }
        !links.is_empty()
    }

    /// Loses what is on a link: all of it, or the first of a kind.
    pub(crate) fn lose(&mut self, from: u32, to: u32, kind: Option<&str>) -> Result<(), Wrong> {
        if let Some(kind) = kind {
            self.take_one(from, to, kind)?;
            return Ok(());
        }
        let lost = self.wire.links.remove(&(from, to)).unwrap_or_default();
        if lost.is_empty() {
            return Err(format!("nothing is on its way {from}->{to}"));
        }
        Ok(())
    }

    /// The first message of a kind comes twice.
    pub(crate) fn duplicate(&mut self, from: u32, to: u32, kind: &str) -> Result<(), Wrong> {
        let parcel = self.take_one(from, to, kind)?;
        let link = self.wire.links.entry((from, to)).or_default();
        link.push_front(parcel.clone());
        link.push_back(parcel);
        Ok(())
    }

    /// What is on its way, for people.
    pub(crate) fn show_wire(&mut self) {
        let mut lines = Vec::new();
        for ((from, to), parcels) in &self.wire.links {
            for parcel in parcels {
                let text = print::message(&parcel.envelope.message);
                lines.push(format!("{from} -> {to}: {text}"));
            }
        }
        if lines.is_empty() {
            lines.push("nothing is on its way".to_owned());
        }
        for line in lines {
            self.tell(line);
        }
    }

    /// Whether such a message is on its way.
    pub(super) fn is_on_wire(&self, from: u32, to: u32, kind: &str) -> bool {
        let link = self.wire.links.get(&(from, to));
        link.is_some_and(|it| {
            it.iter()
                .any(|it| print::kind(&it.envelope.message) == kind)
        })
    }
}

// === links ===

impl World {
    /// What is sent from here on is lost. What is on its way already waits until it is delivered by name.
    pub(crate) fn cut(&mut self, from: u32, to: u32) {
        self.wire.cut.insert((from, to));
    }

    /// What is sent waits.
    pub(crate) fn hold(&mut self, from: u32, to: u32) {
        self.wire.held.insert((from, to));
    }

    /// Links work again: connections come up anew where they were cut.
    pub(crate) fn heal(&mut self, links: Option<&[(u32, u32)]>) {
        let is_meant = |link: &(u32, u32)| links.is_none_or(|links| links.contains(link));
        let healed: BTreeSet<(u32, u32)> = self
            .wire
            .cut
            .iter()
            .filter(|link| is_meant(link))
            .map(|(from, to)| (*from.min(to), *from.max(to)))
            .collect();
        self.wire.cut.retain(|link| !is_meant(link));
        self.wire.held.retain(|link| !is_meant(link));
        for (one, two) in healed {
            let is_cut = |from, to| self.wire.cut.contains(&(from, to));
            if !is_cut(one, two) && !is_cut(two, one) {
                self.wire.linked.remove(&(one, two));
                self.connect(one, two);
            }
        }
        self.beat();
    }

    /// Both say hello, and the lanes come up if both are content.
    pub(super) fn connect(&mut self, one: u32, two: u32) {
        let is_cut = |from, to| self.wire.cut.contains(&(from, to));
        let linked = self.wire.linked.contains(&(one.min(two), one.max(two)));
        let up = self.process(one).is_some() && self.process(two).is_some();
        if !up || linked || is_cut(one, two) || is_cut(two, one) {
            return;
        }
        for (from, to) in [(one, two), (two, one)] {
            let Ok(hello) = self.paxos(from).map(synod_paxos::Paxos::hello) else {
                return;
            };
            let now = self.now_at(to);
            let Ok(process) = self.running(to) else {
                return;
            };
            if let Err(refusal) = process.paxos.handle_hello(now, &hello) {
                self.tell(format!("{to} refuses {from}: {refusal}"));
                let now = self.now_at(from);
                let by = self.hosts[&to].member.id;
                if let Ok(process) = self.running(from) {
                    process.paxos.handle_hello_refused(now, by, refusal);
                }
                self.settle(from);
                self.settle(to);
                return;
            }
        }
        self.wire.linked.insert((one.min(two), one.max(two)));
        for (member, peer) in [(one, two), (two, one)] {
            self.lanes(member, peer, true);
        }
        self.settle(one);
        self.settle(two);
    }

    /// All lanes of a member to a peer come up or break.
    pub(super) fn lanes(&mut self, member: u32, peer: u32, up: bool) {
        let now = self.now_at(member);
        let peer = self.hosts[&peer].member.id;
        if let Ok(process) = self.running(member) {
            for lane in [Lane::Heartbeat, Lane::Log, Lane::Bulk] {
                process.paxos.handle_connection(now, peer, lane, up);
            }
        }
    }

    /// A process is gone: what was on its way to it is lost, and its peers see that.
    pub(super) fn hang_up(&mut self, member: u32) {
        self.wire.links.retain(|(_, to), _| *to != member);
        let (linked, kept) = std::mem::take(&mut self.wire.linked)
            .into_iter()
            .partition(|(one, two)| *one == member || *two == member);
        let linked: BTreeSet<(u32, u32)> = linked;
        self.wire.linked = kept;
        for (one, two) in linked {
            let peer = if one == member { two } else { one };
            let sees = !self.wire.cut.contains(&(member, peer));
            if sees && self.process(peer).is_some() {
                self.lanes(peer, member, false);
                self.settle(peer);
            }
        }
    }
}

impl World {
    /// Both ways are open.
    pub(super) fn is_open(&self, one: u32, two: u32) -> bool {
        let is_cut = |from, to| self.wire.cut.contains(&(from, to));
        !is_cut(one, two) && !is_cut(two, one)
    }
}
