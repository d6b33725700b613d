//! The harness held against a single app without Synod: right, it passes; wrong, it is found out.

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;

use super::{Settings, check_history};
use crate::app::{self, Bug};
use crate::client::{Client, request};
use crate::report::Report;
use crate::workload::{Plan, Workload};

pub(super) async fn a_correct_app_passes(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    run(settings, Bug::None, report).await
}

pub(super) async fn lost_writes_are_found(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    must_be_found(
        settings,
        Bug::Lose(200),
        &["black-box check", "effects: "],
        report,
    )
    .await
}

pub(super) async fn doubled_writes_are_found(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let signs = ["black-box check", "effects: "];
    must_be_found(settings, Bug::Twice(200), &signs, report).await
}

pub(super) async fn stale_reads_are_found(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    must_be_found(settings, Bug::Stale(100), &["black-box check"], report).await
}

async fn must_be_found(
    settings: &Settings,
    bug: Bug,
    signs: &[&str],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut inner = Report::default();
    run(settings, bug, &mut inner).await?;
    for sign in signs {
        let found = inner
            .problems()
            .iter()
            .find(|problem| problem.starts_with(sign));
        match found {
            Some(problem) => {
                report.say(format!("found: {}", problem.lines().next().unwrap_or("")));
            }
            None => report.fail(format!("{bug:?} was not found by the {sign}")),
        }
    }
    Ok(())
}

async fn run(settings: &Settings, bug: Bug, report: &mut Report) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let options = app::Options {
        bug,
        ..app::Options::default()
    };
    let served = tokio::spawn(app::serve(listener, options));
    let plan = Plan {
        rate: 2_000,
        keys: 60,
        keyed_percent: 0,
        seed: settings.seed,
        replicated: false,
        ..Plan::default()
    };
    let workload = Workload::start(&[address], plan);
    sleep(Duration::from_millis(1_500)).await;
    let recorded = workload.finish().await?;
    let client = Client::new(address);
    let dump = client
        .send(request("GET", "/dump", ""), Duration::from_secs(5))
        .await?;
    let contents = app::parse_dump(&dump.body)?;
    served.abort();
    report.say(format!("{} operations", recorded.history.completed()));
    report.expect(
        recorded.history.completed() > 1_000,
        "too few operations: invalid",
    );
    for (answer, times) in &recorded.unexpected {
        report.fail(format!("{times} times: {answer}"));
    }
    check_history(&recorded, &contents, false, report);
    Ok(())
}
