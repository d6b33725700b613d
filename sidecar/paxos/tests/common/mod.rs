//! A small group under virtual time: members with disks that lose what is not synced, links with a
//! constant delay that can be cut or filtered. Deterministic. Checks agreement at each step.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod chance;
pub(crate) mod disk;
pub(crate) mod node;
pub(crate) mod reconfiguration;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
pub(crate) use chance::Chance;
use disk::Disk;
use node::Node;
pub(crate) use node::kind;
use synod_paxos::{
    Ballot, Boot, Command, CommandId, CommandKind, Configuration, Entry, EntryHash, Envelope,
    Epoch, Genesis, GroupId, HelloRefusal, Incarnation, Io, Lane, Member, MemberId, Message, Now,
    Output, Paxos, ProposeRefused, Quorums, ReadId, Role, Settings, Slot, Standing, Ticket,
};

pub(crate) const MS: u64 = 1_000_000;
const WALL_NS: u64 = 1_700_000_000_000_000_000;

/// Decides which messages arrive.
pub(crate) type Filter = Box<dyn Fn(MemberId, MemberId, &Message) -> bool>;

pub(crate) struct Net {
    pub(crate) now_ns: u64,
    pub(crate) delay_ns: u64,
    pub(crate) sync_ns: u64,
    /// By member: how long it takes to read entries back, if not the usual time.
    pub(crate) load_ns: BTreeMap<MemberId, u64>,
    /// By member: how far its wall clock is off.
    pub(crate) wall_offset_ns: BTreeMap<MemberId, i64>,
    /// By member: how gladly it leads from its next start on, if not as the settings say.
    pub(crate) preferences: BTreeMap<MemberId, u32>,
    /// By member: its disk does not answer.
    pub(crate) stalled: BTreeSet<MemberId>,
    pub(crate) cuts: BTreeSet<(MemberId, MemberId)>,
    /// Messages take up to so much longer, by chance, and overtake each other.
    pub(crate) reorder_ns: u64,
    /// So many of 1000 messages are lost, and as many come twice.
    pub(crate) loss: u64,
    /// Agreement is checked; off where members are lied to.
    pub(crate) agreement: bool,
    pub(crate) chance: Chance,
    pub(crate) filter: Filter,
    pub(crate) genesis: Genesis,
    pub(crate) settings: Settings,
    pub(crate) nodes: BTreeMap<MemberId, Node>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    /// Members get the snapshots that they ask for, from whoever has one.
    pub(crate) fetches: bool,
    without_hellos: bool,
    /// Snapshots that took the place of logs.
    pub(crate) installed: u64,
    /// Pairs of members that have taken each other's hellos, the lower number first.
    linked: BTreeSet<(MemberId, MemberId)>,
    /// Told by any member, by the slots of their stop-signs.
    pub(crate) configurations: BTreeMap<Slot, Configuration>,
    /// By member: the highest protocol of its program, if not the settings'.
    pub(crate) programs: BTreeMap<MemberId, u32>,
    values: BTreeMap<(Ballot, Slot), EntryHash>,
    chosen: BTreeMap<Slot, EntryHash>,
    /// The same, whole: what a snapshot would hold.
    pub(crate) history: BTreeMap<Slot, Entry>,
    /// By sender, receiver and kind: the most bytes of entries and commands sent at one step.
    pub(crate) bursts: BTreeMap<(MemberId, MemberId, &'static str), u64>,
    burst: BTreeMap<(MemberId, MemberId, &'static str), u64>,
    /// Messages delivered, by kind.
    pub(crate) delivered: BTreeMap<&'static str, u64>,
}

pub(crate) enum Event {
    Deliver {
        to: MemberId,
        boot: Boot,
        envelope: Envelope,
    },
    Synced {
        member: MemberId,
        boot: Boot,
        io: Io,
    },
    Fetched {
        member: MemberId,
        boot: Boot,
        at_least: Slot,
    },
    Relink {
        member: MemberId,
    },
    Loaded {
        member: MemberId,
        boot: Boot,
        ticket: Ticket,
        from: Slot,
        through: Slot,
        max_bytes: u64,
    },
}

pub(crate) fn id(number: u32) -> MemberId {
    MemberId(number)
}

pub(crate) fn genesis(roles: &[Role], quorums: Quorums) -> Genesis {
    let members = roles
        .iter()
        .zip(1..)
        .map(|(role, number)| Member {
            id: MemberId(number),
            name: format!("notes-{number}"),
            incarnation: Incarnation(u128::from(number) + 1000),
            role: *role,
            region: String::new(),
        })
        .collect();
    Genesis {
        group: GroupId([7; 16]),
        configuration: Configuration {
            epoch: Epoch(1),
            members,
            quorums,
            first_leader: MemberId(0),
        },
        policy: Bytes::new(),
        protocol: 2,
        initial_state: Bytes::new(),
    }
}

impl Net {
    pub(crate) fn new(members: usize) -> Self {
        Self::with(
            &vec![Role::Voter; members],
            Quorums::Majority,
            Settings::default(),
        )
    }

    /// Voters of a group that began with this protocol.
    pub(crate) fn at_protocol(members: usize, protocol: u32) -> Self {
        let mut genesis = genesis(&vec![Role::Voter; members], Quorums::Majority);
        genesis.protocol = protocol;
        Self::of(genesis, Settings::default())
    }

    pub(crate) fn with(roles: &[Role], quorums: Quorums, settings: Settings) -> Self {
        Self::of(genesis(roles, quorums), settings)
    }

    pub(crate) fn of(genesis: Genesis, settings: Settings) -> Self {
        let mut net = Self {
            now_ns: MS,
            delay_ns: MS / 10,
            sync_ns: MS / 5,
            load_ns: BTreeMap::new(),
            wall_offset_ns: BTreeMap::new(),
            preferences: BTreeMap::new(),
            stalled: BTreeSet::new(),
            cuts: BTreeSet::new(),
            reorder_ns: 0,
            loss: 0,
            agreement: true,
            chance: Chance(1),
            filter: Box::new(|_, _, _| true),
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            fetches: false,
            without_hellos: false,
            installed: 0,
            linked: BTreeSet::new(),
            configurations: BTreeMap::new(),
            programs: BTreeMap::new(),
            values: BTreeMap::new(),
            chosen: BTreeMap::new(),
            history: BTreeMap::new(),
            bursts: BTreeMap::new(),
            burst: BTreeMap::new(),
            delivered: BTreeMap::new(),
            settings,
            genesis,
        };
        for member in net.genesis.configuration.members.clone() {
            let disk = Disk::new(&member, &net.genesis);
            net.nodes.insert(member.id, Node::new(disk));
        }
        for member in net.members() {
            net.start(member);
        }
        net
    }

    pub(crate) fn members(&self) -> Vec<MemberId> {
        self.nodes.keys().copied().collect()
    }

    pub(crate) fn node(&self, member: MemberId) -> &Node {
        &self.nodes[&member]
    }

    pub(crate) fn paxos(&self, member: MemberId) -> &Paxos {
        self.nodes[&member].paxos.as_ref().expect("it runs")
    }

    pub(crate) fn now(&self, member: MemberId) -> Now {
        let offset = self.wall_offset_ns.get(&member).copied().unwrap_or(0);
        Now {
            mono_ns: self.now_ns,
            wall_ns: (WALL_NS + self.now_ns).saturating_add_signed(offset),
        }
    }

    /// Starts a member from what its disk holds. Says hello in both directions.
    pub(crate) fn start(&mut self, member: MemberId) {
        let now = self.now(member);
        let protocol_max = self.protocol_max(member);
        let node = self.nodes.get_mut(&member).expect("a member");
        assert!(node.paxos.is_none(), "it runs already");
        let recovered = node.disk.restart();
        let seed = recovered.boot.0 * 1000 + u64::from(member.0);
        let preference = self.preferences.get(&member);
        let settings = Settings {
            preference: preference.copied().unwrap_or(self.settings.preference),
            protocol_max,
            ..self.settings.clone()
        };
        let paxos = Paxos::new(settings, recovered, now, seed).expect("it starts");
        let base = paxos.base().slot;
        *node = Node {
            through: base,
            applied: self
                .history
                .range(..=base)
                .map(|(slot, entry)| (*slot, entry.clone()))
                .collect(),
            paxos: Some(paxos),
            forgetful: false,
            ..Node::new(std::mem::replace(&mut node.disk, Disk::empty()))
        };
        for peer in self.members() {
            let up = peer != member && self.nodes[&peer].paxos.is_some();
            if up && !self.without_hellos {
                self.connect(member, peer);
            }
        }
        self.drain(member);
    }

    /// Both say hello; on success all lanes come up.
    pub(crate) fn connect(&mut self, one: MemberId, two: MemberId) {
        let hellos = [(one, two), (two, one)].map(|(from, to)| {
            let hello = self.paxos(from).hello();
            let now = self.now(to);
            self.with_paxos(to, |paxos| paxos.handle_hello(now, &hello))
        });
        for ((from, to), result) in [(one, two), (two, one)].into_iter().zip(hellos) {
            if let Err(refusal) = result {
                self.refused(from, to, refusal);
                return;
            }
        }
        self.linked.insert((one.min(two), one.max(two)));
        for (member, peer) in [(one, two), (two, one)] {
            let now = self.now(member);
            for lane in [Lane::Heartbeat, Lane::Log, Lane::Bulk] {
                self.with_paxos(member, |paxos| {
                    paxos.handle_connection(now, peer, lane, true);
                });
            }
        }
        self.drain(one);
        self.drain(two);
    }

    fn refused(&mut self, member: MemberId, by: MemberId, refusal: HelloRefusal) {
        let now = self.now(member);
        self.with_paxos(member, |paxos| {
            paxos.handle_hello_refused(now, by, refusal);
        });
        self.drain(member);
    }

    /// Kills a member: what was not synced is lost, its connections are reset.
    pub(crate) fn crash(&mut self, member: MemberId) {
        let node = self.nodes.get_mut(&member).expect("a member");
        node.paxos = None;
        node.disk.crash();
        let knew = |paxos: &Paxos| paxos.contacts().iter().any(|it| it.id == member);
        self.linked
            .retain(|(one, two)| *one != member && *two != member);
        for peer in self.members() {
            if peer != member && self.nodes[&peer].paxos.as_ref().is_some_and(knew) {
                let now = self.now(peer);
                for lane in [Lane::Heartbeat, Lane::Log, Lane::Bulk] {
                    self.with_paxos(peer, |paxos| {
                        paxos.handle_connection(now, member, lane, false);
                    });
                }
                self.drain(peer);
            }
        }
    }

    pub(crate) fn restart(&mut self, member: MemberId) {
        if self.nodes[&member].paxos.is_some() {
            self.crash(member);
        }
        self.start(member);
    }

    pub(crate) fn cut(&mut self, one: u32, two: u32) {
        self.cuts.insert((id(one), id(two)));
        self.cuts.insert((id(two), id(one)));
    }

    pub(crate) fn isolate(&mut self, member: MemberId) {
        for peer in self.members() {
            if peer != member {
                self.cut(member.0, peer.0);
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.filter = Box::new(|_, _, _| true);
    }

    pub(crate) fn with_paxos<T>(&mut self, member: MemberId, f: impl FnOnce(&mut Paxos) -> T) -> T {
        let node = self.nodes.get_mut(&member).expect("a member");
        f(node.paxos.as_mut().expect("it runs"))
    }

    /// Proposes a command at a member.
    pub(crate) fn propose(&mut self, member: MemberId, payload: &[u8]) -> CommandId {
        self.try_propose(member, payload).expect("taken")
    }

    pub(crate) fn try_propose(
        &mut self,
        member: MemberId,
        payload: &[u8],
    ) -> Result<CommandId, ProposeRefused> {
        let now = self.now(member);
        let node = self.nodes.get_mut(&member).expect("a member");
        let paxos = node.paxos.as_mut().expect("it runs");
        node.sequence += 1;
        let id = CommandId {
            member,
            boot: paxos.boot(),
            sequence: node.sequence,
        };
        let command = Command {
            kind: CommandKind::REQUEST,
            id,
            floor: 0,
            payload: Bytes::copy_from_slice(payload),
        };
        paxos.propose(now, command)?;
        self.drain(member);
        Ok(id)
    }

    pub(crate) fn read(&mut self, member: MemberId, number: u64) -> ReadId {
        let now = self.now(member);
        let id = ReadId(number);
        self.with_paxos(member, |paxos| paxos.read(now, id));
        self.drain(member);
        id
    }

    pub(crate) fn transfer(&mut self, to: Option<MemberId>) {
        let leader = self.leader().expect("a leader");
        let now = self.now(leader);
        self.with_paxos(leader, |paxos| paxos.transfer(now, to));
        self.drain(leader);
    }

    /// Hands a message to a member as if it came from `from`.
    pub(crate) fn inject(&mut self, from: MemberId, to: MemberId, message: Message) {
        let envelope = Envelope {
            group: self.genesis.group,
            from,
            from_incarnation: Incarnation(u128::from(from.0) + 1000),
            to_incarnation: Incarnation(u128::from(to.0) + 1000),
            message,
        };
        let now = self.now(to);
        self.with_paxos(to, |paxos| paxos.handle_message(now, from, envelope));
        self.drain(to);
    }

    /// The one leader whose ballot is greatest, if any leads.
    pub(crate) fn leader(&self) -> Option<MemberId> {
        self.nodes
            .iter()
            .filter_map(|(member, node)| Some((*member, node.paxos.as_ref()?)))
            .filter(|(_, paxos)| paxos.standing() == Standing::Leader)
            .max_by_key(|(_, paxos)| paxos.promised())
            .map(|(member, _)| member)
    }

    /// A leader that a quorum follows.
    pub(crate) fn settled_leader(&self) -> Option<MemberId> {
        self.leader()
            .filter(|leader| self.paxos(*leader).status().healthy)
    }

    pub(crate) fn elect(&mut self) -> MemberId {
        self.until(5_000, "a leader", |net| net.settled_leader().is_some());
        self.leader().expect("a leader")
    }

    /// Makes this member lead.
    pub(crate) fn elect_member(&mut self, member: MemberId) {
        self.elect();
        for _ in 0..10 {
            if self.leader() == Some(member) {
                return;
            }
            self.transfer(Some(member));
            self.run(500);
        }
        assert_eq!(self.settled_leader(), Some(member));
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, ms: u64) {
        let end = self.now_ns + ms * MS;
        while self.step(end) {}
        self.now_ns = end;
    }

    /// Lets time pass until something is so.
    pub(crate) fn until(&mut self, limit_ms: u64, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.now_ns + limit_ms * MS;
        while !done(self) {
            if !self.step(end) {
                for (member, node) in &self.nodes {
                    if let Some(paxos) = &node.paxos {
                        eprintln!("{member}: through {} {:?}", node.through, paxos.status());
                        eprintln!("needed {:?} installed {:?}", node.needed, node.installed);
                    }
                }
                panic!("{what} did not come within {limit_ms} ms");
            }
        }
    }

    pub(crate) fn until_all_applied(&mut self, limit_ms: u64, slot: Slot) {
        self.until(limit_ms, "apply everywhere", |net| {
            net.nodes
                .values()
                .filter(|node| node.paxos.is_some())
                .all(|node| node.through >= slot)
        });
    }

    /// The next event, or `false` when none comes before `end`.
    fn step(&mut self, end: u64) -> bool {
        self.burst.clear();
        let timer = self
            .nodes
            .iter()
            .filter_map(|(member, node)| {
                let at = node.paxos.as_ref()?.poll_timeout()?;
                Some((at.max(self.now_ns), *member))
            })
            .min();
        let event = self.events.keys().next().copied();
        let timer_first = match (timer, event) {
            (None, None) => return false,
            (Some((at, _)), Some((due, _))) => at < due,
            (timer, _) => timer.is_some(),
        };
        if timer_first {
            let Some((at, member)) = timer else {
                return false;
            };
            if at > end {
                return false;
            }
            // A timer that is due must not be due again at once for ever.
            self.now_ns = at.max(self.now_ns);
            let now = self.now(member);
            self.with_paxos(member, |paxos| paxos.handle_timeout(now));
            self.drain(member);
            let again = self.nodes[&member]
                .paxos
                .as_ref()
                .and_then(Paxos::poll_timeout);
            assert!(again.is_none_or(|again| again > at), "a timer that spins");
            return true;
        }
        let Some(key) = event.filter(|(due, _)| *due <= end) else {
            return false;
        };
        self.now_ns = self.now_ns.max(key.0);
        if let Some(event) = self.events.remove(&key) {
            self.happen(event);
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fetched {
                member,
                boot,
                at_least,
            } => self.fetched(member, boot, at_least),
            Event::Relink { member } => self.relink(member),
            Event::Deliver { to, boot, envelope } => {
                let from = envelope.from;
                if self.is_up(to, boot) && !self.cuts.contains(&(from, to)) {
                    *self.delivered.entry(kind(&envelope.message)).or_default() += 1;
                    let now = self.now(to);
                    self.with_paxos(to, |paxos| paxos.handle_message(now, from, envelope));
                    self.drain(to);
                }
            }
            Event::Synced { member, boot, io } => {
                if self.stalled.contains(&member) {
                    self.at(MS, Event::Synced { member, boot, io });
                } else if self.is_up(member, boot) {
                    let node = self.nodes.get_mut(&member).expect("a member");
                    node.disk.sync(io);
                    node.synced = io;
                    node.syncs += 1;
                    let now = self.now(member);
                    self.release(member);
                    self.with_paxos(member, |paxos| paxos.handle_synced(now, io));
                    self.drain(member);
                }
            }
            Event::Loaded {
                member,
                boot,
                ticket,
                from,
                through,
                max_bytes,
            } => {
                if self.is_up(member, boot) {
                    let node = self.nodes.get_mut(&member).expect("a member");
                    node.loads += 1;
                    let entries = node.disk.load(from, through, max_bytes);
                    let now = self.now(member);
                    self.with_paxos(member, |paxos| paxos.handle_loaded(now, ticket, entries));
                    self.drain(member);
                }
            }
        }
    }

    fn is_up(&self, member: MemberId, boot: Boot) -> bool {
        let node = self.nodes.get(&member);
        node.and_then(|node| node.paxos.as_ref())
            .is_some_and(|paxos| paxos.boot() == boot)
    }

    fn at(&mut self, delay_ns: u64, event: Event) {
        self.sequence += 1;
        self.events
            .insert((self.now_ns + delay_ns, self.sequence), event);
    }

    /// Does all that a member asks for.
    pub(crate) fn drain(&mut self, member: MemberId) {
        loop {
            let node = self.nodes.get_mut(&member).expect("a member");
            let Some(paxos) = &mut node.paxos else { return };
            let boot = paxos.boot();
            let Some(output) = paxos.poll_output() else {
                break;
            };
            match output {
                Output::Persist { io, records } => {
                    for record in &records {
                        if let Some(entry) = disk::entry_of(record)
                            && self.agreement
                        {
                            let hash = entry.hash();
                            let known = *self
                                .values
                                .entry((entry.ballot, entry.slot))
                                .or_insert(hash);
                            assert_eq!(known, hash, "I3: one value per ballot and slot");
                        }
                    }
                    node.disk.write(io, records);
                    let delay_ns = self.sync_ns;
                    self.at(delay_ns, Event::Synced { member, boot, io });
                }
                Output::Send {
                    to,
                    lane,
                    message,
                    after,
                } => {
                    if after.is_some_and(|io| io > node.synced) {
                        let io = after.unwrap_or_default();
                        node.held.push((io, to, lane, message));
                    } else {
                        self.send(member, to, message);
                    }
                }
                Output::Chosen { through, entries } => self.apply(member, through, entries),
                Output::Resolved { id, slot } => node.resolved.push((id, slot)),
                Output::Withdrawn { .. } => {}
                Output::ReadReady { id, index } => {
                    node.ready.insert(id, index);
                }
                Output::ReadFailed { id } => node.failed.push(id),
                Output::Load {
                    ticket,
                    from,
                    through,
                    max_bytes,
                } => {
                    let event = Event::Loaded {
                        member,
                        boot,
                        ticket,
                        from,
                        through,
                        max_bytes,
                    };
                    let delay_ns = self.load_ns.get(&member).copied().unwrap_or(MS / 20);
                    self.at(delay_ns, event);
                }
                Output::LeaderChanged { leader, ballot } => node.leaders.push((leader, ballot)),
                Output::NeedSnapshot { at_least } => {
                    node.needed.push(at_least);
                    if self.fetches {
                        let event = Event::Fetched {
                            member,
                            boot,
                            at_least,
                        };
                        self.at(2 * MS, event);
                    }
                }
                Output::Installed { base } => self.restore(member, &base),
                Output::ProtocolChanged { slot, protocol } => {
                    node.protocols.push((slot, protocol));
                }
                Output::ConfigurationChanged {
                    slot,
                    configuration,
                    ..
                } => self.reconfigured(member, slot, configuration),
                Output::Removed { epoch } => {
                    assert_eq!(node.removed.replace(epoch), None, "said once");
                }
                Output::Outdated { protocol, .. } => node.outdated = Some(protocol),
                Output::Forgetful { .. } => node.forgetful = true,
            }
        }
    }

    fn release(&mut self, member: MemberId) {
        let node = self.nodes.get_mut(&member).expect("a member");
        let synced = node.synced;
        let (due, held) = std::mem::take(&mut node.held)
            .into_iter()
            .partition(|(io, ..)| *io <= synced);
        node.held = held;
        let due: Vec<_> = due;
        for (_, to, _, message) in due {
            self.send(member, to, message);
        }
    }

    fn send(&mut self, from: MemberId, to: MemberId, message: Message) {
        self.check_synced(from, &message);
        let sent = self.burst.entry((from, to, kind(&message))).or_default();
        *sent += node::weight(&message);
        let most = self.bursts.entry((from, to, kind(&message))).or_default();
        *most = (*most).max(*sent);
        let arrives = !self.cuts.contains(&(from, to)) && (self.filter)(from, to, &message);
        let boot = self
            .nodes
            .get(&to)
            .and_then(|node| node.paxos.as_ref())
            .map(Paxos::boot);
        if let (true, Some(boot)) = (arrives, boot) {
            let envelope = self.paxos(from).envelope(to, message);
            if self.chance.below(1000) < self.loss {
                return;
            }
            let twice = self.chance.below(1000) < self.loss;
            for envelope in std::iter::once(envelope.clone()).chain(twice.then_some(envelope)) {
                let delay_ns = self.delay_ns + self.chance.below(self.reorder_ns);
                self.at(delay_ns, Event::Deliver { to, boot, envelope });
            }
        }
    }

    /// I7: what a member says about itself is on its disk.
    fn check_synced(&self, from: MemberId, message: &Message) {
        let disk = &self.nodes[&from].disk;
        match message {
            Message::Prepare { ballot, .. } => assert!(disk.durable().promised >= *ballot, "I7"),
            Message::Promise {
                ballot,
                accepted,
                last,
                ..
            } => {
                let durable = disk.durable();
                assert!(durable.promised >= *ballot, "I7: promise before its sync");
                assert!(
                    (durable.accepted, durable.last) >= (*accepted, *last),
                    "I7: promised log before its sync"
                );
            }
            Message::Accepted { ballot, slot } => {
                let durable = disk.durable();
                assert!(durable.accepted >= *ballot, "I7: vote before its adoption");
                assert!(durable.last >= *slot, "I7: vote before its sync");
            }
            Message::Heartbeat(beat) => {
                let durable = disk.durable();
                assert!(durable.promised >= beat.ballot, "I7: heartbeat ballot");
                assert!(durable.last >= beat.last, "I7: heartbeat last");
            }
            _ => {}
        }
    }

    fn apply(&mut self, member: MemberId, through: Slot, entries: Vec<Entry>) {
        let node = self.nodes.get_mut(&member).expect("a member");
        assert!(through > node.through, "handed over once");
        assert!(
            through <= node.disk.durable().last,
            "I7: handed over before its sync"
        );
        let first_at_hand = entries.first().map_or(through.next(), |entry| entry.slot);
        let mut all = Vec::new();
        let mut next = node.through.next();
        while next < first_at_hand {
            let loaded = node.disk.load(next, first_at_hand.prev(), u64::MAX);
            assert!(!loaded.is_empty(), "what is chosen can be read: {next}");
            next = loaded[loaded.len() - 1].slot.next();
            all.extend(loaded);
        }
        all.extend(entries);
        assert_eq!(all.last().map(|entry| entry.slot), Some(through));
        let boot = node.disk.boot();
        for entry in all {
            assert_eq!(entry.slot, node.through.next(), "in order");
            let id = entry.command.id;
            assert!(
                !self.agreement
                    || (id.member, id.boot) != (member, boot)
                    || node.resolved.iter().rev().any(|(known, _)| *known == id),
                "X3: slot {} was handed over before its command was resolved",
                entry.slot
            );
            let hash = entry.hash();
            let known = *self.chosen.entry(entry.slot).or_insert(hash);
            assert!(
                !self.agreement || known == hash,
                "I4: slot {} was chosen otherwise",
                entry.slot
            );
            if let Some(before) = self.history.get(&entry.slot.prev())
                && self.agreement
            {
                let next = before.reconfigures_to().map(|it| it.epoch);
                let epoch = next.unwrap_or(before.ballot.epoch);
                assert_eq!(entry.ballot.epoch, epoch, "I11: slot {}", entry.slot);
            }
            self.history.entry(entry.slot).or_insert(entry.clone());
            node.through = entry.slot;
            node.applied.insert(entry.slot, entry);
        }
        if node.applies
            && let Some(paxos) = &mut node.paxos
        {
            paxos.handle_applied(through);
        }
    }
}
