//! The machine's three steps (rule A1).

use std::sync::Arc;

use synod_mutant::{Mutant, planted};
use synod_paxos::{CommandId, Entry, Slot};
use synod_proto::v1::Request;

use super::{Action, Answer, App, Busy, Execute, Interrupted, Machine, Queued, Run};
use super::{
    FAILED_PAUSE_MS, FAILURES_BEFORE_PAUSE, KNOWN, QUEUE_BYTES, QUEUE_ENTRIES, REPEATS, SUSPECTS,
};
use crate::apply::Outcome;
use crate::apply::fold::Admission;
use crate::apply::keys::First;
use crate::apply::ledger::InFlight;

// === admit ===

impl Machine {
    pub(super) fn admit(&mut self, entry: &Entry) {
        let (slot, id) = (entry.slot, entry.command.id);
        match self.fold.admit(entry) {
            Admission::Execute(request) => {
                self.decisions.note(slot);
                self.last_to_execute = slot;
                if slot <= self.answered_before {
                    if self.known.len() >= KNOWN {
                        self.known.pop_front();
                    }
                    self.known.push_back((slot, id));
                }
                let room = self.queue.len() < QUEUE_ENTRIES && self.queue_bytes < QUEUE_BYTES;
                if room && self.first_not_queued() == Some(slot) {
                    self.enqueue(entry, Arc::from(request));
                }
            }
            Admission::Repeat(first)
                if first.slot <= self.answered || planted(Mutant::RepeatDoesNotWait) =>
            {
                self.answer_repeat(id, first);
            }
            Admission::Repeat(first) => {
                if self.repeats.len() >= REPEATS {
                    self.repeats.pop_first();
                }
                self.repeats.insert((first.slot, slot), (id, first));
            }
            Admission::Settled(outcome) => self.answer(id, slot, outcome),
            Admission::Nothing => {}
            Admission::Skip {
                slot: skipped,
                id: of,
                unsure,
            } => {
                self.skip(skipped, of, slot);
                let slot = skipped;
                self.actions.push_back(Action::Skipped { slot, unsure });
            }
            Admission::Revision {
                number,
                before,
                barrier,
            } => {
                self.begin_revision(number, before, barrier);
                self.answer(id, slot, Outcome::Done);
            }
            Admission::Silent {
                number,
                barrier,
                saver,
            } => {
                self.begin_silent(number, barrier, saver);
                self.answer(id, slot, Outcome::Done);
            }
            Admission::TakenOver { number, before } => self.finish_silent(number, before),
            Admission::TakenBack { number } => {
                self.take_back_silent(number);
                self.answer(id, slot, Outcome::Done);
            }
            Admission::Unknown(kind) => {
                self.halted = Some((slot, kind));
                self.actions.push_back(Action::Halt { slot, kind });
            }
        }
        self.tell_known();
    }

    /// What earlier lives have executed, as far as it was not skipped.
    fn tell_known(&mut self) {
        if self.fold.admitted() >= self.history.admitted {
            while let Some((slot, id)) = self.known.pop_front() {
                self.answer(id, slot, Outcome::Executed);
            }
        }
    }

    pub(super) fn answer(&mut self, id: CommandId, slot: Slot, outcome: Outcome) {
        self.actions.push_back(Action::Answer(Answer {
            id,
            slot,
            outcome,
            first_answerer: None,
        }));
    }

    fn answer_repeat(&mut self, id: CommandId, first: First) {
        self.actions.push_back(Action::Answer(Answer {
            id,
            slot: first.slot,
            outcome: Outcome::Replayed,
            first_answerer: Some(first.answerer),
        }));
    }

    pub(super) fn answer_repeats(&mut self, first: Slot) {
        while let Some(entry) = self.repeats.first_entry()
            && entry.key().0 <= first
        {
            let (id, first) = entry.remove();
            self.answer_repeat(id, first);
        }
    }
}

// === execute ===

impl Machine {
    pub(super) fn app_runs(&self) -> bool {
        matches!(self.app, App::Running(_))
    }

    /// The first admitted slot that the app is to execute and was not queued yet.
    pub(super) fn first_not_queued(&self) -> Option<Slot> {
        if !self.app_runs() {
            return None;
        }
        let from = self.queued_through.max(self.applied).next();
        if from > self.last_to_execute || self.is_beyond(from) {
            return None;
        }
        self.decisions.next_from(from)
    }

    pub(super) fn enqueue(&mut self, entry: &Entry, request: Arc<Request>) {
        let queued = Queued {
            slot: entry.slot,
            id: entry.command.id,
            time: entry.time,
            seed: entry.seed,
            weight: entry.weight(),
            request,
        };
        assert!(
            queued.slot > self.queued_through,
            "the queue is in slot order"
        );
        self.queued_through = queued.slot;
        self.queue_bytes += queued.weight;
        self.queue.push_back(queued);
    }

    pub(super) fn unqueue(&mut self, queued: Queued) {
        self.queue_bytes += queued.weight;
        self.queue.push_front(queued);
    }

    /// Goes on as far as possible: over slots that the app does not see, to the next it does, or to
    /// a snapshot.
    pub(super) fn advance(&mut self) {
        while self.busy.is_none()
            && !self.shutting_down
            && !self.stands
            && self.paused.is_none()
            && self.app_runs()
            && !self.snapshot_runs()
            && self.applied < self.fold.admitted()
        {
            let next = self.applied.next();
            if self.is_beyond(next) || self.waits_at_barrier() {
                break;
            }
            if self.decisions.executes(next) {
                if self.queue.front().is_some_and(|queued| queued.slot == next) {
                    self.begin(next);
                }
                break;
            }
            self.applied = next;
            self.note_answered(next);
        }
        self.reach_barrier();
        self.hand_on();
        self.forget();
    }

    /// The state that answers contains all up to this slot, also what its revision has executed silently.
    pub(super) fn note_answered(&mut self, slot: Slot) {
        if slot > self.answered && self.shows(slot) {
            self.answered = slot;
            self.answer_repeats(slot);
        }
    }

    fn begin(&mut self, slot: Slot) {
        let promised = self.promises.contains_key(&slot) && !planted(Mutant::PromisesAreBroken);
        if promised || self.waits_for_proof() {
            return;
        }
        let failures = self.failures.get(&slot).copied().unwrap_or(0);
        if failures >= FAILURES_BEFORE_PAUSE && self.pause_over != Some(slot) {
            let pause_ms = doubled(FAILED_PAUSE_MS, failures - FAILURES_BEFORE_PAUSE);
            return self.pause(slot, pause_ms);
        }
        let queued = self.queue.pop_front().expect("the caller has seen it");
        self.queue_bytes -= queued.weight;
        self.runs += 1;
        let run = Run(self.runs);
        let attempt = failures + 1;
        self.sent = self.sent.max(slot);
        if planted(Mutant::AnswerBeforeExecution) {
            self.answer(queued.id, slot, Outcome::Executed);
        }
        let seed = if planted(Mutant::SeedOfTheMember) {
            self.incarnation.0
        } else {
            queued.seed
        };
        self.execute = Some(Execute {
            run,
            slot,
            attempt,
            time: queued.time,
            seed,
            request: queued.request.clone(),
        });
        self.busy = Some(Busy {
            run,
            queued,
            attempt,
            slow: false,
        });
        self.ledger_dirty = true;
    }

    pub(super) fn pause(&mut self, slot: Slot, pause_ms: u64) {
        self.pause_over = None;
        self.paused = Some(slot);
        self.actions.push_back(Action::Pause { slot, pause_ms });
    }

    pub(super) fn take_busy(&mut self, run: Run) -> Option<Busy> {
        self.busy.take_if(|busy| busy.run == run)
    }

    /// What is in flight has failed, whatever comes of it.
    pub(super) fn cut_off(&mut self) {
        self.drop_snapshot();
        self.execute = None;
        if let Some(busy) = self.busy.take() {
            self.interrupted = Some(Interrupted {
                applied: self.applied,
                in_flight: InFlight {
                    slot: busy.queued.slot,
                    attempt: busy.attempt,
                },
                id: Some(busy.queued.id),
            });
            *self.failures.entry(busy.queued.slot).or_default() = busy.attempt;
            if self.failures.len() > SUSPECTS {
                self.failures.pop_first();
            }
        }
    }
}

/// `first` doubled `times` times, at most `longest`.
pub(super) fn doubled((first, longest): (u64, u64), times: u32) -> u64 {
    first
        .saturating_mul(1_u64.checked_shl(times).unwrap_or(u64::MAX))
        .min(longest)
}
