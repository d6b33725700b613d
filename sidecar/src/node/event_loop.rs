//! The task that owns the agreement: takes what came, hands it in, carries out what comes out.
//!
//! It runs on the runtime that also runs the connections: what a connection received is mostly
//! handled on the same thread a moment later, without waking another. Only the log has a thread of
//! its own, since a sync blocks. Everything that waits when the task wakes is handed in before any
//! output is carried out: what queued meanwhile becomes one batch (rule P2).

mod publish;

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use synod_paxos::{
    Ballot, Base, CommandId, Configuration, Envelope, Io, Lane, MemberId, Message, NotTaken, Now,
    Output, Paxos, ProposeRefused, Recovered, Settings, Slot, StartError, Ticket,
};
use synod_proto::v1::Policy;
use synod_wal::{LogReader, LogWriter, Wal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::complaint::Complaints;
use super::door::PeerDoor;
use super::handle::{Decided, Description, Errand, Seat};
use super::input::{Input, Inputs, LANES, Roster, lane_index};
use super::leadership::Leadership;
use super::link::Link;
use super::outbox::Outbox;
use super::queue::SendQueue;
use super::reads::Reads;
use super::wire::BatchHead;
use crate::apply::{ApplyStatus, Beginning, FeedSender};
use crate::config::peers::PeerTable;
use crate::identity::{Connector, Identity, Who};

/// Inputs handed in before outputs are carried out.
const BATCH: usize = 256;
/// Read rounds asked for at once; readers that come meanwhile share the next.
const READ_ROUNDS: usize = 8;
/// The loop looks around at least so often.
const LOOK_NS: u64 = 100_000_000;

/// What a node is made of.
#[derive(Debug)]
pub struct Parts {
    /// Local settings of the agreement.
    pub settings: Settings,
    /// What the log held, genesis included.
    pub recovered: Recovered,
    /// Policy 1, as the genesis has it.
    pub policy: Policy,
    /// The log itself.
    pub wal: Wal,
    /// Of this member's newest snapshot that may be used. If the log ends before it, it goes on behind
    /// it: this member was stopped between the two.
    pub snapshot: Option<Base>,
    /// Where the node serves its handles from.
    pub seat: Seat,
    /// Takes what is chosen.
    pub feed: FeedSender,
    /// How far this member's copy is.
    pub apply: watch::Receiver<ApplyStatus>,
    /// Takes the highest slot that another member has applied.
    pub elsewhere: watch::Sender<Slot>,
    /// Certificates.
    pub identity: Identity,
    /// Addresses.
    pub peers: watch::Receiver<PeerTable>,
    /// Where peers come in.
    pub door: PeerDoor,
}

/// Why a node ended.
#[derive(Debug, thiserror::Error)]
pub enum NodeEnd {
    /// It was asked to.
    #[error("the node was stopped")]
    Stopped,
    /// What is on disk is not known any more (rule W3).
    #[error(
        "the log cannot be written: {0}; the process ends, its next start finds out what is there"
    )]
    Log(String),
    /// It would vote against its own promises (rule M4).
    #[error(
        "{reported_by} remembers more of this member than its disk does: the volume was rolled \
         back or copied; replace this member"
    )]
    Forgetful {
        /// Who remembers.
        reported_by: String,
    },
    /// The group has agreed on a protocol that this program does not speak (rule P8).
    #[error("the group speaks protocol {protocol} now, this program does not: run a newer one")]
    Outdated {
        /// The group's.
        protocol: u32,
    },
    /// Its own code failed.
    #[error("the event loop failed: {0}")]
    Failed(String),
}

/// A node at work.
#[derive(Debug)]
pub struct Running {
    task: JoinHandle<NodeEnd>,
    stop: CancellationToken,
}

/// The task's state.
struct EventLoop {
    paxos: Paxos,
    inputs: mpsc::UnboundedReceiver<Input>,
    sender: Inputs,
    writer: LogWriter,
    reader: LogReader,
    feed: FeedSender,
    seat: Seat,
    apply: watch::Receiver<ApplyStatus>,
    seen: ApplyStatus,
    elsewhere: watch::Sender<Slot>,
    looked_ns: u64,
    serving: Arc<AtomicBool>,
    roster: Arc<Roster>,
    configuration: Arc<Configuration>,
    queues: BTreeMap<MemberId, [Outbox; 3]>,
    synced: Io,
    installed: Slot,
    disk_full: bool,
    reads: Reads,
    others: BTreeMap<MemberId, Other>,
    log_counts: bool,
    leadership: Leadership,
    end: Option<NodeEnd>,
}

/// What another member says about its copy.
struct Other {
    serving: bool,
    heard_ns: u64,
}

/// Starts the node of a member whose log has a genesis.
pub fn start(parts: Parts) -> Result<Running, StartError> {
    let (sender, inputs) = mpsc::unbounded_channel();
    let reader = parts.wal.reader();
    let seen = parts.apply.borrow().clone();
    let now = (parts.seat.clocks)();
    let queue_bytes = parts.settings.queue_bytes;
    let mut paxos = Paxos::new(parts.settings, parts.recovered, now, rand::random())?;
    if let Some(base) = parts.snapshot.filter(|it| it.slot > paxos.last())
        && let Err(error) = paxos.handle_installed(now, base)
    {
        tracing::error!(%error, "the newest snapshot does not go with the log");
    }
    paxos.handle_applied(seen.applied);
    let configuration = Arc::new(paxos.configuration().clone());
    let roster = Arc::new(Roster::new(&configuration, paxos.member()));
    let (on_synced, on_failed) = (sender.clone(), sender.clone());
    let writer = LogWriter::spawn(
        parts.wal,
        // The loop is gone only when all of this is about to be.
        move |io| drop(on_synced.send(Input::Synced(Io(io)))),
        move |error| drop(on_failed.send(Input::LogFailed(error.to_string()))),
    )
    .expect("the system lets a process start a thread");
    let serving = Arc::new(AtomicBool::new(seen.serving));
    let queues = make_queues(&roster, queue_bytes);
    let links = Links {
        group: paxos.genesis().group,
        roster: roster.clone(),
        inputs: sender.clone(),
        identity: parts.identity,
        peers: parts.peers,
        serving: serving.clone(),
    };
    let links = links.start(&queues);
    parts.feed.begin(Beginning {
        configuration: paxos.genesis().configuration.clone(),
        protocol: paxos.genesis().protocol,
        policy: parts.policy,
    });
    parts.seat.desk.open(paxos.member(), paxos.boot());
    parts.door.open(sender.clone(), roster.clone());
    let event_loop = EventLoop {
        paxos,
        inputs,
        sender,
        writer,
        reader,
        feed: parts.feed,
        seat: parts.seat,
        apply: parts.apply,
        seen,
        elsewhere: parts.elsewhere,
        looked_ns: 0,
        serving,
        roster,
        configuration,
        queues,
        synced: Io(0),
        installed: Slot::ZERO,
        disk_full: false,
        reads: Reads::default(),
        others: BTreeMap::new(),
        log_counts: false,
        leadership: Leadership::default(),
        end: None,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(event_loop.run(stop.clone(), links));
    Ok(Running { task, stop })
}

fn make_queues(roster: &Roster, queue_bytes: u64) -> BTreeMap<MemberId, [Outbox; 3]> {
    let outbox = |lane| Outbox {
        queue: Arc::new(SendQueue::new(lane, queue_bytes)),
        held: VecDeque::new(),
    };
    roster
        .peers
        .keys()
        .map(|peer| (*peer, LANES.map(outbox)))
        .collect()
}

/// What the links to all peers have in common.
struct Links {
    group: synod_paxos::GroupId,
    roster: Arc<Roster>,
    inputs: Inputs,
    identity: Identity,
    peers: watch::Receiver<PeerTable>,
    serving: Arc<AtomicBool>,
}

impl Links {
    fn start(self, queues: &BTreeMap<MemberId, [Outbox; 3]>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let complaints = Complaints::default();
        for (id, peer) in &self.roster.peers {
            for lane in LANES {
                let (table, name) = (self.peers.clone(), peer.name.clone());
                let who = Who::Member(peer.name.clone());
                let link = Link {
                    group: self.group,
                    lane,
                    roster: self.roster.clone(),
                    peer: peer.clone(),
                    queue: queues[id][lane_index(lane)].queue.clone(),
                    connector: Connector::new(self.identity.clone(), who, move || {
                        table.borrow().address_of(&name)
                    }),
                    inputs: self.inputs.clone(),
                    serving: self.serving.clone(),
                    complaints: complaints.clone(),
                };
                tasks.spawn(link.run());
            }
        }
        tasks
    }
}

// === impl Running ===

impl Running {
    /// Returns when the node has ended by itself.
    pub async fn ended(&mut self) -> NodeEnd {
        match (&mut self.task).await {
            Ok(end) => end,
            Err(error) => NodeEnd::Failed(error.to_string()),
        }
    }

    /// Ends the node; what it took for writing is on disk when this returns.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.ended().await;
    }
}

// === impl EventLoop ===

impl EventLoop {
    async fn run(mut self, stop: CancellationToken, links: JoinSet<()>) -> NodeEnd {
        let desk = self.seat.desk.clone();
        let mut buffer = Vec::with_capacity(BATCH);
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        self.turn(&mut buffer);
        while self.end.is_none() {
            alarm.as_mut().reset(self.next_alarm());
            tokio::select! {
                _ = self.inputs.recv_many(&mut buffer, BATCH) => {}
                () = desk.left() => {}
                () = &mut alarm => {}
                () = stop.cancelled() => self.end = Some(NodeEnd::Stopped),
            }
            while buffer.len() < BATCH
                && let Ok(input) = self.inputs.try_recv()
            {
                buffer.push(input);
            }
            self.turn(&mut buffer);
        }
        drop(links);
        desk.end();
        let writer = self.writer;
        // It writes what is queued first.
        let written = tokio::task::spawn_blocking(move || drop(writer)).await;
        match (self.end, written) {
            (_, Err(error)) => NodeEnd::Failed(error.to_string()),
            (end, Ok(())) => end.expect("the loop ends for a reason"),
        }
    }

    /// One wake: everything in, then everything out.
    fn turn(&mut self, buffer: &mut Vec<Input>) {
        let now = (self.seat.clocks)();
        for input in buffer.drain(..) {
            self.take(now, input);
        }
        self.look_at_copy(now);
        self.pick_up(now);
        if self
            .paxos
            .poll_timeout()
            .is_some_and(|it| it <= now.mono_ns)
        {
            self.paxos.handle_timeout(now);
        }
        while let Some(output) = self.paxos.poll_output() {
            self.carry_out(now, output);
        }
        self.publish(now);
    }

    fn next_alarm(&self) -> Instant {
        let now = (self.seat.clocks)().mono_ns;
        let mut at = now + LOOK_NS;
        if let Some(timeout) = self.paxos.poll_timeout() {
            at = at.min(timeout);
        }
        if !self.reads.again.is_empty() {
            at = at.min(self.reads.again_ns);
        }
        Instant::now() + Duration::from_nanos(at.saturating_sub(now))
    }

    fn take(&mut self, now: Now, input: Input) {
        match input {
            Input::OurHello(reply) => {
                // The task that asked may have been dropped; so below.
                let _ = reply.send(self.paxos.hello());
            }
            Input::TheirHello { hello, reply } => {
                let answer = self.paxos.handle_hello(now, &hello);
                let _ = reply.send(answer.map(|()| self.paxos.hello()));
            }
            Input::Refused { peer, refusal } => {
                self.paxos.handle_hello_refused(now, peer, refusal);
            }
            Input::Connection { peer, lane, up } => self.connection(now, peer, lane, up),
            Input::Messages {
                head,
                messages,
                room,
            } => {
                self.messages(now, head, messages);
                drop(room);
            }
            Input::Synced(io) => self.synced(now, io),
            Input::Loaded { ticket, entries } => self.paxos.handle_loaded(now, ticket, entries),
            Input::LogFailed(error) => self.end = Some(NodeEnd::Log(error)),
        }
    }

    fn connection(&mut self, now: Now, peer: MemberId, lane: Lane, up: bool) {
        if !up && let Some(boxes) = self.queues.get_mut(&peer) {
            boxes[lane_index(lane)].held.clear();
        }
        self.paxos.handle_connection(now, peer, lane, up);
    }

    fn messages(&mut self, now: Now, head: BatchHead, messages: Vec<Message>) {
        let other = Other {
            serving: head.serving,
            heard_ns: now.mono_ns,
        };
        self.others.insert(head.from, other);
        for message in messages {
            if let (Message::Heartbeat(beat), Some(peer)) =
                (&message, self.roster.peers.get(&head.from))
                && !beat.hears.contains(&self.roster.me)
            {
                peer.is_deaf();
            }
            let envelope = Envelope {
                group: head.group,
                from: head.from,
                from_incarnation: head.from_incarnation,
                to_incarnation: head.to_incarnation,
                message,
            };
            self.paxos.handle_message(now, head.from, envelope);
        }
    }

    /// What waited for this write leaves, in order.
    fn synced(&mut self, now: Now, io: Io) {
        assert!(io > self.synced, "writes are synced in order, each once");
        self.synced = io;
        for outbox in self.queues.values_mut().flatten() {
            outbox.release(io);
        }
        self.paxos.handle_synced(now, io);
    }

    /// What the copy and the disk do, as far as the agreement must know.
    fn look_at_copy(&mut self, now: Now) {
        if self.apply.has_changed().unwrap_or(false) {
            let status = self.apply.borrow_and_update().clone();
            if status.applied > self.seen.applied {
                self.paxos.handle_applied(status.applied);
            }
            if status.app_stalled != self.seen.app_stalled {
                self.paxos.handle_app(now, status.app_stalled);
            }
            self.serving.store(status.serving, Ordering::Relaxed);
            self.seen = status;
        }
        if now.mono_ns.saturating_sub(self.looked_ns) >= LOOK_NS {
            self.looked_ns = now.mono_ns;
            let status = self.paxos.status();
            let (ballot, timeout_ns) = (status.promised, status.election_timeout_ns);
            if self.leadership.is_missing(now.mono_ns, timeout_ns, ballot) {
                tracing::info!(%ballot, "no leader");
            }
            let furthest = status
                .peers
                .iter()
                .map(|it| it.applied)
                .max()
                .unwrap_or_default();
            self.elsewhere.send_if_modified(|old| {
                let further = furthest > *old;
                *old = furthest.max(*old);
                further
            });
        }
        let full = self.writer.is_full();
        if full != self.disk_full {
            if full {
                tracing::error!("the log has no more room: new requests are refused until it has");
            } else {
                tracing::info!("the log has room again");
            }
            self.disk_full = full;
            self.paxos.handle_disk(now, full);
        }
    }

    /// What callers left on the desk.
    fn pick_up(&mut self, now: Now) {
        let reads = self.reads.rounds.len() < READ_ROUNDS && self.reads.may_ask(now);
        let picked_up = self.seat.desk.pick_up(reads);
        for command in picked_up.commands {
            let id = command.id;
            if let Err(refused) = self.paxos.propose(now, command) {
                self.refused(id, refused);
            }
        }
        for errand in picked_up.errands {
            match errand {
                Errand::Transfer(to) => self.paxos.transfer(now, to),
                Errand::Describe(reply) => {
                    let _ = reply.send(Description {
                        status: self.paxos.status(),
                        counters: self.paxos.counters(),
                        leader_changes: self.leadership.changes(),
                        log_bytes: self.writer.bytes(),
                        log_full: self.disk_full,
                    });
                }
                Errand::BaseAt(slot, time, reply) => {
                    let _ = reply.send(self.paxos.base_at(slot, time));
                }
                Errand::Compact(base, reply) => {
                    let _ = reply.send(self.paxos.handle_snapshot(now, base));
                }
                Errand::Install(base, reply) => {
                    let _ = reply.send(self.paxos.handle_installed(now, base));
                }
                Errand::Upgrade(version, reply) => {
                    let _ = reply.send(self.paxos.upgrade(now, version));
                }
                Errand::Skip(ballot, skip, reply) => {
                    let _ = reply.send(self.paxos.skip(now, ballot, skip));
                }
            }
        }
        if reads && let Some(id) = self.reads.ask(picked_up.readers) {
            self.paxos.read(now, id);
        }
    }

    fn refused(&mut self, id: CommandId, refused: ProposeRefused) {
        let reason = match refused {
            ProposeRefused::TooLarge { .. } => NotTaken::TooLarge,
            ProposeRefused::DiskFull => NotTaken::DiskFull,
            ProposeRefused::Unreadable { .. } => NotTaken::Unreadable,
            ProposeRefused::Overloaded | ProposeRefused::Ended => NotTaken::Overloaded,
            ProposeRefused::BadId | ProposeRefused::Kind(_) => {
                unreachable!("the desk gives the ids, and nobody here makes such kinds: {refused}")
            }
        };
        self.seat.desk.decide(id, Decided::Withdrawn(reason));
    }

    fn carry_out(&mut self, now: Now, output: Output) {
        match output {
            Output::Persist { io, records } => self.writer.write(io.0, records),
            Output::Send {
                to,
                lane,
                message,
                after,
            } => {
                let boxes = self
                    .queues
                    .get_mut(&to)
                    .expect("only members are spoken to");
                boxes[lane_index(lane)].send(message, after, self.synced);
            }
            Output::Chosen { through, entries } => self.feed.chosen(through, entries),
            Output::Resolved { id, slot } => self.seat.desk.decide(id, Decided::Chosen(slot)),
            Output::Withdrawn { id, reason } => {
                self.seat.desk.decide(id, Decided::Withdrawn(reason));
            }
            Output::ReadReady { id, index } => self.reads.ready(id, index),
            Output::ReadFailed { id } => self.reads.failed(id, now),
            Output::Load {
                ticket,
                from,
                through,
                max_bytes,
            } => self.load(ticket, from, through, max_bytes),
            Output::LeaderChanged { leader, ballot } => self.leader_changed(now, leader, ballot),
            Output::NeedSnapshot { at_least } => {
                tracing::warn!(slot = %at_least, "the log goes on only behind a snapshot of this slot");
            }
            Output::Installed { base } => {
                tracing::info!(slot = %base.slot, "the log goes on behind a snapshot");
                self.installed = base.slot;
            }
            Output::ProtocolChanged { slot, protocol } => {
                tracing::info!(%slot, protocol, "the group has agreed on another protocol");
            }
            Output::ConfigurationChanged { slot, epoch, .. } => {
                tracing::info!(%slot, %epoch, "the group has agreed on other members");
            }
            Output::Removed { epoch } => {
                tracing::warn!(%epoch, "this member is in the group no more");
            }
            Output::Outdated { protocol, .. } => self.end = Some(NodeEnd::Outdated { protocol }),
            Output::Forgetful { reported_by } => {
                let reported_by = self.name(reported_by);
                self.end = Some(NodeEnd::Forgetful { reported_by });
            }
        }
    }

    fn load(&self, ticket: Ticket, from: Slot, through: Slot, max_bytes: u64) {
        let (reader, sender) = (self.reader.clone(), self.sender.clone());
        tokio::task::spawn_blocking(move || {
            let entries = reader
                .read(from, through, max_bytes)
                .unwrap_or_else(|error| {
                    tracing::warn!(slot = %from, %error, "entries for a peer cannot be read");
                    Vec::new()
                });
            let _ = sender.send(Input::Loaded { ticket, entries });
        });
    }

    fn leader_changed(&mut self, now: Now, leader: Option<MemberId>, ballot: Ballot) {
        let is_news = self.leadership.changed(now.mono_ns, leader, ballot);
        if let Some(leader) = leader.filter(|_| is_news) {
            let leader = self.name(leader);
            tracing::info!(%leader, %ballot, "leader changed");
        }
    }

    fn name(&self, member: MemberId) -> String {
        let members = &self.configuration.members;
        let found = members.iter().find(|it| it.id == member);
        found.map_or_else(|| format!("member {member}"), |it| it.name.clone())
    }
}
