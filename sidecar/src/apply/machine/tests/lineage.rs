//! Copies that differ from the others.

use super::*;
use crate::apply::Doubts;
use crate::apply::divergence::OnDivergence;

/// Six requests, all executed by instance 1.
fn bench() -> Bench {
    let mut bench = Bench::new();
    for sequence in 1..=6 {
        bench.choose(sequence, &request());
    }
    assert_eq!(bench.run().0, [1, 2, 3, 4, 5, 6]);
    bench
}

fn astray(bench: &mut Bench, slot: u64, measure: OnDivergence) -> bool {
    let number = bench.machine.lineage().number;
    bench
        .machine
        .handle_astray(number, Some((Slot(slot), measure)))
}

/// The app is asked for its slot.
fn asks(actions: &[Action]) -> Job {
    let asked = actions.iter().find_map(|action| match action {
        Action::AskApplied { job, .. } => Some(*job),
        _ => None,
    });
    asked.expect("the app is asked")
}

fn stops(actions: &[Action]) -> bool {
    actions.contains(&Action::StopApp(instance(1)))
}

/// Seed 20281852 of the simulator: who had executed what another one could not was asked for its state again and
/// again, and others that had executed it were not.
#[test]
fn a_copy_that_differs_has_no_state_for_those_that_cannot_get_past_a_request() {
    let mut bench = bench();
    assert_eq!(Doubts::of(&bench.machine).applied, Slot(6));
    assert!(astray(&mut bench, 4, OnDivergence::Alert));
    let doubts = Doubts::of(&bench.machine);
    assert_eq!((doubts.applied, doubts.executed), (Slot(0), Slot(6)));
}

#[test]
fn a_copy_that_is_taken_out_serves_nobody_and_is_made_anew_from_the_start_of_the_log() {
    let mut bench = bench();
    assert!(astray(&mut bench, 4, OnDivergence::Quarantine));
    assert!(!bench.machine.serving());
    assert!(stops(&bench.step()));
    assert_eq!(bench.ledger.astray, Some(Slot(4)));
    let before = bench.machine.lineage();
    // Told again, by a leader that does not know better.
    assert!(astray(&mut bench, 4, OnDivergence::Quarantine));
    assert!(!stops(&bench.step()));
    bench.machine.handle_app(None);
    bench.machine.handle_app(Some(instance(2)));
    assert_ne!(bench.machine.lineage(), before);
    assert_eq!(bench.run().0, [1, 2, 3, 4, 5, 6]);
    assert!(bench.machine.serving());
    assert_eq!(bench.ledger.astray, None, "that was the one before");
    let number = before.number;
    let late = bench
        .machine
        .handle_astray(number, Some((Slot(4), OnDivergence::Quarantine)));
    assert!(!late && bench.machine.serving());
}

#[test]
fn that_a_copy_differs_is_in_the_ledger_and_the_next_process_knows_it() {
    let mut bench = bench();
    assert!(astray(&mut bench, 4, OnDivergence::Alert));
    assert!(!stops(&bench.step()));
    assert!(bench.machine.serving(), "only told");
    let restarted = bench.restarted(Some(instance(1)));
    assert_eq!(restarted.machine.astray(), Some(Slot(4)));
    assert!(restarted.machine.lineage().is_known);
    let rebooted = Found::OtherBoot(bench.ledger.kept());
    for (found, is_known) in [(Found::Missing, false), (rebooted, true)] {
        let mut restarted = Bench::begin_from(
            StateType::Volume(UncleanCrash::AppliedHeader),
            None,
            found,
            bench.log.clone(),
        );
        restarted.machine.handle_app(None);
        restarted.machine.handle_app(Some(instance(2)));
        let job = asks(&restarted.step());
        restarted.machine.handle_app_applied(job, Some(Slot(5)));
        restarted.run();
        assert_eq!(restarted.machine.lineage().is_known, is_known, "{found:?}");
        let astray = is_known.then_some(Slot(4));
        assert_eq!(restarted.machine.astray(), astray, "{found:?}");
    }
}

#[test]
fn a_state_in_which_nothing_was_executed_is_vouched_for_from_its_first_slot_on() {
    let log = bench().log;
    for (found, slot, is_known) in [
        (Found::New, 0, true),
        (Found::Missing, 0, true),
        // What was found about it before, nobody knows.
        (Found::New, 2, false),
        (Found::Missing, 2, false),
    ] {
        let state = StateType::Volume(UncleanCrash::AppliedHeader);
        let mut bench = Bench::begin_from(state, None, found, log.clone());
        bench.machine.handle_app(None);
        bench.step();
        bench.machine.handle_app(Some(instance(1)));
        let job = asks(&bench.step());
        bench.machine.handle_app_applied(job, Some(Slot(slot)));
        bench.run();
        let lineage = bench.machine.lineage();
        assert_eq!(lineage.is_known, is_known, "{found:?} {slot}");
        assert_eq!(lineage.from, Slot(slot));
    }
}

#[test]
fn a_copy_that_is_told_to_stand_executes_nothing_more_until_it_is_made_anew_or_told_otherwise() {
    let mut bench = bench();
    assert!(astray(&mut bench, 4, OnDivergence::Halt));
    bench.choose(7, &request());
    assert_eq!(bench.run().0, [0; 0]);
    assert!(!bench.machine.serving());
    assert_eq!(bench.machine.blocked(), Some(Blocked::Differs(Slot(7))));
    assert!(astray(&mut bench, 4, OnDivergence::Alert));
    assert_eq!(bench.run().0, [7]);
    assert!(astray(&mut bench, 4, OnDivergence::Halt));
    bench.step();
    let mut restarted = bench.restarted(Some(instance(1)));
    restarted.choose(8, &request());
    assert_eq!(restarted.run().0, [0; 0], "also in its next process");
    bench.machine.handle_app(None);
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.run().0, [1, 2, 3, 4, 5, 6, 7]);
}

/// The slot of the snapshot that the app is given, if it is given one.
fn restored(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Restore { slot, .. } => Some(slot.0),
        _ => None,
    })
}

#[test]
fn a_snapshot_that_may_contain_what_differs_is_void_and_another_is_used() {
    for (base, is_void) in [(3, false), (4, true)] {
        let mut bench = bench();
        bench.snapshot(base);
        bench.step();
        assert!(astray(&mut bench, 4, OnDivergence::Quarantine));
        // Whether it is the base or not: what else was saved from there on is of no use either.
        let void = Action::VoidSince { slot: Slot(4) };
        assert!(bench.step().contains(&void));
        assert_eq!(bench.machine.void().is_some(), is_void);
        assert!(astray(&mut bench, 4, OnDivergence::Quarantine));
        assert!(!bench.step().contains(&void), "once is enough");
        bench.machine.handle_app(None);
        bench.machine.handle_app(Some(instance(2)));
        assert_eq!(restored(&bench.step()).is_some(), !is_void);
        // Another member's, behind that.
        bench.snapshot(6);
        assert_eq!(restored(&bench.step()), is_void.then_some(6));
    }
}

#[test]
fn a_snapshot_of_the_same_slot_that_is_vouched_for_takes_the_place_of_a_void_one() {
    let mut bench = bench();
    bench.snapshot(5);
    assert!(astray(&mut bench, 4, OnDivergence::Quarantine));
    bench.machine.handle_app(None);
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(restored(&bench.step()), None);
    bench.snapshot(5);
    assert_eq!(restored(&bench.step()), Some(5));
    assert_eq!(
        (bench.machine.void(), bench.machine.base()),
        (None, Slot(5))
    );
}

#[test]
fn a_copy_that_is_made_anew_from_what_may_differ_is_not_vouched_for_before_it_begins_elsewhere() {
    let mut bench = bench();
    bench.snapshot(5);
    assert!(astray(&mut bench, 4, OnDivergence::Alert));
    for number in [2, 3] {
        bench.machine.handle_app(None);
        bench.machine.handle_app(Some(instance(number)));
        let actions = bench.step();
        let restore = actions.iter().find_map(|action| match action {
            Action::Restore { job, .. } => Some(*job),
            _ => None,
        });
        bench
            .machine
            .handle_restored(restore.expect("nobody took it out"));
        bench.run();
        let expected = (number == 2).then_some(Slot(4));
        assert_eq!(bench.machine.astray(), expected);
        assert_eq!(bench.ledger.astray, expected);
        bench.snapshot(6);
    }
}

#[test]
fn a_volume_that_differs_is_put_back() {
    let state = StateType::Volume(UncleanCrash::AppliedHeader);
    let log = bench().log;
    let mut bench = Bench::begin_from(state, None, Found::Record(Record::default()), log);
    bench.machine.handle_app(Some(instance(1)));
    assert_eq!(bench.run().0, [1, 2, 3, 4, 5, 6]);
    assert!(astray(&mut bench, 4, OnDivergence::Quarantine));
    let actions = bench.step();
    assert!(stops(&actions));
    let replaced = |it: &Action| matches!(it, Action::ReplaceApp { slot, .. } if *slot == Slot(0));
    assert!(actions.iter().any(replaced), "{actions:?}");
}

#[test]
fn a_copy_that_was_right_in_the_end_is_vouched_for_again() {
    let mut bench = bench();
    assert!(astray(&mut bench, 4, OnDivergence::Alert));
    let number = bench.machine.lineage().number;
    assert!(bench.machine.handle_astray(number, None));
    bench.step();
    assert_eq!((bench.ledger.astray, bench.machine.astray()), (None, None));
}
