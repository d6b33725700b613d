//! Getting out of an epoch that has ended, or into the group at all (rule M6): a member that hears of a
//! later epoch asks there for what is chosen, page by page, in whatever epoch that was, until it has
//! entered it. The leader sees to the rest then.
//!
//! A learnt entry takes the place of whatever the log held from its slot on. Nothing that was chosen is
//! lost with it, and no wrong vote follows from `accepted` staying, for the reasons that
//! [`Paxos::handle_installed`] tells: it is a snapshot of that slot that keeps its entries.

use synod_mutant::{Mutant, planted};

use crate::journal::Effect;
use crate::log::Batch;
use crate::message::{Lane, Message};
use crate::paxos::{LoadFor, Paxos};
use crate::peer::Peer;
use crate::record::Record;
use crate::types::{Entry, MemberId, Slot};

/// A question under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Learning {
    from: MemberId,
    asked_at_ns: u64,
}

impl Paxos {
    /// Asks somebody who is in a later epoch, the next one each time that no answer has come.
    pub(crate) fn learn(&mut self) {
        let (now_ns, timeout_ns) = (self.now.mono_ns, self.election.timeout_ns);
        let waiting = |it: &Learning| now_ns < it.asked_at_ns + timeout_ns / 2;
        if self.learning.as_ref().is_some_and(waiting) {
            return;
        }
        let last = self.learning.map(|it| it.from);
        let ahead = self.helpers().filter(|(_, peer)| self.is_ahead(peer));
        let mut ahead: Vec<MemberId> = ahead.map(|(member, _)| member).collect();
        ahead.sort_unstable();
        let next = ahead.iter().find(|it| Some(**it) > last).or(ahead.first());
        if let Some(from) = next.copied() {
            self.ask_for_entries(from);
        }
    }

    /// It is heard, and in a later epoch.
    fn is_ahead(&self, peer: &Peer) -> bool {
        let patience_ns = 2 * self.election.timeout_ns;
        peer.epoch > self.epoch() && !peer.barred && peer.is_heard(self.now.mono_ns, patience_ns)
    }

    fn helps(&self, member: MemberId) -> bool {
        let peer = self.acquaintance(member);
        peer.is_some_and(|peer| self.is_ahead(peer))
    }

    fn ask_for_entries(&mut self, from: MemberId) {
        let full = self.journal.unsynced_bytes() >= self.settings.window_bytes;
        if full || self.removed().is_some() || self.installing.is_some() {
            return;
        }
        self.learning = Some(Learning {
            from,
            asked_at_ns: self.now.mono_ns,
        });
        let after = self.log.commit();
        self.send(from, Lane::Bulk, Message::LearnRequest { after });
    }

    /// A member of an earlier epoch wants to get out of it.
    pub(crate) fn handle_learn_request(&mut self, from: MemberId, after: Slot) {
        let (next, commit) = (after.next(), self.log.commit());
        if after >= commit || planted(Mutant::StragglersAreLeftAlone) {
            self.counters.stale_messages += 1;
            return;
        }
        if next < self.log.first() {
            self.tell_compacted(from);
            return;
        }
        match self
            .log
            .batch(next, commit, self.settings.max_message_bytes)
        {
            Batch::Entries(entries) => self.send(from, Lane::Bulk, Message::Learn { entries }),
            Batch::OnDisk => {
                let purpose = LoadFor::Learner(from);
                if !self.is_loading(purpose) {
                    self.load(purpose, next, commit);
                }
            }
            // Somebody else can read it.
            Batch::Faulty => {}
        }
    }

    pub(crate) fn loaded_for_learner(&mut self, to: MemberId, mut entries: Vec<Entry>) {
        let commit = self.log.commit();
        entries.retain(|entry| entry.slot <= commit);
        if !entries.is_empty() {
            self.send(to, Lane::Bulk, Message::Learn { entries });
        }
    }

    /// Chosen entries have come.
    pub(crate) fn handle_learn(&mut self, from: MemberId, entries: Vec<Entry>) {
        let epoch = self.epoch();
        let before = self.log.commit();
        if !self.helps(from) || self.installing.is_some() || self.removed().is_some() {
            self.counters.stale_messages += 1;
            return;
        }
        for entry in entries {
            let commit = self.log.commit();
            if entry.slot <= commit {
                continue;
            }
            if entry.slot != commit.next() || entry.ballot.epoch != epoch {
                self.counters.impossible_messages += 1;
                break;
            }
            self.learn_entry(entry);
            if self.epoch() != epoch {
                break;
            }
        }
        // The next page at once, the same one not before its time.
        if self.log.commit() > before && self.helps(from) {
            self.ask_for_entries(from);
        }
    }

    fn learn_entry(&mut self, entry: Entry) {
        let slot = entry.slot;
        if self.log.ballot_at(slot) == Some(entry.ballot) {
            if self.log.entry(slot).is_none() {
                self.handle_repair(vec![entry]);
            }
            self.raise_commit(slot);
            return;
        }
        // Whoever lacks what is chosen does not lead.
        self.resign();
        let keep = slot.prev();
        self.log.cut(keep);
        self.faulty.cut(keep);
        self.acceptor.begin_anew(keep);
        self.journal.cut(keep);
        self.election.note(entry.ballot);
        self.log.append(entry.clone());
        self.clock.stamped(self.now.mono_ns, self.log.time());
        let accepted = self.acceptor.accepted;
        let io = self.journal.record(
            Record::Learn(entry),
            Effect::Log {
                accepted,
                last: slot,
            },
        );
        // A promise tells of this entry too: it leaves behind it (rule P1b).
        self.acceptor.promise_io = io;
        self.raise_commit(slot);
    }
}
