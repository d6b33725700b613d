//! A slot that fails everywhere: what is promised about it, and what becomes of it.

use synod_paxos::Epoch;

use super::*;

const VOLUMES: [UncleanCrash; 3] = [
    UncleanCrash::Rollback,
    UncleanCrash::AppliedHeader,
    UncleanCrash::AtLeastOnce,
];

fn ask(slot: u64, number: u64) -> Ask {
    Ask {
        slot: Slot(slot),
        ballot: Ballot {
            epoch: Epoch(1),
            round: 7,
            node: MemberId(1),
        },
        number,
    }
}

/// Slot 1 is executed, slot 2 (which has a key) is in flight, slot 3 is chosen.
fn stuck(state: StateType) -> (Bench, Execute) {
    let begun = Found::Record(Record::default());
    let mut bench = Bench::begin_from(state, None, begun, Vec::new());
    bench.machine.handle_app(Some(instance(1)));
    bench.machine.handle_proven(Slot(0));
    bench.choose(1, &request());
    assert_eq!(bench.run().0, [1]);
    bench.choose(2, &keyed("k", "ann", "a"));
    bench.choose(3, &request());
    let execute = bench.sent();
    assert_eq!(execute.slot, Slot(2));
    (bench, execute)
}

fn skipped(sequence: u64, slot: u64) -> Action {
    told(sequence, slot, Outcome::Skipped)
}

/// What people are told.
fn passed_over(slot: u64) -> Action {
    Action::Skipped {
        slot: Slot(slot),
        unsure: false,
    }
}

// === a skip ===

#[test]
fn a_slot_that_is_skipped_before_it_was_sent_is_passed_over_and_its_client_is_told() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.choose(2, &request());
    bench.choose(3, &request());
    let first = bench.sent();
    bench.choose_skip(2);
    let answers = bench.step();
    assert_eq!(answers, [skipped(2, 2), passed_over(2)]);
    bench.machine.handle_response(first.run);
    assert_eq!(bench.run().0, [3]);
    assert_eq!(bench.machine.applied(), Slot(4));
    assert_eq!(bench.machine.condemned(), None, "its state is good");
    let mut next = bench.restarted(Some(instance(1)));
    let (slots, answers) = next.run();
    assert_eq!(slots, [] as [u64; 0]);
    assert!(!answers.contains(&Action::StopApp(instance(1))));
    assert!(answers.contains(&executed(1, 1)) && answers.contains(&executed(3, 3)));
    assert!(answers.contains(&skipped(2, 2)));
    assert!(!answers.contains(&executed(2, 2)), "nobody executed it");
    assert!(next.machine.serving());
}

#[test]
fn a_slot_that_is_skipped_while_the_app_has_it_costs_that_app() {
    for state in [StateType::Ephemeral]
        .into_iter()
        .chain(VOLUMES.map(StateType::Volume))
    {
        let (mut bench, execute) = stuck(state);
        bench.choose_skip(2);
        let actions = bench.step();
        assert!(actions.contains(&skipped(2, 2)), "{state:?}");
        assert!(actions.contains(&Action::StopApp(instance(1))), "{state:?}");
        bench.machine.handle_response(execute.run);
        assert_eq!(
            bench.machine.applied(),
            Slot(1),
            "{state:?}: it is nobody's"
        );
        bench.machine.handle_app(None);
        bench.step();
        let volume = state != StateType::Ephemeral;
        assert_eq!(
            bench.machine.rollback(),
            volume.then_some(Slot(0)),
            "{state:?}"
        );
    }
}

#[test]
fn repeats_of_a_skipped_slot_never_run() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    bench.choose(4, &keyed("k", "ann", "a"));
    bench.choose(2, &keyed("k", "ann", "a"));
    bench.step();
    bench.machine.handle_unknown(execute.run);
    bench.choose_skip(2);
    bench.choose(6, &keyed("k", "ann", "a"));
    bench.choose(2, &keyed("k", "ann", "a"));
    let actions = bench.step();
    assert!(actions.contains(&skipped(2, 2)));
    assert!(
        actions.contains(&skipped(4, 2)),
        "it had waited for its first"
    );
    assert!(actions.contains(&skipped(6, 7)));
    assert!(actions.contains(&told(2, 8, Outcome::Duplicate)));
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.run().0, [1, 3]);
}

#[test]
fn a_skip_of_what_was_executed_here_makes_the_state_void() {
    for state in [StateType::Ephemeral]
        .into_iter()
        .chain(VOLUMES.map(StateType::Volume))
    {
        let (mut bench, execute) = stuck(state);
        bench.machine.handle_response(execute.run);
        assert_eq!(bench.run().0, [3]);
        bench.choose_skip(2);
        let actions = bench.step();
        assert!(actions.contains(&Action::StopApp(instance(1))), "{state:?}");
        assert!(!actions.contains(&skipped(2, 2)), "its client was answered");
        // Whenever our process has died.
        let mut next = bench.restarted(Some(instance(1)));
        assert!(next.run().1.contains(&Action::StopApp(instance(1))));
        let (mut late, execute) = stuck(state);
        late.machine.handle_response(execute.run);
        late.run();
        late.choose_skip(2);
        let mut late = late.restarted(Some(instance(1)));
        assert!(late.run().1.contains(&Action::StopApp(instance(1))));
        if state == StateType::Ephemeral {
            late.machine.handle_app(Some(instance(2)));
            assert_eq!(late.run().0, [1, 3]);
        } else {
            assert_eq!(late.machine.rollback(), Some(Slot(0)), "{state:?}");
        }
    }
}

#[test]
fn a_volume_that_may_hold_what_is_skipped_is_rolled_back_whatever_the_app_says() {
    // While it is asked, while it is gone, and while it must be stopped.
    for asked in [true, false] {
        for gone in [true, false] {
            let (mut bench, execute) = stuck(StateType::Volume(UncleanCrash::AppliedHeader));
            bench.machine.handle_unknown(execute.run);
            if asked {
                bench.machine.handle_app(Some(instance(2)));
            }
            if gone {
                bench.machine.handle_app(None);
            }
            bench.step();
            bench.choose_skip(2);
            bench.step();
            assert_eq!(bench.machine.rollback(), Some(Slot(0)));
            assert_eq!(bench.machine.condemned().is_none(), gone);
            assert_eq!(bench.restarted(None).machine.rollback(), Some(Slot(0)));
        }
    }
    let (mut bench, execute) = stuck(StateType::Volume(UncleanCrash::AppliedHeader));
    bench.machine.handle_unknown(execute.run);
    bench.choose_skip(3);
    bench.step();
    assert_eq!(bench.machine.rollback(), None, "that was never sent");
}

#[test]
fn a_resumed_app_may_have_had_what_is_skipped_then() {
    let (mut bench, execute) = stuck(StateType::Volume(UncleanCrash::AtLeastOnce));
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_ask(ask(2, 1));
    bench.machine.handle_app(Some(instance(2)));
    bench.step();
    assert_eq!(bench.machine.instance(), Some(instance(2)));
    let mut next = bench.restarted(Some(instance(2)));
    assert!(next.run().1.contains(&Action::StopApp(instance(2))));
    bench.choose_skip(2);
    assert!(bench.step().contains(&Action::StopApp(instance(2))));
    assert_eq!(bench.machine.rollback(), Some(Slot(0)));
}

#[test]
fn a_snapshot_that_holds_what_is_skipped_is_void_and_another_takes_its_place() {
    for state in [
        StateType::Ephemeral,
        StateType::Volume(UncleanCrash::Rollback),
    ] {
        let (mut bench, execute) = stuck(state);
        bench.machine.handle_response(execute.run);
        bench.run();
        bench.snapshot(3);
        bench.choose_skip(2);
        let slot = Slot(3);
        assert!(bench.step().contains(&Action::VoidSnapshot { slot }));
        bench.machine.handle_app(None);
        bench.machine.handle_app(Some(instance(2)));
        let put_back = |actions: &[Action]| {
            actions.iter().find_map(|action| match action {
                Action::Restore { slot, .. } | Action::ReplaceApp { slot, .. } => Some(slot.0),
                _ => None,
            })
        };
        assert_eq!(put_back(&bench.step()), None, "{state:?}: not from that");
        bench.choose_noop();
        let mut without = bench.fold_at(5);
        without.skipped.clear();
        assert!(!bench.machine.handle_snapshot_available(without));
        assert_eq!(put_back(&bench.step()), None, "{state:?}");
        let whole = bench.fold_at(5);
        assert!(bench.machine.handle_snapshot_available(whole));
        assert_eq!(put_back(&bench.step()), Some(5), "{state:?}");
    }
}

#[test]
fn a_skip_that_makes_no_sense_does_nothing_anywhere() {
    let mut bench = Bench::begin(Found::Record(Record::default()), Vec::new());
    bench.machine.handle_app(None);
    bench.choose(1, &request());
    let nobody = CommandId::default();
    bench.append(CommandKind::SKIP, nobody, vec![0xff; 9]);
    let later = Skip {
        slot: 9,
        ..Skip::default()
    };
    bench.append(CommandKind::SKIP, nobody, later.encode_to_vec());
    bench.append(CommandKind::SKIP, nobody, Skip::default().encode_to_vec());
    bench.choose_skip(1);
    bench.choose_skip(1);
    let before = bench.fold_at(4);
    assert!(before.skipped().is_empty());
    let (slots, answers) = bench.run();
    assert_eq!(
        slots,
        [] as [u64; 0],
        "it was known before anything was sent"
    );
    assert_eq!(answers, [skipped(1, 1), passed_over(1)]);
    assert_eq!(
        Fold::load(&bench.machine.fold().save()).unwrap(),
        bench.fold_at(6)
    );
}

#[test]
fn nothing_is_executed_before_the_log_is_known_up_to_what_was_chosen_at_the_start() {
    let (bench, _) = stuck(StateType::Ephemeral);
    let mut machine = Machine::new(Setup {
        incarnation: Incarnation(1),
        fold: Fold::new(configuration(), 1, Policy::default()),
        state: StateType::Ephemeral,
        ledger: Found::OtherBoot(Kept::default()),
        half_restored: false,
        promises: Vec::new(),
        gated: true,
        changes_in_place: true,
    });
    machine.handle_app(Some(instance(2)));
    let mut next = Bench { machine, ..bench };
    let late = next.log.split_off(2);
    assert_eq!(next.run().0, [] as [u64; 0]);
    next.machine.handle_proven(Slot(4));
    assert_eq!(next.run().0, [] as [u64; 0], "it does not know slot 4 yet");
    next.log.extend(late);
    assert_eq!(next.run().0, [] as [u64; 0]);
    next.choose_skip(2);
    assert_eq!(next.run().0, [1, 3]);
}

#[test]
fn no_snapshot_holds_up_the_proof_of_a_start() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    bench.machine.handle_response(execute.run);
    bench.run();
    // The same app, by a sidecar that was started anew.
    let applied = bench.machine.applied();
    let mut next = bench.restarted(Some(instance(1)));
    next.machine.gated = true;
    next.run();
    assert!(next.machine.serving());
    for sequence in 11..=12 {
        next.choose(sequence, &request());
    }
    let late = next.log.split_off(next.log.len() - 1);
    assert_eq!(next.run().0, [] as [u64; 0]);
    assert_eq!(next.machine.applied(), applied);
    assert_eq!(
        next.machine.handle_take_snapshot(),
        None,
        "nothing would be admitted before it, and nothing executed before that"
    );
    let proven = late[0].slot;
    next.log.extend(late);
    next.machine.handle_proven(proven);
    assert_eq!(next.run().0, [proven.0 - 1, proven.0]);
    assert!(next.machine.handle_take_snapshot().is_some());
}

#[test]
fn what_a_life_knew_about_its_app_says_nothing_about_the_next_app() {
    let mut bench = Bench::begin(Found::Record(Record::default()), Vec::new());
    bench.machine.handle_app(None);
    for sequence in 1..=3 {
        bench.choose(sequence, &request());
    }
    bench.choose_skip(2);
    bench.step();
    bench.machine.handle_app(Some(instance(1)));
    assert_eq!(bench.run().0, [1, 3]);
    let mut next = bench.restarted(Some(instance(1)));
    let late = next.log.split_off(3);
    next.step();
    // It starts before the skip is read again.
    next.machine.handle_app(Some(instance(2)));
    assert_eq!(next.run().0, [1, 2, 3]);
    next.log.extend(late);
    assert!(next.step().contains(&Action::StopApp(instance(2))));
    next.machine.handle_app(Some(instance(3)));
    assert_eq!(next.run().0, [1, 3]);
}

// === what is promised ===

#[test]
fn what_is_in_flight_is_cut_off_and_held_back_until_the_ask_ends() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    assert_eq!(bench.machine.handle_ask(ask(2, 1)), Some(Standing::Failed));
    assert!(bench.step().contains(&Action::StopApp(instance(1))));
    bench.machine.handle_response(execute.run);
    assert_eq!(bench.step(), [], "it is not answered");
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.run().0, [1]);
    assert_eq!(bench.machine.blocked(), Some(Blocked::Asked(Slot(2))));
    let progress = Progress {
        next: Some(Slot(2)),
        slow: false,
        failed: Some((Slot(2), 1)),
    };
    assert_eq!(bench.machine.progress(), progress);
    bench.machine.handle_free(ask(2, 2));
    assert_eq!(bench.run().0, [] as [u64; 0], "another ask");
    bench.machine.handle_free(ask(2, 1));
    let (slots, answers) = bench.run();
    assert_eq!(slots, [2, 3]);
    assert!(answers.contains(&executed(2, 2)));
}

#[test]
fn what_was_surely_not_sent_is_held_and_what_was_executed_is_said_to_be() {
    let (mut bench, _) = stuck(StateType::Ephemeral);
    assert_eq!(bench.machine.handle_ask(ask(3, 1)), Some(Standing::Held));
    assert_eq!(bench.machine.handle_ask(ask(1, 1)), Some(Standing::Applied));
    let promised: Vec<Ask> = bench.machine.promises().collect();
    assert_eq!(promised, [ask(3, 1)]);
    assert_eq!(
        bench.machine.run(),
        Some(Run(2)),
        "the one in flight goes on"
    );
    let mut next = bench.restarted(Some(instance(2)));
    assert_eq!(next.machine.handle_ask(ask(1, 1)), Some(Standing::Applied));
    assert_eq!(next.machine.handle_ask(ask(2, 1)), Some(Standing::Failed));
    assert_eq!(next.machine.handle_ask(ask(3, 1)), Some(Standing::Held));
    // Also while the next app is far from there.
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_app(Some(instance(2)));
    assert_eq!(bench.sent().slot, Slot(1));
    let mut next = bench.restarted(Some(instance(3)));
    assert_eq!(next.machine.handle_ask(ask(1, 1)), Some(Standing::Applied));
    assert_eq!(next.machine.handle_ask(ask(2, 1)), Some(Standing::Failed));
    assert_eq!(next.machine.handle_ask(ask(3, 1)), Some(Standing::Held));
}

#[test]
fn what_an_earlier_machine_did_is_not_known_but_what_came_since_is() {
    for ledger in [Found::OtherBoot(Kept::default()), Found::Missing] {
        let (bench, _) = stuck(StateType::Ephemeral);
        let mut next = bench.restarted_with(ledger, None);
        assert_eq!(next.machine.handle_ask(ask(3, 1)), Some(Standing::Unknown));
        next.machine.handle_proven(Slot(3));
        assert_eq!(next.machine.handle_ask(ask(3, 2)), Some(Standing::Unknown));
        next.choose(4, &request());
        next.step();
        assert_eq!(next.machine.handle_ask(ask(4, 3)), Some(Standing::Held));
    }
}

#[test]
fn a_member_that_has_only_just_come_has_sent_nothing() {
    let (bench, _) = stuck(StateType::Ephemeral);
    let mut next = bench.restarted_with(Found::New, None);
    assert_eq!(next.machine.handle_ask(ask(3, 1)), Some(Standing::Held));
    next.machine.handle_proven(Slot(3));
    assert_eq!(next.machine.handle_ask(ask(2, 2)), Some(Standing::Held));
}

#[test]
fn what_an_earlier_machine_may_have_answered_is_not_known_though_this_life_has_sent_it() {
    let (bench, _) = stuck(StateType::Ephemeral);
    let mut next = bench.restarted_with(Found::OtherBoot(Kept::default()), Some(instance(2)));
    next.machine.handle_proven(Slot(3));
    let first = next.sent();
    next.machine.handle_response(first.run);
    assert_eq!(next.sent().slot, Slot(2));
    assert_eq!(next.machine.handle_ask(ask(2, 1)), Some(Standing::Unknown));
}

#[test]
fn what_is_in_the_snapshot_that_a_copy_is_to_begin_with_is_not_promised_any_more() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    bench.machine.handle_unknown(execute.run);
    let others = bench.fold_at(3);
    assert!(bench.machine.handle_snapshot_available(others));
    assert_eq!(bench.machine.executed(), Slot(1));
    assert_eq!(bench.machine.handle_ask(ask(2, 1)), Some(Standing::Applied));
    assert_eq!(bench.machine.promises().next(), None, "it would never end");
}

#[test]
fn what_an_earlier_machine_did_stays_unknown_to_all_later_lives() {
    let (bench, _) = stuck(StateType::Ephemeral);
    let mut second = bench.restarted_with(Found::OtherBoot(Kept::default()), Some(instance(2)));
    second.step();
    let mut third = second.restarted(Some(instance(2)));
    assert_eq!(third.machine.handle_ask(ask(3, 1)), Some(Standing::Unknown));
    second.machine.handle_proven(Slot(3));
    second.choose(4, &request());
    second.step();
    let mut third = second.restarted(Some(instance(2)));
    assert_eq!(third.machine.handle_ask(ask(3, 2)), Some(Standing::Unknown));
    assert_eq!(third.machine.handle_ask(ask(4, 2)), Some(Standing::Held));
}

#[test]
fn an_older_ask_does_not_undo_a_newer_one() {
    let (mut bench, _) = stuck(StateType::Ephemeral);
    assert!(bench.machine.handle_ask(ask(3, 5)).is_some());
    assert_eq!(bench.machine.handle_ask(ask(3, 4)), None);
    assert!(bench.machine.handle_ask(ask(3, 6)).is_some());
    bench.machine.handle_free(ask(3, 5));
    assert_eq!(bench.machine.promises().next(), Some(ask(3, 6)));
}

#[test]
fn promises_bind_the_next_life_and_end_with_a_skip_or_a_snapshot() {
    let (mut bench, _) = stuck(StateType::Ephemeral);
    bench.machine.handle_ask(ask(2, 1));
    bench.step();
    let machine = Machine::new(Setup {
        incarnation: Incarnation(1),
        fold: Fold::new(configuration(), 1, Policy::default()),
        state: StateType::Ephemeral,
        ledger: Found::Record(bench.ledger),
        half_restored: false,
        promises: bench.machine.promises().collect(),
        gated: false,
        changes_in_place: true,
    });
    let mut next = Bench { machine, ..bench };
    next.machine.handle_app(Some(instance(2)));
    assert_eq!(next.run().0, [1]);
    next.choose_skip(2);
    assert_eq!(next.run().0, [3]);
    assert_eq!(next.machine.promises().next(), None);
    next.choose(5, &request());
    next.machine.handle_ask(ask(5, 1));
    next.run();
    let fold = next.fold_at(5);
    next.machine.handle_snapshot_available(fold);
    assert_eq!(next.machine.promises().next(), None);
}

#[test]
fn an_app_that_says_to_have_what_was_promised_not_to_be_executed_is_rolled_back() {
    let (mut bench, _) = stuck(StateType::Volume(UncleanCrash::AppliedHeader));
    bench.machine.handle_ask(ask(2, 1));
    bench.machine.handle_app(Some(instance(2)));
    let actions = bench.step();
    let Some(Action::AskApplied { job, .. }) = actions.last() else {
        panic!("{actions:?}");
    };
    bench.machine.handle_app_applied(*job, Some(Slot(2)));
    assert_eq!(bench.machine.rollback(), Some(Slot(0)));
    let answered = bench.step();
    assert!(!answered.contains(&executed(2, 2)), "nobody is told");
}

#[test]
fn of_a_slot_that_is_skipped_nothing_is_promised_any_more() {
    let (mut bench, _) = stuck(StateType::Ephemeral);
    bench.choose_skip(2);
    bench.step();
    assert_eq!(bench.machine.handle_ask(ask(2, 1)), None);
    assert_eq!(bench.machine.promises().next(), None);
}

#[test]
fn a_copy_that_was_asked_goes_on_behind_a_snapshot_of_who_executed_it() {
    for state in [
        StateType::Ephemeral,
        StateType::Volume(UncleanCrash::Rollback),
    ] {
        let (mut bench, execute) = stuck(state);
        bench.machine.handle_ask(ask(3, 1));
        bench.machine.handle_response(execute.run);
        assert_eq!(bench.run().0, [] as [u64; 0], "it is held");
        bench.snapshot(3);
        let actions = bench.step();
        assert!(actions.contains(&Action::StopApp(instance(1))), "{state:?}");
        assert_eq!(bench.machine.promises().next(), None);
        if state == StateType::Ephemeral {
            bench.machine.handle_app(Some(instance(2)));
            let actions = bench.step();
            let Some(Action::Restore { job, slot, .. }) = actions.last() else {
                panic!("{actions:?}");
            };
            assert_eq!(*slot, Slot(3));
            bench.machine.handle_restored(*job);
            assert_eq!(bench.run().0, [] as [u64; 0], "it never has to");
        } else {
            assert_eq!(bench.machine.rollback(), Some(Slot(3)));
        }
    }
}

#[test]
fn a_copy_that_is_given_an_older_state_while_it_is_asked_begins_anew() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    bench.snapshot(1);
    bench.machine.handle_unknown(execute.run);
    bench.machine.handle_app(Some(instance(2)));
    bench.machine.handle_ask(ask(2, 1));
    bench.step();
    bench.snapshot(2);
    assert!(bench.step().contains(&Action::StopApp(instance(2))));
}

#[test]
fn promises_about_what_a_snapshot_holds_do_not_bind_the_next_life() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    bench.machine.handle_response(execute.run);
    bench.step();
    let machine = Machine::new(Setup {
        incarnation: Incarnation(1),
        fold: bench.fold_at(2),
        state: StateType::Ephemeral,
        ledger: Found::Record(bench.ledger),
        half_restored: false,
        promises: vec![ask(2, 1), ask(3, 1)],
        gated: false,
        changes_in_place: true,
    });
    let promised: Vec<Ask> = machine.promises().collect();
    assert_eq!(promised, [ask(3, 1)]);
}

#[test]
fn a_slot_that_failed_is_told_while_the_app_is_gone_or_far_behind_and_not_once_it_is_done() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    let failed = |times| Some((Slot(2), times));
    bench.machine.handle_slow(execute.run);
    assert_eq!(bench.machine.progress().next, Some(Slot(2)));
    assert!(bench.machine.progress().slow);
    bench.machine.handle_unknown(execute.run);
    let progress = bench.machine.progress();
    assert_eq!((progress.next, progress.failed), (None, failed(1)));
    bench.machine.handle_app(Some(instance(2)));
    let first = bench.sent();
    assert_eq!(first.slot, Slot(1));
    let progress = bench.machine.progress();
    assert_eq!((progress.next, progress.failed), (Some(Slot(1)), failed(1)));
    bench.machine.handle_response(first.run);
    bench.run();
    assert_eq!(bench.machine.progress().failed, None, "it is done");
}

#[test]
fn no_snapshot_stands_between_a_copy_that_is_asked_and_a_skip() {
    let (mut bench, execute) = stuck(StateType::Ephemeral);
    let job = bench.machine.handle_take_snapshot().expect("begun");
    bench.machine.handle_ask(ask(3, 1));
    assert!(bench.step().contains(&Action::DropSnapshot { job }));
    bench.machine.handle_response(execute.run);
    assert_eq!(bench.machine.handle_take_snapshot(), None);
    bench.choose_skip(3);
    assert!(bench.step().contains(&passed_over(3)));
    assert!(bench.machine.handle_take_snapshot().is_some());
}
