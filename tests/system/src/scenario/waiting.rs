//! How long clients wait while snapshots are taken and members made anew.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::Settings;
use super::agreement::{conclude, tell_traffic_of};
use super::members::{Step, fill};
use crate::group::{self, Group, MEMBERS, Options};
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Try, Workload, latencies};

const SECOND: Duration = Duration::from_secs(1);
/// What the files of a group take besides its states, and how many of those there are of each member.
const GROUP_BYTES: u64 = 2 << 30;
const STATES: u64 = 8;

/// A folder in memory, so on another file system than temporary files, with room for so many bytes.
pub(super) fn in_memory(bytes: u64) -> Option<PathBuf> {
    let folder = PathBuf::from("/dev/shm");
    let room = rustix::fs::statvfs(&folder).ok()?;
    (room.f_bavail * room.f_frsize >= bytes).then_some(folder)
}

/// Snapshots are taken and members made anew while nothing else goes wrong: who writes waits no longer.
/// Their files lie in memory: elsewhere each member has a disk of its own, and those of one machine would
/// measure how it divides its only one.
pub(super) async fn nobody_waits(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let from = folder.path().join("used");
    fill(&from, settings.import_bytes)?;
    let mut options = Options::with_state(
        &["--keep", "{data}"],
        "{type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume, every: {slots: 1000000}}}",
    )?;
    options.arguments = vec!["--import".to_owned(), from.display().to_string()];
    options.patience = Some(Duration::from_secs(600));
    let states = u64::from(MEMBERS) * STATES * settings.import_bytes;
    options.place = in_memory(GROUP_BYTES + states);
    if options.place.is_none() {
        report
            .say("no room in memory: all members share one disk, so times are told and not judged");
    }
    let mut group = Group::start(&options).await?;
    let plan = Plan {
        rate: settings.rate / 2,
        seed: settings.seed,
        ..Plan::default()
    };
    let workload = Workload::start(&group.addresses(), plan);
    let begun = Instant::now();
    let mut steps = Vec::new();
    for round in 0..4 {
        for what in ["snapshot", "catch-up"] {
            sleep(5 * SECOND).await;
            let leader = group.leader().await.context("nobody leads")?;
            let follower = (1..=MEMBERS).find(|it| *it != leader && it % 2 == round % 2);
            let follower = format!("registers-{}", follower.unwrap_or(leader % MEMBERS + 1));
            let arguments = match what {
                "snapshot" => vec!["snapshot", "take"],
                _ => vec!["members", "replace", &follower],
            };
            // A member that is made anew is not ready: no Service sends there.
            let away = (what == "catch-up")
                .then(|| group::number_of(&follower))
                .flatten();
            workload.spare(away);
            let began_ns = workload.now_ns();
            let output = group.command(&arguments).await?;
            workload.spare(None);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "synod {arguments:?}: {error}");
            let ended_ns = workload.now_ns();
            steps.push((
                Step {
                    what,
                    began_ns,
                    ended_ns,
                },
                away,
            ));
        }
    }
    sleep(5 * SECOND).await;
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish_through(&group.numbers()).await?;
    tell_traffic_of(f64::from(settings.rate) / 3.0, &recorded, seconds, report);
    let p99 = |what: Option<&str>| {
        let chosen = recorded.tries.iter().copied().filter(|one| {
            let within = steps.iter().filter(|(it, _)| it.overlaps(one));
            let within: Vec<_> = within.collect();
            let is_away = within.iter().any(|(_, away)| *away == Some(one.member));
            let kind = |what: &str| within.iter().any(|(it, _)| it.what == what) && !is_away;
            what.map_or(within.is_empty(), kind)
        });
        let chosen: Vec<Try> = chosen.collect();
        latencies(&chosen, true).value_at_quantile(0.99) as f64 / 1e3
    };
    let beside = p99(None);
    for what in ["snapshot", "catch-up"] {
        let took = steps.iter().filter(|(it, _)| it.what == what);
        let took = took.map(|(it, _)| it.milliseconds()).collect();
        let took = Distribution::new(took);
        let during = p99(Some(what));
        let ratio = during / beside;
        report.say(format!(
            "writes during a {what} ({took}): p99 {during:.1} ms, {ratio:.2} times the {beside:.1} ms beside"
        ));
        // A machine that others use too is given some milliseconds.
        report.expect(
            ratio <= 1.5 || during - beside < 5.0 || options.place.is_none(),
            format!("a {what} makes who writes wait {ratio:.2} times as long"),
        );
    }
    conclude(settings, &mut group, "nobody-waits", recorded, report).await?;
    group.stop().await?;
    Ok(())
}
