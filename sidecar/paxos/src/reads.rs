//! Read indexes (rule R1, after ReadIndex in Ongaro's thesis, section 6.4): the leader notes its
//! commit, proves by a round that it still leads, then gives the index to all reads that had come
//! before the round began. Rounds are shared; an index is never used for a later read.
//!
//! Leases, fences, early learning and quorum reads (rules R2-R5) will have their place here.

use std::collections::{BTreeMap, VecDeque};

use synod_mutant::{Mutant, planted};

use crate::message::{Lane, Message, ReadId};
use crate::output::Output;
use crate::paxos::{Office, Paxos};
use crate::quorum::reached;
use crate::types::{Ballot, Boot, MemberId, Now, Slot};

/// Rounds under way at once.
const ROUNDS: usize = 4;

/// Reads of this member that wait for an index from a leader elsewhere, or for any leader.
#[derive(Debug)]
pub(crate) struct Reads {
    /// Not asked yet.
    unasked: Vec<(ReadId, u64)>,
    /// Asked: the number used on the wire, which no other start of this member uses, to the read.
    asked: BTreeMap<ReadId, (ReadId, u64)>,
    next_wire: u64,
}

/// The leader's rounds.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// Reads that came since the last round began.
    waiting: Vec<Reader>,
    under_way: VecDeque<Round>,
    /// Number of the last round begun.
    last: u64,
    /// Highest round confirmed, by voter.
    confirmed: BTreeMap<MemberId, u64>,
}

/// Who waits for an index: this member's own read or one of another's, by its number on the wire.
#[derive(Clone, Copy, Debug)]
struct Reader {
    from: MemberId,
    id: ReadId,
}

#[derive(Debug)]
struct Round {
    number: u64,
    /// The leader's commit when the round began.
    index: Slot,
    readers: Vec<Reader>,
}

impl Reads {
    pub(crate) fn new(boot: Boot) -> Self {
        Self {
            unasked: Vec::new(),
            asked: BTreeMap::new(),
            next_wire: boot.0 << 40,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.unasked.len() + self.asked.len()
    }

    /// A number on the wire that stands for this read alone.
    fn number(&mut self, id: ReadId, now: Now) -> ReadId {
        self.next_wire += 1;
        let wire = ReadId(self.next_wire);
        self.asked.insert(wire, (id, now.mono_ns));
        wire
    }
}

impl Rounds {
    pub(crate) fn count(&self) -> usize {
        let under_way: usize = self.under_way.iter().map(|round| round.readers.len()).sum();
        self.waiting.len() + under_way
    }

    /// Where a read waits that has come just now.
    fn queue(&mut self) -> &mut Vec<Reader> {
        match self.under_way.back_mut() {
            Some(round) if planted(Mutant::IndexIsUsedAgain) => &mut round.readers,
            _ => &mut self.waiting,
        }
    }
}

impl Paxos {
    /// Asks for a read index: [`Output::ReadReady`] or [`Output::ReadFailed`] follows, once.
    pub fn read(&mut self, now: Now, id: ReadId) {
        let alive = self.enter(now) && self.removed().is_none();
        let limit = self.settings.max_pending_reads as usize;
        let from = self.me;
        match &mut self.office {
            Office::Leader(leader) if alive && leader.rounds.count() < limit => {
                leader.rounds.queue().push(Reader { from, id });
            }
            Office::Leader(_) => self.outputs.push_back(Output::ReadFailed { id }),
            _ if alive && self.reads.count() < limit => {
                self.reads.unasked.push((id, self.now.mono_ns));
            }
            _ => self.outputs.push_back(Output::ReadFailed { id }),
        }
    }

    /// Asks the leader, or, as the leader, begins a round for all that came meanwhile.
    pub(crate) fn serve_reads(&mut self) {
        if matches!(self.office, Office::Leader(_)) {
            let own = std::mem::take(&mut self.reads.unasked);
            let from = self.me;
            if let Office::Leader(leader) = &mut self.office {
                let own = own.into_iter().map(|(id, _)| Reader { from, id });
                leader.rounds.waiting.extend(own);
            }
            self.begin_round();
            self.finish_rounds();
            return;
        }
        let Some((leader, _)) = self.election.followed else {
            return;
        };
        if leader == self.me || self.reads.unasked.is_empty() {
            return;
        }
        let unasked = std::mem::take(&mut self.reads.unasked);
        let ids = unasked
            .into_iter()
            .map(|(id, _)| self.reads.number(id, self.now))
            .collect();
        self.send(leader, Lane::Heartbeat, Message::ReadIndex { ids });
    }

    fn begin_round(&mut self) {
        let closed = self.is_closed() && !planted(Mutant::ReadsBesideAStopSign);
        let commit = self.log.commit();
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let own = commit >= leader.first_own() || planted(Mutant::FreshLeaderGivesIndexes);
        let proven = own && !closed;
        let rounds = &mut leader.rounds;
        // Rule L3: what earlier leaders committed is known only once an own entry is committed.
        if !proven || rounds.waiting.is_empty() || rounds.under_way.len() >= ROUNDS {
            return;
        }
        rounds.last += 1;
        rounds.under_way.push_back(Round {
            number: rounds.last,
            index: commit,
            readers: std::mem::take(&mut rounds.waiting),
        });
        self.counters.read_rounds += 1;
        self.confirm();
    }

    /// Asks all voters to confirm the last round.
    pub(crate) fn confirm(&mut self) {
        let Office::Leader(leader) = &self.office else {
            return;
        };
        if leader.rounds.under_way.is_empty() {
            return;
        }
        let (ballot, round) = (leader.ballot, leader.rounds.last);
        let voters = self.voters.clone();
        for voter in voters {
            if voter != self.me {
                let confirm = Message::Confirm { ballot, round };
                self.send(voter, Lane::Heartbeat, confirm);
            }
        }
    }

    /// A voter had promised no higher ballot when the round came; so for all rounds before it.
    pub(crate) fn handle_confirmed(&mut self, from: MemberId, ballot: Ballot, round: u64) {
        let voter = self.is_voter(from);
        let Office::Leader(leader) = &mut self.office else {
            self.counters.stale_messages += 1;
            return;
        };
        if leader.ballot != ballot || !voter || round > leader.rounds.last {
            self.counters.stale_messages += 1;
            return;
        }
        let confirmed = leader.rounds.confirmed.entry(from).or_default();
        *confirmed = round.max(*confirmed);
        if planted(Mutant::AnyRoundConfirms) {
            *confirmed = leader.rounds.last;
        }
    }

    /// Answers the reads of all rounds that a quorum has confirmed: of either phase, since both meet
    /// whoever would have let a later leader commit (rule P4).
    fn finish_rounds(&mut self) {
        let quorum = self.phase1().min(self.phase2());
        let closed = self.is_closed() && !planted(Mutant::ReadsBesideAStopSign);
        let Office::Leader(leader) = &mut self.office else {
            return;
        };
        let rounds = &mut leader.rounds;
        if closed {
            // Rule R1a: the next epoch may be at work already. They wait until it is known whether.
            let begun = rounds.under_way.drain(..).flat_map(|round| round.readers);
            rounds.waiting.extend(begun);
        }
        if rounds.under_way.is_empty() {
            return;
        }
        let mut confirmed: Vec<u64> = rounds.confirmed.values().copied().collect();
        confirmed.push(rounds.last);
        let needed = if planted(Mutant::IndexWithoutAProof) {
            1
        } else {
            quorum
        };
        let through = reached(&mut confirmed, needed);
        let mut finished = Vec::new();
        while rounds
            .under_way
            .front()
            .is_some_and(|round| round.number <= through)
        {
            finished.extend(rounds.under_way.pop_front());
        }
        if finished.is_empty() {
            return;
        }
        for round in finished {
            assert!(round.index <= self.log.commit(), "an index is committed");
            self.answer(round);
        }
        self.begin_round();
        if self.phase1().min(self.phase2()) == 1 {
            self.finish_rounds();
        }
    }

    fn answer(&mut self, round: Round) {
        let index = round.index;
        let mut remote: BTreeMap<MemberId, Vec<ReadId>> = BTreeMap::new();
        for Reader { from, id } in round.readers {
            if from == self.me {
                self.outputs.push_back(Output::ReadReady { id, index });
            } else {
                remote.entry(from).or_default().push(id);
            }
        }
        for (to, ids) in remote {
            self.send(to, Lane::Heartbeat, Message::ReadIndexes { ids, index });
        }
    }

    /// Another member asks for its reads.
    pub(crate) fn handle_read_request(&mut self, from: MemberId, ids: Vec<ReadId>) {
        let limit = self.settings.max_pending_reads as usize;
        match &mut self.office {
            Office::Leader(leader) if leader.rounds.count() + ids.len() <= limit => {
                let readers = ids.into_iter().map(|id| Reader { from, id });
                leader.rounds.queue().extend(readers);
            }
            _ => self.send(from, Lane::Heartbeat, Message::ReadRefused { ids }),
        }
    }

    /// The index is good whoever leads now: it was proven after the read had begun.
    pub(crate) fn handle_read_answer(&mut self, _from: MemberId, ids: &[ReadId], index: Slot) {
        for wire in ids {
            match self.reads.asked.remove(wire) {
                Some((id, _)) => self.outputs.push_back(Output::ReadReady { id, index }),
                None => self.counters.stale_messages += 1,
            }
        }
    }

    pub(crate) fn handle_read_refused(&mut self, _from: MemberId, ids: &[ReadId]) {
        for wire in ids {
            match self.reads.asked.remove(wire) {
                Some((id, _)) => self.outputs.push_back(Output::ReadFailed { id }),
                None => self.counters.stale_messages += 1,
            }
        }
    }

    /// What was asked of an earlier leader may never be answered: the caller asks again, under a new
    /// number, so that no old answer can serve a new read.
    pub(crate) fn fail_asked(&mut self) {
        for (id, _) in std::mem::take(&mut self.reads.asked).into_values() {
            self.outputs.push_back(Output::ReadFailed { id });
        }
    }

    /// This member can ask nobody any more.
    pub(crate) fn give_up_reads(&mut self) {
        self.fail_asked();
        for (id, _) in std::mem::take(&mut self.reads.unasked) {
            self.outputs.push_back(Output::ReadFailed { id });
        }
    }

    /// Gives up on reads that have waited for too long.
    pub(crate) fn expire_reads(&mut self) {
        let before_ns = self
            .now
            .mono_ns
            .saturating_sub(2 * self.election.timeout_ns);
        let outputs = &mut self.outputs;
        let mut keep = |id: ReadId, since_ns: u64| {
            let fresh = since_ns >= before_ns;
            if !fresh {
                outputs.push_back(Output::ReadFailed { id });
            }
            fresh
        };
        self.reads.unasked.retain(|(id, since)| keep(*id, *since));
        self.reads.asked.retain(|_, (id, since)| keep(*id, *since));
    }

    /// Leadership ended: nobody is given an index any more.
    pub(crate) fn refuse_readers(&mut self, rounds: Rounds) {
        let under_way = rounds.under_way.into_iter().flat_map(|round| round.readers);
        let mut remote: BTreeMap<MemberId, Vec<ReadId>> = BTreeMap::new();
        for Reader { from, id } in rounds.waiting.into_iter().chain(under_way) {
            if from == self.me {
                self.outputs.push_back(Output::ReadFailed { id });
            } else {
                remote.entry(from).or_default().push(id);
            }
        }
        for (to, ids) in remote {
            self.send(to, Lane::Heartbeat, Message::ReadRefused { ids });
        }
    }
}
