//! A revision of the app that runs along silently before it takes over (rule V1).

use super::revisions::{AGAIN, TOLD, VOLUME, begin_with, restored, start, started, stops, taken};
use super::*;

/// Three requests, the barrier of revision 1 at slot 4, and two more; nothing is handed in yet. The state
/// of the barrier is saved by the member of this number; this one is 1.
fn beginning(saver: u32) -> Bench {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.choose(sequence, &request());
    }
    assert_eq!(bench.choose_rolling(4, 1, saver), Slot(4));
    bench.choose(5, &request());
    bench.choose(6, &request());
    bench
}

/// The same, executed by instance 1 of the old revision, with the state of the barrier from another
/// member.
fn under_way() -> Bench {
    let mut bench = beginning(2);
    bench.run();
    bench.snapshot(4);
    bench.step();
    bench
}

/// The same, with instance 2 of the new one, which has executed all.
fn along() -> Bench {
    let mut bench = under_way();
    begin_with(&mut bench, 2, 1, 4);
    assert_eq!(bench.run(), (vec![5, 6], vec![]));
    bench
}

fn asked(bench: &mut Bench, slot: u64) -> Option<Standing> {
    bench.machine.handle_ask(Ask {
        slot: Slot(slot),
        ballot: Ballot::default(),
        number: 1,
    })
}

// === the old one ===

#[test]
fn the_old_revision_goes_on_beyond_the_barrier_and_answers() {
    let mut bench = beginning(2);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1, 2, 3, 5, 6]);
    assert!(answers.contains(&told(4, 4, Outcome::Done)));
    assert!(answers.contains(&executed(5, 5)) && answers.contains(&executed(6, 6)));
    assert!(bench.machine.serving());
    let status = bench.machine.revision_status();
    assert_eq!((status.in_force, status.newest), (0, 1));
    assert_eq!((status.running, status.due, status.may), (Some(0), 0, None));
    assert_eq!(status.silent, Some((1, Slot(4))));
    assert!(status.is_unfinished && !status.is_silent);
    // What others begin with is wanted here, too.
    assert_eq!(status.wants_state, Some(Slot(4)));
}

#[test]
fn one_copy_saves_the_state_of_the_barrier_and_goes_on() {
    let mut bench = beginning(1);
    assert_eq!(bench.run().0, [1, 2, 3]);
    assert!(!bench.machine.serving(), "others answer meanwhile");
    assert_eq!(bench.machine.blocked(), Some(Blocked::Revision(Slot(4))));
    let status = bench.machine.revision_status();
    assert_eq!((status.ends_at, status.wants_state), (Some(Slot(4)), None));
    let job = bench.machine.handle_take_snapshot();
    let (taking, slot, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!((Some(taking), slot), (job, Slot(4)));
    assert_eq!(tables, bench.fold_at(4));
    assert_eq!(bench.run().0, [] as [u64; 0], "nothing meanwhile");
    assert!(bench.machine.handle_snapshot_taken(taking));
    assert_eq!(bench.run().0, [5, 6]);
    assert!(bench.machine.serving());
    assert_eq!(bench.machine.revision_status().may, None, "not usable yet");
    assert!(bench.machine.handle_snapshot_available(tables));
    assert!(!stops(&bench.step()), "it goes on");
    let status = bench.machine.revision_status();
    assert_eq!((status.due, status.may), (0, Some(1)));
}

#[test]
fn a_state_that_is_not_saved_in_time_holds_nobody_up() {
    let mut bench = beginning(1);
    let actions = bench.run().1;
    let pause = actions.iter().find_map(|it| match it {
        Action::Pause { slot, pause_ms } => Some((*slot, *pause_ms)),
        _ => None,
    });
    assert_eq!(pause, Some((Slot(4), 10_000)));
    bench.machine.handle_pause_over(Slot(4));
    assert_eq!(bench.run().0, [5, 6]);
    assert!(bench.machine.serving());
    let status = bench.machine.revision_status();
    assert_eq!((status.ends_at, status.wants_state), (None, Some(Slot(4))));
    // A copy that is made anew comes by, and serves nobody then.
    start(&mut bench, 2, 0);
    assert_eq!(bench.run().0, [1, 2, 3]);
    assert_eq!(bench.machine.revision_status().ends_at, Some(Slot(4)));
}

#[test]
fn a_state_that_comes_from_elsewhere_need_not_be_saved() {
    let mut bench = beginning(1);
    bench.run();
    bench.snapshot(4);
    assert_eq!(bench.run().0, [5, 6]);
}

#[test]
fn a_copy_that_is_replayed_past_the_barrier_saves_its_state_whoever_was_to() {
    let mut bench = beginning(2);
    bench.run();
    start(&mut bench, 2, 0);
    assert_eq!(bench.run().0, [1, 2, 3]);
    bench.machine.handle_take_snapshot();
    let (job, slot, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!((slot, &tables), (Slot(4), &bench.fold_at(4)));
    assert!(bench.machine.handle_snapshot_taken(job));
    assert_eq!(bench.run().0, [5, 6]);
}

/// Seed 20281586 of the simulator.
#[test]
fn n1_no_state_is_saved_at_the_barrier_that_may_contain_what_was_sent_behind_it() {
    let mut bench = beginning(2);
    bench.state = AGAIN;
    bench.machine.state = AGAIN;
    for _ in 1..=3 {
        let run = bench.sent().run;
        bench.machine.handle_response(run);
    }
    let last = bench.sent();
    assert_eq!(last.slot, Slot(5));
    bench.machine.handle_unknown(last.run);
    start(&mut bench, 2, 0);
    assert_eq!(bench.machine.handle_take_snapshot(), None);
    let again = bench.sent();
    assert_eq!((again.slot, again.attempt), (Slot(5), 2));
}

#[test]
fn the_old_revision_begins_with_the_state_of_the_barrier_too() {
    let mut bench = under_way();
    begin_with(&mut bench, 2, 0, 4);
    bench.choose(7, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [5, 6, 7]);
    assert_eq!(answers, [executed(7, 7)]);
    assert!(bench.machine.serving());
}

#[test]
fn nothing_beyond_the_barrier_is_saved_meanwhile() {
    for mut bench in [under_way(), along()] {
        assert_eq!(bench.machine.handle_take_snapshot(), None);
    }
}

#[test]
fn the_old_revision_executes_nothing_beyond_the_slot_where_the_next_one_takes_over() {
    let mut bench = under_way();
    bench.choose(7, &request());
    bench.choose_revision_done(1);
    bench.choose(9, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [7]);
    assert!(answers.contains(&executed(7, 7)));
    assert!(stops(&answers), "its part is done");
    assert_eq!(bench.machine.answered(), Slot(8));
    assert!(!bench.machine.serving());
    assert_eq!(bench.machine.revision_status().due, 1);
    // Nor does it when it is started once more.
    begin_with(&mut bench, 2, 0, 4);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [5, 6, 7]);
    assert!(stops(&answers));
    begin_with(&mut bench, 3, 1, 4);
    let (slots, answers) = bench.run();
    assert_eq!((slots, answers), (vec![5, 6, 7, 9], vec![executed(9, 9)]));
}

/// Seed 20270810 of the simulator: a person let it take over before any copy of it had begun.
#[test]
fn where_nobody_has_the_state_of_the_barrier_an_old_copy_comes_by_once_more() {
    let mut bench = beginning(2);
    bench.run();
    bench.choose_revision_done(1);
    bench.choose(8, &request());
    let (_, actions) = bench.run();
    let waits = |action: &Action| matches!(action, Action::Pause { slot, .. } if *slot == Slot(7));
    assert!(actions.iter().any(waits), "another member may have it");
    assert!(!stops(&actions));
    assert_eq!(bench.machine.revision_status().wants_state, Some(Slot(4)));
    bench.machine.handle_pause_over(Slot(7));
    assert!(stops(&bench.step()));
    start(&mut bench, 2, 0);
    assert_eq!(bench.run().0, [1, 2, 3]);
    bench.machine.handle_take_snapshot();
    let (job, slot, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!(slot, Slot(4));
    assert!(bench.machine.handle_snapshot_taken(job));
    assert!(bench.machine.handle_snapshot_available(tables));
    bench.run();
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.run(), (vec![5, 6, 8], vec![executed(8, 8)]));
}

#[test]
fn no_read_sees_the_old_revision_once_it_is_known_that_it_ends() {
    let mut bench = under_way();
    bench.choose(7, &request());
    bench.choose_revision_done(1);
    let last = bench.sent();
    assert_eq!(last.slot, Slot(7));
    assert!(!bench.machine.serving());
}

#[test]
fn where_the_state_of_the_barrier_is_not_the_old_revision_waits_for_it_at_its_end() {
    let mut bench = beginning(2);
    bench.run();
    bench.choose_revision_done(1);
    let (_, answers) = bench.run();
    assert!(!stops(&answers));
    assert_eq!(bench.machine.applied(), Slot(7));
    let status = bench.machine.revision_status();
    assert_eq!((status.due, status.wants_state), (0, Some(Slot(4))));
    // Or it comes by that slot once more.
    let mut again = bench.restarted(None);
    start(&mut again, 2, 0);
    assert_eq!(again.run().0, [1, 2, 3]);
    assert_eq!(again.machine.revision_status().ends_at, Some(Slot(4)));
    bench.snapshot(4);
    assert!(stops(&bench.step()));
    assert_eq!(bench.machine.revision_status().due, 1);
}

// === the new one ===

#[test]
fn the_new_revision_executes_what_follows_the_barrier_and_nobody_sees_it() {
    let mut bench = along();
    assert_eq!(bench.machine.applied(), Slot(6));
    assert!(!bench.machine.serving());
    let status = bench.machine.revision_status();
    assert_eq!((status.running, status.due), (Some(1), 1));
    assert!(status.is_silent);
    bench.choose(7, &request());
    assert_eq!(bench.run(), (vec![7], vec![]));
    assert!(bench.machine.is_silent_at(Slot(7)));
    assert!(!bench.machine.serving());
    // Of the old one it is known how far it came here.
    assert_eq!(bench.machine.answered(), Slot(6));
}

#[test]
fn a_repeat_waits_for_a_copy_that_answers() {
    let mut bench = under_way();
    begin_with(&mut bench, 2, 1, 4);
    bench.run();
    bench.choose(7, &keyed("k", "p", "d"));
    bench.choose(8, &keyed("k", "p", "d"));
    assert_eq!(bench.run(), (vec![7], vec![]));
    bench.choose_revision_done(1);
    bench.choose(10, &request());
    let answers = bench.run().1;
    let replayed = Action::Answer(Answer {
        id: id(8),
        slot: Slot(7),
        outcome: Outcome::Replayed,
        first_answerer: Some(id(7).member),
    });
    assert_eq!(answers, [replayed, executed(10, 10)]);
}

#[test]
fn a_repeat_of_what_was_executed_silently_is_answered_once_that_one_has_taken_over() {
    let mut bench = under_way();
    begin_with(&mut bench, 2, 1, 4);
    bench.run();
    bench.choose(7, &keyed("k", "p", "d"));
    bench.choose_revision_done(1);
    assert_eq!(bench.run(), (vec![7], vec![]));
    // Nothing else is to be executed, and whoever has answered it may be gone.
    bench.choose(9, &keyed("k", "p", "d"));
    let replayed = Action::Answer(Answer {
        id: id(9),
        slot: Slot(7),
        outcome: Outcome::Replayed,
        first_answerer: Some(id(7).member),
    });
    assert_eq!(bench.run().1, [replayed]);
}

#[test]
fn the_new_revision_begins_with_the_state_of_the_barrier_and_no_other() {
    // With an older one, or none.
    for state in [StateType::Ephemeral, VOLUME, TOLD, AGAIN] {
        let mut bench =
            Bench::begin_from(state, None, Found::Record(Record::default()), Vec::new());
        bench.machine.handle_app(None);
        bench.choose(1, &request());
        bench.choose_rolling(2, 1, 2);
        bench.choose(3, &request());
        bench.step();
        let actions = started(&mut bench, 1, 1);
        assert_eq!(restored(&actions), None, "{state:?}");
        assert_eq!(bench.run().0, [] as [u64; 0], "{state:?}");
        let status = bench.machine.revision_status();
        assert_eq!((status.due, status.may), (0, None));
        assert_eq!(status.wants_state, Some(Slot(2)));
        if state == StateType::Ephemeral {
            bench.snapshot(2);
            let (job, slot) = restored(&bench.step()).expect("what it waited for");
            assert_eq!(slot, Slot(2));
            bench.machine.handle_restored(job);
            assert_eq!(bench.run(), (vec![3], vec![]));
        }
    }
    // With one that the old one has made later.
    let mut bench = beginning(2);
    bench.run();
    bench.snapshot(6);
    let actions = started(&mut bench, 2, 1);
    assert_eq!(restored(&actions), None);
    let status = bench.machine.revision_status();
    assert_eq!((status.due, status.may), (0, None));
}

#[test]
fn a_volume_that_the_old_one_has_used_is_put_back_to_the_barrier_first() {
    for state in [VOLUME, AGAIN, TOLD] {
        let mut bench = under_way();
        bench.state = state;
        bench.machine.state = state;
        bench.machine.handle_app(None);
        bench.step();
        if state == VOLUME {
            assert_eq!(bench.machine.rollback(), Some(Slot(4)));
        } else {
            // It says, or resends, what the old one has made of it.
            for action in started(&mut bench, 2, 1) {
                if let Action::AskApplied { job, .. } = action {
                    bench.machine.handle_app_applied(job, Some(Slot(6)));
                }
            }
            assert!(stops(&bench.step()) || bench.machine.condemned().is_some());
            bench.machine.handle_app(None);
            assert_eq!(bench.machine.rollback(), Some(Slot(4)), "{state:?}");
        }
        let Files::Wanted { job, .. } = bench.machine.files else {
            panic!("the volume is put back");
        };
        bench.machine.handle_volume_restored(job);
        start(&mut bench, 3, 1);
        assert_eq!(bench.run(), (vec![5, 6], vec![]), "{state:?}");
    }
}

#[test]
fn the_new_revision_answers_what_follows_the_slot_where_it_takes_over() {
    let mut bench = along();
    bench.choose(7, &request());
    bench.choose_revision_done(1);
    bench.choose(9, &request());
    let last = bench.sent();
    assert_eq!(last.slot, Slot(7));
    // It is known where it takes over, and it is not there yet.
    assert_eq!(bench.machine.fold().revision(), 1);
    assert!(!bench.machine.serving());
    bench.machine.handle_response(last.run);
    assert_eq!(bench.run(), (vec![9], vec![executed(9, 9)]));
    assert!(bench.machine.serving());
    let status = bench.machine.revision_status();
    assert_eq!((status.in_force, status.newest, status.due), (1, 1, 1));
    assert_eq!((status.barrier, status.silent), (Slot(4), None));
    assert!(!status.is_unfinished && !status.is_silent);
    // From now on what it makes is saved.
    assert!(bench.machine.handle_take_snapshot().is_some());
    let (_, slot, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!((slot, tables.revision()), (Slot(9), 1));
}

#[test]
fn one_that_lags_answers_nothing_of_what_came_before_it_took_over_and_after_the_next_has() {
    let mut bench = under_way();
    bench.choose_revision_done(1);
    bench.choose(8, &request());
    bench.choose_rolling(9, 2, 2);
    bench.choose(10, &request());
    bench.choose_revision_done(2);
    bench.choose(12, &request());
    bench.run();
    begin_with(&mut bench, 2, 1, 4);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [5, 6, 8], "it saves the barrier of the next");
    assert_eq!(answers[0], executed(8, 8));
    assert_eq!(bench.machine.revision_status().ends_at, Some(Slot(9)));
    let job = bench
        .machine
        .handle_take_snapshot()
        .expect("it stands there");
    let (_, slot, tables) = taken(&bench.step()).expect("it is taken");
    assert_eq!((slot, &tables), (Slot(9), &bench.fold_at(9)));
    bench.machine.handle_snapshot_taken(job);
    let (slots, answers) = bench.run();
    assert_eq!((slots, answers), (vec![10], vec![executed(10, 10)]));
    assert!(bench.machine.handle_snapshot_available(tables));
    assert!(stops(&bench.step()));
    begin_with(&mut bench, 3, 2, 9);
    assert_eq!(bench.run(), (vec![10, 12], vec![executed(12, 12)]));
}

#[test]
fn a_copy_that_lags_behind_a_newer_base_goes_by_what_was_before_that() {
    let base = |bench: &mut Bench| {
        bench.choose(7, &request());
        bench.choose_revision_done(1);
        bench.choose(9, &request());
        let first = bench.sent();
        let fold = bench.fold_at(9);
        assert!(bench.machine.handle_snapshot_available(fold));
        bench.machine.handle_response(first.run);
    };
    let mut new = under_way();
    begin_with(&mut new, 2, 1, 4);
    base(&mut new);
    assert_eq!(new.run(), (vec![6, 7, 9], vec![executed(9, 9)]));
    let mut old = under_way();
    begin_with(&mut old, 2, 0, 4);
    base(&mut old);
    let (slots, answers) = old.run();
    assert_eq!(slots, [6, 7]);
    assert!(stops(&answers));
}

// === what the leader hears ===

#[test]
fn who_asks_about_a_slot_that_fails_hears_nothing_of_what_was_executed_silently() {
    let mut bench = along();
    bench.choose(7, &request());
    bench.run();
    assert_eq!(bench.machine.executed(), Slot(6));
    // What the old one has answered here stays said.
    assert_eq!(asked(&mut bench, 6), Some(Standing::Applied));
    assert_ne!(asked(&mut bench, 7), Some(Standing::Applied));
    let mut bench = along();
    bench.choose(7, &request());
    let run = bench.sent().run;
    bench.machine.handle_slow(run);
    assert_eq!(bench.machine.progress(), Progress::default());
    bench.machine.handle_unknown(run);
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.machine.progress(), Progress::default());
    // Nor does the old one begin with what has failed with the other.
    begin_with(&mut bench, 4, 0, 4);
    assert_eq!(bench.machine.progress().failed, None);
    assert_eq!(bench.run().0, [5, 6, 7]);
}

/// Else it would take over with what is about to be skipped.
#[test]
fn k1_what_was_executed_silently_is_void_once_it_is_promised_not_to_be_executed() {
    let mut bench = along();
    bench.choose(7, &request());
    bench.choose(8, &request());
    bench.run();
    assert_ne!(asked(&mut bench, 7), Some(Standing::Applied));
    assert!(stops(&bench.step()));
    assert_eq!(asked(&mut bench, 6), Some(Standing::Applied));
    bench.choose_revision_done(1);
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.run().0, [5, 6]);
    assert!(!bench.machine.serving());
    bench.choose_skip(7);
    assert_eq!(bench.run().0, [8]);
    assert!(bench.machine.serving());
}

/// From then on reads show it.
#[test]
fn k1_what_was_executed_silently_counts_as_executed_where_that_one_takes_over() {
    let mut bench = along();
    bench.choose(7, &request());
    bench.choose(8, &request());
    bench.run();
    assert_eq!(bench.machine.executed(), Slot(6));
    bench.choose_revision_done(1);
    assert_eq!(bench.run().1, []);
    assert!(bench.machine.serving());
    assert_eq!(bench.machine.executed(), Slot(9));
    assert_eq!(asked(&mut bench, 7), Some(Standing::Applied));
}

#[test]
fn what_is_skipped_is_void_for_the_new_revision_too() {
    let mut bench = along();
    bench.choose_skip(6);
    assert!(stops(&bench.step()));
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.run().0, [5]);
}

// === how it ends ===

#[test]
fn while_the_two_disagree_only_a_person_lets_it_take_over() {
    let mut bench = along();
    bench.choose_disagreement(1, 5);
    bench.choose_disagreement(1, 6);
    bench.choose_revision_done(1);
    bench.run();
    let fold = bench.machine.fold();
    assert_eq!((fold.revision(), fold.is_unfinished()), (0, true));
    let found = fold.silent().and_then(|it| it.disagreement.as_ref());
    assert_eq!(found.map(|it| it.slot), Some(5), "the first");
    assert_eq!(&Fold::load(&fold.save()).unwrap(), fold);
    let done = RevisionDone {
        number: 1,
        in_spite: true,
    };
    let payload = done.encode_to_vec();
    bench.append(CommandKind::REVISION_DONE, CommandId::default(), payload);
    bench.run();
    assert_eq!(bench.machine.fold().revision(), 1);
    assert!(bench.machine.serving());
}

#[test]
fn one_that_is_taken_back_leaves_nothing_behind() {
    for state in [StateType::Ephemeral, VOLUME, TOLD] {
        let mut bench = along();
        bench.state = state;
        bench.machine.state = state;
        bench.choose_disagreement(1, 5);
        bench.choose_revision(8, 2, true);
        bench.choose(9, &request());
        let actions = bench.step();
        assert!(stops(&actions), "{actions:?}");
        assert!(actions.contains(&told(8, 8, Outcome::Done)));
        let status = bench.machine.revision_status();
        assert_eq!((status.in_force, status.newest), (0, 1));
        assert_eq!((status.due, status.may, status.silent), (0, None, None));
        assert!(!status.is_unfinished);
        // Nor does it begin again.
        bench.machine.handle_app(None);
        if state == StateType::Ephemeral {
            let actions = started(&mut bench, 3, 1);
            assert!(stops(&actions) && restored(&actions).is_none());
            begin_with(&mut bench, 4, 0, 4);
        } else {
            assert_eq!(bench.machine.rollback(), Some(Slot(4)));
            let Files::Wanted { job, .. } = bench.machine.files else {
                panic!("the volume is put back");
            };
            bench.machine.handle_volume_restored(job);
            start(&mut bench, 4, 0);
        }
        let (slots, answers) = bench.run();
        assert_eq!(slots, [5, 6, 9]);
        assert_eq!(answers, [executed(9, 9)]);
        assert!(bench.machine.serving());
        // Its number is spent.
        bench.choose_revision(10, 1, false);
        bench.choose_rolling(11, 2, 2);
        let answers = bench.run().1;
        assert!(answers.contains(&told(10, 10, Outcome::Conflict)));
        assert!(answers.contains(&told(11, 11, Outcome::Done)));
        assert_eq!(bench.machine.revision_status().newest, 2);
        let fold = bench.machine.fold();
        assert_eq!(&Fold::load(&fold.save()).unwrap(), fold);
    }
}

#[test]
fn the_old_revision_goes_on_as_if_nothing_had_been_when_the_other_is_taken_back() {
    let mut bench = under_way();
    bench.choose_revision(7, 2, true);
    bench.choose(8, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [8]);
    assert_eq!(answers, [told(7, 7, Outcome::Done), executed(8, 8)]);
    assert!(bench.machine.serving());
    assert!(bench.machine.handle_take_snapshot().is_some());
    // Also of one that stands at the barrier.
    let mut bench = beginning(1);
    bench.run();
    bench.choose_revision(7, 2, true);
    assert_eq!(bench.run().0, [5, 6]);
    assert!(bench.machine.serving());
}

#[test]
fn one_change_at_a_time() {
    let mut bench = beginning(2);
    bench.choose_rolling(7, 2, 2);
    bench.choose_revision(8, 2, false);
    bench.choose_revision(9, 1, true);
    bench.choose_revision_done(2);
    bench.choose_disagreement(2, 5);
    let answers = bench.run().1;
    for sequence in 7..=9 {
        assert!(answers.contains(&told(sequence, sequence, Outcome::Conflict)));
    }
    let fold = bench.machine.fold();
    assert_eq!(
        fold.silent().map(|it| (it.number, it.barrier)),
        Some((1, Slot(4)))
    );
    assert_eq!(fold.silent().and_then(|it| it.disagreement.clone()), None);
}

// === restarts ===

fn only_told(actions: Vec<Action>) -> Vec<Action> {
    let told = actions.into_iter();
    told.filter(|it| matches!(it, Action::Answer(_))).collect()
}

#[test]
fn the_next_process_knows_that_the_copy_is_silent() {
    let bench = along();
    let mut next = bench.restarted(Some(instance(2)));
    next.machine.handle_offered(1);
    next.choose(7, &request());
    let (slots, answers) = next.run();
    assert_eq!((slots, only_told(answers)), (vec![7], vec![]));
    assert!(!next.machine.serving());
    assert_eq!(next.machine.executed(), Slot(6));
    assert_ne!(asked(&mut next, 7), Some(Standing::Applied));
    // It has taken over while no process was there.
    let mut bench = along();
    bench.choose_revision_done(1);
    bench.choose(8, &request());
    let mut next = bench.restarted(Some(instance(2)));
    let (slots, answers) = next.run();
    assert_eq!((slots, only_told(answers)), (vec![8], vec![executed(8, 8)]));
    assert!(next.machine.serving());
    // And goes on to do so in the process after that, which begins with the tables of the barrier.
    next.choose(9, &request());
    let mut last = next.restarted(Some(instance(2)));
    let (slots, answers) = last.run();
    assert_eq!(slots, [9]);
    assert!(
        answers.contains(&executed(8, 8)),
        "what was answered is known"
    );
    assert_eq!(last.machine.executed(), Slot(9));
}

#[test]
fn the_next_process_stops_a_copy_that_was_taken_back_meanwhile() {
    let mut bench = along();
    bench.choose_revision(7, 2, true);
    let mut next = bench.restarted(Some(instance(2)));
    next.machine.handle_offered(1);
    assert!(stops(&next.step()));
    assert_eq!(next.machine.revision_status().due, 0);
}

#[test]
fn a_copy_of_either_revision_that_crashes_is_made_anew_from_the_barrier() {
    let mut bench = along();
    begin_with(&mut bench, 3, 1, 4);
    assert_eq!(bench.run(), (vec![5, 6], vec![]));
    begin_with(&mut bench, 4, 0, 4);
    let (slots, answers) = bench.run();
    assert_eq!((slots, answers), (vec![5, 6], vec![]), "told before");
    bench.choose(7, &request());
    assert_eq!(bench.run(), (vec![7], vec![executed(7, 7)]));
}

#[test]
fn a_member_that_was_away_is_taken_over_by_a_state_of_the_next_revision() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.run();
    bench.choose_rolling(2, 1, 2);
    bench.choose(3, &request());
    bench.choose_revision_done(1);
    bench.choose(5, &request());
    let fold = bench.fold_at(5);
    assert!(bench.machine.handle_snapshot_available(fold.clone()));
    bench.base = Some(fold);
    assert!(stops(&bench.step()));
    assert_eq!(bench.machine.revision_status().due, 1);
    assert!(stops(&started(&mut bench, 2, 0)), "of the old one");
    begin_with(&mut bench, 3, 1, 5);
    bench.choose(6, &request());
    assert_eq!(bench.run(), (vec![6], vec![executed(6, 6)]));
}
