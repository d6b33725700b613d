//! What the executor publishes for the rest of the sidecar.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use synod_paxos::Slot;
use synod_proto::v1::Policy;
use tokio::sync::watch;

use super::answers::Answers;
use super::asked::Skips;
use super::digesting::Digesting;
use super::executor::Executor;
use super::handle::{ApplyStatus, WaitingOn};
use super::machine::Blocked;
use super::states::States;
use crate::app::App;

/// A request that takes longer than this counts as a stall, in the eyes of elections.
const STALL: Duration = Duration::from_secs(1);

/// Where the executor publishes.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) answers: Arc<Answers>,
    pub(super) status: watch::Sender<ApplyStatus>,
    pub(super) policy: watch::Sender<Arc<Policy>>,
    pub(super) waiting: watch::Sender<Option<WaitingOn>>,
    pub(super) durations: Histogram,
    pub(super) digesting: Digesting,
    pub(super) skipped: watch::Sender<Skips>,
}

impl<A: App, S: States> Executor<A, S> {
    pub(super) fn publish_policy(&self) {
        let policy = self.machine.fold().policy();
        self.published.policy.send_if_modified(|published| {
            let changed = published.version != policy.version;
            if changed {
                published.clone_from(policy);
            }
            changed
        });
    }

    pub(super) fn publish(&mut self) {
        let machine = &self.machine;
        let commit = self.commit;
        let stalled_at = self
            .flight
            .as_ref()
            .filter(|flight| flight.begun_at.elapsed() >= STALL)
            .map(|flight| flight.slot);
        let witness = self.inputs.witness;
        // What a witness lacks nobody waits for.
        let blocks = |it: &Blocked| !(witness && *it == Blocked::NoApp);
        let blocked = machine.blocked().filter(blocks);
        let blocked_now = blocked.filter(|_| machine.applied() < commit);
        // Others have done long ago what the app here still works on: they answer better.
        let behind = stalled_at.is_some_and(|slot| slot <= *self.inputs.elsewhere.borrow());
        let status = ApplyStatus {
            applied: machine.applied(),
            admitted: machine.fold().admitted(),
            time: machine.fold().time(),
            sent: machine.sent(),
            serving: machine.serving() && !behind,
            saving: machine.taking_snapshot().is_some(),
            rebuilding: machine.rebuilding(),
            app_stalled: blocked_now.is_some_and(|it| !matches!(it, Blocked::Unproven(_)))
                || stalled_at.is_some()
                || machine.rebuilding(),
            // One that must be stopped first is there.
            app_absent: machine.condemned().is_none() && blocked == Some(Blocked::NoApp),
            condemned: machine.condemned(),
            astray: machine.astray(),
            app_starts: machine.app_starts(),
            base: machine.base(),
            void: machine.void(),
            not_needed: machine.not_needed(),
            restoring: machine.restoring(),
            rollback: machine.rollback(),
            may_start: machine.may_start() && machine.is_absent() && !witness,
            revision: machine.revision_status(),
            disagreement: {
                let silent = machine.fold().silent();
                silent.and_then(|it| it.disagreement.clone())
            },
        };
        let reads = machine.instance().filter(|_| status.serving);
        if self.reads != reads {
            self.reads = reads;
            self.app.set_reads(reads);
        }
        let (applied, answered) = (status.applied, machine.answered());
        self.published.status.send_if_modified(|published| {
            let changed = *published != status;
            *published = status;
            changed
        });
        self.published.answers.reached(applied, answered);
        self.published.digesting.reached(machine);
        self.publish_waiting(blocked, stalled_at);
    }

    fn publish_waiting(&self, blocked: Option<Blocked>, stalled_at: Option<Slot>) {
        let next = self.machine.applied().next();
        let waiting = match blocked {
            Some(Blocked::Unknown(slot)) => Some(("upgrade", slot)),
            Some(Blocked::Differs(slot)) => Some(("divergence", slot)),
            Some(Blocked::Revision(slot)) => Some(("revision", slot)),
            Some(Blocked::Pause(slot)) => Some(("app", slot)),
            Some(Blocked::NoApp) => Some(("app", next)),
            Some(Blocked::Asked(slot)) => Some(("poison", slot)),
            // It is a quorum that proves it.
            Some(Blocked::Unproven(slot)) => Some(("quorum", slot)),
            Some(Blocked::Restore(slot)) => Some(("snapshot", slot)),
            None if self.machine.rebuilding() => Some(("app", next)),
            None => {
                let snapshot = self.machine.taking_snapshot();
                let snapshot = snapshot.map(|slot| ("snapshot", slot));
                snapshot.or(stalled_at.map(|slot| ("app", slot)))
            }
        };
        self.published.waiting.send_if_modified(|published| {
            let before = published.map(|waiting| (waiting.on, waiting.slot));
            if before == waiting {
                return false;
            }
            // While one cause lasts, its age counts on over the slots.
            let since = published
                .filter(|before| waiting.is_some_and(|(on, _)| on == before.on))
                .map_or_else(std::time::Instant::now, |before| before.since);
            *published = waiting.map(|(on, slot)| WaitingOn { on, slot, since });
            true
        });
    }
}
