//! Revisions of the app (rule V1). A `Revision` entry is a barrier: the revision before executes what
//! comes up to it, the next one what follows, and no slot is executed by both.
//!
//! - A copy of the old revision stops at the barrier. Its state there is saved, with the tables as they
//!   were there, though the log may be known further by then. Once that snapshot may be used, the app is
//!   stopped, and one of the next revision is due.
//! - A copy of the next revision begins with the state of the barrier, whoever has saved it, or with a
//!   later one that its own revision has made; with an own volume without that only if the app says
//!   that it stands exactly there. Until it has such a state it executes nothing, and one is wanted.
//! - Where no such state is, the old revision is due: it comes to the barrier from what there is, and
//!   saves that. So a member that was away during the change, or several, comes through each of them.
//! - A revision that is not finished can be taken back: the one that takes its place begins at the same
//!   barrier, and what the first has executed beyond is void. Therefore nothing that lies beyond the
//!   barrier is saved before the revision is finished, so that the barrier's state stays the base of
//!   every copy, and the log behind it stays.

use std::collections::BTreeMap;

use synod_paxos::Slot;

use super::{Action, App, Barrier, Job, Machine};
use crate::app::Instance;
use crate::apply::fold::Fold;

/// Which revisions execute what, as far as it is known behind the base.
#[derive(Clone, Debug)]
pub(super) struct Revisions {
    /// Of the base: that which executes what follows it.
    base: u64,
    at: Slot,
    /// Where each begins, from that of the base on.
    barriers: BTreeMap<u64, Slot>,
    /// The tables at barriers beyond the base.
    tables: BTreeMap<Slot, Fold>,
    /// Of the app that starts next.
    offered: u64,
    /// Of the app that listens, or did last.
    app: u64,
    /// Which has made the state that it has, or that is on its volume; `None`: nobody knows.
    state: Option<u64>,
}

/// How far a change of the app is on this member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionStatus {
    /// The rest is known: apply has looked at the app and at the newest snapshot.
    pub is_known: bool,
    /// Of the app that clients are answered by.
    pub in_force: u64,
    /// It executes what follows this slot.
    pub barrier: Slot,
    /// Not all copies run it, and it may be taken back.
    pub is_unfinished: bool,
    /// The one of this member's app; `None`: none runs.
    pub running: Option<u64>,
    /// The one that is to be started here.
    pub due: u64,
    /// The copy stands at the end of what its revision executes: its state is to be saved.
    pub ends_at: Option<Slot>,
    /// A snapshot of this slot or a later one is wanted from another member.
    pub wants_state: Option<Slot>,
}

// === impl Revisions ===

impl Revisions {
    pub(super) fn behind(fold: &Fold) -> Self {
        Self {
            base: fold.revision(),
            at: fold.admitted(),
            barriers: BTreeMap::from([(fold.revision(), fold.barrier())]),
            tables: BTreeMap::new(),
            offered: fold.revision(),
            app: fold.revision(),
            state: None,
        }
    }

    /// The base is another one.
    pub(super) fn rebase(&mut self, fold: &Fold) {
        self.base = fold.revision();
        self.at = fold.admitted();
        self.barriers = self.barriers.split_off(&self.base);
        self.barriers.insert(self.base, fold.barrier());
        self.tables = self.tables.split_off(&self.at.next());
    }

    /// An earlier life knew that.
    pub(super) fn recover(&mut self, revision: u64) {
        self.app = revision;
        self.state = Some(revision);
    }

    /// Of the app that listens, or did last.
    pub(super) fn app(&self) -> u64 {
        self.app
    }

    /// An app has started.
    pub(super) fn begin(&mut self) {
        self.app = self.offered;
    }

    /// It has the state that its revision may have.
    pub(super) fn go_on(&mut self) {
        self.state = Some(self.app);
    }

    /// The files are those of the base.
    pub(super) fn put_back(&mut self) {
        self.state = Some(self.base);
    }

    /// For the ledger.
    pub(super) fn noted(&self, listens: bool) -> u64 {
        let state = self.state.unwrap_or(self.base);
        if listens { self.app } else { state }
    }

    /// The tables at a barrier know of slots skipped since, too: a state without them is void (rule K2).
    pub(super) fn skip(&mut self, slot: Slot) {
        for (_, fold) in self.tables.range_mut(slot..) {
            fold.skipped.insert(slot);
        }
    }

    /// The state of the base is one that this revision may begin with.
    fn begins_with_base(&self, revision: u64) -> bool {
        revision == self.base || self.barriers.get(&revision) == Some(&self.at)
    }

    /// Where the revision ends, when `in_force` is in force.
    fn end(&self, revision: u64, in_force: u64) -> Option<Slot> {
        if revision >= in_force {
            return None;
        }
        let next = self.barriers.get(&(revision + 1)).copied();
        // It ended before the base.
        Some(next.unwrap_or(self.at))
    }

    /// The one that goes on from the base: the last that begins there, or its own.
    fn due(&self) -> u64 {
        let begin_here = self.barriers.iter().rev();
        let mut begin_here = begin_here.filter(|(_, barrier)| **barrier == self.at);
        begin_here.next().map_or(self.base, |(number, _)| *number)
    }
}

// === events ===

impl Machine {
    /// An app that starts from now on is of this revision: whoever starts it says so before.
    pub fn handle_offered(&mut self, revision: u64) {
        self.revisions.offered = revision;
    }
}

// === getters ===

impl Machine {
    /// How far a change of the app is here.
    pub fn revision_status(&self) -> RevisionStatus {
        let next = match self.app.instance() {
            Some(_) => self.revisions.app,
            None => self.revisions.offered,
        };
        let wants = next > self.revisions.base && !self.revisions.begins_with_base(next);
        RevisionStatus {
            is_known: self.recovered.is_none(),
            in_force: self.fold.revision(),
            barrier: self.fold.barrier(),
            is_unfinished: self.fold.is_unfinished(),
            running: self.app_runs().then_some(self.revisions.app),
            due: self.revisions.due(),
            ends_at: self.stands_at_end().map(|(end, _)| end),
            wants_state: wants.then(|| self.base.next()),
        }
    }
}

impl Machine {
    /// The slots end that the app which runs may execute: here.
    pub(super) fn end(&self) -> Option<Slot> {
        self.revisions.end(self.revisions.app, self.fold.revision())
    }

    /// The app that runs must not execute this slot.
    pub(super) fn is_beyond(&self, slot: Slot) -> bool {
        self.app_runs() && self.end().is_some_and(|end| slot > end)
    }

    /// The app's own revision has made its state.
    pub(super) fn is_of_its_own(&self) -> bool {
        let made_by = self.revisions.state.unwrap_or(self.revisions.base);
        self.revisions.app == made_by
    }

    /// The app may go on with the state of this slot that it has found.
    pub(super) fn fits(&self, slot: Slot) -> bool {
        let barrier = self.revisions.barriers.get(&self.revisions.app);
        let ended = self.end().is_some_and(|end| slot > end);
        (self.is_of_its_own() || barrier == Some(&slot)) && !ended
    }

    /// The app may begin with the state of the base.
    pub(super) fn fits_base(&self) -> bool {
        self.revisions.begins_with_base(self.revisions.app)
    }

    /// The app that has started can come to nothing: what it may execute lies before the base.
    pub(super) fn is_outdated(&self) -> bool {
        !self.fits_base() && self.revisions.app < self.revisions.base
    }

    /// The app is of a revision whose first state is not here.
    pub(super) fn lacks_state(&self) -> bool {
        !self.fits_base() && self.revisions.app > self.revisions.base
    }

    /// Another revision takes over.
    pub(super) fn begin_revision(&mut self, number: u64, barrier: Slot) {
        let lacked = self.lacks_state();
        self.revisions.barriers.insert(number, barrier);
        if barrier == self.fold.admitted() {
            self.revisions.tables.insert(barrier, self.fold.clone());
        }
        // Of one that is taken back, or that has begun with what it should not have.
        let beyond = self.end().is_some_and(|end| self.applied > end);
        match self.app {
            App::Running(instance) if beyond => self.throw_away(instance),
            App::Running(_)
                if self
                    .busy
                    .as_ref()
                    .is_some_and(|it| self.is_beyond(it.queued.slot)) =>
            {
                let run = self.busy.as_ref().map(|it| it.run);
                self.handle_unknown(run.expect("it was there a moment ago"));
            }
            // What it waits for may be here.
            App::Restoring { instance, .. } if lacked && !self.lacks_state() => {
                self.restore(instance);
            }
            App::Asking { instance, .. } if !self.is_of_its_own() => self.roll_back(instance),
            _ => {}
        }
    }

    /// The app stands at the end of what its revision executes, and its state was not saved yet.
    fn stands_at_end(&self) -> Option<(Slot, Instance)> {
        let end = self.end()?;
        let App::Running(instance) = self.app else {
            return None;
        };
        let stands = self.applied == end && self.busy.is_none() && self.base < end;
        stands.then_some((end, instance))
    }

    /// Saves the state of the barrier.
    pub(super) fn take_at_end(&mut self) -> Option<Job> {
        let (end, instance) = self.stands_at_end()?;
        let is_asked = self.promises.range(..=end).next().is_some();
        if self.barrier.is_some() || self.shutting_down || is_asked || self.waits_for_proof() {
            return None;
        }
        let tables = Box::new(self.revisions.tables.get(&end)?.clone());
        let job = self.next_job();
        self.barrier = Some(Barrier::Taking(job));
        self.actions.push_back(Action::TakeSnapshot {
            job,
            slot: end,
            instance,
            tables,
        });
        Some(job)
    }

    /// Has the app stopped once the state that it has come to is saved: the next one begins there.
    pub(super) fn hand_on(&mut self) {
        if let App::Running(instance) = self.app
            && self
                .end()
                .is_some_and(|end| self.applied >= end && self.base >= end)
            && !self.base_void
            && self.barrier.is_none()
        {
            self.condemn(instance);
        }
    }
}
