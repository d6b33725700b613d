//! The apply machine: every decision between "chosen" and "answered", as a pure state machine. The
//! executor beside it, and the simulator, feed it events by `handle_*` and carry out what
//! [`Machine::poll_action`] says, in that order.
//!
//! Admit (the [`Fold`]) runs ahead, as far as entries are known, whether or not an app is there;
//! Execute and Complete follow, one slot at a time. Both begin behind the newest snapshot that this
//! member has, its base. What an app that starts has of the state, and how it gets the rest, depends
//! on its [`StateType`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use prost::Message;
use synod_mutant::{Mutant, planted};
use synod_paxos::{AgreedTime, CommandId, CommandKind, Entry, Incarnation, Slot};
use synod_proto::v1::Request;

mod action;
mod life;
mod lineage;
mod poison;
mod revisions;
mod snapshots;
mod steps;
#[cfg(test)]
mod tests;

pub use self::action::{
    Action, Answer, Ask, Blocked, Execute, Job, Progress, Run, Setup, Standing, StateType,
    UncleanCrash,
};
use self::life::{Files, Interrupted};
pub use self::lineage::Lineage;
pub use self::revisions::RevisionStatus;
use self::revisions::Revisions;
use self::snapshots::Barrier;
use self::steps::doubled;
use super::Outcome;
use super::decisions::Decisions;
use super::fold::Fold;
use super::keys::First;
use super::ledger::{Found, History};
use crate::app::Instance;

/// Entries held for execution, at most about so many.
const QUEUE_ENTRIES: usize = 512;
/// And about so many bytes.
const QUEUE_BYTES: u64 = 8 << 20;
/// Repeats that wait for their first, at most; the oldest are not answered here any more.
const REPEATS: usize = 4_096;
/// Answers of earlier lives that wait to be told, at most; as many as are kept of this one.
const KNOWN: usize = 4_096;
/// A slot that failed so often on this member is tried again only after a pause (rule K1).
const FAILURES_BEFORE_PAUSE: u32 = 2;
/// First and longest pause before a failed slot is tried again, in milliseconds.
const FAILED_PAUSE_MS: (u64, u64) = (1_000, 30_000);
/// First and longest pause before a slot that could not be sent is tried again, in milliseconds.
const REFUSED_PAUSE_MS: (u64, u64) = (10, 500);
/// Slots whose failures are remembered, at most.
const SUSPECTS: usize = 64;

/// What is known about the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    /// It does not run. The next instance is new, unless it is `previous` again.
    Absent { previous: Option<Instance> },
    /// Found running though nothing is known about what it was sent. Only a start signal shows
    /// that it is new.
    Unproven(Instance),
    /// It must be stopped.
    Condemned(Instance),
    /// It has just started, and the state of this slot is being put into it.
    Restoring {
        instance: Instance,
        job: Job,
        slot: Slot,
    },
    /// It has just started, and is asked which slot its state contains. `claimed`: its answer, which
    /// the log must come up to.
    Asking {
        instance: Instance,
        job: Job,
        claimed: Option<Slot>,
    },
    /// Its state is that of `applied`.
    Running(Instance),
}

#[derive(Clone, Debug)]
struct Queued {
    slot: Slot,
    id: CommandId,
    time: AgreedTime,
    seed: u128,
    weight: u64,
    request: Arc<Request>,
}

#[derive(Clone, Debug)]
struct Busy {
    run: Run,
    queued: Queued,
    attempt: u32,
    slow: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    incarnation: Incarnation,
    fold: Fold,
    decisions: Decisions,
    /// Of the newest snapshot that this member has; a copy that must be made anew begins there.
    base: Slot,
    /// Should that be void, it can begin with one of this slot or a later one: of what is decided from here
    /// on nothing is forgotten.
    former: Slot,
    /// Entries up to here are not asked for any more.
    not_needed: Slot,
    state: StateType,
    halted: Option<(Slot, CommandKind)>,
    /// Slots up to here are known to be chosen.
    commit: Slot,

    app: App,
    app_starts: u64,
    /// What the ledger knew when this machine began, until the first look at the app; and whether
    /// the volume is half restored.
    recovered: Option<(Found, bool)>,
    files: Files,
    interrupted: Option<Interrupted>,
    restore_failures: u32,
    jobs: u64,
    /// A snapshot that is to be taken.
    barrier: Option<Barrier>,
    /// The state of the app is that of a life that knew the log up to here, with its skips.
    considered: Slot,
    /// The base cannot be used: it has executed a slot that nobody should have, may contain what differs from
    /// other copies, or is lost.
    base_void: bool,
    /// The base may contain what differs from other copies from this slot on.
    base_astray: Option<Slot>,
    /// Which state the app has.
    lineage: Lineage,
    /// It was found to differ from this slot on.
    astray: Option<Slot>,
    /// Nothing is executed upon it any more, since it differs.
    stands: bool,
    /// Which revisions of the app execute what.
    revisions: Revisions,
    /// What was promised about slots that the leader asks about.
    promises: BTreeMap<Slot, Ask>,
    /// Of all earlier lives.
    history: History,
    /// What was chosen when this life began is not beyond this slot.
    proven: Option<Slot>,
    /// Nothing is executed before that is known.
    gated: bool,
    changes_in_place: bool,
    /// The app's state is that of this slot.
    applied: Slot,
    /// Executed in this life or an earlier one that is known of; never goes down.
    answered: Slot,
    /// Slots up to here were executed in an earlier life: their responses are gone.
    answered_before: Slot,
    /// Of these the last, which are told once all skips that were known then are known again.
    known: VecDeque<(Slot, CommandId)>,
    /// Highest slot sent; never goes down (rule R6).
    sent: Slot,
    /// Reads wait until the app's state has come so far.
    target: Slot,

    /// Requests to execute, in slot order: all of those in `applied + 1 ..= queued_through`.
    queue: VecDeque<Queued>,
    queue_bytes: u64,
    queued_through: Slot,
    busy: Option<Busy>,
    paused: Option<Slot>,
    /// The pause before this slot is over.
    pause_over: Option<Slot>,
    /// The last admitted slot that is executed.
    last_to_execute: Slot,
    /// What other members have applied, at most.
    elsewhere: Slot,
    runs: u64,
    failures: BTreeMap<Slot, u32>,
    refusals: u32,
    /// Repeats by key whose first is not done here, by its slot.
    repeats: BTreeMap<(Slot, Slot), (CommandId, First)>,

    shutting_down: bool,
    ledger_dirty: bool,
    execute: Option<Execute>,
    actions: VecDeque<Action>,
}

impl Machine {
    /// A machine before the first slot, or behind those of a snapshot. The first events must be what
    /// is listening at the app's address ([`Machine::handle_app`]) and the log from there on.
    pub fn new(setup: Setup) -> Self {
        let base = setup.fold.admitted();
        let revisions = Revisions::behind(&setup.fold);
        let answered = match &setup.ledger {
            Found::Record(record) => record.applied,
            Found::New | Found::Missing | Found::OtherBoot(_) => Slot::ZERO,
        };
        let mut machine = Self {
            incarnation: setup.incarnation,
            fold: setup.fold,
            decisions: Decisions::new(base),
            base,
            former: base,
            not_needed: base,
            state: setup.state,
            halted: None,
            commit: base,
            app: App::Absent { previous: None },
            app_starts: 0,
            recovered: Some((setup.ledger, setup.half_restored)),
            files: Files::AsLeft,
            interrupted: None,
            restore_failures: 0,
            jobs: 0,
            barrier: None,
            considered: Slot::ZERO,
            base_void: false,
            base_astray: None,
            lineage: Lineage::default(),
            astray: None,
            stands: false,
            revisions,
            promises: setup
                .promises
                .into_iter()
                .filter(|ask| ask.slot > base && !planted(Mutant::PromisesAreForgotten))
                .map(|ask| (ask.slot, ask))
                .collect(),
            history: History::default(),
            proven: None,
            gated: setup.gated,
            changes_in_place: setup.changes_in_place,
            applied: Slot::ZERO,
            answered: base,
            answered_before: base,
            known: VecDeque::new(),
            sent: Slot::ZERO,
            target: answered.max(base),
            queue: VecDeque::new(),
            queue_bytes: 0,
            queued_through: Slot::ZERO,
            busy: None,
            paused: None,
            pause_over: None,
            last_to_execute: Slot::ZERO,
            elsewhere: Slot::ZERO,
            runs: 0,
            failures: BTreeMap::new(),
            refusals: 0,
            repeats: BTreeMap::new(),
            shutting_down: false,
            ledger_dirty: false,
            execute: None,
            actions: VecDeque::new(),
        };
        if setup.ledger == Found::New {
            machine.history.forgotten = Slot::ZERO;
        }
        if let Found::Record(record) = &setup.ledger {
            machine.history = record.history.unwrap_or_default();
            if let Some(in_flight) = record.in_flight {
                machine.failures.insert(in_flight.slot, in_flight.attempt);
                machine.sent = in_flight.slot;
            }
            machine.sent = machine.sent.max(record.applied);
        }
        if base > Slot::ZERO {
            machine.tell_jump();
        }
        machine
    }
}

// === events ===

impl Machine {
    /// All slots up to `through` are chosen.
    pub fn handle_commit(&mut self, through: Slot) {
        self.commit = self.commit.max(through);
        self.check_claim();
    }

    /// An entry of the log: the next to admit ([`Machine::next_to_admit`]), or once more the next
    /// to execute ([`Machine::next_to_execute`]) or any other, which is passed over.
    pub fn handle_entry(&mut self, entry: &Entry) {
        assert!(
            self.recovered.is_none(),
            "the first event is a look at the app"
        );
        if self.halted.is_some() && entry.slot > self.fold.admitted() {
            return;
        }
        if entry.slot == self.fold.admitted().next() {
            if self.admits() {
                self.admit(entry);
            }
        } else if self.first_not_queued() == Some(entry.slot) {
            let request = Request::decode(entry.command.payload.clone())
                .expect("what was admitted for execution can be decoded");
            self.enqueue(entry, Arc::new(request));
        }
        self.advance();
    }

    /// What listens at the app's address now. Looked at when the machine begins, after a start
    /// signal, before the first send on a new connection, and after a connection was lost.
    pub fn handle_app(&mut self, instance: Option<Instance>) {
        if let Some(recovered) = self.recovered.take() {
            self.recover(recovered, instance);
            return self.advance();
        }
        match (self.app, instance) {
            (App::Absent { previous }, Some(new)) if previous == Some(new) => self.condemn(new),
            (App::Absent { .. }, Some(new)) => self.app_is_new(new),
            (app, Some(other)) if app.instance() != Some(other) => self.app_is_new(other),
            (app, None) => {
                if let Some(known) = app.instance() {
                    self.app_is_gone(known);
                }
            }
            _ => {}
        }
        self.advance();
    }

    /// The start signal (rule A5) and what listens now: if this is the instance that is known, the
    /// signal is about that same start.
    pub fn handle_app_started(&mut self, instance: Option<Instance>) {
        if let (App::Unproven(known), Some(found)) = (self.app, instance)
            && known == found
        {
            self.app_is_new(found);
            return self.advance();
        }
        self.handle_app(instance);
    }

    /// This is what listens, but another part of the app has gone: its state is not known.
    pub fn handle_app_partly_gone(&mut self, instance: Instance) {
        assert!(
            self.recovered.is_none(),
            "the first event is a look at the app"
        );
        self.condemn(instance);
    }

    /// The response to an execution is complete.
    pub fn handle_response(&mut self, run: Run) {
        let Some(busy) = self.take_busy(run) else {
            return;
        };
        let slot = busy.queued.slot;
        assert_eq!(slot, self.applied.next(), "execution is in slot order");
        self.interrupted = None;
        self.failures.remove(&slot);
        self.refusals = 0;
        self.pause_over = None;
        self.applied = slot;
        self.ledger_dirty = true;
        if slot > self.answered && !self.is_silent_at(slot) {
            self.answer(busy.queued.id, slot, Outcome::Executed);
        }
        self.note_answered(slot);
        self.advance();
    }

    /// Not a byte of it was sent.
    pub fn handle_not_sent(&mut self, run: Run) {
        let Some(busy) = self.take_busy(run) else {
            return;
        };
        let slot = busy.queued.slot;
        self.unqueue(busy.queued);
        self.ledger_dirty = true;
        let pause_ms = doubled(REFUSED_PAUSE_MS, self.refusals);
        self.refusals = self.refusals.saturating_add(1);
        self.pause(slot, pause_ms);
    }

    /// Part of it may have reached the app, and no complete response came.
    pub fn handle_unknown(&mut self, run: Run) {
        if planted(Mutant::LostAnswerIsSentAgain) {
            return self.handle_not_sent(run);
        }
        if self.busy.as_ref().is_none_or(|busy| busy.run != run) {
            return;
        }
        self.cut_off();
        if let App::Running(instance) = self.app {
            self.condemn(instance);
        }
    }

    /// The policy's `applyTimeout` is over and the connection still open: slow, not lost.
    pub fn handle_slow(&mut self, run: Run) {
        if let Some(busy) = &mut self.busy
            && busy.run == run
        {
            busy.slow = true;
            if planted(Mutant::SlowIsLost) {
                return self.handle_unknown(run);
            }
            self.handle_applied_elsewhere(Slot::ZERO);
        }
    }

    /// Another member has applied this slot: what is slow here and done there is stuck. So is what an
    /// earlier instance of this app has done already.
    pub fn handle_applied_elsewhere(&mut self, slot: Slot) {
        self.elsewhere = self.elsewhere.max(slot);
        if let Some(busy) = &self.busy
            && busy.slow
            && busy.queued.slot <= self.elsewhere.max(self.executed())
        {
            self.handle_unknown(busy.run);
        }
    }

    /// This process is to end: nothing new is sent.
    pub fn handle_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self) -> Option<Action> {
        if planted(Mutant::SentBeforeTheLedger)
            && let Some(execute) = self.execute.take()
        {
            return Some(Action::Execute(execute));
        }
        if self.ledger_dirty {
            self.ledger_dirty = false;
            return Some(Action::Ledger(self.record()));
        }
        if let Some(execute) = self.execute.take() {
            return Some(Action::Execute(execute));
        }
        self.actions.pop_front()
    }
}

// === getters ===

impl Machine {
    /// The slot to admit next. None while a snapshot is to be taken: the tables wait for the app.
    pub fn next_to_admit(&self) -> Option<Slot> {
        self.admits().then(|| self.fold.admitted().next())
    }

    /// The first slot that must be handed in once more, since execution has come there and its
    /// entry is not held here.
    pub fn next_to_execute(&self) -> Option<Slot> {
        let room = self.queue.len() < QUEUE_ENTRIES / 2 && self.queue_bytes < QUEUE_BYTES / 2;
        room.then(|| self.first_not_queued()).flatten()
    }

    /// All that was decided from the log so far.
    pub fn fold(&self) -> &Fold {
        &self.fold
    }

    /// The app's state is that of this slot. Begins anew when the app does.
    pub fn applied(&self) -> Slot {
        self.applied
    }

    /// All slots up to here were executed by this member, if perhaps by an app that is gone.
    pub fn answered(&self) -> Slot {
        self.answered
    }

    /// Highest slot that may have reached the app, now or before (rule R6). Never goes down.
    pub fn sent(&self) -> Slot {
        self.sent.max(self.applied)
    }

    /// Reads may go to the app.
    pub fn serving(&self) -> bool {
        self.app_runs()
            && self.halted.is_none()
            && !self.stands
            && self.end().is_none()
            && !self.is_silent()
            && (self.applied >= self.target || planted(Mutant::ReadsDuringASecondAttempt))
            && self.fold.admitted() >= self.target
            && self.paused.is_none()
            && (self.busy.as_ref().is_none_or(|busy| busy.attempt == 1)
                || planted(Mutant::ReadsDuringASecondAttempt))
    }

    /// The app runs, and is given a state or executes what was chosen before it started.
    pub fn rebuilding(&self) -> bool {
        match self.app {
            App::Running(_) => self.applied < self.target,
            App::Restoring { .. } | App::Asking { .. } => true,
            _ => false,
        }
    }

    /// The instance whose state is that of `applied`.
    pub fn instance(&self) -> Option<Instance> {
        match self.app {
            App::Running(instance) => Some(instance),
            _ => None,
        }
    }

    /// Whatever listens, as far as was seen.
    pub fn listens(&self) -> Option<Instance> {
        self.app.instance()
    }

    /// The instance that must be stopped.
    pub fn condemned(&self) -> Option<Instance> {
        match self.app {
            App::Condemned(instance) | App::Unproven(instance) => Some(instance),
            _ => None,
        }
    }

    /// Nothing listens.
    pub fn is_absent(&self) -> bool {
        matches!(self.app, App::Absent { .. })
    }

    /// The slot to which the app's volume must be put back, if it must.
    pub fn rollback(&self) -> Option<Slot> {
        match self.files {
            Files::Wanted { slot, .. } => Some(slot),
            _ => None,
        }
    }

    /// An app of the revision that is due ([`Machine::revision_status`]) may be started: what it finds on
    /// its volume is what it should find.
    pub fn may_start(&self) -> bool {
        self.recovered.is_none() && self.rollback().is_none()
    }

    /// A state is being put into the app, or back onto its volume.
    pub fn restoring(&self) -> bool {
        matches!(self.app, App::Restoring { .. }) || (self.is_absent() && self.rollback().is_some())
    }

    /// Whether it still matters what comes of this job, be it a state or a question.
    pub fn wants(&self, job: Job) -> bool {
        let files = matches!(self.files, Files::Wanted { job: it, .. } if it == job);
        let app = match self.app {
            App::Restoring { job: it, .. } | App::Asking { job: it, .. } => it == job,
            _ => false,
        };
        files || app
    }

    /// Starts of the app that were seen.
    pub fn app_starts(&self) -> u64 {
        self.app_starts
    }

    /// The execution that the app works on.
    pub fn run(&self) -> Option<Run> {
        self.busy.as_ref().map(|busy| busy.run)
    }

    /// The slot that the app works on, and whether it takes longer than it may.
    pub fn in_flight(&self) -> Option<(Slot, bool)> {
        self.busy.as_ref().map(|busy| (busy.queued.slot, busy.slow))
    }

    /// Why nothing is executed though something could be.
    pub fn blocked(&self) -> Option<Blocked> {
        if let Some((slot, _)) = self.halted
            && self.applied.next() == slot
        {
            return Some(Blocked::Unknown(slot));
        }
        match self.app {
            App::Running(_) if self.stands => Some(Blocked::Differs(self.applied.next())),
            App::Running(_) if self.end().is_some_and(|end| self.applied >= end) => {
                Some(Blocked::Revision(self.applied))
            }
            App::Running(_) if self.stands_at_barrier() => Some(Blocked::Revision(self.applied)),
            App::Running(_) => {
                let next = self.next_executed();
                let asked = next.filter(|next| self.promises.contains_key(next));
                let unproven = next.filter(|_| self.waits_for_proof());
                let paused = self.paused.map(Blocked::Pause);
                let asked = asked.map(Blocked::Asked);
                paused.or(asked).or(unproven.map(Blocked::Unproven))
            }
            App::Restoring { slot, .. } if self.lacks_state() => Some(Blocked::Revision(slot)),
            App::Restoring { slot, .. } => Some(Blocked::Restore(slot)),
            App::Asking { .. } => Some(Blocked::Restore(self.base)),
            _ => Some(Blocked::NoApp),
        }
    }
}
