//! The simulator on a few seeds, its determinism, and the proof that its checks see what they are
//! for.

use std::ops::RangeInclusive;

use synod_sim::{Coverage, Options, Plant, Report, Sight, run};

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
