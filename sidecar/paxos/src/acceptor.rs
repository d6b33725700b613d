//! The acceptor: promises, adopts, accepts, votes. Messages of proposers come in; promises and votes
//! go out, each only after what it says is synced.

use synod_mutant::{Mutant, planted};

use crate::journal::Effect;
use crate::message::{Lane, Message};
use crate::output::Io;
use crate::paxos::{Office, Paxos};
use crate::promise::Promising;
use crate::record::Record;
use crate::staging::Staging;
use crate::types::{Ballot, Entry, MemberId, Slot};

/// The acceptor's part of the state.
#[derive(Debug)]
pub(crate) struct Acceptor {
    pub(crate) promised: Ballot,
    pub(crate) accepted: Ballot,
    /// The same, and the end of the log, as far as synced.
    pub(crate) synced_promised: Ballot,
    pub(crate) synced_accepted: Ballot,
    pub(crate) synced_last: Slot,
    /// The greatest log that the disk has held: while an adoption is on its way there, still the one
    /// before it.
    pub(crate) kept: (Ballot, Slot),
    /// The write that holds `promised`.
    pub(crate) promise_io: Io,
    /// Highest slot voted for in `accepted`.
    voted: Option<Slot>,
    staging: Option<Staging>,
    pub(crate) promising: Option<Promising>,
}

impl Acceptor {
    /// `kept` as recovered.
    pub(crate) fn new(
        promised: Ballot,
        accepted: Ballot,
        last: Slot,
        kept: (Ballot, Slot),
    ) -> Self {
        Self {
            promised,
            accepted,
            synced_promised: promised,
            synced_accepted: accepted,
            synced_last: last,
            kept: kept.max((accepted, last)),
            promise_io: Io(0),
            voted: None,
            staging: None,
            promising: None,
        }
    }

    /// Entries up to `slot` are gone: a promise that was about to tell of them is asked for again.
    pub(crate) fn forget(&mut self, slot: Slot) {
        self.promising.take_if(|promising| promising.tells_of(slot));
    }

    /// The log begins anew behind `slot`, once that is synced.
    pub(crate) fn begin_anew(&mut self, slot: Slot) {
        self.synced_last = self.synced_last.min(slot);
        self.voted = None;
        self.staging = None;
        self.promising = None;
    }

    /// Nobody has proposed anything in the epoch that begins; the write `io` holds it.
    pub(crate) fn begin_epoch(&mut self, ballot: Ballot, io: Io) {
        assert!(ballot > self.promised, "I1: a promise only rises");
        self.promised = ballot;
        self.accepted = ballot;
        self.promise_io = io;
        self.voted = None;
        self.staging = None;
        self.promising = None;
    }

    /// How far the log that is being adopted in `ballot` is on disk.
    pub(crate) fn staged_through(&self, ballot: Ballot) -> Option<Slot> {
        let staging = self.staging.as_ref()?;
        (staging.ballot == ballot).then_some(staging.synced)
    }

    /// Something of the log that is being adopted in `ballot` is with the disk.
    pub(crate) fn is_staging(&self, ballot: Ballot) -> bool {
        self.staging.as_ref().is_some_and(|staging| {
            staging.ballot == ballot && staging.written > Some(staging.synced)
        })
    }

    /// Takes out the log that is being adopted in `ballot`.
    pub(crate) fn take_staging(&mut self, ballot: Ballot) -> Option<Staging> {
        self.staging.take_if(|staging| staging.ballot == ballot)
    }
}

impl Paxos {
    /// Messages that only a proposer of their ballot sends.
    pub(crate) fn handle_from_leader(&mut self, from: MemberId, message: Message) {
        let ballot = match &message {
            Message::Prepare { ballot, .. }
            | Message::AcceptSync { ballot, .. }
            | Message::Accept { ballot, .. }
            | Message::Transfer { ballot }
            | Message::Confirm { ballot, .. } => *ballot,
            _ => return,
        };
        let epoch = self.epoch();
        if ballot.epoch != epoch {
            // One of us does not know yet that its epoch has ended: the heartbeats tell.
            self.counters.stale_messages += 1;
            return;
        }
        let first = self.configuration().first_leader;
        if ballot.node != from
            || !ballot.is_elected()
            || !ballot.is_of(epoch)
            || !self.is_voter(from)
            || (ballot.round == 0 && from != first)
        {
            self.counters.impossible_messages += 1;
            return;
        }
        self.election.note(ballot);
        if ballot < self.acceptor.promised && !planted(Mutant::OldBallotsAreTaken) {
            self.refuse(from, ballot, &message);
            return;
        }
        match message {
            Message::Prepare {
                accepted,
                last,
                commit,
                handed_over,
                ..
            } => self.handle_prepare(ballot, (accepted, last, commit), handed_over),
            _ if ballot > self.acceptor.promised => {
                // Its Prepare got lost; it will come again.
                self.counters.stale_messages += 1;
            }
            Message::AcceptSync {
                after,
                part,
                entries,
                last,
                commit,
                ..
            } => self.handle_accept_sync(ballot, part, (after, last, commit), entries),
            Message::Accept {
                previous,
                previous_ballot,
                entries,
                commit,
                ..
            } => self.handle_accept(ballot, (previous, previous_ballot), entries, commit),
            Message::Transfer { .. } => self.handle_transfer(ballot),
            Message::Confirm { round, .. } => {
                let confirmed = Message::Confirmed { ballot, round };
                self.send(from, Lane::Heartbeat, confirmed);
            }
            _ => {}
        }
    }

    /// Says that a higher ballot was promised; a Prepare or Accept in vain is worth an answer.
    fn refuse(&mut self, to: MemberId, ballot: Ballot, message: &Message) {
        self.counters.stale_messages += 1;
        let promised = self.acceptor.promised;
        let io = self.acceptor.promise_io;
        let lane = match message {
            Message::Confirm { .. } => Lane::Heartbeat,
            _ => Lane::Log,
        };
        self.send_after(to, lane, Message::Refused { ballot, promised }, io);
    }

    /// Takes `ballot` as the lowest one that may still be accepted (I1).
    pub(crate) fn promise(&mut self, ballot: Ballot) {
        assert!(ballot > self.acceptor.promised, "I1: a promise only rises");
        self.acceptor.promised = ballot;
        // A higher promise throws away what was staged for a lower one (rule L1b).
        if !planted(Mutant::StagingOutlivesAPromise) {
            self.acceptor.staging = None;
        }
        self.acceptor.promising = None;
        self.acceptor.promise_io = self
            .journal
            .record(Record::Promise(ballot), Effect::Promised(ballot));
        self.election.note(ballot);
    }

    /// Rule L1a, L1b: stage, and adopt once all is there.
    fn handle_accept_sync(
        &mut self,
        ballot: Ballot,
        part: u32,
        (after, last, commit): (Slot, Slot, Slot),
        entries: Vec<Entry>,
    ) {
        if self.acceptor.accepted == ballot {
            self.vote(true);
            return;
        }
        let contiguous = entries
            .windows(2)
            .all(|pair| pair[1].slot == pair[0].slot.next());
        let bounds = (entries.first().map(|entry| entry.slot), entries.last());
        let inside = match bounds {
            (Some(first), Some(end)) => first > after && end.slot <= last,
            _ => true,
        };
        let ballots = entries.iter().all(|entry| entry.ballot <= ballot)
            && self.nothing_follows_a_stop_sign(&entries, last);
        if !contiguous || !inside || !ballots || last < after || last < self.log.commit() {
            self.counters.impossible_messages += 1;
            return;
        }
        let continues = |staging: &Staging| staging.continues(ballot, after, last);
        if !self.acceptor.staging.as_ref().is_some_and(continues) {
            // Behind a snapshot this log may end before what it had when it promised.
            if part != 0 || after > self.log.last() {
                let through = Slot::ZERO;
                self.send(ballot.node, Lane::Log, Message::Staged { ballot, through });
                return;
            }
            self.acceptor.staging = Some(Staging::new(ballot, after, last, commit));
        }
        self.stage(entries, commit);
        self.adopt_if_ready();
    }

    /// Gives the part to the disk. What is here already is passed over.
    fn stage(&mut self, entries: Vec<Entry>, commit: Slot) {
        let held = self.log.commit();
        let Some(staging) = &mut self.acceptor.staging else {
            return;
        };
        let chosen = staging.commit;
        staging.commit = staging.commit.max(commit.min(staging.last));
        // Chosen entries of a staged log may leave memory: their commands are resolved before.
        for entry in &staging.tail {
            if entry.slot > chosen && entry.slot <= staging.commit {
                self.entrance
                    .resolve(entry.command.id, entry.slot, &mut self.outputs);
            }
        }
        let ballot = staging.ballot;
        let before = staging.next;
        let known = entries.last().is_some_and(|entry| entry.slot < before);
        if known {
            // The leader sends again what is here: the answer got lost.
            let through = staging.synced;
            self.send(ballot.node, Lane::Log, Message::Staged { ballot, through });
            return;
        }
        for entry in entries {
            if entry.slot < staging.next {
                continue;
            }
            if entry.slot > staging.next {
                self.counters.stale_messages += 1;
                let through = staging.synced;
                self.send(ballot.node, Lane::Log, Message::Staged { ballot, through });
                return;
            }
            if entry.slot <= held && staging.written.is_none() {
                let held = self.log.ballot_at(entry.slot);
                // (None: it is forgotten here, and chosen.)
                if held.is_some_and(|held| held != entry.ballot) {
                    self.counters.impossible_messages += 1;
                    self.acceptor.staging = None;
                    return;
                }
                staging.skip(entry.slot);
                continue;
            }
            if entry.slot <= staging.commit {
                self.entrance
                    .resolve(entry.command.id, entry.slot, &mut self.outputs);
            }
            let through = entry.slot;
            self.journal.record(
                Record::Stage {
                    ballot,
                    entry: entry.clone(),
                },
                Effect::Staged { ballot, through },
            );
            staging.push(entry, self.settings.cache_bytes);
        }
    }

    /// One record cuts, installs and sets `accepted` together (rule L1a).
    fn adopt_if_ready(&mut self) {
        let Some(mut staging) = self.acceptor.staging.take_if(|staging| staging.is_ready()) else {
            return;
        };
        let keep = staging.after.max(self.log.commit());
        let proposer = staging.ballot.node;
        staging.trim(keep);
        self.adopt(staging, keep);
        self.persist();
        if proposer == self.me && matches!(self.office, Office::Candidate(_)) {
            self.won();
        }
    }

    /// The candidate takes the same way with the log that it chose.
    pub(crate) fn stage_own(&mut self, staging: Staging) {
        assert_eq!(staging.ballot.node, self.me, "its own ballot");
        self.acceptor.staging = Some(staging);
        self.adopt_if_ready();
    }

    /// Adopts the staged log of `staging.ballot` behind `keep`.
    pub(crate) fn adopt(&mut self, staging: Staging, keep: Slot) {
        let (ballot, last) = (staging.ballot, staging.last);
        assert_eq!(ballot, self.acceptor.promised, "adopted as promised");
        assert!(ballot > self.acceptor.accepted, "adopted once");
        assert!(keep >= self.log.commit(), "a committed entry is never cut");
        let commit = self.log.commit().max(staging.commit.min(last));
        // What is kept and chosen may leave memory with the installation. (What is staged and
        // chosen is resolved already.)
        self.raise_commit(commit.min(keep));
        if self.acceptor.promised != ballot {
            // What is kept ends the epoch, and is chosen.
            return;
        }
        self.log.install(
            keep,
            last,
            &staging.runs,
            staging.time,
            commit,
            staging.tail,
        );
        self.faulty.cut(keep);
        self.clock.stamped(self.now.mono_ns, self.log.time());
        self.acceptor.accepted = ballot;
        self.acceptor.voted = None;
        // What is left of the promise tells of a log that is no more.
        self.acceptor.promising = None;
        self.acceptor.synced_last = self.acceptor.synced_last.min(keep);
        let from = keep.next();
        self.journal.record(
            Record::Adopt { ballot, from, last },
            Effect::Log {
                accepted: ballot,
                last,
            },
        );
        for (slot, version) in staging.upgrades {
            if slot > keep && slot <= commit {
                self.raise_protocol(slot, version);
            }
        }
        self.enter_if_decided();
    }

    /// Rule P1b: taken only in the ballot promised and adopted, behind what is there.
    fn handle_accept(
        &mut self,
        ballot: Ballot,
        (previous, previous_ballot): (Slot, Ballot),
        entries: Vec<Entry>,
        commit: Slot,
    ) {
        if self.acceptor.accepted != ballot {
            self.counters.stale_messages += 1;
            return;
        }
        let last = self.log.last();
        if previous > last {
            self.send(ballot.node, Lane::Log, Message::Gap { ballot, last });
            return;
        }
        let held = |slot, ballot| self.log.ballot_at(slot).is_none_or(|held| held == ballot);
        // What is sent again must join too: behind a snapshot the log need not be this leader's.
        let joint = entries.iter().find(|entry| entry.slot == last);
        let joins = held(previous, previous_ballot)
            && joint.is_none_or(|entry| held(entry.slot, entry.ballot));
        let numbered = entries
            .iter()
            .zip(previous.0 + 1..)
            .all(|(entry, slot)| entry.slot == Slot(slot) && entry.ballot <= ballot);
        let new = entries.iter().filter(|entry| entry.slot > last);
        let end = entries.last().map_or(last, |entry| entry.slot);
        let closed = end > last && self.is_closed();
        if closed || !self.nothing_follows_a_stop_sign(&entries, end) {
            self.counters.impossible_messages += 1;
            return;
        }
        if !joins || !numbered || new.clone().any(|entry| entry.ballot != ballot) {
            self.counters.impossible_messages += 1;
            return;
        }
        let again = entries.first().is_some_and(|entry| entry.slot <= last);
        for entry in entries {
            if entry.slot > last {
                self.append(entry);
            }
        }
        // The leader's own word, and all of this log is its log (rule L4).
        self.raise_commit(commit.min(self.log.last()));
        if again {
            self.vote(true);
        }
    }

    /// Adds an entry proposed in `accepted` behind the log and gives it to the disk.
    pub(crate) fn append(&mut self, entry: Entry) {
        let accepted = self.acceptor.accepted;
        assert_eq!(entry.ballot, accepted, "appended in the ballot adopted");
        assert_eq!(accepted, self.acceptor.promised, "P1b: not below a promise");
        assert!(
            !self.is_closed(),
            "I11: a stop-sign is the last of its epoch"
        );
        let last = entry.slot;
        self.log.append(entry.clone());
        self.journal
            .record(Record::Append(entry), Effect::Log { accepted, last });
        self.clock.stamped(self.now.mono_ns, self.log.time());
    }

    /// Everything up to `slot` is chosen; the caller knows it by rule L4. Own commands are resolved
    /// here, before anything of them can be handed to apply: an entry that is not known to be chosen
    /// is in memory, or is older than this start.
    pub(crate) fn raise_commit(&mut self, slot: Slot) {
        let before = self.log.commit();
        self.log.raise_commit(slot);
        let commit = self.log.commit();
        let mut upgrades = Vec::new();
        for entry in self.log.after(before) {
            if entry.slot > commit {
                break;
            }
            self.entrance
                .resolve(entry.command.id, entry.slot, &mut self.outputs);
            if let Some(version) = entry.command.upgrades_to() {
                upgrades.push((entry.slot, version));
            }
        }
        for (slot, version) in upgrades {
            self.raise_protocol(slot, version);
        }
        self.enter_if_decided();
    }

    /// A write is synced: what it made true.
    pub(crate) fn became_durable(&mut self, effect: Effect) {
        match effect {
            Effect::Promised(ballot) => {
                assert!(ballot <= self.acceptor.promised, "synced after promised");
                self.acceptor.synced_promised = ballot;
                self.promise_synced(ballot);
            }
            Effect::Log { accepted, last } => {
                self.acceptor.synced_accepted = accepted;
                self.acceptor.kept = self.acceptor.kept.max((accepted, last));
                // Appends of an older ballot may have been cut since, or all of them by a snapshot.
                let replaced = self.installing.is_some_and(|it| it.cut);
                if accepted == self.acceptor.accepted && !replaced {
                    assert!(last <= self.log.last(), "synced after appended");
                    self.acceptor.synced_last = self.acceptor.synced_last.max(last);
                }
            }
            Effect::Staged { ballot, through } => self.staged(ballot, through),
            Effect::Repaired(slot) => self.faulty.repaired(slot),
            Effect::Based(slot) => self.based(slot),
            Effect::Entered { ballot, last } => self.entered(ballot, last),
            Effect::Nothing => {}
        }
    }

    fn staged(&mut self, ballot: Ballot, through: Slot) {
        let Some(staging) = &mut self.acceptor.staging else {
            return;
        };
        if staging.ballot != ballot {
            return;
        }
        let written = staging.written.unwrap_or(staging.synced);
        staging.synced = staging.synced.max(through.min(written));
        if ballot.node == self.me {
            self.own_staged();
        } else if !staging.is_ready() {
            let through = staging.synced;
            self.send(ballot.node, Lane::Log, Message::Staged { ballot, through });
        }
        self.adopt_if_ready();
    }

    /// How far this member can vote for its log: synced, and not at or beyond an uncommitted entry
    /// that it cannot read (rule W2). `None` while it may not vote at all (rule P1b).
    pub(crate) fn votable(&self) -> Option<Slot> {
        let Acceptor {
            promised,
            accepted,
            synced_accepted,
            synced_last,
            ..
        } = self.acceptor;
        let adopted = synced_accepted == accepted || planted(Mutant::VoteBeforeAdoptionIsSynced);
        if promised != accepted || !adopted || !accepted.is_elected() {
            return None;
        }
        if planted(Mutant::VoteBeforeSync) {
            return Some(self.log.last());
        }
        let readable = self
            .faulty
            .first_after(self.log.commit())
            .filter(|_| !planted(Mutant::VoteBeyondRot))
            .map_or(synced_last, Slot::prev);
        Some(readable.min(synced_last))
    }

    /// Tells the leader how far this member has accepted, if that is news or `again` is set.
    pub(crate) fn vote(&mut self, again: bool) {
        let leader = self.acceptor.accepted.node;
        if !self.peers.contains_key(&leader) || matches!(self.office, Office::Leader(_)) {
            return;
        }
        // (One that passes through epochs before its time, or after it, has no say in them.)
        if self.removed().is_some() || self.configuration().member(self.me).is_none() {
            return;
        }
        let Some(slot) = self.votable() else { return };
        if !again && self.acceptor.voted.is_some_and(|voted| slot <= voted) {
            return;
        }
        self.acceptor.voted = self.acceptor.voted.max(Some(slot));
        let ballot = self.acceptor.accepted;
        self.send(leader, Lane::Log, Message::Accepted { ballot, slot });
    }
}
