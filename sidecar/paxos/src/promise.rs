//! Promises (rules P1b, L1b): what an acceptor promises, and the part of its log that the candidate
//! does not have. A long one goes part by part, no more of it at a time than a window holds.

use std::collections::VecDeque;

use synod_mutant::{Mutant, planted};

use crate::log::Batch;
use crate::message::{Lane, Message};
use crate::output::Ticket;
use crate::paxos::{LoadFor, Paxos};
use crate::types::{Ballot, Entry, MemberId, Slot};

/// A promise on its way, part by part, not more of them at a time than a window holds.
#[derive(Debug)]
pub(crate) struct Promising {
    to: MemberId,
    ballot: Ballot,
    /// Slot before the suffix.
    after: Slot,
    next: Slot,
    part: u32,
    /// The last part was sent. It is not acknowledged, but asked for again when it got lost.
    done: bool,
    loading: Option<Ticket>,
    /// Parts sent and not acknowledged: last slot and bytes of each.
    in_flight: VecDeque<(Slot, u64)>,
    in_flight_bytes: u64,
    /// What the candidate has, and the next part after it.
    taken: (Slot, u32),
    /// When it last took something, or was sent to again.
    moved_at_ns: u64,
}

impl Promising {
    /// It is about to tell of entries up to `slot`, which are gone.
    pub(crate) fn tells_of(&self, slot: Slot) -> bool {
        self.next <= slot
    }

    /// Sends again what the candidate does not have.
    fn rewind(&mut self) {
        (self.next, self.part) = (self.taken.0.next(), self.taken.1);
        self.done = false;
        self.loading = None;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// The candidate has everything up to here.
    fn arrived(&mut self, through: Slot) {
        while let Some((last, bytes)) = self.in_flight.front().copied()
            && last <= through
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
            self.taken = (last, self.taken.1 + 1);
        }
    }
}

impl Paxos {
    /// Rule P1b, L1b: promise, and tell what the proposer does not have.
    pub(crate) fn handle_prepare(
        &mut self,
        ballot: Ballot,
        (accepted, last, commit): (Ballot, Slot, Slot),
        handed_over: bool,
    ) {
        let from = ballot.node;
        if accepted > ballot || commit > last {
            self.counters.impossible_messages += 1;
            return;
        }
        if ballot > self.acceptor.promised {
            if !handed_over && self.shields(from) {
                self.counters.prepares_ignored += 1;
                return;
            }
            self.note_taken_over(from);
            self.resign();
            self.promise(ballot);
            let patient_ns = self.now.mono_ns + self.election.timeout_ns / 2;
            self.election.takeover.give_way(patient_ns);
        } else if self.acceptor.accepted == ballot {
            // The epoch's first leader asks who has entered it, or this member has adopted the ballot's log
            // and its leader never heard of it. (Or the question is an old one: then it hears it again.)
            self.vote(true);
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.remembered.note_promise(ballot);
        }
        let own = self.acceptor.accepted;
        let after = match own.cmp(&accepted) {
            std::cmp::Ordering::Greater if planted(Mutant::SuffixFromTheLast) => last,
            std::cmp::Ordering::Greater => commit,
            std::cmp::Ordering::Equal => last,
            std::cmp::Ordering::Less => self.log.last(),
        };
        let after = after.min(self.log.last());
        if let Some(promising) = &self.acceptor.promising
            && (promising.ballot, promising.after) == (ballot, after)
        {
            // It asks again: part of this may be lost, or just slow.
            self.promise_again();
            return;
        }
        let next = after.next().max(self.log.first());
        self.acceptor.promising = Some(Promising {
            to: from,
            ballot,
            after,
            next,
            part: 0,
            done: false,
            loading: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            taken: (next.prev(), 0),
            moved_at_ns: self.now.mono_ns,
        });
        self.continue_promise(None);
    }

    /// What the candidate does not have of the promise is sent again, but not sooner than it can
    /// have arrived.
    fn promise_again(&mut self) {
        let now_ns = self.now.mono_ns;
        let patience_ns = self.election.timeout_ns / 2;
        match &mut self.acceptor.promising {
            Some(promising)
                if promising.loading.is_none() && now_ns >= promising.moved_at_ns + patience_ns =>
            {
                promising.moved_at_ns = now_ns;
                promising.rewind();
                self.continue_promise(None);
            }
            _ => self.counters.stale_messages += 1,
        }
    }

    /// The stream to `member` begins anew: the parts that were on their way are lost.
    pub(crate) fn promise_restarted(&mut self, member: MemberId) {
        let now_ns = self.now.mono_ns;
        if let Some(promising) = &mut self.acceptor.promising
            && promising.to == member
        {
            promising.moved_at_ns = now_ns;
            promising.rewind();
            self.continue_promise(None);
        }
    }

    /// The candidate of `ballot` has the parts of the promise up to `through`.
    pub(crate) fn promise_taken(&mut self, ballot: Ballot, through: Slot) {
        let now_ns = self.now.mono_ns;
        let Some(promising) = &mut self.acceptor.promising else {
            self.counters.stale_messages += 1;
            return;
        };
        if promising.ballot != ballot {
            self.counters.stale_messages += 1;
            return;
        }
        let before = promising.taken;
        promising.arrived(through);
        if promising.taken == before {
            self.promise_again();
            return;
        }
        promising.moved_at_ns = now_ns;
        if promising.loading.is_none() && !promising.done {
            self.continue_promise(None);
        }
    }

    /// Sends parts of the promise until the window is full, entries have to be read back, or all is
    /// sent. Nothing of it is made before it is synced, with all of the log that it tells of (rule
    /// P1b): on a slow disk several promises may follow each other, and only the last is of use.
    fn continue_promise(&mut self, mut loaded: Option<Vec<Entry>>) {
        let replaced = self.installing.is_some_and(|it| it.cut);
        let synced = self.journal.is_synced(self.acceptor.promise_io);
        if !(synced || planted(Mutant::PromiseBeforeSync)) || replaced {
            return;
        }
        loop {
            let Some(promising) = &mut self.acceptor.promising else {
                return;
            };
            if loaded.is_none() && promising.in_flight_bytes >= self.settings.window_bytes {
                return;
            }
            let rot = planted(Mutant::RotEndsTheLog)
                .then(|| self.faulty.first_after(self.log.commit()))
                .flatten();
            let last = rot.map_or(self.log.last(), Slot::prev);
            let (next, after, part) = (promising.next, promising.after, promising.part);
            let ballot = promising.ballot;
            let mut suffix = Vec::new();
            let mut reached = last;
            if let Some(entries) = loaded.take() {
                reached = entries.last().map_or(next, |entry| entry.slot);
                suffix = entries;
            } else if next <= last {
                match self.log.batch(next, last, self.settings.max_message_bytes) {
                    Batch::Entries(entries) => {
                        reached = entries.last().map_or(next, |entry| entry.slot);
                        suffix = entries;
                    }
                    // It is listed as faulty instead.
                    Batch::Faulty => reached = next,
                    Batch::OnDisk => {
                        let through = self
                            .faulty
                            .first_after(next.prev())
                            .map_or(last, Slot::prev);
                        if through < next {
                            promising.next = next.next();
                            continue;
                        }
                        let ticket = self.load(LoadFor::Promise(ballot), next, through);
                        if let Some(promising) = &mut self.acceptor.promising {
                            promising.loading = Some(ticket);
                        }
                        return;
                    }
                }
            }
            let done = reached >= last;
            promising.next = reached.next();
            if !done && suffix.is_empty() {
                continue;
            }
            promising.part += 1;
            promising.done = done;
            let bytes = suffix.iter().map(Entry::weight).sum();
            promising.in_flight.push_back((reached, bytes));
            promising.in_flight_bytes += bytes;
            let to = promising.to;
            let faulty = if part == 0 && !planted(Mutant::RotEndsTheLog) {
                self.faulty.after(after).collect()
            } else {
                Vec::new()
            };
            let message = Message::Promise {
                ballot,
                accepted: self.acceptor.accepted,
                last,
                commit: self.log.commit(),
                first: self.log.first(),
                before: self.base.ballot,
                after,
                part,
                done,
                suffix,
                faulty,
                age_ns: u64::MAX,
            };
            self.send(to, Lane::Log, message);
            if done {
                return;
            }
        }
    }

    /// The promise is synced.
    pub(crate) fn promise_synced(&mut self, ballot: Ballot) {
        let now_ns = self.now.mono_ns;
        if let Some(promising) = &mut self.acceptor.promising
            && promising.ballot == ballot
        {
            promising.moved_at_ns = now_ns;
            self.continue_promise(None);
        }
    }

    /// The log that the promise tells of is synced now.
    pub(crate) fn promise_held_back(&mut self) {
        self.continue_promise(None);
    }

    pub(crate) fn loaded_for_promise(
        &mut self,
        ballot: Ballot,
        ticket: Ticket,
        entries: Vec<Entry>,
    ) {
        let Some(promising) = &mut self.acceptor.promising else {
            return;
        };
        if promising.ballot != ballot || promising.loading != Some(ticket) {
            return;
        }
        if entries
            .first()
            .is_none_or(|entry| entry.slot != promising.next)
        {
            // It cannot be read just now. The candidate will ask again.
            self.acceptor.promising = None;
            return;
        }
        promising.loading = None;
        self.continue_promise(Some(entries));
    }
}
