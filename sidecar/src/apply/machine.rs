//! The apply machine: every decision between "chosen" and "answered", as a pure state machine. The
//! executor beside it, and the simulator, feed it events by `handle_*` and carry out what
//! [`Machine::poll_action`] says, in that order.
//!
//! Admit (the [`Fold`]) runs ahead, as far as entries are known, whether or not an app is there;
//! Execute and Complete follow, one slot at a time. State type `Ephemeral`: an app that starts
//! has an empty state, so a start means executing the log from its first slot.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use prost::Message;
use synod_paxos::{AgreedTime, CommandId, CommandKind, Configuration, Entry, MemberId, Slot};
use synod_proto::v1::{Policy, Request};

mod steps;
#[cfg(test)]
mod tests;

use self::steps::doubled;
use super::Outcome;
use super::fold::{Decisions, Fold};
use super::keys::First;
use super::ledger::{Found, Record};
use crate::app::Instance;

/// Entries held for execution, at most about so many.
const QUEUE_ENTRIES: usize = 512;
/// And about so many bytes.
const QUEUE_BYTES: u64 = 8 << 20;
/// Repeats that wait for their first, at most; the oldest are not answered here any more.
const REPEATS: usize = 4_096;
/// A slot that failed so often on this member is tried again only after a pause (rule K1).
const FAILURES_BEFORE_PAUSE: u32 = 2;
/// First and longest pause before a failed slot is tried again, in milliseconds.
const FAILED_PAUSE_MS: (u64, u64) = (1_000, 30_000);
/// First and longest pause before a slot that could not be sent is tried again, in milliseconds.
const REFUSED_PAUSE_MS: (u64, u64) = (10, 500);
/// Slots whose failures are remembered, at most.
const SUSPECTS: usize = 64;

/// What a machine starts from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The membership; decides whose commands count.
    pub configuration: Configuration,
    /// The policy of the genesis.
    pub policy: Policy,
    /// What the ledger says about earlier lives of this process.
    pub ledger: Found,
}

/// Number of an execution; unique within a machine's life, so that late news is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run(pub u64);

/// One thing that must be done, before the next one is begun.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write this to the ledger. It must survive the death of this process from here on.
    Ledger(Record),
    /// Send the request to the app, and report what came of it.
    Execute(Execute),
    /// Tell whoever waits, and whoever will ask.
    Answer(Answer),
    /// The state of this instance of the app is not known (any more): have it stopped.
    StopApp(Instance),
    /// Call [`Machine::handle_pause_over`] after so long.
    Pause { slot: Slot, pause_ms: u64 },
    /// Apply ends before this slot: this version does not know what it holds (rule P8).
    Halt { slot: Slot, kind: CommandKind },
}

/// A request for the app.
#[derive(Clone, Debug, PartialEq)]
pub struct Execute {
    /// Names this execution in what is reported.
    pub run: Run,
    /// Its slot.
    pub slot: Slot,
    /// From 1; counts how often this member could not tell what became of the slot.
    pub attempt: u32,
    /// Agreed time of the slot.
    pub time: AgreedTime,
    /// Agreed random bits of the slot.
    pub seed: u128,
    /// What is sent, the same on every copy.
    pub request: Arc<Request>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The command.
    pub id: CommandId,
    /// The slot whose response is the answer: its own, or for a repeat by key that of the first.
    pub slot: Slot,
    /// What was done with it.
    pub outcome: Outcome,
    /// For a repeat by key: whose copy answered the client of the first.
    pub first_answerer: Option<MemberId>,
}

/// Why nothing is executed, when nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The app does not run, or must be stopped first.
    NoApp,
    /// This slot failed more than once, or could not be sent: the next attempt is later.
    Pause(Slot),
    /// This slot holds something unknown.
    Unknown(Slot),
}

/// What is known about the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    /// It does not run. The next instance has an empty state, unless it is `previous` again.
    Absent { previous: Option<Instance> },
    /// Found running though nothing is known about what it was sent. Only a start signal shows
    /// that it is new.
    Unproven(Instance),
    /// It must be stopped.
    Condemned(Instance),
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
    fold: Fold,
    decisions: Decisions,
    halted: Option<(Slot, CommandKind)>,
    /// Slots up to here are known to be chosen.
    commit: Slot,

    app: App,
    app_starts: u64,
    /// What the ledger knew when this machine began, until the first look at the app.
    recovered: Option<Found>,
    /// The app's state is that of this slot.
    applied: Slot,
    /// Executed in this life or an earlier one that is known of; never goes down.
    answered: Slot,
    /// Slots up to here were executed in an earlier life: their responses are gone.
    answered_before: Slot,
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
    /// A machine before the first slot. The first events must be what is listening at the app's
    /// address ([`Machine::handle_app`]) and the log from slot 1 on.
    pub fn new(setup: Setup) -> Self {
        let answered = match &setup.ledger {
            Found::Record(record) => record.applied,
            Found::Missing | Found::OtherBoot => Slot::ZERO,
        };
        let mut machine = Self {
            fold: Fold::new(setup.configuration, setup.policy),
            decisions: Decisions::default(),
            halted: None,
            commit: Slot::ZERO,
            app: App::Absent { previous: None },
            app_starts: 0,
            recovered: None,
            applied: Slot::ZERO,
            answered: Slot::ZERO,
            answered_before: Slot::ZERO,
            sent: Slot::ZERO,
            target: answered,
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
        if let Found::Record(record) = &setup.ledger {
            if let Some(in_flight) = record.in_flight {
                machine.failures.insert(in_flight.slot, in_flight.attempt);
                machine.sent = in_flight.slot;
            }
            machine.sent = machine.sent.max(record.applied);
        }
        machine.recovered = Some(setup.ledger);
        machine
    }
}

// === events ===

impl Machine {
    /// All slots up to `through` are chosen.
    pub fn handle_commit(&mut self, through: Slot) {
        self.commit = self.commit.max(through);
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
            self.admit(entry);
        } else if self.first_not_queued() == Some(entry.slot) && self.app_runs() {
            let request = Request::decode(entry.command.payload.clone())
                .expect("what was admitted for execution can be decoded");
            self.enqueue(entry, Arc::new(request));
        }
        self.advance();
    }

    /// What listens at the app's address now. Looked at when the machine begins, after a start
    /// signal, before the first send on a new connection, and after a connection was lost.
    pub fn handle_app(&mut self, instance: Option<Instance>) {
        if let Some(found) = self.recovered.take() {
            self.recover(found, instance);
            return self.advance();
        }
        match (self.app, instance) {
            (App::Absent { previous }, Some(new)) if previous == Some(new) => self.condemn(new),
            (App::Absent { .. }, Some(new)) => self.app_is_new(new),
            (App::Running(known) | App::Condemned(known) | App::Unproven(known), Some(other))
                if known != other =>
            {
                self.app_is_new(other);
            }
            (App::Running(known) | App::Condemned(known) | App::Unproven(known), None) => {
                self.cut_off();
                self.app = App::Absent {
                    previous: Some(known),
                };
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
        self.failures.remove(&slot);
        self.refusals = 0;
        self.pause_over = None;
        self.applied = slot;
        self.ledger_dirty = true;
        if slot > self.answered {
            self.answered = slot;
            self.answer(busy.queued.id, slot, Outcome::Executed);
            self.answer_repeats(slot);
        }
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
            self.handle_applied_elsewhere(Slot::ZERO);
        }
    }

    /// Another member has applied this slot: what is slow here and done there is stuck.
    pub fn handle_applied_elsewhere(&mut self, slot: Slot) {
        self.elsewhere = self.elsewhere.max(slot);
        if let Some(busy) = &self.busy
            && busy.slow
            && busy.queued.slot <= self.elsewhere
        {
            self.handle_unknown(busy.run);
        }
    }

    /// See [`Action::Pause`].
    pub fn handle_pause_over(&mut self, slot: Slot) {
        if self.paused == Some(slot) {
            self.paused = None;
            self.pause_over = Some(slot);
            self.advance();
        }
    }

    /// This process is to end: nothing new is sent.
    pub fn handle_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// What to do next, if anything.
    pub fn poll_action(&mut self) -> Option<Action> {
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
    /// The slot to admit next.
    pub fn next_to_admit(&self) -> Option<Slot> {
        self.halted.is_none().then(|| self.fold.admitted().next())
    }

    /// The first slot that must be handed in once more, since execution has come there and its
    /// entry is not held here.
    pub fn next_to_execute(&self) -> Option<Slot> {
        let room = self.queue.len() < QUEUE_ENTRIES / 2 && self.queue_bytes < QUEUE_BYTES / 2;
        if self.app_runs() && room {
            self.first_not_queued()
        } else {
            None
        }
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
            && self.applied >= self.target
            && self.fold.admitted() >= self.target
            && self.paused.is_none()
            && self.busy.as_ref().is_none_or(|busy| busy.attempt == 1)
    }

    /// The app runs and executes what was chosen before it started.
    pub fn rebuilding(&self) -> bool {
        self.app_runs() && self.applied < self.target
    }

    /// The instance whose state is that of `applied`.
    pub fn instance(&self) -> Option<Instance> {
        match self.app {
            App::Running(instance) => Some(instance),
            _ => None,
        }
    }

    /// The instance that must be stopped.
    pub fn condemned(&self) -> Option<Instance> {
        match self.app {
            App::Condemned(instance) | App::Unproven(instance) => Some(instance),
            _ => None,
        }
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
        if !self.app_runs() {
            return Some(Blocked::NoApp);
        }
        self.paused.map(Blocked::Pause)
    }
}
