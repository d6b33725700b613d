//! The table of what may happen to a request, an app, a process and a machine.

use super::*;

/// Three requests executed by instance 1, a fourth sent to it.
fn in_flight() -> (Bench, Execute) {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.choose(sequence, &request());
    }
    assert_eq!(bench.run().0, [1, 2, 3]);
    assert!(bench.machine.serving());
    bench.choose(4, &request());
    let execute = bench.sent();
    assert_eq!(execute.slot, Slot(4));
    (bench, execute)
}

#[test]
fn what_was_surely_not_sent_is_sent_again_to_the_same_app() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_not_sent(execute.run);
    let actions = bench.step();
    let slot = Slot(4);
    let pause_ms = 10;
    assert!(actions.contains(&Action::Pause { slot, pause_ms }));
    assert_eq!(bench.ledger.in_flight, None, "the ledger stays exact");
    bench.machine.handle_pause_over(slot);
    let again = bench.sent();
    assert_eq!((again.slot, again.attempt), (slot, 1));
    bench.machine.handle_response(again.run);
    assert_eq!(bench.run().1, [executed(4, 4)]);
}

#[test]
fn the_gaps_between_refused_attempts_grow_to_a_limit() {
    let (mut bench, mut execute) = in_flight();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        bench.machine.handle_not_sent(execute.run);
        pauses.extend(bench.step().into_iter().filter_map(|action| match action {
            Action::Pause { pause_ms, .. } => Some(pause_ms),
            _ => None,
        }));
        bench.machine.handle_pause_over(Slot(4));
        execute = bench.sent();
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500]);
}

#[test]
fn an_app_that_is_down_is_awaited_and_begins_at_the_first_slot() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_not_sent(execute.run);
    bench.machine.handle_app(None);
    bench.step();
    assert!(!bench.machine.serving());
    assert_eq!(bench.machine.condemned(), None, "nobody needs to stop it");
    assert_eq!(bench.machine.blocked(), Some(Blocked::NoApp));
    bench.machine.handle_app(Some(instance(2)));
    assert!(bench.machine.rebuilding() && !bench.machine.serving());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1, 2, 3, 4]);
    assert_eq!(answers, [executed(4, 4)], "nobody is answered twice");
    assert!(bench.machine.serving());
    assert_eq!(bench.machine.app_starts(), 2);
}

#[test]
fn after_a_loss_with_unknown_end_the_app_is_stopped_and_rebuilt() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_unknown(execute.run);
    let actions = bench.step();
    assert_eq!(actions.last(), Some(&Action::StopApp(instance(1))));
    assert!(bench.ledger.unknown);
    bench.machine.handle_app(Some(instance(1)));
    assert!(bench.step().is_empty(), "nothing more goes to that process");
    assert_eq!(bench.machine.condemned(), Some(instance(1)));
    assert!(!bench.machine.serving());
    bench.machine.handle_app(None);
    assert_eq!(bench.machine.condemned(), None);
    bench.machine.handle_app(Some(instance(2)));
    for slot in 1..=3 {
        let execute = bench.sent();
        assert_eq!((execute.slot, execute.attempt), (Slot(slot), 1));
        bench.machine.handle_response(execute.run);
    }
    let again = bench.sent();
    assert_eq!((again.slot, again.attempt), (Slot(4), 2));
    assert!(!bench.machine.serving(), "no reads beside a second attempt");
    bench.machine.handle_response(again.run);
    assert_eq!(bench.run().1, [executed(4, 4)]);
    assert!(bench.machine.serving());
}

#[test]
fn a_response_that_comes_after_all_is_nobodys() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_response(execute.run);
    bench.machine.handle_not_sent(execute.run);
    bench.machine.handle_unknown(execute.run);
    assert_eq!(bench.machine.applied(), Slot(3));
    bench.machine.handle_app(Some(instance(2)));
    bench.step();
    bench.machine.handle_response(execute.run);
    assert_eq!(bench.machine.applied(), Slot(0));
}

#[test]
fn a_slow_app_is_left_alone_until_another_member_has_done_it() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_slow(execute.run);
    bench.machine.handle_applied_elsewhere(Slot(3));
    assert!(bench.step().is_empty());
    assert_eq!(bench.machine.in_flight(), Some((Slot(4), true)));
    bench.machine.handle_applied_elsewhere(Slot(4));
    assert_eq!(bench.step().last(), Some(&Action::StopApp(instance(1))));
}

#[test]
fn what_others_have_done_already_may_take_its_time_here_but_not_for_ever() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_applied_elsewhere(Slot(9));
    assert!(bench.step().is_empty(), "it is not slow yet");
    bench.machine.handle_slow(execute.run);
    assert_eq!(bench.step().last(), Some(&Action::StopApp(instance(1))));
}

#[test]
fn what_an_earlier_instance_has_done_already_may_not_take_for_ever_either() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_not_sent(execute.run);
    bench.machine.handle_app(None);
    bench.machine.handle_app(Some(instance(2)));
    for slot in 1..=2 {
        let execute = bench.sent();
        assert_eq!(execute.slot, Slot(slot));
        bench.machine.handle_response(execute.run);
    }
    let third = bench.sent();
    bench.machine.handle_slow(third.run);
    assert_eq!(bench.step().last(), Some(&Action::StopApp(instance(2))));
}

#[test]
fn a_process_that_returns_to_the_same_app_goes_on_where_it_was() {
    let mut bench = Bench::new();
    bench.choose(1, &keyed("k", "ann", "a"));
    bench.choose(2, &request());
    bench.run();
    let mut bench = bench.restarted(Some(instance(1)));
    assert_eq!(bench.machine.applied(), Slot(2));
    assert!(!bench.machine.serving(), "the tables are not known yet");
    assert_eq!(
        bench.run(),
        (vec![], vec![executed(1, 1), executed(2, 2)]),
        "nothing is executed again, and what was executed is said to be"
    );
    assert!(bench.machine.serving());
    bench.choose(3, &keyed("k", "ann", "a"));
    bench.choose(2, &request());
    bench.choose(4, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [5]);
    assert!(answers.contains(&told(3, 1, Outcome::Replayed)));
    assert!(answers.contains(&told(2, 4, Outcome::Duplicate)));
}

#[test]
fn a_ledger_ahead_of_the_known_commit_is_believed() {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.choose(sequence, &request());
    }
    bench.run();
    let mut next = bench.restarted(Some(instance(1)));
    let late = next.log.split_off(1);
    next.machine = {
        let mut bench = Bench::begin(Found::Record(bench.ledger), next.log.clone());
        bench.machine.handle_app(Some(instance(1)));
        bench.machine
    };
    next.run();
    assert_eq!(next.machine.applied(), Slot(3));
    assert!(!next.machine.serving(), "its tables are those of slot 1");
    next.log.extend(late);
    assert_eq!(next.run().0, [] as [u64; 0]);
    assert!(next.machine.serving());
}

#[test]
fn a_process_that_dies_with_a_slot_in_flight_rebuilds() {
    let (bench, _) = in_flight();
    let mut bench = bench.restarted(Some(instance(1)));
    assert_eq!(bench.run().1, [Action::StopApp(instance(1))]);
    assert!(!bench.machine.serving());
    bench.machine.handle_app(Some(instance(2)));
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1, 2, 3, 4]);
    assert!(answers.contains(&executed(4, 4)));
}

#[test]
fn a_rebuild_is_not_forgotten_by_a_process_that_dies_during_it() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_unknown(execute.run);
    bench.step();
    let mut next = bench.restarted(Some(instance(1)));
    assert_eq!(next.run().1, [Action::StopApp(instance(1))]);
    bench.machine.handle_app(None);
    bench.step();
    let mut next = bench.restarted(Some(instance(1)));
    assert_eq!(next.run().1, [Action::StopApp(instance(1))]);
    bench.machine.handle_app(Some(instance(2)));
    let execute = bench.sent();
    bench.machine.handle_response(execute.run);
    bench.step();
    let mut next = bench.restarted(Some(instance(2)));
    assert_eq!(
        next.run().1,
        [Action::StopApp(instance(2))],
        "slot 2 was in flight"
    );
}

#[test]
fn an_app_that_restarted_behind_our_back_begins_at_the_first_slot() {
    let mut bench = Bench::new();
    for sequence in 1..=3 {
        bench.choose(sequence, &request());
    }
    bench.run();
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.machine.applied(), Slot(0));
    assert_eq!(bench.run(), (vec![1, 2, 3], vec![]));
    let mut next = bench.restarted(Some(instance(3)));
    assert_eq!(next.run().0, [1, 2, 3]);
    let mut next = bench.restarted(None);
    assert_eq!(next.run().0, [] as [u64; 0]);
    next.machine.handle_app(Some(instance(3)));
    assert_eq!(next.run().0, [1, 2, 3]);
}

#[test]
fn after_the_machine_died_whatever_runs_is_new() {
    let (bench, _) = in_flight();
    let mut bench = Bench::begin(Found::OtherBoot(Kept::default()), bench.log);
    bench.machine.handle_app(Some(instance(1)));
    assert_eq!(bench.run().0, [1, 2, 3, 4]);
}

#[test]
fn an_app_found_running_without_a_ledger_is_stopped() {
    let log = in_flight().0.log;
    let mut bench = Bench::begin(Found::Missing, log);
    bench.machine.handle_app(Some(instance(1)));
    assert_eq!(bench.run(), (vec![], vec![Action::StopApp(instance(1)),]));
    assert!(bench.ledger.unknown);
    let mut next = bench.restarted(Some(instance(1)));
    assert_eq!(
        next.run().1,
        [Action::StopApp(instance(1))],
        "also by the next process"
    );
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.run().0, [1, 2, 3, 4]);
}

#[test]
fn a_start_signal_proves_an_app_new_that_was_found_without_a_ledger() {
    let log = in_flight().0.log;
    let mut bench = Bench::begin(Found::Missing, log);
    bench.machine.handle_app(Some(instance(1)));
    bench.machine.handle_app_started(Some(instance(1)));
    assert_eq!(bench.machine.condemned(), None);
    assert_eq!(bench.run().0, [1, 2, 3, 4]);
}

#[test]
fn a_start_signal_about_the_known_instance_is_the_same_start() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_app_started(Some(instance(1)));
    assert!(bench.step().is_empty());
    assert_eq!(bench.machine.run(), Some(execute.run));
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_app_started(Some(instance(1)));
    assert_eq!(
        bench.machine.condemned(),
        Some(instance(1)),
        "it does not prove it new"
    );
    bench.machine.handle_app_started(None);
    bench.machine.handle_app_started(Some(instance(2)));
    assert_eq!(bench.run().0, [1, 2, 3, 4]);
}

#[test]
fn a_listener_that_goes_and_comes_back_is_not_trusted() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_response(execute.run);
    bench.run();
    bench.machine.handle_app(None);
    bench.machine.handle_app(Some(instance(1)));
    assert_eq!(bench.run(), (vec![], vec![Action::StopApp(instance(1))]));
}

#[test]
fn a_slot_that_failed_twice_is_tried_again_with_growing_gaps_and_never_skipped() {
    let (mut bench, mut execute) = in_flight();
    let mut pauses = Vec::new();
    for number in 1..=9 {
        assert_eq!(
            (execute.slot, u64::from(execute.attempt)),
            (Slot(4), number)
        );
        if number % 2 == 0 {
            bench.machine.handle_unknown(execute.run);
        }
        // The next instance; on odd turns the app went down by itself.
        bench.machine.handle_app(Some(instance(number + 1)));
        execute = loop {
            let mut next = None;
            for action in bench.step() {
                match action {
                    Action::Execute(execute) => next = Some(execute),
                    Action::Pause { slot, pause_ms } => {
                        assert_eq!(slot, Slot(4));
                        assert!(!bench.machine.serving());
                        assert_eq!(bench.machine.blocked(), Some(Blocked::Pause(slot)));
                        pauses.push(pause_ms);
                        bench.machine.handle_pause_over(slot);
                    }
                    _ => {}
                }
            }
            match next {
                Some(execute) if execute.slot < Slot(4) => {
                    bench.machine.handle_response(execute.run);
                }
                Some(execute) => break execute,
                None => {}
            }
        };
    }
    assert_eq!(
        pauses,
        [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]
    );
    bench.machine.handle_response(execute.run);
    assert_eq!(bench.run().1, [executed(4, 4)]);
}

#[test]
fn failures_are_counted_across_a_restart_of_our_process() {
    let (bench, _) = in_flight();
    let mut bench = bench.restarted(Some(instance(2)));
    for _ in 1..=3 {
        let execute = bench.sent();
        bench.machine.handle_response(execute.run);
    }
    assert_eq!(bench.sent().attempt, 2);
}

#[test]
fn the_highest_slot_sent_never_goes_down() {
    let (mut bench, execute) = in_flight();
    assert_eq!(bench.machine.sent(), Slot(4));
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_app(Some(instance(2)));
    bench.sent();
    assert_eq!(bench.machine.applied(), Slot(0));
    assert_eq!(bench.machine.sent(), Slot(4));
    assert_eq!(bench.restarted(None).machine.sent(), Slot(1));
}

#[test]
fn a_process_that_is_to_end_sends_nothing_new() {
    let (mut bench, execute) = in_flight();
    bench.choose(5, &request());
    bench.step();
    bench.machine.handle_shutdown();
    bench.machine.handle_response(execute.run);
    assert_eq!(bench.run(), (vec![], vec![executed(4, 4)]));
    assert_eq!(
        bench.ledger.in_flight, None,
        "its successor finds an exact ledger"
    );
    assert_eq!(bench.restarted(Some(instance(1))).run().0, [5]);
}

#[test]
fn memory_does_not_grow_with_what_waits_for_the_app() {
    let mut bench = Bench::new();
    let large = Request {
        body: vec![0; 64 << 10].into(),
        ..request()
    };
    for sequence in 1..=1_000 {
        bench.choose(sequence, &large);
    }
    bench.step();
    assert_eq!(bench.machine.fold().admitted(), Slot(1_000));
    assert!(bench.machine.queue_bytes <= QUEUE_BYTES + (65 << 10));
    assert_eq!(bench.run().0.len(), 0, "the first is in flight");
    let run = bench.machine.run().unwrap();
    bench.machine.handle_response(run);
    assert_eq!(bench.run().0, (2..=1_000).collect::<Vec<_>>());
}

#[test]
fn an_app_that_vanishes_with_an_unknown_end_is_not_trusted_by_the_next_process_either() {
    let (mut bench, execute) = in_flight();
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_app(None);
    bench.step();
    assert!(bench.ledger.unknown);
    let mut next = bench.restarted(Some(instance(1)));
    assert_eq!(next.run().1, [Action::StopApp(instance(1))]);
}

#[test]
fn no_reads_go_beside_a_second_attempt_though_the_commit_is_not_known_yet() {
    let (mut bench, _) = in_flight();
    let late = bench.log.split_off(3);
    let mut next = bench.restarted(Some(instance(2)));
    assert_eq!(next.run().0, [1, 2, 3]);
    assert!(next.machine.serving());
    next.log.extend(late);
    let execute = next.sent();
    assert_eq!(execute.attempt, 2);
    assert!(!next.machine.serving());
    next.machine.handle_response(execute.run);
    assert!(next.machine.serving());
}

#[test]
fn an_app_of_which_a_part_has_gone_is_stopped() {
    let (mut bench, _) = in_flight();
    bench.machine.handle_app_partly_gone(instance(2));
    assert_eq!(bench.step().last(), Some(&Action::StopApp(instance(2))));
    assert!(bench.ledger.unknown);
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.machine.condemned(), Some(instance(2)));
    let mut next = bench.restarted(Some(instance(2)));
    assert_eq!(next.run().1, [Action::StopApp(instance(2))]);
    bench.machine.handle_app(Some(instance(3)));
    assert_eq!(bench.run().0, [1, 2, 3, 4]);
}
