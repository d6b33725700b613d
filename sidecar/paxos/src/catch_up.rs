//! A candidate that lacks more than a window of the log that it must adopt (rule L1): the promise
//! that brings it goes to the disk part by part as it comes, and the next parts come as these are
//! synced. Memory stays bounded however much is lacked. Until then, and for all other promises, a
//! candidate takes a window of each and leaves the rest where it is.

use crate::candidate::{Candidate, Choice, Promised};
use crate::journal::Effect;
use crate::message::{Lane, Message};
use crate::paxos::{Office, Paxos};
use crate::record::Record;
use crate::staging::Staging;
use crate::types::{Entry, MemberId};

impl Candidate {
    /// The next parts of this promise, which is not the one that goes to the disk, are of use.
    pub(crate) fn wants_more_of(&self, promised: &Promised, window_bytes: u64) -> bool {
        // One with entries that cannot be read may have to wait for copies: it is taken as a whole.
        let room = promised.suffix_bytes < window_bytes || !promised.faulty.is_empty();
        self.adopted.is_none() && room
    }

    /// Bytes of promises in memory.
    pub(crate) fn promised_bytes(&self) -> u64 {
        self.promises.values().map(|it| it.suffix_bytes).sum()
    }

    /// More than a window of this log's suffix has come already, and there is more.
    pub(crate) fn is_long(&self, choice: &Choice, window_bytes: u64) -> bool {
        choice
            .from
            .and_then(|member| self.promises.get(&member))
            .is_some_and(|promised| !promised.done && promised.suffix_bytes >= window_bytes)
    }
}

impl Paxos {
    /// A part of a promise of `from` has come.
    pub(crate) fn took_part(&mut self, from: MemberId) {
        let Office::Candidate(candidate) = &self.office else {
            return;
        };
        if candidate.source == Some(from) {
            self.stage_part(from);
            return;
        }
        self.check_phase1();
        let Office::Candidate(candidate) = &self.office else {
            return;
        };
        let Some(promised) = candidate.promises.get(&from) else {
            return;
        };
        if !promised.done && candidate.wants_more_of(promised, self.settings.window_bytes) {
            let (ballot, through) = (candidate.ballot, promised.came_through);
            self.send(from, Lane::Log, Message::Staged { ballot, through });
        }
    }

    /// Begins to take this log as it comes. The first parts of a phase-1 quorum have told that it is
    /// the one to adopt.
    pub(crate) fn catch_up(&mut self, choice: &Choice) {
        let commit = self.log.commit();
        let Office::Candidate(candidate) = &mut self.office else {
            return;
        };
        let Some(from) = choice.from else { return };
        let Some(promised) = candidate.promises.get(&from) else {
            return;
        };
        if choice.last < commit {
            // No quorum of honest members promises this.
            self.counters.impossible_messages += 1;
            self.resign();
            return;
        }
        candidate.adopted = Some(choice.accepted);
        candidate.source = Some(from);
        candidate.waiting_on = None;
        // What its member knows to be chosen is chosen in its log: it need not stay in memory.
        let keep = promised.after.max(commit);
        let chosen = commit.max(promised.commit);
        let staging = Staging::new(candidate.ballot, keep, choice.last, chosen);
        self.stage_own(staging);
        self.stage_part(from);
    }

    /// What has come of the log to adopt goes to the disk.
    fn stage_part(&mut self, from: MemberId) {
        let Office::Candidate(candidate) = &mut self.office else {
            return;
        };
        let ballot = candidate.ballot;
        let Some(promised) = candidate.promises.get_mut(&from) else {
            return;
        };
        let Some(mut staging) = self.acceptor.take_staging(ballot) else {
            return;
        };
        let done = promised.done;
        promised.suffix_bytes = 0;
        for entry in std::mem::take(&mut promised.suffix) {
            if entry.slot > staging.next {
                break;
            }
            if entry.slot == staging.next {
                self.give_to_disk(&mut staging, entry, self.settings.cache_bytes);
            }
        }
        let whole = staging.next > staging.last;
        self.stage_own(staging);
        if done && !whole {
            // Something is missing in the middle, and no part is left to bring it.
            self.counters.impossible_messages += 1;
            self.resign();
        }
    }

    /// The next entry of a log that this member is about to adopt as a candidate.
    pub(crate) fn give_to_disk(&mut self, staging: &mut Staging, entry: Entry, cache_bytes: u64) {
        let (ballot, through) = (staging.ballot, entry.slot);
        if entry.slot <= staging.commit {
            // It may leave memory before it is handed over: its command is resolved before.
            self.entrance
                .resolve(entry.command.id, entry.slot, &mut self.outputs);
        }
        self.journal.record(
            Record::Stage {
                ballot,
                entry: entry.clone(),
            },
            Effect::Staged { ballot, through },
        );
        staging.push(entry, cache_bytes);
    }

    /// Parts of the log to adopt are on disk: more of them may come.
    pub(crate) fn own_staged(&mut self) {
        let Office::Candidate(candidate) = &mut self.office else {
            return;
        };
        let Some(through) = self.acceptor.staged_through(candidate.ballot) else {
            return;
        };
        let patient_ns = self.now.mono_ns + self.election.timeout_ns;
        candidate.deadline_ns = candidate.deadline_ns.max(patient_ns);
        let ballot = candidate.ballot;
        if let Some(from) = candidate.source
            && candidate
                .promises
                .get(&from)
                .is_some_and(|promised| !promised.done)
        {
            self.send(from, Lane::Log, Message::Staged { ballot, through });
        }
    }
}
