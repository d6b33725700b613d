//! What takes a while besides requests: states that are put back or asked for, and snapshots. At most
//! one of the former and one of the latter at a time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use synod_failpoint::{Point, hit};
use synod_paxos::Slot;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::fold::Fold;
use super::handle::NotTaken;
use super::machine::{Action, Job, Machine};
use super::states::{RestoreError, StateError, States, Take};
use crate::app::Instance;

/// How long it may take until the slot of a snapshot is reached, and then until it is taken, unless that has a
/// limit of its own: the copy stands still meanwhile.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(60);

/// The jobs of one copy.
pub(super) struct Jobs<S> {
    states: Arc<S>,
    /// A state is put back or asked for.
    work: Option<(Job, BoxFuture<'static, Done>)>,
    /// The volume is to be put back once no app runs.
    replace: Option<(Job, Slot)>,
    taking: Option<Taking>,
}

/// A snapshot that was asked for.
struct Taking {
    job: Job,
    until: Instant,
    reply: oneshot::Sender<Result<Slot, NotTaken>>,
    /// Once its slot is reached.
    under_way: Option<(Slot, BoxFuture<'static, Result<(), StateError>>)>,
}

/// What has ended.
pub(super) enum Done {
    Restored(Job, Result<(), RestoreError>),
    VolumeRestored(Job, Result<(), StateError>),
    Applied(Job, Option<Slot>),
    Taken(Job, Result<(), StateError>),
}

impl<S: States> Jobs<S> {
    pub(super) fn new(states: Arc<S>) -> Self {
        Self {
            states,
            work: None,
            replace: None,
            taking: None,
        }
    }

    /// Begins what the machine says, if it is a job.
    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Restore {
                job,
                slot,
                instance,
            } => {
                tracing::info!(%slot, %instance, "the app is given the state of a snapshot");
                hit(Point::ApplyBeforeRestore);
                let restoring = self.states.clone().restore(slot, instance);
                let done = async move { Done::Restored(job, restoring.await) };
                self.work = Some((job, Box::pin(done)));
            }
            Action::AskApplied { job, instance } => self.ask(job, instance),
            Action::ReplaceApp { job, slot } => {
                tracing::warn!(%slot, "the app's volume must be put back to a snapshot");
                self.replace = Some((job, slot));
            }
            Action::TakeSnapshot {
                job,
                slot,
                instance,
                tables,
            } => self.take(job, slot, instance, tables),
            Action::VoidSnapshot { slot } => {
                tracing::error!(
                    %slot,
                    "the newest snapshot holds what was skipped: another member's is needed"
                );
                self.states.void(slot);
            }
            Action::VoidSince { slot } => self.states.void_since(slot),
            Action::DropSnapshot { job } => self.end_taking(job, Err(NotTaken::Void)),
            _ => {}
        }
    }

    fn ask(&mut self, job: Job, instance: Instance) {
        let asking = self.states.clone().ask_applied(instance);
        let done = async move { Done::Applied(job, asking.await) };
        self.work = Some((job, Box::pin(done)));
    }

    fn take(&mut self, job: Job, slot: Slot, instance: Instance, tables: Box<Fold>) {
        hit(Point::ApplyBeforeTake);
        let take = Take {
            slot,
            instance,
            tables,
        };
        let future = Box::pin(self.states.clone().take(take));
        // Whoever has a limit says better what was too slow.
        let own = self.states.take_limit().unwrap_or_default();
        if let Some(taking) = self.taking.as_mut().filter(|it| it.job == job) {
            taking.until = Instant::now() + own + SNAPSHOT_LIMIT;
            taking.under_way = Some((slot, future));
        }
    }

    /// A snapshot was asked for, and the machine is on its way to its slot.
    pub(super) fn expect(&mut self, job: Job, reply: oneshot::Sender<Result<Slot, NotTaken>>) {
        self.taking = Some(Taking {
            job,
            until: Instant::now() + SNAPSHOT_LIMIT,
            reply,
            under_way: None,
        });
    }

    /// The snapshot is done; `good`: its state is that of its slot.
    pub(super) fn taken(&mut self, job: Job, good: bool, result: Result<(), StateError>) {
        let slot = self.taking.as_ref().and_then(|it| it.under_way.as_ref());
        let Some(slot) = slot.map(|(slot, _)| *slot) else {
            return;
        };
        if result.is_ok() {
            self.states.settle(slot, good);
        }
        let result = match result {
            Err(StateError(error)) => Err(NotTaken::Failed(error)),
            Ok(()) if good => Ok(slot),
            Ok(()) => Err(NotTaken::Void),
        };
        self.end_taking(job, result);
    }

    fn end_taking(&mut self, job: Job, result: Result<Slot, NotTaken>) {
        let Some(taking) = self.taking.take_if(|it| it.job == job) else {
            return;
        };
        match &result {
            Ok(slot) => tracing::info!(%slot, "a snapshot was taken"),
            Err(error) => tracing::warn!(%error, "no snapshot was taken"),
        }
        // Who has left does not want to know.
        let _ = taking.reply.send(result);
    }

    /// The snapshot that has taken too long, if one has.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Job> {
        let job = self.taking.as_ref().filter(|it| it.until <= now)?.job;
        self.end_taking(job, Err(NotTaken::TooLong));
        Some(job)
    }

    /// When [`Jobs::overdue`] is to be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.taking.as_ref().map(|it| it.until)
    }

    /// Drops what is of no use any more, and begins what had to wait for the end of the app.
    pub(super) fn tidy(&mut self, machine: &Machine) {
        self.work.take_if(|(job, _)| !machine.wants(*job));
        self.replace.take_if(|(job, _)| !machine.wants(*job));
        if machine.is_absent()
            && let Some((job, slot)) = self.replace.take()
        {
            hit(Point::ApplyBeforeVolume);
            let restoring = self.states.clone().restore_volume(slot);
            let done = async move { Done::VolumeRestored(job, restoring.await) };
            self.work = Some((job, Box::pin(done)));
        }
    }

    /// Something has ended. Cancel-safe.
    pub(super) async fn done(&mut self) -> Done {
        let Self { work, taking, .. } = self;
        let working = async {
            match work {
                Some((_, work)) => work.as_mut().await,
                None => std::future::pending().await,
            }
        };
        let taken = async {
            let under_way = taking.as_mut().map(|it| (it.job, it.under_way.as_mut()));
            match under_way {
                Some((job, Some((_, future)))) => Done::Taken(job, future.as_mut().await),
                _ => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            done = working => done,
            done = taken => done,
        };
        if !matches!(done, Done::Taken(..)) {
            self.work = None;
        }
        done
    }
}
