//! The task that owns the agreement: takes what came, hands it in, carries out what comes out.
//!
//! It runs on the runtime that also runs the connections: what a connection received is mostly
//! handled on the same thread a moment later, without waking another. Only the log has a thread of
//! its own, since a sync blocks. Everything that waits when the task wakes is handed in before any
//! output is carried out: what queued meanwhile becomes one batch (rule P2).

mod peers;
mod publish;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use synod_paxos::{
    Ballot, Base, CommandId, Configuration, Envelope, Epoch, Io, Lane, Member, MemberId, Message,
    NotTaken, Now, Output, Paxos, ProposeRefused, ReconfigureRefused, Recovered, Settings, Slot,
    StartError, Ticket,
};
use synod_proto::v1::Policy;
use synod_wal::{LogReader, LogWriter, Wal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::door::PeerDoor;
use super::handle::{Decided, Description, Errand, Seat};
use super::input::{Input, Inputs};
use super::leadership::Leadership;
use super::members::{self, ChangeRefused, MemberChange, Membership};
use super::reads::Reads;
use super::scrub;
use super::wire::BatchHead;
use crate::apply::{ApplyStatus, Beginning, FeedSender};
use crate::config::peers::PeerTable;
use crate::identity::Identity;

use self::peers::{Common, Peers};

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
    /// How often the whole log is read; `None`: never.
    pub scrub: Option<Duration>,
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
    peers: Peers,
    /// As the agreement counts them.
    contacts: Option<u64>,
    /// Whom this member asks and answers.
    configuration: Arc<Configuration>,
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
    let incarnation = parts.recovered.identity.incarnation;
    let mut paxos = Paxos::new(parts.settings, parts.recovered, now, rand::random())?;
    if let Some(base) = parts.snapshot.filter(|it| it.slot > paxos.last())
        && let Err(error) = paxos.handle_installed(now, base)
    {
        tracing::error!(%error, "the newest snapshot does not go with the log");
    }
    paxos.handle_applied(seen.applied);
    let configuration = Arc::new(paxos.roster().clone());
    let (on_synced, on_failed) = (sender.clone(), sender.clone());
    let writer = LogWriter::spawn(
        parts.wal,
        // The loop is gone only when all of this is about to be.
        move |io| drop(on_synced.send(Input::Synced(Io(io)))),
        move |error| drop(on_failed.send(Input::LogFailed(error.to_string()))),
    )
    .expect("the system lets a process start a thread");
    let serving = Arc::new(AtomicBool::new(seen.serving));
    let common = Common {
        group: paxos.genesis().group,
        inputs: sender.clone(),
        identity: parts.identity,
        addresses: parts.peers,
        serving: serving.clone(),
        queue_bytes,
        door: parts.door,
    };
    parts.seat.desk.open(paxos.member(), paxos.boot());
    let peers = Peers::new(common, paxos.member(), incarnation);
    parts.feed.begin(Beginning {
        configuration: paxos.genesis().configuration.clone(),
        protocol: paxos.genesis().protocol,
        policy: parts.policy,
    });
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
        peers,
        contacts: None,
        configuration,
        synced: Io(0),
        installed: Slot::ZERO,
        disk_full: false,
        reads: Reads::default(),
        others: BTreeMap::new(),
        log_counts: false,
        leadership: Leadership::default(),
        end: None,
    };
    let mut scrubbing = JoinSet::new();
    if let Some(period) = parts.scrub {
        let (inputs, status) = (
            event_loop.sender.clone(),
            event_loop.seat.status.subscribe(),
        );
        scrubbing.spawn(scrub::run(
            event_loop.reader.clone(),
            period,
            inputs,
            status,
        ));
    }
    let stop = CancellationToken::new();
    let task = tokio::spawn(event_loop.run(stop.clone(), scrubbing));
    Ok(Running { task, stop })
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
    async fn run(mut self, stop: CancellationToken, scrubbing: JoinSet<()>) -> NodeEnd {
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
        drop(self.peers);
        drop(scrubbing);
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
            self.meet();
            self.carry_out(now, output);
        }
        self.meet();
        self.publish(now);
    }

    /// Is connected with those whom the agreement wants to talk to.
    fn meet(&mut self) {
        let version = self.paxos.contacts_version();
        if self.contacts != Some(version) {
            self.contacts = Some(version);
            self.configuration = Arc::new(self.paxos.roster().clone());
            self.peers.meet(&self.paxos.contacts());
        }
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
                // Whoever was just met is known before it says more.
                self.meet();
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
            Input::Damaged(header) => self.paxos.handle_damaged(now, header),
            Input::LogFailed(error) => self.end = Some(NodeEnd::Log(error)),
        }
    }

    fn connection(&mut self, now: Now, peer: MemberId, lane: Lane, up: bool) {
        if !up {
            self.peers.went_down(peer, lane);
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
            let roster = &self.peers.roster;
            if let (Message::Heartbeat(beat), Some(peer)) = (&message, roster.get(head.from))
                && !beat.hears.contains(&roster.me)
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
        self.peers.release(io);
        self.paxos.handle_synced(now, io);
    }

    /// What the copy and the disk do, as far as the agreement must know.
    fn look_at_copy(&mut self, now: Now) {
        if self.apply.has_changed().unwrap_or(false) {
            let status = self.apply.borrow_and_update().clone();
            // What a copy has executed silently says nothing about those that answer (rule V1).
            if status.applied > self.seen.applied && !status.revision.is_silent {
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
                Errand::ChangeMembers(expected, changes, reply) => {
                    let _ = reply.send(self.change_members(now, expected, &changes));
                }
                Errand::Membership(reply) => {
                    let _ = reply.send(Membership::of(&self.paxos));
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

    fn change_members(
        &mut self,
        now: Now,
        expected: Epoch,
        changes: &[MemberChange],
    ) -> Result<Configuration, ChangeRefused> {
        let current = self.paxos.configuration();
        if expected != current.epoch {
            let current = current.epoch;
            return Err(ReconfigureRefused::Epoch { expected, current }.into());
        }
        let mut next = members::change(current, &self.paxos.former_members(), changes)?;
        next.first_leader = self.paxos.best_first_leader(&next);
        self.paxos.propose_configuration(now, expected, &next)?;
        Ok(next)
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
            } => self.peers.send(to, lane, message, after, self.synced),
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
            Output::ConfigurationChanged {
                slot,
                epoch,
                configuration,
            } => {
                let members: Vec<_> = configuration.members.iter().map(described).collect();
                tracing::info!(%slot, %epoch, ?members, "the group has agreed on other members");
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

fn described(member: &Member) -> String {
    format!("{} {} {:?}", member.id, member.name, member.role)
}
