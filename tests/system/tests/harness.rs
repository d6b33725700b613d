//! The harness itself, held against one app without Synod: what is right passes, what was planted
//! is found.

use std::path::PathBuf;

use synod_system::report::Report;
use synod_system::scenario::{self, Settings};

async fn passes(name: &str) {
    let settings = Settings {
        fault_seconds: 0,
        kill_all_times: 0,
        kill_runs: 0,
        kill_seconds: 0,
        kill_points: Vec::new(),
        idempotent_keys: 0,
        import_bytes: 0,
        rate: 0,
        seed: 4,
        out: PathBuf::new(),
        apps: PathBuf::new(),
        readme: PathBuf::new(),
        cache: PathBuf::new(),
        older: None,
    };
    let mut all = scenario::ALL.iter();
    let scenario = all
        .find(|scenario| scenario.name == name)
        .expect("its name is known");
    let mut report = Report::default();
    (scenario.run)(&settings, &mut report)
        .await
        .expect("it runs");
    assert!(report.problems().is_empty(), "{:#?}", report.problems());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correct_app_passes_every_check() {
    passes("harness/a bare app that is right passes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_loses_writes_is_found_out() {
    passes("harness/a bare app that loses writes is found out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_applies_writes_twice_is_found_out() {
    passes("harness/a bare app that applies writes twice is found out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_answers_stale_reads_is_found_out() {
    passes("harness/a bare app that answers stale reads is found out").await;
}
