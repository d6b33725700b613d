//! The app's life as the machine sees it (rule A4), and how a state that belongs to a known slot
//! comes into it again.

use synod_mutant::{Mutant, planted};
use synod_paxos::{CommandId, Slot};

use super::steps::doubled;
use super::{Action, App, Job, Machine, StateType, UncleanCrash};
use super::{FAILED_PAUSE_MS, FAILURES_BEFORE_PAUSE, REFUSED_PAUSE_MS};
use crate::app::Instance;
use crate::apply::Outcome;
use crate::apply::ledger::{Found, InFlight, Record};

/// How long the log may take to come as far as the app says that it is, in milliseconds.
const CLAIM_PAUSE_MS: u64 = 30_000;

/// What is known about the app's volume while no app has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// As the app left them, or has them.
    AsLeft,
    /// They must be put back to this slot before the app starts.
    Wanted { job: Job, slot: Slot },
    /// They were put back to this slot, the base, and no app was seen since.
    Back(Slot),
}

/// What was in flight when the state of the app was lost, if that is all that is not known about it;
/// until it was executed once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted {
    pub(super) applied: Slot,
    pub(super) in_flight: InFlight,
    /// Not known from an earlier life of this process.
    pub(super) id: Option<CommandId>,
}

impl App {
    /// What listens, if anything does.
    pub(super) fn instance(self) -> Option<Instance> {
        match self {
            Self::Absent { .. } => None,
            Self::Unproven(instance)
            | Self::Condemned(instance)
            | Self::Restoring { instance, .. }
            | Self::Asking { instance, .. }
            | Self::Running(instance) => Some(instance),
        }
    }
}

// === starts and ends ===

impl Machine {
    /// The first look at the app, against what the ledger knew of it.
    pub(super) fn recover(
        &mut self,
        (found, half_restored): (Found, bool),
        instance: Option<Instance>,
    ) {
        if half_restored && self.has_volume() {
            self.want_files();
        }
        let record = match found {
            // Nothing is known of earlier lives, so nothing of what this app was sent.
            Found::New | Found::Missing => {
                self.lose_state();
                if let Some(instance) = instance {
                    self.app = App::Unproven(instance);
                    self.actions.push_back(Action::StopApp(instance));
                }
                self.ledger_dirty = true;
                return;
            }
            // The machine has started since: whatever listens has, too, and what is on a volume may
            // be older or newer than what the ledger says.
            Found::OtherBoot(kept) => {
                self.know_lineage(kept);
                self.lose_state();
                self.ledger_dirty = true;
                if let Some(instance) = instance {
                    self.app_is_new(instance);
                }
                return;
            }
            Found::Record(record) => record,
        };
        self.revisions.recover(record.revision);
        self.know_lineage(record.kept());
        self.interrupted = record.in_flight.map(|in_flight| Interrupted {
            applied: record.applied,
            in_flight,
            id: None,
        });
        let exact = record.in_flight.is_none() && !record.unknown && !record.rollback
            || planted(Mutant::UnknownStateGoesOn);
        let usable = exact && record.applied >= self.base && self.files == Files::AsLeft;
        match (record.instance, instance) {
            (Some(known), Some(found)) if known == found => {
                if usable {
                    self.go_on(found, record.applied);
                    self.considered = self.history.admitted;
                    return;
                }
                self.lose_state_of(record);
                return self.condemn(found);
            }
            (None, _) if usable && self.has_volume() => self.files = Files::Back(record.applied),
            _ => self.lose_state_of(record),
        }
        let previous = record.instance;
        self.app = App::Absent { previous };
        if let Some(found) = instance {
            self.app_is_new(found);
        }
    }

    fn lose_state_of(&mut self, record: Record) {
        let lost = record.rollback || record.applied < self.base;
        if lost && self.has_volume() && self.files == Files::AsLeft {
            self.want_files();
        } else {
            self.lose_state();
        }
    }

    pub(super) fn condemn(&mut self, instance: Instance) {
        self.cut_off();
        self.paused = None;
        self.app = App::Condemned(instance);
        self.ledger_dirty = true;
        self.actions.push_back(Action::StopApp(instance));
        self.lose_state();
    }

    pub(super) fn app_is_gone(&mut self, known: Instance) {
        self.cut_off();
        self.app = App::Absent {
            previous: Some(known),
        };
        self.lose_state();
    }

    /// A start: what its state is depends on where it keeps that.
    pub(super) fn app_is_new(&mut self, instance: Instance) {
        self.cut_off();
        self.app_starts += 1;
        self.target = self.target.max(self.commit).max(self.answered);
        self.paused = None;
        self.pause_over = None;
        self.refusals = 0;
        self.ledger_dirty = true;
        if self.revisions.begin() {
            // It may get past what the other did not.
            self.failures.clear();
        }
        match (self.state, self.files) {
            (StateType::Ephemeral, _) if planted(Mutant::RestartedAppGoesOn) => {
                self.go_on(instance, self.applied);
            }
            (StateType::Ephemeral, _) if self.base == Slot::ZERO && self.fits_base() => {
                self.begin_lineage(Slot::ZERO);
                self.go_on(instance, Slot::ZERO);
            }
            (StateType::Ephemeral, _) => self.restore(instance),
            (StateType::Volume(_), Files::Back(slot)) if self.fits(slot) => {
                self.begin_lineage(slot);
                self.go_on(instance, slot);
            }
            (StateType::Volume(UncleanCrash::AppliedHeader), Files::AsLeft) => self.ask(instance),
            (StateType::Volume(UncleanCrash::AtLeastOnce), Files::AsLeft) => {
                // Until that is done, the state may contain what was in flight.
                let interrupted = self.interrupted;
                match self.resumable().filter(|_| self.is_of_its_own()) {
                    Some(applied) => {
                        self.go_on(instance, applied);
                        self.interrupted = interrupted;
                    }
                    None => self.roll_back(instance),
                }
            }
            // Whatever was done to its files meanwhile, it was done under a running app.
            (StateType::Volume(_), _) => self.roll_back(instance),
        }
    }

    /// The state of this instance is that of this slot.
    pub(super) fn go_on(&mut self, instance: Instance, slot: Slot) {
        assert!(
            slot >= self.not_needed && slot >= self.decisions.base(),
            "nothing is executed from what was forgotten"
        );
        // What a copy has executed silently nobody was answered.
        let answered = if self.shows(slot) {
            slot
        } else {
            slot.min(self.base)
        };
        if let Some(Interrupted {
            in_flight,
            id: Some(id),
            ..
        }) = self.interrupted
            && self.answered < in_flight.slot
            && in_flight.slot <= answered
            && !self.is_silent_at(in_flight.slot)
        {
            self.answer(id, in_flight.slot, Outcome::Executed);
        }
        self.app = App::Running(instance);
        self.revisions.go_on();
        self.carry_lineage(slot);
        self.considered = Slot::ZERO;
        self.files = Files::AsLeft;
        self.interrupted = None;
        self.restore_failures = 0;
        self.paused = None;
        self.start_at(slot);
        self.target = self.target.max(self.commit);
        self.answered = self.answered.max(answered);
        self.answered_before = self.answered_before.max(answered);
        self.answer_repeats(answered);
        self.ledger_dirty = true;
    }

    /// Execution goes on behind this slot.
    fn start_at(&mut self, slot: Slot) {
        self.sent = self.sent.max(self.applied);
        self.applied = slot;
        self.queue.clear();
        self.queue_bytes = 0;
        self.queued_through = slot;
    }

    pub(super) fn record(&self) -> Record {
        let applied = self.interrupted.map_or(self.applied, |it| it.applied);
        let (instance, applied) = match (self.app, self.files) {
            (App::Absent { .. }, Files::Back(slot)) => (None, slot),
            (App::Absent { previous }, _) => (previous, applied),
            (app, _) => (app.instance(), applied),
        };
        let busy = self.busy.as_ref().map(|busy| InFlight {
            slot: busy.queued.slot,
            attempt: busy.attempt,
        });
        Record {
            instance,
            applied,
            in_flight: busy.or(self.interrupted.map(|it| it.in_flight)),
            unknown: match self.app {
                App::Running(_) => false,
                // Also of one that has gone, should it ever listen again.
                App::Absent { previous } if !self.has_volume() => previous.is_some(),
                App::Absent { .. } => !matches!(self.files, Files::Back(_)),
                _ => true,
            },
            rollback: matches!(self.files, Files::Wanted { .. }),
            astray: self.astray,
            stands: self.stands,
            revision: self.revisions.noted(self.app.instance().is_some()),
            history: Some(self.history_now()),
        }
    }
}

// === the state of an app that has started ===

impl Machine {
    pub(super) fn has_volume(&self) -> bool {
        self.state != StateType::Ephemeral
    }

    /// Whoever had the state is gone, or must go.
    pub(super) fn lose_state(&mut self) {
        let wanted = match self.state {
            StateType::Ephemeral | StateType::Volume(UncleanCrash::AppliedHeader) => false,
            StateType::Volume(UncleanCrash::Rollback) => true,
            StateType::Volume(UncleanCrash::AtLeastOnce) => self.resumable().is_none(),
        };
        if wanted && self.files == Files::AsLeft {
            self.want_files();
        }
    }

    /// From where the next instance goes on, if nothing is open but whether it has executed one slot
    /// more than that.
    fn resumable(&self) -> Option<Slot> {
        let resumed = self.interrupted.map(|it| it.applied);
        resumed.filter(|applied| *applied >= self.base)
    }

    pub(super) fn want_files(&mut self) {
        let (job, slot) = (self.next_job(), self.base);
        self.interrupted = None;
        self.files = Files::Wanted { job, slot };
        self.ledger_dirty = true;
        if !self.base_void {
            self.actions.push_back(Action::ReplaceApp { job, slot });
        }
    }

    /// Has the state of the base put into it.
    pub(super) fn restore(&mut self, instance: Instance) {
        if self.is_outdated() {
            return self.condemn(instance);
        }
        if self.base == Slot::ZERO && !self.base_void && self.fits_base() {
            // What it has begun with.
            self.begin_lineage(Slot::ZERO);
            return self.go_on(instance, Slot::ZERO);
        }
        let (job, slot) = (self.next_job(), self.base);
        self.start_at(Slot::ZERO);
        self.app = App::Restoring {
            instance,
            job,
            slot,
        };
        if self.base_void || self.lacks_state() {
            // Until there is another.
        } else if self.restore_failures < FAILURES_BEFORE_PAUSE || self.pause_over == Some(slot) {
            self.actions.push_back(Action::Restore {
                job,
                slot,
                instance,
            });
        } else {
            let times = self.restore_failures - FAILURES_BEFORE_PAUSE;
            self.pause(slot, doubled(FAILED_PAUSE_MS, times));
        }
    }

    fn ask(&mut self, instance: Instance) {
        let (job, claimed) = (self.next_job(), None);
        self.start_at(Slot::ZERO);
        self.app = App::Asking {
            instance,
            job,
            claimed,
        };
        self.actions.push_back(Action::AskApplied { job, instance });
    }

    /// The app's claim, once the log has come so far.
    pub(super) fn check_claim(&mut self) {
        if let App::Asking {
            instance,
            claimed: Some(slot),
            ..
        } = self.app
            && slot <= self.commit
        {
            if self.breaks_promise(slot) || !self.fits(slot) {
                self.roll_back(instance);
            } else {
                self.go_on(instance, slot);
            }
        }
    }

    pub(super) fn next_job(&mut self) -> Job {
        self.jobs += 1;
        Job(self.jobs)
    }
}

// === events ===

impl Machine {
    /// See [`Action::Restore`].
    pub fn handle_restored(&mut self, job: Job) {
        if let App::Restoring {
            instance,
            job: under_way,
            slot,
        } = self.app
            && job == under_way
        {
            self.begin_lineage(slot);
            self.go_on(instance, slot);
            self.advance();
        }
    }

    /// It did not work. If nothing of it was `begun`, the app's state is still empty.
    pub fn handle_restore_failed(&mut self, job: Job, begun: bool) {
        if let App::Restoring {
            instance,
            job: under_way,
            slot,
        } = self.app
            && job == under_way
        {
            if begun {
                self.restore_failures = self.restore_failures.saturating_add(1);
                return self.condemn(instance);
            }
            let pause_ms = doubled(REFUSED_PAUSE_MS, self.refusals);
            self.refusals = self.refusals.saturating_add(1);
            self.pause(slot, pause_ms);
        }
    }

    /// See [`Action::ReplaceApp`]. To be called after a look at the app has shown that none runs.
    pub fn handle_volume_restored(&mut self, job: Job) {
        if let Files::Wanted {
            job: under_way,
            slot,
        } = self.files
            && job == under_way
            && self.app.instance().is_none()
        {
            self.files = Files::Back(slot);
            self.revisions.put_back();
            self.ledger_dirty = true;
        }
    }

    /// It did not work: it is tried again after a pause.
    pub fn handle_volume_not_restored(&mut self, job: Job) {
        if let Files::Wanted {
            job: under_way,
            slot,
        } = self.files
            && job == under_way
        {
            self.restore_failures = self.restore_failures.saturating_add(1);
            let pause_ms = doubled(FAILED_PAUSE_MS, self.restore_failures - 1);
            self.pause(slot, pause_ms);
        }
    }

    /// What the app says that its state contains: all slots up to this one. `None`: it says nothing
    /// that makes sense.
    pub fn handle_app_applied(&mut self, job: Job, slot: Option<Slot>) {
        let App::Asking {
            instance,
            job: under_way,
            claimed: None,
        } = self.app
        else {
            return;
        };
        if job != under_way {
            return;
        }
        match slot.filter(|slot| *slot >= self.base && !self.breaks_promise(*slot)) {
            Some(slot) if slot <= self.commit && !self.fits(slot) => self.roll_back(instance),
            Some(slot) if slot <= self.commit => self.go_on(instance, slot),
            Some(slot) => {
                // How far the log had come may have been forgotten with the machine.
                let claimed = Some(slot);
                self.app = App::Asking {
                    instance,
                    job,
                    claimed,
                };
                self.pause(slot, CLAIM_PAUSE_MS);
            }
            None => self.roll_back(instance),
        }
        self.advance();
    }

    pub(super) fn roll_back(&mut self, instance: Instance) {
        self.want_files();
        self.condemn(instance);
    }

    /// See [`Action::Pause`].
    pub fn handle_pause_over(&mut self, slot: Slot) {
        if self.paused != Some(slot) {
            return;
        }
        self.paused = None;
        self.pause_over = Some(slot);
        self.pass_barrier();
        match self.app {
            App::Restoring { instance, .. } => self.restore(instance),
            App::Asking {
                instance,
                claimed: Some(_),
                ..
            } => self.roll_back(instance),
            _ if matches!(self.files, Files::Wanted { .. }) => self.want_files(),
            _ => self.advance(),
        }
    }
}
