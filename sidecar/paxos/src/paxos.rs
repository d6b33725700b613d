//! The state machine as its shell sees it: events in by `handle_*`, `propose` and `read`, work out
//! by `poll_*`. What each event means is decided in the modules of the roles; here is only what
//! they share.

use std::collections::{BTreeMap, VecDeque};

use synod_mutant::{Mutant, planted};

use crate::acceptor::Acceptor;
use crate::base::Base;
use crate::candidate::Candidate;
use crate::clock::Clock;
use crate::configuration::Role;
use crate::election::Election;
use crate::entrance::Entrance;
use crate::error::StartError;
use crate::invariants::Seen;
use crate::journal::Journal;
use crate::leader::Leader;
use crate::learn::Learning;
use crate::log::Log;
use crate::membership::Membership;
use crate::message::{Envelope, Lane, Message};
use crate::output::{Io, Output, Ticket};
use crate::peer::Peer;
use crate::reads::Reads;
use crate::record::{Genesis, Identity, Recovered};
use crate::recovered::{check_recovered, find_self};
use crate::repair::Faulty;
use crate::rng::Rng;
use crate::settings::Settings;
use crate::snapshot::Installing;
use crate::status::{Counters, Standing};
use crate::types::{Ballot, Boot, Entry, Header, MemberId, Now, Slot};

/// One member of a group. Pure: no clock, no disk, no network, no randomness of its own.
#[derive(Debug)]
pub struct Paxos {
    pub(crate) settings: Settings,
    pub(crate) genesis: Genesis,
    pub(crate) identity: Identity,
    pub(crate) boot: Boot,
    /// Tells this process from any other that claims the same start.
    pub(crate) life: u64,
    pub(crate) me: MemberId,
    pub(crate) role: Role,
    /// All that count in quorums, this member included if it does.
    pub(crate) voters: Vec<MemberId>,
    pub(crate) rng: Rng,
    pub(crate) now: Now,
    /// What the log begins behind.
    pub(crate) base: Base,
    pub(crate) installing: Option<Installing>,
    /// The last write that did not wait for its turn.
    urgent: Io,
    /// A snapshot of this slot or a later one was asked for.
    pub(crate) wanted: Option<Slot>,
    /// The raises of the protocol that are chosen behind the base, by slot.
    pub(crate) upgrades: BTreeMap<Slot, u32>,
    pub(crate) membership: Membership,
    /// This member asks somebody in a later epoch.
    pub(crate) learning: Option<Learning>,
    pub(crate) log: Log,
    pub(crate) journal: Journal,
    pub(crate) faulty: Faulty,
    pub(crate) acceptor: Acceptor,
    pub(crate) office: Office,
    /// The other members.
    pub(crate) peers: BTreeMap<MemberId, Peer>,
    /// Those that were members once.
    pub(crate) former: BTreeMap<MemberId, Peer>,
    pub(crate) election: Election,
    pub(crate) clock: Clock,
    pub(crate) entrance: Entrance,
    pub(crate) reads: Reads,
    loads: BTreeMap<Ticket, LoadFor>,
    next_ticket: Ticket,
    /// Everything up to here was handed to apply.
    pub(crate) delivered: Slot,
    pub(crate) applied: Slot,
    pub(crate) app_stalled: bool,
    pub(crate) disk_full: bool,
    /// This member takes part no more, and this is what it says last.
    ended: bool,
    farewell: Option<Output>,
    pub(crate) counters: Counters,
    pub(crate) seen: Seen,
    pub(crate) outputs: VecDeque<Output>,
    /// Messages that depend on a write that is not handed out yet.
    held: VecDeque<(Io, MemberId, Lane, Message)>,
    /// Something happened since the last flush.
    dirty: bool,
}

/// What this member is doing for the current ballot.
#[derive(Debug)]
pub(crate) enum Office {
    Follower,
    Candidate(Box<Candidate>),
    Leader(Box<Leader>),
}

/// Whom entries are read back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LoadFor {
    /// A follower that lags behind the cache.
    Follower(MemberId),
    /// The rest of a promise.
    Promise(Ballot),
    /// A peer whose copy is damaged.
    Repair(MemberId, Header),
    /// A member of an earlier epoch.
    Learner(MemberId),
}

impl Paxos {
    /// A member that starts (again). `rng_seed` must differ at each start.
    pub fn new(
        settings: Settings,
        recovered: Recovered,
        now: Now,
        rng_seed: u64,
    ) -> Result<Self, StartError> {
        settings.check()?;
        let genesis = recovered.genesis.clone().ok_or(StartError::NoGenesis)?;
        genesis
            .configuration
            .check()
            .map_err(StartError::Configuration)?;
        let base = recovered.base.clone();
        let base = base.unwrap_or_else(|| Base::of_genesis(&genesis));
        let (changes, joining) = (recovered.changes.clone(), recovered.joining.clone());
        let membership = Membership::new(&base, changes, joining);
        let upgrades: BTreeMap<Slot, u32> = recovered.upgrades.iter().copied().collect();
        let raised = upgrades.values().copied().max().unwrap_or(0);
        let protocol = raised.max(base.protocol);
        if !(settings.protocol_min..=settings.protocol_max).contains(&protocol) {
            return Err(StartError::Protocol {
                group: protocol,
                min: settings.protocol_min,
                max: settings.protocol_max,
            });
        }
        let none = Ballot::none(membership.current(&base).epoch);
        let promised = recovered.promised.max(none);
        let accepted = recovered.accepted.max(none);
        check_recovered(&recovered, &base, promised, accepted).map_err(StartError::Recovered)?;
        let incarnation = recovered.identity.incarnation;
        let me = find_self(&membership, &base, incarnation)
            .ok_or(StartError::NotAMember(incarnation))?;

        let mut log = Log::new(
            (base.slot, base.ballot),
            recovered.last,
            recovered.commit,
            recovered.runs,
            recovered.last_time.max(base.time),
        );
        for entry in recovered.tail {
            log.fill(entry);
        }
        let mut rng = Rng::new(rng_seed);
        let life = rng.next_u64();
        let mut paxos = Self {
            me,
            role: Role::Observer,
            voters: Vec::new(),
            life,
            rng,
            now,
            journal: Journal::new(recovered.commit),
            faulty: Faulty::new(recovered.faulty),
            acceptor: Acceptor::new(promised, accepted, recovered.last, recovered.kept),
            office: Office::Follower,
            peers: BTreeMap::new(),
            former: BTreeMap::new(),
            election: Election::new(&settings, promised, now),
            clock: Clock::new(now.mono_ns, log.time()),
            entrance: Entrance::new(me, recovered.boot),
            reads: Reads::new(recovered.boot),
            loads: BTreeMap::new(),
            next_ticket: Ticket(1),
            delivered: base.slot,
            applied: Slot::ZERO,
            app_stalled: false,
            disk_full: false,
            ended: false,
            farewell: None,
            counters: Counters::default(),
            seen: Seen::default(),
            outputs: VecDeque::new(),
            held: VecDeque::new(),
            dirty: true,
            identity: recovered.identity,
            boot: recovered.boot,
            base,
            installing: None,
            urgent: Io(0),
            wanted: None,
            upgrades,
            membership,
            learning: None,
            genesis,
            settings,
            log,
        };
        paxos.take_place();
        if let Some(entry) = &recovered.ended_by {
            paxos.note_decided(entry);
        }
        let first = planted(Mutant::FirstLeaderAfterARestart) && accepted.round == 0;
        if (planted(Mutant::LeadsOnAfterARestart) || first)
            && paxos.acceptor.promised == accepted
            && accepted.node == me
        {
            paxos.lead(accepted, &BTreeMap::new());
        }
        Ok(paxos)
    }

    /// Puts a message of [`Output::Send`] into its envelope.
    pub fn envelope(&self, to: MemberId, message: Message) -> Envelope {
        Envelope {
            group: self.genesis.group,
            from: self.me,
            from_incarnation: self.identity.incarnation,
            to_incarnation: self
                .acquaintance(to)
                .map(|peer| peer.incarnation)
                .unwrap_or_default(),
            message,
        }
    }

    /// A message came. `from` is whom the transport authenticated. Whatever it says, nothing worse
    /// happens than that it is dropped and counted.
    pub fn handle_message(&mut self, now: Now, from: MemberId, envelope: Envelope) {
        if !self.enter(now) {
            return;
        }
        let known = self.acquaintance(from).is_some_and(|peer| {
            envelope.group == self.genesis.group
                && envelope.from == from
                && envelope.from_incarnation == peer.incarnation
                && envelope.to_incarnation == self.identity.incarnation
                && !peer.barred
        });
        if !known {
            self.counters.foreign_messages += 1;
            return;
        }
        if !self.peers.contains_key(&from) && !envelope.message.is_help() {
            // It does not know yet that it was removed.
            self.counters.stale_messages += 1;
            return;
        }
        match envelope.message {
            message @ (Message::Prepare { .. }
            | Message::AcceptSync { .. }
            | Message::Accept { .. }
            | Message::Transfer { .. }
            | Message::Confirm { .. }) => self.handle_from_leader(from, message),
            message @ (Message::Promise { .. }
            | Message::Refused { .. }
            | Message::Staged { .. }
            | Message::Accepted { .. }
            | Message::Gap { .. }
            | Message::Confirmed { .. }) => self.handle_from_follower(from, message),
            Message::Heartbeat(beat) => self.handle_heartbeat(from, beat),
            Message::Propose { commands, again } => self.handle_forwarded(from, commands, again),
            Message::NotTaken { id, reason } => self.handle_not_taken(from, id, reason),
            Message::ReadIndex { ids } => self.handle_read_request(from, ids),
            Message::ReadIndexes { ids, index } => self.handle_read_answer(from, &ids, index),
            Message::ReadRefused { ids } => self.handle_read_refused(from, &ids),
            Message::RepairRequest { headers } => self.handle_repair_request(from, &headers),
            Message::Repair { entries } => self.handle_repair(entries),
            Message::Compacted { slot, ballot } => self.handle_compacted(from, slot, ballot),
            Message::LearnRequest { after } => self.handle_learn_request(from, after),
            Message::Learn { entries } => self.handle_learn(from, entries),
        }
    }

    /// The write `io` and all before it are synced.
    pub fn handle_synced(&mut self, now: Now, io: Io) {
        if !self.enter(now) {
            return;
        }
        if !self.journal.sync(io) {
            self.counters.impossible_events += 1;
            return;
        }
        while let Some(effect) = self.journal.effect() {
            self.became_durable(effect);
        }
        self.vote(false);
        self.check_phase1();
    }

    /// What [`Output::Load`] asked for: entries in slot order from `from` on; fewer than asked for,
    /// or none, when they cannot be read.
    pub fn handle_loaded(&mut self, now: Now, ticket: Ticket, mut entries: Vec<Entry>) {
        if !self.enter(now) {
            return;
        }
        let Some(purpose) = self.loads.remove(&ticket) else {
            self.counters.impossible_events += 1;
            return;
        };
        // The log may have been cut since the question; what is no longer in it is of no use.
        let good = entries
            .windows(2)
            .take_while(|pair| pair[1].slot == pair[0].slot.next())
            .count();
        entries.truncate(good + 1);
        let fits = |entry: &Entry| self.log.ballot_at(entry.slot) == Some(entry.ballot);
        let good = entries.iter().take_while(|entry| fits(entry)).count();
        entries.truncate(good);
        // Readers stop when they have enough; a message must not hold more than that.
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            bytes += entry.weight();
            bytes <= self.settings.max_message_bytes
        });
        let fitting = fitting.count().max(1);
        entries.truncate(fitting);
        match purpose {
            LoadFor::Follower(member) => self.loaded_for_follower(member, ticket, entries),
            LoadFor::Promise(ballot) => self.loaded_for_promise(ballot, ticket, entries),
            LoadFor::Repair(member, header) => self.loaded_for_repair(member, header, entries),
            LoadFor::Learner(member) => self.loaded_for_learner(member, entries),
        }
    }

    /// The app has executed everything up to `slot` (the ledger says so). Called once right after
    /// [`Self::new`] too: what was applied was chosen (rule L4).
    pub fn handle_applied(&mut self, slot: Slot) {
        if slot > self.log.last() {
            self.counters.impossible_events += 1;
            return;
        }
        self.dirty = true;
        self.applied = self.applied.max(slot);
        self.raise_commit(slot);
    }

    /// The app stands still though something waits for it, or goes on again (rule E3).
    pub fn handle_app(&mut self, now: Now, stalled: bool) {
        if self.enter(now) {
            self.app_stalled = stalled;
            self.evaluate();
        }
    }

    /// The disk has no room for more commands, or has again (rule W4).
    pub fn handle_disk(&mut self, now: Now, full: bool) {
        if self.enter(now) {
            self.disk_full = full;
        }
    }

    /// The time of [`Self::poll_timeout`] has come. Too early or too often does no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.enter(now) {
            if self.now.mono_ns >= self.election.next_tick {
                self.tick();
            }
            self.evaluate();
        }
    }

    /// The next thing to do, `None` when there is nothing more until the next event.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.dirty && !self.ended {
            self.dirty = false;
            self.flush();
        }
        if self.ended {
            self.outputs.clear();
            return self.farewell.take();
        }
        self.outputs.pop_front()
    }

    /// What happened since the last flush, turned into work: one batch for everything that came in
    /// between (rule P2).
    fn flush(&mut self) {
        self.notice_leader();
        self.advance_commit();
        self.serve_entrance();
        self.replicate();
        self.serve_reads();
        self.persist();
        self.deliver();
        // Handed to apply or not: an entry that cannot be read may hold that up for ever, and what
        // is synced is read from the log then.
        let synced = self.acceptor.synced_last;
        self.log.evict(self.settings.cache_bytes, synced);
        self.check_invariants();
    }

    /// This member takes part no more.
    pub(crate) fn end(&mut self, farewell: Output) {
        self.resign();
        self.ended = true;
        self.farewell = Some(farewell);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes note of the time; false when this member must not act any more.
    pub(crate) fn enter(&mut self, now: Now) -> bool {
        self.now = Now {
            mono_ns: self.now.mono_ns.max(now.mono_ns),
            wall_ns: now.wall_ns,
        };
        self.dirty = true;
        !self.ended
    }

    /// Hands out the write that was being filled, unless the disk has enough to do, and then what
    /// depends on it.
    pub(crate) fn persist(&mut self) {
        self.hand_out(self.settings.max_persists as usize);
    }

    /// The same at once, though the disk has enough to do: it may wait for the very room that this
    /// write makes. One such write at a time.
    pub(crate) fn persist_now(&mut self) {
        let more = usize::from(self.journal.is_synced(self.urgent));
        let limit = self.settings.max_persists as usize + more;
        if let Some(io) = self.hand_out(limit) {
            self.urgent = io;
        }
    }

    fn hand_out(&mut self, limit: usize) -> Option<Io> {
        let commit = self.log.commit();
        let (io, records) = self.journal.take(self.now.mono_ns, limit, commit)?;
        self.outputs.push_back(Output::Persist { io, records });
        while self.held.front().is_some_and(|(needed, ..)| *needed <= io) {
            if let Some((needed, to, lane, message)) = self.held.pop_front() {
                self.outputs.push_back(Output::Send {
                    to,
                    lane,
                    message,
                    after: Some(needed),
                });
            }
        }
        Some(io)
    }

    pub(crate) fn send(&mut self, to: MemberId, lane: Lane, message: Message) {
        self.outputs.push_back(Output::Send {
            to,
            lane,
            message,
            after: None,
        });
    }

    /// Sends what depends on `io`. The write is handed out first, so that the shell knows it.
    pub(crate) fn send_after(&mut self, to: MemberId, lane: Lane, message: Message, io: Io) {
        self.persist();
        if !self.journal.is_handed_out(io) {
            self.held.push_back((io, to, lane, message));
            return;
        }
        let after = (!self.journal.is_synced(io)).then_some(io);
        self.outputs.push_back(Output::Send {
            to,
            lane,
            message,
            after,
        });
    }

    /// Asks for entries that are no longer in memory.
    pub(crate) fn load(&mut self, purpose: LoadFor, from: Slot, through: Slot) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket = Ticket(ticket.0 + 1);
        self.loads.insert(ticket, purpose);
        self.outputs.push_back(Output::Load {
            ticket,
            from,
            through,
            max_bytes: self.settings.max_message_bytes,
        });
        ticket
    }

    /// Such a load is under way.
    pub(crate) fn is_loading(&self, purpose: LoadFor) -> bool {
        self.loads.values().any(|it| *it == purpose)
    }

    /// Loads under way for repairs of others.
    pub(crate) fn repair_loads(&self) -> usize {
        self.loads
            .values()
            .filter(|purpose| matches!(purpose, LoadFor::Repair(..)))
            .count()
    }

    pub(crate) fn phase1(&self) -> usize {
        let quorum = self.configuration().quorums.phase1(self.voters.len());
        if planted(Mutant::Phase1OfTooFew) && quorum > 1 {
            return quorum - 1;
        }
        quorum
    }

    pub(crate) fn phase2(&self) -> usize {
        let quorum = self.configuration().quorums.phase2(self.voters.len());
        if planted(Mutant::Phase2OfTooFew) && quorum > 1 {
            return quorum - 1;
        }
        quorum
    }

    pub(crate) fn is_voter(&self, member: MemberId) -> bool {
        self.voters.contains(&member)
    }

    /// This member's number.
    pub fn member(&self) -> MemberId {
        self.me
    }

    /// This start's number.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// The group's first record.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// What this member is doing.
    pub fn standing(&self) -> Standing {
        match self.office {
            Office::Follower => Standing::Follower,
            Office::Candidate(_) => Standing::Candidate,
            Office::Leader(_) => Standing::Leader,
        }
    }

    /// Its promise, synced or not.
    pub fn promised(&self) -> Ballot {
        self.acceptor.promised
    }

    /// The ballot that its log was adopted in, synced or not.
    pub fn accepted(&self) -> Ballot {
        self.acceptor.accepted
    }

    /// First slot held.
    pub fn first(&self) -> Slot {
        self.log.first()
    }

    /// Last slot held, synced or not.
    pub fn last(&self) -> Slot {
        self.log.last()
    }

    /// Last slot held that is synced.
    pub fn synced(&self) -> Slot {
        self.acceptor.synced_last
    }

    /// Last slot known to be chosen.
    pub fn commit(&self) -> Slot {
        self.log.commit()
    }

    /// Last slot that the app has executed.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// The ballot of the entry at `slot`, if it is held.
    pub fn ballot_at(&self, slot: Slot) -> Option<Ballot> {
        self.log.ballot_at(slot)
    }

    /// The entry at `slot`, if it is in memory.
    pub fn entry(&self, slot: Slot) -> Option<&Entry> {
        self.log.entry(slot)
    }
}
