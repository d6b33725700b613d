//! The simulator on a few seeds, its determinism, and the proof that its checks see what they are
//! for.

use std::ops::RangeInclusive;

use synod_sim::{Coverage, Options, Plant, Report, Sight, run, shrink};

/// Seeds for each test that only needs some.
const SEEDS: u64 = 12;

fn assert_clean(report: &Report) {
    if let Some(violation) = &report.violation {
        panic!(
            "seed {}: {violation}\nreplay: cargo run -p synod-sim -- --seed {}",
            report.seed, report.seed
        );
    }
}

#[test]
fn the_first_seeds_keep_all_invariants_and_converge() {
    let (mut operations, mut compactions, mut installs) = (0, 0, 0);
    let mut coverage = Coverage::default();
    for seed in 1..=SEEDS {
        let report = run(seed, &Options::default());
        assert_clean(&report);
        operations += report.operations;
        compactions += report.compactions;
        installs += report.installs;
        coverage.add(&report.coverage);
    }
    assert!(compactions > 20 && installs > 0, "{compactions} {installs}");
    assert!(operations > 1_000, "{operations} operations prove nothing");
    let changes = coverage.count(Sight::Changes);
    assert!(changes > 50, "members hardly changed: {changes}");
    let missing: Vec<Sight> = coverage.missing().collect();
    assert!(missing.len() < 35, "hardly anything was seen: {missing:?}");
    for sight in [
        Sight::Promoted,
        Sight::LeadersRemoved,
        Sight::FirstLeaders,
        Sight::JoinedBySnapshot,
        Sight::ThrownAway,
        Sight::StaleRefused,
        Sight::SecondRefused,
        Sight::SnapshotsTaken,
        Sight::SnapshotsCompared,
        Sight::SnapshotsJumped,
        Sight::VolumesBack,
        Sight::Ambiguous,
        Sight::Asks,
    ] {
        assert!(!missing.contains(&sight), "never seen: {sight:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1..=4 {
        let first = run(seed, &Options::default());
        // Text must not change what happens.
        let second = run(
            seed,
            &Options {
                text: true,
                ..Options::default()
            },
        );
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.operations, second.operations, "seed {seed}");
        assert_ne!(
            first.trace_hash,
            run(seed + 1, &Options::default()).trace_hash
        );
    }
}

#[test]
fn a_failing_run_is_made_smaller_as_long_as_it_fails_in_the_same_way() {
    let options = Options {
        plant: Plant::LyingDisk,
        ..Options::default()
    };
    let many = |report: &Report| report.violation.is_some() && report.strikes.len() > 3;
    let found = (1..60).map(|seed| run(seed, &options)).find(many);
    let found = found.expect("disks that lie are seen after some faults");
    let mut left = 100;
    let shrunk = shrink(&found, &options, || {
        left -= 1;
        left > 0
    });
    let invariant = |report: &Report| report.violation.as_ref().map(|it| it.invariant);
    assert_eq!(invariant(&shrunk.report), invariant(&found));
    assert!(shrunk.report.strikes.len() < found.strikes.len());
    assert!(shrunk.runs > 0 && shrunk.runs < 100);
    let again = run(found.seed, &shrunk.options);
    assert_eq!(again.trace_hash, shrunk.report.trace_hash);
    assert_eq!(again.strikes, shrunk.report.strikes);
}

#[test]
fn a_run_whose_faults_are_all_named_is_the_same_and_one_without_any_has_none() {
    let whole = run(3, &Options::default());
    let named = |only: Vec<u64>| Options {
        only: Some(only.into_iter().collect()),
        ..Options::default()
    };
    assert!(!whole.strikes.is_empty());
    let all = whole.strikes.iter().map(|it| it.number).collect();
    assert_eq!(run(3, &named(all)).trace_hash, whole.trace_hash);
    let none = run(3, &named(Vec::new()));
    assert!(none.strikes.is_empty() && none.violation.is_none());
}

/// Which invariants these seeds report with this fault built in.
fn seen(plant: Plant, seeds: RangeInclusive<u64>) -> Vec<&'static str> {
    let options = Options {
        plant,
        ..Options::default()
    };
    seeds
        .filter_map(|seed| run(seed, &options).violation)
        .map(|violation| violation.invariant)
        .collect()
}

#[test]
fn disks_that_lie_about_syncs_are_seen() {
    assert!(seen(Plant::LyingDisk, 1..=3).contains(&"I7"));
}

#[test]
fn messages_that_leave_before_their_sync_are_seen() {
    assert!(seen(Plant::EarlySend, 1..=3).contains(&"I7"));
}

#[test]
fn a_member_that_applies_something_else_than_was_chosen_is_seen() {
    assert!(seen(Plant::TamperedCommit, 1..=3).contains(&"I4"));
}

#[test]
fn an_app_that_executes_a_request_twice_is_seen() {
    assert!(seen(Plant::DoubleExecution, 1..=6).contains(&"I6"));
}

#[test]
fn reads_that_do_not_wait_for_their_index_are_seen() {
    assert!(seen(Plant::StaleRead, 1..=30).contains(&"linearizability"));
}

#[test]
fn an_answer_before_the_command_is_chosen_is_seen() {
    assert!(seen(Plant::EarlyAnswer, 1..=3).contains(&"I15"));
}

#[test]
fn a_snapshot_of_a_copy_that_has_gone_astray_is_seen_when_it_may_be_used() {
    assert!(seen(Plant::Unverified, 1..=60).contains(&"N2"));
}

#[test]
fn answers_of_a_revision_that_should_be_silent_are_seen() {
    assert!(seen(Plant::SilentAnswers, 100..=140).contains(&"V1"));
}
