//! Revisions of the app (rule V1). A `Revision` entry is a barrier: what follows, the next revision
//! executes. It takes over in one of two ways.
//!
//! By a switch the revision before executes what comes up to the barrier, and no slot is executed by both:
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
//!
//! Rolling, the next one runs along silently first:
//!
//! - Copies of the old revision go on beyond the barrier and answer; one of them, on the member that the
//!   entry names, stops there only to have its state saved. One that is replayed past the barrier does the
//!   same.
//! - A copy of the next revision begins with that state, executes what follows, and nobody sees an answer
//!   of it: neither a client, nor a repeat, nor a read, nor the leader that asks about a slot that fails.
//! - When the next one has taken over, at a slot, the old one executes what comes up to there and answers
//!   it, and the next one answers what follows. So whose answer it is follows from the slot.
//! - One that is taken back before that is void, and the old one goes on.
//! - Where it has taken over and nobody has the state of its barrier any more, an old copy that has ended
//!   beyond that barrier is made anew, and saves it on its way.

use std::collections::BTreeMap;

use synod_mutant::{Mutant, planted};
use synod_paxos::{MemberId, Slot};

use super::{Action, App, Barrier, Job, Machine};
use crate::app::Instance;
use crate::apply::fold::Fold;

/// Longest wait for the state of a barrier to be saved where the old copy goes on, in milliseconds.
const SAVE_PAUSE_MS: u64 = 10_000;
/// Longest wait of a copy that has ended for that state to be usable, in milliseconds.
const LACK_PAUSE_MS: u64 = 30_000;

/// Which revisions execute what, as far as it is known behind the base.
#[derive(Clone, Debug)]
pub(super) struct Revisions {
    /// Of the base: that which executes what follows it.
    base: u64,
    at: Slot,
    /// Where each begins, from that of the base on.
    barriers: BTreeMap<u64, Slot>,
    /// What has ended, as far as that was seen.
    ends: BTreeMap<u64, End>,
    /// Those that have taken over after they had run along silently, and the slot up to which they had.
    silent: BTreeMap<u64, Slot>,
    /// Runs along silently.
    under_way: Option<UnderWay>,
    /// At this barrier the old copy goes on: its state was saved, or could not be.
    passed: Slot,
    /// The state of this barrier was saved.
    saved: Slot,
    /// What was saved there was not usable for so long that another member's is taken.
    given_up: Slot,
    /// The tables at barriers beyond the base.
    tables: BTreeMap<Slot, Fold>,
    /// Of the app that starts next.
    offered: u64,
    /// Of the app that listens, or did last.
    app: u64,
    /// Which has made the state that it has, or that is on its volume; `None`: nobody knows.
    state: Option<u64>,
}

/// Where a revision has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    /// It executes nothing beyond.
    last: Slot,
    /// The barrier of the next one, which begins with the state of there.
    next: Slot,
}

/// A revision that runs along silently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UnderWay {
    number: u64,
    barrier: Slot,
    /// The old copy here is to save the state of the barrier.
    saves: bool,
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
    /// The newest has not taken over, and it may be taken back.
    pub is_unfinished: bool,
    /// The newest that has ever begun.
    pub newest: u64,
    /// It runs along silently, with its barrier.
    pub silent: Option<(u64, Slot)>,
    /// The one of this member's app; `None`: none runs.
    pub running: Option<u64>,
    /// That one answers nobody.
    pub is_silent: bool,
    /// The one that is to be started here.
    pub due: u64,
    /// The silent one may be started here instead: what it begins with is here.
    pub may: Option<u64>,
    /// The copy stands at a barrier: its state is to be saved.
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
            barriers: begin(fold),
            ends: BTreeMap::new(),
            silent: BTreeMap::new(),
            under_way: under_way(fold),
            passed: Slot::ZERO,
            saved: Slot::ZERO,
            given_up: Slot::ZERO,
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
        // A copy that is still on its way to the base goes by what has ended before that, too.
        self.tables = self.tables.split_off(&self.at.next());
    }

    /// No other revision begins between the base and the slot of these tables.
    pub(super) fn same_until(&self, fold: &Fold) -> bool {
        self.base == fold.revision() && self.tables.range(..=fold.admitted()).next().is_none()
    }

    /// The tables are these: they are ahead of all that was known.
    pub(super) fn jump(&mut self, fold: &Fold) {
        self.rebase(fold);
        self.barriers = begin(fold);
        self.ends.clear();
        self.silent.clear();
        self.under_way = under_way(fold);
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

    /// An app has started. True: it is of another revision than the one before.
    pub(super) fn begin(&mut self) -> bool {
        self.passed = Slot::ZERO;
        self.saved = Slot::ZERO;
        self.given_up = Slot::ZERO;
        std::mem::replace(&mut self.app, self.offered) != self.offered
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
        revision == self.base
            || self.barriers.get(&revision) == Some(&self.at)
            || planted(Mutant::BeginsAnywhere)
    }

    /// Where the revision has ended, as far as these tables know.
    fn end(&self, revision: u64, fold: &Fold) -> Option<End> {
        let is_silent = fold.silent().is_some_and(|it| it.number == revision);
        if revision == fold.revision() || is_silent || revision > fold.newest_revision() {
            return None;
        }
        // What is not known here has ended before the base, or was taken back before.
        let before = End {
            last: self.at,
            next: self.at,
        };
        let is_spent = revision > self.base;
        let unknown = if is_spent { VOID } else { before };
        Some(self.ends.get(&revision).copied().unwrap_or(unknown))
    }

    /// The one that goes on from the base when nobody says otherwise: the last that begins there, or its
    /// own.
    fn due(&self) -> u64 {
        let silent = self.under_way.map(|it| it.number);
        let here = |barrier: Slot| barrier == self.at || planted(Mutant::BeginsAnywhere);
        let begin_here = self.barriers.iter().rev();
        let mut begin_here =
            begin_here.filter(|(number, barrier)| here(**barrier) && Some(**number) != silent);
        begin_here.next().map_or(self.base, |(number, _)| *number)
    }

    /// The one that runs along silently, if what it begins with is here.
    fn may(&self) -> Option<u64> {
        let silent = self.under_way.map(|it| it.number);
        silent.filter(|number| self.begins_with_base(*number))
    }
}

/// Of one that was taken back: whatever it has executed is nothing.
const VOID: End = End {
    last: Slot::ZERO,
    next: Slot::ZERO,
};

/// What begins at the barriers that these tables know.
fn begin(fold: &Fold) -> BTreeMap<u64, Slot> {
    let silent = fold.silent().map(|it| (it.number, it.barrier));
    let in_force = (fold.revision(), fold.barrier());
    [in_force].into_iter().chain(silent).collect()
}

fn under_way(fold: &Fold) -> Option<UnderWay> {
    fold.silent().map(|it| UnderWay {
        number: it.number,
        barrier: it.barrier,
        saves: false,
    })
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
        let ended = self.revisions.end(next, &self.fold);
        let wants = next > self.revisions.base
            && !self.revisions.begins_with_base(next)
            && ended.is_none_or(|end| end.last > self.base);
        let wants = wants.then(|| self.base.next());
        let silent = self.revisions.under_way;
        let may = self.revisions.may();
        RevisionStatus {
            is_known: self.recovered.is_none(),
            in_force: self.fold.revision(),
            barrier: self.fold.barrier(),
            is_unfinished: self.fold.is_unfinished(),
            newest: self.fold.newest_revision(),
            silent: silent.map(|it| (it.number, it.barrier)),
            running: self.app_runs().then_some(self.revisions.app),
            is_silent: self.is_silent(),
            due: may.filter(|it| *it == next).unwrap_or(self.revisions.due()),
            may,
            ends_at: self.at_barrier().map(|(barrier, _)| barrier),
            wants_state: self.lacked_barrier().or(wants),
        }
    }

    /// What this copy answers at this slot is nobody's business (rule V1).
    pub fn is_silent_at(&self, slot: Slot) -> bool {
        let app = self.revisions.app;
        let through = self.revisions.silent.get(&app);
        if planted(Mutant::SilentAnswers) {
            return false;
        }
        self.is_silent() || through.is_some_and(|through| slot <= *through)
    }

    /// Clients may see this copy's state of this slot: also the one with which it has just taken over, though
    /// what that contains it has executed silently.
    pub(super) fn shows(&self, slot: Slot) -> bool {
        let through = self.revisions.silent.get(&self.revisions.app);
        !self.is_silent_at(slot) || (!self.is_silent() && through == Some(&slot))
    }
}

impl Machine {
    /// The app is of a revision that runs along without answering.
    pub(super) fn is_silent(&self) -> bool {
        let under_way = self.revisions.under_way;
        under_way.is_some_and(|it| it.number == self.revisions.app)
    }

    /// Here begins a revision that has run, or is to run, along silently, and the state of there will not
    /// come from this copy any more.
    fn lacked_barrier(&self) -> Option<Slot> {
        let (barrier, comes) = match (self.ended(), self.revisions.under_way) {
            (Some(end), _) => (
                end.next,
                self.applied <= end.next && self.revisions.given_up < end.next,
            ),
            (None, Some(it)) => (it.barrier, it.saves && self.revisions.passed < it.barrier),
            (None, None) => return None,
        };
        (self.base < barrier && !comes).then_some(barrier)
    }

    fn ended(&self) -> Option<End> {
        if planted(Mutant::RunsBeyondItsEnd) {
            return None;
        }
        self.revisions.end(self.revisions.app, &self.fold)
    }

    /// The slots end that the app which runs may execute: here.
    pub(super) fn end(&self) -> Option<Slot> {
        self.ended().map(|end| end.last)
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
        !self.fits_base() && self.end().is_some_and(|end| end <= self.base)
    }

    /// The app is of a revision whose first state is not here.
    pub(super) fn lacks_state(&self) -> bool {
        !self.fits_base() && !self.is_outdated()
    }

    /// Another revision takes over from the one that was in force before.
    pub(super) fn begin_revision(&mut self, number: u64, before: u64, barrier: Slot) {
        let lacked = self.lacks_state();
        let end = End {
            last: barrier,
            next: barrier,
        };
        self.revisions.barriers.insert(number, barrier);
        self.revisions.ends.insert(before, end);
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

    /// Another revision runs along from here on, which is the barrier.
    pub(super) fn begin_silent(&mut self, number: u64, barrier: Slot, saver: MemberId) {
        self.revisions.barriers.insert(number, barrier);
        self.revisions.tables.insert(barrier, self.fold.clone());
        let saver = self.fold.configuration().member(saver);
        self.revisions.under_way = Some(UnderWay {
            number,
            barrier,
            saves: saver.is_some_and(|it| it.incarnation == self.incarnation),
        });
    }

    /// The silent revision answers what follows this slot.
    pub(super) fn finish_silent(&mut self, number: u64, before: u64) {
        let Some(under_way) = self.revisions.under_way.take() else {
            return;
        };
        let here = self.fold.admitted();
        self.revisions.silent.insert(number, here);
        let end = End {
            last: here,
            next: under_way.barrier,
        };
        self.revisions.ends.insert(before, end);
        if self.revisions.app == number {
            // No read sees what the old one has made.
            self.target = self.target.max(here);
            if self.app_runs() && self.applied >= here {
                // An earlier life has come so far, and what it had made was seen.
                self.answered = self.answered.max(self.applied);
                self.answered_before = self.answered_before.max(self.applied);
            }
        }
    }

    /// The silent revision is void.
    pub(super) fn take_back_silent(&mut self, number: u64) {
        let Some(under_way) = self.revisions.under_way.take() else {
            return;
        };
        self.revisions.barriers.remove(&number);
        self.revisions.ends.insert(number, VOID);
        self.revisions.tables.remove(&under_way.barrier);
        self.paused.take_if(|it| *it == under_way.barrier);
        if self.revisions.app != number {
            return;
        }
        match self.app {
            App::Running(instance) => self.throw_away(instance),
            App::Asking { instance, .. } => self.roll_back(instance),
            App::Restoring { instance, .. } => self.condemn(instance),
            _ => {}
        }
    }

    /// The barrier whose state the app that runs is to save, if it is not saved yet: that at which its
    /// revision has ended, or, while it goes on, that of the silent one if it is this copy's turn, or if it
    /// is replayed and serves nobody.
    fn saves_at(&self) -> Option<Slot> {
        let under_way = self.revisions.under_way;
        let barrier = match self.ended() {
            Some(end) => Some(end.next),
            None => under_way
                .filter(|it| it.number != self.revisions.app)
                .filter(|it| it.saves || self.target > it.barrier)
                .map(|it| it.barrier),
        };
        let barrier = barrier.filter(|it| self.base < *it);
        barrier.filter(|it| self.revisions.tables.contains_key(it))
    }

    /// The app stands at a barrier, and its state was not saved yet.
    fn at_barrier(&self) -> Option<(Slot, Instance)> {
        let App::Running(instance) = self.app else {
            return None;
        };
        let barrier = self.saves_at()?;
        // (What an earlier instance was sent may be in the state already.)
        let stands = self.applied == barrier
            && self.busy.is_none()
            && self.interrupted.is_none()
            && (self.revisions.passed != barrier || self.end() == Some(barrier));
        stands.then_some((barrier, instance))
    }

    /// The same, for what is told.
    pub(super) fn stands_at_barrier(&self) -> bool {
        self.at_barrier().is_some()
    }

    /// Nothing is executed now: the state of here is to be saved first. Not for long.
    pub(super) fn waits_at_barrier(&mut self) -> bool {
        let Some((barrier, _)) = self.at_barrier() else {
            return false;
        };
        if self.end() != Some(barrier) && self.barrier.is_none() && self.paused.is_none() {
            self.pause(barrier, SAVE_PAUSE_MS);
        }
        true
    }

    /// The state of there has come from somewhere else.
    pub(super) fn leave_barrier(&mut self) {
        if self.app_runs() && self.paused == Some(self.applied) && self.at_barrier().is_none() {
            self.paused = None;
        }
    }

    /// That is over, whatever came of it.
    pub(super) fn pass_barrier(&mut self) {
        if let Some((barrier, _)) = self.at_barrier() {
            self.revisions.passed = barrier;
            self.paused.take_if(|it| *it == barrier);
        }
    }

    /// Saves the state of the barrier, if the app stands there.
    pub(super) fn take_at_barrier(&mut self) -> Option<Job> {
        let (barrier, instance) = self.at_barrier()?;
        let is_asked = self.promises.range(..=barrier).next().is_some();
        if self.barrier.is_some() || self.shutting_down || is_asked || self.waits_for_proof() {
            return None;
        }
        let tables = Box::new(self.revisions.tables.get(&barrier)?.clone());
        let job = self.next_job();
        self.barrier = Some(Barrier::Taking(job));
        self.actions.push_back(Action::TakeSnapshot {
            job,
            slot: barrier,
            instance,
            tables,
        });
        Some(job)
    }

    /// Has the app stopped once the next one can begin in its place: its own part is done, and the state of
    /// the barrier is here.
    pub(super) fn hand_on(&mut self) {
        if self.changes_in_place
            && let App::Running(instance) = self.app
            && self
                .ended()
                .is_some_and(|end| self.applied >= end.last && self.base >= end.next)
            && !self.base_void
            && self.barrier.is_none()
        {
            self.condemn(instance);
        }
    }

    /// It is done.
    pub(super) fn saved_at_barrier(&mut self) {
        if let Some((barrier, _)) = self.at_barrier() {
            self.revisions.saved = barrier;
        }
        self.pass_barrier();
    }

    /// The app has ended beyond the barrier whose state the next one begins with, has not saved that, and
    /// nobody gives it.
    pub(super) fn stands_beyond_barrier(&self) -> bool {
        let beyond = self.ended().is_some_and(|end| {
            let ended = self.applied >= end.last && self.applied > end.next;
            ended && self.revisions.saved < end.next
        });
        self.app_runs() && beyond && self.lacked_barrier().is_some()
    }

    /// The barrier at which the app has ended, if it stands there.
    fn at_its_end(&self) -> Option<Slot> {
        let (barrier, _) = self.at_barrier()?;
        (self.end() == Some(barrier)).then_some(barrier)
    }

    /// A copy that has ended waits for the state of the barrier, for a while at most.
    pub(super) fn wait_for_barrier(&mut self) {
        // (Looked at behind each slot.)
        if self.paused.is_some() || self.ended().is_none() {
            return;
        }
        let own = self.at_its_end();
        let own = own.is_some_and(|barrier| self.revisions.given_up < barrier);
        if own || self.stands_beyond_barrier() {
            self.pause(self.applied, LACK_PAUSE_MS);
        }
    }

    /// Who stands there takes another member's from then on, since nobody may vouch for its own any more. One
    /// that has gone beyond comes by once more, from an older state: true.
    pub(super) fn gives_barrier_up(&mut self) -> bool {
        if let Some(barrier) = self.at_its_end() {
            self.revisions.given_up = barrier;
        }
        self.stands_beyond_barrier()
    }
}
