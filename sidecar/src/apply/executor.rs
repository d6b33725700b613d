//! Carries out what the [`Machine`] decides: chosen entries in, requests to the app, responses and
//! answers out. One task; an ordered request and its response pass through no other.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use synod_failpoint::{Point, hit};
use synod_paxos::{Entry, Incarnation, Slot};
use synod_proto::v1::{Policy, Request};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Sleep};

use super::ApplyError;
use super::asked::Asked;
use super::feed::{Beginning, EntrySource, Feed, Fresh};
use super::fold::Fold;
use super::handle::{Answer, Availability, Call, NotTaken, Outcome, Signals, StoredResponse};
use super::jobs::{Done, Jobs};
use super::ledger::{Found, Ledger};
use super::machine::{self, Action, Ask, Blocked, Execute, Machine, Run, Setup, StateType};
use super::prelude::{Prelude, prelude};
use super::promises::Promises;
use super::published::Published;
use super::states::{RestoreError, States};
use crate::app::{App, ExecuteError, Executed, Instance, Order};

/// How often the app's listener is looked at while all is well. What happens in between is noticed
/// by its connections.
pub(super) const LOOK_RUNNING: Duration = Duration::from_millis(250);
/// And while a start or an end is awaited.
const LOOK_WAITING: Duration = Duration::from_millis(20);
/// Entries handled at a time, before the app is looked after again.
const ENTRIES_AT_ONCE: usize = 256;
/// Read from the log at a time, in bytes.
const FETCH_BYTES: u64 = 1 << 20;
/// How often a damaged entry is asked for again.
const REPAIR_POLL: Duration = Duration::from_millis(100);
/// When the policy says nothing.
const DEFAULT_APPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the executor takes in.
pub(super) struct Inputs<S> {
    pub(super) incarnation: Incarnation,
    pub(super) feed: Feed,
    pub(super) log: Arc<dyn EntrySource>,
    pub(super) elsewhere: watch::Receiver<Slot>,
    pub(super) signals: Arc<Signals>,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) witness: bool,
    pub(super) state: StateType,
    pub(super) revision: Arc<dyn Fn() -> io::Result<u64> + Send + Sync>,
    pub(super) changes_in_place: bool,
    pub(super) states: Arc<S>,
}

/// The task's state.
pub(super) struct Executor<A, S> {
    pub(super) app: Arc<A>,
    ledger: Ledger,
    pub(super) machine: Machine,
    /// What the group began with.
    beginning: Beginning,
    pub(super) inputs: Inputs<S>,
    jobs: Jobs<S>,
    pub(super) asked: Asked,
    pub(super) published: Published,
    /// All up to here is chosen.
    pub(super) commit: Slot,
    /// Entries at hand for the machine.
    backlog: VecDeque<Entry>,
    /// More of them, from this slot on, out of the log.
    fetch: Option<(Slot, BoxFuture<'static, io::Result<Vec<Entry>>>)>,
    pub(super) flight: Option<Flight>,
    /// The response that came last, until its answer is told.
    response: Option<(Slot, Option<Arc<StoredResponse>>)>,
    pause: Option<(Slot, Instant)>,
    looked_at: Instant,
    look_failed: bool,
    /// Reads may go there.
    pub(super) reads: Option<Instance>,
    sleep: Pin<Box<Sleep>>,
    elsewhere_ended: bool,
    /// See [`super::Parts::proof`]; until it has come.
    proof: Option<BoxFuture<'static, Slot>>,
    /// The node has ended: what is in flight is still brought to its end.
    ended: bool,
}

/// The request that the app has.
pub(super) struct Flight {
    run: Run,
    pub(super) slot: Slot,
    request: Arc<Request>,
    pub(super) begun_at: Instant,
    slow: bool,
    future: BoxFuture<'static, Result<Executed, ExecuteError>>,
}

/// What the executor waited for.
enum Event {
    Executed(Result<Executed, ExecuteError>),
    Entries(io::Result<Vec<Entry>>),
    Busy,
    News,
    AppStarted,
    Doubted,
    Done(Done),
    Call(Call),
    Proven(Slot),
    Elsewhere(bool),
    Timer,
}

/// Runs until the node ends. Before the group exists, only watches the app.
pub(super) async fn run<A: App, S: States>(
    app: Arc<A>,
    (ledger, found): (Ledger, Found),
    (promises, promised): (Promises, Vec<Ask>),
    proof: BoxFuture<'static, Slot>,
    seen: Option<Prelude>,
    inputs: Inputs<S>,
    published: Published,
) -> Result<(), ApplyError> {
    let Some((prelude, beginning)) = prelude(&*app, seen, &inputs).await else {
        return Ok(());
    };
    let mut machine = Machine::new(Setup {
        incarnation: inputs.incarnation,
        fold: begin(&beginning, &*inputs.states)?,
        state: inputs.state,
        ledger: found,
        half_restored: inputs.states.half_restored(),
        promises: promised.clone(),
        gated: true,
        changes_in_place: inputs.changes_in_place,
    });
    let commit = inputs.feed.news().commit;
    machine.handle_commit(commit);
    match (inputs.revision)() {
        Ok(revision) => machine.handle_offered(revision),
        Err(error) => tracing::warn!(%error, "cannot see which revision the app is of"),
    }
    let new = matches!(found, Found::New | Found::Missing) && prelude.proven;
    machine.handle_app(if new { None } else { prelude.first });
    let mut executor = Executor {
        app,
        ledger,
        machine,
        beginning,
        jobs: Jobs::new(inputs.states.clone()),
        asked: Asked::new(promises, promised),
        inputs,
        published,
        commit,
        backlog: VecDeque::new(),
        fetch: None,
        flight: None,
        response: None,
        pause: None,
        looked_at: Instant::now(),
        look_failed: false,
        reads: None,
        sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
        elsewhere_ended: false,
        proof: Some(proof),
        ended: false,
    };
    executor.look();
    executor.work().await
}

/// Where execution begins when nothing better is known.
fn begin<S: States>(beginning: &Beginning, states: &S) -> Result<Fold, ApplyError> {
    Ok(match states.latest() {
        Some(tables) => Fold::load(&tables)?,
        None => beginning.fold(),
    })
}

// === the loop ===

impl<A: App, S: States> Executor<A, S> {
    async fn work(&mut self) -> Result<(), ApplyError> {
        loop {
            self.advance()?;
            if self.ended && self.flight.is_none() {
                return Ok(());
            }
            match self.wait().await {
                Event::Executed(result) => self.executed(result),
                Event::Entries(Ok(entries)) => {
                    self.fetch = None;
                    self.backlog.extend(entries);
                }
                Event::Entries(Err(error)) => return Err(ApplyError::Log(error)),
                Event::Busy => {}
                Event::News => self.news(),
                Event::AppStarted => self.app_started(),
                Event::Doubted => self.look(),
                Event::Done(done) => self.job_done(done),
                Event::Call(call) => self.call(call)?,
                Event::Proven(slot) => {
                    self.proof = None;
                    self.machine.handle_proven(slot);
                }
                Event::Elsewhere(changed) => {
                    self.elsewhere_ended = !changed;
                    let elsewhere = *self.inputs.elsewhere.borrow_and_update();
                    self.machine.handle_applied_elsewhere(elsewhere);
                }
                Event::Timer => self.timer(),
            }
        }
    }

    async fn wait(&mut self) -> Event {
        let deadline = self.deadline();
        if self.sleep.deadline() != deadline {
            self.sleep.as_mut().reset(deadline);
        }
        let Self {
            app,
            inputs,
            flight,
            fetch,
            proof,
            jobs,
            sleep,
            ..
        } = self;
        let executed = async {
            match flight {
                Some(flight) => flight.future.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let fetched = async {
            match fetch {
                Some((_, entries)) => entries.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let proven = async {
            match proof {
                Some(proof) => proof.as_mut().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            result = executed => Event::Executed(result),
            entries = fetched => Event::Entries(entries),
            () = tokio::task::yield_now(), if !self.backlog.is_empty() => Event::Busy,
            () = inputs.feed.changed() => Event::News,
            () = inputs.signals.app_started.notified() => Event::AppStarted,
            () = app.doubted() => Event::Doubted,
            done = jobs.done() => Event::Done(done),
            Some(call) = inputs.calls.recv() => Event::Call(call),
            slot = proven => Event::Proven(slot),
            changed = inputs.elsewhere.changed(), if !self.elsewhere_ended => {
                Event::Elsewhere(changed.is_ok())
            }
            () = sleep.as_mut() => Event::Timer,
        }
    }

    fn deadline(&self) -> Instant {
        let look = self.looked_at
            + if self.machine.instance().is_some() {
                LOOK_RUNNING
            } else {
                LOOK_WAITING
            };
        let pause = self.pause.map(|(_, until)| until);
        let next = [pause, self.jobs.deadline()].into_iter().flatten().min();
        next.map_or(look, |next| next.min(look))
    }

    /// Hands entries to the machine and does what it says, until there is nothing left to do.
    fn advance(&mut self) -> Result<(), ApplyError> {
        self.want();
        for _ in 0..ENTRIES_AT_ONCE {
            let Some(entry) = self.backlog.pop_front() else {
                break;
            };
            self.machine.handle_entry(&entry);
        }
        self.want();
        self.publish_policy();
        self.act_all()?;
        self.drop_stale_flight();
        self.jobs.tidy(&self.machine);
        self.keep_promises();
        self.publish();
        Ok(())
    }

    fn act_all(&mut self) -> Result<(), ApplyError> {
        while let Some(action) = self.machine.poll_action() {
            self.act(action)?;
        }
        Ok(())
    }

    /// Gets what the machine needs next, for execution before admission.
    fn want(&mut self) {
        if !self.backlog.is_empty() {
            return;
        }
        if let Some(next) = self.machine.next_to_execute() {
            // What was admitted is chosen and synced, though the news of it may not be read yet.
            let through = self.commit.max(self.machine.fold().admitted());
            return self.fetch(next, through);
        }
        let Some(next) = self.machine.next_to_admit() else {
            self.fetch = None;
            return;
        };
        match self.inputs.feed.take(next, ENTRIES_AT_ONCE) {
            Fresh::Entries(entries) => {
                self.fetch = None;
                self.backlog = entries;
            }
            Fresh::InLogThrough(through) => self.fetch(next, through),
            Fresh::NotChosen => self.fetch = None,
        }
    }

    fn fetch(&mut self, from: Slot, through: Slot) {
        if self
            .fetch
            .as_ref()
            .is_some_and(|(under_way, _)| *under_way == from)
        {
            return;
        }
        let log = self.inputs.log.clone();
        self.fetch = Some((from, Box::pin(read(log, from, through))));
    }

    fn act(&mut self, action: Action) -> Result<(), ApplyError> {
        match action {
            Action::Ledger(record) => {
                self.ledger.write(&record)?;
                hit(Point::ApplyAfterLedger);
            }
            Action::Execute(execute) => self.execute(execute),
            Action::Answer(answer) => self.answer(answer),
            Action::StopApp(instance) => {
                tracing::warn!(
                    %instance,
                    "the state of the app is not known: it must be stopped and started again"
                );
                hit(Point::ApplyStopsApp);
            }
            Action::Pause { slot, pause_ms } => {
                self.pause = Some((slot, Instant::now() + Duration::from_millis(pause_ms)));
                let waits = matches!(self.machine.blocked(), Some(Blocked::Revision(_)));
                if pause_ms >= 1_000 && !waits {
                    tracing::warn!(
                        %slot,
                        pause_ms,
                        "the app went down more than once at this slot: trying again later"
                    );
                }
            }
            Action::Halt { slot, kind } => {
                tracing::error!(
                    %slot,
                    kind = kind.0,
                    "this version does not know what the slot holds, and stops before it: upgrade"
                );
            }
            Action::Skipped { slot, unsure } => self.note_skipped(slot, unsure),
            Action::Jump { slot, taken } => {
                self.published.answers.jump(slot, taken);
                hit(Point::ApplyJumped);
            }
            job => self.jobs.act(job),
        }
        Ok(())
    }

    fn execute(&mut self, execute: Execute) {
        hit(Point::ApplyBeforeSend);
        let instance = self
            .machine
            .instance()
            .expect("only a running app is sent anything");
        let request = execute.request.clone();
        let order = Order {
            slot: execute.slot,
            time: execute.time,
            seed: execute.seed,
            request: execute.request,
            instance,
        };
        self.flight = Some(Flight {
            run: execute.run,
            slot: execute.slot,
            request,
            begun_at: Instant::now(),
            slow: false,
            future: Box::pin(self.app.clone().execute(order)),
        });
    }

    fn answer(&mut self, answer: machine::Answer) {
        let response = match answer.outcome {
            Outcome::Executed => self
                .response
                .take_if(|(slot, _)| *slot == answer.slot)
                .and_then(|(_, response)| response),
            Outcome::Replayed => self.published.answers.keyed(answer.slot),
            _ => None,
        };
        hit(Point::ApplyBeforeAnswer);
        self.published.answers.tell(
            answer.id,
            Answer {
                slot: answer.slot,
                outcome: answer.outcome,
                first_answerer: answer.first_answerer,
                response,
            },
        );
        hit(Point::ApplyAfterAnswer);
    }
}

/// Reads from the log, waiting for entries that are being repaired.
async fn read(log: Arc<dyn EntrySource>, from: Slot, through: Slot) -> io::Result<Vec<Entry>> {
    let mut complained = false;
    loop {
        let log = log.clone();
        let task = tokio::task::spawn_blocking(move || log.read(from, through, FETCH_BYTES));
        match task.await.map_err(io::Error::other)? {
            Err(error) if is_passing(&error) => {
                if !complained {
                    tracing::warn!(slot = %from, %error, "waiting for an entry that cannot be read");
                    complained = true;
                }
                tokio::time::sleep(REPAIR_POLL).await;
            }
            result => return result,
        }
    }
}

/// It is being repaired, or a snapshot has just taken its place, of which apply is about to be told.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotFound
    )
}

// === events ===

impl<A: App, S: States> Executor<A, S> {
    fn news(&mut self) {
        let news = self.inputs.feed.news();
        self.commit = self.commit.max(news.commit);
        self.machine.handle_commit(self.commit);
        if news.closed && !self.ended {
            self.ended = true;
            self.machine.handle_shutdown();
        }
    }

    fn executed(&mut self, result: Result<Executed, ExecuteError>) {
        let flight = self.flight.take().expect("it has just ended");
        match result {
            Ok(Executed { response }) => {
                hit(Point::ApplyResponded);
                let took = flight.begun_at.elapsed();
                self.published.durations.observe(took.as_secs_f64());
                let response = response.map(Arc::new);
                let digesting = &self.published.digesting;
                digesting.executed(flight.slot, &flight.request, response.as_ref());
                // Whoever repeats it gets what the first client got (rule V1).
                if flight.request.idempotency.is_some()
                    && !self.machine.is_silent_at(flight.slot)
                    && let Some(response) = &response
                {
                    self.published.answers.keep_keyed(flight.slot, response);
                }
                self.response = Some((flight.slot, response));
                self.machine.handle_response(flight.run);
            }
            Err(ExecuteError::NotSent(error)) => {
                tracing::debug!(slot = %flight.slot, %error, "not sent to the app");
                self.machine.handle_not_sent(flight.run);
                self.look();
            }
            Err(ExecuteError::Unknown(error)) => {
                hit(Point::ApplyUnknown);
                tracing::warn!(slot = %flight.slot, error, "no complete response from the app");
                self.machine.handle_unknown(flight.run);
                self.look();
            }
        }
    }

    fn job_done(&mut self, done: Done) {
        match done {
            Done::Restored(job, Ok(())) => {
                hit(Point::ApplyRestored);
                self.look();
                self.machine.handle_restored(job);
            }
            Done::Restored(job, Err(error)) => {
                tracing::warn!(%error, "the app was not given the state of a snapshot");
                self.look();
                let begun = matches!(error, RestoreError::Begun(_));
                self.machine.handle_restore_failed(job, begun);
            }
            Done::VolumeRestored(job, Ok(())) => {
                hit(Point::ApplyVolumeRestored);
                self.look();
                self.machine.handle_volume_restored(job);
            }
            Done::VolumeRestored(job, Err(error)) => {
                tracing::warn!(%error, "the app's volume was not put back");
                self.machine.handle_volume_not_restored(job);
            }
            Done::Applied(job, slot) => {
                hit(Point::ApplyAppliedTold);
                self.look();
                self.machine.handle_app_applied(job, slot);
            }
            Done::Taken(job, result) => {
                hit(Point::ApplyTaken);
                // Only if the app is still the same, it was the same all the time.
                self.look();
                let good = self.machine.handle_snapshot_taken(job);
                self.jobs.taken(job, good, result);
            }
        }
    }

    fn call(&mut self, call: Call) -> Result<(), ApplyError> {
        // Who has left does not want to know what came of it.
        match call {
            Call::Lookup {
                principal,
                key,
                reply,
            } => {
                let _ = reply.send(self.machine.fold().lookup(&principal, &key));
            }
            Call::TakeSnapshot(reply) => match self.machine.handle_take_snapshot() {
                Some(job) => self.jobs.expect(job, reply),
                None => {
                    let _ = reply.send(Err(NotTaken::NotNow));
                }
            },
            Call::SnapshotAvailable { fold, reply } => {
                let fold = fold.map_or_else(|| self.beginning.fold(), |fold| *fold);
                let is_void = !self.machine.has_skipped(&fold);
                let taken = if self.machine.handle_snapshot_available(fold) {
                    Availability::Taken
                } else if is_void {
                    Availability::Void
                } else {
                    Availability::Older
                };
                // What is being read may be gone from the log by now.
                self.fetch = None;
                self.backlog.clear();
                self.act_all()?;
                let _ = reply.send(taken);
            }
            Call::BaseLost(slot) => self.machine.handle_base_lost(slot),
            Call::Astray(lineage, mark, reply) => {
                let found = mark.map(|mark| (mark.slot, mark.measure));
                self.machine.handle_astray(lineage, found);
                // It is in the ledger before anybody hears that it was noted.
                self.act_all()?;
                let _ = reply.send(());
            }
            Call::Tables(reply) => {
                let _ = reply.send(Box::new(self.machine.fold().clone()));
            }
            Call::Doubts(reply) => {
                let _ = reply.send(self.doubts());
            }
            Call::Ask(ask, reply) => self.ask(ask, reply),
            Call::Free(ask, reply) => {
                self.machine.handle_free(ask);
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    fn look(&mut self) {
        self.see_and_tell(Machine::handle_app);
    }

    fn app_started(&mut self) {
        self.see_and_tell(Machine::handle_app_started);
    }

    fn see_and_tell(&mut self, tell: fn(&mut Machine, Option<Instance>)) {
        let Ok(instance) = self.see() else {
            return;
        };
        let partly_gone = self.app.partly_gone();
        self.note(|machine| match instance {
            Some(instance) if partly_gone => machine.handle_app_partly_gone(instance),
            _ => tell(machine, instance),
        });
    }

    fn see(&mut self) -> io::Result<Option<Instance>> {
        self.looked_at = Instant::now();
        let seen = self.app.look().and_then(|seen| self.recognise(seen));
        if let Err(error) = &seen
            && !self.look_failed
        {
            tracing::warn!(%error, "cannot see whether the app listens");
        }
        self.look_failed = seen.is_err();
        seen
    }

    /// Of whatever was not there before the machine must know the revision first (rule V1).
    fn recognise(&mut self, seen: Option<Instance>) -> io::Result<Option<Instance>> {
        if seen.is_none() || seen != self.machine.listens() {
            self.machine.handle_offered((self.inputs.revision)()?);
        }
        Ok(seen)
    }

    fn note(&mut self, tell: impl FnOnce(&mut Machine)) {
        let before = (self.machine.app_starts(), self.machine.instance());
        tell(&mut self.machine);
        let after = (self.machine.app_starts(), self.machine.instance());
        if before != after {
            if let Some(instance) = self.machine.instance() {
                tracing::info!(%instance, "the app has started");
            } else if self.machine.is_absent() {
                tracing::info!("the app does not run");
            }
        }
    }

    fn timer(&mut self) {
        let now = Instant::now();
        if let Some((slot, _)) = self.pause.take_if(|(_, until)| *until <= now) {
            self.machine.handle_pause_over(slot);
        }
        if let Some(job) = self.jobs.overdue(now) {
            self.machine.handle_snapshot_taken(job);
        }
        if self.deadline() <= now {
            self.look();
        }
        let timeout = self.apply_timeout();
        if let Some(flight) = &mut self.flight
            && !flight.slow
            && now.duration_since(flight.begun_at) >= timeout
        {
            flight.slow = true;
            tracing::warn!(slot = %flight.slot, "the app takes longer than applyTimeout");
            self.machine.handle_slow(flight.run);
        }
    }

    /// The machine has given up on it: the connection is closed.
    fn drop_stale_flight(&mut self) {
        let run = self.machine.run();
        self.flight.take_if(|flight| Some(flight.run) != run);
    }

    fn apply_timeout(&self) -> Duration {
        apply_timeout(self.machine.fold().policy())
    }
}

/// For how long the app may have a request before it is slow.
pub(crate) fn apply_timeout(policy: &Policy) -> Duration {
    match policy.apply_timeout_ms {
        0 => DEFAULT_APPLY_TIMEOUT,
        ms => Duration::from_millis(ms),
    }
}
