//! Phase 2: the leader sends its log to the followers, counts their votes and commits.

use std::collections::{BTreeMap, VecDeque};

use synod_mutant::{Mutant, planted};

use crate::follower::{Follower, Progress};
use crate::log::Batch;
use crate::message::{Lane, Message};
use crate::output::Ticket;
use crate::paxos::{LoadFor, Office, Paxos};
use crate::proposed::Proposed;
use crate::quorum::reached;
use crate::reads::Rounds;
use crate::transfer::Transfer;
use crate::types::{Ballot, Command, Entry, MemberId, Slot};

/// A ballot in phase 2.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) ballot: Ballot,
    /// The ballot that the adopted log was accepted in, and its last slot (rule L1b).
    adopted: Ballot,
    adopted_last: Slot,
    pub(crate) followers: BTreeMap<MemberId, Follower>,
    pub(crate) transfer: Option<Transfer>,
    /// Commands of other entrances that came while none could be proposed.
    pub(crate) queue: VecDeque<Command>,
    pub(crate) queued_bytes: u64,
    /// Commands of other entrances that are in the log or in the queue.
    pub(crate) proposed: Proposed,
    /// When this began.
    since_ns: u64,
    /// Since when too few voters follow; `None` while enough do.
    alone_since_ns: Option<u64>,
    pub(crate) rounds: Rounds,
    /// Reused by the count of votes.
    votes: Vec<Slot>,
}

impl Leader {
    /// No entry of this ballot below: a read index is given only above it (rule L3).
    pub(crate) fn first_own(&self) -> Slot {
        self.adopted_last.next()
    }
}

impl Paxos {
    /// Begins to lead in the ballot just adopted. `promises` are `(accepted, last, commit)`.
    pub(crate) fn lead(
        &mut self,
        adopted: Ballot,
        promises: &BTreeMap<MemberId, (Ballot, Slot, Slot)>,
    ) {
        let ballot = self.acceptor.accepted;
        assert_eq!(ballot, self.acceptor.promised, "leads as promised");
        assert_eq!(ballot.node, self.me, "leads in its own ballot");
        let now_ns = self.now.mono_ns;
        let followers = self
            .peers
            .keys()
            .map(|member| (*member, Follower::new(now_ns)))
            .collect();
        let mut proposed = Proposed::default();
        for entry in self.log.after(self.log.commit()) {
            proposed.note(&entry.command);
        }
        self.office = Office::Leader(Box::new(Leader {
            ballot,
            adopted,
            adopted_last: self.log.last(),
            followers,
            transfer: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            proposed,
            since_ns: now_ns,
            alone_since_ns: None,
            rounds: Rounds::default(),
            votes: Vec::new(),
        }));
        self.counters.elections_won += 1;
        self.election.takeover.close();
        self.election.handover.begin();
        // What waits at this entrance is proposed first; a Noop if nothing does (rule L3).
        self.notice_leader();
        self.serve_entrance();
        for (member, (accepted, last, commit)) in promises {
            self.promised_late(*member, *accepted, *last, *commit);
        }
        self.evaluate();
    }

    /// New commands may be put into the log: neither leadership nor the epoch is on its way out, the
    /// time is known.
    pub(crate) fn may_propose(&self) -> bool {
        let Office::Leader(leader) = &self.office else {
            return false;
        };
        let patient = self.now.mono_ns < leader.since_ns + self.election.timeout_ns;
        let open = leader.transfer.is_none()
            && (!self.is_closed() || planted(Mutant::ProposalsBehindAStopSign));
        open && self.clock.is_set(self.now.mono_ns, patient)
    }

    /// A fresh leader that has nothing to propose proposes a Noop (rule L3).
    pub(crate) fn propose_noop(&mut self) {
        if let Office::Leader(leader) = &self.office
            && self.log.last() < leader.first_own()
        {
            self.append_command(Command::default());
        }
    }

    /// Notes whether enough voters follow; says for how long they have not, in nanoseconds.
    pub(crate) fn alone_for_ns(&mut self) -> u64 {
        let followed = self.has_quorum();
        let now_ns = self.now.mono_ns;
        match &mut self.office {
            Office::Leader(leader) if followed => {
                leader.alone_since_ns = None;
                0
            }
            Office::Leader(leader) => now_ns - *leader.alone_since_ns.get_or_insert(now_ns),
            _ => 0,
        }
    }

    /// This follower has promised this leader's ballot.
    pub(crate) fn has_promised(&self, member: MemberId) -> bool {
        match &self.office {
            Office::Leader(leader) => leader
                .followers
                .get(&member)
                .is_some_and(|follower| follower.progress != Progress::Unpromised),
            _ => false,
        }
    }

    /// Puts a command into the log with the leader's stamps (rule P5).
    pub(crate) fn append_command(&mut self, command: Command) {
        let entry = Entry {
            slot: self.log.last().next(),
            ballot: self.acceptor.accepted,
            time: self.stamp(),
            seed: self.rng.next_u128(),
            command,
        };
        self.append(entry);
    }

    /// A promise is answered with the log, whenever it comes (rule L2).
    pub(crate) fn promised_late(
        &mut self,
        from: MemberId,
        accepted: Ballot,
        last: Slot,
        commit: Slot,
    ) {
        let end = self.log.last();
        let first = self.log.first();
        let now_ns = self.now.mono_ns;
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let adopted = accepted == leader.adopted || planted(Mutant::TailIsKept);
        let same = adopted.then(|| last.min(leader.adopted_last));
        // (Behind a snapshot a commit may be beyond the log that was adopted.)
        let after = same.map_or(commit, |same| same.max(commit));
        // What it knows to be chosen is in this log.
        if commit > end {
            self.counters.impossible_messages += 1;
            return;
        }
        let Some(follower) = leader.followers.get_mut(&from) else {
            return;
        };
        match follower.progress {
            Progress::Unpromised if after < first.prev() => {
                // It promises again once it has a snapshot.
                if !std::mem::replace(&mut follower.told_compacted, true) {
                    self.tell_compacted(from);
                }
            }
            Progress::Unpromised => follower.sync(after, end, now_ns),
            // It asks again: what was sent may be lost; the tick sees to it.
            Progress::Syncing { .. } | Progress::Streaming => self.counters.stale_messages += 1,
        }
    }

    /// Answers of followers.
    pub(crate) fn handle_from_follower(&mut self, from: MemberId, message: Message) {
        match message {
            Message::Promise { .. } => self.handle_promise(from, message),
            Message::Refused { ballot, promised } => self.handle_refused(from, ballot, promised),
            Message::Staged { ballot, through } if ballot.node == from => {
                self.promise_taken(ballot, through);
            }
            Message::Staged { ballot, through } => self.handle_staged(from, ballot, through),
            Message::Accepted { ballot, slot } => self.handle_accepted(from, ballot, slot),
            Message::Gap { ballot, last } => self.handle_gap(from, ballot, last),
            Message::Confirmed { ballot, round } => self.handle_confirmed(from, ballot, round),
            _ => {}
        }
    }

    /// The follower of `ballot`, if this member leads in it.
    fn follower(&mut self, ballot: Ballot, member: MemberId) -> Option<&mut Follower> {
        match &mut self.office {
            Office::Leader(leader)
                if leader.ballot == ballot || planted(Mutant::VotesOfOldBallots) =>
            {
                leader.followers.get_mut(&member)
            }
            _ => {
                self.counters.stale_messages += 1;
                None
            }
        }
    }

    fn handle_accepted(&mut self, from: MemberId, ballot: Ballot, slot: Slot) {
        let (end, now_ns) = (self.log.last(), self.now.mono_ns);
        let Some(follower) = self.follower(ballot, from) else {
            return;
        };
        if slot > end {
            self.counters.impossible_messages += 1;
            return;
        }
        let begins_behind = match follower.progress {
            // It has entered the epoch, and so has this log up to where that begins; or it has adopted this
            // log when that was sent, and could not say so before the start of it was forgotten here. What
            // it has synced of a ballot's log it keeps (rule P1).
            Progress::Unpromised => Some(slot),
            Progress::Syncing { last, .. } => Some(last),
            Progress::Streaming => None,
        };
        if let Some(last) = begins_behind {
            follower.progress = Progress::Streaming;
            follower.rewind(last);
        }
        if begins_behind.is_some() || slot > follower.acknowledged {
            follower.acknowledged = slot;
            follower.arrived(slot, now_ns);
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.remembered.note_log(ballot, slot);
        }
    }

    /// Part of the log is on the follower's disk, or none of it is known there.
    fn handle_staged(&mut self, from: MemberId, ballot: Ballot, through: Slot) {
        let (first, now_ns) = (self.log.first(), self.now.mono_ns);
        let interval_ns = self.election.interval_ns();
        let Some(follower) = self.follower(ballot, from) else {
            return;
        };
        let Progress::Syncing { after, last, .. } = follower.progress else {
            if follower.progress == Progress::Unpromised {
                // It waits for the question that it promises upon.
                follower.moved_at_ns = 0;
            }
            self.counters.stale_messages += 1;
            return;
        };
        if through > last {
            self.counters.impossible_messages += 1;
        } else if through > follower.acknowledged.max(after) {
            follower.acknowledged = through;
            follower.arrived(through, now_ns);
        } else if through == Slot::ZERO
            && (follower.next < first || now_ns >= follower.began_at_ns + interval_ns)
        {
            follower.acknowledged = Slot::ZERO;
            // Its log may be another one now, behind a snapshot: it promises again.
            follower.progress = Progress::Unpromised;
            follower.moved_at_ns = 0;
            self.counters.rewinds += 1;
        } else {
            follower.said = Some(through);
        }
    }

    fn handle_gap(&mut self, from: MemberId, ballot: Ballot, last: Slot) {
        let end = self.log.last();
        let Some(follower) = self.follower(ballot, from) else {
            return;
        };
        let known = follower.rewound_to == Some(last) || last.next() >= follower.next;
        if follower.progress != Progress::Streaming || known {
            self.counters.stale_messages += 1;
            return;
        }
        if last > end {
            self.counters.impossible_messages += 1;
            return;
        }
        follower.rewound_to = Some(last);
        follower.rewind(last.max(follower.acknowledged));
        self.counters.rewinds += 1;
    }

    /// Counts the votes of this ballot (rule P4). The leader's own counts as far as it is synced.
    pub(crate) fn advance_commit(&mut self) {
        let own = if planted(Mutant::OwnVoteBeforeOwnSync) {
            Some(self.log.last())
        } else {
            self.votable()
        };
        let quorum = self.phase2();
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        leader.votes.clear();
        for voter in &self.voters {
            let vote = if *voter == self.me {
                own
            } else {
                leader
                    .followers
                    .get(voter)
                    .filter(|follower| follower.progress == Progress::Streaming)
                    .map(|follower| follower.acknowledged)
            };
            leader.votes.extend(vote);
        }
        let commit = reached(&mut leader.votes, quorum);
        if commit > self.log.commit() {
            self.raise_commit(commit);
        }
    }

    /// Sends to each follower what it may be sent, new entries before their own sync (rule P1).
    pub(crate) fn replicate(&mut self) {
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let ballot = leader.ballot;
        let mut followers = std::mem::take(&mut leader.followers);
        for (member, follower) in &mut followers {
            match follower.progress {
                Progress::Unpromised => {}
                Progress::Syncing { .. } => self.send_log(ballot, *member, follower),
                Progress::Streaming => self.send_entries(ballot, *member, follower),
            }
        }
        if let Office::Leader(leader) = &mut self.office {
            leader.followers = followers;
        }
        self.continue_transfer();
    }

    /// The next entries for a follower, up to `through`. `None`: nothing can be sent now.
    fn next_entries(
        &mut self,
        member: MemberId,
        follower: &mut Follower,
        through: Slot,
    ) -> Option<Vec<Entry>> {
        if follower.next < self.log.first() {
            if !std::mem::replace(&mut follower.told_compacted, true) {
                self.tell_compacted(member);
            }
            return None;
        }
        let reachable = self
            .peers
            .get(&member)
            .is_some_and(|peer| peer.is_heard(self.now.mono_ns, 2 * self.election.timeout_ns));
        if !reachable
            || follower.loading.is_some()
            || (follower.in_flight_bytes >= self.settings.window_bytes
                && !planted(Mutant::NoWindow))
        {
            return None;
        }
        if follower.is_idle() {
            // It was up to date until now: its silence counts from here.
            follower.moved_at_ns = self.now.mono_ns;
        }
        let max_bytes = self.settings.max_message_bytes;
        match self.log.batch(follower.next, through, max_bytes) {
            Batch::Entries(entries) => Some(entries),
            Batch::Faulty => None,
            Batch::OnDisk => {
                let purpose = LoadFor::Follower(member);
                follower.loading = Some(self.load(purpose, follower.next, through));
                None
            }
        }
    }

    pub(crate) fn loaded_for_follower(
        &mut self,
        member: MemberId,
        ticket: Ticket,
        mut entries: Vec<Entry>,
    ) {
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let ballot = leader.ballot;
        let Some(mut follower) = leader.followers.remove(&member) else {
            return;
        };
        if follower.loading == Some(ticket) {
            follower.loading = None;
            let fits = entries
                .first()
                .is_some_and(|entry| entry.slot == follower.next);
            match follower.progress {
                Progress::Syncing { last, .. } if fits => {
                    entries.retain(|entry| entry.slot <= last);
                    self.send_part(ballot, member, &mut follower, entries);
                }
                Progress::Streaming if fits => {
                    self.send_accept(ballot, member, &mut follower, entries);
                }
                // It cannot be read now; the tick asks again.
                _ => follower.loading = Some(ticket),
            }
        }
        if let Office::Leader(leader) = &mut self.office {
            leader.followers.insert(member, follower);
        }
    }

    /// Parts of the whole log, as far as the window goes.
    fn send_log(&mut self, ballot: Ballot, member: MemberId, follower: &mut Follower) {
        while let Progress::Syncing {
            last, done: false, ..
        } = follower.progress
        {
            let entries = if follower.next > last {
                Vec::new()
            } else {
                match self.next_entries(member, follower, last) {
                    Some(entries) => entries,
                    None => return,
                }
            };
            self.send_part(ballot, member, follower, entries);
        }
    }

    fn send_part(
        &mut self,
        ballot: Ballot,
        member: MemberId,
        follower: &mut Follower,
        entries: Vec<Entry>,
    ) {
        let commit = self.log.commit();
        let Progress::Syncing {
            after,
            last,
            part,
            done,
        } = &mut follower.progress
        else {
            return;
        };
        let end = entries.last().map(|entry| entry.slot);
        *done = end.is_none_or(|end| end == *last);
        let message = Message::AcceptSync {
            ballot,
            after: *after,
            part: *part,
            done: *done,
            last: *last,
            commit,
            commit_ballot: self.log.ballot_at(commit).unwrap_or_default(),
            entries,
        };
        *part += 1;
        if let (Some(end), Message::AcceptSync { entries, .. }) = (end, &message) {
            follower.sent(end, entries.iter().map(Entry::weight).sum());
        }
        follower.sent_commit = commit;
        self.send(member, Lane::Log, message);
    }

    /// New entries as far as the window goes, and the commit if it is news.
    fn send_entries(&mut self, ballot: Ballot, member: MemberId, follower: &mut Follower) {
        while follower.next <= self.log.last() {
            let Some(entries) = self.next_entries(member, follower, self.log.last()) else {
                break;
            };
            self.send_accept(ballot, member, follower, entries);
        }
        if self.log.commit() > follower.sent_commit && follower.loading.is_none() {
            self.send_accept(ballot, member, follower, Vec::new());
        }
    }

    pub(crate) fn send_accept(
        &mut self,
        ballot: Ballot,
        member: MemberId,
        follower: &mut Follower,
        entries: Vec<Entry>,
    ) {
        let previous = follower.next.prev();
        let commit = self.log.commit();
        if let Some(end) = entries.last().map(|entry| entry.slot) {
            follower.sent(end, entries.iter().map(Entry::weight).sum());
        }
        follower.sent_commit = commit;
        let message = Message::Accept {
            ballot,
            previous,
            previous_ballot: self.log.ballot_at(previous).unwrap_or_default(),
            entries,
            commit,
            commit_ballot: self.log.ballot_at(commit).unwrap_or_default(),
            early: false,
        };
        self.send(member, Lane::Log, message);
    }

    /// Sees to followers that have been silent for too long.
    pub(crate) fn prod_followers(&mut self) {
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let ballot = leader.ballot;
        let mut followers = std::mem::take(&mut leader.followers);
        let now_ns = self.now.mono_ns;
        let prepare = Message::Prepare {
            ballot,
            accepted: self.acceptor.accepted,
            last: self.log.last(),
            commit: self.log.commit(),
            handed_over: false,
        };
        for (member, follower) in &mut followers {
            let patience_ns = (self.election.timeout_ns / 2) << follower.patience.min(5);
            if now_ns < follower.moved_at_ns + patience_ns {
                continue;
            }
            let compacted = std::mem::take(&mut follower.told_compacted);
            match follower.progress {
                Progress::Unpromised => {
                    follower.moved_at_ns = now_ns;
                    self.send(*member, Lane::Log, prepare.clone());
                }
                Progress::Syncing {
                    after, last, part, ..
                } => {
                    // (An answer of an earlier start of it may have come late.)
                    if let Some(said) = follower.said.take() {
                        follower.acknowledged = said;
                    }
                    let have = follower.acknowledged.max(after);
                    follower.rewind(have);
                    follower.moved_at_ns = now_ns;
                    follower.patience += 1;
                    follower.progress = Progress::Syncing {
                        after,
                        last,
                        part: if have == after { 0 } else { part },
                        done: false,
                    };
                    self.counters.rewinds += 1;
                }
                Progress::Streaming if compacted => {
                    // It may have got its snapshot, and its answer may be lost.
                    follower.moved_at_ns = now_ns;
                    follower.patience += 1;
                }
                Progress::Streaming if !follower.is_idle() || follower.loading.is_some() => {
                    follower.moved_at_ns = now_ns;
                    follower.patience += 1;
                    follower.loading = None;
                    follower.rewound_to = None;
                    self.probe(ballot, *member, follower);
                }
                Progress::Streaming => {}
            }
        }
        if let Office::Leader(leader) = &mut self.office {
            leader.followers = followers;
        }
    }

    /// Sends the last entry again: the answer tells whether it and all before it arrived.
    fn probe(&mut self, ballot: Ballot, member: MemberId, follower: &mut Follower) {
        let next = follower.next;
        let Some(entry) = self.log.entry(next.prev()).cloned() else {
            follower.rewind(follower.acknowledged);
            self.counters.rewinds += 1;
            return;
        };
        follower.next = entry.slot;
        self.send_accept(ballot, member, follower, vec![entry]);
        assert_eq!(follower.next, next, "a probe sends nothing new");
    }

    /// The stream to `member` begins anew: what was on its way is lost.
    pub(crate) fn stream_restarted(&mut self, member: MemberId) {
        let (now_ns, first) = (self.now.mono_ns, self.log.first());
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let Some(follower) = leader.followers.get_mut(&member) else {
            return;
        };
        follower.patience = 0;
        follower.told_compacted = false;
        match follower.progress {
            Progress::Unpromised => follower.moved_at_ns = 0,
            Progress::Syncing { after, last, .. } => {
                follower.acknowledged = Slot::ZERO;
                follower.sync_again(after, last, first, now_ns);
            }
            Progress::Streaming => follower.rewind(follower.acknowledged),
        }
    }
}
