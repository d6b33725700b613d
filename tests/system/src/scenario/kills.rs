//! Members die by SIGKILL at each named step of what they do (`synod-failpoint`), or the step takes long or
//! fails: whatever is half done then, nothing acknowledged is lost or done twice, all copies are equal, and
//! nobody stays out.
//!
//! A run arms one point in one member of a living group that serves clients, has it happen, and waits until
//! that member is back. A group lives for some runs; then all is held against what clients saw.

mod provoke;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use synod_failpoint::Point;
use tokio::process::Command;

use self::provoke::{Provocation, Way};
use self::stage::{Act, Stage};
use super::Settings;
use super::agreement::{conclude, finish, keep};
use super::states::BY_HTTP;
use crate::group::{self, Group, MEMBERS, Options};
use crate::process::eventually;
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Workload};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
/// Runs that a group lives for.
const RUNS_OF_A_GROUP: usize = 20;
/// So often a point is tried that is not reached: when its time comes depends on the others.
const TRIES: u32 = 3;
/// Of one segment of a log: it is full soon.
const SEGMENT_BYTES: &str = "1048576";
/// Answered alike whatever an app that starts anew could have forgotten, and so no register.
pub(super) const BULK: &str = "/which";
/// A run of hindered steps counts if one is reached in so many seconds.
const SECONDS_OF_A_STEP: u64 = 15;

/// Where the apps of a group keep their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// In memory.
    Memory,
    /// In a folder that is put back to the last snapshot.
    RolledBack,
    /// In a folder, with the slot of what was written last.
    Applied,
}

/// What is done to members at their points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// They die.
    Kill,
    /// The step takes long, or fails.
    Hinder,
}

/// What is tried, and for how long.
struct Series {
    /// Where it is kept if it fails.
    name: &'static str,
    deed: Deed,
    points: Vec<Point>,
    runs: u32,
    /// From when the first group is there.
    span: Duration,
}

/// How runs at one point went.
#[derive(Debug, Default)]
struct Tally {
    reached: u32,
    /// Of these, the step took long.
    slow: u32,
    /// It failed.
    failed: u32,
    /// The member has ended for that.
    ended: u32,
    missed: u32,
    back_ms: Vec<f64>,
}

pub(super) async fn at_every_step(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let series = Series {
        name: "kills",
        deed: Deed::Kill,
        points: points_of(settings, |_| true)?,
        runs: settings.kill_runs,
        span: Duration::from_secs(settings.kill_seconds),
    };
    let (tallies, runs) = play(&series, settings, report).await?;
    let reached = tell(&series, &tallies, runs, settings, report);
    let never = missed(&tallies, 1..u32::MAX);
    let never: Vec<&str> = never.iter().map(|it| it.name()).collect();
    report.expect(never.is_empty(), format!("never reached: {never:?}"));
    report.expect(reached > 0, "no point was reached: the run is invalid");
    Ok(())
}

pub(super) async fn hindered(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    // What leads there kills a process by its number, which may be another's by the time that it is slow.
    let harmless = |point| Way::to(point).provocation != Provocation::StartInFlight;
    let series = Series {
        name: "hindered",
        deed: Deed::Hinder,
        points: points_of(settings, harmless)?,
        runs: u32::MAX,
        span: Duration::from_secs(settings.fault_seconds),
    };
    let (tallies, runs) = play(&series, settings, report).await?;
    tell(&series, &tallies, runs, settings, report);
    let sum = |of: fn(&Tally) -> u32| tallies.values().map(of).sum::<u32>();
    let (slow, failed) = (sum(|it| it.slow), sum(|it| it.failed));
    report.say(format!(
        "{slow} steps took long, {failed} failed, for which {} members ended themselves",
        sum(|it| it.ended)
    ));
    let least = (settings.fault_seconds / SECONDS_OF_A_STEP).max(2);
    report.expect(
        !settings.kill_points.is_empty() || (slow > 0 && failed > 0),
        "nothing was slow, or nothing failed: the run is invalid",
    );
    report.expect(
        u64::from(slow + failed) >= least,
        format!("{slow} slow and {failed} failed steps: the run is invalid below {least}"),
    );
    Ok(())
}

/// Those that were asked for by name, and are `wanted`.
fn points_of(settings: &Settings, wanted: impl Fn(Point) -> bool) -> anyhow::Result<Vec<Point>> {
    let names = &settings.kill_points;
    let named = |it: &Point| names.is_empty() || names.iter().any(|name| it.name().contains(name));
    let points = Point::ALL.iter().copied();
    let points: Vec<Point> = points.filter(|it| named(it) && wanted(*it)).collect();
    ensure!(!points.is_empty(), "no step is named like {names:?}");
    Ok(points)
}

/// How the points went, and how many runs there were.
async fn play(
    series: &Series,
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<(BTreeMap<Point, Tally>, u32)> {
    let program = group::binary("synod-failpoints", "SYNOD_FAILPOINTS_BIN")?;
    expect_same_points(&program).await?;
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut tallies: BTreeMap<Point, Tally> = BTreeMap::new();
    let (mut runs, mut groups, mut poisons) = (0, 0, 0);
    let states = [State::Memory, State::RolledBack, State::Applied];
    let mut end: Option<Instant> = None;
    let is_over = |end: Option<Instant>| end.is_some_and(|end| Instant::now() >= end);
    while !is_over(end) && report.problems().is_empty() {
        let left = series.runs.saturating_sub(runs) as usize;
        let mut of_state = if left > 0 {
            series.points.clone()
        } else {
            missed(&tallies, 1..TRIES)
        };
        if of_state.is_empty() {
            break;
        }
        let state = states[(settings.seed as usize + groups) % states.len()];
        groups += 1;
        of_state.retain(|it| Way::to(*it).states.contains(&state));
        if of_state.is_empty() {
            continue;
        }
        of_state.shuffle(&mut random);
        of_state.sort_by_key(|it| tallies.get(it).map_or(0, |it| it.reached));
        of_state.truncate(RUNS_OF_A_GROUP.min(if left > 0 { left } else { usize::MAX }));
        of_state.shuffle(&mut random);
        if series.deed == Deed::Hinder {
            of_state = alternate(of_state);
        }
        let mut group = Group::start(&options(&program, state)?).await?;
        let plan = Plan {
            rate: 60,
            keys: 300,
            read_percent: 40,
            seed: settings.seed.wrapping_mul(977).wrapping_add(groups as u64),
            // All three may have been killed between the first try and the next.
            may_lose_responses: true,
            ..Plan::default()
        };
        let workload = Workload::start(&group.addresses(), plan);
        wait_until_cut(&group).await?;
        let since = Instant::now();
        end = end.or(Some(since + series.span));
        for point in of_state {
            if is_over(end) {
                break;
            }
            runs += 1;
            let mut stage = Stage {
                group: &group,
                deed: series.deed,
                random: &mut random,
                poisons: &mut poisons,
            };
            let tally = tallies.entry(point).or_default();
            let run = stage.draw(point, tally.reached == 0).await?;
            match stage.play(&run).await {
                Ok(Some(back)) => {
                    tally.reached += 1;
                    tally.slow += u32::from(matches!(run.act, Act::Delay(_)));
                    tally.failed += u32::from(run.act == Act::Fail);
                    tally.ended += u32::from(run.ends_itself());
                    tally.back_ms.push(back.as_secs_f64() * 1e3);
                    println!("    {runs}: {run}: all back after {back:.1?}");
                }
                Ok(None) => {
                    tally.missed += 1;
                    println!("    {runs}: {run}: not reached");
                }
                Err(error) => {
                    report.fail(format!(
                        "run {runs}, group {groups} ({state:?}), seed {}: {run}: {error:#}",
                        settings.seed
                    ));
                    break;
                }
            }
        }
        let seconds = since.elapsed().as_secs_f64();
        let recorded = finish(workload, report).await?;
        let completed = recorded.history.completed();
        report.expect(
            completed as f64 > seconds * 10.0,
            format!(
                "group {groups}: {completed} operations in {seconds:.0} s: the runs are invalid"
            ),
        );
        for (answer, times) in &recorded.unexpected {
            report.fail(format!(
                "{times} times an answer that no client should get: {answer}"
            ));
        }
        if !report.problems().is_empty() {
            keep(settings, &group, series.name, &recorded, &[])?;
            keep_data(settings, series.name, &group)?;
        }
        let mut of_group = Report::default();
        conclude(settings, &mut group, series.name, recorded, &mut of_group).await?;
        if !of_group.problems().is_empty() {
            keep_data(settings, series.name, &group)?;
        }
        for problem in of_group.problems() {
            report.fail(format!(
                "group {groups} ({state:?}), until run {runs}, seed {}: {problem}",
                settings.seed
            ));
        }
        group.stop().await?;
    }
    Ok((tallies, runs))
}

/// Steps that can fail and others in turn, as long as there are both.
fn alternate(points: Vec<Point>) -> Vec<Point> {
    let (fail, slow): (Vec<Point>, Vec<Point>) = points.into_iter().partition(|it| it.can_fail());
    let both = fail.len().min(slow.len());
    let pairs = fail
        .iter()
        .zip(&slow)
        .flat_map(|(one, other)| [*one, *other]);
    let rest = fail.iter().skip(both).chain(slow.iter().skip(both));
    pairs.chain(rest.copied()).collect()
}

/// What the program can be interfered with at is what is known here.
async fn expect_same_points(program: &Path) -> anyhow::Result<()> {
    let output = Command::new(program)
        .arg("failpoints")
        .stdin(Stdio::null())
        .output()
        .await?;
    let listed = String::from_utf8(output.stdout)?;
    let listed: BTreeSet<&str> = listed.lines().collect();
    let known: BTreeSet<&str> = Point::ALL.iter().map(|it| it.name()).collect();
    ensure!(
        output.status.success() && listed == known,
        "{} has other failpoints than this harness: {:?}; build it with `--features failpoints`",
        program.display(),
        listed.symmetric_difference(&known)
    );
    Ok(())
}

/// A group of small segments and frequent snapshots.
pub(super) fn options(program: &Path, state: State) -> anyhow::Result<Options> {
    let every = "every: {slots: 60}";
    let volume =
        format!("type: Volume, volume: {{mountPath: /data}}, snapshot: {{type: Volume, {every}}}");
    let (state, kept) = match state {
        State::Memory => (format!("{{snapshot: {{{BY_HTTP}, {every}}}}}"), None),
        State::RolledBack => (format!("{{{volume}}}"), Some("{data}")),
        State::Applied => (
            format!(
                "{{{volume}, onUncleanCrash: AppliedHeader, applied: {{method: GET, path: /applied}}}}"
            ),
            Some("{data}"),
        ),
    };
    let spec =
        format!("app: {{applyTimeout: 1s}}\n  ordering: {{maxBodySize: 256Ki}}\n  state: {state}");
    let mut arguments = vec!["--fates", "{data}/../fates", "--lag-ms", "1"];
    if let Some(folder) = kept {
        arguments.extend(["--keep", folder]);
    }
    let mut options = Options::with_spec(&arguments, &spec)?;
    options.program = Some(program.to_owned());
    options.environment = vec![(
        "SYNOD_FAILPOINTS_SEGMENT_BYTES".to_owned(),
        SEGMENT_BYTES.to_owned(),
    )];
    Ok(options)
}

/// All logs begin behind a snapshot: whoever begins anew needs one.
pub(super) async fn wait_until_cut(group: &Group) -> anyhow::Result<()> {
    let cut = eventually(60 * SECOND, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        members.len() == MEMBERS as usize && members.iter().all(|it| it.base > 0)
    });
    ensure!(
        cut.await,
        "not all logs are cut: {:#?}",
        group.status().await
    );
    Ok(())
}

/// All that the members have on their disks.
fn keep_data(settings: &Settings, name: &str, group: &Group) -> anyhow::Result<()> {
    let to = settings.out.join(name).join("data");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(group.data())
        .arg(&to)
        .status()?;
    ensure!(
        copied.success(),
        "what the members have was not kept: {copied}"
    );
    Ok(())
}

/// What was tried so often, and never reached.
fn missed(tallies: &BTreeMap<Point, Tally>, times: Range<u32>) -> Vec<Point> {
    let never = |it: &Tally| it.reached == 0 && times.contains(&it.missed);
    let missed = tallies.iter().filter(|(_, it)| never(it));
    missed.map(|(point, _)| *point).collect()
}

/// How many points were reached.
fn tell(
    series: &Series,
    tallies: &BTreeMap<Point, Tally>,
    runs: u32,
    settings: &Settings,
    report: &mut Report,
) -> u32 {
    let mut all = Vec::new();
    let mut reached = 0;
    for (point, tally) in tallies {
        all.extend(&tally.back_ms);
        reached += u32::from(tally.reached > 0);
        report.say(format!(
            "{}: {} times, not reached {}, back {}",
            point.name(),
            tally.reached,
            tally.missed,
            Distribution::new(tally.back_ms.clone())
        ));
    }
    let back = Distribution::new(all);
    report.say(format!(
        "{}: runs={runs} points={reached}/{} back p50={:.1}s max={:.1}s violations={} seed={}",
        series.name,
        series.points.len(),
        back.quantile(0.5) / 1e3,
        back.max() / 1e3,
        report.problems().len(),
        settings.seed
    ));
    reached
}
