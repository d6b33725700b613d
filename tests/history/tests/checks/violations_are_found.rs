//! Each way in which a system can be wrong, planted into an otherwise correct history, is found by
//! the checks that can see it, for many seeds.

use crate::support::{Bug, Run, Shape, generate};
use synod_history::{Action, History, Observed, Operation, Outcome, Value, Witness};
use synod_history::{effects, linearizable, witnessed};

const SEEDS: u64 = 200;

fn run(seed: u64) -> Run {
    generate(seed, &Shape::default(), Bug::None)
}

fn is_write(op: &Operation) -> bool {
    op.action != Action::Get && matches!(op.outcome, Outcome::Ok(_))
}

fn is_read(op: &Operation) -> bool {
    op.action == Action::Get && matches!(op.outcome, Outcome::Ok(_))
}

fn version(op: &Operation) -> u64 {
    match &op.outcome {
        Outcome::Ok(observed) => observed.version.expect("generated answers say the version"),
        Outcome::Failed | Outcome::Unknown => 0,
    }
}

fn black_box_finds(history: &History) -> bool {
    matches!(
        linearizable::check(history),
        Err(linearizable::Failure::NotLinearizable { .. })
    )
}

fn witnessed_finds(history: &History) -> bool {
    let found = witnessed::check(history).err().unwrap_or_default();
    found
        .iter()
        .any(|v| !matches!(v, witnessed::Violation::Undecided(_)))
}

/// A write in the middle that others follow, long after, on its key: what went wrong shows.
fn observed_write(history: &History) -> Option<&Operation> {
    let all = history.operations();
    all.iter().filter(|op| is_write(op)).skip(5).find(|op| {
        let later = |other: &&Operation| {
            other.key == op.key && is_read(other) && other.invoke_ns > op.complete_ns
        };
        all.iter().any(|other| later(&other))
    })
}

/// A read, and one on the same key that was over, with a lower version, before the first began.
fn read_and_older(history: &History) -> Option<(usize, usize)> {
    let all = history.operations();
    for (index, op) in all.iter().enumerate().filter(|(_, op)| is_read(op)) {
        let between = all.iter().enumerate().find(|(_, old)| {
            let acknowledged_since = all.iter().any(|w| {
                let after_old = w.invoke_ns > old.complete_ns && w.complete_ns < op.invoke_ns;
                w.key == op.key && is_write(w) && after_old
            });
            old.key == op.key && is_read(old) && version(old) > 0 && acknowledged_since
        });
        if let Some((older, _)) = between {
            return Some((index, older));
        }
    }
    None
}

/// Runs `plant` on many histories: it changes each, or has nothing to change there.
fn each(plant: impl Fn(u64) -> Option<Run>, check: impl Fn(&Run) -> bool) {
    let mut planted = 0;
    for seed in 0..SEEDS {
        if let Some(run) = plant(seed) {
            planted += 1;
            assert!(check(&run), "not found with seed {seed}");
        }
    }
    assert!(planted > SEEDS / 2, "planted only {planted} times");
}

fn bugged(seed: u64, bug: impl Fn(u64) -> Bug) -> Option<Run> {
    let id = observed_write(&run(seed).history)?.id;
    Some(generate(seed, &Shape::default(), bug(id)))
}

#[test]
fn a_lost_write_is_found_by_all_three() {
    let plant = |seed| bugged(seed, Bug::Forgets);
    each(plant, |run| witnessed_finds(&run.history));
    each(plant, |run| {
        black_box_finds(&run.history) || all_unknown(run)
    });
    // A register shows it in its count only.
    each(plant, |run| {
        effects::check(&run.history, &run.contents).is_err() || all_unknown(run)
    });
}

#[test]
fn a_write_applied_twice_is_found_by_all_three() {
    let plant = |seed| bugged(seed, Bug::AppliesTwice);
    each(plant, |run| {
        witnessed_finds(&run.history) || all_unknown(run)
    });
    each(plant, |run| {
        black_box_finds(&run.history) || all_unknown(run)
    });
    each(plant, |run| {
        effects::check(&run.history, &run.contents).is_err() || all_unknown(run)
    });
}

/// Where writes of unknown outcome stand on a key, one of them may explain the planted effect.
fn all_unknown(run: &Run) -> bool {
    run.history.unknown() > 0
}

#[test]
fn a_lost_or_doubled_write_is_found_without_exception_when_all_outcomes_are_known() {
    let shape = Shape {
        unknown_percent: 0,
        ..Shape::default()
    };
    for forget in [true, false] {
        let plant = |seed| {
            let id = observed_write(&generate(seed, &shape, Bug::None).history)?.id;
            let bug = if forget {
                Bug::Forgets(id)
            } else {
                Bug::AppliesTwice(id)
            };
            Some(generate(seed, &shape, bug))
        };
        each(plant, |run| witnessed_finds(&run.history));
        each(plant, |run| black_box_finds(&run.history));
        each(plant, |run| {
            effects::check(&run.history, &run.contents).is_err()
        });
    }
}

#[test]
fn a_stale_read_that_says_its_old_slot_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let (read, older) = read_and_older(&run.history)?;
        let old = run.history.operations()[older].clone();
        let read = &mut run.history.operations_mut()[read];
        read.outcome = old.outcome;
        read.witness = old.witness;
        Some(run)
    };
    each(plant, |run| {
        witnessed_finds(&run.history) && black_box_finds(&run.history)
    });
}

#[test]
fn a_stale_read_that_says_a_new_slot_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let (read, older) = read_and_older(&run.history)?;
        let old = run.history.operations()[older].outcome.clone();
        run.history.operations_mut()[read].outcome = old;
        Some(run)
    };
    each(plant, |run| {
        witnessed_finds(&run.history) && black_box_finds(&run.history)
    });
}

#[test]
fn a_stale_read_is_found_without_versions() {
    let plant = |seed| {
        let mut run = run(seed);
        let (read, older) = read_and_older(&run.history)?;
        let old = run.history.operations()[older].outcome.clone();
        run.history.operations_mut()[read].outcome = old;
        for op in run.history.operations_mut() {
            if let Outcome::Ok(observed) = &mut op.outcome {
                observed.version = None;
            }
        }
        Some(run)
    };
    each(plant, |run| {
        witnessed_finds(&run.history) && black_box_finds(&run.history)
    });
}

#[test]
fn writes_whose_slots_contradict_real_time_are_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let all = run.history.operations();
        let first = all.iter().position(is_write)?;
        let end = all[first].complete_ns;
        let second = all
            .iter()
            .position(|op| is_write(op) && op.invoke_ns > end)?;
        let (a, b) = (all[first].witness, all[second].witness);
        let all = run.history.operations_mut();
        (all[first].witness, all[second].witness) = (b, a);
        Some(run)
    };
    each(plant, |run| witnessed_finds(&run.history));
}

#[test]
fn answers_that_tell_of_another_order_are_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let all = run.history.operations();
        let (first, second) = all.iter().enumerate().find_map(|(first, a)| {
            let later =
                |b: &Operation| is_write(b) && b.key == a.key && b.invoke_ns > a.complete_ns;
            let second = all.iter().position(later).filter(|_| is_write(a))?;
            Some((first, second))
        })?;
        let (a, b) = (all[first].outcome.clone(), all[second].outcome.clone());
        let all = run.history.operations_mut();
        (all[first].outcome, all[second].outcome) = (b, a);
        Some(run)
    };
    each(plant, |run| {
        witnessed_finds(&run.history) && black_box_finds(&run.history)
    });
}

#[test]
fn a_value_from_nowhere_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let read = run.history.operations().iter().position(is_read)?;
        let read = &mut run.history.operations_mut()[read];
        let value = if read.key.starts_with('l') {
            Value::List(vec![u64::MAX])
        } else {
            Value::Number(u64::MAX)
        };
        read.outcome = Outcome::Ok(Observed {
            version: None,
            value: Some(value),
        });
        Some(run)
    };
    each(plant, |run| {
        witnessed_finds(&run.history) && black_box_finds(&run.history)
    });
}

#[test]
fn a_value_from_nowhere_in_a_copy_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let (_, content) = run
            .contents
            .iter_mut()
            .find(|(key, _)| key.starts_with('l'))?;
        if let Some(Value::List(list)) = &mut content.value {
            list.push(u64::MAX);
        }
        Some(run)
    };
    each(plant, |run| {
        effects::check(&run.history, &run.contents).is_err()
    });
}

#[test]
fn a_read_from_the_future_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let (later, earlier) = read_and_older(&run.history)?;
        let future = run.history.operations()[later].outcome.clone();
        let written = run.history.operations()[later].invoke_ns;
        let earlier_op = &run.history.operations()[earlier];
        // The write that was read began after the read was over.
        let tells = run.history.operations().iter().any(|op| {
            let between = version(op) > version(earlier_op) && op.complete_ns < written;
            is_write(op)
                && op.key == earlier_op.key
                && between
                && op.invoke_ns > earlier_op.complete_ns
        });
        run.history.operations_mut()[earlier].outcome = future;
        tells.then_some(run)
    };
    each(plant, |run| {
        witnessed_finds(&run.history) && black_box_finds(&run.history)
    });
}

#[test]
fn a_write_that_took_effect_though_it_was_said_to_have_failed_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let id = observed_write(&run.history)?.id;
        let all = run.history.operations_mut();
        let op = all.iter_mut().find(|op| op.id == id)?;
        op.outcome = Outcome::Failed;
        op.witness = None;
        Some(run)
    };
    each(plant, |run| {
        black_box_finds(&run.history) || all_unknown(run)
    });
    each(plant, |run| {
        witnessed_finds(&run.history) || all_unknown(run)
    });
}

#[test]
fn one_slot_for_two_writes_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let mut writes = run.history.operations().iter().enumerate();
        let (_, first) = writes.find(|(_, op)| is_write(op))?;
        let witness = first.witness;
        let (second, _) = writes.find(|(_, op)| is_write(op))?;
        run.history.operations_mut()[second].witness = witness;
        Some(run)
    };
    each(plant, |run| {
        let found = witnessed::check(&run.history).err().unwrap_or_default();
        found
            .iter()
            .any(|v| matches!(v, witnessed::Violation::SlotUsedTwice(..)))
    });
}

#[test]
fn an_answer_without_a_slot_is_found() {
    let mut run = run(1);
    let all = run.history.operations_mut();
    let op = all
        .iter_mut()
        .find(|op| is_write(op))
        .expect("there are writes");
    op.witness = None;
    assert!(witnessed_finds(&run.history));
}

#[test]
fn a_read_that_says_an_older_slot_than_a_write_that_was_over_is_found() {
    let plant = |seed| {
        let mut run = run(seed);
        let all = run.history.operations();
        let first_end = all
            .iter()
            .filter(|op| is_write(op))
            .map(|op| op.complete_ns)
            .min()?;
        let read = all
            .iter()
            .position(|op| is_read(op) && op.invoke_ns > first_end)?;
        run.history.operations_mut()[read].witness = Some(Witness::Within(0, 0));
        Some(run)
    };
    each(plant, |run| witnessed_finds(&run.history));
}

#[test]
fn what_is_no_history_is_refused() {
    let run = run(2);
    let mut twice = run.history.clone();
    twice.push(run.history.operations()[0].clone());
    assert!(linearizable::check(&twice).is_err());
    let mut backwards = run.history.clone();
    let all = backwards.operations_mut();
    let op = all
        .iter_mut()
        .find(|op| is_read(op))
        .expect("there are reads");
    op.complete_ns = op.invoke_ns - 1;
    assert!(witnessed::check(&backwards).is_err());
}
