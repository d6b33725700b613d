//! Revisions of the app (rule V1): who executes what, and what each begins with.

use std::collections::BTreeMap;

use super::*;
use crate::apply::dice::Dice;
use crate::apply::fold::Admission;

pub(super) const VOLUME: StateType = StateType::Volume(UncleanCrash::Rollback);
pub(super) const TOLD: StateType = StateType::Volume(UncleanCrash::AppliedHeader);
pub(super) const AGAIN: StateType = StateType::Volume(UncleanCrash::AtLeastOnce);

pub(super) fn taken(actions: &[Action]) -> Option<(Job, Slot, Fold)> {
    actions.iter().find_map(|action| match action {
        Action::TakeSnapshot {
            job, slot, tables, ..
        } => Some((*job, *slot, (**tables).clone())),
        _ => None,
    })
}

pub(super) fn restored(actions: &[Action]) -> Option<(Job, Slot)> {
    actions.iter().find_map(|action| match action {
        Action::Restore { job, slot, .. } => Some((*job, *slot)),
        _ => None,
    })
}

pub(super) fn stops(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::StopApp(_)))
}

/// Three requests, the barrier of revision 1 at slot 4, and two more; executed by instance 1 as far as
/// revision 0 goes.
fn at_the_barrier() -> Bench {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.choose(sequence, &request());
    }
    assert_eq!(bench.choose_revision(4, 1, false), Slot(4));
    bench.choose(5, &request());
    bench.choose(6, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1, 2, 3]);
    assert!(answers.contains(&told(4, 4, Outcome::Done)));
    bench
}

/// Saves the state of the barrier; the app is stopped then.
pub(super) fn save(bench: &mut Bench) -> Fold {
    let job = bench.machine.handle_take_snapshot();
    let actions = bench.step();
    let (taking, slot, tables) = taken(&actions).expect("it is taken");
    assert_eq!(Some(taking), job);
    assert!(bench.machine.handle_snapshot_taken(taking));
    assert_eq!(tables.admitted(), slot);
    assert!(!stops(&bench.step()), "it may not be used yet");
    assert!(bench.machine.handle_snapshot_available(tables.clone()));
    bench.base = Some(tables.clone());
    assert!(stops(&bench.step()), "the next revision begins there");
    tables
}

pub(super) fn start(bench: &mut Bench, number: u64, revision: u64) {
    bench.machine.handle_app(None);
    bench.machine.handle_offered(revision);
    bench.machine.handle_app(Some(instance(number)));
}

pub(super) fn started(bench: &mut Bench, number: u64, revision: u64) -> Vec<Action> {
    start(bench, number, revision);
    bench.step()
}

pub(super) fn begin_with(bench: &mut Bench, number: u64, revision: u64, at: u64) {
    let (job, slot) = restored(&started(bench, number, revision)).expect("a state is put in");
    assert_eq!(slot, Slot(at));
    bench.machine.handle_restored(job);
}

#[test]
fn the_old_revision_stops_at_the_barrier_and_serves_nobody_there() {
    let bench = at_the_barrier();
    assert_eq!(bench.machine.applied(), Slot(4));
    assert_eq!(bench.machine.fold().admitted(), Slot(6));
    assert!(!bench.machine.serving());
    assert_eq!(bench.machine.blocked(), Some(Blocked::Revision(Slot(4))));
    assert_eq!(bench.machine.progress().next, None);
    let status = bench.machine.revision_status();
    assert_eq!(status.ends_at, Some(Slot(4)));
    assert_eq!((status.in_force, status.due), (1, 0));
}

#[test]
fn the_state_of_the_barrier_is_saved_with_the_tables_of_the_barrier() {
    let mut bench = at_the_barrier();
    let tables = save(&mut bench);
    assert_eq!(tables, bench.fold_at(4));
    assert_eq!((tables.revision(), tables.barrier()), (1, Slot(4)));
    assert_eq!(bench.machine.revision_status().due, 1);
}

/// Seed 20271681 of the simulator: it had come there late, and those that could have vouched for what it saved
/// had gone on.
#[test]
fn a_copy_that_stands_at_the_barrier_for_long_takes_the_state_of_another_member() {
    let mut bench = at_the_barrier();
    let wanted = |bench: &Bench| bench.machine.revision_status().wants_state;
    assert_eq!(wanted(&bench), None, "it saves its own");
    bench.machine.handle_pause_over(Slot(4));
    assert_eq!(wanted(&bench), Some(Slot(4)));
    assert!(bench.machine.handle_take_snapshot().is_some());
}

#[test]
fn the_next_revision_begins_with_the_state_of_the_barrier_and_executes_what_follows() {
    let mut bench = at_the_barrier();
    save(&mut bench);
    begin_with(&mut bench, 2, 1, 4);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [5, 6]);
    assert_eq!(answers, [executed(5, 5), executed(6, 6)]);
    assert!(bench.machine.serving());
    assert_eq!(bench.machine.revision_status().running, Some(1));
}

#[test]
fn an_app_of_the_next_revision_executes_nothing_before_there_is_its_state() {
    for state in [StateType::Ephemeral, VOLUME, TOLD, AGAIN] {
        let mut bench =
            Bench::begin_from(state, None, Found::Record(Record::default()), Vec::new());
        bench.machine.handle_app(None);
        for sequence in 1..=3 {
            bench.choose(sequence, &request());
        }
        bench.choose_revision(4, 1, false);
        bench.choose(5, &request());
        bench.step();
        let actions = started(&mut bench, 1, 1);
        assert_eq!(restored(&actions), None);
        assert_eq!(bench.run().0, [] as [u64; 0], "{state:?}");
        let status = bench.machine.revision_status();
        assert_eq!((status.running, status.due), (None, 0));
        assert_eq!(status.wants_state, Some(Slot(1)));
        if state == StateType::Ephemeral {
            let fold = bench.fold_at(4);
            assert!(bench.machine.handle_snapshot_available(fold));
            let (job, slot) = restored(&bench.step()).expect("what it waited for");
            assert_eq!(slot, Slot(4));
            bench.machine.handle_restored(job);
            assert_eq!(bench.run().0, [5]);
        } else {
            // Whatever it did to the files is undone.
            assert!(bench.machine.condemned().is_some(), "{state:?}");
            assert_eq!(bench.machine.rollback(), Some(Slot(0)), "{state:?}");
        }
    }
}

#[test]
fn an_app_of_an_old_revision_is_stopped_where_the_next_one_begins() {
    let mut bench = at_the_barrier();
    save(&mut bench);
    let actions = started(&mut bench, 2, 0);
    assert!(stops(&actions) && restored(&actions).is_none());
    assert_eq!(bench.run().0, [] as [u64; 0]);
    assert_eq!(bench.machine.revision_status().due, 1);
}

#[test]
fn an_app_whose_successor_comes_with_its_own_process_is_left_alone() {
    let mut bench = at_the_barrier();
    bench.machine.changes_in_place = false;
    let job = bench.machine.handle_take_snapshot();
    let (taking, _, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!(Some(taking), job);
    assert!(bench.machine.handle_snapshot_taken(taking));
    assert!(bench.machine.handle_snapshot_available(tables));
    assert!(
        !stops(&bench.step()),
        "whoever started it would start it again"
    );
    assert_eq!(bench.machine.condemned(), None);
    assert_eq!(bench.machine.blocked(), Some(Blocked::Revision(Slot(4))));
}

#[test]
fn where_nobody_has_saved_it_the_old_revision_comes_to_the_barrier_from_what_there_is() {
    let mut bench = at_the_barrier();
    // It crashes before that.
    assert_eq!(bench.machine.revision_status().due, 0);
    start(&mut bench, 2, 0);
    assert_eq!(bench.run().0, [1, 2, 3]);
    save(&mut bench);
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.run().0, [5, 6]);
}

#[test]
fn a_member_that_was_away_comes_through_each_change() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.choose_revision(2, 1, false);
    bench.choose(3, &request());
    bench.choose_revision_done(1);
    bench.choose_revision(5, 2, false);
    bench.choose(6, &request());
    assert_eq!(bench.run().0, [1]);
    assert_eq!(save(&mut bench), bench.fold_at(2));
    assert_eq!(bench.machine.revision_status().due, 1);
    begin_with(&mut bench, 2, 1, 2);
    assert_eq!(bench.run().0, [3]);
    assert_eq!(save(&mut bench), bench.fold_at(5));
    assert_eq!(bench.machine.revision_status().due, 2);
    begin_with(&mut bench, 3, 2, 5);
    assert_eq!(bench.run().0, [6]);
}

#[test]
fn a_snapshot_of_the_next_revision_takes_a_member_over_that_was_away() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    assert_eq!(bench.run().0, [1]);
    bench.choose_revision(2, 1, false);
    bench.choose(3, &request());
    bench.choose_revision_done(1);
    bench.choose(5, &request());
    let fold = bench.fold_at(4);
    assert!(bench.machine.handle_snapshot_available(fold));
    assert!(stops(&bench.step()));
    assert_eq!(bench.machine.revision_status().due, 1);
    assert!(stops(&started(&mut bench, 2, 0)), "of the old one");
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.run().0, [5]);
}

#[test]
fn a_volume_is_put_back_to_the_barrier_before_the_next_revision_has_it() {
    for (state, is_asked) in [(VOLUME, false), (AGAIN, false), (TOLD, true)] {
        let mut bench =
            Bench::begin_from(state, None, Found::Record(Record::default()), Vec::new());
        bench.machine.handle_app(None);
        bench.step();
        // Whatever is on it is what the group begins with.
        if let Files::Wanted { job, .. } = bench.machine.files {
            bench.machine.handle_volume_restored(job);
        }
        start(&mut bench, 1, 0);
        while let Some(action) = bench.machine.poll_action() {
            if let Action::AskApplied { job, .. } = action {
                bench.machine.handle_app_applied(job, Some(Slot(0)));
            }
        }
        bench.choose(1, &request());
        bench.choose_revision(2, 1, false);
        bench.choose(3, &request());
        assert_eq!(bench.run().0, [1], "{state:?}");
        save(&mut bench);
        bench.machine.handle_app(None);
        let actions = bench.step();
        if is_asked {
            // What it says is that it stands exactly there.
            let ask = started(&mut bench, 2, 1)
                .into_iter()
                .find_map(|it| match it {
                    Action::AskApplied { job, .. } => Some(job),
                    _ => None,
                });
            bench
                .machine
                .handle_app_applied(ask.expect("it is asked"), Some(Slot(2)));
        } else {
            assert_eq!(bench.machine.rollback(), Some(Slot(2)), "{actions:?}");
            let Files::Wanted { job, .. } = bench.machine.files else {
                panic!("the volume is put back");
            };
            bench.machine.handle_volume_restored(job);
            start(&mut bench, 2, 1);
        }
        assert_eq!(bench.run().0, [3], "{state:?}");
        // Its answers are compared with those of its own revision.
        let lineage = bench.machine.lineage();
        assert_eq!((lineage.revision, lineage.from), (1, Slot(2)), "{state:?}");
    }
}

#[test]
fn what_one_revision_resends_another_does_not() {
    let mut bench = at_the_barrier();
    bench.machine.state = AGAIN;
    save(&mut bench);
    bench.machine.handle_app(None);
    bench.step();
    let Files::Wanted { job, .. } = bench.machine.files else {
        panic!("the volume is put back");
    };
    bench.machine.handle_volume_restored(job);
    started(&mut bench, 2, 1);
    let execute = bench.machine.run().expect("slot 5 is sent");
    bench.machine.handle_unknown(execute);
    bench.choose_revision(7, 2, true);
    bench.step();
    let actions = started(&mut bench, 3, 2);
    assert!(stops(&actions), "it may contain slot 5 of revision 1");
    assert_eq!(bench.machine.rollback(), Some(Slot(4)));
}

#[test]
fn no_state_beyond_the_barrier_is_saved_before_the_change_is_finished() {
    let mut bench = at_the_barrier();
    save(&mut bench);
    begin_with(&mut bench, 2, 1, 4);
    bench.run();
    assert_eq!(bench.machine.handle_take_snapshot(), None);
    bench.choose_revision_done(1);
    bench.run();
    assert!(bench.machine.handle_take_snapshot().is_some());
    let (_, slot, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!((slot, tables.is_unfinished()), (Slot(7), false));
}

#[test]
fn a_revision_that_is_taken_back_leaves_nothing_behind() {
    for state in [StateType::Ephemeral, VOLUME, TOLD] {
        let mut bench = at_the_barrier();
        save(&mut bench);
        begin_with(&mut bench, 2, 1, 4);
        assert_eq!(bench.run().0, [5, 6]);
        bench.machine.state = state;
        assert_eq!(bench.choose_revision(7, 2, true), Slot(7));
        bench.choose(8, &request());
        let actions = bench.step();
        assert!(stops(&actions), "{actions:?}");
        assert!(actions.contains(&told(7, 7, Outcome::Done)));
        let status = bench.machine.revision_status();
        assert_eq!((status.in_force, status.due), (2, 2));
        assert_eq!(status.barrier, Slot(4));
        bench.machine.handle_app(None);
        bench.step();
        if state == StateType::Ephemeral {
            begin_with(&mut bench, 3, 2, 4);
        } else {
            assert_eq!(bench.machine.rollback(), Some(Slot(4)));
            let Files::Wanted { job, .. } = bench.machine.files else {
                panic!("the volume is put back");
            };
            bench.machine.handle_volume_restored(job);
            start(&mut bench, 3, 2);
        }
        let (slots, answers) = bench.run();
        assert_eq!(slots, [5, 6, 8], "what the first has executed, too");
        assert_eq!(answers, [executed(8, 8)], "who was answered stays so");
    }
}

#[test]
fn a_next_revision_comes_after_the_last_is_finished_and_only_then_it_cannot_be_taken_back() {
    let mut bench = Bench::new();
    let mut expect = |sequence, number, takes_back, outcome| {
        let slot = bench.choose_revision(sequence, number, takes_back);
        let answers = bench.run().1;
        assert!(
            answers.contains(&told(sequence, slot.0, outcome)),
            "{sequence}: {answers:?}"
        );
        if sequence == 6 {
            bench.choose_revision_done(2);
            bench.choose_revision_done(3);
        }
    };
    expect(1, 1, true, Outcome::Conflict);
    expect(2, 2, false, Outcome::Conflict);
    expect(3, 1, false, Outcome::Done);
    expect(4, 1, false, Outcome::Conflict);
    expect(5, 2, false, Outcome::Conflict);
    expect(6, 3, true, Outcome::Conflict);
    expect(7, 2, true, Outcome::Done);
    let mut bench = Bench::new();
    bench.choose_revision(1, 1, false);
    bench.choose_revision_done(2);
    bench.choose_revision(3, 2, false);
    bench.choose_revision_done(1);
    bench.choose_revision(5, 2, true);
    bench.choose_revision(6, 2, false);
    let answers = bench.run().1;
    for (sequence, outcome) in [
        (1, Outcome::Done),
        (3, Outcome::Conflict),
        (5, Outcome::Conflict),
        (6, Outcome::Done),
    ] {
        assert!(answers.contains(&told(sequence, sequence, outcome)));
    }
    assert_eq!(bench.machine.fold().barrier(), Slot(6));
}

#[test]
fn the_next_process_knows_which_revision_runs() {
    let mut bench = at_the_barrier();
    let mut next = bench.restarted(Some(instance(1)));
    next.step();
    assert_eq!(next.machine.revision_status().ends_at, Some(Slot(4)));
    save(&mut next);
    begin_with(&mut next, 2, 1, 4);
    assert_eq!(next.run().0, [5, 6]);
    bench = next.restarted(Some(instance(2)));
    bench.machine.handle_offered(0);
    bench.choose(7, &request());
    assert_eq!(bench.run().0, [7]);
    assert_eq!(bench.machine.revision_status().running, Some(1));
    // And that what it has executed is void.
    bench.choose_revision(8, 2, true);
    let mut last = bench.restarted(Some(instance(2)));
    assert!(stops(&last.step()));
}

#[test]
fn a_change_that_is_learnt_while_a_state_is_put_back_does_not_begin_that_anew() {
    let mut bench = at_the_barrier();
    save(&mut bench);
    bench.choose_revision_done(1);
    bench.choose_revision(8, 2, false);
    let mut next = bench.restarted(None);
    next.machine.handle_offered(1);
    next.machine.handle_app(Some(instance(2)));
    let actions = next.step();
    let restores = actions.iter();
    let restores = restores.filter(|it| matches!(it, Action::Restore { .. }));
    assert_eq!(restores.count(), 1, "{actions:?}");
    let (job, _) = restored(&actions).expect("one");
    next.machine.handle_restored(job);
    assert_eq!(next.run().0, [5, 6]);
}

#[test]
fn a_skip_that_is_learnt_at_the_barrier_is_part_of_what_is_saved_there() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.choose(2, &request());
    bench.choose_revision(3, 1, false);
    let first = bench.sent();
    bench.machine.handle_response(first.run);
    let poison = bench.sent();
    assert_eq!(poison.slot, Slot(2));
    bench.choose_skip(2);
    bench.machine.handle_unknown(poison.run);
    bench.step();
    start(&mut bench, 2, 0);
    assert_eq!(bench.run().0, [1]);
    let tables = save(&mut bench);
    assert!(tables.skipped().contains(&Slot(2)));
}

#[test]
fn what_was_in_force_is_part_of_the_tables() {
    let bench = at_the_barrier();
    let fold = bench.machine.fold();
    let loaded = Fold::load(&fold.save()).unwrap();
    assert_eq!(&loaded, fold);
    assert_eq!((loaded.revision(), loaded.barrier()), (1, Slot(4)));
    assert!(loaded.is_unfinished());
}

// === a random life ===

/// What an app or a file holds: who has executed what.
type Held = Vec<(u64, u64)>;

/// What a copy of this revision has executed when it stands at `slot`.
fn expected(bench: &Bench, revision: u64, slot: u64) -> Held {
    let mut fold = Fold::new(configuration(), 1, Policy::default());
    let (mut begun, mut requests) = (BTreeMap::from([(0, 0)]), Vec::new());
    for entry in &bench.log {
        match fold.admit(entry) {
            Admission::Execute(_) => requests.push(entry.slot.0),
            Admission::Revision {
                number, barrier, ..
            }
            | Admission::Silent {
                number, barrier, ..
            } if number <= revision => {
                begun.insert(number, barrier.0);
            }
            // Nothing is built upon what it has made.
            Admission::TakenBack { number } if number < revision => drop(begun.remove(&number)),
            _ => {}
        }
    }
    let owner = |slot: u64| {
        let all = begun.iter().filter(|(_, barrier)| **barrier < slot);
        all.map(|(number, _)| *number).max().expect("revision 0")
    };
    let executed = requests.into_iter().filter(|it| *it <= slot);
    executed.map(|it| (it, owner(it))).collect()
}

/// Whether clients may get what a copy of this revision has answered at `slot`, as far as the log says who
/// has run along silently and from where on it answers.
fn may_answer(bench: &Bench, revision: u64, slot: u64) -> bool {
    let mut fold = Fold::new(configuration(), 1, Policy::default());
    let (mut from, mut through) = (0, u64::MAX);
    for entry in &bench.log {
        match fold.admit(entry) {
            Admission::Silent { number, .. } if number == revision => from = u64::MAX,
            Admission::TakenOver { number, .. } if number == revision => from = entry.slot.0,
            Admission::TakenOver { before, .. } if before == revision => through = entry.slot.0,
            _ => {}
        }
    }
    slot > from && slot <= through
}

struct World {
    bench: Bench,
    /// The app that runs, with its state.
    app: Option<(u64, u64, Held)>,
    started: u64,
    saved: BTreeMap<u64, (Fold, Held)>,
    /// Not usable yet.
    fresh: Option<(Fold, Held)>,
    flight: Option<Execute>,
    restore: Option<(Job, Slot)>,
    executed: u64,
    restores: u64,
    /// Requests that were executed silently.
    silent: u64,
}

impl World {
    fn step(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        for action in self.bench.step() {
            match action {
                Action::Answer(answer) => answers.push(answer),
                Action::Execute(execute) => self.flight = Some(execute),
                Action::Restore { job, slot, .. } => self.restore = Some((job, slot)),
                Action::TakeSnapshot {
                    job, slot, tables, ..
                } => {
                    let held = self.app.as_ref().expect("it runs").2.clone();
                    if self.bench.machine.handle_snapshot_taken(job) {
                        assert_eq!(tables.admitted(), slot);
                        self.fresh = Some((*tables, held));
                    }
                }
                _ => {}
            }
        }
        if self.bench.machine.run() != self.flight.as_ref().map(|it| it.run) {
            self.flight = None;
        }
        answers
    }

    fn kill_app(&mut self) {
        self.app = None;
        self.bench.machine.handle_app(None);
        self.flight = None;
        self.restore = None;
        self.step();
    }

    fn start_app(&mut self, revision: u64) {
        self.started += 1;
        self.app = Some((self.started, revision, Vec::new()));
        self.bench.machine.handle_offered(revision);
        self.bench.machine.handle_app(Some(instance(self.started)));
        self.step();
    }

    fn respond(&mut self) {
        let Some(execute) = self.flight.take() else {
            return;
        };
        let (_, revision, held) = self.app.as_mut().expect("it runs");
        held.push((execute.slot.0, *revision));
        let (revision, held) = (*revision, held.clone());
        assert_eq!(
            held,
            expected(&self.bench, revision, execute.slot.0),
            "revision {revision} at slot {}",
            execute.slot
        );
        self.executed += 1;
        let is_new = execute.slot > self.bench.machine.executed();
        self.bench.machine.handle_response(execute.run);
        let answers = self.step();
        let is_told = answers
            .iter()
            .any(|it| it.outcome == Outcome::Executed && it.slot == execute.slot);
        let may = may_answer(&self.bench, revision, execute.slot.0);
        let place = format!("revision {revision} at slot {}", execute.slot);
        assert!(may || !is_told, "{place} answers");
        assert!(is_told || !may || !is_new, "{place} does not answer");
        self.silent += u64::from(!may);
    }

    fn restore(&mut self) {
        let Some((job, slot)) = self.restore.take() else {
            return;
        };
        if self.bench.machine.wants(job) {
            let held = self.saved[&slot.0].1.clone();
            self.app.as_mut().expect("it runs").2 = held;
            self.restores += 1;
            self.bench.machine.handle_restored(job);
            self.step();
        }
    }

    /// Its revision is not the one that is due here, and no other member has its state.
    fn waits_in_vain(&self) -> bool {
        let status = self.bench.machine.revision_status();
        let revision = self.app.as_ref().map(|it| it.1);
        status.running.is_none() && revision != Some(status.due)
    }

    /// The silent revision begins with what another member has.
    fn lacks_barrier(&self) -> bool {
        let status = self.bench.machine.revision_status();
        let barrier = status.silent.map(|it| it.1);
        barrier.is_some() && status.wants_state == barrier
    }

    /// As keeper and supervisor do it.
    fn attend(&mut self) {
        self.restore();
        if let Some(Blocked::Pause(slot)) = self.bench.machine.blocked() {
            self.bench.machine.handle_pause_over(slot);
            self.step();
        }
        let status = self.bench.machine.revision_status();
        if let Some((fold, held)) = self.fresh.take() {
            let slot = fold.admitted();
            self.saved.insert(slot.0, (fold.clone(), held));
            if self.bench.machine.handle_snapshot_available(fold.clone()) {
                self.bench.base = Some(fold);
            }
            self.step();
        } else if status.ends_at.is_some() {
            self.bench.machine.handle_take_snapshot();
            self.step();
        } else if self.lacks_barrier() {
            // From another member.
            let (_, barrier) = status.silent.expect("it runs along");
            let held = expected(&self.bench, status.in_force, barrier.0);
            self.fresh = Some((self.bench.fold_at(barrier.0), held));
        } else if self.app.is_none() {
            let may = status.may.filter(|_| self.started.is_multiple_of(2));
            self.start_app(may.unwrap_or(status.due));
        } else if self.bench.machine.condemned().is_some() || self.waits_in_vain() {
            self.kill_app();
        } else {
            self.respond();
        }
    }
}

#[test]
fn in_a_random_life_no_revision_executes_what_is_anothers() {
    let (mut executed, mut restores, mut changes, mut silent) = (0, 0, 0, 0);
    for seed in 1..=32_u64 {
        let mut dice = Dice(seed * 0x9E37_79B9_7F4A);
        let mut world = World {
            bench: Bench::begin(Found::Record(Record::default()), Vec::new()),
            app: None,
            started: 0,
            saved: BTreeMap::new(),
            fresh: None,
            flight: None,
            restore: None,
            executed: 0,
            restores: 0,
            silent: 0,
        };
        world.bench.machine.handle_app(None);
        world.step();
        let mut sequence = 0;
        for _ in 0..600 {
            sequence += 1;
            let fold = world.bench.fold_at(world.bench.log.len() as u64);
            let next = fold.newest_revision() + 1;
            match dice.below(40) {
                10 if !fold.is_unfinished() && seed % 2 == 0 => {
                    let saver = 1 + dice.below(2) as u32;
                    world.bench.choose_rolling(sequence, next, saver);
                }
                16 if dice.below(4) == 0 => drop(world.bench.choose_disagreement(next - 1, 1)),
                0..=9 => drop(world.bench.choose(sequence, &request())),
                10 => drop(world.bench.choose_revision(
                    sequence,
                    next,
                    fold.is_unfinished() && dice.below(3) == 0,
                )),
                11 => drop(world.bench.choose_revision_done(fold.newest_revision())),
                12 => world.kill_app(),
                13 if world.app.is_none() => world.start_app(dice.below(next + 1)),
                14 => {
                    let listens = world.app.as_ref().map(|it| instance(it.0));
                    let fresh = world.bench.restarted(listens);
                    world.bench = fresh;
                    world.flight = None;
                    world.restore = None;
                    world.fresh = None;
                    world.step();
                }
                15 if dice.below(4) == 0 => {
                    world.bench.machine.handle_take_snapshot();
                    world.step();
                }
                _ => world.attend(),
            }
            world.step();
        }
        // In the end it comes through.
        for _ in 0..2_000 {
            world.attend();
        }
        let end = world.bench.log.len() as u64;
        let fold = world.bench.fold_at(end);
        let (_, revision, held) = world.app.clone().expect("it runs");
        assert_eq!(world.bench.machine.applied(), Slot(end), "seed {seed}");
        let along = fold.silent().is_some_and(|it| it.number == revision);
        assert!(revision == fold.revision() || along, "seed {seed}");
        assert_eq!(held, expected(&world.bench, revision, end), "seed {seed}");
        executed += world.executed;
        restores += world.restores;
        changes += fold.revision();
        silent += world.silent;
    }
    assert!(executed > 1_000 && restores > 40 && changes > 24 && silent > 100);
}
