//! What a correct system may produce passes all three checks, and quickly.

use std::time::{Duration, Instant};

use crate::support::{Bug, Random, Shape, generate};
use proptest::prelude::*;
use synod_history::{Action, History, Observed, Operation, Outcome, Value};
use synod_history::{effects, linearizable, model::State, witnessed};

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_correct_history_passes_every_check(
        seed in any::<u64>(),
        operations in 1_u64..400,
        per_key in 1_u64..80,
        longest_ns in 1_u64..1_500,
        unknown_percent in 0_u64..5,
    ) {
        let keys = operations / per_key + 1;
        let shape = Shape { operations, keys, longest_ns, unknown_percent, ..Shape::default() };
        let run = generate(seed, &shape, Bug::None);
        linearizable::check(&run.history).map_err(|e| TestCaseError::fail(e.to_string()))?;
        witnessed::check(&run.history).map_err(|e| TestCaseError::fail(e[0].to_string()))?;
        effects::check(&run.history, &run.contents)
            .map_err(|e| TestCaseError::fail(e[0].to_string()))?;
    }

    #[test]
    fn the_search_decides_small_histories_as_trying_all_orders_does(seed in any::<u64>()) {
        let mut random = Random(seed);
        let mut operations = Vec::new();
        for id in 1..=6 {
            let invoke_ns = random.below(20);
            let observed = Observed {
                version: (random.below(2) == 0).then(|| random.below(4)),
                value: (random.below(2) == 0).then(|| Value::Number(1 + random.below(6))),
            };
            let read = random.below(2) == 0;
            operations.push(Operation {
                id,
                member: 1,
                key: "r/1".to_owned(),
                action: if read { Action::Get } else { Action::Put(id) },
                invoke_ns,
                complete_ns: invoke_ns + random.below(20),
                outcome: if random.below(5) == 0 { Outcome::Unknown } else { Outcome::Ok(observed) },
                witness: None,
            });
        }
        let expected = some_order_explains(&operations, State::default());
        let found = linearizable::check(&History::new(operations)).is_ok();
        prop_assert_eq!(expected, found);
    }
}

/// Tries every order that agrees with the times; exponential, and obviously right.
fn some_order_explains(left: &[Operation], state: State) -> bool {
    let answered = |op: &&Operation| matches!(op.outcome, Outcome::Ok(_));
    if !left.iter().any(|op| answered(&op)) {
        return true;
    }
    let ends = left.iter().filter(answered).map(|op| op.complete_ns);
    let first_end = ends.min().expect("one is left");
    (0..left.len()).any(|index| {
        let op = &left[index];
        let next = state.after(op.action);
        let fits = match &op.outcome {
            Outcome::Ok(observed) => next.explains(observed),
            Outcome::Failed | Outcome::Unknown => true,
        };
        let mut rest = left.to_vec();
        rest.remove(index);
        op.invoke_ns <= first_end && fits && some_order_explains(&rest, next)
    })
}

#[test]
fn sixty_thousand_operations_on_six_hundred_keys_are_checked_in_seconds() {
    let shape = Shape {
        operations: 60_000,
        keys: 600,
        gap_ns: 2_000_000,
        longest_ns: 200_000_000,
        unknown_percent: 1,
        failed_percent: 1,
    };
    let run = generate(7, &shape, Bug::None);
    let begun = Instant::now();
    linearizable::check(&run.history).expect("a correct history");
    witnessed::check(&run.history).expect("a correct history");
    effects::check(&run.history, &run.contents).expect("a correct history");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "took {:?}",
        begun.elapsed()
    );
}

/// As after faults that last, on few keys.
#[test]
fn hundreds_of_unknown_outcomes_on_one_key_are_decided() {
    let shape = Shape {
        operations: 3_000,
        keys: 3,
        gap_ns: 1_000_000,
        longest_ns: 20_000_000,
        unknown_percent: 10,
        failed_percent: 1,
    };
    for seed in 0..3 {
        let run = generate(seed, &shape, Bug::None);
        let begun = Instant::now();
        let all = linearizable::check(&run.history).expect("a correct history");
        let witnessed = witnessed::check(&run.history).expect("a correct history");
        assert!(all.unknown > 100 && witnessed.unknown == all.unknown);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "took {took:?}");
    }
}

#[test]
fn a_history_survives_being_written_and_read() {
    let run = generate(3, &Shape::default(), Bug::None);
    let mut bytes = Vec::new();
    run.history.write_to(&mut bytes).expect("memory takes all");
    let read = History::read_from(bytes.as_slice()).expect("what was written can be read");
    assert_eq!(run.history.operations(), read.operations());
}
