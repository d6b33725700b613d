//! What all copies decide alike.

use super::*;
use synod_proto::v1::{Consistency, IdempotencyPolicy, Route};

#[test]
fn requests_are_executed_in_slot_order_one_at_a_time() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.choose_noop();
    bench.choose(2, &request());
    let first = bench.sent();
    assert_eq!((first.slot, first.attempt), (Slot(1), 1));
    assert_eq!((first.time, first.seed), (AgreedTime(1_000), 1));
    assert!(bench.step().is_empty(), "the second waits for the first");
    bench.machine.handle_response(first.run);
    let second = bench.sent();
    assert_eq!(second.slot, Slot(3));
    assert_eq!(bench.machine.applied(), Slot(2));
    bench.machine.handle_response(second.run);
    bench.step();
    assert_eq!(bench.machine.applied(), Slot(3));
}

#[test]
fn the_ledger_is_written_before_the_first_byte_and_before_the_answer() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.choose(2, &request());
    let actions = bench.step();
    let in_flight = |slot| Record {
        revision: 0,
        instance: Some(instance(1)),
        applied: Slot(slot - 1),
        in_flight: Some(InFlight {
            slot: Slot(slot),
            attempt: 1,
        }),
        unknown: false,
        rollback: false,
        astray: None,
        stands: false,
        history: Some(History {
            admitted: Slot(slot),
            answered: Slot(slot - 1),
            sent: Slot(slot),
            ..History::default()
        }),
    };
    let Action::Execute(first) = &actions[actions.len() - 1] else {
        panic!("{actions:?}");
    };
    assert_eq!(actions[actions.len() - 2], Action::Ledger(in_flight(1)));
    bench.machine.handle_response(first.run);
    let actions = bench.step();
    assert_eq!(actions[0], Action::Ledger(in_flight(2)));
    assert!(matches!(&actions[1], Action::Execute(second) if second.slot == Slot(2)));
    assert_eq!(actions[2], executed(1, 1));
    assert_eq!(actions.len(), 3);
}

#[test]
fn a_command_chosen_twice_is_executed_once() {
    let mut bench = Bench::new();
    bench.choose(1, &request());
    bench.choose(1, &request());
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1]);
    assert!(answers.contains(&told(1, 2, Outcome::Duplicate)));
    assert!(answers.contains(&executed(1, 1)));
}

#[test]
fn a_request_that_comes_too_late_in_agreed_time_does_nothing() {
    let mut bench = Bench::new();
    let until = |expires_ns| Request {
        expires_ns,
        ..keyed("k", "ann", "a")
    };
    bench.choose(1, &until(999));
    bench.choose(2, &until(2_000));
    let (slots, answers) = bench.run();
    assert_eq!(
        slots,
        [2],
        "at its last moment it is still in time, and the key is free"
    );
    assert!(answers.contains(&told(1, 1, Outcome::Expired)));
}

#[test]
fn agreed_time_never_goes_back() {
    let mut bench = Bench::new();
    bench.choose_noop();
    bench.log[0].time = AgreedTime(1_000_000);
    bench.choose(
        1,
        &Request {
            expires_ns: 500_000,
            ..request()
        },
    );
    let (_, answers) = bench.run();
    assert_eq!(bench.machine.fold().time(), AgreedTime(1_000_000));
    assert!(answers.contains(&told(1, 2, Outcome::Expired)));
}

#[test]
fn a_repeat_by_key_gets_the_first_response_and_is_not_executed() {
    let mut bench = Bench::new();
    bench.choose(1, &keyed("k", "ann", "a"));
    bench.choose(2, &keyed("k", "ann", "a"));
    let first = bench.sent();
    assert!(bench.step().is_empty(), "a repeat waits for its first");
    bench.choose(3, &keyed("k", "ann", "a"));
    bench.step();
    bench.machine.handle_response(first.run);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [] as [u64; 0]);
    assert_eq!(
        answers,
        [
            executed(1, 1),
            told(2, 1, Outcome::Replayed),
            told(3, 1, Outcome::Replayed)
        ]
    );
    bench.choose(4, &keyed("k", "ann", "a"));
    assert_eq!(bench.run().1, [told(4, 1, Outcome::Replayed)]);
}

#[test]
fn a_key_used_otherwise_is_refused_and_not_executed() {
    let mut bench = Bench::new();
    bench.choose(1, &keyed("k", "ann", "a"));
    bench.choose(2, &keyed("k", "ann", "b"));
    bench.choose(3, &keyed("k", "bob", "a"));
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1]);
    assert!(answers.contains(&told(2, 2, Outcome::KeyReused)));
    assert!(answers.contains(&told(3, 3, Outcome::PrincipalChanged)));
}

#[test]
fn keys_are_forgotten_by_agreed_time_and_the_policy_in_force() {
    let mut bench = Bench::new();
    bench.choose(1, &keyed("k", "ann", "a"));
    bench.choose_policy(
        2,
        &Policy {
            version: 2,
            idempotency: Some(IdempotencyPolicy {
                keep_for_ms: 1,
                ..IdempotencyPolicy::default()
            }),
            ..Policy::default()
        },
    );
    bench.choose(3, &keyed("k", "ann", "a"));
    bench.choose(4, &keyed("k", "ann", "a"));
    bench.log[3].time = AgreedTime(1_001_001);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1, 4]);
    assert!(answers.contains(&told(3, 1, Outcome::Replayed)));
}

#[test]
fn a_policy_takes_effect_only_on_top_of_the_one_it_was_made_from() {
    let mut bench = Bench::new();
    let policy = |version, max_body_bytes| Policy {
        version,
        max_body_bytes,
        ..Policy::default()
    };
    assert_eq!(bench.machine.fold().policy().version, 1);
    bench.choose_policy(1, &policy(2, 10));
    bench.choose_policy(2, &policy(2, 20));
    bench.choose_policy(3, &policy(4, 30));
    bench.choose_policy(4, &policy(0, 40));
    bench.choose_policy(5, &policy(3, 50));
    let (slots, answers) = bench.run();
    assert_eq!(slots, [] as [u64; 0]);
    assert_eq!(
        answers,
        [
            told(1, 1, Outcome::Done),
            told(2, 2, Outcome::Conflict),
            told(3, 3, Outcome::Conflict),
            told(4, 4, Outcome::Conflict),
            told(5, 5, Outcome::Done),
        ]
    );
    let policy = bench.machine.fold().policy();
    assert_eq!((policy.version, policy.max_body_bytes), (3, 50));
    assert_eq!(policy.classes_version, 1, "no class has changed");
}

#[test]
fn a_request_classified_by_older_classes_is_refused_from_the_next_slot_on() {
    let mut bench = Bench::new();
    let route = Route {
        name: "health".into(),
        consistency: Consistency::Bypass.into(),
        ..Route::default()
    };
    let stamped = |policy_version| Request {
        policy_version,
        ..request()
    };
    bench.choose(1, &stamped(1));
    bench.choose_policy(
        2,
        &Policy {
            version: 2,
            // Who proposes does not say this.
            classes_version: 77,
            routes: vec![route.clone()],
            ..Policy::default()
        },
    );
    bench.choose(3, &stamped(1));
    bench.choose(4, &stamped(2));
    bench.choose_policy(
        5,
        &Policy {
            version: 3,
            routes: vec![route],
            max_body_bytes: 5,
            ..Policy::default()
        },
    );
    bench.choose(6, &stamped(2));
    let (slots, answers) = bench.run();
    assert_eq!(slots, [1, 4, 6]);
    assert!(answers.contains(&told(3, 3, Outcome::Reclassify)));
    let policy = bench.machine.fold().policy();
    assert_eq!((policy.version, policy.classes_version), (3, 2));
}

#[test]
fn admission_goes_on_while_no_app_runs() {
    let mut bench = Bench::begin(Found::OtherBoot(Kept::default()), Vec::new());
    bench.machine.handle_app(None);
    bench.choose(1, &request());
    bench.choose_policy(
        2,
        &Policy {
            version: 2,
            default_consistency: Consistency::Ordered.into(),
            ..Policy::default()
        },
    );
    bench.choose(3, &request());
    assert_eq!(
        bench.run(),
        (
            vec![],
            vec![told(2, 2, Outcome::Done), told(3, 3, Outcome::Reclassify)]
        )
    );
    assert_eq!(bench.machine.fold().policy().version, 2);
    bench.machine.handle_app(Some(instance(1)));
    assert_eq!(bench.run(), (vec![1], vec![executed(1, 1)]));
}

#[test]
fn what_cannot_be_decoded_is_executed_by_nobody() {
    let mut bench = Bench::new();
    bench.append(CommandKind::REQUEST, id(1), vec![0xff; 9]);
    bench.append(CommandKind::POLICY, id(2), vec![0xff; 9]);
    let (slots, answers) = bench.run();
    assert_eq!(slots, [] as [u64; 0]);
    assert_eq!(
        answers,
        [told(1, 1, Outcome::Skipped), told(2, 2, Outcome::Skipped)]
    );
    assert_eq!(bench.machine.applied(), Slot(2));
}

#[test]
fn apply_stops_before_a_kind_it_does_not_know() {
    for kind in [CommandKind(10), CommandKind(999)] {
        let mut bench = Bench::new();
        bench.choose(1, &request());
        bench.append(kind, id(2), Vec::new());
        bench.choose(3, &request());
        let (slots, answers) = bench.run();
        assert_eq!(slots, [1]);
        let slot = Slot(2);
        assert!(answers.contains(&Action::Halt { slot, kind }));
        assert_eq!(bench.machine.applied(), Slot(1));
        assert_eq!(bench.machine.blocked(), Some(Blocked::Unknown(slot)));
        assert!(!bench.machine.serving());
    }
}
