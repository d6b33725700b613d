//! A group under a script's hands: members with the production agreement, log and apply machine; and
//! around them wires, disks, clocks, apps and clients, which do nothing unless a command says so.

mod app;
mod checks;
mod clients;
mod copy;
mod disk;
mod election;
mod expect;
mod members;
mod poison;
mod shell;
mod snapshots;
mod status;
mod time;
mod wire;

pub(crate) use self::members::parse_members;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{
    AgreedTime, Ballot, CommandId, Configuration, Epoch, Genesis, GroupId, Incarnation, Io, Lane,
    Member, MemberId, Message, Now, Paxos, ReadId, Settings, Slot,
};
use synod_proto::v1::{IdempotencyPolicy, Policy};
use synod_sidecar::apply::{Ask, Job, Machine, StateType};
use synod_wal::Wal;
use synod_wal::testing::MemDisk;

use self::app::App;
use self::checks::Checks;
use self::clients::Clients;
use self::copy::Ledger;
use self::poison::Term;
use self::snapshots::Snapshot;
use self::wire::Wire;

/// When a script begins, in nanoseconds, on the clocks of all members.
const BEGIN_NS: u64 = 1_000_000_000;
/// What wall clocks read then.
const WALL_NS: u64 = 1_700_000_000_000_000_000;
/// The policy's limit on one request.
const APPLY_TIMEOUT_MS: u64 = 1_000;

/// Everything there is.
pub(crate) struct World {
    now_ns: u64,
    genesis: Genesis,
    settings: Settings,
    state: StateType,
    hosts: BTreeMap<u32, Host>,
    wire: Wire,
    clients: Clients,
    checks: Checks,
    /// Who has sent which vote, since its last start.
    votes: Vec<(u32, Ballot, Slot)>,
    /// Starts of processes so far.
    starts: u64,
    /// What the command under way has said.
    said: Vec<String>,
    indent: usize,
    quiet: bool,
    /// The last line says that a member sends something: which member, what, and to whom.
    last_send: Option<(usize, String, String)>,
}

/// A machine, with all that outlives a process of the member.
struct Host {
    member: Member,
    disk: MemDisk,
    process: Option<Process>,
    /// Why there is none for good.
    ended: Option<String>,
    /// It gets no time: nothing is delivered, and no timer goes off.
    paused: bool,
    /// How far its monotonic clock is behind, and where it stands still, if it does.
    lag_ns: u64,
    frozen_ns: Option<u64>,
    wall_offset_ns: i64,
    /// Highest protocol of its program.
    protocol_max: u32,
    /// Whom it asks, if it joined later.
    joining: Option<Configuration>,
    app: App,
    ledger: Ledger,
    snapshots: Vec<Snapshot>,
    promises: Vec<Ask>,
    half_restored: bool,
    /// Nothing is fed to its apply machine.
    apply_held: bool,
}

/// A running member.
struct Process {
    paxos: Paxos,
    wal: Wal,
    writes: VecDeque<(Io, Vec<synod_paxos::Record>)>,
    synced: Io,
    waiting: Vec<Outgoing>,
    machine: Machine,
    /// All slots up to here were handed over by the agreement.
    through: Slot,
    time: AgreedTime,
    sequence: u64,
    unresolved: BTreeSet<u64>,
    commands: BTreeMap<CommandId, String>,
    last_read: ReadId,
    reads: BTreeMap<ReadId, String>,
    ready: BTreeMap<(Slot, ReadId), String>,
    responses: BTreeMap<Slot, String>,
    /// The read whose index tells what was chosen when this life began.
    proof: Option<ReadId>,
    told_applied: Slot,
    told_stalled: bool,
    led: Option<Ballot>,
    contacts_version: Option<u64>,
    /// A pause that is to end: of which slot, and when.
    pauses: Vec<(Slot, u64)>,
    /// The volume is to be put back once no app runs.
    volume: Option<(Job, Slot)>,
    needs_snapshot: Option<Slot>,
    term: Option<Term>,
}

/// A message that may have to wait for a write, and for what is before it on its lane.
struct Outgoing {
    to: u32,
    lane: Lane,
    message: Message,
    after: Option<Io>,
}

/// How a group begins.
pub(crate) struct Beginning {
    pub(crate) members: Vec<Member>,
    pub(crate) quorums: synod_paxos::Quorums,
    pub(crate) protocol: u32,
    pub(crate) state: StateType,
}

// === impl World ===

impl World {
    pub(crate) fn new(beginning: Beginning) -> Self {
        let genesis = Genesis {
            group: GroupId([7; 16]),
            configuration: Configuration {
                epoch: Epoch(1),
                members: beginning.members.clone(),
                quorums: beginning.quorums,
                first_leader: MemberId(0),
            },
            policy: first_policy(),
            protocol: beginning.protocol,
            initial_state: Bytes::new(),
        };
        let election_timeout_ns = 500_000_000;
        let settings = Settings {
            election_timeout_ns,
            min_election_timeout_ns: election_timeout_ns,
            max_election_timeout_ns: election_timeout_ns,
            protocol_max: 3,
            ..Settings::default()
        };
        let mut world = Self {
            now_ns: BEGIN_NS,
            genesis,
            settings,
            state: beginning.state,
            hosts: BTreeMap::new(),
            wire: Wire::default(),
            clients: Clients::default(),
            checks: Checks::default(),
            votes: Vec::new(),
            starts: 0,
            said: Vec::new(),
            indent: 0,
            quiet: false,
            last_send: None,
        };
        for member in beginning.members {
            let host = world.host_of(member, None);
            world.hosts.insert(host.member.id.0, host);
        }
        world
    }

    /// A machine with an empty disk.
    fn host_of(&self, member: Member, joining: Option<Configuration>) -> Host {
        Host {
            member,
            disk: MemDisk::new(),
            process: None,
            ended: None,
            paused: false,
            lag_ns: 0,
            frozen_ns: None,
            wall_offset_ns: 0,
            protocol_max: self.settings.protocol_max,
            joining,
            app: App::new(self.state),
            ledger: Ledger::New,
            snapshots: Vec::new(),
            promises: Vec::new(),
            half_restored: false,
            apply_held: false,
        }
    }

    /// What was said since the last call.
    pub(crate) fn take_said(&mut self) -> Vec<String> {
        self.last_send = None;
        std::mem::take(&mut self.said)
    }

    /// What must never be, and was seen since the last call.
    pub(crate) fn take_violations(&mut self) -> Vec<String> {
        self.checks.take()
    }

    /// Says what has happened.
    fn say(&mut self, line: impl Into<String>) {
        if !self.quiet {
            self.tell(line);
        }
    }

    /// The same of what matters so much that it is said in any case.
    fn tell(&mut self, line: impl Into<String>) {
        // What matters is said without all that led to it.
        let indent = if self.quiet { 0 } else { self.indent };
        let indent = "  ".repeat(indent);
        self.said.push(format!("{indent}{}", line.into()));
    }

    /// Does something in silence.
    fn quietly(&mut self, act: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.quiet, true);
        act(self);
        self.quiet = before;
    }

    /// The same, and says it one step to the right.
    fn within(&mut self, act: impl FnOnce(&mut Self)) {
        self.indent += 1;
        act(self);
        self.indent -= 1;
    }

    fn members(&self) -> Vec<u32> {
        self.hosts.keys().copied().collect()
    }

    fn host(&self, member: u32) -> Result<&Host, String> {
        let host = self.hosts.get(&member);
        host.ok_or_else(|| format!("there is no member {member}"))
    }

    fn host_mut(&mut self, member: u32) -> Result<&mut Host, String> {
        let host = self.hosts.get_mut(&member);
        host.ok_or_else(|| format!("there is no member {member}"))
    }

    fn running(&mut self, member: u32) -> Result<&mut Process, String> {
        let host = self.host_mut(member)?;
        let process = host.process.as_mut();
        process.ok_or_else(|| format!("{member} does not run"))
    }

    fn process(&self, member: u32) -> Option<&Process> {
        self.hosts.get(&member)?.process.as_ref()
    }

    fn paxos(&self, member: u32) -> Result<&Paxos, String> {
        self.host(member)?;
        let process = self.process(member).map(|it| &it.paxos);
        process.ok_or_else(|| format!("{member} does not run"))
    }

    /// What a member's clocks read.
    fn now_at(&self, member: u32) -> Now {
        let host = &self.hosts[&member];
        let mono_ns = host.frozen_ns.unwrap_or(self.now_ns) - host.lag_ns;
        let wall_ns = (WALL_NS + self.now_ns).saturating_add_signed(host.wall_offset_ns);
        Now { mono_ns, wall_ns }
    }

    /// The leader of the highest ballot, if any member leads.
    fn leader(&self) -> Option<u32> {
        let leads = self.hosts.iter().filter_map(|(member, host)| {
            let paxos = &host.process.as_ref()?.paxos;
            let leads = paxos.standing() == synod_paxos::Standing::Leader;
            leads.then_some((paxos.promised(), *member))
        });
        leads.max().map(|(_, member)| member)
    }
}

/// The policy of the genesis.
fn first_policy() -> Bytes {
    let policy = Policy {
        version: 1,
        classes_version: 1,
        idempotency: Some(IdempotencyPolicy {
            header: "idempotency-key".to_owned(),
            keep_for_ms: 24 * 3_600_000,
            max_bytes: 1 << 20,
            ..IdempotencyPolicy::default()
        }),
        max_body_bytes: 16 << 10,
        queue_timeout_ms: 10_000,
        response_timeout_ms: 35_000,
        apply_timeout_ms: APPLY_TIMEOUT_MS,
        service: "notes".to_owned(),
        ..Policy::default()
    };
    policy.encode_to_vec().into()
}

/// A member of the beginning, or a later one.
pub(crate) fn member(number: u32, role: synod_paxos::Role) -> Member {
    Member {
        id: MemberId(number),
        name: format!("notes-{number}"),
        incarnation: Incarnation(u128::from(number) + 1000),
        role,
        region: String::new(),
    }
}

impl World {
    /// A group that has started; if somebody is to lead, it has come to rest under that leader.
    pub(crate) fn begin((beginning, leader): (Beginning, Option<u32>)) -> Result<Self, String> {
        let mut world = Self::new(beginning);
        world.genesis.configuration.check().map_err(str::to_owned)?;
        let before = std::mem::replace(&mut world.quiet, leader.is_some());
        for member in world.members() {
            world.start(member)?;
        }
        for member in world.members() {
            world.start_app(member)?;
        }
        if let Some(leader) = leader {
            world.elect(leader)?;
            world.stabilize();
        }
        world.quiet = before;
        Ok(world)
    }

    /// Nothing comes to a member or from it.
    pub(crate) fn isolate(&mut self, member: u32) -> Result<(), String> {
        self.host(member)?;
        for peer in self.members().into_iter().filter(|it| *it != member) {
            self.cut(member, peer);
            self.cut(peer, member);
        }
        Ok(())
    }
}
