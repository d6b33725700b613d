//! Apps that do not save their state, or do not take it back: it is told in clear words, has no effect,
//! and is over when the app does it right.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use super::Settings;
use super::states::{BY_HTTP, write};
use crate::app::Misdeed;
use crate::group::{Group, MemberStatus, Options, Part, number_of};
use crate::process::eventually;
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// The member whose app does wrong.
const CULPRIT: u32 = 2;

async fn group() -> anyhow::Result<Group> {
    let state = format!("{{snapshot: {{{BY_HTTP}}}}}");
    let options = Options::with_state(&["--misdeeds", "{data}/../misdeed"], &state)?;
    let group = Group::start(&options).await?;
    for number in 1..=20 {
        write(&group, number).await?;
    }
    Ok(group)
}

/// The app of [`CULPRIT`] does this from now on.
fn tell(group: &Group, misdeed: Option<Misdeed>) -> anyhow::Result<()> {
    let file: PathBuf = group.member_folder(CULPRIT).join("misdeed");
    Ok(fs::write(file, misdeed.map_or("", Misdeed::word))?)
}

async fn take(group: &Group) -> anyhow::Result<Output> {
    let member = CULPRIT.to_string();
    group
        .command(&["snapshot", "take", "--member", &member])
        .await
}

/// Also how long the slowest write through another member took meanwhile.
async fn take_beside_writes(group: &Group, number: &mut u64) -> anyhow::Result<(Output, Duration)> {
    let taking = take(group);
    tokio::pin!(taking);
    let mut slowest = Duration::ZERO;
    loop {
        *number += 1;
        let begun = Instant::now();
        tokio::select! {
            output = &mut taking => return Ok((output?, slowest)),
            written = write(group, *number) => written?,
        }
        slowest = slowest.max(begun.elapsed());
    }
}

async fn culprit(group: &Group) -> anyhow::Result<MemberStatus> {
    let members = group.status().await?;
    let culprit = members
        .into_iter()
        .find(|it| number_of(&it.name) == Some(CULPRIT));
    culprit.context("it does not tell its status")
}

/// Whoever asked for the snapshot is told why there is none.
pub(super) async fn not_saved(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = group().await?;
    let mut number = 100;
    for (misdeed, words) in [
        (Misdeed::Fail, "500"),
        (Misdeed::Short, "broke off"),
        (Misdeed::Hang, "nothing has moved"),
    ] {
        tell(&group, Some(misdeed))?;
        let begun = Instant::now();
        let (output, slowest) = take_beside_writes(&group, &mut number).await?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        report.say(format!(
            "{misdeed:?}: after {:.1} s: {}; slowest write meanwhile {} ms",
            begun.elapsed().as_secs_f64(),
            error.trim(),
            slowest.as_millis()
        ));
        report.expect(
            !output.status.success() && error.contains(words),
            format!("{misdeed:?}: {words:?} is not in {error:?}"),
        );
        report.expect(
            slowest < 2 * SECOND,
            format!("{misdeed:?}: a write through another member took {slowest:?}"),
        );
        let status = culprit(&group).await?;
        report.expect(
            status.snapshot == 0,
            format!("{misdeed:?}: a snapshot is there: {status:?}"),
        );
        group.wait_until_level(30 * SECOND).await?;
    }
    tell(&group, None)?;
    let output = take(&group).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    report.expect(
        output.status.success(),
        format!("an app that does right again: {error}"),
    );
    end(group, report).await
}

/// The others go on, and the member goes on trying.
pub(super) async fn not_restored(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = group().await?;
    let output = take(&group).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "no snapshot: {error}");
    write(&group, 21).await?;
    let usable = eventually(30 * SECOND, LOOK, async || {
        culprit(&group).await.is_ok_and(|it| it.verified)
    });
    ensure!(usable.await, "the snapshot was not compared");
    tell(&group, Some(Misdeed::Refuse))?;
    let app = group.process(CULPRIT, Part::App).context("no app")?;
    app.signal(Signal::KILL)?;
    let log = group.member_folder(CULPRIT).join("sidecar.log");
    let told = eventually(30 * SECOND, LOOK, async || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.lines()
            .any(|line| line.contains("PUT /state") && line.contains("422"))
    });
    report.expect(told.await, "its log does not tell of the refusal");
    for number in 22..40 {
        write(&group, number).await?;
    }
    let status = culprit(&group).await?;
    report.say(format!("while its app refuses: {status:?}"));
    report.expect(
        !status.serving,
        "a copy serves whose state was not put back",
    );
    tell(&group, None)?;
    group.wait_until_all_serve(90 * SECOND).await?;
    end(group, report).await
}

async fn end(mut group: Group, report: &mut Report) -> anyhow::Result<()> {
    group.wait_until_level(30 * SECOND).await?;
    let copies = group.ask_copies("/dump").await?;
    report.expect(
        copies.iter().all(|copy| *copy == copies[0]),
        format!("the copies differ: {copies:?}"),
    );
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}
