//! Phase 1: a candidate collects promises, picks the log to adopt, and adopts it (rules L1, L1a).

use std::collections::BTreeMap;

use synod_mutant::{Mutant, planted};

use crate::message::{Lane, Message};
use crate::output::Io;
use crate::paxos::{Office, Paxos};
use crate::staging::Staging;
use crate::status::WaitingOn;
use crate::types::{Ballot, Entry, Header, MemberId, Slot};

/// A ballot in phase 1.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) ballot: Ballot,
    /// The write of this member's own promise: it counts once that is synced (rule P1a).
    io: Io,
    /// This member's log when it prepared.
    accepted: Ballot,
    last: Slot,
    commit: Slot,
    /// The Prepare told of it. A log with unreadable entries is not told of: it may have to be left
    /// out, and then the promises must bring everything behind `commit`.
    told: bool,
    pub(crate) handed_over: bool,
    /// When it gives up.
    pub(crate) deadline_ns: u64,
    pub(crate) promises: BTreeMap<MemberId, Promised>,
    /// Entries of the log to adopt that its holder cannot read (rule W2).
    pub(crate) missing: Vec<Header>,
    fills: BTreeMap<Header, Entry>,
    /// The log to adopt was found; it is on its way to the disk.
    pub(crate) adopted: Option<Ballot>,
    /// Whose promise goes to the disk part by part, since it is long.
    pub(crate) source: Option<MemberId>,
    pub(crate) waiting_on: Option<WaitingOn>,
}

/// What one member promised. It counts in the quorum from its first part on, which tells what log it
/// stands for; that log can be adopted when all parts came.
#[derive(Debug)]
pub(crate) struct Promised {
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
    pub(crate) commit: Slot,
    first: Slot,
    pub(crate) after: Slot,
    /// Next part that is needed.
    next_part: u32,
    /// Its parts came up to here.
    pub(crate) came_through: Slot,
    /// All parts came.
    pub(crate) done: bool,
    pub(crate) suffix: Vec<Entry>,
    pub(crate) suffix_bytes: u64,
    pub(crate) faulty: Vec<Header>,
    came_at_ns: u64,
}

impl Promised {
    /// Nothing is missing before this part but what cannot be read. (A part that is sent again may
    /// be cut otherwise.)
    fn joins(&self, suffix: &[Entry]) -> bool {
        let Some(first) = suffix.first().map(|entry| entry.slot) else {
            return true;
        };
        let begin = self.came_through.max(self.first.prev());
        let between = |header: &&Header| header.slot > begin && header.slot < first;
        let unreadable = self.faulty.iter().filter(between).count() as u64;
        first > begin && first.0 - begin.0 - 1 == unreadable
    }
}

/// The log that a phase-1 quorum makes the candidate adopt.
pub(crate) struct Choice {
    /// Whose it is; `None` for the candidate's own.
    pub(crate) from: Option<MemberId>,
    pub(crate) accepted: Ballot,
    pub(crate) last: Slot,
}

impl Candidate {
    /// A good copy has come.
    pub(crate) fn fill(&mut self, header: Header, entry: &Entry) {
        if self.missing.contains(&header) {
            self.fills.insert(header, entry.clone());
        }
    }

    fn prepare(&self) -> Message {
        let (accepted, last) = if self.told {
            (self.accepted, self.last)
        } else {
            (Ballot::none(self.ballot.epoch), self.commit)
        };
        Message::Prepare {
            ballot: self.ballot,
            accepted,
            last,
            commit: self.commit,
            handed_over: self.handed_over,
        }
    }

    /// All of this log is here.
    fn has_all_of(&self, choice: &Choice) -> bool {
        choice
            .from
            .and_then(|member| self.promises.get(&member))
            .is_none_or(|promised| promised.done)
    }

    /// The logs to choose from, the greatest first, this member's own before equal ones.
    fn logs(&self, voters: &[MemberId]) -> Vec<Choice> {
        let own = Choice {
            from: None,
            accepted: self.accepted,
            last: self.last,
        };
        let others = self
            .promises
            .iter()
            .filter(|(member, promised)| promised.next_part > 0 && voters.contains(member))
            .map(|(member, promised)| Choice {
                from: Some(*member),
                accepted: promised.accepted,
                last: promised.last,
            });
        let mut logs: Vec<Choice> = std::iter::once(own).chain(others).collect();
        logs.sort_by_key(|log| std::cmp::Reverse((log.accepted, log.last)));
        if planted(Mutant::LongestLogWins) {
            logs.sort_by_key(|log| std::cmp::Reverse(log.last));
        }
        if planted(Mutant::OwnLogWins) {
            logs.sort_by_key(|log| log.from.is_some());
        }
        logs
    }
}

impl Paxos {
    /// Stands for election in a ballot above all seen (rule E2; the caller has checked it).
    pub(crate) fn campaign(&mut self, handed_over: bool) {
        assert!(self.role.votes(), "only a voter proposes");
        self.resign();
        let ballot = self
            .election
            .seen
            .max(self.acceptor.promised)
            .above(self.me);
        self.promise(ballot);
        self.counters.elections += 1;
        let candidate = Candidate {
            ballot,
            io: self.acceptor.promise_io,
            accepted: self.acceptor.accepted,
            last: self.log.last(),
            commit: self.log.commit(),
            told: self.unreadable(self.log.last(), self.log.last()).is_empty(),
            handed_over,
            deadline_ns: self.now.mono_ns + self.election.timeout_ns,
            promises: BTreeMap::new(),
            missing: Vec::new(),
            fills: BTreeMap::new(),
            adopted: None,
            source: None,
            waiting_on: Some(WaitingOn::Quorum),
        };
        let early = planted(Mutant::PrepareBeforeSync);
        let io = if early { Io(0) } else { candidate.io };
        let prepare = candidate.prepare();
        self.office = Office::Candidate(Box::new(candidate));
        let others: Vec<MemberId> = self.peers.keys().copied().collect();
        for to in others {
            self.send_after(to, Lane::Log, prepare.clone(), io);
        }
    }

    /// Asks again whoever has not answered for a while: for the rest of a promise that has begun.
    pub(crate) fn prepare_again(&mut self) {
        let Office::Candidate(candidate) = &self.office else {
            return;
        };
        let patience_ns = self.election.timeout_ns / 2;
        let now_ns = self.now.mono_ns;
        let window_bytes = self.settings.window_bytes;
        let answered = |member: &MemberId| {
            candidate.promises.get(member).is_some_and(|promised| {
                // What comes is synced before more is asked for, and of others nothing more is.
                let enough = match candidate.source {
                    Some(source) if source == *member => self.acceptor.is_staging(candidate.ballot),
                    _ => !candidate.wants_more_of(promised, window_bytes),
                };
                promised.done || enough || now_ns < promised.came_at_ns + patience_ns
            })
        };
        let begun = |member: &MemberId| {
            if candidate.source == Some(*member) {
                return self.acceptor.staged_through(candidate.ballot);
            }
            let promised = candidate.promises.get(member)?;
            (promised.next_part > 0).then_some(promised.came_through)
        };
        let silent: Vec<(MemberId, Option<Slot>)> = self
            .peers
            .keys()
            .filter(|member| !answered(member))
            .map(|member| (*member, begun(member)))
            .collect();
        let (prepare, io) = (candidate.prepare(), candidate.io);
        let ballot = candidate.ballot;
        for (to, begun) in silent {
            if let Some(through) = begun {
                self.send(to, Lane::Log, Message::Staged { ballot, through });
            }
            // It may have forgotten that it had begun.
            self.send_after(to, Lane::Log, prepare.clone(), io);
        }
    }

    /// A part of a promise. Parts count in order; part 0 begins anew.
    pub(crate) fn handle_promise(&mut self, from: MemberId, message: Message) {
        let Message::Promise {
            ballot,
            accepted,
            last,
            commit,
            first,
            before,
            after,
            part,
            done,
            suffix,
            faulty,
            age_ns: _,
        } = message
        else {
            return;
        };
        let numbered = suffix.windows(2).all(|pair| pair[0].slot < pair[1].slot)
            && suffix
                .iter()
                .all(|entry| entry.slot > after && entry.slot <= last)
            // (What is chosen may have been learnt, whatever was accepted there.)
            && suffix
                .iter()
                .all(|entry| entry.ballot <= accepted || entry.slot <= commit)
            && self.nothing_follows_a_stop_sign(&suffix, last)
            && faulty
                .iter()
                .all(|header| header.slot > after && header.slot <= last);
        if accepted >= ballot || commit > last || after > last || first < Slot(1) || !numbered {
            self.counters.impossible_messages += 1;
            return;
        }
        if ballot > self.acceptor.promised || ballot.node != self.me {
            self.counters.impossible_messages += 1;
            return;
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.remembered.note_promise(ballot);
            peer.remembered.note_log(accepted, last);
        }
        if first > Slot(1) && !self.learn_base(first.prev(), before) {
            // Who lacks what is chosen does not lead: it gets a snapshot, and the others go on.
            if matches!(self.office, Office::Candidate(_)) {
                self.give_up_lacking();
            }
            return;
        }
        let now_ns = self.now.mono_ns;
        match &mut self.office {
            Office::Candidate(candidate) if candidate.ballot == ballot => {
                if part == 0 {
                    let fresh = Promised {
                        accepted,
                        last,
                        commit,
                        first,
                        after,
                        next_part: 0,
                        came_through: after,
                        done: false,
                        suffix: Vec::new(),
                        suffix_bytes: 0,
                        faulty,
                        came_at_ns: now_ns,
                    };
                    let source = candidate.source == Some(from);
                    match candidate.promises.get(&from) {
                        Some(promised) if promised.done || source => return,
                        _ => candidate.promises.insert(from, fresh),
                    };
                }
                let Some(promised) = candidate.promises.get_mut(&from) else {
                    self.counters.stale_messages += 1;
                    return;
                };
                let same = (promised.accepted, promised.last, promised.after)
                    == (accepted, last, after)
                    && promised.next_part == part;
                if !same || promised.done || !promised.joins(&suffix) {
                    self.counters.stale_messages += 1;
                    return;
                }
                promised.came_at_ns = now_ns;
                promised.next_part += 1;
                promised.came_through = suffix.last().map_or(after, |entry| entry.slot);
                // It may have been repaired since the promise began.
                let brought = |slot| suffix.binary_search_by_key(&slot, |it| it.slot).is_ok();
                promised.faulty.retain(|header| !brought(header.slot));
                promised.suffix_bytes += suffix.iter().map(Entry::weight).sum::<u64>();
                promised.suffix.extend(suffix);
                promised.done = done;
                // A long one takes its time, and its voter cannot vote for anybody else.
                let patient_ns = now_ns + self.election.timeout_ns;
                candidate.deadline_ns = candidate.deadline_ns.max(patient_ns);
                self.took_part(from);
            }
            Office::Leader(leader)
                if leader.ballot == ballot && !planted(Mutant::LatePromiseIsLeftAlone) =>
            {
                self.promised_late(from, accepted, last, commit);
            }
            _ => self.counters.stale_messages += 1,
        }
    }

    /// If a phase-1 quorum has promised, adopts the greatest log among them. A log with entries that
    /// cannot be had is left out when the others still are a quorum (rule W2).
    pub(crate) fn check_phase1(&mut self) {
        let Office::Candidate(candidate) = &self.office else {
            return;
        };
        if candidate.adopted.is_some() || !self.journal.is_synced(candidate.io) {
            return;
        }
        let logs = candidate.logs(&self.voters);
        let spare = logs.len().checked_sub(self.phase1());
        let Some(spare) = spare else { return };
        let mut missing = Vec::new();
        let mut waiting_on = None;
        let mut long = None;
        for choice in &logs[..=spare] {
            match self.obstacles(candidate, choice) {
                Ok(headers) if headers.is_empty() => {
                    if candidate.has_all_of(choice) {
                        self.adopt_choice(choice);
                        return;
                    }
                    waiting_on.get_or_insert(WaitingOn::Quorum);
                    long.get_or_insert(choice);
                }
                Ok(headers) => {
                    let slot = headers[0].slot;
                    waiting_on.get_or_insert(WaitingOn::Repair { slot });
                    missing.extend(headers);
                }
                Err(reason) => {
                    waiting_on.get_or_insert(reason);
                }
            }
        }
        if let Some(choice) = long
            && candidate.is_long(choice, self.settings.window_bytes)
        {
            self.catch_up(choice);
            return;
        }
        if let Office::Candidate(candidate) = &mut self.office {
            candidate.missing = missing;
            candidate.waiting_on = waiting_on;
        }
    }

    /// Entries of this member's log up to `keep` that have to be read before a log that ends at
    /// `last` is led: those not committed, and the last, since the next stamps follow its.
    fn unreadable(&self, keep: Slot, last: Slot) -> Vec<Header> {
        let commit = self.log.commit();
        self.faulty
            .unfilled_after(Slot::ZERO)
            .filter(|header| header.slot <= keep && (header.slot > commit || header.slot == last))
            .collect()
    }

    /// What is needed before this log can be adopted.
    fn obstacles(&self, candidate: &Candidate, choice: &Choice) -> Result<Vec<Header>, WaitingOn> {
        let promised = choice
            .from
            .and_then(|member| candidate.promises.get(&member));
        let Some(promised) = promised else {
            return Ok(self.unreadable(choice.last, choice.last));
        };
        if candidate.told && choice.accepted < candidate.accepted {
            // It brings nothing: its member was told of a greater log, this one's own.
            return Err(WaitingOn::Quorum);
        }
        let keep = promised.after.max(self.log.commit());
        if promised.last > keep && promised.first > keep.next() {
            return Err(WaitingOn::Snapshot);
        }
        let mut headers = self.unreadable(keep, choice.last);
        headers.extend(
            promised
                .faulty
                .iter()
                .filter(|header| header.slot > keep && !candidate.fills.contains_key(header)),
        );
        Ok(headers)
    }

    /// Stages what this member does not hold of the chosen log; it is adopted once that is on disk.
    fn adopt_choice(&mut self, choice: &Choice) {
        let commit = self.log.commit();
        let Office::Candidate(candidate) = &mut self.office else {
            return;
        };
        let ballot = candidate.ballot;
        let (mut after, mut entries) = (choice.last.min(self.log.last()), Vec::new());
        if let Some(from) = choice.from
            && let Some(promised) = candidate.promises.get_mut(&from)
        {
            after = promised.after;
            entries = std::mem::take(&mut promised.suffix);
            let fills = promised
                .faulty
                .iter()
                .filter_map(|header| candidate.fills.get(header))
                .cloned();
            entries.extend(fills);
            entries.sort_by_key(|entry| entry.slot);
        }
        let keep = after.max(commit);
        entries.retain(|entry| entry.slot > keep);
        let whole = entries.len() as u64 == choice.last.0.saturating_sub(keep.0)
            && entries
                .iter()
                .zip(keep.0 + 1..)
                .all(|(entry, slot)| entry.slot == Slot(slot));
        if choice.last < commit || !whole {
            // No quorum of honest members promises this.
            self.counters.impossible_messages += 1;
            self.resign();
            return;
        }
        candidate.adopted = Some(choice.accepted);
        candidate.waiting_on = None;
        let mut staging = Staging::new(ballot, keep, choice.last, commit);
        for entry in entries {
            self.give_to_disk(&mut staging, entry, u64::MAX);
        }
        self.stage_own(staging);
    }

    /// The candidate's log is adopted: it leads.
    pub(crate) fn won(&mut self) {
        let Office::Candidate(candidate) = std::mem::replace(&mut self.office, Office::Follower)
        else {
            return;
        };
        assert_eq!(candidate.ballot, self.acceptor.accepted, "adopted first");
        let adopted = candidate.adopted.unwrap_or_default();
        let promises = candidate
            .promises
            .into_iter()
            .filter(|(_, promised)| promised.next_part > 0)
            .map(|(member, promised)| (member, (promised.accepted, promised.last, promised.commit)))
            .collect();
        self.lead(adopted, &promises);
    }
}
