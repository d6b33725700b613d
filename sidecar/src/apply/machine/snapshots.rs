//! Snapshots: taken as a barrier between two slots, and what a newer one changes.

use std::sync::Arc;

use synod_mutant::{Mutant, planted};
use synod_paxos::Slot;

use super::life::Files;
use super::{Action, App, Job, Machine};
use crate::apply::decisions::Decisions;
use crate::apply::fold::Fold;

/// A snapshot on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Barrier {
    /// Nothing is admitted beyond this slot until the app has come there, so that the tables and its
    /// state belong to one slot.
    Wanted { job: Job, slot: Slot },
    /// Nothing is executed until it is done.
    Taking(Job),
}

// === events ===

impl Machine {
    /// A snapshot is to be taken at the next slot where that can be done: [`Action::TakeSnapshot`]
    /// or [`Action::DropSnapshot`] follows. `None`: not now, since one is on its way, there is
    /// nothing new, the copy does not serve, the leader asks about a slot, or the log of the start is
    /// still to be admitted: nothing is executed before, and nothing is admitted at a barrier.
    ///
    /// While another revision of the app takes over there is none but that of the barrier: no state that
    /// it has made stands for anything, as long as it may be taken back (rule V1).
    pub fn handle_take_snapshot(&mut self) -> Option<Job> {
        if self.end().is_some() || self.fold.is_unfinished() {
            return self.take_at_barrier();
        }
        let slot = self.fold.admitted();
        let may =
            self.serving() && self.barrier.is_none() && !self.shutting_down && slot > self.base;
        if !may || !self.promises.is_empty() || self.waits_for_proof() {
            return None;
        }
        let job = self.next_job();
        self.barrier = Some(Barrier::Wanted { job, slot });
        self.advance();
        Some(job)
    }

    /// The snapshot is taken, has failed, or has taken too long: execution goes on. True if what was
    /// taken, if anything was, is the state of its slot.
    pub fn handle_snapshot_taken(&mut self, job: Job) -> bool {
        let on_its_way = match self.barrier {
            Some(Barrier::Taking(it)) => job == it,
            Some(Barrier::Wanted { job: it, .. }) => {
                if job == it {
                    self.barrier = None;
                    self.advance();
                }
                return false;
            }
            None => false,
        };
        if on_its_way {
            self.barrier = None;
            self.saved_at_barrier();
            self.advance();
        }
        on_its_way
    }

    /// A snapshot of this member can be used from now on, with these tables: a copy that must be made
    /// anew begins there, and nothing below is needed. If it is ahead of what was admitted here, this
    /// member was too far behind: the log that it has goes on behind the snapshot, and so does it.
    ///
    /// False: it is of no use, since it is older, or has executed what nobody should have (rule K2).
    /// Where the base is void, an older one is of use from [`Machine::void`] on.
    pub fn handle_snapshot_available(&mut self, fold: Fold) -> bool {
        let slot = fold.admitted();
        let is_newer = slot > self.base || self.void().is_some_and(|from| slot >= from);
        if !is_newer || !self.has_skipped(&fold) {
            return false;
        }
        let base_void = std::mem::take(&mut self.base_void);
        let void = base_void || self.lacks_state();
        self.base_astray = None;
        if slot > self.fold.admitted() {
            self.promises = self.promises.split_off(&slot.next());
            self.jump(fold);
        } else {
            if slot > self.base {
                self.former = self.kept_behind(&fold, base_void);
            }
            self.base = slot;
            self.not_needed = self.not_needed.min(slot);
            self.revisions.rebase(&fold);
            self.pass_promised(slot);
            self.leave_barrier();
            if self.files != Files::AsLeft {
                self.want_files();
            }
            if let App::Restoring { instance, .. } = self.app
                && void
            {
                self.restore(instance);
            }
        }
        self.advance();
        true
    }

    /// The snapshot at this slot cannot be read any more: if it is the base, another is needed.
    pub fn handle_base_lost(&mut self, slot: Slot) {
        if slot != self.base || slot == Slot::ZERO || self.base_void {
            return;
        }
        if let App::Restoring { instance, slot, .. } = self.app
            && !self.lacks_state()
            && self.paused != Some(slot)
        {
            // Some of it may be in the app already: no other state is put on top of it.
            self.condemn(instance);
        }
        self.base_void = true;
    }
}

impl Machine {
    /// From where on decisions are kept behind a newer base: from the one before, if there is one, no other
    /// revision of the app begins between the two, and nothing was promised about a slot between them.
    fn kept_behind(&self, newer: &Fold, base_void: bool) -> Slot {
        let former = if base_void { self.former } else { self.base };
        let slot = newer.admitted();
        let promised = self.promises.range(..=slot).next_back();
        if self.revisions.same_until(newer) && promised.is_none() {
            former
        } else {
            slot
        }
    }

    fn jump(&mut self, fold: Fold) {
        let slot = fold.admitted();
        // It has executed nothing, so its state is still the empty one that it began with.
        let empty = self.applied == Slot::ZERO && self.busy.is_none() && !self.has_volume();
        self.cut_off();
        self.revisions.jump(&fold);
        self.fold = fold;
        self.base = slot;
        self.former = slot;
        self.not_needed = slot;
        self.decisions = Decisions::new(slot);
        self.last_to_execute = Slot::ZERO;
        self.queue.clear();
        self.queue_bytes = 0;
        self.halted.take_if(|(halted, _)| *halted <= slot);
        self.failures = self.failures.split_off(&slot.next());
        self.commit = self.commit.max(slot);
        self.answered = self.answered.max(slot);
        self.answered_before = self.answered_before.max(slot);
        self.tell_jump();
        // Of a repeat it is known what became of its first.
        self.answer_repeats(slot);
        self.interrupted = None;
        self.known.clear();
        if self.recovered.is_some() {
            return;
        }
        if self.has_volume() {
            self.want_files();
        }
        match self.app {
            App::Running(it) if empty => self.restore(it),
            App::Running(it)
            | App::Restoring { instance: it, .. }
            | App::Asking { instance: it, .. } => self.condemn(it),
            App::Absent { .. } | App::Unproven(_) | App::Condemned(_) => {}
        }
    }

    pub(super) fn tell_jump(&mut self) {
        self.actions.push_back(Action::Jump {
            slot: self.fold.admitted(),
            taken: Arc::new(self.fold.ids().clone()),
        });
    }

    /// Entries may be admitted.
    pub(super) fn admits(&self) -> bool {
        self.halted.is_none() && !matches!(self.barrier, Some(Barrier::Wanted { .. }))
    }

    pub(super) fn snapshot_runs(&self) -> bool {
        matches!(self.barrier, Some(Barrier::Taking(_)))
    }

    /// Begins the snapshot when the app has come to its slot.
    pub(super) fn reach_barrier(&mut self) {
        if let Some(Barrier::Wanted { job, slot }) = self.barrier
            && let App::Running(instance) = self.app
            && self.busy.is_none()
            && self.applied == slot
        {
            assert_eq!(
                self.fold.admitted(),
                slot,
                "tables and state belong to one slot"
            );
            self.barrier = Some(Barrier::Taking(job));
            self.actions.push_back(Action::TakeSnapshot {
                job,
                slot,
                instance,
                tables: Box::new(self.fold.clone()),
            });
        }
    }

    /// The state is not that of one known slot any more.
    pub(super) fn drop_snapshot(&mut self) {
        if let Some(Barrier::Wanted { job, .. } | Barrier::Taking(job)) = self.barrier.take() {
            self.actions.push_back(Action::DropSnapshot { job });
        }
    }

    /// A snapshot that is still to be reached is not taken.
    pub(super) fn give_up_wanted(&mut self) {
        if matches!(self.barrier, Some(Barrier::Wanted { .. })) {
            self.drop_snapshot();
        }
    }

    /// What lies below the base, and below what is still being executed, is not needed any more; what lies
    /// below the base before is forgotten.
    pub(super) fn forget(&mut self) {
        let needed = match self.app {
            App::Running(_) => self.applied,
            App::Restoring { slot, .. } => slot,
            _ => self.base,
        };
        self.not_needed = self.not_needed.max(needed.min(self.base));
        self.decisions.forget(self.not_needed.min(self.former));
    }

    /// Entries up to here are not asked for any more, unless the base turns out to be void.
    pub fn not_needed(&self) -> Slot {
        self.not_needed
    }

    /// Of the newest snapshot that can be used, as far as is known here.
    pub fn base(&self) -> Slot {
        self.base
    }

    /// The base cannot be used: one of this slot or a later one can.
    pub fn void(&self) -> Option<Slot> {
        self.base_void.then_some(self.former)
    }

    /// Nothing that is known to be skipped was executed in the state with these tables (rule K2).
    pub fn has_skipped(&self, fold: &Fold) -> bool {
        let mut known = self.fold.skipped().range(..=fold.admitted());
        known.all(|skipped| fold.skipped().contains(skipped))
            || planted(Mutant::VoidSnapshotsAreUsed)
    }

    /// A snapshot is being taken: nothing is executed meanwhile.
    pub fn taking_snapshot(&self) -> Option<Slot> {
        self.snapshot_runs().then_some(self.applied)
    }
}
