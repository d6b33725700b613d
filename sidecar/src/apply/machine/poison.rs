//! Slots that kill or hang the app: what this member promises about one (rule K1), and what a skip
//! that was chosen does (rule K2).

use synod_mutant::{Mutant, planted};
use synod_paxos::{CommandId, Slot};

use super::life::Files;
use super::{Action, Answer, App, Ask, Machine, Progress, Standing};
use crate::app::Instance;
use crate::apply::Outcome;
use crate::apply::ledger::History;

// === what is promised ===

impl Machine {
    /// The leader asks. The answer is a promise that must be synced, as a vote is, before it is told;
    /// see [`Machine::promises`]. `None`: a later ask was answered already, or the slot is skipped.
    pub fn handle_ask(&mut self, ask: Ask) -> Option<Standing> {
        if self.fold.skipped().contains(&ask.slot) {
            return None;
        }
        let earlier = self.promises.get(&ask.slot);
        if earlier.is_some_and(|it| (it.ballot, it.number) > (ask.ballot, ask.number)) {
            return None;
        }
        // Of what is in the base, which is to become this copy's state, nothing is left to promise.
        if ask.slot <= self.executed().max(self.base) && !planted(Mutant::ExecutedIsToldAsFailed) {
            return Some(Standing::Applied);
        }
        self.promises.insert(ask.slot, ask);
        // It would wait for what is not executed, and nothing would be admitted meanwhile: no skip either.
        self.give_up_wanted();
        let in_flight = self.busy.as_ref().map(|busy| busy.queued.slot);
        if in_flight == Some(ask.slot) {
            // Whatever comes of it, nobody is told.
            self.cut_off();
            if let App::Running(instance) = self.app {
                self.condemn(instance);
            }
        } else if let App::Running(instance) = self.app
            && ask.slot <= self.applied
            && self.is_silent_at(ask.slot)
            && !planted(Mutant::SilentStateOutlivesPromise)
        {
            // (Rule V1.) The state that contains it might take over.
            self.throw_away(instance);
        }
        Some(match self.was_sent(ask.slot) {
            // Sent in this life, perhaps; but one that nothing is known of may have answered it.
            _ if ask.slot <= self.history.forgotten => Standing::Unknown,
            Some(true) => Standing::Failed,
            Some(false) => Standing::Held,
            None => Standing::Unknown,
        })
    }

    /// Whether this member has ever sent the slot to an app, perhaps in part; `None`: nobody knows.
    fn was_sent(&self, slot: Slot) -> Option<bool> {
        if slot <= self.sent.max(self.history.sent) {
            return Some(true);
        }
        (slot > self.history.forgotten).then_some(false)
    }

    /// The agreement has proven, after this life began, that nothing is chosen beyond this slot yet
    /// (rule R1).
    pub fn handle_proven(&mut self, commit: Slot) {
        if self.proven.is_none() {
            self.proven = Some(commit);
            // What is chosen from now on was sent by no earlier life.
            self.history.forgotten = self.history.forgotten.min(commit);
            self.ledger_dirty = true;
        }
        self.advance();
    }

    pub(super) fn waits_for_proof(&self) -> bool {
        let known = self.proven.is_some_and(|it| it <= self.fold.admitted());
        self.gated && !known && !planted(Mutant::RunsBeforeTheLogIsKnown)
    }

    pub(super) fn history_now(&self) -> History {
        History {
            admitted: self.fold.admitted().max(self.considered),
            answered: self.executed(),
            sent: self.sent.max(self.history.sent),
            forgotten: self.history.forgotten,
        }
    }

    /// That very ask has come to an end, and the slot was not skipped.
    pub fn handle_free(&mut self, ask: Ask) {
        if self.promises.get(&ask.slot) == Some(&ask) {
            self.promises.remove(&ask.slot);
            self.advance();
        }
    }

    /// What is promised, in slot order: kept durably, and handed to the next life by
    /// [`Setup::promises`](super::Setup::promises).
    pub fn promises(&self) -> impl Iterator<Item = Ask> + '_ {
        self.promises.values().copied()
    }

    /// All slots up to here were executed by this member, in whatever life.
    pub fn executed(&self) -> Slot {
        self.answered.max(self.history.answered)
    }

    /// How the execution of the next slot goes. Of a copy that answers nobody nothing is said (rule V1).
    pub fn progress(&self) -> Progress {
        if self.is_silent_at(self.applied.next()) {
            return Progress::default();
        }
        let mut failed = self.failures.range(self.executed().next()..);
        Progress {
            next: self.next_executed().filter(|_| self.app_runs()),
            slow: self.busy.as_ref().is_some_and(|busy| busy.slow),
            failed: failed.next().map(|(slot, times)| (*slot, *times)),
        }
    }

    pub(super) fn next_executed(&self) -> Option<Slot> {
        let from = self.applied.max(self.not_needed).next();
        let next = self.decisions.next_from(from);
        next.filter(|next| !self.is_beyond(*next))
    }
}

// === what was chosen ===

impl Machine {
    /// From the slot `at` on it is known that nobody executes `slot`, which holds the command `id`.
    pub(super) fn skip(&mut self, slot: Slot, id: CommandId, at: Slot) {
        self.promises.remove(&slot);
        if planted(Mutant::SkippedSlotsRun) {
            return;
        }
        self.failures.remove(&slot);
        self.revisions.skip(slot);
        if self.base >= slot {
            self.base_void = true;
            let slot = self.base;
            self.actions.push_back(Action::VoidSnapshot { slot });
        }
        if slot > self.not_needed && !self.decisions.executes(slot) {
            return;
        }
        if slot > self.decisions.base() {
            self.decisions.clear(slot);
        }
        self.unqueue_skipped(slot);
        self.paused.take_if(|paused| *paused == slot);
        self.tell_skipped(slot, id);
        self.void_state(slot, at);
    }

    fn unqueue_skipped(&mut self, slot: Slot) {
        let before = self.queue.len();
        let weight = self.queue.iter().find(|it| it.slot == slot);
        let weight = weight.map_or(0, |it| it.weight);
        self.queue.retain(|it| it.slot != slot);
        assert!(before - self.queue.len() <= 1, "a slot is queued once");
        self.queue_bytes -= weight;
    }

    fn tell_skipped(&mut self, slot: Slot, id: CommandId) {
        let before = self.known.len();
        self.known.retain(|(known, _)| *known != slot);
        // Who was told that it was executed is told nothing else.
        if slot > self.answered || self.known.len() < before {
            self.answer(id, slot, Outcome::Skipped);
        }
        let waiting = self
            .repeats
            .range((slot, Slot::ZERO)..(slot.next(), Slot::ZERO));
        let waiting: Vec<_> = waiting.map(|(key, (id, _))| (*key, *id)).collect();
        for (key, id) in waiting {
            self.repeats.remove(&key);
            self.actions.push_back(Action::Answer(Answer {
                id,
                slot,
                outcome: Outcome::Skipped,
                first_answerer: None,
            }));
        }
    }

    /// A state that may contain the slot is void.
    fn void_state(&mut self, slot: Slot, at: Slot) {
        let busy = self.busy.as_ref().map(|busy| busy.queued.slot);
        let in_flight = self.interrupted.map(|it| it.in_flight.slot);
        let may_have = self.was_sent(slot) != Some(false);
        match self.app {
            App::Running(instance) => {
                let done = slot <= self.applied && at > self.considered;
                if done || busy == Some(slot) || in_flight == Some(slot) {
                    self.throw_away(instance);
                }
            }
            App::Restoring {
                instance, slot: to, ..
            } if to >= slot => self.condemn(instance),
            App::Restoring { .. } => {}
            App::Asking { instance, .. } if may_have => self.roll_back(instance),
            _ if may_have && self.has_volume() && self.files == Files::AsLeft => self.want_files(),
            _ => {}
        }
        if let Files::Back(to) | Files::Wanted { slot: to, .. } = self.files
            && to >= slot
        {
            self.want_files();
        }
    }

    pub(super) fn throw_away(&mut self, instance: Instance) {
        if self.has_volume() {
            self.roll_back(instance);
        } else {
            self.condemn(instance);
        }
    }

    /// A snapshot has come that holds what was promised not to be executed: another copy has executed
    /// it. One that stands before it goes on from there.
    pub(super) fn pass_promised(&mut self, slot: Slot) {
        let later = self.promises.split_off(&slot.next());
        let ended = std::mem::replace(&mut self.promises, later);
        let Some((asked, _)) = ended.last_key_value() else {
            return;
        };
        match self.app {
            App::Running(instance) if self.applied < *asked => self.throw_away(instance),
            // To an older one.
            App::Restoring { instance, .. } => self.condemn(instance),
            _ => {}
        }
    }

    /// A state that the app says to have may contain a slot that was promised not to be executed.
    pub(super) fn breaks_promise(&self, claimed: Slot) -> bool {
        self.promises.range(..=claimed).next().is_some()
    }
}
